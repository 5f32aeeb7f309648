"""Sources: files that are to be copied, opened and read in spite of everybody else who writes (J11)."""

import errno
import os
import sys
import time
from typing import Iterator, Tuple

from ..errors import reason

CHUNK = 1024 * 1024
QUIET = 200_000_000
"""nanoseconds since the last write after which a file seems to be whole; ten are enough for the next to be seen"""
_TIMESTAMP_CLOCK = 5 if sys.platform == "linux" else time.CLOCK_REALTIME
"""CLOCK_REALTIME_COARSE: the clock that files are stamped by stands still while the machine is busy with others"""
_TICK = 0.01
"""seconds that it is behind at most while it goes"""


class NotStaged(Exception):
    """A file cannot be staged; the text says why."""


class Torn(NotStaged):
    """Somebody wrote to it: another try may do."""


class Gone(Torn):
    """It is not there any more."""


def open_source(path: str) -> int:
    """Open a file, never through a link, and without waiting for the other end of a fifo that took its place.

    Raises NotStaged.
    """
    try:
        return os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        raise Gone("disappeared") from None
    except OSError as error:
        odd = error.errno in (errno.ELOOP, errno.ENXIO, errno.ENOTDIR)
        raise (Torn if odd else NotStaged)(f"cannot be read: {reason(error)}") from None


def read(source: int, size: int, at: int) -> bytes:
    """Return some bytes of an open file; raises NotStaged."""
    try:
        return os.pread(source, size, at)
    except OSError as error:
        raise NotStaged(f"cannot be read: {reason(error)}") from None


def blocks(source: int, size: int) -> Iterator[bytes]:
    """Yield the first bytes of an open file; raises Torn if it has not that many."""
    at = 0
    while at < size:
        block = read(source, min(CHUNK, size - at), at)
        if not block:
            raise Torn("became shorter while it was copied")
        at += len(block)
        yield block


def stamp(status: os.stat_result) -> Tuple[int, ...]:
    """Return what changes with every write."""
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


def seconds_until_quiet(status: os.stat_result) -> float:
    """Return how many seconds it takes until a file has not been written to for a while.

    Two versions written within one tick of the kernel's clock have the same stamp, and so has half of each. And who
    rewrites a file in place may be in the middle of it.
    """
    quiet = QUIET if status.st_ctime_ns % 10**9 else 10**9 + QUIET  # some file systems have only seconds
    age = int(time.clock_gettime(_TIMESTAMP_CLOCK) * 10**9) - status.st_ctime_ns
    return (quiet - age) / 10**9 + _TICK if -quiet < age < quiet else 0.0


def is_file_at(status: os.stat_result, path: str) -> bool:
    """Tell whether a file is the one under a path, still."""
    try:
        return os.path.samestat(status, os.lstat(path))
    except OSError:
        return False


def size_at(path: str) -> int:
    """Return the bytes of the file under a path, 0 if there is none."""
    try:
        return os.lstat(path).st_size
    except OSError:
        return 0
