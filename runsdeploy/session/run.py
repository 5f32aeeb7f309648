"""Runs: one plan on one host, segment after segment.

Each segment is one channel, whose events are handed on as they come. Files that one side makes for the other are kept
here, verified, until the bundle of the segment that needs them.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path

from msgspec import Struct, field

from runsdeploy.errors import HostError, Lost, Refused, writing
from runsdeploy.events import Account, Event, FileData, FileHead, Finished, Started
from runsdeploy.plan.files import File
from runsdeploy.plan.plan import Plan
from runsdeploy.session.attachment import Attachment
from runsdeploy.session.bundle import Bundle, keeps_state, pack, question, watch
from runsdeploy.session.parameters import yes
from runsdeploy.session.query import ask, verify_facts
from runsdeploy.session.reconnect import Reconnector
from runsdeploy.session.segment import Segment, cut
from runsdeploy.session.session import Session, local_scope, new_nonce
from runsdeploy.session.stream import SegmentStream
from runsdeploy.temporary import make_directory
from runsdeploy.transport.channel import Transport
from runsdeploy.transport.local import LocalTransport

FILE_LIMIT = 1 << 40
"""bytes that a file made on a target may have: a larger size is a mistake of the target"""


class Run(Struct):
    """One session on its way."""

    plan: Plan
    session: Session
    connect: Callable[[], Transport]
    """returns a working connection to the target; raises Unreachable"""
    scope: str = "."
    """part of the target's state that the session uses and locks: sessions of different scopes may run at once"""
    stream: SegmentStream | None = None
    """the events of the running segment"""
    stop_requested: bool = False
    withheld: bool = False
    """whether no further output is acknowledged: it cannot be shown, and the next deploy shows it"""
    place: Path | None = None
    """a directory for the received files, which outlive the run there; None for one of the run's own"""
    _folder: Path | None = None
    started_sides: set[str] = field(default_factory=set)
    """sides on which a step started, so that files may be left there"""
    received: dict[str, File] = field(default_factory=dict)
    """files that one side made for the other, by their names in the shared space"""
    segments: Sequence[Segment] = ()
    """the part of the plan to run; empty for all of it"""

    def request_stop(self) -> None:
        """Request that no further step starts; the running one ends first. From any thread."""
        self.stop_requested = True
        self._request(b"stop")

    def request_kill(self) -> None:
        """Request that the running step is ended: by TERM, and by KILL after 5 s. From any thread."""
        self._request(b"kill")

    def withhold(self) -> None:
        """Acknowledge no further output, and request that no further step starts. From any thread."""
        self.withheld = True
        if self.stream:
            self.stream.withheld = True
        if not self.stop_requested:
            self.request_stop()

    def _request(self, word: bytes) -> None:
        stream = self.stream
        if stream:
            stream.request(word)

    def discard_files(self) -> None:
        """Remove the received files of a run whose end is not waited for."""
        if self._folder:
            shutil.rmtree(self._folder, ignore_errors=True)

    def events(self) -> Iterator[Event]:
        """Run the plan and yield the events. Raises HostError if the host cannot be used or is lost."""
        segments = list(self.segments) or cut(self.plan)
        if not segments:
            return  # a recipe of comments only, as `init` makes it: nothing to ask a host for
        reconnectors = {
            "target": Reconnector(self.connect, self.session.patience),
            "controller": Reconnector(LocalTransport, self.session.patience),
        }
        if any(segment.side == "target" for segment in segments):
            # Before any local step: its files are of no use for an unreachable host.
            self.connect()
        try:
            with ExitStack() as stack:
                folder = self.place
                if folder is None and any(segment.returns for segment in segments):
                    folder = stack.enter_context(make_directory("runsdeploy-files-"))
                    self._folder = folder
                if self.plan.expected_facts and starts_late(segments, "target"):
                    verify_facts(self.connect(), self.session, self.plan)
                for side in reconnectors:
                    if starts_late(segments, side):
                        self._check_ready(side, root=needs_root(segments, side))
                yield from self._segments(segments, reconnectors, folder)
        finally:
            reconnectors["target"].close()

    def _segments(
        self, segments: Sequence[Segment], reconnectors: dict[str, Reconnector], folder: Path | None
    ) -> Iterator[Event]:
        open_sides: set[str] = set()
        try:
            for segment in segments:
                if self.stop_requested:
                    yield Finished("interrupted")
                    return
                with ExitStack() as attachments:
                    for side in open_sides - {segment.side}:
                        attachments.enter_context(self._attachment(side))
                    open_sides.add(segment.side)
                    outcome = yield from self._segment(segment, reconnectors[segment.side], folder)
                ends = ends_session(outcome, keep_going=self.session.keep_going)
                if segment.last or ends:
                    open_sides.discard(segment.side)  # the runner itself removed its files
                if ends:
                    return
        finally:
            for side in open_sides & self.started_sides:
                self._clean_up(side)

    def _segment(self, segment: Segment, reconnector: Reconnector, folder: Path | None) -> Generator[Event, None, str]:
        """Run one segment; return its outcome."""
        scope = self._scope(segment.side)
        name = f"segment{segment.number}"
        nonce = new_nonce()
        stream = SegmentStream(
            reconnector,
            nonce,
            lambda offset: watch(nonce, self.session, name, scope, offset),
            lambda: self._bundle(segment, nonce, scope),
        )
        stream.last, stream.withheld = segment.last, self.withheld
        self.stream = stream
        if self.stop_requested:
            stream.request(b"stop")
        events = stream.events()
        try:
            return (yield from self._handle(events, stream, segment, folder))
        except HostError:
            raise
        except Exception:
            # This machine cannot go on, or we made a mistake: no controller will come back, and none is waited for.
            stream.request_now(b"stop")
            raise
        finally:
            events.close()

    def _handle(
        self, events: Iterator[Event], stream: SegmentStream, segment: Segment, folder: Path | None
    ) -> Generator[Event, None, str]:
        """Keep the files among the events of one segment and yield the others; return its outcome."""
        outcome, incoming = "refused", None
        for event in events:
            match event:
                case Started():
                    self.started_sides.add(segment.side)
                case Finished():
                    outcome = event.outcome
                    stream.last = segment.last or outcome != "ok"
                    stream.fetches = not ends_session(outcome, keep_going=self.session.keep_going)
                case FileHead():
                    incoming = self._receive(event, segment, folder)
                case FileData():
                    if incoming:
                        incoming.feed(event.data)
                    continue
            yield event
            if isinstance(event, Started) and self.session.detached and segment.last:
                yield Finished("detached")
                return "detached"
        stream.acknowledge_end()
        return outcome

    def _bundle(self, segment: Segment, nonce: str, scope: str) -> Bundle:
        missing = [name for name in segment.needs if name not in self.received]
        if missing:
            raise Refused(f"`{missing[0]}`, declared by `out`, does not exist: the script that made it removed it")
        shared = [self.received[name] for name in segment.needs]
        return pack(self.plan, segment, self.session, nonce, scope, shared)

    def _receive(self, head: FileHead, segment: Segment, folder: Path | None) -> _IncomingFile:
        """Return the place of a file that is about to come: only files that were requested, under names of our own."""
        if not folder or head.name not in segment.returns or head.size > FILE_LIMIT:
            raise Lost(f"the session sent a file that was not requested: `{head.name}`", transient=False)
        place = folder / f"{segment.number}-{segment.returns.index(head.name)}"
        return _IncomingFile(head, place, self.received)

    def _transport(self, side: str) -> Transport:
        return self.connect() if side == "target" else LocalTransport()

    def _scope(self, side: str) -> str:
        return self.scope if side == "target" else local_scope(self.plan.host.name)

    def _check_ready(self, side: str, *, root: bool) -> None:
        """Ask whether a side can keep state, and whether its login user can become root; raises Refused if not.

        Its own runner would ask too late: after steps of the other side.
        """
        marks = yes(keeps_state(self.plan, side))
        for event in ask(self._transport(side), self.session, "ready", self._scope(side), marks):
            if isinstance(event, Account) and event.kind == "user" and root:
                raise Refused("`conf root` needs root, which the login user cannot become by `sudo -n`")

    def _attachment(self, side: str) -> Attachment:
        """Return what keeps the files of a side that has steps again later."""
        return Attachment(
            lambda: self._transport(side), lambda: question(new_nonce(), self.session, "stay", self._scope(side))
        )

    def _clean_up(self, side: str) -> None:
        """Remove the files on a side whose last segment did not run; a lost connection leaves them."""
        with suppress(HostError):
            for _ in ask(self._transport(side), self.session, "cleanup", self._scope(side)):
                pass


