"""R18, R36, T13: scripts that never end, ask, hide, or leave a process behind; and what is never asked for (R19)."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.chaos.test_interrupts import place, sudo_host, terminal
from tests.session import test_root
from tests.sshd import process_table
from tests.trees import Finished, Operator, plant, script, wait, wait_until

FULL = os.environ.get("RUNSDEPLOY_TEST_FULL") == "1"
HOST = "medusa.univ.run"
TIME = 4
"""seconds of `--timeout`: those that do not hang must be through by then, on a busy machine too"""
BOUND = TIME + 15
"""with what T13 allows on top"""
SLACK = 30
"""seconds that a dozen of deploys at once on two cores may take by themselves"""

__all__ = ["place", "sudo_host", "terminal"]


@dataclass(frozen=True)
class Hostile:
    """A script, and how it has to end under that `--timeout`."""

    body: str
    outcome: str
    left: bool = False
    """whether it leaves a process in the background, which a note reports"""


HOSTILE = {
    "sleeps": Hostile("sleep inf", "timeout"),
    "reads-all": Hostile('echo "got:$(cat)"', "ok"),
    "reads-a-line": Hostile('read -r line && exit 3; echo "got:$line"', "ok"),
    "ignores-term": Hostile("trap '' TERM; sleep inf", "timeout"),
    "has-children": Hostile("sleep inf & sleep inf & (trap '' TERM; sleep inf) & wait", "timeout"),
    "has-children-in-a-session": Hostile("setsid sleep inf & echo $! >~/apart; wait", "timeout"),
    "forks-and-forks": Hostile(
        "fork() { if (($1)); then fork $(($1 - 1)) & fork $(($1 - 1)) & wait; else sleep inf; fi; }; fork 5", "timeout"
    ),
    "leaves-a-child": Hostile("sleep inf & echo $! >~/child; exit 0", "ok", left=True),
    "closes-its-output": Hostile("exec >&- 2>&-; sleep 0.3; exit 0", "ok"),
    "closes-everything": Hostile("exec <&- >&- 2>&- 3>&- 4>&- 5>&- 6>&- 7>&- 8>&- 9>&-; sleep inf", "timeout"),
    "stops-itself": Hostile("kill -STOP $$", "timeout"),
    "stops-its-group": Hostile("kill -STOP 0", "timeout"),
    "leaves-a-daemon": Hostile("while :; do echo on; sleep 0.02; done & echo $! >~/child; exit 0", "ok", left=True),
}
PREFACE = "echo $$ >~/pid; echo started\n"


def tree_of(operator, name, **bodies):
    files = {f"scripts/{each}": script("", body) for each, body in bodies.items()}
    return plant(operator.directory / name, {**files, "hosts/medusa/default": "".join(f"{each}\n" for each in bodies)})


def processes_of(state):
    """Return the processes of the sessions in a state directory."""
    mark = f"RUNSDEPLOY_STATE_DIR={state}".encode()
    return [process for process in process_table().values() if mark in process.environment()]


def read_pid(path):
    wait_until(lambda: path.exists() and path.read_text().endswith("\n"))
    return int(path.read_text())


@pytest.fixture
def operators(tmp_path):
    """Make operators who deploy to this machine, each with a state directory of its own."""
    made = []

    def make(name):
        made.append(Operator(tmp_path / name))
        return made[-1]

    yield make
    for operator in made:
        for process in processes_of(operator.state):
            process.signal(signal.SIGKILL)


@dataclass
class Ending:
    """How one hostile script ended."""

    operator: Operator
    done: Finished

    def problems(self, name):
        """Yield what is not as it should be."""
        hostile = HOSTILE[name]
        if self.done.outcomes != [("hostile", hostile.outcome)]:
            yield f"outcome {self.done.outcomes}, expected {hostile.outcome}"
        if self.done.steps[0]["seconds"] > BOUND + SLACK:
            yield f"it took {self.done.steps[0]['seconds']:.1f} s"
        if (self.done.status, self.done.steps[0]["status"]) != {"timeout": (124, 124), "ok": (0, 0)}[hostile.outcome]:
            yield f"status {self.done.status}, of the step {self.done.steps[0]['status']}"
        if not self.done.output.startswith("started\n"):
            yield f"output {self.done.output!r}"
        if name.startswith("reads") and self.done.output != "started\ngot:\n":
            yield f"it read something: {self.done.output!r}"
        notes = [event["text"] for event in self.done.events if event["event"] == "note"]
        if [note for note in notes if "in the background" in note] != notes or bool(notes) != hostile.left:
            yield f"notes {notes}"
        if not hostile.left:
            yield from self._survivors()

    def _survivors(self):
        session = re.escape(self.done.document["session"])
        group = re.compile(rb"RUNS_SESSION=" + session.encode())
        apart = self.operator.home / "apart"
        # Whoever leaves the process group for a session of his own is out of reach, and was so on purpose.
        free = {int(apart.read_text())} if apart.exists() else set()

        def left():
            return [
                process for process in processes_of(self.operator.state)
                if process.pid not in free and any(group.match(each) for each in process.environment())
            ]  # fmt: skip

        # A killed process may take a moment to be gone; others stay.
        with contextlib.suppress(AssertionError):
            wait_until(lambda: not left())
        yield from (f"process {process.pid} (`{process.name}`) survived" for process in left())


def _endure(operator, name):
    tree = tree_of(operator, "tree", hostile=PREFACE + HOSTILE[name].body)
    return Ending(operator, operator.deploy(tree, "--timeout", str(TIME)))


@pytest.mark.timeout(300)
@pytest.mark.parametrize("_turn", range(20 if FULL else 1))
def test_r18_t13_hostile_scripts_end_in_time_as_they_should_and_leave_no_process_in_their_group(_turn, operators):
    """All at once, each on a target of its own: nearly all of it is waiting."""
    with ThreadPoolExecutor(len(HOSTILE)) as pool:
        endings = dict(zip(HOSTILE, pool.map(lambda name: _endure(operators(name), name), HOSTILE), strict=True))
    assert {name: found for name, ending in endings.items() if (found := list(ending.problems(name)))} == {}


def test_r18_r36_a_background_process_has_no_descriptor_of_ours_and_blocks_nothing(operators):
    """Only the three usual descriptors; the lock, the journal and our pipe from the runner to its steps are not his."""
    operator = operators("operator")
    body = "sleep inf & echo $! >~/child\nexit 0"
    done = operator.deploy(tree_of(operator, "tree", a=body))
    assert done.outcomes == [("a", "ok")]
    child = read_pid(operator.home / "child")
    # Until then it is a bash, which has the section open.
    wait_until(lambda: process_table()[child].name == "sleep")
    open_files = {path.name: os.readlink(path) for path in Path(f"/proc/{child}/fd").iterdir()}  # noqa: PTH115
    assert set(open_files) == {"0", "1", "2"}
    assert open_files["0"] == "/dev/null"
    assert open_files["1"] == open_files["2"]
    assert open_files["1"].startswith("pipe:")
    # Another operator, who would have to wait for a lock that is held.
    operator.environment["USER"] = operator.environment["LOGNAME"] = "somebody-else"
    began = time.monotonic()
    assert operator.deploy(tree_of(operator, "other", b="true")).outcomes == [("b", "ok")]
    assert time.monotonic() - began < SLACK
    assert child in process_table(), "nobody ended it"


def test_r16_r18_a_daemon_that_writes_on_does_not_fill_the_disk(operators):
    """Nobody will ever hear what comes behind the end of a session."""
    operator = operators("operator")
    body = "while :; do head -c 100000 /dev/zero || exit; sleep 0.01; done & echo $! >~/child\nexit 0"
    assert operator.deploy(tree_of(operator, "tree", a=body)).outcomes == [("a", "ok")]
    child = read_pid(operator.home / "child")
    (spool,) = operator.state.glob("sessions/*/*/spool")
    # The runner waits 1 s for the last output in the pipe.
    wait_until(lambda: read_pid(spool.parent / "pid") not in process_table())

    def written():
        """Return the bytes that the daemon's children and itself wrote."""
        found = re.search(r"wchar: (\d+)", Path(f"/proc/{child}/io").read_text())
        return int(found[1])

    def copied_to():
        """Return where the processes of the session write to."""
        for process in processes_of(operator.state):
            with contextlib.suppress(OSError):
                yield Path(f"/proc/{process.pid}/fd/1").readlink()

    # What was under way in the pipe may still arrive.
    wait_until(lambda: spool not in copied_to())
    size = spool.stat().st_size
    before = written() if child in process_table() else 0
    wait_until(lambda: child not in process_table() or written() > before + 1_000_000)
    assert spool.stat().st_size == size


