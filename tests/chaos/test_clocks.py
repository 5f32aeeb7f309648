"""Clocks of a target that are wrong, or are put right while a deploy runs: no outcome depends on them.

sshd and all it starts live under libfaketime, which leaves file times as they are; so does `find` compare them with
the true time. What file times would show after a step of the clock is brought about by giving the files other times.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
from pathlib import Path

import pytest

from tests import sshd
from tests.sshd import PATH, FakeHost
from tests.trees import Operator, plant, script, wait, wait_until

pytestmark = [
    pytest.mark.timeout(600),  # a slow machine, with others at work on it
    pytest.mark.xdist_group("clocks"),  # or one would take away the other's
]

HOST = "medusa.univ.run"
SKEWS = {"exact": "+0", "ten years ahead": "+3652d", "ten years behind": "-3652d"}

WRAPPER = """\
#!/bin/sh
exec env {environment} "{program}" "$@"
"""

FIND = """\
#!/bin/sh
exec env -u LD_PRELOAD "{program}" "$@"
"""


@pytest.fixture(scope="module")
def library():
    """Where libfaketime is."""
    found = sorted(
        str(path) for lib in ("lib", "lib64") for path in Path("/usr", lib).glob("**/faketime/libfaketime.so.1")
    )
    if not found:
        pytest.skip("needs the package faketime")
    return found[0]


@pytest.fixture
def skewed(library, tmp_path):
    """A host with a clock of its own, which the file `clock` sets; what measures time, or waits, is not touched."""
    directory = tmp_path / "skewed"
    directory.mkdir()
    clock = directory / "clock"
    clock.write_text("+0\n")
    false = {
        "LD_PRELOAD": library, "FAKETIME_TIMESTAMP_FILE": str(clock), "FAKETIME_NO_CACHE": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1", "FAKETIME_DONT_RESET": "1",
    }  # fmt: skip
    wrapper = plant(directory, {"sshd": WRAPPER.format(
        environment=" ".join(f"'{name}={value}'" for name, value in false.items()), program=sshd._sshd()
    )}) / "sshd"  # fmt: skip
    wrapper.chmod(0o755)
    find = plant(directory / "bin", {"find": FIND.format(program=shutil.which("find"))}) / "find"
    find.chmod(0o755)
    host = FakeHost(HOST, directory / "host")
    before = shared_clocks()
    # sshd takes the first line of this kind alone, and gives its sessions nothing of its own environment.
    environment = {
        "HOME": host.home, "XDG_STATE_HOME": "", "RUNSDEPLOY_STATE_DIR": host.state,
        "PATH": f"{find.parent}:{PATH}", **false,
    }  # fmt: skip
    host.server = ("SetEnv " + " ".join(f'"{name}={value}"' for name, value in environment.items()),)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sshd, "_sshd", lambda: str(wrapper))
        host.start()
    try:
        yield host, clock
    finally:
        host.stop()
        assert not host.processes()
        # A process that is killed, or ends by `_exit`, leaves its file behind.
        for path in shared_clocks() - before:
            path.unlink()


def shared_clocks():
    """Return what libfaketime shares between the processes of a family."""
    return set(Path("/dev/shm").glob("*faketime_*"))  # noqa: S108 - not ours


def tree_of(tmp_path: Path, more: str = "") -> Path:
    """Write a tree whose steps do what can be done: files that are handed on, local steps, all guards, a failure."""
    steps = {
        "a/maker": script(
            "out made", f'shouldrun || exit\necho made >"$made"\ndate +%Y >>"{tmp_path}/years"\n{more}\nsetdone'
        ),
        "a/local": script("conf local\nref -r made", 'cat "$made"'),
        "a/used": script("ref -r made\nconf onchange", 'cat "$made"'),
        "a/once": script("conf once", "echo once"),
        "a/part": script("", "shouldrun part v1 || exit\nsetdone part v1\nshouldrun part v1 && echo not marked"),
        "a/fails": script("", "sleep 0.3\nfalse\nexit 3"),
    }
    return plant(
        tmp_path / "tree",
        {**{f"scripts/{k}": v for k, v in steps.items()}, "univ.run/medusa/default": "".join(f"{k}\n" for k in steps)},
    )


def shown(done):
    """Return all that an operator sees, but for what differs between any two runs."""

    def lasting(event):
        return {k: v for k, v in event.items() if k not in ("seconds", "position", "session", "since", "earlier")}

    steps = [{k: v for k, v in step.items() if k not in ("seconds", "position")} for step in done.steps]
    output = "".join(event["text"] for event in done.events if event["event"] == "output")
    events = [json.dumps(lasting(event), sort_keys=True) for event in done.events if event["event"] != "output"]
    return done.status, done.hosts, steps, output, events


def markers(state):
    """Return the markers, without the times and sessions in them."""
    return {
        str(path.relative_to(state)): re.sub(r"(?m)^(time|session) .*\n", "", path.read_text())
        for path in sorted(state.glob("markers/*/*"))
    }


def story(host, operator, tree):
    """Return what is shown of a deploy, another, one whose controller is killed, and the one behind that."""
    first, second = operator.deploy(tree), operator.deploy(tree)
    slow = plant(tree.parent / "slow", {
        "scripts/b/slow": script("", f'echo begin\necho begun >>"{tree.parent}/begun"\nsleep 1\necho end\nsetdone'),
        "scripts/b/never": script("", "echo never"),
        "univ.run/medusa/default": "b/slow\nb/never\n",
    })  # fmt: skip
    (tree.parent / "begun").unlink(missing_ok=True)
    with operator.start(*operator.deploy_arguments(slow, "--patience", "1")) as process:
        wait_until((tree.parent / "begun").exists)
        process.send_signal(signal.SIGKILL)
        wait(process)
    # Until the target knows that no controller is attached, the next deploy finds it locked.
    wait_until(lambda: not [*host.state.glob("sessions/*/segment*/attached.*")])
    earlier = operator.deploy(tree)
    assert [event["how"] for event in earlier.events if "how" in event] == ["finished"], earlier.out.decode()
    output = "".join(each["text"] for each in earlier.events if each["event"] == "output" and each.get("earlier"))
    assert output.endswith("end\n"), earlier.out.decode()
    return shown(first), shown(second), shown(earlier)[:3], markers(host.state)


def test_r15_t28_a_clock_that_is_ten_years_off_changes_nothing(skewed, tmp_path):
    host, clock = skewed
    operator = Operator(tmp_path / "operator", host.ssh_config)
    tree, years, found = tree_of(tmp_path), {}, {}
    for name, skew in SKEWS.items():
        clock.write_text(f"{skew}\n")
        found[name] = story(host, operator, tree)
        # The clock was wrong only if the steps saw it.
        years[name] = int((tmp_path / "years").read_text())
        for path in (tmp_path / "years", host.state, operator.state):
            path.rename(tmp_path / f"{path.parent.name}-{path.name}-{skew}")
    print(years)
    assert years["ten years ahead"] - years["exact"] in (9, 10), years
    assert years["exact"] - years["ten years behind"] in (9, 10), years
    for name in SKEWS:
        assert found[name] == found["exact"], name


@pytest.mark.parametrize("skew", ["+3652d", "-3652d"])
def test_r15_t28_a_clock_that_is_put_right_during_a_run_changes_nothing(skewed, tmp_path, skew):
    """Neither a time limit nor the silence of a controller is measured by it."""
    host, clock = skewed
    operator = Operator(tmp_path / "operator", host.ssh_config)
    steps = {
        "a/first": script("out made", f'echo made >"$made"\ndate +%Y\necho "{skew}" >"{clock}"\ndate +%Y'),
        "a/slow": script("", "for i in 1 2 3 4 5; do sleep 0.2; echo $i; done"),
        "a/local": script("conf local\nref -r made", 'cat "$made"'),
        "a/last": script("ref -r made", 'shouldrun || exit\ncat "$made"\nsetdone'),
    }
    files = {f"scripts/{k}": v for k, v in steps.items()}
    tree = plant(tmp_path / "tree", {**files, "univ.run/medusa/default": "".join(f"{k}\n" for k in steps)})
    done = operator.deploy(tree, "--timeout", "60", "--patience", "30")
    assert done.status == 0, done.out.decode() + done.talk
    assert [outcome for _, outcome in done.outcomes] == ["ok"] * 4
    before, after, *rest = done.output.split()
    assert abs(int(after) - int(before)) in (9, 10), done.output
    assert rest == ["1", "2", "3", "4", "5", "made", "made"]
    for step in done.steps:
        assert 0 <= step["seconds"] < 60, done.steps
    again = operator.deploy(tree, "--timeout", "60")
    assert again.outcomes[-1] == ("a/last", "already-done")


def aged(state: Path, when: str) -> str:
    """Return commands that give all that is there the times it would have if the clock had been put to another day."""
    return f'find "{state}" -depth -exec touch -h -d "{when}" {{}} +'


@pytest.mark.parametrize("when", ["10 years ago", "10 years"])
def test_r15_what_a_session_still_needs_is_not_pruned_when_the_clock_is_stepped(target, operator, tmp_path, when):
    """A machine without a battery has the time of 1970 until the network sets it."""
    steps = {
        "a/first": script("out made", f'echo made >"$made"\n{aged(target.state, when)}'),
        "a/local": script("conf local\nref -r made", 'cat "$made"'),
        "a/last": script("ref -r made", 'cat "$made"'),
    }
    files = {f"scripts/{k}": v for k, v in steps.items()}
    tree = plant(tmp_path / "tree", {**files, "univ.run/medusa/default": "".join(f"{k}\n" for k in steps)})
    done = operator.deploy(tree)
    assert done.status == 0, done.out.decode() + done.talk
    assert [outcome for _, outcome in done.outcomes] == ["ok"] * 3
    assert (target.state / "sessions" / done.document["session"]).is_dir()


def test_r15_sessions_of_a_clock_that_was_ahead_do_not_push_out_the_present_one(target, operator, tmp_path):
    """The newest session is the one that just ended, whatever the times of the files are."""
    future = 4_000_000_000
    for number in range(25):
        old = target.state / f"sessions/{number:032x}/segment0"
        plant(old, {"end_acknowledged": "", "finished": "", "owner": "me now\n", "spool": "", "nonce": "0\n"})
        for path in (*old.iterdir(), old, old.parent):
            os.utime(path, (future, future))
    tree = plant(tmp_path / "tree", {"scripts/a": script("", "echo a"), "univ.run/medusa/default": "a\n"})
    done = operator.deploy(tree)
    assert done.status == 0
    wait_until(lambda: len(list((target.state / "sessions").iterdir())) <= 21)
    assert (target.state / "sessions" / done.document["session"]).is_dir(), "the session pruned itself"


def test_r15_a_session_that_waits_for_the_lock_is_not_pruned_when_the_clock_is_stepped(target, operator, tmp_path):
    """It could not report that its files are gone."""
    go = tmp_path / "go"
    body = f'echo >>"{tmp_path}/begun"\nuntil [ -e "{go}" ]; do sleep 0.05; done\n{aged(target.state, "10 years ago")}'
    first = plant(tmp_path / "first", {"scripts/a": script("", body), "univ.run/medusa/default": "a\n"})
    second = plant(tmp_path / "second", {"scripts/a": script("", "echo second"), "univ.run/medusa/default": "a\n"})
    with operator.start(*operator.deploy_arguments(first)) as holder:
        wait_until((tmp_path / "begun").exists)
        with operator.start(*operator.deploy_arguments(second, "--wait", "60")) as waiter:
            wait_until(lambda: any(b"waiting" in path.read_bytes() for path in target.state.glob("sessions/*/*/spool")))
            go.touch()
            assert wait(holder).status == 0
            try:
                done = wait(waiter)
            finally:
                waiter.kill()
    assert done.status == 0, done.out.decode() + done.talk
    assert done.output == "second\n"
