"""`conf root` through a real sudo, for a login user of the test's own.

sshd runs in a mount namespace of its own, where the user, his sudo rule and /var/lib exist: nothing of the
machine is changed, not even by a test that is killed.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest

from tests import sshd
from tests.sshd import FakeHost
from tests.trees import contents, plant, remove, script, wait_until

HOST = "medusa.univ.run"
USER, UID = "runsdeploy-guest", 61874
GUARD = "shouldrun || exit"

WRAPPER = """\
#!/bin/sh
exec unshare -m sh -ec '
    mount --bind "{place}/etc/passwd" /etc/passwd
    mount --bind "{place}/etc/shadow" /etc/shadow
    mount --bind "{place}/etc/group" /etc/group
    mount --bind "{place}/etc/sudoers.d" /etc/sudoers.d
    mount -t tmpfs -o mode=755 tmpfs /var/lib
    exec "{program}" "$@"
' sshd "$@"
"""


@pytest.fixture(scope="module")
def place():
    """A directory that other users can reach, as pytest's own are not."""
    if os.geteuid() != 0:
        pytest.skip("makes a user and a mount namespace, which takes root")
    if not shutil.which("sudo") or not shutil.which("unshare"):
        pytest.skip("needs the packages sudo and util-linux")
    if subprocess.run(["unshare", "-m", "true"], check=False, capture_output=True).returncode:
        pytest.skip("this machine allows no mount namespaces")
    with tempfile.TemporaryDirectory(prefix="runsdeploy-root-", dir="/tmp") as made:
        path = Path(made)
        path.chmod(0o755)
        yield path


@pytest.fixture(scope="module")
def shared_host(place):
    plant(
        place / "etc",
        {
            "passwd": f"{Path('/etc/passwd').read_text()}{USER}:x:{UID}:{UID}::{place}/host/home:/bin/bash\n",
            "group": f"{Path('/etc/group').read_text()}{USER}:x:{UID}:\n",
            "shadow": f"{Path('/etc/shadow').read_text()}{USER}:*:19000:0:99999:7:::\n",
            "sudoers.d": None,
        },
    )
    (place / "etc/shadow").chmod(0o600)
    (place / "host").mkdir(mode=0o755)
    wrapper = plant(place, {"sshd": WRAPPER.format(place=place, program=sshd._sshd())}) / "sshd"
    wrapper.chmod(0o755)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sshd, "_sshd", lambda: str(wrapper))
        with FakeHost(HOST, place / "host", client=(f"User {USER}",)) as host:
            yield host


@pytest.fixture
def target(shared_host):
    for directory in (shared_host.home, shared_host.state):
        remove(directory)
        directory.mkdir()
        os.chown(directory, UID, UID)
    remove(roots_state(shared_host))
    return shared_host


@pytest.fixture
def rule(place):
    """Let the user become root without a password."""
    path = place / "etc/sudoers.d/guest"
    path.write_text(f"{USER} ALL=(ALL) NOPASSWD: ALL\n")
    path.chmod(0o440)
    yield
    path.unlink()


def roots_state(host):
    """Return root's state directory as the fake host sees it."""
    return Path(f"/proc/{host._process.pid}/root/var/lib/runsdeploy")


def markers(state):
    return sorted(str(path.relative_to(state / "markers")) for path in (state / "markers").rglob("*") if path.is_file())


WHO = 'id -un >>"$HOME_OF/who"'


def tree_of(tmp_path, host, scripts):
    """Write a tree whose scripts can write their user to the home of the login user."""
    files = {f"scripts/{name}": text.replace("$HOME_OF", str(host.home)) for name, text in scripts.items()}
    return plant(tmp_path / "tree", {**files, "hosts/medusa/default": "".join(f"{name}\n" for name in scripts)})


