"""Processes: run one command of a job to its end, and report how it ended (J5, J6, J8, J18, J21, S20).

Each command has a supervisor: a small interpreter of its own. It starts the command, becomes the parent of all
processes that the command leaves behind (PR_SET_CHILD_SUBREAPER), enforces the time limit, and reports. Therefore:

- its descendants are exactly those of the command, whatever other threads of the runner start;
- their process ids cannot be reused before the supervisor has reaped them;
- the time limit holds while the runner waits for a slow disk;
- if the runner is killed, the command is ended too: the lock is free then, and the next run may start.

The supervisor is a new process, not a fork: a fork of a process with threads may hang.
"""

import contextlib
import errno
import fcntl
import json
import os
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from typing import IO, Any, Callable, Dict, List, NamedTuple, Optional, Tuple, cast

from .capture import PIECE, Capture
from .supervisor import KILL_TIMEOUT, PATH, POLL_INTERVAL, SOURCE, processes, send_signal, write_all

LIMIT = 100 * 1024 * 1024
"""bytes of output kept of one command"""
GRACE = 30.0
"""seconds between SIGTERM and SIGKILL"""

_STOP_INTERVAL = 0.1
"""seconds between two calls of `stop`"""
_PYTHON = sys.executable or "/proc/self/exe"


class Command(NamedTuple):
    """What to run; nothing of it depends on the environment of the runner."""

    argv: Tuple[str, ...]
    """a shell command is `("/bin/sh", "-c", TEXT)`; a program without a slash is searched in PATH of `environment`"""
    directory: str
    """working directory"""
    environment: Dict[str, str]
    """the whole environment: nothing is inherited"""
    timeout: float
    """seconds"""
    daemon: bool
    """processes that outlive the command are left alone; their output is no longer read"""


class Ending(NamedTuple):
    """How a command ended."""

    outcome: str
    """`ok`, `failed`, `killed`, `timeout`, `not-found`, `not-executable` or `interrupted`"""
    status: Optional[int]
    """exit status (`ok`, `failed`), signal number (`killed`), otherwise None"""
    seconds: float
    """duration, by the monotonic clock"""
    orphans: Tuple[str, ...]
    """`PID NAME` of each descendant that outlived it and was ended, with a note if that failed"""
    dropped: int
    """bytes of output that the sink did not receive"""


def run(
    command: Command,
    sink: Callable[[bytes], None],
    limit: int = LIMIT,
    stop: Optional[Callable[[], bool]] = None,
    spool: Optional[str] = None,
    grace: float = GRACE,
) -> Ending:
    """Run a command until its first process has ended, then end the processes it left behind (J5, J6, J18, J21).

    Its output goes to `sink` as whole lines, at most 64 KiB per call; longer lines are split. An OSError of the sink
    does not stop the command. Of more than `limit` bytes the first tenth and the last nine tenths are kept (J8). All
    output after the first tenth is buffered until the command ends: in an unnamed file in the directory `spool`, or in
    512 KiB of memory if `spool` is None. `stop` is called ten times a second; if it returns true, the command is ended.
    `grace` is the time between SIGTERM and SIGKILL in seconds. A command that cannot be started is an outcome and a
    line of output, never an exception. Several threads may call this at once.
    """
    output = Capture(sink, limit, spool)
    if stop is not None and stop():
        output.note("stopped before the start")
        return Ending("interrupted", None, 0.0, (), output.close())
    try:
        request = _request(command, grace)
        supervisor = _SupervisorProcess(command)
    except (OSError, ValueError) as error:
        outcome = _not_started(error, command, output)
        return Ending(outcome, None, 0.0, (), output.close())
    with contextlib.closing(supervisor):
        report = supervisor.communicate(request, output, stop)
    return _ending(report, command, output)


def failure(command: Command, ending: Ending) -> str:
    """Return how a command failed, for messages; empty if it passed."""
    status = "" if ending.status is None else f" ({ending.status})"
    return "" if ending.outcome == "ok" else f"`{' '.join(command.argv)}` ended: {ending.outcome}{status}"


