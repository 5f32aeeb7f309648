"""A rollout: the sessions of several hosts, a few at a time, with one listener for their events.

Each session runs in a thread of a pool. The caller's thread handles all events, one after the other.
"""

from __future__ import annotations

import functools
import os
import queue
import threading
import time
from collections.abc import Callable, Sequence
from typing import Protocol

from msgspec import Struct

from runsdeploy import exit_status
from runsdeploy.errors import ControllerFailed, HostError, failure_of, is_limit
from runsdeploy.events import Event
from runsdeploy.output.terminal import discard_output
from runsdeploy.output.unforeseen import problem_of
from runsdeploy.plan.plan import Plan
from runsdeploy.rollout.interrupts import handling
from runsdeploy.session.report import Fold, HostReport
from runsdeploy.session.run import Run


class Listener(Protocol):
    """Receives everything that happens in a rollout, in one thread."""

    def begin(self, plan: Plan) -> None:
        """A host's session begins."""

    def event(self, plan: Plan, event: Event, fold: Fold) -> None:
        """Something happened on a host; `fold` already includes it."""

    def end(self, report: HostReport) -> None:
        """A host's session is over."""

    def stopping(self, message: str) -> None:
        """The operator interrupted; `message` says what happens now."""


class _Ended(Struct, frozen=True):
    """The end of a session."""

    error: HostError | None
    seconds: float


class _Signal(Struct, frozen=True):
    """A signal that was obeyed."""

    message: str
    """what it does; empty if it ends the rollout at once"""


_Message = _Signal | tuple[Run, "Event | _Ended | None"]
"""a signal, or a session and what happened in it; None: it begins"""

LEAVING = 2.0
"""seconds that an unread output may delay the end after the third interrupt"""

_STEPS: tuple[tuple[Callable[[Run], None], str], ...] = (
    (Run.request_stop, "stopping after the running step; interrupt again to end it"),
    (Run.request_kill, "ending the running step, by force after 5 s; interrupt again to leave it running"),
)
"""what the first and the second interrupt do"""


def roll_out(runs: Sequence[Run], listener: Listener, parallel: int) -> tuple[list[HostReport], int]:
    """Run all sessions, at most `parallel` at a time; return their reports in order, and the signal that ended it or 0.

    The first signal lets running steps end and starts no further step, the second ends running steps, the third ends
    the rollout and leaves the steps running. When the reader of the output closed the pipe that ends no session. Where
    the output cannot be shown for another reason, no further step starts, and what was not shown is not acknowledged:
    the next deploy shows it. Then that exception is raised when all sessions are over.
    """
    return _Rollout(runs, listener).run(parallel)


