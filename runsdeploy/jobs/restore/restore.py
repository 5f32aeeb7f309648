"""Restores: files of an archive put back, all of them or none (J13, J14, J15).

A restore has a directory `.restore/NUMBER` in the backup directory with its plan and the phase it is in; a phase is
on the disk before its first act. Called with the lock held, but for `intend` and `unfinished`.
"""

import contextlib
import os
from typing import Mapping, NamedTuple, Optional, Tuple

from ..archive import archive, extraction, historical
from ..archive.extraction import Contents
from ..archive.gunzip import Inflated, open_archive
from ..archive.manifest import Damaged, shown
from ..errors import BACKUP_BAD, RESTORE_NEEDED, Fault
from . import atomic_replace, layout
from .destination import ABSENT
from .plan import Change, Intent, intend, said
from .progress import DONE, OVER, STAGING, SWAPPING, UNDOING, Restoration, existing, latest

__all__ = ["Change", "Intent", "Unfinished", "carry_on", "intend", "restore", "undo", "unfinished"]

UNTIL_THEN = "finish it with `restore --continue` or take it back with `restore --undo`"


class Unfinished(NamedTuple):
    """A restore that was interrupted."""

    archive: str
    """path"""
    phase: str
    """`staging`: nothing is changed; `swapping`: some files may be; `undoing`: some may be back"""
    paths: Tuple[str, ...]
    """where files go"""


def restore(intent: Intent, folder: str) -> int:
    """Do what was intended; return the number of files, links and directories whose content was checked in place (J15).

    If it raises Fault with status FAILED or BACKUP_BAD nothing is changed; with RESTORE_NEEDED some files may be, and
    `carry_on` or `undo` is next.
    """
    if unfinished(folder):
        raise Fault("a restore is unfinished", UNTIL_THEN, RESTORE_NEEDED)
    touched = {member.path for member in intent.request.members}
    same = sum(change.action == "same" and change.path not in touched for change in intent.changes)
    if not intent.request.members:
        return same
    try:
        planned = layout.lay_out(intent.request)
        _check_places(planned, {change.path: change.real for change in intent.changes})
        _check_apart(planned, folder)
        restoration = Restoration.begin(folder, planned)
    except OSError as error:
        raise Fault(said(error)) from None
    return same + _forward(restoration, folder)


def unfinished(folder: str) -> Optional[Unfinished]:
    """Return the restore that was interrupted, if one was; raises Fault if it cannot be read."""
    found = _unfinished(folder)
    if found is None:
        return None
    return Unfinished(found.layout.request.archive, found.phase, tuple(found.layout.reals))


def carry_on(folder: str) -> int:
    """Bring an interrupted restore to its end; return as `restore` does. Raises Fault as it does."""
    found = _unfinished(folder)
    if found is None:
        raise Fault("no restore is unfinished: there is nothing to continue")
    if found.phase == UNDOING:
        raise Fault("the restore is being taken back", "finish that with `restore --undo`", RESTORE_NEEDED)
    if found.phase == STAGING:
        try:
            atomic_replace.discard(found.layout)
            planned = layout.lay_out(found.layout.request)
            _check_places(planned, {slot.member.path: slot.real for slot in found.layout.slots})
            found.replan(planned)
        except (OSError, Fault) as error:
            raise Fault(said(error), UNTIL_THEN, RESTORE_NEEDED) from None
    return _forward(found, folder)


def undo(folder: str, *, force: bool = False) -> int:
    """Bring back the state before the restore that was interrupted, or else before the last one that was done.

    Return the number of places that are as they were. After a restore that was done, files that were changed since
    are only lost with `force`. Raises Fault: with RESTORE_NEEDED it is to be called again.
    """
    found = _unfinished(folder) or latest(folder, DONE)
    if found is None:
        raise Fault("no restore can be taken back: none was done")
    try:
        if found.phase == DONE:
            _check_undoable(found.layout, force=force)
        if found.phase in (DONE, SWAPPING):
            found.enter(UNDOING)
        count = 0 if found.phase == STAGING else atomic_replace.back(found.layout)
        atomic_replace.discard(found.layout)
        found.enter(OVER)
    except OSError as error:
        raise Fault(said(error), "call `restore --undo` again", RESTORE_NEEDED) from None
    except Fault as fault:
        status = RESTORE_NEEDED if found.phase == UNDOING else fault.status
        raise Fault(fault.message, fault.hint, status) from None
    _forget_others(folder, None)
    return count


