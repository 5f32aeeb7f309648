"""Restores: put files of an archive back, all of them or none (J13, J14, J15).

A restore has a directory `.restore/NUMBER` in the backup directory, with its plan and its phase; a phase is on the disk
before its first change. All functions need the lock, except `make_plan` and `unfinished`.
"""

import contextlib
import os
from typing import Mapping, NamedTuple, Optional, Tuple

from ..archive import archive, extraction, historical, known_state
from ..archive.extraction import Contents
from ..archive.gunzip import GzipReader, open_archive
from ..archive.known_state import Suspect
from ..archive.manifest import Damaged, printable
from ..errors import BACKUP_BAD, RESTORE_NEEDED, Fault
from . import atomic_replace, layout
from .destination import ABSENT
from .plan import Change, RestorePlan, failure_message, make_plan
from .progress import DONE, OVER, REPLACING, STAGING, UNDOING, Progress, all_restores, latest

__all__ = ["Change", "RestorePlan", "Unfinished", "continue_restore", "make_plan", "restore", "undo", "unfinished"]

FINISH_HINT = "finish it with `restore --continue`, or undo it with `restore --undo`"


class Unfinished(NamedTuple):
    """An interrupted restore."""

    archive: str
    """path"""
    phase: str
    """`staging`: nothing is changed; `swapping`: some files may be replaced; `undoing`: some may be put back"""
    paths: Tuple[str, ...]
    """destinations"""


def restore(plan: RestorePlan, folder: str) -> int:
    """Carry out a plan; return how many files, links and directories were verified at their destinations (J15).

    After a Fault with status FAILED or BACKUP_BAD nothing is changed. After one with RESTORE_NEEDED some files may be:
    call `continue_restore` or `undo`.
    """
    if unfinished(folder):
        raise Fault("a restore is unfinished", FINISH_HINT, RESTORE_NEEDED)
    touched = {member.path for member in plan.request.members}
    same = sum(change.action == "same" and change.path not in touched for change in plan.changes)
    request = plan.request._replace(former=archive.suspect(folder))
    try:
        if not request.members:
            if request.suspect is not None:
                known_state.save(folder, request.suspect)
            return same
        planned = layout.make_layout(request)
        _check_places(planned, {change.path: change.real for change in plan.changes})
        _check_apart(planned, folder)
        progress = Progress.begin(folder, planned)
    except OSError as error:
        raise Fault(failure_message(error)) from None
    return same + _complete(progress, folder)


def unfinished(folder: str) -> Optional[Unfinished]:
    """Return the interrupted restore, or None; raises Fault if its plan or phase cannot be read."""
    found = _unfinished(folder)
    if found is None:
        return None
    return Unfinished(found.layout.request.archive, found.phase, tuple(found.layout.reals))


def continue_restore(folder: str) -> int:
    """Continue an interrupted restore to its end; returns and raises as `restore`."""
    found = _unfinished(folder)
    if found is None:
        raise Fault("no restore is unfinished, nothing to continue")
    if found.phase == UNDOING:
        raise Fault("the restore is being undone", "finish that with `restore --undo`", RESTORE_NEEDED)
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
    """Put back the files from before the interrupted restore, or else from before the last finished one.

    Return how many files, links and directories are as they were. If files were changed since a finished restore,
    `force` is needed, and the changes are lost. Raises Fault; with status RESTORE_NEEDED, call it again.
    """
    found = _unfinished(folder) or latest(folder, DONE)
    if found is None:
        raise Fault("no restore to undo")
    try:
        if found.phase == DONE:
            _check_undoable(found.layout, force=force)
        if found.phase in (DONE, REPLACING):
            found.set_phase(UNDOING)
        count = 0 if found.phase == STAGING else atomic_replace.revert(found.layout)
        request = found.layout.request
        _record(found, None if request.suspect is None else request.former, folder)
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
    """Continue a restore from its phase to its end."""
    if progress.phase == STAGING:
        _stage(progress)
    try:
        count = atomic_replace.replace(progress.layout)
        _record(progress, progress.layout.request.suspect, folder)
        progress.set_phase(DONE)
    except (OSError, Fault) as error:
        raise Fault(f"the restore was interrupted: {failure_message(error)}", FINISH_HINT, RESTORE_NEEDED) from None
    _remove_others(folder, progress)
    return count


