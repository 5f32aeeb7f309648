"""`status` shows what hosts have marked and how that compares with the trees; `reset` takes it back."""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import shutil
import subprocess

import pytest

from runsdeploy.markers.marker import path_of
from tests.trees import Executable, Operator, contents, plant, script, wait, wait_until

HOST = "medusa.univ.run"
GUARD = "shouldrun || exit"
FILES = {
    "runs.conf": "var port=80\n",
    "scripts/web": script('var port="$port"', 'shouldrun conf "$port" || exit\nsetdone conf "$port"'),
    "scripts/once": script("conf once"),
    "scripts/near": script("conf local once"),
    "scripts/many": script("", "for each in a b; do shouldrun $each || continue; setdone $each; done"),
    "scripts/plain": script("", "echo always"),
    "scripts/change": script("conf onchange\nref -r f=data"),
    "scripts/data": "1\n",
    "hosts/medusa/default": "web\nonce\nnear\nmany\nplain\nchange\n",
}


@pytest.fixture
def tree(tmp_path):
    return plant(tmp_path / "tree", FILES)


def ask(operator, tree, command, *more, form="json", hosts=HOST):
    way = ["--ssh-config", operator.ssh_config] if operator.ssh_config else ["--local"]
    return operator.run(command, "--path", tree, "--host", hosts, "--format", form, *way, *more)


def states(done, host=0):
    """Return state and reason by script and subsystem."""
    return {
        f"{each['script']} {each['subsystem']}".rstrip(): (each["state"], each["reason"])
        for each in done.document["hosts"][host]["markers"]
    }


ALL = ["change onchange", "many a", "many b", "near", "once", "web conf"]


def test_what_was_never_done_is_told_before_and_what_is_done_behind_a_deploy(operator, target, tree):
    before = ask(operator, tree, "status")
    assert before.status == 0
    assert states(before) == dict.fromkeys(ALL, ("never", ""))
    assert not (target.state / "markers").exists()
    assert ask(operator, tree, "status", "--exit-code").status == 6
    assert operator.deploy(tree).status == 0
    assert states(ask(operator, tree, "status")) == dict.fromkeys(ALL, ("done", ""))
    assert ask(operator, tree, "status", "--exit-code").status == 0


def test_a_marker_says_when_by_whom_from_what_and_by_which_plan(operator, target, tree):
    for command in (["init", "-q"], ["add", "-A"], ["-c", "user.name=a", "-c", "user.email=a@b", "commit", "-qm", "x"]):
        subprocess.run(["git", "-C", tree, *command], check=True)
    commit = subprocess.run(["git", "-C", tree, "rev-parse", "HEAD"], check=True, capture_output=True, text=True)
    operator.alter("tree.revision", TIME_LIMIT=60)
    first = operator.deploy(tree)
    section = hashlib.sha256(FILES["scripts/web"].partition("script:\n")[2].encode()).hexdigest()
    lines = (target.state / "markers/web/subsystem=conf").read_text().splitlines()
    assert [each.partition(" ")[0] for each in lines] == (
        ["runsdeploy", "of", "value", "time", "session", "digest", "plan", "script", "by", "revision"]
    )
    told = next(e for e in ask(operator, tree, "status").document["hosts"][0]["markers"] if e["script"] == "web")
    assert told["revision"] == commit.stdout.strip()
    assert told["plan"] == first.document["hosts"][0]["plan"]
    assert told["session"] == first.document["session"]
    assert told["by"] == f"root@{os.uname().nodename}" or "@" in told["by"]
    assert (told["value"], told["side"], told["user"]) == ("80", "target", "login")
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", told["time"])
    assert f"script {section}" in lines
    plant(tree, {"scripts/more": "x"})
    operator.deploy(tree, "--set", "port=81")
    assert lines_of(target, "web/subsystem=conf")["revision"] == f"{told['revision']}%2B"


def lines_of(host, path):
    return dict(each.split(" ", 1) for each in (host.state / "markers" / path).read_text().splitlines())


def test_no_git_no_revision(operator, target, tree, tmp_path):
    """Whatever git does, the deploy does not care."""
    operator.alter("tree.revision", TIME_LIMIT=0.5)
    for number, program in enumerate(
        ("exit 128", "sleep 60", "echo '# branch.oid (initial)'", "echo nonsense; kill $$")
    ):
        plant(tmp_path / "bin", {"git": Executable(f"#!/bin/sh\n{program}\n")})
        operator.environment["PATH"] = f"{tmp_path}/bin:{os.environ['PATH']}"
        plant(tree, {"scripts/data": f"{number}\n"})
        assert operator.deploy(tree, "--script", "change").outcomes == [("change", "ok")]
        assert "revision" not in lines_of(target, "change/subsystem=onchange")
        (tmp_path / "bin/git").unlink()


