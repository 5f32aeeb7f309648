"""Truncation of logs: cut off exactly the bytes that are in the archive, and none that were written since (J25).

A program may write to the log between the check and the cut. A write lease prevents that: the kernel grants it only
while no other process has the file open, and blocks processes that open it meanwhile (fcntl(2), F_SETLEASE). A file
that a process keeps open is left as it is, with a warning; the archive has its bytes anyway.

Bytes written since are kept: they are moved to the front block by block, and the file is truncated after them. The
progress is recorded before each block, in the directory of the run, so that the cut can be continued after a crash.
Before the file is truncated, its last bytes are overwritten by a mark: if the mark is gone, the cut was made. Without
the mark, a log with the same text every night could be cut twice.
"""

import errno
import fcntl
import hashlib
import json
import os
import signal
import time
from contextlib import suppress
from typing import List, NamedTuple, Optional

from ..archive import extraction
from ..archive.gunzip import chunks
from ..archive.manifest import Member
from ..disk import durable
from ..errors import reason

NOTE = "cut-"
MARK = 16
"""bytes"""
BLOCKS = 256
"""blocks that are moved at most; each is recorded and flushed to the disk"""
CHUNK = 1024 * 1024
LARGEST_MOVE = 64 * CHUNK
"""bytes that are moved at most: processes that open the file are blocked meanwhile"""
TRIES = 40
PAUSE = 0.05
"""seconds between two attempts to get the lease"""


class Cut(NamedTuple):
    """Result for one file."""

    path: str
    warning: str
    """why it was not cut; empty if it was"""


def truncate(members: List[Member], folder: str) -> List[Cut]:
    """Cut the archived logs; `folder` is the directory of the run. Never raises: a file that cannot be cut is left."""
    return [_cut(member, folder) for member in members if member.truncate and member.kind == "file" and member.size]


def _cut(member: Member, folder: str) -> Cut:
    try:
        descriptor = os.open(member.path, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        return Cut(member.path, f"`{member.path}` was not emptied: {reason(error)}")
    # The kernel sends SIGIO to the holder of a lease when another process waits; its default is to terminate.
    former = signal.getsignal(signal.SIGIO)
    try:
        signal.signal(signal.SIGIO, signal.SIG_IGN)
        warning = _cut_archived(descriptor, member, folder)
        return Cut(member.path, warning and f"`{member.path}` was not emptied: {warning}")
    except OSError as error:
        return Cut(member.path, f"`{member.path}` was not emptied: {reason(error)}")
    finally:
        # Closing releases the lease, and waiting processes continue.
        os.close(descriptor)
        signal.signal(signal.SIGIO, former)


def _cut_archived(descriptor: int, member: Member, folder: str) -> str:
    """Cut the archived bytes off the front; return why that was not possible, empty if it was."""
    if os.fstat(descriptor).st_nlink != 1:
        return "it has further names"
    progress = _Progress(folder, member)
    if progress.is_done(descriptor):
        return ""
    # Hash before taking the lease: it may take minutes, and the kernel breaks a lease earlier (lease-break-time).
    if progress.moved is None and _digest(descriptor, member.size) != member.sha256:
        return (
            "" if os.fstat(descriptor).st_size < member.size else "its first bytes are no longer those of the archive"
        )
    if not _take_lease(descriptor):
        return "another process keeps it open"
    rest = os.fstat(descriptor).st_size - member.size
    if progress.moved is None and rest > min(BLOCKS * min(member.size, CHUNK), LARGEST_MOVE):
        # Moving it would take long; the next run archives and cuts all of it.
        return "too much was written since it was archived"
    _move(descriptor, rest, progress)
    mark = progress.mark
    os.pwrite(descriptor, mark, rest + member.size - len(mark))
    os.fsync(descriptor)
    progress.write(rest, marked=True)
    os.ftruncate(descriptor, rest)
    os.fsync(descriptor)
    return ""


class _Progress:
    """Progress of the cut of one file, stored in the directory of the run."""

    def __init__(self, folder: str, member: Member) -> None:
        self.size = member.size
        self._file = os.path.join(folder, NOTE + hashlib.sha256(os.fsencode(member.path)).hexdigest()[:MARK])
        digest = hashlib.sha256(os.fsencode(self._file)).hexdigest()
        self.mark = digest[: min(MARK, member.size)].encode()
        self.moved: Optional[int] = None
        """bytes that are at the front already; None if the cut was not started"""
        self._marked = False
        with suppress(OSError, ValueError), open(self._file, "rb") as file:
            facts = json.loads(file.read().decode())
            self.moved, self._marked = facts["moved"], facts["marked"]

    def is_done(self, descriptor: int) -> bool:
        """Return whether the file was truncated: then its mark is gone."""
        if self.moved is None or not self._marked:
            return False
        return os.pread(descriptor, len(self.mark), self.moved + self.size - len(self.mark)) != self.mark

    def write(self, moved: int, *, marked: bool = False) -> None:
        """Record how many bytes are at the front; durable when this returns."""
        self.moved = moved
        durable.write_file(self._file, json.dumps({"moved": moved, "marked": marked}).encode())


def _take_lease(descriptor: int) -> bool:
    for _ in range(TRIES):
        try:
            fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_WRLCK)
        except OSError as error:
            if error.errno not in (errno.EAGAIN, errno.EBUSY):
                raise
            time.sleep(PAUSE)
        else:
            return True
    return False


def _move(descriptor: int, rest: int, progress: _Progress) -> None:
    """Move the bytes written since to the front, in blocks whose source is intact until the next one starts."""
    at = progress.moved or 0
    while at < rest:
        progress.write(at)
        block = os.pread(descriptor, min(CHUNK, progress.size, rest - at), progress.size + at)
        at += os.pwrite(descriptor, block, at)
        os.fsync(descriptor)
    progress.write(at)


def _digest(descriptor: int, size: int) -> str:
    """Return the digest of the first `size` bytes of a file, or of the whole file if it is shorter."""
    with open(descriptor, "rb", closefd=False) as file:
        return extraction.digest(chunks(file, size))