def starts_late(segments: Sequence[Segment], side: str) -> bool:
    """Return whether steps of the other side run before the first of this side: its runner checks its host too late."""
    sides = [segment.side for segment in segments]
    return side in sides and sides[0] != side


def needs_root(segments: Sequence[Segment], side: str) -> bool:
    """Return whether a step of a side runs as root."""
    return any("root" in step.flags for segment in segments if segment.side == side for step in segment.steps)


def ends_session(outcome: str, *, keep_going: bool) -> bool:
    """Return whether no segment runs after one of this outcome."""
    return outcome != "ok" and not (outcome == "failed" and keep_going)


class _IncomingFile:
    """A file that is being received; it is added to `received` once it is complete."""

    def __init__(self, head: FileHead, place: Path, received: dict[str, File]) -> None:
        self.head, self.place, self.received = head, place, received
        # Unbuffered: a full disk is noticed at the write, not when the file is closed.
        self.left, self.hash, self.file = head.size, hashlib.sha256(), place.open("wb", buffering=0)
        self._end_if_complete()

    def feed(self, data: bytes) -> None:
        """Write more of its bytes; raises Lost if its digest is not the announced one."""
        with writing(self.place):
            view = memoryview(data)
            while view:
                view = view[self.file.write(view) :]
        self.hash.update(data)
        self.left -= len(data)
        self._end_if_complete()

    def _end_if_complete(self) -> None:
        if self.left:
            return
        self.file.close()
        head = self.head
        if self.hash.hexdigest() != head.digest:
            raise Lost(f"file `{head.name}` changed while it was sent", transient=False)
        mode = 0o755 if head.mode & 0o111 else 0o644
        self.received[head.name] = File(head.name, "file", mode, self.place, b"", head.size, head.digest)
