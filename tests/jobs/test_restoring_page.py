"""Somebody restores from the page alone: every command on it is typed, and says what the page says.

The database is a real one. An import breaks it, in one of the ways in which nights go wrong; afterwards it has all its
rows again.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import sqlite3
import subprocess
import time
from pathlib import Path

import pytest

from runsdeploy.commands.cron import zipapp
from tests.docs.test_docs import BLOCK, pattern

PAGE = Path(__file__).parents[2] / "docs" / "restoring.md"
pytestmark = [pytest.mark.timeout(600), pytest.mark.xdist_group("postgres")]
IMPORT = """#!/bin/sh
case $1 in
*changed_at*) [ ! -e {root}/spoil ] || {{
    {psql} -qc "DELETE FROM person WHERE id % 3 = 0; UPDATE person SET name = name || '?'"
    echo spoiled >{root}/run_db.sqlite
    echo spoiled >{root}/db-snapshot.sql
    [ ! -e {root}/hang ] || {{ touch {root}/hangs; sleep 1000; }}
    echo 'Traceback (most recent call last):'
    echo 'ValueError: half of it is imported'
    exit 1
}} ;;
esac
"""
ROWS = "SELECT id, name FROM person ORDER BY id"


@pytest.fixture
def good(system, cluster):
    """A system after a night that went well; the next imports break its database."""
    cluster.fresh("mox")
    cluster.ask("CREATE TABLE person (id int PRIMARY KEY, name text)")
    cluster.ask("INSERT INTO person SELECT n, 'navn æøå ' || n FROM generate_series(1, 1000) n")
    with sqlite3.connect(system.root / "run_db.sqlite") as database:
        database.execute("CREATE TABLE runs (date text)")
    database.close()
    python = system.install / "venv" / "bin" / "python3"
    python.parent.mkdir(parents=True)
    python.write_text(IMPORT.format(root=system.root, psql=f"{cluster.bin}/psql -X '{cluster.address}'"))
    python.chmod(0o755)
    system.settings["integrations.SD_Lon.import.run_db"] = f"{system.root}/run_db.sqlite"
    system.snapshot.unlink()
    system.write_settings(RUN_SD_CHANGED_AT=True, SNAPSHOT_DATABASE=cluster.address, BACKUP_SAVE_DAYS="7")
    return system


def night(system, days=0, status=1):
    """Let a night pass, so many days ago."""
    environment = {"PATH": "/usr/bin:/bin"}
    if days:
        environment["DAYS_AGO"] = str(days)
    done = system.run("run", env=environment)
    assert done.returncode == status, done.stdout + done.stderr


def of_another_day(folder):
    """Return the runner with runs that may begin some days ago: retention and names of archives go by that."""
    shutil.copytree(zipapp.JOBS, folder / "jobs", ignore=shutil.ignore_patterns("__pycache__"))
    for name, usual, changed in (
        ("run/run.py", "self.started, self.clock = int(time.time()),", "self.started, self.clock = _some_day(),"),
        ("staging/source.py", "QUIET = 200_000_000\n", "QUIET = 20_000_000\n"),
    ):
        text = (folder / "jobs" / name).read_text()
        assert text.count(usual) == 1
        (folder / "jobs" / name).write_text(text.replace(usual, changed))
    with (folder / "jobs" / "run" / "run.py").open("a") as file:
        file.write("\n\ndef _some_day():\n    return int(time.time()) - 86400 * int(os.environ.get('DAYS_AGO', '0'))\n")
    made = zipapp.build(folder / "jobs")
    shutil.rmtree(folder / "jobs")
    return made


def one_failing_night(system):
    night(system)


def two_failing_nights(system):
    night(system)
    night(system)


def a_killed_night(system):
    (system.root / "hang").touch()
    process = system.start("run")
    while not (system.root / "hangs").exists():
        assert process.poll() is None
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    (system.root / "hang").unlink()


def a_killed_and_a_failing_night(system):
    a_killed_night(system)
    night(system)


def a_harmless_run_by_name(system):
    night(system)
    assert system.run("run", "cpr-uuid").returncode == 0


def a_night_with_the_import_switched_off(system):
    night(system)
    system.write_settings(RUN_SD_CHANGED_AT=False)
    night(system, status=0)


def twelve_failing_nights(system):
    for days in range(13, 1, -1):
        night(system, days)


NIGHTS = [
    one_failing_night,
    two_failing_nights,
    a_killed_night,
    a_killed_and_a_failing_night,
    a_harmless_run_by_name,
    a_night_with_the_import_switched_off,
    twelve_failing_nights,
]


def typed(page, system):
    """Yield each command on the page, and what the page says that it writes; paths are those of this system."""
    for block in BLOCK.finditer(page):
        for part in re.split(r"^\$ ", block["text"], flags=re.MULTILINE)[1:]:
            command, _, expected = (
                text.replace("/opt/runsdeploy/job-runner", str(system.install)).replace("/srv/os2mo", str(system.root))
                for text in part.partition("\n")
            )
            yield command, expected


@pytest.mark.parametrize("nights", NIGHTS)
def test_J27_the_page_on_restoring_goes_as_it_says(nights, good, cluster):
    """N1 to N9, as the operator meets them."""
    rows = cluster.ask(ROWS)
    if nights is twelve_failing_nights:
        good.program.write_bytes(of_another_day(good.root))
        for days in range(21, 13, -1):
            night(good, days, status=0)
    else:
        night(good, status=0)
    (good.root / "spoil").touch()
    nights(good)
    assert cluster.ask(ROWS) != rows
    commands = 0
    for command, expected in typed(PAGE.read_text(), good):
        if command.startswith("alias"):
            alias = command
            continue
        if "--backups" in command:
            (good.install / "settings" / "settings.json").unlink()
        done = subprocess.run(
            ["bash", "-O", "expand_aliases", "-c", f"{alias}\n{command}"],
            env={
                **os.environ,
                "PATH": f"{cluster.bin}:{os.environ['PATH']}",
                "PGHOST": cluster.address.split()[0][5:],
                "PGUSER": "lora",
            },
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=60,
            check=False,
            text=True,
        )
        said = done.stdout + (f"[status {done.returncode}]\n" if done.returncode else "")
        assert done.returncode == 0, f"$ {command}\n{said}"
        if nights is one_failing_night:
            assert re.fullmatch(pattern(expected), said), f"$ {command}\n--- the page\n{expected}--- it says\n{said}"
        if command == "runner restore latest --yes":
            assert cluster.ask(ROWS) == rows
        commands += 1
    assert commands > 15
    assert cluster.ask(ROWS) == rows
    with sqlite3.connect(good.root / "run_db.sqlite") as database:
        assert database.execute("SELECT count(*) FROM runs").fetchone() == (0,)
    database.close()
    (good.root / "spoil").unlink()
    night(good, status=0)
