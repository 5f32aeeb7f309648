"""`status`: what hosts have marked as done, and how that compares with the trees."""

from __future__ import annotations

import functools
import re
import sys
from collections.abc import Sequence
from typing import Any

from runsdeploy import exit_status
from runsdeploy.commands.arguments import Arguments
from runsdeploy.commands.inputs import hosts_of, trees_of
from runsdeploy.commands.marker_query import (
    HostMarkers,
    check_names,
    host_document,
    local_time,
    marker_document,
    query,
    show_failed,
)
from runsdeploy.markers.drift import DONE, UNKNOWN, Drift, compare
from runsdeploy.markers.marker import Marker
from runsdeploy.output import json
from runsdeploy.output.terminal import Writer, printable, show_problems
from runsdeploy.session.report import status_of
from runsdeploy.tree.composition import composed
from runsdeploy.tree.script import Script, read_script
from runsdeploy.tree.trees import Host, Trees, name_problem


def status(arguments: Arguments) -> int:
    """Show what hosts have marked as done, and how that compares with the trees."""
    trees = trees_of(arguments)
    queried = query(arguments, hosts_of(arguments, trees), trees)
    scripts = list(map(composed, arguments.script))
    check_names(scripts, trees, queried)
    drifts: list[tuple[HostMarkers, list[Drift]]] = []
    for host_markers in queried:
        names = [name for name, _ in trees.names(host_markers.host)]
        found = compare(
            host_markers.markers, host_markers.plan, functools.partial(_script, trees, host_markers.host), names
        )
        wanted = scripts or {each.script for each in found}
        drifts.append((host_markers, [each for each in found if each.script in wanted]))
    pending = any(each.state not in (DONE, UNKNOWN) for _, found in drifts for each in found)
    code = status_of([host_markers.failed for host_markers in queried if host_markers.failed]) or (
        exit_status.CHANGES if arguments.exit_code and pending else exit_status.OK
    )
    for host_markers in queried:
        _show_plan_problems(host_markers)
    show_failed(queried)
    if arguments.format == "text":
        _show(drifts)
    else:
        hosts = [
            {**host_document(host_markers), "plan": host_markers.plan.digest if host_markers.plan else None,
             "errors": json.problems(0, host_markers.problems)["errors"],
             "markers": [_drift_document(each) for each in found]}
            for host_markers, found in drifts
        ]  # fmt: skip
        json.write({"schema": json.SCHEMA, "exit_status": code, "hosts": hosts})
    return code


def _script(trees: Trees, host: Host, name: str) -> Script | None:
    place = None if name_problem(name) else trees.find(name, host)
    found = read_script(name, place) if place and trees.trust.contains(place.path) else None
    return found if isinstance(found, Script) else None


def _show_plan_problems(host_markers: HostMarkers) -> None:
    """Write why markers were not compared with the whole plan."""
    talk = Writer(sys.stderr)
    show_problems(host_markers.problems)
    if host_markers.problems:
        talk.line(
            f"{host_markers.host.name}: its recipe `default` is wrong, so markers are compared with the scripts alone"
        )
    steps = host_markers.plan.steps if host_markers.plan else ()
    roots = any("root" in step.flags and step.side == "target" for step in steps)
    if roots and host_markers.markers["target"].account == "user":
        talk.line(f"{host_markers.host.name}: root's markers cannot be read: `sudo -n` does not work there")


def _drift_document(each: Drift) -> dict[str, Any]:
    marker = each.marker or Marker(each.owner, "", each.script, each.subsystem, None)
    return {**marker_document(each.side, marker), "state": each.state, "reason": each.reason}


COLUMNS = ("host", "script", "subsystem", "value", "state", "when", "by", "revision", "plan", "where", "why")
STATES = {"done": "32", "older": "33", "never": "33", "unknown": "35", "untrusted": "31"}
"""SGR codes of states"""

LONGEST_SHOWN = 60
"""characters of a marker's value in a table; JSON has it whole"""


def _show(drifts: Sequence[tuple[HostMarkers, Sequence[Drift]]]) -> None:
    """Write a table without its empty columns; a single host has no column `host`."""
    rows = [
        _row(host_markers.host.name if len(drifts) > 1 else "", each)
        for host_markers, found in drifts
        for each in found
    ]
    kept = [number for number in range(len(COLUMNS)) if any(row[number] for row in rows)]
    widths = {number: max(len(row[number]) for row in [COLUMNS, *rows]) for number in kept}
    writer = Writer(sys.stdout)
    for row in [COLUMNS, *rows] if rows else []:
        cells = [row[number].ljust(widths[number]) for number in kept]
        state = kept.index(COLUMNS.index("state"))
        cells[state] = writer.paint(cells[state], STATES.get(cells[state].strip(), "0"))
        writer.line("  ".join(cells).rstrip())
    for host_markers, found in drifts:
        if not found and not host_markers.failed:
            Writer(sys.stderr).line(f"{host_markers.host.name}: nothing is marked there")


def _row(host: str, each: Drift) -> tuple[str, ...]:
    """Return the cells of a row, printable."""
    marker = each.marker
    where = "this machine" if each.side == "controller" else "root" if each.owner == "root" else ""
    said = (
        (_shortened(marker.value or ""), local_time(marker.time), marker.by, _shortened(marker.revision),
         _shortened(marker.plan)) if marker else ("",) * 5
    )  # fmt: skip
    value, *rest = said
    cells = (host, each.script, each.subsystem, value, each.state, *rest, where, each.reason)
    return tuple(printable(cell).replace("\n", "\\x0a").replace("\t", "\\x09") for cell in cells)


def _shortened(text: str) -> str:
    """Return enough of a digest to recognise it, of a commit with its `+`; of another text what a line has room for."""
    text = re.sub(r"\A([0-9a-f]{12})[0-9a-f]{28,52}(\+?)\Z", r"\1\2", text)
    return text if len(text) <= LONGEST_SHOWN else f"{text[:LONGEST_SHOWN]}…"
