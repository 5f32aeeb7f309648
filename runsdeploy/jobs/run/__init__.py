"""The nightly run: an agenda comes in; staged files, jobs, an archive and the record of the run come out.

It holds the order of all steps, decides which jobs may start, and recovers killed runs. The commands call it.
"""
