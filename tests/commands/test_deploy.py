"""Deploys over SSH: how they end, what they say, what they leave; interrupted, cut, contended, on several hosts."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import threading

import pytest

from tests.sshd import process_table
from tests.trees import Executable, Operator, plant, script, wait, wait_until

HOST = "medusa.univ.run"
GUARD = "shouldrun || exit"


@pytest.fixture
def operator(host, tmp_path):
    return Operator(tmp_path / "operator", host.ssh_config)


@pytest.fixture
def gate(tmp_path):
    """A place where a step says that it runs, and waits to be let go."""
    return Gate(tmp_path / "gate")


class Gate:
    def __init__(self, directory):
        self.directory = directory
        directory.mkdir()

    def body(self, name=""):
        """Return bash that runs up to the gate and waits there."""
        there = self.directory
        return f": >'{there}/started{name}'\nuntil [[ -e '{there}/go{name}' ]]; do sleep 0.02; done\n"

    def reached(self, name=""):
        wait_until((self.directory / f"started{name}").exists)

    def open(self, name=""):
        (self.directory / f"go{name}").touch()


@contextlib.contextmanager
def under_way(operator, *words):
    """Start a deploy, and leave none behind whatever the test finds."""
    with operator.start(*words) as process:
        try:
            yield process
        finally:
            if process.poll() is None:
                process.kill()


def tree_of(tmp_path, scripts, recipe=None, name="tree"):
    files = {f"scripts/{each}": text for each, text in scripts.items()}
    return plant(tmp_path / name, {**files, "hosts/medusa/default": recipe or "".join(f"{each}\n" for each in scripts)})


def idle(host, operator=None):
    """Wait until nothing of a session runs any more: on the host, and on the operator's own machine."""
    wait_until(lambda: not host.processes())
    mark = operator and f"RUNSDEPLOY_STATE_DIR={operator.state}".encode()
    wait_until(lambda: not mark or not any(mark in each.environment() for each in process_table().values()))


def acknowledged(host, text):
    """Say whether the one session of the host knows that a text of a step was shown."""
    (segment,) = host.state.glob("sessions/*/segment*")
    written, offset = (segment / "spool").read_bytes(), segment / "acknowledged"
    return text in written and offset.exists() and int(offset.read_text() or 0) >= written.index(text) + len(text)


def sessions(host):
    return host.log().count("Starting session: command")


# --- how steps end


def test_no_library_writes_a_warning_of_its_own(operator, tmp_path):
    """O21: no warnings of libraries, with the newest and with the oldest that are allowed."""
    files = {
        "univ.run/medusa/default": "it\n", "scripts/it": script("ref -t -r x=x.j2\nconf once", 'cat "$x"'),
        "scripts/x.j2": "{{ host }}\n", "runsdeploy.yaml": "parallel: 2\n",
    }  # fmt: skip
    tree = plant(tmp_path / "tree", files)
    words = operator.deploy_arguments(tree, host=HOST, form="text")
    for expected in ("1 ok", "1 already-done"):
        done = operator.run(*words, cwd=tree)
        assert done.status == 0, done.talk
        assert not re.search(r"(?i)warning|site-packages|\.py:", done.talk), done.talk
        assert f"ok ({expected})" in done.text


def test_a_second_deploy_finds_everything_already_done(operator, tmp_path):
    tree = tree_of(
        tmp_path,
        {
            "a": script("", f"{GUARD}\nsetdone"),
            "b": script("conf once", "true"),
            "c": script("conf onchange", "true"),
            "d": script("conf local", f"{GUARD}\nsetdone"),
        },
    )
    first, second = operator.deploy(tree), operator.deploy(tree)
    assert (first.status, second.status) == (0, 0)
    assert [outcome for _, outcome in first.outcomes] == ["ok"] * 4
    assert [outcome for _, outcome in second.outcomes] == ["already-done"] * 4
    assert first.document["session"] != second.document["session"]


FAILING = script(
    "desc fails",
    "shouldrun first && { echo one; setdone first; }\nshouldrun second || exit\n"
    "for ((i = 1; i <= 30; i++)); do echo line $i; done\n"
    "if [[ ! -e ~/repaired ]]; then\n    false\n    exit 7\nfi\nsetdone second",
)


def test_a_failing_script_stops_the_session_and_the_next_deploy_carries_on(operator, host, tmp_path):
    tree = tree_of(tmp_path, {"a": script("conf once", "echo a"), "b": FAILING, "c": script("conf once", "echo c")})
    failed = operator.deploy(tree)
    assert failed.status == failed.document["exit_status"] == 1
    assert failed.hosts == {HOST: "failed"}
    assert failed.outcomes == [("a", "ok"), ("b", "failed"), ("c", "skipped")]
    step = failed.steps[1]
    assert step["status"] == 7
    assert step["failed_at"] == f"{tree}/scripts/b:8"
    assert step["position"].startswith(f"{tree}/hosts/medusa/default:2")
    assert step["marked"] == ["first"]
    assert step["not_marked"] == ["second"]
    assert step["output_tail"][-1] == "line 30"
    again = operator.deploy(tree)
    assert again.outcomes == [("a", "already-done"), ("b", "failed"), ("c", "skipped")]
    assert "one\n" not in again.output
    (host.home / "repaired").touch()
    done = operator.deploy(tree)
    assert done.status == 0
    assert done.outcomes == [("a", "already-done"), ("b", "ok"), ("c", "ok")]


def test_a_failure_is_told_in_words(operator, tmp_path):
    tree = tree_of(tmp_path, {"b": FAILING, "c": script("", "true")})
    done = operator.run(*operator.deploy_arguments(tree, form="text"))
    assert done.status == 1
    assert re.search(rf"^{re.escape(str(tree))}/scripts/b:8: .*7.*hosts/medusa/default:1", done.talk, re.MULTILINE)
    assert "line 30" in done.talk
    assert "line 2\n" not in done.talk
    assert re.search(r"^\s*marked: .*first", done.talk, re.MULTILINE)
    assert re.search(r"^\s*not marked: .*second", done.talk, re.MULTILINE)
    assert "line 2\n" in done.text
    assert re.search(r"skipped", done.text)


