"""Staged copies are what the files were in one moment, whoever writes them and whatever they are called (J11, J12)."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import itertools
import os
import random
import select
import shutil
import socket
import sqlite3
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from runsdeploy.jobs import manifest, staging
from runsdeploy.jobs.manifest import Manifest, Member
from runsdeploy.jobs.staging import Staged, Wanted, end_mark_problem, freshness_problem, size_of, stage
from tests.jobs.pythons import pythons

ROOT = Path(__file__).parents[2]
FULL = os.environ.get("RUNSDEPLOY_TEST_FULL") == "1"
TIMES = 200 if FULL else 50
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: other users, mounts")


def want(path: object, *, required: bool = False, truncate: bool = False, why: str = "job `test`") -> Wanted:
    return Wanted(os.fsdecode(path), required, truncate, why)  # type: ignore[arg-type]


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """The system's files."""
    (tmp_path / "files").mkdir()
    return tmp_path / "files"


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., Staged]:
    """Stage into a new directory each time, and look whether all that must always hold does."""
    count = iter(range(10**6))

    def stage_and_check(*wanted: Wanted, when: str = "before", seen: frozenset[str] = frozenset(), exclude: str = ""):
        folder = tmp_path / f"staged{next(count)}"
        staged = stage(wanted, str(folder), when, seen, exclude)
        check(staged, folder, when)
        assert not seen & {member.path for member in staged.members}
        return staged

    return stage_and_check


def check(staged: Staged, folder: Path, when: str) -> None:
    paths = [member.path for member in staged.members]
    assert paths == sorted(set(paths))
    assert set(staged.sources) == {member.path for member in staged.members if member.kind == "file"}
    assert sorted(map(str, folder.iterdir())) == sorted(staged.sources.values())
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    for member in staged.members:
        assert member.when == when
        if member.kind == "file":
            content = Path(staged.sources[member.path]).read_bytes()
            assert (member.size, member.sha256) == (len(content), hashlib.sha256(content).hexdigest())
            assert stat.S_IMODE(os.lstat(staged.sources[member.path]).st_mode) == 0o600
    whole = Manifest(1, "0", "id", "host", 0, 1, True, (), {}, {}, staged.members)  # noqa: FBT003
    assert manifest.decode(manifest.encode(whole)).members == staged.members
    for message in (*staged.problems, *staged.notes):
        assert message.isprintable()
        assert message[0] == "`"


def kinds(staged: Staged) -> dict[str, str]:
    return {member.path: member.kind for member in staged.members}


def content(staged: Staged, path: object) -> bytes:
    return Path(staged.sources[os.fsdecode(path)]).read_bytes()  # type: ignore[arg-type]


# What is found

NASTY = [
    b"plain",
    b"two words",
    b" leading and trailing ",
    b"new\nline",
    b"'single' \"double\" `back` $(x) \\",
    b"-rf",
    b"--",
    b"*?[a]",
    b"~",
    b"...",
    b"#x",
    b"a:b;c|d&e",
    b"\x01\x1b[31m\x7f\r\t",
    b"\xff\xfe\x80 not UTF-8",
    "blåbærgrød ☃ 𝄞".encode(),
    "e\u0301".encode(),
    "\u202egpj.exe\u2028".encode(),
    b"x" * 255,
    "å".encode() * 127,
    b"%2e%2f%00",
    b"MANIFEST.json",
]


def test_J12_every_name_comes_through_with_its_content_and_attributes(files: Path, run: Callable[..., Staged]):
    made = {}
    for at, name in enumerate(NASTY):
        for folder in (files, files / os.fsdecode(NASTY[-at][:250] + b"-d")):
            folder.mkdir(exist_ok=True)
            path = folder / os.fsdecode(name)
            path.write_bytes(name * at)
            path.chmod(0o600 + at)
            os.utime(path, ns=(0, 1_700_000_000_123_456_789 + at))
            made[str(path)] = (name * at, 0o600 + at, 1_700_000_000_123_456_789 + at)
    staged = run(want(files))
    assert staged.problems == staged.notes == ()
    found = {member.path: member for member in staged.members if member.kind == "file"}
    assert {path: (content(staged, path), m.mode, m.mtime_ns) for path, m in found.items()} == made
    one_by_one = run(*(want(path, required=True) for path in made))
    assert [member.sha256 for member in one_by_one.members] == [
        member.sha256 for member in staged.members if member.kind == "file"
    ]


