"""Restores: put files of an archive back, all of them or none (J13, J14, J15).

A restore has a directory `.restore/NUMBER` in the backup directory, with its plan and its phase; a phase is on the disk
before its first change. All functions need the lock, except `make_plan` and `unfinished`.
"""

import contextlib
import os
from typing import Iterator, List, Mapping, NamedTuple, Optional, Sequence, Tuple

from ..archive import archive, extraction, historical, known_state
from ..archive.extraction import Contents
from ..archive.gunzip import GzipReader, open_archive
from ..archive.known_state import Suspect
from ..archive.manifest import Damaged, printable
from ..errors import BACKUP_BAD, RESTORE_NEEDED, Fault
from ..process.around import Around, Perform, failures, first_failure, not_run
from ..process.process import Command
from . import atomic_replace, layout
from .destination import ABSENT
from .plan import Change, RestorePlan, failure_message, make_plan
from .progress import COMMANDS, DONE, OVER, REPLACING, STAGING, UNDOING, Progress, all_restores, latest

__all__ = [
    "Change",
    "RestorePlan",
    "Unfinished",
    "continue_restore",
    "make_plan",
    "passed_commands",
    "restore",
    "undo",
    "unfinished",
]

NOTHING = Around()
FINISH_HINT = "finish it with `restore --continue`, or undo it with `restore --undo`"


def _none(_command: Command, _stoppable: bool) -> str:  # noqa: FBT001
    return ""


class Unfinished(NamedTuple):
    """An interrupted restore."""

    archive: str
    """path"""
    phase: str
    """`staging`: nothing is changed; `swapping`: some files may be replaced; `commands`: all are, and a command behind
    them has not passed yet; `undoing`: some may be put back"""
    paths: Tuple[str, ...]
    """destinations"""


def restore(plan: RestorePlan, folder: str, around: Around = NOTHING, perform: Perform = _none) -> int:
    """Carry out a plan; return how many files, links and directories were verified at their destinations (J15).

    The commands around it are run by `perform`. After a Fault with status FAILED or BACKUP_BAD no file is changed.
    After one with RESTORE_NEEDED some files may be, or a command behind them failed: call `continue_restore` or `undo`.
    """
    if unfinished(folder):
        # Before any command: a service that it stops would not be started again.
        raise Fault("a restore is unfinished", FINISH_HINT, RESTORE_NEEDED)
    touched = {member.path for member in plan.request.members}
    same = sum(change.action == "same" and change.path not in touched for change in plan.changes)
    plan = plan._replace(request=plan.request._replace(former=archive.suspect(folder)))
    if not plan.request.members and not any(around):
        _save(plan.request.suspect, folder)
        return same
    with _always_on_failure(around, perform):
        problem = first_failure(around.before, perform)
        if problem:
            raise Fault(f"{problem}; no file is changed", "repair it, then restore again")
        progress = _begin(plan, folder, with_commands=any(around))
        _stage(progress)
    return same + _complete(progress, folder, around, perform)


@contextlib.contextmanager
def _always_on_failure(around: Around, perform: Perform) -> Iterator[None]:
    """Run the commands of `always` if a restore ends with an error and no file is changed."""
    try:
        yield
    except Fault as fault:
        if fault.status == RESTORE_NEEDED:
            raise
        problems = failures(around.always, perform)
        raise Fault("; ".join([fault.message, *problems]), fault.hint, fault.status) from None


def _save(suspect: Optional[Suspect], folder: str) -> None:
    """Record whether the state is suspect, where a restore has nothing else to do; raises Fault."""
    try:
        if suspect is not None:
            known_state.save(folder, suspect)
    except OSError as error:
        raise Fault(failure_message(error)) from None


def _begin(plan: RestorePlan, folder: str, *, with_commands: bool) -> Progress:
    try:
        planned = layout.make_layout(plan.request)
        _check_places(planned, {change.path: change.real for change in plan.changes})
        _check_apart(planned, folder)
        return Progress.begin(folder, planned, with_commands=with_commands)
    except OSError as error:
        raise Fault(failure_message(error)) from None


