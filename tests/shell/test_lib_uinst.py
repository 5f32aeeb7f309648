"""uinst: files, trees, lines, blocks, links, directories, modes, owners, removals."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

SAY = 'echo "$uinst_changed $uinst_any"'


def mode(path: Path) -> int:
    return path.lstat().st_mode & 0o7777


def names(directory: Path) -> list[str]:
    return sorted(p.name for p in directory.iterdir())


@pytest.mark.parametrize(
    "case",
    [
        ("uinst_file src dest", "changed: dest (new)"),
        ("uinst_file -m 4711 -o $(id -u):$(id -g) src dest", "changed: dest (new, mode 4711: no diff)"),
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
def test_changed_then_unchanged(bash, tmp_path: Path, snapshot, options: str, case: tuple[str, str]):
    call, line = case
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
    assert (tmp_path / "t" / name).read_bytes() == os.fsencode(f"b\n# BEGIN {line}\n{text}\n# END {line}\n{added}")
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
    bash("uinst_file plain a; uinst_file program b; uinst_line x c; uinst_dir d/e; uinst_text x f", umask=umask)
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
@pytest.mark.parametrize(("owner", "ids"), [("12345", (12345, 0)), (":54321", (0, 54321)), ("root:54321", (0, 54321))])
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
def test_with_follow_the_link_stays(bash, tmp_path: Path, snapshot, call: str):
    (tmp_path / "target").write_text("old\n")
    (tmp_path / "dest").symlink_to("target")
    before = snapshot(tmp_path)["target"]
    assert bash(call.format("-L", "dest")).status == 0
    assert (tmp_path / "dest").is_symlink()
    assert snapshot(tmp_path)["target"] != before


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
