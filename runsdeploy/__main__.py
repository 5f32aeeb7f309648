"""`python -m runsdeploy`."""

from runsdeploy.cli.main import entry

entry()
