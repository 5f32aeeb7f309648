"""uinst: files, trees, lines, blocks, links, directories, modes, owners, removals."""

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


def mode(path: Path) -> int:
    return path.lstat().st_mode & 0o7777


def names(directory: Path) -> list[str]:
    return sorted(p.name for p in directory.iterdir())


def snapshot(root: Path) -> dict[str, tuple[object, ...]]:
    """Everything that a second run must leave as it is, times of change included."""
    return {
        str(p.relative_to(root)): (p.lstat().st_ino, p.lstat().st_ctime_ns, p.lstat().st_mode)
        for p in [root, *root.rglob("*")]
    }


@pytest.mark.parametrize(
    ("call", "line"),
    [
        ("uinst_file src dest", "changed: dest (new)"),
        ("uinst_file -m 4711 -o "$(id -u):$(id -g)" src dest", "changed: dest (new, mode 4711: no diff)"),
        ("uinst_text text dest", "changed: dest (new)"),
        ("uinst_text '' dest", "changed: dest (new)"),
        ("uinst_tree tree dest", "changed: dest (entries: 5)"),
        ("uinst_line text dest", "changed: dest (new)"),
        ("uinst_line -r '^b' text file", "changed: file"),
        ("uinst_noline b file", "changed: file"),
        ("uinst_block name file text", "changed: file"),
        ("uinst_block -f src -m 600 name dest", "changed: dest (new, mode 0600: no diff)"),
        ("uinst_link src dest", "changed: dest (new)"),
        ("uinst_dir -m 2750 d/dest", "changed: d/dest (new)"),
        ("uinst_dir -m 750 dir", "changed: dir (mode 0755 -> 0750)"),
        ("uinst_mode 600 file", "changed: file (mode 0644 -> 0600)"),
        ("uinst_mode u+x,go-r file", "changed: file (mode 0644 -> 0700)"),
        ("uinst_absent file", "changed: file (removed)"),
        ("uinst_absent dir", "changed: dir (removed)"),
    ],
)
def test_changed_then_unchanged(bash, tmp_path: Path, options: str, call: str, line: str):
    (tmp_path / "src").write_text("x\ny\n")
    (tmp_path / "file").write_text("a\nb\nc\n")
    (tmp_path / "tree" / "sub").mkdir(parents=True)
    (tmp_path / "tree" / ".hidden").write_text("x\n")
    (tmp_path / "tree" / "sub" / "f").write_text("x\n")
    (tmp_path / "tree" / "link").symlink_to("no where")
    (tmp_path / "dir").mkdir()
    done = bash(f"{SAY}; {call}; {SAY}", options=options)
    said = done.out.split("\n")
    assert (done.status, done.err) == (0, "")
    assert said[0] == "no no"
    assert line in said
    assert [s for s in said if s.startswith(("changed:", "unchanged:"))] == [line]
    assert said[-2] == "yes yes"
    before = snapshot(tmp_path)
    again = bash(f"{call}; {SAY}", options=options)
    assert again == (0, f"un{line.partition(' (')[0]}\nno no\n", "")
    if "u+x" not in call:  # what letters lead to is known once chmod has done it
        assert snapshot(tmp_path) == before


def test_changed_is_of_the_last_operation_any_is_of_all(bash):
    assert bash(f"uinst_dir d >/dev/null; uinst_dir d; {SAY}").out == "unchanged: d\nno yes\n"


def test_odd_names_and_values(bash, tmp_path: Path, options: str, odd_name: str):
    name = odd_name
    script = """
    printf 'a\\n' >src
    uinst_dir d; cd d
    uinst_file -- ../src "$1"; uinst_file -- "$1" copy; uinst_line -r a -- b "$1"; uinst_link -- "$1" link
    uinst_block -- "$2" "$1" "$1"; uinst_mode -- 600 "$1"
    uinst_owner "$(id -u)" "$1"; uinst_line -- "$2" "$1"
    uinst_dir sub/"$1"; uinst_link -- "$1" sub/"$1"/"$1"; cd ..
    uinst_tree d t; uinst_absent d/"$1"
    """
    line = name.replace("\n", " ")
    done = bash(script, name, line, options=options)
    assert (done.status, done.err) == (0, "")
    added = "" if line in name.split("\n") else f"{line}\n"
    text = name.removesuffix("\n")
    assert (tmp_path / "t" / name).read_bytes() == os.fsencode(
        f"b\n# BEGIN {line}\n{text}\n# END {line}\n{added}"
    )
    assert str((tmp_path / "t" / "sub" / name / name).readlink()) == name
    assert not (tmp_path / "d" / name).exists()
    assert (tmp_path / "d" / "copy").read_text() == "a\n"
    lines = [s for s in done.out.split("\n") if s.startswith(("changed:", "unchanged:"))]
    assert len(lines) == 13


