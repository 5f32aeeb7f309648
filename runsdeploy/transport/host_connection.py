"""A connection to one host that is opened when it is first needed and then shared.

It imports the SSH library late: loading it takes more than 100 ms, and only commands that connect need it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from contextlib import suppress

from msgspec.structs import replace

from runsdeploy.errors import HostError
from runsdeploy.transport import known_hosts
from runsdeploy.transport.channel import Transport
from runsdeploy.transport.local import LocalTransport


class HostConnection:
    """A lazily opened connection to one host, shared by all requests to it.

    `address` is `name` or `user@name`. `ssh_config` replaces the user's and the system's ssh configuration, as
    `ssh -F` does. `accept_new` accepts and records an unknown host key. `local` runs commands on this machine.
    `notify` is called with what is waited for, if the first connection takes long: of others a session reports itself.
    """

    def __init__(
        self,
        address: str,
        ssh_config: str | None = None,
        *,
        accept_new: bool = False,
        local: bool = False,
        notify: Callable[[str], None] | None = None,
    ) -> None:
        self.address, self.local = address, local
        self._notify = notify
        self._ssh_config, self._accept_new = ssh_config, accept_new
        self._transport: Transport | None = None
        self._destination: known_hosts.Destination | None = None

    def look_up(self) -> None:
        """Read ssh's configuration and the known keys of the host in advance; `open` reports what is wrong there."""
        with suppress(HostError):
            self._destination = known_hosts.look_up(self.address, self._ssh_config)

    def open(self) -> Transport:
        """Return the transport, and connect if there is none or it broke; raises Unreachable."""
        if self._transport is None or not self._transport.alive:
            self._transport = LocalTransport() if self.local else self._connect()
        return self._transport

    def _connect(self) -> Transport:
        from runsdeploy.transport.ssh import connecting  # noqa: PLC0415 - only commands that connect load paramiko

        options = connecting.Options(ssh_config=self._ssh_config, accept_new=self._accept_new)
        if self._notify:
            options, self._notify = replace(options, notify=self._notify), None
        return connecting.connect(self.address, options, self._destination)

    def close(self) -> None:
        """Close the transport, if it was opened."""
        if self._transport:
            self._transport.close()


def preload(connections: Sequence[HostConnection]) -> list[threading.Thread]:
    """Load the SSH library and look these hosts up, both in the background, while the controller plans.

    Planning mostly waits for bash, so this costs no time. Returns the started threads, none if all connections are
    local. The caller must join them before it ends: an interpreter that exits under an importing thread aborts.
    """
    remote = [each for each in connections if not each.local]
    if not remote:
        return []
    threads = [
        threading.Thread(target=_load_library, name="runsdeploy-load-ssh"),
        threading.Thread(target=_look_up, args=(remote,), name="runsdeploy-look-up"),
    ]
    for thread in threads:
        thread.start()
    return threads


def _load_library() -> None:
    import runsdeploy.transport.ssh.connecting  # noqa: F401, PLC0415


def _look_up(connections: Sequence[HostConnection]) -> None:
    for connection in connections:
        connection.look_up()
