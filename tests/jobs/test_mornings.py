"""The morning after: what somebody who restores needs besides the files."""

from __future__ import annotations

import json
import os
import signal
import time

import pytest


def fail(system, *names):
    """Let these jobs fail from now on."""
    system.write_catalogue(*(system.job(name, shell="exit 1") for name in names))
    system.write_settings(**{f"RUN_{name.upper()}": True for name in names})


def test_a_log_that_only_grew_is_left_and_one_that_is_missing_comes_back(system):
    system.run("run")
    grown = system.log.read_text() + "what happened since\n"
    system.log.write_text(grown)
    assert f"grown    {system.log}" in system.run("restore", "latest").stdout
    assert system.run("restore", "latest", "--yes").returncode == 0
    assert system.log.read_text() == grown
    assert system.run("restore", "latest", str(system.log), "--yes").returncode == 0
    assert len(system.log.read_text()) < len(grown)
    system.log.unlink()
    assert system.run("restore", "latest", "--yes").returncode == 0
    assert system.log.exists()


def test_a_log_that_is_cut_every_night_is_left(system):
    log = system.root / "job.log"
    log.write_text("archived\n")
    system.write_catalogue(backup={"truncate": [str(log)]})
    system.run("run")
    log.write_text("since\n")
    system.run("restore", "latest", "--yes")
    assert log.read_text() == "since\n"


def test_what_is_as_it_should_be_is_not_touched(system):
    system.run("run")
    inode = system.snapshot.stat().st_ino
    done = system.run("restore", "latest", "--yes")
    assert done.returncode == 0
    assert "files are as in" in done.stdout
    assert system.snapshot.stat().st_ino == inode


def test_the_catalogue_is_in_the_backup_and_comes_back(system):
    system.write_catalogue(system.job("mine"))
    system.run("run")
    for name in ("catalogue.json", "settings.json", "kommune.json"):
        (system.install / "settings" / name).unlink()
    told = system.run("restore", "latest", "--yes")
    assert told.returncode == 2
    assert "`--backups DIRECTORY`" in told.stderr
    assert system.run("restore", "latest", "--yes", "--backups", str(system.backups)).returncode == 0
    assert [job["name"] for job in system.json("jobs")["jobs"]] == ["mine"]


def test_J14_a_restore_can_be_taken_back_until_the_next_run(system):
    system.run("run")
    system.snapshot.write_text("spoilt\n")
    system.run("restore", "latest", "--yes")
    kept = [path for path in system.root.iterdir() if path.name.endswith(".undo")]
    assert kept
    system.run("run")
    assert not [path for path in system.root.iterdir() if path.name.endswith(".undo")]
    done = system.run("restore", "--undo")
    assert done.returncode == 1
    assert "no restore to undo" in done.stderr


def test_J16_after_several_failed_nights_the_one_before_the_first_is_named(system):
    system.run("run")
    fail(system, "a")
    first = system.json("run")["archive"]
    assert "in a row" not in system.run("restore", "latest").stdout
    system.run("run")
    assert (
        f"2 runs in a row have failed: the state before the first of them is in `{first}`"
        in system.run("restore", "latest").stdout
    )
    notes = json.loads(system.run("--format", "json", "restore", "latest").stdout)["notes"]
    assert any(first in note for note in notes)


@pytest.mark.parametrize("kind", ["empty", "directory"])
def test_J11_a_snapshot_that_is_none_is_no_backup(kind, system):
    system.snapshot.unlink()
    if kind == "empty":
        system.snapshot.touch()
    else:
        system.snapshot.mkdir()
    fail(system, "a")
    done = system.run("run")
    assert done.returncode == 3
    assert str(system.snapshot) in done.stdout
    assert system.counted() == []


def test_status_tells_of_a_run_that_was_killed_and_backups_what_it_saved(system):
    ready = system.root / "ready"
    system.write_catalogue(system.job("a", shell=f"mkfifo {ready}; echo >{ready}; sleep 1000"))
    system.write_settings(RUN_A=True)
    process = system.start("run")
    while not ready.exists():
        assert process.poll() is None
        time.sleep(0.01)
    ready.read_text()  # ends when the job has written to it
    assert "was killed" not in system.run("restore", "latest", "--backups", str(system.backups)).stdout
    assert "active: pid" in system.run("status").stdout
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    assert "was killed" in system.run("status").stdout
    assert "makes a backup of its staged files" in system.run("backups").stdout
    system.snapshot.write_text("spoilt\n")
    done = system.run("restore", "latest", "--yes")
    assert done.returncode == 0, done.stderr
    assert system.snapshot.read_text() == "-- a snapshot\n"


def test_J14_an_unfinished_restore_stops_commands_before_the_first_is_run(system):
    mark = system.root / "stopped"
    system.write_catalogue(restore={"before": [["touch", str(mark)]]})
    system.run("run")
    (system.backups / ".restore" / "000001").mkdir(parents=True)
    (system.backups / ".restore" / "000001" / "plan.json").write_text("{}")
    done = system.run("restore", "latest", "--yes")
    assert done.returncode == 4
    assert not mark.exists()
    assert system.run("run").returncode == 4


@pytest.mark.parametrize(
    "words", [("latest", "--yes"), ("latest",), ("--undo",), ("latest", "--root", "{root}", "--yes")]
)
def test_every_ending_of_a_restore_has_its_json(words, system):
    system.write_catalogue(restore={"before": [["echo", "stopping"]], "after": [["echo", "starting"]]})
    system.run("run")
    system.snapshot.write_text("spoilt\n")
    if words[0] == "--undo":
        system.run("restore", "latest", "--yes")
    (system.root / "look").mkdir()
    words = [word.replace("{root}", f"{system.root}/look") for word in words]
    done = system.run("--format", "json", "restore", *words)
    found = json.loads(done.stdout)
    assert done.returncode == found["exit_status"] == 0
    assert found["done"] is ("--yes" in words or "--undo" in words)
    assert json.loads(system.run("--format", "json", "logs").stdout)["lines"]
