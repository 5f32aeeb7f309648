"""Commands and their flags, as data: one table makes the program, the invoke tasks and their help."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from msgspec import Struct


class Flag(Struct, frozen=True):
    """One option of a command; a name without dashes is a positional argument."""

    name: str
    """`--dry-run`, or `name`"""
    help: str
    default: Any = None
    """its type decides: a bool is a switch, a tuple may be given several times, else one value"""
    metavar: str = ""
    aliases: tuple[str, ...] = ()
    choices: tuple[str, ...] = ()
    bare: Any = None
    """the value where the flag is given without one; None if it needs one"""

    @property
    def key(self) -> str:
        """The name of its value: in Python, in the configuration file, and behind RUNSDEPLOY_ in capitals."""
        return self.name.lstrip("-").replace("-", "_")


class Arguments(Struct, frozen=True):
    """What a command was given, flags resolved to values."""

    values: dict[str, Any]

    def __getattr__(self, name: str) -> Any:
        try:
            return self.values[name]
        except KeyError:
            raise AttributeError(name) from None


class Command(Struct, frozen=True):
    """One command."""

    name: str
    run: Callable[[Arguments], int]
    """takes what was given, returns the exit status"""
    help: str
    flags: tuple[Flag, ...]
    examples: tuple[str, ...] = ()


FORMAT = Flag("--format", "how to write results", "text", choices=("text", "json", "jsonl"))
PATH = Flag("--path", "RUNSPATH: trees, separated by colons", metavar="DIRS")
SSH_CONFIG = Flag("--ssh-config", "ssh configuration file, in place of the user's and the system's", metavar="FILE")
COMMON = (
    PATH,
    SSH_CONFIG,
    FORMAT,
    Flag("--allow", "a place outside the trees that links may lead to", (), metavar="PATH"),
    Flag("--trust", "use trees that belong to somebody else, or that others may write", default=False),
    Flag("--conf-timeout", "seconds that a CONF section may take", 10.0, metavar="SECONDS"),
    Flag("--verbose", "tell also what login shells print", default=False, aliases=("-v",)),
)
"""flags that every command takes"""
