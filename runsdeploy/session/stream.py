"""The events of one segment, each once, over connections that may break.

A break changes nothing on the other side. The next connection requests the spool behind the last byte received; while
it is not known whether the segment was started, it is sent again, and the other side makes sure that it starts once.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import suppress

from runsdeploy.errors import HostError, Lost, Refused
from runsdeploy.events import (
    Attached,
    EarlierEvent,
    Ended,
    Event,
    FileData,
    FileHead,
    Finished,
    Hello,
    Locked,
    LoginOutput,
    Note,
    Output,
    Refusal,
    Returned,
    Started,
)
from runsdeploy.session.bundle import Bundle
from runsdeploy.session.decoder import Decoder
from runsdeploy.session.program import COMMAND
from runsdeploy.session.reconnect import Reconnector
from runsdeploy.transport.channel import Channel

LOGIN_LIMIT = 20.0
"""seconds that a login shell may take; then the input is closed, for one that reads it to its end"""

LOGIN_GRACE = 5.0
"""seconds that it may then take to report why it did not start the session"""

HEARTBEAT = 15.0
"""seconds between heartbeats: a runner without one for 60 s takes the controller for gone"""

NOT_FOUND = 127
"""exit status of a shell for a command that does not exist (POSIX, XCU 2.8.2)"""

PIECE = 32768
"""bytes of an archive that are sent at a time: each piece that is sent shows that the other side reads"""

END_LIMIT = 5.0
"""seconds for the target to confirm the final acknowledgement; with another connection at most twice as long in all"""

PROGRESS = 65536
"""bytes that a connection must have brought to be reopened without a pause"""

LOGIN_OUTPUT_SHOWN = 200
"""bytes of login output that a message quotes"""


class SegmentStream:
    """The events of one segment."""

    def __init__(
        self,
        reconnector: Reconnector,
        nonce: str,
        watch: Callable[[int], Bundle],
        start: Callable[[], Bundle] | None = None,
    ) -> None:
        """`watch` makes the request for the spool from a byte on, `start` the one that starts the segment."""
        self._reconnector, self._nonce, self._watch, self._start = reconnector, nonce, watch, start
        self._decoder, self._decoder_began = Decoder(nonce), 0
        self._lock = threading.Lock()
        self._requests: list[bytes] = []
        self._channel: Channel | None = None
        self.last = True
        """whether no later segment follows there, whose start would acknowledge the end of this one"""
        self.fetches = False
        """whether the files that the segment made for the other side are fetched when it is over"""
        self.started = False
        """whether the segment is known to have been started"""
        self.withheld = False
        """whether nothing more is acknowledged: what cannot be shown stays on the target, for the next deploy"""
        self.received = 0
        """bytes of the spool that were received"""
        self._acknowledged = 0
        """bytes of the spool that were shown to their last line"""
        self._open_line = ""
        self._received_here = 0
        """bytes of the spool that this connection brought"""
        self._ended = False
        self._returned = self._fetched = 0
        """bytes of the files for the other side, in all and received"""
        self._file_decoder = Decoder(nonce, in_session=True)
        self._end_acknowledged = False

    def resume(self, offset: int) -> None:
        """Begin at a byte of a segment that another controller started."""
        self.started, self.received, self._acknowledged, self._decoder_began = True, offset, offset, offset

    def request(self, word: bytes) -> None:
        """Send a `stop` or `kill` request, now or as soon as there is a connection. From any thread."""
        with self._lock:
            self._requests.append(word)
            channel = self._channel
        if channel:
            _send_aside(channel, word)

    def request_now(self, word: bytes) -> None:
        """Send a request and wait until it is sent; without a connection this does nothing."""
        with self._lock:
            channel = self._channel
        if channel:
            _send_line(channel, word)

    def events(self) -> Generator[Event, None, None]:
        """Yield all events; the caller has handled one when it takes the next. Raises HostError."""
        while not self._complete:
            self._received_here = 0
            try:
                yield from self._connection()
            except HostError as error:
                yield from self._reconnector.pause(error, started=self.started)
            else:
                # The runner cuts off a controller that lags behind what it keeps: that one reconnects behind the hole.
                if self._received_here < PROGRESS and not self._complete:
                    lost = Lost("the session's output ended before it did")
                    yield from self._reconnector.pause(lost, started=self.started)

    @property
    def _complete(self) -> bool:
        """Whether nothing more is to be received."""
        return self._ended and not (self.fetches and self._fetched < self._returned)

    def acknowledge_end(self) -> None:
        """Wait until the target has recorded that all output was received, unless a later segment shows it.

        Without the record the next deploy would report the session again. A broken connection is opened once more.
        """
        if self._end_acknowledged or self.withheld or not self.started:
            return
        self._reconnector.close()
        # A thread: a host that shuts down with its last step must not block the controller for longer than this.
        again = threading.Thread(target=self._acknowledge_end, daemon=True)
        again.start()
        again.join(2 * END_LIMIT)

    def _acknowledge_end(self) -> None:
        with suppress(HostError):
            for _ in self._connection():
                pass

    def answer(self) -> Iterator[Event]:
        """Yield the answer to a question, which has no spool. Raises HostError."""
        yield from self._connection()

    def _connection(self) -> Iterator[Event]:
        """Yield the events that one connection brings."""
        channel = self._reconnector.open(COMMAND)
        heartbeat = _Heartbeat(channel)
        try:
            starting = self._start if not self.started else None
            _upload(channel, heartbeat, starting() if starting else self._watch(self.received))
            data = yield from self._preamble(channel, heartbeat)
            while not self._ended:
                yield from self._decode(data)
                if self._ended:
                    break
                _send_line(channel, b"%d" % self._acknowledged)
                data = channel.receive()
                if not data:
                    return
            if self.started and self.fetches and self._fetched < self._returned:
                yield from self._fetch(channel, data)
            if self.started and self._complete and not self.withheld:
                self._end_acknowledged = self._send_end(channel)
        finally:
            with self._lock:
                self._channel = None
            heartbeat.stop()
            channel.close()

    def _preamble(self, channel: Channel, heartbeat: _Heartbeat) -> Generator[Event, None, bytes]:
        """Yield the events before the spool; return the first bytes of the spool, if they came with those."""
        decoder, greeted, login_output = Decoder(self._nonce), False, b""
        while data := channel.receive():
            for event in decoder.feed(data):
                match event:
                    case Hello():
                        greeted = True
                        heartbeat.login_done()
                        yield from self._reconnector.connected()
                    case LoginOutput():
                        login_output = (login_output + event.data)[:LOGIN_OUTPUT_SHOWN]
                    case Refusal() if self.started:
                        raise Lost(f"the target cannot continue the session: {event.text}", transient=False)
                    case Refusal() | Finished():
                        self._ended = True
                        yield event
                        return b""
                    case Attached():
                        # After the end of the spool too: the files for the other side come behind it.
                        yield from self._begin_at(event.offset)
                        self._send_requests(channel, heartbeat)
                        return decoder.rest()
                yield event
        yield from decoder.end()
        if heartbeat.gave_up:
            quoted = login_output.decode("utf-8", "replace").strip()
            took = f"the login shell did not start the session within {LOGIN_LIMIT + LOGIN_GRACE:g} s"
            raise Refused(f"{took}; it printed: {quoted!r}")
        raise _no_session(channel, login_output, greeted=greeted)

    def _begin_at(self, offset: int) -> Iterator[Event]:
        if offset < self.received:
            raise Lost("the target repeats output that was received before", transient=False)
        if offset > self.received:
            dropped = offset - self.received
            yield Note(f"{dropped} bytes of output were dropped: the target keeps no more for a slow reader")
            self._decoder, self._decoder_began = Decoder(self._nonce, in_session=True), offset
            self._acknowledged = offset
        self.started, self.received = True, offset

    def _send_requests(self, channel: Channel, heartbeat: _Heartbeat) -> None:
        heartbeat.begin()
        with self._lock:
            self._channel = channel
            for word in self._requests:
                _send_aside(channel, word)

    def _decode(self, data: bytes) -> Iterator[Event]:
        """Yield the events of a piece of the spool; then its lines may be acknowledged."""
        self.received += len(data)
        self._received_here += len(data)
        for event in self._decoder.feed(data):
            match event:
                case Returned(size):
                    self._returned = size
                case FileHead():
                    raise Lost(f"the session sent a file that was not requested: `{event.name}`", transient=False)
            self._ended = isinstance(event, Finished | Refusal | Locked)
            self._open_line = open_line_after(event, self._open_line)
            yield event
            if self._ended:
                return
        # An unfinished line may not be shown before its end comes, whatever follows it but the end of its step.
        if self._open_line != "covered" and not self.withheld:
            self._acknowledged = self._decoder_began + self._decoder.whole

    def _fetch(self, channel: Channel, data: bytes) -> Iterator[Event]:
        """Yield the files for the other side, from the first byte that is missing; `data` are bytes before them."""
        _send_line(channel, b"files\n%d" % self._fetched)
        # Behind the end of the spool there may be output of processes that a step left.
        before, begun = Decoder(self._nonce, in_session=True), False
        while True:
            for event in () if begun else before.feed(data):
                match event:
                    case Attached(offset) if offset != self._fetched:
                        wrong = f"the target sent a file from byte {offset}, expected {self._fetched}"
                        raise Lost(wrong, transient=False)
                    case Attached():
                        data, begun = before.rest(), True
                        break
                    case Refusal():
                        raise Lost(f"the target cannot continue the session: {event.text}", transient=False)
            if begun:
                data = data[: self._returned - self._fetched]
                self._fetched += len(data)
                self._received_here += len(data)
                yield from (each for each in self._file_decoder.feed(data) if isinstance(each, FileHead | FileData))
            if self._complete:
                return
            data = channel.receive()
            if not data:
                return

    def _send_end(self, channel: Channel) -> bool:
        """Send the final acknowledgement; return whether it is known to have arrived, or need not be."""
        _send_line(channel, b"end files" if self.fetches else b"end")
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


def open_line_after(event: Event, before: str) -> str:
    """Return the place of an unfinished line of output: `last`, `covered` by a later event, or empty for none."""
    match event.event if isinstance(event, EarlierEvent) else event:
        case Output(data):
            return "" if data.endswith(b"\n") else "last"
        case Started() | Ended() | Finished():
            return ""
    return "covered" if before else ""


class _Heartbeat:
    """Keep a channel from blocking for ever: a time limit for the login shell, then heartbeats for the runner."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._logged_in, self._beating, self._stopped = threading.Event(), False, threading.Event()
        self._progress = time.monotonic()
        self.gave_up = False
        threading.Thread(target=self._run, daemon=True).start()

    def login_done(self) -> None:
        """End the time limit: the login shell started the bootstrap."""
        self._logged_in.set()

    def progress(self) -> None:
        """Restart the time limit: some bytes were sent."""
        self._progress = time.monotonic()

    def begin(self) -> None:
        """Send heartbeats from now on: nothing else is being sent."""
        self._beating = True

    def stop(self) -> None:
        """End the thread."""
        self._stopped.set()
        self._logged_in.set()

    def _run(self) -> None:
        # The limit counts from the last byte sent: a large archive takes long on a slow link.
        while (left := self._progress + LOGIN_LIMIT - time.monotonic()) > 0 and not self._logged_in.wait(left):
            pass
        if not self._logged_in.is_set():
            # A login shell that reads its input to the end would wait for ever, and the controller with it.
            self._channel.close_input()
            if not self._logged_in.wait(LOGIN_GRACE):
                self.gave_up = True
                self._channel.close()
        while not self._stopped.wait(HEARTBEAT):
            if self._beating:
                _send_line(self._channel, b"")


