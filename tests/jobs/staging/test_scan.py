"""What paths mean: whatever they are called and lead to (J12, J13)."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import socket
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from runsdeploy.jobs.staging.scan import Wanted
from runsdeploy.jobs.staging.staging import size_of
from tests.jobs.staged import ROOT, Stage, as_root, content, kinds, want

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


def test_J12_every_name_comes_through_with_its_content_and_attributes(files: Path, run: Stage):
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


def test_J12_a_directory_is_itself_and_all_below_it(files: Path, run: Stage):
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


def test_J12_a_path_deeper_than_recursion_goes_is_staged(files: Path, run: Stage):
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
def test_J12_what_is_missing_is_a_problem_only_if_required(files: Path, run: Stage, path: str):
    (files / "file").write_text("x")
    (files / "dangling").symlink_to("nowhere")
    optional = run(want(files / path))
    assert (len(optional.notes), optional.problems) == (1, ())
    required = run(want(files / path, required=True, why="job `sd`"))
    assert (len(required.problems), required.notes) == (1, ())
    assert f"`{files / path}`" in required.problems[0]
    assert "(for job `sd`)" in required.problems[0]


def test_J12_what_one_job_requires_is_a_problem_though_another_does_not(files: Path, run: Stage):
    staged = run(want(files / "x"), want(files / "x", required=True))
    assert (len(staged.problems), len(staged.notes)) == (1, 1)


@pytest.mark.parametrize("path", ["", "relative", "./x", "a/b", "/nul\0byte", "/lone\ud800surrogate", "/"])
def test_J12_what_is_no_absolute_path_is_a_problem_not_a_crash(run: Stage, path: str):
    staged = run(Wanted(path, required=False, truncate=False, why="job `test`"))
    assert len(staged.problems) == 1
    assert staged.members == ()
    assert size_of([Wanted(path, required=False, truncate=False, why="")]) == 0


def test_J12_a_path_is_staged_once_however_often_and_however_written_it_is_wanted(files: Path, run: Stage):
    (files / "d").mkdir()
    (files / "d/x").write_text("x")
    ways = ["d", "d/x", "d/x", "d/", "d/./x", "d//x", "d/../d/x", "."]
    staged = run(*(want(f"{files}/{way}") for way in ways), want(f"//{files}/d/x"))
    assert kinds(staged) == {str(files): "directory", f"{files}/d": "directory", f"{files}/d/x": "file"}
    assert staged.problems == staged.notes == ()


def test_J12_a_log_in_a_wanted_directory_is_emptied_later_if_it_is_named_itself(files: Path, run: Stage):
    (files / "log").write_text("line\n")
    (files / "other").write_text("x")
    staged = run(want(files), want(files / "log", truncate=True))
    assert {member.path: member.truncate for member in staged.members} == {
        str(files): False,
        f"{files}/log": True,
        f"{files}/other": False,
    }


def test_J12_of_a_directory_or_a_database_nothing_is_ever_emptied(files: Path, run: Stage):
    (files / "d").mkdir()
    (files / "d/x").write_text("x")
    with contextlib.closing(sqlite3.connect(files / "base")) as base:
        base.execute("create table t (x)")
    staged = run(want(files / "d", truncate=True), want(files / "base", truncate=True))
    assert not any(member.truncate for member in staged.members)
    assert len(staged.members) == 3
    assert len(staged.notes) == 2


# Links


def test_J12_a_link_is_a_link_and_what_it_points_to_is_there_under_its_own_path(files: Path, run: Stage):
    (files / "kommune.json").write_text("{}")
    (files / "settings.json").symlink_to("kommune.json")
    staged = run(want(files / "settings.json", required=True))
    assert kinds(staged) == {f"{files}/kommune.json": "file", f"{files}/settings.json": "link"}
    assert [member.target for member in staged.members] == ["", "kommune.json"]
    assert staged.problems == staged.notes == ()


def test_J12_chains_of_links_and_links_to_directories_are_followed(files: Path, run: Stage):
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


def test_J13_no_member_lies_behind_a_link(files: Path, run: Stage):
    (files / "real").mkdir()
    (files / "real/x").write_text("x")
    (files / "way").symlink_to("real")
    staged = run(want(files / "way/x", required=True), want(files / "way/../real/x"))
    assert kinds(staged) == {f"{files}/real/x": "file", f"{files}/way": "link"}


def test_J12_loops_of_links_end(files: Path, run: Stage):
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


def test_J12_a_link_to_nothing_is_kept(files: Path, run: Stage):
    (files / "dangling").symlink_to("nowhere")
    for wanted in (want(files), want(files / "dangling"), want(files / "dangling", required=True)):
        staged = run(wanted)
        assert kinds(staged)[f"{files}/dangling"] == "link"
        assert bool(staged.problems) == wanted.required
        assert "a dangling link" in " ".join(staged.problems + staged.notes)


def test_J12_hard_links_are_files(files: Path, run: Stage):
    (files / "a").write_text("same")
    os.link(files / "a", files / "b")
    staged = run(want(files))
    assert content(staged, files / "a") == content(staged, files / "b") == b"same"


# What is no file, or not ours to read


def test_J12_what_is_no_file_is_refused_where_named_and_left_out_where_met(files: Path, run: Stage):
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


def test_J12_a_sparse_file_keeps_its_size(files: Path, run: Stage):
    with (files / "sparse").open("wb") as file:
        file.truncate(20_000_000)
        file.seek(10_000_000)
        file.write(b"x")
    staged = run(want(files / "sparse"))
    assert content(staged, files / "sparse") == bytes(10_000_000) + b"x" + bytes(9_999_999)


def test_J12_the_backup_directory_is_never_entered(files: Path, run: Stage):
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
from runsdeploy.jobs.staging.staging import size_of, stage
from runsdeploy.jobs.staging.scan import Wanted
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
