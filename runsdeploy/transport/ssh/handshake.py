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

_CONNECT_FAILED = 2  # RFC 4254, 5.1: the jump host could not connect; 1 is that it prohibits the connection
_Entries = tuple[known_hosts.Entry, ...]


def shake_hands(
    settings: Settings, entries: _Entries, retry_delays: tuple[float, ...], below: SshConnection | None
) -> tuple[BoundedTransport, BufferedSocket]:
    """Connect and exchange keys; raises Unreachable.

    `entries` are the known keys of the host; `below` is the connection to the jump host, if any. If the connection
    breaks, another attempt follows after each delay (seconds): before authentication the host has done nothing.
    """
    for delay in (*retry_delays, None):
        try:
            return _shake_hands_once(settings, entries, below)
        except (paramiko.SSHException, OSError, EOFError) as error:
            if delay is None or not _is_transient(error) or (below and not below.alive):
                raise _unreachable(settings, error, below) from error
        time.sleep(delay * random.uniform(1, 1.25))  # noqa: S311 - spreads the attempts of many controllers
    raise AssertionError("the last attempt raises")


def _is_transient(error: Exception) -> bool:
    """Return whether another attempt may succeed; not after a timeout, which was long enough."""
    if isinstance(error, paramiko.ChannelException):
        return bool(error.code == _CONNECT_FAILED)
    if isinstance(error, paramiko.SSHException):
        return "protocol banner" in str(error) and not isinstance(error, paramiko.ssh_exception.IncompatiblePeer)
    return isinstance(error, (ConnectionError, EOFError))


def _shake_hands_once(
    settings: Settings, entries: _Entries, below: SshConnection | None
) -> tuple[BoundedTransport, BufferedSocket]:
    buffered = BufferedSocket(below.open_through(settings.host, settings.port) if below else _dial(settings))
    try:
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


def _dial(settings: Settings) -> socket.socket:
    """Connect to the first address that answers; raises OSError or Unreachable."""
    failure: OSError | None = None
    for family, kind, protocol, _, address in _addresses(settings):
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
    through = f" through `{below.name}`" if below else ""
    place = f"`{settings.name}`{through}"
    if not settings.known_as.startswith(settings.name) or below:
        place += f" ({settings.host} port {settings.port})"
    return Unreachable(f"cannot connect to {place}: {refusal(error)}", transient=True)
