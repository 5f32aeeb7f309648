"""Findings: what `check` says about a place in a tree, as an error or as a doubt, under the name of a rule."""

from __future__ import annotations

import re

from msgspec import Struct
from msgspec.structs import replace

from runsdeploy.errors import Position, Problem

ERROR, WARNING = "error", "doubt"

_RULES = (
    ("unknown-script", r"unknown script|cannot be run, see"),
    ("unknown-recipe", r"unknown recipe"),
    ("unknown-group", r"unknown group"),
    ("unknown-host", r"unknown host|^no host has its directory"),
    ("unknown-fact", r"^`bits` is promised"),
    ("unknown-library", r"unknown library"),
    ("unknown-command", r"unknown command"),
    ("foreign", r"a tree is code"),
    ("bash-syntax", r"bash: "),
    ("template", r"template: |cannot read template"),
    ("unreadable", r"cannot read"),
    ("outside", r"leads? out of the trees"),
    ("not-a-script", r"no line `script:`|has DOS line ends|holds a NUL byte, expected bash|is a script, not a recipe"),
    ("cycle", r"cycle (of|in)|contradict each other"),
    ("reserved-name", r"is reserved"),
    ("missing-file", r"required file"),
    ("facts", r"needs `sysinfos"),
    ("failing-section", r"the section |`exit` here would"),
    ("group", r"pattern `|is not a host name|names no host|excludes nothing|is left of|only excludes|names a user"),
    ("bad-call", r"unknown flag|bad (option|argument|version)|` without a "),
    ("bad-operation", r"bad operation|bad variable name"),
    ("bad-name", r"^(empty name|name )"),
    ("recipe-syntax", r"^(quote|byte order|carriage|NUL byte|backslash|indented line)|takes no operations"),
)
"""errors by what their messages say: they are raised where a plan is made, which knows nothing of rules"""


class Finding(Struct, frozen=True, order=True):
    """One thing to tell."""

    problem: Problem
    severity: str
    """`error`: a deploy would refuse it or fail; `doubt`: it may be meant, and most often is not"""
    rule: str
    """what kind it is: a word that configurations of CI can rely on"""


def error(problem: Problem) -> Finding:
    """Return what is wrong with a tree as a finding."""
    rule = next((rule for rule, says in _RULES if re.search(says, problem.message)), "bad-input")
    return Finding(_placed(problem), ERROR, rule)


def doubt(rule: str, position: Position | None, message: str, hint: str = "") -> Finding:
    """Return a doubt."""
    return Finding(_placed(Problem(position, message, hint)), WARNING, rule)


def _placed(problem: Problem) -> Problem:
    """Give a problem of a file as a whole its first line: editors and CI show what has a line."""
    at = problem.position
    return replace(problem, position=replace(at, line=1)) if at and not at.line else problem
