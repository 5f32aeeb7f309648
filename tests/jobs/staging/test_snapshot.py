"""Snapshots are whole and of the right time, or that is told (J11)."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from runsdeploy.jobs.staging.snapshot import end_mark_problem, freshness_problem

MARK = b"--\n-- PostgreSQL database dump complete\n--\n\n"


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
        pytest.param(b"PGDMP\x01\x0e" + os.urandom(500), False, id="custom format"),
    ],
)
def test_J11_a_dump_without_its_end_is_noticed(tmp_path: Path, data: bytes, *, whole: bool):
    (tmp_path / "dump.sql").write_bytes(data)
    problem = end_mark_problem(str(tmp_path / "dump.sql"))
    assert (problem == "") == whole
    assert whole or f"`{tmp_path}/dump.sql`" in problem


def test_J11_a_dump_cut_anywhere_is_noticed(tmp_path: Path):
    data = b"-- PostgreSQL database dump\n" + b"1\ta\n" * 20 + b"\\.\n\n" + MARK
    last = data.index(b"complete") + len(b"complete")
    for length in range(last):
        (tmp_path / "dump.sql").write_bytes(data[:length])
        assert end_mark_problem(str(tmp_path / "dump.sql")), length


def test_J11_a_dump_that_is_no_file_is_a_problem_not_a_hang(tmp_path: Path):
    os.mkfifo(tmp_path / "fifo")
    for name in ("fifo", "missing", "."):
        assert end_mark_problem(str(tmp_path / name))
    assert "no such file" in freshness_problem(str(tmp_path / "missing"), 0.0, 1.0)


@pytest.mark.parametrize(
    ("age", "found"),
    [(0, ""), (3600, ""), (3601, "hours old"), (10 * 86400, "240.0 hours old"), (-60, ""), (-61, "from the future")],
)
def test_J11_a_snapshot_is_fresh_as_of_the_start_of_the_run(tmp_path: Path, age: int, found: str):
    now = 1_750_000_000
    (tmp_path / "dump.sql").write_text("x")
    os.utime(tmp_path / "dump.sql", (now, now - age))
    problem = freshness_problem(str(tmp_path / "dump.sql"), now, 3600)
    assert found in problem
    assert bool(found) == bool(problem)
