"""The job runner that cron calls on a host: one file, Python 3.6 or later, nothing but the standard library.

It imports nothing of runsdeploy and nobody imports it: it is shipped as files, zipped to one.
"""

VERSION = "0.1.0"
"""that of runsdeploy"""
