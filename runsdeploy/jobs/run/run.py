"""A run, as cron starts it. Each step is on the disk before the next one starts; after a failure saved files are kept.

lock → recovery of killed runs → Kerberos → commands around the copies, stage files → imports → exports, reports
→ stage files → archive, verified and durable → truncate logs → prune old archives → record, metrics, notifications
→ unlock
"""

import errno
import os
import secrets
import socket
import threading
import time
from contextlib import suppress
from typing import Dict, List, Tuple

from .. import VERSION
from ..archive import archive
from ..archive.known_state import KNOWN
from ..archive.manifest import FORMAT, Damaged, Manifest, Member
from ..disk import durable, trust
from ..disk.journal import Journal
from ..disk.lock import Lock
from ..errors import RESTORE_NEEDED, Fault, reason
from ..process import kerberos, process
from ..process.around import failures, first_failure, shown
from ..process.process import Command
from ..report import notify, record
from ..report.commit import commit_of
from ..report.log import Log
from ..report.record import Record, Result
from ..restore import restore
from ..retention import housekeeping
from ..retention import truncation as cuts
from ..settings.agenda import Agenda
from ..settings.catalogue import Catalogue
from ..settings.job import STAGES
from ..settings.settings import Settings
from ..staging import snapshot, staging
from ..staging.scan import Wanted
from . import gate, leftovers
from .gate import NOT_RUN
from .stages import Batch, Stages

RESERVE = 16 * 1024 * 1024
"""bytes of the disk that must stay free (J3)"""
RESERVE_INODES = 64
AROUND = "copies"
"""name of the output of the commands around the copies, in the log"""
FULL = (errno.ENOSPC, errno.EDQUOT)


def run(
    settings: Settings, agenda: Agenda, catalogue: Catalogue, lock: Lock, stop: threading.Event
) -> Tuple[Record, Dict[str, List[str]]]:
    """Do a run, with the lock held; return its record, and the last output lines of failed jobs.

    Raises Fault if a restore is unfinished. Every other error is part of the record.
    """
    if restore.unfinished(settings.values["CRON_BACKUP"]):
        raise Fault("a restore is unfinished: no job runs", restore.FINISH_HINT, RESTORE_NEEDED)
    current = _Run(settings, agenda, catalogue, lock, stop)
    made = current.perform()
    failed = [*current.failed, *(job.name for job in made.jobs if job.outcome != "ok")]
    return made, {name: current.log.tail(name) for name in failed}


