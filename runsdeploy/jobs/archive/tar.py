"""The tar format: headers are written by `tarfile`, archives are read strictly.

For reading, `tarfile` does not suffice: it takes a damaged header for the end of the archive, and reads extended
headers of any size into memory (J10, J13). One reader reads archives of the runner and those of GNU tar (J24).
"""

import re
import tarfile
from typing import Dict, Iterator, NamedTuple, Tuple

from .gunzip import CHUNK, GzipReader
from .manifest import Damaged

BLOCK = 512
END = bytes(2 * BLOCK)
"""end-of-archive marker"""
_NAMES = 64 * 1024
"""bytes of an extended header; file names are at most 4096 bytes long"""
_PADDING = 1024 * 1024
"""bytes of zeros accepted after the end"""
_TYPES = {"file": b"0", "link": b"2", "directory": b"5"}
_KINDS = {
    b"0": "file",
    b"\0": "file",
    b"7": "file",
    b"1": "hard link",
    b"2": "link",
    b"3": "character device",
    b"4": "block device",
    b"5": "directory",
    b"6": "fifo",
}
_LONG = {b"L": b"path", b"K": b"linkpath"}
"""extended headers of GNU tar, by type"""
_NUMBER = re.compile(rb" *([0-7]+)[ \0]*|[ \0]*")
_DECIMAL = re.compile(rb"(-?[0-9]{1,19})(?:\.[0-9]*)?")
_RECORD = re.compile(rb"([1-9][0-9]{0,5}) ")

Extended = Dict[bytes, bytes]


class Entry(NamedTuple):
    """One header: a member of an archive, as tar describes it."""

    name: bytes
    kind: str
    """`file`, `link`, `directory`, or another kind in words"""
    mode: int
    uid: int
    gid: int
    user: bytes
    group: bytes
    mtime: int
    """seconds since 1970"""
    size: int
    target: bytes
    """of a link"""


def header(entry: Entry) -> bytes:
    """Return the header of a file, link or directory; values too large for it are put into an extended header (PAX).

    Its bytes differ between versions of Python: compare entries, not headers.
    """

    def text(value: bytes) -> str:
        return value.decode("utf-8", "surrogateescape")

    made = tarfile.TarInfo(text(entry.name))
    made.type, made.size, made.linkname = _TYPES[entry.kind], entry.size, text(entry.target)
    made.mode, made.mtime, made.uid, made.gid = entry.mode, entry.mtime, entry.uid, entry.gid
    made.uname, made.gname = text(entry.user), text(entry.group)
    return made.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")


def padding(size: int) -> bytes:
    """Return the zeros that fill the last block of a file of this size."""
    return bytes(-size % BLOCK)


def _number(field: bytes) -> int:
    """Return the number in a header field: octal, or binary as GNU tar writes large numbers."""
    if field[:1] == b"\x80":
        return int.from_bytes(field[1:], "big")
    match = _NUMBER.fullmatch(field)
    if not match:
        raise Damaged(f"has a header with a bad number: {field!a}")
    return int(match.group(1) or b"0", 8)


def data(stream: GzipReader, size: int) -> Iterator[bytes]:
    """Yield the content of a member, then check its padding; raises Damaged."""
    left = size
    while left:
        part = stream.read(min(left, CHUNK))
        left -= len(part)
        yield part
    if any(stream.read(-size % BLOCK)):
        raise Damaged("has padding that is not zero after a member")


def entries(stream: GzipReader) -> Iterator[Tuple[Entry, Iterator[bytes]]]:
    """Yield the members of an archive with their contents; raises Damaged at the first format error."""
    while True:
        extended, block = _extended(stream)
        if block == bytes(BLOCK):
            break
        entry = _entry(block, extended)
        content = data(stream, entry.size)
        yield entry, content
        for _ in content:
            pass
    _end(stream)


