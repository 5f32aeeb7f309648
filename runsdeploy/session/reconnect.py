"""Links: the way to a machine that outlives its connections."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator

from runsdeploy.errors import HostError, Lost, Refused
from runsdeploy.events import Event, Note
from runsdeploy.transport.channel import Channel, Transport

PAUSES = (0.0, 0.5, 1.0, 2.0, 4.0)
"""seconds before each new attempt, the last for all further ones: a path that is back is found within five"""

STEADY = 5.0
"""seconds that a connection must have lived to count: one that breaks again and again uses up our patience"""


class Link:
    """A way to one machine, opened again after it broke; not shared between threads."""

    def __init__(self, connect: Callable[[], Transport], patience: float) -> None:
        """`connect` returns a connection that lives; `patience` is how many seconds a broken one may take to return."""
        self._connect, self._patience = connect, patience
        self._transport: Transport | None = None
        self._down = self._up = 0.0
        self._attempts = 0
        self._told = False

    def open(self, command: str) -> Channel:
        """Start a command on the machine; raises HostError."""
        self._transport = self._connect()
        return self._transport.open(command)

    def hear(self) -> Iterator[Event]:
        """Take note that the machine is there; yield how long it was not."""
        self._up = time.monotonic()
        if self._told:
            yield Note(f"connected again after {self._up - self._down:.1f} s")
        self._told = False

    def recover(self, failure: HostError, *, begun: bool) -> Iterator[Event]:
        """Pause before another attempt, and yield why; raises the failure if no attempt can mend it.

        `begun` says that something may have happened on the machine: then it is Lost, whatever kept us from it.
        """
        if self._transport:
            self._transport.close()
        now = time.monotonic()
        if self._up and now - self._up > STEADY:
            self._down, self._attempts = 0.0, 0
        self._up = 0.0
        passing = failure.passing or (begun and isinstance(failure, Refused))
        if not passing or (self._down and now - self._down > self._patience):
            if begun and not isinstance(failure, Lost):
                raise Lost(failure.message, failure.hint) from failure
            raise failure
        self._down = self._down or now
        if not self._told:
            self._told = True
            yield Note(f"{failure.message}; connecting again, for up to {self._patience:g} s")
        pause = PAUSES[min(self._attempts, len(PAUSES) - 1)]
        self._attempts += 1
        time.sleep(pause * random.uniform(0.75, 1))  # noqa: S311 - spreads attempts, hides nothing

    def close(self) -> None:
        """Give the connection up."""
        if self._transport:
            self._transport.close()