class _Run:
    """One run."""

    def __init__(
        self, settings: Settings, agenda: Agenda, catalogue: Catalogue, lock: Lock, stop: threading.Event
    ) -> None:
        self.settings, self.agenda, self.catalogue, self.lock, self.stop = settings, agenda, catalogue, lock, stop
        self.folder = settings.values["CRON_BACKUP"]
        self.started, self.clock = int(time.time()), time.monotonic()
        moment = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(self.started))
        self.identity = f"{moment}-{secrets.token_hex(3)}"
        self.own = os.path.join(self.folder, leftovers.RUNS, self.identity)
        self.journal = Journal(os.path.join(self.own, "journal"))
        self.log = Log()
        self.reasons: List[str] = []
        """why the backup is not good; empty if it is"""
        self.failed: List[str] = []
        """whose output is shown besides that of failed jobs"""
        self.results: List[Result] = []
        self.members: Tuple[Member, ...] = ()
        self.sources: Dict[str, str] = {}
        """staged copy of each member, by path"""
        self.ticket = kerberos.Ticket("", "")
        self.commit = commit_of(agenda.install)
        self.history = record.load(self.folder)
        self.sequence = 0
        """number of the run"""
        self.suspect = self.suspect_now = KNOWN
        """the state when the files are copied, and after the jobs"""
        self._read_state()
        self.verified = dict(self.history.verified)

    def perform(self) -> Record:
        """Do all steps; return the record."""
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
            if not self.results and any(task.job.stage == "always" for task in self.agenda.tasks):
                # Without a good backup no other job runs.
                self._run_jobs()
        finally:
            kerberos.logout(self.ticket)
        return self._end(written or self._archive_after_failure(), pruned)

    def _read_state(self) -> None:
        known = [each.manifest.sequence for each in archive.archives(self.folder) if each.manifest]
        self.sequence = max([self.history.sequence, *known]) + 1
        self.suspect = self.suspect_now = archive.suspect(self.folder)

    def _begin(self) -> None:
        """Recover killed runs, and make directory, journal and log of this run."""
        self.log.open(self.settings.values["CRON_LOG_FILE"])
        messages = leftovers.recover(self.folder)
        self._read_state()  # again: the archive of a killed run comes before this one
        # Files kept by a restore are beside the restored ones, and would get into the backup.
        restore.drop_undo(self.folder)
        metrics = self.settings.values["METRICS_FILE"]
        if metrics and not trust.problems(metrics):
            durable.sweep(*os.path.split(metrics))
        durable.make_directories(self.own)
        self.log.open(os.path.join(self.own, "log"))
        names = [task.job.name for task in self.agenda.tasks]
        self.journal.write("begin", tool=VERSION, settings=self.settings.real, jobs=names)
        self.log.write(f"run {self.identity} starts with `{self.settings.real}`")
        for each in (*messages, *self.settings.warnings, *self.agenda.warnings, *notify.run_started(self.settings)):
            self.log.add_warning(each)

    # Before the jobs

    def _save_before(self) -> None:
        user, keytab = self.settings.values["SVC_USER"], self.settings.values["SVC_KEYTAB"]
        if self.agenda.tasks and (user or keytab or any("kerberos" in task.job.needs for task in self.agenda.tasks)):
            self.ticket = kerberos.login(user, keytab, self.own)
            if self.ticket.warning:
                self.log.add_warning(self.ticket.warning)
        if self._doubt(self._no_room()):
            return
        around = self.agenda.copies
        try:
            self._doubt(first_failure(around.before, self._perform))
            self._copy_before()
            if not self.reasons:
                self._doubt(first_failure(around.after, self._perform))
        finally:
            for problem in failures(around.always, self._perform):
                self._doubt(problem)
        leftovers.write_staged(self.own, self._manifest(), self.sources)
        self.journal.write("staged", when="before", members=len(self.members), good=not self.reasons)

    def _copy_before(self) -> None:
        dump = self.settings.values["SNAPSHOT_LORA"]
        if dump and os.path.exists(dump):
            most = float(self.settings.values["BACKUP_MAX_SECONDS_AGE"])
            problem = snapshot.freshness_problem(dump, self.started, most, time.time())
            self._doubt(problem)
        self._stage(self.agenda.before, "before")
        copy = self.sources.get(os.path.realpath(dump)) if dump else None
        if copy:
            strict = self.settings.values["SNAPSHOT_END_MARK"]
            self._doubt(snapshot.damage(copy, dump, strict=strict))

    def _perform(self, command: Command, stoppable: bool) -> str:  # noqa: FBT001
        """Run a command around the copies; return how it failed, empty if it passed."""
        self.lock.set_activity(f"runs `{command.argv[0]}`")
        self.log.write(f"runs `{shown(command)}`")
        stop = self.stop.is_set if stoppable else None
        ending = process.run(command, lambda data: self.log.output(AROUND, data), stop=stop, spool=self.own)
        problem = process.failure(command, ending)
        if problem:
            self.failed.append(AROUND)
        return problem

    def _login(self, job: str) -> kerberos.Ticket:
        values = self.settings.values
        return kerberos.login(values["SVC_USER"], values["SVC_KEYTAB"], self.own, suffix=f".{job}")

    def _doubt(self, text: str) -> bool:
        """Add a reason why the backup is not good, unless it is empty; return whether there is one."""
        if text:
            self.reasons.append(text)
            self.log.write(f"warning: {text}")
        return bool(text)

    def _no_room(self) -> str:
        """Return why the disk is too full for a run, empty if it is not: files are staged, then archived (J3)."""
        size = staging.size_of((*self.agenda.before, *self.agenda.after), self.folder)
        needed = int(size * 2.05) + RESERVE
        free = _free(self.folder)
        if free < needed:
            return f"`{self.folder}` has {free} bytes free, expected {needed} for files of {size} bytes"
        status = os.statvfs(self.folder)
        inodes = status.f_ffree if os.geteuid() == 0 else status.f_favail
        if status.f_files and inodes < len(self.agenda.before) + len(self.agenda.after) + RESERVE_INODES:
            return f"`{self.folder}` has only {inodes} free inodes"
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
        good, login = not self.reasons, self._login
        imports = frozenset(job.name for job in self.catalogue.jobs if job.stage == "imports" and job.required)
        batch = Batch(
            self.agenda.tasks, self.catalogue.parallel, deadline, good, self.ticket, login,
            self.own, self.folder, self.identity, self.suspect, imports,
        )  # fmt: skip
        stages = Stages(batch, self.log, self.journal, self.lock, self.stop)
        self.results = stages.results
        stages.run()
        self.suspect_now = stages.suspect

    # After the jobs

    def _manifest(self) -> Manifest:
        stages = {stage: gate.stage_outcome(stage, self.results) for stage in STAGES}
        jobs = {
            each.name: {"stage": each.stage, "outcome": each.outcome, "status": each.status} for each in self.results
        }
        begun = (self.identity, socket.gethostname(), self.started, self.sequence)
        found = (stages, jobs, self.members, self.suspect)
        return Manifest(FORMAT, VERSION, *begun, not self.reasons, tuple(self.reasons), *found)

    def _archive(self) -> str:
        """Make the archive of all staged files; return its name, empty if there are none or it failed."""
        if self.reasons and not self.members:
            return ""
        self._stage(self.agenda.after, "after")
        self.lock.set_activity("writes the archive")
        try:
            written = archive.write(self.folder, self._manifest(), self.sources)
        except Damaged as error:
            self.reasons.append(f"the archive could not be verified: {error}")
            return ""
        # From here on the archive exists, even if a later step fails.
        self._note("archived", name=written)
        with suppress(OSError):
            leftovers.remove_staged(self.own)
        return written

    def _archive_after_failure(self) -> str:
        """After a failure, archive the files staged before the jobs; return the name, empty if that failed too."""
        with suppress(OSError):
            leftovers.remove_staged_after(self.own)
            for message in leftovers.archive_staged(self.folder, self.own, self.identity, self.reasons):
                self.log.add_warning(message)
        return leftovers.archive_of(self.folder, self.identity)

    def _housekeeping(self, written: str) -> Tuple[str, ...]:
        """After a good archive: truncate logs, verify an older archive, prune; return the names of pruned archives."""
        left = [cut.warning for cut in cuts.truncate(list(self.members), self.own) if cut.warning]
        if not left:
            # Without this record the next run tries again, before it would archive the same lines twice.
            self._note("cut")
        self.lock.set_activity("verifies an older archive")
        self.verified, damaged = housekeeping.verify_oldest(self.folder, self.history.verified, written)
        for each in left:
            self.log.add_warning(each)
        for each in damaged:
            self.log.add_fault(each)
        pruned, warnings = housekeeping.prune(self.folder, self.settings, self.started)
        for each in warnings:
            self.log.add_warning(each)
        for name in pruned:
            self.log.write(f"deleted `{name}`: older than {self.settings.values['BACKUP_SAVE_DAYS']} days")
        self._note("pruned", names=list(pruned))
        return pruned

    def _note(self, act: str, **facts: object) -> None:
        self.log.add_fault(self.journal.try_to_write(act, **facts))

    def _describe_error(self, error: OSError) -> str:
        """Return an error with its path and, if the disk is full, the free space."""
        place = str(error.filename or self.folder)
        free = ""
        if error.errno in FULL:
            with suppress(OSError):
                free = f" ({_free(place if os.path.isdir(place) else os.path.dirname(place))} bytes free)"
        return f"`{place}`: {reason(error)}{free}"

    # The end

    def _record(self, written: str, pruned: Tuple[str, ...]) -> Record:
        """Return the record of the run; jobs that it did not reach are in it too."""
        known = {each.name for each in self.results}
        lost = [task.job for task in self.agenda.tasks if task.job.name not in known]
        why = "the run failed before it"
        self.results += [Result(job.name, job.stage, NOT_RUN, None, 0.0, why, job.required) for job in lost]
        good = bool(written) and not self.reasons
        return Record(
            self.identity,
            socket.gethostname(),
            self.started,
            round(time.monotonic() - self.clock, 3),
            gate.exit_status(self.results, backup_good=good and not self.log.faults),
            written,
            os.path.getsize(os.path.join(self.folder, written)) if written else 0,
            good,
            tuple(self.reasons),
            tuple(self.log.faults),
            {stage: gate.stage_outcome(stage, self.results) for stage in STAGES},
            tuple(self.results),
            (*self.log.warnings, *self.log.problems),
            pruned,
            self.suspect_now,
            self.commit,
        )

    def _end(self, written: str, pruned: Tuple[str, ...]) -> Record:
        """Make the record, write it to log and history, and send notifications; failures of these are warnings."""
        made = self._record(written, pruned)
        for line in record.summary(made.document):
            self.log.write(line)
        history = record.add(self.folder, self.history, made, self.verified, self.sequence)
        count = len(self.log.warnings)
        try:
            record.save(self.folder, history)
        except OSError as error:
            self.log.add_warning(f"the record could not be written: {self._describe_error(error)}")
        for each in notify.run_ended(self.settings, made, history, self.log):
            self.log.add_warning(each)
        self._note("end", exit_status=made.exit_status)
        with suppress(OSError):
            leftovers.prune_runs(self.folder)
        self.journal.close()
        self.log.close()
        return made._replace(warnings=(*made.warnings, *self.log.warnings[count:]))


def _free(folder: str) -> int:
    """Return the free space of a file system for this account, in bytes."""
    status = os.statvfs(folder)
    return (status.f_bfree if os.geteuid() == 0 else status.f_bavail) * status.f_frsize
