"""What commands start from: the trees, the hosts, the entries to run on each."""

from __future__ import annotations

import re
from pathlib import Path

from runsdeploy.command import Arguments
from runsdeploy.errors import InputError, Position, Problem, did_you_mean
from runsdeploy.recipe import Entry, Operation, Word, parse_operations, parse_recipe
from runsdeploy.script import is_script
from runsdeploy.tree import Host, Located, Trees, name_problem, open_trees

COMMAND_LINE = Position("<command line>")
NESTING = 32
"""recipes that may include each other in a row"""


def trees_of(arguments: Arguments) -> Trees:
    """Open the trees of RUNSPATH; raises InputError."""
    return open_trees(arguments.path, Path.cwd(), tuple(arguments.allow), trusted=arguments.trust)


def hosts_of(arguments: Arguments, trees: Trees) -> list[Host]:
    """Return the hosts that were named, each once; raises InputError if none was, or for what matches nothing."""
    words = [word for given in arguments.host for word in re.split(r"[,:]", given) if word]
    if not words:
        hint = "name one with `--host`, see `runsdeploy hosts`"
        raise InputError([Problem(None, "no host given", hint)])
    hosts: dict[str, Host] = {}
    problems: list[Problem] = []
    for word in words:
        try:
            hosts.update((host.name, host) for host in trees.select(word))
        except InputError as error:
            problems += error.problems
    if problems:
        raise InputError(problems)
    return list(hosts.values())


def sets_of(arguments: Arguments) -> list[Operation]:
    """Return the operations of `--set`; raises InputError."""
    operations, problems = parse_operations(Word(text, COMMAND_LINE) for text in arguments.set)
    if problems:
        raise InputError(problems)
    return operations


def entries_of(arguments: Arguments, trees: Trees, host: Host) -> tuple[list[Entry], list[Problem]]:
    """Return what to run on a host: `--script`, `--recipe`, or the recipe `default`; with all problems."""
    entries = [Entry(name, (), COMMAND_LINE) for name in arguments.script]
    recipes = [Entry(f"@{name}", (), COMMAND_LINE) for name in arguments.recipe]
    if not entries and not recipes:
        if not trees.host_directories(host):
            near = did_you_mean(host.name, (known.name for known in trees.hosts()))
            place = f"{host.domain or 'hosts'}/{host.short}/default"
            hint = f"write a recipe `{place}`, or name a script: `--script NAME`"
            message = f"unknown host `{host.name}`: no directory in the trees, and nothing named to run"
            return [], [Problem(None, message, near or hint)]
        recipes = [Entry("@default", (), COMMAND_LINE)]
    opened = _Opened(trees, host)
    found = [entry for recipe in recipes for entry in opened.include(recipe, ())]
    return [*found, *entries], opened.problems


class _Opened:
    """The recipes of one host, opened as they are included."""

    def __init__(self, trees: Trees, host: Host) -> None:
        self.trees, self.host = trees, host
        self.problems: list[Problem] = []

    def include(self, entry: Entry, above: tuple[str, ...]) -> list[Entry]:
        """Return the entries of a recipe, includes replaced by what they include."""
        name = entry.name.removeprefix("@")
        wrong = name_problem(name)
        found = None if wrong else self.trees.find(name, self.host)
        if wrong:
            self.problems.append(Problem(entry.position, wrong))
        elif found is None and entry.name == "@default" and entry.position == COMMAND_LINE:
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
            return self._read(entry, found, (*above, name))
        return []

    def _read(self, entry: Entry, found: Located, above: tuple[str, ...]) -> list[Entry]:
        try:
            data = found.path.read_bytes()
        except OSError as error:
            self.problems.append(Problem(found.at(), f"cannot read recipe: {(error.strerror or str(error)).lower()}"))
            return []
        if is_script(data):
            self.problems.append(
                Problem(entry.position, f"`{above[-1]}` is a script, not a recipe", f"write `{above[-1]}`")
            )
            return []
        if self.trees.escapes(found.path):
            self.problems.append(Problem(found.at(), "recipe leads out of the trees"))
            return []
        entries, problems = parse_recipe(data, found.shown)
        self.problems += problems
        return [
            inner for each in entries for inner in (self.include(each, above) if each.name.startswith("@") else [each])
        ]
