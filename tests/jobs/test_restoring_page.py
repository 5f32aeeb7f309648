"""Somebody restores from the page alone: every command on it is typed, and says what the page says."""

from __future__ import annotations

import re
import sqlite3
import subprocess
from pathlib import Path

import pytest

from tests.docs.test_docs import BLOCK, pattern

PAGE = Path(__file__).parents[2] / "docs" / "restoring.md"
pytestmark = pytest.mark.timeout(600)
IMPORT = """#!/bin/sh
case $1 in
*changed_at*) [ ! -e {root}/spoil ] || {{
    echo spoiled >{root}/run_db.sqlite
    echo spoiled >{root}/db-snapshot.sql
    echo 'Traceback (most recent call last):'
    echo 'ValueError: half of it is imported'
    exit 1
}} ;;
esac
"""


@pytest.fixture
def night(system):
    """A system on the morning after: one night went well, one did not."""
    with sqlite3.connect(system.root / "run_db.sqlite") as database:
        database.execute("CREATE TABLE runs (date text)")
    database.close()
    python = system.install / "venv" / "bin" / "python3"
    python.parent.mkdir(parents=True)
    python.write_text(IMPORT.format(root=system.root))
    python.chmod(0o755)
    system.settings["integrations.SD_Lon.import.run_db"] = f"{system.root}/run_db.sqlite"
    system.write_settings(RUN_SD_CHANGED_AT=True)
    assert system.run("run").returncode == 0
    (system.root / "spoil").touch()
    assert system.run("run").returncode == 1
    return system


def test_the_page_on_restoring_goes_as_it_says(night):
    good = (night.root / "run_db.sqlite").read_bytes()
    assert good == b"spoiled\n"
    commands = 0
    for block in BLOCK.finditer(PAGE.read_text()):
        for part in re.split(r"^\$ ", block["text"], flags=re.MULTILINE)[1:]:
            command, _, expected = (
                text.replace("/opt/runsdeploy/job-runner", str(night.install)).replace("/srv/os2mo", str(night.root))
                for text in part.partition("\n")
            )
            if command.startswith("alias"):
                alias = command
                continue
            if "--backups" in command:
                (night.install / "settings" / "settings.json").unlink()
            done = subprocess.run(
                ["bash", "-O", "expand_aliases", "-c", f"{alias}\n{command}"],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                timeout=60,
                check=False,
                text=True,
            )
            said = done.stdout + (f"[status {done.returncode}]\n" if done.returncode else "")
            assert re.fullmatch(pattern(expected), said), f"$ {command}\n--- the page\n{expected}--- it says\n{said}"
            commands += 1
    assert commands > 10
    assert (night.root / "db-snapshot.sql").read_text() == "-- a snapshot\n"
    with sqlite3.connect(night.root / "run_db.sqlite") as database:
        assert database.execute("SELECT count(*) FROM runs").fetchone() == (0,)
    database.close()
