"""Intents: what restoring from an archive would do here, with the archive verified; nothing is changed (J13)."""

import os
import socket
from typing import Dict, List, NamedTuple, Optional, Sequence, Tuple

from ..archive import archive
from ..archive.extraction import Listing
from ..archive.manifest import Manifest, Member, ancestors, printable
from ..errors import BACKUP_BAD, Fault, reason
from . import destination, layout


class Change(NamedTuple):
    """What a restore would do to one path."""

    path: str
    """as the archive names it"""
    action: str
    """`create`, `replace`, `remove`; `same`: it is already like that; `grown`: a log, left as it is"""
    real: str
    """where it goes, links resolved"""


class RestorePlan(NamedTuple):
    """A restore that can be done: the archive is verified, nothing is in the way."""

    archive: str
    """path"""
    manifest: Optional[Manifest]
    """None of a historical archive"""
    changes: Tuple[Change, ...]
    notes: Tuple[str, ...]
    """what to know before it is done: damage that is put up with, what cannot be verified"""
    request: layout.Request


def make_plan(
    archive_path: str,
    paths: Sequence[str] = (),
    root: str = "/",
    host: str = "",
    *,
    any_host: bool = False,
    force: bool = False,
) -> RestorePlan:
    """Verify an archive and return what restoring these paths from it would do; changes nothing (J13).

    A path chooses a file, or all below a directory; none choose all. `host` is this machine unless given; an archive
    of another one needs `any_host`, a damaged one `force`: then what is chosen must be whole. Raises Fault.
    """
    listing, note = archive.inspect(archive_path)
    notes = [note] if note else []
    if not note and listing.manifest is None:
        raise Fault(f"`{archive_path}` is damaged: {listing.problems[0]}", "take another backup", BACKUP_BAD)
    problems = [*listing.problems, *_set_aside(archive_path)]
    if problems and not force:
        hint = "take another backup, or what is whole of this one with `--force`"
        raise Fault(f"`{archive_path}` is damaged: {'; '.join(problems[:5])}", hint, BACKUP_BAD)
    notes += problems
    _check_host(archive_path, listing.manifest, "" if any_host else host or socket.gethostname())
    try:
        same, different = _compare(root, _choose(listing, paths), named=bool(paths))
        request = _request(archive_path, root, listing, different)
        if not different:
            return RestorePlan(archive_path, listing.manifest, tuple(same), tuple(notes), request)
        planned = layout.make_layout(request)
        if not layout.count_changes(planned) and not same:
            raise Fault("nothing is chosen but directories that are links here")
        made = tuple(sorted((*_changes(planned), *same), key=lambda change: os.fsencode(change.real)))
        notes += [
            f"`{printable(each.real)}` belongs to the database as it is, and goes with it: stop what uses it first"
            for each in made
            if each.action == "remove"
        ]
        return RestorePlan(archive_path, listing.manifest, made, tuple(notes), request)
    except OSError as error:
        raise Fault(failure_message(error)) from None


def _set_aside(path: str) -> List[str]:
    return ["it was found damaged and set aside"] if path.endswith(archive.BAD) else []


def _check_host(path: str, manifest: Optional[Manifest], host: str) -> None:
    if manifest and host and manifest.host != host:
        hint = f"if you mean it: `--host {manifest.host}`"
        raise Fault(f"`{path}` is a backup of `{manifest.host}`, expected one of `{host}`", hint)


def _choose(listing: Listing, paths: Sequence[str]) -> List[Member]:
    """Return the members that paths choose; raises Fault if one chooses nothing, or what cannot be restored."""
    wanted = [_normalized(path) for path in paths] or [""]
    refused = [path for path in sorted(listing.refused) if _is_covered(path, wanted)]
    if refused:
        why = listing.refused[refused[0]]
        raise Fault(f"cannot restore {layout.list_paths(refused)}: {why}", "choose paths without it", BACKUP_BAD)
    for path in wanted:
        if not any(_is_covered(member.path, [path]) for member in listing.members):
            raise Fault(f"the backup has nothing of `{printable(path)}`" if path else "the backup is empty")
    return [member for member in listing.members if _is_covered(member.path, wanted)]


def _compare(root: str, members: Sequence[Member], *, named: bool) -> Tuple[List[Change], List[Member]]:
    """Return what is to stay, as it is what the archive has or a log, and what is to be changed.

    What is as it should be is not touched, and needs nobody's leave to be: the settings are root's, the backups are
    those of a service account. A log that was added to since, or that is cut every night, tells what happened: it is
    only put back where it is missing, or named.
    """
    stay, different = [], []
    for member in members:
        slot = layout.look_up(root, member) if member.kind != "directory" else None
        action = ""
        if slot and slot.old and not destination.companions(slot.parent, slot.name):
            action = "same" if _is_same(slot) else "" if named else _grown_log(slot)
        if slot and action:
            stay.append(Change(member.path, action, slot.real))
        else:
            different.append(member)
    return stay, different


def _grown_log(slot: layout.Slot) -> str:
    """Return `grown` if a file is a log that holds more than the archive has of it, and nothing else."""
    member = slot.member
    if member.when != "after" or member.kind != "file" or slot.old is None or slot.old.kind != "file":
        return ""
    grown = member.truncate or destination.starts_with(slot.parent, slot.name, member)
    return "grown" if grown else ""


def _normalized(path: str) -> str:
    """Return a path without slashes too many; `/` is the empty one."""
    if not path.startswith("/"):
        raise Fault(f"`{printable(path)}` is no absolute path")
    return "".join(f"/{part}" for part in path.split("/") if part not in ("", "."))


def _is_covered(path: str, wanted: Sequence[str]) -> bool:
    return any(path == each or path.startswith(each + "/") for each in wanted)


def _request(path: str, root: str, listing: Listing, chosen: Sequence[Member]) -> layout.Request:
    directories: Dict[str, Member] = {each.path: each for each in listing.members if each.kind == "directory"}
    above = {each for member in chosen for each in ancestors(member.path)} & set(directories)
    return layout.Request(
        os.path.abspath(path),
        os.path.abspath(root),
        tuple(chosen),
        tuple(listing.positions[member.path] for member in chosen),
        tuple(directories[each] for each in sorted(above - {member.path for member in chosen})),
    )


def _changes(planned: layout.Layout) -> Tuple[Change, ...]:
    changes = []
    for slot in planned.slots:
        action = "replace" if slot.old else "create"
        if slot.member.kind == destination.ABSENT:
            action = "remove"
        elif slot.old and _is_same(slot):
            action = "same"
        changes.append(Change(slot.member.path, action, slot.real))
    for folder in planned.folders:
        new = folder.mode, folder.uid, folder.gid
        action = "create" if folder.old is None else "same" if folder.old == new else "replace"
        changes.append(Change(folder.path, action, folder.real))
    return tuple(sorted(changes, key=lambda change: os.fsencode(change.real)))


def _is_same(slot: layout.Slot) -> bool:
    new, old = slot.member, slot.old
    if old is None or (old.uid, old.gid, old.mtime_ns) != (new.uid, new.gid, new.mtime_ns):
        return False
    if new.kind == "file" and old.mode != new.mode:
        return False
    return destination.has_content(slot.parent, slot.name, new)


def failure_message(error: Exception) -> str:
    """Return what went wrong, as part of a message."""
    if not isinstance(error, OSError):
        return error.message if isinstance(error, Fault) else str(error)
    name = f" `{printable(os.fsdecode(error.filename))}`" if isinstance(error.filename, (str, bytes)) else ""
    return f"cannot restore{name}: {reason(error)}"
