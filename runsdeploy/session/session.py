"""Sessions: one plan on one host, segment after segment, files handed from side to side.

Each segment is one channel. What it sends back is decoded and handed on as it comes; files made for the
other side are kept here, checked, until the bundle of the segment that needs them.
"""

from __future__ import annotations

import getpass
import hashlib
import os
import secrets
import shutil
import tempfile
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from msgspec import Struct, field
from msgspec.structs import replace

from runsdeploy.errors import HostError, Lost, Position, Refused
from runsdeploy.events import (
    Account,
    Event,
    Facts,
    FileData,
    FileHead,
    Finished,
    Locked,
    MarkerFound,
    Note,
    Refusal,
    Started,
    encode_word,
)
from runsdeploy.markers.marker import Markers
from runsdeploy.plan.files import File
from runsdeploy.plan.plan import Plan
from runsdeploy.plan.sysinfos import repair_hint
from runsdeploy.session.bundle import Bundle, Session, pack, question, watch
from runsdeploy.session.reconnect import Link
from runsdeploy.session.segment import Segment, cut
from runsdeploy.session.stream import SegmentStream
from runsdeploy.transport.channel import Transport
from runsdeploy.transport.local import LocalTransport
from runsdeploy.tree.recipe import Operation

FILE_LIMIT = 1 << 40
"""bytes that a file made on a target may have: more is not a file but a mistake"""


def new_session(**policy: Any) -> Session:
    """Make the names of a session; who deploys is `user@machine`. `policy` are fields of `Session`."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):
        user = "unknown"
    return Session(secrets.token_hex(16), secrets.token_hex(16), f"{user}@{os.uname().nodename}", **policy)


class Run(Struct):
    """One session under way."""

    plan: Plan
    session: Session
    connect: Callable[[], Transport]
    """returns a living connection to the target; raises Unreachable"""
    scope: str = "."
    """part of the target's state that the session works in and locks: one that only looks is not kept out by another"""
    spool: SegmentStream | None = None
    stopping: bool = False
    _folder: str = ""
    begun: set[str] = field(default_factory=set)
    """sides on which a session was begun, so that something may lie there"""
    kept: dict[str, File] = field(default_factory=dict)
    """files made on one side for the other"""
    segments: Sequence[Segment] = ()
    """what of the plan to run, where that is not all of it"""

    def stop(self) -> None:
        """Ask that no further step starts; the running one ends first. From any thread."""
        self.stopping = True
        self._wish(b"stop")

    def abandon(self) -> None:
        """Remove what is kept here, for nobody waits for the end."""
        if self._folder:
            shutil.rmtree(self._folder, ignore_errors=True)

    def kill(self) -> None:
        """Ask that the running step is ended: TERM, and KILL after 5 s. From any thread."""
        self._wish(b"kill")

    def _wish(self, word: bytes) -> None:
        spool = self.spool
        if spool:
            spool.wish(word)

    def events(self) -> Iterator[Event]:
        """Do it; yield what happens. Raises HostError if the host cannot be used or is lost."""
        segments = list(self.segments) or cut(self.plan)
        if not segments:
            return  # a recipe of comments, as `init` makes it: there is nothing to ask a host for
        links = {
            "target": Link(self.connect, self.session.patience),
            "controller": Link(LocalTransport, self.session.patience),
        }
        if any(segment.side == "target" for segment in segments):
            # Before any local step: what they make is of no use for a host that is not there.
            self.connect()
        try:
            with tempfile.TemporaryDirectory(prefix="runsdeploy-", ignore_cleanup_errors=True) as folder:
                self._folder = folder
                self._verify_facts_first(segments)
                for side in links:
                    self._check_root(segments, side)
                open_sides: set[str] = set()
                try:
                    for segment in segments:
                        if self.stopping:
                            yield Finished("interrupted")
                            return
                        open_sides.add(segment.side)
                        finished = yield from self._segment(segment, links[segment.side], Path(folder))
                        if self._cleaned(segment, finished):
                            open_sides.discard(segment.side)
                        if finished != "ok" and not (finished == "failed" and self.session.keep_going):
                            return
                finally:
                    for side in open_sides & self.begun:
                        self._sweep(side)
        finally:
            links["target"].close()

    def _transport(self, side: str) -> Transport:
        return self.connect() if side == "target" else LocalTransport()

    def _scope(self, side: str) -> str:
        return self.scope if side == "target" else local_scope(self.plan.host.name)

    def _cleaned(self, segment: Segment, finished: str) -> bool:
        """Say whether the runner removes its files at the end of a segment."""
        return segment.last or (finished != "ok" and not (finished == "failed" and self.session.keep_going))

    def _verify_facts_first(self, segments: list[Segment]) -> None:
        """Ask the target whether it is as promised, where its own first segment would come too late for that."""
        sides = [segment.side for segment in segments]
        if self.plan.expected_facts and "target" in sides and sides[0] != "target":
            verify_facts(self.connect(), self.session, self.plan)

    def _check_root(self, segments: list[Segment], side: str) -> None:
        """Ask for root before anything runs, where the side's own first segment would come too late for that."""
        first, needed = segments[0], [step for each in segments for step in each.steps if step.side == side]
        if first.side == side or not any("root" in step.flags for step in needed):
            return
        for event in ask(self._transport(side), self.session, "account"):
            if isinstance(event, Account) and event.kind == "user":
                raise Refused("`conf root` needs root, which the login user cannot become by `sudo -n`")

    def _sweep(self, side: str) -> None:
        """Remove what the session left on a side whose last segment did not come; a lost link cannot."""
        with suppress(HostError):
            for _ in ask(self._transport(side), self.session, "sweep", self._scope(side)):
                pass

    def _segment(self, segment: Segment, link: Link, folder: Path) -> Generator[Event, None, str]:
        scope = self._scope(segment.side)
        name = f"segment{segment.number}"
        spool = SegmentStream(
            link,
            self.session.nonce,
            lambda offset: watch(self.session, name, scope, offset),
            lambda: self._bundle(segment, scope),
        )
        spool.last = segment.last
        self.spool = spool
        if self.stopping:
            spool.wish(b"stop")
        outcome, incoming = "refused", None
        for event in spool.events():
            match event:
                case Started():
                    self.begun.add(segment.side)
                case Finished():
                    outcome = event.outcome
                    spool.last = segment.last or outcome != "ok"
                case FileHead():
                    incoming = self._keep(event, segment, folder)
                case FileData():
                    if incoming:
                        incoming.feed(event.data)
                    continue
            yield event
            if isinstance(event, Started) and self.session.detached and segment.last:
                yield Finished("detached")
                return "detached"
        spool.part()
        return outcome

    def _bundle(self, segment: Segment, scope: str) -> Bundle:
        missing = [name for name in segment.needs if name not in self.kept]
        if missing:
            raise Refused(f"`{missing[0]}`, promised by `out`, is not there: the script that made it took it away")
        return pack(self.plan, segment, self.session, scope, [self.kept[name] for name in segment.needs])

    def _keep(self, head: FileHead, segment: Segment, folder: Path) -> _Incoming:
        """Return what takes a file in: only those that were asked for, under names of our own."""
        if head.name not in segment.returns or head.size > FILE_LIMIT:
            raise Lost(f"the session sent a file nobody asked for: `{head.name}`", passing=False)
        place = folder / f"{segment.number}-{segment.returns.index(head.name)}"
        return _Incoming(head, place, self.kept)


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
            raise Lost(f"file `{head.name}` changed while it was sent", passing=False)
        mode = 0o755 if head.mode & 0o111 else 0o644
        self.kept[head.name] = File(head.name, "file", mode, self.place, b"", head.size, head.digest)


