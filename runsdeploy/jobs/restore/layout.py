"""Layouts: where each member of a restore goes on this machine, and what is there now; settled before it begins."""

import grp
import os
import pwd
import secrets
from collections import Counter
from typing import Any, Callable, Dict, Iterable, List, NamedTuple, Optional, Sequence, Tuple

from ..archive.extraction import KEPT_MODE_BITS
from ..archive.manifest import Member, native, portable, printable
from ..errors import Fault
from . import destination
from .destination import ABSENT, FileState

_LONGEST_PATH = 4095
_SHOWN = 40
"""characters of a file's name in the names of what lies beside it: 255 bytes are the most a name can have"""
_UNKNOWN_DIRECTORY = 0o755
"""mode of a directory that is needed and that the archive does not have"""


class Request(NamedTuple):
    """What to take from which archive, and where it goes."""

    archive: str
    """path"""
    root: str
    """directory that stands for `/`"""
    members: Tuple[Member, ...]
    positions: Tuple[int, ...]
    """of the members in the archive"""
    parents: Tuple[Member, ...]
    """directories that the archive has, for those that must be made"""


class Slot(NamedTuple):
    """One file or link to be replaced, or a file to be removed."""

    member: Member
    """with the owner and mode that it gets here; of the kind `absent` if the file goes"""
    position: int
    """of the member in the archive; -1 if it is not from there"""
    anchor: str
    """real path of the nearest directory that existed: what is staged and kept lies there"""
    parent: str
    """real path of the directory that it goes to"""
    name: str
    staged: str
    kept: str
    old: Optional[FileState]
    """what was there; None if nothing was"""

    @property
    def real(self) -> str:
        """Return where it goes."""
        return os.path.join(self.parent, self.name)


class Folder(NamedTuple):
    """One directory that is made, or gets another owner or mode."""

    path: str
    """as the archive names it"""
    real: str
    mode: int
    uid: int
    gid: int
    old: Optional[Tuple[int, int, int]]
    """mode, owner and group that it had; None if it did not exist"""


class Layout(NamedTuple):
    """All that is to be done, settled before anything is."""

    request: Request
    slots: Tuple[Slot, ...]
    folders: Tuple[Folder, ...]
    """those above come first"""

    @property
    def reals(self) -> List[str]:
        """Return all places, sorted."""
        places = [slot.real for slot in self.slots] + [folder.real for folder in self.folders]
        return sorted(places, key=os.fsencode)


def make_layout(request: Request) -> Layout:
    """Return what a request comes to on this machine now; raises Fault if something is in the way. Changes nothing."""
    root = os.path.realpath(request.root)
    if not os.path.isdir(root):
        raise Fault(f"`{printable(request.root)}` is no directory, expected one to restore to")
    token = secrets.token_hex(6)
    slots: List[Slot] = []
    folders: Dict[str, Folder] = {}
    known = {member.path: _localized(member, root) for member in (*request.parents, *request.members)}
    for member, position in zip(request.members, request.positions):
        parent = _parent(root, member.path)
        _add_missing(folders, member.path, parent, known)
        if member.kind == "directory":
            _add_folder(folders, parent, known[member.path])
        else:
            slots.append(_slot(known[member.path], position, parent, f"{token}{len(slots)}"))
    for slot, name in stale_companions(slots):
        slots.append(_removal(slot, name, f"{token}{len(slots)}"))
    made = Layout(request, tuple(slots), tuple(folders[real] for real in sorted(folders)))
    _check(made)
    return made


def look_up(directory: str, member: Member) -> Slot:
    """Return where a file or link goes below a directory, and what is there; raises Fault if it cannot."""
    root = os.path.realpath(directory)
    return _slot(_localized(member, root), -1, _parent(root, member.path), "")


def count_changes(layout: Layout) -> int:
    """Return how many files, links and directories of the archive a layout comes to."""
    chosen = {member.path for member in layout.request.members}
    places = sum(slot.member.kind != ABSENT for slot in layout.slots)
    return places + sum(folder.path in chosen for folder in layout.folders)


