"""What can be wrong with what the runner was given, or keep it from working: messages and exit statuses.

Fault                 cannot go on: message, what repairs it, exit status
└── BadInput          settings, catalogue or arguments are wrong: all problems at once, exit status 2
"""

import difflib
from typing import Iterable, NamedTuple, Sequence

OK, FAILED, BAD_INPUT, BACKUP_BAD, RESTORE_NEEDED, LOCKED = 0, 1, 2, 3, 4, 75
"""exit statuses: all well; a job failed; settings; backup not good; a restore is unfinished; another one runs"""


class Problem(NamedTuple):
    """One thing that is wrong with a file, said so that it can be repaired."""

    file: str
    """as the operator named it; empty if no file is meant"""
    line: int
    """from 1; 0 if no place in the file is meant"""
    column: int
    """in characters from 1"""
    key: str
    """the setting or the path in the catalogue; empty if none is meant"""
    message: str
    """lower case, names in backticks, what was found and what was expected"""
    hint: str = ""
    """what repairs it"""

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}:{self.column}: " if self.line else f"{self.file}: " if self.file else ""
        key = f"`{self.key}`: " if self.key else ""
        hint = f"\n  {self.hint}" if self.hint else ""
        return f"{place}{key}{self.message}{hint}"


class Fault(Exception):
    """The runner cannot do what it was asked to."""

    def __init__(self, message: str, hint: str = "", status: int = FAILED) -> None:
        super().__init__(message)
        self.message, self.hint, self.status = message, hint, status

    def __str__(self) -> str:
        return self.message + (f"\n  {self.hint}" if self.hint else "")


class BadInput(Fault):
    """What the runner was given is wrong; nothing was touched."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        super().__init__("\n".join(str(problem) for problem in problems), "", BAD_INPUT)
        self.problems = tuple(problems)


def reason(error: OSError) -> str:
    """Return why the system refused, as part of a message."""
    return (error.strerror or str(error)).lower()


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return a hint with the nearest known name, or nothing."""
    near = difflib.get_close_matches(name, list(known), 1, 0.6)
    return f"did you mean `{near[0]}`?" if near else ""
