"""Staging: copies of files as they are now, from which an archive can be written in peace (J11, J12, J17)."""

import os
import stat
from typing import Dict, List, NamedTuple, Sequence, Set, Tuple

from ..archive.manifest import Member, printable
from ..disk import durable
from .replica import member_of, replicate
from .scan import Found, Scan, Wanted
from .source import Gone, NotStaged, size_at

BLOCK = 4096
"""bytes by which files grow on a disk"""


class Staged(NamedTuple):
    """What was staged."""

    members: Tuple[Member, ...]
    """sorted by path"""
    sources: Dict[str, str]
    """path of each member that is a file, and its staged copy"""
    problems: Tuple[str, ...]
    """each makes the backup not good"""
    notes: Tuple[str, ...]
    """what is not there and need not be, or was left out"""


def size_of(wanted: Sequence[Wanted], exclude: str = "") -> int:
    """Return how many bytes staging will take, as things are now (J3); never raises."""
    sizes: Dict[str, int] = {}
    for found in Scan(exclude).files(wanted):
        if stat.S_ISREG(found.status.st_mode):
            size = found.status.st_size + size_at(f"{found.path}-wal")
            sizes[found.path] = -(-size // BLOCK) * BLOCK
    return sum(sizes.values())


def stage(wanted: Sequence[Wanted], folder: str, when: str, former: Sequence[Member] = (), exclude: str = "") -> Staged:
    """Copy what is wanted into a directory of our own, which is made private, each path once.

    What is among the `former` members of the archive is not copied again, and what cannot be in one archive with them
    is left out: a problem if it is required. So is what lies below `exclude`, the backup directory. Everything is on
    the disk when this returns (J12, J17). Raises OSError if it cannot be written there: the disk is full (J3).
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
                scan.note(found.path, "is not a log and will not be emptied", found.wanted)
    durable.sync_directory(folder)
    members.sort(key=lambda member: member.path)
    return Staged(tuple(members), sources, tuple(scan.problems), tuple(scan.notes))


class _Displaced(NotStaged):
    """It cannot be in one archive with what is in it already."""


class _Tree:
    """Paths of members; takes only what can be in one tree with them.

    A file that a job replaced by a directory would stand above what is in that: no archive may hold it, and one
    member too many would cost the backup of the night (J13).
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
        """Take a member; raises _Displaced if a former one, NotStaged if another one stands against it."""
        leaf = not stat.S_ISDIR(found.status.st_mode)
        against = found.path if leaf and found.path in self._above else self._put(found.path, leaf=leaf)
        if against in self._former:
            kind = "a" if against == found.path else "no"
            raise _Displaced(
                f"is left out: `{printable(against)}` was {kind} directory before the jobs, and is saved so"
            )
        if against:
            raise NotStaged("is not what it was a moment ago: a directory came or went on the way to it")

    def _put(self, path: str, *, leaf: bool) -> str:
        """Keep a path and the directories above it; if one of those is something else, only return that."""
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
