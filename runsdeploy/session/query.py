"""Questions to a machine: one connection, one request, one answer, no session. `shell/questions.sh` answers them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from runsdeploy.errors import Position, Refused
from runsdeploy.events import Account, Event, Facts, Locked, MarkerFound, Note, Refusal, encode_word
from runsdeploy.markers.marker import Markers
from runsdeploy.plan.plan import Plan
from runsdeploy.plan.sysinfos import repair_hint
from runsdeploy.session.bundle import question
from runsdeploy.session.reconnect import Reconnector
from runsdeploy.session.session import Session, new_nonce
from runsdeploy.session.stream import SegmentStream
from runsdeploy.transport.channel import Transport
from runsdeploy.tree.recipe import Operation


def ask(transport: Transport, session: Session, about: str, scope: str = ".", argument: str = "-") -> Iterator[Event]:
    """Ask a machine a question and yield the events of its answer: one round trip.

    `about` is a word that `answer` in `shell/questions.sh` knows, `scope` the part of the state directory that it is
    about. Raises Refused if the machine refuses to answer, another HostError if no answer comes.
    """
    reconnector = Reconnector(lambda: transport, 0)
    nonce = new_nonce()
    bundle = question(nonce, session, about, scope, argument)
    for event in SegmentStream(reconnector, nonce, lambda _: bundle).answer():
        if isinstance(event, Refusal):
            raise Refused(event.text)
        yield event


def verify_facts(transport: Transport, session: Session, plan: Plan) -> None:
    """Ask a machine whether it has the facts that its `sysinfos.conf` expects; raises Refused if not."""
    for event in (
        ask(transport, session, "facts-check", argument=plan.expected_facts.encoded) if plan.expected_facts else ()
    ):
        if plan.expected_facts and isinstance(event, Note):
            raise Refused(f"{plan.expected_facts.file}: {event.text}", repair_hint(plan.host.name))


def ask_facts(transport: Transport, session: Session) -> tuple[Operation, ...]:
    """Ask a machine for its facts, as operations on sysname, sysdist, sysver and bits."""
    position = Position("<target>")
    facts = {
        event.name: event.values
        for event in ask(transport, session, "facts")
        if isinstance(event, Facts) and event.values
    }
    return tuple(
        Operation(name, "=" if name == "bits" else "()", tuple(map(str.encode, values)), position)
        for name, values in facts.items()
    )


def ask_markers(transport: Transport, session: Session, scope: str, *, whole: bool = False) -> Markers:
    """Ask a machine for its markers: their values, by which `shouldrun` answers, or the `whole` of their lines."""
    markers = Markers()
    for event in ask(transport, session, "markers", scope, "all" if whole else "-"):
        if isinstance(event, MarkerFound):
            markers.add(event)
        elif isinstance(event, Account):
            markers.account = event.kind
    return markers


def reset_markers(transport: Transport, session: Session, scope: str, paths: Iterable[str]) -> Markers | Locked:
    """Remove markers; return the removed ones, or the holder of the machine, which prevents it.

    A path is `OWNER/SCRIPT` or `OWNER/SCRIPT/SUBSYSTEM`, names as `marker.path_of` writes them.
    """
    markers = Markers()
    for event in ask(transport, session, "reset", scope, f"{encode_word(session.by)}:{','.join(paths)}"):
        if isinstance(event, Locked):
            return event
        if isinstance(event, MarkerFound):
            markers.add(event)
    return markers
