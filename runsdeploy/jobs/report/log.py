"""The log of a run: written to the log file of the settings, to a file of the run, and to a terminal.

A log that cannot be written stops no job; it is reported at the end (J3, J8).
"""

import os
import sys
import threading
import time
from collections import deque
from contextlib import suppress
from typing import Deque, Dict, FrozenSet, List

from ..disk import trust
from ..errors import reason
from ..process.supervisor import write_all

LARGEST = 10 * 1024 * 1024
"""bytes of a log file above which the next run starts a new one"""
KEPT = 5
"""rotated log files; FILE.1 is the newest"""
TAIL = 20
"""lines of a job that are reported with its failure"""
WIDEST = 500
"""bytes kept of such a line"""
SHORTEST = 6
"""bytes of a secret to be masked: shorter ones would mask half of the output"""
MASK = b"*****"


class Log:
    """The log of one run."""

    def __init__(self) -> None:
        self._secrets: FrozenSet[bytes] = frozenset()
        self.problems: List[str] = []
        """why the log could not be written, without duplicates"""
        self.warnings: List[str] = []
        self.faults: List[str] = []
        """what makes the run fail besides its jobs and its backup; each is a warning too"""
        self._tails: Dict[str, Deque[bytes]] = {}
        self._guard = threading.Lock()
        self._shown = sys.stderr is not None and sys.stderr.isatty()
        self._files: Dict[str, int] = {}

    def open(self, path: str) -> None:
        """Add a log file; an empty path is ignored. One that others could have put there is not written (S8)."""
        if not path:
            return
        try:
            folder = trust.open_folder(path)
            try:
                name = os.path.basename(path)
                _rotate(name, folder)
                self._files[path] = trust.open_to_append(name, folder, 0o640)
            finally:
                os.close(folder)
        except OSError as error:
            self._failed(path, error)

    def _failed(self, path: str, error: OSError) -> None:
        message = f"log `{path}` cannot be written: {reason(error)}"
        if message not in self.problems:
            self.problems.append(message)

    def write(self, text: str) -> None:
        """Log a message of the runner, with the time."""
        stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        self._append("".join(f"{stamp} {line}\n" for line in text.split("\n")).encode("utf-8", "backslashreplace"))

    def add_warning(self, text: str) -> None:
        """Log a warning, which the record of the run has too."""
        self.warnings.append(text)
        self.write(f"warning: {text}")

    def add_fault(self, text: str) -> str:
        """Log a warning that makes the run fail; return it. An empty one is ignored."""
        if text:
            self.faults.append(text)
            self.add_warning(text)
        return text

    def mask(self, secret: str) -> None:
        """Mask a secret in the output of jobs from now on."""
        data = os.fsencode(secret)
        if len(data) >= SHORTEST:
            # A new set: other jobs may be writing.
            self._secrets |= {data}

    def output(self, job: str, data: bytes) -> None:
        """Log output lines of a job unchanged, except for secrets; each has the name of the job in front."""
        for secret in self._secrets:
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
        """Return the last lines of a job, safe for a terminal."""
        return [printable(line) for line in self._tails.get(job, ())]

    def _append(self, data: bytes) -> None:
        with self._guard:
            for path, descriptor in self._files.items():
                try:
                    write_all(descriptor, data)
                except OSError as error:
                    self._failed(path, error)
            if self._shown:
                sys.stderr.write("".join(f"{printable(line)}\n" for line in data.split(b"\n")[:-1]))

    def close(self) -> None:
        """Close the log files."""
        for descriptor in self._files.values():
            os.close(descriptor)
        self._files = {}


def printable(data: bytes) -> str:
    """Return a line with control characters escaped: output of a job must not control the terminal (R17)."""
    text = data.decode("utf-8", "backslashreplace")
    return "".join(c if c.isprintable() or c == "\t" else c.encode("unicode_escape").decode() for c in text)


def _rotate(name: str, folder: int) -> None:
    """Start a new file if this one is too large; the oldest is deleted."""
    try:
        if os.stat(name, dir_fd=folder, follow_symlinks=False).st_size <= LARGEST:
            return
    except FileNotFoundError:
        return
    for number in range(KEPT, 0, -1):
        former = f"{name}.{number - 1}" if number > 1 else name
        with suppress(FileNotFoundError):
            os.rename(former, f"{name}.{number}", src_dir_fd=folder, dst_dir_fd=folder)
