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
    shared.add_argument("--settings", metavar="FILE", help="settings (settings/settings.json beside the program)")
    shared.add_argument("--catalogue", metavar="FILE", help="jobs (catalogue.json beside the settings, or the default)")
    shared.add_argument("--format", choices=("text", "json"), help="how to write results (text)")
    parser = _Parser(
        prog="job-runner", description="Run jobs at night, and always leave a known state.", parents=[shared]
    )
    parser.add_argument("--version", "-V", action="version", version=commands.version())
    made = parser.add_subparsers(dest="command", metavar="COMMAND", parser_class=_Parser)

    def add(name: str, text: str) -> Any:
        return made.add_parser(name, help=text, description=f"{text}.".capitalize(), parents=[shared])

    run = add("run", "run the enabled jobs; or one job, or the jobs of one stage, enabled or not")
    run.add_argument("name", nargs="?", default="", metavar="JOB|STAGE")
    run.add_argument("--wait", type=float, default=0.0, metavar="SECONDS", help="for another one that is at work")
    run.add_argument("--quiet", action="store_true", help="say nothing if all went well")
    add("jobs", "list the jobs")
    check = add("check", "say what is wrong with settings and catalogue")
    check.add_argument("--here", action="store_true", help="also what this machine lacks for a run")
    _folder(add("backups", "list the backups"))
    verify = _folder(add("verify", "read a backup from end to end; the newest if none is named"))
    verify.add_argument("archive", nargs="?", default="latest", metavar="ARCHIVE")
    verify.add_argument("--all", action="store_true", help="all of them")
    _add_restore(_folder(add("restore", "put the files of a backup back; shows what it would do unless told `--yes`")))
    status = add("status", "tell how the last runs went")
    status.add_argument("--max-age", default="", metavar="TIME", help="status 1 if no good run is so recent, e.g. 26h")
    logs = add("logs", "show the log of a run; of the last one if none is named")
    logs.add_argument("identity", nargs="?", default="", metavar="RUN")
    return parser


def _folder(parser: Any) -> Any:
    parser.add_argument("--backups", default="", metavar="DIRECTORY", help="where they are, if not where settings say")
    return parser


def _add_restore(restore: Any) -> None:
    restore.add_argument("archive", nargs="?", default="", metavar="ARCHIVE|latest")
    restore.add_argument("paths", nargs="*", metavar="PATH", help="these files and directories only")
    restore.add_argument("--yes", action="store_true", help="do it")
    restore.add_argument(
        "--continue", action="store_true", dest="continue_restore", help="finish a restore that was interrupted"
    )
    restore.add_argument("--undo", action="store_true", help="take the last restore back")
    restore.add_argument("--root", default="/", metavar="DIRECTORY", help="put files below it, for a look or a drill")
    restore.add_argument("--host", default="", metavar="NAME", help="take a backup of this other host")
    restore.add_argument("--force", action="store_true", help="take a backup that is not good")
    restore.add_argument("--wait", type=float, default=0.0, metavar="SECONDS", help="for another one that is at work")


def main(words: Sequence[str], program: str) -> int:
    """Do what the words say; return the exit status."""
    form = _error_format(words)
    try:
        arguments, more = _parser().parse_known_args(list(words))
        if more and (arguments.command != "restore" or any(word.startswith("-") for word in more)):
            raise BadInput([Problem("", 0, 0, "", f"unknown: {' '.join(more)}", "see `job-runner --help`")])
        if more:
            # argparse takes all positional words from the first place where there are any.
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
        # Whoever read our output has seen enough; Python must not try again at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 141
    except OSError as error:
        where = f"`{error.filename}`: " if error.filename else ""
        return _report(form, Fault(where + reason(error)))


def _error_format(words: Sequence[str]) -> str:
    """Return the format to tell errors in, of words that may not even parse."""
    pairs = zip([*words, ""], [*words[1:], "", ""])
    asked = any(word == "--format=json" or (word == "--format" and after == "json") for word, after in pairs)
    return "json" if asked else "text"


def _report(form: str, fault: Fault) -> int:
    output.write(f"{fault}\n", sys.stderr)
    if form == "json":
        problems: List[Any] = [dict(each._asdict()) for each in getattr(fault, "problems", ())]
        document = {"schema": 1, "exit_status": fault.status, "error": fault.message, "problems": problems}
        output.write(json.dumps(document) + "\n", sys.stdout)
    return fault.status


def entry() -> NoReturn:
    """Run the program as a process of its own."""
    # A core would hold what the runner knows, secrets too (S20).
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    program = os.path.abspath(sys.argv[0])
    _open_standard_descriptors()
    _ensure_utf8(program)
    os.umask(0o077)
    sys.exit(main(sys.argv[1:], program))


def _open_standard_descriptors() -> None:
    """Open what the caller closed: our files must not come to be standard output (J21)."""
    while True:
        descriptor = os.open(os.devnull, os.O_RDWR)
        if descriptor > 2:  # noqa: PLR2004 - standard error
            os.close(descriptor)
            return


def _ensure_utf8(program: str) -> None:
    """Start again in a UTF-8 locale: Python 3.6 under cron's `C` cannot name a file with an `ø` in it."""
    if sys.getfilesystemencoding().lower() in ("utf-8", "utf8") or _RESTARTED in os.environ:
        return
    for name in ("C.UTF-8", "en_US.UTF-8"):
        try:
            locale.setlocale(locale.LC_CTYPE, name)
        except locale.Error:
            continue
        environment = {**os.environ, "LC_ALL": name, _RESTARTED: "1"}
        os.execve(sys.executable, [sys.executable, "-I", program, *sys.argv[1:]], environment)  # noqa: S606 - ourselves
