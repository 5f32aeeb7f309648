"""A run: what cron calls. Each step is on the disk before the next begins; whatever fails, what was saved is kept.

lock → leftovers → Kerberos → files staged → imports → exports, reports → files staged → archive, verified, durable
→ logs cut → old archives pruned → record, metrics, notices → unlock
"""

import errno
import os
import secrets
import socket
import threading
import time
from contextlib import suppress
from typing import Dict, FrozenSet, List, Tuple

from .. import VERSION
from ..archive import archive
from ..archive.manifest import FORMAT, Damaged, Manifest, Member
from ..disk import durable
from ..disk.journal import Journal
from ..disk.lock import Lock
from ..errors import RESTORE_NEEDED, Fault, reason
from ..process import kerberos
from ..report import notify, record
from ..report.log import Log
from ..report.record import Record, Result
from ..restore import restore
from ..retention import housekeeping
from ..retention import truncation as cuts
from ..settings.agenda import Agenda
from ..settings.job import STAGES
from ..settings.settings import Settings
from ..staging import snapshot, staging
from ..staging.scan import Wanted
from . import gate, leftovers
from .gate import NOT_RUN
from .stages import Batch, Stages

RESERVE = 16 * 1024 * 1024
"""bytes that stay free (J3)"""
RESERVE_INODES = 64
FULL = (errno.ENOSPC, errno.EDQUOT)


def run(
    settings: Settings, agenda: Agenda, parallel: FrozenSet[str], lock: Lock, stop: threading.Event
) -> Tuple[Record, Dict[str, List[str]]]:
    """Do a run, with the lock held; return its record, and the last lines of jobs that failed.

    Raises Fault if a restore is unfinished. A run that has begun always comes to its record: what goes wrong on the
    way is in it.
    """
    if restore.unfinished(settings.values["CRON_BACKUP"]):
        hint = "bring it to an end first: `restore --continue`, or `restore --undo`"
        raise Fault("a restore is unfinished: files are partly of another day", hint, RESTORE_NEEDED)
    current = _Run(settings, agenda, parallel, lock, stop)
    made = current.perform()
    return made, {job.name: current.log.tail(job.name) for job in made.jobs if job.outcome != "ok"}


