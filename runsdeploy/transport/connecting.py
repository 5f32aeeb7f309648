"""Commands on a host over SSH: the operator's ssh configuration, known hosts and keys, no prompts.

The sole importer of paramiko, which is used below its SSHClient: one socket of our own, the host
key checked between key exchange and authentication, and no more round trips than the protocol has.
Nothing is ever forwarded to the host: no agent, no X11, no ports.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import logging
import random
import socket
import stat
import sys
import threading
import time
from collections.abc import Callable, Iterator
from os import getuid
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, ClassVar

from msgspec import Struct
from msgspec.structs import replace

from runsdeploy.errors import HostError, Lost, Refused, Unauthorized, Unreachable
from runsdeploy.transport import known_hosts
from runsdeploy.transport.buffered_socket import CHUNK, BufferedSocket, Socket
from runsdeploy.transport.password import Password
from runsdeploy.transport.ssh_config import Settings, public_part, reason, resolve, split_jump, split_user

# Two things that paramiko loads are a third of its start: invoke (40 ms), for `Match exec` alone, which `ssh -G`
# does for us, and importlib.metadata (13 ms), for its own version number. It goes on without the one, and is
# content with any answer of the other.
_SHADOWED = {"invoke": None, "importlib.metadata": SimpleNamespace(version=lambda _name: "unknown")}
_missing = [name for name in _SHADOWED if name not in sys.modules]
for _name in _missing:
    sys.modules[_name] = _SHADOWED[_name]  # type: ignore[assignment]
try:
    import paramiko
    from paramiko.agent import AgentSSH
    from paramiko.packet import Packetizer
finally:
    for _name in _missing:
        del sys.modules[_name]

WINDOW = 4 * 1024 * 1024
"""bytes a host may send unread: 80 MB/s at 50 ms. A slow reader costs that much memory for each command,
and paramiko moves all that is unread at each read: 16 MiB were eight times slower"""
STDERR_KEPT = 64 * 1024
LARGEST_PACKET = 1 << 20
MAX_HOPS = 8

_CONNECT_FAILED = 2  # RFC 4254: the jump host could not connect, as opposed to would not
_log = logging.getLogger(__name__)

# What paramiko has to say is in the exceptions; its log would reach the terminal as logging's last resort.
_paramiko_log = logging.getLogger("paramiko")
_paramiko_log.addHandler(logging.NullHandler())
_paramiko_log.propagate = False
_paramiko_log.setLevel(logging.CRITICAL)


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


class _Packets(Packetizer):
    """Paramiko's packets, without the timer thread that outlives a failed handshake."""

    def read_all(self, n: int, check_rekey: bool = False) -> bytes:  # noqa: FBT001, FBT002 - paramiko's
        """Read bytes of one packet: what says that it is larger than any is not read into memory."""
        if n > LARGEST_PACKET:
            raise paramiko.SSHException(f"the host sent a packet of {n} bytes")
        data: bytes = super().read_all(n, check_rekey)
        return data

    def start_handshake(self, timeout: float) -> None:
        """Do nothing: `start_client` has a deadline for the whole of it."""


def _within_window(handle: Callable[[Any, Any], None]) -> Callable[[Any, Any], None]:
    """Have bytes of a command handled only while there is window for them: a host may not send more, but can."""

    def bounded(channel: Any, message: Any) -> None:
        if len(channel.in_buffer) + len(channel.in_stderr_buffer) > 2 * WINDOW:
            raise paramiko.SSHException("the host sends more than it may")
        handle(channel, message)

    return bounded


_HANDLERS: dict[int, Any] = paramiko.Transport._channel_handler_table  # type: ignore[attr-defined]  # noqa: SLF001
_DATA, _EXTENDED_DATA = 94, 95  # RFC 4254, 9


class _Transport(paramiko.Transport):
    """Paramiko's transport, which else keeps in memory all that a host likes to send."""

    _channel_handler_table: ClassVar = {
        **_HANDLERS,
        **{number: _within_window(_HANDLERS[number]) for number in (_DATA, _EXTENDED_DATA)},
    }


