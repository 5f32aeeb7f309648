"""A section that bash could not read is an error, and never taken for one that declares nothing (D10)."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from runsdeploy.plan.bash_errors import find_syntax_errors
from tests.trees import Executable, Operator, plant, script

CONF = 'var d=/srv/app\nref -r x=data\nvar t="$TMPDIR"\nfalse || true'
TREE = {"scripts/a": script(CONF, 'echo "<$d>"'), "scripts/data": "text", "hosts/medusa/default": "a\n"}
REAL = shutil.which("bash") or "bash"


@pytest.fixture
def operator(tmp_path):
    return Operator(tmp_path / "operator")


@pytest.fixture
def tree(tmp_path):
    return plant(tmp_path / "tree", TREE)


def variables(done):
    assert done.status == 0, done.talk
    return done.steps[0]["variables"]


@pytest.mark.parametrize(
    "name", [".", "t", "./a b", "new\nline", "co:lon", "été", "$x'\"", os.fsdecode(b"latin-\xe9"), "*"]
)
def test_any_directory_will_do_for_the_sections(operator, tree, name):
    """D10: relative to where the operator is; sections get it as an absolute one. Messages and errors are as ever."""
    (operator.directory / name).mkdir(exist_ok=True)
    for value in (name, str(operator.directory / name)):
        operator.environment["TMPDIR"] = value
        found = variables(operator.run("plan", "--path", tree, "--host", "medusa", "--format", "json"))
        assert found["d"] == "/srv/app"
        assert found["x"] == "$RUNS_FILES/tree0/scripts/data"
        assert found["t"].startswith("/")
        plant(
            tree,
            {"scripts/bad": script("var a=1\nif"), "scripts/broken": script("", "fi"), "scripts/c": script("no_such")},
        )
        done = operator.run(
            "plan", "--path", tree, "--host", "medusa", *["--script", "bad", "--script", "broken", "--script", "c"]
        )
        assert [line.partition(": ")[0].rpartition("/")[2] for line in done.talk.splitlines()] == [
            "bad:3",
            "broken:2",
            "c:1",
        ]
        assert "syntax error" in done.talk
        for each in ("bad", "broken", "c"):
            (tree / "scripts" / each).unlink()
    assert not [path for path in (operator.directory / name).iterdir() if path.name.startswith("runsdeploy-conf")]


def test_one_that_cannot_be_written_is_passed_over_or_named(operator, tree, tmp_path):
    (tmp_path / "file").touch()
    operator.environment["TMPDIR"] = str(tmp_path / "file")
    assert variables(operator.run("plan", "--path", tree, "--host", "medusa", "--format", "json"))["d"] == "/srv/app"


HARMS = {
    "the directory": 'rm -rf "$RUNS_root"',
    "its sections": 'rm -rf "$RUNS_root/section"',
    "the next section": 'rm "$RUNS_root"/section/3',
    "a section that is a directory": 'rm "$RUNS_root"/section/3; mkdir "$RUNS_root"/section/3',
    "the outputs": 'rm -rf "$RUNS_root/output"',
    "its own output": 'rm -rf "$RUNS_root/output"/*; chmod 0 "$RUNS_root/output"; rmdir "$RUNS_root/output"',
    "what is parsed": 'rm -rf "$RUNS_root/syntax"',
    "the tree": 'rm "$RUNS_root/tree0"',
}


@pytest.mark.parametrize("harm", HARMS.values(), ids=HARMS)
def test_a_file_that_is_gone_while_sections_are_evaluated_is_an_error(operator, tmp_path, harm):
    """D10: with the operator's file, and nothing is deployed."""
    tree = plant(
        tmp_path / "tree",
        {
            "scripts/runs.conf": f"if [[ ${{RUNS_script-}} == first ]]; then {harm}; fi",
            "scripts/first": script(""),
            "scripts/a": script("var d=/srv/app", 'echo "ran <$d>"'),
            "hosts/medusa/default": "first\na\n",
        },
    )
    done = operator.deploy(tree, host="medusa")
    assert done.status == 2, done.talk
    assert "ran" not in done.text
    assert f"{tree}/scripts/" in done.talk
    assert "Traceback" not in done.talk


