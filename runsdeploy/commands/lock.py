"""`lock`: keep hosts for yourself, show who holds them, release them."""

from __future__ import annotations

import sys

from runsdeploy import exit_status
from runsdeploy.commands.arguments import Arguments
from runsdeploy.commands.inputs import connection_to, hosts_of, trees_of
from runsdeploy.errors import HostError
from runsdeploy.events import Locked, encode_word
from runsdeploy.output import json
from runsdeploy.output.terminal import Writer, printable
from runsdeploy.session.query import ask
from runsdeploy.session.session import new_session
from runsdeploy.tree.trees import Host


def lock(arguments: Arguments) -> int:
    """Hold hosts, show who holds them, or release them."""
    hosts = hosts_of(arguments, trees_of(arguments))
    documents = []
    status = exit_status.OK
    for host in hosts:
        held, problem = _ask_lock(arguments, host)
        documents.append(_report(arguments, host, held, problem))
        if problem:
            status = status or exit_status.UNUSABLE
        elif held and arguments.action == "add":
            status = exit_status.LOCKED
    if arguments.format != "text":
        json.write({"schema": json.SCHEMA, "exit_status": status, "hosts": documents})
    return status


_QUESTIONS = {"add": "hold", "show": "holder", "remove": "release"}


def _ask_lock(arguments: Arguments, host: Host) -> tuple[list[Locked], HostError | None]:
    connection, session = connection_to(arguments, host), new_session()
    argument = f"{encode_word(session.by)}:{encode_word(arguments.reason or '') or '-'}"
    try:
        events = list(ask(connection.open(), session, _QUESTIONS[arguments.action], ".", argument))
    except HostError as error:
        return [], error
    finally:
        connection.close()
    return [event for event in events if isinstance(event, Locked)], None


def _was_held(held: Locked) -> str:
    return f"is free; `{held.by}` held it since {held.since}" + (f": {held.doing}" if held.doing else "")


def _report(arguments: Arguments, host: Host, held: list[Locked], problem: HostError | None) -> dict[str, object]:
    out, talk = Writer(sys.stdout), Writer(sys.stderr)
    who = [{"kind": each.kind, "by": each.by, "since": each.since, "doing": each.doing} for each in held]
    done = {"add": "is yours", "remove": "is free"}.get(arguments.action, "is free")
    if problem:
        talk.line(printable(f"{host.name}: {problem}"))
    elif arguments.format == "text":
        say = _was_held if arguments.action == "remove" else str
        for said in map(say, held) if held else [done]:
            out.line(printable(f"{host.name}: {said}"))
    return {
        "host": host.name,
        "held": [] if arguments.action == "remove" else who,
        **({"released": who} if arguments.action == "remove" else {}),
        **({"message": problem.message, "hint": problem.hint} if problem else {}),
    }
