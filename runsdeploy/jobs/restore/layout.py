"""Layouts: the destination of each member of a restore, and what is there now; made before anything is changed."""

import grp
import os
import pwd
import secrets
from collections import Counter
from typing import Any, Callable, Dict, Iterable, List, NamedTuple, Optional, Sequence, Tuple

from ..archive.extraction import KEPT_MODE_BITS
from ..archive.known_state import KNOWN, Suspect
from ..archive.manifest import Member, native, portable, printable
from ..errors import Fault
from . import destination
from .destination import ABSENT, FileState

_LONGEST_PATH = 4095
_SHOWN = 40
"""characters of a file name that are used in the names of its staged and kept files; a name has at most 255 bytes"""
_UNKNOWN_DIRECTORY = 0o755
"""mode of a parent directory that must be made and is not in the archive"""


class Request(NamedTuple):
    """Which members to restore, from which archive, and below which directory."""

    archive: str
    """path"""
    root: str
    """directory that stands for `/`"""
    members: Tuple[Member, ...]
    positions: Tuple[int, ...]
    """indexes of the members in the archive"""
    parents: Tuple[Member, ...]
    """directories of the archive that are parents of members; used if they must be made"""
    suspect: Optional[Suspect] = None
    """what is recorded about the state when it is restored (J26); None if that does not change: files were selected"""
    former: Suspect = KNOWN
    """what was recorded before; an undo records it again"""


class Slot(NamedTuple):
    """One file or link to replace or create, or a file to remove."""

    member: Member
    """with the owner and mode for this machine; of the kind `absent` if the file is removed"""
    position: int
    """index of the member in the archive; -1 if it is not from there"""
    anchor: str
    """real path of the nearest existing directory; staged and kept files are put there"""
    parent: str
    """real path of its directory"""
    name: str
    staged: str
    kept: str
    old: Optional[FileState]
    """the former file; None if there was none"""

    @property
    def real(self) -> str:
        """Return the path of the destination."""
        return os.path.join(self.parent, self.name)


class Folder(NamedTuple):
    """One directory to make, or to give another owner or mode."""

    path: str
    """as the archive names it"""
    real: str
    mode: int
    uid: int
    gid: int
    old: Optional[Tuple[int, int, int]]
    """its former mode, owner and group; None if it did not exist"""


class Layout(NamedTuple):
    """All changes of a restore."""

    request: Request
    slots: Tuple[Slot, ...]
    folders: Tuple[Folder, ...]
    """parents come first"""

    @property
    def reals(self) -> List[str]:
        """Return all destinations, sorted."""
        places = [slot.real for slot in self.slots] + [folder.real for folder in self.folders]
        return sorted(places, key=os.fsencode)


def make_layout(request: Request) -> Layout:
    """Return the layout of a request on this machine; changes nothing. Raises Fault if a destination is blocked."""
    root = os.path.realpath(request.root)
    if not os.path.isdir(root):
        raise Fault(f"`{printable(request.root)}` is not a directory, expected one to restore to")
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
    """Return the slot of a file or link below a directory; raises Fault if its destination is blocked."""
    root = os.path.realpath(directory)
    return _slot(_localized(member, root), -1, _parent(root, member.path), "")


def count_changes(layout: Layout) -> int:
    """Return the number of files, links and directories of the archive in a layout."""
    chosen = {member.path for member in layout.request.members}
    places = sum(slot.member.kind != ABSENT for slot in layout.slots)
    return places + sum(folder.path in chosen for folder in layout.folders)


def stale_companions(slots: Sequence[Slot]) -> List[Tuple[Slot, str]]:
    """Return companion files of former databases that are not slots themselves, each with the slot of its database.

    SQLite would apply such a log of the former database to the restored one, and corrupt it.
    """
    known = {slot.real for slot in slots}
    files = [slot for slot in slots if slot.member.kind == "file"]
    found = [(slot, name) for slot in files for name in destination.companions(slot.parent, slot.name)]
    return [(slot, name) for slot, name in found if os.path.join(slot.parent, name) not in known]


def encode(layout: Layout) -> Any:
    """Return a layout as JSON; only `decode` reads it, from a private directory."""
    request = layout.request._asdict()
    slots = [slot._asdict() for slot in layout.slots]
    return _each({"request": dict(request), "slots": slots, "folders": layout.folders}, portable)


def decode(document: Any) -> Layout:
    """Return the layout; raises ValueError, KeyError or TypeError if the document is not one."""
    found = _each(document, native)
    request = {**found["request"], "positions": tuple(found["request"]["positions"])}
    for key in ("members", "parents"):
        request[key] = tuple(Member(*fields) for fields in request[key])
    for key in ("suspect", "former"):
        if request.get(key) is not None:  # a plan of an older version has none
            since, imports = request[key]
            request[key] = Suspect(since, tuple(imports))
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
    """Return up to five paths for a message."""
    more = f" and {len(paths) - 5} more" if len(paths) > 5 else ""  # noqa: PLR2004  (as many as can be read at once)
    return ", ".join(f"`{printable(path)}`" for path in paths[:5]) + more


def _each(document: Any, change: Callable[[str], str]) -> Any:
    """Return JSON with `change` applied to all strings; tuples become lists."""
    if isinstance(document, str):
        return change(document)
    if isinstance(document, dict):
        return {key: _each(value, change) for key, value in document.items()}
    if isinstance(document, (list, tuple)):
        return [_each(value, change) for value in document]
    return document


