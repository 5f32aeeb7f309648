"""What the arguments of a command stand for: trees, hosts, connections, and the entries to run on each host."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from runsdeploy.commands.arguments import Arguments
from runsdeploy.errors import InputError, Problem, did_you_mean
from runsdeploy.output.terminal import Writer, printable
from runsdeploy.plan.blame import operation_text
from runsdeploy.plan.plan import Plan
from runsdeploy.rollout.work import Work
from runsdeploy.temporary import place
from runsdeploy.transport.host_connection import HostConnection
from runsdeploy.tree.composition import composed
from runsdeploy.tree.encoding import encoding_problem
from runsdeploy.tree.includes import COMMAND_LINE, RecipeIncludes
from runsdeploy.tree.recipe import Entry, Operation, parse_argument
from runsdeploy.tree.script import is_script, no_separator, read_head
from runsdeploy.tree.selection import choices, near_host, select
from runsdeploy.tree.text import read_text
from runsdeploy.tree.trees import Host, Trees, name_problem, open_trees
from runsdeploy.tree.trust import Trust


def trees_of(arguments: Arguments) -> Trees:
    """Open the trees of RUNSPATH; raises InputError."""
    return open_trees(arguments.path, Path.cwd(), tuple(arguments.allow), trusted=arguments.trust)


def hosts_of(arguments: Arguments, trees: Trees) -> list[Host]:
    """Return the selected hosts, each once; raises InputError if none is given, or for a name that matches nothing."""
    words = choices(arguments.host)
    if not words:
        hint = "name one with `--host`, see `runsdeploy hosts`"
        raise InputError([Problem(None, "no host given", hint)])
    return select(trees, words)


def work_of(arguments: Arguments) -> Work:
    """Return the work that the arguments ask for; raises InputError."""
    trees = trees_of(arguments)
    hosts = hosts_of(arguments, trees)
    talk = Writer(sys.stderr)
    for note in (each for host in hosts for each in dropped_of(arguments, trees, host)):
        talk.line(printable(note))
    return Work(trees, hosts, lambda host: entries_of(arguments, trees, host), sets_of(arguments))


def one_host(arguments: Arguments, trees: Trees) -> Host | None:
    """Return the one host of `--host`, or None without it; raises InputError if it matches several."""
    if not arguments.host:
        return None
    hosts = select(trees, choices([arguments.host]), known=True)
    if len(hosts) != 1:
        raise InputError([Problem(None, f"`{arguments.host}` matches {len(hosts)} hosts, expected one")])
    return hosts[0]


def connection_to(arguments: Arguments, host: Host, prefix: str = "") -> HostConnection:
    """Return the connection to a host, not opened yet; what it waits for is written to stderr, after `prefix`.

    Raises InputError if other users could replace files in the directory for temporary files, in which ssh reads its
    configuration.
    """
    if not arguments.local:
        trust = Trust(any_owner=arguments.trust, why="an ssh configuration is written there")
        if problems := trust.owner_problems(place()):
            raise InputError(problems)
    return HostConnection(
        host.address,
        arguments.ssh_config,
        accept_new=arguments.accept_new,
        local=arguments.local,
        notify=show_wait(prefix or f"{host.name}: "),
    )


def show_wait(prefix: str) -> Callable[[str], None]:
    """Return a function that writes what is waited for to stderr, in a thread of its own."""

    def show(subject: str) -> None:
        # Where nothing can be written, the thread that handles the events has the error.
        with suppress(OSError):
            Writer(sys.stderr).line(printable(prefix + subject))

    return show


def sets_of(arguments: Arguments) -> list[Operation]:
    """Return the operations of `--set`; raises InputError."""
    operations: list[Operation] = []
    problems: list[Problem] = []
    for text in arguments.set:
        found, wrong = parse_argument(text, COMMAND_LINE)
        operations += found
        problems += wrong
    if problems:
        raise InputError(problems)
    return operations


def entries_of(arguments: Arguments, trees: Trees, host: Host) -> tuple[list[Entry], list[Problem]]:
    """Return what to run on a host: `--script`, `--recipe`, or the recipe `default`; with all problems."""
    problems = [problem for name in arguments.script if (problem := _no_script(name, trees, host))]
    if problems:
        return [], problems
    entries = [Entry(composed(name), (), COMMAND_LINE) for name in arguments.script]
    recipes = [Entry(f"@{composed(name)}", (), COMMAND_LINE) for name in arguments.recipe]
    if not entries and not recipes:
        if not trees.host_directories(host):
            near = near_host(host.name, trees)
            hint = f"make it: `runsdeploy init --host {host.name}`, or name a script: `--script NAME`"
            message = f"unknown host `{host.name}`: no directory in the trees, and nothing named to run"
            return [], [Problem(None, message, near or hint)]
        recipes = [Entry("@default", (), COMMAND_LINE)]
    includes = RecipeIncludes(trees, host)
    found = [entry for recipe in recipes for entry in includes.expand(recipe)]
    return [*found, *entries], includes.problems


def _no_script(name: str, trees: Trees, host: Host) -> Problem | None:
    """Return the problem of a `--script` that names a recipe, or has an `@` in front; else None."""
    plain = name.removeprefix("@")
    found = None if name_problem(plain) else trees.find(plain, host)
    if not found or trees.trust.outside_problem(found.path):
        return None
    with suppress(OSError):
        data = read_head(found.path)
        if is_script(data):
            hint = f"write `--script {plain}`"
            return Problem(COMMAND_LINE, f"`{name}` is a script, not a recipe", hint) if name != plain else None
        if not encoding_problem(data, plain):
            return Problem(COMMAND_LINE, *no_separator(plain, data, f"if it is a recipe, write `--recipe {plain}`"))
    return None


def dropped_of(arguments: Arguments, trees: Trees, host: Host) -> Iterator[str]:
    """Yield the operations of the host's recipe on the scripts of `--script`: they do not apply there."""
    if "default" in arguments.recipe or not arguments.script:
        return
    entries: list[Entry] = []
    # Nothing else needs that recipe, so its errors do not matter.
    with suppress(InputError):
        if trees.find("default", host):
            entries += RecipeIncludes(trees, host).expand(Entry("@default", (), COMMAND_LINE))
    for name in dict.fromkeys(map(composed, arguments.script)):
        said = [f"{operation_text(each)} ({each.position.file_line})" for entry in entries if entry.name == name
                for each in entry.operations]  # fmt: skip
        if said:
            yield f"{host.name}: `--script {name}`: the recipe's operations do not apply: {', '.join(said)}"


def show_unread(work: Work, plans: Sequence[Plan]) -> None:
    """Write which operations of `--set` no script reads, to stderr."""
    talk = Writer(sys.stderr)
    for note in unread_of(work.trees, work.sets, plans):
        talk.line(printable(note))


def unread_of(trees: Trees, sets: Sequence[Operation], plans: Sequence[Plan]) -> Iterator[str]:
    """Yield which operations of `--set` have a name that no script mentions, though a variable has one like it."""
    if not sets:
        return
    steps = [(each.host, step) for each in plans for step in each.steps]
    texts = [text for _, step in steps for text in (step.script.conf, step.script.body)]
    texts += [file.content for each in plans for file in each.libraries]
    above = (trees.cascade(step.script.source, host) for host, step in steps)
    texts += [read_text(path) for path in {place.path for places in above for place in places}]
    names = {variable.name for _, step in steps for variable in step.variables} - {each.name for each in sets}
    for each in sets:
        near = did_you_mean(each.name, names)
        if near and not any(re.search(rf"\b{each.name}\b".encode(), text) for text in texts):
            yield f"`--set {operation_text(each)}`: no script declares or reads `{each.name}`; {near}"
