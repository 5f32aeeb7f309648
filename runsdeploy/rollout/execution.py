"""What commands that change hosts have in common: plans of all hosts, then a rollout or a forecast of it."""

from __future__ import annotations

import functools
import sys
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from msgspec import Struct
from msgspec.structs import replace

from runsdeploy.cli.command import Arguments, Flag
from runsdeploy.cli.settings import LARGEST
from runsdeploy.commands.inputs import unread_of
from runsdeploy.errors import HostError, InputError, Problem
from runsdeploy.markers.marker import Markers
from runsdeploy.output import console, json
from runsdeploy.plan.plan import FactsUnknown, Plan, expected_facts_for, resolve
from runsdeploy.rollout.rollout import Listener, roll_out
from runsdeploy.session.report import Fold, HostReport, exit_status
from runsdeploy.session.session import Run, ask_facts, ask_markers, local_scope, new_session, new_sessions, verify_facts
from runsdeploy.transport import known_hosts
from runsdeploy.transport.channel import Transport
from runsdeploy.transport.local import LocalTransport
from runsdeploy.tree import revision
from runsdeploy.tree.recipe import Entry, Operation
from runsdeploy.tree.trees import Host, Trees


class Work(Struct, frozen=True):
    """What is to be done on which hosts."""

    trees: Trees
    hosts: Sequence[Host]
    entries: Callable[[Host], tuple[list[Entry], list[Problem]]]
    """what to run on a host, with all problems"""
    sets: Sequence[Operation] = ()
    """operations on every step, after all others"""
    scope: str = "."
    """part of the hosts' state to work in"""
    promising: Trees | None = None
    """whose `sysinfos.conf` say what the hosts are, where that is not `trees`"""


def execute(
    arguments: Arguments, work: Work, listen: Callable[[Arguments, int], Listener] | None = None
) -> tuple[int, list[HostReport]]:
    """Do the work, or with `--dry-run` tell what it would do; return exit status and reports.

    `listen` makes what hears of a rollout for so many hosts. Raises InputError before anything is touched.
    """
    if arguments.ssh_config and not Path(arguments.ssh_config).is_file():
        raise InputError([Problem(None, f"no ssh configuration file `{arguments.ssh_config}`")])
    if arguments.local and len(work.hosts) > 1:
        message = f"`--local` deploys to this machine, which is one host and not {len(work.hosts)}"
        raise InputError([Problem(None, message, f"e.g. `--host {work.hosts[0].name}`")])
    # Most of planning is waiting for bash; loading the SSH library meanwhile costs nothing.
    preload = [] if arguments.local else [threading.Thread(target=_load_ssh)]
    ways = {host.name: Way(arguments, host) for host in work.hosts}
    if not arguments.local:
        first = [ways[host.name] for host in work.hosts[: arguments.parallel]]
        preload += [threading.Thread(target=_look_up, args=(first,))]
    for thread in preload:
        thread.start()
    revisions = revision.look_up([] if arguments.dry_run else work.trees.roots)
    try:
        unusable: list[HostReport] = []
        plans = make_plans(arguments, work, ways, unusable)
        if arguments.dry_run:
            return _dry_run(arguments, plans, ways, unusable), []
        listener = (listen or listener_of)(arguments, len(plans) + len(unusable))
        return _roll_out(arguments, plans, ways, unusable, listener, work.scope, revisions)
    finally:
        for way in ways.values():
            way.close()
        for thread in preload:
            # An interpreter that goes away under a thread that still imports aborts.
            thread.join()


