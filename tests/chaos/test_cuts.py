"""Connections that are cut: at random, at each phase of the protocol, and again and again.

The proxies stand between real ssh and a real sshd. What is asserted is always the same: each step ran exactly once,
the whole output of the steps was shown once, each step is marked, and no file is left.
"""

from __future__ import annotations

import contextlib
import shutil
import signal
import socket
import time

import pytest

from tests.chaos.plans import Fleet, chance_of, cksum, events_of, output_of, sized, summary
from tests.chaos.proxy import Fault, Proxy, through
from tests.sshd import FakeHost
from tests.trees import Executable, plant, script, wait, wait_until

pytestmark = pytest.mark.timeout(600)  # a slow machine, with others at work on it

HOSTS = 4
LINES = ("ConnectTimeout 4",)


@pytest.fixture(scope="module")
def hosts(tmp_path_factory):
    """Some real sshds for all cases here."""
    with contextlib.ExitStack() as stack:
        place = tmp_path_factory.mktemp("hosts")
        yield [stack.enter_context(FakeHost(f"h{n}.univ.run", place / f"h{n}")) for n in range(HOSTS)]


@pytest.fixture
def fleet(hosts, tmp_path):
    """Those hosts, as new."""
    fleet = Fleet(hosts, tmp_path / "fleet")
    yield fleet
    fleet.assert_quiet()


def random_faults(chance, plan):
    """Return what goes wrong with the first connections to a host: mostly where its bytes are, seldom nowhere."""
    segments = 1 + sum(a.side != b.side for a, b in zip(plan.steps, plan.steps[1:], strict=False))
    most = {"up": 8_000 + 12_000 * segments, "down": 6_000 + len(plan.output) + 2_000 * segments}
    faults = []
    for connection in range(chance.choice([1, 2, 3, 4])):
        direction = chance.choice(["up", "down"])
        at = chance.randrange(most[direction] if chance.random() < 0.7 else 8_000)
        mode = chance.choice(["rst", "rst", "rst", "fin", "fin", "hole", "throttle"])
        rate = {"rate": chance.choice([3e4, 1e5, 1e6])} if mode == "throttle" else {}
        refuse = {} if rate else {"refuse_after": chance.choice([0, 0, 0, 1, 2])}
        faults.append(Fault(direction, at, mode, connection, **rate, **refuse))
    return faults


@pytest.mark.parametrize("case", range(sized(6, 100)))
def test_t1_r2_r3_r6_r7_random_cuts_lose_nothing_and_repeat_nothing(fleet, case):
    chance = chance_of(f"cuts-{case}")
    maker = fleet.maker(chance)
    plans = [maker.make(f"h{n}", 10) for n in range(HOSTS)]
    tree = fleet.plant(plans)
    with contextlib.ExitStack() as stack:
        ways = {}
        for plan, host in zip(plans, fleet.hosts, strict=True):
            faults = random_faults(chance, plan)
            print(plan.host, [(step.side, step.guard, len(step.output)) for step in plan.steps], *faults, sep="\n  ")
            ways[plan.host] = stack.enter_context(Proxy(host.port, *faults))
        fleet.configure(ways, *LINES)
        done = fleet.until_done(tree, plans)
        cuts = sum(proxy.cuts for proxy in ways.values())
        told_ways = {
            name: [(each.up, each.down, each.cut) for each in proxy.connections] for name, proxy in ways.items()
        }
        print(f"{cuts} cuts, {len(done)} deploys, {told_ways}")
    fleet.assert_output(done, plans)
    fleet.assert_done(plans)
    fleet.assert_nothing_to_do(tree, plans)


# --- T2: each phase of the protocol, one offset after the other


SMALL = ("target", "target", "controller", "target")
"""sides of the steps of the plan that is swept over"""
CHAIN = 5
"""cuts in one deploy: as long as a segment is not known to have begun, each new connection begins as the first did"""


@pytest.fixture(scope="module")
def uncut(hosts, tmp_path_factory):
    """What a connection carries that nothing happens to, up and down, and how much of it down is the login."""
    fleet = Fleet(hosts, tmp_path_factory.mktemp("uncut"))
    plan = small_plan(fleet, "h0")
    with Proxy(hosts[0].port) as proxy:
        fleet.configure({plan.host: proxy})
        fleet.assert_output(fleet.until_done(fleet.plant([plan]), [plan]), [plan])
        carried = proxy.connections[0]
    with Proxy(hosts[0].port, Fault("up", 6_000, "fin", None)) as proxy:
        # By then the login is over, and the program is on its way, which sends nothing before it is complete.
        fleet.configure({plan.host: proxy})
        fleet.operator.deploy(fleet.directory / "tree", "--patience", "0.1", host=plan.host)
        login = proxy.connections[0].down
    fleet.assert_quiet()
    print(f"uncut: {carried.up} up, {carried.down} down, of which {login} for the login")
    assert login < carried.down
    return carried.up, carried.down, login


