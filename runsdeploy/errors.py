"""What runsdeploy itself could not do, and where the operator finds the cause.

A script that ends with a status is an outcome, never an exception (see `report`).
The tree of exceptions, by who is at fault::

    RunsError
    +- InputError         the tree or the command line: status 2, nothing was touched
    +- HostError          one host; the others go on
       +- Unreachable     the link: no session was started
       |  +- Unauthorized no key, or not the password, was accepted
       +- Refused         the target: reached, but cannot run what it was sent
       +- Lost            the link, after the session may have started

Messages are lower case, without a full stop, with names in backticks.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from msgspec import Struct


class Position(Struct, frozen=True, order=True):
    """A place in a file that an operator can open."""

    file: str
    """path as the operator knows it; `<command line>` for what was typed"""
    line: int = 0
    """counted from 1; 0 where only the file is known"""
    column: int = 0
    """counted from 1; 0 where only the line is known"""

    @property
    def place(self) -> str:
        """`FILE:LINE`, for what is where it should be."""
        return f"{self.file}:{self.line}" if self.line else self.file

    def __str__(self) -> str:
        return ":".join([self.file, *(str(n) for n in (self.line, self.column) if n)])


def shown(path: Path) -> str:
    """Return the path as an operator would type it: relative to the working directory if it lies below it."""
    try:
        return str(path.relative_to(Path.cwd()))
    except ValueError:
        return str(path)


class Problem(Struct, frozen=True, order=True):
    """One thing wrong with what was given."""

    position: Position | None
    """where, if it stands in a file"""
    message: str
    """what was found and what was expected"""
    hint: str = ""
    """what repairs it: a command, or a near name"""

    def __str__(self) -> str:
        where = f"{self.position}: " if self.position else ""
        hint = f"; {self.hint}" if self.hint else ""
        # One line each: a word whose quote is misplaced holds lines of its own, which would look like further errors.
        return f"{where}{self.message}{hint}".replace("\n", "\\n")


class RunsError(Exception):
    """runsdeploy could not do what it was asked."""


class InputError(RunsError):
    """Bad input: all of it, found before anything was touched."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(dict.fromkeys(problems))
        super().__init__("\n".join(map(str, self.problems)))


class HostError(RunsError):
    """A host that could not be used; `hint` is the command that repairs it, or empty.

    `passing` says that another attempt may do better.
    """

    def __init__(self, message: str, hint: str = "", *, passing: bool = False) -> None:
        self.message, self.hint, self.passing = message, hint, passing
        super().__init__(f"{message}; {hint}" if hint else message)


class Unreachable(HostError):
    """No session was started: name, connection, host key, authentication."""


class Unauthorized(Unreachable):
    """A host let us in with nothing that it was offered.

    `host` is which, for it may be one to jump through; `offered` says whether it was offered anything at all;
    `methods` are what it takes, where it said so.
    """

    def __init__(
        self,
        message: str,
        hint: str = "",
        *,
        host: str,
        passing: bool = False,
        offered: bool = True,
        methods: tuple[str, ...] = (),
    ) -> None:
        self.host, self.offered, self.methods = host, offered, methods
        super().__init__(message, hint, passing=passing)


class Refused(HostError):
    """The target was reached and cannot do it; nothing ran."""


class Lost(HostError):
    """The link ended before the session said how it ended."""

    def __init__(self, message: str, hint: str = "", *, passing: bool = True) -> None:
        super().__init__(message, hint, passing=passing)


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """`did you mean ...?` for the nearest of the known names, or nothing."""
    import difflib  # noqa: PLC0415 - needed when something is wrong

    near = difflib.get_close_matches(name, list(known), n=1)
    return f"did you mean `{near[0]}`?" if near else ""