def _roll_out(  # noqa: PLR0913, PLR0917 - all that was made ready
    arguments: Arguments,
    plans: Sequence[Plan],
    ways: dict[str, Way],
    unusable: Sequence[HostReport],
    listener: Listener,
    scope: str,
    revisions: Callable[[], Sequence[str]],
) -> tuple[int, list[HostReport]]:
    detached = arguments.values.get("detach", False)
    for each in plans if detached else ():
        if each.steps and each.steps[-1].side != "target":
            where = each.steps[-1].position
            raise InputError(
                [Problem(where, "with `--detach` the last step must run on the target, this one is local")]
            )
    sessions = new_sessions(
        len(plans),
        keep_going=arguments.keep_going,
        timeout=arguments.timeout,
        patience=arguments.patience,
        wait=arguments.wait,
        detached=detached,
        revisions=revisions,
    )
    runs = [
        Run(each, session, ways[each.host.name].open, scope) for each, session in zip(plans, sessions, strict=False)
    ]
    if arguments.format != "jsonl":
        for each in plans:
            console.show_messages(each)
    for report in unusable:
        listener.end(report)
    reports, signal = roll_out(runs, listener, arguments.parallel)
    reports += unusable
    status = exit_status(reports, signal)
    if arguments.format != "text":
        outputs = listener.outputs if isinstance(listener, json.Kept) else None
        json.write(json.report(sessions[0].identity, status, reports, outputs))
    return status, reports


def _load_ssh() -> None:
    import runsdeploy.transport.ssh.connecting  # noqa: F401, PLC0415


def _look_up(ways: Sequence[Way]) -> None:
    for way in ways:
        way.look_up()


class Way:
    """The way to a host: opened when it is first needed, and the same for all that is asked of the host."""

    def __init__(self, arguments: Arguments, host: Host) -> None:
        self._arguments, self._host = arguments, host
        self._transport: Transport | None = None
        self._destination: known_hosts.Destination | None = None

    def look_up(self) -> None:
        """Read what the operator's files say of the host; what is wrong with them is told when it is opened."""
        with suppress(HostError):
            self._destination = known_hosts.look_up(self._host.address, self._arguments.ssh_config)

    def open(self) -> Transport:
        """Return a transport that lives, as far as anybody knows; raises Unreachable."""
        if self._transport is None or not self._transport.alive:
            self._transport = LocalTransport() if self._arguments.local else self._connect()
        return self._transport

    def _connect(self) -> Transport:
        from runsdeploy.transport.ssh import connecting  # noqa: PLC0415 - only commands that connect load paramiko

        options = connecting.Options(ssh_config=self._arguments.ssh_config, accept_new=self._arguments.accept_new)
        return connecting.connect(self._host.address, options, self._destination)

    def close(self) -> None:
        """Give the transport up."""
        if self._transport:
            self._transport.close()


def make_plans(
    arguments: Arguments, work: Work, ways: dict[str, Way] | None = None, unusable: list[HostReport] | None = None
) -> list[Plan]:
    """Resolve the plans of all hosts; raises InputError with the problems of all of them.

    A host whose facts nobody promised is asked for them, once all else is known to be right; without `ways`
    that is a problem.
    """
    problems: list[Problem] = []
    plans: list[Plan | None] = []
    makers: list[Callable[..., Plan]] = []
    unknown: list[int] = []
    for number, host in enumerate(work.hosts):
        entries, wrong = work.entries(host)
        problems += wrong
        makers.append(
            functools.partial(resolve, work.trees, host, entries, sets=work.sets, time_limit=arguments.conf_timeout)
        )
        plans.append(None)
        try:
            made = makers[number]()
            promise = (
                expected_facts_for(work.promising, host, arguments.conf_timeout) if work.promising else made.promise
            )
            plans[number] = replace(made, promise=promise)
        except FactsUnknown as error:
            unknown.append(number)
            problems += error.problems if not ways else ()
        except InputError as error:
            problems += error.problems
    if problems:
        raise InputError(problems)
    for said in unread_of(work.trees, work.sets, [each for each in plans if each]) if not unknown else ():
        console.Writer(sys.stderr).line(console.printable(said))
    if arguments.values.get("no_verify_sysinfos"):
        plans = [each and replace(each, promise=None) for each in plans]
    for number in unknown:
        host = work.hosts[number]
        try:
            plans[number] = makers[number](facts=ask_facts((ways or {})[host.name].open(), new_session()))
        except HostError as error:
            # The others go on; of this one there is no plan to tell.
            (unusable if unusable is not None else []).append(Fold(Plan(host, (), ())).close(0.0, error))
    return [each for each in plans if each]


