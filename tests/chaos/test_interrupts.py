"""R10: interrupts, as an operator types them, and terminals and readers that go away."""

from __future__ import annotations

import os
import pty
import select
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from runsdeploy.rollout.rollout import Listener, roll_out
from runsdeploy.session.run import Run
from tests import making
from tests.session import test_root
from tests.session.test_root import USER, place, rule
from tests.sshd import process_table
from tests.trees import PATIENCE, Executable, Finished, Operator, plant, script, wait, wait_until

HOST = "medusa.univ.run"
CONTROL_C = b"\x03"
TOO_LONG = 30
"""seconds after which something that should be done at once is taken for hung"""

GATE = "touch ~/started\nuntil [ -e ~/go ]; do sleep 0.05; done\n"
"""a section that reports that it runs, and waits for the gate"""

__all__ = ["place", "rule", "sudo_host"]
# Under another name: in this module `shared_host` is the ordinary one.
sudo_host = test_root.shared_host


class Terminal:
    """The program in the foreground of a pseudo-terminal with an operator at it."""

    def __init__(self, operator: Operator, *arguments: object, out: int | None = None) -> None:
        """`out` may be subprocess.PIPE: only stdin and stderr are the terminal's then."""
        self._master, slave = pty.openpty()
        # `setsid -c` makes it the terminal's foreground, so what is typed there reaches it as a signal.
        self.process = subprocess.Popen(
            ["setsid", "-c", sys.executable, "-m", "runsdeploy", *map(str, arguments)],
            stdin=slave, stdout=slave if out is None else out, stderr=slave,
            cwd=operator.directory, env={**operator.settings(), "TERM": "xterm"},
        )  # fmt: skip
        os.close(slave)
        self._seen: list[bytes] = []
        self._closed = threading.Event()
        self.looking = threading.Event()
        self.looking.set()
        self._eye = threading.Thread(target=self._look, daemon=True)
        self._eye.start()

    def _look(self) -> None:
        while not self._closed.is_set():
            self.looking.wait()
            # A read under way would keep the window open.
            if not select.select([self._master], [], [], 0.05)[0]:
                continue
            try:
                self._seen.append(os.read(self._master, 65536))
            except OSError:
                # The last process that had it open has ended.
                return

    @property
    def shown(self) -> bytes:
        """What the terminal got so far."""
        return b"".join(self._seen)

    def type(self, keys: bytes) -> None:
        """Press keys."""
        os.write(self._master, keys)

    def close(self) -> None:
        """Close the window."""
        self._closed.set()
        self.looking.set()
        self._eye.join(PATIENCE)
        os.close(self._master)

    def wait(self) -> Finished:
        """Wait for the program's end."""
        out, _ = self.process.communicate(timeout=PATIENCE)
        self._eye.join(PATIENCE)
        return Finished(self.process.returncode, out or b"", self.shown.decode("utf-8", "backslashreplace"))

    def end(self) -> None:
        """Leave nothing of it behind, whatever the test did."""
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        if not self._closed.is_set():
            self.close()


@pytest.fixture
def terminal(operator):
    """Start programs on terminals: `terminal(*arguments)`."""
    if not shutil.which("setsid"):
        pytest.skip("needs setsid of util-linux")
    started = []

    def start(*arguments, **options):
        started.append(Terminal(operator, *arguments, **options))
        return started[-1]

    yield start
    for each in started:
        each.end()


@dataclass(frozen=True)
class Side:
    """Where steps run."""

    conf: str
    home: Path
    state: Path
    """of the sessions there"""

    def has(self, name: str) -> bool:
        """Say whether a step left a file in its home."""
        return (self.home / name).exists()

    def let_go(self) -> None:
        """Open the gate."""
        (self.home / "go").touch()

    def requested(self, word: str) -> bool:
        """Say whether `stop` or `kill` arrived."""
        return any(self.state.glob(f"sessions/*/*/{word}"))

    def attached(self) -> bool:
        """Return whether a controller is attached, as far as it is known there."""
        return any(self.state.glob("sessions/*/*/attached.*"))

    def over(self) -> bool:
        """Say whether the session is."""
        return any(self.state.glob("sessions/*/*/finished"))

    def journal(self) -> str:
        """Return what the runner wrote down."""
        return "".join(path.read_text() for path in self.state.glob("sessions/*/*/journal"))

    def pid(self) -> int:
        """Return the number that a step wrote down."""
        wait_until(lambda: self.has("pid") and (self.home / "pid").read_text().endswith("\n"))
        return int((self.home / "pid").read_text())


