"""What commands do: arguments in, exit status out."""

from __future__ import annotations

from runsdeploy.command import Command
from runsdeploy.tasks import cron, deploy, target, tree

COMMANDS: tuple[Command, ...] = (*deploy.COMMANDS, *target.COMMANDS, *tree.COMMANDS, *cron.COMMANDS)
"""all commands, as the program and the invoke collection offer them"""