def ask(transport: Transport, session: Session, about: str, scope: str = ".", argument: str = "-") -> Iterator[Event]:
    """Ask a machine something that `questions.sh` answers: one round trip."""
    link = Link(lambda: transport, 0)
    bundle = question(session, about, scope, argument)
    for event in SegmentStream(link, session.nonce, lambda _: bundle).answer():
        if isinstance(event, Refusal):
            raise Refused(event.text)
        yield event


def verify_facts(transport: Transport, session: Session, plan: Plan) -> None:
    """Ask a machine whether it is as its `sysinfos.conf` promises; raises Refused if not."""
    expected = plan.expected_facts
    for event in ask(transport, session, "promise", argument=expected.encoded) if expected else ():
        if expected and isinstance(event, Note):
            raise Refused(f"{expected.file}: {event.text}", repair_hint(plan.host.name))


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
    """Ask a machine for its markers: what a session would go by, or the `whole` of what they say."""
    markers = Markers()
    for event in ask(transport, session, "markers", scope, "all" if whole else "-"):
        if isinstance(event, MarkerFound):
            markers.add(event)
        elif isinstance(event, Account):
            markers.account = event.kind
    return markers


def reset_markers(transport: Transport, session: Session, scope: str, paths: Iterable[str]) -> Markers | Locked:
    """Take markers back; return those that went, or who keeps the machine from it.

    A path is `OWNER/SCRIPT` or `OWNER/SCRIPT/SUBSYSTEM`, names as `marker.path_of` writes them.
    """
    markers = Markers()
    for event in ask(transport, session, "reset", scope, f"{encode_word(session.by)}:{','.join(paths)}"):
        if isinstance(event, Locked):
            return event
        if isinstance(event, MarkerFound):
            markers.add(event)
    return markers


def local_scope(host: str) -> str:
    """Return where on the controller the state of a host's local steps lies, below the state directory."""
    return f"hosts/{host}"


def new_sessions(count: int, **policy: Any) -> list[Session]:
    """Make the names of the sessions of one deploy: `ID`, `ID-2`, `ID-3` …, each with its own nonce."""
    first = new_session(**policy)
    rest = [replace(first, identity=f"{first.identity}-{n}", nonce=secrets.token_hex(16)) for n in range(2, count + 1)]
    return [first, *rest]
