"""The transport to this machine: the same command line under `/bin/sh`, over pipes."""

from __future__ import annotations

import os
import subprocess
import tempfile
from contextlib import suppress

from runsdeploy.errors import Lost
from runsdeploy.transport.local_bash import environment

CHUNK = 1 << 18
"""bytes read at a time"""
CLOSE_LIMIT = 2.0
"""seconds that `close` waits for the command to end"""


class LocalChannel:
    """One command on this machine; a Channel."""

    def __init__(self, command: str) -> None:
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the channel
        # In its own session the command does not get the terminal's Ctrl-C: the controller sends it a stop request.
        self._process = subprocess.Popen(
            ["/bin/sh", "-c", command],
            # The same bash as for CONF sections; the bootstrap asks it first.
            env={**os.environ, **environment()},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._stderr,
            start_new_session=True,
            bufsize=0,
        )
        assert self._process.stdin  # noqa: S101 - both are pipes
        assert self._process.stdout  # noqa: S101
        self._stdin, self._stdout = self._process.stdin, self._process.stdout

    def send(self, data: bytes) -> None:
        """Write all of the data to stdin; raises Lost."""
        try:
            view = memoryview(data)
            while view:
                view = view[self._stdin.write(view) :]
        except OSError as error:
            raise Lost(f"the local session ended early: {error.strerror}") from error

    def close_input(self) -> None:
        """Close stdin; never raises."""
        with suppress(OSError):
            self._stdin.close()

    def receive(self) -> bytes:
        """Wait for the next bytes of stdout; empty at the end."""
        return os.read(self._stdout.fileno(), CHUNK)

    def stderr(self) -> bytes:
        """Return what the command wrote to stderr so far, at most 64 KiB."""
        self._stderr.seek(0)
        return self._stderr.read(65536)

    def exit_status(self) -> int | None:
        """Wait for the exit status, negative for a signal."""
        return self._process.wait()

    def close(self) -> None:
        """Close the pipes and wait CLOSE_LIMIT for the command; after that its runner finishes the step unattended."""
        self.close_input()
        self._stdout.close()
        self._stderr.close()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(CLOSE_LIMIT)


class LocalTransport:
    """This machine; a Transport."""

    alive = True

    def open(self, command: str) -> LocalChannel:
        """Start a command line."""
        return LocalChannel(command)

    def close(self) -> None:
        """Do nothing: there is no connection."""
