"""A run: what cron calls. Each step is on the disk before the next begins; whatever fails, what was saved is kept.

lock → leftovers → Kerberos → files staged → imports → exports, reports → files staged → archive, verified, durable
→ logs cut → old archives pruned → record, metrics, notices → unlock
"""

import os
import secrets
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Dict, FrozenSet, List, Tuple

from . import VERSION, archive, gate, journal, kerberos, leftovers, notice, process, record, restore, staging, upkeep
from . import truncation as cuts
from .agenda import Agenda, Task
from .errors import RESTORE_NEEDED, Fault, reason
from .gate import Result
from .job import STAGES
from .lock import Lock
from .log import Log
from .manifest import FORMAT, Damaged, Manifest
from .record import Memory, Record
from .settings import Settings

RESERVE = 16 * 1024 * 1024
"""bytes that stay free (J3)"""
RESERVE_INODES = 64
AT_A_TIME = 8
"""jobs of a parallel stage"""


def run(
    settings: Settings, agenda: Agenda, parallel: FrozenSet[str], lock: Lock, stop: threading.Event
) -> Tuple[Record, Dict[str, List[str]]]:
    """Do a run, with the lock held; return its record, and the last lines of jobs that failed.

    Raises Fault if a restore is unfinished.

    A run that has begun always comes to its record: what goes wrong on the way is in it.
    """
    folder = settings.values["CRON_BACKUP"]
    if restore.unfinished(folder):
        hint = "bring it to an end first: `restore --continue`, or `restore --undo`"
        raise Fault("a restore is unfinished: files are partly of another day", hint, RESTORE_NEEDED)
    under_way = _Run(settings, agenda, parallel, lock, stop)
    made = under_way.perform()
    return made, {job.name: under_way.log.tail(job.name) for job in made.jobs if job.outcome != "ok"}


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
        self.reasons: List[str] = []
        self.warnings: List[str] = list(settings.warnings)
        self.results: List[Result] = []
        self.members: Tuple[Any, ...] = ()
        self.sources: Dict[str, str] = {}
        """member's path, and where its staged copy is"""
        self.ticket = kerberos.Ticket("", "")
        self.memory: Memory = record.recall(self.folder)
        known = [each.manifest.sequence for each in archive.archives(self.folder) if each.manifest]
        self.sequence = max([self.memory.sequence, *known]) + 1
        self.verified = dict(self.memory.verified)
        self.damaged: List[str] = []

    def perform(self) -> Record:
        """Go through all steps."""
        told = leftovers.settle(self.folder)
        os.makedirs(self.own, 0o700)
        self.acts = journal.Journal(os.path.join(self.own, "journal"))
        self.log = Log(self.settings.values["CRON_LOG_FILE"], os.path.join(self.own, "log"))
        written = ""
        pruned: Tuple[str, ...] = ()
        try:
            names = [task.job.name for task in self.agenda.tasks]
            self.acts.write("begin", tool=VERSION, settings=self.settings.real, jobs=names)
            self.log.say(f"run {self.identity} begins with `{self.settings.real}`")
            self.warnings += notice.begin(self.settings)
            for each in (*told, *self.warnings):
                self.log.say(f"warning: {each}")
            self.warnings += told
            self._save_before()
            self._jobs()
            written = self._archive()
            if written and not self.reasons:
                pruned = self._tidy(written)
        except OSError as error:
            where = f"`{error.filename}`: " if error.filename else ""
            self.reasons.append(f"{where}{reason(error)}")
        finally:
            kerberos.logout(self.ticket)
        return self._end(written, pruned)

    # Before the jobs

    def _save_before(self) -> None:
        if self.agenda.tasks:
            self._log_in()
        wrong = self._no_room()
        if wrong:
            self.reasons.append(wrong)
            return
        snapshot = self.settings.values["SNAPSHOT_LORA"]
        if snapshot and os.path.exists(snapshot):
            most = float(self.settings.values["BACKUP_MAX_SECONDS_AGE"])
            self._doubt(staging.freshness_problem(snapshot, self.started, most))
            if self.settings.values["SNAPSHOT_END_MARK"]:
                self._doubt(staging.end_mark_problem(snapshot))
        self._stage(self.agenda.before, "before")
        leftovers.note_staged(self.own, self._manifest(), self.sources)
        self.acts.write("staged", when="before", members=len(self.members), good=not self.reasons)

    def _doubt(self, problem: str) -> None:
        if problem:
            self.reasons.append(problem)

    def _log_in(self) -> None:
        user, keytab = self.settings.values["SVC_USER"], self.settings.values["SVC_KEYTAB"]
        self.ticket = kerberos.login(user, keytab, self.own)
        if self.ticket.warning:
            self.warnings.append(self.ticket.warning)
            self.log.say(f"warning: {self.ticket.warning}")

    def _no_room(self) -> str:
        """Return why the run would fill the disk: files are staged, and packed beside that (J3)."""
        size = staging.size_of((*self.agenda.before, *self.agenda.after))
        needed = int(size * 2.05) + RESERVE
        status = os.statvfs(self.folder)
        free = (status.f_bfree if os.geteuid() == 0 else status.f_bavail) * status.f_frsize
        if free < needed:
            return f"`{self.folder}` has {free} bytes free, expected {needed} for files of {size} bytes"
        inodes = status.f_ffree if os.geteuid() == 0 else status.f_favail
        if status.f_files and inodes < len(self.agenda.before) + len(self.agenda.after) + RESERVE_INODES:
            return f"`{self.folder}` has room for {inodes} more files only"
        return ""

    def _stage(self, wanted: Tuple[staging.Wanted, ...], when: str) -> None:
        self.lock.tell(f"stages files {when} the jobs")
        seen = frozenset(member.path for member in self.members)
        staged = staging.stage(wanted, os.path.join(self.own, when), when, seen, self.folder)
        self.members += staged.members
        self.sources.update(staged.sources)
        self.reasons += staged.problems
        for note in (*staged.problems, *staged.notes):
            self.log.say(note)

    # The jobs

    def _jobs(self) -> None:
        for stage in STAGES:
            tasks = [task for task in self.agenda.tasks if task.job.stage == stage]
            if stage in self.parallel and stage != "imports":
                with ThreadPoolExecutor(AT_A_TIME) as pool:
                    self.results += list(pool.map(self._job, tasks))
            else:
                for task in tasks:
                    self.results.append(self._job(task))
            if tasks:
                self.acts.write("stage", stage=stage, outcome=gate.stage_outcome(stage, self.results))

    def _job(self, task: Task) -> Result:
        job = task.job
        closed = gate.barrier(job.stage, self.results, backup_good=not self.reasons)
        left = self.settings.values["TIMEOUT_SECONDS"] - (time.monotonic() - self.clock)
        closed = closed or ("interrupted" if self.stop.is_set() else "" if left > 0 else "the run's time is up")
        if closed:
            self.log.say(f"`{job.name}` does not run: {closed}")
            return Result(job.name, job.stage, gate.NOT_RUN, None, 0.0, closed)
        if "kerberos" in job.needs and not self.ticket.cache:
            why = f"it needs a Kerberos ticket: {self.ticket.warning}"
            self.log.say(f"`{job.name}` fails before it starts: {why}")
            return Result(job.name, job.stage, "no-ticket", None, 0.0, why)
        self.lock.tell(f"runs `{job.name}`")
        self.acts.write("start", job=job.name, stage=job.stage)
        self.log.say(f"`{job.name}` begins: {' '.join(task.command.argv)}" if not job.shell else f"`{job.name}` begins")
        result = self._command(task, left)
        self.acts.write("ended", job=job.name, outcome=result.outcome, status=result.status)
        return result

    def _command(self, task: Task, left: float) -> Result:
        job, command = task.job, task.command
        environment = dict(command.environment)
        if self.ticket.cache:
            environment["KRB5CCNAME"] = self.ticket.cache
        command = command._replace(environment=environment, timeout=min(command.timeout, left))
        ending = process.run(
            command, lambda data: self.log.output(job.name, data), stop=self.stop.is_set, spool=self.own
        )
        shown = "" if ending.status is None or ending.outcome == "ok" else f"({ending.status})"
        self.log.say(f"`{job.name}` ended: {ending.outcome}{shown} after {ending.seconds:.1f} s")
        for orphan in ending.orphans:
            self._warn(f"`{job.name}` left a process behind, which was ended: {orphan}")
        if ending.dropped:
            self._warn(f"{ending.dropped} bytes of what `{job.name}` wrote were dropped")
        return Result(job.name, job.stage, ending.outcome, ending.status, round(ending.seconds, 3))

    def _warn(self, text: str) -> None:
        self.warnings.append(text)
        self.log.say(f"warning: {text}")

    # Behind the jobs

    def _manifest(self) -> Manifest:
        stages = {stage: gate.stage_outcome(stage, self.results) for stage in STAGES}
        jobs = {each.name: {"outcome": each.outcome, "status": each.status} for each in self.results}
        host = socket.gethostname()
        good, reasons = not self.reasons, tuple(self.reasons)
        begun = (self.identity, host, self.started, self.sequence)
        return Manifest(FORMAT, VERSION, *begun, good, reasons, stages, jobs, self.members)

    def _archive(self) -> str:
        """Write the archive of all that is staged; return its name, empty if there is nothing or it failed."""
        if self.reasons and not self.members:
            return ""
        self._stage(self.agenda.after, "after")
        self.lock.tell("writes the archive")
        try:
            written = archive.write(self.folder, self._manifest(), self.sources)
        except Damaged as error:
            self.reasons.append(f"the archive was not what had been written: {error}")
            return ""
        self.acts.write("archived", name=written)
        leftovers.clear(self.own)
        return written

    def _tidy(self, written: str) -> Tuple[str, ...]:
        """With tonight's archive good: cut the logs in it, look at an older archive, prune; return what was pruned."""
        for cut in cuts.truncate(list(self.members), self.own):
            if cut.warning:
                self._warn(cut.warning)
        self.acts.write("cut")
        self.lock.tell("verifies an older archive")
        self.verified, self.damaged = upkeep.verify_one(self.folder, self.memory.verified, written)
        for each in self.damaged:
            self._warn(each)
        pruned, warnings = upkeep.prune(self.folder, self.settings, self.started)
        for each in warnings:
            self._warn(each)
        for name in pruned:
            self.log.say(f"deleted `{name}`: older than {self.settings.values['BACKUP_SAVE_DAYS']} days")
        self.acts.write("pruned", names=list(pruned))
        return pruned

    def _end(self, written: str, pruned: Tuple[str, ...]) -> Record:
        """Make the record, and tell everybody from it."""
        good = bool(written) and not self.reasons
        status = gate.exit_status(self.results, backup_good=good and not self.damaged)
        made = Record(
            self.identity,
            socket.gethostname(),
            self.started,
            round(time.monotonic() - self.clock, 3),
            status,
            written,
            os.path.getsize(os.path.join(self.folder, written)) if written else 0,
            good,
            tuple(self.reasons),
            {stage: gate.stage_outcome(stage, self.results) for stage in STAGES},
            tuple(self.results),
            (*self.warnings, *self.log.problems),
            pruned,
        )
        for line in record.lines(made.document):
            self.log.say(line)
        try:
            after = record.remember(self.folder, self.memory, made, self.verified, self.sequence)
            warnings = notice.tell(self.settings, made, after, self.log)
            self.acts.write("end", exit_status=status)
            leftovers.forget(self.folder)
        except OSError as error:
            warnings = [f"what happened could not be remembered: {reason(error)}"]
        for each in warnings:
            self.log.say(f"warning: {each}")
        self.acts.close()
        self.log.close()
        return made._replace(warnings=(*made.warnings, *warnings))
