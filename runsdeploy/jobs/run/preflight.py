"""Preflight checks: whether this machine has what a run needs, for this account; only the backup directory is made."""

import os
import pwd
import shutil
from typing import Iterator

from ..disk import durable, trust
from ..errors import BACKUP_BAD, Fault, reason
from ..process.process import Command
from ..settings.agenda import Agenda
from ..settings.settings import Settings


def warnings(settings: Settings, agenda: Agenda) -> Iterator[str]:
    """Yield the problems that a run would have if it started now."""
    values = settings.values
    yield from _directory(settings)
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


def backup_directory(settings: Settings) -> str:
    """Return the backup directory; it is made if its parent exists. Raises Fault (J17, J23)."""
    folder = str(settings.values["CRON_BACKUP"])
    _check_place(folder)
    try:
        os.mkdir(folder, 0o700)
        durable.sync_directory(os.path.dirname(folder))
    except FileExistsError:
        pass
    except OSError as error:
        hint = f"make it: `install -d -o {_account(os.geteuid())} -m 700 {folder}`"
        raise Fault(f"backup directory `{folder}` cannot be made: {reason(error)}", hint, BACKUP_BAD) from None
    _check_directory(settings)
    return folder


def _check_place(folder: str) -> None:
    found = trust.replaceable(folder)
    if found:
        raise Fault(f"others could replace the backup directory `{folder}`: {trust.describe(found)}", "", BACKUP_BAD)


def _check_directory(settings: Settings) -> None:
    """Check a backup directory that exists; others may have made it meanwhile. Raises Fault."""
    folder = settings.values["CRON_BACKUP"]
    if settings.values["BACKUP_REQUIRE_MOUNT"] and not os.path.ismount(folder):
        hint = "mount it, or remove `crontab.BACKUP_REQUIRE_MOUNT` from the settings"
        raise Fault(f"nothing is mounted at `{folder}`", hint, BACKUP_BAD)
    _check_place(folder)
    status = os.stat(folder)
    if status.st_uid != os.geteuid() and os.geteuid() == 0:
        # A hint to give it to root would stop the nightly runs of its owner.
        owner = _account(status.st_uid)
        message = f"`{folder}` belongs to `{owner}`: a run as root would leave files that it cannot use"
        raise Fault(message, f"run it as `{owner}`", BACKUP_BAD)
    if not os.path.isdir(folder):
        raise Fault(f"`{folder}` is not a directory", "", BACKUP_BAD)
    if status.st_uid != os.geteuid() or status.st_mode & 0o022:
        hint = f"chown {os.geteuid()} {folder} && chmod 700 {folder}"
        raise Fault(f"`{folder}` must belong to this account, and must not be writable for others", hint, BACKUP_BAD)


def _account(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def _directory(settings: Settings) -> Iterator[str]:
    folder = settings.values["CRON_BACKUP"]
    above = os.path.dirname(folder)
    try:
        if os.path.lexists(folder):
            _check_directory(settings)
            if not os.access(folder, os.W_OK | os.X_OK):
                yield f"`crontab.CRON_BACKUP`: `{folder}` cannot be written"
        elif not os.access(above, os.W_OK | os.X_OK):
            yield f"`crontab.CRON_BACKUP`: `{folder}` is missing, and cannot be made in `{above}`"
        else:
            _check_place(folder)
    except (Fault, OSError) as error:
        yield f"`crontab.CRON_BACKUP`: {getattr(error, 'message', error)}"


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
