"""Fake hosts for the tests: real sshds, each gone with everything it started when its test is over."""

from __future__ import annotations

import contextlib

import pytest

from tests.integration.sshd import FakeHost
from tests.integration.trees import Operator, remove


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
