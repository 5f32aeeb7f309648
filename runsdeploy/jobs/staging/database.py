"""SQLite databases: the file and its companions are copied together, as of one commit (J11)."""

import errno
import functools
import os
import re
import sys
from contextlib import closing
from typing import Any, Callable, Optional
from urllib.parse import quote

from ..archive import extraction
from ..archive.gunzip import chunks
from ..disk import durable
from .source import NotStaged, open_source, read, size_at

try:
    import sqlite3
except ImportError:  # a Python can be built without it
    sqlite3 = None  # type: ignore[assignment]

BUSY = 5.0
"""seconds to wait for a locked database"""
COMPANIONS = {
    "-journal": (b"\xd9\xd5\x05\xf9\x20\xa1\x63\xd7",),
    "-wal": (b"\x37\x7f\x06\x82", b"\x37\x7f\x06\x83"),
    "-shm": ((3007000).to_bytes(4, sys.byteorder),),
}
"""companion files of a database: suffix of the name, and the first bytes by which SQLite recognizes them"""

_MAGIC = b"SQLite format 3\0"
_WRITE_AHEAD = b"\2\2"
_COMPANION = re.compile(r"(.+)-(?:wal|shm|journal)", re.DOTALL)
_READ_ONLY, _READ_WRITE, _URI = 0x1, 0x2, 0x40
_FULL, _DONE = 13, 101
"""flags and result codes of the C interface of SQLite"""

CopyMethod = Callable[[str, str], None]
"""copies a database; takes its path and the path of an empty file"""


def is_database(header: bytes) -> bool:
    """Return whether a file is a database, judged by its first bytes."""
    return header.startswith(_MAGIC)


def database_of(path: str) -> str:
    """Return the database of which a file is a companion, else nothing; restored, a companion would corrupt it."""
    match = _COMPANION.fullmatch(path)
    if not match:
        return ""
    try:
        descriptor = open_source(match.group(1))
    except NotStaged:
        return ""
    try:
        return match.group(1) if is_database(read(descriptor, len(_MAGIC), 0)) else ""
    except NotStaged:
        return ""
    finally:
        os.close(descriptor)


def in_use(path: str) -> bool:
    """Return whether data of a database is in a companion and not yet in its file."""
    return size_at(f"{path}-wal") > 0 or size_at(f"{path}-journal") > 0


def copy_method(path: str, header: bytes) -> Optional[CopyMethod]:
    """Return how to copy a database consistently; None for a file that can be copied like any other."""
    if not is_database(header):
        return None
    if header[18:20] == _WRITE_AHEAD and not size_at(f"{path}-wal"):
        # All data is in the file. Opened by SQLite, it would get two companions, or fail in a read-only directory.
        return None
    if hasattr(getattr(sqlite3, "Connection", None), "backup"):
        return _back_up
    return _back_up_by_library if _library() else None


def copy_database(method: CopyMethod, path: str, copy: str) -> str:
    """Copy a database to a new file, durably, and return its digest; raises NotStaged if it is locked or damaged."""
    durable.create(copy).close()
    method(path, copy)
    with open(copy, "rb") as file:
        digest = extraction.digest(chunks(file))
        os.fsync(file.fileno())
    return digest


def _back_up(path: str, copy: str) -> None:
    """Copy a database with the data of its log; raises NotStaged if it is locked or damaged."""
    try:
        with closing(_connect(path, "ro")) as source, closing(_connect(copy, "rw")) as target:
            # Take the lock first: `backup` would wait for it without a limit.
            source.execute("BEGIN")
            source.execute("PRAGMA schema_version").fetchone()
            target.execute("PRAGMA journal_mode = OFF")
            source.backup(target)
    except sqlite3.Error as error:
        _fail(str(error), copy, full="is full" in str(error))


def _connect(path: str, mode: str) -> "sqlite3.Connection":
    return sqlite3.connect(_uri(path, mode), uri=True, timeout=BUSY, isolation_level=None)


def _uri(path: str, mode: str) -> str:
    return f"file:{quote(os.fsencode(path))}?mode={mode}"


def _fail(message: str, copy: str, *, full: bool) -> None:
    if full:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), copy)
    raise NotStaged(f"is a database that cannot be copied: {message}")


@functools.lru_cache(maxsize=None)
def _library() -> Any:
    """Return the SQLite library, for Python 3.6, whose `sqlite3` has no backup; None if it cannot be loaded."""
    try:
        import _sqlite3  # noqa: PLC0415  (a Python can be built without these)
        import ctypes  # noqa: PLC0415

        library = ctypes.CDLL(_sqlite3.__file__)
        number, text, pointer = ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p
        library.sqlite3_open_v2.argtypes = [text, ctypes.POINTER(pointer), number, text]
        library.sqlite3_busy_timeout.argtypes = [pointer, number]
        library.sqlite3_exec.argtypes = [pointer, text, pointer, pointer, pointer]
        library.sqlite3_backup_init.argtypes = [pointer, text, pointer, text]
        library.sqlite3_backup_init.restype = pointer
        library.sqlite3_backup_step.argtypes = [pointer, number]
        library.sqlite3_backup_finish.argtypes = [pointer]
        library.sqlite3_close.argtypes = [pointer]
        library.sqlite3_errcode.argtypes = [pointer]
        library.sqlite3_errstr.restype = text
    except (ImportError, OSError, AttributeError):
        return None
    return library


def _back_up_by_library(path: str, copy: str) -> None:
    """Do the same as `_back_up` through the C interface."""
    import ctypes  # noqa: PLC0415  (imported by _library too)

    library, source, target = _library(), ctypes.c_void_p(), ctypes.c_void_p()
    try:
        status = (
            library.sqlite3_open_v2(_uri(path, "ro").encode(), ctypes.byref(source), _READ_ONLY | _URI, None)
            or library.sqlite3_open_v2(_uri(copy, "rw").encode(), ctypes.byref(target), _READ_WRITE | _URI, None)
            or library.sqlite3_busy_timeout(source, int(BUSY * 1000))
            or library.sqlite3_exec(target, b"PRAGMA journal_mode = OFF", None, None, None)
        )
        backup = None if status else library.sqlite3_backup_init(target, b"main", source, b"main")
        if backup:
            status = library.sqlite3_backup_step(backup, -1)
            library.sqlite3_backup_finish(backup)
        status = status or library.sqlite3_errcode(target)
    finally:
        library.sqlite3_close(source)
        library.sqlite3_close(target)
    if status != _DONE:
        _fail(library.sqlite3_errstr(status).decode(), copy, full=status == _FULL)
