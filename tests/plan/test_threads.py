"""The same work for many hosts, side by side (D25)."""

from __future__ import annotations

import threading

import pytest

from runsdeploy.plan import threads
from runsdeploy.plan.threads import Stopped, number_of_threads, run_all


def test_results_come_in_the_order_of_the_items():
    """The first one waits for the last one, so they do run side by side."""
    last = threading.Event()

    def do(item, progress):
        progress.name = str(item)
        if item == 3:
            last.set()
        else:
            assert last.wait(60)
        return item * 2

    assert run_all(do, range(4), most=4) == [0, 2, 4, 6]


def test_there_are_never_more_threads_than_asked_for():
    at_work, most = set(), []

    def do(item, _):
        at_work.add(item)
        most.append(len(at_work))
        at_work.remove(item)

    run_all(do, range(50), most=3)
    assert max(most) <= 3
    assert 2 <= number_of_threads() <= threads.MOST
    assert run_all(do, []) == []


def test_the_first_exception_in_the_order_of_the_items_is_raised_when_all_are_done():
    done = []

    def do(item, _):
        done.append(item)
        if item % 2:
            raise KeyError(item)

    with pytest.raises(KeyError, match="1"):
        run_all(do, range(6))
    assert sorted(done) == list(range(6))


def test_an_exception_in_the_callers_thread_stops_all_threads(monkeypatch):
    """As an interrupt does: what was not begun never is, and what is busy is waited for."""
    monkeypatch.setattr(threads, "PAUSE", 0.01)
    began, ended = [], []

    class Listener:
        def update(self, _done, _total, running):
            if len(running) == 2 and all(each.busy for each in running):
                raise KeyboardInterrupt

    def do(item, progress):
        began.append(item)
        try:
            with progress.working():
                while True:
                    progress.check()
        except Stopped:
            ended.append(item)
            raise

    with pytest.raises(KeyboardInterrupt):
        run_all(do, range(9), Listener(), most=2)
    assert sorted(ended) == sorted(began) == [0, 1]
