"""Restores: files of an archive put back, all of them or none (J13, J14, J15).

A restore has a directory `.restore/NUMBER` in the backup directory with its plan and the phase it is in; a phase is
on the disk before its first act. Called with the lock held, but for `make_plan` and `unfinished`.
"""

import contextlib
import os
from typing import Mapping, NamedTuple, Optional, Tuple

from ..archive import archive, extraction, historical
from ..archive.extraction import Contents
from ..archive.gunzip import GzipReader, open_archive
from ..archive.manifest import Damaged, printable
from ..errors import BACKUP_BAD, RESTORE_NEEDED, Fault
from . import atomic_replace, layout
from .destination import ABSENT
from .plan import Change, RestorePlan, failure_message, make_plan
from .progress import DONE, OVER, REPLACING, STAGING, UNDOING, Progress, all_restores, latest

__all__ = ["Change", "RestorePlan", "Unfinished", "continue_restore", "make_plan", "restore", "undo", "unfinished"]

FINISH_HINT = "finish it with `restore --continue` or take it back with `restore --undo`"


class Unfinished(NamedTuple):
    """A restore that was interrupted."""

    archive: str
    """path"""
    phase: str
    """`staging`: nothing is changed; `swapping`: some files may be; `undoing`: some may be back"""
    paths: Tuple[str, ...]
    """where files go"""


def restore(plan: RestorePlan, folder: str) -> int:
    """Do what was intended; return the number of files, links and directories whose content was checked in place (J15).

    If it raises Fault with status FAILED or BACKUP_BAD nothing is changed; with RESTORE_NEEDED some files may be, and
    `continue_restore` or `undo` is next.
    """
    if unfinished(folder):
        raise Fault("a restore is unfinished", FINISH_HINT, RESTORE_NEEDED)
    touched = {member.path for member in plan.request.members}
    same = sum(change.action == "same" and change.path not in touched for change in plan.changes)
    if not plan.request.members:
        return same
    try:
        planned = layout.make_layout(plan.request)
        _check_places(planned, {change.path: change.real for change in plan.changes})
        _check_apart(planned, folder)
        progress = Progress.begin(folder, planned)
    except OSError as error:
        raise Fault(failure_message(error)) from None
    return same + _complete(progress, folder)


def unfinished(folder: str) -> Optional[Unfinished]:
    """Return the restore that was interrupted, if one was; raises Fault if it cannot be read."""
    found = _unfinished(folder)
    if found is None:
        return None
    return Unfinished(found.layout.request.archive, found.phase, tuple(found.layout.reals))


def continue_restore(folder: str) -> int:
    """Bring an interrupted restore to its end; return as `restore` does. Raises Fault as it does."""
    found = _unfinished(folder)
    if found is None:
        raise Fault("no restore is unfinished: there is nothing to continue")
    if found.phase == UNDOING:
        raise Fault("the restore is being taken back", "finish that with `restore --undo`", RESTORE_NEEDED)
    if found.phase == STAGING:
        try:
            atomic_replace.discard(found.layout)
            planned = layout.make_layout(found.layout.request)
            _check_places(planned, {slot.member.path: slot.real for slot in found.layout.slots})
            found.write_plan(planned)
        except (OSError, Fault) as error:
            raise Fault(failure_message(error), FINISH_HINT, RESTORE_NEEDED) from None
    return _complete(found, folder)


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
        if found.phase in (DONE, REPLACING):
            found.set_phase(UNDOING)
        count = 0 if found.phase == STAGING else atomic_replace.revert(found.layout)
        atomic_replace.discard(found.layout)
        found.set_phase(OVER)
    except OSError as error:
        raise Fault(failure_message(error), "call `restore --undo` again", RESTORE_NEEDED) from None
    except Fault as fault:
        status = RESTORE_NEEDED if found.phase == UNDOING else fault.status
        raise Fault(fault.message, fault.hint, status) from None
    _remove_others(folder, None)
    return count


