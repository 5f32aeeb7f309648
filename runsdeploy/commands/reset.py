"""`reset`: taking back what hosts have marked as done."""

from __future__ import annotations

import sys
from collections.abc import Sequence

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
    report_of,
    show_failed,
)
from runsdeploy.errors import HostError, InputError, Problem
from runsdeploy.events import Locked
from runsdeploy.markers.marker import Marker
from runsdeploy.output import console, json
from runsdeploy.rollout.execution import Way
from runsdeploy.session.query import reset_markers
from runsdeploy.session.report import exit_status
from runsdeploy.session.session import local_scope, new_session
from runsdeploy.transport.local import LocalTransport


def reset(arguments: Arguments) -> int:
    """Take markers back; what they stood for runs again at the next deploy."""
    if not arguments.script:
        raise InputError([Problem(None, "no script given", "name one with `--script`, see `runsdeploy status`")])
    trees = trees_of(arguments)
    looks: list[Look] = for_all(
        hosts_of(arguments, trees), arguments.parallel, lambda host: look_at(arguments, host, None)
    )
    check_names(arguments.script, trees, looks)
    taken: list[list[tuple[str, Marker]]] = [_wanted(arguments, look) for look in looks]
    if not arguments.dry_run:
        taken = for_all(list(zip(looks, taken, strict=True)), arguments.parallel, lambda each: _take(arguments, *each))
    code = exit_status([look.failed for look in looks if look.failed])
    show_failed(looks)
    if arguments.format == "text":
        for look, found in zip(looks, taken, strict=True):
            _tell_taken(arguments, look, found)
    else:
        hosts = [
            {**host_document(look), "markers": [marker_document(*each) for each in found]}
            for look, found in zip(looks, taken, strict=True)
        ]
        json.write({"schema": json.SCHEMA, "exit_status": code, "dry_run": arguments.dry_run, "hosts": hosts})
    return code


def _wanted(arguments: Arguments, look: Look) -> list[tuple[str, Marker]]:
    """Return the markers that are meant, with their sides."""
    return [
        (side, marker)
        for side, marker in look.told([*arguments.script, *arguments.subsystem])
        if marker.script in arguments.script and (not arguments.subsystem or marker.subsystem in arguments.subsystem)
    ]


def _take(arguments: Arguments, look: Look, wanted: Sequence[tuple[str, Marker]]) -> list[tuple[str, Marker]]:
    """Take markers of one host back; return those that went."""
    gone: list[tuple[str, Marker]] = []
    way, session = Way(arguments, look.host), new_session()
    try:
        for side in dict.fromkeys(side for side, _ in wanted):
            transport = way.open() if side == "target" else LocalTransport()
            scope = "." if side == "target" else local_scope(look.host.name)
            # Of a script all, unless subsystems are named: what was marked a moment ago too.
            paths = {
                f"{marker.owner}/{marker.path if arguments.subsystem else marker.path.partition('/')[0]}": None
                for each, marker in wanted
                if each == side
            }
            answer = reset_markers(transport, session, scope, paths)
            if isinstance(answer, Locked):
                look.failed = report_of(look.host, answer)
                break
            gone += [each for each in wanted if each[0] == side and (each[1].owner, each[1].path) in answer.found]
    except HostError as error:
        look.failed = report_of(look.host, error)
    finally:
        way.close()
    return gone


def _tell_taken(arguments: Arguments, look: Look, taken: Sequence[tuple[str, Marker]]) -> None:
    out = console.Writer(sys.stdout)
    verb = "would take back" if arguments.dry_run else "took back"
    for side, marker in taken:
        facts = [f"marked {local_time(marker.time)}" if marker.time else "", f"by {marker.by}" if marker.by else ""]
        facts += ["root's" if marker.owner == "root" else "", "on this machine" if side == "controller" else ""]
        said = ", ".join(each for each in facts if each)
        name = f"{marker.script} {marker.subsystem}".rstrip()
        out.line(console.printable(f"{look.host.name}: {verb} {name}{f' ({said})' if said else ''}"))
    if not taken and not look.failed:
        out.line(f"{look.host.name}: nothing to take back")


_DRY = Flag("--dry-run", "show what would be taken back", default=False, aliases=("-n", "--check"))

COMMANDS = (
    Command(
        "reset",
        reset,
        "take back that scripts are done, so that the next deploy runs them",
        (
            *AT,
            Flag("--script", "script to take back", (), metavar="NAME"),
            Flag("--subsystem", "only this subsystem of it", (), metavar="NAME"),
            _DRY,
            *COMMON,
        ),
        (
            "reset --host medusa.univ.run --script ping --dry-run",
            "reset --host medusa.univ.run --script web --subsystem conf",
        ),
    ),
)
