"""The socket below an SSH connection: few system calls, no delayed acknowledgements, detection of a dead peer."""

from __future__ import annotations

import contextlib
import errno
import socket
import time
from collections.abc import Callable
from typing import Protocol

CHUNK = 256 * 1024
"""bytes requested from the kernel at a time"""

_QUICKACK = getattr(socket, "TCP_QUICKACK", None)


class Socket(Protocol):
    """The common interface of a TCP socket and of a channel through a jump host."""

    def send(self, data: bytes, /) -> int:
        """Send part of the data and return the number of bytes sent."""

    def recv(self, size: int, /) -> bytes:
        """Wait for at most `size` bytes; empty at the end."""

    def settimeout(self, seconds: float | None, /) -> None:
        """Set how long `send` and `recv` wait."""

    def close(self) -> None:
        """Close it."""


class BufferedSocket:
    """A read buffer over a socket, which also sends keepalives and gives up after too long a silence."""

    def __init__(self, below: Socket) -> None:
        self._below = below
        self._tcp = below if isinstance(below, socket.socket) else None
        self._buffer, self._offset = b"", 0
        self._last_received = self._last_sent = time.monotonic()
        self._interval, self._limit = 0.0, 0
        self._unanswered, self._last_keepalive = 0, 0.0
        self._send_keepalive: Callable[[], None] = lambda: None
        self._closed = False  # paramiko reads this attribute when it abandons a connection

    def watch(self, interval: float, limit: int, send_keepalive: Callable[[], None]) -> None:
        """Start to watch the peer: a keepalive after each `interval` seconds of silence, at most `limit` unanswered."""
        self._last_received = time.monotonic()
        self._interval, self._limit, self._send_keepalive = interval, limit, send_keepalive

    def send(self, data: bytes) -> int:
        """Send part of the data, return the number of bytes; raises ConnectionAbortedError after too long a silence."""
        try:
            sent = self._below.send(data)
        except TimeoutError:
            self._abort_after_silence(max(self._last_received, self._last_sent))
            raise
        self._last_sent = time.monotonic()
        return sent

    def recv(self, size: int) -> bytes:
        """Return at most `size` bytes, empty at the end; raises ConnectionAbortedError after too long a silence.

        Paramiko reads each packet in two pieces. With the buffer, one system call reads many packets.
        """
        if self._offset == len(self._buffer):
            self._fill()
        piece = self._buffer[self._offset : self._offset + size]
        self._offset += len(piece)
        return piece

    def _fill(self) -> None:
        try:
            self._buffer, self._offset = self._below.recv(CHUNK), 0
        except TimeoutError:
            self._check_silence()
            raise
        self._last_received, self._unanswered = time.monotonic(), 0
        if self._tcp and _QUICKACK is not None:
            # The kernel clears this flag by itself. Without it, sshd waits 40 ms for an acknowledgement.
            with contextlib.suppress(OSError):
                self._tcp.setsockopt(socket.IPPROTO_TCP, _QUICKACK, 1)

    def _check_silence(self) -> None:
        now = time.monotonic()
        # A controller that was stopped or suspended has sent no keepalive meanwhile; it sends one first.
        if self._unanswered == self._limit and now - self._last_keepalive >= self._interval / 2:
            self._abort_after_silence(self._last_received)
        elif (
            self._unanswered < self._limit
            and self._interval
            and now - self._last_received >= self._interval * (self._unanswered + 1)
        ):
            self._unanswered, self._last_keepalive = self._unanswered + 1, now
            self._send_keepalive()

    def _abort_after_silence(self, since: float) -> None:
        silence = time.monotonic() - since
        # The last answer has half an interval to arrive.
        if self._interval and silence >= self._interval * (self._limit + 0.5):
            # Not a TimeoutError: paramiko retries after that one.
            raise ConnectionAbortedError(errno.ECONNABORTED, f"nothing received for {silence:.0f} s")

    def settimeout(self, seconds: float | None) -> None:
        """Set how long one system call may wait; paramiko calls again and again."""
        self._below.settimeout(seconds)

    def close(self) -> None:
        """Close the connection, which ends waiting reads."""
        self._closed = True
        if self._tcp:
            with contextlib.suppress(OSError):  # wakes the reading thread at once
                self._tcp.shutdown(socket.SHUT_RDWR)
        with contextlib.suppress(Exception):
            self._below.close()
