"""The supervisor: a process that starts one command, ends what it leaves behind, and reports (J5, J6, J18).

This file is also a program: the runner sends its source to a new interpreter through a pipe, as it was when the runner
started (J24). That is why it imports nothing of its package, and why the zip must contain its source.
"""

import contextlib
import errno
import json
import os
import resource
import select
import signal
import sys
import time
from typing import Any, Callable, Dict, List, NamedTuple, Optional, Set

try:
    import ctypes
except ImportError:  # a Python built without libffi: orphans are then found by their session
    ctypes = None  # type: ignore[assignment]

SOURCE = "" if __name__ == "__main__" else __spec__.loader.get_source(__name__)  # type: ignore[union-attr]
"""source of this program; `inspect` would return it too, but its import takes as long as the start of Python"""
PATH = b"/usr/bin:/bin"
"""search path for programs if the environment of the command has none"""
KILL_TIMEOUT = 5.0
"""seconds to wait after SIGKILL; what is alive then hangs in the kernel, or belongs to another account"""
POLL_INTERVAL = 0.05
"""seconds between two searches for processes that outlived the command"""

_SETTLE = 1.0
"""seconds for processes that end by themselves after the command, as the `tee` of `exec > >(tee log)` does"""
_SHORT_GRACE = 1.0
"""seconds between SIGTERM and SIGKILL once the runner is dead"""
_ORPHANS_GRACE = 5.0
"""seconds between SIGTERM and SIGKILL for what outlived the command"""
_READ_SIZE = 64 * 1024
"""bytes read at once"""
_SET_DEATH_SIGNAL, _SET_SUBREAPER = 1, 36  # <sys/prctl.h>


def write_all(descriptor: int, data: bytes) -> None:
    """Write all bytes, also when signals interrupt."""
    while data:
        data = data[os.write(descriptor, data) :]


class Process(NamedTuple):
    """A process, as `/proc` describes it."""

    pid: int
    name: str
    ended: bool
    """a zombie; other threads of it may still run"""
    parent: int
    group: int
    session: int


def processes() -> List[Process]:
    """Return all visible processes."""
    found = []
    with contextlib.suppress(FileNotFoundError):
        for entry in filter(str.isdigit, os.listdir("/proc")):
            with contextlib.suppress(OSError):  # ended meanwhile
                found.append(_process(entry))
    return found


def _process(entry: str) -> Process:
    with open(f"/proc/{entry}/stat", "rb") as file:
        head, _, tail = file.read().rpartition(b")")
    state, parent, group, session = tail.split()[:4]
    name = head.partition(b"(")[2].decode("utf-8", "replace")
    name = "".join(letter if letter.isprintable() else "?" for letter in name)
    return Process(int(entry), name, state in b"ZX", int(parent), int(group), int(session))


