"""Sessions: one plan on one host, segment after segment, files handed from side to side.

Each segment is one channel. What it sends back is decoded and handed on as it comes; files made for the
other side are kept here, checked, until the bundle of the segment that needs them.
"""

from __future__ import annotations

import getpass
import hashlib
import io
import os
import secrets
import tempfile
import threading
from collections.abc import Callable, Generator, Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

from runsdeploy.bundle import COMMAND, Bundle, Session, header, pack
from runsdeploy.errors import HostError, Lost, Position, Refused
from runsdeploy.events import (
    Account,
    Decoder,
    Event,
    Facts,
    FileData,
    FileHead,
    Finished,
    Hello,
    Locked,
    MarkerFound,
    Noise,
    Refusal,
    Started,
)
from runsdeploy.files import File
from runsdeploy.local import LocalTransport
from runsdeploy.marker import Markers
from runsdeploy.plan import Plan
from runsdeploy.recipe import Operation
from runsdeploy.segment import Segment, cut
from runsdeploy.transport import Channel, Transport

LOGIN_LIMIT = 20.0
"""seconds that a login shell may take; one that waits for our end of the input gets it then"""

NOISE_SHOWN = 200
"""bytes of a login shell's noise that are quoted when it said nothing else"""

FILE_LIMIT = 1 << 40
"""bytes that a file made on a target may have: more is not a file but a mistake"""


def new_session(*, keep_going: bool = False) -> Session:
    """Make the names of a session; who deploys is `user@machine`."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):
        user = "unknown"
    return Session(secrets.token_hex(16), secrets.token_hex(16), f"{user}@{os.uname().nodename}", keep_going)


@dataclass
class Run:
    """One session under way."""

    plan: Plan
    session: Session
    connect: Callable[[], Transport]
    """opens the way to the target; raises Unreachable"""
    scope: str = "."
    """part of the target's state that the session works in and locks: one that only looks is not kept out by another"""
    channel: Channel | None = None
    stopping: bool = False
    begun: set[str] = field(default_factory=set)
    """sides on which a session was begun, so that something may lie there"""
    kept: dict[str, File] = field(default_factory=dict)
    """files made on one side for the other"""

    def stop(self) -> None:
        """Ask that no further step starts; the running one ends first. From any thread."""
        self.stopping = True
        channel = self.channel
        if channel:
            with suppress(HostError):
                channel.send(b"stop\n")

    def events(self) -> Iterator[Event]:
        """Do it; yield what happens. Raises HostError if the host cannot be used or is lost."""
        segments = cut(self.plan)
        # Before any local step: what they make is of no use for a host that is not there.
        target = self.connect() if any(segment.side == "target" for segment in segments) else LocalTransport()
        try:
            with tempfile.TemporaryDirectory(prefix="runsdeploy-") as folder:
                transports = {"target": target, "controller": LocalTransport()}
                for side, transport in transports.items():
                    self._check_root(segments, side, transport)
                open_sides: set[str] = set()
                try:
                    for segment in segments:
                        open_sides.add(segment.side)
                        finished = yield from self._segment(segment, transports[segment.side], Path(folder))
                        if self._cleaned(segment, finished):
                            open_sides.discard(segment.side)
                        if self.stopping and finished == "ok" and segment is not segments[-1]:
                            finished = "interrupted"
                            yield Finished(finished)
                        if finished != "ok" and not (finished == "failed" and self.session.keep_going):
                            return
                finally:
                    for side in open_sides & self.begun:
                        self._sweep(side, transports[side])
        finally:
            target.close()

    def _cleaned(self, segment: Segment, finished: str) -> bool:
        """Say whether the runner removed its files at the end of a segment."""
        return segment.last or (finished != "ok" and not (finished == "failed" and self.session.keep_going))

    def _check_root(self, segments: list[Segment], side: str, transport: Transport) -> None:
        """Ask for root before anything runs, where the side's own first segment would come too late for that."""
        first, needed = segments[0], [step for each in segments for step in each.steps if step.side == side]
        if first.side == side or not any("root" in step.flags for step in needed):
            return
        for event in ask(transport, self.session, "account"):
            if isinstance(event, Account) and event.kind == "user":
                raise Refused("`conf root` needs root, which the login user cannot become by `sudo -n`")

    def _sweep(self, side: str, transport: Transport) -> None:
        """Remove what the session left on a side whose last segment did not come; a lost link cannot."""
        scope = self.scope if side == "target" else local_scope(self.plan.host.name)
        with suppress(HostError):
            for _ in ask(transport, self.session, "sweep", scope):
                pass

    def _segment(self, segment: Segment, transport: Transport, folder: Path) -> Generator[Event, None, str]:
        bundle = self._bundle(segment)
        self.channel = transport.open(COMMAND)
        try:
            outcome = "refused"
            for event in _converse(self.channel, bundle, self._keep(segment, folder), self.session.nonce):
                if isinstance(event, Started):
                    self.begun.add(segment.side)
                if isinstance(event, Finished):
                    outcome = event.outcome
                yield event
            return outcome
        finally:
            channel, self.channel = self.channel, None
            channel.close()

    def _bundle(self, segment: Segment) -> Bundle:
        missing = [name for name in segment.needs if name not in self.kept]
        if missing:
            raise Refused(f"`{missing[0]}`, promised by `out`, is not there: the script that made it took it away")
        scope = self.scope if segment.side == "target" else local_scope(self.plan.host.name)
        return pack(self.plan, segment, self.session, scope, [self.kept[name] for name in segment.needs])

    def _keep(self, segment: Segment, folder: Path) -> Callable[[FileHead], _Incoming]:
        """Return what takes files in: only those that were asked for, under names of our own."""

        def take(head: FileHead) -> _Incoming:
            if head.name not in segment.returns or head.size > FILE_LIMIT:
                raise Lost(f"the session sent a file nobody asked for: `{head.name}`")
            place = folder / f"{segment.number}-{segment.returns.index(head.name)}"
            return _Incoming(head, place, self.kept)

        return take


