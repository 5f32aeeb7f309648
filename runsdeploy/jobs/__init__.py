"""The job runner that cron starts on a host: one zip file for Python 3.6 or later, standard library only.

It imports nothing of runsdeploy, and nothing of runsdeploy imports it: its files are read, zipped and copied to hosts.
"""

VERSION = "0.1.0"
"""the same as that of runsdeploy"""
