"""State that others could have written is neither read nor written, on target and controller (S5, S6)."""

from __future__ import annotations

import os
import re
import stat
import subprocess

import pytest

from tests.trees import contents, plant, script, wait_until

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
HOST = "medusa.univ.run"
SOMEBODY = 61874
FILES = {"scripts/it": script("out o", 'shouldrun || exit\necho made >"$o"\nsetdone'), "hosts/medusa/default": "it\n"}


def give(path):
    os.chown(path, SOMEBODY, SOMEBODY, follow_symlinks=False)


def link(path):
    path.unlink(missing_ok=True)
    path.symlink_to("../../canary")


def loose(path, mode=0o777):
    path.chmod(mode)


def moved(path):
    """Make a directory a link of ours to where it is now."""
    path.rename(path.with_name("elsewhere"))
    path.symlink_to("elsewhere")


CASES = {
    "state for all": (".", loose),
    "state for a group": (".", lambda path: loose(path, 0o770)),
    "state of somebody": (".", give),
    "state a link": (".", moved),
    "above for all": ("..", loose),
    "above of somebody": ("..", give),
    "above a link of somebody's": ("..", lambda path: (moved(path), give(path))),
    "above a link to where all may write": ("..", lambda path: (moved(path), loose(path.with_name("elsewhere")))),
    "above for another group": ("..", lambda path: (os.chown(path, 0, SOMEBODY), loose(path, 0o775))),
    "holder a link": ("holder", link),
    "hold a link": ("hold", link),
    "lock a link": ("lock", link),
    "reserve a link": ("reserve", link),
    "holder of somebody": ("holder", give),
    "lock for all": ("lock", lambda path: loose(path, 0o666)),
    "hold a device": ("hold", lambda path: os.mknod(path, 0o600 | stat.S_IFCHR, os.makedev(1, 3))),
    "sessions of somebody": ("sessions", give),
    "a session of somebody": ("sessions/0123", lambda path: (path.mkdir(), give(path))),
    "a session a link": ("sessions/0123", lambda path: path.symlink_to("../..")),
    "markers of somebody": ("markers", give),
    "markers for all": ("markers", loose),
    "kept files of somebody": ("outs/it", give),
    "a marker's directory for all": ("markers/it", loose),
    "a marker of somebody": ("markers/it/script", give),
    "a marker's directory a link of somebody's": ("markers/it", lambda path: (moved(path), give(path))),
}
COMMANDS = {
    "deploy": ["deploy"],
    "forecast": ["deploy", "--dry-run"],
    "status": ["status"],
    "hold": ["lock", "add", "--reason", "x"],
    "reset": ["reset", "--script", "it"],
}


def spoiled(state, case):
    """Spoil one thing of a state directory, and return it."""
    inside, spoil = CASES[case]
    path = state.parent if inside == ".." else state if inside == "." else state / inside
    spoil(path)
    return path


@pytest.fixture
def place(tmp_path):
    """A state directory below directories of its own, where nothing keeps others out but modes."""
    return plant(tmp_path / "hosts", {"canary": "of root's\n", "above/state": None})


@pytest.mark.parametrize("case", CASES)
def test_s5_s6_d7_state_that_others_could_have_written_is_not_used(case, operator, place, tmp_path):
    """D7: on the controller, whose local steps use the same programs."""
    tree = plant(tmp_path / "tree", FILES)
    state = place / "above/state"
    operator.environment["RUNSDEPLOY_STATE_DIR"] = str(state)
    way = ["--path", str(tree), "--host", HOST, "--local", "--format", "json"]
    first = operator.run("deploy", *way)
    assert first.outcomes == [("it", "ok")], first.talk
    wait_until(lambda: not list(state.glob("sessions/*/files")))
    path = spoiled(state, case)
    before = contents(place)
    # The other commands show and remove such markers.
    others = ["forecast"] if case.startswith("a marker") else [*COMMANDS][1:]
    for name in ("deploy", others[[*CASES].index(case) % len(others)]):
        words = COMMANDS[name]
        done = operator.run(*words, *way)
        assert done.status == 3, (name, done.text, done.talk)
        assert "cannot trust" in str(done.document), done.text
        assert str(path if case != "above a link to where all may write" else path.with_name("elsewhere")) in done.text
        assert contents(place) == before, name
    assert (place / "canary").read_text() == "of root's\n"
    hint = re.search("`([^`]*)`(, and|\\W*$)", done.document["hosts"][0]["message"] or "")
    if hint and "RUNSDEPLOY_STATE_DIR" not in done.text:
        subprocess.run(["sh", "-c", hint[1]], check=True)
        again = operator.run("deploy", *way)
        # A step whose kept file is gone says so.
        assert again.status == (1 if "outs" in hint[1] else 0), (hint[1], again.text)


@pytest.mark.parametrize("case", ["state for all", "holder a link", "a session of somebody", "kept files of somebody"])
@pytest.mark.parametrize("command", COMMANDS)
def test_s5_s6_d7_nor_on_a_target(command, case, operator, target, tmp_path):
    tree = plant(tmp_path / "tree", FILES)
    way = ["--path", str(tree), "--host", HOST, "--ssh-config", str(target.ssh_config), "--format", "json"]
    assert operator.deploy(tree).outcomes == [("it", "ok")]
    wait_until(lambda: not target.processes())
    path = spoiled(target.state, case)
    before = contents(target.state)
    done = operator.run(*COMMANDS[command], *way)
    assert done.status == 3, done.text
    assert f"cannot trust `{path}`" in str(done.document)
    assert contents(target.state) == before


@pytest.mark.parametrize("case", ["state for all", "holder a link"])
@pytest.mark.usefixtures("target")
def test_s5_local_steps_of_a_remote_deploy_use_no_such_state(case, operator, tmp_path):
    files = {
        "scripts/it": script("conf local", "shouldrun || exit\ntouch $HOME/ran\nsetdone"),
        "hosts/medusa/default": "it\n",
    }
    tree = plant(tmp_path / "tree", files)
    assert operator.deploy(tree).outcomes == [("it", "ok")]
    (operator.home / "ran").unlink()
    (state,) = [path.parent for path in operator.state.rglob("markers")]
    spoiled(operator.state if case == "state for all" else state, case)
    done = operator.deploy(tree)
    assert done.hosts == {HOST: "refused"}
    assert "cannot trust" in str(done.document)
    assert not (operator.home / "ran").exists()


def test_s5_honest_state_is_used(operator, tmp_path):
    """Links of root's above it, directories like /tmp, a group of root's, one that is not made yet, odd names."""
    tree = plant(tmp_path / "tree", FILES)
    places = {"real/it's a place/x": None, "open/theirs": None}
    base = plant(tmp_path / "base", places)
    (base / "link").symlink_to("real/it's a place")
    (base / "real").chmod(0o775)
    (base / "open").chmod(0o1777)
    for state in ("link/x", "link/not/made/yet", "open/theirs", "open/../real//it's a place/./y/"):
        operator.environment["RUNSDEPLOY_STATE_DIR"] = f"{base}/{state}"
        for outcome in ("ok", "already-done"):
            done = operator.run("deploy", "--path", tree, "--host", HOST, "--local", "--format", "json")
            assert done.outcomes == [("it", outcome)], done.text
