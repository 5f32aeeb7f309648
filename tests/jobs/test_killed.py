"""Runs that are killed, at any file syscall and at any moment (J1, T17): a known state is left, whenever it was."""

from __future__ import annotations

import collections
import contextlib
import ctypes
import json
import os
import random
import re
import shutil
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from runsdeploy.jobs.archive import archive
from tests.jobs.system import System

FULL = bool(os.environ.get("RUNSDEPLOY_TEST_FULL"))
STEP = 1 if FULL else 5
RANDOM = 200 if FULL else 40
CALLS = (
    *("openat", "write", "pwrite64", "fsync", "fchmod", "ftruncate", "flock"),
    *("rename", "unlink", "unlinkat", "mkdir", "rmdir"),
)
KEPT = 5
FINAL = re.compile(r"[0-9]{8}T[0-9]{6}Z-[0-9a-f]{6}-cron-backup(-failed)?\.tar\.gz")
SUBREAPER = 36  # <sys/prctl.h>
pytestmark = pytest.mark.timeout(600)  # only keeps one that hangs from hanging for ever: a busy machine is slow


class History:
    """A system with good backups made by real runs, and what each was made of; started anew for each case."""

    def __init__(self, root: Path, program: Path, runs: int = KEPT, place: Path | None = None) -> None:
        self.place, self.pristine = place or root / "system", root / "pristine"
        self.place.mkdir(exist_ok=True)
        self.system = System(self.place, program)
        self.made: dict[str, dict[str, object]] = {}
        """archive, and the state that it was made of"""
        self.unsettled: dict[str, dict[str, object]] = {}
        """the same of what a killed run left to be archived"""
        self.number = 0
        self.trace = root / "trace"
        """the calls of a run that was left to its end"""
        self.database, self.lines = self.place / "database", self.place / "jobs.log"
        self.data = self.place / "data"
        self.database.write_text("begun\n")
        self.data.mkdir()
        (self.data / "link").symlink_to("../database")
        self.system.write_settings(RUN_IMPORT=True, RUN_EXPORT=True, METRICS_FILE=str(self.place / "runs.prom"))
        self.system.write_catalogue(
            self.system.job("import", shell=f"echo imported >>{self.database}", before=[str(self.database)]),
            self.system.job("export", "exports", f"cp {self.database} {self.place}/result", after=[self.result]),
            backup={"before": [str(self.data)], "truncate": [str(self.lines)]},
        )
        for _ in range(runs):
            self.run()

    @property
    def result(self) -> str:
        return str(self.place / "result")

    def run(self) -> None:
        """Change the sources, and make a good backup of them."""
        self.change()
        state = self.state()
        ran = self.system.run("run", "--format", "json")
        assert ran.returncode == 0, (ran.stdout, ran.stderr)
        self.made[json.loads(ran.stdout)["archive"]] = state

    def change(self) -> None:
        """Change every source."""
        self.number += 1
        self.system.snapshot.write_text(f"-- snapshot {self.number}\n" * 200)
        self.system.write_settings(NUMBER=self.number)
        (self.data / f"file ø {self.number}").write_bytes(os.urandom(5000))
        (self.data / f"file ø {self.number}").chmod(0o640)
        with self.lines.open("a") as file:
            file.write(f"line {self.number}\n")

    def state(self) -> dict[str, object]:
        """Return what is backed up before the jobs."""
        settings = self.system.install / "settings" / "settings.json"
        single = (self.database, self.system.snapshot, self.system.settings_file, settings)
        return {str(path): described(path) for path in (*single, *self.data.iterdir())}

    def keep(self) -> None:
        """Let cases start from here."""
        subprocess.run(["cp", "-a", self.place, self.pristine], check=True)
        self.begun = self.number

    def fresh(self) -> None:
        """Start a case."""
        shutil.rmtree(self.place)
        subprocess.run(["cp", "-a", self.pristine, self.place], check=True)
        self.number = self.begun
        self.change()


def described(path: Path) -> object:
    """Return mode, time and content of a file or link."""
    about = path.lstat()
    content = str(path.readlink()) if path.is_symlink() else path.read_bytes()
    return stat.S_IMODE(about.st_mode), about.st_mtime_ns, content


def check_backups(folder: Path, made: dict[str, object]) -> None:
    """All good backups that were there are, and what is named as a backup is one."""
    check_listed({each.name: each.kind for each in archive.archives(str(folder))}, folder, made)


def check_listed(listed: dict[str, str], folder: Path, made: dict[str, object]) -> None:
    """The same of what is listed."""
    assert {name: listed.get(name) for name in made} == dict.fromkeys(made, "good")
    for path in folder.iterdir():
        if FINAL.fullmatch(path.name):
            assert archive.verify(str(path)) == [], path.name
            assert listed[path.name] in ("good", "failed")


