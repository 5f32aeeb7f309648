"""The lock of a backup directory: one writer at a time; the kernel releases it when its holder dies (J4)."""

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
"""seconds between two attempts while waiting"""
MINIMUM_WAIT = 0.25
"""seconds to wait even without `--wait`: `holder` takes the lock for a moment to test it"""
IDENTIFY_TIMEOUT = 10.0
"""seconds to wait until a new holder has written who it is"""


class Lock:
    """A lock that this process holds."""

    def __init__(self, descriptor: int, doing: str, started: float) -> None:
        self._descriptor = descriptor
        self._facts = {"pid": os.getpid(), "host": socket.gethostname(), "started": int(started), "doing": doing}
        self.set_activity(doing)

    def set_activity(self, doing: str) -> None:
        """Record what the holder is doing, for messages of others; errors of a full disk are ignored."""
        self._facts["doing"] = doing
        text = (json.dumps(self._facts) + "\n").encode()
        try:
            # Write first, then truncate: a reader sees the old line, the new one, or the new one and a rest of the old.
            os.pwrite(self._descriptor, text, 0)
            os.ftruncate(self._descriptor, len(text))
        except OSError:
            pass

    def close(self) -> None:
        """Release the lock."""
        with suppress(OSError):
            # Else this holder would be reported while the next one has the lock and has not yet written its name.
            os.pwrite(self._descriptor, b"\n", 0)
        os.close(self._descriptor)


def acquire(folder: str, doing: str, wait: float = 0.0) -> Lock:
    """Return the lock of a backup directory; waits for up to `wait` seconds. Raises Fault that names the holder."""
    # O_CLOEXEC: a process that a job leaves behind would hold the lock for ever.
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(os.path.join(folder, NAME), flags, 0o600)
    if os.fstat(descriptor).st_nlink != 1:
        os.close(descriptor)
        # The owner of the directory could have linked a file of root here: it would get that file, and lose its bytes.
        raise Fault(f"`{os.path.join(folder, NAME)}` has further names, expected a file of its own", "remove it")
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
    """Return what the holder of the lock wrote about itself, None if the lock is free."""
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
    while facts == {} and time.monotonic() < until:  # it has not written yet who it is
        time.sleep(POLL_INTERVAL)
        facts = holder(folder)
    if not facts:
        return f"another run or restore is active in `{folder}`"
    since = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(float(facts.get("started", 0))))
    return f"another run or restore is active in `{folder}`: pid {facts.get('pid')} since {since}, {facts.get('doing')}"
