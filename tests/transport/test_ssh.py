"""The SSH transport against real sshds: bytes, refusals, messages."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import os
import pwd
import random
import re
import shlex
import shutil
import socket
import stat
import struct
import subprocess
import threading
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runsdeploy.errors import HostError, InputError, Lost, Refused, Unreachable
from runsdeploy.transport.address import split_jump, split_user
from runsdeploy.transport.ssh import connecting
from runsdeploy.transport.ssh.paramiko_library import BoundedTransport
from runsdeploy.transport.ssh_config import resolve
from runsdeploy.transport.wait import Wait
from runsdeploy.tree.selection import Choice, select
from runsdeploy.tree.trees import Trees
from tests.sshd import make_key
from tests.trees import wait_until

NO_RETRY = ()


def options(host, **more):
    return connecting.Options(**{"ssh_config": str(host.ssh_config), "retry_delays": NO_RETRY, **more})


@contextlib.contextmanager
def connected(host, **more):
    with contextlib.closing(connecting.connect(host.name, options(host, **more))) as connection:
        yield connection


def finish(channel):
    """Return the rest of a command's output, and its exit status."""
    channel.close_input()
    return b"".join(iter(channel.receive, b"")), channel.exit_status()


def run(connection, command):
    return finish(connection.open(command))


def refused(host, **more):
    with pytest.raises(Unreachable) as caught:
        connecting.connect(host.name, options(host, **more))
    return caught.value


def stopped_before_authentication(host):
    log = host.log()
    return "publickey" not in log and "userauth" not in log and "Starting session" not in log


