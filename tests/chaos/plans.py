"""Random plans whose effects can be counted and whose output is known byte for byte.

Each step is guarded, says what the plan says it says, hands on files whose content is known, and writes into a
trace of its plan: `NAME begin`, `NAME worked` before it marks, `NAME marked` behind that. So whatever happens to the
machinery around it, the trace tells how often each step really ran, and in what order.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import re
import shutil
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.chaos.proxy import Proxy, through
from tests.sshd import FakeHost, Process, process_table
from tests.trees import Content, Finished, Operator, plant, script, wait_until

FULL = os.environ.get("RUNSDEPLOY_TEST_FULL") == "1"
"""whether there is time for the full sizes"""

DOMAIN = "univ.run"
GUARDS = ("script", "subsystem", "once", "onchange")
NO_BACKSLASH = bytes(byte for byte in range(256) if byte != ord("\\"))
"""a backslash would look like the spelling of a byte that is no UTF-8"""


def sized(small: int, full: int) -> int:
    """Return how many cases there are."""
    return full if FULL else small


def chance_of(name: str, seed: int | None = None) -> random.Random:
    """Return the chance of a test, printed so that it can be replayed with RUNSDEPLOY_TEST_SEED."""
    if seed is not None:
        return random.Random(f"{name} {seed}")
    chosen = os.environ.get("RUNSDEPLOY_TEST_SEED") or str(random.SystemRandom().randrange(2**32))
    print(f"replay {name} with RUNSDEPLOY_TEST_SEED={chosen}")
    return random.Random(f"{name} {chosen}")


@dataclass(frozen=True)
class Step:
    """One step, and all that is known of it beforehand."""

    name: str
    side: str
    """`target` or `controller`"""
    guard: str
    output: bytes
    """its output"""

    @property
    def marker(self) -> str:
        """Where its marker lies below `markers`."""
        folder = self.name.replace("/", "%2F")
        return f"{folder}/" + {"subsystem": "subsystem=part", "onchange": "subsystem=onchange"}.get(
            self.guard, "script"
        )


@dataclass(frozen=True)
class Plan:
    """What one host is to do."""

    host: str
    steps: tuple[Step, ...]
    files: Mapping[str | bytes, Content] = field(repr=False)
    """the part of a tree with this guard"""
    trace: Path
    """where the steps write what they did"""

    @property
    def output(self) -> bytes:
        """The output of all steps."""
        return b"".join(step.output for step in self.steps)

    def traced(self) -> list[tuple[str, str]]:
        """Return what the steps did so far: name and word."""
        lines = self.trace.read_text().splitlines() if self.trace.exists() else []
        return [(name, word) for name, _, word in (line.partition(" ") for line in lines)]

    def runs(self) -> dict[str, int]:
        """Return how often each step began."""
        count = Counter(name for name, word in self.traced() if word == "begin")
        return {step.name: count[step.name] for step in self.steps}

    def markers(self, state: Path, controller_state: Path) -> dict[str, bool]:
        """Return which steps have their marker."""
        base = {"target": state, "controller": controller_state / "hosts" / self.host}
        return {step.name: (base[step.side] / "markers" / step.marker).is_file() for step in self.steps}

    def assert_done_once(self, state: Path, controller_state: Path) -> None:
        """Each step ran exactly once, in order, to its end, and is marked."""
        expected = [(step.name, word) for step in self.steps for word in ("begin", "worked", "marked")]
        assert self.traced() == expected, (self.traced(), expected)
        assert all(self.markers(state, controller_state).values()), self.markers(state, controller_state)


@dataclass
class Maker:
    """Makes plans of one tree."""

    chance: random.Random
    directory: Path
    """where traces go"""
    pause: float = 0.02
    """seconds that a step which takes its time takes, again and again"""
    most: int = 20_000
    """bytes that one step writes or passes on"""

    def make(self, host: str, steps: int, sides: Iterable[str] | None = None) -> Plan:
        """Make a plan; `sides` are those of its steps, at random unless given."""
        trace = self.directory / f"trace-{host}"
        trace.parent.mkdir(parents=True, exist_ok=True)
        trace.unlink(missing_ok=True)
        sides = list(sides or (self.chance.choice(["target", "target", "controller"]) for _ in range(steps)))
        files: dict[str | bytes, Content] = {}
        made: dict[str, bytes] = {}
        done = [self._step(f"{host}/s{number}", side, trace, files, made) for number, side in enumerate(sides)]
        files[f"{DOMAIN}/{host}/default"] = "".join(f"{step.name}\n" for step in done)
        return Plan(f"{host}.{DOMAIN}", tuple(done), files, trace)

    def _step(
        self, name: str, side: str, trace: Path, files: dict[str | bytes, Content], made: dict[str, bytes]
    ) -> Step:
        chance, word = self.chance, re.sub(r"\W", "_", name)
        guard = chance.choice(GUARDS)
        conf = [f"conf {flag}" for flag in (["local"] if side == "controller" else [])]
        conf += [f"conf {guard}"] if guard in ("once", "onchange") else []
        body = [f'echo "{name} begin" >>{trace}']
        output = b""
        for kind in chance.choices(["chatty", "silent", "binary", "file", "use", "out"], k=chance.choice([1, 1, 2, 3])):
            if kind == "chatty":
                lines, every = chance.randrange(5, 200), chance.randrange(20, 60)
                pause = f"((i % {every})) || sleep {self.pause}"
                body.append(f"for ((i = 0; i < {lines}; i++)); do echo {name} says $i; {pause}; done")
                output += b"".join(b"%s says %d\n" % (name.encode(), number) for number in range(lines))
            elif kind == "silent":
                body.append(f"sleep {self.pause * chance.randrange(1, 8):.3f}")
            elif kind in ("binary", "file") and f"{word}_blob" not in " ".join(conf):
                data = self._noise(text=kind == "file")
                conf.append(f"ref {word}_blob={word}.blob")
                files[f"scripts/{name.rpartition('/')[0]}/{word}.blob"] = data
                body.append(f'cat "${word}_blob"')
                output += data
            elif kind == "use" and (
                known := [each for each in made if not {f"ref -r {each}", f"out {each}"} & {*conf}]
            ):
                each = chance.choice(known)
                conf.append(f"ref -r {each}")
                body.append(f'cat "${each}"; cksum <"${each}"')
                output += made[each] + cksum(made[each])
            elif kind == "out" and f"{word}_made" not in made:
                made[f"{word}_made"] = b"%s made\n" % name.encode() * chance.randrange(1, self.most // 20)
                count = len(made[f"{word}_made"].splitlines())
                conf.append(f"out {word}_made")
                body.append(f'for ((i = 0; i < {count}; i++)); do echo {name} made; done >"${word}_made"')
        body.append(f'echo "{name} worked" >>{trace}')
        if guard in ("script", "subsystem"):
            part = " part" if guard == "subsystem" else ""
            body = [f"shouldrun{part} || exit", *body, f"setdone{part}"]
        # A mark that is set behind the section is seen in its file, not by its section.
        body.append(f'echo "{name} marked" >>{trace}')
        files[f"scripts/{name}"] = script("\n".join(conf), "\n".join(body))
        return Step(name, side, guard, output)

    def _noise(self, *, text: bool) -> bytes:
        size = self.chance.randrange(1, self.most)
        if text:
            return "".join(self.chance.choices("añ€𝄞 \n\x1e\t", k=size // 2)).encode()
        return bytes(self.chance.choices(NO_BACKSLASH, k=size)) + self.chance.choice([b"", b"\xe2\x82", b"\n", b"\x1e"])


def cksum(data: bytes) -> bytes:
    """Return what the program of that name prints for bytes: POSIX's CRC, and their number."""
    total, length = 0, len(data)
    for byte in [*data, *length.to_bytes((length.bit_length() + 7) // 8, "little")]:
        total = (total << 8 & 0xFFFFFFFF) ^ _TABLE[total >> 24 ^ byte]
    return b"%d %d\n" % (total ^ 0xFFFFFFFF, length)


def _row(index: int) -> int:
    value = index << 24
    for _ in range(8):
        value = value << 1 ^ (0x04C11DB7 if value & 0x80000000 else 0)
    return value & 0xFFFFFFFF


_TABLE = [_row(index) for index in range(256)]


def events_of(out: bytes) -> list[dict[str, Any]]:
    """Return the events of a `--format jsonl`; a line that a killed program did not end is none."""
    lines = out.split(b"\n")[:-1]
    events = [json.loads(line) for line in lines]
    return [event for event in events if "event" in event]


def output_of(events: Iterable[Mapping[str, Any]], host: str) -> bytes:
    """Return the output of a host's steps that the events report, that of earlier sessions too."""
    return b"".join(spelled(event["text"]) for event in outputs(events, host))


def outputs(events: Iterable[Mapping[str, Any]], host: str) -> Iterator[Mapping[str, Any]]:
    """Yield the events with output of a host."""
    yield from (event for event in events if event["event"] == "output" and event["host"] == host)


def spelled(text: str) -> bytes:
    r"""Take back the `\\xNN` of bytes that are no UTF-8; see NO_BACKSLASH."""
    return re.sub(rb"\\x([0-9a-f]{2})", lambda found: bytes([int(found[1], 16)]), text.encode())


def difference(found: bytes, expected: bytes) -> str:
    """Describe where two outputs differ; empty if they do not."""
    if found == expected:
        return ""
    at = next(
        (i for i, (a, b) in enumerate(zip(found, expected, strict=False)) if a != b), min(len(found), len(expected))
    )
    return (
        f"{len(found)} bytes instead of {len(expected)}, other ones from byte {at} on:\n"
        f"  found    {found[max(0, at - 60) : at]!r} | {found[at : at + 120]!r}\n"
        f"  expected {expected[max(0, at - 60) : at]!r} | {expected[at : at + 120]!r}"
    )


# --- hosts


LONG_ENOUGH = 60.0
"""seconds in which everything that was started must have ended by itself"""
MOST_DEPLOYS = 8


class Fleet:
    """Some hosts, and an operator who deploys to them, all as new for each case."""

    def __init__(self, hosts: list[FakeHost], directory: Path) -> None:
        self.hosts = hosts
        self.directory = directory
        directory.mkdir(parents=True, exist_ok=True)
        self._free = directory / "ssh_config"
        self._ways: list[Proxy] = []
        self.reset()

    def reset(self) -> None:
        """Take away what cases before left: processes first."""
        self.assert_quiet()
        for host in self.hosts:
            shutil.rmtree(host.state, ignore_errors=True)
        for each in ("operator", "tree", "traces"):
            shutil.rmtree(self.directory / each, ignore_errors=True)
        self.operator = Operator(self.directory / "operator", self.configure({}))

    def configure(self, ways: Mapping[str, Proxy], *lines: str, alive: int = 1, alive_count: int = 3) -> Path:
        """Write the ssh configuration, with hosts behind proxies where there is one; what is not there is unchanged."""
        parts = []
        self._ways = [*ways.values()]
        for host in self.hosts:
            proxy = ways.get(host.name)
            stanza = through(host, proxy, *lines, alive=alive, alive_count=alive_count) if proxy else host.ssh_config
            parts.append(stanza.read_text())
        self._free.write_text("\n".join(parts))
        return self._free

    def plant(self, plans: Iterable[Plan]) -> Path:
        """Write the tree of some plans."""
        return plant(self.directory / "tree", {name: data for plan in plans for name, data in plan.files.items()})

    def maker(self, chance: random.Random, **how: Any) -> Maker:
        """Return what makes plans."""
        return Maker(chance, self.directory / "traces", **how)

    def names(self, plans: Iterable[Plan]) -> str:
        """Return the hosts of some plans, as `--host` takes them."""
        return ",".join(plan.host for plan in plans)

    def until_done(self, tree: Path, plans: list[Plan], *more: str) -> list[Finished]:
        """Deploy until all is done; return all attempts."""
        done: list[Finished] = []
        while not done or done[-1].status:
            assert len(done) < MOST_DEPLOYS, summary(done)
            done.append(self.operator.deploy(tree, *more, host=self.names(plans)))
            assert done[-1].status in (0, 1, 3), summary(done)
            if done[-1].status:
                self.await_unattended()
        return done

    def await_unattended(self) -> None:
        """Wait until the hosts know that no controller is attached: a black hole may hide that for 60 s."""
        for proxy in self._ways:
            proxy.cut_now("rst")
        wait_until(lambda: not [path for path in self.left() if path.name.startswith("attached.")])

    def lapse(self) -> None:
        """Let the time pass for which killed controllers are expected to come back."""
        for state in [host.state for host in self.hosts] + [self.operator.state]:
            for each in state.glob("**/sessions/*/expected"):
                each.write_text("0.01 20\n")

    def assert_output(self, done: Iterable[Finished], plans: Iterable[Plan]) -> None:
        """All deploys together report the whole output of the steps once."""
        done = list(done)
        events = [event for each in done for event in events_of(each.out)]
        for plan in plans:
            apart = difference(output_of(events, plan.host), plan.output)
            if apart:
                raise AssertionError(f"{plan.host}: {apart}\n{summary(done)}")

    def assert_done(self, plans: Iterable[Plan], *abandoned: str) -> None:
        """Each step of each plan ran once, and nothing is left anywhere but what was `abandoned`."""
        hosts = {host.name: host for host in self.hosts}
        for plan in plans:
            plan.assert_done_once(hosts[plan.host].state, self.operator.state)
        self.assert_quiet()
        self.assert_clean(*abandoned)

    def assert_nothing_to_do(self, tree: Path, plans: list[Plan]) -> None:
        """One more deploy, over a path that works, does nothing and reports no output."""
        self.configure({})
        again = self.operator.deploy(tree, host=self.names(plans))
        repeated = {plan.host: output_of(events_of(again.out), plan.host) for plan in plans}
        if again.status or any(repeated.values()):
            raise AssertionError(
                f"repeated: { {host: data[-200:] for host, data in repeated.items()} }\n{summary([again])}"
            )

    def processes(self) -> list[Process]:
        """Return what still runs, on the hosts and for local steps."""
        found = [process for host in self.hosts for process in host.processes()]
        if not hasattr(self, "operator"):
            return found
        mark = f"RUNSDEPLOY_STATE_DIR={self.operator.state}".encode()
        return found + [process for process in process_table().values() if mark in process.environment()]

    def assert_quiet(self) -> None:
        """Everything that was started comes to its end."""
        deadline = time.monotonic() + LONG_ENOUGH
        while found := self.processes():
            assert time.monotonic() < deadline, [(process, command(process)) for process in found]
            time.sleep(0.02)

    def assert_clean(self, *abandoned: str) -> None:
        """No file of a session that is over is left, but for `abandoned` ones that no other user can read."""
        left = self.left()
        wrong = [path for path in left if path.name not in abandoned]
        assert not wrong, "left: " + " ".join(
            f"{path}{'' if path.is_dir() else path.read_bytes()[:40]}" for path in wrong
        )
        assert all(path.stat().st_mode & 0o077 == 0 or path.parent.stat().st_mode & 0o077 == 0 for path in left), left

    def left(self) -> list[Path]:
        """Return what sessions left that are over: signs of life, payloads, shipped files."""
        states = [host.state for host in self.hosts] + [self.operator.state]
        return sorted(
            path
            for state in states
            for pattern in ("sessions/*/files", "sessions/*/segment*/run", "sessions/*/segment*/payload*",
                            "sessions/*/segment*/attached.*", "sessions/*/segment*/returned",
                            "sessions/*/segment*/ends",
                            "outs/.new.*")
            for path in [*state.glob(pattern), *state.glob(f"hosts/*/{pattern}")]
        )  # fmt: skip


def command(process: Process) -> str:
    """Return the command line of a process."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{process.pid}/cmdline").read_bytes().replace(b"\0", b" ").decode("utf-8", "replace")[:200]
    return "gone"


_WELL = (None, "ok", "already-done")


def summary(done: Iterable[Finished]) -> str:
    """Return the messages of some deploys: no output, no successes."""
    parts = []
    for number, each in enumerate(done):
        lines = [f"--- deploy {number}: status {each.status}", *each.talk.splitlines()[-5:]]
        lines += [
            " ".join(str(value) for value in event.values())[:300]
            for event in events_of(each.out)
            if event["event"] in ("note", "earlier", "host") or event.get("outcome") not in _WELL
        ]
        with contextlib.suppress(ValueError, IndexError, KeyError):  # it was killed
            lines += [f"{host['host']}: {host['outcome']} {host.get('message')}" for host in each.document["hosts"]]
        parts.append("\n".join(lines))
    return "\n".join(parts)
