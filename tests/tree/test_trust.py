"""A tree is code: what somebody else could have written is refused before any of it runs, unless it is trusted."""

from __future__ import annotations

import os
import re
import shlex
import subprocess

import pytest

from tests.trees import Link, Operator, plant, script

USES_ALL = """\
ref -r file=beside dir=stuff
ref -t made=page.j2
touch "$HOME/evaluated"
"""
FILES = {
    "runs.conf": "var port=80\n",
    "groups/web": "medusa.univ.run\n",
    "hosts/runs.conf": "var a=1\n",
    "univ.run/medusa/default": "@more\n",
    "univ.run/medusa/more": "web/it\n",
    "univ.run/medusa/sysinfos.conf": "sysdist=(debian)\n",
    "univ.run/medusa/runs.conf": "var b=1\n",
    "scripts/web/runs.conf": "var c=1\n",
    "scripts/web/it": script(USES_ALL, "urequire mine"),
    "scripts/web/beside": "x\n",
    "scripts/web/stuff/inner/deep": "x\n",
    "scripts/web/page.j2": "{{ port }}\n",
    "lib/mine": "true\n",
    "notes": "nobody uses them\n",
    "cache": None,
    "device": Link("/dev/null"),
}
WHOLE_TREE_READ = ["groups", "groups/web", "hosts", "univ.run", "univ.run/medusa", "univ.run/medusa/default"]
NOT_AFTER_CONF = [
    *WHOLE_TREE_READ, ".", "runs.conf", "hosts/runs.conf", "univ.run/medusa/more", "univ.run/medusa/sysinfos.conf",
    "univ.run/medusa/runs.conf", "scripts", "scripts/web", "scripts/web/runs.conf", "scripts/web/it",
]  # fmt: skip
"""what decides what a CONF section is: refused before any was evaluated"""
SHIPPED = [
    "scripts/web/beside", "scripts/web/stuff", "scripts/web/stuff/inner", "scripts/web/stuff/inner/deep",
    "scripts/web/page.j2", "lib", "lib/mine",
]  # fmt: skip
"""what CONF asks for; refused before it is sent"""
ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
SOMEBODY = 61874


@pytest.fixture
def operator(tmp_path):
    return Operator(tmp_path / "operator")


@pytest.fixture
def tree(tmp_path):
    return plant(tmp_path / "tree", {**FILES, "hosts/gorgo/default": "web/it\n"})


PLAN = ("plan", "--host", "@web", "--format", "json")


def refused(done):
    """Return what is refused, by file, with the repair that is offered."""
    assert done.status == done.document["exit_status"] == 2, done.talk
    assert all(re.search(r"--trust", error["hint"]) for error in done.document["errors"])
    return {error["file"]: re.search("`(.*?)`", error["hint"])[1] for error in done.document["errors"]}


@pytest.mark.parametrize("inside", [*NOT_AFTER_CONF, *SHIPPED])
def test_r34_s10_what_others_may_write_is_refused_until_it_is_repaired(inside, operator, tree):
    path = tree / inside
    path.chmod(path.stat().st_mode | 0o002)
    repairs = refused(operator.run(*PLAN, cwd=tree))
    assert list(repairs) == ["." if inside == "." else inside]
    assert (operator.home / "evaluated").exists() == (inside in SHIPPED)
    subprocess.run(["sh", "-c", repairs.popitem()[1]], cwd=tree, check=True)
    done = operator.run(*PLAN, cwd=tree)
    assert done.status == 0, done.talk


@ROOT
@pytest.mark.parametrize("inside", [".", "scripts/web/it", "univ.run/medusa", "scripts/web/stuff/inner/deep"])
def test_r34_s10_what_belongs_to_somebody_else_is_refused_until_it_is_repaired(inside, operator, tree):
    os.chown(tree / inside, SOMEBODY, SOMEBODY)
    done = operator.run(*PLAN, cwd=tree)
    assert f"belongs to user {SOMEBODY}" in done.talk
    repairs = refused(done)
    assert list(repairs) == [inside]
    subprocess.run(["sh", "-c", repairs.popitem()[1]], cwd=tree, check=True)
    assert operator.run(*PLAN, cwd=tree).status == 0


def test_r34_all_of_it_is_told_in_one_go_and_nothing_twice(operator, tree):
    for name in ("lib/mine", "scripts/web/it", "scripts/web/stuff", "scripts/web/stuff/inner/deep", "notes"):
        (tree / name).chmod(0o777)
    assert sorted(refused(operator.run(*PLAN, cwd=tree))) == [
        "lib/mine",
        "notes",
        "scripts/web/it",
        "scripts/web/stuff",
    ]


