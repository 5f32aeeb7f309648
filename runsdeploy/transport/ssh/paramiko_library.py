"""Paramiko: the only module that imports it, without its slow imports, without its log, with bounds on memory."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, ClassVar

# Two imports are a third of paramiko's loading time. It needs invoke (40 ms) only for `Match exec`, which `ssh -G`
# evaluates for us, and importlib.metadata (13 ms) only for its own version number. Paramiko works without invoke, and
# accepts any version.
_REPLACED = {"invoke": None, "importlib.metadata": SimpleNamespace(version=lambda _name: "unknown")}
_missing = [name for name in _REPLACED if name not in sys.modules]
for _name in _missing:
    sys.modules[_name] = _REPLACED[_name]  # type: ignore[assignment]
try:
    import paramiko
    from paramiko.agent import AgentSSH
    from paramiko.packet import Packetizer
finally:
    for _name in _missing:
        del sys.modules[_name]

__all__ = ["WINDOW", "AgentSSH", "BoundedPacketizer", "BoundedTransport", "paramiko"]

WINDOW = 4 * 1024 * 1024
"""bytes that a host may send before the controller reads them: 80 MB/s at 50 ms. If the controller reads slowly, each
command takes that much memory. Paramiko moves all unread bytes at each read: 16 MiB were eight times slower"""
LARGEST_PACKET = 1 << 20
"""bytes of one SSH packet; RFC 4253, 6.1 requires 35000"""

# Paramiko's exceptions have the same information. Without a handler, logging would print errors to the terminal.
_paramiko_log = logging.getLogger("paramiko")
_paramiko_log.addHandler(logging.NullHandler())
_paramiko_log.propagate = False
_paramiko_log.setLevel(logging.CRITICAL)


class BoundedPacketizer(Packetizer):
    """Paramiko's packet layer with a limit on packet size, and without the timer that outlives a failed handshake."""

    def read_all(self, n: int, check_rekey: bool = False) -> bytes:  # noqa: FBT001, FBT002 - paramiko's
        """Read `n` bytes of one packet; raises SSHException if the host announces more than LARGEST_PACKET."""
        if n > LARGEST_PACKET:
            raise paramiko.SSHException(f"the host sent a packet of {n} bytes, the limit is {LARGEST_PACKET}")
        data: bytes = super().read_all(n, check_rekey)
        return data

    def start_handshake(self, timeout: float) -> None:
        """Do nothing: `start_client` has a deadline for the whole handshake."""


def _within_window(handle: Callable[[Any, Any], None]) -> Callable[[Any, Any], None]:
    """Wrap a handler of channel data: paramiko does not check that a host respects the window."""

    def bounded(channel: Any, message: Any) -> None:
        if len(channel.in_buffer) + len(channel.in_stderr_buffer) > 2 * WINDOW:
            raise paramiko.SSHException("the host sent more bytes than the window allows")
        handle(channel, message)

    return bounded


_HANDLERS: dict[int, Any] = paramiko.Transport._channel_handler_table  # type: ignore[attr-defined]  # noqa: SLF001
_DATA, _EXTENDED_DATA = 94, 95  # RFC 4254, 9


class BoundedTransport(paramiko.Transport):
    """Paramiko's transport, which closes the connection when a host exceeds the window."""

    _channel_handler_table: ClassVar = {
        **_HANDLERS,
        **{number: _within_window(_HANDLERS[number]) for number in (_DATA, _EXTENDED_DATA)},
    }

    def send_keepalive(self) -> None:
        """Send a request that the host must answer. The reading thread calls this, so it never waits for a lock."""
        if not self.clear_to_send_lock.acquire(blocking=False):
            return  # another thread is sending: those bytes test the connection as well
        try:
            if self.clear_to_send.is_set():
                request = paramiko.Message()
                request.add_byte(bytes([80]))  # SSH_MSG_GLOBAL_REQUEST
                request.add_string("keepalive@openssh.com")
                request.add_boolean(True)  # noqa: FBT003 - wants a reply
                self.packetizer.send_message(request)  # paramiko's own keepalive asks for no reply
        finally:
            self.clear_to_send_lock.release()