class _Run:
    """One run under way."""

    def __init__(
        self, settings: Settings, agenda: Agenda, parallel: FrozenSet[str], lock: Lock, stop: threading.Event
    ) -> None:
        self.settings, self.agenda, self.parallel, self.lock, self.stop = settings, agenda, parallel, lock, stop
        self.folder = settings.values["CRON_BACKUP"]
        self.started, self.clock = int(time.time()), time.monotonic()
        moment = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(self.started))
        self.identity = f"{moment}-{secrets.token_hex(3)}"
        self.own = os.path.join(self.folder, leftovers.RUNS, self.identity)
        self.journal = Journal(os.path.join(self.own, "journal"))
        self.log = Log()
        self.reasons: List[str] = []
        """why the backup is not good"""
        self.warnings: List[str] = []
        self.results: List[Result] = []
        self.members: Tuple[Member, ...] = ()
        self.sources: Dict[str, str] = {}
        """member's path, and where its staged copy is"""
        self.ticket = kerberos.Ticket("", "")
        self.history = record.load(self.folder)
        known = [each.manifest.sequence for each in archive.archives(self.folder) if each.manifest]
        self.sequence = max([self.history.sequence, *known]) + 1
        self.verified = dict(self.history.verified)
        self.faults: List[str] = []
        """what else makes the run fail: older backups that are damaged, a journal that cannot be written"""

    def perform(self) -> Record:
        """Go through all steps."""
        written = ""
        pruned: Tuple[str, ...] = ()
        try:
            self._begin()
            self._save_before()
            self._run_jobs()
            written = self._archive()
            if written and not self.reasons:
                pruned = self._housekeeping(written)
        except OSError as error:
            self.reasons.append(self._describe_error(error))
        finally:
            kerberos.logout(self.ticket)
        return self._end(written or self._salvage(), pruned)

    def _begin(self) -> None:
        """Make the run's directory, journal and log; settle what others left."""
        self.log.open(self.settings.values["CRON_LOG_FILE"])
        told = leftovers.recover(self.folder)
        # What it kept lies beside what it replaced, and would get into the backup.
        restore.drop_undo(self.folder)
        if self.settings.values["METRICS_FILE"]:
            durable.sweep(*os.path.split(self.settings.values["METRICS_FILE"]))
        durable.make_directories(self.own)
        self.log.open(os.path.join(self.own, "log"))
        names = [task.job.name for task in self.agenda.tasks]
        self.journal.write("begin", tool=VERSION, settings=self.settings.real, jobs=names)
        self.log.write(f"run {self.identity} begins with `{self.settings.real}`")
        for each in (*told, *self.settings.warnings, *notify.run_started(self.settings)):
            self._warn(each)

    # Before the jobs

    def _save_before(self) -> None:
        user, keytab = self.settings.values["SVC_USER"], self.settings.values["SVC_KEYTAB"]
        if self.agenda.tasks and (user or keytab or any("kerberos" in task.job.needs for task in self.agenda.tasks)):
            self.ticket = kerberos.login(user, keytab, self.own)
            self._note_problem(self.warnings, self.ticket.warning)
        if self._note_problem(self.reasons, self._no_room()):
            return
        dump = self.settings.values["SNAPSHOT_LORA"]
        if dump and os.path.exists(dump):
            most = float(self.settings.values["BACKUP_MAX_SECONDS_AGE"])
            self._note_problem(self.reasons, snapshot.freshness_problem(dump, self.started, most))
            if self.settings.values["SNAPSHOT_END_MARK"]:
                self._note_problem(self.reasons, snapshot.end_mark_problem(dump))
        self._stage(self.agenda.before, "before")
        leftovers.write_staged(self.own, self._manifest(), self.sources)
        self.journal.write("staged", when="before", members=len(self.members), good=not self.reasons)

    def _note_problem(self, doubts: List[str], text: str) -> bool:
        """Take what may be nothing to the doubts and the log; return whether it is something."""
        if text:
            doubts.append(text)
            self.log.write(f"warning: {text}")
        return bool(text)

    def _no_room(self) -> str:
        """Return why the run would fill the disk: files are staged, and packed beside that (J3)."""
        size = staging.size_of((*self.agenda.before, *self.agenda.after), self.folder)
        needed = int(size * 2.05) + RESERVE
        free = _free(self.folder)
        if free < needed:
            return f"`{self.folder}` has {free} bytes free, expected {needed} for files of {size} bytes"
        status = os.statvfs(self.folder)
        inodes = status.f_ffree if os.geteuid() == 0 else status.f_favail
        if status.f_files and inodes < len(self.agenda.before) + len(self.agenda.after) + RESERVE_INODES:
            return f"`{self.folder}` has room for {inodes} more files only"
        return ""

    def _stage(self, wanted: Tuple[Wanted, ...], when: str) -> None:
        self.lock.set_activity(f"stages files {when} the jobs")
        staged = staging.stage(wanted, os.path.join(self.own, when), when, self.members, self.folder)
        self.members += staged.members
        self.sources.update(staged.sources)
        self.reasons += staged.problems
        for note in (*staged.problems, *staged.notes):
            self.log.write(note)

    def _run_jobs(self) -> None:
        deadline = self.clock + self.settings.values["TIMEOUT_SECONDS"]
        batch = Batch(self.agenda.tasks, self.parallel, deadline, not self.reasons, self.ticket, self.own)
        stages = Stages(batch, self.log, self.journal, self.lock, self.stop)
        self.results = stages.results
        stages.run()
        self.warnings += stages.warnings
        self.faults += stages.faults

    # Behind the jobs

    def _manifest(self) -> Manifest:
        stages = {stage: gate.stage_outcome(stage, self.results) for stage in STAGES}
        jobs = {each.name: {"outcome": each.outcome, "status": each.status} for each in self.results}
        begun = (self.identity, socket.gethostname(), self.started, self.sequence)
        return Manifest(FORMAT, VERSION, *begun, not self.reasons, tuple(self.reasons), stages, jobs, self.members)

    def _archive(self) -> str:
        """Write the archive of all that is staged; return its name, empty if there is nothing or it failed."""
        if self.reasons and not self.members:
            return ""
        self._stage(self.agenda.after, "after")
        self.lock.set_activity("writes the archive")
        try:
            written = archive.write(self.folder, self._manifest(), self.sources)
        except Damaged as error:
            self.reasons.append(f"the archive was not what had been written: {error}")
            return ""
        # It is there from here on, whatever else fails.
        self._note("archived", name=written)
        with suppress(OSError):
            leftovers.remove_staged(self.own)
        return written

    def _salvage(self) -> str:
        """Archive what was staged before the jobs if no archive could be made; return its name, empty if none was."""
        with suppress(OSError):
            leftovers.remove_staged_after(self.own)
            for told in leftovers.archive_staged(self.folder, self.own, self.identity, self.reasons):
                self._warn(told)
        return leftovers.archive_of(self.folder, self.identity)

    def _housekeeping(self, written: str) -> Tuple[str, ...]:
        """With tonight's archive good: cut the logs in it, look at an older archive, prune; return what was pruned."""
        left = [cut.warning for cut in cuts.truncate(list(self.members), self.own) if cut.warning]
        if not left:
            # Otherwise the next run tries again before it archives the same lines once more.
            self._note("cut")
        self.lock.set_activity("verifies an older archive")
        self.verified, damaged = housekeeping.verify_oldest(self.folder, self.history.verified, written)
        self.faults += damaged
        for each in (*left, *damaged):
            self._warn(each)
        pruned, warnings = housekeeping.prune(self.folder, self.settings, self.started)
        for each in warnings:
            self._warn(each)
        for name in pruned:
            self.log.write(f"deleted `{name}`: older than {self.settings.values['BACKUP_SAVE_DAYS']} days")
        self._note("pruned", names=list(pruned))
        return pruned

    def _note(self, act: str, **facts: object) -> None:
        problem = self.journal.try_to_write(act, **facts)
        if problem:
            self.faults.append(problem)
            self._warn(problem)

    def _warn(self, text: str) -> None:
        self.warnings.append(text)
        self.log.write(f"warning: {text}")

    def _describe_error(self, error: OSError) -> str:
        """Return what the system refused, with the place and, if it is full, what is free there."""
        place = str(error.filename or self.folder)
        free = ""
        if error.errno in FULL:
            with suppress(OSError):
                free = f" ({_free(place if os.path.isdir(place) else os.path.dirname(place))} bytes free)"
        return f"`{place}`: {reason(error)}{free}"

    # The end

    def _record(self, written: str, pruned: Tuple[str, ...]) -> Record:
        """Return what is to be told of the run; jobs that it never came to are in it too."""
        known = {each.name for each in self.results}
        lost = [task.job for task in self.agenda.tasks if task.job.name not in known]
        self.results += [Result(job.name, job.stage, NOT_RUN, None, 0.0, "the run broke off before it") for job in lost]
        good = bool(written) and not self.reasons
        return Record(
            self.identity,
            socket.gethostname(),
            self.started,
            round(time.monotonic() - self.clock, 3),
            gate.exit_status(self.results, backup_good=good and not self.faults),
            written,
            os.path.getsize(os.path.join(self.folder, written)) if written else 0,
            good,
            tuple(self.reasons),
            tuple(self.faults),
            {stage: gate.stage_outcome(stage, self.results) for stage in STAGES},
            tuple(self.results),
            (*self.warnings, *self.log.problems),
            pruned,
        )

    def _end(self, written: str, pruned: Tuple[str, ...]) -> Record:
        """Make the record, and tell everybody from it; what cannot be told to one is told to the others."""
        made = self._record(written, pruned)
        for line in record.summary(made.document):
            self.log.write(line)
        history = record.add(self.folder, self.history, made, self.verified, self.sequence)
        count = len(self.warnings)
        try:
            record.save(self.folder, history)
        except OSError as error:
            self._warn(f"what happened could not be remembered: {self._describe_error(error)}")
        for each in notify.run_ended(self.settings, made, history, self.log):
            self._warn(each)
        self._note("end", exit_status=made.exit_status)
        with suppress(OSError):
            leftovers.prune_runs(self.folder)
        self.journal.close()
        self.log.close()
        return made._replace(warnings=(*made.warnings, *self.warnings[count:]))


def _free(folder: str) -> int:
    """Return how many bytes this account may still write to a file system."""
    status = os.statvfs(folder)
    return (status.f_bfree if os.geteuid() == 0 else status.f_bavail) * status.f_frsize
