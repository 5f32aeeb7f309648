"""Many deploys one after the other leave nothing behind; and how long some answers take, measured and printed."""

from __future__ import annotations

import json
import resource
import subprocess
import tempfile
import threading
import time
from pathlib import Path

import pytest

from runsdeploy.cli.main import main
from tests.chaos.plans import sized
from tests.chaos.proxy import Fault, Proxy, through
from tests.trees import Operator, plant, script, wait, wait_until

HOST = "medusa.univ.run"
KEPT = 20
"""sessions that a target keeps: only behind as many can it be seen whether its state grows"""
MOST_GROWTH = 1024
"""bytes that one run may add to the state"""
HUNG = 60.0
"""seconds after which an answer is taken for one that never comes; how long it took is printed"""


def cheapest(tmp_path: Path) -> Path:
    """Write a tree of one step."""
    return plant(
        tmp_path / "tree",
        {"scripts/a": script("", "shouldrun || exit\necho a\nsetdone"), "univ.run/medusa/default": "a\n"},
    )


def size_of(state: Path) -> int:
    """Return how many bytes lie in a state directory, a name counted like the smallest file."""
    return sum(len(path.name) + path.stat().st_size * path.is_file() for path in state.rglob("*"))


def assert_nothing_left(host, operator):
    """No process, temporary file or lock is left of all that ran on a host and here."""
    wait_until(lambda: not host.processes())
    assert list(operator.temporary.iterdir()) == []
    assert list(host.home.iterdir()) == []
    free = subprocess.run(["flock", "-n", host.state / "lock", "true"], check=False, timeout=60)
    assert free.returncode == 0, "the lock is held"
    assert (host.state / "holder").read_bytes() == b""
    sessions = list((host.state / "sessions").iterdir())
    assert len(sessions) <= KEPT
    left = [path for name in ("files", "segment*/run", "segment*/payload*", "segment*/attached.*")
            for path in (host.state / "sessions").glob(f"*/{name}")]  # fmt: skip
    assert not left
    # What ran last is over, too.
    assert not [path for path in (host.state / "sessions").glob("*/segment*/group") if path.read_bytes()]


def kept() -> tuple[int, int]:
    """Return how many descriptors and threads this process has."""
    return len(list(Path("/proc/self/fd").iterdir())), threading.active_count()


@pytest.mark.timeout(600)
def test_t27_many_deploys_by_one_process_leave_nothing_behind(target, operator, tmp_path, monkeypatch, capsys):
    """Rollouts within one Python: besides, it keeps neither files open nor threads."""
    runs = sized(30, 1000)
    for name, value in operator.settings().items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(tempfile, "tempdir", str(operator.temporary))
    monkeypatch.chdir(operator.directory)
    words = [str(word) for word in operator.deploy_arguments(cheapest(tmp_path))]
    before = (0, 0)
    sizes: list[int] = []
    for number in range(runs):
        status = main(words)
        said = capsys.readouterr()
        assert status == 0, said.out + said.err
        step = json.loads(said.out.splitlines()[-1])["hosts"][0]["steps"][0]
        assert step["outcome"] == ("already-done" if number else "ok")
        if number >= KEPT + 1:
            wait_until(lambda: not target.processes())
            sizes.append(size_of(target.state))
        if number == 2:
            before = kept()
    growth = (sizes[-1] - sizes[0]) / len(sizes)
    print(f"{runs} runs; descriptors and threads before: {before}; state {sizes[0]} to {sizes[-1]} bytes")
    # Those of a connection that was closed end by themselves, but not at once.
    wait_until(lambda: all(now <= then for now, then in zip(kept(), before, strict=True)))
    assert growth <= MOST_GROWTH, sizes
    assert_nothing_left(target, operator)


@pytest.mark.timeout(600)
def test_t27_many_deploys_by_processes_of_their_own_leave_nothing_behind(target, operator, tmp_path):
    runs = sized(KEPT + 4, 1000)
    tree = cheapest(tmp_path)
    sizes = []
    for number in range(runs):
        done = operator.deploy(tree)
        assert done.status == 0, done.text + done.talk
        if number >= KEPT + 1:
            wait_until(lambda: not target.processes())
            sizes.append(size_of(target.state))
    print(f"{runs} runs; state {sizes[0]} to {sizes[-1]} bytes")
    assert (sizes[-1] - sizes[0]) / len(sizes) <= MOST_GROWTH, sizes
    assert_nothing_left(target, operator)


