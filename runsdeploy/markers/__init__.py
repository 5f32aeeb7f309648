"""What a host has done, and what a deploy would do there.

In: the markers of a host, its plan, and the scripts of the trees.
Out: markers, their drift from the trees, the forecast of a dry run. No connection is made.
Asked by: `session`, `rollout` and `commands`.
Verbs: `marker.Markers`, `drift.compare`, `forecast.forecast`.
"""