def unfinished(folder: str) -> Optional[Unfinished]:
    """Return the interrupted restore, or None; raises Fault if its plan or phase cannot be read."""
    found = _unfinished(folder)
    if found is None:
        return None
    return Unfinished(found.layout.request.archive, found.phase, tuple(found.layout.reals))


def continue_restore(folder: str, around: Optional[Around] = NOTHING, perform: Perform = _none) -> int:
    """Continue an interrupted restore to its end; returns and raises as `restore`.

    Of the commands behind the files, those that have passed are not run again: the first that is new or different, and
    all behind it, are run. `around` is None if nobody knows the commands: a restore that has any cannot be continued.
    """
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
    if found.passed is None:
        around = NOTHING
    elif around is None:
        hint = "repair the settings, then `restore --continue` again, or undo it with `restore --undo`"
        raise Fault("the commands around the restore are not known without settings", hint, RESTORE_NEEDED)
    if found.phase != COMMANDS:
        # The machine may have been started anew meanwhile, and with it what they had stopped.
        problem = first_failure(around.before, perform)
        if problem:
            raise Fault(problem, FINISH_HINT, RESTORE_NEEDED)
    with _always_on_failure(around, perform):
        if found.phase == STAGING:
            _stage(found)
    return _complete(found, folder, around, perform)


def passed_commands(folder: str) -> List[Tuple[str, ...]]:
    """Return the commands behind the files of the restore that `undo` would undo that have passed: they stay done."""
    found = _unfinished(folder) or latest(folder, DONE)
    return found.passed or [] if found else []


def undo(folder: str, around: Around = NOTHING, perform: Perform = _none, *, force: bool = False) -> int:
    """Put back the files from before the interrupted restore, or else from before the last finished one.

    Return how many files, links and directories are as they were. If files were changed since a finished restore,
    `force` is needed, and the changes are lost. Of the commands around it, those of `always` are run. Raises Fault;
    with status RESTORE_NEEDED, call it again.
    """
    found = _unfinished(folder) or latest(folder, DONE)
    if found is None:
        raise Fault("no restore to undo")
    try:
        with_commands = found.passed is not None
        if found.phase in (COMMANDS, DONE):
            _check_undoable(found.layout, force=force)
        if found.phase in (COMMANDS, DONE, REPLACING):
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
    problems = failures(around.always, perform) if with_commands else []
    if problems:
        raise Fault(f"{'; '.join(problems)}; the files are as before the restore", "repair it, then run it by hand")
    return count


def _complete(progress: Progress, folder: str, around: Around, perform: Perform) -> int:
    """Continue a restore whose files are staged to its end."""
    count = layout.count_changes(progress.layout)
    try:
        if progress.phase != COMMANDS:
            count = atomic_replace.replace(progress.layout)
            if progress.passed is not None:
                progress.set_phase(COMMANDS)
        if progress.passed is not None:
            _finish(progress, (*around.after, *around.always), perform)
        # Only now: until the commands have passed, the database may still be what the import left.
        _record(progress, progress.layout.request.suspect, folder)
        progress.set_phase(DONE)
    except (OSError, Fault) as error:
        raise Fault(f"the restore was interrupted: {failure_message(error)}", FINISH_HINT, RESTORE_NEEDED) from None
    _remove_others(folder, progress)
    return count


def _finish(progress: Progress, commands: Sequence[Command], perform: Perform) -> None:
    """Run the commands behind the files, from the first that has not passed yet."""
    passed = progress.passed or []
    same = 0
    while same < min(len(passed), len(commands)) and passed[same] == commands[same].argv:
        same += 1
    for at in range(same, len(commands)):
        problem = perform(commands[at], True)  # noqa: FBT003
        if problem:
            raise Fault(f"{problem}; the files are restored{not_run(commands[at + 1 :])}")
        progress.set_passed([command.argv for command in commands[: at + 1]])


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
    return latest(folder, STAGING, REPLACING, COMMANDS, UNDOING)


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
