"""Supervisors: the process beside each command that starts it, reaps what it leaves behind, and reports (J5, J6, J18).

This file is a program as well: the runner gives the text of it to a new interpreter through a pipe, as it was when
the runner started (J24). It imports nothing of its package for that reason, and a zip must hold its source.
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
except ImportError:  # an interpreter built without libffi: orphans are found by their session then
    ctypes = None  # type: ignore[assignment]

SOURCE = "" if __name__ == "__main__" else __spec__.loader.get_source(__name__)  # type: ignore[union-attr]
"""this program; not by `inspect`, whose import would cost each job as much as the start of Python"""
PATH = b"/usr/bin:/bin"
"""where programs are looked for if the command's environment does not say"""
KILL_TIMEOUT = 5.0
"""seconds after SIGKILL; what is alive then hangs in the kernel, or belongs to somebody else"""
POLL_INTERVAL = 0.05
"""seconds between two looks for processes that outlived the command"""

_SETTLE = 1.0
"""seconds for what ends by itself after the command, as the `tee` of `exec > >(tee log)` does"""
_SHORT_GRACE = 1.0
"""seconds between SIGTERM and SIGKILL once the runner is dead"""
_ORPHANS_GRACE = 5.0
"""seconds between SIGTERM and SIGKILL for what outlived the command"""
_READ_SIZE = 64 * 1024
"""bytes read at once"""
_SET_DEATH_SIGNAL, _SET_SUBREAPER = 1, 36  # <sys/prctl.h>


def write_all(descriptor: int, data: bytes) -> None:
    """Write all of it, whatever signals come between."""
    while data:
        data = data[os.write(descriptor, data) :]


class Process(NamedTuple):
    """A process, as `/proc` has it."""

    pid: int
    name: str
    ended: bool
    """a zombie, unless other threads of it live on"""
    parent: int
    group: int
    session: int


def processes() -> List[Process]:
    """Return all processes that can be seen."""
    try:
        entries = [entry for entry in os.listdir("/proc") if entry.isdigit()]
    except OSError:
        return []
    return [process for process in map(_process, entries) if process is not None]


def _process(entry: str) -> Optional[Process]:
    try:
        with open(f"/proc/{entry}/stat", "rb") as file:
            head, _, tail = file.read().rpartition(b")")
    except OSError:
        return None  # ended meanwhile
    state, parent, group, session = tail.split()[:4]
    name = head.partition(b"(")[2].decode("utf-8", "replace")
    name = "".join(letter if letter.isprintable() else "?" for letter in name)
    return Process(int(entry), name, state in b"ZX", int(parent), int(group), int(session))


def send_signal(send: Callable[[int, int], None], number: int, which: int) -> None:
    """Send a signal to a process or a group that may be gone, or not be ours."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        send(number, which)


def _prctl(option: int, value: int) -> bool:
    try:
        return bool(ctypes.CDLL(None).prctl(option, ctypes.c_ulong(value), 0, 0, 0) == 0)
    except (AttributeError, OSError):
        return False


class _Supervisor:
    """One command and all it starts; in a process of its own."""

    def __init__(self, request: Dict[str, Any]) -> None:
        self._request = request
        self._reaper = _prctl(_SET_SUBREAPER, 1)
        self._status: Optional[int] = None  # of the command: as waitpid has it
        self._leader = self._childless = 0
        self._runner = os.getppid()
        self._stop_requested = False  # to stop, or that the runner is dead, which comes to the same
        self._outlived: Dict[int, str] = {}  # what outlived the command
        woken, wake = os.pipe()
        self._woken = woken
        for descriptor in (woken, wake):
            os.set_blocking(descriptor, False)
        # a SIGCHLD that cron's own parent ignored would be ignored here, and the status of every job be lost
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(wake)
        self._poll = select.poll()
        self._poll.register(woken, select.POLLIN)
        self._poll.register(0, select.POLLIN)

    def run(self) -> Dict[str, Any]:
        """Run the command, end what is to be ended, and return the report."""
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
        """Tell the runner, if it is there."""
        with contextlib.suppress(BrokenPipeError):  # the runner is dead: all is ended all the same
            write_all(1, json.dumps(report).encode("ascii") + b"\n")

    def _start(self) -> int:
        """Start the command; returns a descriptor that tells, once it has ended, why it could not be executed."""
        error_reader, error_writer = os.pipe()
        self._leader = os.fork()
        if not self._leader:
            _become_command(self._request, error_writer)
        os.close(error_writer)
        os.read(error_reader, 1)  # now it leads its group, and SIGTERM is not ignored
        return error_reader

    def _wait_until(
        self,
        done: Callable[[], bool],
        seconds: float,
        each: Optional[Callable[[], None]] = None,
        *,
        stoppable: bool = False,
    ) -> bool:
        """Wait, reap, and do `each` at every look; returns whether it was done in time."""
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
            # without a reaper no signal tells that an orphan has ended
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
        """Return what is alive of what the command started: all below this process; without a reaper, its session."""
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
        """End the command; its number is its own and its group's as long as it is not reaped."""
        for number in (signal.SIGTERM, signal.SIGCONT):  # one that is stopped must notice
            send_signal(os.killpg, self._leader, number)
        if not self._wait_until(self._ended, self._grace(self._request["grace"])):
            send_signal(os.killpg, self._leader, signal.SIGKILL)
            self._wait_until(self._ended, KILL_TIMEOUT)

    def _grace(self, seconds: float) -> float:
        """Return how long to wait for what was told to end: the lock of a runner that was killed is free already."""
        return seconds if os.getppid() == self._runner else min(seconds, _SHORT_GRACE)

    def _end_orphans(self) -> None:
        """End what outlived the command, unless it is meant to (J6)."""
        if self._wait_until(self._no_descendants_left, _SETTLE) or self._request["daemon"]:
            return
        told: Set[int] = set()
        grace = self._grace(min(self._request["grace"], _ORPHANS_GRACE))
        if not self._wait_until(
            self._no_descendants_left, grace, lambda: self._signal_groups(told, signal.SIGTERM, signal.SIGCONT)
        ):
            self._wait_until(
                self._no_descendants_left, KILL_TIMEOUT, lambda: self._signal_groups(set(), signal.SIGKILL)
            )

    def _signal_groups(self, told: Set[int], *numbers: int) -> None:
        """Signal the groups of our children, once each.

        Only children: nobody but us reaps them, so neither they nor their groups can be somebody else's by now.
        What is below them is in their group, or becomes our child when they end.
        """
        for each in self._descendants():
            self._outlived[each.pid] = each.name
            if each.pid not in told and (each.parent == os.getpid() or not self._reaper):
                told.add(each.pid)
                for number in numbers:
                    send_signal(os.killpg, each.group, number)

    def _orphans(self) -> List[str]:
        """Name what outlived the command, and what outlives this supervisor though it should not."""
        left = (
            {}
            if self._request["daemon"] or self._no_descendants_left()
            else {each.pid: each.name for each in self._descendants()}
        )
        if self._status is None:
            left.setdefault(self._leader, self._request["argv"][0])
        elif not left and not self._request["daemon"] and not self._no_descendants_left():
            left[0] = "(`/proc` does not show it)"
        names = {**self._outlived, **left}
        return [
            f"{pid} {name}" + (" (could not be ended)" if pid in left else "") for pid, name in sorted(names.items())
        ]


