"""A TCP proxy that breaks connections at exactly the byte it is told to; standard library only.

Usable without pytest, in front of whatever listens on this machine::

    with Proxy(host.port, Fault("down", 4096, "rst")) as proxy:
        subprocess.run(["ssh", "-F", through(host, proxy), host.name, "true"])
    proxy.connections[0].down  # 4096, or less if it ended before
"""

from __future__ import annotations

import contextlib
import fcntl
import selectors
import socket
import struct
import termios
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from tests.sshd import FakeHost

if TYPE_CHECKING:
    from types import TracebackType

    from typing_extensions import Self  # the checkers know it; nothing imports it

Mode = Literal["rst", "fin", "hole", "throttle", "delay"]
Cut = Literal["rst", "fin", "hole"]
Direction = Literal["up", "down", "both"]

PIECE = 65536
MOST_HELD = 4 * PIECE
"""bytes of one direction that wait here before the sender is made to wait"""
DRAINED = 1.0
"""seconds that a reset waits for bytes which the receiver has no room for"""
TICK = 0.001
PATIENCE = 20.0


@dataclass(frozen=True)
class Fault:
    """What goes wrong with a connection, and where."""

    direction: Direction
    """whose bytes are counted: `up` is client to server; `both` is the first of the two to get there"""
    at: int
    """bytes of that direction that still arrive as if nothing was wrong; it happens with the last of them"""
    mode: Mode
    """`rst` resets both sides, `fin` closes both, `hole` forwards nothing more and leaves both open;
    `throttle` and `delay` slow down what follows in that direction"""
    connection: int | None = 0
    """which connection, counted from 0; None: each"""
    refuse_after: int = 0
    """how many connections are then reset as soon as they are made"""
    refuse_for: float = 0.0
    """for how many seconds connections are then reset as soon as they are made"""
    rate: float = 0.0
    """bytes in a second, for `throttle`"""
    seconds: float = 0.0
    """how much later each piece arrives, for `delay`"""

    def __post_init__(self) -> None:
        if (self.mode == "throttle") != (self.rate > 0) or (self.mode == "delay") != (self.seconds > 0):
            raise ValueError(f"`rate` belongs to a throttle, `seconds` to a delay: {self}")
        if self.at < 0:
            raise ValueError(f"no byte is before the first: {self}")

    def concerns(self, connection: int, direction: Direction) -> bool:
        """Say whether it counts this direction of this connection."""
        return self.connection in (None, connection) and self.direction in (direction, "both")


@dataclass
class Connection:
    """A connection that was let through."""

    number: int
    """counted from 0"""
    up: int = 0
    """bytes that arrived at the server"""
    down: int = 0
    """bytes that arrived at the client"""
    cut: Cut | None = None
    """how it was cut, if it was"""
    ended: bool = False
    """whether both sides of it are closed; never true of a black hole"""


@dataclass
class _Flow:
    """One direction of a connection: what waits, until when, and where it breaks."""

    source: socket.socket
    sink: socket.socket
    cut: Fault | None
    throttle: Fault | None
    delay: Fault | None
    received: int = 0
    sent: int = 0
    held: int = 0
    waiting: deque[tuple[float, bytes]] = field(default_factory=deque)
    not_before: float = 0.0
    ended: bool = False
    """the source said so"""
    closed: bool = False
    """we said so to the sink"""

    def take(self, data: bytes, now: float) -> None:
        """Queue what the source sent, each part with the time from when on it may go on."""
        on_time = len(data)
        if self.delay:
            on_time = min(on_time, max(0, self.delay.at - self.received))
        for part, due in ((data[:on_time], now), (data[on_time:], now + (self.delay.seconds if self.delay else 0))):
            if part:
                self.waiting.append((due, part))
        self.received += len(data)
        self.held += len(data)

    @property
    def struck(self) -> bool:
        """Whether all went out that may."""
        return self.cut is not None and self.sent >= self.cut.at

    def ready(self) -> float:
        """When the next bytes may go on; infinity if there are none."""
        return max(self.waiting[0][0], self.not_before) if self.waiting and not self.struck else float("inf")

    def forward(self, now: float) -> None:
        """Send one piece, as far as it may go."""
        due, piece = self.waiting.popleft()
        most = len(piece)
        if self.cut:
            most = min(most, self.cut.at - self.sent)
        if self.throttle:
            before = self.throttle.at - self.sent
            most = min(most, before if before > 0 else max(1, int(self.throttle.rate / 100)))
        gone = 0
        with contextlib.suppress(BlockingIOError):
            gone = self.sink.send(piece[:most])
        if gone < len(piece):
            self.waiting.appendleft((due, piece[gone:]))
        if self.throttle and self.sent >= self.throttle.at:
            self.not_before = now + gone / self.throttle.rate
        self.sent += gone
        self.held -= gone


