"""Commands for backups: list, verify, restore. They work without settings too: those may be lost."""

import os
import sys
import threading
import time
from contextlib import closing, suppress
from typing import Any, Callable, Dict, List, Optional, TextIO

from ..archive import archive, known_state
from ..archive.known_state import KNOWN
from ..disk.lock import acquire, holder
from ..errors import BACKUP_BAD, BAD_INPUT, OK, RESTORE_NEEDED, BadInput, Fault, Problem
from ..process import process
from ..process.around import Around, Perform, shown
from ..process.process import Command
from ..report.log import printable
from ..restore import restore as restoring
from ..run import leftovers
from ..settings.agenda import make_agenda
from .load import load, own_files
from .output import print_notes, print_result, wants_json, write


def folder_of(arguments: Any, program: str) -> str:
    """Return the backup directory, from the arguments or the settings."""
    if arguments.backups:
        return str(arguments.backups)
    try:
        return str(load(arguments, program)[0].values["CRON_BACKUP"])
    except BadInput as error:
        hint = Problem("", 0, 0, "", "without settings, give the directory of the backups: `--backups DIRECTORY`")
        raise BadInput([*error.problems, hint]) from None


def backups(arguments: Any, program: str, _stop: threading.Event) -> int:
    """List the backups, newest first."""
    folder = folder_of(arguments, program)
    found = archive.archives(folder)
    waiting = _unarchived(folder)
    lines = [_row(each) for each in found]
    lines += [f"{each}: killed; the next run or restore makes a backup of its staged files" for each in waiting]
    facts = [_facts(each) for each in found]
    print_result(arguments, lines, backups=facts, unfinished=[{"id": each} for each in waiting])
    return OK


def _facts(each: archive.Archive) -> Dict[str, Any]:
    facts: Dict[str, Any] = {"name": each.name, "kind": each.kind, "created": int(each.created), "bytes": each.size}
    if each.manifest:
        manifest = each.manifest
        facts.update(host=manifest.host, stages=manifest.stages, jobs=manifest.jobs, files=len(manifest.members))
        facts.update(reasons=list(manifest.reasons), sequence=manifest.sequence)
        facts.update(suspect=known_state.document(manifest.suspect or KNOWN))
    return {**facts, "problem": each.problem}


def _row(each: archive.Archive) -> str:
    created = time.strftime("%Y-%m-%d %H:%M:%SZ", time.gmtime(each.created))
    stages = ""
    if each.manifest:
        ran = {stage: outcome for stage, outcome in each.manifest.stages.items() if outcome != "none"}
        stages = ", ".join(f"{stage} {outcome}" for stage, outcome in sorted(ran.items())) or "no jobs"
        since = (each.manifest.suspect or KNOWN).since
        stages += f", suspect since {since}" if since else ""
    problem = each.problem or "; ".join(each.manifest.reasons if each.manifest else ())
    return f"{created}  {each.kind:10}  {each.size:>12}  {each.name}  {stages}  {problem}".rstrip()


def choose(folder: str, name: str) -> archive.Archive:
    """Return the archive of that name, or for `latest` the newest good one of a known state; raises Fault."""
    found = archive.archives(folder)
    if name != "latest":
        for each in found:
            if name in (each.name, each.path, each.name.split("-cron-backup")[0]):
                return each
        hint = f"see `job-runner backups`, which lists {len(found)}"
        raise Fault(f"no backup `{name}` in `{folder}`", hint, BAD_INPUT)
    good = [each for each in found if each.kind == "good"]
    chosen = archive.latest(found, archive.suspect(folder))
    if good and not chosen:
        text = f"no backup in `{folder}` is from before the first unfinished import: all good ones are suspect"
        raise Fault(text, f"the oldest of them is `{good[-1].name}`: restore it by its name", BACKUP_BAD)
    chosen = chosen or next((each for each in found if each.kind == "historical"), None)
    if not chosen:
        raise Fault(f"no good backup in `{folder}`", "see `job-runner backups`", BACKUP_BAD)
    return chosen


def verify(arguments: Any, program: str, _stop: threading.Event) -> int:
    """Verify backups by reading all of them."""
    folder = folder_of(arguments, program)
    every = [each for each in archive.archives(folder) if each.kind != "bad"] if arguments.all else []
    looked_at = every or [choose(folder, arguments.archive)]
    results = {each.name: archive.verify(each.path) for each in looked_at}
    status = BACKUP_BAD if any(results.values()) else OK
    lines = [f"{name}: {'; '.join(problems) or 'sound'}" for name, problems in results.items()]
    print_result(arguments, lines, exit_status=status, backups=results)
    return status


def restore(arguments: Any, program: str, stop: threading.Event) -> int:
    """Restore files of a backup; without `--yes` only show what would change."""
    folder = folder_of(arguments, program)
    if arguments.undo or arguments.continue_restore:
        if arguments.archive or (arguments.undo and arguments.continue_restore):
            raise BadInput([Problem("", 0, 0, "", "`--continue` and `--undo` take no backup and exclude each other")])
        return _continue_or_undo(arguments, program, folder, stop)
    if not arguments.archive:
        hint = "see `job-runner backups`; `latest` is the newest good one that is not suspect"
        raise BadInput([Problem("", 0, 0, "", "no backup given", hint)])
    if not arguments.yes:
        return _show(arguments, program, folder)
    with closing(acquire(folder, "restores", arguments.wait)):
        # A killed run may have staged the state that is to be restored.
        messages = leftovers.recover(folder)
        if restoring.unfinished(folder):
            raise Fault("a restore is unfinished", restoring.FINISH_HINT, RESTORE_NEEDED)
        plan = _planned(arguments, program, folder)
        print_notes(arguments, [*messages, *plan.notes])
        around = (_around(arguments, program) if arguments.root == "/" else None) or restoring.NOTHING
        count = restoring.restore(plan, folder, around, _performer(arguments, stop))
        print_notes(
            arguments, [f"{count} files are as in `{os.path.basename(plan.archive)}`; all were read back and compared"]
        )
    notes = [*messages, *plan.notes]
    print_result(arguments, (), exit_status=OK, archive=plan.archive, files=count, notes=notes, done=True)
    return OK