def check_restored(history: History, now: dict[str, object], scratch: Path, python: str = sys.executable) -> None:
    """The latest good backup is, bit for bit, of the state that it was made of."""
    scratch.mkdir()
    try:
        done = history.system.run("restore", "latest", "--yes", "--root", str(scratch), python=python)
        assert done.returncode == 0, done.stderr
        name = re.search(r"files are as in `([^`]+)`", done.stdout).group(1)  # type: ignore[union-attr]
        expected = {**history.made, **history.unsettled}.get(name, now)
        place = Path(f"{scratch}{history.place}")
        found = {path: described(Path(f"{scratch}{path}")) for path in expected if os.path.lexists(f"{scratch}{path}")}
        assert found == expected, name
        assert {path.name for path in (place / "data").iterdir()} == {
            Path(path).name for path in expected if path.startswith(f"{history.data}/")
        }
        if (place / "result").exists():
            assert (place / "result").read_bytes() == (place / "database").read_bytes() + b"imported\n"
    finally:
        shutil.rmtree(scratch)


def check_clean(system: System) -> None:
    """Nothing unfinished is left."""
    left = [*system.root.rglob("*.tmp"), *system.backups.rglob("staged.json"), *system.backups.rglob("truncating")]
    left += [path for path in (system.backups / ".runs").glob("*/*") if path.name in ("before", "after", "krb5cc")]
    left += [path for path in system.backups.glob("*.sha256") if not path.with_suffix("").exists()]
    assert left == []


def check_lines(history: History, *, once: bool = True) -> None:
    """Every line of the log that is cut is in one good backup, or still in the log."""
    good = [path for path in history.system.archives() if "failed" not in path.name]
    texts = [history.system.members(path).get(str(history.lines), b"") for path in good]
    lines = b"".join([*texts, history.lines.read_bytes()]).split(b"\n")[:-1]
    assert sorted(lines if once else set(lines)) == sorted(
        b"line %d" % (number + 1) for number in range(history.number)
    )


def check_saved(history: History, known: set[str], now: dict[str, object], folder: Path | None = None) -> None:
    """What was saved before imports that had begun is in a backup."""
    for path in (folder or history.system.backups).iterdir():
        if FINAL.fullmatch(path.name) and path.name not in known:
            members = history.system.members(path)
            if members.get(str(history.database)) == now[str(history.database)][2]:  # type: ignore[index]
                return
    pytest.fail("what the database was before the imports of the killed run is in no backup")


def children() -> list[int]:
    found = []
    for task in Path("/proc/self/task").iterdir():
        with contextlib.suppress(OSError):
            found += [int(pid) for pid in (task / "children").read_text().split()]
    return found


OTHERS: set[int] = set()
"""children of this process that are no orphans, such as the database server of other tests"""


def wait_for_orphans() -> None:
    """Wait until nothing of a killed run is alive: it is ours, as we are the nearest reaper."""
    until = time.monotonic() + 60
    while left := [pid for pid in children() if pid not in OTHERS]:
        assert time.monotonic() < until, f"alive: {left}"
        for pid in left:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, os.WNOHANG)
        time.sleep(0.005)


@pytest.fixture(autouse=True, scope="module")
def reaper():
    """Make what a killed run leaves behind children of this process, to wait for them."""
    prctl = ctypes.CDLL(None).prctl
    assert prctl(SUBREAPER, 1, 0, 0, 0) == 0
    OTHERS.update(children())
    yield
    prctl(SUBREAPER, 0, 0, 0, 0)


@pytest.fixture(scope="module")
def history(tmp_path_factory, hasty):
    """Five good backups; made once."""
    made = History(tmp_path_factory.mktemp("killed"), hasty)
    made.keep()
    return made


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory, hasty):
    """The same, and a sixth run that was killed with its imports begun: the next one has to settle it."""
    made = History(tmp_path_factory.mktemp("interrupted"), hasty)
    waiting = made.place / "waiting"
    os.mkfifo(waiting)
    catalogue = made.system.install / "settings" / "catalogue.json"
    usual = catalogue.read_text()
    catalogue.write_text(usual.replace("echo imported", f"cat {waiting}; echo imported"))
    made.change()
    state = made.state()
    process = made.system.start("run")
    try:
        with waiting.open("w"):  # opens once the job reads it
            process.kill()
            process.communicate()
            wait_for_orphans()
    finally:
        process.kill()
    catalogue.write_text(usual)
    (run,) = {path.name for path in (made.system.backups / ".runs").iterdir()} - {
        name.partition("-cron-backup")[0] for name in made.made
    }
    made.unsettled[f"{run}-cron-backup.tar.gz"] = state
    made.keep()
    return made


def strace(path: Path, *options: str) -> str:
    """Write a program that starts Python under strace; return its path."""
    words = " ".join(["strace", "-qq", *options])
    path.write_text(f'#!/bin/sh\nexec {words} {sys.executable} "$@"\n')
    path.chmod(0o700)
    return str(path)


