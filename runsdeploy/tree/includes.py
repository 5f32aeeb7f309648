"""Includes of recipes: the entries of a recipe of a host, with each `@include` replaced by those of that recipe."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from runsdeploy.errors import Position, Problem
from runsdeploy.tree.recipe import Entry, parse_recipe
from runsdeploy.tree.script import ADD_SEPARATOR, MOST_HEAD, is_script, is_shell_program, read_head
from runsdeploy.tree.text import read_text
from runsdeploy.tree.trees import Host, Located, Trees, name_problem

COMMAND_LINE = Position("<command line>")

MOST_LEVELS = 100
"""recipes that may include each other, one in the other"""

MOST_ENTRIES = 10_000
"""entries that a recipe may have with those of the recipes that it includes"""


class RecipeIncludes:
    """Expands the recipes of one host; without a host, those that are the same for every host."""

    def __init__(self, trees: Trees, host: Host | None) -> None:
        self.trees, self.host = trees, host
        self.problems: list[Problem] = []
        """those of all recipes that were expanded"""
        self.files: set[Path] = set()
        """recipe files that were opened"""
        self._expanded: dict[str, Sequence[Entry] | None] = {}
        """entries by name, None for a script: n recipes that each include the next one twice are read n times"""

    def expand(self, entry: Entry, above: tuple[str, ...] = ()) -> Sequence[Entry]:
        """Return the entries of a recipe and of the recipes that it includes; problems are added to `problems`.

        `entry` names the recipe; `above` are the recipes that include it, outermost first.
        """
        name = entry.name.removeprefix("@")
        wrong = name_problem(name)
        found = None if wrong else self.trees.find(name, self.host)
        places = self.trees.host_directories(self.host)
        if wrong:
            self.problems.append(Problem(entry.position, wrong))
        elif found is None and self.host and places and entry == Entry("@default", (), COMMAND_LINE):
            hint = "write one, or name what to run: `--recipe NAME`, `--script NAME`"
            message = f"host `{self.host.name}` has no recipe `default` in `{places[0].shown}`"
            self.problems.append(Problem(None, message, hint))
        elif found is None:
            hint = self.trees.near(name, self.host)
            self.problems.append(Problem(entry.position, f"unknown recipe `{name}`", hint))
        elif name in above:
            cycle = " → ".join(f"@{each}" for each in [*above[above.index(name) :], name])
            self.problems.append(Problem(entry.position, f"cycle of recipes: {cycle}"))
        elif len(above) == MOST_LEVELS:
            message = f"`@{name}` lies more than {MOST_LEVELS} recipes deep in `@{above[0]}`"
            self.problems.append(Problem(entry.position, message))
        else:
            if name not in self._expanded:
                self._expanded[name] = self._expand(found, (*above, name))
            entries = self._expanded[name]
            if entries is not None:
                return entries
            hint = f"write `--script {name}`" if entry.position == COMMAND_LINE else f"write `{name}`"
            self.problems.append(Problem(entry.position, f"`{name}` is a script, not a recipe", hint))
        return ()

    def _expand(self, found: Located, above: tuple[str, ...]) -> Sequence[Entry] | None:
        """Return the entries of a file, includes replaced; None for a script. The last of `above` is its name."""
        read = self._read(found, above[-1])
        if read is None:
            return None
        entries: list[Entry] = []
        for each in read:
            entries += self.expand(each, above) if each.name.startswith("@") else (each,)
            if len(entries) > MOST_ENTRIES:
                message = f"`@{above[-1]}` makes more than {MOST_ENTRIES} steps"
                self.problems.append(Problem(each.position, message))
                return ()
        return entries

    def _read(self, found: Located, name: str) -> Sequence[Entry] | None:
        """Return the entries of one file as they stand there; None for a script."""
        self.files.add(found.path)
        outside = self.trees.trust.outside_problem(found.path, f"recipe `{name}`")
        if outside:
            self.problems.append(outside)
            return []
        try:
            if is_script(read_head(found.path)):
                return None
            data = read_text(found.path, MOST_HEAD)
        except OSError as error:
            self.problems.append(Problem(found.at(), f"cannot read recipe: {(error.strerror or str(error)).lower()}"))
            return []
        if is_shell_program(data):
            message = f"`{name}` is a shell program, not a recipe"
            self.problems.append(Problem(found.at(1), message, ADD_SEPARATOR))
            return []
        entries, problems = parse_recipe(data, found.shown)
        self.problems += problems
        return entries
