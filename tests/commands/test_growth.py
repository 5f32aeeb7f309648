"""What lies in a tree costs no memory unless it is read, and nothing there is waited for (D21)."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.trees import Finished, Operator, plant, script, wait

HUGE = 8 << 30
"""bytes of a sparse file"""

SOME = 24 << 10
"""KiB by which two runs of a program may differ"""


WATCH = """
import os, sys
child = os.spawnv(os.P_NOWAIT, sys.executable, [sys.executable, "-m", "runsdeploy", *sys.argv[2:]])
_, status, used = os.wait4(child, 0)
open(sys.argv[1], "w").write(str(used.ru_maxrss))
sys.exit(os.waitstatus_to_exitcode(status))
"""
"""runs the program and writes how many KiB it took; a small parent, because the kernel counts the parent's too"""


@pytest.fixture
def operator(tmp_path: Path) -> Operator:
    return Operator(tmp_path / "operator")


def watched(operator: Operator, *arguments: str | Path) -> tuple[Finished, int]:
    """Run a command; return how it ended, and its memory in KiB."""
    place = operator.directory / "memory"
    with subprocess.Popen(
        [sys.executable, "-c", WATCH, place, *arguments],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        cwd=operator.directory, env=operator.settings(),
    ) as process:  # fmt: skip
        return wait(process), int(place.read_text())


def memory(operator: Operator, *arguments: str | Path) -> int:
    """Return the KiB that a command took."""
    done, used = watched(operator, *arguments)
    assert done.status == 0, done.talk
    return used


def grow(root: Path) -> None:
    """Put into every directory that is looked through what nobody may read, or wait for."""
    for folder in ("scripts", "hosts/medusa", "groups", "lib", "scripts/sub"):
        (root / folder).mkdir(exist_ok=True)
        with (root / folder / "huge.img").open("wb") as file:
            file.truncate(HUGE)
        os.mkfifo(root / folder / "pipe")
        (root / folder / "device").symlink_to("/dev/zero")
        if folder == "scripts":
            (root / folder / "text.log").write_bytes(b"a line of a text that is no script\n" * 70_000)


def tree(tmp_path: Path) -> Path:
    """Return a tree with scripts, recipes, a library and a group."""
    return plant(
        tmp_path / "tree",
        {
            "scripts/web": script("desc web", "urequire mine\necho"),
            "hosts/medusa/default": "web\n",
            "lib/mine": "f() { :; }\n",
            "groups/all": "medusa\n",
        },
    )


COMMANDS = {
    "list": ("list",),
    "hosts": ("hosts",),
    "hosts of a group": ("hosts", "@all"),
    "info": ("info", "web", "--host", "medusa"),
    "plan": ("plan", "--host", "medusa"),
}


@pytest.mark.parametrize("name", COMMANDS)
def test_d21_a_command_takes_no_memory_for_what_it_does_not_read(operator: Operator, tmp_path: Path, name: str):
    """D21: 8 GB beside the scripts, and named pipes and devices."""
    command, *more = COMMANDS[name]
    root = tree(tmp_path)
    before = memory(operator, command, "--path", root, "--allow", "/dev/zero", *more)
    grow(root)
    assert memory(operator, command, "--path", root, "--allow", "/dev/zero", *more) < before + SOME


def test_d21_list_beside_8_gb_takes_less_than_60_mib(operator: Operator, tmp_path: Path):
    """D21: in kilobytes, as the case says it."""
    root = tree(tmp_path)
    grow(root)
    assert memory(operator, "list", "--path", root, "--allow", "/dev/zero") < 60 << 10


def test_d21_check_takes_no_memory_for_payloads_and_tells_a_library_that_is_none(operator: Operator, tmp_path: Path):
    """D21: a library is read whole, so one of 8 GB is an error with its name, not a MemoryError."""
    root = tree(tmp_path)
    before = memory(operator, "check", "--path", root)
    grow(root)
    # A text that could be a recipe is parsed: its first MiB takes 60 MiB.
    for each in (*root.rglob("device"), root / "scripts/text.log"):
        each.unlink()
    (root / "groups/huge.img").unlink()
    done, used = watched(operator, "check", "--path", root)
    assert done.status == 2
    assert "lib/huge.img" in done.text + done.talk
    assert used < before + SOME
    (root / "lib/huge.img").unlink()
    assert memory(operator, "check", "--path", root) < before + SOME


@pytest.mark.parametrize(
    ("file", "command", "message"),
    [
        ("scripts/huge", ("plan", "--host", "medusa", "--script", "huge"), "`huge` has no line `script:`"),
        ("scripts/huge", ("plan", "--host", "medusa", "--recipe", "huge"), "cannot read recipe: it has more than"),
        ("groups/huge", ("hosts", "@huge"), "cannot read group: it has more than"),
        ("hosts/medusa/runs.conf", ("plan", "--host", "medusa"), "cannot read it: it has more than"),
        ("hosts/medusa/default", ("plan", "--host", "medusa"), "cannot read recipe: it has more than"),
    ],
)
def test_d21_a_file_of_8_gb_that_is_named_is_an_error(
    operator: Operator, tmp_path: Path, file: str, command: tuple[str, ...], message: str
):
    """D21: a MemoryError names no file."""
    root = tree(tmp_path)
    with (root / file).open("wb") as opened:
        opened.truncate(HUGE)
    done, used = watched(operator, *command, "--path", root)
    assert done.status == 2
    assert message in done.talk
    assert used < 100 << 10