@pytest.mark.parametrize(("umask", "plain", "program"), [(0o022, 0o644, 0o755), (0o077, 0o600, 0o700)])
def test_modes_of_new_files_follow_the_umask(bash, tmp_path: Path, umask: int, plain: int, program: int):
    for name, bits in (("plain", 0o600), ("program", 0o700)):
        (tmp_path / name).write_text("x\n")
        (tmp_path / name).chmod(bits)
    bash(
        "uinst_file plain a; uinst_file program b; uinst_line x c; uinst_dir d/e; uinst_text x f", umask=umask
    )
    modes = {name: mode(tmp_path / name) for name in "abcdf"}
    assert modes == {"a": plain, "b": program, "c": plain, "d": program, "f": plain}
    bash("uinst_file -m 640 plain a2; uinst_dir -m 1777 d2; uinst_text -m 4755 x f2", umask=umask)
    assert [mode(tmp_path / n) for n in ("a2", "d2", "f2")] == [0o640, 0o1777, 0o4755]


@pytest.mark.parametrize("call", ["uinst_file src dest", "uinst_line new dest", "uinst_block n dest new"])
def test_mode_and_owner_of_an_existing_file_are_kept(bash, tmp_path: Path, call: str):
    (tmp_path / "src").write_text("x\n")
    dest = tmp_path / "dest"
    dest.write_text("old\n")
    if os.geteuid() == 0:
        os.chown(dest, 12345, 54321)
    dest.chmod(0o2710)
    before = dest.stat()
    assert bash(call, umask=0o077).status == 0
    after = dest.stat()
    assert dest.read_text() != "old\n"
    assert after.st_ino != before.st_ino
    assert (after.st_mode, after.st_uid, after.st_gid) == (before.st_mode, before.st_uid, before.st_gid)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
@pytest.mark.parametrize(
    ("owner", "ids"), [("12345", (12345, 0)), (":54321", (0, 54321)), ("root:54321", (0, 54321))]
)
def test_owner(bash, tmp_path: Path, owner: str, ids: tuple[int, int]):
    script = 'uinst_text -o "$1" x f; uinst_dir -o "$1" d; >g; uinst_owner "$1" g'
    assert bash(script, owner).status == 0
    assert {((tmp_path / n).stat().st_uid, (tmp_path / n).stat().st_gid) for n in "fdg"} == {ids}
    assert "\nchanged" not in "\n" + bash(script.replace(">g; ", ""), owner).out
    (tmp_path / "g").chmod(0o4755)
    bash('uinst_owner "$1" g', owner)
    assert mode(tmp_path / "g") == 0o4755


def test_a_diff_comes_after_the_line(bash, tmp_path: Path):
    (tmp_path / "dest").write_text("a\nb\n")
    out = bash("uinst_text $'a\\nc' dest").out
    assert out == "changed: dest\n--- dest\n+++ dest\n@@ -1,2 +1,2 @@\n a\n-b\n+c\n"


@pytest.mark.parametrize(
    "case",
    [
        (b"a\0b", 0o644, "", "changed: dest (binary)\n"),
        (b"secret\n", 0o600, "", "changed: dest (mode 0600: no diff)\n"),
        (b"text\n", 0o644, "-q", "changed: dest\n"),
    ],
)
def test_no_diff(bash, tmp_path: Path, case: tuple[bytes, int, str, str]):
    content, bits, option, line = case
    (tmp_path / "src").write_bytes(content)
    (tmp_path / "dest").write_bytes(b"old\n")
    (tmp_path / "dest").chmod(bits)
    assert bash(f"uinst_file {option} src dest") == (0, line, "")
    assert (tmp_path / "dest").read_bytes() == content


def test_a_long_diff_is_cut(bash):
    out = bash('uinst_text "$(seq 1000)" dest').out
    assert out.endswith("\n… (the rest is not shown)\n")
    assert out.count("\n") == 201


def test_backup(bash, tmp_path: Path):
    (tmp_path / "dest").write_text("old\n")
    (tmp_path / "dest").chmod(0o640)
    bash("uinst_text -b new dest; uinst_text -b new dest")
    assert (tmp_path / "dest~").read_text() == "old\n"
    assert mode(tmp_path / "dest~") == 0o640
    bash("uinst_link -b target dest")
    assert (tmp_path / "dest~").read_text() == "new\n"
    assert str((tmp_path / "dest").readlink()) == "target"


