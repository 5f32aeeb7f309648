"""The program: arguments in, exit status out; every ending in the format that was asked for.

What a command needs is imported when it is known which command it is. `--version` imports nothing.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NoReturn

from runsdeploy import exit_status

if TYPE_CHECKING:
    from runsdeploy.cli.flags import Command
    from runsdeploy.errors import Problem

OPEN_FILES, FEWEST_FILES = 1024, 128
"""files that a process should be able to open, the usual limit on Linux; and the fewest with which commands work"""


def entry() -> NoReturn:
    """Run the program as a process of its own."""
    if "_ARGCOMPLETE" in os.environ:
        from runsdeploy.cli.completion import answer  # noqa: PLC0415 - a shell asks, at a press of Tab

        answer(os.environ.get("COMP_LINE", ""))
    if not _open_streams():
        os._exit(exit_status.BAD_INPUT)
    try:
        status = main()
        sys.stdout.flush()
        sys.stderr.flush()
    except BrokenPipeError:
        status = exit_status.PIPE_CLOSED
    except OSError as error:
        error.filename = error.filename or "stdout"
        status = _report("text", *_failure(error, ""))
    # Taking the interpreter down object by object costs 50 ms, and nothing is left that needs it.
    os._exit(status)


def _open_streams() -> bool:
    """Open what a caller closed of stdin and stderr as `/dev/null`; return whether stdout is open.

    Otherwise the next file that is opened would get the number of the closed one, and its output.
    """
    for number, mode in ((0, os.O_RDONLY), (1, os.O_WRONLY), (2, os.O_WRONLY)):
        try:
            os.fstat(number)
        except OSError:
            if number == 1:
                os.write(2, b"stdout is closed; to discard the output write `>/dev/null`\n")
                return False
            os.open(os.devnull, mode)
    sys.stdin = sys.stdin or os.fdopen(0, encoding="utf-8", closefd=False)
    sys.stderr = sys.stderr or os.fdopen(2, "w", encoding="utf-8", errors="backslashreplace", closefd=False)
    return True


def _failure(error: Exception, doing: str) -> tuple[int, list[Problem]]:
    """Return status and problems of what failed: this machine, or runsdeploy itself."""
    from runsdeploy.errors import failure_of, is_limit  # noqa: PLC0415

    if not is_limit(error):
        from runsdeploy.output.unforeseen import problem_of  # noqa: PLC0415

        return exit_status.UNFORESEEN, [problem_of(error, doing)]
    if isinstance(error, OSError):
        from runsdeploy.output.terminal import discard_output  # noqa: PLC0415

        # If it was the output, what follows goes nowhere.
        discard_output(str(error.filename))
    return exit_status.MACHINE_FAILED, [failure_of(error)]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program; return its exit status."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if words in (["--version"], ["-V"]):
        from runsdeploy import __version__  # noqa: PLC0415

        sys.stdout.write(f"runsdeploy {__version__}\n")
        return 0
    from runsdeploy.cli import parser  # noqa: PLC0415
    from runsdeploy.errors import InputError, Problem  # noqa: PLC0415

    name = ""
    try:
        line = parser.split(words)
        if line.directory:
            _change_directory(line.directory)
        name = line.command
        if not name or name.startswith("-"):
            whole, _ = parser.program()
            whole.parse_args([name] if name else [])
            if _typed_format(words) in ("json", "jsonl"):
                return _report(
                    "json", exit_status.BAD_INPUT, [Problem(None, "no command given", "see `runsdeploy --help`")]
                )
            whole.print_help(sys.stderr)
            return exit_status.BAD_INPUT
        command = parser.find(name)
        given = parser.parse(command, line.words)
    except InputError as error:
        return _report(_format(name, _typed_format(words)), exit_status.BAD_INPUT, error.problems)
    except Exception as error:  # noqa: BLE001 - the same as in `perform`, before it is known what to perform
        return _report(_typed_format(words) or "text", *_failure(error, name or "the command line"))
    return perform(command, given, line.directory)


def _change_directory(directory: str) -> None:
    from runsdeploy.errors import InputError, Problem  # noqa: PLC0415

    try:
        os.chdir(directory)
    except OSError as error:
        why = (error.strerror or str(error)).lower()
        raise InputError([Problem(None, f"cannot change to directory `{directory}`: {why}")]) from error


def perform(command: Command, given: Mapping[str, Any], directory: str = "") -> int:
    """Run a command with what was typed; return its exit status in every ending, reported in the format asked for.

    `directory` is that of `-C`, to which the process has changed already.
    """
    from pathlib import Path  # noqa: PLC0415

    from msgspec.structs import replace  # noqa: PLC0415

    from runsdeploy.cli.settings import resolve  # noqa: PLC0415
    from runsdeploy.cli.table import COMMANDS  # noqa: PLC0415
    from runsdeploy.errors import HostError, InputError, Problem  # noqa: PLC0415
    from runsdeploy.rollout.interrupts import Interrupted, interruptible  # noqa: PLC0415

    form = _format(command.name, given.get("format"))
    try:
        with interruptible():
            _raise_limit()
            arguments = resolve(command.flags, given, Path.cwd(), [flag for each in COMMANDS for flag in each.flags])
            form = arguments.format
            program = ("runsdeploy", *(("-C", directory) if directory else ()), command.name)
            return command.run(replace(arguments, typed_command=program, typed_flags=command.words(given)))
    except BrokenPipeError:
        from runsdeploy.output.terminal import discard_output  # noqa: PLC0415

        # The process that read stdout closed the pipe: report nothing, and keep Python from flushing it at exit.
        discard_output()
        return exit_status.PIPE_CLOSED
    except InputError as error:
        status, problems = exit_status.BAD_INPUT, list(error.problems)
    except HostError as error:
        status, problems = exit_status.UNUSABLE, [Problem(None, error.message, error.hint)]
    except Interrupted as stop:
        status, problems = exit_status.SIGNALLED + stop.number, [Problem(None, "interrupted")]
    except Exception as error:  # noqa: BLE001 - the outermost handler
        status, problems = _failure(error, command.name)
    return _report(form, status, problems)


def _raise_limit() -> None:
    """Raise the limit of open files as far as this process may, where it is low; raises InputError if it stays too low.

    With too few a CONF section would fail, and its operator would look for the cause there.
    """
    import resource  # noqa: PLC0415

    from runsdeploy.errors import InputError, Problem  # noqa: PLC0415

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= OPEN_FILES:
        return
    wanted = OPEN_FILES if hard == resource.RLIM_INFINITY else min(OPEN_FILES, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    if wanted < FEWEST_FILES:
        message = f"this process may open {wanted} files at once, expected at least {FEWEST_FILES}"
        raise InputError([Problem(None, message, f"raise the limit, as root: `ulimit -n {OPEN_FILES}`")])


def _format(name: str, typed: str | None) -> str:
    """Return the format to report errors of a command in, where its arguments could not be resolved."""
    from pathlib import Path  # noqa: PLC0415

    from runsdeploy.cli.flags import FORMAT  # noqa: PLC0415
    from runsdeploy.cli.settings import resolve  # noqa: PLC0415
    from runsdeploy.cli.table import COMMANDS  # noqa: PLC0415
    from runsdeploy.errors import InputError  # noqa: PLC0415

    flags = next((command.flags for command in COMMANDS if command.name == name), (FORMAT,))
    form = [flag for flag in flags if flag.key == FORMAT.key]
    try:
        return str(resolve(form or [FORMAT], {"format": typed}, Path.cwd()).format)
    except InputError:
        # Also for a configuration that cannot be used.
        said = typed or os.environ.get("RUNSDEPLOY_FORMAT", "")
        return said if any(said in flag.choices for flag in form or [FORMAT]) else "text"


def _typed_format(words: Sequence[str]) -> str | None:
    """Return the format in a command line that could not be parsed."""
    for word, following in zip(words, [*words, ""][1:], strict=True):
        if word == "--format":
            return following
        if word.startswith("--format="):
            return word.partition("=")[2]
    return None


def _report(form: str, status: int, problems: Sequence[Problem]) -> int:
    """Write problems to stderr, and the document of the format to stdout; return the status."""
    from runsdeploy.output.terminal import discard_output, show_problems  # noqa: PLC0415

    try:
        show_problems(problems)
        _write_document(form, status, problems)
    except OSError as error:
        # The document, or the reason why there is none, cannot be written; what can be shown is shown.
        discard_output(str(error.filename))
    return status


def _write_document(form: str, status: int, problems: Sequence[Problem]) -> None:
    if form in ("json", "jsonl"):
        from runsdeploy.output import json  # noqa: PLC0415

        json.write(json.problems(status, problems))
    elif form != "text":
        from importlib import import_module  # noqa: PLC0415

        from runsdeploy.check.finding import error  # noqa: PLC0415 - for `check`

        import_module(f"runsdeploy.output.{form}").write([error(problem) for problem in problems])
