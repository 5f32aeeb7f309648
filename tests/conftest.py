"""A test that hangs past its time limit, in what cleans up behind it too, names itself and ends."""

from __future__ import annotations

import faulthandler
import os
import signal

import pytest
from hypothesis import HealthCheck, settings

# How long an example takes says how busy the machine is. (Where CI is set Hypothesis does the same by itself.)
settings.register_profile("unhurried", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("unhurried")

GRACE = 180
"""seconds behind its time limit that a test may take to clean up"""

_stderr = 2


def pytest_configure() -> None:
    """Keep what stderr is while nothing is captured, and take back what a shell had us ignore."""
    global _stderr  # noqa: PLW0603 - of this process
    _stderr = os.dup(2)
    # A shell that starts us in the background has us ignore them, and all that we start would be born so.
    for number, usual in ((signal.SIGINT, signal.default_int_handler), (signal.SIGQUIT, signal.SIG_DFL)):
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, usual)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item):
    """End the process with the stacks of all its threads; xdist then tells which test it was, and goes on.

    pytest-timeout raises once, in the main thread: what then waits in a `finally` waits without end.
    """
    marker = item.get_closest_marker("timeout")
    limit = float(marker.args[0] if marker else item.config.getini("timeout") or 120)
    faulthandler.dump_traceback_later(limit + GRACE, exit=True, file=_stderr)
    try:
        return (yield)
    finally:
        faulthandler.cancel_dump_traceback_later()
