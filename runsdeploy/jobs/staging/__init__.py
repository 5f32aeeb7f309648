"""Staging: paths come in; private copies of their files come out, each as it was at one moment.

Links, databases and files that others write meanwhile are dealt with here. A run calls it before and after its jobs.
"""
