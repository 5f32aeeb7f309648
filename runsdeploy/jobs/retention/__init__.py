"""Retention: a good new archive comes in; older archives are verified and pruned, archived logs are truncated.

Which archives stay is a pure function. A run calls it after its archive is durable; recovery calls it again.
"""
