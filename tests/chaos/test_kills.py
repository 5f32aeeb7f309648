"""Processes that are killed: the controller at any time, and on the target whatever there is to kill.

The traces have what the steps did; the events of all deploys together have what was reported.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests import sshd
from tests.chaos.plans import Fleet, chance_of, difference, events_of, output_of, outputs, sized, spelled, summary
from tests.sshd import FakeHost, process_table
from tests.trees import Executable, Operator, plant, script, wait, wait_until

pytestmark = pytest.mark.timeout(600)  # a slow machine, with others at work on it

PATIENCE = "10"


@pytest.fixture(scope="module")
def hosts(tmp_path_factory):
    """Two real sshds for all cases here."""
    with contextlib.ExitStack() as stack:
        place = tmp_path_factory.mktemp("hosts")
        yield [stack.enter_context(FakeHost(f"h{n}.univ.run", place / f"h{n}")) for n in range(2)]


@pytest.fixture
def fleet(hosts, tmp_path):
    """Those hosts, as new."""
    fleet = Fleet(hosts, tmp_path / "fleet")
    yield fleet
    fleet.assert_quiet()


def killed_after(fleet, tree, plans, seconds, *more):
    """Start a deploy, kill it after a while if it still runs, and return its events until then."""
    process = fleet.operator.start(*fleet.operator.deploy_arguments(tree, *more, host=fleet.names(plans)))
    timer = threading.Timer(seconds, process.kill)
    timer.start()
    with process:
        done = wait(process)
    timer.cancel()
    timer.join()
    # Until the target knows that no controller is attached, the next deploy finds it locked.
    fleet.await_unattended()
    return done


def without_repeats(done, plan):
    """Return the reported output of a host, and the parts that were reported twice.

    Output that a killed deploy had shown but not acknowledged is shown once more by the next one.
    """
    whole, repeated = b"", []
    for each in done:
        events = outputs(events_of(each.out), plan.host)
        for session, group in itertools.groupby(events, key=lambda event: event.get("earlier")):
            data = b"".join(spelled(event["text"]) for event in group)
            if session and not plan.output.startswith(whole + data):
                shared = next((n for n in range(min(len(whole), len(data)), 0, -1) if whole.endswith(data[:n])), 0)
                repeated.append(data[:shared])
                data = data[shared:]
            whole += data
    return whole, repeated


# --- T3, R9, R41: the controller


@pytest.mark.parametrize("case", range(sized(5, 70)))
def test_t3_r9_r41_a_controller_that_is_killed_loses_nothing_and_repeats_no_step(fleet, case):
    """Two hosts with local steps between; killed at random, again and again, from planning to the last segment."""
    chance = chance_of(f"controllers-{case}")
    maker = fleet.maker(chance)
    plans = [maker.make(f"h{n}", 6) for n in range(2)]
    tree = fleet.plant(plans)
    done = []
    for _ in range(3):
        seconds = chance.choice([chance.uniform(0, 0.5), chance.uniform(0.4, 2), chance.uniform(0.4, 2)])
        print(f"killed after {seconds:.3f} s")
        done.append(killed_after(fleet, tree, plans, seconds, "--patience", PATIENCE))
        assert done[-1].status in (0, 3, -signal.SIGKILL), summary(done)
    done += fleet.until_done(tree, plans, "--patience", PATIENCE)
    for plan in plans:
        found, repeated = without_repeats(done, plan)
        for each in repeated:
            print(f"{plan.host}: reported twice, {len(each)} bytes in {len(each.splitlines())} lines: {each[:60]!r}")
        apart = difference(found, plan.output)
        assert not apart, f"{plan.host}: {apart}\n{summary(done)}"
    fleet.assert_done(plans, "files", "returned")
    # Between two segments the target expects the controller back for a while; then the next session removes the files.
    fleet.lapse()
    fleet.assert_nothing_to_do(tree, plans)
    fleet.assert_quiet()
    fleet.assert_clean()


# --- T4, R13, R11: the target


VICTIMS = ("step", "runner", "both", "relay", "follower", "bootstrap")
HELPERS = 3
"""children of a bootstrap that follows: what follows the spool, waits for the runner, reads the controller's lines"""


