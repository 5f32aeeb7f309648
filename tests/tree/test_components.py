"""A path is vouched for component by component, each link included, before a byte of what it leads to is read.

What is planted would write a file if it ran. (`test_trust.py` has what lies inside a tree.)
"""

from __future__ import annotations

import os
import py_compile
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.trees import Link, Operator, plant, script

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
SOMEBODY = 61874
OTHERS = {
    "belongs to somebody": lambda path: os.chown(path, SOMEBODY, SOMEBODY, follow_symlinks=False),
    "may be written by all": lambda path: path.chmod(path.stat().st_mode | 0o002),
}
PLAN = ("plan", "--host", "medusa", "--script", "it", "--format", "json")


@pytest.fixture
def operator(tmp_path):
    return Operator(tmp_path / "operator")


@pytest.fixture
def flag(tmp_path):
    """What is planted writes it."""
    return tmp_path / "operator/home/evaluated"


@pytest.fixture
def tree(tmp_path):
    return plant(tmp_path / "above/beside/tree", {"scripts/it": script('touch "$HOME/evaluated"')})


def refused(done, flag, *named):
    """Assert that everything named was refused, and nothing ran."""
    assert done.status == done.document["exit_status"] == 2, done.talk
    files = {error["file"] for error in done.document["errors"]}
    assert files == set(map(str, named)), done.talk
    assert all("--trust" in error["hint"] for error in done.document["errors"])
    assert not flag.exists()
    return [re.search("`(.*?)`", error["hint"])[1] for error in done.document["errors"]]


# --- trees -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", OTHERS)
@pytest.mark.parametrize("component", ["above", "above/beside"])
def test_r34_a_directory_above_a_tree_counts(component, how, operator, flag, tree, tmp_path):
    OTHERS[how](tmp_path / component)
    (repair,) = refused(operator.run(*PLAN, "--path", tree), flag, tmp_path / component)
    assert operator.run(*PLAN, "--path", tree, "--trust").status == 0
    flag.unlink()
    subprocess.run(["sh", "-c", repair], env={**os.environ, "HOME": str(operator.home)}, cwd=tmp_path, check=True)
    mended = operator.home / "tree" if repair.startswith("cp") else tree
    assert operator.run(*PLAN, "--path", mended).status == 0


LINKS = {
    "the link": "links/link",
    "the directory that holds it": "links",
    "a directory above its target": "above",
    "a link that it leads to": "links/again",
    "what holds that": "other",
}
"""components of a tree that is reached by links/link -> other/../links/again -> ../above/beside/tree"""


@pytest.mark.parametrize("how", OTHERS)
@pytest.mark.parametrize("component", LINKS)
@pytest.mark.usefixtures("tree")
def test_r34_each_link_on_the_way_to_a_tree_counts(component, how, operator, flag, tmp_path):
    plant(tmp_path, {
        "other": None, "links/link": Link("../other/../links/again"), "links/again": Link("../above/beside/tree"),
    })  # fmt: skip
    place = tmp_path / LINKS[component]
    if place.is_symlink() and "all" in how:
        pytest.skip("a link has no mode")
    assert operator.run(*PLAN, "--path", tmp_path / "links/link").status == 0
    flag.unlink()
    OTHERS[how](place)
    refused(operator.run(*PLAN, "--path", tmp_path / "links/link"), flag, place)
    for way in ({"RUNSPATH": str(tmp_path / "links/link")}, {"RUNSDEPLOY_PATH": str(tmp_path / "links/link")}):
        operator.environment = way
        refused(operator.run(*PLAN), flag, place)


def test_r34_all_of_it_is_told_in_one_go(operator, flag, tree, tmp_path):
    for path in ("above", "above/beside", "above/beside/tree/scripts/it"):
        (tmp_path / path).chmod(0o777)
    refused(
        operator.run(*PLAN, "--path", tree), flag, tmp_path / "above", tmp_path / "above/beside", tree / "scripts/it"
    )


def test_r34_honest_ways_are_accepted(operator, tree, tmp_path):
    """A link of root's as /tmp is on a Mac, a sticky directory, a group that may write, `..` behind a link."""
    plant(tmp_path, {"open/real/deep": None, "short": Link("above/beside"), "down": Link("open/real/deep")})
    (tmp_path / "open").chmod(0o1777)
    (tmp_path / "above").chmod(0o2775)
    shutil.copytree(tree, tmp_path / "open/real/tree")
    for way in ("short/tree", "open/real/tree", "down/../tree"):
        assert operator.run(*PLAN, "--path", tmp_path / way).status == 0
    os.chown(tmp_path / "open/real", SOMEBODY, SOMEBODY)
    assert operator.run(*PLAN, "--path", tmp_path / "down/../tree").status == 2
    operator.environment["SUDO_UID"] = str(SOMEBODY)
    assert operator.run(*PLAN, "--path", tmp_path / "down/../tree").status == 0


