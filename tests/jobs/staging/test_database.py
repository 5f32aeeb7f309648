"""Databases are copied as of one commit, whoever writes them (J11)."""

from __future__ import annotations

import contextlib
import sqlite3
from pathlib import Path

import pytest

from runsdeploy.jobs.staging import database
from runsdeploy.jobs.staging.staging import Staged
from tests.jobs.staged import TIMES, Stage, want, writer

TRANSACTIONS = """
import sqlite3
path, mode = sys.argv[1:]
base = sqlite3.connect(path, timeout=60, isolation_level=None)
base.execute("pragma journal_mode=" + mode)
base.execute("pragma synchronous=off")
base.execute("create table t (id integer primary key, version int, filler blob)")
base.executemany("insert into t values (?, 0, zeroblob(3000))", [(at,) for at in range(200)])
for number in range(1, 10**9):
    base.execute("begin immediate")
    base.execute("update t set version = ?", (number,))
    base.execute("update t set filler = randomblob(3000) where id % 10 = ?", (number % 10,))
    base.execute("commit")
    if number == 1:
        print("ready", flush=True)
"""


@pytest.fixture(params=["sqlite3", "library", "copy"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """How databases are copied: by Python's module, by its library as on Python 3.6, and where there is neither."""
    if request.param != "sqlite3":
        monkeypatch.setattr(database, "sqlite3", None)
    if request.param == "copy":
        monkeypatch.setattr(database, "_library", lambda: None)
    return str(request.param)


def rows(staged: Staged, path: Path) -> list[tuple[int, ...]]:
    with contextlib.closing(sqlite3.connect(f"file:{staged.sources[str(path)]}?immutable=1", uri=True)) as copy:
        assert copy.execute("pragma integrity_check").fetchall() == [("ok",)]
        return copy.execute("select version, count(*) from t group by version").fetchall()


@pytest.mark.parametrize("mode", ["delete", "truncate", "persist", "wal"])
def test_J11_a_database_is_copied_as_of_one_commit_while_others_are_made(
    files: Path, run: Stage, mode: str, way: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(database, "BUSY", 60.0)  # its writer never rests
    path = files / "base"
    copies = 0
    with writer(TRANSACTIONS, path, mode):
        for _ in range(TIMES if way != "copy" else TIMES // 10):
            staged = run(want(path, required=True), want(files))
            assert way == "copy" or staged.problems == ()
            if not staged.problems:
                copies += 1
                assert [count for _, count in rows(staged, path)] == [200]
            assert set(staged.sources) <= {str(path)}
    print("copies", copies)


@pytest.mark.parametrize("mode", ["delete", "wal"])
def test_J11_a_database_at_rest_is_copied_and_nothing_is_left_beside_it(files: Path, run: Stage, mode: str, way: str):
    path = files / "a base, with % and ?mode=rw#"
    with contextlib.closing(sqlite3.connect(path)) as base:
        base.execute(f"pragma journal_mode={mode}")
        base.execute("create table t as select 1 as version")
        base.commit()
    before = path.stat()
    staged = run(want(path, required=True))
    assert staged.problems == ()
    assert rows(staged, path) == [(1, 1)]
    assert list(files.iterdir()) == [path]
    assert (path.stat().st_mtime_ns, path.stat().st_ino) == (before.st_mtime_ns, before.st_ino)
    assert staged.members[0].mtime_ns == before.st_mtime_ns
    assert way


def test_J11_what_only_the_log_of_a_database_has_comes_along(files: Path, run: Stage, way: str):
    path = files / "base"
    code = """
import sqlite3
base = sqlite3.connect(sys.argv[1], isolation_level=None)
base.execute("pragma journal_mode=wal")
base.execute("create table t as select 7 as version")
print("ready", flush=True)
time.sleep(600)
"""
    with writer(code, path):
        assert path.stat().st_size <= 4096
        staged = run(want(files))
        named = run(want(f"{path}-wal", required=True))
    if way == "copy":
        assert "is a database in use" in staged.problems[0]
    else:
        assert rows(staged, path) == rows(named, path) == [(7, 1)]
        assert set(staged.sources) == set(named.sources) == {str(path)}
        assert staged.problems == named.problems == ()


def test_J11_a_locked_database_is_a_problem(files: Path, run: Stage, way: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(database, "BUSY", 0.1)
    code = """
import sqlite3
base = sqlite3.connect(sys.argv[1], isolation_level=None)
base.execute("create table t as select 7 as version")
base.execute("begin exclusive")
base.execute("insert into t values (8)")
print("ready", flush=True)
time.sleep(600)
"""
    with writer(code, files / "base"):
        staged = run(want(files / "base"))
    assert staged.members == ()
    assert ("locked" if way != "copy" else "in use") in staged.problems[0]


@pytest.mark.parametrize("damage", ["noise", "cut", "short"])
def test_J11_a_database_that_sqlite_cannot_read_is_a_problem(
    files: Path, run: Stage, damage: str, monkeypatch: pytest.MonkeyPatch
):
    path = files / "base"
    with contextlib.closing(sqlite3.connect(path)) as base:
        base.execute("create table t as select zeroblob(100000) as version")
        base.commit()
    data = path.read_bytes()
    path.write_bytes({"noise": data[:16] + b"\xa5" * 5000, "cut": data[:20000], "short": data[:16]}[damage])
    (files / "other").write_text("x")
    problems = list(run(want(path), want(files / "other", required=True)).problems)
    monkeypatch.setattr(database, "sqlite3", None)
    problems += run(want(path)).problems
    assert len(problems) == 2
    assert "is a database that cannot be copied" in problems[0]
