"""Commands on backups: list, verify, restore. They work without settings too: those may be what was lost."""

import os
import sys
import threading
import time
from contextlib import closing, suppress
from typing import Any, Callable, Dict, List, Optional, TextIO, Tuple

from ..archive import archive
from ..disk.lock import holder, take
from ..errors import BACKUP_BAD, BAD_INPUT, FAILED, OK, RESTORE_NEEDED, BadInput, Fault, Problem
from ..process import process
from ..report.log import printable
from ..restore import restore as restoring
from ..run import leftovers
from ..settings.agenda import draw_up
from .load import opened
from .output import as_json, document, say, talk, write


def folder_of(given: Any, program: str) -> str:
    """Return the backup directory; settings may be what was lost."""
    if given.backups:
        return str(given.backups)
    try:
        return str(opened(given, program)[0].values["CRON_BACKUP"])
    except BadInput as error:
        way_out = Problem("", 0, 0, "", "without settings, name the backups themselves: `--backups DIRECTORY`")
        raise BadInput([*error.problems, way_out]) from None


def backups(given: Any, program: str, _stop: threading.Event) -> int:
    """List the backups, newest first."""
    folder = folder_of(given, program)
    found = archive.archives(folder)
    waiting = _waiting(folder)
    if as_json(given):
        document(backups=[_described(each) for each in found], unfinished=waiting)
        return OK
    for each in found:
        say([_row(each)])
    say(f"{each['id']}: killed; what it had saved becomes a backup with the next run or restore" for each in waiting)
    return OK


def _described(each: archive.Archive) -> Dict[str, Any]:
    facts: Dict[str, Any] = {"name": each.name, "kind": each.kind, "created": int(each.created), "bytes": each.size}
    if each.manifest:
        manifest = each.manifest
        facts.update(host=manifest.host, stages=manifest.stages, jobs=manifest.jobs, files=len(manifest.members))
        facts.update(reasons=list(manifest.reasons), sequence=manifest.sequence)
    return {**facts, "problem": each.problem}


def _row(each: archive.Archive) -> str:
    created = time.strftime("%Y-%m-%d %H:%M:%SZ", time.gmtime(each.created))
    stages = ""
    if each.manifest:
        ran = {stage: outcome for stage, outcome in each.manifest.stages.items() if outcome != "none"}
        stages = ", ".join(f"{stage} {outcome}" for stage, outcome in sorted(ran.items())) or "no jobs"
    told = each.problem or "; ".join(each.manifest.reasons if each.manifest else ())
    return f"{created}  {each.kind:10}  {each.size:>12}  {each.name}  {stages}  {told}".rstrip()


def chosen(folder: str, name: str) -> archive.Archive:
    """Return the archive of that name, or the latest good one; raises Fault."""
    found = archive.archives(folder)
    if name != "latest":
        for each in found:
            if name in (each.name, each.path, each.name.split("-cron-backup")[0]):
                return each
        hint = f"see `job-runner backups`; there are {len(found)}"
        raise Fault(f"no backup `{name}` in `{folder}`", hint, BAD_INPUT)
    good = [each for each in found if each.kind == "good"] or [each for each in found if each.kind == "historical"]
    if not good:
        raise Fault(f"no good backup in `{folder}`", "see `job-runner backups`", BACKUP_BAD)
    return good[0]


def verify(given: Any, program: str, _stop: threading.Event) -> int:
    """Read backups from end to end."""
    folder = folder_of(given, program)
    every = [each for each in archive.archives(folder) if each.kind != "bad"] if given.all else []
    looked_at = every or [chosen(folder, given.archive)]
    told = {each.name: archive.verify(each.path) for each in looked_at}
    if as_json(given):
        document(exit_status=BACKUP_BAD if any(told.values()) else OK, backups=told)
    else:
        for name, problems in told.items():
            say([f"{name}: {'; '.join(problems) or 'sound'}"])
    return BACKUP_BAD if any(told.values()) else OK


def restore(given: Any, program: str, stop: threading.Event) -> int:
    """Put files of a backup back; without `--yes` show what that would do."""
    folder = folder_of(given, program)
    if given.undo or given.carry_on:
        if given.archive or (given.undo and given.carry_on):
            raise BadInput([Problem("", 0, 0, "", "`--continue` and `--undo` stand alone: what they concern is known")])
        return _conclude(given, program, folder, stop)
    if not given.archive:
        hint = "see `job-runner backups`; `latest` is the newest good one"
        raise BadInput([Problem("", 0, 0, "", "no backup named", hint)])
    if not given.yes:
        return _show(given, folder)
    with closing(take(folder, "restores", given.wait)):
        # A run that was killed may have saved the very state that is wanted.
        told = leftovers.settle(folder)
        if restoring.unfinished(folder):
            # Before any command is run: what it stops, nothing would start again.
            raise Fault("a restore is unfinished", restoring.UNTIL_THEN, RESTORE_NEEDED)
        intent = _intended(given, folder)
        talk(given, [*told, *intent.notes])
        before, after = _hooks(given, program)
        _perform(given, before, "before", stop)
        count = restoring.restore(intent, folder)
        talk(given, [f"{count} files are as in `{os.path.basename(intent.archive)}`, each read again and compared"])
        _perform(given, after, "after", stop)
    if as_json(given):
        document(exit_status=OK, archive=intent.archive, files=count, notes=[*told, *intent.notes], done=True)
    return OK


