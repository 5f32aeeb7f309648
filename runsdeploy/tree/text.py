"""Texts: files of a tree that are read whole, up to a size that no operator writes by hand.

Payloads lie beside scripts, and trees hold whatever else their owners put there: a file of 60 GB is told, not read.
"""

from __future__ import annotations

import errno
import os
import stat
from io import FileIO
from pathlib import Path

LARGEST = 16 << 20
"""bytes that a script, a configuration, a library, a group or a template may have"""


def open_file(path: Path) -> FileIO:
    """Open a regular file for reading, unbuffered; raises OSError, also for what would block, such as a named pipe."""
    file = FileIO(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb")
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise OSError(errno.EINVAL, "not a regular file", str(path))
    return file


def read_text(path: Path, largest: int = LARGEST) -> bytes:
    """Return the bytes of a regular file; raises OSError, also for a file of more than `largest` bytes."""
    with open_file(path) as file:
        if os.fstat(file.fileno()).st_size > largest:
            raise OSError(errno.EFBIG, f"it has more than {largest} bytes", str(path))
        return file.readall()