def test_J12_a_directory_is_itself_and_all_below_it(files: Path, run: Callable[..., Staged]):
    (files / "a/b").mkdir(parents=True, mode=0o750)
    (files / "a/b/x").write_text("x")
    (files / "a/empty").mkdir()
    staged = run(want(f"{files}/a"))
    assert [(member.path[len(str(files)) :], member.kind) for member in staged.members] == [
        ("/a", "directory"),
        ("/a/b", "directory"),
        ("/a/b/x", "file"),
        ("/a/empty", "directory"),
    ]
    top = staged.members[0]
    assert (top.size, top.sha256, top.target, top.uid, top.gid) == (0, "", "", os.getuid(), os.getgid())


def test_J12_a_path_deeper_than_recursion_goes_is_staged(files: Path, run: Callable[..., Staged]):
    path = str(files)
    try:
        while len(path) < 2400:
            path += "/d"
            Path(path).mkdir()
        Path(f"{path}/end").write_text("deep")
        staged = run(want(files))
        assert content(staged, f"{path}/end") == b"deep"
        assert len(staged.members) > 1100
    finally:
        subprocess.run(["rm", "-rf", str(files)], check=True)


@pytest.mark.parametrize("path", ["missing", "missing/below", "file/below", "dangling"])
def test_J12_what_is_missing_is_a_problem_only_if_required(files: Path, run: Callable[..., Staged], path: str):
    (files / "file").write_text("x")
    (files / "dangling").symlink_to("nowhere")
    optional = run(want(files / path))
    assert (len(optional.notes), optional.problems) == (1, ())
    required = run(want(files / path, required=True, why="job `sd`"))
    assert (len(required.problems), required.notes) == (1, ())
    assert f"`{files / path}`" in required.problems[0]
    assert "(for job `sd`)" in required.problems[0]


def test_J12_what_one_job_requires_is_a_problem_though_another_does_not(files: Path, run: Callable[..., Staged]):
    staged = run(want(files / "x"), want(files / "x", required=True))
    assert (len(staged.problems), len(staged.notes)) == (1, 1)


@pytest.mark.parametrize("path", ["", "relative", "./x", "a/b", "/nul\0byte", "/lone\ud800surrogate", "/"])
def test_J12_what_is_no_absolute_path_is_a_problem_not_a_crash(run: Callable[..., Staged], path: str):
    staged = run(Wanted(path, required=False, truncate=False, why="job `test`"))
    assert len(staged.problems) == 1
    assert staged.members == ()
    assert size_of([Wanted(path, required=False, truncate=False, why="")]) == 0


def test_J12_a_path_is_staged_once_however_often_and_however_written_it_is_wanted(
    files: Path, run: Callable[..., Staged]
):
    (files / "d").mkdir()
    (files / "d/x").write_text("x")
    ways = ["d", "d/x", "d/x", "d/", "d/./x", "d//x", "d/../d/x", "."]
    staged = run(*(want(f"{files}/{way}") for way in ways), want(f"//{files}/d/x"))
    assert kinds(staged) == {str(files): "directory", f"{files}/d": "directory", f"{files}/d/x": "file"}
    assert staged.problems == staged.notes == ()


