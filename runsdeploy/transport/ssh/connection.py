"""A logged-in SSH connection and its channels, one for each command.

Nothing is ever forwarded to the host: no agent, no X11, no ports.
"""

from __future__ import annotations

import contextlib
import threading

from runsdeploy.errors import Lost, Refused, reason
from runsdeploy.transport.ssh.buffered_socket import CHUNK, Socket
from runsdeploy.transport.ssh.paramiko_library import paramiko

STDERR_KEPT = 64 * 1024
"""bytes of a command's stderr that are kept, the last ones"""


class SshConnection:
    """A logged-in connection; a Transport. `timeout` is seconds; `below` is the connection to the jump host, if any."""

    def __init__(self, name: str, ssh: paramiko.Transport, timeout: float, below: SshConnection | None) -> None:
        self.name, self._ssh, self.timeout, self._below = name, ssh, timeout, below

    def open(self, command: str) -> SshChannel:
        """Start a command line; raises Lost if the connection broke, Refused if the host does not start it."""
        # Paramiko waits without limit for the answer to an exec request.
        limit = threading.Timer(self.timeout, self._ssh.close)
        limit.daemon = True
        limit.start()
        try:
            channel = self._ssh.open_session(timeout=self.timeout)
            channel.set_combine_stderr(False)  # paramiko's signature
            channel.exec_command(command)
        except Exception as error:
            if not self.alive or "Timeout" in str(error):
                raise Lost(f"lost `{self.name}` before a command was started: {reason(error)}") from error
            raise Refused(f"`{self.name}` refused to start a command: {refusal(error)}") from error
        finally:
            limit.cancel()
        return SshChannel(self, channel)

    def open_through(self, host: str, port: int) -> Socket:
        """Open a TCP connection from this host to another one."""
        return self._ssh.open_channel("direct-tcpip", (host, port), ("127.0.0.1", 0), timeout=self.timeout)

    @property
    def alive(self) -> bool:
        """Whether the connection is open, as far as is known."""
        return self._ssh.is_active()

    def loss(self) -> str:
        """Return why the connection broke."""
        error = self._ssh.saved_exception
        return reason(error) if error and str(error) else "the connection was closed"

    def close(self) -> None:
        """Close the connection, and those to jump hosts below it."""
        with contextlib.suppress(Exception):
            self._ssh.close()
        if self._below:
            self._below.close()


class SshChannel:
    """A running command; a Channel."""

    def __init__(self, connection: SshConnection, channel: paramiko.Channel) -> None:
        self._connection, self._channel = connection, channel
        self._stderr = bytearray()
        # stderr shares the window with stdout: if nothing read it, both would stop.
        self._stderr_reader = threading.Thread(target=self._read_stderr, name="runsdeploy-stderr", daemon=True)
        self._stderr_reader.start()

    def send(self, data: bytes) -> None:
        """Write all of the data to stdin; raises Lost."""
        for start in range(0, len(data), CHUNK):
            piece = data[start : start + CHUNK]
            while piece:
                piece = piece[self._send_some(piece) :]

    def _send_some(self, piece: bytes) -> int:
        try:
            sent = self._channel.send(piece)
        except Exception as error:
            raise self._lost(error) from error
        # Paramiko silently drops data for a dead connection.
        if not sent or not self._connection.alive:
            raise self._lost(None)
        return sent

    def _lost(self, error: Exception | None) -> Lost:
        name = self._connection.name
        if self._connection.alive:
            return Lost(f"the command on `{name}` accepts no more input")
        return Lost(f"lost `{name}`: {self._connection.loss() if error is None else reason(error)}")

    def close_input(self) -> None:
        """Close the command's stdin; never raises."""
        with contextlib.suppress(Exception):
            self._channel.shutdown_write()

    def receive(self) -> bytes:
        """Wait for the next bytes of stdout; empty at the end; raises Lost."""
        try:
            data = self._channel.recv(CHUNK)
        except Exception as error:
            raise self._lost(error) from error
        if not data and not self._channel.eof_received and not self._connection.alive:
            raise self._lost(None)
        return data

    def _read_stderr(self) -> None:
        with contextlib.suppress(Exception):
            while data := self._channel.recv_stderr(STDERR_KEPT):
                self._stderr += data
                del self._stderr[:-STDERR_KEPT]

    def stderr(self) -> bytes:
        """Return the last bytes of stderr, at most STDERR_KEPT."""
        if self._channel.eof_received or self._channel.closed:
            self._stderr_reader.join(10)  # no more bytes can arrive, so the thread is about to end
        return bytes(self._stderr)

    def exit_status(self) -> int | None:
        """Wait for the end of the command; None if the host sent no exit status."""
        self._channel.status_event.wait(self._connection.timeout)
        if not self._channel.status_event.is_set():
            return None
        status = self._channel.recv_exit_status()
        return status if status >= 0 else None

    def close(self) -> None:
        """Close the channel; never raises."""
        with contextlib.suppress(Exception):
            self._channel.close()


def refusal(error: Exception) -> str:
    """Return, for a message, why a host refused a channel or ended a handshake."""
    if isinstance(error, paramiko.ChannelException):
        return error.text.lower().rstrip(".") or f"reason {error.code}"
    if isinstance(error, EOFError) or "protocol banner" in str(error):
        return "the connection was closed before keys were agreed on"
    return reason(error)
