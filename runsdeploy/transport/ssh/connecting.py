"""Connect and log in to a host over SSH, through jump hosts if the ssh configuration has any. Never prompts.

Paramiko's SSHClient is not used: the socket is our own, the host key is checked between key exchange and
authentication, and there are no more round trips than the protocol needs.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable

from msgspec import Struct
from msgspec.structs import replace

from runsdeploy.errors import HostError, Unreachable, reason
from runsdeploy.transport import known_hosts
from runsdeploy.transport.address import split_jump, split_user
from runsdeploy.transport.password import Password
from runsdeploy.transport.ssh.authentication import authenticate
from runsdeploy.transport.ssh.connection import SshConnection
from runsdeploy.transport.ssh.handshake import shake_hands
from runsdeploy.transport.ssh.paramiko_library import BoundedTransport
from runsdeploy.transport.ssh_config import Settings, resolve
from runsdeploy.transport.wait import Wait

MAX_HOPS = 8
"""jump hosts on the path to one host"""

_log = logging.getLogger(__name__)


class Options(Struct, frozen=True):
    """The operator's options, which add to the ssh configuration."""

    ssh_config: str | None = None
    """a file that replaces the user's and the system's configuration, as `ssh -F`"""
    accept_new: bool = False
    """whether to accept and record an unknown host key"""
    connect_timeout: float | None = None
    """seconds for each phase; None for ConnectTimeout"""
    retry_delays: tuple[float, ...] = (0.5, 1.0, 2.0)
    """seconds before each new attempt, if the connection breaks before authentication"""
    only_key: bytes = b""
    """the public half of the one key to offer; empty for all keys"""
    password: Password | None = None
    """the password to log in with in place of keys; jump hosts always get keys"""
    warn: Callable[[str], None] = _log.warning
    """is called with a message when a new host key was accepted, recorded or not"""
    notify: Callable[[str], None] = _log.debug
    """is called with what is waited for, once for each hop that takes longer than `wait.DELAY`"""


def connect(host: str, options: Options, destination: known_hosts.Destination | None = None) -> SshConnection:
    """Log in to `name` or `user@name`; raises Unreachable.

    `destination` is the result of `known_hosts.look_up`, if the caller has it already.
    """
    try:
        settings, entries = destination or _look_up(host, options)
        return _connect(_with_timeout(settings, options), options, 0, entries)
    except HostError:
        raise
    except Exception as error:  # a hostile server can make paramiko raise anything
        raise Unreachable(f"cannot connect to `{split_user(host)[1]}`: {reason(error)}", transient=True) from error


def _look_up(host: str, options: Options) -> known_hosts.Destination:
    # `Match exec` and canonicalisation may wait for programs and name servers.
    with Wait(options.notify, "waiting for `ssh -G`, which reads the ssh configuration"):
        return known_hosts.look_up(host, options.ssh_config)


def _with_timeout(settings: Settings, options: Options) -> Settings:
    return replace(settings, connect_timeout=options.connect_timeout or settings.connect_timeout)


def _connect(settings: Settings, options: Options, hops: int, entries: tuple[known_hosts.Entry, ...]) -> SshConnection:
    if settings.proxy_command:
        raise Unreachable(
            f"`{settings.name}` has a ProxyCommand, which is not supported; ProxyJump is",
            "replace `ProxyCommand ssh -W %h:%p BASTION` by `ProxyJump BASTION`",
        )
    with contextlib.ExitStack() as undo:
        below = _connect_jump(settings, options, hops)
        if below:
            undo.callback(below.close)
        role = "jump host " if hops else ""
        with Wait(options.notify, "") as wait:
            ssh, sock = shake_hands(settings, entries, options.retry_delays, below, wait, role)
            undo.callback(sock.close)
            undo.callback(ssh.close)
            _check_host_key(ssh, settings, options, entries)
            wait.subject = f"logging in to {role}`{settings.name}` as user `{settings.user}`"
            authenticate(ssh, settings, password=options.password, only_key=options.only_key)
        sock.watch(settings.alive_interval, settings.alive_count, ssh.send_keepalive)
        undo.pop_all()
    return SshConnection(settings.name, ssh, settings.connect_timeout, below)


def _connect_jump(settings: Settings, options: Options, hops: int) -> SshConnection | None:
    """Log in to the last jump host, through the jump hosts before it; None without any."""
    if not settings.jumps:
        return None
    if hops >= MAX_HOPS:
        raise Unreachable(f"more than {MAX_HOPS} jump hosts: the ProxyJump of `{settings.name}` is circular")
    options = replace(options, only_key=b"", password=None)
    host, port = split_jump(settings.jumps[-1])
    # A jump host is not a deployment target: as in ssh, the default login is the operator's own name and not root.
    jump = _with_timeout(resolve(host, options.ssh_config, user=None, port=port), options)
    if settings.jumps[:-1]:  # as in `ssh -J`, the list replaces the jump host's own configuration
        jump = replace(jump, jumps=settings.jumps[:-1])
    return _connect(jump, options, hops + 1, known_hosts.find(jump))


def _check_host_key(
    ssh: BoundedTransport, settings: Settings, options: Options, entries: tuple[known_hosts.Entry, ...]
) -> None:
    key = ssh.get_remote_server_key()
    offered = known_hosts.Key(key.get_name(), key.asbytes())
    known_hosts.check(settings, entries, offered, accept_new=options.accept_new, warn=options.warn)
