"""uinc: include directives."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize(
    "directive",
    [
        "#@include part",
        ";@include part",
        "//@include part",
        "--@include part",
        "%@include part",
        "<!--@include part-->",
        "<!--@include part  -->",
        "/*@include part */",
        " \t#@include \t part \t",
        "#@include part\r",
    ],
)
def test_directives(bash, tmp_path: Path, options: str, directive: str):
    (tmp_path / "part").write_bytes(b"one\ntwo\n")
    (tmp_path / "main").write_bytes(f"a\n{directive}\nb\n".encode())
    assert bash("uinc main", options=options) == (0, "a\none\ntwo\nb\n", "")


@pytest.mark.parametrize(
    "line", ["# @include x", "#@included x", "x #@include x", "@include x", "##@include x", "#@INCLUDE x"]
)
def test_what_is_not_a_directive_stays(bash, tmp_path: Path, options: str, line: str):
    (tmp_path / "main").write_text(f"{line}\n")
    assert bash("uinc main", options=options).out == f"{line}\n"


@pytest.mark.parametrize(
    ("main", "part", "result"),
    [
        (b"#@include part", b"x\n", b"x\n"),
        (b"#@include part", b"x", b"x"),
        (b"#@include part\nb", b"x", b"x\nb"),
        (b"#@include part\nb\n\n\n", b"x\n\n", b"x\n\nb\n\n\n"),
        (b"a\n#@include part\nb", b"", b"a\nb"),
        (b"", b"", b""),
        (b"\n", b"", b"\n"),
        (
            b"\xff\xfe\x01\x7f\\n%s \xc3\n#@include part\n",
            b"\xe9\r\n \xc3",
            b"\xff\xfe\x01\x7f\\n%s \xc3\n\xe9\r\n \xc3\n",
        ),
    ],
)
def test_bytes_and_last_lines_are_kept(bash, tmp_path: Path, main: bytes, part: bytes, result: bytes):
    (tmp_path / "main").write_bytes(main)
    (tmp_path / "part").write_bytes(part)
    assert os.fsencode(bash("uinc main").out) == result
    assert bash("uinc main out") == (0, "", "")
    assert (tmp_path / "out").read_bytes() == result


def test_beside_the_including_file_then_in_the_path(bash, tmp_path: Path, options: str):
    for name, text in {
        "main": "#@include sub/x\n",
        "sub/x": "#@include y\n#@include z\n",
        "sub/y": "sub y\n",
        "one two/y": "path y\n",
        "one two/z": "path z\n",
        "y": "top y\n",
    }.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    assert bash('uinc_path=(nowhere "one two"); uinc main', options=options).out == "sub y\npath z\n"


def test_odd_names(bash, tmp_path: Path, odd_line: str):
    directory = tmp_path / "d"
    directory.mkdir()
    (directory / odd_line).write_text("odd\n")
    (directory / "main").write_bytes(b"#@include " + os.fsencode(odd_line) + b"\n")
    assert bash('uinc main; uinc -- "$1"', odd_line, cwd=directory).out == "odd\nodd\n"


@pytest.mark.parametrize(
    ("main", "message"),
    [
        ("a\n#@include gone\n", "main:2: `gone` not found"),
        ("#@include /gone\n", "main:1: `/gone` not found"),
        ("#@include .\n", "main:1: `.` not found"),
        ("\n\n#@include main\n", "main:3: a cycle: main -> main"),
        ("#@include loop\n", "loop:1: a cycle: loop -> loop2"),
        ("#@include\n", "main:1: no name"),
        ("<!--@include x\n", "main:1: no name, or no end of comment"),
        ("#@include nul\n", "nul: cannot be read, or holds a NUL"),
    ],
)
def test_errors_name_the_line_and_nothing_comes_out(bash, tmp_path: Path, options: str, main: str, message: str):
    (tmp_path / "loop").write_text("#@include loop2\n")
    (tmp_path / "loop2").symlink_to("loop")
    (tmp_path / "nul").write_bytes(b"a\0b\n")
    (tmp_path / "main").write_text(main)
    (tmp_path / "out").write_text("old")
    for call in ("uinc main", "uinc main out"):
        done = bash(call, options=options)
        assert (done.status, done.out) == (1, "")
        assert message in done.err
    assert (tmp_path / "out").read_text() == "old"


def test_the_same_file_twice_is_no_cycle(bash, tmp_path: Path):
    (tmp_path / "part").write_text("x\n")
    (tmp_path / "main").write_text("#@include part\n#@include part\n")
    assert bash("uinc main").out == "x\nx\n"


def test_output_keeps_its_mode_and_is_left_alone_when_the_same(bash, tmp_path: Path):
    (tmp_path / "main").write_text("x\n")
    out = tmp_path / "out"
    out.write_text("old")
    out.chmod(0o640)
    bash("uinc main out")
    before = out.stat()
    bash("uinc main out")
    after = out.stat()
    assert (after.st_mode & 0o7777, after.st_ino, after.st_mtime_ns) == (
        0o640,
        before.st_ino,
        before.st_mtime_ns,
    )
    assert sorted(p.name for p in tmp_path.iterdir()) == ["main", "out"]


def test_output_may_be_the_file_itself(bash, tmp_path: Path):
    (tmp_path / "part").write_text("x\n")
    (tmp_path / "main").write_text("#@include part\n")
    bash("uinc main main")
    assert (tmp_path / "main").read_text() == "x\n"


@pytest.mark.parametrize(
    "call",
    ["uinc", "uinc a b c", "uinc gone", "uinc ''", "uinc .", "uinc main .", "uinc main x/y", "uinc main ''"],
)
def test_bad_calls_fail(bash, tmp_path: Path, call: str):
    (tmp_path / "main").write_text("x\n")
    done = bash(call, options="")
    assert done.status in {1, 2}
    assert done.err.startswith("!! error: ")
    assert [p.name for p in tmp_path.iterdir()] == ["main"]