def send_signal(send: Callable[[int, int], None], number: int, which: int) -> None:
    """Send a signal to a process or a group; it may be gone, or belong to another account."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        send(number, which)


def _prctl(option: int, value: int) -> bool:
    try:
        return bool(ctypes.CDLL(None).prctl(option, ctypes.c_ulong(value), 0, 0, 0) == 0)
    except (AttributeError, OSError):
        return False


class _Supervisor:
    """Runs one command, in a process of its own."""

    def __init__(self, request: Dict[str, Any]) -> None:
        self._request = request
        self._reaper = _prctl(_SET_SUBREAPER, 1)
        self._status: Optional[int] = None  # of the command, as returned by waitpid
        self._leader = self._childless = 0
        self._runner = os.getppid()
        self._stop_requested = False  # also set when the runner has died
        self._outlived: Dict[int, str] = {}  # processes that outlived the command
        woken, wake = os.pipe()
        self._woken = woken
        for descriptor in (woken, wake):
            os.set_blocking(descriptor, False)
        # SIGCHLD may be inherited as ignored, and the exit status of every job would be lost
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(wake)
        self._poll = select.poll()
        self._poll.register(woken, select.POLLIN)
        self._poll.register(0, select.POLLIN)

    def run(self) -> Dict[str, Any]:
        """Run the command, end the processes it leaves behind, and return the report."""
        started = time.monotonic()
        try:
            error_reader = self._start()
        except OSError as error:  # too many processes
            return {"seconds": 0.0, "refused": [error.errno, self._request["argv"][0], True]}
        cut = ""
        if not self._wait_until(self._ended, self._request["timeout"], stoppable=True):
            cut = "interrupted" if self._stop_requested else "timeout"
            self._end_command()
        seconds = time.monotonic() - started
        self._end_orphans()
        refused = json.loads(os.read(error_reader, _READ_SIZE) or b"null") if self._status is not None else None
        orphans = self._orphans()
        return {"status": self._status, "seconds": seconds, "cut": cut, "orphans": orphans, "refused": refused}

    def report(self, report: Dict[str, Any]) -> None:
        """Send a report to the runner, if it is alive."""
        with contextlib.suppress(BrokenPipeError):  # the runner is dead; the command is ended anyway
            write_all(1, json.dumps(report).encode("ascii") + b"\n")

    def _start(self) -> int:
        """Start the command; return a descriptor from which the error can be read if it could not be executed."""
        error_reader, error_writer = os.pipe()
        self._leader = os.fork()
        if not self._leader:
            _become_command(self._request, error_writer)
        os.close(error_writer)
        os.read(error_reader, 1)  # wait until it leads its own group and its signals are reset
        return error_reader

    def _wait_until(
        self,
        done: Callable[[], bool],
        seconds: float,
        each: Optional[Callable[[], None]] = None,
        *,
        stoppable: bool = False,
    ) -> bool:
        """Wait until `done()`, reaping children and calling `each` on every round; return whether it was in time."""
        deadline = time.monotonic() + seconds
        while True:
            self._reap()
            if done():
                return True
            left = deadline - time.monotonic()
            if left <= 0 or (stoppable and self._stop_requested):
                return False
            if each is not None:
                each()
            # without a subreaper no SIGCHLD arrives when an orphan ends
            self._wait(min(left, 60.0 if stoppable else POLL_INTERVAL))

    def _wait(self, seconds: float) -> None:
        for descriptor, _ in self._poll.poll(seconds * 1000):
            if descriptor == self._woken:
                os.read(self._woken, _READ_SIZE)
            else:
                self._poll.unregister(0)
                self._stop_requested = True

    def _reap(self) -> None:
        self._childless = 0
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                self._childless = 1
                return
            if not pid:
                return
            if pid == self._leader:
                self._status = status

    def _ended(self) -> bool:
        return self._status is not None

    def _no_descendants_left(self) -> bool:
        return bool(self._childless) and (self._reaper or not self._descendants())

    def _descendants(self) -> List[Process]:
        """Return the living descendants of this process; without a subreaper, also the session of the command."""
        me = os.getpid()
        living = [each for each in processes() if not each.ended or each.parent == me]
        family: Set[int] = {me}
        found: List[Process] = []
        while True:
            more = [each for each in living if each.parent in family and each.pid not in family]
            if not more:
                break
            family.update(each.pid for each in more)
            found += more
        if not self._reaper:
            found += [each for each in living if each.session == self._leader and each.pid not in family]
        return found

    def _end_command(self) -> None:
        """End the command; until it is reaped, its pid belongs to it and its group."""
        for number in (signal.SIGTERM, signal.SIGCONT):  # a stopped process must be continued to receive SIGTERM
            send_signal(os.killpg, self._leader, number)
        if not self._wait_until(self._ended, self._grace(self._request["grace"])):
            send_signal(os.killpg, self._leader, signal.SIGKILL)
            self._wait_until(self._ended, KILL_TIMEOUT)

    def _grace(self, seconds: float) -> float:
        """Return the seconds between SIGTERM and SIGKILL; few if the runner is dead, as its lock is free by then."""
        return seconds if os.getppid() == self._runner else min(seconds, _SHORT_GRACE)

    def _end_orphans(self) -> None:
        """End the processes that outlived the command, unless it is a daemon (J6)."""
        if self._wait_until(self._no_descendants_left, _SETTLE) or self._request["daemon"]:
            return
        signalled: Set[int] = set()
        grace = self._grace(min(self._request["grace"], _ORPHANS_GRACE))
        done = self._no_descendants_left
        if not self._wait_until(done, grace, lambda: self._signal_groups(signalled, signal.SIGTERM, signal.SIGCONT)):
            self._wait_until(done, KILL_TIMEOUT, lambda: self._signal_groups(set(), signal.SIGKILL))

    def _signal_groups(self, signalled: Set[int], *numbers: int) -> None:
        """Signal the process groups of our children, once each.

        Only children: they are reaped by this process alone, so their pids and group ids cannot have been reused.
        Their own descendants are in the same group, or become our children when they end.
        """
        for each in self._descendants():
            self._outlived[each.pid] = each.name
            if each.pid not in signalled and (each.parent == os.getpid() or not self._reaper):
                signalled.add(each.pid)
                for number in numbers:
                    send_signal(os.killpg, each.group, number)

    def _orphans(self) -> List[str]:
        """Return the names of processes that outlived the command; those that could not be ended are marked."""
        left = {} if self._status is not None else {self._leader: self._request["argv"][0]}
        if not self._request["daemon"] and not self._no_descendants_left():
            left.update({each.pid: each.name for each in self._descendants()})
            left = left or {0: "(`/proc` does not show it)"}
        names = {**self._outlived, **left}
        return [
            f"{pid} {name}" + (" (could not be ended)" if pid in left else "") for pid, name in sorted(names.items())
        ]


def _become_command(request: Dict[str, Any], error_writer: int) -> None:
    """Execute the command: own session, default signals, descriptors 0 to 2, no core dumps (S20); never returns."""
    place = b""
    try:
        os.setsid()
        signal.set_wakeup_fd(-1)
        for number in range(1, signal.NSIG):
            with contextlib.suppress(OSError, ValueError):  # SIGKILL, SIGSTOP and the two of the C library
                signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, [])
        _prctl(_SET_DEATH_SIGNAL, signal.SIGKILL)  # if the supervisor dies, nothing else would end the command
        os.write(error_writer, b"+")
        # reported before exec, as the command may kill the supervisor at once; the runner then ends this session
        write_all(1, json.dumps({"leader": os.getpid()}).encode("ascii") + b"\n")
        os.umask(0o022)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(2, 1)
        argv = [word.encode("latin-1") for word in request["argv"]]
        environment = {name.encode("latin-1"): text.encode("latin-1") for name, text in request["environment"].items()}
        place = argv[0]
        _execute(argv, environment)
    except BaseException as error:  # noqa: BLE001 -- unreported, it would look like a 127 of the command itself
        number = getattr(error, "errno", None) or errno.EINVAL
        place = getattr(error, "filename", None) or place
        exists = os.path.lexists(place)
        os.write(error_writer, json.dumps([number, os.fsencode(place).decode("latin-1"), exists]).encode("ascii"))
    finally:
        os._exit(127)


def _execute(argv: List[bytes], environment: Dict[bytes, bytes]) -> None:
    """Execute a program; an empty PATH never means the working directory. Raises OSError with the path that failed."""
    path = environment.get(b"PATH", PATH)
    places = [argv[0]] if b"/" in argv[0] else [os.path.join(each, argv[0]) for each in path.split(b":") if each]
    refused = OSError(errno.ENOENT, os.strerror(errno.ENOENT), argv[0])
    for place in places:
        try:
            os.execve(place, argv, environment)  # noqa: S606 -- the argv is a list
        except OSError as error:
            missing = error.errno in (errno.ENOENT, errno.ENOTDIR) and not os.path.lexists(place)
            if refused.filename == argv[0] and not missing:
                refused = OSError(error.errno, error.strerror, place)
    raise refused


def supervise() -> None:
    """Read a request from standard input, run it, and report on standard output; end of input means stop."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):
        signal.signal(number, signal.SIG_IGN)  # the runner handles them
    signal.pthread_sigmask(signal.SIG_SETMASK, [])  # a blocked SIGCHLD would never arrive
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # inherited by the command
    os.close(int(os.path.basename(sys.argv[0])))  # the pipe this program was read from
    line = sys.stdin.buffer.readline()
    if line.endswith(b"\n"):
        supervisor = _Supervisor(json.loads(line))
        supervisor.report(supervisor.run())


if __name__ == "__main__":
    supervise()
