"""`cron.install`, `cron.uninstall` and `cron.build`: put the job runner on hosts, remove it, write it to a file."""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from datetime import datetime
from json import loads as decode
from pathlib import Path
from typing import Any

from runsdeploy.commands.arguments import Arguments
from runsdeploy.commands.cron.builtin_tree import builtin_work, gather, is_printable, named_hosts, place_of
from runsdeploy.commands.execution import execute
from runsdeploy.errors import InputError, Position, Problem, display_path
from runsdeploy.output import json
from runsdeploy.output.terminal import Writer, printable
from runsdeploy.temporary import make_directory
from runsdeploy.tree.trees import Host
from runsdeploy.tree.trust import Trust

PROGRAM, SETTINGS, CATALOGUE = "job-runner.pyz", "settings.json", "catalogue.json"
"""names in the private tree of what is shipped"""

LARGEST = 1 << 20
"""largest settings file in bytes; the job runner reads no more"""
STUB = b'{"crontab.CRON_BACKUP": "/"}'
"""settings that are valid and switch nothing on"""
CHECK_LIMIT = 60
"""seconds that the job runner may take to check settings"""
LONGEST_DELAY = 86400
NEXT_TIMES = 3


def build_program(arguments: Arguments) -> int:
    """Write the job runner as one file."""
    if not arguments.output:
        raise InputError([Problem(None, "no file given", "name one with `--output FILE`")])
    from runsdeploy.commands.cron.zipapp import build  # noqa: PLC0415 - as below

    program, target = build(), Path(arguments.output)
    _write(target, program)
    digest = hashlib.sha256(program).hexdigest()
    if arguments.format == "text":
        Writer(sys.stdout).line(f"{digest}  {printable(str(target))}")
    else:
        about = {"file": str(target), "size": len(program), "sha256": digest}
        json.write({"schema": json.SCHEMA, "exit_status": 0, **about})
    return 0


def _write(target: Path, program: bytes) -> None:
    """Write a program atomically; raises InputError if its directory does not exist."""
    if not target.parent.is_dir():
        raise InputError([Problem(None, f"no directory `{target.parent}` to write `{target.name}` to")])
    with tempfile.NamedTemporaryFile(dir=target.parent, prefix=".tmp.", delete=False) as file:
        try:
            file.write(program)
            file.flush()
            os.fchmod(file.fileno(), 0o755)
            os.fsync(file.fileno())
            Path(file.name).replace(target)
        except BaseException:
            Path(file.name).unlink()
            raise


# --- installing ----------------------------------------------------------------------------------


def install(arguments: Arguments) -> int:
    """Install the job runner on the hosts, and what starts it."""
    problems: list[Problem] = []
    hosts = gather(problems, named_hosts, arguments)
    place = place_of(arguments, problems)
    timing = gather(problems, _timing, arguments)
    files = gather(problems, _files, arguments)
    if problems or hosts is None or timing is None:
        raise InputError(problems)

    def variables(host: Host) -> dict[str, str]:
        settings = "" if arguments.target_settings else _settings_name(arguments.settings, host)
        target = arguments.target_settings or ""
        return {**place, **timing(host), "settings_name": settings, "target_settings": target}

    with builtin_work(arguments, "cron/install", hosts, variables, files) as work:
        return execute(arguments, work)[0]


def _timing(arguments: Arguments) -> Callable[[Host], dict[str, str]]:
    """Return the function that makes the schedule variables of a host, and show the schedule; raises InputError."""
    from runsdeploy.commands.cron.schedule import read_schedule  # noqa: PLC0415 - its libraries cost 100 ms

    problems: list[Problem] = []
    scheduler, delay = arguments.scheduler, arguments.random_delay or "0"
    if not re.fullmatch(r"[0-9]{1,6}", delay) or int(delay) > LONGEST_DELAY:
        message = f"bad `--random-delay` {delay!r}: expected seconds, at most {LONGEST_DELAY}"
        problems.append(Problem(None, message))
    if not arguments.schedule:
        problems.append(Problem(None, "no schedule given", "e.g. `--schedule '15 2 * * *'`, every day at 02:15"))
    schedule = gather(problems, read_schedule, arguments.schedule) if arguments.schedule else None
    if schedule and scheduler == "systemd" and not schedule.timer:
        message = f"schedule `{schedule.line}` cannot be a systemd timer: cron starts on either of its days"
        problems.append(Problem(None, message, "take `--scheduler crontab`, or leave one of the two fields `*`"))
    if problems or schedule is None:
        raise InputError(problems)
    times = schedule.next_times(datetime.now(), NEXT_TIMES)  # noqa: DTZ005 - the host's clock is not known
    said = ", ".join(f"{time:%a %Y-%m-%d %H:%M}" for time in times)
    talk = Writer(sys.stderr)
    talk.line(f"schedule {schedule.line}: {schedule.words}")
    if said:
        talk.line(f"next, were its clock this machine's: {said}")

    def variables(host: Host) -> dict[str, str]:
        seconds = int(delay)
        # cron has no random delay. A delay derived from the host's name keeps the crontab entry the same each time.
        own = int(hashlib.sha256(host.name.encode()).hexdigest(), 16) % (seconds + 1)
        wait = {"delay": str(own or ""), "random_delay": ""}
        if scheduler == "systemd":
            wait = {"delay": "", "random_delay": str(seconds or "")}
        return {"scheduler": scheduler, "schedule": schedule.line, "timer": schedule.timer, **wait}

    return variables