class _Rollout:
    """The state of one rollout."""

    def __init__(self, runs: Sequence[Run], listener: Listener) -> None:
        self.runs, self.listener = runs, listener
        self.failure: Exception | None = None
        self.folds = {id(run): Fold(run.plan) for run in runs}
        self.reports: dict[int, HostReport] = {}
        self.messages: queue.SimpleQueue[_Message] = queue.SimpleQueue()
        self.waiting: queue.SimpleQueue[Run] = queue.SimpleQueue()
        self.signal = 0
        # Two counters: a signal may arrive while either is incremented.
        self.interrupts = self.answers = 0
        self.signals: queue.SimpleQueue[int | None] = queue.SimpleQueue()
        self.over = threading.Event()
        # One event of a host at a time: output that is not shown yet is not acknowledged, and stays on the target.
        self.handled = {id(run): threading.Semaphore(0) for run in runs}

    def run(self, parallel: int) -> tuple[list[HostReport], int]:
        """Run all sessions; return their reports, and the signal that ended it."""
        for run in self.runs:
            self.waiting.put(run)
        # This thread may wait for the reader of its output, so a thread of its own obeys signals and queues a message
        # here. An exception raised here instead could come between a message and its handling.
        threading.Thread(target=self._obey, daemon=True).start()
        with handling(self._interrupt):
            for _ in range(min(parallel, len(self.runs))):
                # Daemons: the end must not wait for a connection that hangs.
                threading.Thread(target=self._work, daemon=True).start()
            while len(self.reports) < len(self.runs) or self.answers < self.interrupts:
                message = self.messages.get()
                if not isinstance(message, _Signal):
                    self._handle(*message)
                    continue
                if not message.message:
                    break
                self.answers += 1
                self._notify(functools.partial(self.listener.stopping, message.message))
        for run in self.runs:
            if id(run) not in self.reports:
                run.discard_files()
                self.folds[id(run)].finished = "interrupted"
                self._close(run, _Ended(None, 0.0))
        self.over.set()
        self.signals.put(None)
        if self.failure:
            raise self.failure
        return [self.reports[id(run)] for run in self.runs], self.signal

    def _interrupt(self, number: int) -> None:
        """Note a signal, in the signal handler."""
        # At once: the last host may end before the other thread obeys.
        self.signal = number
        self.interrupts += 1
        self.signals.put(number)

    def _obey(self) -> None:
        """Do what each signal asks for, in a thread of its own."""
        for request, message in _STEPS:
            number = self.signals.get()
            if number is None:
                return
            for run in self.runs:
                request(run)
            self.messages.put(_Signal(message))
        number = self.signals.get()
        if number is None:
            return
        self.messages.put(_Signal(""))
        if not self.over.wait(LEAVING):
            for run in self.runs:
                run.discard_files()
            os._exit(exit_status.SIGNALLED + number)

    def _notify(self, call: Callable[[], None]) -> None:
        """Call the listener; a reader that closed the pipe ends no session, output that cannot be shown does."""
        try:
            call()
        except BrokenPipeError:
            discard_output()
        except Exception as error:  # noqa: BLE001 - raised when all sessions are over, and no host is held any more
            discard_output(str(error.filename) if isinstance(error, OSError) else "")
            self.failure = self.failure or error
            for run in self.runs:
                run.withhold()

    def _work(self) -> None:
        """Run sessions until none is left, in a thread of the pool."""
        while True:
            try:
                run = self.waiting.get_nowait()
            except queue.Empty:
                return
            self._do(run)

    def _do(self, run: Run) -> None:
        """Run one session and queue its events."""
        began = time.monotonic()
        error: HostError | None = None
        if not run.stop_requested:
            self.messages.put((run, None))
            # A host whose beginning cannot be shown is not begun.
            self.handled[id(run)].acquire()
        if run.stop_requested:
            self.folds[id(run)].finished = "interrupted"
        else:
            try:
                for event in run.events():
                    self.messages.put((run, event))
                    self.handled[id(run)].acquire()
            except HostError as failed:
                error = failed
            except Exception as failed:  # noqa: BLE001 - a mistake of ours on one host must not hide the other hosts
                problem = failure_of(failed) if is_limit(failed) else problem_of(failed, "a session of a rollout")
                error = ControllerFailed(problem.message, problem.hint)
        self.messages.put((run, _Ended(error, time.monotonic() - began)))

    def _handle(self, run: Run, message: Event | _Ended | None) -> None:
        """Add an event to the report and show it, in the caller's thread."""
        if message is None:
            self._notify(lambda: self.listener.begin(run.plan))
            self.handled[id(run)].release()
        elif isinstance(message, _Ended):
            self._close(run, message)
        else:
            self.folds[id(run)].add(message)
            self._notify(lambda: self.listener.event(run.plan, message, self.folds[id(run)]))
            self.handled[id(run)].release()

    def _close(self, run: Run, ended: _Ended) -> None:
        """Make the report of a host, and show it."""
        report = self.folds[id(run)].close(ended.seconds, ended.error)
        self.reports[id(run)] = report
        self._notify(lambda: self.listener.end(report))