def test_a_directory_as_destination(bash, tmp_path: Path):
    (tmp_path / "d").mkdir()
    (tmp_path / "l").symlink_to("d")
    (tmp_path / "s").mkdir()
    (tmp_path / "s" / "f").write_text("x\n")
    for dest in ("d", "d/", "l/", "-L l"):
        assert bash(f"uinst_file {dest.rpartition(' ')[0]} s/f {dest.rpartition(' ')[2]}").status == 0, dest
        (tmp_path / "d" / "f").unlink()
    for dest in ("l", "gone/", "s/f/", "gone/f"):
        assert bash(f"uinst_file s/f {dest}").status == 1, dest
    assert (tmp_path / "l").is_symlink()


def test_a_link_is_replaced_not_followed(bash, tmp_path: Path):
    for name in ("target", "dest"):
        (tmp_path / "target").write_text("keep\n")
        if name == "dest":
            (tmp_path / name).symlink_to("target")
    assert bash("uinst_text new dest").out.startswith("changed: dest (was a link)\n")
    assert (tmp_path / "target").read_text() == "keep\n"
    assert not (tmp_path / "dest").is_symlink()


@pytest.mark.parametrize(
    "call",
    ["uinst_text {} new {}", "uinst_line {} new {}", "uinst_mode {} 600 {}", "uinst_block {} n {} new"],
)
def test_with_follow_the_link_stays(bash, tmp_path: Path, call: str):
    (tmp_path / "target").write_text("old\n")
    (tmp_path / "dest").symlink_to("target")
    before = snapshot(tmp_path)["target"]
    assert bash(call.format("-L", "dest")).status == 0
    assert (tmp_path / "dest").is_symlink()
    assert snapshot(tmp_path)["target"] != before


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
def test_what_would_go_through_a_link_fails(bash, tmp_path: Path, options: str, call: str):
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
def test_failures_say_why_and_change_nothing(bash, tmp_path: Path, options: str, call: str):
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


@pytest.mark.parametrize(
    "case",
    [
        (b"a\nb", "uinst_line c", b"a\nb\nc\n"),
        (b"a\nb", "uinst_line b", b"a\nb"),
        (b"a\nb\na\n", "uinst_line a", b"a\nb\n"),
        (b"x=1\ny\nx=2", "uinst_line -r ^x= x=3", b"x=3\ny\n"),
        (b"x=1", "uinst_line -r ^x= x=3", b"x=3"),
        (b"y\nx=3\nx=1\n", "uinst_line -r ^x=1 x=3", b"y\nx=3\n"),
        (b"\n\n", "uinst_line ''", b"\n"),
        (b"", "uinst_line '\\n%s'", b"\\n%s\n"),
        (b"a\r\na\n", "uinst_line a", b"a\r\na\n"),
        (b"\xff \xc3\n\x01\x7f\\", "uinst_line z", b"\xff \xc3\n\x01\x7f\\\nz\n"),
        (b"a\nb\na", "uinst_noline a", b"b\n"),
        (b"a\n", "uinst_noline a", b""),
        (b"b", "uinst_noline a", b"b"),
    ],
)
def test_lines(bash, tmp_path: Path, options: str, case: tuple[bytes, str, bytes]):
    before, call, after = case
    (tmp_path / "f").write_bytes(before)
    for changed in (before != after, False):
        done = bash(f"{call} f; {SAY}", options=options)
        assert (tmp_path / "f").read_bytes() == after
        assert done.out.endswith("yes yes\n" if changed else "no no\n")


