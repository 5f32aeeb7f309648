"""`attach` and `lock`: what is asked of a host without a plan."""

from __future__ import annotations

import sys
from collections.abc import Iterator

from runsdeploy.cli.command import COMMON, Arguments, Command, Flag
from runsdeploy.commands.inputs import hosts_of, trees_of
from runsdeploy.errors import HostError, InputError, Problem
from runsdeploy.events import EarlierEvent, Event, Finished, Locked, Unacknowledged, encode_word
from runsdeploy.output import console, json
from runsdeploy.plan.plan import Plan
from runsdeploy.rollout.execution import ACCEPT_NEW, HOST, LOCAL, PATIENCE, Way, listener_of
from runsdeploy.session.bundle import watch
from runsdeploy.session.query import ask
from runsdeploy.session.reconnect import Reconnector
from runsdeploy.session.report import Fold, HostReport, exit_status
from runsdeploy.session.session import Session, new_session
from runsdeploy.session.stream import SegmentStream
from runsdeploy.tree.trees import Host


def attach(arguments: Arguments) -> int:
    """Hear a session that nobody hears, from where it was left, and to its end."""
    hosts = hosts_of(arguments, trees_of(arguments))
    if len(hosts) > 1:
        raise InputError([Problem(None, f"`attach` takes one host, not {len(hosts)}")])
    fold = Fold(Plan(hosts[0], (), ()))
    listener = listener_of(arguments, 1)
    way = Way(arguments, hosts[0])
    try:
        for event in _attached(way, arguments):
            fold.add(event)
            listener.hear(fold.plan, event, fold)
        report = fold.close(0.0) if fold.earlier else None
    except HostError as error:
        report = fold.close(0.0, error)
    finally:
        way.close()
    return _tell(arguments, report, hosts[0])


def _tell(arguments: Arguments, report: HostReport | None, host: Host) -> int:
    if report is None:
        sys.stderr.write(f"{host.name}: no session runs there that nobody hears, and none has anything left to tell\n")
    elif arguments.format == "text":
        console.Console(1).end(report)
    reports = [report] if report else []
    status = exit_status(reports)
    if arguments.format != "text":
        json.write(json.report(report.earlier[0].session.session if report and report.earlier else "", status, reports))
    return status


def _attached(way: Way, arguments: Arguments) -> Iterator[Event]:
    """Yield the newest session that was not heard to its end, and what it says."""
    found = next(
        (each for each in ask(way.open(), new_session(), "unacknowledged") if isinstance(each, Unacknowledged)), None
    )
    if found is None:
        return
    yield found
    theirs = Session(found.session, found.nonce, found.by)
    reconnector = Reconnector(way.open, arguments.patience)
    stream = SegmentStream(reconnector, found.nonce, lambda offset: watch(theirs, found.segment, ".", offset))
    stream.resume(0 if arguments.all else found.acknowledged)
    for event in stream.events():
        yield EarlierEvent(event)
        if isinstance(event, Finished):
            yield event
    stream.acknowledge_end()


def lock(arguments: Arguments) -> int:
    """Keep hosts for oneself, show who holds them, or let go of them."""
    hosts = hosts_of(arguments, trees_of(arguments))
    documents = []
    status = 0
    for host in hosts:
        held, problem = _ask_lock(arguments, host)
        documents.append(_told(arguments, host, held, problem))
        if problem:
            status = status or 3
        elif held and arguments.action == "add":
            status = 4
    if arguments.format != "text":
        json.write({"schema": json.SCHEMA, "exit_status": status, "hosts": documents})
    return status


_QUESTIONS = {"add": "hold", "show": "holder", "remove": "release"}


def _ask_lock(arguments: Arguments, host: Host) -> tuple[list[Locked], HostError | None]:
    way, session = Way(arguments, host), new_session()
    argument = f"{encode_word(session.by)}:{encode_word(arguments.reason or '') or '-'}"
    try:
        events = list(ask(way.open(), session, _QUESTIONS[arguments.action], ".", argument))
    except HostError as error:
        return [], error
    finally:
        way.close()
    return [event for event in events if isinstance(event, Locked)], None


def _was_held(held: Locked) -> str:
    return f"is nobody's; `{held.by}` held it since {held.since}" + (f": {held.doing}" if held.doing else "")


def _told(arguments: Arguments, host: Host, held: list[Locked], problem: HostError | None) -> dict[str, object]:
    out, talk = console.Writer(sys.stdout), console.Writer(sys.stderr)
    who = [{"kind": each.kind, "by": each.by, "since": each.since, "doing": each.doing} for each in held]
    done = {"add": "is yours", "remove": "is nobody's"}.get(arguments.action, "is free")
    if problem:
        talk.line(console.printable(f"{host.name}: {problem}"))
    elif arguments.format == "text":
        say = _was_held if arguments.action == "remove" else str
        for said in map(say, held) if held else [done]:
            out.line(console.printable(f"{host.name}: {said}"))
    return {
        "host": host.name,
        "held": [] if arguments.action == "remove" else who,
        **({"released": who} if arguments.action == "remove" else {}),
        **({"message": problem.message, "hint": problem.hint} if problem else {}),
    }


_AT = (HOST, LOCAL, ACCEPT_NEW)

COMMANDS = (
    Command(
        "attach",
        attach,
        "hear a session that nobody hears: detached, or left by its controller",
        (*_AT, PATIENCE, Flag("--all", "from its beginning, not from what was heard", default=False), *COMMON),
        ("attach --host medusa.univ.run",),
    ),
    Command(
        "lock",
        lock,
        "keep a host for yourself: `add`, `show`, `remove`",
        (
            Flag("action", "`add`, `show` or `remove`", metavar="ACTION", choices=("add", "show", "remove")),
            *_AT,
            Flag("--reason", "what others are told", metavar="TEXT"),
            *COMMON,
        ),
        (
            "lock add --host medusa.univ.run --reason 'testing a branch'",
            "lock show --host medusa.univ.run",
            "lock remove --host medusa.univ.run",
        ),
    ),
)
