"""The program: arguments in, exit status out; every ending in the format that was asked for."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, NoReturn

from runsdeploy.cli.command import FORMAT, Command, Flag
from runsdeploy.cli.settings import resolve
from runsdeploy.cli.table import COMMANDS
from runsdeploy.errors import HostError, InputError, Problem, did_you_mean
from runsdeploy.output import console, json
from runsdeploy.rollout.rollout import Interrupted, interruptible


class _Parser(argparse.ArgumentParser):
    """A parser whose errors are ours: one way to report bad input."""

    def error(self, message: str) -> NoReturn:
        raise InputError([Problem(None, message, f"see `{self.prog} --help`")])


class _Version(argparse.Action):
    def __call__(self, *_: object) -> NoReturn:
        from importlib.metadata import version  # noqa: PLC0415 - 20 ms

        sys.stdout.write(f"runsdeploy {version('runsdeploy')}\n")
        sys.exit(0)


def _parser() -> tuple[_Parser, list[tuple[argparse.Action, Flag]]]:
    """Return the parser, and which of its actions each flag became."""
    flags: list[tuple[argparse.Action, Flag]] = []
    parser = _Parser(prog="runsdeploy", description="Deploy plain bash scripts to hosts over SSH.", allow_abbrev=False)
    parser.add_argument("--version", "-V", action=_Version, nargs=0, help="show the version and exit")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", parser_class=_Parser)
    for command in COMMANDS:
        examples = "\n".join(f"  runsdeploy {example}" for example in command.examples)
        each = commands.add_parser(
            command.name,
            help=command.help,
            description=f"{command.help}.".capitalize(),
            epilog=f"examples:\n{examples}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        flags += [(_add(each, flag), flag) for flag in command.flags]
    return parser, flags


def _add(parser: argparse.ArgumentParser, flag: Flag) -> argparse.Action:
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
    default = f", {flag.default} by default" if flag.default is not None else ""
    return parser.add_argument(
        *names,
        dest=flag.key,
        help=f"{text}{choices}{default}",
        metavar=metavar or flag.key.upper(),
        nargs=None if flag.bare is None else "?",
        const=None if flag.bare is None else str(flag.bare),
    )


def _parse(parser: _Parser, words: Sequence[str]) -> dict[str, Any]:
    """Return what was typed; raises InputError, with what was probably meant."""
    known = {command.name: command for command in COMMANDS}
    if words and not words[0].startswith("-") and words[0] not in known:
        hint = did_you_mean(words[0], known) or "see `runsdeploy --help`"
        raise InputError([Problem(None, f"unknown command `{words[0]}`", hint)])
    given, left = parser.parse_known_args(words)
    if left:
        raise InputError(_unexpected(known.get(given.command), left))
    return vars(given)


def _unexpected(command: Command | None, left: Sequence[str]) -> list[Problem]:
    """Return what is wrong with words that no flag of a command takes."""
    flags = [name for flag in command.flags for name in (flag.name, *flag.aliases)] if command else []
    see = f"see `runsdeploy {command.name} --help`" if command else "see `runsdeploy --help`"
    mistyped = [word.partition("=")[0] for word in left if word.startswith("-")]
    if mistyped:
        # The words between them may be meant for them.
        near = [did_you_mean(word, [flag for flag in flags if flag.startswith("-")]) for word in mistyped]
        return [Problem(None, f"unknown flag `{word}`", hint or see) for word, hint in zip(mistyped, near, strict=True)]
    meant = "--script" if "/" in left[0] else "--host"
    hint = f"did you mean `{meant} {left[0]}`?" if meant in flags else see
    return [Problem(None, f"unexpected word `{left[0]}`", hint)]


def perform(command: Command, given: Mapping[str, Any]) -> int:
    """Do a command with what was typed; return its exit status whatever happens, told in the format asked for."""
    form = _format(command.name, given.get("format"))
    try:
        with interruptible():
            arguments = resolve(command.flags, given, Path.cwd(), [flag for each in COMMANDS for flag in each.flags])
            form = arguments.format
            return command.run(arguments)
    except InputError as error:
        return _tell(form, 2, error.problems)
    except HostError as error:
        return _tell(form, 3, [Problem(None, error.message, error.hint)])
    except Interrupted as stop:
        return _tell(form, 128 + stop.number, [Problem(None, "interrupted")])
    except BrokenPipeError:
        # Whoever read our output has seen enough; there is nobody to tell, and Python must not try at exit.
        console.discard_output()
        return 141
    except OSError as error:
        where = f"`{error.filename}`: " if error.filename else ""
        console.show_problems([Problem(None, f"{where}{(error.strerror or str(error)).lower()}")])
        return 1


def _format(name: str, typed: str | None) -> str:
    """Return the format to tell errors of a command in where arguments could not be resolved."""
    flags = next((command.flags for command in COMMANDS if command.name == name), (FORMAT,))
    form = [flag for flag in flags if flag.key == FORMAT.key]
    try:
        return str(resolve(form or [FORMAT], {"format": typed}, Path.cwd()).format)
    except InputError:
        return "text"


def _typed_format(words: Sequence[str]) -> str | None:
    """Return the format in a command line that could not be parsed."""
    for word, following in zip(words, [*words[1:], ""], strict=True):
        if word == FORMAT.name:
            return following
        if word.startswith(f"{FORMAT.name}="):
            return word.partition("=")[2]
    return None


def _tell(form: str, status: int, problems: Sequence[Problem]) -> int:
    console.show_problems(problems)
    if form in ("json", "jsonl"):
        json.write(json.problems(status, problems))
    elif form != "text":
        from runsdeploy.check.finding import error  # noqa: PLC0415 - for `check`

        import_module(f"runsdeploy.output.{form}").write([error(problem) for problem in problems])
    return status


def entry() -> NoReturn:
    """Run the program as a process of its own."""
    if "_ARGCOMPLETE" in os.environ:
        from runsdeploy.cli.completion import complete  # noqa: PLC0415 - a shell asks, at a press of Tab

        complete(*_parser())
    status = main()
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except OSError as error:
        status = 141 if isinstance(error, BrokenPipeError) else status or 1
    # Taking the interpreter down object by object costs 50 ms, and nothing is left that needs it.
    os._exit(status)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program; return its exit status."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    parser, _ = _parser()
    try:
        given = _parse(parser, words)
    except InputError as error:
        return _tell(_format(words[0] if words else "", _typed_format(words)), 2, error.problems)
    name = given.pop("command")
    if name is None:
        parser.print_help()
        return 2
    return perform(next(command for command in COMMANDS if command.name == name), given)
