"""Trust: whether a file may be used, because it lies in the trees and no other user could have written it.

A tree is code, as a Makefile is. So links that lead out of the trees, and files of other users, are not used.
"""

from __future__ import annotations

import errno
import os
import shlex
import stat
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import IO

from msgspec import Struct, field

from runsdeploy.errors import InputError, Position, Problem, display_path


def owner_problem(path: Path) -> Problem | None:
    """Return a problem if another user could have written a file or directory; of a link, only its owner counts.

    Write permission of the group is no problem: where each user has a group of their own, checkouts have it.
    """
    try:
        found = path.lstat()
    except OSError:
        return None  # reading it reports the error
    me, sudo = os.geteuid(), os.environ.get("SUDO_UID", "")
    # As in git: a user who may become root may let root run their tree.
    owners = {0, me, int(sudo) if me == 0 and sudo.isdecimal() else 0}
    every, word = "-R " if stat.S_ISDIR(found.st_mode) else "", shlex.quote(display_path(path))
    if found.st_uid not in owners:
        message = f"belongs to user {found.st_uid}, not to you or root"
        repair = f"as root `chown {every}{me} {word}`"
    elif found.st_mode & stat.S_IWOTH and not stat.S_ISLNK(found.st_mode):
        message, repair = "others may write it", f"`chmod {every}o-w {word}`"
    else:
        return None
    hint = f"{repair}, or if you trust every user who can write there: `--trust`"
    return Problem(Position(display_path(path)), f"{message}: a tree is code", hint)


class Trust(Struct, frozen=True, dict=True):
    """What is trusted, and which paths were checked already."""

    roots: tuple[Path, ...]
    """of the trees"""
    allowed: tuple[Path, ...]
    """places outside the trees that links may lead to, named by the operator"""
    any_owner: bool
    """whether files that other users could have written are used too"""
    _checked: set[Path] = field(default_factory=set)
    """paths that no other user could have written"""

    @cached_property
    def _tops(self) -> frozenset[Path]:
        """The trees and the allowed places, links followed."""
        return frozenset(Path(os.path.realpath(each)) for each in (*self.roots, *self.allowed))

    def _top(self, real: Path) -> Path | None:
        """Return the tree or allowed place that a path without links lies in."""
        return next((top for top in self._tops if top == real or top in real.parents), None)

    # --- location ----------------------------------------------------------------------------------

    def contains(self, path: Path) -> bool:
        """Say whether a path, links followed, lies in the trees or the allowed places."""
        # Not Path.resolve, which raises on a loop of links.
        return self._top(Path(os.path.realpath(path))) is not None

    def outside_problem(self, path: Path, what: str = "", position: Position | None = None) -> Problem | None:
        """Return a problem if a path leads out of the trees.

        `what` names it in the message, instead of the path; `position` is where it is used.
        """
        if self.contains(path):
            return None
        real = os.path.realpath(path)
        message = f"{what or f'`{display_path(path)}`'} leads out of the trees, to `{real}`"
        hint = f"if this is intended, allow it by name: `--allow {shlex.quote(real)}`"
        return Problem(position or Position(display_path(path)), message, hint)

    def open(self, path: Path) -> IO[bytes]:
        """Open a file of the trees or the allowed places for reading; raises OSError for any other.

        Links are resolved first, and then no link is followed: a directory that becomes a link meanwhile is an error.
        """
        return os.fdopen(self.descriptor(path), "rb")

    def descriptor(self, path: Path) -> int:
        """Open a file or directory as `open` does; return its descriptor, which the caller closes."""
        real = Path(os.path.realpath(path))
        top = self._top(real)
        if top is None:
            raise OSError(errno.EXDEV, "leads out of the trees", str(path))
        descriptor = os.open(top, os.O_RDONLY | os.O_NONBLOCK)
        for part in real.relative_to(top).parts:
            above = descriptor
            try:
                descriptor = os.open(part, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW, dir_fd=above)
            finally:
                os.close(above)
        return descriptor

    # --- owner -------------------------------------------------------------------------------------

    def check_owner(self, path: Path) -> None:
        """Raise InputError if another user could have written a path; its problems are those of all such files."""
        if self.any_owner or path in self._checked:
            return
        # A user who can write a directory above can put another file there.
        for each in (path, Path(os.path.realpath(path))):
            chain = (each, *each.parents)
            top = max((n for n, above in enumerate(chain) if above in self._tops or above in self.roots), default=-1)
            for inside in reversed(chain[: top + 1]):
                problem = None if inside in self._checked else owner_problem(inside)
                if problem:
                    raise InputError([problem, *self._owner_problems()])
                self._checked.add(inside)

    def check_owner_below(self, path: Path) -> None:
        """Check the owner of a path and, if it is a directory, of everything in it."""
        self.check_owner(path)
        for folder, folders, files in os.walk(path) if not self.any_owner else ():
            for name in (*folders, *files):
                self.check_owner(Path(folder, name))

    def _owner_problems(self) -> Iterator[Problem]:
        """Yield the problems of all files in the trees, but none below a directory with one: one repair does both."""
        for root in self.roots:
            if problem := owner_problem(root):
                yield problem
                continue
            for folder, folders, files in os.walk(root):
                names = sorted(name for name in (*folders, *files) if not name.startswith("."))
                found = {name: owner_problem(Path(folder, name)) for name in names}
                yield from filter(None, found.values())
                folders[:] = [name for name in folders if name in found and not found[name]]