def segments(host):
    """Return the segments of a host that have a runner which is not over."""
    return [
        path
        for path in host.state.glob("sessions/*/segment*")
        if (path / "pid").exists() and not (path / "finished").exists()
    ]


def number_in(path, word=0):
    """Return the process id that is a word of a file; 0 if there is none now."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        return int(path.read_text().split()[word])
    return 0


def victims(host, kind):
    """Return the processes of a kind that run on a host now."""
    table = process_table()
    ours = {process.pid: process for process in host.processes()}
    found = []
    for segment in segments(host):
        runner = ours.get(number_in(segment / "pid"))
        group = number_in(segment / "group")
        if kind in ("runner", "both") and runner:
            found.append(runner)
        if kind in ("step", "both") and group:
            # All that the step is: the shell that waits for it, itself, and what it runs.
            found += [each for pid, each in ours.items() if pid in table and group_of(pid) == group]
        if kind == "relay" and runner:
            found += [each for each in ours.values() if each.parent == runner.pid and each.name == "cat"]
            shells = [each.pid for each in ours.values() if each.parent == runner.pid]
            found += [each for each in ours.values() if each.parent in shells and each.name == "cat"]
        for attached in segment.glob("attached.*"):
            follower = ours.get(number_in(attached, 1))
            bootstrap = ours.get(int(attached.suffix[1:]))
            if kind == "follower" and follower:
                found.append(follower)
            # With all its helpers: one of them cleans up behind it.
            helpers = [each for each in ours.values() if bootstrap and each.parent == bootstrap.pid]
            if kind == "bootstrap" and len(helpers) >= HELPERS:
                found.append(bootstrap)
    return found


def group_of(pid):
    with contextlib.suppress(OSError):
        return os.getpgid(pid)
    return -1


def strike(host, kind, plan, wanted, process):
    """Kill what there is of a kind once the steps got so far; return the names of the killed, none if it was over."""
    wait_until(lambda: len(plan.traced()) >= wanted or process.poll() is not None)
    hit = []
    while not hit and process.poll() is None:
        hit = victims(host, kind)
        for each in hit:
            each.signal(signal.SIGKILL)
    return [each.name for each in hit]


def assert_honest(fleet, plan, host, done):
    """A marked step got that far, a step that returned from its mark is marked, and no other is reported as done."""
    report = next(each for each in done.document["hosts"] if each["host"] == plan.host)
    steps = {step["script"]: step["outcome"] for step in report["steps"]}
    marked, trace = plan.markers(host.state, fleet.operator.state), plan.traced()
    assert report["outcome"] != "ok" or all(marked.values()), (marked, summary([done]))
    for step in plan.steps:
        assert not marked[step.name] or (step.name, "worked") in trace, f"{step} was marked\n{summary([done])}"
        if step.guard in ("script", "subsystem"):
            assert (step.name, "marked") not in trace or marked[step.name], (
                f"the mark of {step} was lost\n{summary([done])}"
            )
        assert steps[step.name] not in ("ok", "already-done") or marked[step.name], (
            f"{step} was not ok\n{summary([done])}"
        )


@pytest.mark.parametrize("case", range(sized(5, 70)))
def test_t4_r13_a_killed_process_on_the_target_is_reported_and_its_step_runs_again(fleet, case):
    """A step, its runner, both, or what carries the output: never ok without being so, no mark too many or too few."""
    chance = chance_of(f"targets-{case}")
    plans = [fleet.maker(chance, most=5_000).make(f"h{n}", 5, ["target"] * 5) for n in range(2)]
    tree = fleet.plant(plans)
    done, struck = [], set()
    for _ in range(2):
        arguments = fleet.operator.deploy_arguments(tree, "--patience", PATIENCE, host=fleet.names(plans))
        kinds = [chance.choice(VICTIMS) for _ in plans]
        more = [chance.randrange(1, 7) for _ in plans]
        before = [len(plan.traced()) for plan in plans]
        with fleet.operator.start(*arguments) as process, ThreadPoolExecutor() as pool:
            wanted = [a + b for a, b in zip(before, more, strict=True)]
            # Read meanwhile: a full pipe that is not read would stop the session before it can be struck.
            result = pool.submit(wait, process)
            hits = list(pool.map(strike, fleet.hosts, kinds, plans, wanted, [process] * len(plans)))
            done.append(result.result())
        print(kinds, hits, done[-1].hosts)
        struck |= set(kinds)
        for plan, host, kind in zip(plans, fleet.hosts, kinds, strict=True):
            assert_honest(fleet, plan, host, done[-1])
            assert kind not in ("follower", "bootstrap") or done[-1].hosts[plan.host] == "ok", summary(done)
    done += fleet.until_done(tree, plans, "--patience", PATIENCE)
    events = [event for each in done for event in events_of(each.out)]
    for plan, host in zip(plans, fleet.hosts, strict=True):
        assert all(plan.markers(host.state, fleet.operator.state).values())
        for step in plan.steps:
            words = [word for name, word in plan.traced() if name == step.name]
            # Once it is marked it does not run again; and before that, at most as often as it was killed.
            assert 1 <= words.count("begin") <= 3
            assert step.guard not in ("script", "subsystem") or words.count("marked") <= 1, (step, words)
            # The output of a step that ran to its end was reported in full, whichever process was killed.
            if words.count("begin") == 1 and not struck & {"relay"}:
                assert step.output in output_of(events, plan.host), f"{step.name}\n{summary(done)}"
    fleet.assert_quiet()
    fleet.assert_clean()
    fleet.assert_nothing_to_do(tree, plans)


LATE = 2.5
"""seconds that what brings the output to the spool is held up"""


@pytest.mark.parametrize("ends", ["stays, killed", "dies, killed", "dies, by itself"])
def test_r13_r9_output_of_a_step_is_reported_however_late_it_reaches_the_spool(fleet, ends):
    """What copies it is not scheduled, while the runner or its controller dies; nothing is taken for all too early."""
    controller, runner = ends.split(", ")
    host, place = fleet.hosts[0], fleet.directory
    wait_for = f"until [[ -e {place}/go ]]; do sleep 0.02; done"
    after = "sleep 600" if runner == "killed" else ":"
    body = f"echo early; touch {place}/begun; {wait_for}; echo late; touch {place}/said; {after}"
    tree = plant(place / "tree", {"scripts/a": script("", body), "univ.run/h0/default": "a\n"})
    arguments = fleet.operator.deploy_arguments(tree, "--patience", PATIENCE, host="h0.univ.run")
    with contextlib.ExitStack() as stack:
        process = stack.enter_context(fleet.operator.start(*arguments))
        wait_until((place / "begun").exists)
        (relay,) = victims(host, "relay")
        if controller == "dies":
            process.kill()
            process.wait()
            fleet.await_unattended()
        relay.signal(signal.SIGSTOP)
        try:
            (place / "go").touch()
            wait_until((place / "said").exists)
            if runner == "killed":
                for each in victims(host, "runner"):
                    each.signal(signal.SIGKILL)
            else:
                wait_until(lambda: list(host.state.glob("sessions/*/segment0/finished")))
            if controller == "dies":
                other = plant(place / "other", {"scripts/b": script(), "univ.run/h0/default": "b\n"})
                process = stack.enter_context(
                    fleet.operator.start(*fleet.operator.deploy_arguments(other, host="h0.univ.run"))
                )
                wait_until(lambda: len(list(host.state.glob("sessions/*/segment0/owner"))) == 2)
            time.sleep(LATE)
        finally:
            relay.signal(signal.SIGCONT)
        done = wait(process)
    text = output_of(events_of(done.out), "h0.univ.run")
    # Output that the first deploy had not acknowledged is shown again.
    assert text in (b"early\nlate\n", b"late\n"), summary([done])
    assert done.hosts == {"h0.univ.run": "interrupted" if controller == "stays" else "ok"}


SLOW_SETSID = """\
#!/bin/bash
exec strace -f -qq -o /dev/null -P "${{!#}}/group" -e trace=openat -e inject=openat:delay_enter=1000000 {setsid} "$@"
"""


def test_r13_no_step_runs_before_it_is_written_down_what_is_to_be_killed(tmp_path):
    """A runner may be killed at any time; here the file with its process group takes 1 s to open."""
    if not shutil.which("strace") or subprocess.run(["strace", "true"], check=False, capture_output=True).returncode:
        pytest.skip("needs strace, and leave to trace")
    programs = plant(tmp_path / "bin", {"setsid": Executable(SLOW_SETSID.format(setsid=shutil.which("setsid")))})
    operator = Operator(tmp_path / "operator", environment={"PATH": f"{programs}:{os.environ['PATH']}"})
    body = 'read -r _ _ _ _ group _ </proc/$$/stat; echo "$group"; cat "$RUNS_RUN/../group"'
    tree = plant(tmp_path / "tree", {"scripts/a": script("", body), "univ.run/h0/default": "a\n"})
    done = operator.deploy(tree, host="h0.univ.run")
    assert done.status == 0, summary([done])
    group, written = done.output.split()
    assert written == group


# --- R11: the machine


WRAPPER = """\
#!/bin/sh
exec unshare -m sh -ec '
    mount --bind "{place}/boot_id" /proc/sys/kernel/random/boot_id
    exec "{program}" "$@"