@pytest.fixture
def side(request, operator, target):
    """Where the test's steps run: on the target, or on the controller itself."""
    if getattr(request, "param", "target") == "target":
        return Side("", target.home, target.state)
    return Side("conf local", operator.home, operator.state / "hosts" / HOST)


@pytest.fixture(autouse=True)
def _nothing_stays(operator):
    """Steps on the controller have no sshd whose end would end them."""
    yield
    mark = f"RUNSDEPLOY_STATE_DIR={operator.state}".encode()
    for process in process_table().values():
        if mark in process.environment():
            process.signal(signal.SIGKILL)


SIDES = pytest.mark.parametrize("side", ["target", "controller"], indirect=True)


def tree_of(tmp_path, side, **bodies):
    """Write a tree whose steps run on a side."""
    files = {f"scripts/{name}": script(side.conf, body) for name, body in bodies.items()}
    return plant(tmp_path / "tree", {**files, "hosts/medusa/default": "".join(f"{name}\n" for name in bodies)})


def group_of(pid):
    """Return the living processes of the process group that a process is in."""
    table = process_table()
    groups = {number: process_group(number) for number in table}
    wanted = groups.get(pid)
    return sorted(table[number] for number, group in groups.items() if group == wanted) if wanted else []


def wait_until_gone(family):
    """See that processes end which would not by themselves; others may have got their numbers."""
    wait_until(lambda: not [process for process in family if process_table().get(process.pid) == process])


@contextmanager
def under_way(operator, *words):
    """Start a deploy, and leave none behind whatever the test finds."""
    with operator.start(*words) as process:
        try:
            yield process
        finally:
            if process.poll() is None:
                process.kill()


def process_group(pid):
    try:
        return os.getpgid(pid)
    except ProcessLookupError:
        return None


# --- what is typed at a terminal


@SIDES
@pytest.mark.parametrize("form", ["text", "json", "jsonl"])
def test_r10_the_first_interrupt_lets_the_running_step_end_and_starts_no_other(
    form, side, operator, terminal, tmp_path
):
    tree = tree_of(tmp_path, side, a=GATE + "echo the end; touch ~/ended", b="touch ~/b", c="true")
    screen = terminal(
        *operator.deploy_arguments(tree, form=form), **({} if form == "text" else {"out": subprocess.PIPE})
    )
    wait_until(lambda: side.has("started"))
    screen.type(CONTROL_C)
    wait_until(lambda: side.requested("stop"))
    assert screen.process.poll() is None, "it waits for the running step"
    side.let_go()
    done = screen.wait()
    assert done.status == 130, done.talk
    assert side.has("ended")
    assert not side.has("b")
    assert "stopping after the running step" in done.talk
    assert "Traceback" not in done.talk
    if form == "text":
        assert "interrupted" in done.talk
    else:
        assert done.document["exit_status"] == 130
        assert done.hosts == {HOST: "interrupted"}
        assert done.outcomes == [("a", "ok"), ("b", "skipped"), ("c", "skipped")]
    if form == "jsonl":
        assert done.output == "the end\n"
        assert [event["event"] for event in done.events].count("stopping") == 1
    assert "finish interrupted" in side.journal()


@SIDES
def test_r10_the_second_interrupt_ends_the_running_step_and_all_that_is_in_its_group(
    side, operator, terminal, tmp_path
):
    body = "trap 'touch ~/told; exit 7' TERM\nsleep 600 & sleep 600 &\necho $$ >~/pid\nuntil [ -e ~/go ]; do wait; done"
    tree = tree_of(tmp_path, side, a=body, b="touch ~/b")
    screen = terminal(*operator.deploy_arguments(tree), out=subprocess.PIPE)
    family = group_of(side.pid())
    assert len(family) >= 3
    screen.type(CONTROL_C)
    wait_until(lambda: side.requested("stop"))
    screen.type(CONTROL_C)
    done = screen.wait()
    assert done.status == done.document["exit_status"] == 130
    assert done.outcomes == [("a", "interrupted"), ("b", "skipped")]
    assert done.hosts == {HOST: "interrupted"}
    assert side.has("told"), "TERM comes first"
    # The step is reported when its script has ended; the rest of the group was killed before.
    wait_until_gone(family)
    assert not side.has("b")
    assert "end 1 interrupted" in side.journal()