@pytest.mark.parametrize("words", [["init"], ["init", "--host", "web1"], ["new", "made"]])
def test_r34_nothing_is_made_where_others_may_replace_it(words, operator, tree, tmp_path):
    (tmp_path / "above").chmod(0o777)
    before = sorted(tree.rglob("*"))
    done = operator.run(*words, "--format", "json", cwd=tree)
    assert done.status == 2, done.talk
    assert sorted(tree.rglob("*")) == before
    assert operator.run(*words, "--trust", cwd=tree).status == 0


def test_r34_a_recipe_that_only_check_reads_counts(operator, flag, tree):
    plant(tree, {"hosts/web1/default": "it\n", "hosts/web1/unused": script("touch $HOME/evaluated")})
    os.chown(tree / "hosts/web1/unused", SOMEBODY, SOMEBODY)
    done = operator.run("check", "--format", "json", cwd=tree)
    assert done.status == 2
    assert [each["rule"] for each in done.document["findings"]] == ["foreign"]
    assert not flag.exists()


# --- configuration files ---------------------------------------------------------------------------

PYTHON = """\
from os import O_CREAT as _create, close as _close, environ as _environ, open as _open
_close(_open(_environ["HOME"] + "/evaluated", _create))
parallel = 2
"""
STEMS = {"beside the tree": "above/beside/tree/runsdeploy", "at home": "operator/home/.runsdeploy"}
COMMANDS = [["list"], ["deploy", "--host", "medusa", "--local"], ["plan", "--no-such-flag"], ["hosts"]]


def lists(done, flag):
    assert done.status == 2, done.talk
    assert not flag.exists(), "it ran"


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
@pytest.mark.parametrize("stem", STEMS)
@pytest.mark.parametrize("how", OTHERS)
def test_r34_d6_a_configuration_file_of_another_user_is_not_run(how, stem, command, operator, flag, tree, tmp_path):  # noqa: PLR0913, PLR0917 - each is a column of the table
    """D6."""
    file = Path(f"{tmp_path / STEMS[stem]}.py")
    file.write_text(PYTHON)
    OTHERS[how](file)
    lists(operator.run(*command, "--format", "json", cwd=tree / "scripts"), flag)
    file.unlink()
    plant(tmp_path, {"theirs/code.py": PYTHON})
    file.symlink_to(tmp_path / "theirs/code.py")
    for inner in ("theirs/code.py", "theirs"):
        OTHERS[how](tmp_path / inner)
        lists(operator.run(*command, "--format", "json", cwd=tree / "scripts"), flag)
        os.chown(tmp_path / inner, 0, 0)
        (tmp_path / inner).chmod(0o755)
    if command == ["hosts"]:
        assert operator.run(*command, cwd=tree / "scripts").status == 0
        assert flag.exists()


@pytest.mark.parametrize("stem", STEMS)
@pytest.mark.parametrize("end", ["yaml", "yml", "json", "py"])
def test_r34_every_kind_of_configuration_file_and_all_of_them_at_once(end, stem, operator, flag, tree, tmp_path):
    file = Path(f"{tmp_path / STEMS[stem]}.{end}")
    file.write_text({"py": "parallel = 2\n", "json": '{"parallel": 2}'}.get(end, "parallel: 2\n"))
    other = tmp_path / "operator/home/.runsdeploy.yml"
    other.write_text("parallel: 3\n")
    assert operator.run("list", cwd=tree / "scripts").status == 0
    flag.unlink()
    for each in (file, other):
        each.chmod(0o666)
    done = operator.run("list", "--format", "json", cwd=tree / "scripts")
    refused(done, flag, file, other)
    assert operator.run("list", "--trust", cwd=tree / "scripts").status == 0
    operator.environment["RUNSDEPLOY_TRUST"] = "1"
    assert operator.run("list", cwd=tree / "scripts").status == 0


def test_r34_bytecode_that_somebody_put_beside_a_configuration_file_is_not_run(operator, flag, tmp_path):
    """In a directory like /tmp, `__pycache__` may be theirs though the file is ours."""
    shared = plant(tmp_path / "shared", {"tree/scripts/it": script(), "runsdeploy.py": "parallel = 2\n"})
    shared.chmod(0o1777)
    times = (shared / "runsdeploy.py").stat()
    evil = plant(tmp_path / "evil", {"runsdeploy.py": PYTHON}) / "runsdeploy.py"
    os.utime(evil, ns=(times.st_atime_ns, times.st_mtime_ns))
    made = Path(py_compile.compile(str(evil)))
    cache = plant(shared / "__pycache__", {made.name: b""})
    data = bytearray(made.read_bytes())
    data[12:16] = times.st_size.to_bytes(4, "little")
    (cache / made.name).write_bytes(data)
    for each in (cache, cache / made.name):
        os.chown(each, SOMEBODY, SOMEBODY)
    assert operator.run("list", cwd=shared / "tree").status == 0
    assert not flag.exists()


