"""Limits of the controller: a full disk, few descriptors, closed streams. Each is named, and the host is released."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys

import pytest

from tests.trees import Finished, plant, script, wait

TWO_SIDES = {
    "scripts/made": script("out o", 'echo made\nhead -c 4000000 /dev/zero >"$o"\necho x >>~/made'),
    "scripts/used": script("conf local\nref r=o", 'wc -c <"$r"'),
    "univ.run/medusa/default": "made\nused\n",
}


def under(operator, shell: str, *arguments: str) -> Finished:
    """Run the program behind commands of a shell that change its limits or streams."""
    command = f"{shell}\nexec {shlex.quote(sys.executable)} -m runsdeploy {shlex.join(arguments)}"
    with subprocess.Popen(
        ["bash", "-c", command], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        cwd=operator.directory, env=operator.settings(), start_new_session=True,
    ) as process:  # fmt: skip
        return wait(process)


def deploying(operator, tree, *more: str) -> tuple[str, ...]:
    return ("deploy", "--path", str(tree), "--host", "medusa.univ.run", "--ssh-config", str(operator.ssh_config), *more)


def small(directory) -> str:
    """Return commands that put a small disk in place of a directory, for the program alone."""
    again = '[ "$NEW" ] || NEW=1 exec unshare -m bash -c "$BASH_EXECUTION_STRING"'
    return f"{again}\nmount -t tmpfs -o size=2m none {directory}"


def free_again(operator, tree):
    """Deploy once more, without waiting for anybody."""
    again = operator.deploy(tree, "--format", "jsonl")
    assert again.status == 0, again.talk
    return again


# --- disks -----------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("target")
def test_a_file_that_this_machine_may_not_write_stops_the_host_by_name(operator, tmp_path):
    """D12: the disk of the controller fills while a file comes back; the steps that ran are told as they are."""
    tree = plant(tmp_path / "tree", TWO_SIDES)
    found = under(operator, "ulimit -f 1000", *deploying(operator, tree, "--format", "json"))
    host = found.document["hosts"][0]
    assert (found.status, host["outcome"]) == (3, "interrupted")
    assert found.outcomes == [("made", "ok"), ("used", "skipped")]
    assert re.fullmatch(r"`tmp/runsdeploy-files-\w+/0-0`: file too large, on this machine", host["message"])
    assert "ulimit -f" in host["hint"]
    assert free_again(operator, tree).output == "made\n4000000\n"


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts take root")
@pytest.mark.usefixtures("target")
def test_a_full_disk_of_this_machine_is_named(operator, tmp_path):
    """D12: TMPDIR is full while a file comes back."""
    tree = plant(tmp_path / "tree", TWO_SIDES)
    found = under(operator, small(operator.temporary), *deploying(operator, tree))
    assert found.status == 3
    assert "no space left on device, on this machine" in found.talk
    assert "set TMPDIR" in found.talk
    assert "medusa.univ.run: interrupted (1 ok, 1 skipped)" in found.text
    free_again(operator, tree)


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts take root")
@pytest.mark.usefixtures("target")
def test_a_bundle_that_has_no_space_on_this_machine_is_not_taken_for_a_changed_file(operator, tmp_path):
    """D12: a file to send is copied to TMPDIR first."""
    tree = plant(tmp_path / "tree", TWO_SIDES | {
        "scripts/made": script("ref big", 'wc -c <"$big"'), "scripts/big": b"x" * (9 << 20),
        "univ.run/medusa/default": "made\n",
    })  # fmt: skip
    found = under(operator, small(operator.temporary), *deploying(operator, tree, "--format", "json"))
    host = found.document["hosts"][0]
    assert (found.status, host["outcome"]) == (3, "refused")
    assert "no space left on device, on this machine" in host["message"]
    free_again(operator, tree)


# --- descriptors -----------------------------------------------------------------------------------------------------


def test_too_few_descriptors_are_an_error_before_anything_runs(operator, target, tmp_path):
    """D12: with `ulimit -n 64` the operator's section was blamed."""
    tree = plant(tmp_path / "tree", TWO_SIDES)
    found = under(operator, "ulimit -n 64", *deploying(operator, tree))
    assert (found.status, found.out) == (2, b"")
    assert found.talk == (
        "this process may open 64 files at once, expected at least 128; raise the limit, as root: `ulimit -n 1024`\n"
    )
    assert not (target.home / "made").exists()


@pytest.mark.usefixtures("target")
def test_a_low_limit_of_descriptors_that_may_be_raised_is_raised(operator, tmp_path):
    """D12: macOS starts programs with 256."""
    tree = plant(tmp_path / "tree", TWO_SIDES)
    assert under(operator, "ulimit -Sn 64", *deploying(operator, tree)).status == 0


# --- streams ---------------------------------------------------------------------------------------------------------


def test_a_closed_stdout_is_an_error_before_anything_runs(operator, target, tmp_path):
    """D12: the next file that is opened would get its number."""
    tree = plant(tmp_path / "tree", TWO_SIDES)
    found = under(operator, "exec >&-", *deploying(operator, tree))
    assert (found.status, found.talk) == (2, "stdout is closed; to discard the output write `>/dev/null`\n")
    assert not (target.home / "made").exists()


@pytest.mark.parametrize("closed", ["exec 2>&-", "exec <&-", "exec <&- 2>&-"])
@pytest.mark.usefixtures("target")
def test_other_closed_streams_change_nothing(operator, tmp_path, closed):
    """D12: what is closed is opened as /dev/null, before a file can get its number."""
    tree = plant(tmp_path / "tree", TWO_SIDES)
    found = under(operator, closed, *deploying(operator, tree))
    assert (found.status, "4000000" in found.text) == (0, True)


