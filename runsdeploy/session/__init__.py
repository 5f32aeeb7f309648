"""One host, from plan to outcome.

In: a plan and a connection to its host, or a question about a host.
Out: events as they arrive; folded, the outcomes and the exit status.
Asked by: `output`, `rollout` and `commands`.
Verbs: `run.Run`, `query.ask`, `report.Fold`, `render.render`.
"""