@dataclass
class _Passage:
    """A connection while it is open: two sockets, two flows."""

    client: socket.socket
    server: socket.socket
    up: _Flow
    down: _Flow
    told: Connection
    cutting: Cut | None = None
    """the cut under way; nothing is forwarded any more"""
    since: float = 0.0
    stopped: bool = False
    """nothing is forwarded any more, and never will be"""

    @property
    def flows(self) -> tuple[_Flow, _Flow]:
        return self.up, self.down

    @property
    def sockets(self) -> tuple[socket.socket, socket.socket]:
        return self.client, self.server

    @property
    def over(self) -> bool:
        """Whether both sides said that nothing more comes, and were told so."""
        told = self.told.cut == "fin" or all(flow.closed for flow in self.flows)
        return told and all(flow.ended for flow in self.flows)


class Proxy:
    """A free port of 127.0.0.1 that leads to another one, with the faults it was given."""

    def __init__(self, target: int, *faults: Fault) -> None:
        self.faults = faults
        """what goes wrong; each fault at most once for a connection"""
        self.connections: list[Connection] = []
        """every connection that was let through, in order, ended ones too"""
        self.refused = 0
        """connections that were reset as soon as they were made"""
        self.port = 0
        """where it listens, once started"""
        self._target = target
        self._passages: list[_Passage] = []
        self._to_refuse = 0
        self._refused_until = 0.0
        self._paused = False
        self._orders: deque[tuple[Callable[[], object], threading.Event]] = deque()
        self._error: BaseException | None = None
        self._stopping = False

    @property
    def up(self) -> int:
        """Bytes that arrived at the server, of all connections."""
        return sum(each.up for each in self.connections)

    @property
    def down(self) -> int:
        """Bytes that arrived at the client, of all connections."""
        return sum(each.down for each in self.connections)

    @property
    def cuts(self) -> int:
        """How many connections were cut."""
        return sum(each.cut is not None for each in self.connections)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Listen."""
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self._listener.settimeout(0)
        self.port = self._listener.getsockname()[1]
        self._selector = selectors.DefaultSelector()
        self._alarm, self._bell = socket.socketpair()
        self._alarm.settimeout(0)
        self._selector.register(self._alarm, selectors.EVENT_READ)
        self._thread = threading.Thread(target=self._run, name=f"proxy of port {self._target}", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Reset what is still open, black holes too, and listen no more; tell if it went wrong in between."""
        if not self._stopping:
            self._stopping = True
            with contextlib.suppress(OSError):
                self._bell.send(b".")
            self._thread.join(PATIENCE)
            self._bell.close()
        if self._error:
            raise self._error

    def cut_now(self, mode: Cut) -> None:
        """Cut all open connections, and return when it is done."""
        self._order(lambda: self._cut_all(mode))
        deadline = time.monotonic() + PATIENCE
        while any(each.cutting for each in tuple(self._passages)) and time.monotonic() < deadline:
            time.sleep(TICK)

    def pause(self) -> None:
        """Let new connections wait unanswered: made, as far as the client can tell, and silent."""
        self._order(lambda: self._accept_again(paused=True))

    def resume(self) -> None:
        """Let new connections through again, those first that waited."""
        self._order(lambda: self._accept_again(paused=False))

    def _order(self, what: Callable[[], object]) -> None:
        done = threading.Event()
        self._orders.append((what, done))
        self._bell.send(b".")
        if not done.wait(PATIENCE) or self._error:
            raise self._error or TimeoutError("the proxy's thread does not answer")

    # --- in the thread ------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            while not self._stopping:
                self._turn()
        except BaseException as error:  # noqa: BLE001 - raised again by whoever stops us
            self._error = error
        finally:
            for passage in tuple(self._passages):
                self._reset(passage)
            for each in (self._listener, self._alarm):
                each.close()
            self._selector.close()
            for _, done in self._orders:
                done.set()

    def _turn(self) -> None:
        now = time.monotonic()
        for passage in tuple(self._passages):
            self._advance(passage, now)
        self._watch(self._listener, 0 if self._paused else selectors.EVENT_READ)
        for passage in self._passages:
            self._watch_passage(passage, now)
        for key, events in self._selector.select(self._pause_until_next(now)):
            if key.fileobj is self._alarm:
                self._alarm.recv(PIECE)
            elif key.fileobj is self._listener:
                self._accept()
            elif events & selectors.EVENT_READ:
                self._read(key.data, key.fileobj)  # type: ignore[arg-type]
        while self._orders:
            what, done = self._orders[0]
            what()
            done.set()
            self._orders.popleft()

    def _pause_until_next(self, now: float) -> float | None:
        times = [flow.ready() for each in self._passages if not each.stopped for flow in each.flows]
        times = [each for each in times if each > now]  # what is due waits for its socket, which wakes us
        if any(each.cutting for each in self._passages):
            times.append(now + TICK)
        soonest = min(times, default=float("inf"))
        return None if soonest == float("inf") else max(TICK, soonest - now)

    def _watch(self, link: socket.socket, events: int, passage: _Passage | None = None) -> None:
        known = self._selector.get_map().get(link)
        if known and not events:
            self._selector.unregister(link)
        elif known and known.events != events:
            self._selector.modify(link, events, passage)
        elif not known and events:
            self._selector.register(link, events, passage)

    def _watch_passage(self, passage: _Passage, now: float) -> None:
        for link in passage.sockets:
            events = 0
            for flow in passage.flows:
                if passage.cutting or (passage.stopped and passage.told.cut == "hole"):
                    continue
                if flow.source is link and not flow.ended and (passage.stopped or flow.held < MOST_HELD):
                    events |= selectors.EVENT_READ
                if flow.sink is link and not passage.stopped and flow.ready() <= now:
                    events |= selectors.EVENT_WRITE
            self._watch(link, events, passage)

    def _accept(self) -> None:
        try:
            client, _ = self._listener.accept()
        except OSError:  # it went away while it waited
            return
        if self._to_refuse or time.monotonic() < self._refused_until:
            self._to_refuse = max(0, self._to_refuse - 1)
            self._refuse(client)
            return
        try:
            server = socket.create_connection(("127.0.0.1", self._target), PATIENCE)
        except OSError:
            self._refuse(client)
            return
        told = Connection(len(self.connections))
        for each in (client, server):
            each.settimeout(0)
            each.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        up = self._flow("up", client, server, told.number)
        down = self._flow("down", server, client, told.number)
        self._passages.append(_Passage(client, server, up, down, told))
        self.connections.append(told)

    def _flow(self, direction: Direction, source: socket.socket, sink: socket.socket, number: int) -> _Flow:
        faults = [each for each in self.faults if each.concerns(number, direction)]
        cuts = sorted((each for each in faults if each.mode not in ("throttle", "delay")), key=lambda each: each.at)
        throttle = next((each for each in faults if each.mode == "throttle"), None)
        delay = next((each for each in faults if each.mode == "delay"), None)
        return _Flow(source, sink, cuts[0] if cuts else None, throttle, delay)

    def _refuse(self, client: socket.socket) -> None:
        self.refused += 1
        _close_with_reset(client)

    def _read(self, passage: _Passage, link: socket.socket) -> None:
        if passage not in self._passages:  # its other side was reset in this turn
            return
        flow = passage.up if link is passage.client else passage.down
        try:
            data = link.recv(PIECE)
        except BlockingIOError:
            return
        except OSError:
            self._reset(passage)
            return
        if not data:
            flow.ended = True
        elif not passage.stopped:  # else it is closed, and what still comes is thrown away
            flow.take(data, time.monotonic())

    def _advance(self, passage: _Passage, now: float) -> None:
        """Forward what may go on, and see whether that was the last."""
        try:
            for flow in passage.flows:
                if not (passage.cutting or passage.stopped):
                    self._advance_flow(passage, flow, now)
        except OSError:  # one side is gone
            self._reset(passage)
            return
        if passage.cutting == "rst" and (_unacknowledged(passage) == 0 or now - passage.since > DRAINED):
            self._reset(passage)
        elif passage.cutting is None and passage.over:
            self._end(passage, socket.socket.close)

    def _advance_flow(self, passage: _Passage, flow: _Flow, now: float) -> None:
        while flow.ready() <= now:
            before = flow.sent
            flow.forward(now)
            passage.told.up, passage.told.down = passage.up.sent, passage.down.sent
            if flow.sent == before:
                break  # the sink is full
        if flow.struck and flow.cut:
            self._to_refuse = flow.cut.refuse_after
            self._refused_until = now + flow.cut.refuse_for
            self._cut(passage, flow.cut.mode)  # type: ignore[arg-type]
        elif flow.ended and not flow.waiting and not flow.closed:
            flow.closed = True
            flow.sink.shutdown(socket.SHUT_WR)

    def _cut_all(self, mode: Cut) -> None:
        for passage in self._passages:
            self._cut(passage, mode)

    def _cut(self, passage: _Passage, mode: Cut) -> None:
        passage.told.cut = mode
        if mode == "rst":
            # A reset throws away what the receiver's kernel has not acknowledged, so that has to come first.
            passage.cutting, passage.since = mode, time.monotonic()
            return
        passage.stopped = True
        if mode == "fin":
            for link in passage.sockets:
                with contextlib.suppress(OSError):
                    link.shutdown(socket.SHUT_WR)

    def _reset(self, passage: _Passage) -> None:
        if passage.cutting:
            passage.told.up -= _outstanding(passage.server)
            passage.told.down -= _outstanding(passage.client)
        self._end(passage, _close_with_reset)

    def _end(self, passage: _Passage, close: Callable[[socket.socket], None]) -> None:
        for link in passage.sockets:
            self._watch(link, 0)
            close(link)
        passage.cutting = None
        passage.told.ended = True
        self._passages.remove(passage)

    def _accept_again(self, *, paused: bool) -> None:
        self._paused = paused


