"""Findings as workflow commands of GitHub Actions, which shows them beside the lines of a pull request."""

from __future__ import annotations

import sys
from collections.abc import Iterable

from runsdeploy.check.finding import ERROR, Finding
from runsdeploy.output.terminal import printable


def write(findings: Iterable[Finding]) -> None:
    """Write findings to stdout, one command a line."""
    for each in findings:
        problem, at = each.problem, each.problem.position
        place = {"file": at.file, "line": at.line, "col": at.column} if at else {}
        properties = {name: str(value) for name, value in place.items() if value} | {"title": each.rule}
        said = ",".join(f"{name}={_property(value)}" for name, value in properties.items())
        text = _data(f"{problem.message}; {problem.hint}" if problem.hint else problem.message)
        line = f"::{'error' if each.severity == ERROR else 'warning'} {said}::{text}\n"
        sys.stdout.buffer.write(line.encode("utf-8", "backslashreplace"))
    sys.stdout.buffer.flush()


def _data(text: str) -> str:
    """Escape a message as actions/toolkit does (packages/core/src/command.ts), then spell out the rest."""
    return printable(text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A"))


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")
