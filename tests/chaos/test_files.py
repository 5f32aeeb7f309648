"""Files that flow both ways, while controllers, runners and steps are killed and connections are cut.

A file's bytes are never output of a step, no file stays anywhere when all is over, and nothing is done twice.
"""

from __future__ import annotations

import contextlib
import signal
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.chaos.plans import Fleet, chance_of, difference, events_of, output_of, sized, summary
from tests.chaos.proxy import Fault, Proxy
from tests.chaos.test_kills import assert_honest, strike, without_repeats
from tests.sshd import FakeHost
from tests.trees import wait

pytestmark = pytest.mark.timeout(600)

PATIENCE = "10"
KINDS = ("controller", "controller", "cut", "runner", "step", "both")
"""what a round kills or cuts"""


@pytest.fixture(scope="module")
def hosts(tmp_path_factory):
    """One real sshd for all cases here."""
    with FakeHost("h0.univ.run", tmp_path_factory.mktemp("hosts") / "h0") as host:
        yield [host]


@pytest.fixture
def fleet(hosts, tmp_path):
    """That host, as new."""
    fleet = Fleet(hosts, tmp_path / "fleet")
    yield fleet
    fleet.assert_quiet()


def cuts(chance):
    """Return faults of some connections, mostly behind the upload, where files come back."""
    return [
        Fault(direction, chance.randrange(1_000, 150_000), chance.choice(["rst", "fin"]), connection)
        for connection, direction in enumerate(chance.choices(["up", "down"], k=chance.choice([2, 3, 4])))
    ]


def disturbed(fleet, tree, plan, chance, kind):
    """Deploy once, and let something of a kind happen to it."""
    arguments = fleet.operator.deploy_arguments(tree, "--patience", PATIENCE, host=plan.host)
    with contextlib.ExitStack() as stack:
        proxy = stack.enter_context(Proxy(fleet.hosts[0].port, *(cuts(chance) if kind == "cut" else [])))
        fleet.configure({plan.host: proxy}, "ConnectTimeout 4")
        process = stack.enter_context(fleet.operator.start(*arguments))
        timer = threading.Timer(chance.uniform(0.4, 3), process.kill if kind == "controller" else lambda: None)
        timer.start()
        with ThreadPoolExecutor() as pool:
            result = pool.submit(wait, process)
            if kind in ("runner", "step", "both"):
                strike(fleet.hosts[0], kind, plan, len(plan.traced()) + chance.randrange(1, 5), process)
            done = result.result()
        timer.cancel()
        timer.join()
        # Until the target knows that no controller is attached, the next deploy finds it locked.
        fleet.await_unattended()
    fleet.configure({})
    return done


@pytest.mark.parametrize("case", range(sized(3, 64)))
def test_t3_r7_r8_r17_files_both_ways_through_kills_and_cuts(fleet, case):
    """D2, D3, D4: each step once, each byte of output once, and then no file anywhere."""
    chance = chance_of(f"files-{case}")
    maker = fleet.maker(chance, most=chance.choice([20_000, 400_000]), pause=0.01)
    kinds = [chance.choice(KINDS) for _ in range(chance.choice([1, 2, 3]))]
    plan = maker.make("h0", 8, chance.choices(["target", "controller"], k=8))
    tree = fleet.plant([plan])
    done = []
    for kind in kinds:
        done.append(disturbed(fleet, tree, plan, chance, kind))
        print(kind, done[-1].status)
        if kind in ("runner", "step", "both"):
            assert_honest(fleet, plan, fleet.hosts[0], done[-1])
        else:
            assert done[-1].status in (0, 3, -signal.SIGKILL), summary(done)
    done += fleet.until_done(tree, [plan], "--patience", PATIENCE)
    if set(kinds) <= {"controller", "cut"}:
        found, _ = without_repeats(done, plan)
        apart = difference(found, plan.output)
        assert not apart, f"{apart}\n{summary(done)}"
        plan.assert_done_once(fleet.hosts[0].state, fleet.operator.state)
    else:
        # What a killed step said is there too; but no line more than its runs can have said.
        for name, times in plan.runs().items():
            assert 1 <= times <= 1 + len(kinds), (name, times)
            (step,) = (each for each in plan.steps if each.name == name)
            made = b"\n".join(output_of(events_of(each.out), plan.host) for each in done).count(
                b"%s made\n" % name.encode()
            )
            allowed = b"".join(each.output * (plan.runs()[each.name] + len(kinds)) for each in plan.steps)
            assert made <= allowed.count(b"%s made\n" % name.encode()), step
    fleet.assert_quiet()
    fleet.lapse()
    fleet.assert_nothing_to_do(tree, [plan])
    fleet.assert_quiet()
    fleet.assert_clean()
    # (A copy of the ssh configuration may stay, which has no secrets.)
    assert [path for path in fleet.operator.temporary.iterdir() if path.is_dir()] == []
