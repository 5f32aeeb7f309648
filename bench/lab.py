"""What the benchmarks share: a host to deploy to, the same work for every contestant, and runs taken in turns."""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from delay import SERVER, Namespace, network  # noqa: E402

from tests.sshd import FakeHost  # noqa: E402

HOST = "bench.example"
PORT = 2222
"""of the sshd in a namespace of its own, where every port is free"""
FASTEST_KEX = "curve25519-sha256"


def program() -> str:
    """Give the command that is measured: the one beside this Python, else the checkout's."""
    beside = Path(sys.executable).with_name("runsdeploy")
    return shlex.quote(str(beside)) if beside.exists() else f"{shlex.quote(sys.executable)} -m runsdeploy"


@dataclass
class Lab:
    """A throwaway host, and where its clients run."""

    directory: Path
    host: FakeHost
    clients: Namespace | None
    """None: beside us, over loopback"""

    def time(self, command: str, folder: Path | None = None) -> float:
        """Run a shell command line; give its seconds, or raise if it fails."""
        within = self.clients.entered() if self.clients else contextlib.nullcontext()
        environment = {
            name: os.environ[name] for name in ("PATH", "HOME", "TMPDIR", "PYTHONPATH") if name in os.environ
        }
        with within:
            began = time.perf_counter()
            done = subprocess.run(
                ["bash", "-c", command],
                cwd=folder or self.directory,
                env={**environment, "LC_ALL": "C.UTF-8"},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                check=False,
            )
            seconds = time.perf_counter() - began
        if done.returncode:
            said = done.stdout.decode("utf-8", "replace")
            raise SystemExit(f"`{command}` ended with {done.returncode}:\n{said}")
        return seconds


@contextlib.contextmanager
def lab(round_trip: float) -> Iterator[Lab]:
    """Start a host, `round_trip` seconds away; 0 is loopback."""
    with contextlib.ExitStack() as undo:
        directory = Path(undo.enter_context(tempfile.TemporaryDirectory(prefix="runsdeploy-bench-")))
        if not round_trip:
            host = undo.enter_context(FakeHost(HOST, directory / "host"))
            yield Lab(directory, host, None)
            return
        net = undo.enter_context(network(round_trip))
        host = FakeHost(
            HOST,
            directory / "host",
            server=(f"ListenAddress {SERVER}:{PORT}",),
            client=(f"HostName {SERVER}",),
        )
        host.port = PORT
        undo.callback(host.stop)
        with net.server.entered():
            host.start()
        host.known_hosts.write_text(f"[{SERVER}]:{PORT} {host.public_host_key()}\n", "ascii")
        yield Lab(directory, host, net.client)


# --- the work ----------------------------------------------------------------------------------------


@dataclass
class Work:
    """`count` small scripts that each write one file and note that they did, once as plain bash, once as ours."""

    directory: Path
    count: int
    names: list[str] = field(init=False)

    def __post_init__(self) -> None:
        self.names = [f"s{number:02}" for number in range(self.count)]
        self.plain, self.tree = self.directory / "plain", self.directory / "tree"
        self.made, self.markers = self.directory / "made", self.directory / "markers"
        scripts, default = self.tree / "scripts", self.tree / "example" / "bench" / "default"
        for folder in (self.plain, scripts, default.parent):
            folder.mkdir(parents=True)
        for name in self.names:
            (self.plain / f"{name}.sh").write_text(self._plain(name), "utf-8")
            (scripts / name).write_text(self._ours(name), "utf-8")
        default.write_text("".join(f"{name}\n" for name in self.names), "utf-8")

    def _doing(self, name: str) -> str:
        file = self.made / f"{name}.conf"
        return f'mkdir -p {self.made}\nprintf "name = %s\\n" {name} >{file}\nchmod 644 {file}\n'

    def _plain(self, name: str) -> str:
        return f"[ -e {self.markers}/{name} ] || {{\n{self._doing(name)}touch {self.markers}/{name}\n}}\n"

    def _ours(self, name: str) -> str:
        return f"desc write a small file\n\nscript:\nshouldrun || exit\n{self._doing(name)}setdone\n"

    def forget(self, host: FakeHost) -> None:
        """Make the next run a first one."""
        shutil.rmtree(host.state, ignore_errors=True)
        shutil.rmtree(self.made, ignore_errors=True)
        shutil.rmtree(self.markers, ignore_errors=True)
        self.markers.mkdir()

    def stamp(self) -> list[int]:
        """When the files were written: the same after a rerun."""
        return [(self.made / f"{name}.conf").stat().st_mtime_ns for name in self.names]


# --- contestants -------------------------------------------------------------------------------------

Contestants = dict[str, str]
"""name to command line"""


def ours(work: Work, host: FakeHost, command: str) -> str:
    """Give the command line of a deploy."""
    return f"cd {work.tree} && {command} deploy --host {HOST} --path {work.tree} --ssh-config {host.ssh_config}"


def tarred(work: Work, host: FakeHost, options: str = "") -> str:
    """Give the pipeline that people write by hand."""
    remote = 'd=$(mktemp -d); tar x -C "$d"; cd "$d"; for s in *.sh; do bash "$s" || exit; done; rm -rf "$d"'
    return f"tar c -C {work.plain} . | ssh -F {host.ssh_config} {options} {HOST} {shlex.quote(remote)}"


def looped(work: Work, host: FakeHost, options: str = "") -> str:
    """Give the loop of one ssh for each script."""
    ssh = f"ssh -F {host.ssh_config} {options} {HOST}"
    return f"for s in {work.plain}/*.sh; do {ssh} bash -s <$s || exit; done"


def mastered(work: Work, host: FakeHost) -> str:
    """Give the same loop over one shared connection."""
    shared = f"-o ControlPath={work.directory}/%n.mux"
    first = f"-o ControlMaster=auto -o ControlPersist=60 {shared}"
    end = f"ssh -F {host.ssh_config} {shared} -O exit {HOST} 2>/dev/null"
    return f"{looped(work, host, first)}; status=$?; {end}; exit $status"


@dataclass
class Timing:
    """The seconds of the runs of one contestant."""

    first: list[float] = field(default_factory=list)
    rerun: list[float] = field(default_factory=list)


def race(place: Lab, work: Work, contestants: Contestants, runs: int, told: Callable[[str], None]) -> dict[str, Timing]:
    """Run everyone in turns, each time in another order; a first run on a host that knows nothing, then a rerun."""
    timings = {name: Timing() for name in contestants}
    names = list(contestants)
    for name in names:  # once unmeasured: caches of files, compiled modules
        work.forget(place.host)
        place.time(contestants[name])
    for number in range(runs):
        told(f"run {number + 1} of {runs}")
        turn = number % len(names)
        for name in names[turn:] + names[:turn]:
            work.forget(place.host)
            timings[name].first.append(place.time(contestants[name]))
            stamp = work.stamp()
            timings[name].rerun.append(place.time(contestants[name]))
            if work.stamp() != stamp:
                raise SystemExit(f"{name}: the rerun did the work again")
    return timings


def told(text: str) -> None:
    """Tell how far it is, where somebody looks."""
    if sys.stderr.isatty():
        print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)


def median(values: Sequence[float]) -> float:
    """Give the middle one."""
    return statistics.median(values)
