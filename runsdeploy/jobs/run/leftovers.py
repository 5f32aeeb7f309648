"""Leftovers of killed runs, and recovery from them. The lock must be held, so an unfinished run is a dead one (J1).

The files that a killed run staged before its jobs are the state that a restore needs most: they are archived here.
"""

import json
import os
import re
import shutil
from typing import Any, Dict, List, Optional, Sequence, Set, Tuple

from ..archive import archive, known_state
from ..archive.known_state import Suspect
from ..archive.manifest import Damaged, Manifest, Member
from ..disk import durable, journal
from ..report import record
from ..retention import truncation

RUNS = ".runs"
STAGED = "staged.json"
"""file in the directory of a run as long as its staged files are not archived"""
KEPT = 20
"""number of run directories that are kept, for their logs"""

_IDENTITY = re.compile(r"[0-9]{8}T[0-9]{6}Z-[0-9a-f]{6}$")
_ARCHIVE = _IDENTITY.pattern[:-1] + r"-cron-backup(?:-failed)?\.tar\.gz"
_UNFINISHED = re.compile(_ARCHIVE + r"\.[^/]*tmp$")
_CHECKSUM = re.compile(f"({_ARCHIVE})" + r"\.sha256$")


def write_staged(run: str, manifest: Manifest, sources: Dict[str, str]) -> None:
    """Record the staged files of a run, so that the next run can archive them; durable when this returns."""
    facts = {"manifest": manifest._asdict(), "members": [m._asdict() for m in manifest.members], "sources": sources}
    durable.write_file(os.path.join(run, STAGED), json.dumps(facts).encode("ascii"))


def recover(folder: str) -> List[str]:
    """Recover all killed runs of a backup directory; return messages about what was done."""
    messages = []
    names, recorded = run_ids(folder), _recorded(folder)
    for name in names:
        run = os.path.join(folder, RUNS, name)
        durable.sweep(run)
        acts = actions(run)
        if "end" not in acts and name not in recorded:
            messages.append(f"run {name} was killed")
        if "cut" not in acts and ("end" not in acts or name == names[-1]):
            messages += _finish_cuts(folder, run, name)
        messages += archive_staged(folder, run, name)
        if "end" not in acts:
            _note(run, "end", interrupted=True)
    _sweep(folder)
    return messages


def _note(run: str, act: str, **facts: Any) -> None:
    acts = journal.Journal(os.path.join(run, "journal"))
    acts.try_to_write(act, **facts)
    acts.close()


def run_ids(folder: str) -> List[str]:
    """Return the ids of all runs that have a directory, oldest first."""
    runs = os.path.join(folder, RUNS)
    try:
        found = [name for name in os.listdir(runs) if _IDENTITY.match(name)]
    except FileNotFoundError:
        return []
    return sorted(found, key=lambda name: (name.partition("-")[0], _last_act(os.path.join(runs, name)), name))


def _last_act(run: str) -> int:
    """Return the time of the last journal record in nanoseconds since 1970; it orders runs of the same second."""
    try:
        return os.stat(os.path.join(run, "journal")).st_mtime_ns
    except OSError:
        return 0


def prune_runs(folder: str) -> None:
    """Delete the directories of old runs."""
    for name in run_ids(folder)[:-KEPT]:
        run = os.path.join(folder, RUNS, name)
        if not os.path.exists(os.path.join(run, STAGED)):
            shutil.rmtree(run, ignore_errors=True)


def remove_staged(run: str) -> None:
    """Delete the staged files of a run: they are archived, or useless. Raises OSError."""
    if os.path.exists(os.path.join(run, STAGED)):
        durable.remove(os.path.join(run, STAGED))
        durable.sync_directory(run)
    for part in ("before", "after"):
        shutil.rmtree(os.path.join(run, part), ignore_errors=True)


def remove_staged_after(run: str) -> None:
    """Delete the files staged after the jobs: on a full disk, those staged before are more important."""
    shutil.rmtree(os.path.join(run, "after"), ignore_errors=True)