@pytest.fixture
def silent():
    """Listen on a port where the kernel accepts connections and no program answers."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)  # noqa: FBT003
        yield listener


@pytest.fixture
def silent_port(silent):
    return silent.getsockname()[1]


def callers(listener):
    """Count the connections that are not accepted yet."""
    with contextlib.suppress(BlockingIOError):
        for count in itertools.count():  # noqa: B007
            listener.accept()[0].close()
    return count


@pytest.fixture
def agent(tmp_path, monkeypatch):
    """Start an ssh-agent for the test."""
    path = tmp_path / "agent"
    with subprocess.Popen(["ssh-agent", "-D", "-a", str(path)], stdout=subprocess.DEVNULL) as process:
        wait_until(lambda: answers(path))
        monkeypatch.setenv("SSH_AUTH_SOCK", str(path))
        yield path
        process.terminate()


def answers(path):
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(path))
        return True
    return False


# --- commands


def test_a_mebibyte_goes_both_ways_unchanged(host):
    data = os.urandom(1 << 20)
    with connected(host) as connection:
        channel = connection.open("cat")
        sender = threading.Thread(target=lambda: (channel.send(data), channel.close_input()))
        sender.start()
        back = b"".join(iter(channel.receive, b""))
        sender.join()
        assert hashlib.sha256(back).digest() == hashlib.sha256(data).digest()
        assert channel.exit_status() == 0


def test_every_byte_value_arrives(host):
    with connected(host) as connection:
        channel = connection.open("cat")
        channel.send(bytes(range(256)))
        assert finish(channel) == (bytes(range(256)), 0)


def test_status_and_stderr_of_several_commands_on_one_connection(host):
    with connected(host) as connection:
        for status in (0, 1, 42, 255):
            channel = connection.open(f"echo out; echo err {status} >&2; exit {status}")
            assert finish(channel) == (b"out\n", status)
            assert channel.stderr() == f"err {status}\n".encode()
    assert host.log().count("Accepted publickey") == 1


def test_the_environment_is_the_fake_hosts_own(host):
    with connected(host) as connection:
        out, _ = run(connection, 'echo "$HOME:$RUNSDEPLOY_STATE_DIR:[${XDG_STATE_HOME-unset}]"')
    assert out.decode() == f"{host.home}:{host.state}:[]\n"


def test_much_stderr_stops_nothing_and_its_end_is_kept(host):
    with connected(host) as connection:
        channel = connection.open("head -c 40000000 /dev/zero >&2; printf end >&2; echo done")
        assert finish(channel) == (b"done\n", 0)
        assert len(channel.stderr()) == 64 * 1024
        assert channel.stderr().endswith(b"end")


def test_a_command_killed_by_a_signal_has_no_status(host):
    with connected(host) as connection:
        assert run(connection, "kill -9 $$") == (b"", None)


def test_input_for_a_command_that_ended_is_lost(host):
    with connected(host) as connection:
        channel = connection.open("exit 3")
        assert channel.receive() == b""
        assert channel.exit_status() == 3
        with pytest.raises(Lost, match="accepts no more input"):
            channel.send(b"x" * 5_000_000)


def test_sending_after_the_end_of_input_does_not_hang(host):
    with connected(host) as connection:
        channel = connection.open("sleep 60")
        channel.close_input()
        with pytest.raises(Lost):
            channel.send(b"more")


def test_r38_one_session_too_many_is_refused(sshd):
    """MaxSessions of sshd."""
    host = sshd(server=("MaxSessions 1",))
    with connected(host) as connection:
        first = connection.open("cat")
        with pytest.raises(Refused, match=r"refused to start a command"):
            connection.open("true")
        assert finish(first) == (b"", 0)


def test_s11_nothing_is_forwarded(sshd):
    """For any configuration."""
    host = sshd(client=("ForwardAgent yes", "ForwardX11 yes", "LocalForward 127.0.0.1:1 127.0.0.1:2"))
    with connected(host) as connection:
        out, _ = run(connection, "echo $SSH_AUTH_SOCK$DISPLAY")
    assert out == b"\n"


def test_no_failure_prints_anything(host, capfd):
    with connected(host) as connection:
        channel = connection.open("sleep 60")
        host.cut()
        with pytest.raises(Lost):
            channel.receive()
    host.authorized_keys.write_text("")
    refused(host)
    assert capfd.readouterr() == ("", "")


# --- lost connections


def test_r4_r5_a_killed_sshd_is_a_loss_without_status(host):
    """The end of the connection is not the end of the output."""
    with connected(host) as connection:
        channel = connection.open("echo started; sleep 60")
        assert channel.receive() == b"started\n"
        host.cut()
        with pytest.raises(Lost, match=r"lost `medusa\.univ\.run`"):
            channel.receive()
        assert channel.exit_status() is None
        with pytest.raises(Lost):
            channel.send(b"x")
        with pytest.raises(Lost):
            connection.open("true")
        channel.close_input()
        channel.close()


def test_r5_a_half_open_connection_is_noticed(sshd):
    """No bytes arrive, and no error."""
    host = sshd(client=("ServerAliveInterval 1", "ServerAliveCountMax 1"))
    with connected(host) as connection:
        channel = connection.open("echo started; sleep 60")
        assert channel.receive() == b"started\n"
        host.freeze()
        with pytest.raises(Lost, match=r"nothing received for \d+ s") as caught:
            channel.receive()
        assert 2 <= int(re.findall(r"\d+", str(caught.value))[-1]) < 30, "by default it takes 53 s"


def test_r5_a_half_open_connection_is_noticed_while_sending(sshd):
    """The buffers are full and stay full."""
    host = sshd(client=("ServerAliveInterval 1", "ServerAliveCountMax 1"))
    with connected(host) as connection:
        channel = connection.open("echo started; cat >/dev/null")
        assert channel.receive() == b"started\n"
        host.freeze()
        start = time.monotonic()
        with pytest.raises(Lost):
            channel.send(bytes(64 << 20))
        assert time.monotonic() - start < 30, "by default it takes 53 s"


def test_r5_a_silent_command_is_not_a_lost_one(sshd, monkeypatch):
    """The server answers the keepalive, and that ends the silence."""
    host = sshd(client=("ServerAliveInterval 1", "ServerAliveCountMax 60"))
    sent, send = [], BoundedTransport.send_keepalive
    monkeypatch.setattr(BoundedTransport, "send_keepalive", lambda ssh: (sent.append(time.monotonic()), send(ssh)))
    with connected(host) as connection:
        channel = connection.open("cat")
        wait_until(lambda: sent and connection._ssh.sock._last_received > sent[0])
        channel.send(b"there")
        assert finish(channel) == (b"there", 0)


def test_r5_a_suspended_controller_sends_a_keepalive_before_it_gives_up(host):
    """As after Ctrl-Z, or on a machine that was busy or suspended."""
    with connected(host) as connection:
        channel, sock = connection.open("cat"), connection._ssh.sock
        sock._last_received -= 1000
        wait_until(lambda: time.monotonic() - sock._last_received < 500)
        channel.send(b"there")
        assert finish(channel) == (b"there", 0)


def test_closing_twice_is_harmless(host):
    connection = connecting.connect(host.name, options(host))
    channel = connection.open("cat")
    for _ in range(2):
        channel.close()
        connection.close()
    wait_until(lambda: not host.processes())


# --- host keys


def test_r20_s1_an_unknown_key_is_refused_before_anything_is_sent(sshd):
    host = sshd(known=False)
    error = refused(host)
    assert f"ssh-ed25519 {host.fingerprint()}" in error.message
    assert f"[127.0.0.1]:{host.port}" in error.message
    assert "`medusa.univ.run`" in error.message
    assert "--accept-new" in error.hint
    assert stopped_before_authentication(host)
    assert host.known_hosts.read_bytes() == b""


@pytest.mark.parametrize("hashed", [False, True])
def test_r20_s1_accept_new_records_the_key(sshd, hashed):
    """Accepted by the option and then known, with a plain or a hashed name."""
    host = sshd(known=False, client=(f"HashKnownHosts {'yes' if hashed else 'no'}",))
    host.known_hosts.unlink()
    messages = []
    with connected(host, accept_new=True, warn=messages.append) as connection:
        assert run(connection, "echo hi") == (b"hi\n", 0)
    assert stat.S_IMODE(host.known_hosts.stat().st_mode) == 0o600
    assert host.known_hosts.read_text().startswith("|1|" if hashed else f"[127.0.0.1]:{host.port} ")
    assert len(messages) == 1
    assert host.fingerprint() in messages[0]
    connecting.connect(host.name, options(host)).close()
    host.new_host_key()
    assert "changed" in refused(host, accept_new=True).message


@pytest.mark.parametrize("strict", ["accept-new", "no", "off"])
def test_r20_s1_the_configuration_may_accept_new_keys(sshd, strict):
    """As weak as the operator's own ssh, never weaker."""
    host = sshd(known=False, client=(f"StrictHostKeyChecking {strict}",))
    connecting.connect(host.name, options(host, warn=lambda _: None)).close()
    assert host.public_host_key() in host.known_hosts.read_text()