@pytest.mark.usefixtures("rule")
def test_s8_s6_a_root_step_runs_as_root_and_marks_in_roots_state(operator, target, tmp_path):
    tree = tree_of(
        tmp_path,
        target,
        {
            "before": script("", f"{GUARD}\n{WHO}\nsetdone"),
            "privileged": script("conf root", f"{GUARD}\n{WHO}\nsetdone; setdone sub value"),
            "once": script("conf root once", WHO),
            "change": script("conf root onchange", WHO),
            "behind": script("conf once", WHO),
        },
    )
    first = operator.deploy(tree)
    assert first.status == 0, first.out.decode() + first.talk
    assert [outcome for _, outcome in first.outcomes] == ["ok"] * 5
    assert (target.home / "who").read_text().split() == [USER, "root", "root", "root", USER]
    assert markers(roots_state(target)) == [
        "change/subsystem=onchange",
        "once/script",
        "privileged/script",
        "privileged/subsystem=sub",
    ]
    assert markers(target.state) == ["before/script", "behind/script"]
    assert {path.stat().st_uid for path in (roots_state(target) / "markers").rglob("*")} == {0}
    second = operator.deploy(tree)
    assert [outcome for _, outcome in second.outcomes] == ["already-done"] * 5
    assert len((target.home / "who").read_text().split()) == 5


@pytest.mark.usefixtures("rule")
def test_roots_markers_are_shown_and_taken_back_as_the_login_users_are(operator, target, tmp_path):
    scripts = {"mine": script("conf once"), "roots": script("conf root", f"{GUARD}\nsetdone; setdone sub value")}
    tree = tree_of(tmp_path, target, scripts)
    way = ["--path", tree, "--host", HOST, "--ssh-config", target.ssh_config, "--format", "json"]

    def found(*words):
        told = operator.run(*words, *way).document["hosts"][0]["markers"]
        return {(each["script"], each["subsystem"], each["user"], each.get("state", "gone")) for each in told}

    assert found("status") == {("mine", "", "login", "never"), ("roots", "", "root", "never")}
    assert operator.deploy(tree).status == 0
    done = {("mine", "", "login", "done"), ("roots", "", "root", "done"), ("roots", "sub", "root", "done")}
    assert found("status") == done
    assert found("reset", "--script", "roots", "--subsystem", "sub") == {("roots", "sub", "root", "gone")}
    assert markers(roots_state(target)) == ["roots/script"]
    assert found("reset", "--script", "roots", "--script", "mine") == {
        ("roots", "", "root", "gone"),
        ("mine", "", "login", "gone"),
    }
    assert markers(roots_state(target)) == markers(target.state) == []


def test_unreadable_markers_of_root_are_reported(operator, target, tmp_path):
    tree = tree_of(tmp_path, target, {"mine": script("conf once"), "roots": script("conf root once")})
    done = operator.run("status", "--path", tree, "--host", HOST, "--ssh-config", target.ssh_config, "--format", "json")
    assert [each["script"] for each in done.document["hosts"][0]["markers"]] == ["mine"]
    assert "root's markers cannot be read" in done.talk


@pytest.mark.usefixtures("rule")
def test_r25_r31_a_root_step_has_the_surroundings_of_any_other(operator, target, tmp_path):
    """Variables, files, directory, names, umask, stdin and the exact lines of failures."""
    value = "a 'b' \"c\"\n$d\\ \u00e9"
    body = (
        'printf %s "$x" >$HOME_OF/x; cp "$f" $HOME_OF/f\n'
        'printf \'%s\\n\' "${PWD##*/}" "$RUNS_HOST" "$RUNS_SCRIPT" "$(umask)" "$(cat)" "${#list[@]}" >$HOME_OF/said\n'
        "[[ -d $RUNS_SHARED && -n $RUNS_SESSION && -n $RUNS_DIGEST ]] || exit 9\nurequire uinst\nfalse\nexit 3"
    )
    text = script("conf root; ref f=data; var list a b", body)
    tree = tree_of(tmp_path, target, {"it": text})
    plant(tree, {"scripts/data": bytes(range(256))})
    done = operator.deploy(tree, "--set", f"x={value}")
    assert done.outcomes == [("it", "failed")]
    assert done.steps[0]["status"] == 3
    assert done.steps[0]["failed_at"] == f"{tree}/scripts/it:{len(text.splitlines())}"
    assert (target.home / "x").read_text() == value
    assert (target.home / "f").read_bytes() == bytes(range(256))
    assert (target.home / "said").read_text().splitlines() == ["scripts", HOST, "it", "0022", "", "2"]


