"""A rendered plan does on the target what a deploy does, and each takes what the other did for done."""

from __future__ import annotations

import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from runsdeploy.session.line_discipline import LineDiscipline
from tests.trees import PATIENCE, Executable, Link, Operator, contents, plant, script, wait_until

HOST = "medusa.univ.run"
BASH = "/bin/bash"
DONE = ["already-done"]


@pytest.fixture
def operator(tmp_path):
    """An operator, who needs no host to render."""
    return Operator(tmp_path / "operator", environment={"RUNSDEPLOY_NO_VERIFY_SYSINFOS": ""})


class Machine:
    """Where rendered plans run: a home, a state, a directory for what is temporary."""

    def __init__(self, place: Path) -> None:
        self.home, self.state, self.temporary = place / "home", place / "state", place / "tmp"
        for each in (self.home, self.temporary):
            each.mkdir(parents=True)

    def environment(self, **more: str) -> dict[str, str]:
        kept = {"PATH": os.environ["PATH"], "HOME": str(self.home), "TMPDIR": str(self.temporary)}
        return {**kept, "RUNSDEPLOY_STATE_DIR": str(self.state), **more}

    def start(self, file: Path, bash: str = BASH, **more: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [bash, str(file)], env=self.environment(**more), cwd=self.home, start_new_session=True,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip

    def run(self, file: Path, bash: str = BASH, **more: str) -> tuple[int, str]:
        with self.start(file, bash, **more) as process:
            said = process.communicate(timeout=PATIENCE)[0].decode("utf-8", "backslashreplace")
        assert not [*self.temporary.iterdir()], "it left files"
        return process.returncode, said

    def markers(self) -> set[str]:
        top = self.state / "markers"
        return {str(path.relative_to(top)) for path in top.rglob("*") if path.is_file()}

    def remains(self) -> list[Path]:
        return [
            path for path in self.state.rglob("*") if path.name in ("files", "run") or path.name.startswith("attached")
        ]


@pytest.fixture
def machine(tmp_path):
    return Machine(tmp_path / "machine")


def rendered(operator, tree, *more, status=0):
    """Render to a file, and return it."""
    file = operator.directory / "plan.sh"
    file.unlink(missing_ok=True)
    done = operator.run("render", "--path", tree, "--host", HOST, "--output", file, *more)
    assert done.status == status, done.talk
    return file if status == 0 else done


def deployed(operator, machine, tree, *more):
    """Deploy the same to the same machine."""
    operator.environment = {"RUNSDEPLOY_STATE_DIR": str(machine.state), "HOME": str(machine.home)}
    return operator.deploy(tree, "--no-verify-sysinfos", *more)


def outcomes(said: str) -> list[tuple[str, str]]:
    """Return steps and their outcomes, as the file printed them."""
    ends = re.findall(r"^(ok|already-done|failed|killed|interrupted) +(\S+)  [\d.]+ s$", said, re.MULTILINE)
    return [(name, outcome) for outcome, name in ends]


MANY = {
    "scripts/once": script(
        "conf once\nout made=dir/made", 'echo once >>~/log; printf "%s" "a b" >"$made"; chmod +x "$made"'
    ),
    "scripts/onchange": script(
        "conf onchange\nref made=dir/made\nvar x='it'\"'\"'s' y", 'cat "$made" >~/made; echo "$x" >>~/log'
    ),
    "scripts/guard": script(
        "var values a 'b  c' $'new\\nline' -n ''",
        "shouldrun x 1 || exit\n: >~/values\n"
        'for v in "${values[@]}"; do printf \'<%s>\' "$v" >>~/values; done\nsetdone x 1',
    ),
    "scripts/web/files": script(
        "conf once strict\nref r=data\nref t=conf",
        'urequire uinst\nuinst_tree -q "$r" ~/data >/dev/null; cp -p "$t" ~/conf',
    ),
    "scripts/lib": script("conf once", "urequire ours; ours >~/ours"),
    "lib/ours": "ours() { echo 'of the tree'; }\n",
    "scripts/web/data/bin": b"\x00\x01\xff\n\x1e",
    "scripts/web/data/latin": "caf\udce9\n",
    "scripts/web/data/crlf": "a\r\nb\r\n",
    "scripts/web/data/open": "no newline",
    "scripts/web/data/empty": "",
    "scripts/web/data/newlines": "\n\n\nx\n\n",
    "scripts/web/data/END": "END\nEND_\nEND\n",
    "scripts/web/data/run": Executable('#!/bin/sh\necho "$0" `id` \\ \\\\\n'),
    "scripts/web/data/odd 'name'": "x\n",
    "scripts/web/data/link": Link("run"),
    "scripts/web/data/inner/deep": "x\n",
    "scripts/web/conf": "x = 1\n",
    "univ.run/medusa/default": "once\nonchange\nguard\nweb/files\nlib\n",
}


def test_what_was_rendered_and_run_is_done_for_a_deploy(operator, machine, tmp_path):
    tree = plant(tmp_path / "tree", MANY)
    status, said = machine.run(rendered(operator, tree))
    assert status == 0, said
    assert [outcome for _, outcome in outcomes(said)] == ["ok"] * 5
    assert {outcome for _, outcome in deployed(operator, machine, tree).outcomes} == {"already-done"}
    assert (machine.home / "log").read_text() == "once\nit's\n"
    assert (machine.home / "made").read_text() == "a b"
    assert (machine.home / "values").read_bytes() == b"<a><b  c><new\nline><-n><>"
    assert (machine.home / "ours").read_text() == "of the tree\n"
    assert contents(machine.home / "data") == contents(tree / "scripts/web/data")
    assert not machine.remains()


def test_what_was_deployed_is_done_for_the_rendered_plan(operator, machine, tmp_path):
    tree = plant(tmp_path / "tree", MANY)
    assert {outcome for _, outcome in deployed(operator, machine, tree).outcomes} == {"ok"}
    before = machine.markers()
    status, said = machine.run(rendered(operator, tree))
    assert status == 0, said
    assert [outcome for _, outcome in outcomes(said)] == DONE * 5
    assert machine.markers() == before
    assert "medusa.univ.run: ok (5 already-done)" in said


def test_o4_its_output_is_shown_as_that_of_a_deploy(operator, machine, tmp_path):
    """O4: redrawn lines in their last state, no sequences; what is malformed is shown, and commands nothing."""
    data = (
        b"plain\r\n  0%\r 50%\r100%\r\nlong line\rab\n\x1b[1;31mred\x1b[0m x\nspin |\b/\b-\b\\\bdone\n\b\bx\n"
        b"\x1b]0;title\x07a\x1b]8;;u\x1b\\b\n\x1b[2J\x1b[1;1Hx\x1b(B\nabc\r\x1b[Kd\nabc\x1b[2K\rd\n"
        b"\xe2\x82\xac\xe2\x82\xac\rab\xe2\x82\xac\nwait\b\b\b\bdone\n"
    )
    hostile = b"half \x1b[3\n\x1b]0;no end\n\x07\x7f\x1b\n"
    tree = plant(tmp_path / "tree", {"scripts/a": script("ref f=data", "cat $f"), "scripts/data": data + hostile})
    plant(tree, {"hosts/medusa/default": "a\n"})
    status, said = machine.run(rendered(operator, tree))
    assert status == 0
    shown = [line.removeprefix("  | ") for line in said.splitlines() if line.startswith("  | ")]
    assert [line.rstrip() for line in shown[:-3]] == LineDiscipline().feed(data)
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f]", said)


