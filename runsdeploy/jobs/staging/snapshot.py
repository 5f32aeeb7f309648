"""Database snapshots: whether one is whole, by its own first and last bytes, and whether it is recent (J11).

Known are the formats of pg_dump and pg_dumpall: plain, plain and compressed by gzip, and custom. Of another file it is
known only that it is none of these.
"""

import gzip
import os
import re
import stat
import zlib
from typing import BinaryIO, Set, Tuple

from ..archive.manifest import printable
from ..errors import reason

CLOCK_SKEW = 60.0
"""seconds that a snapshot may be from the future: clocks of two machines differ a little"""
EDGE = 64 * 1024
"""bytes at the start and at the end of a dump that are searched for its marks"""

_HEADER = re.compile(rb"^-- PostgreSQL database (?:cluster )?dump\r?$", re.MULTILINE)
_TRAILER = re.compile(rb"-- PostgreSQL database (?:cluster )?dump complete")
_AFTER_TRAILER = re.compile(rb"(?:--)?|\\unrestrict \S+")
_MESSAGE = re.compile(
    rb"\s*(?:\S*/)?(?:pg_\w+|psql|docker\S*|podman|kubectl|sudo|su|ssh|\w*sh|env|timeout|error[^:\n]*|OCI[^:\n]*)"
    rb"(?:\[\d+\])?: ",
    re.IGNORECASE,
)
"""how the message of a program begins that was written in place of a dump"""
_GZIP = b"\x1f\x8b"
_CUSTOM = b"PGDMP"
_LARGEST = 1 << 30
"""bytes of one text or chunk; PostgreSQL has no larger ones"""