def _request(command: Command, grace: float) -> bytes:
    """Return the request to the supervisor, one line of JSON; raises ValueError for impossible arguments."""
    if not command.argv or not command.argv[0]:
        raise ValueError("no program given")
    words = [_bytes(word) for word in command.argv]
    environment = {_bytes(name): _bytes(value) for name, value in command.environment.items()}
    odd = [name for name in environment if not name or b"=" in name]
    if odd:
        raise ValueError(f"`{odd[0].decode('utf-8', 'replace')}` is not a valid name of a variable")
    request = {
        "argv": [word.decode("latin-1") for word in words],
        "environment": {name.decode("latin-1"): value.decode("latin-1") for name, value in environment.items()},
        "timeout": command.timeout,
        "daemon": command.daemon,
        "grace": grace,
    }
    return json.dumps(request).encode("ascii") + b"\n"


def _bytes(text: str) -> bytes:
    """Return a word as bytes; in the `C` locale of cron, Python 3.6 cannot encode `ø` by itself."""
    if "\0" in text:
        raise ValueError(f"a NUL character in {text!a}, expected none")
    try:
        return os.fsencode(text)
    except UnicodeEncodeError:
        return text.encode("utf-8", "surrogateescape")


class _SupervisorProcess:
    """The supervisor as the runner sees it: a child process with three pipes."""

    def __init__(self, command: Command) -> None:
        with contextlib.ExitStack() as files:
            source, self._source = (files.enter_context(file) for file in _pipe())
            self._output, output = (files.enter_context(file) for file in _pipe())
            program = f"/proc/self/fd/{source.fileno()}"
            # a session of its own: Ctrl-C and hang-ups reach the runner only, which then stops commands in order
            self._process = subprocess.Popen(
                [_PYTHON, "-I", "-S", program, _bytes(command.argv[0])],  # the last argument is for readers of `ps`
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=output,
                cwd=_bytes(command.directory),
                pass_fds=(source.fileno(),),
                start_new_session=True,
                bufsize=0,
            )
            source.close()
            output.close()
            self._requests = files.enter_context(cast("IO[bytes]", self._process.stdin))
            self._reports = files.enter_context(cast("IO[bytes]", self._process.stdout))
            self._files = files.pop_all()

    def close(self) -> None:
        """Reap the supervisor; the command has ended by then."""
        # it is alive only if the sink raised: the closed pipe makes it end the command, as if the runner had died
        self._files.close()
        self._process.wait()

    def communicate(self, request: bytes, output: Capture, stop: Optional[Callable[[], bool]]) -> Dict[str, Any]:
        """Send the request and pass output on until the supervisor has ended; return its report."""
        try:
            write_all(self._source.fileno(), SOURCE.encode("utf-8"))
            self._source.close()
            write_all(self._requests.fileno(), request)
        except BrokenPipeError:
            pass  # it was killed; the report will be empty
        text = self._read(output, stop)
        self._drain(output)
        report: Dict[str, Any] = {}
        for line in text.splitlines(keepends=True):
            if line.endswith(b"\n"):
                report.update(json.loads(line))
        if "seconds" not in report:
            output.note("the supervisor of the command has died, and the command was killed")
            _end_session(report.get("leader", 0))
        return report

    def _read(self, output: Capture, stop: Optional[Callable[[], bool]]) -> bytes:
        report = b""
        poll = select.poll()
        poll.register(self._output, select.POLLIN)
        poll.register(self._reports, select.POLLIN)
        while True:
            if stop is not None and stop():
                self._requests.close()
                stop = None
            for descriptor, _ in poll.poll(None if stop is None else _STOP_INTERVAL * 1000):
                data = os.read(descriptor, PIECE)
                if descriptor == self._output.fileno():
                    output.write(data)
                    if not data:
                        poll.unregister(self._output)
                elif data:
                    report += data
                else:
                    return report

    def _drain(self, output: Capture) -> None:
        """Read what is in the pipe now, and no more: a daemon may keep it open and write for ever."""
        (left,) = struct.unpack("i", fcntl.ioctl(self._output, termios.FIONREAD, b"\0" * struct.calcsize("i")))
        while left > 0:
            data = os.read(self._output.fileno(), min(left, PIECE))
            output.write(data)
            left -= len(data)


