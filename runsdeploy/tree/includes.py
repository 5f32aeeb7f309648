"""Includes of recipes: the entries of a recipe of a host, with each `@include` replaced by those of that recipe."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from runsdeploy.errors import Position, Problem
from runsdeploy.tree.recipe import Entry, parse_recipe
from runsdeploy.tree.script import ADD_SEPARATOR, is_script, is_shell_program
from runsdeploy.tree.trees import Host, Located, Trees, name_problem

COMMAND_LINE = Position("<command line>")


class RecipeIncludes:
    """Expands the recipes of one host; without a host, those that are the same for every host."""

    def __init__(self, trees: Trees, host: Host | None) -> None:
        self.trees, self.host = trees, host
        self.problems: list[Problem] = []
        """those of all recipes that were expanded"""
        self.files: set[Path] = set()
        """recipe files that were opened"""

    def expand(self, entry: Entry, above: tuple[str, ...] = ()) -> Iterator[Entry]:
        """Yield the entries of a recipe and of the recipes that it includes; problems are added to `problems`.

        `entry` names the recipe; `above` are the recipes that include it, outermost first.
        """
        name = entry.name.removeprefix("@")
        wrong = name_problem(name)
        found = None if wrong else self.trees.find(name, self.host)
        if wrong:
            self.problems.append(Problem(entry.position, wrong))
        elif found is None and entry.name == "@default" and entry.position == COMMAND_LINE and self.host:
            place = self.trees.host_directories(self.host)[0].shown
            hint = "write one, or name what to run: `--recipe NAME`, `--script NAME`"
            self.problems.append(Problem(None, f"host `{self.host.name}` has no recipe `default` in `{place}`", hint))
        elif found is None:
            hint = self.trees.near(name, self.host)
            self.problems.append(Problem(entry.position, f"unknown recipe `{name}`", hint))
        elif name in above:
            cycle = " → ".join(f"@{each}" for each in [*above[above.index(name) :], name])
            self.problems.append(Problem(entry.position, f"cycle of recipes: {cycle}"))
        else:
            for each in self._read(entry, found, name):
                yield from self.expand(each, (*above, name)) if each.name.startswith("@") else (each,)

    def _read(self, entry: Entry, found: Located, name: str) -> Sequence[Entry]:
        """Return the entries of one file."""
        self.files.add(found.path)
        outside = self.trees.trust.outside_problem(found.path, f"recipe `{name}`")
        if outside:
            self.problems.append(outside)
            return []
        try:
            data = found.path.read_bytes()
        except OSError as error:
            self.problems.append(Problem(found.at(), f"cannot read recipe: {(error.strerror or str(error)).lower()}"))
            return []
        if is_script(data):
            hint = f"write `--script {name}`" if entry.position == COMMAND_LINE else f"write `{name}`"
            self.problems.append(Problem(entry.position, f"`{name}` is a script, not a recipe", hint))
            return []
        if is_shell_program(data):
            message = f"`{name}` is a shell program, not a recipe"
            self.problems.append(Problem(found.at(1), message, ADD_SEPARATOR))
            return []
        entries, problems = parse_recipe(data, found.shown)
        self.problems += problems
        return entries
