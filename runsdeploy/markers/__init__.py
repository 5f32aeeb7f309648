"""Markers record what was done on a host; this room compares and predicts from them.

In: the markers of a host, its plan, and the scripts of the trees.
Out: `Markers` from events, their drift from the trees (`drift.compare`), a dry run's predictions (`forecast.forecast`).
Users: `status`, `reset` and dry runs. This room imports `plan`, `tree` and `bash`; it never connects to a host.
"""
