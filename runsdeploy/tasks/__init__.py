"""What commands do: arguments in, exit status out."""

from __future__ import annotations

from runsdeploy.command import Command
from runsdeploy.tasks import (
    begin,
    check,
    cron,
    deploy,
    info,
    render,
    reset,
    setup,
    shell,
    status,
    sysinfos,
    target,
    tree,
)

COMMANDS: tuple[Command, ...] = (
    *begin.COMMANDS,
    *deploy.COMMANDS,
    *render.COMMANDS,
    *check.COMMANDS,
    *status.COMMANDS,
    *reset.COMMANDS,
    *sysinfos.COMMANDS,
    *target.COMMANDS,
    *tree.COMMANDS,
    *info.COMMANDS,
    *setup.COMMANDS,
    *cron.COMMANDS,
    *shell.COMMANDS,
)
"""all commands, as the program and the invoke collection offer them"""
