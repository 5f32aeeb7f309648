"""Journals: what was written stays readable, whatever a crash left behind it (B4)."""

from __future__ import annotations

import pytest

from runsdeploy.jobs.disk import journal


@pytest.fixture
def path(tmp_path):
    return str(tmp_path / "journal")


def write(path, *acts):
    written = journal.Journal(path)
    for act in acts:
        written.write(act, number=len(act))
    written.close()


def test_what_was_written_is_read(path):
    write(path, "begin", "end")
    assert journal.read(path) == [{"act": "begin", "number": 5}, {"act": "end", "number": 3}]


def test_no_journal_is_an_empty_one(path):
    assert journal.read(path) == []


def test_B4_a_torn_record_never_happened_and_loses_none_behind_it(tmp_path, path):
    acts = ["begin", "start", "end"]
    write(path, *acts)
    whole = (tmp_path / "journal").read_bytes()
    for size in range(len(whole)):
        (tmp_path / "journal").write_bytes(whole[:size])
        done = acts[: whole[:size].count(b"\n")]
        assert [record["act"] for record in journal.read(path)] == done
        write(path, "later")
        # A record of which only the end of the line was missing is whole with it.
        ended = acts[len(done) : len(done) + 1] if whole[size : size + 1] == b"\n" else []
        assert [record["act"] for record in journal.read(path)] == [*done, *ended, "later"]
