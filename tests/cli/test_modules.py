"""Which modules each command loads: a start costs nothing that the command does not use."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from runsdeploy.cli.table import COMMANDS
from tests.trees import Operator, plant, script

PROBE = """
import sys
from runsdeploy.cli.main import main
try:
    status = main(sys.argv[1:])
except SystemExit as end:
    status = end.code
print(status, *sorted(sys.modules), file=sys.stderr)
"""
FILES = {"scripts/base": script("desc base"), "hosts/web1/default": "base\n", "groups/web": "web1\n"}
SLOW = frozenset({"argcomplete", "concurrent", "croniter", "cron_descriptor", "dataclasses", "invoke", "jinja2",
                  "paramiko", "tree_sitter", "zipfile"})  # fmt: skip
"""modules that take 10 ms and more to import"""
LOOKING = frozenset({"cli", "commands", "errors", "events", "exit_status", "output", "plan", "rollout", "temporary",
                     "tree"})  # fmt: skip
"""rooms of commands that look at trees"""


@pytest.fixture
def tree(tmp_path):
    return plant(tmp_path / "tree", FILES)


def loaded(tree: Path, *words: str) -> tuple[frozenset[str], frozenset[str]]:
    """Return the rooms, and the modules of SLOW, that a command loads."""
    done = subprocess.run(
        [sys.executable, "-c", PROBE, *words], cwd=tree, env=Operator(tree.parent / "me").settings(),
        stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    status, *names = done.stderr.splitlines()[-1].split()
    assert status == "0", done.stderr
    rooms = frozenset(name.split(".")[1] for name in names if name.startswith("runsdeploy."))
    return rooms, SLOW & frozenset(names)


def test_the_version_loads_nothing(tree):
    assert loaded(tree, "--version") == ({"cli", "exit_status"}, frozenset())


@pytest.mark.parametrize(
    ("words", "rooms", "slow"),
    [
        (["--help"], {"cli", "commands", "errors", "exit_status"}, set()),
        (["deploy", "--help"], {"cli", "commands", "errors", "exit_status"}, set()),
        (["hosts"], LOOKING | {"session", "transport"}, set()),
        (["list"], LOOKING | {"session", "transport"}, set()),
        (["plan", "--host", "web1"], LOOKING | {"markers", "session", "transport"}, set()),
        (["completion", "bash"], LOOKING | {"session"}, {"argcomplete"}),
    ],
    ids=lambda each: " ".join(each) if isinstance(each, list) else "",
)
def test_a_command_loads_no_more_than_these(words, rooms, slow, tree):
    found_rooms, found_slow = loaded(tree, *words)
    assert found_slow == slow
    assert found_rooms <= rooms


def test_every_command_has_a_function_that_is_there():
    for command in COMMANDS:
        module, _, name = command.function.partition(":")
        probe = f"import {module}; assert callable({module}.{name})"
        subprocess.run([sys.executable, "-c", probe], check=True, timeout=60, stdin=subprocess.DEVNULL)