def counted(history: History) -> dict[str, range]:
    """Return for each call which of them are the run's own: those before are Python's start."""
    if not history.trace.exists():  # a run makes the same calls each time
        history.fresh()
        whole = history.trace.with_name("whole")
        options = ("-o", str(whole), "-e", f"trace={','.join(CALLS)}")
        assert history.system.run("run", python=strace(whole.with_name("tracing"), *options)).returncode == 0
        whole.rename(history.trace)
    start: dict[str, int] = collections.Counter()
    total: dict[str, int] = collections.Counter()
    begun = False
    for line in history.trace.read_text().splitlines():
        call, bracket, rest = line.partition("(")
        begun = begun or str(history.system.settings_file.parent) in rest
        if bracket and call in CALLS:
            total[call] += 1
            start[call] += not begun
    assert total["fsync"] > 10
    return {call: range(start[call] + 1, total[call] + 1) for call in total}


def survives(history: History, kill: object, scratch: Path, *, restore_first: bool) -> None:
    """Let a run be killed, and look at all that it leaves."""
    system = history.system
    jobs = len(system.counted())
    now = history.state()
    kill()  # type: ignore[operator]
    wait_for_orphans()
    begun = len(system.counted()) > jobs
    check_listed(
        {each["name"]: each["kind"] for each in system.json("backups")["backups"]}, system.backups, history.made
    )
    if restore_first:
        check_restored(history, now, scratch)
    last = system.run("run", "--format", "json")
    assert last.returncode == 0, (last.stdout, last.stderr)
    check_backups(system.backups, history.made)
    check_clean(system)
    check_lines(history)
    known = {*history.made, json.loads(last.stdout)["archive"]}
    if begun:
        check_saved(history, known, now)
    for state in history.unsettled.values():
        check_saved(history, known, state)


def sweep(history: History, call: str, tmp_path: Path, options: tuple[str, ...], first: int, step: int) -> None:
    calls = counted(history).get(call, range(0))
    wrong = []
    for number in calls[first % min(step, len(calls) or 1) :: step]:
        inject = ("-o", "/dev/null", *options, "-e", f"trace={call}", "-e", f"inject={call}:signal=KILL:when={number}")
        python = strace(tmp_path / "killing", *inject)
        history.fresh()
        try:
            survives(
                history,
                lambda python=python: history.system.run("run", python=python),
                tmp_path / "scratch",
                restore_first=number % 2 == 0,
            )
        except AssertionError as error:
            wrong.append(f"killed at {call} {number} of {calls.stop - 1}: {error}")
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("call", CALLS)
def test_T17_J1_killed_at_any_file_syscall(call, history, tmp_path):
    sweep(history, call, tmp_path, (), CALLS.index(call), STEP if FULL or call != "openat" else 12)


@pytest.mark.parametrize("call", CALLS)
def test_T17_J1_killed_at_any_file_syscall_itself_or_any_of_its_processes(call, history, tmp_path):
    sweep(history, call, tmp_path, ("-f",), CALLS.index(call) + 2, 1 if FULL else 20)


@pytest.mark.parametrize("call", CALLS)
def test_T17_J1_killed_while_it_settles_what_a_killed_run_left(call, interrupted, tmp_path):
    sweep(interrupted, call, tmp_path, (), CALLS.index(call), 1 if FULL else 15)


@pytest.mark.parametrize("part", range(4))
def test_T17_J1_killed_at_any_moment(part, history, tmp_path):
    seed = random.randrange(2**32)
    print("seed", seed, "part", part)
    pick = random.Random(seed)
    history.fresh()
    begun = time.monotonic()
    assert history.system.run("run").returncode == 0
    usual = time.monotonic() - begun
    wrong = []
    for case in range(RANDOM // 4):
        after = pick.uniform(0.1, 1.0) * usual

        def kill(after: float = after) -> None:
            process = history.system.start("run")
            time.sleep(after)  # a moment of the run, picked at random
            process.kill()
            process.communicate()

        history.fresh()
        try:
            survives(history, kill, tmp_path / "scratch", restore_first=case % 2 == 0)
        except AssertionError as error:
            wrong.append(f"case {case}, killed after {after:.4f} of {usual:.4f} s: {error}")
    assert not wrong, "\n".join(wrong)


def test_J25_killed_behind_the_cut_of_a_log_whose_lines_are_all_the_same(history, tmp_path):
    """What was cut is not cut again: a line that came since is only in the log."""
    usual = history.lines
    calls = counted(history)["fsync"]
    for number in calls[-8 if FULL else -6 :]:
        history.fresh()
        usual.write_text("nothing to do\n")
        inject = ("-o", "/dev/null", "-e", "trace=fsync", "-e", f"inject=fsync:signal=KILL:when={number}")
        history.system.run("run", python=strace(tmp_path / "killing", *inject))
        wait_for_orphans()
        with usual.open("a") as file:
            file.write("nothing to do\n")
        assert history.system.run("run").returncode == 0
        new = [path for path in history.system.archives() if path.name not in history.made]
        texts = [history.system.members(path).get(str(usual), b"") for path in new]
        assert b"".join([*texts, usual.read_bytes()]) == b"nothing to do\n" * 2, f"fsync {number} of {calls.stop - 1}"
