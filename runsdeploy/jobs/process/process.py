"""Processes: one command of a job, run to its end, and the truth about how it ended (J5, J6, J8, J18, J21, S20).

Each command has a supervisor: a small interpreter of its own that starts the command, is the reaper of all that it
leaves behind (PR_SET_CHILD_SUBREAPER), keeps its time, and reports. So its descendants are exactly the command's,
whatever runs beside it in other threads; their numbers cannot be reused before it has reaped them; the time is kept
while the runner writes to a slow disk; and where the runner is killed, the command ends too, for the runner's lock
is gone then and the next run may start. It is started, not forked: a fork of a process with threads may hang.
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
"""bytes of output that are kept of one command"""
GRACE = 30.0
"""seconds between SIGTERM and SIGKILL"""

_STOP_INTERVAL = 0.1
"""seconds between two looks at whether to stop"""
_PYTHON = sys.executable or "/proc/self/exe"


class Command(NamedTuple):
    """What to run; nothing of it is a matter of the runner's own environment."""

    argv: Tuple[str, ...]
    """a shell command is `("/bin/sh", "-c", TEXT)`; a program without a slash is looked for in PATH of `environment`"""
    directory: str
    """where it runs"""
    environment: Dict[str, str]
    """all of it: nothing is inherited"""
    timeout: float
    """seconds"""
    daemon: bool
    """what survives the command is meant to, and left alone; its output is not read any more"""


class Ending(NamedTuple):
    """How a command ended."""

    outcome: str
    """`ok`, `failed`, `killed`, `timeout`, `not-found`, `not-executable` or `interrupted`"""
    status: Optional[int]
    """exit status (`ok`, `failed`), number of the signal (`killed`), otherwise none"""
    seconds: float
    """from its start to its end, whatever the clock did"""
    orphans: Tuple[str, ...]
    """`PID NAME` of each descendant that outlived it and was ended, or with the words that it could not be"""
    dropped: int
    """bytes of output that the sink has not got"""


def run(
    command: Command,
    sink: Callable[[bytes], None],
    limit: int = LIMIT,
    stop: Optional[Callable[[], bool]] = None,
    spool: Optional[str] = None,
    grace: float = GRACE,
) -> Ending:
    """Run a command until its first process has ended, and end what it left behind (J5, J6, J18, J21).

    Its output goes to `sink` as whole lines, 64 KiB at most in one call; longer lines come in pieces. An OSError of the
    sink does not stop the command. Of more than `limit` bytes the first tenth and the last nine tenths are kept
    (J8); all behind the first tenth waits for the end of the command in an unnamed file in the directory `spool`, or,
    without one, in 512 KiB of memory. `stop` is asked ten times a second: if true, the command is ended. `grace` is
    seconds between SIGTERM and SIGKILL. Whatever keeps the command from running is an outcome and a line of output,
    never an exception. May be called in several threads at once.
    """
    output = Capture(sink, limit, spool)
    if stop is not None and stop():
        output.note("told to stop before the start")
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


def _request(command: Command, grace: float) -> bytes:
    """Return what the supervisor is to do, as one line; raises ValueError for what no process can be given."""
    if not command.argv or not command.argv[0]:
        raise ValueError("no program is named")
    words = [_bytes(word) for word in command.argv]
    environment = {_bytes(name): _bytes(value) for name, value in command.environment.items()}
    odd = [name for name in environment if not name or b"=" in name]
    if odd:
        raise ValueError(f"`{odd[0].decode('utf-8', 'replace')}` is no name of a variable")
    request = {
        "argv": [word.decode("latin-1") for word in words],
        "environment": {name.decode("latin-1"): value.decode("latin-1") for name, value in environment.items()},
        "timeout": command.timeout,
        "daemon": command.daemon,
        "grace": grace,
    }
    return json.dumps(request).encode("ascii") + b"\n"


def _bytes(text: str) -> bytes:
    """Return a word as the system takes it: Python 3.6 under cron's `C` locale would refuse every `ø`."""
    if "\0" in text:
        raise ValueError(f"a NUL character in {text!a}, expected none")
    try:
        return os.fsencode(text)
    except UnicodeEncodeError:
        return text.encode("utf-8", "surrogateescape")


class _SupervisorProcess:
    """The runner's side of a supervisor: its three pipes, its end and its reaping."""

    def __init__(self, command: Command) -> None:
        with contextlib.ExitStack() as files:
            source, self._source = (files.enter_context(file) for file in _pipe())
            self._output, output = (files.enter_context(file) for file in _pipe())
            program = f"/proc/self/fd/{source.fileno()}"
            # its own session: a Ctrl-C or a hang-up is for the runner, which says in request what is to end
            self._process = subprocess.Popen(
                [_PYTHON, "-I", "-S", program, _bytes(command.argv[0])],  # the last is for the reader of `ps`
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
        """Reap the supervisor; what it supervises has ended then."""
        # alive by now only if the sink raised: the supervisor takes the closed pipe for the death of the runner
        self._files.close()
        self._process.wait()

    def communicate(self, request: bytes, output: Capture, stop: Optional[Callable[[], bool]]) -> Dict[str, Any]:
        """Hand on output until the supervisor has ended; returns all it reported."""
        try:
            write_all(self._source.fileno(), SOURCE.encode("utf-8"))
            self._source.close()
            write_all(self._requests.fileno(), request)
        except BrokenPipeError:
            pass  # it was killed, which shows in what it reports: nothing
        text = self._read(output, stop)
        self._drain(output)
        report: Dict[str, Any] = {}
        for line in text.splitlines(keepends=True):
            if line.endswith(b"\n"):
                report.update(json.loads(line))
        if "seconds" not in report:
            output.note("the process that watched over the command has died, and the command was killed")
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
        """Take what is in the pipe now, and no more: a daemon may hold it, and write for ever."""
        (left,) = struct.unpack("i", fcntl.ioctl(self._output, termios.FIONREAD, b"\0" * struct.calcsize("i")))
        while left > 0:
            data = os.read(self._output.fileno(), min(left, PIECE))
            output.write(data)
            left -= len(data)


def _pipe() -> Tuple[IO[bytes], IO[bytes]]:
    """Return the ends of a pipe, none of them 0, 1 or 2, though cron may have closed those (J21)."""
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
        why = f"not done in {command.timeout:g} seconds" if report["cut"] == "timeout" else "told to stop"
        output.note(f"ended: {why}")
        return report["cut"], None
    if os.WIFSIGNALED(report["status"]):
        return "killed", os.WTERMSIG(report["status"])
    status = os.WEXITSTATUS(report["status"])
    return "failed" if status else "ok", status


def _exec_failure(refused: List[Any], command: Command, output: Capture) -> str:
    """Say why a program did not start; returns the outcome."""
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
    """Say why not even a supervisor could be started; returns the outcome."""
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
    """Kill what a command left in its session: its supervisor is dead, nobody else will."""
    deadline = time.monotonic() + KILL_TIMEOUT
    while leader and time.monotonic() < deadline:
        alive = [each for each in processes() if each.session == leader and not each.ended]
        if not alive:
            return
        for each in alive:
            send_signal(os.kill, each.pid, signal.SIGKILL)
        time.sleep(POLL_INTERVAL)