@pytest.mark.parametrize("strict", ["yes", "ask"])
def test_r20_s1_nobody_is_asked(sshd, strict):
    host = sshd(known=False, client=(f"StrictHostKeyChecking {strict}",))
    assert "is not known" in refused(host).message


def test_a_new_key_is_added_after_a_torn_line_in_a_new_directory(sshd, tmp_path):
    directory = tmp_path / "new" / "ssh"
    file = directory / "known"
    host = sshd(known=False, client=(f"UserKnownHostsFile {file}",))
    connecting.connect(host.name, options(host, accept_new=True, warn=lambda _: None)).close()
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    file.write_text("other ssh-ed25519 AAAA")
    connecting.connect(host.name, options(host, accept_new=True, warn=lambda _: None)).close()
    assert file.read_text().splitlines()[1] == f"[127.0.0.1]:{host.port} {host.public_host_key()}"


def test_a_key_that_cannot_be_recorded_is_a_warning(sshd, tmp_path):
    host = sshd(known=False, client=(f"UserKnownHostsFile {tmp_path}",))  # a directory
    messages = []
    with connected(host, accept_new=True, warn=messages.append) as connection:
        assert run(connection, "true") == (b"", 0)
    assert "not recorded" in messages[0]


@pytest.mark.parametrize("strict", ["yes", "accept-new", "no"])
def test_r20_s1_a_changed_key_is_always_fatal(sshd, strict):
    """Even where the configuration says not to check."""
    host = sshd(client=(f"StrictHostKeyChecking {strict}",))
    host.known_hosts.write_text("# a comment\n" + host.known_hosts.read_text())
    old = host.fingerprint()
    host.new_host_key()
    error = refused(host, accept_new=True)
    assert f"`{host.name}` changed" in error.message
    assert f"{host.known_hosts}:2" in error.message
    assert old in error.message
    assert host.fingerprint() in error.message
    assert f"ssh-keygen -R '[127.0.0.1]:{host.port}' -f {host.known_hosts}" in error.hint
    assert "publickey" not in host.log().rpartition("Server listening")[2]


def test_r20_the_hint_for_a_changed_key_repairs_it(host):
    host.new_host_key()
    subprocess.run(shlex.split(refused(host).hint.split("`")[1]), check=True, capture_output=True)
    connecting.connect(host.name, options(host, accept_new=True, warn=lambda _: None)).close()


def test_r20_s1_a_revoked_key_is_refused(host):
    """The marker `@revoked` overrides a line with the same key."""
    with host.known_hosts.open("a") as file:
        file.write(f"@revoked * {host.public_host_key()}\n")
    error = refused(host, accept_new=True)
    assert "revoked" in error.message
    assert f"{host.known_hosts}:2" in error.message
    assert stopped_before_authentication(host)


@pytest.mark.parametrize("form", ["list", "krl", "missing"])
def test_r20_s1_revoked_host_keys_are_honoured(sshd, tmp_path, form):
    """RevokedHostKeys, in each of its forms; an unreadable file revokes every key, as in ssh."""
    revoked = tmp_path / "revoked"
    host = sshd(client=(f"RevokedHostKeys {revoked}",))
    key = f"{host.host_key()}.pub"
    if form == "list":
        shutil.copy(key, revoked)
    elif form == "krl":
        subprocess.run(["ssh-keygen", "-q", "-k", "-f", str(revoked), key], check=True)
    assert "revoked" in refused(host).message


def test_a_list_without_the_key_revokes_nothing(sshd, tmp_path):
    make_key(tmp_path / "other")
    krl = tmp_path / "krl"
    subprocess.run(["ssh-keygen", "-q", "-k", "-f", str(krl), f"{tmp_path / 'other'}.pub"], check=True)
    host = sshd(client=(f"RevokedHostKeys {krl}",))
    connecting.connect(host.name, options(host)).close()


def test_the_known_kind_of_key_is_preferred(sshd):
    host = sshd(host_keys=("ed25519", "rsa", "ecdsa"))
    for kind in ("rsa", "ecdsa", "ed25519"):
        host.known_hosts.write_text(f"[127.0.0.1]:{host.port} {host.public_host_key(kind)}\n")
        connecting.connect(host.name, options(host)).close()


def test_r20_s1_another_kind_of_key_for_a_known_host_is_a_change(sshd):
    host = sshd()
    other = sshd("other.univ.run", host_keys=("rsa",))
    host.known_hosts.write_text(f"[127.0.0.1]:{host.port} {other.public_host_key('rsa')}\n")
    error = refused(host, accept_new=True)
    assert "changed" in error.message
    assert "ssh-ed25519" in error.message
    assert "ssh-rsa" in error.message


def test_r20_s1_certificate_authorities_are_not_trusted(host):
    host.known_hosts.write_text(f"@cert-authority * {host.public_host_key()}\n")
    assert "is not known" in refused(host).message


def test_hashed_names_are_found(host):
    subprocess.run(["ssh-keygen", "-H", "-f", str(host.known_hosts)], check=True, capture_output=True)
    connecting.connect(host.name, options(host)).close()


def test_a_host_key_alias_is_what_is_looked_up(sshd):
    host = sshd(client=("HostKeyAlias the-alias",))
    assert "`the-alias`" in refused(host).message
    host.known_hosts.write_text(f"the-alias {host.public_host_key()}\n")
    connecting.connect(host.name, options(host)).close()


