"""`attach`: re-attach to a running or unattended session."""

from __future__ import annotations

import sys
from collections.abc import Iterator

from runsdeploy.commands.arguments import Arguments
from runsdeploy.commands.execution import listener_of
from runsdeploy.commands.inputs import connection_to, hosts_of, trees_of
from runsdeploy.errors import HostError, InputError, Problem
from runsdeploy.events import EarlierEvent, Event, Finished, Unacknowledged
from runsdeploy.output import console, json
from runsdeploy.plan.plan import Plan
from runsdeploy.session.bundle import watch
from runsdeploy.session.query import ask
from runsdeploy.session.reconnect import Reconnector
from runsdeploy.session.report import Fold, HostReport, status_of
from runsdeploy.session.session import Session, new_session
from runsdeploy.session.stream import SegmentStream
from runsdeploy.transport.host_connection import HostConnection
from runsdeploy.tree.trees import Host


def attach(arguments: Arguments) -> int:
    """Show the output of the newest unattended session from the last acknowledged byte until it ends."""
    hosts = hosts_of(arguments, trees_of(arguments))
    if len(hosts) > 1:
        raise InputError([Problem(None, f"`attach` takes one host, not {len(hosts)}")])
    fold = Fold(Plan(hosts[0], (), ()))
    listener = listener_of(arguments, [hosts[0].name])
    connection = connection_to(arguments, hosts[0])
    try:
        for event in _attached(connection, arguments):
            fold.add(event)
            listener.event(fold.plan, event, fold)
        report = fold.close(0.0) if fold.earlier else None
    except HostError as error:
        report = fold.close(0.0, error)
    finally:
        connection.close()
    return _report(arguments, report, hosts[0])


def _report(arguments: Arguments, report: HostReport | None, host: Host) -> int:
    if report is None:
        sys.stderr.write(f"{host.name}: no unattended session is running there, and no output is unacknowledged\n")
    elif arguments.format == "text":
        console.Console([host.name]).end(report)
    reports = [report] if report else []
    status = status_of(reports)
    if arguments.format != "text":
        json.write(json.report(report.earlier[0].session.session if report and report.earlier else "", status, reports))
    return status


def _attached(connection: HostConnection, arguments: Arguments) -> Iterator[Event]:
    """Yield the newest session with unacknowledged output, then its events."""
    found = next(
        (each for each in ask(connection.open(), new_session(), "unacknowledged") if isinstance(each, Unacknowledged)),
        None,
    )
    if found is None:
        return
    yield found
    theirs = Session(found.session, found.by)
    reconnector = Reconnector(connection.open, arguments.patience)
    nonce = found.nonce
    stream = SegmentStream(reconnector, nonce, lambda offset: watch(nonce, theirs, found.segment, ".", offset))
    stream.resume(0 if arguments.all else found.acknowledged)
    for event in stream.events():
        yield EarlierEvent(event)
        if isinstance(event, Finished):
            yield event
    stream.acknowledge_end()
