"""R16, R17, T12: much output, hostile output, and readers that are too slow for it."""

from __future__ import annotations

import os
import random
import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from runsdeploy.events import Output
from runsdeploy.session.decoder import Decoder
from tests.chaos.test_interrupts import terminal
from tests.sshd import process_table
from tests.trees import PATIENCE, Finished, Operator, plant, script, wait_until

__all__ = ["terminal"]

FULL = os.environ.get("RUNSDEPLOY_TEST_FULL") == "1"
BULK = 1024 if FULL else 128
"""MiB of the biggest output"""
CONTROLLER, RUNNER = 64 << 10, 32 << 10
"""KiB that they may use, the controller on top of what it uses anyway"""

PROGRAM = """
import sys
from pathlib import Path
from runsdeploy.session import parameters
from runsdeploy.cli.main import main
place, kept = sys.argv[1:3]
parameters.OUTPUT_KEPT = int(kept) or parameters.OUTPUT_KEPT
status = main(sys.argv[3:])
sys.stdout.flush()
Path(place).write_text(next(line for line in Path("/proc/self/status").open() if line.startswith("VmHWM")))
sys.exit(status)
"""
"""the program, but with less output kept if that is not 0, and writing down the most memory it had"""


@pytest.fixture
def operator(tmp_path):
    """An operator who deploys to this machine: the runner and its spool are the same as over ssh."""
    operator = Operator(tmp_path / "operator")
    yield operator
    mark = f"RUNSDEPLOY_STATE_DIR={operator.state}".encode()
    for process in process_table().values():
        if mark in process.environment():
            process.signal(signal.SIGKILL)


def tree_of(operator, name="tree", **bodies):
    files = {f"scripts/{each}": script("", body) for each, body in bodies.items()}
    return plant(operator.directory / name, {**files, "hosts/medusa/default": "".join(f"{each}\n" for each in bodies)})


class Deploy:
    """A deploy under way, whose output may be left unread for a while."""

    def __init__(self, operator, tree, *more, form="jsonl", kept=0):
        self.operator = operator
        words = map(os.fsdecode, operator.deploy_arguments(tree, *more, form=form))
        with (operator.directory / "talk").open("wb") as talk:
            self.process = subprocess.Popen(
                [sys.executable, "-c", PROGRAM, str(operator.directory / "memory"), str(kept), *words],
                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=talk,
                cwd=operator.directory, env=operator.settings(),
            )  # fmt: skip

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.process.kill()
        self.process.stdout.close()
        self.process.wait()

    def finish(self) -> Finished:
        """Read all, to the end."""
        out, _ = self.process.communicate(timeout=PATIENCE * (4 if FULL else 1))
        return Finished(self.process.returncode, out, (self.operator.directory / "talk").read_text())

    def drain(self) -> int:
        """Read all, keep nothing; return how much it was."""
        size = 0
        while data := self.process.stdout.read(1 << 20):
            size += len(data)
        self.process.wait(PATIENCE)
        return size

    @property
    def memory(self) -> int:
        """KiB that the controller had at most, once it ended."""
        return kib((self.operator.directory / "memory").read_text())


def kib(text):
    return int(re.search(r"VmHWM:\s*(\d+) kB", text)[1])


def spool_of(operator) -> Path:
    (spool,) = operator.state.glob("sessions/*/*/spool")
    return spool


def outputs(spool, data):
    """Return what is output in bytes of a spool."""
    decoder = Decoder((spool.parent / "nonce").read_text().strip(), in_session=True)
    events = [*decoder.feed(data), *decoder.end()]
    return b"".join(event.data for event in events if isinstance(event, Output))


# What to run, the format, and how many MiB must arrive however far behind we are.
BULKS = {
    "bytes": (f"head -c {BULK}M /dev/zero | tr '\\0' x", "jsonl", 60),
    "lines": (f"yes {'x' * 400} | head -c {BULK}M", "text", 60),
    "one-line": ("head -c 100M /dev/zero | tr '\\0' x; echo", "text", 60),
    "short-lines": ("seq 1000000", "text", 6),
}


@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", BULKS)
def test_r16_t12_much_output_takes_no_memory_on_either_side(name, operator, tmp_path):
    body, form, least = BULKS[name]
    idle = Operator(tmp_path / "idle")
    with Deploy(idle, tree_of(idle, a="true")) as deploy:
        deploy.drain()
    base = deploy.memory
    runner = '\ngrep VmHWM "/proc/$(cat "$RUNS_FILES"/../segment*/pid)/status" >~/runner\nexit 7'
    with Deploy(operator, tree_of(operator, a=body + runner), form=form) as deploy:
        assert deploy.drain() >= least << 20
        assert deploy.process.returncode == 1, "the exit status is the script's"
    assert deploy.memory <= base + CONTROLLER
    assert kib((operator.home / "runner").read_text()) <= RUNNER


