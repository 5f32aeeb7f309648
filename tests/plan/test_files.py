"""Files that steps refer to: what is taken, what is refused (R32, R33)."""

from __future__ import annotations

import hashlib
import os
import threading
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from runsdeploy.errors import InputError, Position
from runsdeploy.plan.files import CHUNK, collect, content_file, destination, digest_of
from runsdeploy.tree.trees import Trees

PLACE = Position("scripts/web", 3)


@pytest.fixture
def trees(tmp_path: Path) -> Trees:
    for name in ("one/scripts", "two", "outside"):
        (tmp_path / name).mkdir(parents=True)
    return Trees((tmp_path / "one", tmp_path / "two"))


def taken(trees: Trees, inside: str = "scripts/ref") -> tuple[dict[str, str], list[str]]:
    """Return kinds by path, and messages."""
    files, problems = collect(trees, trees.located(0, *inside.split("/")), PLACE)
    assert all(problem.position == PLACE for problem in problems)
    return {file.path: file.kind for file in files}, [problem.message for problem in problems]


def test_a_file_is_taken_with_its_mode_size_and_digest(trees: Trees):
    path = trees.roots[0] / "scripts/ref"
    path.write_bytes(b"content")
    path.chmod(0o4754)
    files, problems = collect(trees, trees.located(0, "scripts/ref"), PLACE)
    assert problems == []
    digest = hashlib.sha256(b"content").hexdigest()
    assert [(f.path, f.kind, f.mode, f.size, f.digest, f.source) for f in files] == [
        ("tree0/scripts/ref", "file", 0o754, 7, digest, path)
    ]
    with path.open("rb") as file:
        assert digest_of(file.fileno(), 7) == digest


def test_a_directory_is_taken_with_all_below_it(trees: Trees):
    root = trees.roots[0] / "scripts/ref"
    (root / "sub/empty").mkdir(parents=True)
    (root / ".hidden").write_text("x")
    (root / "sub/file~").write_text("x")
    assert taken(trees) == (
        {
            "tree0/scripts/ref": "directory",
            "tree0/scripts/ref/.hidden": "file",
            "tree0/scripts/ref/sub": "directory",
            "tree0/scripts/ref/sub/empty": "directory",
            "tree0/scripts/ref/sub/file~": "file",
        },
        [],
    )


def test_r32_names_of_any_bytes_are_taken_as_they_are(trees: Trees):
    root = trees.roots[0] / "scripts/ref"
    root.mkdir()
    names = [
        b"a b",
        b"-rf",
        b"--",
        b"new\nline",
        b"'\"`$(id)",
        b"\xe9\xff",
        b"a" * 255,
        b"*",
        b"\\",
        b"\x01\x1b",
        b"...",
    ]
    for name in names:
        (root / os.fsdecode(name)).write_text("x")
    files, problems = taken(trees)
    assert problems == []
    assert {os.fsencode(path) for path in files} == {b"tree0/scripts/ref", *(b"tree0/scripts/ref/" + n for n in names)}


@pytest.mark.parametrize("target", ["{one}/scripts/other", "other", "../scripts/other", "{two}/other"])
def test_r33_a_link_that_is_referred_to_is_followed_inside_of_the_trees(trees: Trees, target: str):
    one, two = trees.roots
    (one / "scripts/other").write_text("x")
    (two / "other").write_text("x")
    (one / "scripts/ref").symlink_to(target.format(one=one, two=two))
    assert taken(trees) == ({"tree0/scripts/ref": "file"}, [])


def test_r33_links_inside_of_a_directory_are_kept_as_links(trees: Trees):
    root = trees.roots[0] / "scripts/ref"
    root.mkdir()
    (root / "file").write_text("x")
    (root / "near").symlink_to("file")
    (root / "dangling").symlink_to("nowhere")
    (root / "up").symlink_to("..")
    files, problems = collect(trees, trees.located(0, "scripts/ref"), PLACE)
    assert problems == []
    links = {file.path.rpartition("/")[2]: file.target for file in files if file.kind == "link"}
    assert links == {"near": "file", "dangling": "nowhere", "up": ".."}


OUTSIDE = ["/etc/passwd", "../../../outside", "{tmp}/outside/file", "../../../gone"]


@pytest.mark.parametrize("target", OUTSIDE)
def test_r33_r35_a_link_that_is_referred_to_and_leads_out_of_the_trees_is_an_error_that_names_it(
    trees: Trees, tmp_path: Path, target: str
):
    link = trees.roots[0] / "scripts/ref"
    link.symlink_to(target.format(tmp=tmp_path))
    files, problems = taken(trees)
    assert files == {}
    assert len(problems) == 1
    assert str(link) in problems[0]
    assert "leads out of the trees" in problems[0]