class Connection:
    """A logged-in connection; a Transport."""

    def __init__(self, name: str, ssh: paramiko.Transport, timeout: float, below: Connection | None) -> None:
        self.name, self._ssh, self.timeout, self._below = name, ssh, timeout, below

    def open(self, command: str) -> Stream:
        """Start a command."""
        # paramiko waits for the answer to a command as long as it takes
        limit = threading.Timer(self.timeout, self._ssh.close)
        limit.daemon = True
        limit.start()
        try:
            channel = self._ssh.open_session(timeout=self.timeout)
            channel.set_combine_stderr(False)  # paramiko's signature
            channel.exec_command(command)
        except Exception as error:
            if not self.alive or "Timeout" in str(error):
                raise Lost(f"lost `{self.name}` before a command was started: {reason(error)}") from error
            raise Refused(f"`{self.name}` refused to start a command: {_refusal(error)}") from error
        finally:
            limit.cancel()
        return Stream(self, channel)

    def open_through(self, host: str, port: int) -> Socket:
        """Connect from there to somewhere else."""
        return self._ssh.open_channel("direct-tcpip", (host, port), ("127.0.0.1", 0), timeout=self.timeout)

    @property
    def alive(self) -> bool:
        """Whether the link is still there, as far as anybody knows."""
        return self._ssh.is_active()

    def loss(self) -> str:
        """Why the link is gone."""
        error = self._ssh.saved_exception
        return reason(error) if error and str(error) else "the connection was closed"

    def close(self) -> None:
        """Give the connection up, and those it goes through."""
        with contextlib.suppress(Exception):
            self._ssh.close()
        if self._below:
            self._below.close()


class Stream:
    """A running command; a Channel."""

    def __init__(self, connection: Connection, channel: paramiko.Channel) -> None:
        self._connection, self._channel = connection, channel
        self._stderr = bytearray()
        # stderr shares the window with stdout: unread, it would stop both
        self._drain = threading.Thread(target=self._keep_stderr, name="runsdeploy-stderr", daemon=True)
        self._drain.start()

    def send(self, data: bytes) -> None:
        """Write all of the data."""
        for at in range(0, len(data), CHUNK):
            piece = data[at : at + CHUNK]
            while piece:
                piece = piece[self._send_some(piece) :]

    def _send_some(self, piece: bytes) -> int:
        try:
            sent = self._channel.send(piece)
        except Exception as error:
            raise self._lost(error) from error
        # paramiko drops what it is given for a dead connection without a word
        if not sent or not self._connection.alive:
            raise self._lost(None)
        return sent

    def _lost(self, error: Exception | None) -> Lost:
        name = self._connection.name
        if self._connection.alive:
            return Lost(f"the command on `{name}` takes no more input")
        return Lost(f"lost `{name}`: {self._connection.loss() if error is None else reason(error)}")

    def close_input(self) -> None:
        """End the command's stdin."""
        with contextlib.suppress(Exception):
            self._channel.shutdown_write()

    def receive(self) -> bytes:
        """Wait for the next bytes of stdout."""
        try:
            data = self._channel.recv(CHUNK)
        except Exception as error:
            raise self._lost(error) from error
        if not data and not self._channel.eof_received and not self._connection.alive:
            raise self._lost(None)
        return data

    def _keep_stderr(self) -> None:
        with contextlib.suppress(Exception):
            while data := self._channel.recv_stderr(STDERR_KEPT):
                self._stderr += data
                del self._stderr[:-STDERR_KEPT]

    def stderr(self) -> bytes:
        """Give the last of what came on stderr."""
        if self._channel.eof_received or self._channel.closed:
            self._drain.join(10)  # nothing more can come, so it is about to end
        return bytes(self._stderr)

    def exit_status(self) -> int | None:
        """Wait for the end of the command; None if the host did not say how it ended."""
        self._channel.status_event.wait(self._connection.timeout)
        if not self._channel.status_event.is_set():
            return None
        status = self._channel.recv_exit_status()
        return status if status >= 0 else None

    def close(self) -> None:
        """Give the command up."""
        with contextlib.suppress(Exception):
            self._channel.close()


def connect(host: str, options: Options, destination: known_hosts.Destination | None = None) -> Connection:
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


def _connect(settings: Settings, options: Options, hops: int, entries: tuple[known_hosts.Entry, ...]) -> Connection:
    if settings.proxy_command:
        raise Unreachable(
            f"`{settings.name}` has a ProxyCommand, which is not supported; ProxyJump is",
            "replace `ProxyCommand ssh -W %h:%p BASTION` by `ProxyJump BASTION`",
        )
    with contextlib.ExitStack() as undo:
        below = _connect_jump(settings, options, hops)
        if below:
            undo.callback(below.close)
        ssh, wire = _shake_hands(settings, options, entries, below)
        undo.callback(wire.close)
        undo.callback(ssh.close)
        _check_host_key(ssh, settings, options, entries)
        _authenticate(ssh, settings, options)
        wire.watch(settings.alive_interval, settings.alive_count, functools.partial(_ask_whether_alive, ssh))
        undo.pop_all()
    return Connection(settings.name, ssh, settings.connect_timeout, below)


