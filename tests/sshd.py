"""A real sshd as a fake host: its own port, keys, home and state directory; standard library only.

Usable without pytest, by whatever wants a host to deploy to::

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

    from typing_extensions import Self  # the checkers know it; nothing imports it

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
PATIENCE = 60.0
_PRIVILEGE_SEPARATION = Path("/run/sshd")


class SshdError(Exception):
    """The fake host could not be set up or taken down."""


@dataclass(frozen=True, order=True)
class Process:
    """A process that is not a zombie; the start time tells it from a later one with the same number."""

    pid: int
    """its number"""
    started: int
    """when, in clock ticks since the boot"""
    parent: int = field(compare=False)
    """the number of its parent; 1 for an orphan"""
    name: str = field(compare=False)
    """its command, as the kernel shortens it"""

    def environment(self) -> list[bytes]:
        """Give the environment it was started with, if it may be read."""
        with contextlib.suppress(OSError):
            return Path(f"/proc/{self.pid}/environ").read_bytes().split(b"\0")
        return []

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to this process, and to no other that got its number meanwhile."""
        with contextlib.suppress(ProcessLookupError):
            handle = os.pidfd_open(self.pid)
            try:
                if process_table().get(self.pid) == self:
                    signal.pidfd_send_signal(handle, number)
            finally:
                os.close(handle)


@dataclass
class FakeHost:
    """An sshd on a free port of 127.0.0.1, and the ssh configuration that reaches it under a name."""

    name: str
    """what the ssh configuration calls it"""
    directory: Path
    """everything about it lives here; made if it does not exist"""
    host_keys: tuple[str, ...] = ("ed25519",)
    """kinds of host keys it has"""
    known: bool = True
    """whether `known_hosts` already holds the host keys"""
    server: tuple[str, ...] = ()
    """lines of sshd_config that come before ours, and so win"""
    client: tuple[str, ...] = ()
    """lines of the ssh configuration that come before ours, and so win"""
    port: int = field(default=0, init=False)
    """where it listens, once started"""
    _place: socket.socket | None = field(default=None, init=False)
    """keeps the port ours, also while nobody listens there"""
    _process: subprocess.Popen[bytes] | None = field(default=None, init=False)
    _born: int | None = field(default=None, init=False)
    _seen: frozenset[Process] = field(default=frozenset(), init=False)
    _probes: list[int] = field(default_factory=list, init=False)

    def __post_init__(self) -> None:
        self.directory = Path(self.directory).resolve()

    @property
    def home(self) -> Path:
        """HOME of the commands it runs."""
        return self.directory / "home"

    @property
    def state(self) -> Path:
        """RUNSDEPLOY_STATE_DIR of the commands it runs."""
        return self.directory / "state"

    @property
    def client_key(self) -> Path:
        """The key that may log in."""
        return self.directory / "client_key"

    @property
    def authorized_keys(self) -> Path:
        """Who may log in."""
        return self.directory / "authorized_keys"

    @property
    def known_hosts(self) -> Path:
        """The operator's known hosts file."""
        return self.directory / "known_hosts"

    @property
    def ssh_config(self) -> Path:
        """The operator's ssh configuration."""
        return self.directory / "ssh_config"

    def host_key(self, kind: str = "ed25519") -> Path:
        """One of its host keys."""
        return self.directory / f"ssh_host_{kind}_key"

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Make keys and configuration where they are missing, and listen."""
        _require_programs()
        self._prepare()
        if not self.port:
            self._place = _free_port()
            self.port = self._place.getsockname()[1]
        self._configure_server()
        self._listen()
        self.configure_client()

    def restart(self) -> None:
        """Stop and start again on the same port, as a reboot does."""
        self.stop()
        self.start()

    def stop(self) -> None:
        """Kill sshd and everything it started, each by its own process id."""
        self.processes()
        if self._process:
            self._process.kill()
            self._process.wait(PATIENCE)
            self._process = None
        deadline = time.monotonic() + PATIENCE
        quiet = 0
        # One look can miss what is being forked while it lasts: only a second that sees nothing counts.
        while quiet < 2:
            alive = self.processes()
            quiet = 0 if alive else quiet + 1
            for process in alive:
                process.signal(signal.SIGKILL)
            if time.monotonic() > deadline:
                raise SshdError(f"processes of {self.name} cannot be killed: {alive}")
            time.sleep(0.005)

    def processes(self) -> list[Process]:
        """Give everything alive that this sshd started, orphans included, but not sshd itself."""
        if self._born is None:  # never started, so nothing is ours
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
        """Guard against killing by mistake: nothing older than our sshd, not the system, not ourselves."""
        return (
            self._born is not None
            and process.started >= self._born
            and process.pid > 1
            and process.parent != 0
            and process.pid != os.getpid()
        )

    def connections(self) -> list[Process]:
        """Give the sshd processes of open connections, not the commands below them."""
        return [process for process in self.processes() if process.name.startswith("sshd")]

    def cut(self) -> None:
        """Kill the connections, as a network failure would; the listener stays."""
        for process in self.connections():
            process.signal(signal.SIGKILL)

    def stop_listening(self) -> None:
        """Kill the listener alone, as a network that stays away; `start` brings it back on the same port."""
        self.processes()  # while they can be told from others by their parent
        if self._process:
            self._process.kill()
            self._process.wait(PATIENCE)
            self._process = None

    def freeze(self) -> None:
        """Stop the connections without closing them: a half-open link."""
        for process in self.connections():
            process.signal(signal.SIGSTOP)

    def new_host_key(self, kind: str = "ed25519") -> None:
        """Give the host another identity, as a reinstallation does."""
        _remove(self.host_key(kind))
        self.restart()

    def log(self) -> str:
        """Give what sshd wrote, without our own waiting for it."""
        return "".join(line for line in self._raw_log().splitlines(keepends=True) if not self._is_probe(line))

    def fingerprint(self, kind: str = "ed25519") -> str:
        """Give the fingerprint of a host key as ssh-keygen shows it."""
        shown = _run("ssh-keygen", "-l", "-f", f"{self.host_key(kind)}.pub")
        return shown.split()[1]

    def public_host_key(self, kind: str = "ed25519") -> str:
        """Give the kind and the base64 of a host key."""
        return " ".join(Path(f"{self.host_key(kind)}.pub").read_text("ascii").split()[:2])

    def learn(self) -> None:
        """Write the present host keys into `known_hosts`."""
        lines = [f"[127.0.0.1]:{self.port} {self.public_host_key(kind)}\n" for kind in self.host_keys]
        self.known_hosts.write_text("".join(lines), "ascii")

    def stanza(self) -> str:
        """Give the host's part of an ssh configuration, for files that reach several."""
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
        """Write the ssh configuration, and the known hosts if it is the first time."""
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
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1) as link:
            self._probes.append(link.getsockname()[1])
            return link.recv(4) == b"SSH-"
        return False

    def _is_probe(self, line: str) -> bool:
        return any(re.search(rf"\b127\.0\.0\.1 port {port}\b", line) for port in self._probes)

    def _raw_log(self, start: int = 0) -> str:
        return (self.directory / "sshd.log").read_bytes()[start:].decode("utf-8", "replace")


