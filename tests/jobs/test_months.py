"""Months of nights: `latest` is always the state before the first unfinished import, and it is always there (J26).

The nights are made up; what decides is the program's own: its gate and stages, the record of the known state, manifests
as they are encoded, recovery of killed runs, retention and `latest`. Only disks and processes are left out, so that
hundreds of months take seconds. The system is a number that each import changes, and the imports that are half done.
"""

from __future__ import annotations

import json
import os
import random
import threading
import time
from typing import Any, NamedTuple

import pytest

from runsdeploy.jobs.archive import archive, known_state, manifest
from runsdeploy.jobs.archive.archive import Archive
from runsdeploy.jobs.archive.known_state import KNOWN, Suspect
from runsdeploy.jobs.archive.manifest import Manifest
from runsdeploy.jobs.process import kerberos
from runsdeploy.jobs.process.process import Command
from runsdeploy.jobs.report.log import Log
from runsdeploy.jobs.report.record import Result
from runsdeploy.jobs.retention import housekeeping
from runsdeploy.jobs.retention.retention import Policy
from runsdeploy.jobs.run import gate, leftovers, stages
from runsdeploy.jobs.settings.agenda import Task
from runsdeploy.jobs.settings.job import STAGES, Job
from tests.jobs.backup import manifest as some_manifest

MONTHS = 3000 if os.environ.get("RUNSDEPLOY_TEST_FULL") == "1" else 300
DAY = 86400
IMPORTS, OTHERS = ("first", "second", "third"), {"send": "exports", "list": "reports"}
FAILURES = ("failed", "timeout", "interrupted", "killed")
HARMLESS = ("no-ticket", "no-secret", "not-found")


class Killed(BaseException):
    """The runner is dead."""


class Content(NamedTuple):
    """The system, as a backup has it."""

    version: int
    half_done: frozenset[str]
    origin: str
    """id of the run in which the first of these imports began"""


class Night(NamedTuple):
    """What happens in one run."""

    tasks: tuple[str, ...]
    outcomes: dict[str, str]
    """of jobs that do not pass; `dead` kills the runner in the job"""
    good: bool = True
    """the backup"""
    dead_before: str = ""
    """`staging`: nothing is saved; `jobs`, `archive`: only staged files are"""
    stops: str = ""
    """the job after which the run is ended by SIGTERM"""


class NightStages(stages.Stages):
    """Stages whose jobs end as the night says."""

    night: Night
    months: Month

    def _command(self, task: Task, environment: dict[str, str]) -> Result:  # noqa: ARG002
        name, stage = task.job.name, task.job.stage
        outcome = self.night.outcomes.get(name, "ok")
        if stage == "imports" and outcome not in HARMLESS:
            self.months.import_job(name, passes=outcome == "ok")
        if outcome == "dead":
            raise Killed
        if name == self.night.stops:
            self.stop.set()
        return Result(name, stage, outcome, None, 0.0, "", task.job.required)


class Acts:
    """A journal and a lock in memory."""

    def __init__(self) -> None:
        self.records: list[dict[str, Any]] = []

    def try_to_write(self, act: str, **facts: object) -> str:
        self.records.append({"act": act, **facts})
        return ""

    def set_activity(self, _text: str) -> None:
        pass


