"""Revisions: which commit a tree is a checkout of. Runs git, and nothing of a deploy depends on it."""

from __future__ import annotations

import os
import re
import subprocess
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

TIME_LIMIT = 2.0
"""seconds that git may take: no deploy waits longer to learn where it came from"""

_GIT = ("git", "--no-optional-locks", "-c", "core.fsmonitor=false")
"""it writes nothing, and starts nothing that the checkout's configuration names"""


def revision_of(root: Path) -> str:
    """Return the commit, with a `+` if the tree holds changes that are in none; empty where git tells of none.

    That may be because there is no git, no checkout or no commit, because the checkout is somebody else's
    ("dubious ownership"), or because git took too long.
    """
    # Where we are called by a hook, git's variables speak of another checkout.
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


def look_up(roots: Sequence[Path]) -> Callable[[], list[str]]:
    """Begin to ask for the revisions of trees; return what waits for them."""
    found = [""] * len(roots)

    def ask(number: int, root: Path) -> None:
        found[number] = revision_of(root)

    threads = [threading.Thread(target=ask, args=each, daemon=True) for each in enumerate(roots)]
    for thread in threads:
        thread.start()

    def answer() -> list[str]:
        for thread in threads:
            thread.join()
        return found

    return answer
