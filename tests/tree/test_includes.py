"""Recipes that include recipes: each is read once, however many ways lead to it (D22)."""

from __future__ import annotations

from pathlib import Path

import pytest

from runsdeploy.tree.includes import COMMAND_LINE, MOST_ENTRIES, RecipeIncludes
from runsdeploy.tree.recipe import Entry
from runsdeploy.tree.trees import Host, Trees
from tests.trees import plant


def expanded(tmp_path: Path, recipes: dict[str, str]) -> tuple[list[str], list[str]]:
    """Return the scripts of recipe `r0`, and the problems."""
    root = plant(tmp_path / "tree", {f"hosts/medusa/{name}": text for name, text in recipes.items()})
    includes = RecipeIncludes(Trees((root,)), Host("medusa"))
    names = [entry.name for entry in includes.expand(Entry("@r0", (), COMMAND_LINE))]
    return names, [str(problem).replace(f"{root}/hosts/medusa/", "") for problem in includes.problems]


def test_a_recipe_that_many_ways_lead_to_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """D22: each of 30 recipes includes the next one twice, and the last one has no step."""
    read: list[str] = []
    monkeypatch.setattr(Path, "read_bytes", lambda path: read.append(path.name) or path.open("rb").read())
    levels = {f"r{n}": f"@r{n + 1}\n@r{n + 1}\n" for n in range(30)}
    assert expanded(tmp_path, {**levels, "r30": "# nothing\n"}) == ([], [])
    assert len(read) == len(set(read))


def test_a_recipe_that_is_included_twice_stands_twice(tmp_path: Path):
    assert expanded(tmp_path, {"r0": "@r1\nb\n@r1\n", "r1": "a\n"}) == (["a", "b", "a"], [])


def test_more_steps_than_anybody_means_are_an_error(tmp_path: Path):
    """D22: 2^30 steps."""
    levels = {f"r{n}": f"@r{n + 1}\n@r{n + 1}\n" for n in range(30)}
    found, problems = expanded(tmp_path, {**levels, "r30": "web\n"})
    assert found == []
    assert problems == [f"r16:2:1: `@r16` makes more than {MOST_ENTRIES} steps"]


def test_recipes_too_deep_are_an_error_not_a_traceback(tmp_path: Path):
    """D22: a recursion over a graph has its limit."""
    levels = {f"r{n}": f"@r{n + 1}\n" for n in range(1000)}
    assert expanded(tmp_path, {**levels, "r1000": "web\n"}) == (
        [],
        ["r99:1:1: `@r100` lies more than 100 recipes deep in `@r0`"],
    )


def test_a_script_that_is_included_twice_is_told_at_both_places(tmp_path: Path):
    found, problems = expanded(tmp_path, {"r0": "@s\n@s\n", "s": "script:\n"})
    assert found == []
    assert problems == [f"r0:{line}:1: `s` is a script, not a recipe; write `s`" for line in (1, 2)]
