"""What a session hands to others, keeps, and removes: nonces, files that one side makes for the other, values."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import time

import pytest

from tests.sshd import FakeHost, process_table
from tests.trees import Operator, plant, script, wait, wait_until

HOST = "medusa.univ.run"
LINE = "a line of a file that only its owner reads"
CANARY = "canary-5d1c"


@pytest.fixture
def host(tmp_path):
    with FakeHost(HOST, tmp_path / "host") as made:
        yield made


@pytest.fixture
def operator(host, tmp_path):
    return Operator(tmp_path / "operator", host.ssh_config)


def tree_of(root, **scripts):
    return plant(root, {**{f"scripts/{k}": v for k, v in scripts.items()}, "hosts/medusa/default": "\n".join(scripts)})


def idle(host, operator):
    """Wait until nothing of a session runs any more, on both sides."""
    mark = f"RUNSDEPLOY_STATE_DIR={operator.state}".encode()
    wait_until(lambda: not host.processes())
    wait_until(lambda: not any(mark in each.environment() for each in process_table().values()))


def holding(text, *roots):
    """Return the files that hold a text."""
    files = [path for root in roots for path in root.rglob("*") if path.is_file() and not path.is_symlink()]
    return [path for path in files if text.encode() in path.read_bytes()]


def lapse(state):
    """Let the time pass for which a controller is expected to come back."""
    for each in state.glob("sessions/*/expected"):
        each.write_text("0.01 20\n")


# --- nonces


NO_GUARD = 'while [ ! -e ~/go ]; do sleep 0.05; done; trap "" HUP; (sleep 3) &'


@pytest.mark.timeout(400)
def test_r17_s2_no_nonce_is_in_the_arguments_or_the_environment_of_any_program(tmp_path):
    """D1: `grep NONCE` showed it to everybody, who could then write events. Told by the kernel, on both sides."""
    strace = ["strace", "-f", "-v", "-s", "100000", "-e", "trace=execve", "-o", str(tmp_path / "trace")]
    if not shutil.which("strace") or subprocess.run([*strace, "true"], check=False, capture_output=True).returncode:
        pytest.skip("takes strace, and leave to use it")
    operator = Operator(tmp_path / "operator", environment={"nonce": "theirs", "RUNS_nonce": "theirs"})
    tree = tree_of(
        tmp_path / "tree",
        a=script("out o", f'echo a; echo made >"$o"; {NO_GUARD}'),
        l=script("conf local once; ref -r o; out p", 'env; cat "$o" >"$p"; ls -l /proc/self/fd'),
        b=script("ref -r p", 'shouldrun x || exit; cat "$p"; setdone x; env; ls -l /proc/self/fd; sleep 4 &'),
    )
    arguments = [word for word in operator.deploy_arguments(tree) if word not in ("--ssh-config", operator.ssh_config)]
    with operator.start(*arguments, "--local") as process:
        wait_until(lambda: list(operator.state.glob("sessions/*/segment0/journal")))
        process.kill()
    (operator.home / "go").touch()
    wait_until(lambda: list(operator.state.glob("sessions/*/segment0/finished")))
    for words in ([*arguments, "--local"], ["status", "--host", HOST, "--path", str(tree), "--local"]):
        done = subprocess.run(
            [*strace[:-1], str(tmp_path / f"trace-{words[0]}"), sys.executable, "-m", "runsdeploy", *words],
            cwd=operator.directory, env=operator.settings(), stdin=subprocess.DEVNULL, capture_output=True, check=False,
            timeout=300,
        )  # fmt: skip
        assert done.returncode in (0, 2), (words, done.stdout[-2000:], done.stderr)
    started = b"".join(path.read_bytes() for path in tmp_path.glob("trace-*"))
    assert started.count(b"execve(") > 40
    nonces = [path.read_text().strip() for path in operator.state.rglob("nonce")]
    assert len(set(nonces)) == len(nonces) >= 4, "a nonce for each segment"
    assert [nonce for nonce in nonces if nonce.encode() in started] == []
    # Nor those of questions, which are in no file: every such word is the name of a session or of a work directory.
    names = {path.name.encode() for path in operator.state.glob("**/sessions/*")}
    words = re.findall(rb"(runsdeploy-conf-\w+/)?(?<![0-9a-f])([0-9a-f]{32})(?![0-9a-f])", started)
    assert {word for before, word in words if not before} <= names


# --- files for the other side


def test_r17_r7_bytes_of_a_file_are_never_output_of_a_step_when_the_controller_is_killed(operator, host, tmp_path):
    """D2: what came back of a 0600 file was acknowledged, and the next deploy showed the rest as a step's output."""
    make = f'umask 077; yes "{LINE}" | head -n 1000000 >"$o"; setdone'
    tree = tree_of(
        tmp_path / "tree",
        a=script("out o", f"shouldrun || exit; {make}"),
        l=script("conf local; ref -r o", 'wc -l <"$o"'),
    )
    with operator.start(*operator.deploy_arguments(tree)) as process:
        wait_until(lambda: any(each.stat().st_size for each in operator.temporary.glob("*/0-0")) or process.poll())
        process.kill()
        first = process.communicate()[0]
    idle(host, operator)
    assert list(host.state.glob("sessions/*/segment0/returned"))
    done = operator.deploy(tree)
    assert done.status == 0, done.out[-2000:]
    assert LINE.encode() not in first + done.out
    assert done.output.endswith("1000000\n")
    # While the controller is expected the file stays; then the next session removes it.
    lapse(host.state)
    assert operator.deploy(tree).status == 0
    idle(host, operator)
    assert set(holding(LINE, host.state, operator.state, operator.temporary)) <= {*host.state.glob("outs/a/o")}


