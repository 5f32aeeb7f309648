"""The decoder of a session's bytes: events between raw output, as they arrive. Pure, no I/O.

An event (see `event_line`) may stand anywhere in the output, in the middle of a line too; without the events, the
output is exactly what the steps wrote. Some events are followed by a block, as many bytes as they say: a `file` event
by the file, an `earlier` event by another session's spool, whose events carry that session's nonce. The laws:

- the same bytes in any chunks decode to the same events, adjacent `Output`s joined;
- bytes that do not follow the nonce are output, whatever they look like;
- all bytes before the first event are `LoginOutput`: what login shells print.
"""

from __future__ import annotations

from collections.abc import Iterator

from runsdeploy.events import EarlierEvent, EarlierSession, Event, FileData, FileHead, LoginOutput, Output
from runsdeploy.session.event_line import MARK, parse

DEEPEST = 20
"""depth of earlier sessions whose spools report an earlier session themselves; deeper ones are output"""

LONGEST = 8192
"""bytes that an event may have; a longer line is output"""

LONGEST_MARKER = 4 << 20
"""bytes that a `marker` event may have: RUNS_LONGEST of `shell/runs.sh` for its value, and the rest"""


class Decoder:
    """Decode the bytes of a session as they arrive."""

    def __init__(self, nonce: str, *, in_session: bool = False, depth: int = 0) -> None:
        """`in_session`: an event came before these bytes, so none of them is login output."""
        self._depth = depth
        self._start = MARK + nonce.encode() + b" "
        self._buffer = b""
        self._left = 0
        self._inner: Decoder | None = None
        self._in_session = in_session
        self._decoded = 0
        self.whole = 0
        """bytes up to the last place where another decoder could begin: behind a line, and in no block"""

    def rest(self) -> bytes:
        """Remove and return the bytes behind the last event."""
        taken, self._buffer = self._buffer, b""
        return taken

    def feed(self, data: bytes) -> Iterator[Event]:
        """Yield the events that are complete with these bytes."""
        self._buffer += data
        while self._buffer:
            if self._left:
                taken, self._buffer = self._buffer[: self._left], self._buffer[self._left :]
                self._left -= len(taken)
                self._decoded += len(taken)
                self.whole = self.whole if self._left else self._decoded
                yield from self._feed_inner(taken) if self._inner else [FileData(taken)]
                continue
            at = self._buffer.find(self._start)
            yield from self._flush(at if at >= 0 else len(self._buffer) - self._held_back())
            if at < 0:
                return
            longest = LONGEST_MARKER if self._buffer.startswith(b"marker ", len(self._start)) else LONGEST
            end = self._buffer.find(b"\n", 0, longest)
            if end < 0 and len(self._buffer) < longest:
                return
            event = parse(self._buffer[len(self._start) : end]) if end >= 0 else None
            if event is None or (isinstance(event, EarlierSession) and self._depth == DEEPEST):
                # Not an event after all: the mark is output, and an event may begin right behind it.
                yield from self._flush(len(self._start))
                continue
            self._buffer = self._buffer[end + 1 :]
            self._decoded += end + 1
            self._in_session = True
            self._left = event.size if isinstance(event, FileHead | EarlierSession) else 0
            self.whole = self.whole if self._left else self._decoded
            self._inner = (
                Decoder(event.nonce, in_session=True, depth=self._depth + 1)
                if isinstance(event, EarlierSession)
                else None
            )
            yield event

    def end(self) -> Iterator[Event]:
        """Yield the bytes that are left when no more come."""
        yield from self._flush(len(self._buffer))

    def _feed_inner(self, data: bytes) -> Iterator[Event]:
        """Decode bytes of an earlier session."""
        assert self._inner  # noqa: S101 - made with the EarlierSession before these bytes
        for event in (*self._inner.feed(data), *(() if self._left else self._inner.end())):
            # An earlier session may itself report one before it: that one's events are wrapped already.
            yield event if isinstance(event, EarlierSession | EarlierEvent) else EarlierEvent(event)

    def _held_back(self) -> int:
        """Return how many bytes at the end may be the beginning of an event."""
        longest = min(len(self._start) - 1, len(self._buffer))
        return next((n for n in range(longest, 0, -1) if self._buffer.endswith(self._start[:n])), 0)

    def _flush(self, count: int) -> Iterator[Event]:
        taken, self._buffer = self._buffer[:count], self._buffer[count:]
        if b"\n" in taken:
            self.whole = self._decoded + taken.rindex(b"\n") + 1
        self._decoded += len(taken)
        if taken:
            yield Output(taken) if self._in_session else LoginOutput(taken)
