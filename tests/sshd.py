"""A real sshd as a fake host: its own port, keys, home and state directory. Needs only the standard library.

It works without pytest too::

    with FakeHost("medusa.univ.run", directory) as host:
        subprocess.run(["ssh", "-F", host.ssh_config, host.name, "true"])
"""

from __future__ import annotations

import contextlib
import functools
import getpass
import os
import re
import shutil
import signal
import socket
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from types import TracebackType

    from typing_extensions import Self  # only type checkers need it

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
PATIENCE = 60.0
_PRIVILEGE_SEPARATION = Path("/run/sshd")


class SshdError(Exception):
    """The fake host could not be set up or taken down."""


@dataclass(frozen=True, order=True)
class Process:
    """A process that is no zombie; the start time distinguishes it from a later process with the same number."""

    pid: int
    """process id"""
    started: int
    """start time, in clock ticks since boot"""
    parent: int = field(compare=False)
    """process id of its parent; 1 for an orphan"""
    name: str = field(compare=False)
    """its command name, as the kernel shortens it"""

    def environment(self) -> list[bytes]:
        """Return the environment it was started with; empty if it is not readable."""
        with contextlib.suppress(OSError):
            return Path(f"/proc/{self.pid}/environ").read_bytes().split(b"\0")
        return []

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to this process, and never to a later one with the same number."""
        with contextlib.suppress(ProcessLookupError):
            handle = os.pidfd_open(self.pid)
            try:
                if process_table().get(self.pid) == self:
                    signal.pidfd_send_signal(handle, number)
            finally:
                os.close(handle)


@dataclass
class FakeHost:
    """An sshd on a free port of 127.0.0.1, and an ssh configuration that names it."""

    name: str
    """its name in the ssh configuration"""
    directory: Path
    """all its files; created if it does not exist"""
    host_keys: tuple[str, ...] = ("ed25519",)
    """kinds of its host keys"""
    known: bool = True
    """whether `known_hosts` has the host keys"""
    server: tuple[str, ...] = ()
    """lines of sshd_config before ours: the first one counts"""
    client: tuple[str, ...] = ()
    """lines of the ssh configuration before ours: the first one counts"""
    port: int = field(default=0, init=False)
    """the port, once it is started"""
    _reserved: socket.socket | None = field(default=None, init=False)
    """reserves the port while sshd does not listen"""
    _process: subprocess.Popen[bytes] | None = field(default=None, init=False)
    _born: int | None = field(default=None, init=False)
    _seen: frozenset[Process] = field(default=frozenset(), init=False)
    _probes: list[int] = field(default_factory=list, init=False)

    def __post_init__(self) -> None:
        self.directory = Path(self.directory).resolve()

    @property
    def home(self) -> Path:
        """HOME of its commands."""
        return self.directory / "home"

    @property
    def state(self) -> Path:
        """RUNSDEPLOY_STATE_DIR of its commands."""
        return self.directory / "state"

    @property
    def client_key(self) -> Path:
        """The private key that it accepts."""
        return self.directory / "client_key"

    @property
    def authorized_keys(self) -> Path:
        """The keys that it accepts."""
        return self.directory / "authorized_keys"

    @property
    def known_hosts(self) -> Path:
        """The operator's known_hosts file."""
        return self.directory / "known_hosts"

    @property
    def ssh_config(self) -> Path:
        """The operator's ssh configuration."""
        return self.directory / "ssh_config"

    def host_key(self, kind: str = "ed25519") -> Path:
        """The path of one of its host keys."""
        return self.directory / f"ssh_host_{kind}_key"

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Create missing keys and configuration, and listen."""
        _require_programs()
        self._prepare()
        if not self.port:
            self._reserved = _free_port()
            self.port = self._reserved.getsockname()[1]
        self._configure_server()
        self._listen()
        self.configure_client()

    def restart(self) -> None:
        """Stop and start again on the same port, as a reboot does."""
        self.stop()
        self.start()

    def stop(self) -> None:
        """Kill sshd and all its descendants, each by its own process id."""
        self.processes()
        if self._process:
            self._process.kill()
            self._process.wait(PATIENCE)
            self._process = None
        deadline = time.monotonic() + PATIENCE
        quiet = 0
        # One scan can miss a process that is forked during it: only two empty scans in a row count.
        while quiet < 2:
            alive = self.processes()
            quiet = 0 if alive else quiet + 1
            for process in alive:
                process.signal(signal.SIGKILL)
            if time.monotonic() > deadline:
                raise SshdError(f"processes of {self.name} cannot be killed: {alive}")
            time.sleep(0.005)

    def processes(self) -> list[Process]:
        """Return all live processes that this sshd started, orphans included, sshd itself excluded."""
        if self._born is None:  # never started, so it has no processes
            return []
        table = process_table()
        mark = f"RUNSDEPLOY_STATE_DIR={self.state}".encode()
        roots = {process for process in self._seen if table.get(process.pid) == process}
        roots |= {table[self._process.pid]} if self._process and self._process.pid in table else set()
        ours = descendants(table, roots) | {process for process in table.values() if mark in process.environment()}
        mine = self._process.pid if self._process else None
        self._seen = frozenset(process for process in ours if process.pid != mine and self._may_be_ours(process))
        return sorted(self._seen)

    def _may_be_ours(self, process: Process) -> bool:
        """Return whether the process may be killed: not older than our sshd, not the system, not this process."""
        return (
            self._born is not None
            and process.started >= self._born
            and process.pid > 1
            and process.parent != 0
            and process.pid != os.getpid()
        )

    def connections(self) -> list[Process]:
        """Return the sshd processes of open connections, without their commands."""
        return [process for process in self.processes() if process.name.startswith("sshd")]

    def cut(self) -> None:
        """Kill the connections, as a network failure does; the listener stays."""
        for process in self.connections():
            process.signal(signal.SIGKILL)

    def stop_listening(self) -> None:
        """Kill only the listener, as a network outage does; `start` starts it again on the same port."""
        self.processes()  # must be before the kill: their parent identifies them
        if self._process:
            self._process.kill()
            self._process.wait(PATIENCE)
            self._process = None

    def freeze(self) -> None:
        """Stop the connections without closing them: half-open connections."""
        for process in self.connections():
            process.signal(signal.SIGSTOP)

    def new_host_key(self, kind: str = "ed25519") -> None:
        """Replace a host key, as a reinstallation does."""
        _remove(self.host_key(kind))
        self.restart()

    def log(self) -> str:
        """Return sshd's log, without the connections of `start`."""
        return "".join(line for line in self._raw_log().splitlines(keepends=True) if not self._is_probe(line))

    def fingerprint(self, kind: str = "ed25519") -> str:
        """Return the fingerprint of a host key as ssh-keygen prints it."""
        printed = _run("ssh-keygen", "-l", "-f", f"{self.host_key(kind)}.pub")
        return printed.split()[1]

    def public_host_key(self, kind: str = "ed25519") -> str:
        """Return kind and base64 of a host key."""
        return " ".join(Path(f"{self.host_key(kind)}.pub").read_text("ascii").split()[:2])

    def learn(self) -> None:
        """Write the current host keys to `known_hosts`."""
        lines = [f"[127.0.0.1]:{self.port} {self.public_host_key(kind)}\n" for kind in self.host_keys]
        self.known_hosts.write_text("".join(lines), "ascii")

    def stanza(self) -> str:
        """Return the host's block of an ssh configuration, for files with several hosts."""
        options = (
            *self.client,
            "HostName 127.0.0.1",
            f"Port {self.port}",
            f"User {getpass.getuser()}",
            f'IdentityFile "{self.client_key}"',
            "IdentitiesOnly yes",
            f'UserKnownHostsFile "{self.known_hosts}"',
            "GlobalKnownHostsFile /dev/null",
            "StrictHostKeyChecking yes",
        )
        return f"Host {self.name}\n" + "".join(f"    {option}\n" for option in options)

    def configure_client(self) -> None:
        """Write the ssh configuration, and `known_hosts` unless it exists."""
        self.ssh_config.write_text(self.stanza(), "utf-8")
        if not self.known_hosts.exists():
            self.known_hosts.touch(0o600)
            if self.known:
                self.learn()

    def _prepare(self) -> None:
        for directory in (self.directory, self.home):
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        make_key(self.client_key)
        if not self.authorized_keys.exists():
            shutil.copy(f"{self.client_key}.pub", self.authorized_keys)
        for kind in self.host_keys:
            make_key(self.host_key(kind), kind)

    def _configure_server(self) -> None:
        environment = {
            "HOME": self.home, "XDG_STATE_HOME": "", "RUNSDEPLOY_STATE_DIR": self.state, "PATH": PATH,
        }  # fmt: skip
        options = (
            *self.server,
            f"ListenAddress 127.0.0.1:{self.port}",
            *(f'HostKey "{self.host_key(kind)}"' for kind in self.host_keys),
            f'AuthorizedKeysFile "{self.authorized_keys}"',
            "SetEnv " + " ".join(f'"{name}={value}"' for name, value in environment.items()),
            "UsePAM no",
            "StrictModes no",
            "PidFile none",
            "PasswordAuthentication no",
            "KbdInteractiveAuthentication no",
            "PermitRootLogin yes",
            "PrintMotd no",
            "LogLevel VERBOSE",
            *(["PerSourcePenalties no"] if _knows_penalties() else []),
        )
        (self.directory / "sshd_config").write_text("\n".join(options) + "\n", "utf-8")

    def _listen(self) -> None:
        with (self.directory / "sshd.log").open("ab") as log:
            start = log.tell()
            self._process = subprocess.Popen(
                [_sshd(), "-D", "-e", "-f", str(self.directory / "sshd_config")],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip
        self._born = self._born or int(_stat(self._process.pid)[19])
        deadline = time.monotonic() + PATIENCE
        while not (f"port {self.port}." in self._raw_log(start) and self._accepts()):
            if self._process.poll() is not None:
                self._process = None
                raise SshdError(f"sshd for {self.name} did not start:\n{self._raw_log(start)}")
            if time.monotonic() > deadline:
                raise SshdError(f"sshd for {self.name} accepts nothing:\n{self._raw_log(start)}")
            time.sleep(0.005)

    def _accepts(self) -> bool:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1) as connection:
            self._probes.append(connection.getsockname()[1])
            return connection.recv(4) == b"SSH-"
        return False

    def _is_probe(self, line: str) -> bool:
        return any(re.search(rf"\b127\.0\.0\.1 port {port}\b", line) for port in self._probes)

    def _raw_log(self, start: int = 0) -> str:
        return (self.directory / "sshd.log").read_bytes()[start:].decode("utf-8", "replace")


