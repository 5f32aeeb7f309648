"""An SSH server that lies: it lets anybody in, reads a session as a real target would, and answers what it likes.

A behaviour acts on one of three levels: on the bare socket, before there is any SSH; in the SSH protocol, by what
it does at a phase (`auth`, `open`, `exec`); or as the program that a channel starts, which knows the session's nonce::

    with Impostor(directory, tell=lambda talk: talk.say("finish ok")) as host:
        runsdeploy deploy --ssh-config host.ssh_config --host host.name
"""

from __future__ import annotations

import contextlib
import getpass
import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import paramiko
from paramiko.common import cMSG_CHANNEL_DATA, cMSG_CHANNEL_EXTENDED_DATA, cMSG_CHANNEL_WINDOW_ADJUST

from tests.sshd import make_key

if TYPE_CHECKING:
    from types import TracebackType

    from typing_extensions import Self  # the checkers know it; nothing imports it

CLOSED = (OSError, EOFError, paramiko.SSHException)
"""what is raised when the other side has gone"""

CLIENT = ("ConnectTimeout 8", "ServerAliveInterval 5", "ServerAliveCountMax 3")
"""the operator's patience, in the ssh configuration"""

PIECE = 32768
"""bytes that every SSH implementation takes in one packet"""


class Talk:
    """A channel whose command was started, from the side of the machine."""

    def __init__(self, link: Link, channel: paramiko.Channel) -> None:
        self.link, self.channel = link, channel
        self.number = link.impostor.count_talk()
        """which of all the channels this is, from 1"""
        self.nonce = self.session = self.segment = ""
        self.length = 0
        """bytes of the archive; 0 for a request of the spool, or a question"""
        self.asked = ""
        """the byte of the spool to begin at, or the argument of a question"""
        self._input = channel.makefile("rb")
        if link.narrow:
            channel.in_window_threshold = 1 << 62

    def read_request(self) -> None:
        """Read the program, the header and the archive."""
        self._read(int(self._line().split()[-1]))
        words = self._line().decode().split()
        self.nonce, self.session, self.segment, length, *_, self.asked, _ = words
        self.length = int(length)
        for at in range(0, self.length, PIECE):
            self._read(min(PIECE, self.length - at))

    def _line(self) -> bytes:
        if not self.link.narrow:
            return bytes(self._input.readline())
        line = b""
        while not line.endswith(b"\n"):
            line += self._read(1)
        return line

    def _read(self, size: int) -> bytes:
        """Read so many bytes; where the window is narrow, let no more be sent."""
        if self.link.narrow:
            message = paramiko.Message()
            message.add_byte(cMSG_CHANNEL_WINDOW_ADJUST)
            message.add_int(self.channel.remote_chanid)
            message.add_int(size)
            self.link.transport._send_message(message)
        data: bytes = self._input.read(size)
        if len(data) < size:
            raise EOFError
        return data

    def write(self, data: bytes) -> None:
        """Write to the channel's stdout, as fast as the other side takes it."""
        self.channel.sendall(data)

    def pour(self, piece: bytes, size: int) -> None:
        """Write the same bytes again and again, in so many bytes."""
        for _ in range(0, size, len(piece)):
            self.write(piece)

    def event(self, text: str, nonce: str = "") -> bytes:
        """Return the bytes of an event."""
        return b"\x1e" + (nonce or self.nonce).encode() + b" " + text.encode() + b"\n"

    def emit(self, *texts: str) -> None:
        """Write events."""
        self.write(b"".join(self.event(text) for text in texts))

    def begin(self) -> None:
        """Write the events before a spool."""
        self.emit("hello 3 /s", "attached 0")

    def complain(self, data: bytes) -> None:
        """Write to the channel's stderr."""
        self.channel.sendall_stderr(data)

    def flood(self, data: bytes, *, stderr: bool = False) -> None:
        """Send data without asking whether there is any window left for it."""
        message = paramiko.Message()
        message.add_byte(cMSG_CHANNEL_EXTENDED_DATA if stderr else cMSG_CHANNEL_DATA)
        message.add_int(self.channel.remote_chanid)
        if stderr:
            message.add_int(1)
        message.add_string(data)
        self.link.transport._send_message(message)

    def exit(self, status: int | None = 0) -> None:
        """End the command."""
        if status is not None:
            self.channel.send_exit_status(status)
        self.channel.close()

    def hang(self) -> None:
        """Send nothing more, as long as the channel is open."""
        self.link.impostor.silent.set()
        self.link.wait()


