"""`deploy` and `plan`."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from runsdeploy import console, known_hosts
from runsdeploy.command import COMMON, Arguments, Command, Flag
from runsdeploy.errors import HostError, InputError, Problem
from runsdeploy.local import LocalTransport
from runsdeploy.marker import Markers
from runsdeploy.outputs import json
from runsdeploy.plan import FactsUnknown, Plan, resolve
from runsdeploy.report import Fold, HostReport, exit_status
from runsdeploy.rollout import Listener, roll_out
from runsdeploy.session import Run, ask_facts, ask_markers, local_scope, new_session, new_sessions
from runsdeploy.tasks.opening import entries_of, hosts_of, sets_of, trees_of
from runsdeploy.transport import Transport
from runsdeploy.tree import Host, Trees


def plan(arguments: Arguments) -> int:
    """Print the plans of the hosts; nothing is connected to."""
    trees = trees_of(arguments)
    plans = _plans(arguments, trees, hosts_of(arguments, trees), {}, [])
    if arguments.format == "text":
        for each in plans:
            console.tell_messages(each)
            console.show_plan(each)
    else:
        json.write({"schema": json.SCHEMA, "exit_status": 0, "hosts": [json.plan(each) for each in plans]})
    return 0


def deploy(arguments: Arguments) -> int:
    """Deploy to the hosts."""
    trees = trees_of(arguments)
    hosts = hosts_of(arguments, trees)
    if arguments.ssh_config and not Path(arguments.ssh_config).is_file():
        raise InputError([Problem(None, f"no ssh configuration file `{arguments.ssh_config}`")])
    # Most of planning is waiting for bash; loading the SSH library meanwhile costs nothing.
    preload = [] if arguments.local else [threading.Thread(target=_load_ssh)]
    ways = {host.name: _Way(arguments, host) for host in hosts}
    if not arguments.local:
        first = [ways[host.name] for host in hosts[: arguments.parallel]]
        preload += [threading.Thread(target=_look_up, args=(first,))]
    for thread in preload:
        thread.start()
    try:
        unusable: list[HostReport] = []
        plans = _plans(arguments, trees, hosts, ways, unusable)
        do = _dry_run if arguments.dry_run else _roll_out
        return do(arguments, plans, ways, unusable)
    finally:
        for way in ways.values():
            way.close()
        for thread in preload:
            # An interpreter that goes away under a thread that still imports aborts.
            thread.join()


def _roll_out(
    arguments: Arguments, plans: Sequence[Plan], ways: dict[str, _Way], unusable: Sequence[HostReport]
) -> int:
    sessions = new_sessions(len(plans), keep_going=arguments.keep_going)
    runs = [Run(each, session, ways[each.host.name].open) for each, session in zip(plans, sessions, strict=True)]
    if arguments.format != "jsonl":
        for each in plans:
            console.tell_messages(each)
    listener = _listener(arguments, len(plans) + len(unusable))
    for report in unusable:
        listener.end(report)
    reports, signal = roll_out(runs, listener, arguments.parallel)
    reports += unusable
    status = exit_status(reports, signal)
    if arguments.format != "text":
        json.write(json.report(sessions[0].identity, status, reports))
    return status


def _load_ssh() -> None:
    import runsdeploy.ssh  # noqa: F401, PLC0415


def _look_up(ways: Sequence[_Way]) -> None:
    for way in ways:
        way.look_up()


class _Way:
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
        """Return the transport; raises Unreachable."""
        if self._transport is None:
            self._transport = LocalTransport() if self._arguments.local else self._connect()
        return self._transport

    def _connect(self) -> Transport:
        from runsdeploy import ssh  # noqa: PLC0415 - only commands that connect load paramiko

        options = ssh.Options(ssh_config=self._arguments.ssh_config, accept_new=self._arguments.accept_new)
        return ssh.connect(self._host.address, options, self._destination)

    def close(self) -> None:
        """Give the transport up."""
        if self._transport:
            self._transport.close()


def _plans(
    arguments: Arguments,
    trees: Trees,
    hosts: Sequence[Host],
    ways: dict[str, _Way],
    unusable: list[HostReport],
) -> list[Plan]:
    """Resolve the plans of all hosts; raises InputError with the problems of all of them.

    A host whose facts nobody promised is asked for them, once all else is known to be right.
    """
    sets = sets_of(arguments)
    problems: list[Problem] = []
    plans: list[Plan | None] = []
    makers: list[Callable[..., Plan]] = []
    unknown: list[int] = []
    for number, host in enumerate(hosts):
        entries, wrong = entries_of(arguments, trees, host)
        problems += wrong
        makers.append(functools.partial(resolve, trees, host, entries, sets=sets, time_limit=arguments.conf_timeout))
        plans.append(None)
        try:
            plans[number] = makers[number]()
        except FactsUnknown as error:
            unknown.append(number)
            problems += error.problems if not ways else ()
        except InputError as error:
            problems += error.problems
    if problems:
        raise InputError(problems)
    for number in unknown:
        host = hosts[number]
        try:
            plans[number] = makers[number](facts=ask_facts(ways[host.name].open(), new_session()))
        except HostError as error:
            # The others go on; of this one there is no plan to tell.
            unusable.append(Fold(Plan(host, (), ())).close(0.0, error))
    return [each for each in plans if each]


def _listener(arguments: Arguments, hosts: int) -> Listener:
    if arguments.format == "jsonl":
        return json.Lines()
    if arguments.format == "json":
        return json.Silent()
    return console.Console(hosts, verbose=arguments.verbose)


def _dry_run(arguments: Arguments, plans: Sequence[Plan], ways: dict[str, _Way], unusable: Sequence[HostReport]) -> int:
    """Show the plans with what each step would do; status 6 if asked for and something would run."""
    from runsdeploy.forecast import DONE  # noqa: PLC0415 - its patterns take time to compile, and only dry runs use them

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
            console.tell_messages(each)
            console.show_plan(each, said)
    status = exit_status(reports) or (6 if arguments.exit_code and changes else 0)
    if arguments.format != "text":
        document = json.report("", status, reports)
        json.write({**document, "dry_run": True, "hosts": [*shown, *document["hosts"]]})
    for report in reports if arguments.format == "text" else ():
        console.Console(len(plans) + len(unusable)).end(report)
    return status


def _forecast(each: Plan, way: _Way) -> dict[int, tuple[str, str]]:
    from runsdeploy.forecast import forecast  # noqa: PLC0415

    sides = {step.side for step in each.steps}
    target = controller = Markers()
    if "target" in sides:
        target = ask_markers(way.open(), new_session(), ".")
    if "controller" in sides:
        controller = ask_markers(LocalTransport(), new_session(), local_scope(each.host.name))
    return forecast(each, target, controller)


_HOSTS = (
    Flag("--host", "host, `user@host` or pattern; several by repeating, commas or colons", (), metavar="HOST"),
    Flag("--recipe", "recipe to run instead of `default`", (), metavar="NAME"),
    Flag("--script", "script to run instead of a recipe", (), metavar="NAME"),
    Flag(
        "--set",
        "operation on a variable of every step, after all others: `name=value`, `name+=value`",
        (),
        metavar="OP",
    ),
)
_CONNECTION = (Flag("--accept-new", "add the keys of hosts seen for the first time to known_hosts", default=False),)

COMMANDS = (
    Command(
        "deploy",
        deploy,
        "run the recipe of each host on it, once",
        (
            *_HOSTS,
            Flag(
                "--dry-run",
                "show what would run, by the host's markers; run nothing",
                default=False,
                aliases=("-n", "--check"),
            ),
            Flag("--exit-code", "with --dry-run: exit with 6 if something would run", default=False),
            Flag("--local", "deploy to this machine, without SSH", default=False),
            Flag("--keep-going", "go on behind a step that failed", default=False),
            Flag("--parallel", "hosts at a time", 4, metavar="N"),
            *_CONNECTION,
            *COMMON,
        ),
        ("deploy --host medusa.univ.run", "deploy --host 'web*.univ.run' --script ping --format json"),
    ),
    Command(
        "plan",
        plan,
        "show what deploy would do, without connecting",
        (*_HOSTS, *COMMON),
        ("plan --host medusa.univ.run", "plan --host medusa.univ.run --set port=8080 --format json"),
    ),
)