def _forward(restoration: Restoration, folder: str) -> int:
    """Go from the phase a restore is in to its end."""
    if restoration.phase == STAGING:
        _stage(restoration)
    try:
        count = atomic_replace.forward(restoration.layout)
        restoration.enter(DONE)
    except (OSError, Fault) as error:
        raise Fault(f"restore is interrupted: {said(error)}", UNTIL_THEN, RESTORE_NEEDED) from None
    _forget_others(folder, restoration)
    return count


def _stage(restoration: Restoration) -> None:
    """Stage and keep everything; on any failure nothing is left of it, and nothing was changed."""
    path = restoration.layout.request.archive
    try:
        with open_archive(path) as file:
            atomic_replace.stage(restoration.layout, _contents(path, Inflated(file)))
        atomic_replace.keep(restoration.layout)
        restoration.enter(SWAPPING)
    except BaseException as error:
        _abandon(restoration)
        if isinstance(error, Damaged):
            raise Fault(f"`{shown(path)}` {error}; nothing is changed", "verify it", BACKUP_BAD) from None
        if isinstance(error, OSError):
            raise Fault(f"{said(error)}; nothing is changed") from None
        raise


def _abandon(restoration: Restoration) -> None:
    """Remove what a restore has made so far; raises Fault if that cannot be."""
    try:
        if restoration.phase != STAGING:
            restoration.enter(STAGING)
        atomic_replace.discard(restoration.layout)
        restoration.forget()
    except OSError as error:
        text = f"{said(error)}; nothing is changed, but what was staged could not be removed"
        raise Fault(text, UNTIL_THEN, RESTORE_NEEDED) from None


def _contents(path: str, stream: Inflated) -> Contents:
    if archive.is_historical(os.path.basename(path)):
        return historical.members(stream)
    return extraction.members(stream, extraction.read_manifest(stream))


def _unfinished(folder: str) -> Optional[Restoration]:
    return latest(folder, STAGING, SWAPPING, UNDOING)


def forget(folder: str) -> None:
    """Drop what the last restore kept: from now on it cannot be taken back. Not while one is unfinished."""
    _forget_others(folder, None)


def _forget_others(folder: str, kept: Optional[Restoration]) -> None:
    """Forget restores that are over, as only the last one can be taken back; the next one does what fails here."""
    for each in existing(folder):
        if kept is not None and each.number == kept.number:
            continue
        with contextlib.suppress(OSError, Fault):
            each.enter(OVER)
            if each.planned:
                atomic_replace.discard(each.layout)
            each.forget()


def _check_places(planned: layout.Layout, shown_before: Mapping[str, str]) -> None:
    """Raise Fault if files would go elsewhere than what was shown."""
    for slot in planned.slots:
        before = shown_before.get(slot.member.path)
        if before is None and slot.member.kind == ABSENT:
            hint = "stop what uses it, and look again"
            raise Fault(f"`{shown(slot.real)}` appeared meanwhile: the database is in use", hint)
        if before != slot.real:
            text = f"`{shown(slot.member.path)}` would go to `{shown(slot.real)}`, shown was `{shown(str(before))}`"
            raise Fault(text, "links were changed meanwhile, look again")


def _check_apart(planned: layout.Layout, folder: str) -> None:
    """Raise Fault if a restore would write among the backups themselves."""
    own = os.path.realpath(folder)
    for real in planned.reals:
        if os.path.dirname(real) == own or real.startswith(own + "/."):
            raise Fault(f"`{shown(real)}` lies among the backups", "choose paths without it")


def _check_undoable(done: layout.Layout, *, force: bool) -> None:
    lost = atomic_replace.lost(done)
    if lost:
        raise Fault(f"what was replaced is gone: {layout.listed(lost)}")
    different = [] if force else atomic_replace.changed(done)
    if different:
        hint = "save them, and take the restore back with `--force`"
        raise Fault(f"files were changed since the restore: {layout.listed(different)}", hint)
