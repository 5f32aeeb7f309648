"""`python -m runsdeploy`."""

from runsdeploy.cli import entry

entry()