def test_J12_what_was_staged_before_is_not_staged_again_but_what_is_new_is(files: Path, run: Callable[..., Staged]):
    (files / "old").write_text("old")
    (files / "link").symlink_to("old")
    before = run(want(files))
    (files / "new").write_text("new")
    (files / "old").write_text("changed")
    seen = frozenset(member.path for member in before.members)
    after = run(want(files, required=True), want(files / "old", required=True), when="after", seen=seen)
    assert kinds(after) == {f"{files}/new": "file"}
    assert after.problems == ()


def test_J12_a_log_in_a_wanted_directory_is_emptied_later_if_it_is_named_itself(
    files: Path, run: Callable[..., Staged]
):
    (files / "log").write_text("line\n")
    (files / "other").write_text("x")
    staged = run(want(files), want(files / "log", truncate=True))
    assert {member.path: member.truncate for member in staged.members} == {
        str(files): False,
        f"{files}/log": True,
        f"{files}/other": False,
    }


def test_J12_of_a_directory_or_a_database_nothing_is_ever_emptied(files: Path, run: Callable[..., Staged]):
    (files / "d").mkdir()
    (files / "d/x").write_text("x")
    with contextlib.closing(sqlite3.connect(files / "base")) as base:
        base.execute("create table t (x)")
    staged = run(want(files / "d", truncate=True), want(files / "base", truncate=True))
    assert not any(member.truncate for member in staged.members)
    assert len(staged.members) == 3
    assert len(staged.notes) == 2


# Links


def test_J12_a_link_is_a_link_and_what_it_points_to_is_there_under_its_own_path(
    files: Path, run: Callable[..., Staged]
):
    (files / "kommune.json").write_text("{}")
    (files / "settings.json").symlink_to("kommune.json")
    staged = run(want(files / "settings.json", required=True))
    assert kinds(staged) == {f"{files}/kommune.json": "file", f"{files}/settings.json": "link"}
    assert [member.target for member in staged.members] == ["", "kommune.json"]
    assert staged.problems == staged.notes == ()


def test_J12_chains_of_links_and_links_to_directories_are_followed(files: Path, run: Callable[..., Staged]):
    (files / "v2/conf").mkdir(parents=True)
    (files / "v2/conf/x").write_text("x")
    (files / "v2/conf/y").symlink_to("../../elsewhere")
    (files / "elsewhere").write_text("elsewhere")
    (files / "current").symlink_to(files / "v2")
    (files / "a").symlink_to("./b")
    (files / "b").symlink_to("current/conf")
    staged = run(want(files / "a", required=True))
    assert {path[len(str(files)) + 1 :]: kind for path, kind in kinds(staged).items()} == {
        "a": "link",
        "b": "link",
        "current": "link",
        "v2/conf": "directory",
        "v2/conf/x": "file",
        "v2/conf/y": "link",
        "elsewhere": "file",
    }
    assert staged.problems == staged.notes == ()


def test_J13_no_member_lies_behind_a_link(files: Path, run: Callable[..., Staged]):
    (files / "real").mkdir()
    (files / "real/x").write_text("x")
    (files / "way").symlink_to("real")
    staged = run(want(files / "way/x", required=True), want(files / "way/../real/x"))
    assert kinds(staged) == {f"{files}/real/x": "file", f"{files}/way": "link"}


def test_J12_loops_of_links_end(files: Path, run: Callable[..., Staged]):
    (files / "a").symlink_to("b")
    (files / "b").symlink_to("a")
    (files / "self").symlink_to("self")
    (files / "d").mkdir()
    (files / "d/up").symlink_to("..")
    (files / "d/here").symlink_to(".")
    staged = run(want(files))
    assert len(staged.members) == 7
    assert staged.problems == ()
    assert len(run(want(files / "a", required=True), want(files / "self/x", required=True)).problems) == 2


def test_J12_a_link_to_nothing_is_kept(files: Path, run: Callable[..., Staged]):
    (files / "dangling").symlink_to("nowhere")
    for wanted in (want(files), want(files / "dangling"), want(files / "dangling", required=True)):
        staged = run(wanted)
        assert kinds(staged)[f"{files}/dangling"] == "link"
        assert bool(staged.problems) == wanted.required
        assert "a link to nothing" in " ".join(staged.problems + staged.notes)


