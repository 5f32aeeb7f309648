"""The parser of one command: what was typed, by flag.

Only the parser of the command that was given is built: building all of them took half of the time of `--version`.
The flags that every command takes, and `-C DIR`, may also stand before the command, as git and make take theirs.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterable, Sequence
from typing import Any, NoReturn

from msgspec import Struct

from runsdeploy.cli import habits
from runsdeploy.cli.flags import COMMON, Command, Flag
from runsdeploy.cli.table import COMMANDS
from runsdeploy.errors import InputError, Problem, did_you_mean, writing

CHANGE_DIRECTORY = Flag("-C", "run as if started in this directory", metavar="DIR")


class Parser(argparse.ArgumentParser):
    """A parser that raises InputError: bad input is reported in one way."""

    def error(self, message: str) -> NoReturn:
        """Raise InputError with a message of argparse."""
        raise InputError([Problem(None, message, f"see `{self.prog} --help`")])

    def _print_message(self, message: str, file: Any = None) -> None:
        """Write a help text; argparse's own method hides that the disk is full."""
        stream, name = (sys.stderr, "stderr") if file is sys.stderr else (sys.stdout, "stdout")
        with writing(name):
            stream.write(message)
            stream.flush()


class _Version(argparse.Action):
    """Writes the version and exits."""

    def __call__(self, *_: object) -> NoReturn:
        from runsdeploy import __version__  # noqa: PLC0415

        sys.stdout.write(f"runsdeploy {__version__}\n")
        sys.exit(0)


class CommandLine(Struct, frozen=True):
    """A command line, taken apart at its command."""

    directory: str
    """of `-C`; empty if not given"""
    command: str
    """first word that is no flag; empty if there is none"""
    words: list[str]
    """the other words: the flags from before the command first, then what follows it"""


def split(words: Sequence[str]) -> CommandLine:
    """Take a command line apart at its command; raises InputError for a flag before it that is not for all commands.

    `help`, `help COMMAND` and `COMMAND help` become `--help`, unless COMMAND takes a name, which may be `help`.
    """
    flags = {name: flag for flag in (CHANGE_DIRECTORY, *COMMON) for name in (flag.name, *flag.aliases)}
    directory, before, left = "", [], list(words)
    while left and left[0].startswith("-") and left[0] not in ("-h", "--help", "-V", "--version"):
        word = left.pop(0)
        name, equals, value = word.partition("=")
        if word.startswith(CHANGE_DIRECTORY.name) and not word.startswith(f"{CHANGE_DIRECTORY.name}="):
            # `-C/tmp/x` in one word, as git and make take it too.
            name, value = word[:2], word[2:]
            equals = value
        flag = flags.get(name)
        if flag is None:
            from runsdeploy.cli.mistyped import unknown_before_command  # noqa: PLC0415 - seldom needed

            raise InputError([unknown_before_command(name)])
        if isinstance(flag.default, bool):
            before.append(word)
            continue
        if not equals:
            if not left:
                from runsdeploy.cli.mistyped import no_value  # noqa: PLC0415 - seldom needed

                raise InputError([no_value(name, "see `runsdeploy --help`")])
            value = left.pop(0)
        if flag is CHANGE_DIRECTORY:
            # Several add up, as in git and make.
            directory = os.path.join(directory, value)  # noqa: PTH118 - of words
        else:
            before.append(f"{name}={value}")
    if left[:1] == ["help"]:
        return CommandLine(directory, left[1] if left[1:] and left[1] != "help" else "--help", ["--help"])
    if left[1:] == ["help"] and not _takes_a_name(left[0]):
        left[1] = "--help"
    return CommandLine(directory, left[0] if left else "", [*before, *left[1:]])


def _takes_a_name(name: str) -> bool:
    """Say whether a command needs a word that may be anything."""
    flags = [flag for command in COMMANDS if command.name == name for flag in command.flags]
    return any(flag.default is None and not flag.name.startswith("-") and not flag.choices for flag in flags)


def program(
    commands: Iterable[Command] = COMMANDS, full: Command | None = None
) -> tuple[Parser, list[tuple[argparse.Action, Flag]]]:
    """Return the parser of a whole line, and the action that each flag became.

    It knows these commands, and the flags of the `full` one only: the help and the completion need no others.
    """
    parser = Parser(prog="runsdeploy", description="Deploy plain bash scripts to hosts over SSH.", allow_abbrev=False)
    parser.add_argument("--version", "-V", action=_Version, nargs=0, help="show the version and exit")
    flags = [(add(parser, flag), flag) for flag in (CHANGE_DIRECTORY, *COMMON)]
    added = parser.add_subparsers(metavar="COMMAND", parser_class=Parser)
    for command in commands:
        each = added.add_parser(command.name, help=command.help, allow_abbrev=False)
        flags += [(add(each, flag), flag) for flag in command.flags] if command is full else []
    return parser, flags


def command_parser(command: Command) -> Parser:
    """Return the parser of the words that follow a command."""
    examples = "\n".join(f"  runsdeploy {example}" for example in command.examples)
    parser = Parser(
        prog=f"runsdeploy {command.name}",
        description=f"{command.help}.".capitalize(),
        epilog=f"examples:\n{examples}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    for flag in command.flags:
        add(parser, flag)
    return parser


def add(parser: argparse.ArgumentParser, flag: Flag) -> argparse.Action:
    """Add a flag. Defaults are left to `settings`: only what was typed counts here."""
    text = flag.help.replace("%", "%%")
    metavar = flag.metavar or None
    if not flag.name.startswith("-"):
        return parser.add_argument(flag.key, help=text, metavar=metavar, nargs=None if flag.default is None else "?")
    names = [*(alias for alias in flag.aliases if len(alias) == 2), flag.name]  # noqa: PLR2004 - `-n`
    names += [alias for alias in flag.aliases if alias.startswith("--")]
    if isinstance(flag.default, bool):
        return parser.add_argument(*names, dest=flag.key, action="store_true", help=text)
    if isinstance(flag.default, tuple):
        return parser.add_argument(*names, dest=flag.key, action="append", help=text, metavar=metavar)
    choices = f" ({', '.join(flag.choices)})" if flag.choices else ""
    default = (
        f", {flag.default if isinstance(flag.default, str) else f'{flag.default:g}'} by default" if flag.default else ""
    )
    return parser.add_argument(
        *names,
        dest=flag.key,
        help=f"{text}{choices}{default}",
        metavar=metavar or flag.key.upper(),
        nargs=None if flag.bare is None else "?",
        const=None if flag.bare is None else str(flag.bare),
    )


def find(name: str) -> Command:
    """Return a command by its name; raises InputError with what was probably meant."""
    for command in COMMANDS:
        if command.name == name:
            return command
    names = [command.name for command in COMMANDS]
    hint = habits.command_hint(name) or did_you_mean(name, names) or "see `runsdeploy --help`"
    raise InputError([Problem(None, f"unknown command `{name}`", hint)])


def parse(command: Command, words: Sequence[str]) -> dict[str, Any]:
    """Return what was typed behind a command, by the key of the flag; raises InputError."""
    try:
        given, left = command_parser(command).parse_known_args(words)
        values = vars(given)
        doubtful = left or any(flag.apart and values[flag.key] for flag in command.flags)
        found = [Problem(None, f"unexpected word `{word}`") for word in left]
    except InputError as error:
        values, doubtful, found = {}, True, list(error.problems)
    if doubtful:
        from runsdeploy.cli.mistyped import problems  # noqa: PLC0415 - seldom needed

        found = problems(command, words) or found
    if found:
        raise InputError(found)
    return values
