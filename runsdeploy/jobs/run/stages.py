"""Stages: run the jobs of a run; each starts only if `gate` allows it, and each has a result (J18)."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Dict, FrozenSet, List, NamedTuple, Tuple

from ..archive import known_state
from ..archive.known_state import Suspect
from ..disk.journal import Journal
from ..disk.lock import Lock
from ..errors import Fault, reason
from ..process import kerberos, process, secret
from ..report.log import Log
from ..report.record import Result
from ..settings.agenda import Task, account_environment
from ..settings.job import STAGES
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
        self.warnings: List[str] = []
        self.faults: List[str] = []
        """errors of the journal and of the record of the known state"""
        self.suspect = batch.suspect
        """the state now, as it is recorded on the disk"""
        self._secrets = secret.Secrets(account_environment())

    def run(self) -> None:
        """Run all jobs; each has a result when this returns. Errors of jobs and disks are results, not exceptions."""
        for stage in STAGES:
            tasks = [task for task in self.batch.tasks if task.job.stage == stage]
            if stage in self.batch.parallel and stage != "imports":
                with ThreadPoolExecutor(AT_A_TIME) as pool:
                    self.results += list(pool.map(self._job, tasks))
            else:
                for task in tasks:
                    self.results.append(self._job(task))
            if tasks:
                outcome = gate.stage_outcome(stage, self.results)
                if stage == "imports":
                    self._end_imports(outcome)
                self._note("stage", stage=stage, outcome=outcome)

    def _job(self, task: Task) -> Result:
        job = task.job
        closed = gate.blocked_by(job.stage, self.results, backup_good=self.batch.backup_good) or self._time_is_up()
        if closed:
            self.log.write(f"`{job.name}` does not run: {closed}")
            return Result(job.name, job.stage, gate.NOT_RUN, None, 0.0, closed)
        try:
            environment = self._environment(task)
        except Fault as fault:
            self.log.write(f"`{job.name}` fails before it starts: {fault.message}")
            return Result(job.name, job.stage, "no-secret", None, 0.0, fault.message)
        if "kerberos" in job.needs and not self.batch.ticket.cache:
            why = f"it needs a Kerberos ticket: {self.batch.ticket.warning}"
            self.log.write(f"`{job.name}` fails before it starts: {why}")
            return Result(job.name, job.stage, "no-ticket", None, 0.0, why)
        self.lock.set_activity(f"runs `{job.name}`")
        problem = self._begin_import(job.name) if job.stage == "imports" else ""
        problem = problem or self._note("start", job=job.name, stage=job.stage)
        if problem:
            # Without the records, a crash during the job would leave changes without a sign that it had started (B4).
            return Result(job.name, job.stage, gate.NOT_RUN, None, 0.0, problem)
        result = self._command(task, environment)
        self._note("ended", job=job.name, outcome=result.outcome, status=result.status)
        return result

    def _time_is_up(self) -> str:
        if self.stop.is_set():
            return "interrupted"
        return "" if time.monotonic() < self.batch.deadline else "the time limit of the run is reached"

    def _environment(self, task: Task) -> Dict[str, str]:
        """Return the environment of a job; raises Fault for a secret that cannot be read."""
        environment = dict(task.command.environment)
        if self.batch.ticket.cache:
            environment["KRB5CCNAME"] = self.batch.ticket.cache
        environment.update((name, self._secrets.read(source)) for name, source in task.secrets.items())
        self.log.secrets.update(self._secrets.values)
        return environment

    def _command(self, task: Task, environment: Dict[str, str]) -> Result:
        job = task.job
        self.log.write(
            f"`{job.name}` starts: {' '.join(task.command.argv)}" if not job.shell else f"`{job.name}` starts"
        )
        timeout = min(task.command.timeout, max(0.0, self.batch.deadline - time.monotonic()))
        ending = process.run(
            task.command._replace(environment=environment, timeout=timeout),
            lambda data: self.log.output(job.name, data),
            stop=self.stop.is_set,
            spool=self.batch.spool,
        )
        shown = "" if ending.status is None or ending.outcome == "ok" else f"({ending.status})"
        self.log.write(f"`{job.name}` ended: {ending.outcome}{shown} after {ending.seconds:.1f} s")
        for orphan in ending.orphans:
            self._warn(f"`{job.name}` left a process behind, which was ended: {orphan}")
        if ending.dropped:
            self._warn(f"{ending.dropped} bytes of output of `{job.name}` were dropped")
        return Result(job.name, job.stage, ending.outcome, ending.status, round(ending.seconds, 3))

    def _begin_import(self, job: str) -> str:
        passed = [each.name for each in self.results if each.outcome == "ok"]
        return self._set_suspect(known_state.begin(self.batch.suspect, self.batch.identity, job, passed))

    def _end_imports(self, stage: str) -> None:
        outcomes = {each.name: each.outcome for each in self.results if each.stage == "imports"}
        batch = self.batch
        self._set_suspect(known_state.end(batch.suspect, batch.identity, stage, outcomes, batch.imports))

    def _set_suspect(self, suspect: Suspect) -> str:
        """Record whether the state is suspect; return why that failed, then the former record holds."""
        if suspect == self.suspect:
            return ""
        try:
            known_state.save(self.batch.folder, suspect)
        except OSError as error:
            return self._fail(f"the known state could not be recorded in `{self.batch.folder}`: {reason(error)}")
        self.suspect = suspect
        return ""

    def _note(self, act: str, **facts: object) -> str:
        problem = self.journal.try_to_write(act, **facts)
        return self._fail(problem) if problem else ""

    def _fail(self, problem: str) -> str:
        self.faults.append(problem)
        self._warn(problem)
        return problem

    def _warn(self, text: str) -> None:
        self.warnings.append(text)
        self.log.write(f"warning: {text}")