@pytest.mark.parametrize("conf", ["", "conf local"])
def test_r18_r41_a_step_on_either_side_has_its_time(conf, operator, target, tmp_path):
    """Over ssh, and on the controller."""
    home = operator.home if conf else target.home
    tree = plant(
        tmp_path / "tree",
        {
            "scripts/a": script(
                conf, "shouldrun || exit; echo $$ >~/pid; echo waiting; sleep inf & sleep inf; setdone"
            ),
            "scripts/b": script("", "true"),
            "hosts/medusa/default": "a\nb\n",
        },
    )
    done = operator.deploy(tree, "--timeout", "3")
    assert done.status == done.document["exit_status"] == 124
    assert done.outcomes == [("a", "timeout"), ("b", "skipped")]
    assert done.hosts == {HOST: "timeout"}
    assert done.steps[0]["output_tail"][0] == "waiting"
    assert done.steps[0]["not_marked"] == [""]
    assert read_pid(home / "pid") not in process_table()
    done = operator.deploy(tree, "--timeout", "3", "--keep-going")
    assert done.outcomes == [("a", "timeout"), ("b", "ok")], "never marked"
    assert done.status == 124


def test_r13_r18_a_runner_that_is_killed_leaves_neither_its_step_nor_us_hanging(operators):
    operator = operators("operator")
    tree = tree_of(operator, "tree", a="echo $$ >~/pid\nsleep inf", b="touch ~/b")
    with operator.start(*operator.deploy_arguments(tree)) as process:
        try:
            pid = read_pid(operator.home / "pid")
            runner = re.search(r"process%20(\d+)", (operator.state / "holder").read_text())
            os.kill(int(runner[1]), signal.SIGKILL)
            until = time.monotonic() + SLACK
            while process.poll() is None:
                assert time.monotonic() < until, "the runner's death was not noticed"
                time.sleep(0.05)
            done = wait(process)
        finally:
            process.kill()
    assert done.status == 3
    assert done.hosts == {HOST: "interrupted"}
    assert done.outcomes == [("a", "lost"), ("b", "skipped")]
    wait_until(lambda: pid not in process_table())
    assert not (operator.home / "b").exists()