@pytest.mark.timeout(600)
@pytest.mark.parametrize("turn", range(50 if FULL else 2))
def test_r17_t12_ten_mib_of_random_bytes_arrive_exactly(turn, operator):
    """What the target keeps is compared byte for byte; the JSON report of it, as far as it can."""
    seed = random.randrange(1 << 32)
    print(f"seed {seed}, turn {turn}")
    data = random.Random(seed).randbytes(10 << 20)
    source = operator.directory / "data"
    source.write_bytes(data)
    with Deploy(operator, tree_of(operator, a=f"cat {shlex.quote(str(source))}")) as deploy:
        done = deploy.finish()
    assert done.outcomes == [("a", "ok")]
    spool = spool_of(operator)
    assert outputs(spool, spool.read_bytes()) == data
    assert done.output == data.decode("utf-8", "backslashreplace")


def test_r16_a_long_line_is_shown_in_the_order_written(operator):
    """In pieces, because it is not kept whole; a character is never cut in two."""
    pieces = ["a" * 100_000, "\u20ac" * 50_000, "b" * 70_000, "\U0001f600" * 30_000]
    (operator.directory / "data").write_text("".join(pieces), "utf-8")
    with Deploy(operator, tree_of(operator, a=f"cat {operator.directory}/data"), form="text") as deploy:
        done = deploy.finish()
    shown = "".join(line.removeprefix("  | ") for line in done.text.split("\n") if line.startswith("  | "))
    assert shown == "".join(pieces)


KEPT = 512 << 10


@pytest.mark.parametrize("body", ["seq -w 1000000", "yes | head -c 8000000", "head -c 8000000 /dev/zero | tr '\\0' x"])
def test_r16_a_slow_reader_gets_both_ends_and_the_size_of_the_gap(body, operator):
    """Nobody reads until the script has ended: what is between may be dropped, the events never."""
    # The next step starts only when all of it was acknowledged.
    tree = tree_of(operator, a=f"echo first; {body}; echo last; touch ~/written; sleep 0.5; exit 3", b="echo next")
    with Deploy(operator, tree, "--keep-going", kept=KEPT) as deploy:
        wait_until((operator.home / "written").exists)
        wait_until(lambda: "finish" in (spool_of(operator).parent / "journal").read_text())
        done = deploy.finish()
    assert done.status == 1
    assert done.outcomes == [("a", "failed"), ("b", "ok")]
    assert done.steps[0]["status"] == 3
    spool = spool_of(operator)
    whole = spool.read_bytes()
    notes = [event["text"] for event in done.events if event["event"] == "note"]
    dropped = [int(note.split()[0]) for note in notes if "bytes of output were dropped" in note]
    ((begin, end),) = (tuple(map(int, line.split())) for line in (spool.parent / "dropped").read_text().splitlines())
    assert KEPT <= begin < end <= len(whole) - KEPT
    text, head, tail = done.output.encode(), outputs(spool, whole[:begin]), outputs(spool, whole[end:])
    # Whoever follows may have got more, before the hole was one; each byte is either here or among the dropped.
    assert dropped
    assert len(text) + sum(dropped) == len(outputs(spool, whole))
    assert text.startswith(head)
    assert text.endswith(tail)
    assert "\0" not in done.output
    assert head.startswith(b"first\n")
    assert tail.endswith(b"last\nnext\n")
    assert spool.stat().st_blocks * 512 <= 4 * KEPT


def test_r16_r9_dropped_output_is_not_reported_as_zeros_by_the_next_session(operator):
    """The controller died before the script wrote; a hole in its spool is no output."""
    body = "touch ~/started; until [ -e ~/go ]; do sleep 0.05; done; seq -w 1000000; sleep 0.5; touch ~/written"
    with Deploy(operator, tree_of(operator, a=body), "--patience", "1", kept=KEPT) as deploy:
        wait_until((operator.home / "started").exists)
        deploy.process.kill()
        deploy.process.wait()
    (operator.home / "go").touch()
    spool = spool_of(operator)
    wait_until(lambda: "finish" in (spool.parent / "journal").read_text())
    assert (spool.parent / "dropped").exists()
    with Deploy(operator, tree_of(operator, "other", b="echo b"), kept=KEPT) as deploy:
        done = deploy.finish()
    assert done.outcomes == [("b", "ok")]
    assert "\0" not in done.output
    assert done.output.endswith("1000000\nb\n")
    assert "0000001\n" in done.output[:100]
    assert sum(path.stat().st_blocks * 512 for path in operator.state.glob("sessions/*/*/spool")) <= 8 * KEPT


