from __future__ import annotations

import pytest

from runsdeploy import zipapp
from tests.jobs.system import System


@pytest.fixture(scope="session")
def program(tmp_path_factory):
    """The job runner as it is shipped: one file."""
    path = tmp_path_factory.mktemp("program") / "job-runner.pyz"
    path.write_bytes(zipapp.build())
    return path


@pytest.fixture
def system(tmp_path, program):
    """A machine's worth of settings, jobs and backups."""
    return System(tmp_path, program)
