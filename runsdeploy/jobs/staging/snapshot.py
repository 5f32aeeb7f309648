"""Database snapshots made by other programs: check that one is complete and recent (J11)."""

import os
import re
import stat

from ..archive.manifest import printable
from ..errors import reason

CLOCK_SKEW = 60.0
"""seconds that a snapshot may be from the future: clocks of two machines differ a little"""
TAIL = 64 * 1024
"""bytes at the end of a dump that are searched for the end mark"""

_END_MARKS = (b"-- PostgreSQL database dump complete", b"-- PostgreSQL database cluster dump complete")
_AFTER_MARK = re.compile(rb"(?:--)?|\\unrestrict \S+")


def end_mark_problem(path: str) -> str:
    """Return why a plain SQL dump of pg_dump is incomplete; empty if it has its end mark (J11)."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            lines = os.pread(descriptor, TAIL, max(0, os.fstat(descriptor).st_size - TAIL)).splitlines()
        finally:
            os.close(descriptor)
    except OSError as error:
        return f"`{printable(path)}` cannot be read: {reason(error)}"
    while lines and _AFTER_MARK.fullmatch(lines[-1].rstrip()):
        lines.pop()
    if lines and lines[-1].rstrip() in _END_MARKS:
        return ""
    return f"`{printable(path)}` does not end with `{_END_MARKS[0].decode()}`: the dump is cut off, or not plain SQL"


def freshness_problem(path: str, now: float, most: float) -> str:
    """Return why a snapshot is unusable for the run that started at `now`; empty if it is fine; seconds (J11)."""
    try:
        status = os.stat(path)
    except OSError as error:
        return f"`{printable(path)}` cannot be read: {reason(error)}"
    if not stat.S_ISREG(status.st_mode):
        return f"`{printable(path)}` is not a file, expected the snapshot of a database"
    if not status.st_size:
        return f"`{printable(path)}` is empty: the program that makes it has failed"
    age = now - status.st_mtime
    if age < -CLOCK_SKEW:
        return f"`{printable(path)}` is {-age:.0f} seconds from the future: is the clock right?"
    if age > most:
        return f"`{printable(path)}` is {age / 3600:.1f} hours old, expected {most / 3600:.1f} at most: make a new one"
    return ""