def test_r10_a_step_that_ignores_term_is_killed(side, operator, terminal, tmp_path):
    tree = tree_of(tmp_path, side, a="trap '' TERM\necho $$ >~/pid\nwhile :; do sleep 1; done", b="touch ~/b")
    screen = terminal(*operator.deploy_arguments(tree), out=subprocess.PIPE)
    family = group_of(side.pid())
    for word in ("stop", "kill"):
        screen.type(CONTROL_C)
        wait_until(lambda word=word: side.requested(word))
    began = time.monotonic()
    done = screen.wait()
    assert time.monotonic() - began < TOO_LONG
    assert done.status == 130
    assert done.outcomes == [("a", "interrupted"), ("b", "skipped")]
    assert done.steps[0]["status"] == 137
    wait_until_gone(family)
    assert not side.has("b")


@SIDES
@pytest.mark.parametrize("form", ["text", "json"])
def test_r10_the_third_interrupt_leaves_at_once_and_the_session_ends_without_us(
    form, side, operator, terminal, tmp_path
):
    body = "trap '' TERM\necho $$ >~/pid\nuntil [ -e ~/go ]; do sleep 0.1; done\ntouch ~/ended"
    tree = tree_of(tmp_path, side, a=body, b="touch ~/b")
    screen = terminal(
        *operator.deploy_arguments(tree, form=form), **({} if form == "text" else {"out": subprocess.PIPE})
    )
    pid = side.pid()
    step = process_table()[pid]
    (runner,) = (int(path.read_text()) for path in side.state.glob("sessions/*/*/pid"))
    for word in ("stop", "kill"):
        screen.type(CONTROL_C)
        wait_until(lambda word=word: side.requested(word))
    # The step keeps its five seconds, however long we take.
    os.kill(runner, signal.SIGSTOP)
    try:
        screen.type(CONTROL_C)
        done = screen.wait()
        assert process_table().get(pid) == step, "we left while the step still had its five seconds"
    finally:
        os.kill(runner, signal.SIGCONT)
    assert done.status == 130
    assert "Traceback" not in done.talk
    if form == "json":
        assert done.document["exit_status"] == 130
        assert done.outcomes == [("a", "lost"), ("b", "skipped")]
    side.let_go()
    wait_until(lambda: "finish interrupted" in side.journal())
    assert not side.has("b")


def test_r10_holding_the_interrupt_key_down_ends_with_130_and_no_traceback(side, operator, terminal, tmp_path):
    tree = tree_of(tmp_path, side, a=GATE, b="touch ~/b")
    screen = terminal(*operator.deploy_arguments(tree, form="json"), out=subprocess.PIPE)
    wait_until(lambda: side.has("started"))
    while screen.process.poll() is None:
        # A keyboard repeats some thirty times a second.
        with suppress(OSError):
            screen.type(CONTROL_C)
        time.sleep(0.03)
    done = screen.wait()
    assert "Traceback" not in done.talk
    assert done.status == 130
    assert done.document["exit_status"] == 130
    assert len(done.out.splitlines()) == 1, "one document, whole"
    side.let_go()
    wait_until(lambda: "finish interrupted" in side.journal())
    assert not side.has("b")


SLOW_SYNC = """\
#!/bin/sh
until ls {state}/sessions/*/*/stop >/dev/null 2>&1; do sleep 0.05; done
exec {sync} "$@"
"""


def test_r10_an_interrupt_while_the_login_is_under_way_starts_nothing(sshd, operator, terminal, tmp_path):
    """No step runs yet, so there is none to wait for."""
    slow = sshd()
    operator.ssh_config = slow.ssh_config
    (slow.home / ".bashrc").write_text("touch ~/login; until [ -e ~/go ]; do sleep 0.05; done; PATH=~/bin:$PATH\n")
    side = Side("", slow.home, slow.state)
    # The runner is at its first `sync` until the request has arrived: a step that runs by then would run on.
    plant(slow.home / "bin", {"sync": Executable(SLOW_SYNC.format(state=slow.state, sync=shutil.which("sync")))})
    tree = tree_of(tmp_path, side, a="touch ~/a", b="touch ~/b")
    screen = terminal(*operator.deploy_arguments(tree), out=subprocess.PIPE)
    wait_until(lambda: side.has("login"))
    screen.type(CONTROL_C)
    wait_until(lambda: b"stopping" in screen.shown)
    side.let_go()
    done = screen.wait()
    assert done.status == 130
    assert done.hosts == {HOST: "interrupted"}
    assert done.outcomes == [("a", "skipped"), ("b", "skipped")]
    wait_until(lambda: not slow.processes())
    assert not side.has("a")
    assert not side.has("b")


