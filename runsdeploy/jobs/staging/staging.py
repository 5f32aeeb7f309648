"""Staging: private copies of files as they are now; the archive is made from the copies (J11, J12, J17)."""

import os
import stat
from typing import Dict, List, NamedTuple, Sequence, Set, Tuple

from ..archive.manifest import Member, printable
from ..disk import durable
from .replica import member_of, replicate
from .scan import Found, Scan, Wanted
from .source import Gone, NotStaged, size_at

BLOCK = 4096
"""bytes of a disk block"""


class Staged(NamedTuple):
    """Result of staging."""

    members: Tuple[Member, ...]
    """sorted by path"""
    sources: Dict[str, str]
    """staged copy of each member that is a file, by the path of the member"""
    problems: Tuple[str, ...]
    """problems; each makes the backup not good"""
    notes: Tuple[str, ...]
    """files that are missing but not required, or were left out"""


def size_of(wanted: Sequence[Wanted], exclude: str = "") -> int:
    """Return how many bytes staging will need, as files are now (J3); never raises."""
    sizes: Dict[str, int] = {}
    for found in Scan(exclude).files(wanted):
        if stat.S_ISREG(found.status.st_mode):
            size = found.status.st_size + size_at(f"{found.path}-wal")
            sizes[found.path] = -(-size // BLOCK) * BLOCK
    return sum(sizes.values())


def stage(wanted: Sequence[Wanted], folder: str, when: str, former: Sequence[Member] = (), exclude: str = "") -> Staged:
    """Copy the wanted files into a private directory `folder`, each path once.

    Paths of `former` members of the archive are not copied again. Left out are files that cannot be in one archive with
    those, and files below `exclude`, the backup directory; that is a problem if they are required. All copies are on
    the disk when this returns (J12, J17). Raises OSError if a copy cannot be written, for example on a full disk (J3).
    """
    _make_private(folder)
    scan = Scan(exclude)
    tree = _Tree(former)
    members: List[Member] = []
    sources: Dict[str, str] = {}
    for found in scan.files(wanted):
        if found.path in tree:
            continue
        try:
            tree.add(found)
            if stat.S_ISREG(found.status.st_mode):
                copy = os.path.join(folder, str(len(sources) + 1))
                members.append(replicate(found, copy, when))
                sources[found.path] = copy
            else:
                members.append(member_of(found, found.status, when))
        except (Gone, _Displaced) as left:
            scan.absent(found.path, found.wanted, str(left), named=found.named)
        except NotStaged as left:
            scan.problem(found.path, str(left), found.wanted)
        else:
            if found.named and found.wanted.truncate and not (found.target or members[-1].truncate):
                scan.note(
                    found.path, "is not a log, or could be replaced by others, and will not be emptied", found.wanted
                )
    durable.sync_directory(folder)
    members.sort(key=lambda member: member.path)
    return Staged(tuple(members), sources, tuple(scan.problems), tuple(scan.notes))


class _Displaced(NotStaged):
    """A file cannot be in one archive with the former members."""


class _Tree:
    """Paths of members; accepts only a path that can be in one tree with the others.

    Example: a job replaces a file by a directory. The file, staged before, and the files of the directory cannot be in
    one archive, and the archive as a whole would be refused (J13).
    """

    def __init__(self, former: Sequence[Member]) -> None:
        self._paths: Set[str] = set()
        self._above: Set[str] = set()
        self._leaves: Set[str] = set()
        for member in former:
            self._put(member.path, leaf=member.kind != "directory")
        self._former = self._above | self._leaves

    def __contains__(self, path: str) -> bool:
        return path in self._paths

    def add(self, found: Found) -> None:
        """Add a path; raises _Displaced if a former member conflicts with it, NotStaged if another one does."""
        leaf = not stat.S_ISDIR(found.status.st_mode)
        against = found.path if leaf and found.path in self._above else self._put(found.path, leaf=leaf)
        if against in self._former:
            kind = "a" if against == found.path else "no"
            raise _Displaced(
                f"is left out: `{printable(against)}` was {kind} directory before the jobs, and is saved so"
            )
        if against:
            raise NotStaged("changed while it was staged: a directory on its path was made or removed")

    def _put(self, path: str, *, leaf: bool) -> str:
        """Add a path and its parent directories; if a parent is no directory, add nothing and return it."""
        new, above = [], os.path.dirname(path)
        while above != "/" and above not in self._above:
            if above in self._leaves:
                return above
            new.append(above)
            above = os.path.dirname(above)
        self._paths.add(path)
        self._above.update(new)
        if leaf:
            self._leaves.add(path)
        return ""


def _make_private(folder: str) -> None:
    try:
        os.mkdir(folder, 0o700)
    except FileExistsError:
        if os.path.islink(folder):
            raise
    os.chmod(folder, 0o700)
    durable.sync_directory(os.path.dirname(folder))
