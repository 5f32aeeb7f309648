"""Libraries: which ones a text may load with `urequire`, found without running it."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator

from runsdeploy.errors import Position, Problem, did_you_mean

BUNDLED = ("DEFAULTS", "runs", "uinst", "uinc")
"""libraries that are part of runsdeploy"""

_REQUIRE = re.compile(rb"^[ \t]*urequire[ \t]+([\w./+ \t-]+)(?:#.*)?$", re.MULTILINE)
"""a line that holds only a call with plain names"""


def unknown_libraries(text: bytes, file: str, known: Iterable[str]) -> Iterator[Problem]:
    """Yield a problem for each library that a text certainly loads and that does not exist.

    `file` names the text in positions; `known` are the trees' libraries.
    """
    every = {*known, *BUNDLED}
    for found in _REQUIRE.finditer(text):
        line = text.count(b"\n", 0, found.start()) + 1
        for name in found[1].decode().split():
            if name not in every:
                yield Problem(Position(file, line), f"unknown library `{name}`", did_you_mean(name, every))


def referenced_libraries(text: bytes, known: Iterable[str]) -> set[str]:
    """Return the known libraries that a text may load; all of them if it computes a name."""
    if b"urequire" not in text:
        return set()
    computed = re.search(rb"urequire[^\n]*[$`\\]", text)
    return {name for name in known if computed or _mentions(text, os.fsencode(name))}


def _mentions(text: bytes, name: bytes) -> bool:
    return re.search(rb"(?<![\w.-])" + re.escape(name) + rb"(?![\w.-])", text) is not None