# --- no program ever asks


def test_r19_sudo_that_would_ask_is_refused_before_anything_runs_and_never_asks(
    sudo_host, terminal, operator, tmp_path
):
    """On a terminal, where sudo could ask if it saw one."""
    for directory in (sudo_host.home, sudo_host.state):
        test_root.remove(directory)
        directory.mkdir()
        os.chown(directory, test_root.UID, test_root.UID)
    operator.ssh_config = sudo_host.ssh_config
    files = {
        "scripts/before": script("", f"touch {sudo_host.home}/before"),
        "scripts/it": script("conf root", "true"),
        "hosts/medusa/default": "before\nit\n",
    }
    tree = plant(tmp_path / "tree", files)
    screen = terminal(*operator.deploy_arguments(tree), out=subprocess.PIPE)
    done = screen.wait()
    assert done.status == 3
    assert done.hosts == {HOST: "refused"}
    assert done.outcomes == [("before", "skipped"), ("it", "skipped")]
    assert not (sudo_host.home / "before").exists()
    assert "assword" not in done.talk
    assert "sudo" in done.document["hosts"][0]["message"]


def test_r18_r19_no_step_reaches_the_operators_terminal(terminal, operator, target, tmp_path):
    body = 'if (: </dev/tty) 2>/dev/null; then echo "a terminal"; else echo "none"; fi; readlink /proc/self/fd/0'
    files = {
        "scripts/near": script("conf local", body),
        "scripts/far": script("", body),
        "hosts/medusa/default": "near\nfar\n",
    }
    done = terminal(*operator.deploy_arguments(plant(tmp_path / "tree", files)), out=subprocess.PIPE).wait()
    assert target.state.exists()
    assert done.status == 0
    assert done.output == "none\n/dev/null\n" * 2
