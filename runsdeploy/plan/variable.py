"""Variables of a step: byte-exact values, and the one function that writes them as bash.

A value may hold paths into the session's directory of files, whose place is known only on the
machine that runs the step. It is therefore kept as the pieces between the occurrences of that root.
"""

from __future__ import annotations

import re

from msgspec import Struct

ROOT = "$RUNS_FILES"
"""how the root of the session's files is shown, and its variable on the side that runs the step"""

NOWHERE = b"\0"
"""stands for the root of a stage in operations of `after -r`, which are evaluated in another; no bash value holds it"""


class Value(Struct, frozen=True):
    """One string of bytes; bash knows no NUL."""

    pieces: tuple[bytes, ...]
    """joined by the root of the session's files; a single piece holds no path"""

    @classmethod
    def of(cls, data: bytes, root: bytes) -> Value:
        """Cut a value at the places where it holds `root`."""
        return cls(tuple(data.split(root)))

    @property
    def literal(self) -> bytes | None:
        """The value itself if it holds no path into the session."""
        return self.pieces[0] if len(self.pieces) == 1 else None

    def shown(self) -> str:
        """Return it as a shell word, the root as its variable."""
        pieces = [piece.decode("utf-8", "backslashreplace") for piece in self.pieces]
        return ROOT.join(shell_word(piece) if piece or len(pieces) == 1 else "" for piece in pieces)

    def __str__(self) -> str:
        return ROOT.encode().join(self.pieces).decode("utf-8", "backslashreplace")


class Variable(Struct, frozen=True):
    """A variable that a SCRIPT section gets."""

    name: str
    array: bool
    """whether bash shall see an array; then any number of values, else exactly one"""
    values: tuple[Value, ...]

    def __str__(self) -> str:
        words = " ".join(value.shown() for value in self.values)
        return f"{self.name}=({words})" if self.array else f"{self.name}={words}"


def shell_word(text: str) -> str:
    """Return a text as a word that reads well and that a shell would take back."""
    if text and re.fullmatch(r"[\w@%+=:,./-]*", text, re.ASCII):
        return text
    return "'" + text.replace("'", "'\\''") + "'"


def quote(data: bytes) -> bytes:
    """Return bytes as a bash word that is ASCII and on one line: `$'...'` (ANSI-C quoting, bash(1) QUOTING)."""
    escaped = re.sub(rb"[^ -&(-\[\]-~]", lambda found: b"\\%03o" % found[0][0], data)
    return b"$'" + escaped + b"'"


def assignment(variable: Variable) -> bytes:
    """Return the bash line that makes the variable, given RUNS_FILES; no value passes through expansion."""
    words = [f'"{ROOT}"'.encode().join(map(quote, value.pieces)) for value in variable.values]
    body = b"(" + b" ".join(words) + b")" if variable.array else b"".join(words)
    return variable.name.encode() + b"=" + body + b"\n"