class Link(paramiko.ServerInterface):
    """One connection, from the side of the machine."""

    def __init__(self, impostor: Impostor, below: socket.socket) -> None:
        self.impostor, self.below = impostor, below
        self.transport = _Machine(below)
        self.transport.link = self
        self.narrow = False
        """whether channels take what `Talk.read_request` reads, and not a byte more"""

    def serve(self) -> None:
        """Speak SSH until the connection ends."""
        self.transport.add_server_key(self.impostor.key)
        self.transport.banner_timeout = self.transport.auth_timeout = 60
        ready = threading.Event()
        try:
            self.transport.start_server(event=ready, server=self)
            self.wait()
        finally:
            self.transport.close()

    def wait(self) -> None:
        """Wait for the end of the connection."""
        while not self.impostor.over.wait(0.05) and self.transport.is_alive():
            pass

    def _at(self, phase: str) -> Any:
        act = self.impostor.at.get(phase)
        if act is None:
            return None
        self.impostor.reached.set()
        return act(self)

    def get_allowed_auths(self, username: str) -> str:  # noqa: ARG002 - paramiko's
        """Say how to log in."""
        return "publickey"

    def check_auth_publickey(self, username: str, key: paramiko.PKey) -> int:  # noqa: ARG002 - paramiko's
        """Let everybody in."""
        answer = self._at("auth")
        return paramiko.AUTH_SUCCESSFUL if answer is None else answer

    def check_channel_request(self, kind: str, chanid: int) -> int:  # noqa: ARG002 - paramiko's
        """Let a channel be opened."""
        answer = self._at("open")
        return paramiko.OPEN_SUCCEEDED if answer is None else answer

    def check_channel_exec_request(self, channel: paramiko.Channel, _command: bytes) -> bool:
        """Start a command: the behaviour, after the reply that it started."""
        answer = self._at("exec")
        if answer is not None:
            return bool(answer)
        threading.Thread(target=self._perform, args=(channel,), daemon=True).start()
        return True

    def _perform(self, channel: paramiko.Channel) -> None:
        tell = self.impostor.tell
        if tell is None:
            return
        self.transport.replied.wait(10)
        try:
            talk = Talk(self, channel)
            self.impostor.reached.set()
            tell(talk)
        except CLOSED:
            pass
        except Exception as error:  # noqa: BLE001 - for the test to show: a broken behaviour proves nothing
            self.impostor.faults.append(error)


class _Machine(paramiko.Transport):
    """Paramiko's transport, which knows when it has answered a request, and can leave one unanswered."""

    link: Link

    def __init__(self, below: socket.socket) -> None:
        super().__init__(below)
        self.replied = threading.Event()
        self.daemon = True

    def _request(self, channel: paramiko.Channel, message: paramiko.Message) -> None:
        if self.link.impostor.at.get("exec") is unanswered:
            self.link.impostor.reached.set()
            return
        channel._handle_request(message)
        self.replied.set()


# A class attribute of paramiko's: what is done with each kind of message about a channel.
_Machine._channel_handler_table = {
    **paramiko.Transport._channel_handler_table,
    98: lambda channel, message: channel.transport._request(channel, message),  # SSH_MSG_CHANNEL_REQUEST
}


def unanswered(link: Link) -> None:
    """Stand for an `exec` request that gets no answer, though the machine is there."""


@dataclass
class Impostor:
    """A listener on a free port of 127.0.0.1, and the ssh configuration that reaches it under a name."""

    directory: Path
    """its keys and the operator's ssh configuration"""
    tell: Callable[[Talk], None] | None = None
    """what the started command does"""
    at: dict[str, Callable[[Link], Any]] = field(default_factory=dict)
    """what is done at a phase; an answer other than None is paramiko's word for yes or no"""
    raw: Callable[[socket.socket], None] | None = None
    """what is done with a connection instead of speaking SSH"""
    name: str = "medusa.univ.run"
    faults: list[BaseException] = field(default_factory=list)
    """what went wrong in the behaviour itself"""
    over: threading.Event = field(default_factory=threading.Event)
    reached: threading.Event = field(default_factory=threading.Event)
    """whether the behaviour came to act at all"""
    silent: threading.Event = field(default_factory=threading.Event)
    """whether it now only waits"""
    connections: int = 0
    _talks: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def ssh_config(self) -> Path:
        """The operator's ssh configuration."""
        return self.directory / "ssh_config"

    def count_talk(self) -> int:
        """Return the number of one more channel."""
        with self._lock:
            self._talks += 1
            return self._talks

    def __enter__(self) -> Self:
        self.directory.mkdir(parents=True, exist_ok=True)
        self._listener = socket.create_server(("127.0.0.1", 0))
        port = self._listener.getsockname()[1]
        for name in ("host_key", "client_key"):
            make_key(self.directory / name)
        self.key = paramiko.Ed25519Key(filename=str(self.directory / "host_key"))
        known = self.directory / "known_hosts"
        public = (self.directory / "host_key.pub").read_text("ascii")
        known.write_text(f"[127.0.0.1]:{port} {public}", "ascii")
        options = (
            "HostName 127.0.0.1",
            f"Port {port}",
            f"User {getpass.getuser()}",
            f'IdentityFile "{self.directory / "client_key"}"',
            "IdentitiesOnly yes",
            f'UserKnownHostsFile "{known}"',
            "GlobalKnownHostsFile /dev/null",
            "StrictHostKeyChecking yes",
            *CLIENT,
        )
        self.ssh_config.write_text(f"Host {self.name}\n" + "".join(f"    {each}\n" for each in options), "utf-8")
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.over.set()
        # A listener that is only closed continues to wait; one that is shut down does not.
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for thread in list(self._threads):
            thread.join(10)

    def _accept(self) -> None:
        while not self.over.is_set():
            try:
                below, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            thread = threading.Thread(target=self._serve, args=(below,), daemon=True)
            self._threads.append(thread)
            thread.start()

    def _serve(self, below: socket.socket) -> None:
        with below:
            try:
                if self.raw:
                    below.settimeout(60)
                    self.reached.set()
                    self.raw(below)
                else:
                    Link(self, below).serve()
            except CLOSED:
                pass
            except Exception as error:  # noqa: BLE001 - for the test to show
                self.faults.append(error)
