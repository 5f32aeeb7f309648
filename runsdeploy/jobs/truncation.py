"""Truncations: taking off a log exactly the bytes that an archive holds, not one that was written since (J25).

Between looking at a file and cutting it somebody may write to it. A write lease closes that gap: the kernel gives
it only while nobody else has the file open, and makes whoever opens it meanwhile wait (fcntl(2), F_SETLEASE). A file
that somebody keeps open is left as it is, and said so: the archive holds its bytes anyway.

What was written since the archive stays: it is moved to the front and the file cut behind it. A crash in between is
mended by doing the same again, which a note written before tells is needed.
"""

import errno
import fcntl
import hashlib
import json
import os
import signal
import time
from typing import Any, Dict, List, NamedTuple

from . import durable
from .errors import reason
from .manifest import Member

NOTE = "truncating"
CHUNK = 1024 * 1024
MOST = 64 * CHUNK
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
        warning = _take_off(descriptor, member, os.path.join(folder, NOTE))
        return Cut(member.path, warning and f"`{member.path}` was not emptied: {warning}")
    except OSError as error:
        return Cut(member.path, f"`{member.path}` was not emptied: {reason(error)}")
    finally:
        # Closing gives the lease up, and whoever waited goes on.
        os.close(descriptor)
        signal.signal(signal.SIGIO, former)


def _take_off(descriptor: int, member: Member, note: str) -> str:
    """Take the archived bytes off the front; return what kept it from being done."""
    archived, begun = member.size, _begun(note, member)
    if begun and not _is_tail(descriptor, begun):
        # The crash came behind the cut.
        durable.remove(note)
        return ""
    # Hashing may take minutes, and a lease is broken by force after less (lease-break-time).
    if not begun and _hash(descriptor, 0, archived) != member.sha256:
        return "" if os.fstat(descriptor).st_size < archived else "it is not what was archived any more"
    if not _alone(descriptor):
        return "another process keeps it open"
    rest = os.fstat(descriptor).st_size - archived
    if rest > min(archived, MOST):
        # Moving it would overwrite it, or take long; tomorrow it is archived and cut whole.
        return "more was written since than was archived"
    if rest:
        _move(descriptor, member, rest, note)
    os.ftruncate(descriptor, rest)
    os.fsync(descriptor)
    durable.remove(note)
    return ""


def _alone(descriptor: int) -> bool:
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


def _move(descriptor: int, member: Member, rest: int, note: str) -> None:
    """Copy what was written since to the front, noted first; the source stays until the cut."""
    digest = _hash(descriptor, member.size, rest)
    facts = {"path": member.path, "archived": member.size, "rest": rest, "sha256": digest}
    durable.write_file(note, json.dumps(facts).encode())
    at = 0
    while at < rest:
        block = os.pread(descriptor, min(CHUNK, rest - at), member.size + at)
        at += os.pwrite(descriptor, block, at)
    os.fsync(descriptor)


def _begun(note: str, member: Member) -> Dict[str, Any]:
    """Return what a crash left noted of this file; empty if nothing."""
    try:
        with open(note, "rb") as file:
            facts = json.loads(file.read().decode())
    except (OSError, ValueError):
        return {}
    ours = facts["path"] == member.path and facts["archived"] == member.size
    return dict(facts) if ours else {}


def _is_tail(descriptor: int, facts: Dict[str, Any]) -> bool:
    return bool(_hash(descriptor, facts["archived"], facts["rest"]) == facts["sha256"])


def _hash(descriptor: int, start: int, size: int) -> str:
    """Return the digest of a part of a file; of less than `size` bytes if there are no more."""
    digest, at = hashlib.sha256(), start
    while at < start + size:
        block = os.pread(descriptor, min(CHUNK, start + size - at), at)
        if not block:
            break
        digest.update(block)
        at += len(block)
    return digest.hexdigest()