def test_a_marker_is_the_same_but_for_user_and_time(operator, machine, tmp_path):
    tree = plant(tmp_path / "tree", MANY)
    machine.run(rendered(operator, tree))
    other = Machine(tmp_path / "other")
    deployed(operator, other, tree)
    assert machine.markers() == other.markers()
    for name in machine.markers():
        one, two = (dict(line.partition(" ")[::2] for line in (each.state / "markers" / name).read_text().splitlines())
                    for each in (machine, other))  # fmt: skip
        assert one.keys() == two.keys()
        assert {key for key in one if one[key] != two[key]} <= {"time", "session", "by"}
        assert one.get("by", "%3Arender").endswith("%3Arender")


def test_the_same_plan_makes_the_same_bytes(operator, tmp_path):
    tree = plant(tmp_path / "tree", MANY)
    first = rendered(operator, tree).read_bytes()
    assert rendered(operator, tree).read_bytes() == first
    assert operator.run("render", "--path", tree, "--host", HOST).out == first
    assert rendered(operator, tree, "--set", "x=2").read_bytes() != first


def test_it_is_for_its_owner_s_eyes_and_plain_text(operator, tmp_path):
    tree = plant(tmp_path / "tree", MANY)
    file = rendered(operator, tree)
    assert file.stat().st_mode & 0o777 == 0o600
    text = file.read_text()
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f]", text)
    assert "urequire ours; ours >~/ours\n" in text
    assert "5  lib" in text
    subprocess.run([BASH, "-n", file], check=True)


