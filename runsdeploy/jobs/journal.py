"""Journals: what a run is about to do and has done, on the disk before it goes on (B4)."""

import json
import os
from typing import Any, Dict, List

LARGEST = 16 * 1024 * 1024


class Journal:
    """One file, one JSON record a line; only ever appended to."""

    def __init__(self, path: str) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
        self._descriptor = os.open(path, flags, 0o600)
        if _is_torn(path):
            # A record written behind a torn one would be torn too.
            os.write(self._descriptor, b"\n")

    def write(self, act: str, **facts: Any) -> None:
        """Add a record; it is on the disk when this returns. Raises OSError."""
        line = json.dumps({"act": act, **facts}, sort_keys=True) + "\n"
        os.write(self._descriptor, line.encode("ascii"))
        os.fsync(self._descriptor)

    def close(self) -> None:
        """Write no more."""
        os.close(self._descriptor)


def _is_torn(path: str) -> bool:
    with open(path, "rb") as file:
        return bool(file.seek(0, os.SEEK_END)) and file.seek(-1, os.SEEK_END) >= 0 and file.read(1) != b"\n"


def read(path: str) -> List[Dict[str, Any]]:
    """Return the records of a journal; a last one that was torn by a crash never happened."""
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
