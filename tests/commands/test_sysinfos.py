"""A sysinfos.conf is a promise: over a real sshd, a host that is something else is left alone, at no cost otherwise."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.sshd import FakeHost
from tests.trees import Link, Operator, plant, script

HOST = "medusa.univ.run"
FILE = "univ.run/medusa/sysinfos.conf"
WRONG = "sysdist=(plan9)\nbits=31\n"


@pytest.fixture
def operator(operator):
    """Somebody who takes promises seriously."""
    operator.environment["RUNSDEPLOY_NO_VERIFY_SYSINFOS"] = ""
    return operator


def tree_of(tmp_path, facts=WRONG, **scripts):
    scripts = scripts or {"it": script("", "echo ran >>~/ran")}
    files = {f"scripts/{name}": text for name, text in scripts.items()}
    files |= {"univ.run/medusa/default": "".join(f"{name}\n" for name in scripts)}
    return plant(tmp_path / "tree", files | ({FILE: facts} if facts else {}))


def found(operator, tree, *more):
    """What the target says that it is, as the command prints it."""
    return operator.run("sysinfos", "--path", tree, "--host", HOST, "--ssh-config", operator.ssh_config, *more)


def channels(host: FakeHost) -> int:
    return host.log().count("Starting session: command")


# --- the check -----------------------------------------------------------------------------------


def test_a_host_that_is_something_else_is_refused_before_the_first_step(operator, target, tmp_path):
    tree = tree_of(tmp_path)
    done = operator.deploy(tree)
    host = done.document["hosts"][0]
    assert (done.status, host["outcome"], done.outcomes) == (3, "refused", [("it", "skipped")])
    assert host["message"].startswith(f"{tree / FILE}: `sysdist` is `")
    assert "where `plan9` is expected, `bits` is `" in host["message"]
    assert f"runsdeploy sysinfos --host {HOST} --save" in host["hint"]
    assert "--no-verify-sysinfos" in host["hint"]
    assert not (target.home / "ran").exists()
    assert not [path for path in target.state.rglob("*") if path.name in ("files", "run")]


def test_no_verify_sysinfos_goes_on_regardless(operator, target, tmp_path):
    assert operator.deploy(tree_of(tmp_path), "--no-verify-sysinfos").status == 0
    assert (target.home / "ran").exists()


def test_what_was_saved_is_kept_as_a_promise(operator, target, tmp_path):
    tree = tree_of(tmp_path, facts="")
    assert found(operator, tree, "--save").status == 0
    done = operator.deploy(tree)
    assert (done.status, done.outcomes) == (0, [("it", "ok")])
    (tree / FILE).write_text("sysname=(hurd)\n")
    assert operator.deploy(tree).hosts == {HOST: "refused"}
    assert (target.home / "ran").read_text() == "ran\n"


def test_the_check_costs_no_round_trip(sshd, tmp_path):
    host = sshd(HOST)
    operator = Operator(tmp_path / "operator", host.ssh_config, {"RUNSDEPLOY_NO_VERIFY_SYSINFOS": ""})
    tree = tree_of(tmp_path, facts="")
    assert operator.deploy(tree).status == 0
    plain = channels(host)
    assert found(operator, tree, "--save").status == 0
    before = channels(host)
    assert operator.deploy(tree).status == 0
    assert channels(host) - before == plain == 1


def test_a_local_step_does_not_run_for_a_host_that_is_something_else(operator, tmp_path):
    scripts = {"here": script("conf local", f"touch {tmp_path}/touched"), "there": script("", "touch ~/ran")}
    done = operator.deploy(tree_of(tmp_path, **scripts))
    assert done.hosts == {HOST: "refused"}
    assert "`bits` is `" in done.document["hosts"][0]["message"]
    assert not (tmp_path / "touched").exists()
    assert operator.deploy(tree_of(tmp_path, **scripts), "--no-verify-sysinfos").status == 0


def test_a_plan_of_local_steps_alone_asks_nothing_of_the_host(operator, tmp_path):
    done = operator.deploy(tree_of(tmp_path, here=script("conf local", ":")))
    assert done.outcomes == [("here", "ok")]


def test_a_dry_run_says_that_a_deploy_would_be_refused(operator, tmp_path):
    done = operator.deploy(tree_of(tmp_path), "--dry-run")
    assert (done.status, done.hosts) == (3, {HOST: "refused"})
    assert operator.deploy(tree_of(tmp_path), "--dry-run", "--no-verify-sysinfos").status == 0


def test_the_job_runner_s_commands_are_refused_too(operator, tmp_path):
    words = ["cron.status", "--path", tree_of(tmp_path), "--host", HOST, "--ssh-config", operator.ssh_config]
    done = operator.run(*words, "--format", "json")
    assert (done.status, done.hosts) == (3, {HOST: "refused"})
    assert "where `plan9` is expected" in done.document["hosts"][0]["message"]
    done = operator.run(*words, "--format", "json", "--no-verify-sysinfos")
    assert done.hosts == {HOST: "failed"}, "there is no job runner"
    (tmp_path / "tree" / FILE).write_text("sysdist=(a\n")
    done = operator.run(*words)
    assert (done.status, f"{FILE}:1" in done.talk) == (2, True)


def test_this_machine_is_checked_too(operator, tmp_path):
    operator.ssh_config = None
    assert operator.deploy(tree_of(tmp_path)).hosts == {HOST: "refused"}


def test_the_others_go_on(operator, target, tmp_path):
    tree = tree_of(tmp_path)
    plant(tree, {"hosts/other/default": "it\n"})
    config = plant(tmp_path, {"both": target.stanza().replace(HOST, f"{HOST} other", 1)}) / "both"
    way = ["--host", f"{HOST},other", "--ssh-config", config]
    done = operator.run("deploy", "--path", tree, *way, "--wait", "--format", "json")
    assert (done.status, done.hosts) == (3, {HOST: "refused", "other": "ok"})


# --- the command ---------------------------------------------------------------------------------


def test_sysinfos_prints_what_the_file_would_say(operator, tmp_path):
    done = found(operator, tree_of(tmp_path))
    assert done.status == 0
    assert re.fullmatch(r"sysname=\(linux\)\nsysdist=\(.*linux\)\n(sysver=\(.*\)\n)?bits=(32|64)\n", done.text)
    assert (tmp_path / "tree" / FILE).read_text() == WRONG


def test_several_hosts_are_told_apart(operator, tmp_path):
    tree = tree_of(tmp_path)
    done = operator.run("sysinfos", "--path", tree, "--host", "a,b", "--local")
    assert [line for line in done.text.splitlines() if line.startswith("#")] == ["# a", "# b"]


def test_a_host_that_cannot_be_asked_does_not_hide_the_others(operator, target, tmp_path):
    nowhere = plant(tmp_path, {"config": f"Host dead\n  HostName 127.0.0.1\n  Port 1\n{target.ssh_config.read_text()}"})
    operator.ssh_config = nowhere / "config"
    tree = tree_of(tmp_path)
    words = ["sysinfos", "--path", tree, "--ssh-config", operator.ssh_config, "--format", "json"]
    done = operator.run(*words, "--host", f"dead,{HOST}")
    dead, medusa = done.document["hosts"]
    assert (done.status, done.document["exit_status"]) == (3, 3)
    assert "message" in dead
    assert medusa["sysinfos"]["sysname"] == ["linux"]
    assert medusa["sysinfos"]["bits"] in ("32", "64")


def test_save_shows_a_difference_and_does_not_replace_unasked(operator, tmp_path):
    tree = tree_of(tmp_path)
    done = found(operator, tree, "--save")
    assert done.status == 2
    assert "-sysdist=(plan9)" in done.talk
    assert "+sysname=(linux)" in done.talk
    assert "`--yes` replaces it" in done.talk
    assert (tree / FILE).read_text() == WRONG
    (tree / FILE).chmod(0o640)
    done = found(operator, tree, "--save", "--yes", "--format", "json")
    assert (done.status, done.document["hosts"][0]["saved"]) == (0, "changed")
    assert "-sysdist=(plan9)" in done.talk
    assert (tree / FILE).read_text() == found(operator, tree).text
    assert (tree / FILE).stat().st_mode & 0o777 == 0o640
    assert "unchanged" in found(operator, tree, "--save").talk
    commented = f"# What it is.\n\n{(tree / FILE).read_text()}"
    (tree / FILE).write_text(commented)
    assert "unchanged" in found(operator, tree, "--save").talk
    assert (tree / FILE).read_text() == commented
    assert sorted(path.name for path in (tree / FILE).parent.iterdir()) == ["default", "sysinfos.conf"]


@pytest.mark.parametrize(("answer", "replaced"), [("y", True), ("n", False), ("", False)])
def test_on_a_terminal_save_asks(operator, tmp_path, answer, replaced):
    tree = tree_of(tmp_path)
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "-m", "runsdeploy", "sysinfos", "--path", tree, "--host", HOST, "--local", "--save"],
        stdin=theirs, stdout=subprocess.DEVNULL, stderr=theirs, env=operator.settings(), start_new_session=True,
    ) as process:  # fmt: skip
        os.close(theirs)
        said = b""
        while b"[y/N] " not in said:
            said += os.read(ours, 1000)
        os.write(ours, f"{answer}\n".encode())
        assert process.wait(60) == 0
    os.close(ours)
    assert b"-sysdist=(plan9)" in said
    assert ((tree / FILE).read_text() != WRONG) == replaced


def test_save_needs_a_directory_of_the_host_and_asks_nobody_without(operator, tmp_path):
    done = operator.run("sysinfos", "--path", tree_of(tmp_path), "--host", "new.univ.run", "--local", "--save")
    assert done.status == 2
    assert "runsdeploy init --host new.univ.run" in done.talk
    assert not done.out


def test_save_does_not_write_out_of_the_trees(operator, tmp_path):
    outside = plant(tmp_path / "outside", {"file": WRONG})
    tree = tree_of(tmp_path, facts="")
    plant(tree, {FILE: Link(str(outside / "file"))})
    done = operator.run("sysinfos", "--path", tree, "--host", HOST, "--local", "--save", "--yes")
    assert (done.status, Path(outside / "file").read_text()) == (2, WRONG)
    assert "out of the trees" in done.talk
