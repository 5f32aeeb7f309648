"""Tickets of jobs: one that needs a ticket gets a new one when it starts, which nobody else has."""

from __future__ import annotations

import json
import os
import threading
import time
from pathlib import Path

import pytest

from runsdeploy.jobs.archive.known_state import KNOWN
from runsdeploy.jobs.disk import lock
from runsdeploy.jobs.disk.journal import Journal
from runsdeploy.jobs.process.kerberos import Ticket
from runsdeploy.jobs.process.process import Command
from runsdeploy.jobs.report.log import Log
from runsdeploy.jobs.run.stages import Batch, Stages
from runsdeploy.jobs.settings import catalogue
from runsdeploy.jobs.settings.agenda import Task


@pytest.fixture
def go(tmp_path):
    """Run jobs with a KDC that gives the tickets of a list; return results and the tickets that it gave, by job."""

    def run(jobs, tickets, **fields):
        (tmp_path / "catalogue.json").write_text(json.dumps({"schema": 1, "jobs": jobs, **fields}))
        found = catalogue.load(str(tmp_path / "catalogue.json"))
        given = {}

        def login(name):
            if not tickets:
                return Ticket("", "the KDC is gone")
            given[name] = tmp_path / f"cache.{name}"
            given[name].write_text(tickets.pop(0))
            return Ticket(f"FILE:{given[name]}", "")

        tasks = []
        for job in found.jobs:
            command = Command(
                ("/bin/sh", "-c", job.command[0].text), str(tmp_path), {"PATH": os.environ["PATH"]}, 60.0, daemon=False
            )
            tasks.append(Task(job, command, {}))
        (tmp_path / "first").write_text("of the run")
        held = lock.acquire(str(tmp_path), "test")
        batch = Batch(
            tuple(tasks),
            found.parallel,
            deadline=time.monotonic() + 60,
            backup_good=True,
            ticket=Ticket(f"FILE:{tmp_path}/first", ""),
            login=login,
            spool=str(tmp_path),
            folder=str(tmp_path),
            identity="20261128T020000Z-000001",
            suspect=KNOWN,
            imports=frozenset(),
        )
        stages = Stages(batch, Log(), Journal(str(tmp_path / "journal")), held, threading.Event())
        stages.run()
        held.close()
        return {each.name: each.outcome for each in stages.results}, given

    return run


def job(name, needs=(), stage="imports"):
    shell = f'cat "${{KRB5CCNAME#FILE:}}" >{name}; echo "$KRB5CCNAME" >>{name}'
    return {"name": name, "stage": stage, "enabled_by": "RUN_X", "shell": shell, "needs": list(needs)}


def test_J19_a_job_that_needs_a_ticket_gets_a_new_one_of_its_own(go, tmp_path):
    """N12: the first job took longer than the ticket was valid."""
    outcomes, given = go([job("a"), job("b", ["kerberos"]), job("c", ["kerberos"])], ["second", "third"])
    assert outcomes == {"a": "ok", "b": "ok", "c": "ok"}
    seen = {name: (tmp_path / name).read_text() for name in "abc"}
    assert seen["a"].startswith("of the run")
    assert seen["b"].startswith("second")
    assert seen["c"].startswith("third")
    assert [name for name in given if Path(given[name]).exists()] == []


def test_J19_jobs_at_the_same_time_do_not_share_a_cache(go, tmp_path):
    """N12."""
    jobs = [job(name, ["kerberos"], "exports") for name in "abcd"]
    outcomes, _ = go(jobs, ["1", "2", "3", "4"], parallel=["exports"])
    assert set(outcomes.values()) == {"ok"}
    assert len({(tmp_path / name).read_text() for name in "abcd"}) == 4


def test_J19_without_a_new_ticket_the_job_fails_before_it_starts(go, tmp_path):
    """N12: the ticket of the run may be expired."""
    outcomes, _ = go([job("a"), job("b", ["kerberos"])], [])
    assert outcomes == {"a": "ok", "b": "no-ticket"}
    assert not (tmp_path / "b").exists()
