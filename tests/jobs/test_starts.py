"""Starts that meet others: runs, restores, new settings and new programs (J4, J7, J20, J24, T24)."""

from __future__ import annotations

import calendar
import fcntl
import json
import os
import random
import re
import shutil
import signal
import subprocess
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from runsdeploy.commands.cron import zipapp
from runsdeploy.jobs.disk import lock
from runsdeploy.jobs.errors import Fault
from tests.jobs.system import System, outcomes, tree

FULL = bool(os.environ.get("RUNSDEPLOY_TEST_FULL"))
AT_ONCE = 50
CONTESTS = 20 if FULL else 4
READS = 10_000 if FULL else 2_000
REPLACED = 50 if FULL else 10
pytestmark = pytest.mark.timeout(600)  # only keeps one that hangs from hanging for ever: a busy machine is slow
HELD = re.compile(
    r"another run or restore is active in `(?P<folder>[^`]+)`: "
    r"pid (?P<pid>\d+) since (?P<since>[-0-9]+T[:0-9]+Z), (?P<doing>.+)\n"
)


class Gate:
    """A job that waits for us, so that a run is under way for as long as it is wanted."""

    def __init__(self, system: System, **fields: object) -> None:
        self.system = system
        self._begun, self._going = system.root / "begun", system.root / "going"
        os.mkfifo(self._begun)
        os.mkfifo(self._going)
        self.shell = f"echo $$ >{self._begun}; read x <{self._going}"
        system.write_catalogue(system.job("wait", shell=self.shell, **fields))
        system.write_settings(RUN_WAIT=True)
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, *words: str) -> subprocess.Popen[bytes]:
        """Start a run, and return once its job has begun."""
        self.process = self.system.start(*(words or ("run",)))
        self.wait()
        return self.process

    def wait(self) -> int:
        """Return once a job has begun: its number."""
        return int(self._begun.read_text())

    def kill(self) -> None:
        """Start a run and kill it; return once its job is gone too: it would take the next one's leave to go on."""
        self.process = self.system.start("run")
        job = self.wait()
        self.process.kill()
        self.process.communicate()
        until = time.monotonic() + 60
        while Path(f"/proc/{job}").exists():
            assert time.monotonic() < until
            time.sleep(0.01)

    def open(self) -> None:
        """Let the job go on."""
        self._going.write_text("\n")

    def end(self) -> tuple[int, str]:
        """Let the job go on, and the run come to its end."""
        assert self.process is not None
        self.open()
        out, err = self.process.communicate(timeout=60)
        return self.process.returncode, (out + err).decode()


@pytest.fixture
def gate(system):
    """A system with a job that waits."""
    made = Gate(system)
    yield made
    if made.process and made.process.poll() is None:
        made.process.kill()
        made.process.communicate()


def held(err: str) -> dict[str, str]:
    match = HELD.match(err)
    assert match, err
    return match.groupdict()


