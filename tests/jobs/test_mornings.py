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


def restored(system):
    """Return the name of the backup that `restore latest` takes, and what it says."""
    done = system.run("restore", "latest")
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()[-1].partition(":")[0], done.stdout


def kill_in_import(system):
    """Start a run, and kill the runner once its import is at work."""
    ready = system.root / "ready"
    system.write_catalogue(system.job("a", shell=f"mkfifo {ready}; echo >{ready}; sleep 1000"))
    system.write_settings(RUN_A=True)
    process = system.start("run")
    while not ready.exists():
        assert process.poll() is None
        time.sleep(0.01)
    ready.read_text()  # ends when the job has written to it
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()


def test_J26_a_harmless_run_does_not_make_a_spoilt_state_the_known_one(system):
    """N1: a job by name, and a night with the import switched off, after a failed import."""
    system.write_catalogue(system.job("a", shell="exit 1"), system.job("b"), system.job("c", "reports"))
    system.write_settings(RUN_A=True, RUN_B=True, METRICS_FILE=str(system.root / "jobs.prom"))
    first = system.json("run")["archive"]
    since = first.partition("-cron")[0]
    assert restored(system)[0] == first
    assert system.json("run", "c")["exit_status"] == 0
    system.write_settings(RUN_A=False)
    made = system.json("run")
    assert (made["exit_status"], made["suspect"]) == (0, {"since": since, "imports": ["a"]})
    name, said = restored(system)
    assert name == first
    assert f"`{first}` is the known state: newer backups are suspect: 2, made after an import failed" in said
    # All of them tell the same.
    assert "runsdeploy_jobs_state_suspect 1\n" in (system.root / "jobs.prom").read_text()
    status = system.json("status")
    assert status["suspect"] == {"since": since, "imports": ["a"]}
    assert f"{since}: `a` began and has not passed since; the known state is in `{first}`" in status["standing"][0]
    assert f", suspect since {since}" in system.run("run").stdout
    listed = system.json("backups")["backups"]
    assert [each["suspect"]["since"] for each in listed] == [since, since, since, ""]
    assert system.run("backups").stdout.count(f"suspect since {since}") == 3
    # It is over when the import passes; the copies of that run are older than its imports.
    system.write_catalogue(system.job("a"), system.job("b"))
    system.write_settings(RUN_A=True)
    assert system.json("run")["suspect"] == {"since": "", "imports": []}
    assert restored(system)[0] == first
    assert restored(system)[0] != system.json("run")["archive"] == restored(system)[0]


def test_J26_a_night_killed_in_the_import_and_one_that_fails_do_not_hide_the_known_state(system):
    """N2: and the restore ends the doubt, an undo brings it back."""
    kill_in_import(system)
    fail(system, "a")
    system.snapshot.write_text("-- half imported\n")
    assert system.run("run").returncode == 1
    listed = system.json("backups")["backups"]
    since = listed[1]["name"].partition("-cron")[0]
    assert [each["suspect"]["since"] for each in listed] == [since, ""]
    system.run("restore", "latest", str(system.snapshot), "--yes")  # one file is not the state
    assert system.json("status")["suspect"]["since"] == since
    system.run("restore", "--undo")
    done = system.run("restore", "latest", "--yes")
    assert done.returncode == 0, done.stderr
    assert system.snapshot.read_text() == "-- a snapshot\n"
    assert system.json("status")["suspect"]["since"] == ""
    assert system.run("restore", "--undo").returncode == 0
    assert system.json("status")["suspect"]["since"] == since
    told = system.run("restore", listed[0]["name"], "--yes").stdout
    assert f"is suspect since run {since}: `latest` is the known state from before it" in told
    assert system.json("status")["suspect"]["since"] == since
    assert restored(system)[0] == listed[1]["name"]


def test_J26_without_the_known_state_latest_names_the_oldest_and_does_not_take_it(system):
    """N4: nothing says that the oldest is what was before."""
    fail(system, "a")
    first, second = system.json("run")["archive"], system.json("run")["archive"]
    (system.backups / first).unlink()
    done = system.run("restore", "latest")
    assert done.returncode == 3
    assert "is from before the first unfinished import: all good ones are suspect" in done.stderr
    assert f"the oldest of them is `{second}`: restore it by its name" in done.stderr
    assert "the known state is in no backup" in system.run("status").stdout


def test_J26_an_import_does_not_begin_if_that_cannot_be_recorded(system):
    system.run("run")
    system.write_catalogue(system.job("a"))
    system.write_settings(RUN_A=True)
    (system.backups / "suspect.json").mkdir()
    made = system.json("run")
    assert made["exit_status"] == 3
    assert "the known state could not be recorded" in made["jobs"][0]["reason"]
    assert system.counted() == []


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