@pytest.mark.parametrize("target", [*OUTSIDE, "/opt/app/releases/1", "/dev/zero", "../pipe"])
def test_r33_a_link_in_a_directory_is_shipped_wherever_it_leads_and_nothing_is_read_through_it(
    trees: Trees, tmp_path: Path, target: str
):
    """D18: `current -> /opt/app/releases/1` is meant for the target."""
    link = trees.roots[0] / "scripts/ref/link"
    link.parent.mkdir()
    os.mkfifo(trees.roots[0] / "scripts/pipe")
    link.symlink_to(target.format(tmp=tmp_path))
    files, problems = collect(trees, trees.located(0, "scripts/ref"), PLACE)
    assert problems == []
    assert [(file.path, file.target, file.digest) for file in files[1:]] == [
        ("tree0/scripts/ref/link", target.format(tmp=tmp_path), "")
    ]


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("a/x", "a/x"),
        ("a/current/x", "a/releases/1/x"),
        ("a/current", "a/releases/1"),
        ("a/up/b", "b"),
        ("a/out/x", None),
        ("a/absolute/x", None),
        ("a/loop/x", None),
        ("a/twice/x", "a/releases/1/x"),
    ],
)
def test_the_destination_of_a_path_behind_links(path: str, expected: str | None):
    """D18: only what is shipped itself may be found behind a link."""
    links = {
        "a/current": "releases/1",
        "a/up": "..",
        "a/out": "../../x",
        "a/absolute": "/opt",
        "a/loop": "loop",
        "a/twice": "./current",
    }
    assert destination(path, links) == expected


def _recording(call: Callable[..., int], names: list[object], path: object, *more: int, **how: int) -> int:
    names.append(path)
    return call(path, *more, **how)


def test_the_work_for_a_directory_grows_with_its_files(trees: Trees, monkeypatch: pytest.MonkeyPatch):
    """D24: one look-up and one open for each file, by its name alone."""
    root = trees.roots[0] / "scripts/ref"
    counts = []
    for number in (0, 1):
        (root / f"d{number}/e").mkdir(parents=True)
        for each in range(50):
            (root / f"d{number}/e/f{each}").write_text("x")
        opened: list[object] = []
        record = partial(_recording, os.open, opened)
        monkeypatch.setattr(os, "open", record)
        assert len(taken(trees)[0]) == 1 + 52 * (number + 1)
        monkeypatch.undo()
        counts.append(len([path for path in opened if str(path).startswith(("f", "d", "e"))]))
    assert counts == [52, 104]


def test_each_ref_of_a_directory_looks_up_and_opens_as_much_as_the_one_before(
    trees: Trees, monkeypatch: pytest.MonkeyPatch
):
    """D24: what leads to the directory is vouched for once; of each file, its own entry is looked up."""
    trees = Trees(trees.roots, trusted=False)
    (trees.roots[0] / "scripts/a/b/c/d").mkdir(parents=True)
    for each in range(60):
        (trees.roots[0] / f"scripts/a/b/c/d/f{each}").write_text("x")
    counted: Counter[str] = Counter()

    def counting(name: str) -> Callable[..., object]:
        real = getattr(os, name)

        def count(*words: object, **options: object) -> object:
            counted[name] += 1
            return real(*words, **options)

        return count

    for name in ("lstat", "stat", "readlink", "open", "fstat", "read", "close", "listdir", "scandir"):
        monkeypatch.setattr(os, name, counting(name))
    sums = []
    for each in range(60):
        counted.clear()
        assert collect(trees, trees.located(0, f"scripts/a/b/c/d/f{each}"), PLACE)[1] == []
        sums.append(dict(counted))
    monkeypatch.undo()
    assert all(each == sums[1] for each in sums[2:])
    assert sums[1]["lstat"] <= 3
    assert sums[1]["read"] == sums[1]["fstat"] == 1
    assert sums[1]["open"] == sums[1]["close"] <= 7


def test_r34_what_is_checked_is_what_is_read(trees: Trees, monkeypatch: pytest.MonkeyPatch):
    """D24: the owner and mode that count are those of the open file, not of what had its name before."""
    path = trees.roots[0] / "scripts/ref/file"
    path.parent.mkdir()
    path.write_text("x")
    real = os.open

    def exchange(name: str, *words: int, **options: int) -> int:
        if name == "file":
            path.unlink()
            path.write_text("evil")
            path.chmod(0o666)
        return real(name, *words, **options)

    monkeypatch.setattr(os, "open", exchange)
    with pytest.raises(InputError, match="others may write it"):
        taken(Trees(trees.roots, trusted=False))


