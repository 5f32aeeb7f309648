"""The seam: one command on one machine, bytes in, bytes out, an exit status.

`ssh` and `local` implement it; nothing on this side of it knows about sockets.
"""

from __future__ import annotations

from typing import Protocol


class Channel(Protocol):
    """One running command. Not shared between threads, except `stop`-like `send`s."""

    def send(self, data: bytes) -> None:
        """Write all of the data to the command's stdin; raises Lost."""

    def close_input(self) -> None:
        """End the command's stdin; never raises."""

    def receive(self) -> bytes:
        """Wait for the next bytes of stdout; empty at their end; raises Lost."""

    def stderr(self) -> bytes:
        """What the command wrote to stderr so far (at most the last 64 KiB): for error messages only."""

    def exit_status(self) -> int | None:
        """How the command ended, after `receive` returned nothing; None if the link cannot say."""

    def close(self) -> None:
        """Give the channel up; never raises."""


class Transport(Protocol):
    """A way to one machine, opened once and used for several commands."""

    @property
    def alive(self) -> bool:
        """Whether the connection is still there, as far as anybody knows."""

    def open(self, command: str) -> Channel:
        """Start a command line under the account's login shell; raises Lost or Refused."""

    def close(self) -> None:
        """Give the connection up; never raises."""
