"""Libraries: which ones a text may load with `urequire`, told without running it."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator

from runsdeploy.errors import Position, Problem, did_you_mean

BUNDLED = ("DEFAULTS", "runs", "uinst", "uinc")
"""libraries that are part of runsdeploy"""

_REQUIRE = re.compile(rb"^[ \t]*urequire[ \t]+([\w./+ \t-]+)(?:#.*)?$", re.MULTILINE)
"""a line that is nothing but a call with plain names"""


def unknown_libraries(text: bytes, file: str, known: Iterable[str]) -> Iterator[Problem]:
    """Yield the libraries that a text is sure to ask for and nobody has."""
    every = {*known, *BUNDLED}
    for found in _REQUIRE.finditer(text):
        line = text.count(b"\n", 0, found.start()) + 1
        for name in found[1].decode().split():
            if name not in every:
                yield Problem(Position(file, line), f"unknown library `{name}`", did_you_mean(name, every))


def meant_libraries(text: bytes, known: Iterable[str]) -> set[str]:
    """Return the libraries whose names a text may hand to `urequire`; all of them if it makes names up."""
    if b"urequire" not in text:
        return set()
    made_up = re.search(rb"urequire[^\n]*[$`\\]", text)
    return {name for name in known if made_up or _names(text, os.fsencode(name))}


def _names(text: bytes, name: bytes) -> bool:
    return re.search(rb"(?<![\w.-])" + re.escape(name) + rb"(?![\w.-])", text) is not None
