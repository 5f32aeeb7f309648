"""The log of a run: appended to the system's log file, kept with the run, shown on a terminal.

That a log cannot be written stops no job: it is told at the end (J3, J8).
"""

import os
import sys
import threading
import time
from collections import deque
from typing import Deque, Dict, List, Set

from ..errors import reason

LARGEST = 10 * 1024 * 1024
"""bytes of a log file before the next run begins a new one"""
KEPT = 5
"""former log files: FILE.1 is the newest"""
TAIL = 20
"""lines of a job that its failure is told with"""
WIDEST = 500
"""bytes of such a line"""
SHORTEST = 6
"""bytes of a secret that is masked: shorter ones would mask half of what is written"""
MASK = b"*****"


class Log:
    """Where everything is told that happens in one run."""

    def __init__(self) -> None:
        self.secrets: Set[bytes] = set()
        """never to be written"""
        self.problems: List[str] = []
        """what kept the log from being written, each once"""
        self._tails: Dict[str, Deque[bytes]] = {}
        self._guard = threading.Lock()
        self._shown = sys.stderr is not None and sys.stderr.isatty()
        self._files: Dict[str, int] = {}

    def open(self, path: str) -> None:
        """Write also to this file, if it has a name."""
        if not path:
            return
        try:
            _rotate(path)
            flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
            self._files[path] = os.open(path, flags, 0o640)
        except OSError as error:
            self._failed(path, error)

    def _failed(self, path: str, error: OSError) -> None:
        message = f"log `{path}` cannot be written: {reason(error)}"
        if message not in self.problems:
            self.problems.append(message)

    def write(self, text: str) -> None:
        """Log what the runner does, with the time."""
        stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        self._append("".join(f"{stamp} {line}\n" for line in text.split("\n")).encode("utf-8", "backslashreplace"))

    def output(self, job: str, data: bytes) -> None:
        """Log lines that a job wrote, as they are, each with the job's name before it."""
        for secret in self.secrets:
            if len(secret) >= SHORTEST:
                data = data.replace(secret, MASK)
        lines = data.split(b"\n")
        if not lines[-1]:
            lines.pop()
        with self._guard:
            tail = self._tails.setdefault(job, deque(maxlen=TAIL))
            tail.extend(line[:WIDEST] for line in lines)
        name = job.encode()
        self._append(b"".join(b"%s| %s\n" % (name, line) for line in lines))

    def tail(self, job: str) -> List[str]:
        """Return the last lines of a job, fit for a terminal."""
        return [printable(line) for line in self._tails.get(job, ())]

    def _append(self, data: bytes) -> None:
        with self._guard:
            for path, descriptor in self._files.items():
                try:
                    _write_all(descriptor, data)
                except OSError as error:
                    self._failed(path, error)
            if self._shown:
                sys.stderr.write("".join(f"{printable(line)}\n" for line in data.split(b"\n")[:-1]))

    def close(self) -> None:
        """Write no more."""
        for descriptor in self._files.values():
            os.close(descriptor)
        self._files = {}


def printable(data: bytes) -> str:
    """Return a line with control characters escaped: a job's output must not drive the operator's terminal (R17)."""
    text = data.decode("utf-8", "backslashreplace")
    return "".join(c if c.isprintable() or c == "\t" else c.encode("unicode_escape").decode() for c in text)


def _write_all(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def _rotate(path: str) -> None:
    """Begin a new file if this one has grown; the oldest is dropped."""
    try:
        if os.lstat(path).st_size <= LARGEST:
            return
    except FileNotFoundError:
        return
    for number in range(KEPT, 1, -1):
        former = f"{path}.{number - 1}"
        if os.path.lexists(former):
            os.rename(former, f"{path}.{number}")
    os.rename(path, f"{path}.1")
