"""A script: one file, split at its line `script:` into the CONF section above it and the SCRIPT section below."""

from __future__ import annotations

import hashlib
import re
from functools import cached_property

from msgspec import Struct

from runsdeploy.errors import Position, Problem
from runsdeploy.tree.trees import Located

SEPARATOR = re.compile(rb"^script:$", re.MULTILINE)
DOS_SEPARATOR = re.compile(rb"^script:\r$", re.MULTILINE)


class Script(Struct, frozen=True, dict=True):
    """A script, read once: the bytes that are planned are the bytes that are shipped."""

    name: str
    """as recipes name it, e.g. `web/nginx`"""
    source: Located
    """the file that it was read from"""
    conf: bytes
    """the CONF section"""
    body: bytes
    """the SCRIPT section, with an empty line for each line above it, so that bash counts lines as an editor does"""

    @property
    def folder(self) -> str:
        """The directory that holds the script, below the root of its tree."""
        return self.source.inside.rpartition("/")[0]

    @property
    def first_line(self) -> int:
        """The number of the first line of the SCRIPT section in the file."""
        return self.conf.count(b"\n") + 2

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the SCRIPT section alone."""
        return hashlib.sha256(self.body[self.first_line - 1 :]).hexdigest()


def is_script(data: bytes) -> bool:
    """Say whether a file has a line that is exactly `script:`."""
    return SEPARATOR.search(data) is not None


def read_script(name: str, source: Located) -> Script | Problem:
    """Read a script, or return the problem why it is none."""
    try:
        data = source.path.read_bytes()
    except OSError as error:
        return Problem(source.at(), f"cannot read script `{name}`: {(error.strerror or str(error)).lower()}")
    found = SEPARATOR.search(data)
    if found is None:
        return _not_a_script(name, source, data)
    if b"\0" in data:
        line = data.count(b"\n", 0, data.index(b"\0")) + 1
        return Problem(source.at(line), f"script `{name}` holds a NUL byte, expected bash")
    conf, body = data[: found.start()], data[found.end() + 1 :]
    return Script(name, source, conf, b"\n" * (conf.count(b"\n") + 1) + body)


def _not_a_script(name: str, source: Located, data: bytes) -> Problem:
    dos = DOS_SEPARATOR.search(data)
    if dos:
        where: Position = source.at(data.count(b"\n", 0, dos.start()) + 1)
        return Problem(where, f"script `{name}` has DOS line ends, expected unix ones", f"`dos2unix {source.shown}`")
    hint = f"if it is a recipe, write `@{name}`"
    return Problem(source.at(), f"`{name}` has no line `script:`, so it is not a script", hint)
