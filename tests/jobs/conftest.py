from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest

from runsdeploy.commands.cron import zipapp
from runsdeploy.jobs.archive.manifest import Member
from runsdeploy.jobs.staging.scan import Wanted
from runsdeploy.jobs.staging.staging import stage
from tests.jobs.cluster import cluster
from tests.jobs.staged import Stage, check
from tests.jobs.system import System

__all__ = ["cluster"]


@pytest.fixture(scope="session")
def program(tmp_path_factory):
    """The job runner as it is shipped: one file."""
    path = tmp_path_factory.mktemp("program") / "job-runner.pyz"
    path.write_bytes(zipapp.build())
    return path


@pytest.fixture(scope="session")
def hasty(tmp_path_factory):
    """The same, but files are taken for whole ten times as soon: for tests of many runs that are not about that."""
    folder = tmp_path_factory.mktemp("hasty")
    shutil.copytree(zipapp.JOBS, folder / "jobs", ignore=shutil.ignore_patterns("__pycache__"))
    source = folder / "jobs" / "staging" / "source.py"
    usual = source.read_text()
    assert usual.count("QUIET = 200_000_000\n") == 1
    source.write_text(usual.replace("QUIET = 200_000_000\n", "QUIET = 20_000_000\n"))
    path = folder / "job-runner.pyz"
    path.write_bytes(zipapp.build(folder / "jobs"))
    return path


@pytest.fixture
def system(tmp_path, program):
    """A machine's worth of settings, jobs and backups."""
    return System(tmp_path, program)


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """The system's files."""
    (tmp_path / "files").mkdir()
    return tmp_path / "files"


@pytest.fixture
def run(tmp_path: Path) -> Stage:
    """Stage into a new directory each time, and look whether all that must always hold does."""
    count = iter(range(10**6))

    def stage_and_check(*wanted: Wanted, when: str = "before", former: Sequence[Member] = (), exclude: str = ""):
        folder = tmp_path / f"staged{next(count)}"
        staged = stage(wanted, str(folder), when, former, exclude)
        check(staged, folder, when, former)
        return staged

    return stage_and_check
