"""Encodings that editors of other systems leave: DOS and old Mac line ends, a byte order mark, UTF-16.

Bash takes a carriage return for a part of the last word of its line, so a value would be deployed with it. Whatever the
file is, its text is refused where it is read, before anything runs. A carriage return in quotes is meant.
"""

from __future__ import annotations

import codecs
import re

from runsdeploy.errors import Position, Problem

CARRIAGE_RETURN = "carriage return at the end of the line, expected unix line ends"
"""message; the recipe's parser finds the place by itself"""

_UTF_16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
_SCRIPT_UTF_16 = b"s\0c\0r\0i\0p\0t\0:\0"
"""`script:`, in either byte order"""
_SCRIPT = re.compile(rb"(?:^|\r|^\xef\xbb\xbf)script:(?:\r|$)", re.MULTILINE)
_PART = re.compile(
    rb"""(?P<wrong>\r(?=\n|\Z))|\n|'[^']*'|"(?:\\.|[^"\\])*"|\\.|(?<![^\s;&|()])\#[^\n]*"""
    rb"""|<<(?P<tabs>-?)[ \t]*\\?(?P<quote>['"]?)(?P<end>[\w.-]+)(?P=quote)|<<<|[^\r\n'"\\#<]+|.""",
    re.DOTALL,
)
"""a part of a bash text: what is quoted, a comment, the start of a here-document, or anything else"""


def encoding_problem(data: bytes, file: str, first_line: int = 1) -> Problem | None:
    """Return the problem of a text that is not UTF-8 with unix line ends, whatever it holds; `file` names it."""
    hint = f"`dos2unix {file}`"
    if data.startswith(_UTF_16) or _looks_like_utf_16(data):
        return Problem(Position(file, 1, 1), "UTF-16 text, expected UTF-8", hint)
    if data.startswith(codecs.BOM_UTF8):
        return Problem(Position(file, 1, 1), "byte order mark, expected plain UTF-8", hint)
    if b"\r" in data.strip() and b"\n" not in data:
        message = "carriage returns as line ends, expected unix ones"
        return Problem(Position(file, first_line, 1), message, f"`mac2unix {file}`")
    return None


def bash_encoding_problem(data: bytes, file: str, first_line: int = 1) -> Problem | None:
    """Return the problem of a bash text: that of its encoding, or of a line whose end is a carriage return."""
    wrong = encoding_problem(data, file, first_line)
    line = 0 if wrong or b"\r" not in data else _unquoted_carriage_return(data)
    if line:
        return Problem(Position(file, first_line + line - 1), CARRIAGE_RETURN, f"`dos2unix {file}`")
    return wrong


def is_misencoded_script(data: bytes) -> bool:
    """Say whether a file would have a line `script:` if it were UTF-8 with unix line ends."""
    return _SCRIPT.search(data) is not None or _SCRIPT_UTF_16 in data


def _looks_like_utf_16(data: bytes) -> bool:
    """Return whether every other byte is a NUL, as in UTF-16 without a byte order mark."""
    head = data[:512]
    few, many = sorted((head[::2].count(0), head[1::2].count(0)))
    return many > len(head) * 3 // 8 and few <= len(head) // 16


def _unquoted_carriage_return(data: bytes) -> int:
    """Return the line of the first carriage return that ends a line outside of quotes and here-documents; else 0."""
    at, pending = 0, list[re.Pattern[bytes]]()
    while found := _PART.match(data, at):
        at = found.end()
        if found["wrong"]:
            return data.count(b"\n", 0, found.start()) + 1
        if found["end"]:
            tabs = rb"\t*" if found["tabs"] else b""
            pending.append(re.compile(rb"^" + tabs + re.escape(found["end"]) + rb"\r?$", re.MULTILINE))
        while found[0] == b"\n" and pending:
            end = pending.pop(0).search(data, at)
            # Not past the line of the delimiter: its own carriage return counts.
            at = end.end() - end[0].endswith(b"\r") if end else len(data)
    return 0
