"""One host, from plan to outcome. In: a plan and a connection to its host, or a question about a host.

Out: events, as they arrive; `report` folds them into outcomes and the exit status.
May ask: output, rollout and commands; they import its modules by name: `run`, `query`, `report`, `render`.
"""
