"""Reports: the results of a run come in; one record comes out, and from it log, metrics and notifications.

No result of a run depends on whether a report could be delivered. Runs and commands call it.
"""