def test_a_failure_stops_it_and_names_the_operator_s_line(operator, machine, tmp_path):
    files = {
        "scripts/bad": script("desc 'it'\nconf strict", "echo before\nfalse\necho behind >~/behind"),
        "scripts/never": script("", "touch ~/never"),
        "univ.run/medusa/default": "bad\nnever\n",
    }
    tree = plant(tmp_path / "tree", files)
    status, said = machine.run(rendered(operator, tree))
    assert status == 1
    assert f"{tree}/scripts/bad:5: `bad` failed (status 1)" in said
    assert outcomes(said) == [("bad", "failed")]
    assert "  | before\n" in said
    assert not (machine.home / "never").exists()
    assert not machine.remains()


def test_a_message_of_bash_names_the_line_too(operator, machine, tmp_path):
    files = {"scripts/bad": script("", "echo one\necho ${x?missing}"), "univ.run/medusa/default": "bad\n"}
    tree = plant(tmp_path / "tree", files)
    status, said = machine.run(rendered(operator, tree))
    assert (status, f"{tree}/scripts/bad:3: `bad` failed" in said) == (1, True), said


def test_it_carries_on_where_it_failed(operator, machine, tmp_path):
    files = {
        "scripts/a": script("conf once", "echo a >>~/log"),
        "scripts/b": script("conf once", "[ -e ~/mended ] && echo b >>~/log"),
        "univ.run/medusa/default": "a\nb\n",
    }
    file = rendered(operator, plant(tmp_path / "tree", files))
    assert machine.run(file)[0] == 1
    (machine.home / "mended").touch()
    status, said = machine.run(file)
    assert (status, outcomes(said)) == (0, [("a", "already-done"), ("b", "ok")])
    assert (machine.home / "log").read_text() == "a\nb\n"


def test_it_takes_the_lock_and_is_kept_out_by_it(operator, machine, tmp_path):
    files = {
        "scripts/slow": script("", "touch ~/began; until [ -e ~/go ]; do sleep 0.1; done"),
        "univ.run/medusa/default": "slow\n",
    }
    tree = plant(tmp_path / "tree", files)
    file = rendered(operator, tree)
    with machine.start(file) as process:
        try:
            wait_until((machine.home / "began").exists)
            assert deployed(operator, machine, tree).status == 4
            with machine.start(file) as second:
                said = second.communicate(timeout=PATIENCE)[0].decode()
            assert (second.returncode, "locked: held by" in said, ":render" in said) == (4, True, True), said
        finally:
            (machine.home / "go").touch()
        process.communicate(timeout=PATIENCE)
    assert process.returncode == 0
    assert not machine.remains()