@pytest.mark.parametrize("words", [["list"], ["info", "web/it"], ["plan", "--host", "*.univ.run"], ["hosts"]])
def test_r34_every_command_that_reads_trees_refuses(words, operator, tree):
    for name in ("scripts/web/it", "univ.run/medusa"):
        (tree / name).chmod(0o777)
    assert set(refused(operator.run(*words, "--format", "json", cwd=tree))) == {"scripts/web/it", "univ.run/medusa"}
    assert not (operator.home / "evaluated").exists()


@pytest.mark.parametrize("how", ["flag", "environment"])
def test_r34_a_tree_that_is_trusted_is_used_all_the_same(how, operator, tree):
    for path in (tree, *tree.rglob("*")):
        if not path.is_symlink():
            path.chmod(0o777)
            os.chown(path, SOMEBODY if os.geteuid() == 0 else -1, -1)
    operator.environment |= {"RUNSDEPLOY_TRUST": "1"} if how == "environment" else {}
    done = operator.run(*PLAN, *(["--trust"] if how == "flag" else []), cwd=tree)
    assert done.status == 0, done.talk


def test_r34_a_group_that_may_write_and_a_directory_like_tmp_above_are_no_reason(operator, tmp_path):
    tree = plant(tmp_path / "open" / "tree", FILES)
    for path in (tree, *tree.rglob("*")):
        if not path.is_symlink():
            path.chmod(path.stat().st_mode | 0o020)
    for mode in (0o1777, 0o775):
        tree.parent.chmod(mode)
        assert operator.run(*PLAN, cwd=tree).status == 0


def test_r34_what_is_not_used_is_not_looked_at(operator, tree):
    for name in ("notes", "cache"):
        (tree / name).chmod(0o777)
    assert operator.run(*PLAN, cwd=tree).status == 0


def test_r34_what_a_link_leads_to_is_looked_at_with_all_above_it(operator, tree, tmp_path):
    plant(tmp_path, {"real/deep/it": script("touch $HOME/evaluated"), "loose": None})
    (tree / "scripts/web/it").unlink()
    (tree / "scripts/web/it").symlink_to(tmp_path / "real/deep/it")
    allowed = (*PLAN, "--allow", tmp_path / "real")
    assert operator.run(*allowed, cwd=tree).status == 0
    for loose in ("real/deep/it", "real/deep", "real"):
        (operator.home / "evaluated").unlink(missing_ok=True)
        (tmp_path / loose).chmod(0o777)
        assert list(refused(operator.run(*allowed, cwd=tree))) == [str(tmp_path / loose)]
        assert not (operator.home / "evaluated").exists()
        (tmp_path / loose).chmod(0o755)


def test_r34_a_link_out_of_the_trees_is_that_whoever_may_write_there(operator, tree):
    """The device may be written by all, and no hint must say to change that."""
    (tree / "scripts/web/beside").unlink()
    (tree / "scripts/web/beside").symlink_to("/dev/null")
    done = operator.run(*PLAN, cwd=tree)
    assert done.status == 2
    assert "leads out of the trees" in done.talk
    assert "chmod" not in done.talk


LEADING_OUT = [
    "runs.conf", "hosts/runs.conf", "univ.run/medusa/runs.conf", "scripts/web/runs.conf",
    "univ.run/medusa/sysinfos.conf", "lib/mine", "groups/web", "univ.run/medusa/default", "univ.run/medusa/more",
    "scripts/web/it", "scripts/web/beside", "scripts/web/page.j2",
]  # fmt: skip


@pytest.mark.parametrize("inside", LEADING_OUT)
@pytest.mark.parametrize("command", ["plan", "deploy", "check"])
def test_r33_s10_a_link_out_of_the_trees_is_refused_wherever_it_stands_unless_it_is_allowed(
    command, inside, operator, tree, tmp_path
):
    """What is there is sound, and would be used."""
    real = tmp_path / "real" / "it's here"
    real.parent.mkdir()
    (tree / inside).rename(real)
    (tree / inside).symlink_to(real)
    words = ["check"] if command == "check" else [command, "--host", "@web"]
    words += ["--local"] if command == "deploy" else []
    done = operator.run(*words, "--format", "json", cwd=tree)
    assert done.status == done.document["exit_status"] == 2, done.talk
    errors = done.document["findings"] if command == "check" else done.document["errors"]
    (said,) = [error for error in errors if "leads out of the trees" in error["message"]]
    assert said["message"].endswith(f" leads out of the trees, to `{real}`")
    assert said["hint"].startswith("if this is intended, allow it by name: `--allow ")
    if "scripts/web/" not in inside or inside.endswith(("it", "runs.conf")):
        assert said["file"] == inside
    asked_for = inside in ("lib/mine", "scripts/web/beside", "scripts/web/page.j2")
    # CONF itself asks for those; and `check` looks at the other host all the same.
    if inside in ("runs.conf", "scripts/web/it") or not (asked_for or command == "check"):
        assert not (operator.home / "evaluated").exists()
    allowed = f"runsdeploy plan --host @web {said['hint'].partition('`')[2].removesuffix('`')}"
    assert operator.run(*shlex.split(allowed)[1:], "--format", "json", cwd=tree).status == 0