def test_every_known_hosts_file_is_read(sshd, tmp_path):
    other = tmp_path / "global"
    host = sshd(known=False, client=(f"GlobalKnownHostsFile /nonexistent {other}",))
    other.write_text(f"[127.0.0.1]:{host.port} {host.public_host_key()}\n")
    connecting.connect(host.name, options(host)).close()


def test_the_key_of_port_22_is_trusted_as_in_ssh(sshd):
    host = sshd(known=False)
    host.known_hosts.write_text(f"127.0.0.1 {host.public_host_key()}\n")
    connecting.connect(host.name, options(host)).close()
    host.new_host_key()
    assert "is not known" in refused(host).message


# --- authentication


def test_r1_a_wrong_key_is_tried_once_and_named(host):
    """Authentication is never retried."""
    host.authorized_keys.write_text("")
    error = refused(host, retry_delays=(0.0, 0.0))
    assert f"tried: {host.client_key} (ssh-ed25519 SHA256:" in error.message
    assert "`medusa.univ.run` accepted no key for user" in error.message
    wait_until(lambda: "Connection closed" in host.log())
    assert host.log().count("Connection from") == 1
    assert host.log().count("Failed publickey") == 1


def test_the_hint_for_an_encrypted_key_unlocks_it(sshd, tmp_path):
    key = tmp_path / "locked"
    make_key(key, locked_with="secret")
    host = sshd(client=(f"IdentityFile {key}",))
    host.authorized_keys.write_text("")
    error = refused(host)
    assert f"not {key}, it is encrypted" in error.message
    assert error.hint == f"ssh-add {key}"


def test_an_encrypted_key_does_not_stop_the_next(sshd, tmp_path):
    make_key(tmp_path / "locked", locked_with="secret")
    host = sshd(client=(f"IdentityFile {tmp_path / 'locked'}", "IdentityFile /nonexistent"))
    connecting.connect(host.name, options(host)).close()


def test_a_key_that_others_may_read_is_not_offered_as_in_ssh(host):
    host.client_key.chmod(0o644)
    error = refused(host)
    assert "other users may read it" in error.message
    assert error.hint == f"chmod 600 {host.client_key}"


def test_a_broken_key_file_is_named(host):
    host.client_key.write_text("nonsense")
    assert "no usable key" in refused(host).message


def test_there_may_be_no_key_at_all(host):
    host.client_key.unlink()
    assert "there is no key to offer" in refused(host).message


def test_too_many_failures_end_the_attempts(sshd, tmp_path):
    keys = [tmp_path / f"key{n}" for n in range(4)]
    for key in keys:
        make_key(key)
    host = sshd(server=("MaxAuthTries 2",), client=tuple(f"IdentityFile {key}" for key in keys))
    error = refused(host)
    assert "then the connection was closed" in error.message
    assert str(keys[3]) not in error.message


@pytest.mark.usefixtures("agent")
def test_the_agent_unlocks_an_encrypted_key(host):
    subprocess.run(["ssh-add", "-q", str(host.client_key)], check=True)
    subprocess.run(["ssh-keygen", "-q", "-p", "-N", "secret", "-f", str(host.client_key)], check=True)
    host.client_key.with_suffix(".pub").unlink(missing_ok=True)
    connecting.connect(host.name, options(host)).close()


@pytest.mark.usefixtures("agent")
def test_identities_only_does_not_offer_the_agents_other_keys(host, tmp_path):
    subprocess.run(["ssh-add", "-q", str(host.client_key)], check=True)
    host.client_key.rename(tmp_path / "away")
    host.client_key.with_suffix(".pub").rename(tmp_path / "away.pub")
    assert "there is no key" in refused(host).message
    host.ssh_config.write_text(host.ssh_config.read_text().replace("IdentitiesOnly yes", "IdentitiesOnly no"))
    connecting.connect(host.name, options(host)).close()


def test_identity_agent_is_honoured(sshd, agent, monkeypatch):
    host = sshd(client=(f"IdentityAgent {agent}",))
    subprocess.run(["ssh-add", "-q", str(host.client_key)], check=True)
    monkeypatch.delenv("SSH_AUTH_SOCK")
    host.client_key.write_bytes(b"")  # only its public half identifies the agent's key
    connecting.connect(host.name, options(host)).close()


def test_a_dead_agent_is_no_agent(host, monkeypatch):
    monkeypatch.setenv("SSH_AUTH_SOCK", "/nonexistent")
    connecting.connect(host.name, options(host)).close()


@pytest.mark.parametrize("kind", ["rsa", "ecdsa"])
def test_other_kinds_of_keys_work(sshd, tmp_path, kind):
    make_key(tmp_path / "key", kind)
    host = sshd(client=(f"IdentityFile {tmp_path / 'key'}",))
    host.authorized_keys.write_bytes((tmp_path / "key.pub").read_bytes())
    connecting.connect(host.name, options(host)).close()


# --- connecting


@pytest.fixture
def subjects(monkeypatch):
    """What an operator would be notified of, at each moment of the connections of a test."""
    found = []

    class Recorded(Wait):
        def __setattr__(self, name, value):
            if name == "subject" and value:
                found.append(value)
            super().__setattr__(name, value)

    monkeypatch.setattr(connecting, "Wait", Recorded)
    return found