def test_r16_a_terminal_that_is_not_read_does_not_stop_the_script(terminal, operator):
    body = "for ((i = 0; i < 3000; i++)); do printf '%0100d\\n' $i; done; touch ~/ended"
    screen = terminal(*operator.deploy_arguments(tree_of(operator, a=body), form="text"))
    screen.looking.clear()
    wait_until((operator.home / "ended").exists)
    screen.looking.set()
    done = screen.wait()
    assert done.status == 0
    assert re.findall(r"\| 0*(\d+)", done.talk) == [*map(str, range(3000))]


# --- what a terminal would obey

SGR = re.compile(rb"\x1b\[[0-9;]*m")
HOSTILE = {
    "OSC 52": b"\x1b]52;c;cm0gLXJm\x07",
    "title": b"\x1b]0;owned\x1b\\",
    "DECRQSS": b'\x1bP$q"p\x1b\\',
    "cursor": b"\x1b[2J\x1b[1;1H\x1b[6n",
    "C1 CSI": b"\x9b2J \xc2\x9b2J \xc2\x9d52;c;eA==\xc2\x9c",
    "C0": bytes(range(32)).replace(b"\n", b"") + b"\x7f",
    "bidi": "\u202e \u2066 \u200f \u2028".encode(),
    "bad UTF-8": b"\xff\xfe \xc3 \xe2\x82 \xed\xa0\x80 \xf5\x80\x80\x80",
    "overwriting": b"failed\rok    ",
}


@pytest.mark.parametrize("form", ["text", "jsonl"])
def test_r17_s12_nothing_that_a_step_writes_commands_the_terminal(form, terminal, operator):
    # The names come last: what comes first may be written over.
    data = b"".join(each + b" " + name.encode() + b"\n" for name, each in HOSTILE.items())
    (operator.directory / "data").write_bytes(data)
    body = f"cat {operator.directory}/data; tail -n 3 {operator.directory}/data >&2; exit 1"
    screen = terminal(*operator.deploy_arguments(tree_of(operator, a=body), form=form))
    screen.wait()
    shown = SGR.sub(b"", screen.shown).replace(b"\r\n", b"\n")
    assert all(name.encode() in shown for name in HOSTILE)
    text = shown.decode("utf-8")
    commands = re.findall("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069]", text)
    assert commands == []


def test_r17_output_that_imitates_our_events_is_output(operator):
    """With a nonce that was guessed, with none, with half an event, and cut in two."""
    guess = "0123456789abcdef" * 2
    zeros = "0" * 64
    earlier = f"earlier {guess} me@here 2026-01-01T00:00:00Z finished {guess} 40"
    said = ["end 1 ok 0 0.00 0 none", "finish ok", "start 2 b", "mark 1 setdone ", "note owned", "attached 0"]
    said += [earlier, f"file x 0644 4 {zeros}", "refuse bash x", "locked session a b c d"]
    forged = [f"\x1e{nonce}{each}\n" for nonce in (f"{guess} ", "", " ") for each in said]
    forged += [f"\x1e{guess}", "\x1e" * 99]
    data = "".join(forged).encode()
    (operator.directory / "data").write_bytes(data)
    body = f"cat {operator.directory}/data; printf '\\x1e'; sleep 0.3; printf '{guess[:9]}'; exit 5"
    with Deploy(operator, tree_of(operator, a=body, b="touch ~/b")) as deploy:
        done = deploy.finish()
    assert done.outcomes == [("a", "failed"), ("b", "skipped")]
    assert done.steps[0]["status"] == 5
    assert done.output == data.decode() + "\x1e" + guess[:9]
    assert {event["event"] for event in done.events} == {"begin", "start", "output", "end", "host"}
    assert not (operator.home / "b").exists()


def test_r16_opening_the_streams_by_name_loses_nothing(operator):
    body = (
        "echo 1; echo 2 >/dev/stderr; echo 3 >/dev/stdout; echo 4 | tee /dev/stderr >/dev/null; echo 5 >/dev/fd/2\n"
        "seq 6 9; : >/dev/stdout; echo 10 >>/dev/stderr; exec >/dev/stderr 2>/dev/stdout; echo 11"
    )
    with Deploy(operator, tree_of(operator, a=body)) as deploy:
        done = deploy.finish()
    assert done.outcomes == [("a", "ok")]
    assert done.output.split() == [str(n) for n in range(1, 12)]
