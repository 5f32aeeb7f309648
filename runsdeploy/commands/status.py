"""`status`: what hosts have marked as done, and how that compares with the trees."""

from __future__ import annotations

import functools
import re
import sys
from collections.abc import Sequence
from typing import Any

from runsdeploy.cli.command import COMMON, Arguments, Command, Flag
from runsdeploy.commands.inputs import hosts_of, trees_of
from runsdeploy.commands.marker_query import (
    AT,
    Look,
    check_names,
    for_all,
    host_document,
    local_time,
    look_at,
    marker_document,
    show_failed,
)
from runsdeploy.markers.drift import DONE, UNKNOWN, Drift, compare
from runsdeploy.markers.marker import Marker
from runsdeploy.output import console, json
from runsdeploy.session.report import exit_status
from runsdeploy.tree.script import Script, read_script
from runsdeploy.tree.trees import Host, Trees, name_problem


def status(arguments: Arguments) -> int:
    """Show what hosts have marked as done, and how that compares with the trees."""
    trees = trees_of(arguments)
    looks: list[Look] = for_all(
        hosts_of(arguments, trees), arguments.parallel, lambda host: look_at(arguments, host, trees)
    )
    check_names(arguments.script, trees, looks)
    standings: list[tuple[Look, list[Drift]]] = []
    for look in looks:
        names = [name for name, _ in trees.names(look.host)]
        found = compare(look.markers, look.plan, functools.partial(_script, trees, look.host), names)
        wanted = arguments.script or {each.script for each in found}
        standings.append((look, [each for each in found if each.script in wanted]))
    pending = any(each.state not in (DONE, UNKNOWN) for _, found in standings for each in found)
    code = exit_status([look.failed for look in looks if look.failed]) or (6 if arguments.exit_code and pending else 0)
    for look in looks:
        _tell_plan(look)
    show_failed(looks)
    if arguments.format == "text":
        _show(standings)
    else:
        hosts = [
            {**host_document(look), "plan": look.plan.digest if look.plan else None,
             "errors": json.problems(0, look.problems)["errors"],
             "markers": [_drift_document(each) for each in found]}
            for look, found in standings
        ]  # fmt: skip
        json.write({"schema": json.SCHEMA, "exit_status": code, "hosts": hosts})
    return code


def _script(trees: Trees, host: Host, name: str) -> Script | None:
    place = None if name_problem(name) else trees.find(name, host)
    found = read_script(name, place) if place and trees.trust.contains(place.path) else None
    return found if isinstance(found, Script) else None


def _tell_plan(look: Look) -> None:
    """Say why what is marked was compared with less than it could be."""
    talk = console.Writer(sys.stderr)
    console.show_problems(look.problems)
    if look.problems:
        talk.line(f"{look.host.name}: its recipe `default` is wrong, so markers are compared with the scripts alone")
    steps = look.plan.steps if look.plan else ()
    roots = any("root" in step.flags and step.side == "target" for step in steps)
    if roots and look.markers["target"].account == "user":
        talk.line(f"{look.host.name}: root's markers cannot be read: `sudo -n` does not work there")


def _drift_document(each: Drift) -> dict[str, Any]:
    marker = each.marker or Marker(each.owner, "", each.script, each.subsystem, None)
    return {**marker_document(each.side, marker), "state": each.state, "reason": each.reason}


COLUMNS = ("host", "script", "subsystem", "value", "state", "when", "by", "revision", "plan", "where", "why")
STATES = {"done": "32", "older": "33", "never": "33", "unknown": "35", "untrusted": "31"}
"""SGR codes of states"""


def _show(standings: Sequence[tuple[Look, Sequence[Drift]]]) -> None:
    """Write a table; columns in which nothing stands are left out, as that of the host for a single one."""
    rows = [_row(look.host.name if len(standings) > 1 else "", each) for look, found in standings for each in found]
    kept = [number for number in range(len(COLUMNS)) if any(row[number] for row in rows)]
    widths = {number: max(len(row[number]) for row in [COLUMNS, *rows]) for number in kept}
    writer = console.Writer(sys.stdout)
    for row in [COLUMNS, *rows] if rows else []:
        cells = [row[number].ljust(widths[number]) for number in kept]
        state = kept.index(COLUMNS.index("state"))
        cells[state] = writer.paint(cells[state], STATES.get(cells[state].strip(), "0"))
        writer.line("  ".join(cells).rstrip())
    for look, found in standings:
        if not found and not look.failed:
            console.Writer(sys.stderr).line(f"{look.host.name}: nothing is marked there")


def _row(host: str, each: Drift) -> tuple[str, ...]:
    """Return the cells of a row, as they can be shown."""
    marker = each.marker
    where = "this machine" if each.side == "controller" else "root" if each.owner == "root" else ""
    said = (
        (_shortened(marker.value or ""), local_time(marker.time), marker.by, _shortened(marker.revision),
         _shortened(marker.plan)) if marker else ("",) * 5
    )  # fmt: skip
    value, *rest = said
    cells = (host, each.script, each.subsystem, value, each.state, *rest, where, each.reason)
    return tuple(console.printable(cell).replace("\n", "\\x0a").replace("\t", "\\x09") for cell in cells)


def _shortened(text: str) -> str:
    """Return enough of a digest to recognise it, of a commit with its `+`; other texts as they are."""
    return re.sub(r"\A([0-9a-f]{12})[0-9a-f]{28,52}(\+?)\Z", r"\1\2", text)


COMMANDS = (
    Command(
        "status",
        status,
        "show what hosts have marked as done, and whether the trees have changed since",
        (
            *AT,
            Flag("--script", "only this script", (), metavar="NAME"),
            Flag("--exit-code", "exit with 6 if something was never done, or by an older version", default=False),
            *COMMON,
        ),
        ("status --host medusa.univ.run", "status --host '*.univ.run' --script ping --format json"),
    ),
)
