"""The seam between sessions and machines: one command on one machine, bytes in, bytes out, an exit status.

`SshConnection` and `LocalTransport` implement it; the callers know nothing of sockets.
"""

from __future__ import annotations

from typing import Protocol


class Channel(Protocol):
    """One running command. Only one thread may use it, but another one may call `send` for a short request."""

    def send(self, data: bytes) -> None:
        """Write all of the data to the command's stdin; raises Lost."""

    def close_input(self) -> None:
        """Close the command's stdin; never raises."""

    def receive(self) -> bytes:
        """Wait for the next bytes of stdout; empty at the end; raises Lost."""

    def stderr(self) -> bytes:
        """Return what the command wrote to stderr so far, at most the last 64 KiB: for error messages only."""

    def exit_status(self) -> int | None:
        """Return the exit status, after `receive` returned nothing; None if it is unknown."""

    def close(self) -> None:
        """Close the channel; never raises."""


class Transport(Protocol):
    """A connection to one machine, opened once and used for several commands."""

    @property
    def alive(self) -> bool:
        """Whether the connection is open, as far as is known."""

    def open(self, command: str) -> Channel:
        """Run a command line with the account's login shell; raises Lost or Refused."""

    def close(self) -> None:
        """Close the connection; never raises."""