def test_a_full_disk_behind_stdout_stops_the_host_before_its_first_step(operator, target, tmp_path):
    """D12: ended with status 1, `a step failed`, and held the host for two minutes."""
    tree = plant(tmp_path / "tree", TWO_SIDES)
    found = under(operator, "exec >/dev/full", *deploying(operator, tree))
    assert found.status == 74
    assert "cannot write to stdout: no space left on device" in found.talk
    assert not (target.home / "made").exists()
    free_again(operator, tree)


def test_output_that_could_not_be_shown_is_shown_by_the_next_deploy(operator, target, tmp_path):
    """D12: stdout gets full while a step runs; the running step ends, and no other starts."""
    tree = plant(tmp_path / "tree", {
        "scripts/first": script("", "shouldrun || exit\nfor i in {1..20000}; do echo line $i; done\n"
                                'until [ -e "$RUNS_FILES/../segment0/stop" ]; do sleep 0.05; done\nsetdone'),
        "scripts/second": script("", "echo >>~/second"),
        "univ.run/medusa/default": "first\nsecond\n",
    })  # fmt: skip
    found = under(operator, f"ulimit -f 20; exec >{operator.directory}/log", *deploying(operator, tree))
    assert found.status == 74
    assert "cannot write to stdout: file too large" in found.talk
    shown = (operator.directory / "log").read_text()
    assert "line 1\n" in shown
    assert not (target.home / "second").exists()
    again = free_again(operator, tree)
    earlier = "".join(each["text"] for each in again.events if each["event"] == "output" and each.get("earlier"))
    assert earlier.endswith("line 20000\n")
    # Each line is in one of the two, and the last lines that the log took may be in both.
    last = int(shown.splitlines()[-2].removeprefix("  | line "))
    assert int(earlier.splitlines()[1].removeprefix("line ")) <= last + 1


@pytest.mark.parametrize("form", ["json", "jsonl"])
@pytest.mark.usefixtures("target")
def test_a_document_that_cannot_be_written_has_a_status_of_its_own(operator, tmp_path, form):
    """D12: a traceback."""
    tree = plant(tmp_path / "tree", TWO_SIDES)
    found = under(operator, "exec >/dev/full", *deploying(operator, tree, "--format", form))
    assert (found.status, found.talk.count("\n")) == (74, 1), found.talk
    assert found.talk.startswith("cannot write to stdout: no space left on device")


@pytest.mark.parametrize(
    "line", ["list", "--version", "--help", "deploy --help", "plan --host medusa.univ.run", "check --format json"]
)
@pytest.mark.parametrize("buffered", ["", "1"])
def test_every_command_names_an_output_that_it_cannot_write(operator, tmp_path, line, buffered):
    """D12: whether or not Python buffers."""
    operator.environment |= {"PYTHONUNBUFFERED": buffered, "RUNSDEPLOY_PATH": str(plant(tmp_path / "tree", TWO_SIDES))}
    found = under(operator, "exec >/dev/full", *line.split())
    assert (found.status, found.talk) == (74, "cannot write to stdout: no space left on device\n")


@pytest.mark.parametrize("command", ["plan --host medusa.univ.run", "deploy --host medusa.univ.run"])
def test_no_directory_for_temporary_files_is_told_with_the_repair(operator, tmp_path, command):
    """D12: it was taken for a mistake of ours."""
    operator.environment |= {"RUNSDEPLOY_PATH": str(plant(tmp_path / "tree", TWO_SIDES)), "TMPDIR": str(tmp_path)}
    found = under(operator, "ulimit -f 0", *command.split())
    assert (found.status, found.talk.count("\n")) == (74, 1), found.talk
    assert "no directory for temporary files can be written" in found.talk
    assert found.talk.endswith("raise `ulimit -f`\n")


# --- state -----------------------------------------------------------------------------------------------------------


def test_r23_a_local_state_that_cannot_be_written_is_found_before_a_remote_step_runs(operator, target, tmp_path):
    """D12: it was told after the remote step had run."""
    tree = plant(tmp_path / "tree", TWO_SIDES | {"scripts/used": script("conf local\nref r=o", "setdone")})
    (operator.directory / "file").touch()
    operator.environment["RUNSDEPLOY_STATE_DIR"] = str(operator.directory / "file")
    found = operator.deploy(tree, "--format", "json")
    host = found.document["hosts"][0]
    assert (found.status, host["outcome"]) == (3, "refused")
    assert str(operator.directory / "file") in host["message"]
    assert not (target.home / "made").exists()


def test_r23_a_state_of_the_target_that_cannot_be_written_is_found_before_a_local_step_runs(operator, target, tmp_path):
    """D12, the other way round."""
    tree = plant(tmp_path / "tree", {
        "scripts/here": script("conf local", f"touch {tmp_path}/ran"), "scripts/there": script("", "setdone"),
        "univ.run/medusa/default": "here\nthere\n",
    })  # fmt: skip
    remote = target.state
    remote.touch()
    try:
        found = operator.deploy(tree, "--format", "json")
    finally:
        remote.unlink()
    host = found.document["hosts"][0]
    assert (found.status, host["outcome"]) == (3, "refused")
    assert str(remote) in host["message"]
    assert not (tmp_path / "ran").exists()
