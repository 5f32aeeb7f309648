"""`deploy` and `plan`."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Sequence

from runsdeploy import console
from runsdeploy.command import COMMON, Arguments, Command, Flag
from runsdeploy.errors import InputError, Problem
from runsdeploy.forecast import DONE, forecast
from runsdeploy.local import LocalTransport
from runsdeploy.marker import Markers
from runsdeploy.outputs import json
from runsdeploy.plan import FactsUnknown, Plan, resolve
from runsdeploy.recipe import Operation
from runsdeploy.report import exit_status
from runsdeploy.rollout import Listener, roll_out
from runsdeploy.session import Run, ask_facts, ask_markers, local_scope, new_session, new_sessions
from runsdeploy.tasks.opening import entries_of, hosts_of, sets_of, trees_of
from runsdeploy.transport import Transport
from runsdeploy.tree import Host, Trees


def plan(arguments: Arguments) -> int:
    """Print the plans of the hosts; nothing is connected to."""
    trees = trees_of(arguments)
    plans = _plans(arguments, trees, hosts_of(arguments, trees), {})
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
    if not arguments.local:
        # Most of planning is waiting for bash; loading the SSH library meanwhile costs nothing.
        threading.Thread(target=_preload, daemon=True).start()
    connects = {host.name: _connector(arguments, host) for host in hosts}
    plans = _plans(arguments, trees, hosts, connects)
    if arguments.dry_run:
        return _dry_run(arguments, plans, connects)
    sessions = new_sessions(len(plans), keep_going=arguments.keep_going)
    runs = [Run(each, session, connects[each.host.name]) for each, session in zip(plans, sessions, strict=True)]
    if arguments.format != "jsonl":
        for each in plans:
            console.tell_messages(each)
    reports, signal = roll_out(runs, _listener(arguments, len(plans)), arguments.parallel)
    status = exit_status(reports, signal)
    if arguments.format != "text":
        json.write(json.report(sessions[0].identity, status, reports))
    return status


def _preload() -> None:
    import runsdeploy.ssh  # noqa: F401, PLC0415


def _connector(arguments: Arguments, host: Host) -> Callable[[], Transport]:
    """Return what opens the way to a host when it is needed."""
    if arguments.local:
        return LocalTransport

    def connect() -> Transport:
        from runsdeploy import ssh  # noqa: PLC0415 - only commands that connect load paramiko

        options = ssh.Options(ssh_config=arguments.ssh_config, accept_new=arguments.accept_new)
        return ssh.connect(host.address, options)

    return connect


def _plans(
    arguments: Arguments, trees: Trees, hosts: Sequence[Host], connects: dict[str, Callable[[], Transport]]
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
            problems += error.problems if not connects else ()
        except InputError as error:
            problems += error.problems
    if problems:
        raise InputError(problems)
    for number in unknown:
        plans[number] = makers[number](facts=_facts(connects[hosts[number].name]))
    return [each for each in plans if each]


def _facts(connect: Callable[[], Transport]) -> tuple[Operation, ...]:
    transport = connect()
    try:
        return ask_facts(transport, new_session())
    finally:
        transport.close()


def _listener(arguments: Arguments, hosts: int) -> Listener:
    if arguments.format == "jsonl":
        return json.Lines()
    if arguments.format == "json":
        return json.Silent()
    return console.Console(hosts)


def _dry_run(arguments: Arguments, plans: Sequence[Plan], connects: dict[str, Callable[[], Transport]]) -> int:
    """Show the plans with what each step would do; status 6 if asked for and something would run."""
    forecasts = [_forecast(each, connects[each.host.name]) for each in plans]
    if arguments.format == "text":
        for each, said in zip(plans, forecasts, strict=True):
            console.tell_messages(each)
            console.show_plan(each, said)
    changes = any(outcome != DONE for said in forecasts for outcome, _ in said.values())
    status = 6 if arguments.exit_code and changes else 0
    if arguments.format != "text":
        hosts = [json.plan(each, said) for each, said in zip(plans, forecasts, strict=True)]
        json.write({"schema": json.SCHEMA, "exit_status": status, "dry_run": True, "hosts": hosts})
    return status


def _forecast(each: Plan, connect: Callable[[], Transport]) -> dict[int, tuple[str, str]]:
    sides = {step.side for step in each.steps}
    target = controller = Markers()
    if "target" in sides:
        transport = connect()
        try:
            target = ask_markers(transport, new_session(), ".")
        finally:
            transport.close()
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
_CONNECTION = (
    Flag("--ssh-config", "ssh configuration file, in place of the user's and the system's", metavar="FILE"),
    Flag("--accept-new", "add the keys of hosts seen for the first time to known_hosts", default=False),
)

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
