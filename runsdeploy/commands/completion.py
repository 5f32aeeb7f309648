"""`completion`: what makes a shell complete our command lines."""

from __future__ import annotations

import sys

from runsdeploy.cli.command import COMMON, Arguments, Command, Flag
from runsdeploy.cli.completion import SHELLS, shell_code
from runsdeploy.output import json


def completion(arguments: Arguments) -> int:
    """Print the code that a shell has to read."""
    code = shell_code(arguments.shell)
    if arguments.format == "text":
        sys.stdout.write(code)
    else:
        json.write({"schema": json.SCHEMA, "exit_status": 0, "shell": arguments.shell, "code": code})
    return 0


COMMANDS = (
    Command(
        "completion",
        completion,
        "print what makes a shell complete hosts, groups, scripts and flags",
        (Flag("shell", "`bash`, `zsh` or `fish`", metavar="SHELL", choices=SHELLS), *COMMON),
        ("completion bash", "completion zsh", "completion fish"),
    ),
)