def _extended(stream: GzipReader) -> Tuple[Extended, bytes]:
    """Return the records of extended headers, and the plain header (or zeros) after them."""
    extended: Extended = {}
    for count in range(4):
        block = stream.read(BLOCK)
        kind = block[156:157]
        if kind not in (b"L", b"K", b"x"):
            if count and block == bytes(BLOCK):
                break
            return extended, block
        _check_sum(block)
        size = _number(block[124:136])
        if size > _NAMES:
            raise Damaged(f"has an extended header of {size} bytes, expected {_NAMES} at most")
        content = b"".join(data(stream, size))
        extended.update(_records(content) if kind == b"x" else {_LONG[kind]: content.rstrip(b"\0")})
    raise Damaged("has extended headers without a member")


def _records(content: bytes) -> Extended:
    """Return the records of an extended header."""
    extended: Extended = {}
    while content:
        match = _RECORD.match(content)
        length = int(match.group(1)) if match else 0
        key, equals, value = content[match.end() if match else 0 : length].partition(b"=")
        if not equals or length > len(content) or not value.endswith(b"\n"):
            raise Damaged("has an extended header that cannot be read")
        extended[key] = value[:-1]
        content = content[length:]
    return extended


def _entry(block: bytes, extended: Extended) -> Entry:
    """Return the entry of a header; extended records override its fields."""
    _check_sum(block)
    posix = block[257:263] == b"ustar\0"
    prefix = _text(block[345:500]) + b"/" if posix and block[345] else b""
    name = extended.get(b"path", prefix + _text(block[:100]))
    kind = _KINDS.get(block[156:157])
    if kind is None:
        raise Damaged(f"has a member of type {block[156:157]!a}, which is not supported: {name[:100]!a}")
    if any(key.startswith(b"GNU.sparse") for key in extended):
        kind = "sparse file"
    if kind == "file" and name.endswith(b"/"):
        kind = "directory"
    entry = Entry(
        name=name[:-1] if kind == "directory" and name.endswith(b"/") else name,
        kind=kind,
        mode=_number(block[100:108]) & 0o7777,
        uid=_decimal(extended, b"uid", block[108:116]),
        gid=_decimal(extended, b"gid", block[116:124]),
        user=extended.get(b"uname", _text(block[265:297])),
        group=extended.get(b"gname", _text(block[297:329])),
        mtime=_decimal(extended, b"mtime", block[136:148]) if b"mtime" in extended else _time(block[136:148]),
        size=_decimal(extended, b"size", block[124:136]),
        target=extended.get(b"linkpath", _text(block[157:257])),
    )
    if min(entry.size, entry.uid, entry.gid) < 0 or (entry.size and kind not in ("file", "sparse file")):
        raise Damaged(f"has a {kind} of {entry.size} bytes, owner {entry.uid}, group {entry.gid}: {name[:100]!a}")
    return entry


def _text(field: bytes) -> bytes:
    return field.partition(b"\0")[0]


def _decimal(extended: Extended, key: bytes, field: bytes) -> int:
    if key not in extended:
        return _number(field)
    match = _DECIMAL.fullmatch(extended[key])
    if not match:
        raise Damaged(f"has an extended header with a bad number: {extended[key][:40]!a}")
    return int(match.group(1))


def _time(field: bytes) -> int:
    """Return a time; unlike other numbers it may be negative, for times before 1970."""
    return int.from_bytes(field, "big", signed=True) if field[:1] == b"\xff" else _number(field)


def _check_sum(block: bytes) -> None:
    if _number(block[148:156]) != sum(block[:148]) + 8 * ord(" ") + sum(block[156:]):
        raise Damaged("has a damaged header")


def _end(stream: GzipReader) -> None:
    """Read the zeros at the end; tar fills the last record with them."""
    left = _PADDING
    while left > 0:
        part = stream.read_some(left)
        if any(part):
            break
        if not part:
            return stream.expect_end()
        left -= len(part)
    raise Damaged("has data after its end")