def _become_command(request: Dict[str, Any], error_writer: int) -> None:
    """Become the command: own session, default signals, nothing but 0, 1 and 2, no core dumps (S20); never returns."""
    place = b""
    try:
        os.setsid()
        signal.set_wakeup_fd(-1)
        for number in range(1, signal.NSIG):
            with contextlib.suppress(OSError, ValueError):  # SIGKILL, SIGSTOP and the two of the C library
                signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, [])
        _prctl(_SET_DEATH_SIGNAL, signal.SIGKILL)  # a command without its supervisor would be forgotten
        os.write(error_writer, b"+")
        # not left to the supervisor, which the command may kill at once; the runner ends this session then
        write_all(1, json.dumps({"leader": os.getpid()}).encode("ascii") + b"\n")
        os.umask(0o022)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(2, 1)
        argv = [word.encode("latin-1") for word in request["argv"]]
        environment = {name.encode("latin-1"): text.encode("latin-1") for name, text in request["environment"].items()}
        place = argv[0]
        _execute(argv, environment)
    except BaseException as error:  # noqa: BLE001 -- said nowhere, it would pass for the command's own 127
        number = getattr(error, "errno", None) or errno.EINVAL
        place = getattr(error, "filename", None) or place
        exists = os.path.lexists(place)
        os.write(error_writer, json.dumps([number, os.fsencode(place).decode("latin-1"), exists]).encode("ascii"))
    finally:
        os._exit(127)


def _execute(argv: List[bytes], environment: Dict[bytes, bytes]) -> None:
    """Execute a program; never the working directory's for lack of a PATH; raises OSError with the place it means."""
    path = environment.get(b"PATH", PATH)
    places = [argv[0]] if b"/" in argv[0] else [os.path.join(each, argv[0]) for each in path.split(b":") if each]
    refused = OSError(errno.ENOENT, os.strerror(errno.ENOENT), argv[0])
    for place in places:
        try:
            os.execve(place, argv, environment)  # noqa: S606 -- this is the place for it
        except OSError as error:
            missing = error.errno in (errno.ENOENT, errno.ENOTDIR) and not os.path.lexists(place)
            if refused.filename == argv[0] and not missing:
                refused = OSError(error.errno, error.strerror, place)
    raise refused


def supervise() -> None:
    """Do as the line on standard input says, and report on standard output; the end of the input means: stop."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):
        signal.signal(number, signal.SIG_IGN)  # the runner decides what they mean
    signal.pthread_sigmask(signal.SIG_SETMASK, [])  # a SIGCHLD that the runner blocks would never come
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # for the command as well
    os.close(int(os.path.basename(sys.argv[0])))  # where this program came from
    line = sys.stdin.buffer.readline()
    if line.endswith(b"\n"):
        supervisor = _Supervisor(json.loads(line))
        supervisor.report(supervisor.run())


if __name__ == "__main__":
    supervise()
