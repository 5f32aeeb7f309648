"""The markers of hosts, for `status` and `reset`: several hosts at a time, one round trip each."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime, timezone
from functools import partial
from typing import Any, TypeVar

from msgspec import Struct, field
from msgspec.structs import replace

from runsdeploy.commands.arguments import Arguments
from runsdeploy.commands.inputs import connection_to
from runsdeploy.errors import HostError, InputError, Problem, did_you_mean
from runsdeploy.events import Locked
from runsdeploy.markers.marker import Marker, Markers
from runsdeploy.output.progress import progress_of
from runsdeploy.output.terminal import Writer, printable
from runsdeploy.plan.plan import Plan
from runsdeploy.plan.resolver import FactsUnknown, resolve
from runsdeploy.plan.threads import Progress, run_all
from runsdeploy.session.query import ask_facts, ask_markers
from runsdeploy.session.report import Fold, HostReport
from runsdeploy.session.session import local_scope, new_session
from runsdeploy.transport.host_connection import HostConnection
from runsdeploy.transport.local import LocalTransport
from runsdeploy.tree.includes import COMMAND_LINE, RecipeIncludes
from runsdeploy.tree.recipe import Entry
from runsdeploy.tree.trees import Host, Trees, name_problem

T = TypeVar("T")
R = TypeVar("R")


class HostMarkers(Struct):
    """The markers of one host, and its plan."""

    host: Host
    markers: dict[str, Markers] = field(default_factory=dict)
    """by side"""
    plan: Plan | None = None
    problems: Sequence[Problem] = ()
    """why there is no plan"""
    failed: HostReport | None = None
    """why its markers could not be read, or not all be removed"""

    def all(self, names: Sequence[str]) -> Iterator[tuple[str, Marker]]:
        """Yield the markers with their sides; `names` are full names that may stand behind shortened ones."""
        return ((side, marker) for side, markers in self.markers.items() for marker in markers.decode(names))


def for_all(hosts: Sequence[T], parallel: int, do: Callable[[T, Progress], R]) -> list[R]:
    """Call a function that asks each host, `parallel` at a time; return its results in order."""
    with progress_of("asking") as listener:
        return run_all(do, hosts, listener, most=parallel)


def query(arguments: Arguments, hosts: Sequence[Host], trees: Trees | None) -> list[HostMarkers]:
    """Ask hosts for their markers, several at a time; make their plans where `trees` are given to compare with."""
    return for_all(hosts, arguments.parallel, partial(_query, arguments, trees))


def _query(arguments: Arguments, trees: Trees | None, host: Host, progress: Progress) -> HostMarkers:
    """Ask a host for its markers, one round trip."""
    progress.name = host.name
    host_markers, connection = HostMarkers(host), connection_to(arguments, host)
    try:
        host_markers.markers["target"] = ask_markers(connection.open(), new_session(), ".", whole=True)
        host_markers.markers["controller"] = ask_markers(
            LocalTransport(), new_session(), local_scope(host.name), whole=True
        )
        if trees:
            _plan(arguments, trees, connection, host_markers, progress)
    except HostError as error:
        host_markers.failed = report_of(host, error)
    finally:
        connection.close()
    return host_markers


def _plan(
    arguments: Arguments, trees: Trees, connection: HostConnection, host_markers: HostMarkers, progress: Progress
) -> None:
    """Make the plan of the host's recipe `default`, if it has one; an error there must not hide the markers."""
    try:
        if not trees.find("default", host_markers.host):
            return
        includes = RecipeIncludes(trees, host_markers.host)
        entries = list(includes.expand(Entry("@default", (), COMMAND_LINE)))
        host_markers.problems = includes.problems
        if not host_markers.problems:
            limit = arguments.conf_timeout
            make = partial(resolve, trees, host_markers.host, entries, time_limit=limit, progress=progress)
            try:
                host_markers.plan = make()
            except FactsUnknown:
                host_markers.plan = make(facts=ask_facts(connection.open(), new_session()))
    except InputError as error:
        host_markers.problems = error.problems


def report_of(host: Host, error: HostError | Locked) -> HostReport:
    """Return the report of a host that could not be used, or is locked."""
    fold = Fold(Plan(host, (), ()))
    if isinstance(error, Locked):
        fold.add(error)
        report = fold.close(0.0)
        # These commands do not wait for a lock.
        return report if error.kind == "operator" else replace(report, hint="try again when it is over")
    return fold.close(0.0, error)


def check_names(names: Sequence[str], trees: Trees, queried: Sequence[HostMarkers]) -> None:
    """Raise InputError for names of scripts that are in no tree and have no marker."""
    marked = {marker.script for host_markers in queried for _, marker in host_markers.all(names)}
    hosts = [host_markers.host for host_markers in queried]
    problems = [
        Problem(
            None,
            f"unknown script `{name}`: neither in the trees nor marked on {_listed(hosts)}",
            did_you_mean(name, marked) or trees.near(name, hosts[0]),
        )
        for name in names
        if name not in marked and (name_problem(name) or not any(trees.find(name, host) for host in hosts))
    ]
    # A host that did not answer may have markers of them.
    if problems and not any(host_markers.failed for host_markers in queried):
        raise InputError(problems)


def _listed(hosts: Sequence[Host]) -> str:
    return f"`{hosts[0].name}`" if len(hosts) == 1 else f"any of {len(hosts)} hosts"


def show_failed(queried: Sequence[HostMarkers]) -> None:
    """Write which hosts failed, and why."""
    talk = Writer(sys.stderr)
    for host_markers in queried:
        if host_markers.failed:
            hint = f"; {host_markers.failed.hint}" if host_markers.failed.hint else ""
            talk.line(
                printable(
                    f"{host_markers.host.name}: {host_markers.failed.outcome}: {host_markers.failed.message}{hint}"
                )
            )


def host_document(host_markers: HostMarkers) -> dict[str, Any]:
    """Return the JSON fields that each host has."""
    failed = {"message": host_markers.failed.message, "hint": host_markers.failed.hint} if host_markers.failed else {}
    return {
        "host": host_markers.host.name,
        "outcome": host_markers.failed.outcome if host_markers.failed else "ok",
        **failed,
    }


def marker_document(side: str, marker: Marker) -> dict[str, Any]:
    """Return a marker for JSON."""
    return {
        "script": marker.script,
        "subsystem": marker.subsystem,
        "side": side,
        "user": "root" if marker.owner == "root" else "login",
        "value": marker.value,
        "time": marker.time,
        "by": marker.by,
        "revision": marker.revision,
        "plan": marker.plan,
        "session": marker.session,
        "digest": marker.digest,
    }


def local_time(text: str) -> str:
    """Return the time of a marker in the controller's time zone, to the minute."""
    try:
        time = datetime.strptime(text, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=timezone.utc)
    except ValueError:
        return text
    return time.astimezone().strftime("%Y-%m-%dT%H:%M")
