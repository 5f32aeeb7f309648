"""Preflight checks: whether this machine has what a run needs, for this account; changes nothing."""

import os
import shutil
from typing import Iterator

from ..disk import trust
from ..process.process import Command
from ..settings.agenda import Agenda
from ..settings.settings import Settings


def warnings(settings: Settings, agenda: Agenda) -> Iterator[str]:
    """Yield the problems that a run would have if it started now."""
    values = settings.values
    yield from _directory("CRON_BACKUP", values["CRON_BACKUP"])
    for key in ("CRON_LOG_FILE", "METRICS_FILE"):
        if values[key]:
            yield from _file(key, values[key])
    for wanted in agenda.before:
        made = wanted.path == values["SNAPSHOT_LORA"] and agenda.copies.before  # which may make the snapshot
        if wanted.required and not made and not os.access(wanted.path, os.R_OK):
            yield f"{wanted.why}: `{wanted.path}` is missing or cannot be read, and without it no backup is good"
    if values["SVC_KEYTAB"] and agenda.tasks and not os.access(values["SVC_KEYTAB"], os.R_OK):
        yield f"`crontab.SVC_KEYTAB`: `{values['SVC_KEYTAB']}` is missing or cannot be read"
    for act, around in (("copies", agenda.copies), ("restore", agenda.restore)):
        for when, commands in around._asdict().items():
            for command in commands:
                yield from _program(f"`{act}.{when}`", command)
    for task in agenda.tasks:
        yield from _program(f"job `{task.job.name}`", task.command)


def _directory(key: str, path: str) -> Iterator[str]:
    if not os.path.lexists(path):
        above = os.path.dirname(path)
        if not os.access(above, os.W_OK | os.X_OK):
            yield f"`crontab.{key}`: `{path}` is missing, and cannot be made in `{above}`"
    elif not os.path.isdir(path):
        yield f"`crontab.{key}`: `{path}` is not a directory"
    elif not os.access(path, os.W_OK | os.X_OK):
        yield f"`crontab.{key}`: `{path}` cannot be written"
    elif os.stat(path).st_uid != os.geteuid() or os.stat(path).st_mode & 0o022:
        yield f"`crontab.{key}`: `{path}` must belong to this account, and must not be writable for others"
    found = trust.replaceable(path)
    if found:
        yield f"`crontab.{key}`: others could replace `{path}`: {trust.describe(found)}"


def _file(key: str, path: str) -> Iterator[str]:
    found = trust.problems(path, groups=key != "CRON_LOG_FILE")
    if found:
        yield f"`crontab.{key}`: `{path}` will not be written: {trust.describe(found)}"
    elif os.path.isdir(path):
        yield f"`crontab.{key}`: `{path}` is a directory"
    elif not os.access(path if os.path.exists(path) else os.path.dirname(path), os.W_OK):
        yield f"`crontab.{key}`: `{path}` cannot be written"


def _program(whose: str, command: Command) -> Iterator[str]:
    directory, name = command.directory, command.argv[0]
    if not os.path.isdir(directory):
        yield f"{whose}: its working directory `{directory}` is missing"
        return
    path = os.path.join(directory, name) if "/" in name else name
    if not shutil.which(path, path=command.environment["PATH"]):
        yield f"{whose}: its program `{name}` is missing"