def _record(progress: Progress, suspect: Optional[Suspect], folder: str) -> None:
    """Record whether the state is suspect, in the phase before the restore is over; raises OSError."""
    if suspect is not None:
        progress.write(os.path.join(folder, known_state.FILE), known_state.encode(suspect))


def _stage(progress: Progress) -> None:
    """Stage new files and keep old ones; after an error all of that is removed, and nothing was changed."""
    path = progress.layout.request.archive
    try:
        with open_archive(path) as file:
            atomic_replace.stage(progress.layout, _contents(path, GzipReader(file)))
        atomic_replace.keep_old(progress.layout)
        progress.set_phase(REPLACING)
    except BaseException as error:
        _abandon(progress)
        if isinstance(error, Damaged):
            raise Fault(f"`{printable(path)}` {error}; nothing is changed", "verify the backup", BACKUP_BAD) from None
        if isinstance(error, OSError):
            raise Fault(f"{failure_message(error)}; nothing is changed") from None
        raise


def _abandon(progress: Progress) -> None:
    """Remove all that a restore has staged and kept; raises Fault if that fails."""
    try:
        if progress.phase != STAGING:
            progress.set_phase(STAGING)
        atomic_replace.discard(progress.layout)
        progress.remove()
    except OSError as error:
        text = f"{failure_message(error)}; nothing is changed, but staged files could not be removed"
        raise Fault(text, FINISH_HINT, RESTORE_NEEDED) from None


def _contents(path: str, stream: GzipReader) -> Contents:
    if archive.is_historical(os.path.basename(path)):
        return historical.members(stream)
    return extraction.members(stream, extraction.read_manifest(stream))


def _unfinished(folder: str) -> Optional[Progress]:
    return latest(folder, STAGING, REPLACING, UNDOING)


def drop_undo(folder: str) -> None:
    """Remove the files that the last restore kept: it can no longer be undone. No restore may be unfinished."""
    _remove_others(folder, None)


def _remove_others(folder: str, kept: Optional[Progress]) -> None:
    """Remove finished restores except one; only the last one can be undone. What fails is tried again later."""
    for each in all_restores(folder):
        if kept is not None and each.number == kept.number:
            continue
        with contextlib.suppress(OSError, Fault):
            each.set_phase(OVER)
            if each.has_plan:
                atomic_replace.discard(each.layout)
            each.remove()


def _check_places(planned: layout.Layout, shown_before: Mapping[str, str]) -> None:
    """Raise Fault if a destination is not the one that the plan showed."""
    for slot in planned.slots:
        before = shown_before.get(slot.member.path)
        if before is None and slot.member.kind == ABSENT:
            hint = "stop the programs that use it, and run `restore` again"
            raise Fault(f"`{printable(slot.real)}` appeared meanwhile: the database is in use", hint)
        if before != slot.real:
            member, real, shown = map(printable, (slot.member.path, slot.real, str(before)))
            text = f"`{member}` would go to `{real}`, expected `{shown}` as shown"
            raise Fault(text, "links were changed meanwhile: run `restore` again")


def _check_apart(planned: layout.Layout, folder: str) -> None:
    """Raise Fault if a restore would write into the backup directory itself."""
    own = os.path.realpath(folder)
    for real in planned.reals:
        if os.path.dirname(real) == own or real.startswith(own + "/."):
            raise Fault(f"`{printable(real)}` is among the backups", "select paths without it")


def _check_undoable(done: layout.Layout, *, force: bool) -> None:
    lost = atomic_replace.missing_old(done)
    if lost:
        raise Fault(f"kept files are gone: {layout.list_paths(lost)}")
    different = [] if force else atomic_replace.changed(done)
    if different:
        hint = "save them, then undo the restore with `--force`"
        raise Fault(f"files were changed since the restore: {layout.list_paths(different)}", hint)
