"""Spools: what a segment says where it runs, heard from its first byte to its last over connections that may die.

A connection that dies changes nothing there. The next one asks for what follows the last byte that came; if it
is not known whether the segment was started, it is sent again, and the other side sees to it that it starts once.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import suppress

from runsdeploy.errors import HostError, Lost, Refused
from runsdeploy.events import (
    Attached,
    Decoder,
    EarlierEvent,
    Ended,
    Event,
    Finished,
    Hello,
    Locked,
    LoginOutput,
    Note,
    Output,
    Refusal,
    Started,
)
from runsdeploy.session.bundle import COMMAND, Bundle
from runsdeploy.session.reconnect import Link
from runsdeploy.transport.channel import Channel

LOGIN_LIMIT = 20.0
"""seconds that a login shell may take; one that waits for our end of the input gets it then"""

LOGIN_GRACE = 5.0
"""seconds that it may then take to say why"""

BEAT = 15.0
"""seconds between signs of life: a runner that hears none for a minute takes us for gone"""

NOT_FOUND = 127
"""what a shell ends with for a command that is not there (POSIX, XCU 2.8.2)"""

PIECE = 32768
"""bytes of an archive that are sent at a time: each that goes through shows that somebody reads"""

END_LIMIT = 5.0
"""seconds for the target to confirm that it was heard to the end; a connection more has as long again, twice"""

PROGRESS = 65536
"""bytes that a connection must have brought to be worth another at once"""

NOISE_SHOWN = 200
"""bytes of a login shell's noise that are quoted when it said nothing else"""


class SegmentStream:
    """One segment, heard once."""

    def __init__(
        self, link: Link, nonce: str, ask: Callable[[int], Bundle], send: Callable[[], Bundle] | None = None
    ) -> None:
        """`ask` makes what asks for the spool from a byte on, `send` what starts the segment before that."""
        self._link, self._nonce, self._ask, self._send = link, nonce, ask, send
        self._known = False
        self._decoder = Decoder(nonce)
        self._lock = threading.Lock()
        self._wishes: list[bytes] = []
        self._channel: Channel | None = None
        self.last = True
        """whether no segment follows there, which would say that this one was heard"""
        self.begun = False
        """whether the segment is known to have been started"""
        self.offset = 0
        """bytes of the spool that were taken"""
        self._over = False
        self._taken = 0
        self._whole = 0
        """bytes of the spool that were shown"""
        self._half = ""

    def resume(self, offset: int) -> None:
        """Go on behind a byte of a segment that somebody else started."""
        self.begun, self.offset, self._whole = True, offset, offset

    def wish(self, word: bytes) -> None:
        """Ask for `stop` or `kill`, now or as soon as there is a connection. From any thread."""
        with self._lock:
            self._wishes.append(word)
            channel = self._channel
        if channel:
            _tell_aside(channel, word)

    def events(self) -> Iterator[Event]:
        """Yield what happens, to the end; an event was handled when the next is asked for. Raises HostError."""
        while not self._over:
            self._taken = 0
            try:
                yield from self._connection()
            except HostError as error:
                yield from self._link.recover(error, begun=self.begun)
            else:
                # Whoever lags behind what the target keeps is sent away, and comes back behind the hole.
                if self._taken < PROGRESS and not self._over:
                    yield from self._link.recover(Lost("the session's output ended before it did"), begun=self.begun)

    def part(self) -> None:
        """See to it that the target knows that it was heard to its end, where nothing follows to tell it.

        Else the next deploy would be told once more. If the link broke just then, it takes another connection.
        """
        if self._known or not self.begun:
            return
        self._link.close()
        # A host that goes down with its last step takes us no longer than that.
        again = threading.Thread(target=self._part, daemon=True)
        again.start()
        again.join(2 * END_LIMIT)

    def _part(self) -> None:
        with suppress(HostError):
            for _ in self._connection():
                pass

    def answer(self) -> Iterator[Event]:
        """Yield what is said to a question, which has no spool. Raises HostError."""
        yield from self._connection()

    def _connection(self) -> Iterator[Event]:
        channel = self._link.open(COMMAND)
        pulse = _Heartbeat(channel)
        try:
            _upload(channel, pulse, self._send() if self._send and not self.begun else self._ask(self.offset))
            data = yield from self._preamble(channel, pulse)
            while not self._over:
                yield from self._take(data)
                if self._over:
                    break
                _tell(channel, b"%d" % self._whole)
                data = channel.receive()
                if not data:
                    return
            if self.begun:
                self._known = self._told(channel)
        finally:
            with self._lock:
                self._channel = None
            pulse.stop()
            channel.close()

    def _preamble(self, channel: Channel, pulse: _Heartbeat) -> Generator[Event, None, bytes]:
        """Yield what precedes the spool; return the first of its bytes that came with it."""
        decoder, heard, noise = Decoder(self._nonce), False, b""
        while data := channel.receive():
            for event in decoder.feed(data):
                match event:
                    case Hello():
                        heard = True
                        pulse.hear()
                        yield from self._link.hear()
                    case LoginOutput():
                        noise = (noise + event.data)[:NOISE_SHOWN]
                    case Refusal() if self.begun:
                        raise Lost(f"the target cannot go on with the session: {event.text}", passing=False)
                    case Refusal() | Finished():
                        self._over = True
                    case Attached():
                        yield from self._begin(event.offset)
                        self._listen(channel, pulse)
                        return decoder.rest()
                yield event
                if self._over:
                    return b""
        yield from decoder.end()
        if pulse.gave_up:
            said = noise.decode("utf-8", "replace").strip()
            took = f"the login shell did not start the session within {LOGIN_LIMIT + LOGIN_GRACE:g} s"
            raise Refused(f"{took}; it printed: {said!r}")
        raise _silence(channel, noise, heard=heard)

    def _begin(self, offset: int) -> Iterator[Event]:
        if offset < self.offset:
            raise Lost("the target goes back behind what was heard of the session", passing=False)
        if offset > self.offset:
            dropped = offset - self.offset
            yield Note(f"{dropped} bytes of output were dropped: the target keeps no more for who lags behind")
            self._decoder = Decoder(self._nonce, heard=True)
            self._whole = offset
        self.begun, self.offset = True, offset

    def _listen(self, channel: Channel, pulse: _Heartbeat) -> None:
        pulse.begin()
        with self._lock:
            self._channel = channel
            for word in self._wishes:
                _tell_aside(channel, word)

    def _take(self, data: bytes) -> Iterator[Event]:
        self.offset += len(data)
        self._taken += len(data)
        for event in self._decoder.feed(data):
            self._over = isinstance(event, Finished | Refusal | Locked)
            self._half = _half(event, self._half)
            yield event
            if self._over:
                return
        # What stands in an unfinished line may not have been shown yet, whatever follows it but the end of its step;
        # and what an earlier session said makes sense from its beginning only.
        end = data.rfind(b"\n") + 1
        if end and self._half != "behind" and not self._decoder.nested:
            self._whole = self.offset - len(data) + end

    def _told(self, channel: Channel) -> bool:
        """Say that all was heard; return whether that is known to have got there, or need not be."""
        _tell(channel, b"told")
        if not self.last:
            return True
        late = threading.Event()

        def give_up() -> None:
            late.set()
            channel.close()

        limit = threading.Timer(END_LIMIT, give_up)
        limit.daemon = True
        limit.start()
        try:
            while channel.receive():
                pass
        except HostError:
            return False
        finally:
            limit.cancel()
        return not late.is_set()


