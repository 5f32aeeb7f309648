"""Logs are cut by exactly what an archive holds (J25): not a line lost, not a line twice."""

from __future__ import annotations

import hashlib
import json
import os
import random
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from runsdeploy.jobs.archive.manifest import Member
from runsdeploy.jobs.retention import truncation

FULL = bool(os.environ.get("RUNSDEPLOY_TEST_FULL"))


def member(path, data):
    digest = hashlib.sha256(data).hexdigest()
    return Member(str(path), "after", "file", 0o600, 0, 0, "", "", 0, len(data), digest, "", truncate=True)


def cut(path, data, folder):
    (found,) = truncation.truncate([member(path, data)], str(folder))
    return found.warning


@pytest.fixture
def log(tmp_path):
    return tmp_path / "log"


def test_J25_what_was_archived_goes_and_what_came_since_stays(log, tmp_path):
    log.write_bytes(b"archived\nsince\n")
    inode = log.stat().st_ino
    assert cut(log, b"archived\n", tmp_path) == ""
    assert log.read_bytes() == b"since\n"
    assert log.stat().st_ino == inode
    assert [path.name for path in tmp_path.iterdir() if not path.name.startswith("cut-")] == ["log"]


def test_J25_cutting_again_takes_nothing_more(log, tmp_path):
    log.write_bytes(b"archived\nsince\n")
    cut(log, b"archived\n", tmp_path)
    assert cut(log, b"archived\n", tmp_path) == ""
    assert log.read_bytes() == b"since\n"


def test_J25_a_file_that_is_another_now_is_left(log, tmp_path):
    log.write_bytes(b"something else\n")
    assert "its first bytes are no longer those of the archive" in cut(log, b"archived\n", tmp_path)
    assert log.read_bytes() == b"something else\n"


def test_J25_a_file_that_a_process_keeps_open_is_left_and_said_so(log, tmp_path, monkeypatch):
    monkeypatch.setattr(truncation, "TRIES", 2)
    log.write_bytes(b"archived\n")
    with log.open("ab"):
        assert "another process keeps it open" in cut(log, b"archived\n", tmp_path)
    assert log.read_bytes() == b"archived\n"
    assert cut(log, b"archived\n", tmp_path) == ""
    assert log.read_bytes() == b""


def test_J25_more_since_than_was_archived_is_moved_in_blocks(log, tmp_path):
    log.write_bytes(b"old\nmuch more than that\n")
    assert cut(log, b"old\n", tmp_path) == ""
    assert log.read_bytes() == b"much more than that\n"


def test_J25_far_more_since_than_was_archived_waits_for_the_next_archive(log, tmp_path):
    log.write_bytes(b"old\n" + b"x" * 5000)
    assert "too much was written since" in cut(log, b"old\n", tmp_path)
    assert log.read_bytes() == b"old\n" + b"x" * 5000


def test_J25_a_log_that_says_the_same_every_night_is_not_cut_twice(log, tmp_path):
    log.write_bytes(b"nothing to do\n")
    assert cut(log, b"nothing to do\n", tmp_path) == ""
    log.write_bytes(b"nothing to do\n")
    assert cut(log, b"nothing to do\n", tmp_path) == ""
    assert log.read_bytes() == b"nothing to do\n"


def test_J25_a_link_put_in_the_place_of_a_log_is_not_followed(log, tmp_path):
    (tmp_path / "precious").write_bytes(b"archived\n")
    log.symlink_to("precious")
    assert "was not emptied" in cut(log, b"archived\n", tmp_path)
    assert (tmp_path / "precious").read_bytes() == b"archived\n"


DRIVER = """
import json, sys
sys.path.insert(0, sys.argv[1])
from runsdeploy.jobs.retention import truncation
from runsdeploy.jobs.archive.manifest import Member
truncation.truncate([Member(**json.loads(sys.argv[2]))], sys.argv[3])
"""
SYSCALLS = ("openat", "write", "pwrite64", "fsync", "rename", "ftruncate", "fcntl")


@pytest.mark.parametrize("archived", [100, 10])
@pytest.mark.parametrize("call", SYSCALLS)
def test_T25_J25_killed_at_any_syscall_and_done_again_every_line_is_there_once(call, archived, log, tmp_path):
    """The last of the calls are the module's own; those before are Python's start."""
    data = b"".join(b"archived %d\n" % number for number in range(archived))
    since = b"".join(b"since %d\n" % number for number in range(50))
    facts = json.dumps(member(log, data)._asdict())
    root = str(Path(truncation.__file__).resolve().parents[3])
    work = [sys.executable, "-I", "-S", "-c", DRIVER, root, facts, str(tmp_path)]

    def strace(*options):
        log.write_bytes(data + since)
        for note in tmp_path.glob("cut-*"):
            note.unlink()
        return subprocess.run(["strace", "-f", "-o", f"{tmp_path}/trace", *options, *work], check=False, timeout=60)

    assert strace("-e", f"trace={call}").returncode == 0
    calls = sum(1 for line in (tmp_path / "trace").read_text().splitlines() if f"{call}(" in line)
    assert calls
    for number in range(max(1, calls - 24), calls + 1):
        strace("-e", f"inject={call}:signal=KILL:when={number}")
        # Whoever writes meanwhile, before the next run mends it:
        with log.open("ab") as file:
            file.write(b"later\n")
        assert cut(log, data, tmp_path) == ""
        assert log.read_bytes() == since + b"later\n", f"killed at {call} {number} of {calls}"
        (tmp_path / "trace").unlink()


class Writer(threading.Thread):
    """Appends numbered lines as jobs do, opening the file for each: about a thousand a second."""

    def __init__(self, path):
        super().__init__(daemon=True)
        self.path, self.written, self.done = path, 0, threading.Event()

    def run(self):
        while not self.done.wait(0.001):
            with self.path.open("ab", buffering=0) as file:
                file.write(b"line %d\n" % self.written)
            self.written += 1


def test_T25_J25_runs_that_are_killed_while_somebody_writes_lose_and_double_no_line(system):
    seed = random.randrange(2**32)
    print("seed", seed)
    pick = random.Random(seed)
    log = system.root / "numbered.log"
    system.write_catalogue(backup={"truncate": [str(log)]})
    writer = Writer(log)
    writer.start()
    try:
        for number in range(200 if FULL else 20):
            process = system.start("run")
            time.sleep(pick.uniform(0.02, 0.5))  # a moment of the run, picked at random
            process.kill()
            process.communicate()
            if number % 3 == 0:
                assert system.run("run").returncode == 0
    finally:
        writer.done.set()
        writer.join()
    final = system.run("run")
    assert final.returncode == 0, final.stdout
    kept = [system.members(path).get(str(log), b"") for path in system.archives() if "failed" not in path.name]
    lines = b"".join([*kept, log.read_bytes()]).splitlines()
    assert len(kept) > 1
    assert sorted(lines) == sorted(b"line %d" % number for number in range(writer.written))
