"""The plan: the complete, ordered steps of one host.

In: the trees, a host, and the entries of its recipes.
Out: a `Plan`, or every problem that was found. No network.
Asked by: every room above: `check`, `markers`, `session`, `output`, `rollout`, `commands`.
Verbs: `resolver.resolve`, `evaluation.evaluate`, `blame.trace`.
"""
