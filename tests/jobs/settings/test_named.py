"""What a command names is judged, but not the directory of a server's socket, which belongs to its server."""

from __future__ import annotations

import os

import pytest

from runsdeploy.jobs.process.process import Command
from runsdeploy.jobs.settings.named import problems

PATH = "/usr/bin:/bin"
DATABASE = [
    ("psql", "-h", "{0}", "-c", "SELECT 1"),
    ("psql", "-h{0}"),
    ("psql", "--host={0}"),
    ("psql", "--host", "{0}"),
    ("psql", "host={0} user=x dbname=y"),
    ("pg_dump", "--dbname=host={0} user=x"),
    ("sh", "-c", "psql -h {0} -qc 'SELECT 1'"),
    ("sh", "-c", "psql -X 'host={0} user=x' && psql --host={0}"),
]
OTHERS = [("run-parts", "{0}"), ("sh", "-c", "run-parts {0}"), ("tool", "--hosts={0}"), ("sh", "-c", "cat {0}/x -h")]


@pytest.mark.skipif(os.geteuid() != 0, reason="another account's directory needs root")
@pytest.mark.parametrize(
    ("words", "judged"), [*((each, False) for each in DATABASE), *((each, True) for each in OTHERS)]
)
def test_D5_the_place_of_a_server_is_no_code(tmp_path, words, judged):
    os.chown(tmp_path, 65534, 65534)
    argv = tuple(word.format(tmp_path) for word in words)
    found = problems(Command(argv, "/", {"PATH": PATH}, 1.0, daemon=False), "", PATH)
    assert bool(found) == judged