def test_r17_r12_a_file_that_the_controller_cannot_write_is_not_shown_by_the_next_deploy(operator, host, tmp_path):
    """D2: as with a full disk."""
    tree = tree_of(
        tmp_path / "tree",
        a=script("out o", f'yes "{LINE}" | head -n 100000 >"$o"'),
        l=script("conf local; ref -r o", 'wc -l <"$o"'),
    )
    words = ["bash", "-c", 'ulimit -f 1000; exec "$@"', "-", sys.executable, "-m", "runsdeploy"]
    done = subprocess.run(
        [*words, *operator.deploy_arguments(tree)],
        cwd=operator.directory, env=operator.settings(), stdin=subprocess.DEVNULL, capture_output=True, check=False,
        timeout=100,
    )  # fmt: skip
    assert done.returncode not in (0, 1), done.stdout[-2000:]
    idle(host, operator)
    again = operator.deploy(tree)
    assert again.status == 0
    assert LINE.encode() not in done.stdout + again.out


def test_r8_fetched_files_are_nowhere_on_the_target_once_they_were_received(operator, host, tmp_path):
    """D4: they stayed in the spool for days. On the side of the controller too."""
    tree = tree_of(
        tmp_path / "tree",
        a=script("out o", f'yes "{LINE}" | head -n 1000 >"$o"'),
        l=script("conf local; ref -r o; out p", 'cat "$o" >"$p"'),
        b=script("ref -r p; out q", 'cat "$p" >"$q"'),
        m=script("conf local; ref -r q", 'wc -l <"$q"'),
    )
    done = operator.deploy(tree)
    assert (done.status, done.output) == (0, "1000\n"), done.out
    idle(host, operator)
    assert holding(LINE, host.state, operator.state, operator.temporary) == []
    assert list(host.state.glob("sessions/*/expected")) == []


# --- values


def test_r8_values_of_all_segments_are_removed_when_the_runner_of_a_later_one_is_killed(operator, host, tmp_path):
    """D3: those of the first segment stayed for days."""
    kill = 'kill -KILL "$(<"$RUNS_RUN/../pid")"; sleep 60'
    tree = tree_of(
        tmp_path / "tree",
        a=script(f"var password={CANARY}; out o", 'echo "$password" >"$o"; ls "$RUNS_STEP/values.sh"'),
        l=script("conf local", ":"),
        b=script(f"ref -r o; var x={CANARY}", kill),
    )
    done = operator.deploy(tree)
    assert done.hosts == {HOST: "interrupted"}, done.out
    idle(host, operator)
    assert holding(CANARY, host.state) == []


def test_r8_a_session_whose_controller_died_between_two_segments_is_swept_once_it_is_over(operator, host, tmp_path):
    """D3, D9: its values are gone at once, its files as soon as its controller is no longer expected."""
    tree = tree_of(
        tmp_path / "tree",
        a=script(f"var password={CANARY}; out o", f'echo {LINE} >"$o"'),
        l=script("conf local", f"touch {tmp_path}/begun; until [ -e {tmp_path}/go ]; do sleep 0.05; done"),
        b=script("ref -r o", 'cat "$o"'),
    )
    other = tree_of(tmp_path / "other", c=script("", "echo other"))
    with operator.start(*operator.deploy_arguments(tree)) as process:
        wait_until((tmp_path / "begun").exists)
        process.kill()
    (tmp_path / "go").touch()
    idle(host, operator)
    assert holding(CANARY, host.state) == []
    assert operator.deploy(other).status == 0
    assert holding(LINE, *host.state.glob("sessions/*/files/shared")), "its controller may still come back"
    lapse(host.state)
    assert operator.deploy(other).status == 0
    idle(host, operator)
    assert holding(LINE, host.state) == []
    assert holding("RUNS_step_number", host.state) == []


