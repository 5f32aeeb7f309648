"""The transport to this machine: the same command line under `/bin/sh`, over pipes."""

from __future__ import annotations

import os
import subprocess
import tempfile
from contextlib import suppress

from runsdeploy.errors import Lost

CHUNK = 1 << 18
PATIENCE = 2.0
"""seconds that a command which was told to end may take"""


class LocalChannel:
    """One command on this machine."""

    def __init__(self, command: str) -> None:
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the channel
        # A session of its own: the terminal's interrupts are for us to pass on, not for it.
        self._process = subprocess.Popen(
            ["/bin/sh", "-c", command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
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
        """End stdin."""
        with suppress(OSError):
            self._stdin.close()

    def receive(self) -> bytes:
        """Wait for the next bytes of stdout; empty at their end."""
        return os.read(self._stdout.fileno(), CHUNK)

    def stderr(self) -> bytes:
        """Return what was written to stderr so far."""
        self._errors.seek(0)
        return self._errors.read(65536)

    def exit_status(self) -> int | None:
        """Return the status, negative for a signal."""
        return self._process.wait()

    def close(self) -> None:
        """Let go of the command; its runner finishes the running step, alone if that takes longer."""
        self.close_input()
        self._stdout.close()
        self._errors.close()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(PATIENCE)


class LocalTransport:
    """This machine."""

    alive = True

    def open(self, command: str) -> LocalChannel:
        """Start a command line."""
        return LocalChannel(command)

    def close(self) -> None:
        """Nothing is held open."""