def make_key(path: Path, kind: str = "ed25519", locked_with: str = "") -> None:
    """Create a key pair, unless it exists."""
    if not path.exists():
        _run("ssh-keygen", "-q", "-t", kind, "-N", locked_with, "-C", path.name, "-f", str(path))


def _run(*command: str) -> str:
    return subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=True, text=True).stdout


def _remove(key: Path) -> None:
    key.unlink()
    Path(f"{key}.pub").unlink()


def _sshd() -> str:
    # sshd needs its full path, because it executes itself again for each connection.
    return shutil.which("sshd", path=f"{os.environ.get('PATH', '')}:{PATH}") or ""


def _require_programs() -> None:
    missing = [name for name in ("ssh", "ssh-keygen") if not shutil.which(name)]
    missing += [] if _sshd() else ["sshd"]
    if missing:
        raise SshdError(f"{', '.join(missing)} not found: install openssh-server and openssh-client")
    if os.geteuid() == 0:
        _PRIVILEGE_SEPARATION.mkdir(mode=0o755, parents=True, exist_ok=True)


@functools.lru_cache(maxsize=1)
def _knows_penalties() -> bool:
    """Return whether this sshd has PerSourcePenalties, which would lock the tests out after a few failures."""
    errors = subprocess.run(
        [_sshd(), "-t", "-f", "/dev/null", "-o", "PerSourcePenalties=no"],
        stdin=subprocess.DEVNULL, capture_output=True, check=False,
    ).stderr  # fmt: skip
    return b"Bad configuration option" not in errors and b"nsupported option" not in errors


def _free_port() -> socket.socket:
    """Reserve a free port while the socket is open; sshd may still bind it, because it sets SO_REUSEADDR."""
    reserved = socket.socket()
    reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    reserved.bind(("127.0.0.1", 0))
    return reserved


def process_table() -> dict[int, Process]:
    """Return every process by its process id, without zombies."""
    table = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                pid = int(entry.name)
                state, parent, *others, name = _stat(pid)
                if state not in "ZX":
                    table[pid] = Process(pid, int(others[17]), int(parent), name)
    return table


def _stat(pid: int) -> list[str]:
    """Return the fields of /proc/PID/stat, proc(5), from the third on, and then the second, which may have spaces."""
    name, _, rest = Path(f"/proc/{pid}/stat").read_text("latin-1").partition("(")[2].rpartition(")")
    return [*rest.split(), name]


def descendants(table: dict[int, Process], roots: set[Process]) -> set[Process]:
    """Return the roots and all their descendants."""
    family = set(roots)
    while more := {p for p in table.values() if p.parent in {f.pid for f in family}} - family:
        family |= more
    return family