def test_J12_hard_links_are_files(files: Path, run: Callable[..., Staged]):
    (files / "a").write_text("same")
    os.link(files / "a", files / "b")
    staged = run(want(files))
    assert content(staged, files / "a") == content(staged, files / "b") == b"same"


# What is no file, or not ours to read


def test_J12_what_is_no_file_is_refused_where_named_and_left_out_where_met(files: Path, run: Callable[..., Staged]):
    os.mkfifo(files / "fifo")
    (files / "link").symlink_to("fifo")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(files / "socket"))
        met = run(want(files, required=True))
        named = run(*(want(files / name) for name in ("fifo", "socket", "link")), want("/dev/null"))
        both = run(want(files), want(files / "fifo"))
    assert met.problems == ()
    assert len(met.notes) == 2
    assert kinds(met) == {str(files): "directory", f"{files}/link": "link"}
    assert [problem.split("` ")[1].split(",")[0] for problem in named.problems] == [
        "is a fifo",
        "is a socket",
        "is a character device",
    ]
    assert len(both.problems) == 1


def test_J12_a_sparse_file_keeps_its_size(files: Path, run: Callable[..., Staged]):
    with (files / "sparse").open("wb") as file:
        file.truncate(20_000_000)
        file.seek(10_000_000)
        file.write(b"x")
    staged = run(want(files / "sparse"))
    assert content(staged, files / "sparse") == bytes(10_000_000) + b"x" + bytes(9_999_999)


def test_J12_the_backup_directory_is_never_entered(files: Path, run: Callable[..., Staged]):
    (files / "backup/.runs").mkdir(parents=True)
    (files / "backup/old.tar.gz").write_text("x" * 100_000)
    (files / "way").symlink_to("backup")
    (files / "x").write_text("x")
    for exclude in ("backup", "backup/", "way", "./x/../backup"):
        staged = run(want(files), exclude=f"{files}/{exclude}")
        assert kinds(staged) == {str(files): "directory", f"{files}/way": "link", f"{files}/x": "file"}
        assert (len(staged.notes), staged.problems) == (1, ())
        assert size_of([want(files)], f"{files}/{exclude}") == 4096
    named = run(want(files / "backup/old.tar.gz"), want(files / "way"), exclude=f"{files}/backup")
    assert len(named.problems) == 2
    assert kinds(named) == {f"{files}/way": "link"}
    (files / "backup2").write_text("a neighbour")
    assert kinds(run(want(files / "backup2"), exclude=f"{files}/backup")) == {f"{files}/backup2": "file"}


AS_NOBODY = """
import os, sys
sys.path.insert(0, sys.argv[1])
from runsdeploy.jobs.staging import Wanted, size_of, stage
os.setgid(65534)
os.setuid(65534)
wanted = [Wanted(path, False, False, "job `test`") for path in sys.argv[3:]]
size_of(wanted)
staged = stage(wanted, sys.argv[2], "before")
print(len(staged.members), *sorted(staged.problems), sep="\\n")
"""


@as_root
def test_J12_what_cannot_be_read_is_a_problem_even_if_it_is_optional(tmp_path: Path):
    base = Path("/tmp") / f"staging-{os.getpid()}-{random.randrange(10**9)}"  # noqa: S108  # where others may look
    (base / "locked").mkdir(parents=True)
    try:
        (base / "locked/x").write_text("x")
        (base / "secret").write_text("x")
        (base / "open").write_text("x")
        (base / "own").mkdir()
        os.chown(base / "own", 65534, 65534)
        (base / "locked").chmod(0o700)
        (base / "secret").chmod(0o600)
        names = ["secret", "locked", "locked/x", "open"]
        command = [
            sys.executable,
            "-c",
            AS_NOBODY,
            str(ROOT),
            str(base / "own/staged"),
            *(f"{base}/{n}" for n in names),
        ]
        ran = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True, cwd=tmp_path)
    finally:
        shutil.rmtree(base)
    assert ran.stdout.splitlines() == [
        "2",  # what is open, and the directory itself
        f"`{base}/locked/x` cannot be read: permission denied (for job `test`)",
        f"`{base}/locked` cannot be read: permission denied (for job `test`)",
        f"`{base}/secret` cannot be read: permission denied (for job `test`)",
    ]