class Month:
    """One system over some weeks."""

    def __init__(self, generator: random.Random, days: int) -> None:
        self.random, self.days = generator, days
        self.now, self.sequence = 1_750_000_000, 0
        self.content = Content(0, frozenset(), "")
        self.saved = b""
        self.held: list[Archive] = []
        self.contents: dict[str, Content] = {}
        self.staged: tuple[Manifest, list[dict[str, Any]]] | None = None
        self.made: list[str] = []
        """all good backups that were made of a known state"""
        self.deleted: set[str] = set()

    # The system

    def import_job(self, name: str, *, passes: bool) -> None:
        half_done = self.content.half_done - {name} if passes else self.content.half_done | {name}
        self.set_content(half_done)

    def set_content(self, half_done: frozenset[str]) -> None:
        # The backup of this run is older than its imports, and suspect itself if one was unfinished then.
        origin = self.contents[self.running].origin or self.running if half_done else ""
        self.content = Content(self.content.version + 1, half_done, origin)

    def suspect(self) -> Suspect:
        if self.saved:
            return known_state.decode(json.loads(self.saved))
        return KNOWN

    def save(self, _folder: str, suspect: Suspect) -> None:
        self.saved = known_state.encode(suspect)

    # A run

    def run(self, night: Night) -> None:
        """Do what a run does, in its order."""
        self.recover()
        self.now += DAY
        self.sequence = max([self.sequence, *(each.manifest.sequence for each in self.held if each.manifest)]) + 1
        identity = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(self.now)) + f"-{self.sequence:06x}"
        if night.dead_before == "staging":
            return
        before = self.suspect()
        made = some_manifest(
            format=2, identity=identity, created=self.now, sequence=self.sequence, good=night.good, suspect=before
        )
        made = made._replace(stages=dict.fromkeys(STAGES, "none"), jobs={}, reasons=() if night.good else ("spoilt",))
        self.running = identity
        self.contents[identity] = self.content
        acts = Acts()
        self.staged = made, acts.records
        if night.dead_before == "jobs":
            return
        results = self.run_jobs(night, identity, before, acts)
        if results is None or night.dead_before == "archive":
            return
        outcomes = {stage: gate.stage_outcome(stage, results) for stage in STAGES}
        ended = {each.name: {"stage": each.stage, "outcome": each.outcome, "status": None} for each in results}
        self.staged = None
        self.write(made._replace(stages=outcomes, jobs=ended))
        if night.good:
            self.prune()

    def run_jobs(self, night: Night, identity: str, before: Suspect, acts: Acts) -> list[Result] | None:
        tasks = tuple(task(name) for name in night.tasks)
        deadline, ticket = time.monotonic() + 1000, kerberos.Ticket("", "")
        own = ("", "", identity, before, frozenset(IMPORTS))
        batch = stages.Batch(tasks, frozenset(), deadline, night.good, ticket, lambda _: ticket, *own)
        made = NightStages(batch, Log(), acts, acts, threading.Event())  # type: ignore[arg-type]
        made.night, made.months = night, self
        try:
            made.run()
        except Killed:
            return None
        ran = [each for each in made.results if each.stage == "imports" and each.outcome not in known_state.NOT_BEGUN]
        if ran and all(each.outcome == "ok" for each in ran):
            # The imports after the one that ended the run are missing: half of a night's imports is not a known state.
            other = [each for each in made.results if each.stage == "imports" and each not in ran]
            missing = [each.name for each in other if each.outcome != "not-run"] or [each.name for each in other]
            self.set_content(self.content.half_done.union(missing))
        return made.results

    def recover(self) -> None:
        """Archive what a killed run has staged, as the next holder of the lock does."""
        if self.staged:
            made, acts = self.staged
            self.staged = None
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(leftovers.journal, "read", lambda _path: acts)
                self.write(made._replace(stages=leftovers._stages("", made)))

    def write(self, made: Manifest) -> None:
        made = manifest.decode(manifest.encode(made))
        kind = "good" if made.good else "failed"
        name = archive.final_name(made)
        self.held = archive.in_order([*self.held, Archive(name, name, kind, made, float(made.created), 1, "")])
        if made.good and not self.contents[made.identity].half_done:
            self.made.append(name)

    def prune(self) -> None:
        gone = housekeeping.decide(self.held, self.suspect(), float(self.now), Policy(self.days)).drop
        self.deleted |= gone
        self.held = [each for each in self.held if each.name not in gone]

    def restore(self, chosen: Archive) -> None:
        """Restore a backup as a whole: the record is then that of its manifest."""
        self.recover()
        self.content = self.contents[chosen.name.partition("-cron")[0]]
        assert chosen.manifest
        self.save("", chosen.manifest.suspect or KNOWN)

    def latest(self) -> str:
        found = archive.latest(self.held, self.suspect())
        return found.name if found else ""

    def look(self) -> None:
        """Look whether `latest` is what it must be, and whether the record agrees with the system."""
        self.recover()
        assert bool(self.suspect().since) == bool(self.content.half_done)
        wanted = self.made[-1] if self.made else ""
        if self.content.origin:
            before = f"{self.content.origin}-cron-backup.tar.gz"
            # A suspect backup may be restored by name after the known one before it has been deleted as old.
            wanted = wanted if before in self.deleted else before
        assert self.latest() == wanted


def task(name: str) -> Task:
    nothing: dict[str, Any] = dict.fromkeys(Job._fields)
    stage = OTHERS.get(name, "imports")
    made = Job(**{**nothing, "name": name, "stage": stage, "needs": frozenset(), "shell": True, "daemon": False})
    made = made._replace(required=stage == "imports")
    return Task(made, Command(("true",), "/", {}, 10.0, daemon=False), {})


def some_night(generator: random.Random, trouble: float) -> Night:
    """A night, or a run by name; the more trouble, the more of it goes wrong."""
    enabled = [name for name in (*IMPORTS, *OTHERS) if generator.random() < 0.9]
    kind = generator.random()
    if kind < 0.1:  # a job by name
        enabled = [generator.choice((*IMPORTS, *OTHERS))]
    elif kind < 0.2:  # imports are switched off
        enabled = [name for name in enabled if name in OTHERS]
    outcomes = {}
    for name in enabled:
        if generator.random() < (trouble if name in IMPORTS else 0.2):
            wrong = (*FAILURES, "dead") if generator.random() < 0.8 else HARMLESS
            outcomes[name] = generator.choice(wrong)
    dead = generator.choice(("staging", "jobs", "archive")) if generator.random() < 0.05 else ""
    stops = generator.choice(enabled) if enabled and generator.random() < 0.05 else ""
    return Night(tuple(enabled), outcomes, generator.random() > 0.05, dead, stops)


def test_J26_in_300_months_latest_is_the_state_before_the_first_unfinished_import(monkeypatch):
    """N1, N2, N3."""
    start = random.randrange(2**32)
    print("seed", start)
    seen = {"restored": 0, "deleted": 0, "suspect": 0}
    for seed in range(start, start + MONTHS):
        generator = random.Random(seed)
        month = Month(generator, generator.choice((1, 3, 7, 30)))
        monkeypatch.setattr(known_state, "save", month.save)
        trouble = generator.choice((0.02, 0.3, 0.9))
        for _ in range(generator.randrange(25, 40)):
            try:
                month.run(some_night(generator, trouble))
                month.look()
                if generator.random() < 0.05 and month.held:
                    names = [each.name for each in month.held if each.kind == "good"]
                    name = month.latest() if generator.random() < 0.7 else generator.choice(names or [""])
                    chosen = next((each for each in month.held if each.name == name), None)
                    if chosen:
                        month.restore(chosen)
                        seen["restored"] += 1
                    month.look()
            except AssertionError as error:
                raise AssertionError(f"seed {seed}") from error
            seen["suspect"] += bool(month.content.half_done)
        seen["deleted"] += len(month.deleted)
    assert min(seen.values()) > MONTHS / 3, seen