def test_what_changed_since_is_told(operator, tree):
    operator.deploy(tree)
    plant(
        tree, {"scripts/once": script("conf once", "echo other"), "scripts/data": "2\n", "runs.conf": "var port=81\n"}
    )
    found = states(ask(operator, tree, "status"))
    assert found["once"] == ("older", "the script has changed since")
    assert found["change onchange"] == ("older", "its variables or files have changed since")
    assert found["web conf"] == ("older", "its variables or files have changed since")
    assert found["many a"][0] == "older"  # `runs.conf` is for all
    (tree / "scripts/many").unlink()
    plant(tree, {"runs.conf": "var port=80\n", "hosts/medusa/default": "web\nonce\nnear\nplain\nchange\n"})
    found = states(ask(operator, tree, "status"))
    assert found["many a"] == ("unknown", "no such script in the trees")
    assert found["web conf"] == ("done", "")


def test_a_script_outside_of_the_recipe_is_compared_by_its_section(operator, tree):
    operator.deploy(tree, "--script", "once")
    plant(tree, {"hosts/medusa/default": "plain\n"})
    assert states(ask(operator, tree, "status")) == {"once": ("done", "")}
    plant(tree, {"scripts/once": script("conf once\nvar more=1")})
    assert states(ask(operator, tree, "status")) == {"once": ("done", "")}
    plant(tree, {"scripts/once": script("conf once", "echo other")})
    assert states(ask(operator, tree, "status"))["once"][0] == "older"
    (tree / "hosts/medusa/default").unlink()
    assert states(ask(operator, tree, "status"))["once"][0] == "older"


def test_markers_of_earlier_versions_and_by_hand_count(operator, target, tree):
    digest = "0" * 64
    plant(
        target.state / "markers",
        {
            "once/script": "",
            "many/subsystem=a": f"runsdeploy marker 1\ntime 2020-01-02T03:04:05Z\nsession 1\ndigest {digest}\n",
            path_of(b"old/" + b"x" * 300, b"y" * 300): "runsdeploy marker 1\nvalue %3Dv",
            "web/.new.123": "runsdeploy mar",
        },
    )
    found = states(ask(operator, tree, "status"))
    assert found["once"] == ("done", "")
    assert found["many a"] == ("older", "the script, its variables or its files have changed since")
    assert found["many b"] == ("never", "")
    long = next(name for name in found if name.startswith("old%2F"))
    assert "%+" in long
    assert found[long][0] == "unknown"
    assert found["web conf"] == ("never", "")
    assert len(found) == len(ALL) + 1
    name = "old/" + "x" * 300
    assert ask(operator, tree, "reset", "--script", name, "--subsystem", "y" * 300).status == 0
    assert long not in states(ask(operator, tree, "status"))


def test_a_wrong_recipe_does_not_hide_the_markers(operator, tree):
    operator.deploy(tree)
    plant(tree, {"hosts/medusa/default": "web\nnosuch\n"})
    done = ask(operator, tree, "status")
    assert done.status == 0
    assert states(done) == dict.fromkeys(ALL, ("done", ""))
    assert "unknown script `nosuch`" in done.talk
    assert "medusa/default:2" in done.talk
    errors = done.document["hosts"][0]["errors"]
    assert [error["line"] for error in errors] == [2]


def test_the_table_has_the_columns_that_hold_something(operator, tree):
    operator.deploy(tree)
    lines = ask(operator, tree, "status", form="text").text.splitlines()
    assert lines[0].split() == ["script", "subsystem", "value", "state", "when", "by", "plan", "where"]
    near = next(line for line in lines if line.startswith("near"))
    assert near.endswith("this machine")
    assert re.search(
        r"web +conf +80 +done +\d{4}-\d\d-\d\dT\d\d:\d\d +\S+@\S+ +[0-9a-f]{12}$", "\n".join(lines), re.MULTILINE
    )
    only = ask(operator, tree, "status", "--script", "once", form="text").text.splitlines()
    assert [line.split()[0] for line in only] == ["script", "once"]


