"""Findings: what `check` reports about a place in a tree, as an error or as a warning, with the name of a rule.

Every command imports this module through the console: it must import nothing more.
"""

from __future__ import annotations

import re

from msgspec import Struct
from msgspec.structs import replace

from runsdeploy.errors import Position, Problem

ERROR, WARNING = "error", "warning"

_RULES = (
    ("unknown-script", r"unknown script|cannot be run, see"),
    ("unknown-recipe", r"unknown recipe"),
    ("unknown-group", r"unknown group"),
    ("unknown-host", r"unknown host|^no host has its directory"),
    ("unknown-fact", r"^`bits` is "),
    ("unknown-library", r"unknown library"),
    ("unknown-command", r"unknown command"),
    ("foreign", r"a tree is code|can be code$|sections are run there"),
    ("encoding", r"^(byte order mark|UTF-16 text|carriage return)"),
    ("bash-syntax", r"bash: "),
    ("template", r"template: |cannot read template"),
    ("unreadable", r"cannot read"),
    ("outside", r"leads? out of the trees|lies behind a link"),
    (
        "not-a-script",
        r"no line `script:`|has DOS line ends|holds a NUL byte, expected bash|, not a recipe",
    ),
    ("cycle", r"cycle (of|in)|contradict each other|makes more than|lies more than"),
    ("reserved-name", r"is reserved"),
    ("missing-file", r"required file"),
    ("facts", r"needs `sysinfos"),
    ("failing-section", r"the section |`exit` here would"),
    ("group", r"pattern `|is not a host name|names no host|excludes nothing|is left of|only excludes|names a user"),
    ("bad-call", r"unknown flag|bad (option|argument|version)|` without a "),
    ("bad-operation", r"bad operation|bad variable name"),
    ("bad-name", r"^(empty name|name )"),
    ("recipe-syntax", r"^(quote|NUL byte|backslash|indented line)|takes no operations"),
)
"""rules of errors, by a pattern of their message: errors are raised by `tree` and `plan`, which have no rules"""


class Finding(Struct, frozen=True, order=True):
    """One finding."""

    problem: Problem
    severity: str
    """ERROR: a deploy would refuse it or fail; WARNING: valid but suspicious"""
    rule: str
    """a name that does not change between versions: configurations of CI depend on it"""


def error(problem: Problem) -> Finding:
    """Return an error, with the rule that its message belongs to."""
    rule = next((rule for rule, pattern in _RULES if re.search(pattern, problem.message)), "bad-input")
    return Finding(_on_a_line(problem), ERROR, rule)


def warning(rule: str, position: Position | None, message: str, hint: str = "") -> Finding:
    """Return a warning."""
    return Finding(_on_a_line(Problem(position, message, hint)), WARNING, rule)


def _on_a_line(problem: Problem) -> Problem:
    """Move a problem of a whole file to its first line: editors and CI show only what has a line."""
    at = problem.position
    return replace(problem, position=replace(at, line=1)) if at and not at.line else problem