def make_key(path: Path, kind: str = "ed25519", locked_with: str = "") -> None:
    """Make a key pair, unless there is one."""
    if not path.exists():
        _run("ssh-keygen", "-q", "-t", kind, "-N", locked_with, "-C", path.name, "-f", str(path))


def _run(*command: str) -> str:
    return subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=True, text=True).stdout


def _remove(key: Path) -> None:
    key.unlink()
    Path(f"{key}.pub").unlink()


def _sshd() -> str:
    # sshd must be called by its full path: it executes itself again for each connection
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
    """Whether this sshd would lock us out after a few failures, and can be told not to."""
    said = subprocess.run(
        [_sshd(), "-t", "-f", "/dev/null", "-o", "PerSourcePenalties=no"],
        stdin=subprocess.DEVNULL, capture_output=True, check=False,
    ).stderr  # fmt: skip
    return b"Bad configuration option" not in said and b"nsupported option" not in said


def _free_port() -> socket.socket:
    """Take a port that nobody else is given while the socket is open; sshd, which reuses addresses, may have it."""
    place = socket.socket()
    place.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    place.bind(("127.0.0.1", 0))
    return place


def process_table() -> dict[int, Process]:
    """Give every process by its number, zombies left out."""
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
    """Give the fields of proc(5) from the third on, and the second, which may hold spaces, at the end."""
    name, _, rest = Path(f"/proc/{pid}/stat").read_text("latin-1").partition("(")[2].rpartition(")")
    return [*rest.split(), name]


def descendants(table: dict[int, Process], roots: set[Process]) -> set[Process]:
    """Give the roots and everything below them; without roots, nothing."""
    family = set(roots)
    while more := {p for p in table.values() if p.parent in {f.pid for f in family}} - family:
        family |= more
    return family