def test_T24_J4_of_fifty_starts_at_once_one_runs_and_the_others_say_who(gate, system):
    for contest in range(CONTESTS):
        begun = int(time.time())
        started = [system.start("run") for _ in range(AT_ONCE)]
        try:
            gate.wait()
            with ThreadPoolExecutor(AT_ONCE) as pool:
                ends = [pool.submit(process.communicate, timeout=300) for process in started]
                until = time.monotonic() + 300
                while sum(end.done() for end in ends) < AT_ONCE - 1 and time.monotonic() < until:
                    time.sleep(0.01)
                running = [process for process in started if process.poll() is None]
                gate.open()
                told = [[text.decode() for text in end.result()] for end in ends]
        finally:
            for process in started:
                process.kill()
                process.communicate()
        assert len(running) == 1
        assert sorted(process.returncode for process in started) == [0] + [75] * (AT_ONCE - 1)
        for process, (_, err) in zip(started, told, strict=True):
            if process.returncode:
                facts = held(err)
                assert int(facts["pid"]) == running[0].pid
                assert facts["folder"] == str(system.backups)
                since = time.strptime(facts["since"], "%Y-%m-%dT%H:%M:%SZ")
                assert begun <= calendar.timegm(since) <= time.time()
                assert facts["doing"] in ("starts a run", "stages files before the jobs", "runs `wait`")
        assert system.counted() == ["wait"] * (contest + 1)
        assert len(system.archives()) == contest + 1
    lines = system.log.read_text().splitlines()
    assert sum("no run: another run or restore is active" in line for line in lines) == CONTESTS * (AT_ONCE - 1)
    assert all(re.match(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ \S", line) for line in lines), "lines are interleaved"


def test_J4_a_holder_that_has_not_yet_said_who_it_is_is_waited_for_and_no_former_one_is_named(tmp_path):
    lock.acquire(str(tmp_path), "was the former").close()
    with (tmp_path / lock.NAME).open("rb+") as held, ThreadPoolExecutor(1) as pool:
        fcntl.flock(held, fcntl.LOCK_EX)
        told = pool.submit(pytest.raises, Fault, lock.acquire, str(tmp_path), "comes too late")
        time.sleep(2 * lock.MINIMUM_WAIT)  # as if it were not scheduled here; a shorter time would find nothing
        assert not told.done()
        held.write(b'{"pid": 4711, "started": 0, "doing": "begins"}\n')
        held.flush()
        assert "pid 4711 since 1970-01-01T00:00:00Z, begins" in str(told.result().value)


def test_J4_starts_that_were_skipped_are_counted(gate, system):
    metrics = system.root / "runs.prom"
    system.write_settings(METRICS_FILE=str(metrics))
    gate.start()
    assert [system.run("run").returncode for _ in range(3)] == [75] * 3
    assert gate.end()[0] == 0
    assert "overlap_skipped_total 3\n" in metrics.read_text()


def test_J4_when_the_holder_is_killed_the_next_start_works(gate, system):
    for _ in range(5):
        gate.kill()
        gate.start()
        code, told = gate.end()
        assert code == 0, told
        assert "was killed" in system.log.read_text()


def test_J4_a_daemon_that_a_job_leaves_behind_does_not_hold_the_lock(system):
    number = system.root / "pid"
    shell = f"setsid sleep 300 </dev/null >/dev/null 2>&1 & echo $! >{number}"
    system.write_catalogue(system.job("serve", shell=shell, daemon=True))
    system.write_settings(RUN_SERVE=True)
    started = []
    try:
        for _ in range(2):
            ran = system.run("run")
            started.append(int(number.read_text()))
            assert ran.returncode == 0, ran.stdout + ran.stderr
            os.kill(started[-1], 0)
        open_files = [str(path.readlink()) for pid in started for path in Path(f"/proc/{pid}/fd").iterdir()]
        assert not [path for path in open_files if str(system.backups) in path]
    finally:
        for pid in started:
            os.kill(pid, signal.SIGKILL)


def test_J4_a_start_that_waits_runs_behind_the_other(gate, system):
    first = gate.start()
    second = system.start("run", "--wait", "60")
    try:
        gate.open()
        gate.wait()
        assert first.wait(60) == 0
        gate.open()
        _, err = second.communicate(timeout=60)
        assert second.returncode == 0, err
    finally:
        for process in (first, second):
            process.kill()
            process.communicate()
    assert system.counted() == ["wait"] * 2


def test_J4_a_start_that_waited_in_vain_says_so(gate, system):
    first = gate.start()
    ran = system.run("run", "--wait", "0.5")
    assert ran.returncode == 75
    assert int(held(ran.stderr)["pid"]) == first.pid
    assert gate.end()[0] == 0


@pytest.mark.parametrize("seconds", ["soon", "", "nan", "inf", "-1"])
def test_J4_waiting_for_no_sensible_time_is_refused_or_taken_for_none(seconds, system):
    ran = system.run("run", "--wait", seconds)
    assert "Traceback" not in ran.stderr
    assert ran.returncode in (0, 2)


def test_J4_while_a_run_is_under_way_others_can_look_but_not_write(gate, system):
    gate.start()
    assert gate.end()[0] == 0
    first = gate.start()
    for words in (("restore", "latest", "--yes"), ("restore", "--undo"), ("restore", "--continue"), ("run", "wait")):
        ran = system.run(*words)
        assert ran.returncode == 75, words
        assert int(held(ran.stderr)["pid"]) == first.pid
    for words in (("backups",), ("verify", "--all"), ("status",), ("jobs",), ("check",), ("restore", "latest")):
        assert system.run(*words).returncode == 0, words
    working = system.json("status")["working"]
    assert (working["pid"], working["doing"]) == (first.pid, "runs `wait`")
    assert gate.end()[0] == 0
    assert system.json("status")["working"] is None


def test_J4_while_a_restore_is_under_way_no_run_begins(gate, system):
    gate.start()
    assert gate.end()[0] == 0
    hook = ["/bin/sh", "-c", gate.shell]
    system.write_catalogue(system.job("wait", shell="exit 0"), restore={"before": [hook]})
    jobs = system.counted()
    gate.start("restore", "latest", str(system.snapshot), "--yes")
    ran = system.run("run")
    assert ran.returncode == 75
    assert held(ran.stderr)["doing"] == "restores"
    assert system.counted() == jobs
    code, told = gate.end()
    assert code == 0, told
    assert system.run("run").returncode == 0


@pytest.mark.parametrize("at", range(4))
def test_J13_options_of_a_restore_may_stand_anywhere(at, system):
    assert system.run("run").returncode == 0
    system.snapshot.write_text("changed")
    words = ["latest", str(system.snapshot), str(system.settings_file)]
    words.insert(at, "--yes")
    ran = system.run("restore", *words)
    assert ran.returncode == 0, ran.stderr
    assert system.snapshot.read_text() == "-- a snapshot\n"


SAMPLE = re.compile(r'[a-z_]+(\{[a-z_]+="[^"\n]*"(,[a-z_]+="[^"\n]*")*\})? [-+0-9.eE]+')


def whole_metrics(text: str) -> bool:
    lines = text.split("\n")
    return lines[-1] == "" and len(lines) > 10 and all(SAMPLE.fullmatch(line) or line[0] == "#" for line in lines[:-1])


def test_T24_J20_state_and_metrics_are_whole_whenever_they_are_read(system):
    metrics, state = system.root / "runs.prom", system.backups / "state.json"
    system.write_catalogue(system.job("one"), system.job("two", "exports"))
    system.write_settings(METRICS_FILE=str(metrics), RUN_ONE=True, RUN_TWO=True)
    assert system.run("run").returncode == 0
    done = threading.Event()
    codes: list[int] = []

    def runs() -> None:
        while not done.is_set():
            codes.append(system.run("run").returncode)

    thread = threading.Thread(target=runs)
    thread.start()
    seen = set()
    try:
        reads = 0
        while reads < READS or len(codes) < 4 or len(seen) < 3:
            document = json.loads(state.read_text())
            assert document["schema"] == 1
            assert outcomes(document["runs"][-1]) == {"one": "ok", "two": "ok"}
            assert whole_metrics(metrics.read_text())
            seen.add(len(document["runs"]))
            reads += 1
            time.sleep(0.0005)
    finally:
        done.set()
        thread.join()
    assert set(codes) == {0}


class Rewriter(threading.Thread):
    """Writes two versions of a file in turn, as editors or as `cp` do."""

    def __init__(self, path: Path, versions: list[bytes], *, in_place: bool) -> None:
        super().__init__(daemon=True)
        self.path, self.versions, self.in_place = path, versions, in_place
        self.done, self.written = threading.Event(), 0

    def run(self) -> None:
        while not self.done.is_set():
            data = self.versions[self.written % 2]
            path = self.path if self.in_place else self.path.with_suffix(".new")
            with path.open("wb", buffering=0) as file:
                os.fchmod(file.fileno(), 0o600)
                for at in range(0, len(data), 16384):
                    file.write(data[at : at + 16384])
            if not self.in_place:
                path.rename(self.path)
            self.written += 1
            time.sleep(0.001)

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.done.set()
        self.join()


def two_versions(system: System) -> list[bytes]:
    """Return settings with both jobs on and with both off; one is switched at the beginning, the other at the end."""
    filling = {f"other.{number}": "x" * 100 for number in range(2000)}
    made = []
    for on in (True, False):
        settings = {"crontab.RUN_FIRST": on, **system.settings, **filling, "crontab.RUN_LAST": on}
        made.append(json.dumps(settings, indent=1).encode())
    return made


@pytest.mark.parametrize("in_place", [False, True])
def test_J7_settings_that_are_rewritten_during_starts_are_read_whole_or_refused(in_place, system):
    system.write_catalogue(system.job("first"), system.job("last", "exports"))
    versions = two_versions(system)
    system.settings_file.write_bytes(versions[0])
    assert system.json("check")["enabled"] == ["first", "last"]
    seen: list[object] = []
    with Rewriter(system.settings_file, versions, in_place=in_place) as rewriter:

        def check(_: int) -> None:
            ran = system.run("check", "--format", "json")
            document = json.loads(ran.stdout)
            assert ran.returncode == document["exit_status"]
            seen.append(document["enabled"] if ran.returncode == 0 else ran.returncode)

        with ThreadPoolExecutor(2) as pool:
            list(pool.map(check, range(AT_ONCE * (20 if FULL else 1))))
        for _ in range(10):
            before = system.counted()
            ran = system.run("run", "--format", "json")
            new = system.counted()[len(before) :]
            document = json.loads(ran.stdout)
            # Not good is a backup of settings that were never at rest for long enough to copy them: no job runs.
            assert ran.returncode in (0, 2, 3), ran.stdout
            assert new == ([job["name"] for job in document["jobs"]] if ran.returncode == 0 else [])
            seen.append([job["name"] for job in document["jobs"]] if ran.returncode != 2 else 2)
    assert rewriter.written > 10
    allowed = [["first", "last"], [], *([2] if in_place else [])]
    assert [each for each in seen if each not in allowed] == []


def test_J24_a_program_that_is_replaced_during_a_run_changes_nothing_of_it(gate, system):
    """Whatever comes in its place: another version, or what no Python can read."""
    current = system.program.read_bytes()
    instead = [
        b"",
        b"#!/bin/false\n" + os.urandom(1000),
        current[: len(current) // 2],
        b"#!/usr/bin/python3\n" + current,
    ]
    for number in range(REPLACED):
        gate.start()
        new = system.program.with_suffix(".new")
        new.write_bytes(instead[number % len(instead)])
        new.rename(system.program)
        code, told = gate.end()
        assert code == 0, told
        new.write_bytes(current)
        new.rename(system.program)
    assert system.run("verify", "--all").returncode == 0
    assert len(system.archives()) == REPLACED


def test_J24_a_program_that_is_replaced_during_a_start_is_the_old_or_the_new_one(system, tmp_path):
    """Python itself reads `__main__.py` before that reads the rest at once; it is first in the file, and seldom new."""
    seed = random.randrange(2**32)
    print("seed", seed)
    pick = random.Random(seed)
    current = system.program.read_bytes()
    # Another version: all modules but the first are elsewhere in the file.
    modules = tmp_path / "jobs"
    shutil.copytree(zipapp.JOBS, modules, ignore=shutil.ignore_patterns("__pycache__"))
    with (modules / "settings" / "agenda.py").open("a") as file:
        file.write("# " + "x" * 5000 + "\n")
    other = zipapp.build(modules)
    assert other != current
    new = system.program.with_suffix(".new")
    begun = time.monotonic()
    assert system.run("check").returncode == 0
    usual = time.monotonic() - begun
    wrong = []
    for number in range(AT_ONCE):
        new.write_bytes((other, current)[number % 2])
        with system.start("check") as process:
            time.sleep(pick.uniform(0.1, 1.0) * usual)  # a moment of the start, picked at random
            new.rename(system.program)
            _, err = process.communicate(timeout=60)
        if process.returncode:
            wrong.append(err.decode().strip().rpartition("\n")[2])
    assert wrong == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_J18_a_run_that_is_told_to_stop_ends_its_job_and_makes_its_backup(number, gate, system):
    first = gate.start()
    first.send_signal(number)
    out, err = first.communicate(timeout=60)
    assert first.returncode == 1, (out, err)
    assert b"`wait`: interrupted" in out
    assert system.run("verify", "--all").returncode == 0
    assert [each["kind"] for each in system.json("backups")["backups"]] == ["good"]


def test_J4_nothing_of_a_start_that_was_refused_is_left(gate, system):
    gate.start()
    before = tree(system.backups)
    assert system.run("run").returncode == 75
    after = tree(system.backups)
    assert set(after) - set(before) == {".overlaps"}
    assert {name for name in before if before[name] != after[name]} <= {".lock"}
    assert gate.end()[0] == 0


def test_J4_a_start_in_a_directory_that_is_new_makes_its_own(system):
    started = [system.start("run") for _ in range(8)]
    ended = [process.communicate(timeout=90) for process in started]
    codes = [process.returncode for process in started]
    assert set(codes) <= {0, 75}, (codes, ended)
    assert 0 in codes
    assert len(system.archives()) == codes.count(0)
