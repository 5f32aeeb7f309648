"""Findings as SARIF 2.1.0 (OASIS Static Analysis Results Interchange Format), for what shows them beside the code."""

from __future__ import annotations

import os
import urllib.parse
from collections.abc import Sequence
from typing import Any

from runsdeploy.check.finding import ERROR, Finding
from runsdeploy.errors import Position, Problem
from runsdeploy.output import json

SCHEMA = "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"


def write(findings: Sequence[Finding]) -> None:
    """Write findings to stdout as one document."""
    from importlib.metadata import version  # noqa: PLC0415 - 20 ms

    json.write(document(findings, version("runsdeploy")))


def document(findings: Sequence[Finding], version: str) -> dict[str, Any]:
    """Return a log of one run."""
    rules = sorted({each.rule for each in findings})
    return {
        "$schema": SCHEMA,
        "version": "2.1.0",
        "runs": [
            {
                "tool": {
                    "driver": {
                        "name": "runsdeploy",
                        "version": version,
                        "rules": [{"id": rule} for rule in rules],
                    }
                },
                # 3.14.15: columns count Unicode code points, as Python does.
                "columnKind": "unicodeCodePoints",
                "results": [_result(each, rules) for each in findings],
            }
        ],
    }


def _result(each: Finding, rules: Sequence[str]) -> dict[str, Any]:
    result: dict[str, Any] = {
        "ruleId": each.rule,
        "ruleIndex": rules.index(each.rule),
        "level": "error" if each.severity == ERROR else "warning",
        "message": {"text": _text(each.problem)},
    }
    if each.problem.position:
        result["locations"] = [{"physicalLocation": _location(each.problem.position)}]
    return result


def _text(problem: Problem) -> str:
    text = f"{problem.message}; {problem.hint}" if problem.hint else problem.message
    return text.encode("utf-8", "backslashreplace").decode()


def _location(at: Position) -> dict[str, Any]:
    region = {"startLine": at.line, **({"startColumn": at.column} if at.column else {})}
    # 3.4.3: a URI reference; relative where the file lies below the working directory.
    uri = urllib.parse.quote(os.fsencode(at.file))
    place = {"artifactLocation": {"uri": f"file://{uri}" if uri.startswith("/") else uri}}
    return {**place, **({"region": region} if at.line else {})}
