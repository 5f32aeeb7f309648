"""The private keys to offer to a host, in ssh's order: from the operator's agent and from identity files."""

from __future__ import annotations

import contextlib
import functools
import socket
import stat
from collections.abc import Iterator
from os import getuid
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec import Struct

from runsdeploy.errors import reason
from runsdeploy.transport import known_hosts
from runsdeploy.transport.public_key import public_half
from runsdeploy.transport.ssh.paramiko_library import AgentSSH, paramiko
from runsdeploy.transport.ssh_config import Settings


class Candidate(Struct, frozen=True):
    """A key to offer, or the reason why a file has none."""

    label: str
    """its name in messages"""
    key: paramiko.PKey | None = None
    """the key, if it is usable"""
    hint: str = ""
    """the command that makes it usable"""


class _Agent(AgentSSH):
    """The agent at any socket; paramiko's own class uses only SSH_AUTH_SOCK."""

    if TYPE_CHECKING:  # missing in the type stubs

        def _connect(self, conn: socket.socket) -> None: ...
        def _close(self) -> None: ...

    def __init__(self, path: str, timeout: float) -> None:
        super().__init__()
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            connection.settimeout(timeout)
            connection.connect(path)
            self._connect(connection)
        except BaseException:
            connection.close()
            raise

    def close(self) -> None:
        """Close the socket."""
        self._close()


@contextlib.contextmanager
def agent_keys(settings: Settings) -> Iterator[list[paramiko.AgentKey]]:
    """Yield the agent's keys, usable within the `with`; none if the agent is missing or broken."""
    agent: _Agent | None = None
    with contextlib.suppress(OSError, paramiko.SSHException):
        agent = _Agent(settings.agent, settings.connect_timeout) if settings.agent else None
    with contextlib.closing(agent) if agent else contextlib.nullcontext():
        yield list(agent.get_keys()) if agent else []


def candidates(settings: Settings, held_by_agent: list[paramiko.AgentKey]) -> Iterator[Candidate]:
    """Yield keys in ssh's order: the agent's keys that are configured, its other keys, then the files."""
    held = {key.asbytes(): key for key in held_by_agent}
    files = [(file, public_half(file) if held else None) for file in settings.identities]
    configured = [blob for _, blob in files if blob and blob in held]
    others = [] if settings.identities_only else list(held)
    for chosen in dict.fromkeys([*configured, *others]):
        yield Candidate(f"agent's {_describe(held[chosen])}", held[chosen])
    for file, blob in files:
        if (blob is None or blob not in held) and Path(file).is_file():
            yield _from_file(file)


def _from_file(file: str) -> Candidate:
    status = Path(file).stat()
    if status.st_uid == getuid() and stat.S_IMODE(status.st_mode) & 0o077:
        return Candidate(f"not {file}, other users may read it", hint=f"chmod 600 {file}")
    try:
        key = _load(file, status.st_mtime_ns)
    except (TypeError, paramiko.PasswordRequiredException):
        # cryptography raises TypeError when it needs a passphrase.
        return Candidate(f"not {file}, it is encrypted", hint=f"ssh-add {file}")
    except Exception as error:  # noqa: BLE001 - a dozen exception types, for a file that ssh skips as well
        return Candidate(f"not {file}, it is no usable key ({reason(error)})")
    return Candidate(f"{file} ({_describe(key)})", key)


@functools.lru_cache(maxsize=64)
def _load(file: str, _changed: int) -> paramiko.PKey:
    return paramiko.PKey.from_path(file)


def _describe(key: paramiko.PKey) -> str:
    return str(known_hosts.Key(key.get_name(), key.asbytes()))