@pytest.mark.parametrize(("number", "twice", "status"), [
    (signal.SIGINT, False, 130), (signal.SIGINT, True, 130), (signal.SIGTERM, False, 143), (signal.SIGHUP, False, 143),
])  # fmt: skip
def test_signals_end_it_as_they_end_a_deploy(operator, machine, tmp_path, number, twice, status):
    files = {
        "scripts/slow": script(
            "",
            "trap 'touch ~/ended; exit 1' TERM; touch ~/began\n"
            "for i in {1..600}; do [ -e ~/go ] && break; sleep 0.1; done; touch ~/whole",
        ),
        "scripts/never": script("", "touch ~/never"),
        "univ.run/medusa/default": "slow\nnever\n",
    }  # fmt: skip
    file = rendered(operator, plant(tmp_path / "tree", files))
    with machine.start(file) as process:
        wait_until((machine.home / "began").exists)
        # To all of the group, as a terminal does.
        os.killpg(process.pid, number)
        if twice:
            wait_until(lambda: [*machine.state.glob("sessions/*/segment*/stop")])
            os.killpg(process.pid, number)
        if number == signal.SIGINT and not twice:
            wait_until(lambda: [*machine.state.glob("sessions/*/segment*/stop")])
            (machine.home / "go").touch()
        said = process.communicate(timeout=PATIENCE)[0].decode()
    assert process.returncode == status, said
    ended = number != signal.SIGINT or twice
    assert ((machine.home / "ended").exists(), (machine.home / "whole").exists()) == (ended, not ended)
    assert not (machine.home / "never").exists()
    assert not machine.remains()
    assert not [*machine.temporary.iterdir()]


def test_a_file_that_was_cut_off_does_nothing(operator, machine, tmp_path):
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    files = {"scripts/a": script("conf once", "touch ~/ran"), "univ.run/medusa/default": "a\n"}
    whole = rendered(operator, plant(tmp_path / "tree", files)).read_bytes()
    cut = tmp_path / "cut.sh"
    for at in [len(whole) - 5, *random.Random(seed).sample(range(len(whole) - 5), 12)]:
        cut.write_bytes(whole[:at])
        machine.run(cut)
        assert not (machine.home / "ran").exists(), at
        assert not machine.state.exists(), at
    assert machine.run(operator.directory / "plan.sh")[0] == 0


def test_expected_facts_are_verified_there_too(operator, machine, tmp_path):
    files = {
        "scripts/a": script("", "touch ~/ran"),
        "univ.run/medusa/default": "a\n",
        "univ.run/medusa/sysinfos.conf": "bits=31\n",
    }
    tree = plant(tmp_path / "tree", files)
    status, said = machine.run(rendered(operator, tree))
    assert status == 3
    assert f"{tree}/univ.run/medusa/sysinfos.conf: `bits` is `" in said
    assert not (machine.home / "ran").exists()
    assert machine.run(rendered(operator, tree, "--no-verify-sysinfos"))[0] == 0


def test_output_cannot_obey_a_terminal_and_is_in_order(operator, machine, tmp_path):
    body = "printf 'one\\033[2J\\a\\n'; printf 'two' >&2; printf ' caf\\303\\251\\n'; printf 'no end'"
    files = {"scripts/a": script("", body), "univ.run/medusa/default": "a\n"}
    said = machine.run(rendered(operator, plant(tmp_path / "tree", files)), LC_ALL="C.UTF-8")[1]
    assert "  | one?\n  | two café\n  | no end\nok " in said


def test_unacknowledged_output_of_an_earlier_session_is_shown(operator, machine, tmp_path):
    files = {"scripts/a": script("", "echo hello; touch ~/ran"), "univ.run/medusa/default": "a\n"}
    tree = plant(tmp_path / "tree", files)
    deployed(operator, machine, tree, "--detach")
    wait_until(lambda: [*machine.state.glob("sessions/*/segment*/finished")])
    status, said = machine.run(rendered(operator, tree))
    assert status == 0
    assert re.search(r"unacknowledged output of an earlier session of .*, started .* \(finished\):\n", said), said
    assert said.count("  | hello\n") == 2
    assert "\x1e" not in said


# --- local steps ---------------------------------------------------------------------------------

LOCAL = {
    "scripts/make": script("conf local once\nout made", 'echo "made here" >"$made"; echo ran >>~/here'),
    "scripts/use": script("conf onchange\nref made", 'cat "$made" >~/used'),
    "univ.run/medusa/default": "make\nuse\n",
}


