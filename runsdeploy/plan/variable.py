"""Variables of a step: byte-exact values, and the one function that writes them as bash.

A value may hold paths into the session's directory of files. Only the machine that runs the step knows that path.
So a value is kept as the pieces between the occurrences of that root.
"""

from __future__ import annotations

import re

from msgspec import Struct

ROOT = "$RUNS_FILES"
"""how the root of the session's files is shown: its variable on the machine that runs the step"""

ROOT_PLACEHOLDER = b"\0"
"""stands for the root in operations of `after -r`: another work directory evaluates them; no bash value holds a NUL"""


class Value(Struct, frozen=True):
    """One string of bytes; bash has no NUL in values."""

    pieces: tuple[bytes, ...]
    """the value is these, joined by the root of the session's files; a value of a single piece holds no path"""

    @classmethod
    def of(cls, data: bytes, root: bytes) -> Value:
        """Cut a value at each occurrence of `root`."""
        return cls(tuple(data.split(root)))

    @property
    def literal(self) -> bytes | None:
        """The value itself; None if it holds a path into the session's files."""
        return self.pieces[0] if len(self.pieces) == 1 else None

    def shown(self) -> str:
        """Return the value as a shell word, with `$RUNS_FILES` for the root."""
        pieces = [piece.decode("utf-8", "backslashreplace") for piece in self.pieces]
        return ROOT.join(shell_word(piece) if piece or len(pieces) == 1 else "" for piece in pieces)

    def __str__(self) -> str:
        return ROOT.encode().join(self.pieces).decode("utf-8", "backslashreplace")


class Variable(Struct, frozen=True):
    """A variable that a SCRIPT section gets."""

    name: str
    array: bool
    """whether bash gets an array, of any number of values; else there is exactly one value"""
    values: tuple[Value, ...]

    def __str__(self) -> str:
        words = " ".join(value.shown() for value in self.values)
        return f"{self.name}=({words})" if self.array else f"{self.name}={words}"


def shell_word(text: str) -> str:
    """Return a text as a readable shell word, quoted if it has to be."""
    if text and re.fullmatch(r"[\w@%+=:,./-]*", text, re.ASCII):
        return text
    return "'" + text.replace("'", "'\\''") + "'"


def quote(data: bytes) -> bytes:
    """Return bytes as a bash word in ASCII and on one line: `$'...'` (ANSI-C quoting, bash(1) QUOTING)."""
    escaped = re.sub(rb"[^ -&(-\[\]-~]", lambda found: b"\\%03o" % found[0][0], data)
    return b"$'" + escaped + b"'"


def assignment(variable: Variable) -> bytes:
    """Return the bash line that sets the variable; it needs RUNS_FILES, and bash expands nothing in the values."""
    words = [f'"{ROOT}"'.encode().join(map(quote, value.pieces)) for value in variable.values]
    body = b"(" + b" ".join(words) + b")" if variable.array else b"".join(words)
    return variable.name.encode() + b"=" + body + b"\n"