def test_r8_what_a_killed_bootstrap_left_is_removed(operator, host, tmp_path):
    """D3: parts of archives, segments that never began, sessions of another version, copies of a killed `setdone`."""
    old = host.state / "sessions" / f"{1:032x}"
    files = ("payload.999999999", "run/step/1/values.sh", "returned", "attached.999999999", "started")
    plant(old, {f"segment{n}/{each}": CANARY for n in range(2) for each in files})
    plant(old, {"segment1/owner": "me now\n", "segment1/nonce": "0\n", "segment1/spool": "old\n", "files/f": CANARY})
    plant(host.state / "outs", {".new.999999999": CANARY, "a/f": "kept"})
    for path in (host.state, *host.state.rglob("*")):
        path.chmod(0o700 if path.is_dir() else 0o600)
    done = operator.deploy(tree_of(tmp_path / "other", c=script("", "echo other")))
    assert (done.status, done.output) == (0, "other\n"), done.out
    assert {path.name for path in holding(CANARY, host.state)} <= {"started"}
    assert not (old / "files").exists()
    assert (host.state / "outs/a/f").exists()


# --- sessions that go on


def test_r8_a_session_that_goes_on_is_never_pruned(operator, host, tmp_path):
    """D9: while its local step runs, many others deploy."""
    tree = tree_of(
        tmp_path / "tree",
        a=script("out o", 'echo made >"$o"'),
        l=script("conf local", f"touch {tmp_path}/begun; until [ -e {tmp_path}/go ]; do sleep 0.05; done"),
        b=script("ref -r o", 'cat "$o"'),
    )
    other = tree_of(tmp_path / "other", c=script("", "echo other"))
    with operator.start(*operator.deploy_arguments(tree)) as process:
        wait_until((tmp_path / "begun").exists)
        (expected,) = host.state.glob("sessions/*/expected")
        first = expected.read_text()
        session = expected.parent
        for n in range(30):
            copy = shutil.copytree(session, session.parent / f"{n:032x}")
            (copy / "expected").unlink()
        # All of them are newer.
        assert operator.deploy(other).status == 0
        wait_until(lambda: len(list(session.parent.iterdir())) <= 22)
        assert (session / "files/shared/o").exists()
        # A local step of hours is no reason to give it up either: the controller says that it lives.
        wait_until(lambda: expected.read_text() != first)
        (tmp_path / "go").touch()
        done = wait(process)
    assert (done.status, done.output) == (0, "made\n"), done.out
    idle(host, operator)
    assert not (session / "expected").exists()


@pytest.mark.parametrize("what", ["files/shared/o", "files"])
def test_r17_a_step_whose_file_is_gone_fails_and_is_not_run(operator, host, tmp_path, what):
    """D9: it ran without its file, and was called ok."""
    tree = tree_of(
        tmp_path / "tree",
        a=script("out o", 'echo made >"$o"'),
        l=script("conf local", f'rm -r "{host.state}"/sessions/*/{what}'),
        b=script("ref -r o", 'echo ran; cat "$o"'),
    )
    done = operator.deploy(tree)
    assert (done.status, done.output) == (1, ""), done.out
    assert done.outcomes == [("a", "ok"), ("l", "ok"), ("b", "failed")]
    assert "`o`, which an earlier step made, is missing, expected a file" in done.out.decode()


def test_r17_a_step_whose_reference_is_gone_fails_and_is_not_run(operator, tmp_path):
    """D9."""
    tree = tree_of(
        tmp_path / "tree",
        a=script("", 'rm "$RUNS_FILES"/tree0/f/g'),
        b=script("ref f=f/g", "echo ran"),
    )
    plant(tree, {"scripts/f/g": "x"})
    done = operator.deploy(tree)
    assert done.outcomes[-1][0] == "b"
    assert (done.status, "ran" in done.output) == (1, False), done.out


# --- what an `out` is


OUTS = {
    "fifo": ('rm "$o"; mkfifo "$o"', "a fifo"),
    "zero": ('ln -sf /dev/zero "$o"', "a link"),
    "link": ('echo x >"$o.real"; ln -sf "$o.real" "$o"', "a link"),
    "directory": ('rm "$o"; mkdir "$o"', "a directory"),
    "missing": ('rm "$o"', "missing"),
    "above": ('d=${o%/*}; mv "$d" "$d.real"; ln -s "$d.real" "$d"', "in a directory that is a link"),
}


@pytest.mark.parametrize("guard", ["", "shouldrun || exit; "])
def test_r17_r18_an_out_that_is_no_file_makes_the_step_fail_by_name(operator, tmp_path, guard):
    """D11: `cp -p` of a fifo waited for ever, of a link to /dev/zero it filled the disk. On both sides."""
    scripts = {
        f"{side}/{name}": script(
            f"{'conf local; ' * (side == 'near')}out o={side}/{name}/o", guard + body + "; setdone" * bool(guard)
        )
        for side in ("far", "near")
        for name, (body, _) in OUTS.items()
    }
    began = time.monotonic()
    done = operator.deploy(tree_of(tmp_path / "tree", **scripts), "--keep-going")
    assert done.status == 1
    assert [outcome for _, outcome in done.outcomes] == ["failed"] * len(scripts), done.outcomes
    for side in ("far", "near"):
        for name, (_, found) in OUTS.items():
            said = f"`{side}/{name}/o`, declared by `out`, is {found}, expected a file"
            assert said in done.out.decode() + done.output, (side, name)
    assert time.monotonic() - began < 100