def test_keep_going_does_the_rest_and_still_fails(operator, tmp_path):
    tree = tree_of(
        tmp_path,
        {
            "a": script("", "exit 3"),
            "b": script("", "echo b"),
            "c": script("conf local", "echo c"),
            "d": script("", "echo d"),
        },
    )
    done = operator.deploy(tree, "--keep-going")
    assert done.status == 1
    assert done.outcomes == [("a", "failed"), ("b", "ok"), ("c", "ok"), ("d", "ok")]


def test_a_guard_that_said_no_does_not_excuse_a_failure(operator, tmp_path):
    bodies = [
        "setdone; shouldrun; false",
        "setdone s; shouldrun s; exit 100",
        "exit 100",
        "setdone; shouldrun || exit 3",
        "setdone; shouldrun || true; exit 0",
    ]
    tree = tree_of(tmp_path, {f"s{n}": script("", body) for n, body in enumerate(bodies)})
    done = operator.deploy(tree, "--keep-going")
    assert [outcome for _, outcome in done.outcomes][:1] == ["failed"]
    assert done.outcomes[2] == ("s2", "failed")
    assert done.outcomes[3] == ("s3", "failed")


@pytest.mark.parametrize("number", [9, 15, 11])
def test_a_script_killed_by_a_signal_says_which(number, operator, tmp_path):
    """R13."""
    tree = tree_of(
        tmp_path, {"a": script("", f"{GUARD}\necho last words\nkill -{number} $$\nsetdone"), "b": script("", "true")}
    )
    done = operator.deploy(tree)
    assert done.status == 1
    assert done.outcomes == [("a", "killed"), ("b", "skipped")]
    assert done.steps[0]["status"] == 128 + number
    assert done.steps[0]["output_tail"][0] == "last words"
    assert operator.deploy(tree).outcomes[0] == ("a", "killed"), "never marked"


# --- output


def test_output_is_told_byte_for_byte(operator, tmp_path):
    """R17: what is not UTF-8 is spelled, what imitates our own framing is output."""
    data = (
        bytes(range(256))
        + b"\x1e0123456789abcdef end 1 ok 0 0.0 0\n\x1efinish ok\n"
        + "caf\u00e9 \u2028 \U0001f600\n".encode()
        + b"no newline"
    )
    plant(tmp_path / "tree" / "scripts", {"data": data})
    tree = tree_of(tmp_path, {"a": script("ref data", 'cat "$data"\necho err >&2'), "b": script("", "printf 'b'")})
    done = operator.deploy(tree)
    assert done.outcomes == [("a", "ok"), ("b", "ok")]
    assert done.output == data.decode("utf-8", "backslashreplace") + "err\nb"


def test_much_output_arrives_whole_and_characters_stay_whole(operator, tmp_path):
    """R16, R17: 3 MiB of characters of three bytes, cut by no buffer's end."""
    tree = tree_of(
        tmp_path, {"a": script("", "printf 'x'\nfor ((i = 0; i < 20; i++)); do printf '\u20ac%.0s' {1..50000}; done")}
    )
    done = operator.deploy(tree)
    assert done.outcomes == [("a", "ok")]
    assert done.output == "x" + "\u20ac" * 1_000_000


def test_a_character_written_in_two_pieces_is_one(operator, gate, tmp_path):
    tree = tree_of(tmp_path, {"a": script("", "printf 'caf\\303'\n" + gate.body() + "printf '\\251\\n'")})
    with under_way(operator, *operator.deploy_arguments(tree)) as process:
        gate.reached()
        line = process.stdout.readline()
        while b"caf" not in line:
            line = process.stdout.readline()
        gate.open()
        done = wait(process)
    text = line.decode() + done.text
    assert "".join(re.findall(r'"event": "output".*"text": "([^"]*)"', text)) == "caf\u00e9\\n"


def test_a_terminal_sees_control_characters_spelled(operator, tmp_path):
    """R17, O4: CWE-150; whole sequences are dropped."""
    tree = tree_of(
        tmp_path,
        {"a": script("", "printf '\\033]52;c;eA==\\007\\033[2J\\033]0;text\\001\\302\\233x\\377\\n'; exit 1")},
    )
    done = operator.run(*operator.deploy_arguments(tree, form="text"))
    for stream in (done.text, done.talk):
        assert not set(stream) & {"\x1b", "\x07", "\r", "\x9b"}
        assert "\\x1b]0;text\\x01\\x9bx\\xff\n" in stream
        assert "52;c" not in stream


def test_a_child_in_the_background_does_not_hold_the_session(operator, host, tmp_path):
    """R18, R36: it has our stdout, and neither the step nor the next deploy waits for it."""
    tree = tree_of(tmp_path, {"a": script("", "sleep 600 &\necho $! >~/child\necho done"), "b": script("", "echo b")})
    done = operator.deploy(tree)
    assert done.outcomes == [("a", "ok"), ("b", "ok")]
    assert done.output == "done\nb\n"
    child = int((host.home / "child").read_text())
    assert child in [process.pid for process in host.processes()]
    assert operator.deploy(tree).status == 0


# --- what is left

RECORDS = "(end_)?acknowledged|alive|boot|errors|finished|group|journal|nonce|owner|pid|relay|spool|started|stop"
LEFT = re.compile(
    rf"lock|holder|reserve|outs(/.*)?|sessions|sessions/[0-9a-f]{{32}}|markers(/.*)?|sessions/[0-9a-f]{{32}}/segment\d+(/({RECORDS}))?"
)


def left_in(state):
    return [str(path.relative_to(state)) for path in state.rglob("*")] if state.exists() else []