def test_o11_what_is_waited_for_is_known_in_every_phase(host, subjects):
    """O11."""
    with connected(host):
        place = f"`medusa.univ.run` (127.0.0.1 port {host.port})"
        assert subjects == [
            "waiting for `ssh -G`, which reads the ssh configuration",
            f"connecting to {place}, for up to 10 s",
            "looking up the address of `127.0.0.1`",
            f"connecting to {place}, for up to 10 s",
            f"connected to {place}, waiting for an answer of its SSH server, for up to 10 s",
            f"logging in to `medusa.univ.run` as user `{pwd.getpwuid(os.getuid()).pw_name}`",
        ]


def test_o11_a_closed_port_has_its_reason_in_what_is_waited_for(host, subjects):
    """O11."""
    host.stop()
    refused(host, retry_delays=(0.01, 0.01))
    assert subjects[-1].startswith(
        f"cannot connect to `medusa.univ.run` (127.0.0.1 port {host.port}): connection refused;"
    )
    assert subjects[-1].endswith("; trying again, for 0 s in all")


def test_o11_a_jump_host_that_is_waited_for_is_named(sshd, subjects):
    """O11."""
    jump, target = jump_setup(sshd, "jump.univ.run", "medusa.univ.run")
    jump.stop()
    refused(target)
    assert any(each.startswith("connecting to jump host `jump.univ.run` (127.0.0.1") for each in subjects)
    jump.start()
    target.stop()
    refused(target, retry_delays=(0.01,))
    assert "`medusa.univ.run` through `jump.univ.run`" in subjects[-1]
    assert "trying again" in subjects[-1]


def test_o11_a_wait_is_reported_once_and_only_while_it_lasts(monkeypatch):
    """O11."""
    reported, said = [], threading.Event()

    def notify(subject):
        reported.append(subject)
        said.set()

    monkeypatch.setattr("runsdeploy.transport.wait.DELAY", 0.0)
    with Wait(notify, "a"):
        assert said.wait(60)
    monkeypatch.setattr("runsdeploy.transport.wait.DELAY", 3600.0)
    before = threading.active_count()
    with Wait(notify, "b"):
        pass
    wait_until(lambda: threading.active_count() <= before)
    assert reported == ["a"]


def test_r1_a_closed_port_is_tried_again_and_then_given_up(host):
    """The listener is stopped, nothing is sent."""
    host.stop()
    start = time.monotonic()
    error = refused(host, retry_delays=(0.05, 0.1, 0.15))
    assert time.monotonic() - start >= 0.3
    assert "connection refused" in error.message
    assert f"port {host.port}" in error.message


def test_r1_a_host_that_comes_back_is_reached(host):
    """A retry is safe as long as nothing has happened."""
    host.stop()
    starter = threading.Timer(0.1, host.start)
    starter.start()
    connecting.connect(host.name, options(host, retry_delays=(0.5, *[1.0] * 60))).close()
    starter.join()


def test_r1_a_silent_port_is_given_up_in_time(sshd, silent, silent_port):
    """ConnectTimeout covers the banner too, and a timeout is not tried again."""
    host = sshd(client=("ConnectTimeout 1", f"Port {silent_port}"))
    start = time.monotonic()
    error = refused(host, retry_delays=(0.5, 1.0, 2.0))
    assert 1 <= time.monotonic() - start < 10, "the default"
    assert "no answer within 1 s" in error.message
    assert callers(silent) == 1
    assert host.log().count("Connection from") == 0


def test_the_option_overrides_the_configured_timeout(sshd, silent_port):
    host = sshd(client=("ConnectTimeout 60", f"Port {silent_port}"))
    start = time.monotonic()
    refused(host, connect_timeout=0.5)
    assert time.monotonic() - start < 30


