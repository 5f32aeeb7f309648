"""The rooms: each says what comes in, what goes out, who asks, and which verbs to begin with; none grows too large."""

from __future__ import annotations

import ast
import re
import statistics
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "runsdeploy"
ROOMS = ("bash", "check", "cli", "commands", "markers", "output", "plan", "rollout", "session", "transport", "tree")
LARGEST, MEDIAN = 400, 150
"""lines of a module, and of half of them"""


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_says_what_comes_in_what_goes_out_and_who_asks(room):
    said = ast.get_docstring(ast.parse((PACKAGE / room / "__init__.py").read_bytes())) or ""
    for key in ("In: ", "Out: ", "Asked by: ", "Verbs: "):
        assert f"\n{key}" in said


@pytest.mark.parametrize("room", ROOMS)
def test_the_verbs_of_a_room_are_there_and_importing_one_module_does_not_load_them_all(room):
    tree = ast.parse((PACKAGE / room / "__init__.py").read_bytes())
    verbs = re.findall(r"`([a-z_.]+)\.(\w+)`", (ast.get_docstring(tree) or "").partition("Verbs: ")[2])
    assert verbs
    for module, name in verbs:
        file = PACKAGE.joinpath(room, *module.split("."))
        file = file / "__init__.py" if file.is_dir() else file.with_suffix(".py")
        defined = {
            node.name for node in ast.parse(file.read_bytes()).body if isinstance(node, ast.FunctionDef | ast.ClassDef)
        }
        assert name in defined
    assert not [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]


def test_every_package_is_a_room_or_shipped():
    found = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    assert found == {*ROOMS, "jobs"}


def test_no_module_is_too_large():
    sizes = {path: len(path.read_bytes().splitlines()) for path in PACKAGE.rglob("*.py")}
    assert not {path: size for path, size in sizes.items() if size > LARGEST}
    assert statistics.median(sizes.values()) <= MEDIAN


def test_r8_temporary_directories_are_made_where_the_next_process_removes_those_of_killed_ones():
    """In TMPDIR; what is made beside the file that it will replace has a `dir`, and a report is for the operator."""
    found = []
    for path in PACKAGE.rglob("*.py"):
        if path.relative_to(PACKAGE).parts[0] in ("jobs", "temporary.py"):
            continue
        for node in ast.walk(ast.parse(path.read_bytes())):
            made = isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr
            if made in {"TemporaryDirectory", "NamedTemporaryFile", "mkdtemp", "mkstemp"}:
                assert isinstance(node, ast.Call)
                found += [path.name] if "dir" not in {word.arg for word in node.keywords} else []
    assert found == ["unforeseen.py"]


def test_no_program_of_the_target_is_too_large():
    sizes = {path: len(path.read_bytes().splitlines()) for path in PACKAGE.glob("shell/**/*.sh")}
    assert sizes
    assert not {path: size for path, size in sizes.items() if size > LARGEST}
