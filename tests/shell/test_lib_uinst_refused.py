"""uinst: what is refused, and what a failure leaves behind: what there was."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

OPERATIONS = [
    "file",
    "text",
    "tree",
    "line",
    "noline",
    "block",
    "noblock",
    "link",
    "dir",
    "mode",
    "owner",
    "absent",
]
SAY = 'echo "$uinst_changed $uinst_any"'
LIBRARIES = Path(__file__).parents[2] / "runsdeploy" / "shell" / "lib"


def names(directory: Path) -> list[str]:
    return sorted(p.name for p in directory.iterdir())


@pytest.mark.parametrize(
    "call",
    [
        "uinst_line x l",
        "uinst_noline x l",
        "uinst_block n l x",
        "uinst_noblock n l",
        "uinst_mode 600 l",
        "uinst_owner 0 l",
        "uinst_dir l",
        "uinst_tree d l",
        "uinst_file f l",
    ],
)
def test_what_would_go_through_a_link_fails(bash, tmp_path: Path, snapshot, options: str, call: str):
    (tmp_path / "d").mkdir()
    (tmp_path / "f").write_text("x\n")
    (tmp_path / "l").symlink_to("d")
    before = snapshot(tmp_path)
    done = bash(call, options=options)
    assert (done.status, done.out) == (1, "")
    assert "is a link" in done.err
    assert snapshot(tmp_path) == before


@pytest.mark.parametrize(
    "call",
    [
        "uinst_file gone x",
        "uinst_file d x",
        "uinst_file f d2",
        "uinst_file f f/x",
        "uinst_file f ''",
        "uinst_file '' f",
        "uinst_file f fifo",
        "uinst_file -b f2 f",
        "uinst_file -m 999 f x",
        "uinst_file -o no-such-user f x",
        "uinst_text x d",
        "uinst_tree f d",
        "uinst_tree gone d",
        "uinst_tree d f",
        "uinst_tree d d",
        "uinst_tree d d/d/d",
        "uinst_tree odd x",
        "uinst_line $'a\\nb' f",
        "uinst_line -r '(' x f",
        "uinst_line x d",
        "uinst_line x nul",
        "uinst_line x f/x",
        "uinst_noline x d",
        "uinst_block '' f x",
        "uinst_block $'a\\nb' f x",
        "uinst_block n d x",
        "uinst_block n f '# END n'",
        "uinst_block -f nul n f",
        "uinst_link x d",
        "uinst_link x f",
        "uinst_link x f/x",
        "uinst_dir f",
        "uinst_dir f/x",
        "uinst_dir ''",
        "uinst_mode 600 gone",
        "uinst_mode zz f",
        "uinst_owner 0 gone",
        "uinst_owner no-such-user f",
        "uinst_absent /",
        "uinst_absent ''",
        "uinst_absent .",
        "uinst_absent ..",
        "uinst_absent ./",
        "uinst_absent d/..",
        "uinst_absent //",
        "uinst_absent /usr/..",
        'uinst_absent "$PWD"',
        "uinst_absent f ''",
        "uinst_absent f /./",
    ],
)
def test_failures_say_why_and_change_nothing(bash, tmp_path: Path, snapshot, options: str, call: str):
    for directory in ("d", "d2/f", "f~"):
        (tmp_path / directory).mkdir(parents=True)
    (tmp_path / "f").write_text("x\n")
    (tmp_path / "f2").write_text("y\n")
    (tmp_path / "nul").write_bytes(b"a\0b\n")
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "odd").mkdir()
    os.mkfifo(tmp_path / "odd" / "fifo")
    before = {name for name in snapshot(tmp_path) if not name.startswith("x")}
    done = bash(f"{call} || {{ echo status $?; {SAY}; exit 3; }}", options=options)
    assert done.status == 3
    assert done.out.splitlines()[-2] == "status 1"
    assert "!! error: uinst_" in done.err or "!! error: cannot write in" in done.err
    if "odd" not in call:
        assert done.out == "status 1\nno no\n"
        assert {name for name in snapshot(tmp_path) if not name.startswith("x")} == before
    assert (tmp_path / "f").read_text() == "x\n"


@pytest.mark.parametrize("name", OPERATIONS)
def test_bad_calls_show_the_usage(bash, options: str, name: str):
    for words in (
        "",
        "-z a b c",
        "a b c d -m" if name in {"file", "text", "tree", "line", "noline", "link"} else "-z",
    ):
        done = bash(f"uinst_{name} {words} || exit", options=options)
        assert (done.status, done.out) == (2, "")
        assert done.err.startswith(f"!! error: usage: uinst_{name} ")


def test_empty_options_are_bad_calls(bash):
    for call in (
        "uinst_text -m '' a b",
        "uinst_text -o '' a b",
        "uinst_line -r '' a b",
        "uinst_mode '' .",
        "uinst_owner '' .",
    ):
        assert bash(call).status == 2, call


def test_a_failure_ends_a_strict_script(bash):
    assert bash("uinst_file gone x; echo alive").out == ""


def test_after_a_failure_in_the_middle_what_changed_is_known(bash):
    assert bash(f"uinst_dir a /dev/null/b || {SAY}").out == "changed: a (new)\nyes yes\n"


def test_killed_while_writing_leaves_the_old_file_and_nothing_else(tmp_path: Path):
    (tmp_path / "dest").write_text("old\n")
    script = (
        f"for l in DEFAULTS uinst; do . '{LIBRARIES}'/$l.sh; done; "
        "_file_replace() { echo $BASHPID; exec 1>&-; sleep 9 & wait; }; uinst_text -q new dest"
    )
    with subprocess.Popen(["bash", "-c", script], cwd=tmp_path, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        pid = int(child.stdout.readline())
        assert len(names(tmp_path)) == 2
        os.kill(pid, signal.SIGTERM)
        assert child.wait(5) != 0
    for _ in range(50):
        if names(tmp_path) == ["dest"]:
            break
        time.sleep(0.1)
    assert names(tmp_path) == ["dest"]
    assert (tmp_path / "dest").read_text() == "old\n"


def test_a_full_disk_leaves_the_old_file(bash, tmp_path: Path):
    (tmp_path / "dest").write_text("old\n")
    done = bash("ulimit -f 1; trap '' XFSZ; uinst_text -q \"$(seq 9999)\" dest")
    assert (done.status, done.out) == (1, "")
    assert "dest: cannot be written" in done.err
    assert (names(tmp_path), (tmp_path / "dest").read_text()) == (["dest"], "old\n")