@pytest.mark.parametrize("line", ["runsdeploy deploy --script ", "runsdeploy --host "])
def test_r34_a_press_of_tab_runs_nothing_either(line, operator, flag, tree):
    (tree / "runsdeploy.py").write_text(PYTHON)
    (tree / "runsdeploy.py").chmod(0o666)
    operator.environment |= {
        "_ARGCOMPLETE": "1", "_ARGCOMPLETE_SUPPRESS_SPACE": "1", "COMP_LINE": line, "COMP_POINT": str(len(line)),
        "COMP_TYPE": "9", "_ARGCOMPLETE_IFS": "\v", "_ARGCOMPLETE_STDOUT_FILENAME": os.devnull,
    }  # fmt: skip
    operator.run(cwd=tree / "scripts")
    assert not flag.exists()


@pytest.mark.parametrize("how", OTHERS)
@pytest.mark.parametrize("way", ["flag", "environment", "file"])
@pytest.mark.parametrize("command", [["deploy"], ["status"], ["lock", "show"], ["ssh.setup"]], ids=" ".join)
def test_r34_an_ssh_configuration_of_another_user_runs_nothing(command, way, how, operator, flag, tree, tmp_path):  # noqa: PLR0913, PLR0917 - each is a column of the table
    config = plant(tmp_path, {"theirs": f'Match exec "touch {flag}"\n', "mine": Link("theirs")}) / "mine"
    OTHERS[how](tmp_path / "theirs")
    words = ["--ssh-config", config] if way == "flag" else []
    operator.environment |= {"RUNSDEPLOY_SSH_CONFIG": str(config)} if way == "environment" else {}
    if way == "file":
        (tree / "runsdeploy.json").write_text(f'{{"ssh_config": "{config}"}}')
    done = operator.run(*command, "--host", "medusa", *words, "--format", "json", cwd=tree / "scripts")
    assert done.status == 2, done.talk
    assert "an ssh configuration can run commands" in done.talk
    assert not flag.exists()


# --- what is made on the way -----------------------------------------------------------------------


def test_r34_sections_are_not_evaluated_where_others_could_replace_them(operator, flag, tree):
    operator.temporary.chmod(0o777)
    refused(operator.run(*PLAN, cwd=tree), flag, operator.temporary)
    operator.temporary.chmod(0o1777)
    assert operator.run(*PLAN, cwd=tree).status == 0


@pytest.mark.parametrize("file", [".git", ".git/config"])
def test_r34_git_runs_no_filter_that_others_could_have_configured(file, operator, tree, tmp_path):
    """A filter is a program that git runs to see whether a file has changed."""

    def git(*words):
        identity = dict.fromkeys(
            ("GIT_AUTHOR_NAME", "GIT_AUTHOR_EMAIL", "GIT_COMMITTER_NAME", "GIT_COMMITTER_EMAIL"), "x"
        )
        subprocess.run(["git", *words], cwd=tree, check=True, capture_output=True, env={**os.environ, **identity})

    ran = tmp_path / "filtered"
    plant(tree, {".gitattributes": "* filter=planted\n", "scripts/it": script("", "true")})
    git("init")
    git("add", ".")
    git("commit", "-m", "x")
    git("config", "filter.planted.clean", f"touch {ran}; cat")
    os.utime(tree / "scripts/it", (1, 1))
    deploy = ("deploy", "--host", "medusa", "--script", "it", "--local")
    (tree / file).chmod(0o777)
    assert operator.run(*deploy, cwd=tree).status == 0
    assert not ran.exists()
    (tree / file).chmod(0o755)
    os.utime(tree / "scripts/it", (1, 1))
    assert operator.run(*deploy, cwd=tree).status == 0
    assert ran.exists()


@pytest.mark.parametrize("kind", ["settings", "catalogue"])
def test_r34_jobs_of_another_user_are_not_shipped(kind, operator, tmp_path):
    files = plant(tmp_path / "files", {"settings": "{}", "catalogue": "[]"})
    os.chown(files / kind, SOMEBODY, SOMEBODY)
    words = ["--settings", files / "settings", "--catalogue", files / "catalogue"]
    done = operator.run("cron.install", "--host", "medusa", "--local", *words, "--format", "json")
    assert done.status == 2
    assert f"{files / kind}: belongs to user {SOMEBODY}" in done.talk.replace("`", "")
