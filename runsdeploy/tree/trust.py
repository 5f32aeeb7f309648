"""Trust: whether a file is one to use at all, because it lies in the trees and is the operator's own.

A tree is code, as a Makefile is: what leads out of it, and what somebody else could have written, is not used.
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

from runsdeploy.errors import InputError, Position, Problem, shown


def foreign(path: Path) -> Problem | None:
    """Say that somebody else could have written a file or directory, if so; a link says nothing of what it leads to.

    Where each user has a group of his own, checkouts are writable for the group: that counts for nothing.
    """
    try:
        found = path.lstat()
    except OSError:
        return None  # whoever reads it says what is wrong
    me, sudo = os.geteuid(), os.environ.get("SUDO_UID", "")
    # As git does: whoever may become root may have root run his tree.
    owners = {0, me, int(sudo) if me == 0 and sudo.isdecimal() else 0}
    every, word = "-R " if stat.S_ISDIR(found.st_mode) else "", shlex.quote(shown(path))
    if found.st_uid not in owners:
        message = f"belongs to user {found.st_uid}, not to you or root"
        repair = f"as root `chown {every}{me} {word}`"
    elif found.st_mode & stat.S_IWOTH and not stat.S_ISLNK(found.st_mode):
        message, repair = "others may write it", f"`chmod {every}o-w {word}`"
    else:
        return None
    hint = f"{repair}, or if you trust whoever may write there: `--trust`"
    return Problem(Position(shown(path)), f"{message}: a tree is code", hint)


class Trust(Struct, frozen=True, dict=True):
    """What is trusted, and what was looked at already."""

    roots: tuple[Path, ...]
    """of the trees"""
    allowed: tuple[Path, ...]
    """places outside the trees that links may lead to, because the operator said so"""
    everybody: bool
    """whether it does not matter who else may write there"""
    _vouched: set[Path] = field(default_factory=set)
    """what was looked at and is the operator's own"""

    @cached_property
    def _tops(self) -> frozenset[Path]:
        """The trees and the allowed places, links followed."""
        return frozenset(Path(os.path.realpath(each)) for each in (*self.roots, *self.allowed))

    def _top(self, real: Path) -> Path | None:
        """Return the tree or allowed place that a path without links lies in."""
        return next((top for top in self._tops if top == real or top in real.parents), None)

    # --- where it lies -----------------------------------------------------------------------------

    def holds(self, path: Path) -> bool:
        """Say whether a path, links followed, stays in the trees and the allowed places."""
        # Not Path.resolve, which raises on a loop of links.
        return self._top(Path(os.path.realpath(path))) is not None

    def outside(self, path: Path, what: str = "", position: Position | None = None) -> Problem | None:
        """Say that a path leads out of the trees, if so: as `what`, and where; else by the path itself."""
        if self.holds(path):
            return None
        real = os.path.realpath(path)
        message = f"{what or f'`{shown(path)}`'} leads out of the trees, to `{real}`"
        hint = f"if that is meant, allow it by name: `--allow {shlex.quote(real)}`"
        return Problem(position or Position(shown(path)), message, hint)

    def opened(self, path: Path) -> IO[bytes]:
        """Open a file of the trees or the allowed places for reading; raises OSError for any other.

        Links are followed first, then none: a directory that becomes a link meanwhile leads nowhere.
        """
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
        return os.fdopen(descriptor, "rb")

    # --- who could have written it -----------------------------------------------------------------

    def vouch(self, path: Path) -> None:
        """Raise InputError, with all that is not the operator's own, if somebody else could have written a path."""
        if self.everybody or path in self._vouched:
            return
        # Whoever may write a directory above may put another file there.
        for each in (path, Path(os.path.realpath(path))):
            chain = (each, *each.parents)
            top = max((n for n, above in enumerate(chain) if above in self._tops or above in self.roots), default=-1)
            for inside in reversed(chain[: top + 1]):
                problem = None if inside in self._vouched else foreign(inside)
                if problem:
                    raise InputError([problem, *self._foreign()])
                self._vouched.add(inside)

    def vouch_below(self, path: Path) -> None:
        """Vouch for a path and, if it is a directory, for all in it."""
        self.vouch(path)
        for folder, folders, files in os.walk(path) if not self.everybody else ():
            for name in (*folders, *files):
                self.vouch(Path(folder, name))

    def _foreign(self) -> Iterator[Problem]:
        """Yield all that is not the operator's own; what lies below is repaired with it."""
        for root in self.roots:
            if problem := foreign(root):
                yield problem
                continue
            for folder, folders, files in os.walk(root):
                names = sorted(name for name in (*folders, *files) if not name.startswith("."))
                found = {name: foreign(Path(folder, name)) for name in names}
                yield from filter(None, found.values())
                folders[:] = [name for name in folders if name in found and not found[name]]
