"""Files that go both ways while something is killed or the link is cut.

Each line of each file has a word of this run, so wherever a file ends up, in an output or on a disk, it is found.
"""

from __future__ import annotations

import os
import signal
import threading
from collections import Counter
from pathlib import Path

import pytest

from tests.chaos.plans import Fleet, Plan, Step, chance_of, cksum, events_of, output_of, sized, summary
from tests.chaos.proxy import Fault, Proxy
from tests.chaos.test_kills import victims
from tests.sshd import FakeHost
from tests.trees import plant, script, wait

pytestmark = pytest.mark.timeout(600)  # a slow machine, with others at work on it

PATIENCE = "10"
SIZE = 200_000
"""about the bytes of each file"""
MOST_DEPLOYS = 5
"""deploys after the one that was struck, until one succeeds"""
SAYS = 6
"""lines that each step prints, with a pause behind each"""


@pytest.fixture(scope="module")
def host(tmp_path_factory):
    """One real sshd, whose commands have a TMPDIR of their own."""
    with FakeHost("h0.univ.run", tmp_path_factory.mktemp("hosts") / "h0") as host:
        temporary = host.directory / "tmp"
        temporary.mkdir()
        (host.home / ".bashrc").write_text(f"export TMPDIR={temporary}\n")
        yield host


@pytest.fixture
def fleet(host, tmp_path):
    """That host, as new."""
    fleet = Fleet([host], tmp_path / "fleet")
    yield fleet
    fleet.assert_quiet()