def _connect_jump(settings: Settings, options: Options, hops: int) -> Connection | None:
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


_Entries = tuple[known_hosts.Entry, ...]


def _shake_hands(
    settings: Settings, options: Options, entries: _Entries, below: Connection | None
) -> tuple[paramiko.Transport, BufferedSocket]:
    """Connect and agree on keys; what broke early is tried again, for nothing has happened yet."""
    for delay in (*options.retry_delays, None):
        try:
            return _shake_hands_once(settings, entries, below)
        except (paramiko.SSHException, OSError, EOFError) as error:
            if delay is None or not _is_passing(error) or (below and not below.alive):
                raise _unreachable(settings, error, below) from error
        time.sleep(delay * random.uniform(1, 1.25))  # noqa: S311 - spreads attempts, hides nothing
    raise AssertionError("the last attempt raises")


def _is_passing(error: Exception) -> bool:
    """Whether another attempt may do better; a host that is silent for the whole timeout had its chance."""
    if isinstance(error, paramiko.ChannelException):
        return bool(error.code == _CONNECT_FAILED)
    if isinstance(error, paramiko.SSHException):
        return "protocol banner" in str(error) and not isinstance(error, paramiko.ssh_exception.IncompatiblePeer)
    return isinstance(error, (ConnectionError, EOFError))


def _shake_hands_once(
    settings: Settings, entries: _Entries, below: Connection | None
) -> tuple[paramiko.Transport, BufferedSocket]:
    wire = BufferedSocket(below.open_through(settings.host, settings.port) if below else _dial(settings))
    try:
        link: Any = wire  # whatever sends and receives, says paramiko's manual
        ssh = _Transport(link, default_window_size=WINDOW, packetizer_class=_Packets)
        _prefer(ssh, entries)
        ssh.banner_timeout = settings.connect_timeout + 1  # so that it is start_client's that ends first
        ssh.auth_timeout = settings.connect_timeout
        ssh.start_client(timeout=settings.connect_timeout)
        _require_keys(ssh, settings)
    except BaseException:
        wire.close()
        raise
    return ssh, wire


def _require_keys(ssh: paramiko.Transport, settings: Settings) -> None:
    """Raise if `start_client` came back because its time was over, which it does without a word."""
    if not ssh.initial_kex_done:
        ssh.close()
        raise TimeoutError(errno.ETIMEDOUT, f"no answer within {settings.connect_timeout:g} s")


def _dial(settings: Settings) -> socket.socket:
    """Connect to the first address that answers."""
    failure: OSError | None = None
    for family, kind, protocol, _, address in _addresses(settings):
        link = socket.socket(family, kind, protocol)
        try:
            link.settimeout(settings.connect_timeout)
            link.connect(address)
            link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        except OSError as error:
            link.close()
            failure = error
        else:
            return link
    raise failure or OSError("it has no address")


def _addresses(settings: Settings) -> list[tuple[int, int, int, str, tuple[str | int, ...]]]:
    try:
        found = socket.getaddrinfo(settings.host, settings.port, settings.family, socket.SOCK_STREAM)
    except (socket.gaierror, UnicodeError) as error:
        message = f"`{settings.name}` has no address: `{settings.host}`: {reason(error)}"
        raise Unreachable(message, passing=True) from error
    return list(found)  # type: ignore[arg-type]


def _prefer(ssh: paramiko.Transport, entries: _Entries) -> None:
    """Put what is fast, and the kind of host key that is known, in front; remove nothing."""
    known = {entry.key.kind for entry in entries if not entry.revoked}
    if "ssh-rsa" in known:
        known |= {"rsa-sha2-512", "rsa-sha2-256"}
    chosen = ssh.get_security_options()
    chosen.kex = sorted(chosen.kex, key=lambda name: "25519" not in name)
    chosen.ciphers = sorted(chosen.ciphers, key=lambda name: "gcm" not in name)
    chosen.key_types = sorted(chosen.key_types, key=lambda name: name not in known)