def test_J13_a_file_that_a_job_made_a_directory_spoils_no_archive(files: Path, run: Callable[..., Staged]):
    (files / "x").mkdir()
    (files / "x/y").write_text("y")
    before = run(want(files))
    shutil.rmtree(files / "x")
    (files / "x").write_text("now a file")
    seen = frozenset(member.path for member in before.members) - {f"{files}/x"}
    after = run(want(files / "x"), when="after", seen=seen)
    assert after.members == ()
    assert len(after.problems) == 1


# Who else writes


@contextlib.contextmanager
def writer(code: str, *arguments: object) -> Iterator[subprocess.Popen[bytes]]:
    """A process that writes until this ends; it says when it has begun."""
    words = [sys.executable, "-c", f"import os, random, sys, time\n{code}", *map(str, arguments)]
    process = subprocess.Popen(words, stdout=subprocess.PIPE)
    assert process.stdout
    try:
        ready, _, _ = select.select([process.stdout], [], [], 30)
        assert ready
        assert process.stdout.readline() == b"ready\n"
        yield process
        assert process.poll() is None, "the writer died"
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


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
    files: Path, run: Callable[..., Staged], monkeypatch: pytest.MonkeyPatch, way: str, *, rests: bool, truncate: bool
):
    monkeypatch.setattr(staging, "QUIET", 20_000_000)  # so that more is written while it copies
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


def test_J11_two_versions_of_one_tick_of_the_clock_are_not_taken_for_one(files: Path, run: Callable[..., Staged]):
    (files / "new").write_text("x")
    run(want(files / "new"))
    assert time.time_ns() - (files / "new").stat().st_ctime_ns >= staging.QUIET


APPENDING = """
path = sys.argv[1]
with open(path, "ab", 0) as file:
    for number in range(10**9):
        file.write(b"%d\\n" % number)
        if number == 1:
            print("ready", flush=True)
"""


def test_J25_a_log_that_grows_is_copied_as_long_as_it_was(files: Path, run: Callable[..., Staged]):
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


def test_J12_a_fifo_that_takes_the_place_of_a_file_cannot_hang_it(files: Path, run: Callable[..., Staged]):
    os.mkfifo(files / "fifo")
    with writer(SWAPPING, files / "data"):
        for _ in range(TIMES):
            staged = run(want(files / "data", required=True), want(files / "fifo"))
            assert staged.problems


def test_J11_what_disappears_from_a_directory_meanwhile_is_no_problem(files: Path, run: Callable[..., Staged]):
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


# Databases

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
        monkeypatch.setattr(staging, "sqlite3", None)
    if request.param == "copy":
        monkeypatch.setattr(staging, "_library", lambda: None)
    return str(request.param)


def rows(staged: Staged, path: Path) -> list[tuple[int, ...]]:
    with contextlib.closing(sqlite3.connect(f"file:{staged.sources[str(path)]}?immutable=1", uri=True)) as copy:
        assert copy.execute("pragma integrity_check").fetchall() == [("ok",)]
        return copy.execute("select version, count(*) from t group by version").fetchall()


@pytest.mark.parametrize("mode", ["delete", "truncate", "persist", "wal"])
def test_J11_a_database_is_copied_as_of_one_commit_while_others_are_made(
    files: Path, run: Callable[..., Staged], mode: str, way: str
):
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
def test_J11_a_database_at_rest_is_copied_and_nothing_is_left_beside_it(
    files: Path, run: Callable[..., Staged], mode: str, way: str
):
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