class Case:
    """The tree of one round, and what is to be found in the end."""

    def __init__(self, fleet, chance):
        self.word = f"word{chance.getrandbits(64):016x}"
        self.password = f"password{chance.getrandbits(64):016x}"
        self.section = f"section{chance.getrandbits(64):016x}"
        text = self.lines(chance, SIZE)
        folder = {f"f{n}": self.lines(chance, 2_000) for n in range(20)}
        self.outs = {
            name: b"".join(b"%s-%s\n" % (name.encode(), line) for line in text.splitlines())
            for name in ("o1", "o2", "o3")
        }
        trace = fleet.directory / "traces" / "h0"
        trace.parent.mkdir(parents=True, exist_ok=True)
        sums = {name: cksum(data) for name, data in self.outs.items()}
        bodies = {
            "a": (
                "ref text=a.txt; ref folder=a.d; out o1",
                'cksum <"$text"; cat "$folder"/f* | cksum; sed "s/^/o1-/" <"$text" >"$o1"',
                cksum(text) + cksum(b"".join(folder[name] for name in sorted(folder))),
            ),
            "b": ("conf local; ref -r o1; out o2", 'cksum <"$o1"; sed "s/^o1/o2/" <"$o1" >"$o2"', sums["o1"]),
            "c": (
                f"ref -r o2; out o3; var password={self.password}",
                'cksum <"$o2"; printf %s "$password" | cksum; sed "s/^o2/o3/" <"$o2" >"$o3"',
                sums["o2"] + cksum(self.password.encode()),
            ),
            "d": ("conf local; ref -r o3", 'cksum <"$o3"', sums["o3"]),
            "e": ("", ":", b""),
        }
        files = {"scripts/a.txt": text, **{f"scripts/a.d/{name}": data for name, data in folder.items()}}
        steps = []
        for name, (conf, body, printed) in bodies.items():
            said = "".join(f"{name} says {n}\n" for n in range(SAYS)).encode()
            sums_said = b"".join(b"%s: %s\n" % (name.encode(), line) for line in printed.splitlines())
            lines = [
                "set -o pipefail",
                "shouldrun || exit",
                f"# {self.section}",
                f'echo "{name} begin" >>{trace}',
                f"for ((i = 0; i < {SAYS}; i++)); do echo {name} says $i; sleep 0.03; done",
                f'{{ {body}; }} | sed "s/^/{name}: /"',
                f'echo "{name} worked" >>{trace}',
                "setdone",
                f'echo "{name} marked" >>{trace}',
            ]
            files[f"scripts/{name}"] = script(conf, "\n".join(lines))
            side = "controller" if "local" in conf else "target"
            steps.append(Step(name, side, "script", said + sums_said))
        files["univ.run/h0/default"] = "".join(f"{step.name}\n" for step in steps)
        self.plan = Plan("h0.univ.run", tuple(steps), files, trace)
        self.tree = plant(fleet.directory / "tree", files)

    def lines(self, chance, size):
        """Return lines that have the word of this run, and do not compress well."""
        return b"".join(b"%s %064x\n" % (self.word.encode(), chance.getrandbits(256)) for _ in range(size // 86))

    def faults(self, chance):
        """Return where the first connections break: as many bytes as the files have, both ways."""
        faults = []
        for connection in range(chance.choice([1, 1, 2, 4])):
            direction = chance.choice(["up", "down"])
            at = chance.randrange(SIZE * 5 // 4 if chance.random() < 0.7 else 12_000)
            mode = chance.choice(["rst", "rst", "rst", "hole"])
            faults.append(Fault(direction, at, mode, connection))
        return faults

    def secrets(self):
        return [each.encode() for each in (self.word, self.password, self.section)]

    def found_below(self, *places, kept=()):
        """Return the files that hold a secret, with what stands around it."""
        found = []
        for path in (path for place in places for path in sorted(place.rglob("*"))):
            if any(path.is_relative_to(each) for each in kept) or path.is_symlink() or not path.is_file():
                continue
            data = path.read_bytes()
            found += [
                f"{path}: {data[max(0, at - 20) : at + 60]!r}" for s in self.secrets() if (at := data.find(s)) >= 0
            ]
        return found


def strike(chance, kind, host, process):
    """Kill once at a random time, if it still runs; return how many were killed."""
    stop = threading.Event()
    timer = threading.Timer(seconds := chance.uniform(0.2, 3), stop.set)
    timer.start()
    while not stop.is_set() and process.poll() is None:
        stop.wait(0.01)
    timer.cancel()
    hit = []
    if kind == "controller":
        process.kill()
        return f"controller after {seconds:.3f} s"
    while not hit and process.poll() is None:
        hit = victims(host, kind)
        for each in hit:
            each.signal(signal.SIGKILL)
    return f"{[each.name for each in hit]} after {seconds:.3f} s"


def pass_time(fleet):
    """Make the time run out for which the controller of a session between two segments is expected to come back."""
    for state in (fleet.hosts[0].state, fleet.operator.state):
        for path in state.rglob("sessions/*/expected"):
            path.write_text("0.00 0\n")


def elsewhere():
    """Return the directories in which a session may have run that could not write its state."""
    parents = ("/dev/shm", "/run", "/tmp")  # noqa: S108 - where bootstrap.sh looks
    return [path for parent in parents for path in Path(parent).glob(f"runsdeploy*{os.geteuid()}")]


@pytest.mark.parametrize("case", range(sized(2, 60)))
def test_r7_r8_r9_s14_files_both_ways_arrive_whole_are_never_shown_and_leave_nothing(fleet, host, case):
    """D2, D3, D4, D9: the controller, the runner or a step is killed, or the link is cut, while files travel."""
    chance = chance_of(f"files-{case}")
    made = Case(fleet, chance)
    plan = made.plan
    kind = chance.choice(["controller", "runner", "step", "cut", "cut"])
    faults = made.faults(chance) if kind == "cut" else []
    print(kind, *faults, sep="\n  ")
    words = ("--patience", PATIENCE)
    done = []
    with Proxy(host.port, *faults) as proxy:
        fleet.configure({plan.host: proxy}, "ConnectTimeout 4")
        with fleet.operator.start(*fleet.operator.deploy_arguments(made.tree, *words, host=plan.host)) as process:
            if kind != "cut":
                # What it prints is less than a pipe holds.
                print(strike(chance, kind, host, process))
            done.append(wait(process))
        while done[-1].status:
            assert len(done) <= MOST_DEPLOYS, summary(done)
            assert done[-1].status in (1, 3, -signal.SIGKILL), summary(done)
            fleet.await_unattended()
            done.append(fleet.operator.deploy(made.tree, *words, host=plan.host))
        print(f"{proxy.cuts} cuts, {len(done)} deploys", [(each.up, each.down, each.cut) for each in proxy.connections])
        fleet.await_unattended()
        pass_time(fleet)
    fleet.configure({})
    last = fleet.operator.deploy(made.tree, host=plan.host)
    assert last.status == 0, summary([*done, last])
    assert {outcome for _, outcome in last.outcomes} == {"already-done"}, summary([last])
    done.append(last)

    # What ran, and how often.
    if kind in ("controller", "cut"):
        plan.assert_done_once(host.state, fleet.operator.state)
    runs = plan.runs()
    assert all(plan.markers(host.state, fleet.operator.state).values())
    for name, count in runs.items():
        assert 1 <= count <= 2, (name, plan.traced())
        assert plan.traced().count((name, "marked")) <= 1, (name, plan.traced())

    # What was shown: the sums of the files among it, and nothing of the files.
    shown = Counter(
        line for each in done for line in output_of(events_of(each.out), plan.host).decode("utf-8").splitlines()
    )
    for step in plan.steps:
        for line in step.output.decode().splitlines():
            assert shown[line] >= 1, f"lost: {line}\n{summary(done)}"
            if kind != "controller" and runs[step.name] == 1:
                assert shown[line] == 1, f"{shown[line]} times: {line}\n{summary(done)}"
    for number, each in enumerate(done):
        for secret in made.secrets():
            assert secret not in each.out, (
                f"deploy {number} shows {secret!r}: {each.out[each.out.find(secret) - 200 :][:400]!r}"
            )
            assert secret.decode() not in each.talk, f"deploy {number}: {each.talk[-400:]}"

    # What is left.
    fleet.assert_quiet()
    fleet.assert_clean()
    kept = [host.state / "outs", fleet.operator.state / "hosts" / plan.host / "outs"]
    outs = {path.name: path.read_bytes() for place in kept for path in place.rglob("*") if path.is_file()}
    assert outs.keys() == made.outs.keys()
    assert all(outs[name] == data for name, data in made.outs.items()), "a kept file is not what its step made"
    places = [host.state, host.home, host.directory / "tmp", fleet.operator.directory, *elsewhere()]
    assert made.found_below(*places, kept=kept) == []
    assert list((host.directory / "tmp").iterdir()) == []
    # A killed controller leaves its directory (0700), without a byte of these files: see above.
    assert kind == "controller" or list(fleet.operator.temporary.iterdir()) == []
