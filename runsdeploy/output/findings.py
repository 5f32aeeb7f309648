"""Findings of `check`: as text for a person, and as JSON."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

from msgspec.structs import replace

from runsdeploy.check.finding import ERROR, WARNING, Finding
from runsdeploy.output import json
from runsdeploy.output.terminal import Writer, printable


def document(each: Finding) -> dict[str, Any]:
    """Return a finding for JSON."""
    return {**json.problem(each.problem), "severity": each.severity, "rule": each.rule}


def show_findings(findings: Sequence[Finding]) -> None:
    """Write one finding a line to stdout, and their number to stderr."""
    writer = Writer(sys.stdout)
    for each in findings:
        problem, code = each.problem, "31" if each.severity == ERROR else "33"
        where = f"{printable(str(problem.position))}: " if problem.position else ""
        said = printable(str(replace(problem, position=None, message=f"{problem.message} [{each.rule}]")))
        writer.line(f"{where}{writer.paint(each.severity, code)}: {said}")
    Writer(sys.stderr).line(count(findings) or "nothing to tell")


def count(findings: Sequence[Finding]) -> str:
    """Return the number of errors and of warnings as text, empty for none."""
    errors = sum(each.severity == ERROR for each in findings)
    counts = ((errors, ERROR), (len(findings) - errors, WARNING))
    return " and ".join(f"{n} {word}{'s' * (n != 1)}" for n, word in counts if n)
