"""Restore plans: verify an archive and list what a restore would change on this machine; changes nothing (J13)."""

import os
import socket
from typing import Dict, List, NamedTuple, Optional, Sequence, Set, Tuple

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
    """`create`, `replace`, `remove`; `same`: already as in the archive; `grown`: a log that is left as it is;
    `left`: settings or catalogue, which are left as they are"""
    real: str
    """its destination, with links resolved"""


class RestorePlan(NamedTuple):
    """A possible restore: the archive is verified, and no destination is blocked."""

    archive: str
    """path"""
    manifest: Optional[Manifest]
    """None for a historical archive"""
    changes: Tuple[Change, ...]
    notes: Tuple[str, ...]
    """what the operator should know: accepted damage, what cannot be verified"""
    request: layout.Request


def make_plan(  # noqa: PLR0913 - what an operator can choose
    archive_path: str,
    paths: Sequence[str] = (),
    root: str = "/",
    host: str = "",
    *,
    own: Sequence[str] = (),
    any_host: bool = False,
    force: bool = False,
) -> RestorePlan:
    """Verify an archive and return the plan to restore `paths` from it; changes nothing (J13). Raises Fault.

    A path selects a file, or a directory with its contents; no paths select everything. `root` stands for `/`. The
    archive must be of `host` (default: this machine), unless `any_host`. A damaged archive needs `force`, and the
    selected members must be undamaged. Settings and catalogue, the files at the paths `own`, are left as they are
    unless they are selected: what was switched since must not be switched back.
    """
    listing, note = archive.inspect(archive_path)
    notes = [note] if note else []
    if not note and listing.manifest is None:
        raise Fault(f"`{archive_path}` is damaged: {listing.problems[0]}", "take another backup", BACKUP_BAD)
    problems = [*listing.problems, *_set_aside(archive_path)]
    if problems and not force:
        hint = "take another backup, or restore its undamaged files with `--force`"
        raise Fault(f"`{archive_path}` is damaged: {'; '.join(problems[:5])}", hint, BACKUP_BAD)
    notes += problems
    _check_host(archive_path, listing.manifest, "" if any_host else host or socket.gethostname())
    try:
        same, different = _compare(root, _choose(listing, paths), own, named=bool(paths))
        if any(change.action == "left" for change in same):
            notes.append("settings and catalogue are left as they are; to restore them, select them by their paths")
        request = _request(archive_path, root, listing, different)
        if not different:
            return RestorePlan(archive_path, listing.manifest, tuple(same), tuple(notes), request)
        planned = layout.make_layout(request)
        if not layout.count_changes(planned) and not same:
            raise Fault("only directories are selected that are links on this machine")
        made = tuple(sorted((*_changes(planned), *same), key=lambda change: os.fsencode(change.real)))
        notes += [
            f"`{printable(each.real)}` belongs to the database that is replaced, and is removed: stop its users first"
            for each in made
            if each.action == "remove"
        ]
        return RestorePlan(archive_path, listing.manifest, made, tuple(notes), request)
    except OSError as error:
        raise Fault(failure_message(error)) from None


def _set_aside(path: str) -> List[str]:
    return ["it was found damaged and was set aside"] if path.endswith(archive.BAD) else []


def _check_host(path: str, manifest: Optional[Manifest], host: str) -> None:
    if manifest and host and manifest.host != host:
        hint = f"to restore it anyway: `--host {manifest.host}`"
        raise Fault(f"`{path}` is a backup of `{manifest.host}`, expected one of `{host}`", hint)


def _choose(listing: Listing, paths: Sequence[str]) -> List[Member]:
    """Return the selected members; raises Fault if a path selects nothing, or a member that cannot be restored."""
    wanted = [_normalized(path) for path in paths] or [""]
    refused = [path for path in sorted(listing.refused) if _is_covered(path, wanted)]
    if refused:
        why = listing.refused[refused[0]]
        raise Fault(f"cannot restore {layout.list_paths(refused)}: {why}", "select paths without it", BACKUP_BAD)
    for path in wanted:
        if not any(_is_covered(member.path, [path]) for member in listing.members):
            raise Fault(f"`{printable(path)}` is not in the backup" if path else "the backup is empty")
    return [member for member in listing.members if _is_covered(member.path, wanted)]


def _compare(
    root: str, members: Sequence[Member], own: Sequence[str], *, named: bool
) -> Tuple[List[Change], List[Member]]:
    """Return the changes for members that stay as they are, and the members to restore.

    A file that is already as in the archive is not touched, so the account needs no permission to write it; for example
    the settings, which belong to root. A log that has grown since, or that is cut every night, shows what happened: it
    is only restored if it is missing, or selected by name.
    """
    stay, different = [], []
    left = set() if named else _led_to(own, members)
    for member in members:
        slot = layout.look_up(root, member) if member.kind != "directory" else None
        action = ""
        if slot and member.path in left:
            action = "same" if slot.old and _is_same(slot) else "left"
        elif slot and slot.old and not destination.companions(slot.parent, slot.name):
            action = "same" if _is_same(slot) else "" if named else _grown_log(slot)
        if slot and action:
            stay.append(Change(member.path, action, slot.real))
        else:
            different.append(member)
    return stay, different


def _led_to(paths: Sequence[str], members: Sequence[Member]) -> Set[str]:
    """Return the members that paths lead to, with the links on the way, as they were when the archive was made."""
    links = {member.path: member.target for member in members if member.kind == "link"}
    found: Set[str] = set()
    todo = list(paths)
    while todo:
        path = os.path.normpath(todo.pop())
        for link in (each for each in (*ancestors(path), path) if each in links):
            if link not in found:
                todo.append(os.path.join(os.path.dirname(link), links[link] + path[len(link) :]))
            found.add(link)
            break
        else:
            found.add(path)
    return found


def _grown_log(slot: layout.Slot) -> str:
    """Return `grown` if a file is a log that has only grown since the archive was made, else nothing."""
    member = slot.member
    if member.when != "after" or member.kind != "file" or slot.old is None or slot.old.kind != "file":
        return ""
    grown = member.truncate or destination.starts_with(slot.parent, slot.name, member)
    return "grown" if grown else ""


def _normalized(path: str) -> str:
    """Return a path without redundant slashes; `/` becomes empty."""
    if not path.startswith("/"):
        raise Fault(f"`{printable(path)}` is not an absolute path")
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
    """Return the text of an error, as part of a message."""
    if not isinstance(error, OSError):
        return error.message if isinstance(error, Fault) else str(error)
    name = f" `{printable(os.fsdecode(error.filename))}`" if isinstance(error.filename, (str, bytes)) else ""
    return f"cannot restore{name}: {reason(error)}"