def test_several_hosts_make_one_table_and_one_that_is_not_there_hides_nobody(sshd, tmp_path, tree):
    hosts = [sshd(HOST), sshd("other.univ.run")]
    plant(tree, {"univ.run/other/default": "once\n", "univ.run/gone/default": "once\n"})
    config = plant(tmp_path, {"config": "".join(host.ssh_config.read_text() for host in hosts)}) / "config"
    operator = Operator(tmp_path / "operator", config)
    names = f"{HOST},other.univ.run,gone.univ.run"
    config.write_text(f"Host gone.univ.run\n  HostName 127.0.0.1\n  Port 1\n{config.read_text()}")
    operator.deploy(tree, host="other.univ.run")
    done = ask(operator, tree, "status", "--parallel", "3", hosts=names)
    assert done.status == done.document["exit_status"] == 3
    assert [each["outcome"] for each in done.document["hosts"]] == ["ok", "ok", "unreachable"]
    assert states(done, 1) == {"once": ("done", "")}
    assert set(states(done)) == set(ALL)
    text = ask(operator, tree, "status", hosts=names, form="text")
    assert {line.split()[0] for line in text.text.splitlines()} == {"host", HOST, "other.univ.run"}
    assert "gone.univ.run: unreachable" in text.talk


def test_what_a_target_says_is_shown_as_it_is(operator, target, tree):
    evil = b"\x1b]0;x\x07\n\xff"
    plant(
        target.state / "markers", {path_of(evil, evil): "runsdeploy marker 1\nvalue %3D%1B%0A\ntime %1B\nby %1B[2J\n"}
    )
    done = ask(operator, tree, "status", form="text")
    assert done.status == 0
    assert "\x1b" not in done.text + done.talk
    assert "\\x1b" in done.text
    assert len(done.text.splitlines()) == len(ALL) + 2
    assert ask(operator, tree, "status").document["hosts"][0]["markers"]


def test_nothing_there_is_told(operator, tmp_path):
    tree = plant(tmp_path / "tree", {"scripts/plain": script(), "hosts/medusa/default": "plain\n"})
    done = ask(operator, tree, "status", form="text")
    assert (done.status, done.text) == (0, "")
    assert "nothing is marked there" in done.talk


# --- reset


def test_reset_takes_all_marks_of_a_script_back_and_the_next_deploy_runs_it(operator, target, tree):
    operator.deploy(tree)
    before = contents(target.state / "markers")
    dry = ask(operator, tree, "reset", "--script", "many", "--script", "near", "--dry-run")
    assert dry.document["dry_run"] is True
    assert contents(target.state / "markers") == before
    done = ask(operator, tree, "reset", "--script", "many", "--script", "near")
    assert done.status == done.document["exit_status"] == 0
    for told in (dry, done):
        assert [(each["script"], each["subsystem"], each["side"]) for each in told.document["hosts"][0]["markers"]] == [
            ("many", "a", "target"),
            ("many", "b", "target"),
            ("near", "", "controller"),
        ]
    assert set(before) - set(contents(target.state / "markers")) == {
        b"many",
        b"many/subsystem=a",
        b"many/subsystem=b",
    }
    again = dict(operator.deploy(tree).outcomes)
    assert {name for name, outcome in again.items() if outcome == "ok"} == {"many", "near", "plain"}
    nothing = ask(operator, tree, "reset", "--script", "plain", form="text")
    assert (nothing.status, nothing.text) == (0, f"{HOST}: nothing to take back\n")


def test_reset_takes_one_subsystem_back(operator, tree):
    operator.deploy(tree)
    done = ask(operator, tree, "reset", "--script", "many", "--subsystem", "a", form="text")
    assert re.fullmatch(rf"{HOST}: took back many a \(marked \S+, by \S+@\S+\)\n", done.text)
    assert states(ask(operator, tree, "status", "--script", "many")) == {
        "many a": ("never", ""),
        "many b": ("done", ""),
    }


def test_a_script_that_no_tree_has_can_be_taken_back_if_it_is_marked(operator, target, tree):
    plant(target.state / "markers", {"bygone/script": "", "-rf/subsystem=a%20b": "", "%2E.%2Fx/script": ""})
    wrong = ask(operator, tree, "reset", "--script", "bygon", "--script", "many")
    assert wrong.status == 2
    assert "unknown script `bygon`" in wrong.document["errors"][0]["message"]
    assert "did you mean `bygone`?" in wrong.document["errors"][0]["hint"]
    assert (target.state / "markers/bygone/script").exists()
    assert ask(operator, tree, "reset", "--script", "bygone", "--script=-rf", "--script", "../x").status == 0
    assert [path for path in contents(target.state / "markers") if path.count(b"/")] == []
    assert ask(operator, tree, "reset").status == 2
    assert ask(operator, tree, "status", "--script", "nosuch").status == 2


