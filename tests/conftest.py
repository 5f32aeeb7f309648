"""Fake hosts, each an sshd of its own that ends with its test; and the end of a test that hangs."""

from __future__ import annotations

import contextlib
import faulthandler
import os
import signal

import pytest
from hypothesis import HealthCheck, settings

from tests.sshd import FakeHost
from tests.trees import Operator, remove

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


@pytest.fixture(autouse=True)
def _no_agent_of_the_developer(monkeypatch):
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)


@pytest.fixture
def sshd(tmp_path):
    """Start fake hosts: `sshd("medusa.univ.run", known=False)`."""
    hosts = []

    def start(name="medusa.univ.run", **options):
        host = FakeHost(name, tmp_path / f"host{len(hosts)}", **options)
        hosts.append(host)
        host.start()
        return host

    with contextlib.ExitStack() as teardown:
        teardown.callback(lambda: [_end(host) for host in hosts])
        yield start


def _end(host):
    host.stop()
    print(f"--- sshd of {host.name}\n{host.log()}")
    assert not host.processes(), f"{host.name} left processes behind"


@pytest.fixture
def host(sshd):
    """Start one fake host."""
    return sshd("medusa.univ.run")


@pytest.fixture(scope="module")
def shared_host(tmp_path_factory):
    """One sshd for a whole table of cases."""
    with FakeHost("medusa.univ.run", tmp_path_factory.mktemp("shared")) as host:
        yield host


@pytest.fixture
def target(shared_host):
    """That host, with an empty home and no state."""
    for directory in (shared_host.home, shared_host.state):
        remove(directory)
    shared_host.home.mkdir()
    return shared_host


@pytest.fixture
def operator(target, tmp_path):
    """Somebody who deploys to that host."""
    return Operator(tmp_path / "operator", target.ssh_config)
