"""From a host's settings to an encrypted connection: TCP connection, key exchange, retries. Nobody is logged in yet."""

from __future__ import annotations

import errno
import random
import socket
import time
from typing import Any

from runsdeploy.errors import Unreachable, reason
from runsdeploy.transport import known_hosts
from runsdeploy.transport.ssh.buffered_socket import BufferedSocket
from runsdeploy.transport.ssh.connection import SshConnection, refusal
from runsdeploy.transport.ssh.paramiko_library import WINDOW, BoundedPacketizer, BoundedTransport, paramiko
from runsdeploy.transport.ssh_config import Settings
from runsdeploy.transport.wait import Wait

_CONNECT_FAILED = 2  # RFC 4254, 5.1: the jump host could not connect; 1 is that it prohibits the connection

SPREAD = 0.25
"""part by which the delays between attempts are longer, at most"""

_Entries = tuple[known_hosts.Entry, ...]


def shake_hands(
    settings: Settings,
    entries: _Entries,
    retry_delays: tuple[float, ...],
    below: SshConnection | None,
    wait: Wait,
    role: str = "",
) -> tuple[BoundedTransport, BufferedSocket]:
    """Connect and exchange keys; raises Unreachable.

    `entries` are the known keys of the host; `below` is the connection to the jump host, if any. If the connection
    breaks, another attempt follows after each delay (seconds): before authentication the host has done nothing.
    `wait` gets what is waited for, with `role` before the host's name.
    """
    for delay in (*retry_delays, None):
        try:
            return _shake_hands_once(settings, entries, below, wait, role)
        except (paramiko.SSHException, OSError, EOFError) as error:
            if delay is None or not _is_transient(error) or (below and not below.alive):
                raise _unreachable(settings, error, below) from error
            failed = f"cannot connect to {role}{_place(settings, below)}: {refusal(error)}"
            wait.subject = f"{failed}; trying again, for {sum(retry_delays) * (1 + SPREAD / 2):.0f} s in all"
        time.sleep(delay * random.uniform(1, 1 + SPREAD))  # noqa: S311 - spreads the attempts of many controllers
    raise AssertionError("the last attempt raises")


def _is_transient(error: Exception) -> bool:
    """Return whether another attempt may succeed; not after a timeout, which was long enough."""
    if isinstance(error, paramiko.ChannelException):
        return bool(error.code == _CONNECT_FAILED)
    if isinstance(error, paramiko.SSHException):
        return "protocol banner" in str(error) and not isinstance(error, paramiko.ssh_exception.IncompatiblePeer)
    return isinstance(error, (ConnectionError, EOFError))


def _shake_hands_once(
    settings: Settings, entries: _Entries, below: SshConnection | None, wait: Wait, role: str
) -> tuple[BoundedTransport, BufferedSocket]:
    place = f"{role}{_place(settings, below)}"
    limit = f"for up to {settings.connect_timeout:g} s"
    if not wait.subject:
        # After a failed attempt its reason says more.
        wait.subject = f"connecting to {place}, {limit}"
    buffered = BufferedSocket(below.open_through(settings.host, settings.port) if below else _dial(settings, wait))
    try:
        wait.subject = f"connected to {place}, waiting for an answer of its SSH server, {limit}"
        sock: Any = buffered  # paramiko's manual accepts any object that sends and receives; its types do not
        ssh = BoundedTransport(sock, default_window_size=WINDOW, packetizer_class=BoundedPacketizer)
        _prefer(ssh, entries)
        ssh.banner_timeout = settings.connect_timeout + 1  # longer, so that the deadline of start_client ends first
        ssh.auth_timeout = settings.connect_timeout
        ssh.start_client(timeout=settings.connect_timeout)
        _require_keys(ssh, settings)
    except BaseException:
        buffered.close()
        raise
    return ssh, buffered


def _require_keys(ssh: paramiko.Transport, settings: Settings) -> None:
    """Raise TimeoutError if the key exchange is not complete: `start_client` returns normally at its deadline."""
    if not ssh.initial_kex_done:
        ssh.close()
        raise TimeoutError(errno.ETIMEDOUT, f"no answer within {settings.connect_timeout:g} s")


def _dial(settings: Settings, wait: Wait) -> socket.socket:
    """Connect to the first address that answers; raises OSError or Unreachable."""
    failure: OSError | None = None
    subject, wait.subject = wait.subject, f"looking up the address of `{settings.host}`"
    addresses = _addresses(settings)
    wait.subject = subject
    for family, kind, protocol, _, address in addresses:
        sock = socket.socket(family, kind, protocol)
        try:
            sock.settimeout(settings.connect_timeout)
            sock.connect(address)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        except OSError as error:
            sock.close()
            failure = error
        else:
            return sock
    raise failure or OSError("it has no address")


def _addresses(settings: Settings) -> list[tuple[int, int, int, str, tuple[str | int, ...]]]:
    try:
        found = socket.getaddrinfo(settings.host, settings.port, settings.family, socket.SOCK_STREAM)
    except (socket.gaierror, UnicodeError) as error:
        message = f"`{settings.name}` has no address: `{settings.host}`: {reason(error)}"
        raise Unreachable(message, transient=True) from error
    return list(found)  # type: ignore[arg-type]


def _prefer(ssh: paramiko.Transport, entries: _Entries) -> None:
    """Prefer fast algorithms, and the kinds of host key that are known; disable none."""
    known = {entry.key.kind for entry in entries if not entry.revoked}
    if "ssh-rsa" in known:
        known |= {"rsa-sha2-512", "rsa-sha2-256"}
    chosen = ssh.get_security_options()
    chosen.kex = sorted(chosen.kex, key=lambda name: "25519" not in name)
    chosen.ciphers = sorted(chosen.ciphers, key=lambda name: "gcm" not in name)
    chosen.key_types = sorted(chosen.key_types, key=lambda name: name not in known)


def _unreachable(settings: Settings, error: Exception, below: SshConnection | None) -> Unreachable:
    return Unreachable(f"cannot connect to {_place(settings, below)}: {refusal(error)}", transient=True)


def _place(settings: Settings, below: SshConnection | None) -> str:
    through = f" through `{below.name}`" if below else ""
    place = f"`{settings.name}`{through}"
    if not settings.known_as.startswith(settings.name) or below:
        place += f" ({settings.host} port {settings.port})"
    return place
