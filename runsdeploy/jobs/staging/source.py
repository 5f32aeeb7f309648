"""Sources: files to copy, opened and read safely while other programs may write them (J11)."""

import errno
import os
import sys
import time
from typing import Iterator, Tuple

from ..errors import reason

CHUNK = 1024 * 1024
QUIET = 200_000_000
"""nanoseconds since the last write after which a file counts as settled; 10 ms would be enough to detect a write"""
_TIMESTAMP_CLOCK = 5 if sys.platform == "linux" else time.CLOCK_REALTIME
"""CLOCK_REALTIME_COARSE, the clock of file times; on a busy machine it lags behind the real time"""
_TICK = 0.01
"""seconds that it lags behind normally, at most"""


class NotStaged(Exception):
    """A file cannot be staged; the text says why."""


class Torn(NotStaged):
    """A file changed while it was copied: another attempt may succeed."""


class Gone(Torn):
    """A file disappeared."""


def open_source(path: str) -> int:
    """Open a file, never through a link, and without blocking on a fifo that took its place; raises NotStaged."""
    try:
        return os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        raise Gone("disappeared") from None
    except OSError as error:
        odd = error.errno in (errno.ELOOP, errno.ENXIO, errno.ENOTDIR)
        raise (Torn if odd else NotStaged)(f"cannot be read: {reason(error)}") from None


def read(source: int, size: int, at: int) -> bytes:
    """Return up to `size` bytes of an open file from offset `at`; raises NotStaged."""
    try:
        return os.pread(source, size, at)
    except OSError as error:
        raise NotStaged(f"cannot be read: {reason(error)}") from None


def blocks(source: int, size: int) -> Iterator[bytes]:
    """Yield the first `size` bytes of an open file; raises Torn if it is shorter."""
    at = 0
    while at < size:
        block = read(source, min(CHUNK, size - at), at)
        if not block:
            raise Torn("became shorter while it was copied")
        at += len(block)
        yield block


def stamp(status: os.stat_result) -> Tuple[int, ...]:
    """Return values of which at least one changes with every write."""
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


def seconds_until_quiet(status: os.stat_result) -> float:
    """Return the seconds until a file counts as settled, 0 if it is.

    Two versions written within one tick of the clock of the kernel have the same stamp, and so has a mix of both. And
    a program that rewrites a file in place may be in the middle of it.
    """
    quiet = QUIET if status.st_ctime_ns % 10**9 else 10**9 + QUIET  # some file systems have only seconds
    age = int(time.clock_gettime(_TIMESTAMP_CLOCK) * 10**9) - status.st_ctime_ns
    return (quiet - age) / 10**9 + _TICK if -quiet < age < quiet else 0.0


def is_file_at(status: os.stat_result, path: str) -> bool:
    """Return whether a path still leads to this file."""
    try:
        return os.path.samestat(status, os.lstat(path))
    except OSError:
        return False


def size_at(path: str) -> int:
    """Return the size of the file at a path in bytes, 0 if there is none."""
    try:
        return os.lstat(path).st_size
    except OSError:
        return 0
