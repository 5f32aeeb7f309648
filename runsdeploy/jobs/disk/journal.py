"""Journals: a run writes what it starts and what it has finished, durably, before it goes on (B4)."""

import errno
import json
import os
from typing import Any, Dict, List

from ..errors import reason
from . import durable

LARGEST = 16 * 1024 * 1024


class Journal:
    """A file with one JSON record per line; append-only, created with the first record."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._descriptor = -1

    def write(self, act: str, **facts: Any) -> None:
        """Append a record; it is on the disk when this returns. Raises OSError."""
        line = json.dumps({"act": act, **facts}, sort_keys=True) + "\n"
        if self._descriptor < 0:
            flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
            self._descriptor = os.open(self._path, flags, 0o600)
            durable.inherit_owner(self._descriptor, os.path.dirname(self._path))
        if _is_torn(self._descriptor):
            # The last line was cut by a crash: appended to it, this record would be unreadable too.
            line = "\n" + line
        if os.write(self._descriptor, line.encode("ascii")) < len(line):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), self._path)
        os.fsync(self._descriptor)

    def try_to_write(self, act: str, **facts: Any) -> str:
        """Append a record; return why it could not be written, empty if it was."""
        try:
            self.write(act, **facts)
        except OSError as error:
            return f"journal `{self._path}` cannot be written: {reason(error)}"
        return ""

    def close(self) -> None:
        """Close the file."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def _is_torn(descriptor: int) -> bool:
    size = os.fstat(descriptor).st_size
    return bool(size) and os.pread(descriptor, 1, size - 1) != b"\n"


def read(path: str) -> List[Dict[str, Any]]:
    """Return the records of a journal; a last line that was cut by a crash is ignored."""
    try:
        with open(path, "rb") as file:
            lines = file.read(LARGEST).split(b"\n")[:-1]
    except OSError:
        return []
    records = []
    for line in lines:
        try:
            record = json.loads(line.decode("ascii"))
        except ValueError:
            continue
        if isinstance(record, dict) and isinstance(record.get("act"), str):
            records.append(record)
    return records