def test_J11_what_only_the_log_of_a_database_has_comes_along(files: Path, run: Callable[..., Staged], way: str):
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


def test_J11_a_locked_database_is_a_problem(
    files: Path, run: Callable[..., Staged], way: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(staging, "BUSY", 0.1)
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
    files: Path, run: Callable[..., Staged], damage: str, monkeypatch: pytest.MonkeyPatch
):
    path = files / "base"
    with contextlib.closing(sqlite3.connect(path)) as base:
        base.execute("create table t as select zeroblob(100000) as version")
        base.commit()
    data = path.read_bytes()
    path.write_bytes({"noise": data[:16] + b"\xa5" * 5000, "cut": data[:20000], "short": data[:16]}[damage])
    (files / "other").write_text("x")
    problems = list(run(want(path), want(files / "other", required=True)).problems)
    monkeypatch.setattr(staging, "sqlite3", None)
    problems += run(want(path)).problems
    assert len(problems) == 2
    assert "is a database that cannot be copied" in problems[0]


# Where it is written

TINY = """
import errno, os, sys
sys.path.insert(0, sys.argv[1])
from runsdeploy.jobs import staging
if sys.argv[4] == "library":
    staging.sqlite3 = None
wanted = [staging.Wanted(sys.argv[3], True, sys.argv[4] == "log", "job `test`")]
try:
    staging.stage(wanted, sys.argv[2] + "/before", "before")
except OSError as error:
    print(errno.errorcode[error.errno])
"""


@as_root
@pytest.mark.parametrize("kind", ["file", "log", "database", "library"])
def test_J3_a_full_disk_is_an_error_of_the_run_and_changes_nothing_else(tmp_path: Path, files: Path, kind: str):
    path = files / "big"
    if kind in ("database", "library"):
        with contextlib.closing(sqlite3.connect(path)) as base:
            base.execute("create table t as select randomblob(3000000) as version")
            base.commit()
    else:
        path.write_bytes(os.urandom(3_000_000))
    before = path.read_bytes()
    (tmp_path / "tiny").mkdir()
    mount = f"mount -t tmpfs -o size=1m tmpfs {tmp_path}/tiny"
    command = ["unshare", "-m", "sh", "-c", f'{mount} && exec "$0" -c "$@"', sys.executable]
    words = [*command, TINY, str(ROOT), str(tmp_path / "tiny"), str(path), kind]
    ran = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
    assert (ran.stdout, ran.stderr) == ("ENOSPC\n", "")
    assert path.read_bytes() == before
    assert list(files.iterdir()) == [path]
    assert size_of([want(path)]) >= 3_000_000


@pytest.fixture(params=[0o000, 0o077, 0o777])
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def test_J17_no_copy_is_ever_open_to_others_whatever_the_umask(tmp_path: Path, files: Path, umask: int):
    for at in range(300):
        (files / f"{at}").write_text("x")
        (files / f"{at}").chmod(0o666)
    with contextlib.closing(sqlite3.connect(files / "base")) as base:
        base.execute("create table t as select 1 as version")
        base.commit()
    folder = tmp_path / "staged"
    seen: set[int] = set()
    over = threading.Event()

    def watch() -> None:
        while not over.is_set():
            with contextlib.suppress(FileNotFoundError):
                seen.update(stat.S_IMODE(entry.stat().st_mode) for entry in os.scandir(folder))

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        staged = stage([want(files)], str(folder), "before")
    finally:
        over.set()
        watcher.join()
    check(staged, folder, "before")
    assert len(staged.sources) == 301
    assert not any(mode & 0o077 for mode in seen)
    assert umask >= 0