def _check_host_key(ssh: paramiko.Transport, settings: Settings, options: Options, entries: _Entries) -> None:
    key = ssh.get_remote_server_key()
    offered = known_hosts.Key(key.get_name(), key.asbytes())
    known_hosts.check(settings, entries, offered, accept_new=options.accept_new, warn=options.warn)


def _unreachable(settings: Settings, error: Exception, below: Connection | None) -> Unreachable:
    through = f" through `{below.name}`" if below else ""
    place = f"`{settings.name}`{through}"
    if not settings.known_as.startswith(settings.name) or below:
        place += f" ({settings.host} port {settings.port})"
    return Unreachable(f"cannot connect to {place}: {_refusal(error)}", passing=True)


def _refusal(error: Exception) -> str:
    if isinstance(error, paramiko.ChannelException):
        return error.text.lower().rstrip(".") or f"reason {error.code}"
    if isinstance(error, EOFError) or "protocol banner" in str(error):
        return "the connection was closed before keys were agreed on"
    return reason(error)


def _ask_whether_alive(ssh: paramiko.Transport) -> None:
    """Ask the host something that it must answer, from the thread that reads: never wait for a lock here."""
    if not ssh.clear_to_send_lock.acquire(blocking=False):
        return  # somebody is sending, which is a question too
    try:
        if ssh.clear_to_send.is_set():
            question = paramiko.Message()
            question.add_byte(bytes([80]))  # SSH_MSG_GLOBAL_REQUEST
            question.add_string("keepalive@openssh.com")
            question.add_boolean(True)  # noqa: FBT003 - wants a reply
            ssh.packetizer.send_message(question)  # paramiko's own keepalive asks for no reply
    finally:
        ssh.clear_to_send_lock.release()


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


class _Candidate(Struct, frozen=True):
    """A key to offer, or a file that should have held one."""

    label: str
    """what it is called in messages"""
    key: paramiko.PKey | None = None
    """the key, if it can be used"""
    hint: str = ""
    """what would make it usable"""


def _authenticate(ssh: paramiko.Transport, settings: Settings, options: Options) -> None:
    """Offer keys until one is accepted, or a password."""
    if options.password:
        _offer_password(ssh, settings, options.password)
        return
    tried: list[str] = []
    hints: list[str] = []
    stop: str | None = None
    offered = False
    with _agent_keys(settings) as agent_keys:
        for candidate in _candidates(settings, agent_keys):
            if candidate.key and options.only_key not in (b"", candidate.key.asbytes()):
                continue
            tried.append(candidate.label)
            hints += [candidate.hint] if candidate.hint else []
            if candidate.key is None:
                continue
            offered = True
            stop = _offer(ssh, settings.user, candidate.key)
            if stop is None:
                return
            if stop:
                tried.append(stop)
                break
    told = ", ".join(tried) or "nothing, there is no key to offer"
    message = f"`{settings.name}` accepted no key for user `{settings.user}`; tried: {told}"
    passing = not ssh.is_active()
    methods = () if stop or passing else _methods(ssh, settings.user)
    hint = f"runsdeploy ssh.setup --host {settings.user}@{settings.name}"
    if methods and not takes_password(methods):
        hint = "it takes no password either: whoever may log in there can add your public key"
    raise Unauthorized(
        message, next(iter(hints), hint), host=settings.name, passing=passing, offered=offered, methods=methods
    )


def takes_password(methods: tuple[str, ...]) -> bool:
    """Return whether one of these methods is about a password; many hosts that use PAM only offer the second."""
    return "password" in methods or "keyboard-interactive" in methods


def _methods(ssh: paramiko.Transport, user: str) -> tuple[str, ...]:
    """Ask how one may log in; empty if the host does not say."""
    try:
        ssh.auth_none(user)
    except paramiko.BadAuthenticationType as error:
        return tuple(error.allowed_types)
    except (paramiko.SSHException, OSError, EOFError):
        _log.debug("`none` was not answered by a list of methods")
    return ()