def _files(arguments: Arguments) -> dict[str, bytes]:
    """Return the files to ship, by name; raises InputError with all their problems."""
    from runsdeploy.commands.cron.zipapp import build  # noqa: PLC0415 - zipfile is nothing that other commands need

    problems: list[Problem] = []
    files: dict[str, bytes] = {}
    target = arguments.target_settings
    if bool(arguments.settings) == bool(target):
        hint = "`--settings FILE` ships one, `--target-settings PATH` names one that the host has"
        problems.append(Problem(None, "both settings given" if target else "no settings given", hint))
    if target and (not target.startswith("/") or not is_printable(target)):
        problems.append(Problem(None, f"bad `--target-settings` {target!r}: expected an absolute path on the host"))
    names: dict[str, str] = {}
    for name, path in ((SETTINGS, arguments.settings), (CATALOGUE, arguments.catalogue)):
        if path:
            trust = Trust(any_owner=arguments.trust, why="its jobs are run on the host")
            found = trust.owner_problems(Path(path))
            problems += found
            data = None if found else gather(problems, _read, Path(path))
            files[name], names[name] = data or b"", path
    program = gather(problems, build)
    if problems or program is None:
        raise InputError(problems)
    problems = check_settings(program, files, names)
    if problems:
        raise InputError(problems)
    return {**files, PROGRAM: program}


def _read(path: Path) -> bytes:
    """Return the bytes of a settings file; raises InputError if it cannot be read or is too large."""
    where = Position(display_path(path))
    try:
        with path.open("rb") as file:
            data = file.read(LARGEST + 1)
    except OSError as error:
        raise InputError([Problem(where, f"cannot read: {(error.strerror or str(error)).lower()}")]) from error
    if len(data) > LARGEST:
        raise InputError([Problem(where, f"more than {LARGEST} bytes, expected settings")])
    return data


def check_settings(program: bytes, files: Mapping[str, bytes], names: Mapping[str, str]) -> list[Problem]:
    """Return the problems that the job runner's own `check` finds; `names` are the operator's names of the files.

    Settings that only the host has are checked there; here a stub stands for them, about which nothing is answer.
    """
    with make_directory("runsdeploy-cron-") as folder:
        for name, content in {SETTINGS: STUB, **files, PROGRAM: program}.items():
            (folder / name).write_bytes(content)
            # The job runner demands these modes on the host; the operator's own files may have others.
            (folder / name).chmod(0o600)
        words = [sys.executable, "-I", f"{folder}/{PROGRAM}", "--format", "json", "--settings", f"{folder}/{SETTINGS}"]
        words += ["--catalogue", f"{folder}/{CATALOGUE}"] if CATALOGUE in files else []
        try:
            done = subprocess.run(
                [*words, "check"], stdin=subprocess.DEVNULL, capture_output=True, check=False, timeout=CHECK_LIMIT
            )
        except subprocess.TimeoutExpired:
            return [Problem(None, f"the job runner's `check` was still running after {CHECK_LIMIT} s")]
        shown_as = {f"{folder}/{name}": display_path(Path(given)) for name, given in names.items()}
    try:
        answer = decode(done.stdout)
    except ValueError:
        last = done.stderr.decode("utf-8", "replace").strip().rpartition("\n")[2]
        return [Problem(None, f"the job runner's `check` ended with status {done.returncode}: {last}")]
    for warning in answer.get("warnings", []) if SETTINGS in files else []:
        Writer(sys.stderr).line(printable(f"warning: {_renamed(warning, shown_as)}"))
    return [_problem(each, shown_as) for each in answer.get("problems", []) if each["file"] in shown_as]


def _renamed(text: str, shown_as: Mapping[str, str]) -> str:
    for path, name in shown_as.items():
        text = text.replace(path, name)
    return text


def _problem(answer: Mapping[str, Any], shown_as: Mapping[str, str]) -> Problem:
    key = f"`{answer['key']}`: " if answer["key"] else ""
    hint = _renamed(answer["hint"], shown_as)
    return Problem(
        Position(shown_as[answer["file"]], answer["line"], answer["column"]), f"{key}{answer['message']}", hint
    )


def _settings_name(path: str, host: Host) -> str:
    """Return the name of the settings on the host: as here, unless the link or the catalogue has that name."""
    stem = re.sub(r"[^A-Za-z0-9._-]", "_", Path(path).name.removesuffix(".json")).lstrip(".")
    return f"{host.name if stem in ('', 'settings', 'catalogue') else stem}.json"


def uninstall(arguments: Arguments) -> int:
    """Remove the job runner from the hosts."""
    problems: list[Problem] = []
    hosts = gather(problems, named_hosts, arguments)
    place = place_of(arguments, problems)
    if problems or hosts is None:
        raise InputError(problems)
    with builtin_work(arguments, "cron/uninstall", hosts, lambda _: place) as work:
        return execute(arguments, work)[0]
