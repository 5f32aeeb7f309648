"""Errors: what runsdeploy itself could not do, and where the operator finds the cause.

A script that ends with a failure status is an outcome, not an exception (see `session.report`).
The tree of exceptions, by cause::

    RunsError
    +- InputError          the tree or the command line: status 2, no host was touched
    +- HostError           one host; the other hosts go on
       +- Unreachable      the connection: no session was started
       |  +- Unauthorized  the host accepted neither a key nor the password
       +- Refused          the target: reached, but it cannot run what it was sent
       +- Lost             the connection, after the session may have started
       +- ControllerFailed this machine: a disk, a limit; the session was asked to stop

An OSError that nothing catches is a failure of this machine, too: `failure_of` names what failed and what repairs it.
Messages are lower case, without a full stop, with names in backticks.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from msgspec import Struct


class Position(Struct, frozen=True, order=True):
    """A place in a file that an operator can open."""

    file: str
    """path as the operator would type it; `<command line>` for an argument"""
    line: int = 0
    """counted from 1; 0 where only the file is known"""
    column: int = 0
    """counted from 1; 0 where only the line is known"""

    @property
    def file_line(self) -> str:
        """`FILE:LINE`, without the column: for a reference, not for a problem."""
        return f"{self.file}:{self.line}" if self.line else self.file

    def __str__(self) -> str:
        return ":".join([self.file, *(str(n) for n in (self.line, self.column) if n)])


def display_path(path: Path) -> str:
    """Return a path as an operator would type it: relative to the working directory if it lies below that."""
    try:
        return str(path.relative_to(Path.cwd()))
    except ValueError:
        return str(path)


class Problem(Struct, frozen=True, order=True):
    """One error in the trees or on the command line."""

    position: Position | None
    """None if it is not in a file"""
    message: str
    """what was found, and what was expected"""
    hint: str = ""
    """what repairs it: a command, or a similar name"""

    def __str__(self) -> str:
        where = f"{self.position}: " if self.position else ""
        hint = f"; {self.hint}" if self.hint else ""
        # Always one line: a word with a misplaced quote holds lines of its own, which would look like further errors.
        return f"{where}{self.message}{hint}".replace("\n", "\\n")


class RunsError(Exception):
    """runsdeploy could not do its work."""


class InputError(RunsError):
    """All problems of the input, found before anything was changed."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(dict.fromkeys(problems))
        super().__init__("\n".join(map(str, self.problems)))


class HostError(RunsError):
    """A host that could not be used.

    `hint` is the command that repairs it, or empty; `transient` says that another attempt may succeed.
    """

    def __init__(self, message: str, hint: str = "", *, transient: bool = False) -> None:
        self.message, self.hint, self.transient = message, hint, transient
        super().__init__(f"{message}; {hint}" if hint else message)


class Unreachable(HostError):
    """No session was started: a failure of name lookup, connection, host key or authentication."""


class Unauthorized(Unreachable):
    """A host accepted none of the credentials that it was offered.

    `host` is its name, which may be that of a jump host; `offered` says whether any credential was offered;
    `methods` are the authentication methods that the host accepts, if it listed them.
    """

    def __init__(
        self,
        message: str,
        hint: str = "",
        *,
        host: str,
        transient: bool = False,
        offered: bool = True,
        methods: tuple[str, ...] = (),
    ) -> None:
        self.host, self.offered, self.methods = host, offered, methods
        super().__init__(message, hint, transient=transient)


class Refused(HostError):
    """The target was reached, but it cannot do it; nothing ran."""


class Lost(HostError):
    """The connection ended before the session reported its end."""

    def __init__(self, message: str, hint: str = "", *, transient: bool = True) -> None:
        super().__init__(message, hint, transient=transient)


class ControllerFailed(HostError):
    """This machine could not go on: a full disk, a limit of the process. The host was asked to stop the session."""


_FREE_SPACE = "free space there, or set TMPDIR to another directory"
_DISK = {
    errno.ENOSPC: _FREE_SPACE,
    errno.EDQUOT: _FREE_SPACE,
    errno.EFBIG: "raise `ulimit -f`",
    errno.EROFS: "set TMPDIR to a directory that can be written",
    errno.EIO: "",
}
"""repairs by error number: writing to a file failed, which Python does not name"""
_PROCESS = {
    errno.EMFILE: "raise `ulimit -n`, or use a smaller `--parallel`",
    errno.ENFILE: "end other programs on this machine",
    errno.EAGAIN: "raise `ulimit -u`, or use a smaller `--parallel`",
    errno.ENOMEM: "raise `ulimit -v`, or use a smaller `--parallel`",
}
"""repairs by error number: the process may have no more descriptors, processes or memory"""


def reason(error: BaseException) -> str:
    """Return the text of an exception for a message: lower case, no full stop, without the error number."""
    text = (error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__
    return text[:1].lower() + text[1:].rstrip(".")


@contextmanager
def writing(path: Path | str) -> Iterator[None]:
    """Name a path, or `stdout`, in the OSError of a write that failed: of itself it names neither."""
    try:
        yield
    except OSError as error:
        if error.filename is None and error.errno in _DISK:
            error.filename = str(path)
        raise


_NO_THREAD = "can't start new thread"
"""what Python says in a RuntimeError"""


def is_limit(error: Exception) -> bool:
    """Return whether an error is one of this machine's files, disks or limits, and neither a connection's nor ours."""
    if isinstance(error, OSError):
        return error.filename is not None or error.errno in _DISK or error.errno in _PROCESS
    return isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and _NO_THREAD in str(error))


def failure_of(error: Exception) -> Problem:
    """Return the problem of a failure of this machine, with what repairs it."""
    if not isinstance(error, OSError):
        number = errno.ENOMEM if isinstance(error, MemoryError) else errno.EAGAIN
        error = OSError(number, os.strerror(number))
    if error.filename in ("stdout", "stderr"):
        return Problem(None, f"cannot write to {error.filename}: {reason(error)}")
    where = f"`{display_path(Path(error.filename))}`: " if isinstance(error.filename, str) else ""
    hint = _DISK.get(error.errno or 0) or _PROCESS.get(error.errno or 0, "")
    return Problem(None, f"{where}{reason(error)}, on this machine", hint)


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return `did you mean ...?` for the most similar known name, or an empty string."""
    import difflib  # noqa: PLC0415 - needed only for errors

    near = difflib.get_close_matches(name, list(known), n=1)
    return f"did you mean `{near[0]}`?" if near else ""