def _send_line(channel: Channel, line: bytes) -> None:
    """Send a line that may be lost: the reading side notices a broken connection."""
    with suppress(HostError):
        channel.send(line + b"\n")


def _send_aside(channel: Channel, line: bytes) -> None:
    """Send a request in a thread: a target that accepts no bytes must not block the operator's next signal."""
    threading.Thread(target=_send_line, args=(channel, line), daemon=True).start()


def _upload(channel: Channel, heartbeat: _Heartbeat, bundle: Bundle) -> None:
    try:
        for chunk in bundle.chunks():
            for at in range(0, len(chunk), PIECE):
                channel.send(chunk[at : at + PIECE])
                heartbeat.progress()
    except Lost:
        # The other side may have sent its reason before it stopped reading: that is what the operator must see.
        return
    finally:
        bundle.archive.close()


def _no_session(channel: Channel, login_output: bytes, *, greeted: bool) -> HostError:
    """Return what it means that a channel ended before the session began."""
    if greeted:
        return Lost("the connection was closed before the session began")
    quoted = (login_output + channel.stderr())[:LOGIN_OUTPUT_SHOWN].decode("utf-8", "replace").strip()
    status = channel.exit_status()
    if status is None and not quoted:
        return Lost("the connection was closed before the session began")
    if status == NOT_FOUND and not quoted:
        return Refused("the target has no `sh`, or no `dd`")
    return Refused(f"the login shell did not start the session (status {status}); it printed: {quoted!r}")
