"""A copied file is what it was in one moment, whoever writes it (J11)."""

from __future__ import annotations

import itertools
import os
import random
import stat
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from runsdeploy.jobs.staging import replica, source
from tests.jobs.staged import TIMES, Stage, content, kinds, want, writer

SIZE = 2 * 1024 * 1024
VERSIONS = f"""
path, seed = sys.argv[1], int(sys.argv[2])
generator = random.Random(seed)
def version(number):
    return number.to_bytes(8, "big") * {SIZE // 8}
def rest(number):
    if number == 1:
        print("ready", flush=True)
    if sys.argv[3] == "1":
        time.sleep(generator.random() / 10)
"""
BY_RENAME = """
for number in range(10**9):
    with open(path + ".new", "wb") as file:
        file.write(version(number))
    os.rename(path + ".new", path)
    rest(number)
"""
IN_PLACE = """
file = os.open(path, os.O_RDWR | os.O_CREAT)
for number in range(10**9):
    data = version(number)
    for at in range(0, len(data), 4096):
        os.pwrite(file, data[at : at + 4096], at)
    rest(number)
"""
BY_TRUNCATION = """
for number in range(10**9):
    with open(path, "wb", 4096) as file:
        file.write(version(number))
    rest(number)
"""


def of_one_moment(data: bytes, way: str) -> bool:
    """Whether a file was ever like that, be it that its writer was stopped in the middle of a version."""
    words = [int.from_bytes(data[at : at + 8], "big") for at in range(0, len(data), 4096)]
    steps = [(one, other) for one, other in itertools.pairwise(words) if one != other]
    uniform = data == b"".join(word.to_bytes(8, "big") * 512 for word in words)[: len(data)]
    if way is IN_PLACE:
        return uniform and len(data) == SIZE and len(steps) <= 1 and all(one == other + 1 for one, other in steps)
    return uniform and not steps and (way is BY_TRUNCATION or len(data) == SIZE)


@pytest.mark.parametrize("way", [BY_RENAME, IN_PLACE, BY_TRUNCATION], ids=["rename", "in place", "truncation"])
@pytest.mark.parametrize("rests", [True, False], ids=["with rests", "at full speed"])
@pytest.mark.parametrize("truncate", [True, False], ids=["log", "file"])
def test_J11_a_file_that_is_written_meanwhile_is_as_it_was_in_one_moment_or_a_problem(
    files: Path, run: Stage, monkeypatch: pytest.MonkeyPatch, way: str, *, rests: bool, truncate: bool
):
    monkeypatch.setattr(source, "QUIET", 20_000_000)  # so that more is written while it copies
    seed = random.randrange(2**32)
    print("seed", seed)
    path = files / "data"
    whole = partly = 0
    with writer(VERSIONS + way, path, seed, int(rests)):
        for _ in range(TIMES if rests else TIMES // 3):
            staged = run(want(path, required=True, truncate=truncate))
            assert bool(staged.problems) != bool(staged.members)
            for member in staged.members:
                data = content(staged, member.path)
                assert of_one_moment(data, way)
                whole += data == data[:8] * (SIZE // 8)
                partly += data != data[:8] * (SIZE // 8)
    print("whole", whole, "partly written", partly)
    if way is not BY_TRUNCATION:  # which may have left off without a file
        assert run(want(path)).problems == ()


def test_J11_two_versions_of_one_tick_of_the_clock_are_not_taken_for_one(files: Path, run: Stage):
    (files / "new").write_text("x")
    run(want(files / "new"))
    assert time.time_ns() - (files / "new").stat().st_ctime_ns >= source.QUIET


def test_J11_a_log_that_is_rewritten_in_the_tick_in_which_it_was_looked_at_is_read_again(
    files: Path, run: Stage, monkeypatch: pytest.MonkeyPatch
):
    path, rewritten = files / "log", []
    path.write_bytes(b"one\n" * 1000)

    def blocks(descriptor: int, size: int) -> Iterator[bytes]:
        if rewritten:
            yield from source.blocks(descriptor, size)
            return
        yield os.pread(descriptor, size // 2, 0)
        path.write_bytes(b"two\n" * 1000)
        rewritten.append(True)
        yield os.pread(descriptor, size, size // 2)

    monkeypatch.setattr(replica, "blocks", blocks)
    monkeypatch.setattr(replica, "stamp", lambda _: ())
    # Copying took longer than that.
    monkeypatch.setattr(replica, "seconds_until_quiet", lambda _: 0.0 if rewritten else 0.1)
    assert content(run(want(path, required=True, truncate=True)), path) == b"two\n" * 1000


APPENDING = """
path = sys.argv[1]
with open(path, "ab", 0) as file:
    for number in range(10**9):
        file.write(b"%d\\n" % number)
        if number == 1:
            print("ready", flush=True)
"""


def test_J25_a_log_that_grows_is_copied_as_long_as_it_was(files: Path, run: Stage):
    path = files / "log"
    last = 0
    with writer(APPENDING, path):
        for _ in range(TIMES):
            staged = run(want(path, required=True, truncate=True))
            assert staged.problems == ()
            data = content(staged, path)
            assert len(data) >= last
            last = len(data)
            assert path.read_bytes()[:last] == data
            assert staged.members[0].truncate


SWAPPING = """
path = sys.argv[1]
for number in range(10**9):
    what = number % 4
    if what == 0:
        os.mkfifo(path + ".new")
    elif what == 1:
        open(path + ".new", "w").close()
    elif what == 2:
        os.symlink("fifo", path + ".new")
    else:
        os.unlink(path)
        continue
    os.rename(path + ".new", path)
    if number == 1:
        print("ready", flush=True)
"""


def test_J12_a_fifo_that_takes_the_place_of_a_file_cannot_hang_it(files: Path, run: Stage):
    os.mkfifo(files / "fifo")
    with writer(SWAPPING, files / "data"):
        for _ in range(TIMES):
            staged = run(want(files / "data", required=True), want(files / "fifo"))
            assert staged.problems


def test_J12_a_link_that_takes_the_place_of_a_file_between_two_looks_is_told(
    files: Path, run: Stage, monkeypatch: pytest.MonkeyPatch
):
    """Else it would be a file without content: no archive may hold that, and the night had no backup."""
    (files / "data").write_text("x")
    (files / "other").write_text("x")
    look = os.lstat

    def swapping(path: str) -> os.stat_result:
        status = look(path)
        if path == f"{files}/data" and not stat.S_ISLNK(status.st_mode):
            (files / "new").symlink_to("other")
            (files / "new").rename(path)
        return status

    monkeypatch.setattr(os, "lstat", swapping)
    staged = run(want(files / "data", required=True), want(files / "other"))
    assert kinds(staged) == {f"{files}/other": "file"}
    assert len(staged.problems) == 1


def test_J11_what_disappears_from_a_directory_meanwhile_is_no_problem(files: Path, run: Stage):
    code = """
for number in range(10**9):
    path = sys.argv[1] + "/" + str(number)
    open(path, "w").close()
    os.unlink(path)
    if number == 1:
        print("ready", flush=True)
"""
    with writer(code, files):
        for _ in range(TIMES):
            assert run(want(files, required=True)).problems == ()