def listener_of(arguments: Arguments, hosts: int) -> Listener:
    """Return what tells of a rollout in the format that was asked for."""
    if arguments.format == "jsonl":
        return json.Lines()
    if arguments.format == "json":
        return json.Silent()
    return console.Console(hosts, verbose=arguments.verbose)


def _dry_run(arguments: Arguments, plans: Sequence[Plan], ways: dict[str, Way], unusable: Sequence[HostReport]) -> int:
    """Show the plans with what each step would do; status 6 if asked for and something would run."""
    from runsdeploy.markers.forecast import (  # noqa: PLC0415 - its patterns take time to compile, and only dry runs use them
        DONE,
    )

    reports = list(unusable)
    changes, shown = False, []
    for each in plans:
        try:
            said = _forecast(each, ways[each.host.name])
        except HostError as error:
            reports.append(Fold(each).close(0.0, error))
            continue
        shown.append(json.plan(each, said))
        changes = changes or any(outcome != DONE for outcome, _ in said.values())
        if arguments.format == "text":
            console.show_messages(each)
            console.show_plan(each, said)
    status = exit_status(reports) or (6 if arguments.exit_code and changes else 0)
    if arguments.format != "text":
        document = json.report("", status, reports)
        json.write({**document, "dry_run": True, "hosts": [*shown, *document["hosts"]]})
    for report in reports if arguments.format == "text" else ():
        console.Console(len(plans) + len(unusable)).end(report)
    return status


def _forecast(each: Plan, way: Way) -> dict[int, tuple[str, str]]:
    from runsdeploy.markers.forecast import forecast  # noqa: PLC0415

    sides = {step.side for step in each.steps}
    target = controller = Markers()
    if "target" in sides:
        verify_facts(way.open(), new_session(), each)
        target = ask_markers(way.open(), new_session(), ".")
    if "controller" in sides:
        controller = ask_markers(LocalTransport(), new_session(), local_scope(each.host.name))
    return forecast(each, target, controller)


HOST = Flag(
    "--host",
    "host, `user@host`, pattern or `@group`, behind a `!` to take it away; several by repeating, commas or colons",
    (),
    metavar="HOST",
)
LOCAL = Flag("--local", "deploy to this machine, without SSH", default=False)
ACCEPT_NEW = Flag("--accept-new", "add the keys of hosts seen for the first time to known_hosts", default=False)
PATIENCE = Flag("--patience", "seconds that a broken connection may take to come back", 120.0, metavar="SECONDS")
PARALLEL = Flag("--parallel", "hosts at a time", 4, metavar="N")
NO_VERIFY = Flag("--no-verify-sysinfos", "go on where a host is not what its sysinfos.conf promises", default=False)
CONNECTION = (
    Flag(
        "--dry-run",
        "show what would run, by the host's markers; run nothing",
        default=False,
        aliases=("-n", "--check"),
    ),
    Flag("--exit-code", "with --dry-run: exit with 6 if something would run", default=False),
    LOCAL,
    Flag("--keep-going", "go on behind a step that failed", default=False),
    Flag(
        "--wait",
        "wait for whoever holds the host, as long as it takes or so long",
        0.0,
        metavar="SECONDS",
        bare=LARGEST,
    ),
    Flag("--timeout", "seconds that a step may take; 0 for no limit", 0.0, metavar="SECONDS"),
    PATIENCE,
    PARALLEL,
    ACCEPT_NEW,
    NO_VERIFY,
)
"""flags of commands that connect"""
