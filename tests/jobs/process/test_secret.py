"""Secrets reach the job that needs them, and nothing else (S13)."""

from __future__ import annotations

import json
import os

import pytest

SECRET = "correct horse battery"  # noqa: S105 - of nobody


def tell(system, source, **fields):
    """A job that shows that it has the secret, and leaves a copy where the test finds it."""
    shell = f'printf %s "$TOKEN" >{system.root}/given; echo "the token is $TOKEN"; {fields.pop("then", "true")}'
    job = system.job("tell", shell=shell, environment={"TOKEN": source, "PLAIN": "x"}, **fields)
    system.write_catalogue(job)
    system.write_settings(RUN_TELL=True)


@pytest.fixture
def vault(system):
    """A file that holds the secret."""
    path = system.root / "token"
    path.write_text(f"{SECRET}\n")
    path.chmod(0o600)
    return path


def test_S13_a_job_gets_its_secret(system, vault):
    tell(system, {"file": str(vault)})
    done = system.run("run")
    assert done.returncode == 0, done.stdout
    assert (system.root / "given").read_text() == SECRET


def test_S13_it_is_in_no_log_journal_archive_list_or_command_line(system, vault):
    tell(system, {"file": str(vault)}, then="exit 1")
    done = system.run("--format", "json", "run")
    assert json.loads(done.stdout)["exit_status"] == 1
    assert (system.root / "given").read_text() == SECRET
    said = done.stdout + done.stderr + system.run("logs").stdout + system.run("jobs").stdout
    assert SECRET not in said
    assert "tell| the token is *****" in system.log.read_text()
    for folder, _, names in os.walk(system.backups):
        for name in names:
            with open(os.path.join(folder, name), "rb") as file:  # noqa: PTH123, PTH118
                assert SECRET.encode() not in file.read()
    for path in system.archives():
        assert all(SECRET.encode() not in data for data in system.members(path).values())


def test_S13_a_secret_is_read_once_in_a_run_and_only_if_its_job_runs(system, vault):
    source = {"file": str(vault)}
    change = f"echo other >{vault}"
    jobs = [system.job("a", "exports", f'echo "$TOKEN" >>{system.root}/given; {change}', environment={"TOKEN": source})]
    jobs += [system.job("b", "exports", f'echo "$TOKEN" >>{system.root}/given', environment={"TOKEN": source})]
    system.write_catalogue(*jobs, system.job("bad", shell="exit 1"))
    system.write_settings(RUN_A=True, RUN_B=True)
    assert system.run("run").returncode == 0
    assert (system.root / "given").read_text() == f"{SECRET}\n{SECRET}\n"
    vault.unlink()
    system.write_settings(RUN_BAD=True)
    assert "no-secret" not in system.run("run").stdout


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot be read: no such file or directory"),
        (b"", "is empty, longer than 65536 bytes, or has a zero byte"),
        (b"a\0b", "is empty, longer"),
        (b"x" * 65537, "is empty, longer"),
    ],
)
def test_S13_a_secret_that_cannot_be_had_fails_its_job_before_it_starts(content, message, system, vault):
    if content is None:
        vault.unlink()
    else:
        vault.write_bytes(content)
    tell(system, {"file": str(vault)})
    done = system.run("run")
    assert done.returncode == 1
    assert f"imports `tell`: no-secret: secret `{vault}` {message}" in done.stdout
    assert system.counted() == []


def test_S13_a_file_that_others_can_read_is_no_secret(system, vault):
    vault.chmod(0o640)
    tell(system, {"file": str(vault)})
    done = system.run("run")
    assert done.returncode == 1
    assert "is not a file that only this account can read" in done.stdout


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ({}, "`jobs.tell.environment.TOKEN`: expected the `file` that holds the secret"),
        ({"file": ""}, "expected the `file` that holds the secret"),
        ({"vault": "x"}, "`jobs.tell.environment.TOKEN.vault`: is unknown"),
        ({"command": ["pass"]}, "`jobs.tell.environment.TOKEN.command`: is unknown"),
        ({"file": 5}, "`jobs.tell.environment.TOKEN.file`: found a number, expected a text"),
        ({"file": "token"}, "job `tell` names the secret `token`, expected an absolute path"),
    ],
)
def test_a_source_that_is_none_is_told_with_its_place(source, message, system):
    tell(system, source)
    done = system.run("check")
    assert done.returncode == 2
    assert message in done.stderr