def test_reset_keeps_out_of_a_session_and_out_of_what_an_operator_keeps(operator, target, tree):
    plant(tree, {"scripts/slow": script("", "touch ~/runs; while [ ! -e ~/go ]; do sleep 0.05; done")})
    operator.deploy(tree, "--script", "once")
    with operator.start(*operator.deploy_arguments(tree, "--script", "slow")) as process:
        wait_until((target.home / "runs").exists)
        done = ask(operator, tree, "reset", "--script", "once")
        assert done.status == done.document["exit_status"] == 4
        assert "runs `slow`" in done.document["hosts"][0]["message"]
        assert done.document["hosts"][0]["hint"] == "try again when it is over"
        assert ask(operator, tree, "reset", "--script", "once", "--dry-run").status == 0
        (target.home / "go").touch()
        assert wait(process).status == 0
    (target.state / "hold").write_text("else%40where 2025-01-01T00:00:00Z mine\n")
    done = ask(operator, tree, "reset", "--script", "once")
    assert done.status == 4
    assert "else@where" in done.document["hosts"][0]["message"]
    assert (target.state / "markers/once/script").exists()
    (target.state / "hold").unlink()
    assert ask(operator, tree, "reset", "--script", "once").status == 0
    assert not (target.state / "markers/once").exists()
    assert operator.deploy(tree, "--script", "once").outcomes == [("once", "ok")]


def test_r14_reset_gives_a_session_that_is_about_to_end_a_moment(operator, target, tree):
    """Between its last word and giving the lock back it has no name, and its controller may be there already."""
    operator.deploy(tree, "--script", "once")
    pause = "#!/bin/sh\n: >~/began\nuntil [ -e ~/go ]; do /bin/sleep 0.02; done\n"
    plant(target.home, {".bashrc": "PATH=~/bin:$PATH\n", "bin/sleep": Executable(pause)})
    way = ["--path", tree, "--host", HOST, "--ssh-config", operator.ssh_config]
    with (target.state / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with operator.start("reset", *way, "--script", "once") as process:
            wait_until(lambda: (target.home / "began").exists() or process.poll() is not None)
            fcntl.flock(lock, fcntl.LOCK_UN)
            (target.home / "go").touch()
            assert wait(process).status == 0
    assert not (target.state / "markers/once").exists()


@pytest.mark.parametrize("command", [["status"], ["reset", "--script", "once"]])
def test_a_host_that_is_not_there_is_status_3(operator, sshd, tree, command):
    host = sshd(HOST)
    operator.ssh_config = host.ssh_config
    host.stop()
    done = ask(operator, tree, *command)
    assert done.status == done.document["exit_status"] == 3
    assert done.document["hosts"][0]["outcome"] == "unreachable"


@pytest.mark.parametrize("whole", [False, True])
def test_r33_a_marker_that_is_a_link_is_told_as_what_it_is_and_taken_away(whole, operator, target, tree, tmp_path):
    theirs = plant(tmp_path / "theirs", {"script": "runsdeploy marker 1\n"})
    once = target.state / "markers/once"
    operator.deploy(tree)
    if whole:
        shutil.rmtree(once)
        once.symlink_to(theirs)
    else:
        (once / "script").unlink()
        (once / "script").symlink_to(theirs / "script")
    failed = operator.deploy(tree, "--script", "once")
    assert failed.outcomes == [("once", "failed")]
    assert f"`runsdeploy reset --host {HOST} --script once` removes it" in failed.output
    assert operator.deploy(tree, "--dry-run", "--script", "once").steps[0]["outcome"] != "already-done"
    assert states(ask(operator, tree, "status"))["once"][0] == "untrusted"
    assert ask(operator, tree, "status", "--exit-code").status == 6
    taken = ask(operator, tree, "reset", "--script", "once").document["hosts"][0]["markers"]
    assert [each["script"] for each in taken] == ["once"]
    assert (theirs / "script").exists()
    assert operator.deploy(tree, "--script", "once").outcomes == [("once", "ok")]


@pytest.mark.usefixtures("target")
def test_a_long_value_is_compared_whole_and_shown_short(operator, tmp_path):
    """D23: a marker of 64 KiB: the plan knows that it is done, and the table stays a table."""
    value = "line of a file\n" * 4400
    tree = plant(
        tmp_path / "tree",
        {
            "scripts/big": script(f"var value='{value}'", 'shouldrun c "$value" || exit\nsetdone c "$value"'),
            "hosts/medusa/default": "big\n",
        },
    )
    assert operator.deploy(tree).status == 0
    marker = ask(operator, tree, "status").document["hosts"][0]["markers"][0]
    assert (marker["value"], marker["state"]) == (value, "done")
    assert operator.deploy(tree, "--dry-run").document["hosts"][0]["steps"][0]["outcome"] == "already-done"
    assert operator.deploy(tree).outcomes == [("big", "already-done")]
    shown = ask(operator, tree, "status", form="text").out
    assert max(map(len, shown.splitlines())) < 300