def test_only_markers_journals_and_spools_are_left_and_nobody_else_may_read_them(operator, host, tmp_path):
    """R25, S14: also after failures; nothing of the operator's stays in a temporary directory."""
    (host.home / ".bashrc").write_text("umask 000\n")
    scripts = {
        "a": script("ref f=data; out o", 'setdone; cat "$f" >"$o"'),
        "b": script("conf local; ref -r o", 'setdone s "$(cat "$o")"'),
        "c": script("", 'exit "${status:-0}"'),
        "d": script("conf local", "true"),
    }
    tree = tree_of(tmp_path, scripts)
    plant(tree, {"scripts/data": "secret canary"})
    for more in ((), ("--set", "status=3"), ("--set", "status=3", "--keep-going"), ("--dry-run",)):
        operator.deploy(tree, *more)
        idle(host, operator)
        for state in (host.state, operator.state / "hosts" / HOST):
            assert [name for name in left_in(state) if not LEFT.fullmatch(name)] == []
            open_to_others = [path for path in [state, *state.rglob("*")] if path.stat().st_mode & 0o077]
            assert open_to_others == []
        assert os.listdir(operator.temporary) == []  # noqa: PTH208
        assert not (operator.home / "xdg-state").exists()


def test_old_sessions_are_swept(operator, host, tmp_path):
    """R8: spools of twenty sessions are kept."""
    tree = tree_of(tmp_path, {"a": script("", "true")})
    operator.deploy(tree)
    idle(host)
    for n in range(30):
        shutil.copytree(next((host.state / "sessions").iterdir()), host.state / "sessions" / f"{n:032x}")
    operator.deploy(tree)
    idle(host)
    assert len(list((host.state / "sessions").iterdir())) <= 20


# --- the plan that was shown is the plan that runs


def test_the_digest_shown_is_the_digest_that_runs(operator, tmp_path):
    """R40."""
    tree = tree_of(tmp_path, {"a": script("ref f=data; var x=1", "true"), "b": script("conf local", "true")})
    plant(tree, {"scripts/data": "1"})

    def digests():
        planned = operator.run("plan", "--path", tree, "--host", HOST, "--format", "json").document["hosts"][0][
            "digest"
        ]
        dry = operator.deploy(tree, "--dry-run").document["hosts"][0]["digest"]
        return {planned, dry, operator.deploy(tree).document["hosts"][0]["plan"]}

    first = digests()
    assert len(first) == 1
    plant(tree, {"scripts/data": "2"})
    second = digests()
    assert len(second) == 1
    assert first != second


def test_a_file_that_changes_after_planning_is_refused_and_never_shipped(operator, host, tmp_path):
    """R40: a local step changes what the target's step refers to."""
    tree = tmp_path / "tree"
    tree_of(
        tmp_path,
        {
            "a": script("conf local", f"printf changed >>'{tree}/scripts/data'"),
            "b": script("ref f=data", 'cat "$f" >~/got'),
        },
    )
    plant(tree, {"scripts/data": "planned\n"})
    done = operator.deploy(tree)
    assert done.status == 3
    assert done.hosts == {HOST: "refused"}
    assert done.outcomes == [("a", "ok"), ("b", "skipped")]
    assert "scripts/data" in done.document["hosts"][0]["message"]
    assert not (host.home / "got").exists()


def test_a_script_that_changes_after_planning_runs_as_planned(operator, tmp_path):
    """R40."""
    tree = tmp_path / "tree"
    tree_of(
        tmp_path,
        {
            "a": script("conf local", f"for f in b t.j2; do echo 'echo changed' >>'{tree}/scripts/'$f; done"),
            "b": script("ref -t t=t.j2", 'cat "$t"; echo planned'),
        },
    )
    plant(tree, {"scripts/t.j2": "{{ host }}\n"})
    assert operator.deploy(tree).output == f"{HOST}\nplanned\n"


def test_a_tree_edited_all_the_time_arrives_whole_or_not_at_all(operator, host, tmp_path):
    """R40: the file that arrived is always one that was there."""
    tree = tree_of(tmp_path, {"a": script("ref f=data", 'cat "$f" >~/got')})
    versions = [bytes([65 + n]) * (300_000 + n * 70_000) for n in range(6)]
    plant(tree, {"scripts/data": versions[0]})
    stop = threading.Event()

    def edit():
        n = 0
        while not stop.is_set():
            n += 1
            plant(tree, {"new": versions[n % len(versions)]})
            (tree / "new").replace(tree / "scripts/data")

    editor = threading.Thread(target=edit)
    editor.start()
    try:
        results = []
        for _ in range(8):
            done = operator.deploy(tree)
            results.append(done.hosts[HOST])
            assert results[-1] in ("ok", "refused")
            if results[-1] == "ok":
                assert (host.home / "got").read_bytes() in versions
            with contextlib.suppress(FileNotFoundError):
                (host.home / "got").unlink()
    finally:
        stop.set()
        editor.join()


# --- links that break, signals


def test_r4_a_connection_cut_during_a_step_is_taken_up_again(operator, host, gate, tmp_path):
    """R4, B3: no byte of output is lost or doubled, nothing is done twice."""
    step = f"{GUARD}\necho ran >>~/counter\necho before\n{gate.body()}echo behind\nsetdone"
    tree = tree_of(tmp_path, {"a": script("", step), "b": script("", f"{GUARD}\necho ran >>~/counter-b\nsetdone")})
    with under_way(operator, *operator.deploy_arguments(tree)) as process:
        gate.reached()
        host.cut()
        gate.open()
        done = wait(process)
    assert done.status == 0, done.talk
    assert done.outcomes == [("a", "ok"), ("b", "ok")]
    assert done.output == "before\nbehind\n"
    assert [event["text"].partition(";")[0] for event in done.events if event["event"] == "note"][:1] == [
        f"lost `{HOST}`: the connection was closed"
    ]
    assert (host.home / "counter").read_text() == "ran\n"
    assert (host.home / "counter-b").read_text() == "ran\n"
    idle(host)
    assert [name for name in left_in(host.state) if not LEFT.fullmatch(name)] == []


