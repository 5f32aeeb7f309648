"""The tasks of the namespace, called as Python: from an operator's own tasks, and as their `pre` (O1)."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from invoke.context import Context
from invoke.exceptions import Exit

from runsdeploy.cli.table import COMMANDS
from runsdeploy.namespace import namespace
from tests.trees import Operator, plant, script

NS = namespace()
TREE = {
    "scripts/base": script("desc base\nvar port=80", 'echo "port is $port"'),
    "scripts/bad": script("", "exit 3"),
    "hosts/web1/default": "base\n",
    "hosts/web2/default": "base\n",
    "groups/both": "web1\nweb2\n",
}


@pytest.fixture(autouse=True)
def tree(tmp_path, monkeypatch):
    """Stand in a tree, with nothing of the developer's; there is no host that ssh could reach."""
    for name in [name for name in os.environ if name.startswith("RUNS")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(plant(tmp_path / "home", {".ssh": None})))
    monkeypatch.setenv("RUNSDEPLOY_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.setenv("RUNSDEPLOY_SSH_CONFIG", str(plant(tmp_path, {"ssh": "Host *\n ProxyCommand false\n"}) / "ssh"))
    monkeypatch.chdir(plant(tmp_path / "tree", TREE))
    return tmp_path / "tree"


def status_of(task, *positional, **named):
    """Call a task; return its exit status."""
    try:
        NS[task](Context(), *positional, **named)
    except Exit as error:
        return error.code
    return 0


CALLS = {
    "init": ({"dir": "new"}, 0),
    "new": ({"name": "web/nginx"}, 0),
    "deploy": ({"host": ["web1"], "local": True}, 0),
    "plan": ({"host": ["web1"]}, 0),
    "render": ({"host": ["web1"], "output": "rendered.sh"}, 0),
    "check": ({}, 0),
    "status": ({"host": ["web1"], "local": True}, 0),
    "reset": ({"host": ["web1"], "script": ["base"], "local": True}, 0),
    "sysinfos": ({"host": ["web1"], "local": True}, 0),
    "attach": ({"host": ["web1"], "local": True}, 0),
    "lock": ({"action": "show", "host": ["web1"], "local": True}, 0),
    "list": ({}, 0),
    "hosts": ({}, 0),
    "info": ({"name": "base"}, 0),
    "ssh.setup": ({"host": ["web1"], "key": "nowhere.pub"}, 2),
    "cron.install": ({"host": ["web1"]}, 2),
    "cron.uninstall": ({"host": ["web1"], "local": True, "dry_run": True}, 0),
    "cron.build": ({"output": "runner.pyz"}, 0),
    "cron.run": ({"host": ["web1"], "local": True, "dry_run": True}, 0),
    "cron.jobs": ({"host": ["web1"], "local": True, "dry_run": True}, 0),
    "cron.status": ({"host": ["web1"], "local": True, "dry_run": True}, 0),
    "cron.logs": ({"host": ["web1"], "local": True, "dry_run": True}, 0),
    "cron.backups": ({"host": ["web1"], "local": True, "dry_run": True}, 0),
    "cron.verify": ({"host": ["web1"], "local": True, "dry_run": True}, 0),
    "cron.restore": ({"host": ["web1"], "local": True, "dry_run": True, "continue_": True}, 0),
    "completion": ({"shell": "bash"}, 0),
}


def test_each_command_has_a_call():
    assert set(CALLS) >= {command.name for command in COMMANDS}
    assert set(CALLS) <= {command.name for command in COMMANDS}


@pytest.mark.parametrize("name", CALLS)
def test_a_task_is_called_with_what_matters_and_has_defaults_for_the_rest(name, capfd):
    """O1."""
    named, status = CALLS[name]
    assert status_of(name, **named) == status
    assert "itself failed" not in capfd.readouterr().err


@pytest.mark.parametrize("name", CALLS)
def test_a_flag_that_does_not_exist_is_pythons_own_error(name):
    with pytest.raises(TypeError, match="hots"):
        NS[name](Context(), hots="web1", **CALLS[name][0])


def test_an_argument_that_is_missing_is_pythons_own_error():
    with pytest.raises(TypeError, match="name"):
        NS["info"](Context())


@pytest.mark.parametrize(
    "hosts", ["web1", ["web1"], ("web1",), "web1,web2", ["web1", "web2"], {"web1": 1}, "@both"], ids=str
)
def test_hosts_are_a_text_or_any_iterable(hosts, capfd):
    assert status_of("plan", host=hosts) == 0
    assert capfd.readouterr().out.startswith("web1: 1 step")


@pytest.mark.parametrize(
    ("named", "shown"),
    [
        ({"set": "port=1,2"}, "port=1,2"),
        ({"set": ["port=7"]}, "port=7"),
        ({"set": "port 1 2"}, "port=(1 2)"),
        ({"script": "base", "conf_timeout": 5}, "port=80"),
        ({"conf_timeout": 2.5, "format": "text", "verbose": True}, "port=80"),
        ({"path": Path()}, "port=80"),
        ({"allow": Path("/usr"), "trust": False, "recipe": None, "ssh_config": ""}, "port=80"),
    ],
    ids=str,
)
def test_values_are_those_of_python(named, shown, capfd):
    assert status_of("plan", host="web1", **named) == 0
    assert shown in capfd.readouterr().out


def test_flags_are_positional_in_the_order_of_the_help(capfd):
    assert status_of("info", "base") == 0
    assert status_of("plan", "web1", None, "base") == 0
    assert "1 base" in capfd.readouterr().out


@pytest.mark.parametrize("wait", [True, False, 30, 0.5, "5", 0])
def test_a_flag_with_an_optional_value_is_a_truth_or_a_number(wait):
    assert status_of("deploy", host="web1", local=True, wait=wait, timeout=0, dry_run=True) == 0


@pytest.mark.parametrize(
    ("named", "message"),
    [
        ({"host": 5}, "bad value `[5]` of `--host`"),
        ({"host": "web1", "parallel": "many"}, "bad value `many` of `--parallel`"),
        ({"host": "web1", "timeout": True}, "bad value `True` of `--timeout`"),
        ({"host": "nope"}, "unknown host `nope`"),
        ({}, "no host given"),
    ],
    ids=str,
)
def test_bad_values_are_status_2(named, message, capfd):
    assert status_of("deploy", local=True, **named) == 2
    assert message in capfd.readouterr().err


def test_a_failure_is_invokes_exit_with_the_status_of_the_command():
    assert status_of("deploy", host="web1", local=True, script="bad") == 1
    assert status_of("deploy", host="web1") == 3
    assert status_of("deploy", host="web1", local=True, dry_run=True, exit_code=True) == 6


def test_dry_of_the_context_counts_for_a_call_too(capfd):
    context = Context()
    context.config.run.dry = True
    NS["deploy"](context, host="web1", local=True)
    assert "would-run" in capfd.readouterr().out


def test_a_deploy_may_follow_another_one_in_the_same_process(capfd):
    for outcome in ("1 ok", "1 ok"):
        assert status_of("deploy", host="web1", local=True) == 0
        assert outcome in capfd.readouterr().out


def test_tasks_of_the_same_name_are_not_the_same_task():
    """Otherwise invoke would run one of them only."""
    assert NS["status"] != NS["cron.status"]
    tasks = [NS[command.name] for command in COMMANDS]
    assert all(one is other or one != other for one in tasks for other in tasks)


OWN = """
from invoke import call, task
from runsdeploy.namespace import namespace

ns = namespace()

@task
def both(c):
    ns["deploy"](c, host=["web1"], local=True)
    ns["deploy"](c, "web2", local=True, script="base", set="port=81")
    print("both are done")

@task(pre=[call(ns["plan"], host="web1"), call(ns["deploy"], host="web1", local=True)])
def after(c):
    print("after")

@task(pre=[call(ns["deploy"], host="web1", local=True, script="bad")])
def never(c):
    print("never")

@task
def rescued(c):
    from invoke.exceptions import Exit
    try:
        ns["deploy"](c, host="web1", local=True, script="bad")
    except Exit as error:
        print("status", error.code)

for each in (both, after, never, rescued):
    ns.add_task(each)
"""


@pytest.mark.parametrize(
    ("name", "status", "said"),
    [
        ("both", 0, ["port is 80", "port is 81", "both are done"]),
        ("after", 0, ["web1: 1 step", "port is 80", "after"]),
        ("never", 1, ["failed"]),
        ("rescued", 0, ["failed", "status 1"]),
    ],
)
def test_an_operators_own_tasks_call_ours(name, status, said, tree, tmp_path):
    """O1, pyinvoke 569 and 884."""
    plant(tree, {"tasks.py": OWN})
    done = subprocess.run(
        [sys.executable, "-m", "invoke", name], cwd=tree, env=Operator(tmp_path / "me").settings(),
        stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=90, check=False,
    )  # fmt: skip
    assert done.returncode == status, done.stderr
    told = done.stdout + done.stderr
    assert all(word in told for word in said), told
    assert ("never" in done.stdout.split()) is False
