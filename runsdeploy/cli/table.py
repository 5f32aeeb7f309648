"""What commands do: arguments in, exit status out."""

from __future__ import annotations

from runsdeploy.cli.command import Command
from runsdeploy.commands import (
    attach,
    check,
    completion,
    deploy,
    info,
    init,
    list,
    render,
    reset,
    ssh_setup,
    status,
    sysinfos,
)
from runsdeploy.commands.cron import commands

COMMANDS: tuple[Command, ...] = (
    *init.COMMANDS,
    *deploy.COMMANDS,
    *render.COMMANDS,
    *check.COMMANDS,
    *status.COMMANDS,
    *reset.COMMANDS,
    *sysinfos.COMMANDS,
    *attach.COMMANDS,
    *list.COMMANDS,
    *info.COMMANDS,
    *ssh_setup.COMMANDS,
    *commands.COMMANDS,
    *completion.COMMANDS,
)
"""all commands, as the program and the invoke collection offer them"""