def test_r4_a_link_that_does_not_come_back_is_lost_and_the_next_deploy_tells_the_rest(operator, host, gate, tmp_path):
    """R4, R9, B9: the running step ends by itself, no other starts; what it said is kept until somebody hears it."""
    step = f"{GUARD}\necho ran >>~/counter\necho before\n{gate.body()}echo behind\nsetdone"
    tree = tree_of(tmp_path, {"a": script("", step), "b": script("", f"{GUARD}\necho b\nsetdone")})
    with under_way(operator, *operator.deploy_arguments(tree, "--patience", "1")) as process:
        gate.reached()
        wait_until(lambda: acknowledged(host, b"before\n"))
        host.stop_listening()
        host.cut()
        lost = wait(process)
    assert lost.status == 3
    assert lost.hosts == {HOST: "lost"}
    assert lost.outcomes == [("a", "lost"), ("b", "skipped")]
    gate.open()
    idle(host)
    host.start()
    done = operator.deploy(tree)
    assert lost.output + done.output == "before\nbehind\nb\n"
    assert done.outcomes == [("a", "already-done"), ("b", "ok")]
    (earlier,) = done.document["hosts"][0]["earlier"]
    assert earlier["session"] == lost.document["session"]
    assert earlier["steps"] == [["", "ok"]], "its beginning had been heard"
    assert (host.home / "counter").read_text() == "ran\n"
    assert "earlier" not in operator.deploy(tree).document["hosts"][0], "told once"


def test_r9_the_controllers_death_lets_the_running_step_end_and_starts_no_other(operator, host, gate, tmp_path):
    """R9."""
    tree = tree_of(tmp_path, {"a": script("", f"{GUARD}\n{gate.body()}setdone"), "b": script("", "touch ~/b")})
    with under_way(operator, *operator.deploy_arguments(tree)) as process:
        gate.reached()
        process.kill()
        process.wait()
    wait_until(lambda: not list(host.state.glob("sessions/*/*/attached.*")))
    gate.open()
    done = operator.deploy(tree)
    assert done.outcomes == [("a", "already-done"), ("b", "ok")]
    assert [said for _, said in done.document["hosts"][0]["earlier"][0]["steps"]] == ["ok"], "b did not start"


def test_r13_a_runner_that_is_killed_is_no_success_and_takes_its_step_along(operator, host, gate, tmp_path):
    """R13."""
    tree = tree_of(tmp_path, {"a": script("", gate.body()), "b": script("", "true")})
    with under_way(operator, *operator.deploy_arguments(tree)) as process:
        gate.reached()
        holder = (host.state / "holder").read_text()
        os.kill(int(re.search(r"process%20(\d+)", holder)[1]), signal.SIGKILL)
        done = wait(process)
    assert done.status == 3
    assert done.hosts[HOST] == "interrupted"
    assert "the session's runner was killed, and its running step" in [each.get("text") for each in done.events]
    idle(host)
    assert done.outcomes == [("a", "lost"), ("b", "skipped")]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_r10_a_signal_lets_the_running_step_end_and_skips_the_rest(number, operator, host, gate, tmp_path):
    """R10."""
    tree = tree_of(
        tmp_path, {"a": script("", f"{gate.body()}setdone"), "b": script("", "true"), "c": script("conf local", "true")}
    )
    with under_way(operator, *operator.deploy_arguments(tree)) as process:
        gate.reached()
        process.send_signal(number)
        wait_until(lambda: list(host.state.glob("sessions/*/*/stop")))
        gate.open()
        done = wait(process)
    assert done.status == done.document["exit_status"] == 128 + number
    assert done.outcomes == [("a", "ok"), ("b", "skipped"), ("c", "skipped")]
    assert {"event": "stopping"} in done.events
    assert done.hosts == {HOST: "interrupted"}


def test_r10_the_second_signal_ends_the_running_step(operator, host, gate, tmp_path):
    tree = tree_of(tmp_path, {"a": script("", gate.body()), "b": script("", "touch ~/b")})
    with under_way(operator, *operator.deploy_arguments(tree, form="json")) as process:
        gate.reached()
        process.send_signal(signal.SIGINT)
        wait_until(lambda: list(host.state.glob("sessions/*/*/stop")))
        process.send_signal(signal.SIGINT)
        done = wait(process)
    assert done.status == done.document["exit_status"] == 130
    assert done.outcomes == [("a", "interrupted"), ("b", "skipped")]
    idle(host)
    assert not (host.home / "b").exists()


def test_a_signal_while_a_local_step_runs_ends_after_it(operator, gate, tmp_path):
    tree = tree_of(tmp_path, {"a": script("conf local", gate.body()), "b": script("conf local", "true")})
    with under_way(operator, *operator.deploy_arguments(tree)) as process:
        gate.reached()
        process.send_signal(signal.SIGINT)
        wait_until(lambda: list(operator.state.glob("hosts/*/sessions/*/*/stop")))
        gate.open()
        done = wait(process)
    assert done.status == 130
    assert done.outcomes == [("a", "ok"), ("b", "skipped")]


@pytest.mark.parametrize("form", ["json", "jsonl"])
def test_a_signal_while_planning_ends_with_valid_json_and_no_process(form, operator, host, gate, tmp_path):
    tree = tree_of(tmp_path, {"a": script(f"echo $$ >'{gate.directory}/pid'\n{gate.body()}", "true")})
    with under_way(operator, *operator.deploy_arguments(tree, form=form)) as process:
        gate.reached()
        process.send_signal(signal.SIGINT)
        done = wait(process)
    assert done.status == done.document["exit_status"] == 130
    assert sessions(host) == 0
    assert not os.path.exists(f"/proc/{(gate.directory / 'pid').read_text().strip()}")  # noqa: PTH110


def test_r10_a_reader_that_leaves_ends_nothing_on_the_target(operator, host, gate, tmp_path):
    """R10: `runsdeploy deploy … | head -n 1`."""
    tree = tree_of(
        tmp_path,
        {
            "a": script(
                "",
                f"echo one\n{gate.body()}for ((i = 0; i < 5000; i++)); do echo line $i; done\nsetdone; touch ~/ended",
            )
        },
    )
    with under_way(operator, *operator.deploy_arguments(tree)) as process:
        gate.reached()
        process.stdout.readline()
        process.stdout.close()
        gate.open()
        process.stderr.close()
        process.wait(60)
    idle(host)
    assert (host.home / "ended").exists()


