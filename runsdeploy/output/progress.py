"""How far planning is, on stderr: nothing when it is quick; on a terminal one line, redrawn; elsewhere one line."""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TextIO

from runsdeploy.output.terminal import Writer, printable
from runsdeploy.plan.threads import Progress

SILENT = 1.5
"""seconds during which nothing is said"""
REDRAWN = 0.2
"""seconds between two states of the line"""


@contextmanager
def progress_of(what: str, items: str = "hosts") -> Iterator[ProgressWriter]:
    """Show on stderr how far some work is; `what` is a word such as `planning`, `items` the plural of its objects."""
    writer = ProgressWriter(sys.stderr, what, items)
    try:
        yield writer
    finally:
        writer.clear()


def redraws(stream: TextIO) -> bool:
    """Say whether a line of this stream can be drawn again: not in a file, a dumb terminal or the log of a CI."""
    return stream.isatty() and os.environ.get("TERM", "dumb") != "dumb" and not os.environ.get("CI")


class ProgressWriter:
    """Writes how far some work is; a ProgressListener."""

    def __init__(self, stream: TextIO, what: str, items: str) -> None:
        self.stream, self.what, self.items = stream, what, items
        self.redraws = redraws(stream)
        self.next = time.monotonic() + SILENT
        self.width = 0
        """of the line on the terminal"""

    def update(self, done: int, total: int, running: Sequence[Progress]) -> None:
        """Write the state, if it is time for that."""
        if time.monotonic() < self.next or done == total:
            return
        text = self._text(done, total, running)
        if not self.redraws:
            Writer(self.stream).line(text)
            self.next = float("inf")
            return
        self.next = time.monotonic() + REDRAWN
        # The last column stays free: with it some terminals begin a new line.
        text = text[: shutil.get_terminal_size().columns - 1]
        self._draw(text.ljust(self.width))
        self.width = len(text)

    def clear(self) -> None:
        """Remove the line from the terminal."""
        if self.width:
            self._draw(" " * self.width + "\r")
            self.width = 0

    def _draw(self, text: str) -> None:
        encoding = self.stream.encoding or "utf-8"
        self.stream.write("\r" + text.encode(encoding, "backslashreplace").decode(encoding))
        self.stream.flush()

    def _text(self, done: int, total: int, running: Sequence[Progress]) -> str:
        # The oldest one that waits for a section, or for its host; copied, because the threads go on.
        states = [(each.name, each.section) for each in running]
        name, section = next((each for each in states if each[1]), (states or [("", "")])[0])
        waiting = f"waiting for `{section}`" if section else ""
        if total == 1:
            text = f"{self.what} {name}" + (f" ({waiting})" if waiting else "")
        else:
            about = ": ".join(filter(None, (name, waiting)))
            text = f"{self.what} {done} of {total} {self.items}" + (f" ({about})" if about else "")
        return printable(text)