def small_plan(fleet, host):
    """Return a plan of a few steps, the same for each host but for its name."""
    maker = fleet.maker(chance_of("small plan", seed=1), pause=0.01, most=3_000)
    return maker.make(host, len(SMALL), SMALL)


def sweep(fleet, chains):
    """Deploy the small plan to all hosts, each behind a proxy with a chain of cuts, until it is done."""
    plans = [small_plan(fleet, f"h{n}") for n in range(HOSTS)]
    tree = fleet.plant(plans)
    with contextlib.ExitStack() as stack:
        ways = {}
        for plan, host, chain in zip(plans, fleet.hosts, chains, strict=True):
            print(plan.host, [(fault.direction, fault.at, fault.mode) for fault in chain])
            ways[plan.host] = stack.enter_context(Proxy(host.port, *chain))
        fleet.configure(ways, *LINES)
        done = fleet.until_done(tree, plans)
        print({name: [(each.up, each.down, each.cut) for each in proxy.connections] for name, proxy in ways.items()})
    fleet.assert_output(done, plans)
    fleet.assert_done(plans)
    fleet.assert_nothing_to_do(tree, plans)


def chained(chance, offsets, direction):
    """Hand offsets out to the hosts, in chains of cuts of one connection after the other."""
    offsets = sorted(offsets)
    chains = [offsets[n::HOSTS] for n in range(HOSTS)]
    return [
        [Fault(direction, at, chance.choice(["rst", "fin"]), connection) for connection, at in enumerate(chain)]
        for chain in chains
    ]


