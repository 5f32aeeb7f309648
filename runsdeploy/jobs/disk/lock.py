"""The lock: one at a time of all that writes to a backup directory; the kernel frees it when its owner dies (J4)."""

import errno
import fcntl
import json
import os
import socket
import time
from contextlib import suppress
from typing import Any, Dict, Optional

from ..errors import LOCKED, Fault
from . import durable

NAME = ".lock"
POLL_INTERVAL = 0.05
"""seconds between two looks while waiting"""
MINIMUM_WAIT = 0.25
"""seconds that even a start that does not wait gives: `holder` looks by locking, for an instant"""
IDENTIFY_TIMEOUT = 10.0
"""seconds that a holder is given to say who it is"""


class Lock:
    """A lock that is held."""

    def __init__(self, descriptor: int, doing: str, started: float) -> None:
        self._descriptor = descriptor
        self._facts = {"pid": os.getpid(), "host": socket.gethostname(), "started": int(started), "doing": doing}
        self.set_activity(doing)

    def set_activity(self, doing: str) -> None:
        """Tell others what the holder does now; nobody depends on it, so a full disk does not matter."""
        self._facts["doing"] = doing
        text = (json.dumps(self._facts) + "\n").encode()
        try:
            # One write and then the cut: a reader meets the old text, the new one, or the new one with old rests.
            os.pwrite(self._descriptor, text, 0)
            os.ftruncate(self._descriptor, len(text))
        except OSError:
            pass

    def close(self) -> None:
        """Give the lock up."""
        with suppress(OSError):
            # Or somebody would be told of this one while the next has the lock, and has not yet said so.
            os.pwrite(self._descriptor, b"\n", 0)
        os.close(self._descriptor)


def acquire(folder: str, doing: str, wait: float = 0.0) -> Lock:
    """Return the lock of a backup directory, waiting up to so many seconds; raises Fault naming its holder."""
    # Jobs do not inherit it: what a job leaves behind would hold the lock for ever.
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(os.path.join(folder, NAME), flags, 0o600)
    durable.inherit_owner(descriptor, folder)
    until = time.monotonic() + max(wait, MINIMUM_WAIT)
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return Lock(descriptor, doing, time.time())
        except OSError as error:
            if error.errno not in (errno.EAGAIN, errno.EACCES) or time.monotonic() >= until:
                os.close(descriptor)
                if error.errno not in (errno.EAGAIN, errno.EACCES):
                    raise
                raise Fault(_held_message(folder), "wait for it with `--wait SECONDS`", LOCKED) from None
        time.sleep(min(POLL_INTERVAL, max(0.0, until - time.monotonic())))


def holder(folder: str) -> Optional[Dict[str, Any]]:
    """Return who holds the lock, as far as it is written; None if nobody does."""
    path = os.path.join(folder, NAME)
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return _facts(descriptor)
    finally:
        os.close(descriptor)
    return None


def _facts(descriptor: int) -> Dict[str, Any]:
    try:
        found = json.loads(os.pread(descriptor, 4096, 0).decode().split("\n")[0])
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _held_message(folder: str) -> str:
    facts = holder(folder)
    until = time.monotonic() + IDENTIFY_TIMEOUT
    while facts == {} and time.monotonic() < until:  # it says in a moment who it is
        time.sleep(POLL_INTERVAL)
        facts = holder(folder)
    if not facts:
        return f"another one is at work in `{folder}`"
    since = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(float(facts.get("started", 0))))
    return f"another one is at work in `{folder}`: pid {facts.get('pid')} since {since}, {facts.get('doing')}"