def _pipe() -> Tuple[IO[bytes], IO[bytes]]:
    """Return the ends of a pipe, neither of them 0, 1 or 2: cron may have closed those (J21)."""
    ends = os.pipe()
    try:
        reader, writer = (fcntl.fcntl(each, fcntl.F_DUPFD_CLOEXEC, 3) for each in ends)
    finally:
        for each in ends:
            os.close(each)
    return os.fdopen(reader, "rb", 0), os.fdopen(writer, "wb", 0)


def _ending(report: Dict[str, Any], command: Command, output: Capture) -> Ending:
    outcome, status = _outcome(report, command, output)
    orphans = tuple(report.get("orphans", ()))
    for each in orphans:
        output.note(f"`{each}` outlived the command")
    return Ending(outcome, status, report.get("seconds", 0.0), orphans, output.close())


def _outcome(report: Dict[str, Any], command: Command, output: Capture) -> Tuple[str, Optional[int]]:
    if report.get("refused"):
        return _exec_failure(report["refused"], command, output), None
    if "seconds" not in report:
        return "interrupted", None
    if report["cut"]:
        why = f"not finished in {command.timeout:g} seconds" if report["cut"] == "timeout" else "stopped"
        output.note(f"ended: {why}")
        return report["cut"], None
    if os.WIFSIGNALED(report["status"]):
        return "killed", os.WTERMSIG(report["status"])
    status = os.WEXITSTATUS(report["status"])
    return "failed" if status else "ok", status


def _exec_failure(refused: List[Any], command: Command, output: Capture) -> str:
    """Add to the output why a program did not start; return the outcome."""
    number, place, exists = refused
    program = place.encode("latin-1").decode("utf-8", "surrogateescape")
    if number not in (errno.ENOENT, errno.ENOTDIR):
        hint = ": its first line must name its interpreter, as `#!/bin/sh` does" if number == errno.ENOEXEC else ""
        output.note(f"`{program}` cannot be executed: {os.strerror(number).lower()}{hint}")
        return "not-executable"
    if exists:
        output.note(f"`{program}` needs an interpreter that was not found: see its first line")
    else:
        where = "" if "/" in program else f" in `{command.environment.get('PATH', PATH.decode())}`"
        output.note(f"`{program}` was not found{where}, working directory `{command.directory}`")
    return "not-found"


def _not_started(error: Exception, command: Command, output: Capture) -> str:
    """Add to the output why the supervisor could not be started; return the outcome."""
    if not isinstance(error, OSError):
        output.note(f"the command cannot be started: {error}")
        return "not-executable"
    why = os.strerror(error.errno or 0).lower()
    if error.filename is None or error.filename == _PYTHON:
        output.note(f"the command cannot be started with `{_PYTHON}`: {why}")
        return "not-executable"
    output.note(f"the command cannot be started in the working directory `{command.directory}`: {why}")
    return "not-found" if error.errno in (errno.ENOENT, errno.ENOTDIR) else "not-executable"


def _end_session(leader: int) -> None:
    """Kill what is left in the session of a command whose supervisor is dead."""
    deadline = time.monotonic() + KILL_TIMEOUT
    while leader and time.monotonic() < deadline:
        alive = [each for each in processes() if each.session == leader and not each.ended]
        if not alive:
            return
        for each in alive:
            send_signal(os.kill, each.pid, signal.SIGKILL)
        time.sleep(POLL_INTERVAL)