def stale_companions(slots: Sequence[Slot]) -> List[Tuple[Slot, str]]:
    """Return files beside databases that would be played back into what is in their places, and that are no slots.

    Each with the slot that it lies beside. A log of the former database would spoil the one that is restored.
    """
    known = {slot.real for slot in slots}
    files = [slot for slot in slots if slot.member.kind == "file"]
    found = [(slot, name) for slot in files for name in destination.companions(slot.parent, slot.name)]
    return [(slot, name) for slot, name in found if os.path.join(slot.parent, name) not in known]


def encode(layout: Layout) -> Any:
    """Return a layout as JSON; it is read again by `decode` only, from a directory that is ours alone."""
    request = layout.request._asdict()
    slots = [slot._asdict() for slot in layout.slots]
    return _each({"request": dict(request), "slots": slots, "folders": layout.folders}, portable)


def decode(document: Any) -> Layout:
    """Return the layout; raises ValueError, KeyError or TypeError if it is none."""
    found = _each(document, native)
    request = {**found["request"], "positions": tuple(found["request"]["positions"])}
    for key in ("members", "parents"):
        request[key] = tuple(Member(*fields) for fields in request[key])
    slots = [
        Slot(**{**slot, "member": Member(*slot["member"]), "old": slot["old"] and FileState(*slot["old"])})
        for slot in found["slots"]
    ]
    folders = [
        Folder(path, real, mode, uid, gid, old and (old[0], old[1], old[2]))
        for path, real, mode, uid, gid, old in found["folders"]
    ]
    return Layout(Request(**request), tuple(slots), tuple(folders))


def list_paths(paths: Sequence[str]) -> str:
    """Return some paths for a message."""
    more = f" and {len(paths) - 5} more" if len(paths) > 5 else ""  # noqa: PLR2004  (so many can be taken in)
    return ", ".join(f"`{printable(path)}`" for path in paths[:5]) + more


def _each(document: Any, change: Callable[[str], str]) -> Any:
    """Return JSON with all its strings changed; tuples become lists."""
    if isinstance(document, str):
        return change(document)
    if isinstance(document, dict):
        return {key: _each(value, change) for key, value in document.items()}
    if isinstance(document, (list, tuple)):
        return [_each(value, change) for value in document]
    return document


def _localized(member: Member, root: str) -> Member:
    """Return a member with the owner it has on this machine, by name if there is one, and without setuid (J13).

    Below another root, for a look or a drill, only root can give files away, and others own what they look at.
    """
    if root != "/" and os.geteuid() != 0:
        return member._replace(mode=member.mode & KEPT_MODE_BITS, uid=os.geteuid(), gid=os.getegid())

    def number(find: Callable[[str], int], name: str, otherwise: int) -> int:
        try:
            return find(name)
        except (KeyError, ValueError):
            return otherwise

    uid = number(lambda name: pwd.getpwnam(name).pw_uid, member.user, member.uid)
    gid = number(lambda name: grp.getgrnam(name).gr_gid, member.group, member.gid)
    return member._replace(mode=member.mode & KEPT_MODE_BITS, uid=uid, gid=gid)


def _parent(root: str, path: str) -> str:
    """Return the real path of the directory that a path goes to; raises Fault if it leads out of the root (J13)."""
    if len(os.fsencode(root + path)) > _LONGEST_PATH:
        raise Fault(f"`{printable(path[:100])}...` is too long a path, at most {_LONGEST_PATH} bytes are possible")
    above = root
    for part in path.split("/")[1:-1]:
        above = os.path.join(above, part)
        if os.path.lexists(above) and not os.path.isdir(above):
            raise Fault(
                f"`{printable(above)}` is in the way of `{printable(path)}`: expected a directory", "move it away"
            )
    real = os.path.realpath(above)
    if real != root and not real.startswith(root.rstrip("/") + "/"):
        text = f"`{printable(path)}` would go to `{printable(real)}`, outside of `{printable(root)}`"
        raise Fault(text, "move the link away that leads there")
    return real


def _slot(member: Member, position: int, parent: str, token: str) -> Slot:
    """Return a slot; raises Fault if what is there cannot be replaced."""
    name = os.path.basename(member.path)
    found = destination.state(parent, name)
    if found and found.kind not in ("file", "link"):
        real = os.path.join(parent, name)
        raise Fault(f"`{printable(real)}` is a {found.kind}, the archive has a {member.kind} there", "move it away")
    beside = f".{name[:_SHOWN]}.{token}"
    return Slot(member, position, _anchor(parent), parent, name, beside + ".restore", beside + ".undo", found)


