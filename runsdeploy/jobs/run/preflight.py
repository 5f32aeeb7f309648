"""Preflight checks: whether this machine has what a run needs, for this account; changes nothing."""

import os
import shutil
from typing import Iterator

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
    for key in ("SNAPSHOT_LORA", "SVC_KEYTAB"):
        needed = agenda.tasks if key == "SVC_KEYTAB" else not agenda.copies.before  # which may make the snapshot
        if values[key] and needed and not os.access(values[key], os.R_OK):
            yield f"`crontab.{key}`: `{values[key]}` is missing or cannot be read"
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


def _file(key: str, path: str) -> Iterator[str]:
    if os.path.isdir(path):
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
