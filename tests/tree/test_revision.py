"""Revisions as a real git tells them, and nothing where it does not."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from runsdeploy.tree import revision
from runsdeploy.tree.trust import Trust


def revision_of(root: Path) -> str:
    return revision.revision_of(root, Trust())


def look_up(roots: list[Path]) -> Callable[[], list[str]]:
    return revision.look_up(roots, Trust())


def git(root: Path, *words: str) -> str:
    named = ("-c", "user.name=a", "-c", "user.email=a@b")
    return subprocess.run(
        ["git", "-C", root, *named, *words], check=True, capture_output=True, text=True
    ).stdout.strip()


@pytest.fixture(autouse=True)
def _git_may_take_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(revision, "TIME_LIMIT", 60.0)


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make a tree in a checkout that holds more."""
    for name in [each for each in os.environ if each.startswith("GIT_")]:
        monkeypatch.delenv(name)
    root = tmp_path / "checkout" / "a tree"
    (root / "scripts").mkdir(parents=True)
    (root / "scripts/a").write_text("script:\n")
    (root.parent / "beside").write_text("1")
    git(root.parent, "init", "-q")
    git(root.parent, "add", "-A")
    git(root.parent, "commit", "-qm", "x")
    return root


def test_it_is_the_commit_and_says_whether_the_tree_holds_more(tree: Path):
    commit = git(tree, "rev-parse", "HEAD")
    assert revision_of(tree) == commit
    (tree.parent / "beside").write_text("2")
    assert revision_of(tree) == commit
    (tree / "new").write_text("1")
    assert revision_of(tree) == f"{commit}+"
    (tree / "new").unlink()
    (tree / "scripts/a").write_text("script:\ntrue\n")
    assert revision_of(tree) == f"{commit}+"
    git(tree, "commit", "-qam", "y")
    assert revision_of(tree) == git(tree, "rev-parse", "HEAD") != commit


def test_a_hooks_variables_do_not_lead_elsewhere(tree: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("GIT_DIR", "/nonexistent")
    monkeypatch.setenv("GIT_WORK_TREE", "/")
    assert revision_of(tree) == revision_of(tree)[:40] != ""


def test_nothing_that_the_checkouts_configuration_names_is_run(tree: Path):
    git(tree, "config", "core.fsmonitor", f"touch '{tree}/../ran'; false")
    assert revision_of(tree)
    assert not (tree.parent / "ran").exists()


def test_where_there_is_none_it_is_empty(tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "bare").mkdir()
    assert revision_of(tmp_path / "bare") == ""
    git(tmp_path / "bare", "init", "-q")
    assert revision_of(tmp_path / "bare") == ""
    assert revision_of(tmp_path / "nowhere") == ""
    monkeypatch.setenv("PATH", str(tmp_path))
    assert revision_of(tree) == ""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give directories away")
def test_a_checkout_of_somebody_else_tells_none(tree: Path):
    for path in (tree.parent, tree.parent / ".git"):
        os.chown(path, 12345, 12345)
    assert revision_of(tree) == ""


def test_a_git_that_hangs_is_not_waited_for(tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    program = tmp_path / "bin/git"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\nexec sleep 3600\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    monkeypatch.setattr(revision, "TIME_LIMIT", 0.2)
    began = time.monotonic()
    assert look_up([tree, tree])() == ["", ""]
    assert time.monotonic() - began < 60  # not an hour


def test_trees_are_told_in_their_order(tree: Path, tmp_path: Path):
    (tmp_path / "bare").mkdir()
    assert look_up([tmp_path / "bare", tree])() == ["", revision_of(tree)]
    assert look_up([])() == []


def test_git_is_not_asked_where_others_may_write_its_configuration(tree: Path):
    """Filters in it are programs that git runs."""
    (tree / "scripts/a").write_text("script:\nfalse\n")
    git(tree, "config", "filter.x.clean", f"touch '{tree}/../ran'; cat")
    (tree.parent / ".git/info/attributes").write_text("* filter=x\n")
    (tree.parent / ".git/config").chmod(0o666)
    assert revision_of(tree) == ""
    assert not (tree.parent / "ran").exists()
