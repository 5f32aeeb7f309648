"""Truncations: taking off a log exactly the bytes that an archive holds, not one that was written since (J25).

Between looking at a file and cutting it somebody may write to it. A write lease closes that gap: the kernel gives
it only while nobody else has the file open, and makes whoever opens it meanwhile wait (fcntl(2), F_SETLEASE). A file
that somebody keeps open is left as it is, and said so: the archive holds its bytes anyway.

What was written since the archive stays: it is moved to the front block by block, and the file is cut behind it. How
far that came is noted before each block, in the run's directory, so that it can be gone on with after a crash; and
whether the cut itself was made can be seen from the file, whose last bytes were marked before. Without that, a log
that says the same every night could be cut twice.
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

from ..archive.manifest import Member
from ..disk import durable
from ..errors import reason

NOTE = "cut-"
MARK = 16
"""bytes"""
BLOCKS = 256
"""each noted and brought to the disk"""
CHUNK = 1024 * 1024
LARGEST_MOVE = 64 * CHUNK
"""bytes that are moved: who waits to open the file waits so long"""
TRIES = 40
PAUSE = 0.05
"""seconds between two tries to be alone with a file"""


class Cut(NamedTuple):
    """What became of one file."""

    path: str
    warning: str
    """why it was left as it is; empty if it was cut"""


def truncate(members: List[Member], folder: str) -> List[Cut]:
    """Cut the files that are archived; `folder` is the run's. Raises nothing: a file that cannot be cut is left."""
    return [_cut(member, folder) for member in members if member.truncate and member.kind == "file" and member.size]


def _cut(member: Member, folder: str) -> Cut:
    try:
        descriptor = os.open(member.path, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        return Cut(member.path, f"`{member.path}` was not emptied: {reason(error)}")
    # The kernel tells the holder of a lease by SIGIO that somebody waits; unhandled, it would end us.
    former = signal.getsignal(signal.SIGIO)
    try:
        signal.signal(signal.SIGIO, signal.SIG_IGN)
        warning = _cut_archived(descriptor, member, folder)
        return Cut(member.path, warning and f"`{member.path}` was not emptied: {warning}")
    except OSError as error:
        return Cut(member.path, f"`{member.path}` was not emptied: {reason(error)}")
    finally:
        # Closing gives the lease up, and whoever waited goes on.
        os.close(descriptor)
        signal.signal(signal.SIGIO, former)


def _cut_archived(descriptor: int, member: Member, folder: str) -> str:
    """Take the archived bytes off the front; return what kept it from being done."""
    progress = _Progress(folder, member)
    if progress.is_done(descriptor):
        return ""
    # Hashing may take minutes, and a lease is broken by force after less (lease-break-time).
    if progress.moved is None and _hash(descriptor, member.size) != member.sha256:
        return "" if os.fstat(descriptor).st_size < member.size else "it is not what was archived any more"
    if not _take_lease(descriptor):
        return "another process keeps it open"
    rest = os.fstat(descriptor).st_size - member.size
    if progress.moved is None and rest > min(BLOCKS * min(member.size, CHUNK), LARGEST_MOVE):
        # Moving it would take long; tomorrow it is archived and cut whole.
        return "much more was written since than was archived"
    _move(descriptor, rest, progress)
    mark = progress.mark
    os.pwrite(descriptor, mark, rest + member.size - len(mark))
    os.fsync(descriptor)
    progress.write(rest, marked=True)
    os.ftruncate(descriptor, rest)
    os.fsync(descriptor)
    return ""


class _Progress:
    """How far the cut of one file has come, in the run's directory."""

    def __init__(self, folder: str, member: Member) -> None:
        self.size = member.size
        self._file = os.path.join(folder, NOTE + hashlib.sha256(os.fsencode(member.path)).hexdigest()[:MARK])
        digest = hashlib.sha256(os.fsencode(self._file)).hexdigest()
        self.mark = digest[: min(MARK, member.size)].encode()
        self.moved: Optional[int] = None
        """bytes that are at the front already; None: nothing was begun"""
        self._marked = False
        with suppress(OSError, ValueError), open(self._file, "rb") as file:
            facts = json.loads(file.read().decode())
            self.moved, self._marked = facts["moved"], facts["marked"]

    def is_done(self, descriptor: int) -> bool:
        """Say whether the file was cut: its mark went with what was cut off."""
        if self.moved is None or not self._marked:
            return False
        return os.pread(descriptor, len(self.mark), self.moved + self.size - len(self.mark)) != self.mark

    def write(self, moved: int, *, marked: bool = False) -> None:
        """Note how many bytes are at the front; durable when this returns."""
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
    """Copy what was written since to the front, in blocks whose source stays until the next is begun."""
    at = progress.moved or 0
    while at < rest:
        progress.write(at)
        block = os.pread(descriptor, min(CHUNK, progress.size, rest - at), progress.size + at)
        at += os.pwrite(descriptor, block, at)
        os.fsync(descriptor)
    progress.write(at)


def _hash(descriptor: int, size: int) -> str:
    """Return the digest of the first bytes of a file; of less than `size` if there are no more."""
    digest, at = hashlib.sha256(), 0
    while at < size:
        block = os.pread(descriptor, min(CHUNK, size - at), at)
        if not block:
            break
        digest.update(block)
        at += len(block)
    return digest.hexdigest()
