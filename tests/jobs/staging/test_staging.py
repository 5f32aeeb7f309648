"""What is staged is private, once, on the disk, and fits into one archive (J3, J12, J13, J17)."""

from __future__ import annotations

import contextlib
import errno
import os
import random
import shutil
import sqlite3
import stat
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from runsdeploy.jobs.archive.manifest import Member
from runsdeploy.jobs.staging.staging import size_of, stage
from tests.jobs.pythons import pythons
from tests.jobs.staged import ROOT, Stage, as_root, check, kinds, want


def test_J12_what_was_staged_before_is_not_staged_again_but_what_is_new_is(files: Path, run: Stage):
    (files / "old").write_text("old")
    (files / "link").symlink_to("old")
    before = run(want(files))
    (files / "new").write_text("new")
    (files / "old").write_text("changed")
    after = run(want(files, required=True), want(files / "old", required=True), when="after", former=before.members)
    assert kinds(after) == {f"{files}/new": "file"}
    assert after.problems == ()


@pytest.mark.parametrize("required", [True, False])
@pytest.mark.parametrize("former", ["file", "link"])
def test_J13_a_leaf_that_a_job_made_a_directory_spoils_no_archive(
    files: Path, run: Stage, former: str, *, required: bool
):
    path = files / "x"
    path.write_text("x") if former == "file" else path.symlink_to("elsewhere")
    before = run(want(path))
    path.unlink()
    (path / "d/e").mkdir(parents=True)
    (path / "d/e/y").write_text("y")
    (files / "xy").write_text("a neighbour")
    after = run(want(path / "d/e/y", required=required), want(files), when="after", former=before.members)
    assert kinds(after) == {str(files): "directory", f"{files}/xy": "file"}
    named = after.problems if required else after.notes
    assert f"`{path}/d/e/y` is left out: `{path}` was no directory" in "".join(named)
    assert len(after.problems) == required
    assert len(run(want(path, required=True), when="after", former=before.members).problems) == 0


@pytest.mark.parametrize("required", [True, False])
@pytest.mark.parametrize("now", ["file", "link"])
def test_J13_a_directory_that_a_job_made_a_leaf_spoils_no_archive(files: Path, run: Stage, now: str, *, required: bool):
    (files / "x").mkdir()
    (files / "x/y").write_text("y")
    (files / "z").mkdir()
    (files / "z/y").write_text("z")
    before = run(want(files / "x/y"))
    shutil.rmtree(files / "x")
    (files / "x").write_text("now a file") if now == "file" else (files / "x").symlink_to("z")
    way = files / ("x" if now == "file" else "x/y")
    after = run(want(way, required=required), when="after", former=before.members)
    assert kinds(after) == ({} if now == "file" else {f"{files}/z/y": "file"})
    assert f"`{files}/x` is left out: `{files}/x` was a directory" in "".join(after.problems + after.notes)
    assert (len(after.problems), len(after.notes)) == (required, not required)


@pytest.mark.parametrize("kind", ["file", "directory", "link"])
def test_J12_a_time_that_no_manifest_can_say_costs_the_file_not_the_backup(files: Path, run: Stage, kind: str):
    (files / "x").write_text("x")
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:  # a file system that takes any time
        odd = Path(folder, "odd")
        {"file": odd.touch, "directory": odd.mkdir, "link": lambda: odd.symlink_to(files / "x")}[kind]()
        os.utime(odd, ns=(0, 2**70), follow_symlinks=False)
        if odd.lstat().st_mtime_ns < 2**66:
            pytest.skip("no file system here that takes any time")
        staged = run(want(odd), want(files / "x"))
    assert kinds(staged) == {f"{files}/x": "file"}
    assert len(staged.problems) == 1
    assert "`touch -h` it" in staged.problems[0]


TINY = """
import errno, os, sys
sys.path.insert(0, sys.argv[1])
from runsdeploy.jobs.staging import database
from runsdeploy.jobs.staging import staging
from runsdeploy.jobs.staging import scan
if sys.argv[4] == "library":
    database.sqlite3 = None
wanted = [scan.Wanted(sys.argv[3], True, sys.argv[4] == "log", "job `test`")]
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


def test_J3_the_estimate_covers_what_staging_takes(files: Path, run: Stage):
    generator = random.Random(7)
    (files / "d").mkdir()
    for at in range(50):
        (files / "d" / f"{at}").write_bytes(bytes(generator.randrange(20_000)))
    (files / "link").symlink_to("d/1")
    wanted = [want(files), want(files / "d/1"), want(files / "link"), want(files / "missing"), want(files / "d/x/y")]
    taken = sum(Path(path).stat().st_blocks * 512 for path in run(*wanted).sources.values())
    assert taken <= size_of(wanted) <= taken + 51 * 4096


SMOKE = r"""
import os, sqlite3, sys
sys.path.insert(0, sys.argv[1])
from jobs.retention import retention
from jobs.staging import staging
from jobs.staging import scan
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
wanted = [scan.Wanted(files, True, False, "test"), scan.Wanted(log, True, True, "test")]
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
held = [retention.Candidate(str(at), at * 86400.0, at, True, at != 5) for at in range(100)]
decision = retention.decide(held, 100 * 86400.0, retention.Policy(60, 1, 1, 1))
assert sorted(decision.drop, key=int) == [str(at) for at in range(40)], decision
print("fine")
"""


@pytest.mark.parametrize("python", pythons())
def test_J12_staging_and_retention_work_on_every_python(tmp_path: Path, files: Path, python: str):
    words = [python, "-I", "-B", "-c", SMOKE, str(ROOT / "runsdeploy"), str(files), str(tmp_path / "staged")]
    environment = {"PATH": "/usr/bin:/bin"}  # as cron has it: no language, no home
    ran = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False, env=environment)
    assert (ran.stdout, ran.stderr) == ("fine\n", "")


def test_J12_a_member_knows_its_owner_by_number_and_name(files: Path, run: Stage):
    (files / "x").write_text("x")
    if os.geteuid() == 0:
        os.chown(files / "x", 54321, 54322)
    member: Member = run(want(files / "x")).members[0]
    status = (files / "x").stat()
    assert (member.uid, member.gid) == (status.st_uid, status.st_gid)
    assert os.geteuid() != 0 or (member.user, member.group) == ("", "")
