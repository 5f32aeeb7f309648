"""Errors of the job runner, with their messages and exit statuses.

Fault                 the runner cannot go on: message, hint how to repair it, exit status
└── BadInput          settings, catalogue or arguments are wrong: all problems at once, exit status 2
"""

import difflib
from typing import Iterable, NamedTuple, Sequence

OK, FAILED, BAD_INPUT, BACKUP_BAD, RESTORE_NEEDED, LOCKED = 0, 1, 2, 3, 4, 75
"""exit statuses: all well; a job failed; bad input; the backup is not good; a restore is unfinished; locked"""


class Problem(NamedTuple):
    """One error in a file or in the arguments, with its place."""

    file: str
    """path as the operator gave it; empty if the problem is in no file"""
    line: int
    """from 1; 0 if the problem has no place in the file"""
    column: int
    """in characters from 1"""
    key: str
    """the setting, or the path of the value in the catalogue; empty if there is none"""
    message: str
    """lower case, names in backticks, found and expected values"""
    hint: str = ""
    """how to repair it"""

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}:{self.column}: " if self.line else f"{self.file}: " if self.file else ""
        key = f"`{self.key}`: " if self.key else ""
        hint = f"\n  {self.hint}" if self.hint else ""
        return f"{place}{key}{self.message}{hint}"


class Fault(Exception):
    """The runner cannot do what was requested."""

    def __init__(self, message: str, hint: str = "", status: int = FAILED) -> None:
        super().__init__(message)
        self.message, self.hint, self.status = message, hint, status

    def __str__(self) -> str:
        return self.message + (f"\n  {self.hint}" if self.hint else "")


class BadInput(Fault):
    """Settings, catalogue or arguments are wrong; nothing was changed."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        super().__init__("\n".join(str(problem) for problem in problems), "", BAD_INPUT)
        self.problems = tuple(problems)


def reason(error: OSError) -> str:
    """Return the text of an OSError, as part of a message."""
    return (error.strerror or str(error)).lower()


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return a hint with the most similar known name; empty if none is similar."""
    near = difflib.get_close_matches(name, list(known), 1, 0.6)
    return f"did you mean `{near[0]}`?" if near else ""
