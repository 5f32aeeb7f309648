"""`list` and `hosts`: what is in the trees; no connection, nothing executed but CONF sections."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence

from runsdeploy.cli.command import COMMON, Arguments, Command, Flag
from runsdeploy.commands.inputs import trees_of
from runsdeploy.errors import InputError, Problem
from runsdeploy.output import json
from runsdeploy.output.console import Writer, printable, show_problems
from runsdeploy.plan.conf import Conf, Request
from runsdeploy.plan.evaluation import evaluate
from runsdeploy.tree.script import Script, is_script, read_script
from runsdeploy.tree.selection import choices, memberships, select
from runsdeploy.tree.trees import Host, Trees


def one_host(arguments: Arguments, trees: Trees) -> Host | None:
    """Return the host that was named, if one was; raises InputError."""
    if not arguments.host:
        return None
    hosts = select(trees, choices([arguments.host]), known=True)
    if len(hosts) != 1:
        raise InputError([Problem(None, f"`{arguments.host}` matches {len(hosts)} hosts, expected one")])
    return hosts[0]


def described(trees: Trees, host: Host | None, limit: float) -> list[tuple[Script, Conf]]:
    """Return every script with what its CONF section declares."""
    inside = [(name, place) for name, place in trees.names(host) if trees.trust.contains(place.path)]
    found = [read_script(name, place) for name, place in inside if is_script(place.path.read_bytes())]
    scripts = [script for script in found if isinstance(script, Script)]
    return list(zip(scripts, evaluate([Request(script, None) for script in scripts], trees, limit), strict=True))


def list_scripts(arguments: Arguments) -> int:
    """List the scripts with their descriptions."""
    trees = trees_of(arguments)
    found = described(trees, one_host(arguments, trees), arguments.conf_timeout)
    found.sort(key=lambda each: each[0].name)
    if arguments.format != "text":
        scripts = [{"script": s.name, "desc": c.description, "file": s.source.shown} for s, c in found]
        json.write({"schema": json.SCHEMA, "exit_status": 0, "scripts": scripts})
        return 0
    _write([(script.name, conf.description) for script, conf in found])
    return 0


def hosts(arguments: Arguments) -> int:
    """List the hosts with their recipes, groups and directories."""
    trees = trees_of(arguments)
    found = select(trees, choices([arguments.pattern]), known=True) if arguments.pattern else trees.hosts()
    groups, problems = memberships(trees)
    # A group that is wrong keeps nobody from looking; it is an error where it is asked for.
    show_problems([*problems, *trees.misplaced_hosts()])
    listed = [
        (host.name, recipes_of(trees, host), groups.get(host.name, []), trees.host_directories(host)) for host in found
    ]
    if arguments.format == "text":
        _write(
            [
                (name, " ".join(recipes), " ".join(f"@{group}" for group in within), " ".join(d.shown for d in places))
                for name, recipes, within, places in listed
            ]
        )
    else:
        document = [
            {"host": name, "recipes": recipes, "groups": within, "directories": [place.shown for place in places]}
            for name, recipes, within, places in listed
        ]
        json.write({"schema": json.SCHEMA, "exit_status": 0, "hosts": document})
    return 0


def recipes_of(trees: Trees, host: Host) -> list[str]:
    """Return the names of the recipes in a host's directories."""
    directories = {(place.tree, place.inside) for place in trees.host_directories(host)}
    found = []
    for name, place in trees.names(host):
        folder = place.inside.removesuffix(f"/{name}")
        if (place.tree, folder) in directories and not is_script(place.path.read_bytes()):
            found.append(name)
    return sorted(found)


def _write(rows: Sequence[Sequence[str]]) -> None:
    """Write a table, its columns as wide as what is in them."""
    writer = Writer(sys.stdout)
    for line in _columns([[printable(cell) for cell in row] for row in rows]):
        writer.line(line)


def _columns(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=True) if width]
        yield "  ".join(cells).rstrip()


COMMANDS = (
    Command(
        "list",
        list_scripts,
        "list the scripts with their descriptions",
        (Flag("--host", "with the scripts of this host", metavar="HOST"), *COMMON),
        ("list", "list --host medusa.univ.run"),
    ),
    Command(
        "hosts",
        hosts,
        "list the hosts with their recipes, groups and directories",
        (
            Flag("pattern", "which hosts, as with --host: `*.univ.run`, `@web,!web3`; all if none", "", metavar="HOST"),
            *COMMON,
        ),
        ("hosts", "hosts '*.univ.run'", "hosts '@web,!www3.univ.run'"),
    ),
)
