"""A night: what a run does, in its order, and what it leaves."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sqlite3
import stat
import subprocess
import sys
import tarfile
import time

import pytest

from runsdeploy.jobs.archive import archive
from runsdeploy.jobs.archive.manifest import FORMAT, Manifest
from tests.jobs.pythons import pythons
from tests.jobs.system import outcomes

DAY = 86400


def manifest_of(path):
    with tarfile.open(path) as tar:
        return json.loads(tar.extractfile(tar.next()).read())


def test_the_seed_pasted_runs_no_job_and_backs_up(system):
    done = system.run("run")
    assert done.returncode == 0
    assert done.stderr == ""
    assert done.stdout.count("\n") == 1
    (path,) = system.archives()
    assert set(system.members(path)) == {str(system.settings_file), str(system.snapshot), str(system.log)}
    assert system.members(path)[str(system.snapshot)] == system.snapshot.read_bytes()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(system.backups.stat().st_mode) == 0o700
    assert manifest_of(path)["good"] is True
    assert system.log.read_text().count("ok, 0 jobs") == 1


def test_J21_quiet_says_nothing_on_success_and_everything_on_failure(system):
    assert system.run("run", "--quiet").stdout == ""
    system.write_catalogue(system.job("bad", shell="echo why it failed; exit 7"))
    system.write_settings(RUN_BAD=True)
    done = system.run("run", "--quiet")
    assert done.returncode == 1
    assert "imports `bad`: failed(7)" in done.stdout
    assert "bad| why it failed" in done.stdout


def test_imports_stop_at_the_first_failure_and_nothing_is_exported(system):
    jobs = [system.job("a"), system.job("b", shell="exit 255"), system.job("c")]
    jobs += [system.job("e", "exports"), system.job("r", "reports")]
    system.write_catalogue(*jobs)
    system.write_settings(**{f"RUN_{name}": True for name in "ABCER"})
    made = system.json("run")
    assert system.counted() == ["a", "b"]
    assert outcomes(made) == {"a": "ok", "b": "failed", "c": "not-run", "e": "not-run", "r": "not-run"}
    assert made["stages"] == {"imports": "failed", "exports": "skipped", "reports": "skipped", "always": "none"}
    assert made["exit_status"] == 1
    assert made["backup_good"] is True


def test_exports_and_reports_do_not_stop_each_other(system):
    system.write_catalogue(
        system.job("a"), system.job("e", "exports", "exit 1"), system.job("f", "exports"), system.job("r", "reports")
    )
    system.write_settings(**{f"RUN_{name}": True for name in "AEFR"})
    assert system.run("run").returncode == 1
    assert system.counted() == ["a", "e", "f", "r"]


def test_rules_of_jobs_hold_in_a_night(system):
    """N11: a check that stops nothing, an export that others need, a job that runs whatever happens."""
    system.write_catalogue(
        system.job("z", "always", "exit 4"),
        system.job("check", shell="exit 1", on_failure="continue"),
        system.job("a"),
        system.job("e", "exports", "exit 1", required=True),
        system.job("f", "exports"),
        system.job("r", "reports"),
        parallel=["exports"],
    )
    system.write_settings(**{f"RUN_{name}": True for name in ("Z", "CHECK", "A", "E", "F", "R")})
    made = system.json("run")
    assert system.counted() == ["check", "a", "e", "r", "z"]
    assert {job["name"]: job["reason"] for job in made["jobs"] if job["reason"]} == {"f": "`e` did not pass"}
    assert made["exit_status"] == 1


@pytest.mark.parametrize("what", ["no backup", "import failed", "no room", "time is up"])
def test_a_job_of_the_stage_always_runs_whatever_happens(what, system):
    """N11: it unmounts what an import mounted."""
    shell = {"import failed": "exit 1", "time is up": "sleep 60"}.get(what, "true")
    before = [str(system.root / "missing")] if what == "no backup" else []
    system.write_catalogue(system.job("a", shell=shell, before=before), system.job("z", "always", "sleep 0.1"))
    system.write_settings(RUN_A=True, RUN_Z=True, TIMEOUT_SECONDS=1 if what == "time is up" else 72000)
    if what == "no room":
        # The directory of this run cannot be made.
        system.backups.mkdir(0o700)
        (system.backups / ".runs").write_text("")
    made = system.json("run")
    assert system.counted()[-1] == "z"
    assert outcomes(made)["z"] == "ok"
    assert made["exit_status"] == {"import failed": 1, "time is up": 1}.get(what, 3)


def test_a_job_of_the_stage_always_runs_after_an_interruption(system):
    """N11."""
    system.write_catalogue(system.job("a", shell="sleep 60"), system.job("b"), system.job("z", "always", "sleep 0.1"))
    system.write_settings(RUN_A=True, RUN_B=True, RUN_Z=True)
    process = system.start("--format", "json", "run")
    while system.counted() != ["a"]:
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    out, _ = process.communicate(timeout=60)
    assert outcomes(json.loads(out)) == {"a": "interrupted", "b": "not-run", "z": "ok"}


def test_warnings_of_a_quiet_night_are_in_status_and_metrics(system):
    """N15: a keytab was missing for months."""
    metrics = system.root / "jobs.prom"
    system.write_catalogue(system.job("a"))
    system.write_settings(RUN_A=True, METRICS_FILE=str(metrics))
    assert system.run("run", "--quiet").stdout == ""
    assert "  warning: no ticket: keytab `" in system.run("status").stdout
    assert "runsdeploy_jobs_last_run_warnings 1\n" in metrics.read_text()


@pytest.mark.parametrize("packed", [False, True])
def test_the_head_of_the_mail_has_commit_and_jobs(packed, system):
    git = ["git", "-C", str(system.install), "-c", "user.name=x", "-c", "user.email=x@example.org"]
    for words in (
        ["init", "-q"],
        ["commit", "-q", "--allow-empty", "-m", "x"],
        *([["pack-refs", "--all"]] if packed else []),
    ):
        subprocess.run([*git, *words], check=True)
    commit = subprocess.run([*git, "rev-parse", "HEAD"], check=True, capture_output=True, text=True).stdout.strip()
    system.write_catalogue(system.job("bad", shell="exit 1"), system.job("e", "exports"))
    system.write_settings(RUN_BAD=True, RUN_E=True)
    head = system.run("run", "--quiet").stdout.splitlines()[0]
    assert head.endswith(f"; jobs: bad, e; commit {commit[:12]}")
    assert system.json("status")["runs"][-1]["commit"] == commit


@pytest.mark.parametrize("name", ["b", "RUN_B", "exports"])
def test_one_job_or_stage_runs_by_name_though_it_is_off(name, system):
    system.write_catalogue(system.job("a"), system.job("b", "exports"))
    assert system.run("run", name).returncode == 0
    assert system.counted() == ["b"]
    assert len(system.archives()) == 1


def test_a_name_that_is_none_touches_nothing(system):
    done = system.run("run", "sd-changed")
    assert done.returncode == 2
    assert "no job or stage `sd-changed`\n  did you mean `sd-changed-at`?" in done.stderr
    assert not system.backups.exists()


def test_W3_J12_without_a_good_backup_nothing_is_imported_exported_cut_or_deleted(system):
    log = system.root / "job.log"
    log.write_text("a line\n")
    system.write_catalogue(
        system.job("a", before=[str(system.root / "missing")], truncate=[str(log)]), system.job("e", "exports")
    )
    system.write_settings(RUN_A=True, RUN_E=True)
    done = system.run("run")
    assert done.returncode == 3
    assert "missing" in done.stdout
    assert system.counted() == []
    assert log.read_text() == "a line\n"
    (path,) = system.archives()
    assert path.name.endswith("-cron-backup-failed.tar.gz")
    assert system.members(path)[str(system.snapshot)] == system.snapshot.read_bytes()
    assert manifest_of(path)["good"] is False


@pytest.mark.parametrize(("age", "status"), [(0, 0), (3500, 0), (3700, 3), (-3600, 3)])
def test_J11_a_snapshot_is_fresh_or_nothing_is_imported(age, status, system):
    system.write_catalogue(system.job("a"))
    system.write_settings(RUN_A=True, BACKUP_MAX_SECONDS_AGE="3600")
    then = time.time() - age
    os.utime(system.snapshot, (then, then))
    assert system.run("run").returncode == status
    assert system.counted() == ["a"][: status == 0]


def test_a_snapshot_that_is_not_there_is_no_backup(system):
    system.snapshot.unlink()
    system.write_settings(RUN_CPR_UUID=True)
    done = system.run("run")
    assert done.returncode == 3
    assert str(system.snapshot) in done.stdout


def test_files_are_saved_as_they_were_before_the_jobs_and_logs_as_they_are_behind_them(system):
    state, report = system.root / "state", system.root / "report"
    state.write_text("before")
    system.write_catalogue(
        system.job("a", shell=f"echo after >{state}; echo made >{report}", before=[str(state)], after=[str(report)])
    )
    system.write_settings(RUN_A=True)
    assert system.run("run").returncode == 0
    members = system.members(system.archives()[0])
    assert members[str(state)] == b"before"
    assert members[str(report)] == b"made\n"
    assert b"`a` starts" in members[str(system.log)]


@pytest.mark.parametrize("required", [True, False])
def test_J13_a_saved_file_that_a_job_made_a_directory_costs_no_backup(system, required):
    state = system.root / "state"
    state.write_text("before")
    shell = f"rm {state}; mkdir {state}; echo made >{state}/report"
    after = [{"path": f"{state}/report", "required": required}]
    system.write_catalogue(system.job("a", shell=shell, before=[str(state)], after=after))
    system.write_settings(RUN_A=True)
    done = system.run("run")
    (path,) = system.archives()
    assert archive.verify(str(path)) == []
    assert manifest_of(path)["good"] is not required
    assert done.returncode == (3 if required else 0)
    assert path.name.endswith("-failed.tar.gz") is required
    assert system.members(path)[str(state)] == b"before"
    assert f"{state}/report" not in system.members(path)
    told = done.stdout if required else system.log.read_text()
    assert f"`{state}/report` is left out: `{state}` was no directory before the jobs" in told


def test_J3_what_lies_among_the_backups_needs_no_room(system):
    """Else all backups so far would be counted with a directory that they lie in."""
    system.run("run")
    with (system.backups / "big").open("wb") as file:
        file.truncate(2**43)
    system.write_catalogue(system.job("a", before=[str(system.root)]))
    system.write_settings(RUN_A=True)
    assert system.run("run").returncode == 0


def test_logs_are_cut_by_what_was_archived(system):
    log = system.root / "job.log"
    system.write_catalogue(system.job("a", shell=f"echo line >>{log}", truncate=[str(log)]))
    system.write_settings(RUN_A=True)
    for _ in range(2):
        assert system.run("run").returncode == 0
        assert log.read_text() == ""
    assert [system.members(path)[str(log)] for path in system.archives()] == [b"line\n"] * 2


def aged(system, days, sequence, **changes):
    """Put a backup of so many days ago into the backup directory."""
    created = int(time.time()) - days * DAY
    identity = time.strftime("%Y%m%dT%H%M%SZ-", time.gmtime(created)) + f"{sequence:06x}"
    fields = {"good": True, "reasons": (), "stages": {"imports": "ok"}, "jobs": {}, "members": (), **changes}
    made = Manifest(FORMAT, "0.2.0", identity, "here", created, sequence, **fields)
    return archive.write(str(system.backups), made, {})


def test_J16_old_backups_are_deleted_with_their_checksums_and_foreign_files_never(system):
    system.backups.mkdir(mode=0o700)
    names = [aged(system, days, 100 - days) for days in (90, 80, 70, 61, 59, 2, 1)]
    foreign = ["2019-01-31-02-15-00-cron-backup.tar.gz", "mine.tar.gz", "20190101T000000Z-000000-cron-backup.txt"]
    for name in foreign:
        (system.backups / name).write_bytes(b"?")
    assert system.run("run").returncode == 0
    left = {path.name for path in system.archives()}
    assert not left & set(names[:4])
    assert set(names[4:]) < left
    assert all((system.backups / name).exists() for name in foreign)
    sums = {path.name[: -len(".sha256")] for path in system.backups.glob("*.sha256")}
    assert sums == left - set(foreign)


def test_J10_an_older_backup_that_is_damaged_is_found_set_aside_and_told(system):
    system.backups.mkdir(mode=0o700)
    name = aged(system, 5, 1)
    data = bytearray((system.backups / name).read_bytes())
    data[len(data) // 2] ^= 1
    (system.backups / name).write_bytes(data)
    done = system.run("run")
    assert done.returncode == 3
    assert f"`{name}` is damaged" in done.stdout
    assert (system.backups / f"{name}.bad").exists()
    assert system.run("run").returncode == 0


def test_J5_a_job_that_hangs_is_ended_and_counts_as_failed(system):
    system.write_catalogue(
        system.job("a", shell="sleep 1000", timeout=0.5), system.job("b"), system.job("e", "exports")
    )
    system.write_settings(RUN_A=True, RUN_B=True, RUN_E=True)
    made = system.json("run")
    assert outcomes(made) == {"a": "timeout", "b": "not-run", "e": "not-run"}
    assert made["exit_status"] == 1


def test_sigterm_ends_the_job_starts_no_other_and_still_backs_up(system):
    ready = system.root / "ready"
    system.write_catalogue(system.job("a", shell=f"mkfifo {ready}; echo >{ready}; sleep 1000"), system.job("b"))
    system.write_settings(RUN_A=True, RUN_B=True)
    process = system.start("run")
    while not ready.exists():
        assert process.poll() is None
        time.sleep(0.01)
    ready.read_text()  # ends when the job has written to it
    process.send_signal(signal.SIGTERM)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 1
    assert b"imports `a`: interrupted" in out
    assert system.counted() == ["a"]
    (path,) = system.archives()
    assert manifest_of(path)["stages"]["imports"] == "interrupted"


def test_J19_no_ticket_is_a_warning_and_an_error_for_jobs_that_need_one(system):
    system.write_catalogue(system.job("a"), system.job("e", "exports", needs=["kerberos"]))
    system.write_settings(RUN_A=True, RUN_E=True)
    made = system.json("run")
    assert outcomes(made) == {"a": "ok", "e": "no-ticket"}
    assert any("keytab" in warning for warning in made["warnings"])
    assert made["exit_status"] == 1


def test_a_setting_that_an_enabled_job_needs_is_asked_for_at_its_place_before_anything(system):
    system.write_settings(RUN_MOX_ROLLE=True)
    done = system.run("run")
    assert done.returncode == 2
    line = next(n for n, text in enumerate(system.settings_file.read_text().splitlines(), 1) if "COMPOSE_YML" in text)
    told = f"settings.json:{line}:38: setting `crontab.MOX_ROLLE_COMPOSE_YML` is not set, and job `mox-rolle` needs it"
    assert told in done.stderr
    assert not system.backups.exists()


def test_J22_status_tells_whether_a_good_run_is_recent_enough(system):
    assert system.run("status", "--max-age", "26h").returncode == 1
    system.run("run")
    assert system.run("status", "--max-age", "26h").returncode == 0
    state = json.loads((system.backups / "state.json").read_text())
    state["last_success"] -= 27 * 3600
    (system.backups / "state.json").write_text(json.dumps(state))
    done = system.run("status", "--max-age", "26h")
    assert done.returncode == 1
    assert "more than 26h ago" in done.stdout


def test_J20_metrics_log_json_and_exit_status_tell_the_same(system):
    system.write_catalogue(system.job("a"), system.job("e", "exports", "exit 9"))
    system.write_settings(RUN_A=True, RUN_E=True, METRICS_FILE=str(system.root / "jobs.prom"))
    done = system.run("--format", "json", "run")
    made = json.loads(done.stdout)
    text = (system.root / "jobs.prom").read_text()
    assert done.returncode == made["exit_status"] == 1
    assert "runsdeploy_jobs_last_run_exit_status 1\n" in text
    assert 'runsdeploy_jobs_job_last_exit_status{job="e"} 9\n' in text
    assert "exports `e`: failed(9)" in system.log.read_text()
    remembered = system.json("status")["runs"][-1]
    assert {key: made[key] for key in remembered} == remembered


def test_J17_a_backup_directory_that_others_can_write_is_refused(system):
    system.backups.mkdir()
    system.backups.chmod(0o777)
    done = system.run("run")
    assert done.returncode == 3
    assert "must belong to this account" in done.stderr
    assert list(system.backups.iterdir()) == []


def test_J23_without_its_volume_mounted_nothing_is_written_to_the_mount_point(system):
    system.backups.mkdir(mode=0o700)
    system.write_settings(BACKUP_REQUIRE_MOUNT=True)
    done = system.run("run")
    assert done.returncode == 3
    assert "nothing is mounted at" in done.stderr
    assert list(system.backups.iterdir()) == []


def test_J24_historical_archives_are_listed_verified_and_restored(system):
    system.backups.mkdir(mode=0o700)
    folder = system.root / "old"
    folder.mkdir()
    (folder / "state").write_text("as it was")
    name = "2020-01-31-02-15-00-cron-backup.tar.gz"
    with tarfile.open(system.backups / name, "w:gz") as tar:
        tar.add(folder / "state", str(folder / "state")[1:])
    (folder / "state").write_text("spoiled")
    assert "historical" in system.run("backups").stdout
    assert system.run("verify", name).returncode == 0
    done = system.run("restore", name, "--yes")
    assert done.returncode == 0, done.stderr
    assert (folder / "state").read_text() == "as it was"
    system.run("run")
    assert (system.backups / name).exists()


WRITING = """
import sqlite3, sys, time
base = sqlite3.connect(sys.argv[1], isolation_level=None)
base.execute("pragma wal_autocheckpoint = 0")
base.executemany("insert into t values (?)", [(f"later {number}",) for number in range(500)])
base.execute("update t set text = 'spoiled' where text = 'backed up'")
print("ready", flush=True)
time.sleep(600)
"""


def rows(path):
    with contextlib.closing(sqlite3.connect(path)) as base:
        assert base.execute("pragma integrity_check").fetchall() == [("ok",)]
        return [text for (text,) in base.execute("select text from t")]


@pytest.mark.parametrize("python", [pythons()[0], pythons()[-1]], ids=["oldest", "newest"])
def test_J14_a_database_is_restored_without_the_log_of_a_killed_writer_and_undone_with_it(system, python):
    path, log = system.root / "base", system.root / "base-wal"
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as base:
        base.execute("pragma journal_mode = wal")
        base.execute("create table t (text)")
        base.executemany("insert into t values (?)", [("backed up",)] * 300)
    system.write_catalogue(system.job("a", before=[str(path)]))
    system.write_settings(RUN_A=True)
    assert system.run("run", python=python).returncode == 0
    writer = subprocess.Popen([sys.executable, "-c", WRITING, str(path)], stdout=subprocess.PIPE)
    try:
        assert writer.stdout.readline() == b"ready\n"
    finally:
        writer.kill()
        writer.communicate()
    assert log.stat().st_size > 0
    before = {each.name: each.read_bytes() for each in system.root.glob("base*")}
    told = system.run("restore", "latest", str(path), python=python).stdout
    assert f"remove   {log}\n" in told
    assert f"`{log}` belongs to the database" in told
    assert {each.name: each.read_bytes() for each in system.root.glob("base*")} == before
    done = system.run("restore", "latest", str(path), "--yes", python=python)
    assert done.returncode == 0, done.stderr
    assert not log.exists()
    assert rows(path) == ["backed up"] * 300
    assert system.run("restore", "--undo", python=python).returncode == 0
    assert {each.name: each.read_bytes() for each in system.root.glob("base*")} == before
    assert set(rows(path)) > {"spoiled"}
    assert len(rows(path)) == 800