def archive_of(folder: str, name: str) -> str:
    """Return the name of the archive of a run; empty if there is none."""
    for end in ("-cron-backup.tar.gz", "-cron-backup-failed.tar.gz"):
        if os.path.exists(os.path.join(folder, name + end)):
            return name + end
    return ""


def _finish_cuts(folder: str, run: str, name: str) -> List[str]:
    """Truncate logs that are archived but not yet truncated: the next archive would have the lines twice (J25)."""
    written = archive_of(folder, name)
    found = [each for each in archive.archives(folder) if each.name == written and each.kind == "good"]
    if not found or not found[0].manifest:
        return []
    warnings = [cut.warning for cut in truncation.truncate(list(found[0].manifest.members), run) if cut.warning]
    if not warnings:
        _note(run, "cut")
    return warnings


def archive_staged(folder: str, run: str, name: str, reasons: Sequence[str] = ()) -> List[str]:
    """Archive the files that a run staged before its jobs, unless it has an archive; not good if there are reasons.

    Return messages about what was done. Raises OSError if files that are archived already cannot be deleted.
    """
    if archive_of(folder, name):
        remove_staged(run)
        return []
    try:
        staged = _staged(run)
        if staged is None:
            remove_staged(run)
            return []
        manifest, sources = staged
        manifest = manifest._replace(stages=_stages(run, manifest))
        if reasons:
            manifest = manifest._replace(good=False, reasons=tuple(reasons))
        written = archive.write(folder, manifest, sources)
    except (OSError, Damaged) as error:
        return [f"staged files of run {name} could not be archived: {error}; they stay in `{run}`"]
    remove_staged(run)
    return [f"staged files of run {name} are now in `{written}`"]


def _staged(run: str) -> Optional[Tuple[Manifest, Dict[str, str]]]:
    try:
        with open(os.path.join(run, STAGED), "rb") as file:
            facts = json.loads(file.read().decode("ascii"))
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise Damaged(str(error)) from None
    members = tuple(Member(**member) for member in facts["members"])
    fields = {**facts["manifest"], "members": members, "reasons": tuple(facts["manifest"]["reasons"])}
    if fields.get("suspect") is not None:  # an older version staged them without it
        since, imports = fields["suspect"]
        fields["suspect"] = Suspect(since, tuple(imports))
    return Manifest(**fields), facts["sources"]


def _stages(run: str, manifest: Manifest) -> Dict[str, str]:
    """Return the outcomes of the stages, according to the journal."""
    stages = dict(manifest.stages)
    for each in journal.read(os.path.join(run, "journal")):
        if each["act"] == "stage":
            stages[each["stage"]] = each["outcome"]
        elif each["act"] == "start":
            stages[each["stage"]] = "interrupted"
    return stages


def _sweep(folder: str) -> None:
    """Delete unfinished archives, and checksum files of archives that were not finished."""
    for kept in (record.NAME, known_state.FILE):
        durable.sweep(folder, kept)
    for name in os.listdir(folder):
        match = _CHECKSUM.match(name)
        orphan = match and not any(os.path.lexists(os.path.join(folder, match.group(1) + end)) for end in ("", ".bad"))
        if _UNFINISHED.match(name) or orphan:
            durable.remove(os.path.join(folder, name))


def killed_runs(folder: str) -> List[str]:
    """Return the ids of runs without an end record that are not recovered; an active run is among them."""
    unended = [name for name in run_ids(folder) if "end" not in actions(os.path.join(folder, RUNS, name))]
    recorded = _recorded(folder)
    return [name for name in unended if name not in recorded]


def _recorded(folder: str) -> Set[str]:
    """Return the ids of runs with a record: they came to their end, also if the disk had no room for its note."""
    return {str(each.get("identity")) for each in record.load(folder).runs}


def actions(run: str) -> List[str]:
    """Return the names of the records in the journal of a run."""
    return [each["act"] for each in journal.read(os.path.join(run, "journal"))]


def unarchived_runs(folder: str) -> List[str]:
    """Return the ids of runs with staged files that are not yet archived, for lists of backups."""
    return [name for name in run_ids(folder) if os.path.exists(os.path.join(folder, RUNS, name, STAGED))]