def test_r33_all_links_out_of_the_trees_are_told_in_one_go(operator, tree, tmp_path):
    places = ["runs.conf", "univ.run/medusa/runs.conf", "univ.run/medusa/sysinfos.conf", "lib/mine"]
    for number, inside in enumerate(places):
        (tree / inside).rename(tmp_path / f"real{number}")
        (tree / inside).symlink_to(tmp_path / f"real{number}")
    (tree / "univ.run/medusa/more").write_text("web/it\nnot/there\n")
    planned = operator.run(*PLAN, cwd=tree).document["errors"]
    assert sorted(error["file"] for error in planned) == sorted(places)
    checked = operator.run("check", "--format", "json", cwd=tree).document["findings"]
    assert sorted(each["file"] for each in checked if each["rule"] == "outside") == sorted(places)
    static = operator.run("check", "--static", "--format", "json", cwd=tree).document["findings"]
    assert {each["rule"] for each in static} == {"outside", "unknown-script"}


@pytest.mark.parametrize("words", [["list"], ["list", "--host", "medusa.univ.run"], ["info", "web/it"]])
def test_r33_s10_no_command_runs_the_section_of_a_script_outside_the_trees(words, operator, tree, tmp_path):
    (tree / "scripts/web/it").rename(tmp_path / "real")
    (tree / "scripts/web/it").symlink_to(tmp_path / "real")
    done = operator.run(*words, "--format", "json", cwd=tree)
    assert done.status == (2 if words[0] == "info" else 0), done.talk
    assert not (operator.home / "evaluated").exists()
    assert operator.run(*words, "--allow", tmp_path / "real", cwd=tree).status == 0
    assert (operator.home / "evaluated").exists()


def test_a_group_that_leads_out_of_the_trees_keeps_nobody_from_using_others(operator, tree, tmp_path):
    plant(tmp_path, {"real": "medusa.univ.run\n"})
    (tree / "groups/other").symlink_to(tmp_path / "real")
    assert operator.run(*PLAN, cwd=tree).status == 0
    done = operator.run("hosts", "*.univ.run", "--format", "json", cwd=tree)
    assert [host["groups"] for host in done.document["hosts"]] == [["web"]]
    assert "group `@other` leads out of the trees" in done.talk


@ROOT
def test_r34_whoever_became_root_by_sudo_may_have_a_tree_of_his_own(operator, tree):
    for path in (tree, *tree.rglob("*")):
        os.chown(path, SOMEBODY, SOMEBODY, follow_symlinks=False)
    assert list(refused(operator.run(*PLAN, cwd=tree))) == ["."]
    operator.environment["SUDO_UID"] = str(SOMEBODY)
    assert operator.run(*PLAN, cwd=tree).status == 0
    operator.environment["SUDO_UID"] = str(SOMEBODY + 1)
    assert list(refused(operator.run(*PLAN, cwd=tree))) == ["."]


def test_r34_odd_names_are_quoted_in_the_repair(operator, tmp_path):
    tree = plant(tmp_path / "tree", {"scripts/it": script("ref -r f=$'it\\'s 100%s $(id)'")})
    path = tree / "scripts" / "it's 100%s $(id)"
    path.write_text("x\n")
    path.chmod(0o666)
    words = ("plan", "--host", "medusa", "--script", "it", "--format", "json")
    hint = operator.run(*words, cwd=tree).document["errors"][0]["hint"]
    subprocess.run(["sh", "-c", hint.partition("`")[2].rpartition("`, or")[0]], cwd=tree, check=True)
    assert operator.run(*words, cwd=tree).status == 0


@pytest.mark.parametrize("text", ["trust: true\n", "path: elsewhere\n"])
def test_r34_a_configuration_file_cannot_vouch_for_itself_or_its_tree(text, operator, tmp_path):
    tree = plant(tmp_path / "open", {"scripts/a": script("", "true"), "hosts/medusa/default": "a\n"})
    (tree / "scripts").chmod(0o777)
    (tree / "runsdeploy.yaml").write_text(text)
    for mode in (0o644, 0o666):
        (tree / "runsdeploy.yaml").chmod(mode)
        done = operator.run("plan", "--host", "medusa.univ.run", "--path", tree, cwd=tree)
        assert done.status == 2, done.out
        assert "others may write it" in done.talk
