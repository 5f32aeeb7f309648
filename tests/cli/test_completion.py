"""Tab: real shells complete hosts, groups, scripts, recipes, flags and files; nothing speaks, nothing is executed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.trees import Operator, plant, script

SHELLS = ("bash", "zsh", "fish")
PROGRAM = Path(sys.executable).with_name("runsdeploy")
FILES = {
    "scripts/web/nginx": script("touch ran", "true"),
    "scripts/base": script(),
    "scripts/services": "base\n",
    "scripts/web/site.conf.j2": "listen {{ port }};\n",
    "scripts/web/site.conf": "listen 80\n",
    "groups/web": "web1\n",
    "groups/all": "*\n",
    "runs.conf": "touch ran\n",
    "hosts/web1/default": "base\n",
    "hosts/web1/extra": "base\n",
    "hosts/web1/own": script(),
    "univ.run/medusa/default": "base\n",
    "univ.run/medusa/db": "base\n",
    "ssh config": "",
    "ssh_keys/key": "",
}


@pytest.fixture
def tree(tmp_path):
    return plant(tmp_path / "tree", FILES)


@pytest.fixture
def environment(tmp_path):
    settings = Operator(tmp_path / "operator").settings()
    return {**settings, "PATH": f"{PROGRAM.parent}:{settings['PATH']}", "TERM": "dumb"}


def complete(line, tree, environment, shell="fish"):
    """Return what the program offers for a line with the cursor at its end, as a shell asks it."""
    read, write = os.pipe()
    asked = {"_ARGCOMPLETE": "1", "_ARGCOMPLETE_SHELL": shell, "_ARGCOMPLETE_IFS": "\n", "COMP_TYPE": "9"}
    asked |= {"COMP_LINE": line, "COMP_POINT": str(len(line)), "_ARGCOMPLETE_SUPPRESS_SPACE": "1"}
    command = ["bash", "-c", f'exec "$0" 8>&{write} 9>&2', str(PROGRAM)]
    done = subprocess.run(
        command, cwd=tree, env={**environment, **asked}, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, pass_fds=(write,), timeout=60, check=False,
    )  # fmt: skip
    os.close(write)
    with os.fdopen(read, "rb") as file:
        found = file.read().decode()
    assert done.stdout == b""
    assert not list(tree.rglob("ran"))
    return [each.partition("\t")[0] for each in found.split("\n") if each]


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("de", ["deploy"]),
        ("deploy --hos", ["--host"]),
        ("deploy --host ", ["@all", "@web", "medusa.univ.run", "web1"]),
        ("deploy --host w", ["web1"]),
        ("deploy --host @w", ["@web"]),
        ("deploy --host adm@m", ["adm@medusa.univ.run"]),
        ("deploy --host web1,m", ["web1,medusa.univ.run"]),
        ("deploy --host web1:@a", ["web1:@all"]),
        ("deploy --host @all,!w", ["@all,!web1"]),
        ("deploy --host @all,!@w", ["@all,!@web"]),
        ("deploy --host=w", ["--host=web1"]),
        ("hosts m", ["medusa.univ.run"]),
        ("info ", ["base", "web/nginx"]),
        ("info --host web1 ", ["base", "own", "web/nginx"]),
        ("deploy --host web1 --script ", ["base", "own", "web/nginx"]),
        ("deploy --host nobody --script w", ["web/nginx"]),
        ("deploy --host web1 --recipe ", ["default", "extra", "services"]),
        ("deploy --host '*.univ.run' --recipe d", ["db", "default"]),
        ("list --format ", ["json", "jsonl", "text"]),
        ("completion ", ["bash", "fish", "zsh"]),
        ("deploy --timeout ", []),
        ("new ", []),
        ("lock ", ["add", "remove", "show"]),
        ("lock r", ["remove"]),
        ("list --ssh-config ssh_k", ["ssh_keys/"]),
        ("list --path ", ["groups/", "hosts/", "scripts/", "ssh_keys/", "univ.run/"]),
        ("list --path hosts --host ", []),
    ],
)
def test_what_may_stand_at_the_cursor_is_offered(line, expected, tree, environment):
    assert sorted(complete(f"runsdeploy {line}", tree, environment)) == expected


@pytest.mark.parametrize(
    "files",
    [{"runsdeploy.json": "{"}, {"groups/web": "@nobody\n"}, {"hosts/web1/default": b"\xff '"}],
    ids=["configuration", "group", "recipe"],
)
def test_what_is_wrong_is_not_said_at_a_press_of_tab(files, tree, environment):
    plant(tree, files)
    assert complete("runsdeploy deploy --host w", tree, environment) in ([], ["web1"])
    assert complete("runsdeploy deploy --host w", tree.parent, environment) == []


def test_a_tree_that_others_may_write_completes_to_nothing(tree, environment):
    (tree / "hosts").chmod(0o777)
    assert complete("runsdeploy deploy --host w", tree, environment) == []
    assert complete("runsdeploy deploy --trust --host w", tree, environment) == ["web1"]


# --- in shells


def typed(shell, setup, keys, tree, environment):
    """Return what a terminal shows when keys are pressed in an interactive shell."""
    home = Path(environment["HOME"])
    settings = {**environment, "ZDOTDIR": str(home)}
    (home / ".zshrc").write_text(setup)
    (home / "bashrc").write_text(setup)
    command = {"bash": f"bash --noprofile --rcfile {home}/bashrc -i", "zsh": "zsh -d -i"}[shell]
    done = subprocess.run(
        ["script", "-qec", command, "/dev/null"], input=keys.encode(), cwd=tree, env=settings,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=90, check=False,
    )  # fmt: skip
    return done.stdout.decode("utf-8", "replace")


SETUP = {
    "bash": 'PS1="> "; eval "$(runsdeploy completion bash)"\n',
    "zsh": 'PS1="> "; autoload -U compinit; compinit -D -u; eval "$(runsdeploy completion zsh)"\n',
}


@pytest.mark.parametrize("shell", ["bash", "zsh"])
@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ("runsdeploy plan --host we\t\n", "web1: 1 step"),
        ("runsdeploy plan --host @w\t --script w\t\n", "1 web/nginx"),
        ("runsdeploy plan --host medusa.univ.run,w\t\n", "web1: 1 step"),
        ("runsdeploy pla\t--host web1 --rec\tex\t\n", "hosts/web1/extra:1"),
    ],
)
def test_tab_completes_what_is_typed_in_a_terminal(shell, keys, said, tree, environment):
    assert said in typed(shell, SETUP[shell], f"{keys}exit\n", tree, environment)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("runsdeploy deploy --host ", ["@all", "@web", "medusa.univ.run", "web1"]),
        ("runsdeploy deploy --host web1,@", ["web1,@all", "web1,@web"]),
        ("runsdeploy info w", ["web/nginx"]),
    ],
)
def test_tab_completes_in_fish(line, expected, tree, environment):
    done = subprocess.run(
        ["fish", "--no-config", "-c", f"runsdeploy completion fish | source; complete -C '{line}'"],
        cwd=tree, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    assert sorted(done.stdout.splitlines()) == expected, done.stderr


@pytest.mark.parametrize("shell", SHELLS)
def test_the_code_is_what_the_shell_can_read(shell, environment, tmp_path):
    operator = Operator(tmp_path / "operator")
    done = operator.run("completion", shell)
    assert (done.status, done.talk) == (0, "")
    assert operator.run("completion", shell, "--format", "json").document["code"] == done.text
    (tmp_path / "code").write_text(done.text)
    subprocess.run([shell, "-n", tmp_path / "code"], env=environment, check=True, timeout=60, stdin=subprocess.DEVNULL)


def test_another_shell_is_refused_with_those_that_there_are(tmp_path):
    done = Operator(tmp_path / "operator").run("completion", "tcsh")
    assert done.status == 2
    assert "expected one of bash, zsh, fish" in done.talk


def test_nothing_of_completion_is_loaded_by_other_commands(tree, environment):
    probe = "import sys; from runsdeploy.cli.main import main; main(['list']); print('argcomplete' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", probe], cwd=tree, env=environment, capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.splitlines()[-1] == "False"