def test_local_steps_are_refused_with_their_names_and_the_reason(operator, tmp_path):
    tree = plant(tmp_path / "tree", LOCAL)
    done = rendered(operator, tree, status=2)
    assert f"{tree}/univ.run/medusa/default:1:1: `make` is local: the target cannot run it" in done.talk
    assert "`--run-local`" in done.talk
    assert not (operator.home / "here").exists()


def test_with_run_local_what_they_make_is_included(operator, machine, tmp_path):
    tree = plant(tmp_path / "tree", LOCAL)
    file = rendered(operator, tree, "--run-local")
    assert (operator.home / "here").read_text() == "ran\n"
    status, said = machine.run(file)
    assert (status, outcomes(said)) == (0, [("use", "ok")])
    assert (machine.home / "used").read_text() == "made here\n"
    # Done as a deploy does it: the local step is marked here, and the other by what its file holds.
    assert rendered(operator, tree, "--run-local").read_bytes() == file.read_bytes()
    assert (operator.home / "here").read_text() == "ran\n"
    assert outcomes(machine.run(file)[1]) == [("use", "already-done")]


def test_a_local_step_that_fails_leaves_no_file(operator, tmp_path):
    tree = plant(tmp_path / "tree", {**LOCAL, "scripts/make": script("conf local\nout made", "echo why; exit 3")})
    done = rendered(operator, tree, "--run-local", status=1)
    assert "why" in done.talk
    assert not done.out
    assert not (operator.directory / "plan.sh").exists()


def test_a_local_step_that_needs_what_the_target_makes_cannot_be_rendered(operator, tmp_path):
    files = {
        "scripts/there": script("out made", ':'),
        "scripts/here": script("conf local\nref made", ":"),
        "univ.run/medusa/default": "there\nhere\n",
    }  # fmt: skip
    done = rendered(operator, plant(tmp_path / "tree", files), "--run-local", status=2)
    assert "`here` is local and needs `made`, which an earlier step makes on the target" in done.talk


# --- the command ---------------------------------------------------------------------------------


def test_json_holds_the_text_or_where_it_is(operator, tmp_path):
    tree = plant(tmp_path / "tree", MANY)
    words = ["render", "--path", tree, "--host", HOST, "--format", "json"]
    host = operator.run(*words).document["hosts"][0]
    assert host["text"].startswith("#!")
    file = operator.directory / "out.sh"
    other = operator.run(*words, "--output", file).document["hosts"][0]
    assert (other["file"], other["sha256"], other["plan"]) == (str(file), host["sha256"], host["plan"])
    assert file.read_text() == host["text"]


@pytest.mark.parametrize(("words", "message"), [
    (["--host", f"{HOST},other"], "`render` takes one host, not 2"),
    (["--host", HOST, "--output", "nowhere/x"], "no directory `nowhere`"),
    (["--host", HOST, "--output", "home"], f"`home` is a directory, expected a file; e.g. `--output home/{HOST}.sh`"),
    (["--host", HOST, "--script", "nosuch"], "unknown script `nosuch`"),
])  # fmt: skip
def test_bad_input_is_reported_and_nothing_is_written(operator, tmp_path, words, message):
    tree = plant(tmp_path / "tree", {**MANY, "hosts/other/default": "lib\n"})
    done = operator.run("render", "--path", tree, *words)
    assert (done.status, message in done.talk, done.out) == (2, True, b""), done.talk


def test_the_tools_of_busybox_are_enough(operator, machine, tmp_path):
    if not shutil.which("busybox"):
        pytest.skip("needs busybox")
    applets = tmp_path / "applets"
    applets.mkdir()
    subprocess.run(["busybox", "--install", "-s", applets], check=True)
    tree = plant(tmp_path / "tree", MANY)
    file = rendered(operator, tree)
    status, said = machine.run(file, PATH=str(applets))
    assert (status, [outcome for _, outcome in outcomes(said)]) == (0, ["ok"] * 5), said
    assert contents(machine.home / "data") == contents(tree / "scripts/web/data")