@pytest.mark.parametrize("part", range(sized(2, 60)))
def test_t2_r2_r3_a_sweep_of_cuts_through_login_upload_and_answer(fleet, uncut, part):
    """Each 1 KiB of the upload, more of them at its end, where it is not known whether the session began."""
    chance = chance_of(f"upload-{part}")
    up, _, _ = uncut
    count = HOSTS * CHAIN // 2
    bulk = [min(up - 1, chance.randrange(1024) + 1024 * chance.randrange(up // 1024)) for _ in range(count)]
    around = [chance.randrange(max(0, up - 4096), up) for _ in range(count)]
    sweep(fleet, chained(chance, bulk + around, "up"))


@pytest.mark.parametrize("part", range(sized(2, 60)))
def test_t2_r3_r6_a_sweep_of_cuts_through_the_bytes_of_the_target(fleet, uncut, part):
    """From the login on to the last 512 bytes; each new connection is cut again in the rest."""
    chance = chance_of(f"answers-{part}")
    _, down, login = uncut
    chains = []
    for n in range(HOSTS):
        first = chance.randrange(login, down) if n % 2 else chance.randrange(down - 512, down)
        later = [login + chance.randrange(600) for _ in range(CHAIN - 1)]
        chains.append(
            [Fault("down", at, chance.choice(["rst", "fin"]), each) for each, at in enumerate([first, *later])]
        )
    sweep(fleet, chains)


def test_r7_returned_files_are_whole_however_often_the_connection_is_cut(fleet):
    """A file that one side makes for the other is big, and the link dies again and again while it travels."""
    chance = chance_of("files")
    size = 120_000
    files, plans, expected = {}, [], {}
    for n in range(HOSTS):
        maker = fleet.maker(chance)
        data = bytes(chance.choices(range(256), k=size))
        plan = maker.make(f"h{n}", 0, [])
        files |= {
            f"scripts/h{n}/make": script(
                "ref blob=h.blob; out there", 'shouldrun || exit\ncat "$blob" >"$there"\nsetdone'
            ),
            f"scripts/h{n}/h.blob": data,
            f"scripts/h{n}/near": script(
                "conf local; ref -r there; out back", 'shouldrun || exit\ncksum <"$there"; cp "$there" "$back"\nsetdone'
            ),
            f"scripts/h{n}/far": script("ref -r back", 'shouldrun || exit\ncksum <"$back"\nsetdone'),
            f"univ.run/h{n}/default": f"h{n}/make\nh{n}/near\nh{n}/far\n",
        }
        plans.append(plan)
        expected[plan.host] = cksum(data) * 2
    tree = plant(fleet.directory / "tree", files)
    with contextlib.ExitStack() as stack:
        ways = {}
        for plan, host in zip(plans, fleet.hosts, strict=True):
            # down: the file comes; up: first it goes as a part of the tree, and much later again
            down = [
                Fault("down", 3_000 + chance.randrange(size // 3), chance.choice(["rst", "fin"]), c) for c in range(4)
            ]
            up = [Fault("up", 8_000 + chance.randrange(size), chance.choice(["rst", "fin"]), c) for c in range(4, 7)]
            print(plan.host, *((fault.direction, fault.at, fault.mode) for fault in down + up))
            ways[plan.host] = stack.enter_context(Proxy(host.port, *down, *up))
        fleet.configure(ways, *LINES)
        done = fleet.until_done(tree, plans)
        cuts = sum(proxy.cuts for proxy in ways.values())
        print(f"{cuts} cuts", summary(done))
    events = [event for each in done for event in events_of(each.out)]
    assert {plan.host: output_of(events, plan.host) for plan in plans} == expected, summary(done)
    assert cuts >= 2 * HOSTS
    fleet.assert_quiet()
    fleet.assert_clean()
    # Nor is a half of one left where the controller puts them.
    assert list(fleet.operator.temporary.iterdir()) == []


# --- R1, R4, R5: before it begins, while it talks, while it is silent


def test_r1_what_breaks_before_the_login_is_unreachable_and_touches_nothing(fleet):
    """Cuts in the first 1,300 bytes of each connection (a login takes 1,500), a closed port, a silent one."""
    chance = chance_of("first")
    host, other = fleet.hosts[0], fleet.hosts[1]
    plan = small_plan(fleet, "h1")
    tree = fleet.plant([plan])
    config = [other.ssh_config.read_text()]
    names = []
    with contextlib.ExitStack() as stack:
        for number in range(sized(12, 50)):
            fault = Fault(chance.choice(["up", "down"]), chance.randrange(1_300), chance.choice(["rst", "fin"]), None)
            proxy = stack.enter_context(Proxy(host.port, fault))
            names.append(f"r{number}.univ.run")
            print(names[-1], fault.direction, fault.at, fault.mode)
            config.append(through(host, proxy, *LINES).read_text().replace(host.name, names[-1]))
        for name, listens in (("closed.univ.run", False), ("silent.univ.run", True)):
            link = stack.enter_context(socket.socket())
            link.bind(("127.0.0.1", 0))
            if listens:
                link.listen()
            names.append(name)
            config.append(f"Host {name}\n    Port {link.getsockname()[1]}\n    ConnectTimeout 3\n")
            config.append(host.stanza().replace(host.name, name))
        fleet.operator.ssh_config.write_text("\n".join(config))
        recipes = {f"univ.run/{name.partition('.')[0]}/default": "h1/s0\n" for name in names}
        plant(tree, {**recipes, "scripts/h1/s0": tree.joinpath("scripts/h1/s0").read_bytes()})
        began = time.monotonic()
        done = fleet.operator.deploy(tree, "--parallel", "60", host=",".join([*names, plan.host]))
        took = time.monotonic() - began
    assert done.status == 3, summary([done])
    assert done.hosts == dict.fromkeys(names, "unreachable") | {plan.host: "ok"}, summary([done])
    assert all(host["message"] for host in done.document["hosts"] if host["outcome"] == "unreachable")
    assert not host.state.exists()
    assert took < 60
    fleet.assert_output([done], [plan])
    fleet.assert_done([plan])


def cutting_plan(fleet, body):
    """Return a plan of one step on the first host, with a body of our own between guard and mark."""
    plan = fleet.maker(chance_of("one step", seed=1)).make("h0", 0, [])
    trace = [f'echo "h0/s0 {word}" >>{plan.trace}' for word in ("begin", "worked", "marked")]
    lines = ["shouldrun || exit", trace[0], body, trace[1], "setdone", trace[2]]
    files = {"scripts/h0/s0": script("", "\n".join(lines)), "univ.run/h0/default": "h0/s0\n"}
    return plan, plant(fleet.directory / "tree", files)


def test_r4_a_chatty_script_is_shown_in_full_through_a_cut_each_fifth_of_a_second(fleet):
    count, cuts, go = sized(60, 100), 3, fleet.directory / "go"
    body = f"i=0; until ((i >= {count})) && [[ -e {go} ]]; do echo line $i; echo err $i >&2; sleep 0.05; ((++i)); done"
    plan, tree = cutting_plan(fleet, f"{body}; echo $i >{go}")
    with Proxy(fleet.hosts[0].port) as proxy:
        fleet.configure({plan.host: proxy}, *LINES)
        with fleet.operator.start(*fleet.operator.deploy_arguments(tree, host=plan.host)) as process:
            wait_until(plan.traced)
            while ("h0/s0", "worked") not in plan.traced():
                time.sleep(0.2)
                proxy.cut_now("rst")
                if proxy.cuts >= cuts:
                    go.touch()
            done = wait(process)
        print(f"{proxy.cuts} cuts in {len(proxy.connections)} connections")
    assert done.status == 0, summary([done])
    lines = int(go.read_text())
    assert done.output == "".join(f"line {i}\nerr {i}\n" for i in range(lines)), summary([done])
    assert plan.traced() == [("h0/s0", "begin"), ("h0/s0", "worked"), ("h0/s0", "marked")]


SLOW = {
    "flock": """\
#!/bin/sh
{program} "$@" || exit
if [ "$*" = "-n 8" ] && mkdir "{place}/slow" 2>/dev/null; then sleep 3; fi
""",
    "tar": """\
#!/bin/sh
if mkdir "{place}/slow" 2>/dev/null; then until [ -e "{place}/go" ]; do sleep 0.02; done; fi
exec {program} "$@"
""",
}
"""programs that hold up what starts a session, once: as it claims it, and before it runs"""


@pytest.mark.parametrize("name", SLOW)
def test_r3_r8_a_session_that_is_sent_again_while_it_starts_slowly_is_only_followed_and_leaves_nothing(fleet, name):
    """The connection breaks when all is sent, and the target is slow just then."""
    host, place = fleet.hosts[0], fleet.directory
    plan, tree = cutting_plan(fleet, "echo said")
    text = SLOW[name].format(program=shutil.which(name), place=place)
    programs = plant(place / "bin", {name: Executable(text)})
    (host.home / ".bashrc").write_text(f"PATH={programs}:$PATH\n")
    try:
        with Proxy(host.port) as proxy:
            fleet.configure({plan.host: proxy}, *LINES)
            with fleet.operator.start(*fleet.operator.deploy_arguments(tree, host=plan.host)) as process:
                wait_until((place / "slow").exists)
                if name == "tar":
                    # It is over when the connection breaks, which had not brought its events.
                    host.freeze()
                    (place / "go").touch()
                    wait_until(lambda: [*host.state.glob("sessions/*/segment0/finished")])
                proxy.cut_now("rst")
                done = wait(process)
    finally:
        (host.home / ".bashrc").unlink()
        for each in host.processes():
            each.signal(signal.SIGCONT)
    assert done.status == 0, summary([done])
    assert done.output == "said\n"
    assert plan.traced() == [("h0/s0", "begin"), ("h0/s0", "worked"), ("h0/s0", "marked")]
    fleet.assert_quiet()
    fleet.assert_clean()


def test_r5_t30_a_black_hole_is_noticed_and_left(fleet):
    """A silent script behind a link that is dead both ways without saying so."""
    noticed, back = [], []
    for attempt in range(sized(1, 20)):
        fleet.reset()
        plan, tree = cutting_plan(fleet, "echo before; while [[ ! -e $0.go ]]; do sleep 0.1; done; echo behind")
        with Proxy(fleet.hosts[0].port) as proxy:
            fleet.configure({plan.host: proxy}, *LINES, alive=1, alive_count=2)
            with fleet.operator.start(*fleet.operator.deploy_arguments(tree, host=plan.host)) as process:
                wait_until(lambda plan=plan: plan.traced())
                proxy.cut_now("hole")
                began = time.monotonic()
                lines = []
                for line in process.stdout:
                    lines.append(line)
                    if b'"note"' in line and b"connecting again" in line:
                        noticed.append(time.monotonic() - began)
                    elif b"connected again" in line:
                        back.append(time.monotonic() - began - noticed[-1])
                        for place in fleet.hosts[0].state.glob("sessions/*/files/tree0/scripts/h0/s0"):
                            place.with_name("s0.go").touch()
                    elif b'"schema"' in line:
                        break
                assert process.wait(60) == 0
        events = events_of(b"".join(lines))
        assert output_of(events, plan.host) == b"before\nbehind\n"
        assert plan.traced() == [("h0/s0", "begin"), ("h0/s0", "worked"), ("h0/s0", "marked")], attempt
    print(f"noticed after {noticed}, back after {back} more seconds")
    assert len(noticed) == len(back) == sized(1, 20)
    assert max(noticed) < 60
