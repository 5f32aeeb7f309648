"""What must happen around the copies and around a restore: before, after, always (J27)."""

from __future__ import annotations

import os
import signal
import time

import pytest


def note(system, word, status=0, more=""):
    """Return a command that notes that it ran."""
    return ["/bin/sh", "-c", f"echo {word} >>{system.counter}; echo {word} says so; {more or 'exit'} {status}"]


def acts(system, failing="", act="copies", **more):
    return {
        when: [note(system, f"{act}-{when}", int(when == failing))] for when in ("before", "after", "always")
    } | more


def test_J27_commands_around_the_copies_run_around_the_copies(system):
    """N5: what `before` makes is in the backup, and `after` sees what is copied."""
    make = ["/bin/sh", "-c", f"echo made >{system.snapshot}"]
    around = acts(system, before=[note(system, "copies-before"), make])
    system.write_catalogue(system.job("job"), copies=around)
    system.write_settings(RUN_JOB=True)
    done = system.run("run")
    assert done.returncode == 0, done.stdout
    assert system.counted() == ["copies-before", "copies-after", "copies-always", "job"]
    assert system.members(system.archives()[0])[str(system.snapshot)] == b"made\n"
    assert "copies| copies-before says so" in system.log.read_text()


@pytest.mark.parametrize(
    ("failing", "ran"),
    [
        ("before", ["copies-before", "copies-always"]),
        ("after", ["copies-before", "copies-after", "copies-always"]),
        ("always", ["copies-before", "copies-after", "copies-always"]),
    ],
)
def test_J27_a_command_around_the_copies_that_fails_makes_the_backup_not_good(failing, ran, system):
    """N5."""
    around = acts(system, failing)
    around[failing].append(note(system, "next"))
    system.write_catalogue(system.job("job"), copies=around)
    system.write_settings(RUN_JOB=True)
    done = system.run("run")
    assert done.returncode == 3
    assert system.counted() == (ran if failing != "always" else [*ran, "next"])
    assert f"copies| copies-{failing} says so" in done.stdout
    assert ("not run: `/bin/sh -c echo next" in done.stdout) == (failing != "always")
    assert [path.name.partition("Z-")[2][7:] for path in system.archives()] == ["cron-backup-failed.tar.gz"]


def test_J27_a_run_that_is_ended_in_its_dump_still_runs_what_runs_always(system):
    ready = system.root / "ready"
    system.write_catalogue(copies=acts(system, before=[["/bin/sh", "-c", f"touch {ready}; sleep 1000"]]))
    process = system.start("run")
    while not ready.exists():
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    assert process.returncode == 3
    assert system.counted() == ["copies-always"]


def test_J27_a_restore_whose_first_command_fails_changes_nothing_and_runs_what_runs_always(system):
    system.write_catalogue(restore=acts(system, "before", act="restore"))
    system.run("run")
    system.snapshot.write_text("spoilt\n")
    done = system.run("restore", "latest", "--yes")
    assert done.returncode == 1
    assert "no file is changed" in done.stderr
    assert system.counted() == ["restore-before", "restore-always"]
    assert system.snapshot.read_text() == "spoilt\n"
    assert system.run("run").returncode == 0


@pytest.mark.parametrize("same", [False, True])
def test_J27_a_failing_command_leaves_the_restore_unfinished_and_continue_begins_with_it(same, system):
    """N7: also where no file differs, and only the command has something to do."""
    around = acts(system, act="restore", after=[note(system, "first"), note(system, "load", 1), note(system, "start")])
    system.write_catalogue(restore=around)
    system.run("run")
    if not same:
        system.snapshot.write_text("spoilt\n")
    done = system.run("restore", "latest", "--yes")
    assert done.returncode == 4
    assert "the files are restored; not run: `/bin/sh -c echo start" in done.stderr
    assert system.counted() == ["restore-before", "first", "load"]
    assert system.run("run").returncode == 4
    assert system.run("restore", "--continue").returncode == 4
    assert system.counted()[3:] == ["load"]
    system.counter.unlink()
    around["after"][1] = note(system, "load")
    system.write_catalogue(restore=around)
    done = system.run("restore", "--continue")
    assert done.returncode == 0, done.stderr
    assert system.counted() == ["load", "start", "restore-always"]
    assert system.snapshot.read_text() == "-- a snapshot\n"
    assert system.run("run").returncode == 0


