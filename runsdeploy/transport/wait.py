"""What the controller waits for while it connects. If it takes longer than a moment, the operator is notified, once."""

from __future__ import annotations

import threading
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing_extensions import Self

DELAY = 1.0
"""seconds after which an operator wonders whether anything happens"""


class Wait:
    """A wait for one machine, as a `with`. `subject` is what is waited for; it changes as the connection proceeds."""

    def __init__(self, notify: Callable[[str], None], subject: str) -> None:
        """`notify` gets the subject as it is after DELAY seconds, in a thread of its own."""
        self.subject = subject
        self._timer = threading.Timer(DELAY, lambda: notify(self.subject))
        # The end of the program must not wait for it.
        self._timer.daemon = True

    def __enter__(self) -> Self:
        self._timer.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._timer.cancel()
