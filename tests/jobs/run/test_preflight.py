"""`check --here` tells before the first night what would go wrong in it, and touches nothing."""

from __future__ import annotations

from tests.jobs.system import tree


def told(system):
    done = system.run("check", "--here")
    assert done.returncode == 0
    return [line.removeprefix("warning: ") for line in done.stderr.splitlines()]


def test_nothing_is_told_of_a_machine_that_is_ready(system):
    system.write_catalogue(system.job("a"))
    system.write_settings(RUN_A=True, SVC_KEYTAB="")
    before = tree(system.root)
    assert told(system) == []
    assert tree(system.root) == before
    system.run("run")
    assert told(system) == []


def test_each_thing_that_is_missing_is_told(system):
    (system.root / "log").mkdir()
    system.snapshot.unlink()
    changes = {"CRON_BACKUP": f"{system.root}/no/backups", "CRON_LOG_FILE": f"{system.root}/log"}
    system.write_settings(RUN_SD_CHANGED_AT=True, METRICS_FILE="/nowhere/jobs.prom", **changes)
    assert [line.split(": ")[0] for line in told(system)] == [
        "`crontab.CRON_BACKUP`",
        "`crontab.CRON_LOG_FILE`",
        "`crontab.METRICS_FILE`",
        "`crontab.SNAPSHOT_LORA`",
        "`crontab.SVC_KEYTAB`",
        "job `sd-changed-at`",
    ]


def test_a_backup_directory_that_a_run_would_refuse_is_told(system):
    system.backups.mkdir()
    system.backups.chmod(0o777)
    assert any("must belong to this account" in line for line in told(system))
    system.backups.chmod(0o700)
    assert not told(system)
    system.write_settings(BACKUP_REQUIRE_MOUNT=True, SVC_KEYTAB="")
    assert told(system) == [f"`crontab.CRON_BACKUP`: nothing is mounted at `{system.backups}`"]
    system.write_settings(BACKUP_REQUIRE_MOUNT=None)
    system.backups.rmdir()
    system.backups.write_text("")
    assert any("is not a directory" in line for line in told(system))


def test_files_without_which_no_backup_is_good_are_looked_for(system):
    """N14, and a path with `*`, which is a name here."""
    missing, pattern = system.root / "missing", f"{system.root}/*.csv"
    files = [str(missing), {"path": f"{system.root}/optional", "required": False}]
    system.write_catalogue(system.job("a", before=files, after=[pattern]))
    system.write_settings(RUN_A=True, SVC_KEYTAB="")
    assert told(system) == [
        f"job `a` names `{pattern}`, and there is no such file: `*`, `?`, `[` are literal",
        f"job `a`: `{missing}` is missing or cannot be read, and without it no backup is good",
    ]


def test_a_directory_to_run_in_and_a_program_are_looked_for_as_the_job_would(system):
    system.write_catalogue(
        {"name": "a", "stage": "imports", "enabled_by": "RUN_A", "command": ["no-such-program"]},
        {"name": "b", "stage": "imports", "enabled_by": "RUN_B", "command": ["sh"], "directory": "/nowhere"},
        {
            "name": "c",
            "stage": "imports",
            "enabled_by": "RUN_C",
            "command": ["./job-runner.pyz"],
            "directory": "{install}",
        },
    )
    (system.install / "job-runner.pyz").chmod(0o755)
    system.write_settings(RUN_A=True, RUN_B=True, RUN_C=True, SVC_KEYTAB="")
    assert told(system) == [
        "job `a`: its program `no-such-program` is missing",
        "job `b`: its working directory `/nowhere` is missing",
    ]