def _half(event: Event, before: str) -> str:
    """Say where an unfinished line of output stands: `last`, `behind` another event, or nowhere."""
    said = event.event if isinstance(event, EarlierEvent) else event
    match said:
        case Output(data):
            return "" if data.endswith(b"\n") else "last"
        case Started() | Ended() | Finished():
            return ""
    return "behind" if before else ""


class _Heartbeat:
    """Keeps a channel from waiting for ever: for a login shell at first, later for a runner that takes us for gone."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._heard, self._begun, self._over = threading.Event(), False, threading.Event()
        self._moved = time.monotonic()
        self.gave_up = False
        threading.Thread(target=self._beat, daemon=True).start()

    def hear(self) -> None:
        """Take note that the login shell let us through."""
        self._heard.set()

    def move(self) -> None:
        """Take note that something of what we send got through."""
        self._moved = time.monotonic()

    def begin(self) -> None:
        """Give signs of life from now on: nothing else is being sent."""
        self._begun = True

    def stop(self) -> None:
        """End it."""
        self._over.set()
        self._heard.set()

    def _beat(self) -> None:
        # It counts from the last byte that got through: a large archive takes long on a slow link.
        while (left := self._moved + LOGIN_LIMIT - time.monotonic()) > 0 and not self._heard.wait(left):
            pass
        if not self._heard.is_set():
            # A login shell that reads our input to its end would wait for ever, and so would we.
            self._channel.close_input()
            if not self._heard.wait(LOGIN_GRACE):
                self.gave_up = True
                self._channel.close()
        while not self._over.wait(BEAT):
            if self._begun:
                _tell(self._channel, b"")


def _tell(channel: Channel, word: bytes) -> None:
    """Say something that can be lost: whether the connection lives is seen where it is read."""
    with suppress(HostError):
        channel.send(word + b"\n")


def _tell_aside(channel: Channel, word: bytes) -> None:
    """Say a wish: a target that lets nothing be sent must not keep us from listening to the operator."""
    threading.Thread(target=_tell, args=(channel, word), daemon=True).start()


def _upload(channel: Channel, pulse: _Heartbeat, bundle: Bundle) -> None:
    try:
        for chunk in bundle.chunks():
            for at in range(0, len(chunk), PIECE):
                channel.send(chunk[at : at + PIECE])
                pulse.move()
    except Lost:
        # It may have said why before it stopped listening: that is what the operator wants to read.
        return
    finally:
        bundle.archive.close()


def _silence(channel: Channel, noise: bytes, *, heard: bool) -> HostError:
    """Say what it means that a channel ended before the session began."""
    if heard:
        return Lost("the connection was closed before the session began")
    said = (noise + channel.stderr())[:NOISE_SHOWN].decode("utf-8", "replace").strip()
    status = channel.exit_status()
    if status is None and not said:
        return Lost("the connection was closed before the session began")
    if status == NOT_FOUND and not said:
        return Refused("the target has no `sh`, or no `dd`")
    return Refused(f"the login shell did not start the session (status {status}); it printed: {said!r}")
