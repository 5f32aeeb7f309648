"""Libraries: which ones a text may load with `urequire`, found without running it."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator

from runsdeploy.errors import Position, Problem, did_you_mean
from runsdeploy.tree.composition import composed, spelt

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


def composed_otherwise(text: bytes, file: str, known: Iterable[str]) -> Iterator[Problem]:
    """Yield a problem for each known library that a text only names in another composition: bash compares bytes."""
    if b"urequire" not in text or text.isascii():
        return
    for name in known:
        if name.isascii() or _mentions(text, os.fsencode(name)):
            continue
        for number, line in enumerate(text.decode("utf-8", "replace").splitlines(), 1):
            if "urequire" in line and composed(name) in composed(line):
                message = f"library `{name}` is composed differently here than its file, `{spelt(name)}`"
                yield Problem(Position(file, number), message, "rename the file, or write the name as it is")


def _mentions(text: bytes, name: bytes) -> bool:
    return re.search(rb"(?<![\w.-])" + re.escape(name) + rb"(?![\w.-])", text) is not None
