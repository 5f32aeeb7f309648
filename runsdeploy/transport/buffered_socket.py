"""The socket below an SSH connection: few system calls, no delayed acknowledgements, silence noticed."""

from __future__ import annotations

import contextlib
import errno
import socket
import time
from collections.abc import Callable
from typing import Protocol

CHUNK = 256 * 1024
"""bytes asked of the system at a time"""

_QUICKACK = getattr(socket, "TCP_QUICKACK", None)


class Socket(Protocol):
    """What a TCP socket and a channel through a jump host have in common."""

    def send(self, data: bytes, /) -> int:
        """Send some of the data, return how much."""

    def recv(self, size: int, /) -> bytes:
        """Wait for bytes; empty at their end."""

    def settimeout(self, seconds: float | None, /) -> None:
        """Set how long `send` and `recv` wait."""

    def close(self) -> None:
        """Give it up."""


class BufferedSocket:
    """The socket below a connection: few system calls, no delayed acknowledgements, and silence noticed."""

    def __init__(self, below: Socket) -> None:
        self._below = below
        self._tcp = below if isinstance(below, socket.socket) else None
        self._data, self._at = b"", 0
        self._heard = self._sent = time.monotonic()
        self._interval, self._count, self._asked, self._asked_last = 0.0, 0, 0, 0.0
        self._ask: Callable[[], None] = lambda: None
        self._closed = False  # paramiko looks at it when a connection is given up

    def watch(self, interval: float, count: int, ask: Callable[[], None]) -> None:
        """From now on, ask after each interval of silence, and give up after `count` questions."""
        self._heard = time.monotonic()
        self._interval, self._count, self._ask = interval, count, ask

    def send(self, data: bytes) -> int:
        """Send some of the data, return how much; raises ConnectionAbortedError after too long a silence."""
        try:
            done = self._below.send(data)
        except TimeoutError:
            self._give_up_after_silence(max(self._heard, self._sent))
            raise
        self._sent = time.monotonic()
        return done

    def recv(self, size: int) -> bytes:
        """Paramiko reads a packet in two pieces; the system is asked once for many packets."""
        if self._at == len(self._data):
            self._fill()
        piece = self._data[self._at : self._at + size]
        self._at += len(piece)
        return piece

    def _fill(self) -> None:
        try:
            self._data, self._at = self._below.recv(CHUNK), 0
        except TimeoutError:
            self._notice_silence()
            raise
        self._heard, self._asked = time.monotonic(), 0
        if self._tcp and _QUICKACK is not None:
            # the kernel disarms it by itself; without it, sshd waits 40 ms for an acknowledgement
            with contextlib.suppress(OSError):
                self._tcp.setsockopt(socket.IPPROTO_TCP, _QUICKACK, 1)

    def _notice_silence(self) -> None:
        now = time.monotonic()
        # Who could not look for long, stopped or asleep, has asked nobody yet.
        if self._asked == self._count and now - self._asked_last >= self._interval / 2:
            self._give_up_after_silence(self._heard)
        elif self._asked < self._count and self._interval and now - self._heard >= self._interval * (self._asked + 1):
            self._asked, self._asked_last = self._asked + 1, now
            self._ask()

    def _give_up_after_silence(self, since: float) -> None:
        silence = time.monotonic() - since
        # half an interval for the last answer to come in
        if self._interval and silence >= self._interval * (self._count + 0.5):
            # not a TimeoutError, which paramiko takes for "nothing yet"
            raise ConnectionAbortedError(errno.ECONNABORTED, f"nothing was heard for {silence:.0f} s")

    def settimeout(self, seconds: float | None) -> None:
        """Set how long one look at the socket may take; paramiko looks again and again."""
        self._below.settimeout(seconds)

    def close(self) -> None:
        """Give the connection up."""
        self._closed = True
        if self._tcp:
            with contextlib.suppress(OSError):  # wakes the reading thread at once
                self._tcp.shutdown(socket.SHUT_RDWR)
        with contextlib.suppress(Exception):
            self._below.close()