def _localized(member: Member, root: str) -> Member:
    """Return a member with its owner on this machine, looked up by name, and without setuid and setgid (J13).

    Below another root, restored files belong to the account that runs this, unless it is root.
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
    """Return the real path of the directory of a path; raises Fault if it is outside of the root (J13)."""
    if len(os.fsencode(root + path)) > _LONGEST_PATH:
        raise Fault(f"`{printable(path[:100])}...` is too long, expected a path of at most {_LONGEST_PATH} bytes")
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
        raise Fault(text, "move away the link that leads there")
    return real


def _slot(member: Member, position: int, parent: str, token: str) -> Slot:
    """Return a slot; raises Fault if the existing file cannot be replaced."""
    name = os.path.basename(member.path)
    found = destination.state(parent, name)
    if found and found.kind not in ("file", "link"):
        real = os.path.join(parent, name)
        raise Fault(f"`{printable(real)}` is a {found.kind}, the archive has a {member.kind} there", "move it away")
    beside = f".{name[:_SHOWN]}.{token}"
    return Slot(member, position, _anchor(parent), parent, name, beside + ".restore", beside + ".undo", found)


def _removal(slot: Slot, name: str, token: str) -> Slot:
    """Return a slot to remove a companion file of another slot."""
    path = os.path.join(os.path.dirname(slot.member.path), name)
    owner = (os.geteuid(), os.getegid(), "", "")
    gone = Member(path, slot.member.when, ABSENT, 0, *owner, 0, 0, "", "", truncate=False)
    return _slot(gone, -1, slot.parent, token)


def _anchor(real: str) -> str:
    """Return the nearest existing directory."""
    while not os.path.isdir(real):
        real = os.path.dirname(real)
    return real


def _add_missing(folders: Dict[str, Folder], path: str, real: str, known: Dict[str, Member]) -> None:
    """Add the missing parent directories of a path."""
    while real not in folders and not os.path.isdir(real):
        path = os.path.dirname(path)
        if path in known:
            member = known[path]
            folders[real] = Folder(path, real, member.mode, member.uid, member.gid, None)
        else:
            folders[real] = Folder(path, real, _UNKNOWN_DIRECTORY, os.geteuid(), os.getegid(), None)
        real = os.path.dirname(real)


def _add_folder(folders: Dict[str, Folder], parent: str, member: Member) -> None:
    """Add a directory of the archive; if it is a link to a directory on this machine, it stays as it is."""
    real = os.path.join(parent, os.path.basename(member.path))
    if os.path.islink(real) and os.path.isdir(real):
        return
    found = destination.state(parent, os.path.basename(real))
    if found and found.kind != "directory":
        raise Fault(f"`{printable(real)}` is a {found.kind}, the archive has a directory there", "move it away")
    old = (found.mode, found.uid, found.gid) if found else None
    folders[real] = Folder(member.path, real, member.mode, member.uid, member.gid, old)


def _check(layout: Layout) -> None:
    """Raise Fault for errors that would only show during the restore: conflicts, long names, owners, disk space."""
    twice = sorted(real for real, count in Counter(layout.reals).items() if count > 1)
    if twice:
        raise Fault(f"several members lead to {list_paths(twice)}", "select one of them")
    _check_names(layout)
    _check_owners(layout)
    _check_space(layout.slots)


def _check_names(layout: Layout) -> None:
    """Raise Fault for a name that is too long for its file system."""
    longest: Dict[str, int] = {}
    for real in layout.reals:
        parent, name = os.path.split(real)
        if parent not in longest:
            exists = os.path.isdir(parent)
            longest[parent] = os.pathconf(parent, "PC_NAME_MAX") if exists else longest[os.path.dirname(parent)]
        if len(os.fsencode(name)) > longest[parent]:
            raise Fault(f"`{printable(real)}` is too long, expected a name of at most {longest[parent]} bytes")


def _check_owners(layout: Layout) -> None:
    """Raise Fault if files would belong to another user or group, which only root may do."""
    groups = {os.getegid(), *os.getgroups()}
    owners = [(slot.real, slot.member.uid, slot.member.gid) for slot in layout.slots]
    owners += [(folder.real, folder.uid, folder.gid) for folder in layout.folders]
    foreign = [real for real, uid, gid in owners if uid != os.geteuid() or gid not in groups]
    if foreign and os.geteuid() != 0:
        raise Fault(f"{list_paths(foreign)} would belong to another user or group", "restore as root")


def _check_space(slots: Iterable[Slot]) -> None:
    """Raise Fault if there is no space to stage all files; this also stops decompression bombs (S17)."""
    needed: Dict[int, int] = {}
    free: Dict[int, int] = {}
    for slot in slots:
        device = os.stat(slot.anchor).st_dev
        if device not in free:
            system = os.statvfs(slot.anchor)
            free[device] = system.f_bavail * system.f_frsize
        needed[device] = needed.get(device, 0) + slot.member.size
        if needed[device] > free[device]:
            room = f"{needed[device]} bytes or more are needed, {free[device]} are free"
            text = f"no room beside `{printable(slot.real)}`: {room}"
            raise Fault(text, "free some space, or select fewer paths")
