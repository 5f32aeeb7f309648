"""`cron.*`: the job runner on hosts. Each command is a script of the built-in tree, deployed as any other is."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Sequence

from msgspec.structs import replace

from runsdeploy.commands.arguments import Arguments
from runsdeploy.commands.cron.builtin_tree import builtin_work, gather, known_hosts, named_hosts, place_of
from runsdeploy.commands.execution import execute, listener_of
from runsdeploy.errors import InputError, Problem
from runsdeploy.output import console, json
from runsdeploy.output.terminal import Writer
from runsdeploy.rollout.rollout import Listener
from runsdeploy.session.report import HostReport

STATUSES = {
    1: "it could not do that",
    2: "what it was given is wrong (settings, catalogue or words), nothing was touched",
    3: "a backup is not good",
    4: "a restore is unfinished: `cron.restore --continue` or `--undo`",
    69: "the job runner cannot be used there",
    75: "locked: another run is under way",
}
"""meaning of the exit statuses of the job runner and of the scripts that start it"""
FAILURES = {"run": "a job failed", "status": "no good run, or none that is so recent", "verify": "a backup is not good"}
"""meaning of status 1, by command"""


_Words = Callable[[Arguments, list[Problem]], list[str]]
"""makes the arguments of a command of the job runner"""


def _use(command: str, words: _Words) -> Callable[[Arguments], int]:
    """Return the function that runs a command of the installed job runner."""

    def ask(arguments: Arguments) -> int:
        problems: list[Problem] = []
        hosts = gather(problems, named_hosts, arguments)
        place = place_of(arguments, problems)
        typed = words(arguments, problems)
        if problems or hosts is None:
            raise InputError(problems)
        _note_host_as_word(arguments, command)
        options = [] if arguments.format == "text" else ["--format", "json"]
        more = {"as_root": "yes" if arguments.as_root else ""} if command == "restore" else {}
        variables = {**place, **more, "options": options, "words": typed}
        with builtin_work(arguments, f"cron/{command}", hosts, lambda _: variables) as work:
            # A run takes hours and must not lock out `cron.status`: the job runner has a lock of its own.
            status, reports = execute(arguments, replace(work, scope=f"cron/{command}"), _listen)
        _explain_statuses(command, reports)
        return status

    return ask


def _note_host_as_word(arguments: Arguments, command: str) -> None:
    """Write what was probably meant by `--host web1 web2`, where `web2` is taken for a job, a run or an archive."""
    name = {"run": "job", "logs": "run", "verify": "archive", "restore": "archive"}.get(command, "")
    word = getattr(arguments, name) if name else ""
    # A job may have the name of a host, so this is no error; the job runner refuses what it does not know.
    if word and word in {host.name for host in known_hosts(arguments)}:
        meant = ",".join((*arguments.host, word))
        Writer(sys.stderr).line(f"`{word}` is taken for the name of a {name}; if the host is meant: `--host {meant}`")


def _listen(arguments: Arguments, names: Sequence[str]) -> Listener:
    """Return a listener that writes the output of a single host unchanged, and names the host with several."""
    if arguments.format == "text" and len(names) == 1:
        return console.Verbatim(verbose=arguments.verbose)
    if arguments.format == "json":
        return json.Kept()
    return listener_of(arguments, names)


def _explain_statuses(command: str, reports: Sequence[HostReport]) -> None:
    """Write the meaning of the statuses of failed steps."""
    talk = Writer(sys.stderr)
    meanings = {**STATUSES, 1: FAILURES.get(command, STATUSES[1])}
    for report in reports:
        for step in report.steps:
            if step.outcome in ("failed", "killed") and step.status is not None:
                meaning = meanings.get(step.status, "")
                if step.outcome == "killed":
                    meaning = f"it was killed by signal {step.status - 128}"
                end = f": {meaning}" if meaning else ""
                talk.line(f"{report.plan.host.name}: the job runner ended with status {step.status}{end}")


def _word(value: str | None, option: str, problems: list[Problem]) -> list[str]:
    """Return a positional argument; a leading dash is a problem: the job runner would take it for an option."""
    if value and value.startswith("-"):
        problems.append(Problem(None, f"bad {option} `{value}`: it begins with a dash"))
    return [value] if value else []


def _run_words(arguments: Arguments, problems: list[Problem]) -> list[str]:
    wait = f"{arguments.wait:g}" if arguments.wait else ""
    return [*_word(arguments.job, "job", problems), *(["--wait", wait] if wait else [])]


def _status_words(arguments: Arguments, problems: list[Problem]) -> list[str]:
    age = arguments.max_age or ""
    if age and not re.fullmatch(r"[0-9]{1,9}[A-Za-z]*", age):
        problems.append(Problem(None, f"bad `--max-age` {age!r}: expected a duration such as `26h`"))
    return ["--max-age", age] if age else []


def _verify_words(arguments: Arguments, problems: list[Problem]) -> list[str]:
    return [*_word(arguments.archive, "archive", problems), *(["--all"] if arguments.all else [])]


def _restore_words(arguments: Arguments, problems: list[Problem]) -> list[str]:
    switches = [name for name in ("yes", "undo", "continue", "force") if getattr(arguments, name)]
    archive = _word(arguments.archive, "archive", problems)
    if not archive and not {"undo", "continue"} & set(switches):
        problems.append(Problem(None, "no archive given", "`latest`, or one of `runsdeploy cron.backups`"))
    if {"undo", "continue"} <= set(switches):
        problems.append(Problem(None, "`--undo` and `--continue` exclude each other"))
    paths = [word for path in arguments.only for word in _word(path, "path", problems)]
    places = [word for name in ("root", "backups") for word in _place(arguments, name, problems)]
    host = [f"--host={arguments.backup_of}"] if arguments.backup_of else []
    return [*archive, *paths, *places, *host, *(f"--{name}" for name in switches)]


def _place(arguments: Arguments, name: str, problems: list[Problem]) -> list[str]:
    given = getattr(arguments, name) or ""
    if given and not given.startswith("/"):
        problems.append(Problem(None, f"bad `--{name}` {given!r}: expected an absolute path on the host"))
    return [f"--{name}={given}"] if given else []


def _log_words(arguments: Arguments, problems: list[Problem]) -> list[str]:
    return _word(arguments.run, "run", problems)


def _no_words(_arguments: Arguments, _problems: list[Problem]) -> list[str]:
    return []


run = _use("run", _run_words)
jobs = _use("jobs", _no_words)
status = _use("status", _status_words)
logs = _use("logs", _log_words)
backups = _use("backups", _no_words)
verify = _use("verify", _verify_words)
restore = _use("restore", _restore_words)