def test_r10_an_interrupt_before_the_connection_starts_nothing(target, operator, terminal, tmp_path):
    """The address has a listener that sends nothing."""
    import socket  # noqa: PLC0415 - of this test only

    with socket.create_server(("127.0.0.1", 0)) as silent:
        config = tmp_path / "ssh_config"
        port = f"Port {target.port}"
        config.write_text(target.stanza().replace(port, f"Port {silent.getsockname()[1]}") + "    ConnectTimeout 3\n")
        operator.ssh_config = config
        side = Side("", target.home, target.state)
        screen = terminal(*operator.deploy_arguments(tree_of(tmp_path, side, a="touch ~/a")), out=subprocess.PIPE)
        silent.settimeout(PATIENCE)
        held, _ = silent.accept()
        with held:
            screen.type(CONTROL_C)
            done = screen.wait()
    assert done.status == done.document["exit_status"] == 130
    assert done.outcomes == [("a", "skipped")]
    assert not side.has("a")


class Slow(Run):
    """A run that ends while a slow stop request is being sent."""

    over = threading.Event()

    def events(self):
        os.kill(os.getpid(), signal.SIGINT)
        self.over.wait(PATIENCE)
        yield from ()

    def _request(self, _word):
        self.over.set()
        time.sleep(0.5)


class Recording(Listener):
    """A listener that records the messages about interrupts."""

    def __init__(self):
        self.messages = []

    begin = event = end = lambda *_: None

    def stopping(self, said):
        self.messages.append(said)


def test_r10_an_interrupt_at_the_end_of_the_last_step_is_reported():
    listener = Recording()
    _, number = roll_out([Slow(making.plan(making.step()), None, None)], listener, 1)
    assert number == signal.SIGINT
    assert ["stopping after" in message for message in listener.messages] == [True]


# --- signals of others


def test_r10_sigterm_ends_with_143_and_a_second_one_ends_the_step(side, operator, tmp_path):
    tree = tree_of(tmp_path, side, a="echo $$ >~/pid\n" + GATE, b="touch ~/b")
    with under_way(operator, *operator.deploy_arguments(tree, form="json")) as process:
        family = group_of(side.pid())
        for word in ("stop", "kill"):
            process.send_signal(signal.SIGTERM)
            wait_until(lambda word=word: side.requested(word))
        done = wait(process)
    assert done.status == done.document["exit_status"] == 143
    assert done.outcomes == [("a", "interrupted"), ("b", "skipped")]
    wait_until_gone(family)
    assert not side.has("b")


@SIDES
def test_r10_a_terminal_that_is_closed_lets_the_running_step_end_and_starts_no_other(
    side, operator, terminal, tmp_path
):
    tree = tree_of(tmp_path, side, a=GATE + "touch ~/ended", b="touch ~/b")
    # Whoever started the tests may have had it ignored, which a child would be born with.
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    screen = terminal(*operator.deploy_arguments(tree, "--patience", "1", form="text"))
    signal.signal(signal.SIGHUP, before)
    wait_until(lambda: side.has("started"))
    screen.close()
    screen.process.wait(TOO_LONG)
    wait_until(lambda: not side.attached())
    side.let_go()
    wait_until(side.over)
    assert "finish interrupted" in side.journal()
    assert side.has("ended")
    assert not side.has("b")
    # The next session reports how it went, and continues.
    done = operator.deploy(tree)
    assert done.outcomes == [("a", "ok"), ("b", "ok")]
    assert [event["event"] for event in done.events].count("earlier") == 1


# --- readers that have seen enough, or look away