@pytest.mark.parametrize("banner", [b"", b"HTTP/1.1 400 Bad Request\r\n\r\n", b"SSH-1.5-old\r\n", b"SSH-2.0-x\r\n\0\0"])
def test_r1_something_else_on_the_port_is_an_error_not_a_traceback(sshd, banner):
    """Any other server."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        host = sshd(client=("ConnectTimeout 2", f"Port {listener.getsockname()[1]}"))

        def answer():
            with listener.accept()[0] as connection:
                connection.sendall(banner)
                connection.shutdown(socket.SHUT_WR)
                while connection.recv(4096):
                    pass

        server = threading.Thread(target=answer)
        server.start()
        assert refused(host).message.startswith("cannot connect to `medusa.univ.run`")
        server.join(60)


@contextlib.contextmanager
def cutting_proxy(port, allowed):
    """Forward bytes to a port, and reset both sides after `allowed` bytes of its answers."""

    def serve():
        with listener.accept()[0] as near, socket.create_connection(("127.0.0.1", port)) as far:
            back = threading.Thread(target=answer, args=(near, far))
            back.start()
            with contextlib.suppress(OSError):
                while data := near.recv(4096):
                    far.sendall(data)
            back.join()

    def answer(near, far):
        left = allowed
        with contextlib.suppress(OSError):
            while left and (data := far.recv(min(left, 4096))):
                near.sendall(data)
                left -= len(data)
        near.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        for side in (near, far):
            with contextlib.suppress(OSError):
                side.shutdown(socket.SHUT_RDWR)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = threading.Thread(target=serve)
        server.start()
        yield listener.getsockname()[1]
        server.join(60)
        assert not server.is_alive()


@pytest.mark.parametrize("allowed", [0, 1, 20, 41, 100, 700, 1200, 1500, 1700, 1900])
def test_r1_a_connection_cut_before_the_session_is_unreachable(host, allowed):
    """At each offset: nothing ran, nothing hangs, no thread leaks."""
    before = threading.active_count()
    text, reached = host.ssh_config.read_text(), []

    def attempt():
        with connected(host, connect_timeout=5) as connection:
            reached.append(connection)
            run(connection, "echo ran")

    with cutting_proxy(host.port, allowed) as port:
        host.ssh_config.write_text(text.replace("HostName 127.0.0.1", "HostName 127.0.0.1\n  HostKeyAlias x", 1))
        host.ssh_config.write_text(host.ssh_config.read_text().replace(f"Port {host.port}", f"Port {port}"))
        host.known_hosts.write_text(f"x {host.public_host_key()}\n")
        with pytest.raises((Unreachable, Lost, Refused)):  # the last bytes are those of the channel
            attempt()
    assert not reached or allowed > 1500
    wait_until(lambda: threading.active_count() <= before)


def test_r38_many_at_once_against_max_startups(sshd):
    """When too many connections are unauthenticated, sshd drops some; a retry succeeds."""
    host = sshd(server=("MaxStartups 4:50:8",))
    results = []

    def one():
        with connected(host, retry_delays=(0.5, *[1.0] * 60)) as connection:
            results.append(run(connection, "echo hi"))

    threads = [threading.Thread(target=one) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [(b"hi\n", 0)] * 20


def test_failures_leave_no_thread_behind(host, silent_port):
    before = threading.active_count()
    host.authorized_keys.write_text("")
    refused(host)
    host.ssh_config.write_text(host.ssh_config.read_text().replace(f"Port {host.port}", f"Port {silent_port}"))
    refused(host, connect_timeout=0.3)
    wait_until(lambda: threading.active_count() <= before)


def test_every_address_is_tried(host, monkeypatch):
    lookup = socket.getaddrinfo
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # bound and not listening: refused
        ports = (unused.getsockname()[1], host.port)
        monkeypatch.setattr(
            socket,
            "getaddrinfo",
            lambda name, _, *rest: [found for port in ports for found in lookup(name, port, *rest)],
        )
        connecting.connect(host.name, options(host)).close()


def test_r1_a_name_without_address(sshd):
    """A name that does not resolve is not tried again."""
    host = sshd(client=("HostName no-such-host.invalid",))
    assert "no-such-host.invalid" in refused(host, retry_delays=(3600.0,)).message


def test_nagle_is_off_and_the_fast_algorithms_are_agreed_on(host):
    with connected(host) as connection:
        agreed = connection._ssh
        assert agreed.sock._below.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        offered = [name for name in agreed.preferred_ciphers if "gcm" in name]  # none in the oldest paramiko
        assert not offered or agreed.local_cipher in offered
        assert "25519" in agreed.preferred_kex[0]


# --- through other hosts


def jump_setup(sshd, *names):
    """Start hosts, each one behind the one before."""
    hosts = []
    for name in names:
        hosts.append(sshd(name, client=(f"ProxyJump {hosts[-1].name}",) if hosts else ()))
    for host in hosts:
        host.ssh_config.write_text("".join(each.stanza() for each in hosts))
    return hosts


def test_a_jump_host(sshd):
    jump, target = jump_setup(sshd, "jump.univ.run", "medusa.univ.run")
    with connected(target) as connection:
        assert run(connection, "echo $RUNSDEPLOY_STATE_DIR") == (f"{target.state}\n".encode(), 0)
        assert jump.connections()
    wait_until(lambda: not jump.processes())
    assert "Starting session" not in jump.log()


def test_two_hops_by_each_hosts_own_configuration(sshd):
    *_, target = jump_setup(sshd, "a.univ.run", "b.univ.run", "medusa.univ.run")
    data = os.urandom(300_000)
    with connected(target) as connection:
        channel = connection.open("cat")
        channel.send(data)
        assert finish(channel) == (data, 0)


def test_two_hops_in_one_list(sshd):
    first, second = sshd("a.univ.run"), sshd("b.univ.run", client=("ProxyJump nowhere.invalid",))
    user = pwd.getpwuid(os.getuid()).pw_name
    target = sshd(client=(f"ProxyJump {first.name},{user}@{second.name}:{second.port}",))
    target.ssh_config.write_text("".join(host.stanza() for host in (first, second, target)))
    with connected(target) as connection:
        assert run(connection, "echo hi") == (b"hi\n", 0)
    assert "Accepted" in first.log()
    assert "Accepted" in second.log()


def test_r20_s1_a_jump_hosts_changed_key_is_fatal_too(sshd):
    """Each hop is checked."""
    jump, target = jump_setup(sshd, "jump.univ.run", "medusa.univ.run")
    jump.new_host_key()
    error = refused(target)
    assert "`jump.univ.run` changed" in error.message
    assert "Connection from" not in target.log()


def test_a_jump_host_that_may_not_forward(sshd):
    jump = sshd("jump.univ.run", server=("AllowTcpForwarding no",))
    target = sshd(client=("ProxyJump jump.univ.run",))
    target.ssh_config.write_text(jump.stanza() + target.stanza())
    error = refused(target)
    assert "through `jump.univ.run`" in error.message
    assert "prohibited" in error.message


def test_r1_a_target_that_is_down_behind_a_jump_host(sshd):
    """Tried again through the same connection to the jump host."""
    jump, target = jump_setup(sshd, "jump.univ.run", "medusa.univ.run")
    target.stop()
    assert "through `jump.univ.run`" in refused(target, retry_delays=(0.01, 0.01)).message
    assert jump.log().count("Accepted publickey") == 1


def test_r5_a_target_silent_behind_a_jump_host_is_noticed(sshd):
    """The jump host answers, the target does not."""
    jump = sshd("jump.univ.run")
    target = sshd(client=("ProxyJump jump.univ.run", "ServerAliveInterval 1", "ServerAliveCountMax 1"))
    target.ssh_config.write_text(jump.stanza() + target.stanza())
    with connected(target) as connection:
        channel = connection.open("echo started; sleep 60")
        assert channel.receive() == b"started\n"
        target.freeze()
        with pytest.raises(Lost, match="nothing received"):
            channel.receive()


def test_a_circular_proxy_jump_ends(host):
    host.ssh_config.write_text("Host a medusa.univ.run\n  ProxyJump b\nHost b\n  ProxyJump a\n")
    assert "is circular" in refused(host).message


def test_a_proxy_command_is_refused_with_the_alternative(sshd):
    host = sshd(client=("ProxyCommand nc %h %p",))
    error = refused(host)
    assert "ProxyCommand" in error.message
    assert "ProxyJump" in error.message
    assert "ProxyJump" in error.hint
    none = sshd("none.univ.run", client=("ProxyCommand none",))
    connecting.connect(none.name, options(none)).close()


# --- configuration


@pytest.fixture
def config(tmp_path):
    """Return a function that writes an ssh configuration and resolves a host with it."""

    def resolved(text, host="medusa.univ.run", **more):
        file = tmp_path / "config"
        file.write_text(text)
        return resolve(host, str(file), **more)

    return resolved


def test_root_is_the_default_user(config):
    assert config("").user == "root"
    assert config("Host other\n  User me").user == "root"


def test_the_configured_user_overrides_the_default(config):
    me = pwd.getpwuid(os.getuid()).pw_name
    assert config("", user="nobody-else").user == "nobody-else"
    assert config(f"Host *.univ.run\n  User {me}", user="nobody-else").user == me
    assert config("Host x\n  User a\nHost *\n  User b").user == "b"


def test_the_user_before_the_at_sign_overrides_the_configured_one(config):
    settings_ = config("User configured", host="typed@medusa.univ.run")
    assert (settings_.user, settings_.name) == ("typed", "medusa.univ.run")


def test_a_jump_host_is_logged_in_to_as_ssh_would(config):
    assert config("", user=None).user == pwd.getpwuid(os.getuid()).pw_name


def test_the_login_really_is_the_one_named(sshd):
    host = sshd()
    with pytest.raises(Unreachable, match="user `no-such-user`"):
        connecting.connect(f"no-such-user@{host.name}", options(host))
    wait_until(lambda: "no-such-user" in host.log())


def test_included_files_are_read(config, tmp_path):
    included = tmp_path / "included"
    included.write_text("User included\nPort 2222\nHost never\n  User wrong\n")
    included.chmod(0o600)
    settings_ = config(f"Include {included}\nPort 22")
    assert (settings_.user, settings_.port) == ("included", 2222)


def test_a_configuration_that_others_may_write_is_read_as_ssh_reads_it(config, tmp_path):
    (tmp_path / "config").touch()
    (tmp_path / "config").chmod(0o666)
    assert config("Port 2222").port == 2222


def test_tokens_and_tildes_of_identity_files(config, monkeypatch):
    me = pwd.getpwuid(os.getuid())
    monkeypatch.setenv("KEYS", "/keys")
    found = config(
        "HostName 10.0.0.1\nUser u\nIdentityFile ~/%h_%r_%n\nIdentityFile %d/x%%\nIdentityFile ${KEYS}/%i\n"
    ).identities
    assert found == (f"{me.pw_dir}/10.0.0.1_u_medusa.univ.run", f"{me.pw_dir}/x%", f"/keys/{me.pw_uid}")


def test_a_broken_configuration_is_named_with_its_line(config, tmp_path):
    with pytest.raises(Unreachable, match=rf"{tmp_path}/config: line 2: Bad configuration option: nonsense"):
        config("Port 22\nNonsense yes\n")


def test_a_missing_configuration(tmp_path):
    with pytest.raises(Unreachable, match="cannot read the ssh configuration"):
        resolve("medusa", str(tmp_path / "missing"))


def test_without_ssh_the_message_names_the_package(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(Unreachable, match="openssh-client"):
        resolve("medusa")


def test_the_users_and_the_systems_files_are_read_by_default():
    settings_ = resolve("medusa.univ.run")
    assert (settings_.host, settings_.connect_timeout, settings_.alive_interval) == (
        "medusa.univ.run",
        10,
        15,
    )


def test_relative_includes_of_the_systems_file_are_relative_to_it(monkeypatch, tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "more").write_text("Port 2222\n")
    (tmp_path / "ssh_config").write_text("Include sub/m*\nHost *\n  User systems\n")
    monkeypatch.setattr("runsdeploy.transport.ssh_config.SYSTEM_CONFIG", tmp_path / "ssh_config")
    settings_ = resolve("medusa.univ.run")
    assert (settings_.port, settings_.user) == (2222, "systems")


# --- names


@pytest.mark.parametrize(
    "name", ["medusa", "medusa.univ.run", "10.0.0.1", "::1", "fe80::1%eth0", "a_b-c", "root@h", "me@realm@h"]
)
def test_valid_names(name):
    assert split_user(name)[1] == name.rpartition("@")[2]


@pytest.mark.parametrize(
    "name",
    [
        "",
        "-oProxyCommand=true",
        "a b",
        "%h",
        "a%h",
        "h\n",
        "h;x",
        "$(x)",
        "@h",
        "-l@h",
        "h@",
        "a/b",
        "é",
        "*",
        "h\0",
    ],
)
def test_r42_invalid_names(name):
    with pytest.raises(Unreachable):
        connecting.connect(name, connecting.Options())


@settings(max_examples=300, deadline=None, print_blob=True)
@given(
    st.one_of(
        st.text(max_size=40),
        st.from_regex(r"\A-[-A-Za-z]{1,3}[ =]?.{0,20}"),
        st.text(st.sampled_from("ab.-_:%@[]$`;|&<>'\"\\ \n\t*?~#!{}()=/"), max_size=20),
    )
)
def test_r42_no_text_becomes_an_option_or_more_than_one_word(text):
    """A name is refused, or is one word without special characters."""
    words, message = (), ""
    try:
        words = split_user(text)
    except HostError as error:
        message = error.message
    assert message.isprintable()
    for word in filter(None, words):
        assert not word.startswith("-")
        assert not set(word) & set(" \t\n\0$`;|&<>'\"\\*?~#!{}()=/")
        assert word.isascii()


def test_r42_an_accepted_name_is_one_argument(monkeypatch, tmp_path):
    """The arguments of ssh."""
    fake = tmp_path / "ssh"
    fake.write_text('#!/bin/sh\nprintf "%s\\n" "$@" > "$0.args"; echo "hostname $5"\n')
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    with contextlib.suppress(ValueError, Unreachable):
        resolve("me@fe80::1%eth0", user=None)
    assert (tmp_path / "ssh.args").read_text().splitlines() == ["-G", "-l", "me", "--", "fe80::1%eth0"]


SEED = int(os.environ.get("RUNSDEPLOY_TEST_SEED") or random.randrange(1 << 32))
"""seed of the random tests; printed, and set in the environment to repeat one"""
TRICKS = [
    "-oProxyCommand=id",
    "-F/etc/x",
    "%h",
    "%r",
    "$(id)",
    "`id`",
    ";",
    "|",
    "&",
    " ",
    "\n",
    "\t",
    "\0",
    "'",
    '"',
    "\\",
    "--",
    "-",
    "@",
    ":",
    "..",
    "/",
    "*",
    "~",
    "=",
    "\xa0",
    "\u202e",
    "\udcff",
    "ssh://",
    "[::1]",
    "é",
    "{a,b}",
    "!",
    "#",
]


def host_name(rng):
    """Return a random name; most have characters that are not allowed in a name."""
    letters = "".join(rng.choices("abz09-_.", k=rng.randrange(12)))
    for _ in range(rng.choice([0, 1, 1, 2])):
        at = rng.randrange(len(letters) + 1)
        letters = letters[:at] + rng.choice(TRICKS) + letters[at:]
    return letters


def test_r42_of_ten_thousand_names_each_is_refused_or_one_word_for_ssh(monkeypatch, tmp_path):
    """In `--host` and in the arguments of ssh; a fake ssh records the accepted ones."""
    print(f"RUNSDEPLOY_TEST_SEED={SEED}")
    rng, accepted = random.Random(SEED), set()
    trees = Trees(())
    for _ in range(10_000):
        name = host_name(rng)
        with contextlib.suppress(HostError):
            accepted.add((split_user(name), name))
        if not set(name) & set("@*?["):  # other tests cover groups, users and patterns
            with contextlib.suppress(InputError):
                accepted |= {(split_user(host.address), host.address) for host in select(trees, [Choice(name)])}
    assert 100 < len(accepted) < 8000
    users, names = ({parts[half] for parts, _ in accepted} for half in (0, 1))
    assert [name for name in names if not re.fullmatch(r"(?!-)[A-Za-z0-9_.:%-]+", name)] == []
    # As in ssh, the last `@` divides: accounts of a realm have one in their names.
    assert [user for user in users if not re.fullmatch(r"(?!-)[A-Za-z0-9_.@+-]*", user)] == []
    fake = tmp_path / "ssh"
    fake.write_text('#!/bin/sh\nprintf "%s\\0" "$@" >"$0.args"; exit 255\n')
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    for (user, name), text in rng.sample(sorted(accepted), 300):
        with pytest.raises(HostError):
            resolve(text, user=None)
        asked = (tmp_path / "ssh.args").read_bytes().decode().split("\0")[:-1]
        assert asked == ["-G", *(["-l", user] if user else []), "--", name]


@pytest.mark.parametrize(
    ("hop", "parts"),
    [
        ("b", ("b", "")),
        ("u@b:22", ("u@b", "22")),
        ("[::1]:22", ("::1", "22")),
        ("u@[::1]", ("u@::1", "")),
        ("ssh://u@b:22", ("u@b", "22")),
    ],
)
def test_hops(hop, parts):
    assert split_jump(hop) == parts
