"""The same random cuts for `deploy`, Ansible and `ssh HOST bash -s`: what ran how often, and what the operator saw.

python bench/cuts.py [--cuts 100] [--seed S] [--unguarded] [--only NAME]... [--case N] [--parallel 3]
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import json
import os
import queue
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import venv
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from lab import told

from tests.chaos.proxy import Cut, Direction, Fault, Proxy, through
from tests.sshd import FakeHost, SshdError
from tests.trees import Operator

HOST = "medusa.bench.example"
STEPS = [f"step{number:02}" for number in range(10)]
LINES = [f"{number:02}" for number in range(20)]
ATTEMPTS = 5
"""calls until it ends with 0, or is given up"""
PATIENCE = 180
"""seconds after which a call is taken for hung"""
ALIVE = 1
"""ServerAliveInterval of everyone, so that black holes end soon"""
IDLE = 3.0
"""seconds without a sign of life after which what is left on the host only waits"""


@dataclass(frozen=True)
class Accident:
    """One cut, the same for all: where, as a share of what goes that way without it."""

    number: int
    mode: Cut
    direction: Direction
    share: float

    def fault(self, uncut: Mapping[Direction, int]) -> Fault:
        """Give the byte of the first connection where it happens."""
        return Fault(self.direction, 1 + int(self.share * (uncut[self.direction] - 1)), self.mode)


def accidents(count: int, seed: int) -> list[Accident]:
    """Give random cuts, the same for the same seed."""
    chance = random.Random(seed)
    modes: list[Cut] = ["rst", "fin", "hole"]
    directions: list[Direction] = ["up", "down"]
    return [Accident(n, chance.choice(modes), chance.choice(directions), chance.random()) for n in range(count)]


# --- the work ----------------------------------------------------------------------------------------


@dataclass
class Work:
    """Ten steps that write down when they begin and end, and print lines for a while; once for each contestant."""

    directory: Path
    guarded: bool
    """whether the others' steps, too, mark that they ran and do not run again"""

    def __post_init__(self) -> None:
        self.target = self.directory / "target"
        self.counter, self.markers = self.target / "counter", self.target / "markers"
        self.tree, self.playbook = self.directory / "tree", self.directory / "playbook.yaml"
        self.plain = self.directory / "all-steps.sh"
        default = self.tree / "bench.example" / "medusa" / "default"
        for folder in (self.tree / "scripts", default.parent):
            folder.mkdir(parents=True)
        for name in STEPS:
            ours = f"script:\nshouldrun || exit\n{self._doing(name)}setdone\n"
            (self.tree / "scripts" / name).write_text(ours, "utf-8")
            (self.directory / f"{name}.sh").write_text(f"#!/bin/bash\n{self._marking(name)}", "utf-8")
        default.write_text("".join(f"{name}\n" for name in STEPS), "utf-8")
        self.plain.write_text("".join(map(self._guarding, STEPS)), "utf-8")
        self.playbook.write_text(json.dumps([self._play()], indent=2), "utf-8")  # JSON is YAML

    def _doing(self, name: str) -> str:
        return (
            f"echo {name} begin >>{self.counter}\n"
            f"for n in {' '.join(LINES)}; do echo {name} line $n {'.' * 40}; sleep 0.01; done\n"
            f"echo {name} end >>{self.counter}\n"
        )

    def _marking(self, name: str) -> str:
        return self._doing(name) + (f"touch {self.markers}/{name}\n" if self.guarded else "")

    def _guarding(self, name: str) -> str:
        return f"[ -e {self.markers}/{name} ] || {{\n{self._marking(name)}}}\n" if self.guarded else self._doing(name)

    def _play(self) -> dict[str, object]:
        creates = {name: {"creates": f"{self.markers}/{name}"} if self.guarded else {} for name in STEPS}
        trying = {"register": "done", "until": "done is succeeded", "retries": 3, "delay": 1}
        tasks = [{"script": {"cmd": f"{self.directory}/{name}.sh", **creates[name]}, **trying} for name in STEPS]
        return {"hosts": "all", "gather_facts": False, "tasks": tasks}

    def forget(self) -> None:
        """Make the host one where nothing ran."""
        shutil.rmtree(self.target, ignore_errors=True)
        self.markers.mkdir(parents=True)
        self.counter.touch()