def _close_with_reset(link: socket.socket) -> None:
    link.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    link.close()


def _outstanding(link: socket.socket) -> int:
    """Give how many bytes the other end's kernel has not acknowledged."""
    try:
        amount: int = struct.unpack("i", fcntl.ioctl(link, termios.TIOCOUTQ, bytes(4)))[0]
    except OSError:
        return 0
    return amount


def _unacknowledged(passage: _Passage) -> int:
    return sum(_outstanding(link) for link in passage.sockets)


def through(host: FakeHost, proxy: Proxy, *lines: str, alive: int = 15, alive_count: int = 3) -> Path:
    """Write an ssh configuration that reaches a host under its name, but through the proxy; `lines` of it win."""
    place = host.directory / f"through-{proxy.port}"
    place.mkdir(mode=0o700, exist_ok=True)
    known = "".join(f"[127.0.0.1]:{proxy.port} {host.public_host_key(kind)}\n" for kind in host.host_keys)
    (place / "known_hosts").write_text(known, "ascii")
    ours = (
        *lines,
        f"Port {proxy.port}",
        f'UserKnownHostsFile "{place / "known_hosts"}"',
        f"ServerAliveInterval {alive}",
        f"ServerAliveCountMax {alive_count}",
    )
    first = f"Host {host.name}\n" + "".join(f"    {line}\n" for line in ours)
    (place / "ssh_config").write_text(first + host.stanza(), "utf-8")
    return place / "ssh_config"
