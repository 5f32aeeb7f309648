"""Records: the result of each run; log, metrics, JSON and exit status are all made from it (J18)."""

import json
import os
from contextlib import suppress
from typing import Any, Dict, List, NamedTuple, Optional, Tuple

from ..archive import known_state
from ..archive.known_state import KNOWN, Suspect
from ..disk import durable
from ..errors import OK

NAME = "state.json"
KEPT = 100
"""runs in the history"""
OVERLAPS = ".overlaps"
OVERLAP = b"skipped\n"


class Result(NamedTuple):
    """How one job ended, or why it did not run."""

    name: str
    stage: str
    outcome: str
    """outcome of its process (`ok`, `failed`, `killed`, `timeout` …), `no-ticket`, `no-secret` or `not-run`"""
    status: Optional[int]
    """exit status or signal number"""
    seconds: float
    reason: str = ""
    """why it did not run"""
    required: bool = False
    """the jobs after it need it"""


class Record(NamedTuple):
    """The record of one run."""

    identity: str
    host: str
    started: int
    """seconds since 1970"""
    seconds: float
    """duration, by the monotonic clock"""
    exit_status: int
    archive: str
    """name of its backup; empty if none could be made"""
    archive_bytes: int
    backup_good: bool
    reasons: Tuple[str, ...]
    """why the backup is not good"""
    faults: Tuple[str, ...]
    """what else made the run fail: a damaged older backup, a journal that could not be written"""
    stages: Dict[str, str]
    jobs: Tuple[Result, ...]
    warnings: Tuple[str, ...]
    pruned: Tuple[str, ...]
    """archives that were deleted"""
    suspect: Suspect = KNOWN
    """the state after the run"""
    commit: str = ""
    """commit of the programs of the jobs; empty if their directory is not a git checkout"""

    @property
    def document(self) -> Dict[str, Any]:
        """The record as JSON."""
        jobs = [dict(job._asdict()) for job in self.jobs]
        return {**self._asdict(), "jobs": jobs, "suspect": known_state.document(self.suspect)}


class History(NamedTuple):
    """Results of former runs, kept in the backup directory."""

    runs: Tuple[Dict[str, Any], ...]
    """records as documents, oldest first"""
    verified: Dict[str, int]
    """time of the last successful verification, by archive name"""
    sequence: int
    """number of the last run"""
    last_success: Optional[int]
    backup_last_good: Optional[int]
    overlaps: int
    """starts that found the lock held"""


def load(folder: str) -> History:
    """Return the history; an unreadable file counts as empty, as the archives hold all that is needed."""
    found: Dict[str, Any] = {}
    with suppress(OSError, ValueError), open(os.path.join(folder, NAME), "rb") as file:
        found = json.loads(file.read().decode("ascii"))
    if not isinstance(found, dict) or found.get("schema") != 1:
        found = {}
    return History(
        tuple(found.get("runs", ())),
        dict(found.get("verified", {})),
        int(found.get("sequence", 0)),
        found.get("last_success"),
        found.get("backup_last_good"),
        _overlaps(folder),
    )


def add(folder: str, history: History, record: Record, verified: Dict[str, int], sequence: int) -> History:
    """Return the history with one more run."""
    ended = record.started + int(record.seconds)
    return History(
        (*history.runs, record.document)[-KEPT:],
        verified,
        sequence,
        ended if record.exit_status == OK else history.last_success,
        record.started if record.backup_good else history.backup_last_good,
        _overlaps(folder),
    )


def save(folder: str, history: History) -> None:
    """Write the history; durable when this returns. Raises OSError."""
    document = {"schema": 1, **history._asdict()}
    document.pop("overlaps")
    text = json.dumps(document, indent=1, sort_keys=True) + "\n"
    durable.write_file(os.path.join(folder, NAME), text.encode("ascii"))


def count_overlap(folder: str) -> None:
    """Count a start that found the lock held; without the lock, so this only appends to a file."""
    path = os.path.join(folder, OVERLAPS)
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
    with suppress(OSError):
        descriptor = os.open(path, flags, 0o600)
        os.write(descriptor, OVERLAP)
        os.close(descriptor)


def _overlaps(folder: str) -> int:
    try:
        return os.path.getsize(os.path.join(folder, OVERLAPS)) // len(OVERLAP)
    except OSError:
        return 0


def summary(document: Dict[str, Any]) -> List[str]:
    """Return a run as text; one line if all went well."""
    ran = [job for job in document["jobs"] if job["outcome"] != "not-run"]
    verdict = "ok" if document["exit_status"] == OK else f"failed with status {document['exit_status']}"
    archive = f"backup `{document['archive']}`" if document["archive"] else "no backup"
    quality = "" if document["backup_good"] or not document["archive"] else " (not good)"
    since = document.get("suspect", {}).get("since")  # absent in records of older versions
    suspect = f", suspect since {since}" if since else ""
    names = ", ".join(job["name"] for job in document["jobs"])
    about = f"; jobs: {names}" if names else ""
    about += f"; commit {document['commit'][:12]}" if document.get("commit") else ""
    count = "1 job" if len(ran) == 1 else f"{len(ran)} jobs"
    words = [f"run {document['identity']}: {verdict}, {count}, {archive}{quality}{suspect}{about}"]
    if document["exit_status"] == OK:
        return words
    words += [f"  backup: {each}" for each in document["reasons"]]
    words += [f"  {each}" for each in document.get("faults", ())]
    for job in document["jobs"]:
        status = "" if job["status"] is None or job["outcome"] == "ok" else f"({job['status']})"
        why = f": {job['reason']}" if job["reason"] else ""
        words.append(f"  {job['stage']} `{job['name']}`: {job['outcome']}{status}{why}")
    return words
