"""HostConnection: opened once, reopened after a loss, and what it reads in advance."""

from __future__ import annotations

import contextlib
import subprocess
import sys

import pytest

from runsdeploy.errors import Unreachable
from runsdeploy.transport.host_connection import HostConnection, preload
from runsdeploy.transport.local import LocalTransport
from tests.trees import wait_until


def output_of(transport, command):
    channel = transport.open(command)
    channel.close_input()
    return b"".join(iter(channel.receive, b""))


def test_all_requests_share_one_connection_and_a_broken_one_is_replaced(host):
    with contextlib.closing(HostConnection(host.name, str(host.ssh_config))) as connection:
        first = connection.open()
        assert connection.open() is first
        host.cut()
        wait_until(lambda: not first.alive)
        assert output_of(connection.open(), "echo hi") == b"hi\n"
    wait_until(lambda: not host.connections())


def test_a_host_that_was_looked_up_is_reached_without_its_configuration(host, tmp_path):
    config = tmp_path / "config"
    config.write_bytes(host.ssh_config.read_bytes())
    connection = HostConnection(host.name, str(config))
    for thread in preload([connection]):
        thread.join()
    config.unlink()
    with contextlib.closing(connection):
        assert output_of(connection.open(), "echo hi") == b"hi\n"


def test_an_error_of_the_look_up_is_raised_when_the_connection_is_opened(tmp_path):
    connection = HostConnection("medusa.univ.run", str(tmp_path / "missing"))
    connection.look_up()
    with pytest.raises(Unreachable, match="cannot read the ssh configuration"):
        connection.open()
    connection.close()


def test_o11_only_the_first_connection_reports_what_it_waits_for(host, monkeypatch):
    """O11: later ones are attempts of a session, which has reported that it connects again."""
    given = []
    monkeypatch.setattr(
        "runsdeploy.transport.ssh.connecting.connect", lambda *words: given.append(words[1].notify) or LocalTransport()
    )
    connection = HostConnection(host.name, notify=print)
    connection.open()
    connection._transport = None
    connection.open()
    assert given[0] is print
    assert given[1] is not print


@pytest.mark.parametrize("accept_new", [False, True])
def test_accept_new_is_passed_on(sshd, accept_new):
    host = sshd(known=False)
    connection = HostConnection(host.name, str(host.ssh_config), accept_new=accept_new)
    with contextlib.closing(connection):
        if not accept_new:
            with pytest.raises(Unreachable, match="is not known"):
                connection.open()
        else:
            assert connection.open().alive
    assert (host.public_host_key() in host.known_hosts.read_text()) == accept_new


def test_a_local_connection_needs_no_name_and_no_ssh_library():
    program = """
import sys
from runsdeploy.transport.host_connection import HostConnection, preload
connection = HostConnection("no such host", local=True)
assert preload([connection]) == []
connection.open().open("exit 3").exit_status() == 3 or sys.exit("not run")
connection.close()
sys.exit(" ".join({"paramiko", "cryptography"} & set(sys.modules)) or None)
"""
    done = subprocess.run([sys.executable, "-c", program], check=False, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    assert isinstance(HostConnection("x", local=True).open(), LocalTransport)