# --- contention


def test_r14_of_two_deploys_the_second_is_told_who_holds_the_lock(operator, host, gate, tmp_path):
    """R14."""
    tree = tree_of(tmp_path, {"a": script("", f"{gate.body()}echo ran >>~/ran")})
    with under_way(operator, *operator.deploy_arguments(tree)) as process:
        gate.reached()
        second = operator.deploy(tree_of(tmp_path, {"b": script("", "touch ~/b")}, name="other"))
        gate.open()
        first = wait(process)
    assert second.status == second.document["exit_status"] == 4
    assert second.hosts == {HOST: "locked"}
    assert second.outcomes == [("b", "skipped")]
    assert first.document["session"] in second.document["hosts"][0]["message"]
    assert f"@{os.uname().nodename}" in second.document["hosts"][0]["message"]
    assert first.status == 0
    assert not (host.home / "b").exists()
    assert operator.deploy(tree).status == 0, "the lock is gone with its holder"


def test_r14_the_lock_goes_with_a_holder_that_is_killed(operator, host, gate, tmp_path):
    """B6: nor does a step of it go on beside those of the next session."""
    tree = tree_of(tmp_path, {"a": script("", gate.body())})
    with under_way(operator, *operator.deploy_arguments(tree)) as process:
        gate.reached()
        holder = (host.state / "holder").read_text()
        os.kill(int(re.search(r"process%20(\d+)", holder)[1]), signal.SIGKILL)
        wait(process)
    other = tree_of(tmp_path, {"b": script("", "echo b")}, name="other")
    assert operator.deploy(other).output == "b\n"
    idle(host)


def test_r14_who_waits_gets_the_host_when_it_is_free(operator, host, gate, tmp_path):
    tree = tree_of(tmp_path, {"a": script("", f"{gate.body()}echo a >>~/ran")})
    other = tree_of(tmp_path, {"b": script("", "echo b >>~/ran")}, name="other")
    with under_way(operator, *operator.deploy_arguments(tree)) as process:
        gate.reached()
        with under_way(operator, *operator.deploy_arguments(other, "--wait")) as waiting:
            assert b'"waiting"' in waiting.stdout.readline() + waiting.stdout.readline()
            gate.open()
            assert wait(waiting).status == 0
        assert wait(process).status == 0
    assert (host.home / "ran").read_text() == "a\nb\n"
    with under_way(operator, *operator.deploy_arguments(tree)) as process:
        wait(process)


def test_r14_an_operator_keeps_a_host_for_himself_and_says_why(operator, host, tmp_path):
    tree = tree_of(tmp_path, {"a": script("", "echo a")})
    kim = Operator(tmp_path / "kim", host.ssh_config, {"LOGNAME": "kim"})
    at = ["--path", tree, "--host", HOST, "--ssh-config", host.ssh_config]
    assert kim.run("lock", "add", *at, "--reason", "testing a branch").status == 0
    refused = operator.deploy(tree)
    assert refused.status == 4
    assert refused.hosts == {HOST: "locked"}
    message = refused.document["hosts"][0]["message"]
    assert "kim@" in message
    assert message.endswith("testing a branch")
    again = operator.run("lock", "add", *at)
    assert again.status == 4
    assert b"testing a branch" in again.out
    assert kim.deploy(tree).output == "a\n", "his own deploys go through"
    assert b"testing a branch" in operator.run("lock", "show", *at).out
    assert refused.document["hosts"][0]["hint"] == f"runsdeploy lock remove --host {HOST}"
    removed = operator.run("lock", "remove", *at)
    assert removed.status == 0
    assert re.fullmatch(rf"{HOST}: is free; `kim@.*` held it since \S+: testing a branch\n", removed.text)
    assert operator.run("lock", "remove", *at).text == f"{HOST}: is free\n"
    assert kim.run("lock", "add", *at).status == 0
    document = operator.run("lock", "remove", *at, "--format", "json").document
    assert document["hosts"][0]["held"] == []
    assert document["hosts"][0]["released"][0]["by"].startswith("kim@")
    assert operator.run("lock", "show", *at).text == f"{HOST}: is free\n"
    assert operator.deploy(tree).status == 0


def test_a_detached_session_runs_to_its_end_and_is_heard_later(operator, host, gate, tmp_path):
    step = f"echo before\n{gate.body()}echo behind"
    tree = tree_of(tmp_path, {"a": script("", step), "b": script("", "echo b; exit 3")})
    left = operator.deploy(tree, "--detach")
    assert (left.status, left.hosts) == (0, {HOST: "detached"}), left.talk
    at = ["--path", tree, "--host", HOST, "--ssh-config", host.ssh_config]
    gate.reached()
    with under_way(operator, "attach", *at, "--format", "jsonl") as process:
        gate.open()
        heard = wait(process)
    assert heard.status == 1
    assert left.output + heard.output == "before\nbehind\nb\n"
    assert heard.document["session"] == left.document["session"]
    nothing = operator.run("attach", *at)
    assert (nothing.status, nothing.out) == (0, b"")
    assert "no unattended session is running there" in nothing.talk


def test_r18_a_step_that_takes_too_long_is_ended(operator, host, tmp_path):
    tree = tree_of(tmp_path, {"a": script("", "echo a; sleep 600"), "b": script("", "true")})
    done = operator.deploy(tree, "--timeout", "0.3")
    assert done.status == 124
    assert done.outcomes == [("a", "timeout"), ("b", "skipped")]
    assert "a\n".startswith(done.output), "all that it said in so short a time"
    idle(host)


# --- several hosts

NAMES = ("alpha.univ.run", "beta.univ.run", "gamma.univ.run")


