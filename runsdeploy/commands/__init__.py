"""The commands, one module each, with the pipelines that several of them share.

In: `Arguments`, the values of the command's flags.
Out: the exit status; results on stdout, messages on stderr.
Asked by: `cli` alone, through the function that its table names.
Verbs: `deploy.deploy`, `execution.execute`, `inputs.work_of`.
"""
