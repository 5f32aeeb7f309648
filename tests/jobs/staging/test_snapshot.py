"""Snapshots are whole and of the right time, or that is told (J11)."""

from __future__ import annotations

import gzip
import os
from pathlib import Path

import pytest

from runsdeploy.jobs.staging.snapshot import damage, freshness_problem

MARK = b"--\n-- PostgreSQL database dump complete\n--\n\n"
HEADER = b"--\n-- PostgreSQL database dump\n--\n\n\\restrict abc\n\nSET statement_timeout = 0;\n"
MESSAGE = b'pg_dump: error: connection to server failed: FATAL:  database "mox" does not exist\n'


def problem(path: Path, *, strict: bool = False) -> str:
    found = damage(str(path), "/the/snapshot", strict=strict)
    assert not found or found.startswith("`/the/snapshot` ")
    return found


@pytest.mark.parametrize(
    ("data", "whole"),
    [
        (b"create table t ();\n" + MARK, True),
        (b"x\n" * 100_000 + MARK + b"\\unrestrict 5q3XhZmK1yOHqg9VtGUu\n\n", True),
        (b"-- PostgreSQL database dump complete", True),
        (MARK.replace(b"\n", b"\r\n"), True),
        (MARK.replace(b"database dump", b"database cluster dump"), True),
        (MARK + b"\n" * 1000, True),
        (b"", False),
        (b"\n\n--\n", False),
        (MARK[:-10], False),
        (MARK + b"drop table t;\n", False),
        (b"insert -- PostgreSQL database dump complete\n", False),
        (b"\\unrestrict x\n", False),
        pytest.param(b"PGDMP\x01\x0e" + bytes(range(1, 251)) * 2, False, id="no custom format"),
    ],
)
def test_J11_with_the_switch_a_snapshot_without_its_end_is_noticed(tmp_path: Path, data: bytes, *, whole: bool):
    for content in (data, gzip.compress(data)):
        (tmp_path / "dump.sql").write_bytes(content)
        assert (problem(tmp_path / "dump.sql", strict=True) == "") == whole


@pytest.mark.parametrize(
    ("data", "found"),
    [
        (HEADER + MARK, ""),
        (HEADER + b"1\ta\n" * 50_000 + MARK, ""),
        (HEADER.replace(b"database", b"database cluster"), "does not end with"),
        (HEADER.replace(b"\n", b"\r\n"), "does not end with"),
        (HEADER + MARK + HEADER, "does not end with"),
        (b"-- made by backup.sh\nBEGIN;\n" + HEADER, "does not end with"),
        (MESSAGE, "has a message in place of a dump: pg_dump: error: connection"),
        (MESSAGE + HEADER + MARK, "has a message in place of a dump"),
        (b"\n/usr/bin/pg_dumpall: error: x\n", "has a message"),
        (b"pg_dump: [archiver (db)] connection to database failed: x\n", "has a message"),
        (b"bash: pg_dump: command not found\n", "has a message"),
        (b"sh: 1: pg_dump: not found\n", "has a message"),
        (b"Error response from daemon: No such container: mox_db\n", "has a message"),
        (b"OCI runtime exec failed: exec failed: x\n", "has a message"),
        (b"-- a snapshot\n", ""),
        (b"INSERT INTO shells VALUES ('bash: x');\n", ""),
        (bytes(range(128, 228)), ""),
    ],
)
def test_J11_a_snapshot_is_judged_by_its_own_bytes_without_the_switch(tmp_path: Path, data: bytes, found: str):
    """N8."""
    path = tmp_path / "dump.sql"
    path.write_bytes(data)
    assert (found in problem(path)) if found else not problem(path)
    path.write_bytes(gzip.compress(data)[:-9])
    assert "gzip does not find its end" in problem(path)


def test_J11_a_dump_cut_anywhere_is_noticed(tmp_path: Path):
    """N8."""
    data = HEADER + b"1\ta\n" * 20 + b"\\.\n\n" + MARK
    last = data.index(b"complete") + len(b"complete")
    for length in range(last):
        (tmp_path / "dump.sql").write_bytes(data[:length])
        if length > HEADER.index(b"dump") + 4:
            assert problem(tmp_path / "dump.sql"), length
        assert problem(tmp_path / "dump.sql", strict=True), length


def test_J11_a_dump_that_is_no_file_is_a_problem_not_a_hang(tmp_path: Path):
    os.mkfifo(tmp_path / "fifo")
    for name in ("fifo", "missing", "."):
        assert problem(tmp_path / name, strict=True)
    assert "no such file" in freshness_problem(str(tmp_path / "missing"), 0.0, 1.0, 0.0)


def test_J11_a_snapshot_may_be_made_by_the_run_itself(tmp_path: Path):
    """N5: its dump takes longer than the clocks of two machines differ."""
    (tmp_path / "dump.sql").write_text("x")
    os.utime(tmp_path / "dump.sql", (5000, 5000))
    assert not freshness_problem(str(tmp_path / "dump.sql"), 1000, 60, 5001)
    assert "from the future" in freshness_problem(str(tmp_path / "dump.sql"), 1000, 60, 4000)


@pytest.mark.parametrize(
    ("age", "found"),
    [(0, ""), (3600, ""), (3601, "hours old"), (10 * 86400, "240.0 hours old"), (-60, ""), (-61, "from the future")],
)
def test_J11_a_snapshot_is_fresh_as_of_the_start_of_the_run(tmp_path: Path, age: int, found: str):
    now = 1_750_000_000
    (tmp_path / "dump.sql").write_text("x")
    os.utime(tmp_path / "dump.sql", (now, now - age))
    told = freshness_problem(str(tmp_path / "dump.sql"), now, 3600, now)
    assert found in told
    assert bool(found) == bool(told)
