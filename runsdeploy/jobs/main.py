"""The program: arguments in, exit status out."""

import argparse
import json
import locale
import os
import resource
import signal
import sys
import threading
from typing import Any, List, NoReturn, Sequence

from .commands import commands, output
from .errors import BAD_INPUT, BadInput, Fault, Problem, reason

_RESTARTED = "RUNSDEPLOY_JOBS_LOCALE"


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise BadInput([Problem("", 0, 0, "", message, f"see `{self.prog} --help`")])


def _parser() -> _Parser:
    shared = _Parser(add_help=False, argument_default=argparse.SUPPRESS)
    shared.add_argument(
        "--settings", metavar="FILE", help="settings file (default: settings/settings.json beside the program)"
    )
    shared.add_argument(
        "--catalogue",
        metavar="FILE",
        help="catalogue of jobs (default: catalogue.json beside the settings, else the built-in one)",
    )
    shared.add_argument("--format", choices=("text", "json"), help="format of results (default: text)")
    parser = _Parser(
        prog="job-runner", description="Run nightly jobs, with a backup of a known state around them.", parents=[shared]
    )
    parser.add_argument("--version", "-V", action="version", version=commands.version())
    made = parser.add_subparsers(dest="command", metavar="COMMAND", parser_class=_Parser)

    def add(name: str, text: str) -> Any:
        return made.add_parser(name, help=text, description=f"{text}.".capitalize(), parents=[shared])

    run = add("run", "run the enabled jobs; with a name, that job or all jobs of that stage, enabled or not")
    run.add_argument("name", nargs="?", default="", metavar="JOB|STAGE")
    run.add_argument("--wait", type=float, default=0.0, metavar="SECONDS", help="how long to wait for the lock")
    run.add_argument("--quiet", action="store_true", help="print nothing if all went well")
    add("jobs", "list the jobs")
    check = add("check", "check settings and catalogue")
    check.add_argument("--here", action="store_true", help="also check whether this machine has what a run needs")
    _folder(add("backups", "list the backups"))
    verify = _folder(add("verify", "verify a backup by reading all of it (default: the newest good one)"))
    verify.add_argument("archive", nargs="?", default="latest", metavar="ARCHIVE")
    verify.add_argument("--all", action="store_true", help="verify all backups")
    _add_restore(_folder(add("restore", "restore files from a backup; without `--yes` only show what would change")))
    status = add("status", "show the results of the last runs")
    status.add_argument(
        "--max-age", default="", metavar="TIME", help="exit with status 1 if the last good run is older, e.g. 26h"
    )
    logs = add("logs", "show the log of a run (default: the last one)")
    logs.add_argument("identity", nargs="?", default="", metavar="RUN")
    return parser


def _folder(parser: Any) -> Any:
    parser.add_argument(
        "--backups", default="", metavar="DIRECTORY", help="directory of the backups (default: from the settings)"
    )
    return parser


def _add_restore(restore: Any) -> None:
    restore.add_argument("archive", nargs="?", default="", metavar="ARCHIVE|latest")
    restore.add_argument("paths", nargs="*", metavar="PATH", help="restore only these files and directories")
    restore.add_argument("--yes", action="store_true", help="restore the files")
    restore.add_argument(
        "--continue", action="store_true", dest="continue_restore", help="continue an interrupted restore"
    )
    restore.add_argument("--undo", action="store_true", help="undo the last restore")
    restore.add_argument(
        "--root", default="/", metavar="DIRECTORY", help="restore below this directory, to inspect files or to rehearse"
    )
    restore.add_argument("--host", default="", metavar="NAME", help="accept a backup of this other host")
    restore.add_argument("--force", action="store_true", help="accept a backup that is not good")
    restore.add_argument("--wait", type=float, default=0.0, metavar="SECONDS", help="how long to wait for the lock")


def main(words: Sequence[str], program: str) -> int:
    """Run the command that the arguments name; return the exit status."""
    form = _error_format(words)
    try:
        arguments, more = _parser().parse_known_args(list(words))
        if more and (arguments.command != "restore" or any(word.startswith("-") for word in more)):
            raise BadInput([Problem("", 0, 0, "", f"unknown: {' '.join(more)}", "see `job-runner --help`")])
        if more:
            # argparse consumes all positional arguments where it finds the first; the later ones are left over.
            arguments.paths += more
        if not arguments.command:
            _parser().print_help()
            return BAD_INPUT
        stop = threading.Event()
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, lambda *_: stop.set())
        return commands.COMMANDS[arguments.command](arguments, program, stop)
    except Fault as fault:
        return _report(form, fault)
    except BrokenPipeError:
        # The reader of our output is gone; Python must not flush to it again when it exits.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 141
    except OSError as error:
        where = f"`{error.filename}`: " if error.filename else ""
        return _report(form, Fault(where + reason(error)))


def _error_format(words: Sequence[str]) -> str:
    """Return the format for errors, from arguments that may not parse."""
    return "json" if "--format=json" in words or ("--format", "json") in zip(words, words[1:]) else "text"


def _report(form: str, fault: Fault) -> int:
    output.write(f"{fault}\n", sys.stderr)
    if form == "json":
        problems: List[Any] = [dict(each._asdict()) for each in getattr(fault, "problems", ())]
        document = {"schema": 1, "exit_status": fault.status, "error": fault.message, "problems": problems}
        output.write(json.dumps(document) + "\n", sys.stdout)
    return fault.status


def entry() -> NoReturn:
    """Set the process up and run the program; never returns."""
    # A core dump would contain the memory of the runner, secrets included (S20).
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    program = os.path.abspath(sys.argv[0])
    _open_standard_descriptors()
    _ensure_utf8(program)
    os.umask(0o077)
    sys.exit(main(sys.argv[1:], program))


def _open_standard_descriptors() -> None:
    """Open descriptors 0 to 2 if the caller closed them: a file of ours must not become standard output (J21)."""
    while True:
        descriptor = os.open(os.devnull, os.O_RDWR)
        if descriptor > 2:  # noqa: PLR2004 - standard error
            os.close(descriptor)
            return


def _ensure_utf8(program: str) -> None:
    """Restart in a UTF-8 locale: Python 3.6 in the `C` locale of cron cannot open a file with `ø` in its name."""
    if sys.getfilesystemencoding().lower() in ("utf-8", "utf8") or _RESTARTED in os.environ:
        return
    for name in ("C.UTF-8", "en_US.UTF-8"):
        try:
            locale.setlocale(locale.LC_CTYPE, name)
        except locale.Error:
            continue
        environment = {**os.environ, "LC_ALL": name, _RESTARTED: "1"}
        os.execve(sys.executable, [sys.executable, "-I", program, *sys.argv[1:]], environment)  # noqa: S606 - ourselves