def test_a_link_in_a_directory_is_vouched_for_itself_not_what_it_leads_to(trees: Trees, tmp_path: Path):
    """D18, D24: nothing is read through it."""
    (tmp_path / "theirs").write_text("x")
    (tmp_path / "theirs").chmod(0o666)
    (trees.roots[0] / "scripts/ref").mkdir()
    (trees.roots[0] / "scripts/ref/link").symlink_to(tmp_path / "theirs")
    found = taken(Trees(trees.roots, trusted=False))
    assert found == ({"tree0/scripts/ref": "directory", "tree0/scripts/ref/link": "link"}, [])


def test_a_digest_is_that_of_all_bytes_whatever_size_was_expected(tmp_path: Path):
    for length in (0, 1, 7, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK):
        data = os.urandom(length)
        (tmp_path / "file").write_bytes(data)
        for size in (0, length, max(length - 1, 0), length + 5):
            with (tmp_path / "file").open("rb") as file:
                assert digest_of(file.fileno(), size) == hashlib.sha256(data).hexdigest()


def test_r33_a_link_to_an_allowed_place_is_no_error(trees: Trees, tmp_path: Path):
    (tmp_path / "outside/file").write_text("x")
    (trees.roots[0] / "scripts/ref").symlink_to(tmp_path / "outside/file")
    assert taken(Trees(trees.roots, (tmp_path / "outside",))) == ({"tree0/scripts/ref": "file"}, [])


@pytest.mark.parametrize("inside", ["scripts/ref", "scripts/ref/fifo"])
def test_r33_a_fifo_is_an_error_and_is_not_opened(trees: Trees, inside: str):
    path = trees.roots[0] / inside
    path.parent.mkdir(exist_ok=True)
    os.mkfifo(path)
    files, problems = taken(trees)
    assert f"tree0/{inside}" not in files
    assert ["cannot be shipped" in message for message in problems] == [True]


def test_r33_a_directory_exchanged_for_a_link_all_the_time_lets_nothing_from_outside_in(trees: Trees, tmp_path: Path):
    """Whatever moment it is read in: what is sent later must have the digest that is told here."""
    inside, away, link = trees.roots[0] / "scripts/ref/sub", tmp_path / "away", tmp_path / "link"
    inside.mkdir(parents=True)
    (inside / "file").write_text("ours")
    (tmp_path / "outside/file").write_text("a secret")
    link.symlink_to(tmp_path / "outside")
    over = threading.Event()

    def exchange() -> None:
        while not over.is_set():
            for one, other in ((inside, away), (link, inside), (inside, link), (away, inside)):
                one.rename(other)

    thread = threading.Thread(target=exchange)
    thread.start()
    digests: set[str] = set()
    try:
        for _ in range(3000):
            digests |= {file.digest for file in collect(trees, trees.located(0, "scripts/ref"), PLACE)[0]}
    finally:
        over.set()
        thread.join()
    assert digests - {""} == {hashlib.sha256(b"ours").hexdigest()}


@pytest.mark.parametrize("inside", ["scripts/ref", "scripts/ref/loop"])
def test_r33_a_loop_of_links_is_no_crash(trees: Trees, inside: str):
    path = trees.roots[0] / inside
    path.parent.mkdir(exist_ok=True)
    path.symlink_to(path.name)
    files, problems = taken(trees)
    assert len(problems) == 1 or files[f"tree0/{inside}"] == "link"


def test_r33_a_dangling_link_that_is_referred_to_is_an_error(trees: Trees):
    (trees.roots[0] / "scripts/ref").symlink_to("nowhere")
    files, problems = taken(trees)
    assert files == {}
    assert "no such file" in problems[0]


def test_a_directory_that_cannot_be_read_is_an_error(trees: Trees, mocker):
    (trees.roots[0] / "scripts/ref").mkdir()
    mocker.patch("os.listdir", side_effect=PermissionError(13, "Permission denied"))
    assert "permission denied" in taken(trees)[1][0]


def test_only_the_bit_for_execution_of_a_mode_counts_in_digests():
    identities = {content_file("f", b"x", mode).identity for mode in (0o644, 0o600, 0o664)}
    assert len(identities) == 1
    assert content_file("f", b"x", 0o755).identity not in identities
    assert content_file("f", b"y").identity not in identities
    assert content_file("g", b"x").identity not in identities
