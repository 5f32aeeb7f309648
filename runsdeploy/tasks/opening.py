"""What commands start from: the trees, the hosts, the entries to run on each."""

from __future__ import annotations

from pathlib import Path

from runsdeploy.command import Arguments
from runsdeploy.cookbook import COMMAND_LINE, Cookbook
from runsdeploy.errors import InputError, Problem, did_you_mean
from runsdeploy.recipe import Entry, Operation, Word, parse_operations
from runsdeploy.selection import choices, select
from runsdeploy.tree import Host, Trees, open_trees


def trees_of(arguments: Arguments) -> Trees:
    """Open the trees of RUNSPATH; raises InputError."""
    return open_trees(arguments.path, Path.cwd(), tuple(arguments.allow), trusted=arguments.trust)


def hosts_of(arguments: Arguments, trees: Trees) -> list[Host]:
    """Return the hosts that were named, each once; raises InputError if none was, or for what matches nothing."""
    words = choices(arguments.host)
    if not words:
        hint = "name one with `--host`, see `runsdeploy hosts`"
        raise InputError([Problem(None, "no host given", hint)])
    return select(trees, words)


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
            hint = f"make it: `runsdeploy init --host {host.name}`, or name a script: `--script NAME`"
            message = f"unknown host `{host.name}`: no directory in the trees, and nothing named to run"
            return [], [Problem(None, message, near or hint)]
        recipes = [Entry("@default", (), COMMAND_LINE)]
    cookbook = Cookbook(trees, host)
    found = [entry for recipe in recipes for entry in cookbook.include(recipe)]
    return [*found, *entries], cookbook.problems