def _complete(progress: Progress, folder: str) -> int:
    """Go from the phase a restore is in to its end."""
    if progress.phase == STAGING:
        _stage(progress)
    try:
        count = atomic_replace.replace(progress.layout)
        progress.set_phase(DONE)
    except (OSError, Fault) as error:
        raise Fault(f"restore is interrupted: {failure_message(error)}", FINISH_HINT, RESTORE_NEEDED) from None
    _remove_others(folder, progress)
    return count


def _stage(progress: Progress) -> None:
    """Stage and keep everything; on any failure nothing is left of it, and nothing was changed."""
    path = progress.layout.request.archive
    try:
        with open_archive(path) as file:
            atomic_replace.stage(progress.layout, _contents(path, GzipReader(file)))
        atomic_replace.keep_old(progress.layout)
        progress.set_phase(REPLACING)
    except BaseException as error:
        _abandon(progress)
        if isinstance(error, Damaged):
            raise Fault(f"`{printable(path)}` {error}; nothing is changed", "verify it", BACKUP_BAD) from None
        if isinstance(error, OSError):
            raise Fault(f"{failure_message(error)}; nothing is changed") from None
        raise


def _abandon(progress: Progress) -> None:
    """Remove what a restore has made so far; raises Fault if that cannot be."""
    try:
        if progress.phase != STAGING:
            progress.set_phase(STAGING)
        atomic_replace.discard(progress.layout)
        progress.remove()
    except OSError as error:
        text = f"{failure_message(error)}; nothing is changed, but what was staged could not be removed"
        raise Fault(text, FINISH_HINT, RESTORE_NEEDED) from None


def _contents(path: str, stream: GzipReader) -> Contents:
    if archive.is_historical(os.path.basename(path)):
        return historical.members(stream)
    return extraction.members(stream, extraction.read_manifest(stream))


def _unfinished(folder: str) -> Optional[Progress]:
    return latest(folder, STAGING, REPLACING, UNDOING)


def drop_undo(folder: str) -> None:
    """Drop what the last restore kept: from now on it cannot be taken back. Not while one is unfinished."""
    _remove_others(folder, None)


def _remove_others(folder: str, kept: Optional[Progress]) -> None:
    """Forget restores that are over, as only the last one can be taken back; the next one does what fails here."""
    for each in all_restores(folder):
        if kept is not None and each.number == kept.number:
            continue
        with contextlib.suppress(OSError, Fault):
            each.set_phase(OVER)
            if each.has_plan:
                atomic_replace.discard(each.layout)
            each.remove()


def _check_places(planned: layout.Layout, shown_before: Mapping[str, str]) -> None:
    """Raise Fault if files would go elsewhere than what was shown."""
    for slot in planned.slots:
        before = shown_before.get(slot.member.path)
        if before is None and slot.member.kind == ABSENT:
            hint = "stop what uses it, and look again"
            raise Fault(f"`{printable(slot.real)}` appeared meanwhile: the database is in use", hint)
        if before != slot.real:
            member, real, shown = map(printable, (slot.member.path, slot.real, str(before)))
            text = f"`{member}` would go to `{real}`, shown was `{shown}`"
            raise Fault(text, "links were changed meanwhile, look again")


def _check_apart(planned: layout.Layout, folder: str) -> None:
    """Raise Fault if a restore would write among the backups themselves."""
    own = os.path.realpath(folder)
    for real in planned.reals:
        if os.path.dirname(real) == own or real.startswith(own + "/."):
            raise Fault(f"`{printable(real)}` lies among the backups", "choose paths without it")


def _check_undoable(done: layout.Layout, *, force: bool) -> None:
    lost = atomic_replace.missing_old(done)
    if lost:
        raise Fault(f"what was replaced is gone: {layout.list_paths(lost)}")
    different = [] if force else atomic_replace.changed(done)
    if different:
        hint = "save them, and take the restore back with `--force`"
        raise Fault(f"files were changed since the restore: {layout.list_paths(different)}", hint)