@pytest.mark.parametrize(
    "case",
    [
        (b"a", "uinst_block n f x", b"a\n# BEGIN n\nx\n# END n\n"),
        (b"# BEGIN n\nold\n\n# END n\nb", "uinst_block n f $'x\\ny\\n'", b"# BEGIN n\nx\ny\n# END n\nb"),
        (b"# BEGIN n\nold\n# END n", "uinst_block n f ''", b"# BEGIN n\n# END n"),
        (b"# BEGIN m\nm\n# END m\n", "uinst_block n f x", b"# BEGIN m\nm\n# END m\n# BEGIN n\nx\n# END n\n"),
        (b"", "uinst_block -c // n f x", b"// BEGIN n\nx\n// END n\n"),
        (b"", "uinst_block -c '<!--' n f x", b"<!-- BEGIN n -->\nx\n<!-- END n -->\n"),
        (b"", "uinst_block -c '/*' n f x", b"/* BEGIN n */\nx\n/* END n */\n"),
        (b"a\n", "uinst_block -f src 'a [*] n' f", b"a\n# BEGIN a [*] n\n\xff\n\nx\n# END a [*] n\n"),
        (b"a\n# BEGIN n\nold\n# END n\nb\n", "uinst_noblock n f", b"a\nb\n"),
        (b"a\n# BEGIN n\nold\n# END n", "uinst_noblock n f", b"a\n"),
        (b"a", "uinst_noblock n f", b"a"),
    ],
)
def test_blocks(bash, tmp_path: Path, options: str, case: tuple[bytes, str, bytes]):
    before, call, after = case
    (tmp_path / "f").write_bytes(before)
    (tmp_path / "src").write_bytes(b"\xff\n\nx")
    for changed in (before != after, False):
        done = bash(f"{call}; {SAY}", options=options)
        assert (tmp_path / "f").read_bytes() == after
        assert done.out.endswith("yes yes\n" if changed else "no no\n")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("# BEGIN n\nx\n", "f: `# BEGIN n` without `# END n`"),
        ("x\n# END n\n", "f:2: `# END n` does not pair"),
        ("# BEGIN n\n# BEGIN n\n# END n\n", "f:2: `# BEGIN n` does not pair"),
        ("# BEGIN n\n# END n\n# BEGIN n\n# END n\n", "f:3: `# BEGIN n` does not pair"),
    ],
)
def test_markers_that_do_not_pair(bash, tmp_path: Path, options: str, text: str, message: str):
    (tmp_path / "f").write_text(text)
    for call in ("uinst_block n f x", "uinst_noblock n f"):
        done = bash(call, options=options)
        assert (done.status, done.out) == (1, "")
        assert message in done.err
    assert (tmp_path / "f").read_text() == text


def test_links(bash, tmp_path: Path):
    (tmp_path / "d").mkdir()
    done = bash("for t in d -x $'a\\nb\\n' d other; do uinst_link -- \"$t\" l; done; ls -A d")
    assert done.out == (
        "changed: l (new)\nchanged: l (was a link to d)\nchanged: l (was a link to -x)\n"
        "changed: l (was a link to $'a\\nb\\n')\nchanged: l (was a link to d)\n"
    )
    assert str((tmp_path / "l").readlink()) == "other"


def test_a_tree_deletes_nothing_and_says_what_differs(bash, tmp_path: Path):
    for name in ("s/a", "s/sub/b", "d/a", "d/own"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("new\n" if name == "s/sub/b" else "x\n")
    (tmp_path / "s" / "sub" / "run").write_text("x\n")
    (tmp_path / "s" / "sub" / "run").chmod(0o700)
    done = bash("uinst_tree -q -m 640 -d 2750 s d; uinst_tree -m 640 -d 2750 s d")
    assert done.out == (
        "   d (mode 0755 -> 2750)\n   d/a (mode 0644 -> 0640)\n   d/sub (new)\n   d/sub/b (new)\n"
        "   d/sub/run (new)\nchanged: d (entries: 5)\nunchanged: d\n"
    )
    assert (tmp_path / "d" / "own").read_text() == "x\n"
    assert (mode(tmp_path / "d" / "sub"), mode(tmp_path / "d" / "sub" / "b")) == (0o2750, 0o640)


@pytest.mark.parametrize(
    "call", ["uinst_tree . sub", "uinst_tree . ./sub/x", 'uinst_tree ../s "$PWD/sub/x"', "uinst_tree ../s ."]
)
def test_a_tree_is_not_copied_into_itself(bash, tmp_path: Path, call: str):
    (tmp_path / "s" / "sub").mkdir(parents=True)
    done = bash(call, cwd=tmp_path / "s")
    assert done.status == 1
    assert "is in the source" in done.err
    assert names(tmp_path / "s" / "sub") == []


def test_a_tree_does_not_write_through_links_of_the_destination(bash, tmp_path: Path):
    for name in ("s/sub/f", "outside/f", "d/x"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    (tmp_path / "d" / "sub").symlink_to("../outside")
    assert bash("uinst_tree s d").status == 1
    assert (tmp_path / "outside" / "f").read_text() == "outside/f"


def test_absent_removes_a_link_and_not_what_it_leads_to(bash, tmp_path: Path):
    (tmp_path / "d").mkdir()
    (tmp_path / "l").symlink_to("d")
    (tmp_path / "root").symlink_to("/")
    assert bash("uinst_absent l/ root").out == "changed: l (removed)\nchanged: root (removed)\n"
    assert names(tmp_path) == ["d"]


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
