"""The commit of a git checkout, read from its files: programs of another checkout must not run to learn it."""

import os
import re

from ..disk import trust

_COMMIT = re.compile(r"[0-9a-f]{40}([0-9a-f]{24})?")
_BRANCH = re.compile(r"ref: (refs/[!-~]+)")
_LARGEST = 1024 * 1024
"""bytes of a file that are read"""


def commit_of(folder: str) -> str:
    """Return the commit that is checked out in a directory; empty if there is none, or others could have written it."""
    git = os.path.join(folder, ".git")
    head = _read(os.path.join(git, "HEAD")).strip()
    branch = _BRANCH.fullmatch(head)
    if branch and ".." not in branch.group(1):
        head = _read(os.path.join(git, branch.group(1))).strip() or _packed(git, branch.group(1))
    return head if _COMMIT.fullmatch(head) else ""


def _packed(git: str, branch: str) -> str:
    for line in _read(os.path.join(git, "packed-refs")).splitlines():
        commit, _, name = line.partition(" ")
        if name == branch:
            return commit
    return ""


def _read(path: str) -> str:
    if not os.path.isfile(path) or trust.problems(path):
        return ""
    try:
        with open(path, "rb") as file:
            return file.read(_LARGEST).decode("ascii", "replace")
    except OSError:
        return ""
