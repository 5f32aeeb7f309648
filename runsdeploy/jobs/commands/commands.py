"""The commands: each takes the parsed arguments, writes its result to standard output, and returns the exit status."""

import hashlib
import os
import sys
import threading
import time
from contextlib import closing
from typing import Any, Callable, Dict

from .. import VERSION
from ..archive import archive
from ..archive.known_state import describe, document
from ..disk.lock import acquire, holder
from ..errors import BAD_INPUT, FAILED, LOCKED, OK, BadInput, Fault, Problem
from ..report import record
from ..report.log import Log, printable
from ..restore import restore
from ..run import leftovers, preflight
from ..run.run import run as run_jobs
from ..settings.agenda import make_agenda
from ..settings.catalogue import duration
from . import backups
from .load import load
from .output import print_json, print_lines, print_result, wants_json, write

_CHUNK = 64 * 1024


def version() -> str:
    """Return the version, and a digest of the program file, which differs between builds of one version (S18)."""
    try:
        with open(sys.argv[0], "rb") as file:
            digest = hashlib.sha256(file.read()).hexdigest()[:16]
    except OSError:
        return VERSION
    return f"job-runner {VERSION} (sha256 {digest})"


def run(arguments: Any, program: str, stop: threading.Event) -> int:
    """Do a run and print its result; cron mails all output, so success is one line at most (J21)."""
    settings, catalogue = load(arguments, program)
    agenda = make_agenda(settings, catalogue, program, arguments.name)
    folder = preflight.backup_directory(settings)
    try:
        lock = acquire(folder, "starts a run", arguments.wait)
    except Fault as fault:
        if fault.status == LOCKED:
            record.count_overlap(folder)
            log = Log()
            log.open(settings.values["CRON_LOG_FILE"])
            log.write(f"no run: {fault.message}")
            log.close()
        raise
    with closing(lock):
        made, tails = run_jobs(settings, agenda, catalogue, lock, stop)
    if wants_json(arguments):
        print_json(**made.document)
    elif (made.exit_status != OK or not arguments.quiet) and not _log_was_shown():
        print_lines(record.summary(made.document))
        print_lines(f"  warning: {each}" for each in made.warnings)
        print_lines(f"{name}| {line}" for name, tail in tails.items() for line in tail)
    return made.exit_status


def _log_was_shown() -> bool:
    """Return whether the log was shown on a terminal; it ends with the same summary."""
    return all(stream is not None and stream.isatty() for stream in (sys.stdout, sys.stderr))


def jobs(arguments: Any, program: str, _stop: threading.Event) -> int:
    """List the jobs in the order in which they run."""
    settings, catalogue = load(arguments, program)
    rows, lines = [], []
    width = max((len(job.name) for job in catalogue.jobs), default=0)
    for job in catalogue.jobs:
        facts = {name: getattr(job, name) for name in ("name", "stage", "enabled_by", "required", "description")}
        rows.append({**facts, "enabled": job.enabled_by in settings.enabled})
        switch = f"crontab.{job.enabled_by}" if job.enabled_by else "by name only"
        state = "on " if job.enabled_by in settings.enabled else "off"
        lines.append(f"{job.stage:8}  {job.name:{width}}  {state}  {switch}  {job.description}")
    print_result(arguments, lines, jobs=rows)
    return OK


def check(arguments: Any, program: str, _stop: threading.Event) -> int:
    """Check settings and catalogue; changes nothing."""
    settings, catalogue = load(arguments, program)
    agenda = make_agenda(settings, catalogue, program, here=arguments.here)
    names = [task.job.name for task in agenda.tasks]
    warnings = [*settings.warnings, *agenda.warnings, *(preflight.warnings(settings, agenda) if arguments.here else ())]
    if not wants_json(arguments):
        write("".join(f"warning: {each}\n" for each in warnings), sys.stderr)
    line = f"{settings.path}: valid; enabled: {', '.join(names) or 'no job, only the backup'}"
    print_result(arguments, [line], exit_status=OK, enabled=names, warnings=warnings)
    return OK


def status(arguments: Any, program: str, _stop: threading.Event) -> int:
    """Print the results of the last runs; with `--max-age`, fail if the last good one is older (J22)."""
    settings, _ = load(arguments, program)
    folder = settings.values["CRON_BACKUP"]
    history, now = record.load(folder), time.time()
    runs, success = history.runs, history.last_success
    most = _age(arguments.max_age) if arguments.max_age else 0
    late = bool(most) and (success is None or now - success > most)
    working = holder(folder)
    standing = ["a restore is unfinished; no job runs until it is finished"] if restore.unfinished(folder) else []
    suspect = archive.suspect(folder)
    if suspect.since:
        known = archive.latest(archive.archives(folder), suspect)
        standing.append(f"{describe(suspect)}; the known state is in {f'`{known.name}`' if known else 'no backup'}")
    if working is None:
        standing += [f"run {each} was killed" for each in leftovers.killed_runs(folder)]
    lines = [line for each in runs[-10:] for line in record.summary(each)]
    lines += [f"  warning: {printable(each.encode())}" for each in (runs[-1].get("warnings", ()) if runs else ())]
    lines += standing
    if working is not None:
        lines.append(f"active: pid {working.get('pid')}, {working.get('doing')}")
    last = "never" if success is None else time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(success))
    lines.append(f"last good run: {last}{f', more than {arguments.max_age} ago' if late and success else ''}")
    code = FAILED if late else OK
    facts = {"last_success": success, "backup_last_good": history.backup_last_good, "suspect": document(suspect)}
    print_result(arguments, lines, exit_status=code, runs=list(runs), working=working, standing=standing, **facts)
    return code


def _age(text: str) -> int:
    seconds = duration(text)
    if not seconds:
        raise BadInput([Problem("", 0, 0, "", f"found `{text}` for `--max-age`, expected a time like `26h`")])
    return seconds


def logs(arguments: Any, program: str, _stop: threading.Event) -> int:
    """Show the log of a run."""
    settings, _ = load(arguments, program)
    folder = settings.values["CRON_BACKUP"]
    known = leftovers.run_ids(folder)
    name = arguments.identity or (known[-1] if known else "")
    if name not in known:
        message = f"there is no run `{name}`" if name else "there are no runs"
        raise Fault(message, f"known: {', '.join(known[-5:])}" if known else "", BAD_INPUT)
    terminal = sys.stdout is not None and sys.stdout.isatty()
    with open(os.path.join(folder, leftovers.RUNS, name, "log"), "rb") as file:
        if wants_json(arguments):
            print_json(exit_status=OK, run=name, lines=[line.decode("utf-8", "backslashreplace") for line in file])
        elif terminal:
            print_lines(printable(line.rstrip(b"\n")) for line in file)
        elif sys.stdout is not None:
            for block in iter(lambda: file.read(_CHUNK), b""):
                sys.stdout.buffer.write(block)
            sys.stdout.buffer.flush()
    return OK


COMMANDS: Dict[str, Callable[[Any, str, threading.Event], int]] = {
    "run": run,
    "jobs": jobs,
    "check": check,
    "backups": backups.backups,
    "verify": backups.verify,
    "restore": backups.restore,
    "status": status,
    "logs": logs,
}