class _Incoming:
    """A file on its way to us; it counts once it is whole."""

    def __init__(self, head: FileHead, place: Path, kept: dict[str, File]) -> None:
        self.head, self.place, self.kept = head, place, kept
        self.left, self.hash, self.file = head.size, hashlib.sha256(), place.open("wb")
        self._finish_if_whole()

    def feed(self, data: bytes) -> None:
        """Take more of its bytes; raises Lost if they are not what was announced."""
        self.file.write(data)
        self.hash.update(data)
        self.left -= len(data)
        self._finish_if_whole()

    def _finish_if_whole(self) -> None:
        if self.left:
            return
        self.file.close()
        head = self.head
        if self.hash.hexdigest() != head.digest:
            raise Lost(f"file `{head.name}` changed while it was sent")
        mode = 0o755 if head.mode & 0o111 else 0o644
        self.kept[head.name] = File(head.name, "file", mode, self.place, b"", head.size, head.digest)


def _converse(
    channel: Channel, bundle: Bundle, take: Callable[[FileHead], _Incoming] | None, nonce: str
) -> Iterator[Event]:
    """Send a bundle, yield what comes back until it is over."""
    _send(channel, bundle)
    decoder, incoming, heard, noise = Decoder(nonce), None, False, b""
    # A login shell that reads our input to its end would wait for ever, and so would we.
    patience = threading.Timer(LOGIN_LIMIT, channel.close_input)
    patience.daemon = True
    patience.start()
    try:
        while data := channel.receive():
            for event in decoder.feed(data):
                match event:
                    case Hello():
                        heard = True
                        patience.cancel()
                    case Noise():
                        noise = (noise + event.data)[:NOISE_SHOWN]
                    case FileHead() if take:
                        incoming = take(event)
                    case FileData():
                        if incoming:
                            incoming.feed(event.data)
                        continue
                yield event
                if isinstance(event, Finished | Refusal | Locked):
                    return
    finally:
        patience.cancel()
    yield from decoder.end()
    raise _silence(channel, noise, heard=heard)


def _send(channel: Channel, bundle: Bundle) -> None:
    try:
        for chunk in bundle.chunks():
            channel.send(chunk)
    except Lost:
        # It may have said why before it stopped listening: that is what the operator wants to read.
        return
    finally:
        bundle.archive.close()


def _silence(channel: Channel, noise: bytes, *, heard: bool) -> HostError:
    """Say what it means that a channel ended without `finish`."""
    if heard:
        return Lost("the connection ended before the session did", "deploy again: what is marked is not done twice")
    said = (noise + channel.stderr())[:NOISE_SHOWN].decode("utf-8", "replace").strip()
    status = channel.exit_status()
    if status is None and not said:
        return Lost("the connection ended before the session began", "deploy again: nothing ran")
    return Refused(f"the login shell did not start the session (status {status}); it printed: {said!r}")


def ask(transport: Transport, session: Session, question: str, scope: str = ".") -> Iterator[Event]:
    """Ask a machine for its `facts` or `markers`: one round trip, nothing is written there."""
    bundle = Bundle(header(session, question, scope), io.BytesIO())
    channel = transport.open(COMMAND)
    try:
        for event in _converse(channel, bundle, None, session.nonce):
            if isinstance(event, Refusal):
                raise Refused(event.text)
            yield event
    finally:
        channel.close()


def ask_facts(transport: Transport, session: Session) -> tuple[Operation, ...]:
    """Ask a machine for its facts, as operations on sysname, sysdist, sysver and bits."""
    position = Position("<target>")
    return tuple(
        Operation(event.name, "=" if event.name == "bits" else "()", tuple(map(str.encode, event.values)), position)
        for event in ask(transport, session, "facts")
        if isinstance(event, Facts) and event.values
    )


def ask_markers(transport: Transport, session: Session, scope: str) -> Markers:
    """Ask a machine for its markers."""
    markers = Markers()
    for event in ask(transport, session, "markers", scope):
        if isinstance(event, MarkerFound):
            markers.add(event)
        elif isinstance(event, Account):
            markers.account = event.kind
    return markers


def local_scope(host: str) -> str:
    """Return where on the controller the state of a host's local steps lies, below the state directory."""
    return f"hosts/{host}"


def new_sessions(count: int, *, keep_going: bool = False) -> list[Session]:
    """Make the names of the sessions of one deploy: `ID`, `ID-2`, `ID-3` …, each with its own nonce."""
    first = new_session(keep_going=keep_going)
    rest = [replace(first, identity=f"{first.identity}-{n}", nonce=secrets.token_hex(16)) for n in range(2, count + 1)]
    return [first, *rest]
