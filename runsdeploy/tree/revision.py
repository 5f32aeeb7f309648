"""Revisions: the commit that a tree is a checkout of. Runs git; nothing else of a deploy depends on the result."""

from __future__ import annotations

import os
import re
import subprocess
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from runsdeploy.tree.trust import Trust

TIME_LIMIT = 2.0
"""seconds that git may take: no deploy waits longer for its revision"""

_GIT = ("git", "--no-optional-locks", "-c", "core.fsmonitor=false")
"""with these options it writes nothing, and starts no program that the checkout's configuration names"""


def revision_of(root: Path, trust: Trust) -> str:
    """Return the commit, with a `+` if the tree holds uncommitted changes; empty if git reports no commit.

    git reports none if there is no git, no checkout or no commit, if the checkout belongs to another user ("dubious
    ownership"), or if it takes longer than TIME_LIMIT. It is not asked where another user could have written the
    checkout's configuration: filters in it are programs that git runs. git itself looks only at the owner.
    """
    with suppress(OSError, UnicodeError):
        if any(trust.owner_problems(file) for file in _configuration(root)):
            return ""
    # If a git hook called us, git's variables name another checkout.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    try:
        done = subprocess.run(
            [*_GIT, "-C", str(root), "status", "--porcelain=v2", "--branch", "--", "."],
            env={**environment, "LC_ALL": "C"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=TIME_LIMIT,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    commit = re.search(rb"^# branch\.oid ([0-9a-f]{40,64})$", done.stdout, re.MULTILINE)
    changed = re.search(rb"^[^#]", done.stdout, re.MULTILINE)
    return commit[1].decode() + ("+" if changed else "") if commit else ""


def _configuration(root: Path) -> Iterator[Path]:
    """Yield the files that configure git for a directory, each before what it leads to."""
    real = Path(os.path.realpath(root))
    top = next((each for each in (real, *real.parents) if (each / ".git").exists()), None)
    if top is None:
        return
    folder = top / ".git"
    yield folder
    if folder.is_file():  # of a worktree or submodule, gitrepository-layout(5)
        folder = top / folder.read_text().removeprefix("gitdir: ").rstrip("\n")
        yield folder
    common = folder / "commondir"
    yield common
    folders = [folder, *([folder / common.read_text().rstrip("\n")] if common.exists() else [])]
    for each in folders:
        yield from (each / "config", each / "config.worktree")
        yield from (Path(inner, "config") for inner, _, files in os.walk(each / "modules") if "config" in files)


def look_up(roots: Sequence[Path], trust: Trust) -> Callable[[], list[str]]:
    """Start to look up the revisions of trees in the background; return the function that waits for them."""
    found = [""] * len(roots)

    def run(number: int, root: Path) -> None:
        # A checker of its own: that of the trees is in use.
        found[number] = revision_of(root, Trust(any_owner=trust.any_owner))

    threads = [threading.Thread(target=run, args=each, daemon=True) for each in enumerate(roots)]
    for thread in threads:
        thread.start()

    def wait() -> list[str]:
        for thread in threads:
            thread.join()
        return found

    return wait