@pytest.fixture
def fleet(sshd, tmp_path):
    hosts = [sshd(name) for name in NAMES]
    config = tmp_path / "ssh_config"
    config.write_text("".join(host.stanza() for host in hosts))
    return hosts, Operator(tmp_path / "operator", config)


def fleet_tree(tmp_path, body):
    files = {f"univ.run/{name.partition('.')[0]}/default": "a\nb\n" for name in NAMES}
    return plant(tmp_path / "tree", {**files, "scripts/a": script("", body), "scripts/b": script("", "touch ~/b")})


def test_hosts_one_at_a_time(fleet, tmp_path):
    hosts, operator = fleet
    log = tmp_path / "log"
    tree = fleet_tree(tmp_path, f"echo begin $RUNS_HOST >>'{log}'\nsleep 0.05\necho end $RUNS_HOST >>'{log}'")
    done = operator.deploy(tree, "--parallel", "1", host="*.univ.run")
    assert done.status == 0
    assert done.hosts == dict.fromkeys(NAMES, "ok")
    assert log.read_text().split("\n")[:-1] == [f"{word} {name}" for name in NAMES for word in ("begin", "end")]
    assert all((host.home / "b").exists() for host in hosts)


def test_hosts_three_at_a_time(fleet, tmp_path, gate):
    """Each waits for all: it ends only if they run side by side."""
    _, operator = fleet
    body = f": >'{gate.directory}'/$RUNS_HOST\nuntil [[ $(ls '{gate.directory}' | wc -l) == 3 ]]; do sleep 0.02; done"
    tree = fleet_tree(tmp_path, body)
    done = operator.deploy(tree, "--parallel", "3", host=",".join(NAMES))
    assert done.status == 0
    assert done.hosts == dict.fromkeys(NAMES, "ok")
    assert sorted(event["host"] for event in done.events if event["event"] == "host") == sorted(NAMES)


def test_an_unreachable_host_keeps_nobody_else_from_it(fleet, tmp_path):
    """R1."""
    hosts, operator = fleet
    hosts[1].stop()
    tree = fleet_tree(tmp_path, "true")
    done = operator.deploy(tree, "--parallel", "3", host="*.univ.run")
    assert done.status == 3
    assert done.hosts == {NAMES[0]: "ok", NAMES[1]: "unreachable", NAMES[2]: "ok"}
    unreachable = done.document["hosts"][1]
    assert [step["outcome"] for step in unreachable["steps"]] == ["skipped", "skipped"]
    assert NAMES[1] in unreachable["message"]


def test_a_failure_on_one_host_counts_more_than_an_unreachable_one(fleet, tmp_path):
    hosts, operator = fleet
    hosts[1].stop()
    tree = fleet_tree(tmp_path, "[[ $RUNS_HOST != alpha.univ.run ]]")
    done = operator.deploy(tree, host="*.univ.run")
    assert done.status == 1
    assert done.hosts == {NAMES[0]: "failed", NAMES[1]: "unreachable", NAMES[2]: "ok"}


def test_a_signal_stops_hosts_that_have_not_begun(fleet, tmp_path, gate):
    hosts, operator = fleet
    tree = fleet_tree(tmp_path, gate.body())
    with under_way(operator, *operator.deploy_arguments(tree, "--parallel", "1", host="*.univ.run")) as process:
        gate.reached()
        process.send_signal(signal.SIGINT)
        wait_until(lambda: list(hosts[0].state.glob("sessions/*/*/stop")))
        gate.open()
        done = wait(process)
    assert done.status == 130
    assert done.hosts == dict.fromkeys(NAMES, "interrupted")
    assert [step["outcome"] for step in done.document["hosts"][0]["steps"]] == ["ok", "skipped"]
    assert [sessions(host) for host in hosts] == [1, 0, 0]