def test_where_root_cannot_be_had_nothing_runs(operator, tmp_path):
    """The user is one that this machine does not know, so sudo is refused him, as to the login user of a deploy."""
    if os.geteuid() != 0:
        pytest.skip("becomes another user, which takes root")
    files = {
        "scripts/a": script("", "touch ~/ran"),
        "scripts/r": script("conf root", ":"),
        "univ.run/medusa/default": "a\nr\n",
    }
    text = rendered(operator, plant(tmp_path / "tree", files)).read_bytes()
    with tempfile.TemporaryDirectory(prefix="runsdeploy-render-", dir="/tmp") as made:
        place = Path(made)
        place.chmod(0o755)
        machine = Machine(place)
        machine.state.mkdir()
        for each in (machine.home, machine.temporary, machine.state):
            os.chown(each, 61873, 61873)
        become = "import os; os.setgroups([]); os.setgid(61873); os.setuid(61873); os.execv('/bin/bash', ['-', '-s'])"
        done = subprocess.run(
            [sys.executable, "-c", become], input=text, env=machine.environment(), cwd="/",
            capture_output=True, check=False, timeout=PATIENCE,
        )  # fmt: skip
        assert done.returncode == 3, done.stdout + done.stderr
        assert b"`conf root` needs root" in done.stderr
        assert not (machine.home / "ran").exists()
        assert not machine.remains()


@pytest.mark.parametrize("word", ["--dry-run", "--help", "web1"])
def test_it_takes_no_arguments_and_then_does_nothing(operator, machine, tmp_path, word):
    tree = plant(tmp_path / "tree", {"scripts/a": script("", "touch ~/ran"), "univ.run/medusa/default": "a\n"})
    done = subprocess.run(
        [BASH, rendered(operator, tree), word], env=machine.environment(), capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"a rendered plan takes no arguments, found `{word}`")
    assert not machine.state.exists()
    assert not (machine.home / "ran").exists()


def test_a_minus_is_stdout(operator, tmp_path):
    tree = plant(tmp_path / "tree", MANY)
    done = operator.run("render", "--path", tree, "--host", HOST, "--output", "-")
    assert (done.status, done.out[:2]) == (0, b"#!"), done.talk
    assert not (operator.directory / "-").exists()


def test_a_failure_in_a_sourced_file_is_told_at_its_line(operator, machine, tmp_path):
    """D13."""
    files = {
        "scripts/it": script("ref -r f=f.sh", '. "$f"\nfails\n'),
        "scripts/f.sh": "fails() {\n    false\n}\n",
        "scripts/library": script("conf strict", "urequire mine"),
        "lib/mine": "true\nfalse\n",
    }
    for name, place in (("it", "scripts/f.sh:2"), ("library", "lib/mine:2")):
        tree = plant(tmp_path / name, {**files, "univ.run/medusa/default": f"{name}\n"})
        status, said = machine.run(rendered(operator, tree))
        assert status == 1
        assert f"{place}: `{name}` failed (status 1)" in said


@pytest.mark.parametrize("size", [65_535, 65_536, 65_537, 131_072, 300_001])
def test_a_line_without_an_end_is_shown_in_pieces_and_the_step_s_end_is_seen(operator, machine, tmp_path, size):
    """The kind of D21: no line is held whole, however long it is."""
    body = f"head -c {size} /dev/zero | tr '\\0' x"
    tree = plant(tmp_path / "tree", {"scripts/it": script("", body), f"hosts/{HOST}/default": "it\n"})
    status, said = machine.run(rendered(operator, tree))
    assert (status, outcomes(said)) == (0, [("it", "ok")])
    pieces = [line.removeprefix("  | ") for line in said.splitlines() if set(line) == set("  | x")]
    assert "".join(pieces) == "x" * size
    assert max(map(len, pieces)) <= 131_072


def test_r8_killed_while_it_runs_it_leaves_only_what_the_next_session_removes(operator, machine, tmp_path):
    body = f': >"{tmp_path}/begun"; sleep 600'
    tree = plant(tmp_path / "tree", {"scripts/it": script("", body), f"hosts/{HOST}/default": "it\n"})
    with machine.start(rendered(operator, tree)) as process:
        wait_until((tmp_path / "begun").exists)
        assert not [*machine.temporary.iterdir()]
        os.killpg(process.pid, signal.SIGTERM)
        process.communicate(timeout=PATIENCE)