# --- contestants -------------------------------------------------------------------------------------

LINE = re.compile(r"step\d\d line \d\d")


@dataclass(frozen=True)
class Contestant:
    """How somebody runs the steps."""

    command: Callable[[Work, Path], list[str]]
    """its words, given the ssh configuration"""
    seen: Callable[[str], list[str]]
    """the lines of the steps that its stdout shows"""
    fed: bool = False
    """whether its stdin is all steps"""


def ours() -> Contestant:
    """Give `runsdeploy deploy`."""

    def command(work: Work, ssh_config: Path) -> list[str]:
        words = ["deploy", "--path", str(work.tree), "--host", HOST, "--ssh-config", str(ssh_config)]
        return [sys.executable, "-m", "runsdeploy", *words, "--format", "jsonl"]

    def seen(out: str) -> list[str]:
        events = [json.loads(line) for line in out.splitlines() if line.startswith("{")]
        return LINE.findall("".join(each["text"] for each in events if each.get("event") == "output"))

    return Contestant(command, seen)


def ansible(program: Path) -> Contestant:
    """Give `ansible-playbook`, with the module `script`."""

    def command(work: Work, ssh_config: Path) -> list[str]:
        inventory = work.directory / "inventory"
        inventory.write_text(f"{HOST} ansible_ssh_common_args='-F {ssh_config}'\n", "utf-8")
        return [str(program), "-v", "-i", str(inventory), str(work.playbook)]

    def seen(out: str) -> list[str]:
        # a result has its output twice, whole and in lines
        return LINE.findall(re.sub(r'"stdout": "(?:[^"\\]|\\.)*"', "", out))

    return Contestant(command, seen)


def piped() -> Contestant:
    """Give the pipe into a shell."""
    return Contestant(lambda _, ssh_config: ["ssh", "-F", str(ssh_config), HOST, "bash -s"], LINE.findall, fed=True)


