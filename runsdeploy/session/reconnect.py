"""Reconnecting: a connection to one machine that is opened again after it broke, for a limited time."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator

from runsdeploy.errors import HostError, Lost, Refused
from runsdeploy.events import Event, Note
from runsdeploy.transport.channel import Channel, Transport

PAUSES = (0.0, 0.5, 1.0, 2.0, 4.0)
"""seconds before each new attempt, the last for all further ones: a network that works again is noticed within 5 s"""

STEADY = 5.0
"""seconds that a connection must have lived to reset the time limit: one that breaks again and again uses it up"""


class Reconnector:
    """A connection to one machine, opened again after it broke; not shared between threads."""

    def __init__(self, connect: Callable[[], Transport], patience: float) -> None:
        """`connect` returns a working connection; after a break, attempts go on for `patience` seconds."""
        self._connect, self._patience = connect, patience
        self._transport: Transport | None = None
        self._down_since = self._up_since = 0.0
        self._attempts = 0
        self._reported = False

    def open(self, command: str) -> Channel:
        """Start a command on the machine; raises HostError."""
        self._transport = self._connect()
        return self._transport.open(command)

    def connected(self) -> Iterator[Event]:
        """Record that the machine answered; after a reported break yield how long it took."""
        self._up_since = time.monotonic()
        if self._reported:
            yield Note(f"connected again after {self._up_since - self._down_since:.1f} s")
        self._reported = False

    def pause(self, failure: HostError, *, started: bool) -> Iterator[Event]:
        """Wait before the next attempt and yield the reason; raises the failure if another attempt is no use.

        `started`: something may have run on the machine. Then the failure that is raised is always Lost.
        """
        if self._transport:
            self._transport.close()
        now = time.monotonic()
        if self._up_since and now - self._up_since > STEADY:
            self._down_since, self._attempts = 0.0, 0
        self._up_since = 0.0
        transient = failure.transient or (started and isinstance(failure, Refused))
        if not transient or (self._down_since and now - self._down_since > self._patience):
            if started and not isinstance(failure, Lost):
                raise Lost(failure.message, failure.hint) from failure
            raise failure
        self._down_since = self._down_since or now
        if not self._reported:
            self._reported = True
            yield Note(f"{failure.message}; connecting again, for up to {self._patience:g} s")
        pause = PAUSES[min(self._attempts, len(PAUSES) - 1)]
        self._attempts += 1
        time.sleep(pause * random.uniform(0.75, 1))  # noqa: S311 - spreads attempts, hides nothing

    def close(self) -> None:
        """Close the connection."""
        if self._transport:
            self._transport.close()