@pytest.mark.parametrize("form", ["text", "json", "jsonl"])
@pytest.mark.parametrize("both", ["", " 2>&1"])
def test_r10_a_reader_that_leaves_kills_nothing(both, form, operator, tmp_path):
    side = Side("", operator.home, operator.state)
    noisy = "for ((i = 0; i < 3000; i++)); do echo line $i; done"
    tree = tree_of(tmp_path, side, a=noisy, b=noisy, c="touch ~/c")
    operator.ssh_config = None
    words = map(os.fsdecode, operator.deploy_arguments(tree, form=form))
    command = shlex.join([sys.executable, "-m", "runsdeploy", *words])
    done = subprocess.run(
        ["bash", "-c", f'{command}{both} | head -n 1; echo "${{PIPESTATUS[0]}}" >status'],
        cwd=operator.directory, env=operator.settings(), stdin=subprocess.DEVNULL, capture_output=True,
        timeout=PATIENCE, check=True,
    )  # fmt: skip
    assert len(done.stdout.splitlines()) == 1
    assert b"Traceback" not in done.stdout + done.stderr
    assert b"Exception" not in done.stdout + done.stderr
    assert side.has("c"), "all steps ran"
    assert "finish ok" in side.journal()
    assert (operator.directory / "status").read_text() == "0\n"


def test_r10_output_that_cannot_be_written_is_an_error_and_no_traceback(operator, tmp_path):
    if not os.path.exists("/dev/full"):  # noqa: PTH110 - a device
        pytest.skip("no /dev/full here")
    side = Side("", operator.home, operator.state)
    tree = tree_of(tmp_path, side, a="echo a", b="touch ~/b")
    operator.ssh_config = None
    with open("/dev/full", "wb") as full:  # noqa: PTH123
        process = subprocess.Popen(
            [sys.executable, "-m", "runsdeploy", *operator.deploy_arguments(tree, form="text")],
            stdin=subprocess.DEVNULL, stdout=full, stderr=subprocess.PIPE,
            cwd=operator.directory, env=operator.settings(),
        )  # fmt: skip
        done = wait(process)
    assert done.status != 0
    assert "no space left" in done.talk
    assert "Traceback" not in done.talk


@pytest.mark.parametrize("form", ["text", "jsonl"])
def test_r10_interrupts_arrive_while_the_output_is_not_read(form, operator, tmp_path):
    """`runsdeploy deploy … | less`, whose pipe is full: the key must not wait for the next page."""
    side = Side("", operator.home, operator.state)
    noisy = "for ((i = 0; i < 3000; i++)); do printf '%0100d\\n' $i; done\n"
    tree = tree_of(tmp_path, side, a=noisy + GATE, b="touch ~/b")
    operator.ssh_config = None
    with under_way(operator, *operator.deploy_arguments(tree, form=form)) as process:
        wait_until(lambda: side.has("started"))
        process.send_signal(signal.SIGINT)
        # If it waited for a reader it would never come.
        wait_until(lambda: side.requested("stop"))
        side.let_go()
        done = wait(process)
    assert done.status == 130
    assert not side.has("b")


# --- steps of another user


@pytest.mark.usefixtures("rule")
def test_r10_a_step_that_sudo_made_roots_is_ended_too(sudo_host, tmp_path):
    """The runner is a plain user, who may not signal root's processes: sudo does."""
    for directory in (sudo_host.home, sudo_host.state):
        test_root.remove(directory)
        directory.mkdir()
        os.chown(directory, test_root.UID, test_root.UID)
    operator = Operator(tmp_path / "operator", sudo_host.ssh_config)
    side = Side("conf root", sudo_host.home, sudo_host.state)
    body = f"trap '' TERM\nsleep 600 &\necho $$ >{sudo_host.home}/pid\nwhile :; do sleep 1; done"
    tree = tree_of(tmp_path, side, a=body, b=f"touch {sudo_host.home}/b")
    with under_way(operator, *operator.deploy_arguments(tree, form="json")) as process:
        family = group_of(side.pid())
        assert Path(f"/proc/{side.pid()}").owner() == "root", f"not {USER}"
        for word in ("stop", "kill"):
            process.send_signal(signal.SIGINT)
            wait_until(lambda word=word: side.requested(word))
        done = wait(process)
    assert done.status == 130
    assert done.outcomes == [("a", "interrupted"), ("b", "skipped")]
    wait_until_gone(family)
    assert not side.has("b")