def test_J27_an_unfinished_restore_can_be_undone_and_what_runs_always_is_run(system):
    """N7."""
    around = acts(system, act="restore", after=[note(system, "first"), note(system, "load", 1), note(system, "start")])
    system.write_catalogue(restore=around)
    system.run("run")
    system.snapshot.write_text("spoilt\n")
    assert system.run("restore", "latest", "--yes").returncode == 4
    done = system.run("restore", "--undo")
    assert done.returncode == 0
    assert "not undone, because a command did it: /bin/sh -c echo first" in done.stdout
    assert system.counted() == ["restore-before", "first", "load", "restore-always"]
    assert system.snapshot.read_text() == "spoilt\n"
    assert system.run("run").returncode == 0


def test_J27_a_restore_that_is_killed_in_a_command_is_continued_from_it(system):
    """N7."""
    ready = system.root / "ready"
    wait = note(system, "load", more=f"touch {ready}; [ -e {system.root}/go ] || sleep 1000; exit")
    system.write_catalogue(restore=acts(system, act="restore", after=[note(system, "first"), wait]))
    system.run("run")
    process = system.start("restore", "latest", "--yes")
    while not ready.exists():
        assert process.poll() is None
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    (system.root / "go").touch()
    done = system.run("restore", "--continue", "--wait", "60")
    assert done.returncode == 0, done.stderr
    assert system.counted() == ["restore-before", "first", "load", "load", "restore-always"]


def test_J27_a_rehearsal_below_another_root_is_continued_without_commands(system):
    system.write_catalogue(restore=acts(system, act="restore"))
    system.run("run")
    (system.root / "look").mkdir()
    assert system.run("restore", "latest", "--root", f"{system.root}/look", "--yes").returncode == 0
    (progress,) = (system.backups / ".restore").glob("0*")
    (progress / "phase").write_text("swapping\n")
    assert system.run("restore", "--continue").returncode == 0
    assert system.counted() == []


def test_J27_without_settings_a_restore_with_commands_is_not_finished_by_mistake(system):
    """N7."""
    system.write_catalogue(restore=acts(system, "after", act="restore"))
    system.run("run")
    assert system.run("restore", "latest", "--yes").returncode == 4
    (system.install / "settings" / "settings.json").unlink()
    done = system.run("restore", "--continue", "--backups", str(system.backups))
    assert done.returncode == 4
    assert "not known without settings" in done.stderr


def test_settings_and_catalogue_stay_as_they_are_unless_they_are_named(system):
    """N9."""
    system.write_catalogue(system.job("job"))
    system.write_settings(RUN_JOB=True)
    system.run("run")
    system.write_settings(RUN_JOB=False)
    catalogue = system.install / "settings" / "catalogue.json"
    catalogue.unlink()
    system.snapshot.write_text("spoilt\n")
    switched = system.settings_file.read_bytes()
    system.settings_file.chmod(0o400)
    shown = system.run("restore", "latest", "--catalogue", "/dev/null", "--backups", str(system.backups))
    assert shown.returncode == 0, shown.stderr
    assert f"left     {system.settings_file}" in shown.stdout
    assert "are left as they are" in shown.stdout
    words = ("--backups", str(system.backups), "--yes")
    assert system.run("restore", "latest", *words).returncode == 0
    assert system.snapshot.read_text() == "-- a snapshot\n"
    assert system.settings_file.read_bytes() == switched
    assert not catalogue.exists()
    assert system.run("restore", "latest", str(system.install / "settings"), *words).returncode == 0
    assert b'"crontab.RUN_JOB": true' in system.settings_file.read_bytes()
    assert catalogue.exists()


def test_check_here_looks_for_the_programs_of_commands_around(system):
    system.write_catalogue(copies={"before": [["no-such-program"]]})
    system.snapshot.unlink()
    told = system.run("check", "--here").stderr
    assert "`copies.before`: its program `no-such-program` is missing" in told
    assert "SNAPSHOT_LORA" not in told