def damage(path: str, name: str, *, strict: bool) -> str:
    """Return why the snapshot `name`, read at `path`, is not whole; empty if it is, or if its format is not known.

    With `strict`, a format that is not known is a problem too.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(descriptor, "rb") as file:
            why = _damage(file, strict=strict)
    except OSError as error:
        why = f"cannot be read: {reason(error)}"
    return f"`{printable(name)}` {why}" if why else ""


def _damage(file: BinaryIO, *, strict: bool) -> str:
    start = file.read(len(_CUSTOM))
    file.seek(0)
    if start == _CUSTOM:
        return _damage_of_custom(file, strict=strict)
    try:
        head, tail = _edges(gzip.GzipFile(fileobj=file) if start.startswith(_GZIP) else file)  # type: ignore[arg-type]
    except (EOFError, zlib.error):
        return "is cut off: gzip does not find its end"
    if _MESSAGE.match(head):
        first = head.strip().split(b"\n")[0][:200].decode("utf-8", "replace")
        return f"has a message in place of a dump: {printable(first)}"
    if (strict or _HEADER.search(head)) and not _has_trailer(tail):
        return "does not end with `-- PostgreSQL database dump complete`: it is cut off, or not a dump of PostgreSQL"
    return ""


def _damage_of_custom(file: BinaryIO, *, strict: bool) -> str:
    try:
        dump = _CustomFormat(file)
        if not dump.is_known:
            return f"has version {dump.version} of the custom format, which is not known here" if strict else ""
        return "" if dump.is_whole() else "is cut off: it does not have the data of all its tables"
    except (IndexError, ValueError):
        return "is cut off, or not a dump in the custom format of pg_dump"


def _edges(file: BinaryIO) -> Tuple[bytes, bytes]:
    """Return the first and the last bytes of a file."""
    head = tail = file.read(EDGE)
    if isinstance(file, gzip.GzipFile):
        for block in iter(lambda: file.read(EDGE), b""):
            tail = (tail + block)[-EDGE:]
    else:
        size = os.fstat(file.fileno()).st_size
        file.seek(max(0, size - EDGE))
        tail = file.read(EDGE)
    return head, tail


def _has_trailer(tail: bytes) -> bool:
    lines = tail.splitlines()
    while lines and _AFTER_TRAILER.fullmatch(lines[-1].rstrip()):
        lines.pop()
    return bool(lines) and _TRAILER.fullmatch(lines[-1].rstrip()) is not None


class _CustomFormat:
    """A dump in the custom format: a list of its entries, then one block of data for each entry that has data.

    Source: `src/bin/pg_dump/pg_backup_archiver.c` and `pg_backup_custom.c` of PostgreSQL, versions 1.12 (9.0) to 1.16.
    Methods raise IndexError at the end of the file, and ValueError for what is not such a dump.
    """

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        self._take(len(_CUSTOM))
        self.version = tuple(self._take(3))[:2]
        self.int_size, self.offset_size, kind = self._take(3)
        if self.version < (1, 12) or kind != 1 or not 0 < self.int_size <= 8:  # noqa: PLR2004
            raise ValueError(f"version {self.version}")
        self.is_known = self.version <= (1, 16)

    def is_whole(self) -> bool:
        """Return whether each entry with data has its block, and the last block ends where the file ends."""
        if self.version >= (1, 15):
            self._take(1)  # method of compression
        else:
            self._int()
        for _ in range(7):
            self._int()  # time of the dump
        for _ in range(3):
            self._text()  # name of the database, versions of server and pg_dump
        wanted = {number for number, has_data in [self._entry() for _ in range(self._int())] if has_data}
        return wanted <= self._blocks()

    def _entry(self) -> Tuple[int, bool]:
        """Read one entry; return its number and whether it has data."""
        number = self._int()
        self._int()  # whether a program was to write data
        for _ in range(4):
            self._text()  # oids, tag, description
        self._int()  # section
        for _ in range(5 + (self.version >= (1, 14))):
            self._text()  # three statements, schema, tablespace, access method
        if self.version >= (1, 16):
            self._int()  # kind of relation
        for _ in range(2):
            self._text()  # owner, oids
        while self._text():
            pass  # numbers of the entries that it depends on
        no_data = self._take(1)[0] == 3  # noqa: PLR2004 - K_OFFSET_NO_DATA
        self._take(self.offset_size)
        return number, not no_data

    def _blocks(self) -> Set[int]:
        """Read all blocks of data; return the numbers of their entries."""
        found: Set[int] = set()
        while True:
            kind = self.file.read(1)
            if not kind:
                return found
            number = self._int()
            if kind == b"\1":
                self._chunks()
            elif kind == b"\3":  # large objects, each with its oid in front
                while self._int():
                    self._chunks()
            else:
                raise ValueError(f"block of kind {kind!r}")
            found.add(number)

    def _chunks(self) -> None:
        for size in iter(self._int, 0):
            if not 0 < size <= _LARGEST:
                raise ValueError(f"chunk of {size} bytes")
            self.file.seek(size - 1, os.SEEK_CUR)
            self._take(1)

    def _text(self) -> bytes:
        size = self._int()
        if size > _LARGEST:
            raise ValueError(f"text of {size} bytes")
        return self._take(size) if size > 0 else b""

    def _int(self) -> int:
        sign, *digits = self._take(1 + self.int_size)
        value = int.from_bytes(bytes(digits), "little")
        return -value if sign else value

    def _take(self, size: int) -> bytes:
        data = self.file.read(size)
        if len(data) < size:
            raise IndexError(size)
        return data


def freshness_problem(path: str, started: float, most: float, now: float) -> str:
    """Return why a snapshot is unusable for the run that started at `started`; empty if it is fine; seconds (J11).

    It may be older than the run, up to `most`, or have been made by the run itself, up to `now`.
    """
    try:
        status = os.stat(path)
    except OSError as error:
        return f"`{printable(path)}` cannot be read: {reason(error)}"
    if not stat.S_ISREG(status.st_mode):
        return f"`{printable(path)}` is not a file, expected the snapshot of a database"
    if not status.st_size:
        return f"`{printable(path)}` is empty: the program that makes it has failed"
    future, age = status.st_mtime - now, started - status.st_mtime
    if future > CLOCK_SKEW:
        return f"`{printable(path)}` is {future:.0f} seconds from the future: is the clock right?"
    if age > most:
        return f"`{printable(path)}` is {age / 3600:.1f} hours old, expected {most / 3600:.1f} at most: make a new one"
    return ""
