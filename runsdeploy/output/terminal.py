"""A terminal: lines in colour or not, without control characters that are not ours.

Results go to stdout, messages to stderr. Text from a target is shown with its control characters spelled out, so
that no output can move the cursor, rename the window or write to the clipboard. Colour is for terminals, and only
where NO_COLOR is not set.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import TextIO

from runsdeploy.errors import Problem, writing

COLOURS = {"ok": "32", "already-done": "36", "would-run": "33", "maybe": "35"}
"""SGR codes (ECMA-48, 8.3.117) of outcomes; all others are red"""

_CONTROL = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\u2028\u2029\ud800-\udfff]"
)


def printable(data: bytes | str) -> str:
    """Spell out what a terminal would obey or could not show."""
    text = data.decode("utf-8", "surrogateescape") if isinstance(data, bytes) else data
    return _CONTROL.sub(_spell, text)


def _spell(found: re.Match[str]) -> str:
    code = ord(found[0])
    if 0xDC80 <= code <= 0xDCFF:  # noqa: PLR2004 - a byte that is not UTF-8, as Python carries it
        code -= 0xDC00
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"  # noqa: PLR2004


def discard_output(failed: str = "") -> None:
    """Send the further output of each stream that cannot be written nowhere; `failed` is the name of one."""
    for name, stream in (("stdout", sys.stdout), ("stderr", sys.stderr)):
        try:
            stream.flush()
            broken = name == failed
        except OSError:
            broken = True
        if broken:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, stream.fileno())
            os.close(nowhere)


def write_bytes(data: bytes) -> None:
    """Write bytes to stdout, unchanged."""
    with writing("stdout"):
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()


def colourful(stream: TextIO) -> bool:
    """Say whether to use colour (https://no-color.org, and its counterpart FORCE_COLOR)."""
    if os.environ.get("NO_COLOR"):
        return False
    return bool(os.environ.get("FORCE_COLOR")) or (stream.isatty() and os.environ.get("TERM") != "dumb")


class Writer:
    """Writes lines to a stream, with colour where that is wanted."""

    def __init__(self, stream: TextIO) -> None:
        self.stream, self.colour = stream, colourful(stream)
        self.name = "stderr" if stream is sys.stderr else "stdout"

    def paint(self, text: str, code: str) -> str:
        """Wrap a text in a colour."""
        return f"\x1b[{code}m{text}\x1b[0m" if self.colour else text

    def outcome(self, word: str, width: int = 0) -> str:
        """Return an outcome in its colour."""
        return self.paint(word.ljust(width), COLOURS.get(word, "31"))

    def line(self, text: str = "") -> None:
        """Write a line; text that the stream's encoding lacks is spelled out."""
        encoding = self.stream.encoding or "utf-8"
        text = text.replace("\n", "\\x0a")
        with writing(self.name):
            # In one piece: another thread, or another process on the same pipe, may write a line of its own.
            self.stream.write(text.encode(encoding, "backslashreplace").decode(encoding) + "\n")
            self.stream.flush()


def show_problems(problems: Iterable[Problem]) -> None:
    """Write the problems of bad input, one a line, to stderr."""
    writer = Writer(sys.stderr)
    for problem in problems:
        writer.line(printable(str(problem)))


def show_table(rows: Sequence[Sequence[str]]) -> None:
    """Write a table to stdout, its columns as wide as their widest cell."""
    writer = Writer(sys.stdout)
    for line in _columns([[printable(cell) for cell in row] for row in rows]):
        writer.line(line)


def _columns(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=True) if width]
        yield "  ".join(cells).rstrip()