def test_o3_o5_o11_a_rollout_as_text_ends_with_what_failed_and_the_command_that_runs_it_again(fleet, tmp_path):
    """O3, O5, O11: stdout and stderr are one pipe."""
    hosts, operator = fleet
    operator.alter("transport.wait", DELAY=0.1)
    hosts[1].stop()
    body = "for i in 1 2 3; do printf 'half '; sleep 0.02; echo line $i of $RUNS_HOST; done\n[[ $RUNS_HOST != alpha* ]]"
    tree = fleet_tree(tmp_path, body)
    words = ["deploy", "--path", tree, "--ssh-config", operator.ssh_config, "--host", "*.univ.run", "--parallel", "3"]
    words += ["--set", "it=a b", "--set", "db_password=hunter2"]
    done = subprocess.run(
        [sys.executable, "-m", "runsdeploy", *words], env=operator.settings(), cwd=operator.directory, check=False,
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    assert done.returncode == 1
    lines = done.stdout.splitlines()
    end = lines.index("")
    heads = [f"{name.ljust(14)} | " for name in NAMES]
    assert all(line[:17] in heads for line in lines[:end]), done.stdout
    assert not [line for line in lines[:end] if line[17:].startswith(line[:17].split()[0])]
    for name, head in zip(NAMES, heads, strict=True):
        shown = [line for line in lines[:end] if line.startswith(f"{head}  | ")]
        assert shown == ([f"{head}  | half line {i} of {name}" for i in (1, 2, 3)] if name != NAMES[1] else [])
    waited = [line for line in lines if "trying again" in line]
    assert len(waited) == 1
    assert waited[0].startswith(f"{heads[1]}cannot connect to `beta.univ.run` (127.0.0.1 port")
    totals, unreachable, failed, title, again = lines[end + 1 :]
    assert re.fullmatch(r"3 hosts in \d+\.\d\d s: 1 ok, 1 unreachable, 1 failed", totals)
    assert re.match("unreachable  beta.univ.run: cannot connect to .* connection refused$", unreachable)
    assert failed == f"failed       alpha.univ.run: {tree}/scripts/a:3: `a` failed with status 1"
    assert title == "to run these again:"
    assert shlex.split(again) == [
        "runsdeploy", "deploy", "--host", "beta.univ.run,alpha.univ.run", "--set", "it=a b",
        "--set", "db_password=...", "--parallel", "3", "--path", str(tree), "--ssh-config", str(operator.ssh_config),
    ]  # fmt: skip
    assert "hunter2" not in done.stdout
    # It is a command line, and runs just these.
    words = [word for word in shlex.split(again)[1:] if not word.startswith("db_")]
    words.pop(len(words) - 1 - words[::-1].index("--set"))
    hosts[1].start()
    document = operator.run(*words, "--format", "json").document
    assert {each["host"] for each in document["hosts"]} == {NAMES[0], NAMES[1]}
    assert document["summary"]["kinds"] == {"ok": 1, "failed": 1}
    assert [each["host"] for each in document["summary"]["failures"]] == [NAMES[0]]
    assert document["summary"]["again"][:4] == ["runsdeploy", "deploy", "--host", NAMES[0]]


def test_o3_one_host_has_no_summary_and_an_interrupted_rollout_names_hosts_that_were_not_started(fleet, tmp_path, gate):
    """O3."""
    hosts, operator = fleet
    tree = fleet_tree(tmp_path, gate.body())
    words = operator.deploy_arguments(tree, "--parallel", "1", host="*.univ.run", form="text")
    with under_way(operator, *words) as process:
        gate.reached()
        process.send_signal(signal.SIGINT)
        wait_until(lambda: list(hosts[0].state.glob("sessions/*/*/stop")))
        gate.open()
        done = wait(process)
    assert done.status == 130
    totals, *kinds, _, again = done.text.splitlines()[-5:]
    assert totals.endswith("s: 2 not-started, 1 interrupted")
    assert kinds == ["not-started  beta.univ.run, gamma.univ.run", "interrupted  alpha.univ.run"]
    assert shlex.split(again)[3] == "beta.univ.run,gamma.univ.run,alpha.univ.run"
    one = operator.run(*operator.deploy_arguments(tree, host=NAMES[0], form="text"))
    assert one.status == 0
    assert "again" not in one.text
    assert one.text.splitlines()[-1].startswith("alpha.univ.run: ok (2 ok) in")


def test_one_hosts_errors_are_known_before_any_is_touched(fleet, tmp_path):
    hosts, operator = fleet
    tree = fleet_tree(tmp_path, "true")
    plant(tree, {"univ.run/gamma/default": "a\nnot-there\n"})
    done = operator.deploy(tree, host="*.univ.run")
    assert done.status == 2
    assert [sessions(host) for host in hosts] == [0, 0, 0]


# --- login shells


@pytest.mark.parametrize(
    "noise",
    [
        "echo Welcome; echo to >&2",
        r"printf '\033]0;title\007\033[2J\r\0'",
        r"printf '\036hello 3 x\n\036'",
        "printf 'no newline'",
        "head -c 300000 /dev/zero | tr '\\0' x",
        (
            "alias cat=false read=false; cat() { false; }; export -f cat; export BASH_ENV=/nowhere ENV=/nowhere\n"
            "export CDPATH=/ GREP_OPTIONS=-v POSIXLY_CORRECT=1"
        ),
        "set -e -u; trap 'echo trapped' EXIT",
        "umask 0777",
    ],
    ids=["words", "escapes", "imitation", "no newline", "much", "environment", "options", "umask"],
)
def test_noise_of_the_login_shell_changes_nothing(noise, operator, host, tmp_path):
    """R25, R28, R29."""
    (host.home / ".bashrc").write_text(f"{noise}\n")
    tree = tree_of(
        tmp_path, {"a": script("ref f=data", f'{GUARD}\ncat "$f"\nsetdone\necho "${{BASH_ENV-}}${{CDPATH-}}"; umask')}
    )
    plant(tree, {"scripts/data": "content\n"})
    done = operator.deploy(tree)
    assert done.outcomes == [("a", "ok")], done.out
    assert done.output == "content\n\n0022\n"
    assert operator.deploy(tree).outcomes == [("a", "already-done")]


@pytest.mark.parametrize(
    "rc",
    [
        "echo This account is closed; exit 1",
        "echo This account is closed; exec true",
        "read -r line; echo This account is closed",
        "echo This account is closed; cat >/dev/null",
    ],
    ids=["exits", "becomes something else", "reads a line of stdin", "reads all of stdin"],
)
def test_a_login_shell_that_gets_in_the_way_is_refused_with_what_it_said(rc, operator, host, tmp_path):
    """R29."""
    (host.home / ".bashrc").write_text(f"{rc}\n")
    tree = tree_of(tmp_path, {"a": script("", "touch ~/a")})
    operator.alter("session.stream", LOGIN_LIMIT=2, LOGIN_GRACE=60)
    done = operator.deploy(tree)
    assert done.status == 3
    assert done.hosts == {HOST: "refused"}
    assert "This account is closed" in done.document["hosts"][0]["message"]
    assert not (host.home / "a").exists()
    assert not host.state.exists()


# --- round trips


@pytest.mark.parametrize("count", [3, 30])
def test_neighbouring_steps_share_one_channel(count, operator, host, tmp_path):
    """R38: however many there are."""
    tree = tree_of(tmp_path, {f"s{n}": script("ref f=data", "true") for n in range(count)})
    plant(tree, {"scripts/data": "1"})
    assert len(operator.deploy(tree).steps) == count
    assert sessions(host) == 1
    assert host.log().count("Accepted publickey") == 1


def test_local_steps_between_cost_a_channel_and_no_connection(operator, host, tmp_path):
    far, near = script("", "true"), script("conf local", "true")
    tree = tree_of(tmp_path, {"a": far, "b": far, "c": near, "d": near, "e": far, "f": near})
    assert operator.deploy(tree).status == 0
    assert sessions(host) == 2
    assert host.log().count("Accepted publickey") == 1


def test_local_steps_alone_need_no_connection(operator, host, tmp_path):
    assert operator.deploy(tree_of(tmp_path, {"a": script("conf local", "true")})).status == 0
    assert "Connection from" not in host.log()


def test_a_host_that_is_not_there_is_known_before_a_local_step_runs(operator, host, tmp_path):
    host.stop()
    tree = tree_of(tmp_path, {"a": script("conf local", "touch ~/a"), "b": script("", "true")})
    assert operator.deploy(tree).status == 3
    assert not (operator.home / "a").exists()


def test_this_machine_can_be_the_target(operator, host, tmp_path):
    operator.ssh_config = None
    tree = tree_of(
        tmp_path, {"a": script("", f"{GUARD}\ntouch ~/a\nsetdone"), "b": script("conf local", f"{GUARD}\nsetdone")}
    )
    assert operator.deploy(tree).outcomes == [("a", "ok"), ("b", "ok")]
    assert operator.deploy(tree).outcomes == [("a", "already-done"), ("b", "already-done")]
    assert (operator.home / "a").exists()
    assert "Connection from" not in host.log()


def test_markers_that_others_may_write_are_refused_before_anything_runs(operator, host, tmp_path):
    """S6: what others can make or take away says nothing."""
    tree = tree_of(tmp_path, {"a": script("", "shouldrun || exit\necho ran >>~/a\nsetdone")})
    assert operator.deploy(tree).status == 0
    (host.state / "markers" / "a" / "script").chmod(0o666)
    done = operator.deploy(tree)
    assert (done.status, list(done.hosts.values())) == (3, ["refused"])
    assert (host.home / "a").read_text() == "ran\n"


def test_a_file_made_by_a_step_that_is_already_done_is_the_one_it_made(operator, host, tmp_path):
    """Else the step behind it would install an empty file."""
    tree = tree_of(
        tmp_path,
        {
            "pack": script(
                "conf local onchange\nref source\nout packed", 'cat "$source" >"$packed"; echo more >>"$packed"'
            ),
            "install": script("conf onchange\nref -r packed", 'cat "$packed" >>~/installed'),
        },
    )
    plant(tree, {"scripts/source": "one\n"})
    outcomes = [[outcome for _, outcome in operator.deploy(tree).outcomes] for _ in range(2)]
    assert outcomes == [["ok", "ok"], ["already-done", "already-done"]]
    plant(tree, {"scripts/source": "two\n"})
    assert [outcome for _, outcome in operator.deploy(tree).outcomes] == ["ok", "ok"]
    (host.home / "installed").unlink()
    done = operator.deploy(tree, "--set", "fresh=1", "--script", "install")
    assert done.status == 2  # by itself, nothing makes the file
    done = operator.deploy(tree, "--script", "pack", "--script", "install", "--set", "fresh=1")
    assert [outcome for _, outcome in done.outcomes] == ["ok", "ok"]
    assert (host.home / "installed").read_text() == "two\nmore\n"


@pytest.mark.parametrize("more", [[], ["--dry-run"]], ids=["deploy", "dry run"])
def test_a_host_that_cannot_be_asked_keeps_nobody_else_from_it(more, operator, host, tmp_path):
    """R1: also where the target has to be asked before there is a plan."""
    tree = tree_of(tmp_path, {"a": script('sysinfos -s linux && var linux="yes"', "echo $linux >>~/a")})
    config = tmp_path / "config"
    config.write_text(host.ssh_config.read_text() + "\nHost down.univ.run\n  HostName 127.0.0.1\n  Port 1\n")
    words = ["deploy", "--path", tree, "--host", "down.univ.run,medusa.univ.run", "--script", "a", "--format", "json"]
    done = operator.run(*words, "--ssh-config", config, *more)
    assert done.status == done.document["exit_status"] == 3
    found = {each["host"]: each.get("outcome", "shown") for each in done.document["hosts"]}
    assert found == {"down.univ.run": "unreachable", "medusa.univ.run": "shown" if more else "ok"}
    assert (host.home / "a").exists() != bool(more)


# --- nothing to do, and this machine


@pytest.mark.parametrize("more", [[], ["--detach"], ["--local"], ["--dry-run"]])
def test_a_host_whose_recipe_names_nothing_is_done_at_once(more, operator, tmp_path):
    tree = tree_of(tmp_path, {"a": script()}, "# what `init` makes\n")
    done = operator.deploy(tree, *more)
    assert done.status == 0, done.talk
    assert [(each["host"], each["steps"]) for each in done.document["hosts"]] == [(HOST, [])]


def test_this_machine_is_one_host(operator, tmp_path):
    tree = plant(tree_of(tmp_path, {"a": script("", "touch ~/ran")}), {"hosts/other/default": "a\n"})
    for more in ([], ["--dry-run"]):
        done = operator.run("deploy", "--path", tree, "--host", f"{HOST},other", "--local", *more)
        assert done.status == 2
        assert "`--local` deploys to this machine, which is one host and not 2" in done.talk
    assert not (operator.home / "ran").exists()


def test_r14_a_holder_has_a_name_until_it_gives_the_lock_back(operator, host, gate, tmp_path):
    """A slow disk may keep it long with the last thing that it writes down."""
    slow = f"""#!/bin/bash
case $1 in */journal) ! grep -q ^finish "$1" || {{ {gate.body()} }} ;; esac
exec {shutil.which("sync")} "$@"
"""
    plant(host.home, {".bashrc": "PATH=~/bin:$PATH\n", "bin/sync": Executable(slow)})
    tree = tree_of(tmp_path, {"a": script()})
    with under_way(operator, *operator.deploy_arguments(tree)) as process:
        gate.reached()
        second = operator.deploy(tree)
        gate.open()
        first = wait(process)
    assert (first.status, second.hosts) == (0, {HOST: "locked"})
    assert first.document["session"] in second.document["hosts"][0]["message"]


def test_r14_a_holder_that_has_not_said_who_it_is_has_no_empty_name(operator, host, tmp_path):
    host.state.mkdir(parents=True, exist_ok=True)
    with (host.state / "lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        done = operator.deploy(tree_of(tmp_path, {"a": script()}))
    assert (done.status, done.hosts) == (4, {HOST: "locked"})
    message = done.document["hosts"][0]["message"]
    assert message == "the host is held: a session whose owner is not recorded yet"
