"""A logged-in connection and its channels."""

from __future__ import annotations

import contextlib
import threading

from runsdeploy.errors import Lost, Refused
from runsdeploy.transport.buffered_socket import CHUNK, Socket
from runsdeploy.transport.paramiko_library import paramiko
from runsdeploy.transport.ssh_config import reason

STDERR_KEPT = 64 * 1024


class SshConnection:
    """A logged-in connection; a Transport."""

    def __init__(self, name: str, ssh: paramiko.Transport, timeout: float, below: SshConnection | None) -> None:
        self.name, self._ssh, self.timeout, self._below = name, ssh, timeout, below

    def open(self, command: str) -> SshChannel:
        """Start a command."""
        # paramiko waits for the answer to a command as long as it takes
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
        """Connect from there to somewhere else."""
        return self._ssh.open_channel("direct-tcpip", (host, port), ("127.0.0.1", 0), timeout=self.timeout)

    @property
    def alive(self) -> bool:
        """Whether the link is still there, as far as anybody knows."""
        return self._ssh.is_active()

    def loss(self) -> str:
        """Why the link is gone."""
        error = self._ssh.saved_exception
        return reason(error) if error and str(error) else "the connection was closed"

    def close(self) -> None:
        """Give the connection up, and those it goes through."""
        with contextlib.suppress(Exception):
            self._ssh.close()
        if self._below:
            self._below.close()


class SshChannel:
    """A running command; a Channel."""

    def __init__(self, connection: SshConnection, channel: paramiko.Channel) -> None:
        self._connection, self._channel = connection, channel
        self._stderr = bytearray()
        # stderr shares the window with stdout: unread, it would stop both
        self._drain = threading.Thread(target=self._keep_stderr, name="runsdeploy-stderr", daemon=True)
        self._drain.start()

    def send(self, data: bytes) -> None:
        """Write all of the data."""
        for at in range(0, len(data), CHUNK):
            piece = data[at : at + CHUNK]
            while piece:
                piece = piece[self._send_some(piece) :]

    def _send_some(self, piece: bytes) -> int:
        try:
            sent = self._channel.send(piece)
        except Exception as error:
            raise self._lost(error) from error
        # paramiko drops what it is given for a dead connection without a word
        if not sent or not self._connection.alive:
            raise self._lost(None)
        return sent

    def _lost(self, error: Exception | None) -> Lost:
        name = self._connection.name
        if self._connection.alive:
            return Lost(f"the command on `{name}` takes no more input")
        return Lost(f"lost `{name}`: {self._connection.loss() if error is None else reason(error)}")

    def close_input(self) -> None:
        """End the command's stdin."""
        with contextlib.suppress(Exception):
            self._channel.shutdown_write()

    def receive(self) -> bytes:
        """Wait for the next bytes of stdout."""
        try:
            data = self._channel.recv(CHUNK)
        except Exception as error:
            raise self._lost(error) from error
        if not data and not self._channel.eof_received and not self._connection.alive:
            raise self._lost(None)
        return data

    def _keep_stderr(self) -> None:
        with contextlib.suppress(Exception):
            while data := self._channel.recv_stderr(STDERR_KEPT):
                self._stderr += data
                del self._stderr[:-STDERR_KEPT]

    def stderr(self) -> bytes:
        """Give the last of what came on stderr."""
        if self._channel.eof_received or self._channel.closed:
            self._drain.join(10)  # nothing more can come, so it is about to end
        return bytes(self._stderr)

    def exit_status(self) -> int | None:
        """Wait for the end of the command; None if the host did not say how it ended."""
        self._channel.status_event.wait(self._connection.timeout)
        if not self._channel.status_event.is_set():
            return None
        status = self._channel.recv_exit_status()
        return status if status >= 0 else None

    def close(self) -> None:
        """Give the command up."""
        with contextlib.suppress(Exception):
            self._channel.close()


def refusal(error: Exception) -> str:
    """Return the cause of a refused channel or a failed handshake, for a message."""
    if isinstance(error, paramiko.ChannelException):
        return error.text.lower().rstrip(".") or f"reason {error.code}"
    if isinstance(error, EOFError) or "protocol banner" in str(error):
        return "the connection was closed before keys were agreed on"
    return reason(error)
