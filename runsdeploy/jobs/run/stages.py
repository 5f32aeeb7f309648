"""Stages: run the jobs of a run; each starts only if `gate` allows it, and each has a result (J18)."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Callable, Dict, FrozenSet, Iterator, List, NamedTuple, Sequence, Tuple

from ..archive import known_state
from ..archive.known_state import Suspect
from ..disk.journal import Journal
from ..disk.lock import Lock
from ..errors import Fault, reason
from ..process import kerberos, process, secret
from ..report.log import Log
from ..report.record import Result
from ..settings.agenda import Task
from ..settings.job import STAGES, Job
from . import gate

AT_A_TIME = 8
"""jobs of a parallel stage that run at the same time"""


class Batch(NamedTuple):
    """The jobs of a run, and the conditions they run under."""

    tasks: Tuple[Task, ...]
    parallel: FrozenSet[str]
    """stages whose jobs run at the same time"""
    deadline: float
    """end of the time for all jobs together, by the monotonic clock"""
    backup_good: bool
    ticket: kerberos.Ticket
    login: Callable[[str], kerberos.Ticket]
    """gets a new ticket for the job of that name"""
    spool: str
    """directory for buffered output"""
    folder: str
    """directory of the backups"""
    identity: str
    """id of the run"""
    suspect: Suspect
    """the state before the jobs"""
    imports: FrozenSet[str]
    """names of all imports of the catalogue"""


class Stages:
    """Runs the jobs of one run."""

    def __init__(self, batch: Batch, log: Log, journal: Journal, lock: Lock, stop: threading.Event) -> None:
        self.batch, self.log, self.journal, self.lock, self.stop = batch, log, journal, lock, stop
        self.results: List[Result] = []
        self.suspect = batch.suspect
        """the state now, as it is recorded on the disk"""
        self._secrets: Dict[str, str] = {}
        """values by file, each read once"""

    def run(self) -> None:
        """Run all jobs; each has a result when this returns. Errors of jobs and disks are results, not exceptions."""
        for stage in STAGES:
            tasks = [task for task in self.batch.tasks if task.job.stage == stage]
            for group in self._groups(tasks, at_once=stage in self.batch.parallel and stage in ("exports", "reports")):
                if len(group) == 1:
                    self.results.append(self._job(group[0]))
                    continue
                with ThreadPoolExecutor(AT_A_TIME) as pool:
                    self.results += list(pool.map(self._job, group))
            if tasks:
                outcome = gate.stage_outcome(stage, self.results)
                if stage == "imports":
                    self._end_imports()
                self._note("stage", stage=stage, outcome=outcome)

    @staticmethod
    def _groups(tasks: Sequence[Task], *, at_once: bool) -> Iterator[List[Task]]:
        """Yield the tasks that run at the same time; one that others need runs alone, behind those before it."""
        group: List[Task] = []
        for task in tasks:
            if group and (not at_once or task.job.required or group[-1].job.required):
                yield group
                group = []
            group.append(task)
        if group:
            yield group

    def _job(self, task: Task) -> Result:
        job = task.job
        closed = gate.blocked_by(job.stage, self.results, backup_good=self.batch.backup_good) or self._time_is_up(job)
        if closed:
            return self._not_started(job, gate.NOT_RUN, closed)
        ticket = self.batch.ticket
        if "kerberos" not in job.needs:
            return self._start(task, ticket)
        # The ticket of the run may have expired by now.
        ticket = self.batch.login(job.name)
        if not ticket.cache:
            return self._not_started(job, "no-ticket", f"it needs a Kerberos ticket: {ticket.warning}")
        try:
            return self._start(task, ticket)
        finally:
            kerberos.logout(ticket)

    def _start(self, task: Task, ticket: kerberos.Ticket) -> Result:
        job = task.job
        try:
            environment = self._environment(task, ticket.cache)
        except Fault as fault:
            return self._not_started(job, "no-secret", fault.message)
        self.lock.set_activity(f"runs `{job.name}`")
        # Of an import that stops no other, nothing depends on the state that it leaves.
        problem = self._begin_import(job.name) if job.stage == "imports" and job.required else ""
        problem = problem or self._note("start", job=job.name, stage=job.stage)
        if problem and job.stage != "always":
            # Without the records, a crash during the job would leave changes without a sign that it had started (B4).
            return self._not_started(job, gate.NOT_RUN, problem)
        result = self._command(task, environment)
        self._note("ended", job=job.name, outcome=result.outcome, status=result.status)
        return result

    def _not_started(self, job: Job, outcome: str, why: str) -> Result:
        how = "does not run" if outcome == gate.NOT_RUN else "fails before it starts"
        self.log.write(f"`{job.name}` {how}: {why}")
        return Result(job.name, job.stage, outcome, None, 0.0, why, job.required)

    def _time_is_up(self, job: Job) -> str:
        if job.stage == "always":
            return ""
        if self.stop.is_set():
            return "interrupted"
        return "" if time.monotonic() < self.batch.deadline else "the time limit of the run is reached"

    def _environment(self, task: Task, cache: str) -> Dict[str, str]:
        """Return the environment of a job; raises Fault for a secret that cannot be read."""
        environment = dict(task.command.environment)
        if cache:
            environment["KRB5CCNAME"] = cache
        for name, path in task.secrets.items():
            if path not in self._secrets:
                self._secrets[path] = secret.read(path)
            environment[name] = self._secrets[path]
            self.log.mask(self._secrets[path])
        return environment

    def _command(self, task: Task, environment: Dict[str, str]) -> Result:
        job = task.job
        self.log.write(f"`{job.name}` starts{'' if job.shell else ': ' + ' '.join(task.command.argv)}")
        always = job.stage == "always"
        left = task.command.timeout if always else max(0.0, self.batch.deadline - time.monotonic())
        ending = process.run(
            task.command._replace(environment=environment, timeout=min(task.command.timeout, left)),
            lambda data: self.log.output(job.name, data),
            stop=(lambda: False) if always else self.stop.is_set,
            spool=None if always else self.batch.spool,
        )
        shown = "" if ending.status is None or ending.outcome == "ok" else f"({ending.status})"
        self.log.write(f"`{job.name}` ended: {ending.outcome}{shown} after {ending.seconds:.1f} s")
        for orphan in ending.orphans:
            self.log.add_warning(f"`{job.name}` left a process behind, which was ended: {orphan}")
        if ending.dropped:
            self.log.add_warning(f"{ending.dropped} bytes of output of `{job.name}` were dropped")
        seconds = round(ending.seconds, 3)
        return Result(job.name, job.stage, ending.outcome, ending.status, seconds, "", job.required)

    def _begin_import(self, job: str) -> str:
        passed = [each.name for each in self.results if each.outcome == "ok"]
        return self._set_suspect(known_state.begin(self.batch.suspect, self.batch.identity, job, passed))

    def _end_imports(self) -> None:
        results = [each for each in self.results if each.stage == "imports" and each.required]
        stage, outcomes = gate.stage_outcome("imports", results), {each.name: each.outcome for each in results}
        batch = self.batch
        self._set_suspect(known_state.end(batch.suspect, batch.identity, stage, outcomes, batch.imports))

    def _set_suspect(self, suspect: Suspect) -> str:
        """Record whether the state is suspect; return why that failed, then the former record holds."""
        if suspect == self.suspect:
            return ""
        try:
            known_state.save(self.batch.folder, suspect)
        except OSError as error:
            return self.log.add_fault(
                f"the known state could not be recorded in `{self.batch.folder}`: {reason(error)}"
            )
        self.suspect = suspect
        return ""

    def _note(self, act: str, **facts: object) -> str:
        return self.log.add_fault(self.journal.try_to_write(act, **facts))