def _waiting(folder: str) -> List[Dict[str, Any]]:
    """Return the runs that were killed with files saved; one that is going on is none of them."""
    return [] if holder(folder) is not None else leftovers.describe(folder)


def _intended(given: Any, folder: str) -> restoring.Intent:
    each = chosen(folder, given.archive)
    if each.kind == "failed" and not given.force:
        reasons = "; ".join(each.manifest.reasons) if each.manifest else each.problem
        hint = "take another one, or what it has with `--force`"
        raise Fault(f"`{each.name}` is not a good backup: {reasons}", hint, BACKUP_BAD)
    intent = restoring.intend(each.path, given.paths, given.root, given.host, force=given.force)
    trap = _trap(each, archive.archives(folder)) if given.archive == "latest" else []
    return intent._replace(notes=(*trap, *intent.notes))


def _trap(latest: archive.Archive, every: List[archive.Archive]) -> List[str]:
    """Say so if the latest backup was made behind a night that failed: it holds what that night left."""
    row = []
    for each in every[every.index(latest) :]:
        if each.kind == "good" and each.manifest and "failed" not in each.manifest.stages.values():
            break
        row += [each] if each.kind == "good" else []
    if len(row) < 2:  # noqa: PLR2004 - tonight's alone is the usual case
        return []
    return [f"{len(row)} runs in a row have failed: what was before the first of them is in `{row[-1].name}`"]


def _show(given: Any, folder: str) -> int:
    intent = _intended(given, folder)
    waiting = [f"run {each['id']} was killed; what it had saved becomes a backup first" for each in _waiting(folder)]
    if as_json(given):
        changes = [dict(change._asdict()) for change in intent.changes]
        document(exit_status=OK, archive=intent.archive, changes=changes, notes=[*intent.notes, *waiting], done=False)
        return OK
    say([*waiting, *intent.notes])
    say(f"{change.action:8} {printable(os.fsencode(change.real))}" for change in intent.changes)
    different = sum(1 for change in intent.changes if change.action not in ("same", "grown"))
    name = os.path.basename(intent.archive)
    say([f"{name}: {different} of {len(intent.changes)} would change; nothing was touched: `--yes` does it"])
    return OK


def _conclude(given: Any, program: str, folder: str, stop: threading.Event) -> int:
    """Finish a restore, or take it back."""
    with closing(take(folder, "restores", given.wait)):
        if given.undo:
            count = restoring.undo(folder, force=given.force)
            talk(given, [f"{count} files are as they were before the restore"])
            with suppress(BadInput):  # the settings may have gone with it
                _, after = _hooks(given, program)
                talk(given, (f"not run, as files went back: {' '.join(command.argv)}" for command in after))
        else:
            count = restoring.carry_on(folder)
            talk(given, [f"{count} files are as in the backup, each read again and compared"])
            _perform(given, _hooks(given, program)[1], "after", stop)
    if as_json(given):
        document(exit_status=OK, files=count, done=True)
    return OK


def _hooks(given: Any, program: str) -> Tuple[Tuple[process.Command, ...], Tuple[process.Command, ...]]:
    """Return the commands around a restore: none for a drill, and none if there are no settings to tell."""
    if given.root != "/":
        return (), ()
    try:
        settings, catalogue = opened(given, program)
    except BadInput:
        if not given.backups:
            raise
        talk(given, ["no command is run before or after: there are no settings to tell them"])
        return (), ()
    agenda = draw_up(settings, catalogue, program)
    return agenda.restore_before, agenda.restore_after


def _perform(given: Any, commands: Tuple[process.Command, ...], when: str, stop: threading.Event) -> None:
    """Run commands; raises Fault at the first that fails."""
    for command in commands:
        shown = " ".join(command.argv)
        talk(given, [f"runs: {shown}"])
        stream = sys.stderr if as_json(given) else sys.stdout
        ending = process.run(command, _writer(stream), stop=stop.is_set)
        if ending.outcome != "ok":
            status = "" if ending.status is None else f" ({ending.status})"
            files = "nothing is changed" if when == "before" else "the files are back"
            hint = "mend it, and restore again" if when == "before" else f"mend it, and run it by hand: {shown}"
            raise Fault(f"`{shown}` ended: {ending.outcome}{status}; {files}", hint, FAILED)


def _writer(stream: Optional[TextIO]) -> Callable[[bytes], None]:
    return lambda data: write(data.decode("utf-8", "backslashreplace"), stream)