@pytest.mark.usefixtures("rule")
def test_files_go_from_root_to_the_user_and_to_the_controller(operator, target, tmp_path):
    scripts = {
        "make": script("conf root; out o p", 'echo by root >"$o"; rm "$p"; echo replaced >"$p"'),
        "use": script("ref -r o p; out q", 'cat "$o" "$p" >"$q"; cat "$q"'),
        "collect": script("conf local; ref -r o q", 'cat "$o" "$q" >~/got'),
    }
    done = operator.deploy(tree_of(tmp_path, target, scripts))
    assert done.status == 0, done.out
    assert (operator.home / "got").read_text() == "by root\nby root\nreplaced\n"


@pytest.mark.usefixtures("rule")
def test_a_root_step_killed_by_a_signal_is_killed(operator, target, tmp_path):
    done = operator.deploy(tree_of(tmp_path, target, {"it": script("conf root", "kill -9 $$"), "next": script()}))
    assert done.outcomes == [("it", "killed"), ("next", "skipped")]
    assert done.steps[0]["status"] == 137


@pytest.mark.usefixtures("rule")
def test_r8_s14_what_a_root_step_leaves_in_its_directory_is_swept(operator, target, tmp_path):
    """The login user may not remove files of root."""
    tree = tree_of(tmp_path, target, {"it": script("conf root", "mkdir made; echo secret >made/file; chmod 700 made")})
    assert operator.deploy(tree).status == 0
    wait_until(lambda: not target.processes())
    left = [path for path in contents(target.state) if b"/files" in path or b"/run" in path]
    assert left == []


def test_r19_without_sudo_nothing_runs_at_all(operator, target, tmp_path):
    tree = tree_of(tmp_path, target, {"before": script("", WHO), "privileged": script("conf root", WHO)})
    done = operator.deploy(tree)
    assert done.status == done.document["exit_status"] == 3
    assert done.hosts == {HOST: "refused"}
    assert [outcome for _, outcome in done.outcomes] == ["skipped", "skipped"]
    message = done.document["hosts"][0]["message"]
    assert "sudo" in message
    assert USER in message
    assert not (target.home / "who").exists()
    assert not roots_state(target).exists()
    assert [path for path in contents(target.state) if b"/files" in path or b"/run" in path or b"markers" in path] == []
    text = operator.run(*operator.deploy_arguments(tree, form="text"))
    assert text.status == 3
    assert "sudo" in text.talk


def test_without_sudo_a_root_step_behind_a_local_one_is_refused_before_anything_runs(operator, target, tmp_path):
    tree = tree_of(
        tmp_path,
        target,
        {"before": script("", WHO), "near": script("conf local", WHO), "privileged": script("conf root", WHO)},
    )
    done = operator.deploy(tree)
    assert done.status == 3
    assert done.hosts == {HOST: "refused"}
    assert [outcome for _, outcome in done.outcomes] == ["skipped"] * 3
    assert not (target.home / "who").exists()


def test_s8_steps_that_need_no_root_run_as_the_user_without_sudo(operator, target, tmp_path):
    tree = tree_of(tmp_path, target, {"it": script("", f"{GUARD}\n{WHO}\nsetdone")})
    assert operator.deploy(tree).outcomes == [("it", "ok")]
    assert (target.home / "who").read_text() == f"{USER}\n"
    assert markers(target.state) == ["it/script"]
    assert operator.deploy(tree).outcomes == [("it", "already-done")]


@pytest.mark.usefixtures("rule")
def test_a_dry_run_sees_roots_markers(operator, target, tmp_path):
    tree = tree_of(
        tmp_path,
        target,
        {"own": script("", f"{GUARD}\nsetdone"), "privileged": script("conf root", f"{GUARD}\nsetdone conf\nsetdone")},
    )

    def foretold():
        return [step["outcome"] for step in operator.deploy(tree, "--dry-run").document["hosts"][0]["steps"]]

    assert foretold() == ["would-run", "would-run"]
    assert operator.deploy(tree).status == 0
    assert foretold() == ["already-done", "already-done"]


def test_a_dry_run_that_cannot_read_roots_markers_predicts_maybe(operator, target, tmp_path):
    tree = tree_of(
        tmp_path,
        target,
        {"own": script("", f"{GUARD}\nsetdone"), "privileged": script("conf root", f"{GUARD}\nsetdone")},
    )
    steps = operator.deploy(tree, "--dry-run").document["hosts"][0]["steps"]
    assert [step["outcome"] for step in steps] == ["would-run", "maybe"]
    assert "sudo" in steps[1]["reason"]