' sshd "$@"
"""


@pytest.fixture(scope="module")
def machine():
    """A host whose boot has a name of ours, in a mount namespace of its own; and the file with that name."""
    if os.geteuid() != 0:
        pytest.skip("makes a mount namespace, which takes root")
    if (
        not shutil.which("unshare")
        or subprocess.run(["unshare", "-m", "true"], check=False, capture_output=True).returncode
    ):
        pytest.skip("this machine allows no mount namespaces")
    with tempfile.TemporaryDirectory(prefix="runsdeploy-boot-") as made:
        place = Path(made)
        boot = place / "boot_id"
        boot.write_text("0-first\n")
        wrapper = plant(place, {"sshd": WRAPPER.format(place=place, program=sshd._sshd())}) / "sshd"
        wrapper.chmod(0o755)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sshd, "_sshd", lambda: str(wrapper))
            with FakeHost("h0.univ.run", place / "host") as host:
                yield host, boot


@pytest.mark.parametrize("controller", ["stays", "dies"])
@pytest.mark.parametrize("case", range(sized(2, 25)))
def test_t4_r11_a_restart_of_the_target_is_reported_and_markers_stay(machine, tmp_path, case, controller):
    host, boot = machine
    chance = chance_of(f"restarts-{case}-{controller}")
    fleet = Fleet([host], tmp_path / "fleet")
    plan = fleet.maker(chance, most=5_000).make("h0", 5, ["target"] * 5)
    tree = fleet.plant([plan])
    arguments = fleet.operator.deploy_arguments(tree, "--patience", PATIENCE, host=plan.host)
    wanted = chance.randrange(1, 11)
    with fleet.operator.start(*arguments) as process:
        wait_until(lambda: len(plan.traced()) >= wanted)
        time.sleep(chance.uniform(0, 0.05))
        if controller == "dies":
            process.kill()
        # First, or a controller that reconnects at once would see that the runner is gone, but not yet why.
        boot.write_text(f"{case}-{controller}-{time.monotonic()}\n")
        killed = kill_all(host)
        first = wait(process)
    marked = plan.markers(host.state, fleet.operator.state)
    running = not all(marked.values())
    print(f"{killed} processes killed at {plan.traced()[-1]}, {sum(marked.values())} steps marked")
    if controller == "stays":
        assert (first.status == 0) <= (not running), summary([first])
        assert first.status in (0, 3), summary([first])
        if first.status:
            assert "the target was restarted" in first.out.decode(), summary([first])
            assert first.hosts == {plan.host: "interrupted"}
    trace = plan.traced()
    for step in plan.steps:
        assert marked[step.name] <= ((step.name, "worked") in trace)
        if step.guard in ("script", "subsystem"):
            assert ((step.name, "marked") in trace) <= marked[step.name]
    done = fleet.until_done(tree, [plan], "--patience", PATIENCE)
    if controller == "dies" and running:
        assert any(event["event"] == "earlier" and event["how"] == "restarted" for event in events_of(done[0].out)), (
            summary(done)
        )
    for name, times in plan.runs().items():
        assert times == 1 or (times == 2 and not marked[name]), (name, times, marked)
    assert all(plan.markers(host.state, fleet.operator.state).values())
    fleet.assert_quiet()
    fleet.assert_clean()


def kill_all(host):
    """Kill everything but the listening sshd, as a power cut does; return how many processes that were."""
    count = 0
    while found := host.processes():
        for process in found:
            process.signal(signal.SIGKILL)
        count += len(found)
    return count


# --- R14, T7: several controllers


PEOPLE = 8


@pytest.mark.parametrize("case", range(sized(2, 50)))
def test_t7_r14_of_eight_deploys_at_once_one_at_a_time_gets_the_host(fleet, case):
    """Some wait and some do not; in each second round the holder of the host is killed, and the next one gets it."""
    chance = chance_of(f"contests-{case}")
    trace = fleet.directory / "trace"
    kill = case % 2 == 1
    go = fleet.directory / "go"
    until = f"while [[ ! -e {go} ]]; do sleep 0.02; done" if kill else "sleep 0.05"
    body = f'echo "in $$" >>{trace}; {until}; echo "out $$" >>{trace}'
    tree = plant(fleet.directory / "tree", {"scripts/a": script("", body), "univ.run/h0/default": "a\na\n"})
    arguments = fleet.operator.deploy_arguments(tree, "--patience", PATIENCE, host="h0.univ.run")
    host = fleet.hosts[0]
    # Two at least wait: one may be killed.
    ways = [["--wait", "60"] if chance.random() < 0.7 or number < 2 else [] for number in range(PEOPLE)]
    with contextlib.ExitStack() as stack:
        started = []
        for number in range(PEOPLE):
            fleet.operator.environment |= {"LOGNAME": f"somebody{number}", "USER": f"somebody{number}"}
            started.append(stack.enter_context(fleet.operator.start(*arguments, *ways[number])))
        if kill:
            wait_until(lambda: trace.exists() and trace.read_text())
            holder = holder_of(host)
            hit = [process for process in host.processes() if process.pid == holder]
            assert len(hit) == 1, holder
            hit[0].signal(signal.SIGKILL)
            # The step of the killed one would come to its end only now, when the next one is inside.
            wait_until(lambda: len(trace.read_text().splitlines()) > 1)
            inside = trace.read_text().split()[1]
            go.touch()
        done = [wait(process) for process in started]
    outcomes = [each.hosts["h0.univ.run"] for each in done]
    print(list(zip([bool(way) for way in ways], outcomes, strict=True)))
    allowed = {"ok", "locked"}
    for way, outcome, each in zip(ways, outcomes, done, strict=True):
        assert outcome in (allowed - {"locked"} if way else allowed) | ({"interrupted"} if kill else set()), summary(
            [each]
        )
        assert each.status == {"ok": 0, "locked": 4, "interrupted": 3}[outcome]
    assert outcomes.count("interrupted") == kill
    assert outcomes.count("ok") >= 1
    # One at a time: no session enters before the one inside left, or was killed there.
    words = [line.split() for line in trace.read_text().splitlines()]
    if kill:
        words.remove(["in", inside])
        assert ["out", inside] not in words
    assert [word for word, _ in words] == ["in", "out"] * (len(words) // 2), words
    assert all(words[n][1] == words[n + 1][1] for n in range(0, len(words), 2)), words
    fleet.assert_quiet()
    fleet.assert_clean()


def holder_of(host):
    """Return the process id in the host's `holder` file; 0 if the host is not held."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        return int((host.state / "holder").read_text().split()[3].rpartition("%20")[2])
    return 0
