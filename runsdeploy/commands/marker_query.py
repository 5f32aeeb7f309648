"""What commands that look at markers have in common: several hosts at a time, one round trip each."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime, timezone
from typing import Any, TypeVar

from msgspec import Struct, field
from msgspec.structs import replace

from runsdeploy.cli.command import Arguments
from runsdeploy.errors import HostError, InputError, Problem, did_you_mean
from runsdeploy.events import Locked
from runsdeploy.markers.marker import Marker, Markers
from runsdeploy.output import console
from runsdeploy.plan.plan import Plan
from runsdeploy.plan.resolver import FactsUnknown, resolve
from runsdeploy.rollout.execution import ACCEPT_NEW, HOST, LOCAL, PARALLEL, Way
from runsdeploy.session.report import Fold, HostReport
from runsdeploy.session.session import ask_facts, ask_markers, local_scope, new_session
from runsdeploy.transport.local import LocalTransport
from runsdeploy.tree.includes import COMMAND_LINE, RecipeIncludes
from runsdeploy.tree.recipe import Entry
from runsdeploy.tree.trees import Host, Trees, name_problem

T = TypeVar("T")

AT = (HOST, LOCAL, ACCEPT_NEW, PARALLEL)
"""flags that say where to look"""


class Look(Struct):
    """What was seen of one host."""

    host: Host
    markers: dict[str, Markers] = field(default_factory=dict)
    """by side"""
    plan: Plan | None = None
    problems: Sequence[Problem] = ()
    """why there is no plan"""
    failed: HostReport | None = None
    """why it could not be looked at, or not all was done"""

    def told(self, names: Sequence[str]) -> Iterator[tuple[str, Marker]]:
        """Yield the markers with their sides; `names` may be behind shortened ones."""
        return ((side, marker) for side, markers in self.markers.items() for marker in markers.told(names))


def for_all(hosts: Sequence[T], parallel: int, do: Callable[[T], Any]) -> list[Any]:
    """Do it for all hosts, so many at a time; return what came of each."""
    from concurrent.futures import ThreadPoolExecutor  # noqa: PLC0415 - 10 ms, and only commands that look use it

    pool = ThreadPoolExecutor(max_workers=min(parallel, len(hosts)))
    try:
        return list(pool.map(do, hosts))
    finally:
        # Whoever interrupts us does not wait for a host that hangs.
        pool.shutdown(wait=False, cancel_futures=True)


def look_at(arguments: Arguments, host: Host, trees: Trees | None) -> Look:
    """Ask a host for its markers, one round trip; make its plan where `trees` are given to compare with."""
    look, way = Look(host), Way(arguments, host)
    try:
        look.markers["target"] = ask_markers(way.open(), new_session(), ".", whole=True)
        look.markers["controller"] = ask_markers(LocalTransport(), new_session(), local_scope(host.name), whole=True)
        if trees:
            _plan(arguments, trees, way, look)
    except HostError as error:
        look.failed = report_of(host, error)
    finally:
        way.close()
    return look


def _plan(arguments: Arguments, trees: Trees, way: Way, look: Look) -> None:
    """Make the plan of the host's recipe `default`, where it has one; what is wrong must not hide the markers."""
    try:
        if not trees.find("default", look.host):
            return
        includes = RecipeIncludes(trees, look.host)
        entries = list(includes.expand(Entry("@default", (), COMMAND_LINE)))
        look.problems = includes.problems
        if not look.problems:
            try:
                look.plan = resolve(trees, look.host, entries, time_limit=arguments.conf_timeout)
            except FactsUnknown:
                facts = ask_facts(way.open(), new_session())
                look.plan = resolve(trees, look.host, entries, facts=facts, time_limit=arguments.conf_timeout)
    except InputError as error:
        look.problems = error.problems


def report_of(host: Host, error: HostError | Locked) -> HostReport:
    """Return how a host went that could not be used, or that somebody holds."""
    fold = Fold(Plan(host, (), ()))
    if isinstance(error, Locked):
        fold.hear(error)
        report = fold.close(0.0)
        # What only looks and takes back does not wait.
        return report if error.kind == "operator" else replace(report, hint="try again when it is over")
    return fold.close(0.0, error)


def check_names(names: Sequence[str], trees: Trees, looks: Sequence[Look]) -> None:
    """Raise InputError for names of scripts that neither a tree nor a host knows."""
    marked = {marker.script for look in looks for _, marker in look.told(names)}
    hosts = [look.host for look in looks]
    problems = [
        Problem(
            None,
            f"unknown script `{name}`: neither in the trees nor marked on {_listed(hosts)}",
            did_you_mean(name, marked) or trees.near(name, hosts[0]),
        )
        for name in names
        if name not in marked and (name_problem(name) or not any(trees.find(name, host) for host in hosts))
    ]
    # A host that was not seen may know them.
    if problems and not any(look.failed for look in looks):
        raise InputError(problems)


def _listed(hosts: Sequence[Host]) -> str:
    return f"`{hosts[0].name}`" if len(hosts) == 1 else f"any of {len(hosts)} hosts"


def show_failed(looks: Sequence[Look]) -> None:
    """Say which hosts could not be looked at or done with, and why."""
    talk = console.Writer(sys.stderr)
    for look in looks:
        if look.failed:
            hint = f"; {look.failed.hint}" if look.failed.hint else ""
            talk.line(console.printable(f"{look.host.name}: {look.failed.outcome}: {look.failed.message}{hint}"))


def host_document(look: Look) -> dict[str, Any]:
    """Return what JSON says of a host in any case."""
    failed = {"message": look.failed.message, "hint": look.failed.hint} if look.failed else {}
    return {"host": look.host.name, "outcome": look.failed.outcome if look.failed else "ok", **failed}


def marker_document(side: str, marker: Marker) -> dict[str, Any]:
    """Return what JSON says of a marker."""
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
    """Return a marker's time as this machine's, to the minute."""
    try:
        told = datetime.strptime(text, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=timezone.utc)
    except ValueError:
        return text
    return told.astimezone().strftime("%Y-%m-%dT%H:%M")
