"""Flags and commands as data, and the flags that several commands take."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any

from msgspec import Struct

from runsdeploy.commands.arguments import Arguments

LARGEST = 1_000_000
"""largest value of a number: a larger one is a mistake, and infinity is no time limit"""


TRUE, FALSE = frozenset({"1", "yes", "true", "on"}), frozenset({"", "0", "no", "false", "off"})
"""values of a switch, in the environment and in configuration files"""


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
    """the value if the flag is given without one; None if it needs one"""
    text: bool = False
    """whether its value may hold spaces"""
    apart: bool = False
    """of a positional argument: whether it may not follow the value of a flag that may be given several times"""

    @property
    def key(self) -> str:
        """The name of its value: in Python, in the configuration file, and after RUNSDEPLOY_ in capitals."""
        return self.name.lstrip("-").replace("-", "_")


class Command(Struct, frozen=True):
    """One command."""

    name: str
    function: str
    """`MODULE:FUNCTION`, imported when the command runs; the function takes Arguments and returns the exit status"""
    help: str
    flags: tuple[Flag, ...]
    examples: tuple[str, ...] = ()

    def words(self, given: Mapping[str, Any]) -> tuple[str, ...]:
        """Return the flags that were given as words of a command line; those of `--host` are left out."""
        words: list[str] = []
        for flag in self.flags:
            value = given.get(flag.key)
            if flag.name == "--host" or value in (None, False, "", [], ()):
                continue
            if isinstance(flag.default, bool) or (flag.bare is not None and str(value) == str(flag.bare)):
                words.append(flag.name)
            elif not flag.name.startswith("-"):
                words.append(str(value))
            else:
                for each in value if isinstance(value, list | tuple) else [value]:
                    words += [f"{flag.name}={each}"] if str(each).startswith("-") else [flag.name, str(each)]
        return tuple(words)

    def run(self, arguments: Arguments) -> int:
        """Import and call the function; return the exit status."""
        module, _, name = self.function.partition(":")
        status: int = getattr(import_module(module), name)(arguments)
        return status


FORMAT = Flag("--format", "format of results", "text", choices=("text", "json", "jsonl"))
COMMON = (
    Flag("--path", "RUNSPATH: trees, separated by colons", metavar="DIRS"),
    Flag("--ssh-config", "ssh configuration file, in place of the user's and the system's", metavar="FILE"),
    FORMAT,
    Flag("--allow", "a place outside the trees that links may lead to", (), metavar="PATH"),
    Flag("--trust", "use trees that another user owns or may write", default=False),
    Flag("--conf-timeout", "seconds that a CONF section may take", 10.0, metavar="SECONDS"),
    Flag(
        "--verbose",
        "also show what login shells print, and each file of a directory that a plan ships",
        default=False,
        aliases=("-v",),
    ),
)
"""flags that every command takes, after its name or before it"""

HOST = Flag(
    "--host",
    "host, `user@host`, pattern or `@group`, with a `!` in front to exclude it; several by repeating, commas or colons",
    (),
    metavar="HOST",
)
LOCAL = Flag("--local", "use this machine, without SSH", default=False)
ACCEPT_NEW = Flag("--accept-new", "add the keys of hosts seen for the first time to known_hosts", default=False)
PATIENCE = Flag("--patience", "seconds that a broken connection may take to come back", 120.0, metavar="SECONDS")
PARALLEL = Flag("--parallel", "hosts at a time", 4, metavar="N")
NO_VERIFY = Flag("--no-verify-sysinfos", "continue if a host differs from its sysinfos.conf", default=False)
REACH = (HOST, LOCAL, ACCEPT_NEW)
"""flags of commands that ask hosts something"""
SELECTION = (
    HOST,
    Flag("--recipe", "recipe to run instead of `default`", (), metavar="RECIPE"),
    Flag("--script", "script to run instead of a recipe", (), metavar="SCRIPT"),
    Flag(
        "--set",
        "operation on a variable of every step, after all others: `name=value`, `name+=value`, `name v0 v1`",
        (),
        metavar="OP",
    ),
)
"""flags that say what to run where"""
EXECUTION = (
    Flag(
        "--dry-run",
        "show what would run, by the host's markers; run nothing",
        default=False,
        aliases=("-n", "--check"),
    ),
    Flag("--exit-code", "with --dry-run: exit with 6 if something would run", default=False),
    LOCAL,
    Flag("--keep-going", "continue after a step that failed", default=False),
    Flag(
        "--wait",
        "wait while another session or operator holds the host, without limit or at most so long; else do not wait",
        0.0,
        metavar="SECONDS",
        bare=LARGEST,
    ),
    Flag("--timeout", "seconds that a step may take; without it, or with 0, no limit", 0.0, metavar="SECONDS"),
    PATIENCE,
    PARALLEL,
    ACCEPT_NEW,
    NO_VERIFY,
)
"""flags of commands that run steps on hosts"""
