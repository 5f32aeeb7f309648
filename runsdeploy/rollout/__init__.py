"""Many hosts: their plans, their forecasts, and their sessions, a few at a time.

In: `Work` (trees, hosts, recipe entries) and connections.
Out: plans, forecasts, or a report of each host.
Asked by: `commands`.
Verbs: `planning.make_plans`, `prediction.predict`, `rollout.roll_out`.
"""