def _unarchived(folder: str) -> List[str]:
    """Return the ids of killed runs with staged files; none while a run is active."""
    return [] if holder(folder) is not None else leftovers.unarchived_runs(folder)


def _planned(arguments: Any, program: str, folder: str) -> restoring.RestorePlan:
    each = choose(folder, arguments.archive)
    if each.kind == "failed" and not arguments.force:
        reasons = "; ".join(each.manifest.reasons) if each.manifest else each.problem
        hint = "take another one, or restore what it has with `--force`"
        raise Fault(f"`{each.name}` is not a good backup: {reasons}", hint, BACKUP_BAD)
    own = own_files(arguments, program) if arguments.root == "/" else ()
    plan = restoring.make_plan(
        each.path, arguments.paths, arguments.root, arguments.host, own=own, force=arguments.force
    )
    fact = each.manifest.suspect or KNOWN if each.manifest else KNOWN
    if not arguments.paths and plan.request.root == "/" and each.kind in ("good", "historical"):
        plan = plan._replace(request=plan.request._replace(suspect=fact))
    return plan._replace(notes=(*_doubts(folder, each, fact.since), *plan.notes))


def _doubts(folder: str, chosen: archive.Archive, since: str) -> List[str]:
    """Return a note if the chosen archive is suspect, or if newer ones are, which is why they are not `latest`."""
    if since:
        return [f"`{chosen.name}` is suspect since run {since}: `latest` is the known state from before it"]
    every = archive.archives(folder)
    newer = [each for each in every[: every.index(chosen)] if each.kind == "good" and not each.known]
    if not newer or archive.latest(every, archive.suspect(folder)) != chosen:
        return []
    return [f"`{chosen.name}` is the known state: newer backups are suspect: {len(newer)}, made after an import failed"]


def _show(arguments: Any, program: str, folder: str) -> int:
    plan = _planned(arguments, program, folder)
    notes = [*plan.notes]
    notes += [f"run {each} was killed; a backup of its staged files will be made first" for each in _unarchived(folder)]
    lines = [*notes, *(f"{change.action:8} {printable(os.fsencode(change.real))}" for change in plan.changes)]
    different = sum(1 for change in plan.changes if change.action not in ("same", "grown", "left"))
    name = os.path.basename(plan.archive)
    lines.append(f"{name}: {different} of {len(plan.changes)} would change; nothing was changed yet: add `--yes`")
    changes = [dict(change._asdict()) for change in plan.changes]
    print_result(arguments, lines, exit_status=OK, archive=plan.archive, changes=changes, notes=notes, done=False)
    return OK


def _continue_or_undo(arguments: Any, program: str, folder: str, stop: threading.Event) -> int:
    """Continue or undo a restore."""
    perform = _performer(arguments, stop)
    with closing(acquire(folder, "restores", arguments.wait)):
        around: Optional[Around] = None
        with suppress(BadInput):  # what was restored may be the settings, or there are none
            around = _around(arguments, program)
        if arguments.undo:
            passed = restoring.passed_commands(folder)
            count = restoring.undo(folder, around or restoring.NOTHING, perform, force=arguments.force)
            print_notes(arguments, [f"{count} files are as they were before the restore"])
            print_notes(arguments, (f"not undone, because a command did it: {' '.join(words)}" for words in passed))
        else:
            count = restoring.continue_restore(folder, around, perform)
            print_notes(arguments, [f"the restore is finished: {count} files, and all commands behind them"])
    print_result(arguments, (), exit_status=OK, files=count, done=True)
    return OK


def _around(arguments: Any, program: str) -> Optional[Around]:
    """Return the commands around a restore; None if there are no settings, which is only accepted with `--backups`."""
    try:
        settings, catalogue = load(arguments, program)
    except BadInput:
        if not arguments.backups:
            raise
        print_notes(arguments, ["without settings no commands are run before or after the restore"])
        return None
    # What is wrong with a job must not stop a restore.
    return make_agenda(settings._replace(enabled=frozenset()), catalogue, program).restore


def _performer(arguments: Any, stop: threading.Event) -> Perform:
    """Return what runs a command around a restore."""
    stream = sys.stderr if wants_json(arguments) else sys.stdout

    def perform(command: Command, stoppable: bool) -> str:  # noqa: FBT001
        print_notes(arguments, [f"runs: {shown(command)}"])
        ending = process.run(command, _writer(stream), stop=stop.is_set if stoppable else None)
        return process.failure(command, ending)

    return perform


def _writer(stream: Optional[TextIO]) -> Callable[[bytes], None]:
    return lambda data: write(data.decode("utf-8", "backslashreplace"), stream)