@pytest.fixture
def small(tmp_path):
    """A disk of few bytes, and somebody whose TMPDIR it is."""
    if os.geteuid() or subprocess.run(["unshare", "-m", "true"], capture_output=True, check=False).returncode:
        pytest.skip("needs root and mount namespaces")
    disk = plant(tmp_path / "disk", {})

    def run(size: str, *words: str) -> tuple[int, str]:
        operator = Operator(tmp_path / "operator")
        environment = {**operator.settings(), "TMPDIR": str(disk)}
        mounted = f'mount -t tmpfs -o size={size} tmpfs "$1" && shift && exec "$@"'
        python = str(Path(__file__).parents[2] / ".venv/bin/python")
        command = ["unshare", "-m", "sh", "-c", mounted, "sh", str(disk), python, "-m", "runsdeploy", *words]
        done = subprocess.run(
            command,
            env=environment,
            cwd=tmp_path,
            capture_output=True,
            check=False,
            text=True,
            stdin=subprocess.DEVNULL,
        )
        return done.returncode, done.stdout + done.stderr

    return run


@pytest.mark.parametrize("conf", ["if", "no_such_command", "var a=(1)", 'echo "${x"', "exit 3"])
@pytest.mark.parametrize("size", ["28k", "36k", "44k", "52k", "64k"])
def test_a_full_disk_hides_no_error(small, tmp_path, conf, size):
    """D10: what bash says of a section is written to that disk; the section fills it first."""
    fill = 'dd if=/dev/zero of="$TMPDIR/fill" bs=4096 2>/dev/null; :\n'
    files = {"scripts/a": script(f"{fill}var x=1\n{conf}", "echo ran"), "hosts/medusa/default": "a\n"}
    status, told = small(size, "deploy", "--local", "--path", str(plant(tmp_path / "tree", files)), "--host", "medusa")
    assert status in {1, 2}, told
    assert "ran" not in told
    assert "Traceback" not in told
    assert "No space" in told or "no space" in told or "scripts/a:" in told


def test_a_bash_that_dies_without_a_word_is_an_error(operator, tree, tmp_path):
    """D10: before the first section, between two, and with a status of 0."""
    for how in ("exit 0", "kill -9 $$", "exit 1"):
        said = f'case $* in *BASH_VERSION*) exec {REAL} "$@" ;; esac'
        place = plant(tmp_path / "bin", {"bash": Executable(f"#!/bin/sh\n{said}\n{how}\n")})
        operator.environment["PATH"] = f"{place}:{Operator(tmp_path / 'other').settings()['PATH']}"
        done = operator.deploy(tree, host="medusa")
        assert done.status == 2
        assert f"{tree}/scripts/a:1: the section killed its shell" in done.talk


def test_a_syntax_check_that_did_not_run_is_no_clean_one(monkeypatch, tmp_path):
    """D10: `bash -n` killed, or with a status and no message."""
    for how, told in (("kill -9 $$", "status -9"), ("echo oops >&2; exit 2", "status 2: oops")):
        plant(tmp_path / "bin", {"bash": Executable(f"#!/bin/sh\n{how}\n")})
        monkeypatch.setattr("runsdeploy.plan.bash_errors.find_bash", lambda: str(tmp_path / "bin/bash"))
        (problem,) = find_syntax_errors([("lib/x", b"true\n")])
        assert str(problem) == f"lib/x:1: `bash -n` ended with {told}, so this is not parsed"


def test_a_script_that_was_not_parsed_is_no_clean_one(operator, tmp_path):
    """D10: bash is killed while it parses the SCRIPT section: no message, and no error."""
    harm = "trap 'kill -9 $BASHPID' EXIT\nulimit -f 0"
    tree = plant(tmp_path / "tree", {"scripts/a": script(harm, "if"), "hosts/medusa/default": "a\n"})
    done = operator.run("plan", "--path", tree, "--host", "medusa")
    assert done.status == 2
    assert f"{tree}/scripts/a:" in done.talk


@pytest.mark.parametrize("option", "abefhkmprtuvxBCEHPT")
def test_no_option_of_the_shell_hides_the_values_or_the_errors_of_script(operator, tree, option):
    """D10: after `set -r` a shell may open no file."""
    plant(
        tree,
        {"scripts/b": script(f"set -{option}\nvar d=/srv/app", "true"), "scripts/c": script(f"set -{option}", "fi")},
    )
    done = operator.run("plan", "--path", tree, "--host", "medusa", "--script", "b", "--format", "json")
    # After `set -t` bash ends a section behind its first command, after `set -k` each `a=b` is for the environment.
    assert option in "kt" or variables(done)["d"] == "/srv/app"
    done = operator.run("plan", "--path", tree, "--host", "medusa", "--script", "c")
    assert done.status == 2, done.out
    assert "scripts/c:3: bash: syntax error near unexpected token `fi'" in done.talk