# --- how long it takes


def notes(process):
    """Yield what is noted of a host while a deploy runs, and when it was read."""
    for line in process.stdout:
        event = json.loads(line)
        if event.get("event") == "note":
            yield time.monotonic(), event["text"]


def tell(what: str, seconds: list[float], promised: float) -> None:
    """Print the measurements beside the promises; only that it ends is asserted."""
    print(f"{what}: {', '.join(f'{each:.2f}' for each in sorted(seconds))} s; promised {promised} s")
    assert max(seconds) < HUNG


def talking(tmp_path: Path, more: str = "") -> Path:
    """Write a tree of a step that talks until `go` is there."""
    body = (
        f'echo >>"{tmp_path}/begun"\nuntil [ -e "{tmp_path}/go" ]; do printf "%200s\\n" still; sleep 0.1; done\n{more}'
    )
    return plant(tmp_path / "tree", {"scripts/a": script("", body), "univ.run/medusa/default": "a\n"})


def test_t30_r5_a_dead_peer_is_noticed(target, tmp_path):
    """By the operator's ssh configuration; without it, after three times 15 s."""
    found = []
    for case in range(sized(3, 50)):
        place = tmp_path / f"case{case}"
        place.mkdir()
        with Proxy(target.port) as proxy:
            operator = Operator(place / "operator", through(target, proxy, alive=1, alive_count=2))
            with operator.start(*operator.deploy_arguments(talking(place))) as process:
                try:
                    wait_until((place / "begun").exists)
                    cut = time.monotonic()
                    proxy.cut_now("hole")
                    when, what = next(notes(process))
                    assert "connecting again" in what
                    found.append(when - cut)
                    (place / "go").touch()
                    assert wait(process).status == 0
                finally:
                    process.kill()
    tell("a dead peer, with signs of life each second and two of them missed, was noticed after", found, 3)


def test_t30_r5_the_session_goes_on_when_the_path_is_back(target, tmp_path):
    found, away = [], 3.0
    for case in range(sized(3, 50)):
        place = tmp_path / f"case{case}"
        place.mkdir()
        with Proxy(target.port, Fault("down", 4500, "rst", refuse_for=away)) as proxy:
            operator = Operator(place / "operator", through(target, proxy))
            with operator.start(*operator.deploy_arguments(talking(place))) as process:
                try:
                    lost, _ = next(notes(process))
                    back, what = next(notes(process))
                    assert "connected again" in what
                    found.append(back - lost - away)
                    (place / "go").touch()
                    assert wait(process).status == 0
                finally:
                    process.kill()
            assert proxy.cuts
    tell(f"after {away} s without a path and its return, the session was shown again after", found, 5)


def test_t30_a_held_lock_is_answered_at_once(operator, tmp_path):
    found = []
    tree = talking(tmp_path)
    with operator.start(*operator.deploy_arguments(tree)) as holder:
        try:
            wait_until((tmp_path / "begun").exists)
            for _ in range(sized(3, 50)):
                began = time.monotonic()
                done = operator.deploy(tree)
                found.append(time.monotonic() - began)
                assert done.hosts == {HOST: "locked"}, done.text
            (tmp_path / "go").touch()
            assert wait(holder).status == 0
        finally:
            holder.kill()
    tell("that the target is locked was answered after", found, 2)


def test_t30_a_mistake_in_the_settings_is_answered_at_once(operator, tmp_path):
    found = []
    tree = cheapest(tmp_path)
    for _ in range(sized(3, 50)):
        began = time.monotonic()
        assert operator.deploy(tree, "--parallel", "many").status == 2
        found.append(time.monotonic() - began)
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    print(f"all children so far used {used.ru_utime + used.ru_stime:.0f} s of CPU")
    tell("a mistake in the settings was answered after", found, 0.3)