def test_J17_a_folder_that_is_there_is_made_private_and_a_link_is_refused(tmp_path: Path, files: Path):
    (files / "x").write_text("x")
    (tmp_path / "there").mkdir(mode=0o755)
    check(stage([want(files / "x")], str(tmp_path / "there"), "before"), tmp_path / "there", "before")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "link").symlink_to("elsewhere")
    with pytest.raises(FileExistsError):
        stage([want(files / "x")], str(tmp_path / "link"), "before")
    (tmp_path / "planted").mkdir()
    (tmp_path / "planted/1").symlink_to("../target")
    with pytest.raises(OSError, match=os.strerror(errno.EEXIST)):
        stage([want(files / "x")], str(tmp_path / "planted"), "before")
    assert not (tmp_path / "target").exists()


def test_J3_the_estimate_covers_what_staging_takes(files: Path, run: Callable[..., Staged]):
    generator = random.Random(7)
    (files / "d").mkdir()
    for at in range(50):
        (files / "d" / f"{at}").write_bytes(bytes(generator.randrange(20_000)))
    (files / "link").symlink_to("d/1")
    wanted = [want(files), want(files / "d/1"), want(files / "link"), want(files / "missing"), want(files / "d/x/y")]
    taken = sum(Path(path).stat().st_blocks * 512 for path in run(*wanted).sources.values())
    assert taken <= size_of(wanted) <= taken + 51 * 4096


# Snapshots

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
        (b"PGDMP\x01\x0e" + os.urandom(500), False),
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


# Every Python

SMOKE = r"""
import os, sqlite3, sys
sys.path.insert(0, sys.argv[1])
from jobs import retention, staging
files, folder = sys.argv[2:]
names = [b"plain", b"new\nline", b"\xff", b"-rf", b"x" * 255]
for name in names:
    with open(os.path.join(os.fsencode(files), name), "wb") as file:
        file.write(name)
os.symlink("plain", os.path.join(files, "link"))
os.mkfifo(os.path.join(files, "fifo"))
base = sqlite3.connect(os.path.join(files, "base"), isolation_level=None)
base.execute("pragma journal_mode=wal")
base.execute("create table t as select 7 as version")
log = os.path.join(files, "plain")
wanted = [staging.Wanted(files, True, False, "test"), staging.Wanted(log, True, True, "test")]
assert staging.size_of(wanted) > 0
staged = staging.stage(wanted, folder, "before")
assert not staged.problems, staged.problems
assert len(staged.members) == len(names) + 3, staged.members
assert [each.path for each in staged.members if each.truncate] == [log]
for name in names:
    path = os.path.join(files, os.fsdecode(name))
    with open(staged.sources[path], "rb") as file:
        assert file.read() == name
copy = sqlite3.connect(staged.sources[os.path.join(files, "base")])
assert copy.execute("select * from t").fetchall() == [(7,)]
copy.close()
base.close()
held = [retention.Held(str(at), at * 86400.0, at, True, at != 5) for at in range(100)]
decision = retention.keep(held, 100 * 86400.0, retention.Policy(60, 1, 1, 1))
assert sorted(decision.drop, key=int) == [str(at) for at in range(40) if at not in (4, 5)], decision
print("fine")
"""


@pytest.mark.parametrize("python", pythons())
def test_J12_staging_and_retention_work_on_every_python(tmp_path: Path, files: Path, python: str):
    words = [python, "-I", "-B", "-c", SMOKE, str(ROOT / "runsdeploy"), str(files), str(tmp_path / "staged")]
    environment = {"PATH": "/usr/bin:/bin"}  # as cron has it: no language, no home
    ran = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False, env=environment)
    assert (ran.stdout, ran.stderr) == ("fine\n", "")


def test_J12_a_member_knows_its_owner_by_number_and_name(files: Path, run: Callable[..., Staged]):
    (files / "x").write_text("x")
    if os.geteuid() == 0:
        os.chown(files / "x", 54321, 54322)
    member: Member = run(want(files / "x")).members[0]
    status = (files / "x").stat()
    assert (member.uid, member.gid) == (status.st_uid, status.st_gid)
    assert os.geteuid() != 0 or (member.user, member.group) == ("", "")
