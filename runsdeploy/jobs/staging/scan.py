"""Scans: find the files that the wanted paths of a backup lead to (J12).

A path is followed component by component. A symbolic link on the way becomes a member of its own, and its target is
found under its real path. So a restore never has to write through a link.
"""

import errno
import os
import stat
from typing import Dict, Iterator, List, NamedTuple, Sequence, Set, Tuple

from ..archive.manifest import printable
from ..errors import reason
from .database import database_of
from .source import is_file_at

MOST_LINKS = 40
"""links on the path of one file, the same limit as in the kernel"""

_ODD_KINDS = (
    (stat.S_ISFIFO, "fifo"),
    (stat.S_ISLNK, "link by now"),
    (stat.S_ISSOCK, "socket"),
    (stat.S_ISBLK, "block device"),
    (stat.S_ISCHR, "character device"),
)


class Wanted(NamedTuple):
    """A file, or a directory with all its contents, that belongs in the backup."""

    path: str
    """absolute"""
    required: bool
    """without it the backup is not good"""
    truncate: bool
    """a log: it may grow while it is copied, and is truncated later; ignored for directories and databases"""
    why: str
    """which job or setting names it, for messages"""


class Found(NamedTuple):
    """One file, link or directory that a wanted path leads to."""

    path: str
    """real path; the last component may be a link"""
    status: os.stat_result
    target: str
    wanted: Wanted
    named: bool
    """whether a wanted path leads to it directly, not only as contents of a directory"""


class Scan:
    """Finds the files that wanted paths lead to, and collects problems."""

    def __init__(self, exclude: str) -> None:
        self.problems: Dict[str, None] = {}
        self.notes: Dict[str, None] = {}
        self._exclude = os.path.realpath(exclude) if exclude else ""
        self._entered: Set[str] = set()

    def files(self, wanted: Sequence[Wanted]) -> Iterator[Found]:
        """Yield all files, some more than once; logs to truncate come first, so that they are staged as such."""
        for each in sorted(wanted, key=lambda each: not each.truncate):
            if each.path.startswith("/"):
                yield from self._resolve(each)
            else:
                self.problem(each.path, "is not an absolute path", each)

    def problem(self, path: str, what: str, wanted: Wanted) -> None:
        """Add a problem, which makes the backup not good."""
        self.problems[f"`{printable(path)}` {what} (for {wanted.why})"] = None

    def note(self, path: str, what: str, wanted: Wanted) -> None:
        """Add a note for the log."""
        self.notes[f"`{printable(path)}` {what} (for {wanted.why})"] = None

    def absent(self, path: str, wanted: Wanted, what: str, *, named: bool) -> None:
        """Add that a file is missing: a problem if it is required, else a note."""
        (self.problem if named and wanted.required else self.note)(path, what, wanted)

    def _resolve(self, wanted: Wanted) -> Iterator[Found]:
        todo = [("", wanted.path, True)]
        while todo:
            above, rest, named = todo.pop()
            links: List[Tuple[str, os.stat_result, str]] = []
            try:
                path, status = _follow(above, rest, links)
            except (OSError, ValueError) as error:
                path, status = "", None
                self._unreachable(f"{above}/{rest}" if above else rest, error, wanted, named=named)
            yield from (Found(*link, wanted, named) for link in links)
            if status is None or self._reject(path, status, wanted, named=named):
                continue
            base = database_of(path) if stat.S_ISREG(status.st_mode) else ""
            if base:
                self.note(path, f"is left out: the copy of the database `{printable(base)}` has what is in it", wanted)
                todo.append(("", base, named))
            elif not stat.S_ISDIR(status.st_mode):
                yield Found(path, status, "", wanted, named)
            elif path not in self._entered:
                self._entered.add(path)
                yield Found(path, status, "", wanted, named)
                todo += [(path, name, False) for name in self._names(path, wanted)]

    def _names(self, path: str, wanted: Wanted) -> List[str]:
        try:
            return sorted(os.listdir(path), reverse=True)
        except OSError as error:
            self.problem(path, f"cannot be read: {reason(error)}", wanted)
            return []

    def _unreachable(self, path: str, error: Exception, wanted: Wanted, *, named: bool) -> None:
        if not isinstance(error, OSError):
            self.problem(path, "is not a valid path", wanted)
        elif error.errno in (errno.ENOENT, errno.ENOTDIR):
            broken = os.path.islink(path)
            self.absent(path, wanted, "is a dangling link" if broken else "is missing", named=named)
        elif error.errno == errno.ELOOP:
            self.absent(path, wanted, "is a loop of links", named=named)
        else:
            self.problem(path, f"cannot be read: {reason(error)}", wanted)

    def _reject(self, path: str, status: os.stat_result, wanted: Wanted, *, named: bool) -> bool:
        """Return whether a file is never staged; adds a problem if it is wanted by name, else a note."""
        why = next((f"is a {name}, expected a file" for test, name in _ODD_KINDS if test(status.st_mode)), "")
        if not path:
            why, path = "is the root directory, expected a part of it", "/"
        elif self._exclude and (
            f"{path}/".startswith(f"{self._exclude}/")
            or (stat.S_ISDIR(status.st_mode) and is_file_at(status, self._exclude))
        ):
            why = "is left out: it is in the backup directory"
        if why:
            (self.problem if named else self.note)(path, why, wanted)
        return bool(why)


def _follow(above: str, rest: str, links: List[Tuple[str, os.stat_result, str]]) -> Tuple[str, os.stat_result]:
    """Return the real path of `rest` below a real directory (empty for `/`), and its status; adds links on the way."""
    path, todo = above, rest.split("/")[::-1]
    status = None
    while todo:
        part = todo.pop()
        if part in ("", "."):
            continue
        if part == "..":
            path, status = path.rpartition("/")[0], None
            continue
        # One lstat only: the file that was classified and the file that is reported are the same.
        status = os.lstat(f"{path}/{part}")
        if not stat.S_ISLNK(status.st_mode):
            path = f"{path}/{part}"
            continue
        target = os.readlink(f"{path}/{part}")
        links.append((f"{path}/{part}", status, target))
        if len(links) > MOST_LINKS:
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
        path, status = "" if target.startswith("/") else path, None
        todo += target.split("/")[::-1]
    return path, status or os.lstat(path or "/")
