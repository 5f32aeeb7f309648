"""`reset`: remove markers from hosts."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from runsdeploy.commands.arguments import Arguments
from runsdeploy.commands.inputs import connection_to, hosts_of, trees_of
from runsdeploy.commands.marker_query import (
    HostMarkers,
    check_names,
    for_all,
    host_document,
    local_time,
    marker_document,
    query,
    report_of,
    show_failed,
)
from runsdeploy.errors import HostError, InputError, Problem
from runsdeploy.events import Locked
from runsdeploy.markers.marker import Marker
from runsdeploy.output import json
from runsdeploy.output.terminal import Writer, printable
from runsdeploy.plan.threads import Progress
from runsdeploy.session.query import reset_markers
from runsdeploy.session.report import status_of
from runsdeploy.session.session import local_scope, new_session
from runsdeploy.transport.local import LocalTransport
from runsdeploy.tree.composition import composed


def reset(arguments: Arguments) -> int:
    """Remove markers; the next deploy runs the scripts again."""
    if not arguments.script:
        raise InputError([Problem(None, "no script given", "name one with `--script`, see `runsdeploy status`")])
    scripts = list(map(composed, arguments.script))
    trees = trees_of(arguments)
    queried = query(arguments, hosts_of(arguments, trees), None)
    check_names(scripts, trees, queried)
    taken: list[list[tuple[str, Marker]]] = [
        _wanted(scripts, arguments.subsystem, host_markers) for host_markers in queried
    ]
    if not arguments.dry_run:
        every = list(zip(queried, taken, strict=True))
        taken = for_all(every, arguments.parallel, lambda each, progress: _take(arguments, *each, progress))
    code = status_of([host_markers.failed for host_markers in queried if host_markers.failed])
    show_failed(queried)
    if arguments.format == "text":
        for host_markers, found in zip(queried, taken, strict=True):
            _show_removed(arguments, host_markers, found)
    else:
        hosts = [
            {**host_document(host_markers), "markers": [marker_document(*each) for each in found]}
            for host_markers, found in zip(queried, taken, strict=True)
        ]
        json.write({"schema": json.SCHEMA, "exit_status": code, "dry_run": arguments.dry_run, "hosts": hosts})
    return code


def _wanted(scripts: Sequence[str], subsystems: Sequence[str], host_markers: HostMarkers) -> list[tuple[str, Marker]]:
    """Return the selected markers, with their sides."""
    return [
        (side, marker)
        for side, marker in host_markers.all([*scripts, *subsystems])
        if marker.script in scripts and (not subsystems or marker.subsystem in subsystems)
    ]


def _take(
    arguments: Arguments, host_markers: HostMarkers, wanted: Sequence[tuple[str, Marker]], progress: Progress
) -> list[tuple[str, Marker]]:
    """Remove markers of one host; return those that were removed."""
    progress.name = host_markers.host.name
    gone: list[tuple[str, Marker]] = []
    connection, session = connection_to(arguments, host_markers.host), new_session()
    try:
        for side in dict.fromkeys(side for side, _ in wanted):
            transport = connection.open() if side == "target" else LocalTransport()
            scope = "." if side == "target" else local_scope(host_markers.host.name)
            # All markers of a script, unless subsystems are named: also those set since they were listed.
            paths = {
                f"{marker.owner}/{marker.path if arguments.subsystem else marker.path.partition('/')[0]}": None
                for each, marker in wanted
                if each == side
            }
            answer = reset_markers(transport, session, scope, paths)
            if isinstance(answer, Locked):
                host_markers.failed = report_of(host_markers.host, answer)
                break
            gone += [each for each in wanted if each[0] == side and (each[1].owner, each[1].path) in answer.found]
    except HostError as error:
        host_markers.failed = report_of(host_markers.host, error)
    finally:
        connection.close()
    return gone


def _show_removed(arguments: Arguments, host_markers: HostMarkers, taken: Sequence[tuple[str, Marker]]) -> None:
    out = Writer(sys.stdout)
    verb = "would take back" if arguments.dry_run else "took back"
    for side, marker in taken:
        facts = [f"marked {local_time(marker.time)}" if marker.time else "", f"by {marker.by}" if marker.by else ""]
        facts += ["root's" if marker.owner == "root" else "", "on this machine" if side == "controller" else ""]
        said = ", ".join(each for each in facts if each)
        name = f"{marker.script} {marker.subsystem}".rstrip()
        out.line(printable(f"{host_markers.host.name}: {verb} {name}{f' ({said})' if said else ''}"))
    if not taken and not host_markers.failed:
        out.line(f"{host_markers.host.name}: nothing to take back")
