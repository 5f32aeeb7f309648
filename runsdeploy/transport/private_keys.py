"""Private keys to offer."""

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

from runsdeploy.transport import known_hosts
from runsdeploy.transport.paramiko_library import AgentSSH, paramiko
from runsdeploy.transport.ssh_config import Settings, public_part, reason


class _Agent(AgentSSH):
    """The agent at a socket; paramiko's own only looks at SSH_AUTH_SOCK."""

    if TYPE_CHECKING:  # what the stubs leave out

        def _connect(self, conn: socket.socket) -> None: ...
        def _close(self) -> None: ...

    def __init__(self, path: str, timeout: float) -> None:
        super().__init__()
        link = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            link.settimeout(timeout)
            link.connect(path)
            self._connect(link)
        except BaseException:
            link.close()
            raise

    def close(self) -> None:
        """Give the agent's socket back."""
        self._close()


class Candidate(Struct, frozen=True):
    """A key to offer, or a file that should have held one."""

    label: str
    """what it is called in messages"""
    key: paramiko.PKey | None = None
    """the key, if it can be used"""
    hint: str = ""
    """what would make it usable"""


@contextlib.contextmanager
def agent_keys(settings: Settings) -> Iterator[list[paramiko.AgentKey]]:
    """Give the agent's keys; a missing or broken agent has none."""
    agent: _Agent | None = None
    with contextlib.suppress(OSError, paramiko.SSHException):
        agent = _Agent(settings.agent, settings.connect_timeout) if settings.agent else None
    with contextlib.closing(agent) if agent else contextlib.nullcontext():
        yield list(agent.get_keys()) if agent else []


def candidates(settings: Settings, held_by_agent: list[paramiko.AgentKey]) -> Iterator[Candidate]:
    """Give keys in ssh's order: those of the agent that are configured, its others, then files."""
    held = {key.asbytes(): key for key in held_by_agent}
    files = [(file, public_part(file) if held else None) for file in settings.identities]
    configured = [blob for _, blob in files if blob and blob in held]
    others = [] if settings.identities_only else list(held)
    for chosen in dict.fromkeys([*configured, *others]):
        yield Candidate(f"agent's {_described(held[chosen])}", held[chosen])
    for file, blob in files:
        if (blob is None or blob not in held) and Path(file).is_file():
            yield _from_file(file)


def _from_file(file: str) -> Candidate:
    status = Path(file).stat()
    if status.st_uid == getuid() and stat.S_IMODE(status.st_mode) & 0o077:
        return Candidate(f"not {file}, which others may read", hint=f"chmod 600 {file}")
    try:
        key = _load(file, status.st_mtime_ns)
    except (
        TypeError,
        paramiko.PasswordRequiredException,
    ):  # what cryptography raises for want of a passphrase
        return Candidate(f"not {file}, which is encrypted", hint=f"ssh-add {file}")
    except Exception as error:  # noqa: BLE001 - any of a dozen kinds, for a file that ssh would skip as well
        return Candidate(f"not {file}, which is no usable key ({reason(error)})")
    return Candidate(f"{file} ({_described(key)})", key)


@functools.lru_cache(maxsize=64)
def _load(file: str, _changed: int) -> paramiko.PKey:
    return paramiko.PKey.from_path(file)


def _described(key: paramiko.PKey) -> str:
    return str(known_hosts.Key(key.get_name(), key.asbytes()))
