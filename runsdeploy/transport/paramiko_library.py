"""Paramiko, loaded without what it does not need, quiet, and bounded. Its sole importer."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, ClassVar

# Two things that paramiko loads are a third of its start: invoke (40 ms), for `Match exec` alone, which `ssh -G`
# does for us, and importlib.metadata (13 ms), for its own version number. It goes on without the one, and is
# content with any answer of the other.
_SHADOWED = {"invoke": None, "importlib.metadata": SimpleNamespace(version=lambda _name: "unknown")}
_missing = [name for name in _SHADOWED if name not in sys.modules]
for _name in _missing:
    sys.modules[_name] = _SHADOWED[_name]  # type: ignore[assignment]
try:
    import paramiko
    from paramiko.agent import AgentSSH
    from paramiko.packet import Packetizer
finally:
    for _name in _missing:
        del sys.modules[_name]

__all__ = ["WINDOW", "AgentSSH", "BoundedPacketizer", "BoundedTransport", "paramiko"]

WINDOW = 4 * 1024 * 1024
"""bytes a host may send unread: 80 MB/s at 50 ms. A slow reader costs that much memory for each command,
and paramiko moves all that is unread at each read: 16 MiB were eight times slower"""
LARGEST_PACKET = 1 << 20

# What paramiko has to say is in the exceptions; its log would reach the terminal as logging's last resort.
_paramiko_log = logging.getLogger("paramiko")
_paramiko_log.addHandler(logging.NullHandler())
_paramiko_log.propagate = False
_paramiko_log.setLevel(logging.CRITICAL)


class BoundedPacketizer(Packetizer):
    """Paramiko's packets, without the timer thread that outlives a failed handshake."""

    def read_all(self, n: int, check_rekey: bool = False) -> bytes:  # noqa: FBT001, FBT002 - paramiko's
        """Read bytes of one packet: what says that it is larger than any is not read into memory."""
        if n > LARGEST_PACKET:
            raise paramiko.SSHException(f"the host sent a packet of {n} bytes")
        data: bytes = super().read_all(n, check_rekey)
        return data

    def start_handshake(self, timeout: float) -> None:
        """Do nothing: `start_client` has a deadline for the whole of it."""


def _within_window(handle: Callable[[Any, Any], None]) -> Callable[[Any, Any], None]:
    """Have bytes of a command handled only while there is window for them: a host may not send more, but can."""

    def bounded(channel: Any, message: Any) -> None:
        if len(channel.in_buffer) + len(channel.in_stderr_buffer) > 2 * WINDOW:
            raise paramiko.SSHException("the host sends more than it may")
        handle(channel, message)

    return bounded


_HANDLERS: dict[int, Any] = paramiko.Transport._channel_handler_table  # type: ignore[attr-defined]  # noqa: SLF001
_DATA, _EXTENDED_DATA = 94, 95  # RFC 4254, 9


class BoundedTransport(paramiko.Transport):
    """Paramiko's transport, which else keeps in memory all that a host likes to send."""

    _channel_handler_table: ClassVar = {
        **_HANDLERS,
        **{number: _within_window(_HANDLERS[number]) for number in (_DATA, _EXTENDED_DATA)},
    }

    def send_keepalive(self) -> None:
        """Ask the host something that it must answer, from the thread that reads: never wait for a lock here."""
        if not self.clear_to_send_lock.acquire(blocking=False):
            return  # somebody is sending, which is a question too
        try:
            if self.clear_to_send.is_set():
                question = paramiko.Message()
                question.add_byte(bytes([80]))  # SSH_MSG_GLOBAL_REQUEST
                question.add_string("keepalive@openssh.com")
                question.add_boolean(True)  # noqa: FBT003 - wants a reply
                self.packetizer.send_message(question)  # paramiko's own keepalive asks for no reply
        finally:
            self.clear_to_send_lock.release()