def _offer_password(ssh: paramiko.Transport, settings: Settings, password: Password) -> None:
    """Log in with a password, which is sent once; raises Unauthorized."""
    name, user, secret = settings.name, settings.user, password.secret
    methods = _methods(ssh, user)
    if not takes_password(methods):
        message = f"`{name}` takes no password for user `{user}`, only {', '.join(methods) or 'what it does not say'}"
        raise Unauthorized(message, host=name, offered=False, methods=methods)
    asked: list[str] = []
    refused, further = False, []

    def answer(_title: str, _instructions: str, prompts: list[tuple[str, bool]]) -> list[Any]:
        asked.extend(password.hide(text.encode()).decode() for text, _ in prompts)
        alone = len(asked) == len(prompts) == 1 and not prompts[0][1]  # hidden, and nothing was asked before
        return [secret] if alone else ["" for _ in prompts]

    try:
        if "password" in methods:
            further = ssh.auth_password(user, secret, fallback=False)  # type: ignore[arg-type]
        else:
            further = ssh.auth_interactive(user, answer)
    except (paramiko.SSHException, OSError, EOFError) as error:
        if "imeout" in str(error):
            raise Unreachable(f"`{name}` gave no answer to the password", passing=True) from None
        refused = True
    if refused and len(asked) > 1:
        more = ", ".join(f"`{text.strip()}`" for text in asked)
        raise Unauthorized(f"`{name}` asks user `{user}` for more than a password: {more}", host=name)
    if further:
        raise Unauthorized(f"`{name}` wants {', '.join(further)} besides the password of user `{user}`", host=name)
    if refused:
        hint = "is it the right one, and may this user log in with one?"
        if user == "root":
            hint = f"sshd takes none for root by default; another user can do it: `--host USER@{name} --for root`"
        raise Unauthorized(f"`{name}` did not accept the password of user `{user}`", hint, host=name)


def _offer(ssh: paramiko.Transport, user: str, key: paramiko.PKey) -> str | None:
    """None if the key lets us in; empty to go on with the next; otherwise why there is no next."""
    try:
        further = ssh.auth_publickey(user, key)
    except paramiko.BadAuthenticationType as error:
        return f"the host takes no keys, only {', '.join(error.allowed_types)}"
    except (paramiko.SSHException, OSError, EOFError) as error:
        if "imeout" in str(error):
            return "then the host gave no answer"
        return "" if ssh.is_active() else "then the connection was closed"
    return f"then the host wanted {', '.join(further)} as well" if further else None


@contextlib.contextmanager
def _agent_keys(settings: Settings) -> Iterator[list[paramiko.AgentKey]]:
    """Give the agent's keys; a missing or broken agent has none."""
    agent: _Agent | None = None
    with contextlib.suppress(OSError, paramiko.SSHException):
        agent = _Agent(settings.agent, settings.connect_timeout) if settings.agent else None
    with contextlib.closing(agent) if agent else contextlib.nullcontext():
        yield list(agent.get_keys()) if agent else []


def _candidates(settings: Settings, agent_keys: list[paramiko.AgentKey]) -> Iterator[_Candidate]:
    """Give keys in ssh's order: those of the agent that are configured, its others, then files."""
    held = {key.asbytes(): key for key in agent_keys}
    files = [(file, public_part(file) if held else None) for file in settings.identities]
    configured = [blob for _, blob in files if blob and blob in held]
    others = [] if settings.identities_only else list(held)
    for chosen in dict.fromkeys([*configured, *others]):
        yield _Candidate(f"agent's {_described(held[chosen])}", held[chosen])
    for file, blob in files:
        if (blob is None or blob not in held) and Path(file).is_file():
            yield _from_file(file)


def _from_file(file: str) -> _Candidate:
    status = Path(file).stat()
    if status.st_uid == getuid() and stat.S_IMODE(status.st_mode) & 0o077:
        return _Candidate(f"not {file}, which others may read", hint=f"chmod 600 {file}")
    try:
        key = _load(file, status.st_mtime_ns)
    except (
        TypeError,
        paramiko.PasswordRequiredException,
    ):  # what cryptography raises for want of a passphrase
        return _Candidate(f"not {file}, which is encrypted", hint=f"ssh-add {file}")
    except Exception as error:  # noqa: BLE001 - any of a dozen kinds, for a file that ssh would skip as well
        return _Candidate(f"not {file}, which is no usable key ({reason(error)})")
    return _Candidate(f"{file} ({_described(key)})", key)


@functools.lru_cache(maxsize=64)
def _load(file: str, _changed: int) -> paramiko.PKey:
    return paramiko.PKey.from_path(file)


def _described(key: paramiko.PKey) -> str:
    return str(known_hosts.Key(key.get_name(), key.asbytes()))
