"""Commands on a host over SSH: the operator's ssh configuration, known hosts and keys, no prompts.

Paramiko is used below its SSHClient: one socket of our own, the host
key checked between key exchange and authentication, and no more round trips than the protocol has.
Nothing is ever forwarded to the host: no agent, no X11, no ports.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable

from msgspec import Struct
from msgspec.structs import replace

from runsdeploy.errors import HostError, Unreachable
from runsdeploy.transport import known_hosts
from runsdeploy.transport.authentication import authenticate
from runsdeploy.transport.handshake import shake_hands
from runsdeploy.transport.paramiko_library import BoundedTransport
from runsdeploy.transport.password import Password
from runsdeploy.transport.ssh_config import Settings, reason, resolve, split_jump, split_user
from runsdeploy.transport.ssh_connection import SshConnection

MAX_HOPS = 8

_log = logging.getLogger(__name__)


class Options(Struct, frozen=True):
    """What the operator asked for on top of the ssh configuration."""

    ssh_config: str | None = None
    """a file to read in place of the user's and the system's, as `ssh -F`"""
    accept_new: bool = False
    """whether a host key that is not known yet is accepted and recorded"""
    connect_timeout: float | None = None
    """seconds for each phase, in place of ConnectTimeout"""
    retry_delays: tuple[float, ...] = (0.5, 1.0, 2.0)
    """pauses before each new attempt at a connection that broke before authentication"""
    only_key: bytes = b""
    """the public half of the one key to offer; empty for all there are"""
    password: Password | None = None
    """what to log in with in place of keys; jump hosts take keys"""
    warn: Callable[[str], None] = _log.warning
    """told of what was accepted and what could not be recorded"""


def connect(host: str, options: Options, destination: known_hosts.Destination | None = None) -> SshConnection:
    """Log in to `name` or `user@name`, with what `look_up` said of it if that is known; raises Unreachable."""
    try:
        settings, entries = destination or known_hosts.look_up(host, options.ssh_config)
        return _connect(_with_timeout(settings, options), options, 0, entries)
    except HostError:
        raise
    except Exception as error:  # a hostile server can make paramiko raise anything
        raise Unreachable(f"cannot connect to `{split_user(host)[1]}`: {reason(error)}", passing=True) from error


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
        ssh, wire = shake_hands(settings, entries, options.retry_delays, below)
        undo.callback(wire.close)
        undo.callback(ssh.close)
        _check_host_key(ssh, settings, options, entries)
        authenticate(ssh, settings, password=options.password, only_key=options.only_key)
        wire.watch(settings.alive_interval, settings.alive_count, ssh.send_keepalive)
        undo.pop_all()
    return SshConnection(settings.name, ssh, settings.connect_timeout, below)


def _connect_jump(settings: Settings, options: Options, hops: int) -> SshConnection | None:
    """Log in to the last host to jump through, itself reached through those before it."""
    if not settings.jumps:
        return None
    if hops >= MAX_HOPS:
        raise Unreachable(f"more than {MAX_HOPS} hosts to jump through: ProxyJump of `{settings.name}` goes in circles")
    options = replace(options, only_key=b"", password=None)
    host, port = split_jump(settings.jumps[-1])
    # a bastion is nobody's deployment target: as for ssh, the login is the operator's own name
    hop = _with_timeout(resolve(host, options.ssh_config, user=None, port=port), options)
    if settings.jumps[:-1]:  # like `ssh -J`, in place of what that host's own configuration says
        hop = replace(hop, jumps=settings.jumps[:-1])
    return _connect(hop, options, hops + 1, known_hosts.find(hop))


def _check_host_key(
    ssh: BoundedTransport, settings: Settings, options: Options, entries: tuple[known_hosts.Entry, ...]
) -> None:
    key = ssh.get_remote_server_key()
    offered = known_hosts.Key(key.get_name(), key.asbytes())
    known_hosts.check(settings, entries, offered, accept_new=options.accept_new, warn=options.warn)