def installed_ansible() -> Path:
    """Give the program of an environment of its own, made by the first call, so that the project needs no Ansible."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "runsdeploy-bench"
    program = cache / "ansible" / "bin" / "ansible-playbook"
    if not program.exists():
        told("installing ansible-core")
        venv.create(cache / "ansible", with_pip=True, clear=True)
        pip = [program.with_name("python"), "-m", "pip", "install", "--quiet", "--quiet", "ansible-core"]
        subprocess.run(pip, check=True, stdin=subprocess.DEVNULL)
    return program


def version(program: Path) -> str:
    """Give the first line of what it says of itself."""
    told = subprocess.run([program, "--version"], check=True, capture_output=True, stdin=subprocess.DEVNULL, text=True)
    return told.stdout.splitlines()[0]


ANSIBLE = {"ANSIBLE_SSH_RETRIES": "3", "ANSIBLE_NOCOLOR": "1", "ANSIBLE_CALLBACK_RESULT_FORMAT": "json"}


# --- one run -----------------------------------------------------------------------------------------


@dataclass
class Place:
    """A host that takes one case after the other."""

    host: FakeHost
    work: Work

    def run(self, contestant: Contestant, fault: Fault | None) -> Run:
        """Call it until it ends with 0, through a network with a fault; tell what came of it."""
        self.work.forget()
        shutil.rmtree(self.host.state, ignore_errors=True)
        shutil.rmtree(self.host.home, ignore_errors=True)
        self.host.home.mkdir()
        with (
            tempfile.TemporaryDirectory(prefix="op-", ignore_cleanup_errors=True) as mine,
            Proxy(self.host.port, *[fault] if fault else []) as proxy,
        ):
            ssh_config = through(self.host, proxy, alive=ALIVE, alive_count=2)
            operator = Operator(Path(mine), ssh_config, ANSIBLE)
            command = contestant.command(self.work, ssh_config)
            fed = self.work.plain if contestant.fed else Path(os.devnull)
            run = Run()
            while run.statuses[-1:] != [0] and len(run.statuses) < ATTEMPTS:
                status, out = _call(command, fed, operator)
                run.statuses.append(status)
                run.said.append(out)
                run.seen.update(contestant.seen(out))
            run.sent = {"up": proxy.up, "down": proxy.down}
            self._wait(lambda: all(each.name.startswith("sshd") for each in self.host.processes()))
            run.cut = bool(proxy.cuts)
        self._wait(lambda: not self.host.processes())  # what a black hole held ends with the proxy
        run.counter = self.work.counter.read_text("utf-8").splitlines()
        try:
            self.host.restart()
        except SshdError:  # a busy machine takes its time to end what runs
            self.host.restart()
        return run

    def _wait(self, over: Callable[[], bool]) -> None:
        """Wait until it is over, or until nothing happens any more."""
        size, since = -1, time.monotonic()
        while not over() and time.monotonic() - since < IDLE:
            if (now := self.work.counter.stat().st_size) != size:
                size, since = now, time.monotonic()
            time.sleep(0.05)


def _call(command: list[str], fed: Path, operator: Operator) -> tuple[int, str]:
    # to a file: what outlives the command, as a shared connection does, must not hold us
    with fed.open("rb") as stdin, tempfile.TemporaryFile() as out:
        process = subprocess.Popen(
            command, stdin=stdin, stdout=out, stderr=subprocess.STDOUT, env=operator.settings(), start_new_session=True
        )
        try:
            status = process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            status = -1
        out.seek(0)
        return status, out.read().decode("utf-8", "replace")


@dataclass
class Run:
    """What came of one case."""

    statuses: list[int] = field(default_factory=list)
    said: list[str] = field(default_factory=list)
    seen: collections.Counter[str] = field(default_factory=collections.Counter)
    counter: list[str] = field(default_factory=list)
    sent: dict[Direction, int] = field(default_factory=dict)
    """bytes both ways until it ended"""
    cut: bool = False
    """whether the cut happened; it cannot if less was sent than without it"""

    def _times(self, what: str) -> list[int]:
        lines = collections.Counter(self.counter)
        return [lines[f"{name} {what}"] for name in STEPS]

    @property
    def once(self) -> bool:
        """Whether every step began once and ended once, and left nothing else."""
        expected = [f"{name} {what}" for name in STEPS for what in ("begin", "end")]
        return self.counter == expected

    @property
    def repeated(self) -> bool:
        """Whether some step began twice or more."""
        return max(self._times("begin")) > 1

    @property
    def unfinished(self) -> bool:
        """Whether some step never ran, or began once more than it ended."""
        times = list(zip(self._times("begin"), self._times("end"), strict=True))
        return any(end == 0 or begin > end for begin, end in times)

    @property
    def mistold(self) -> bool:
        """Whether a line was not shown, or more than once, over all calls."""
        return self.seen != dict.fromkeys((f"{name} line {line}" for name in STEPS for line in LINES), 1)

    @property
    def ended_well(self) -> bool:
        """Whether the last call ended with 0."""
        return self.statuses[-1] == 0


COLUMNS: dict[str, Callable[[Run], bool]] = {
    "cut": lambda run: run.cut,
    "every step once": lambda run: run.once,
    "a step twice or more": lambda run: run.repeated,
    "a step missing or half run": lambda run: run.unfinished,
    "output lost or doubled": lambda run: run.mistold,
    "first call ended with 0": lambda run: run.statuses[0] == 0,
    "last call ended with 0": lambda run: run.ended_well,
}


@contextlib.contextmanager
def places(count: int, *, guarded: bool) -> Iterator[queue.SimpleQueue[Place]]:
    """Start hosts, one for each case that runs at the same time."""
    with contextlib.ExitStack() as undo:
        directory = Path(undo.enter_context(tempfile.TemporaryDirectory(prefix="runsdeploy-bench-")))
        free: queue.SimpleQueue[Place] = queue.SimpleQueue()
        for number in range(count):
            host = undo.enter_context(FakeHost(HOST, directory / str(number) / "host"))
            free.put(Place(host, Work(directory / str(number) / "work", guarded)))
        yield free


def main() -> None:
    """Cut, count, and print one table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--cuts", type=int, default=100, help="cases for each contestant, 100 by default")
    parser.add_argument("--seed", type=int, default=random.randrange(2**32), help="of the cuts; random by default")
    parser.add_argument("--unguarded", action="store_true", help="the others' steps run again whenever they are called")
    parser.add_argument("--only", action="append", metavar="NAME", help="not all of runsdeploy, ansible, ssh")
    parser.add_argument("--case", type=int, help="the only case, and show all that was said in it")
    parser.add_argument("--parallel", type=int, default=3, help="cases at the same time, 3 by default")
    given = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # hosts are taken down then, too
    contestants: dict[str, Callable[[], Contestant]] = {
        "runsdeploy": ours,
        "ansible": lambda: ansible(installed_ansible()),
        "ssh": piped,
    }
    chosen = {name: make() for name, make in contestants.items() if name in (given.only or contestants)}
    cases = [each for each in accidents(given.cuts, given.seed) if given.case in (None, each.number)]
    with places(given.parallel, guarded=not given.unguarded) as free, ThreadPoolExecutor(given.parallel) as pool:

        def run(name: str, accident: Accident | None) -> Run:
            place = free.get()
            try:
                done = place.run(chosen[name], accident.fault(uncut[name]) if accident else None)
            finally:
                free.put(place)
            told(f"{name}: {accident}")
            return done

        uncut: dict[str, dict[Direction, int]] = {}
        for name in chosen:
            first = run(name, None)
            if not first.once or first.mistold or first.statuses != [0]:
                _show(f"{name}, no cut", first)
                raise SystemExit(f"{name} is not right without a cut")
            uncut[name] = first.sent
        runs = {(name, each.number): pool.submit(run, name, each) for each in cases for name in chosen}
        results: dict[str, dict[int, Run]] = {name: {} for name in chosen}
        try:
            for (name, number), future in runs.items():
                results[name][number] = future.result()
        except BaseException:
            pool.shutdown(cancel_futures=True)
            _print(results)  # so far
            raise
    told("")
    if given.case is not None:
        for name, only in results.items():
            _show(f"{name}: {cases[0]}, {uncut[name]}", only[given.case])
    with_what = f"; {version(installed_ansible())}" if "ansible" in chosen else ""
    print(f"seed {given.seed}; {'un' if given.unguarded else ''}guarded{with_what}\n")
    _print(results)


def _show(title: str, run: Run) -> None:
    print(f"--- {title}, {run.statuses}")
    for number, said in enumerate(run.said):
        print(f"--- call {number}\n{said}")
    print("--- counter", *run.counter, sep="\n")


def _print(results: Mapping[str, Mapping[int, Run]]) -> None:
    print(f"| contestant | cases | {' | '.join(COLUMNS)} |")
    print(f"|---|---|{'---|' * len(COLUMNS)}")
    for name, runs in results.items():
        cells = [str(sum(map(column, runs.values()))) for column in COLUMNS.values()]
        print(f"| {name} | {len(runs)} | {' | '.join(cells)} |")
    for name, runs in results.items():
        bad = [number for number, run in runs.items() if not run.once or run.mistold or not run.ended_well]
        if bad:
            print(f"\n{name}: not right in cases {' '.join(map(str, bad))}")


if __name__ == "__main__":
    main()
