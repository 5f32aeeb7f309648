"""Threads: the same work for many hosts, side by side. CONF mostly waits, so there are more threads than processors."""

from __future__ import annotations

import os
import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol, TypeVar

from msgspec import Struct, field

MOST = 32
"""most threads: each has a bash and a work directory"""
PER_PROCESSOR = 4
"""threads for each processor, of which most wait for what a section calls"""
PAUSE = 0.1
"""seconds between two looks: of a thread whether it shall stop, of `run_all` what the threads work on"""
LEAVING = 5.0
"""seconds that an interrupt waits at most for the threads to end their processes"""

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


class Stopped(Exception):
    """The work was stopped: nobody waits for its result."""


class Progress(Struct):
    """What one thread works on."""

    name: str = ""
    """of the host"""
    section: str = ""
    """the file whose section bash evaluates; empty while none is"""
    busy: bool = False
    """whether the thread has processes that it must end before the program does"""
    stopped: bool = False
    """whether the thread shall end"""

    def check(self) -> None:
        """Raise Stopped if the thread shall end."""
        if self.stopped:
            raise Stopped

    @contextmanager
    def working(self) -> Iterator[None]:
        """Say that the thread has processes; raises Stopped if it shall end."""
        self.busy = True
        try:
            self.check()
            yield
        finally:
            self.busy, self.section = False, ""


class ProgressListener(Protocol):
    """Is told from time to time how far the work is, in the thread of the caller."""

    def update(self, done: int, total: int, running: Sequence[Progress]) -> None:
        """So many are done; `running` are the others that were begun, the oldest first."""


class _Work(Struct):
    """What the threads share."""

    waiting: queue.SimpleQueue[int] = field(default_factory=queue.SimpleQueue)
    """indices of the items that no thread has begun"""
    ended: queue.SimpleQueue[tuple[int, object, BaseException | None]] = field(default_factory=queue.SimpleQueue)
    running: dict[int, Progress] = field(default_factory=dict)
    stopped: bool = False


def run_all(
    do: Callable[[_Item, Progress], _Result],
    items: Sequence[_Item],
    listener: ProgressListener | None = None,
    most: int | None = None,
) -> list[_Result]:
    """Call a function for each item, in at most `most` threads; return the results in the order of the items.

    The first exception in that order is raised when all items are done. At an exception in this thread, such as an
    interrupt, all that runs is asked to stop and waited for; `do` hands its Progress to all that takes time.
    """
    work = _Work()
    for index in range(len(items)):
        work.waiting.put(index)
    results: dict[int, _Result] = {}
    errors: dict[int, BaseException] = {}
    count = min(most or number_of_threads(), len(items))
    # Daemons: a connection that hangs must not delay the end of the program.
    threads = [threading.Thread(target=_run, args=(work, do, items), daemon=True) for _ in range(count)]
    try:
        for thread in threads:
            thread.start()
        while len(results) + len(errors) < len(items):
            try:
                index, result, error = work.ended.get(timeout=PAUSE)
            except queue.Empty:
                pass
            else:
                if error:
                    errors[index] = error
                else:
                    results[index] = result  # type: ignore[assignment]
            if listener:
                listener.update(len(results) + len(errors), len(items), list(work.running.values()))
    except BaseException:
        _stop(work)
        raise
    for index in sorted(errors):
        raise errors[index]
    return [results[index] for index in range(len(items))]


def number_of_threads() -> int:
    """Return how many hosts are planned side by side."""
    return min(MOST, PER_PROCESSOR * processors())


def processors() -> int:
    """Return how many processors this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # macOS
        return os.cpu_count() or 1


def _run(work: _Work, do: Callable[[_Item, Progress], object], items: Sequence[_Item]) -> None:
    """Do one item after the other, in a thread."""
    while True:
        try:
            index = work.waiting.get_nowait()
        except queue.Empty:
            return
        progress = work.running[index] = Progress()
        result, error = None, None
        try:
            # Now: `_stop` either finds it there, or was before.
            if work.stopped:
                return
            result = do(items[index], progress)
        except BaseException as failed:  # noqa: BLE001 - raised again in the thread of the caller
            error = failed
        del work.running[index]
        work.ended.put((index, result, error))


def _stop(work: _Work) -> None:
    """Have all threads end, and wait until they have ended their processes; not for a host that does not answer."""
    work.stopped = True
    until = time.monotonic() + LEAVING
    while time.monotonic() < until:
        begun = list(work.running.values())
        for progress in begun:
            progress.stopped = True
        if not any(progress.busy for progress in begun):
            return
        time.sleep(PAUSE / 10)
