"""Attachments: a sign of life for a side that waits between two of its segments while the other side's steps run.

The side keeps the session's files for the next segment only as long as its controller is expected: without a line from
it for the patience of the session, the session is over there and the next one removes the files.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from types import TracebackType

from runsdeploy.errors import HostError
from runsdeploy.session.bundle import Bundle
from runsdeploy.session.program import COMMAND
from runsdeploy.transport.channel import Transport

FIRST = 3.0
"""seconds after which a side is told that the controller lives, and between attempts: `lapse` in runner.sh is longer"""

INTERVAL = 5.0
"""seconds between two lines"""

CLOSE_LIMIT = 60.0
"""seconds to wait for an attempt to connect that is under way"""


class Attachment:
    """A controller that stays attached to a session on one side, for as long as the block lasts."""

    def __init__(self, connect: Callable[[], Transport], request: Callable[[], Bundle]) -> None:
        """`connect` returns a working connection, `request` makes the question `stay`."""
        self._connect, self._request = connect, request
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        # The next segment may not connect at the same time.
        self._thread.join(CLOSE_LIMIT)

    def _run(self) -> None:
        while not self._over.wait(FIRST):
            try:
                self._stay()
            except HostError:
                # The connection may work again before the session is over there; the next segment reports it if not.
                continue

    def _stay(self) -> None:
        channel = self._connect().open(COMMAND)
        try:
            for chunk in self._request().chunks():
                channel.send(chunk)
            while not self._over.wait(INTERVAL):
                channel.send(b"\n")
        finally:
            channel.close()
