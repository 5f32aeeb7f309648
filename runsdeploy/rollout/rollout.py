"""Rollouts: the plans of several hosts, a few at a time, their events told to one listener.

Sessions run in threads of their own; everything that is heard is handled here, in the caller's thread,
one event after the other.
"""

from __future__ import annotations

import functools
import os
import queue
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Protocol

from msgspec import Struct

from runsdeploy.errors import HostError
from runsdeploy.events import Event
from runsdeploy.output.console import discard_output
from runsdeploy.plan.plan import Plan
from runsdeploy.session.report import Fold, HostReport
from runsdeploy.session.run import Run


class Listener(Protocol):
    """Is told what happens, from one thread."""

    def begin(self, plan: Plan) -> None:
        """A host's session begins."""

    def hear(self, plan: Plan, event: Event, fold: Fold) -> None:
        """Something happened on a host; `fold` knows it already."""

    def end(self, report: HostReport) -> None:
        """A host is done with."""

    def stopping(self, said: str) -> None:
        """The operator asked to stop; `said` is what happens now."""


class _Ended(Struct, frozen=True):
    error: HostError | None
    seconds: float


class _Signal(Struct, frozen=True):
    said: str
    """what it does; empty if it makes us leave"""


_Message = _Signal | tuple[Run, "Event | _Ended | None"]
"""a signal, or a run and what happened to it; None: it begins"""

LEAVING = 2.0
"""seconds that a listener nobody reads from may keep us, once we were told to leave"""


class Interrupted(BaseException):
    """A signal asked us to stop."""

    def __init__(self, number: int) -> None:
        self.number = number
        super().__init__(number)


@contextmanager
def _handling(handler: Callable[[int], None]) -> Iterator[None]:
    """Have SIGINT and SIGTERM handled by a function, where signals can be handled at all."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def handle(number: int, _frame: FrameType | None) -> None:
        handler(number)

    before = {each: signal.signal(each, handle) for each in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for each, former in before.items():
            signal.signal(each, former)


@contextmanager
def interruptible() -> Iterator[None]:
    """Make SIGINT and SIGTERM raise Interrupted."""

    def interrupt(number: int) -> None:
        raise Interrupted(number)

    with _handling(interrupt):
        yield


def roll_out(runs: Sequence[Run], listener: Listener, parallel: int) -> tuple[list[HostReport], int]:
    """Do all runs, at most `parallel` at a time; return their reports in order, and the signal that stopped it or 0.

    The first signal lets running steps end and starts no other, the second ends them, the third leaves.
    """
    return _Rollout(runs, listener).go(parallel)


_STEPS: tuple[tuple[Callable[[Run], None], str], ...] = (
    (Run.request_stop, "stopping after the running step; interrupt again to end it"),
    (Run.request_kill, "ending the running step, by force after 5 s; interrupt again to leave it to itself"),
)
"""what the first signals do"""


class _Rollout:
    def __init__(self, runs: Sequence[Run], listener: Listener) -> None:
        self.runs, self.listener = runs, listener
        self.folds = {id(run): Fold(run.plan) for run in runs}
        self.reports: dict[int, HostReport] = {}
        self.heard: queue.SimpleQueue[_Message] = queue.SimpleQueue()
        self.waiting: queue.SimpleQueue[Run] = queue.SimpleQueue()
        self.signal = 0
        # Two, for a signal may come while either is counted up.
        self.interrupts = self.answers = 0
        self.asked: queue.SimpleQueue[int | None] = queue.SimpleQueue()
        self.left = threading.Event()
        # One event of a host at a time: what is not shown yet is not acknowledged, and waits on the target.
        self.handled = {id(run): threading.Semaphore(0) for run in runs}

    def go(self, parallel: int) -> tuple[list[HostReport], int]:
        for run in self.runs:
            self.waiting.put(run)
        # This thread may be waiting for whoever reads what we write: signals are obeyed by one of their own, and are
        # one more message here. Raised here, they could come between a message and its handling.
        threading.Thread(target=self._obey, daemon=True).start()
        with _handling(self._interrupt):
            for _ in range(min(parallel, len(self.runs))):
                # Daemons: giving up must not wait for a connection that hangs.
                threading.Thread(target=self._work, daemon=True).start()
            while len(self.reports) < len(self.runs) or self.answers < self.interrupts:
                message = self.heard.get()
                if not isinstance(message, _Signal):
                    self._handle(*message)
                    continue
                if not message.said:
                    break
                self.answers += 1
                self._tell(functools.partial(self.listener.stopping, message.said))
        for run in self.runs:
            if id(run) not in self.reports:
                run.discard_files()
                self.folds[id(run)].finished = "interrupted"
                self._close(run, _Ended(None, 0.0))
        self.left.set()
        self.asked.put(None)
        return [self.reports[id(run)] for run in self.runs], self.signal

    def _interrupt(self, number: int) -> None:
        # At once: the last host may end before anybody obeyed.
        self.signal = number
        self.interrupts += 1
        self.asked.put(number)

    def _obey(self) -> None:
        for wish, said in _STEPS:
            number = self.asked.get()
            if number is None:
                return
            for run in self.runs:
                wish(run)
            self.heard.put(_Signal(said))
        number = self.asked.get()
        if number is None:
            return
        self.heard.put(_Signal(""))
        if not self.left.wait(LEAVING):
            os._exit(128 + number)

    def _tell(self, say: Callable[[], None]) -> None:
        """Tell the listener; a reader who has seen enough ends nothing."""
        try:
            say()
        except BrokenPipeError:
            discard_output()

    def _work(self) -> None:
        while True:
            try:
                run = self.waiting.get_nowait()
            except queue.Empty:
                return
            self._do(run)

    def _do(self, run: Run) -> None:
        began = time.monotonic()
        error: HostError | None = None
        if run.stop_requested:
            self.folds[id(run)].finished = "interrupted"
        else:
            self.heard.put((run, None))
            try:
                for event in run.events():
                    self.heard.put((run, event))
                    self.handled[id(run)].acquire()
            except HostError as failed:
                error = failed
            except Exception as failed:  # noqa: BLE001 - one host's surprise must not silence the others
                error = HostError(f"runsdeploy itself failed: {type(failed).__name__}: {failed}")
        self.heard.put((run, _Ended(error, time.monotonic() - began)))

    def _handle(self, run: Run, message: Event | _Ended | None) -> None:
        if message is None:
            self._tell(lambda: self.listener.begin(run.plan))
        elif isinstance(message, _Ended):
            self._close(run, message)
        else:
            self.folds[id(run)].add(message)
            self._tell(lambda: self.listener.hear(run.plan, message, self.folds[id(run)]))
            self.handled[id(run)].release()

    def _close(self, run: Run, ended: _Ended) -> None:
        report = self.folds[id(run)].close(ended.seconds, ended.error)
        self.reports[id(run)] = report
        self._tell(lambda: self.listener.end(report))