def _removal(slot: Slot, name: str, token: str) -> Slot:
    """Return a slot for a file that lies beside another one and goes."""
    path = os.path.join(os.path.dirname(slot.member.path), name)
    owner = (os.geteuid(), os.getegid(), "", "")
    gone = Member(path, slot.member.when, ABSENT, 0, *owner, 0, 0, "", "", truncate=False)
    return _slot(gone, -1, slot.parent, token)


def _anchor(real: str) -> str:
    """Return the nearest directory that exists."""
    while not os.path.isdir(real):
        real = os.path.dirname(real)
    return real


def _add_missing(folders: Dict[str, Folder], path: str, real: str, known: Dict[str, Member]) -> None:
    """Add the directories above a path that do not exist."""
    while real not in folders and not os.path.isdir(real):
        path = os.path.dirname(path)
        if path in known:
            member = known[path]
            folders[real] = Folder(path, real, member.mode, member.uid, member.gid, None)
        else:
            folders[real] = Folder(path, real, _UNKNOWN_DIRECTORY, os.geteuid(), os.getegid(), None)
        real = os.path.dirname(real)


def _add_folder(folders: Dict[str, Folder], parent: str, member: Member) -> None:
    """Add a directory of the archive; one that is reached by a link here stays as it is."""
    real = os.path.join(parent, os.path.basename(member.path))
    if os.path.islink(real) and os.path.isdir(real):
        return
    found = destination.state(parent, os.path.basename(real))
    if found and found.kind != "directory":
        raise Fault(f"`{printable(real)}` is a {found.kind}, the archive has a directory there", "move it away")
    old = (found.mode, found.uid, found.gid) if found else None
    folders[real] = Folder(member.path, real, member.mode, member.uid, member.gid, old)


def _check(layout: Layout) -> None:
    """Raise Fault for what would fail once it is too late: names that clash or are too long, not enough space."""
    twice = sorted(real for real, count in Counter(layout.reals).items() if count > 1)
    if twice:
        raise Fault(f"several members lead to {list_paths(twice)}", "choose one of them")
    _check_names(layout)
    _check_owners(layout)
    _check_space(layout.slots)


def _check_names(layout: Layout) -> None:
    """Raise Fault for a name that the file system does not take; each directory that is made is looked at by itself."""
    longest: Dict[str, int] = {}
    for real in layout.reals:
        parent, name = os.path.split(real)
        if parent not in longest:
            exists = os.path.isdir(parent)
            longest[parent] = os.pathconf(parent, "PC_NAME_MAX") if exists else longest[os.path.dirname(parent)]
        if len(os.fsencode(name)) > longest[parent]:
            raise Fault(f"`{printable(real)}` is too long a name here, at most {longest[parent]} bytes are possible")


def _check_owners(layout: Layout) -> None:
    """Raise Fault if files belong to others and only root may make them so."""
    groups = {os.getegid(), *os.getgroups()}
    owners = [(slot.real, slot.member.uid, slot.member.gid) for slot in layout.slots]
    owners += [(folder.real, folder.uid, folder.gid) for folder in layout.folders]
    foreign = [real for real, uid, gid in owners if uid != os.geteuid() or gid not in groups]
    if foreign and os.geteuid() != 0:
        raise Fault(f"{list_paths(foreign)} would belong to another user or group", "restore as root")


def _check_space(slots: Iterable[Slot]) -> None:
    """Raise Fault if the files cannot all be staged: also what keeps a bomb from a full disk (S17)."""
    needed: Dict[int, int] = {}
    free: Dict[int, int] = {}
    for slot in slots:
        device = os.stat(slot.anchor).st_dev
        if device not in free:
            system = os.statvfs(slot.anchor)
            free[device] = system.f_bavail * system.f_frsize
        needed[device] = needed.get(device, 0) + slot.member.size
        if needed[device] > free[device]:
            room = f"{needed[device]} bytes and more needed, {free[device]} are free"
            text = f"no room beside `{printable(slot.real)}`: {room}"
            raise Fault(text, "free some, or choose fewer paths")
