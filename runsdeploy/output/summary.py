"""The last block of a rollout over several hosts: totals, what failed, and the command that runs it again."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterator, Sequence
from typing import Any

from runsdeploy.output.console import failure_in_short
from runsdeploy.output.terminal import Writer, printable
from runsdeploy.session.report import HostReport
from runsdeploy.session.summary import UNREMARKABLE, Summary, failed_steps

NAMED = 4
"""hosts of one line that are named; of more the others are counted"""


def show_summary(summary: Summary, again: Sequence[str]) -> None:
    """Write the summary to stdout: totals, one line for hosts that failed alike, and the words of a command line."""
    writer = Writer(sys.stdout)
    counts = ", ".join(f"{len(reports)} {writer.outcome(kind)}" for kind, reports in summary.kinds.items())
    writer.line()
    writer.line(f"{summary.total} hosts in {summary.seconds:.2f} s: {counts}")
    for kind, reports in summary.kinds.items():
        if kind not in UNREMARKABLE:
            for what, names in _alike(reports).items():
                more = f" and {len(names) - NAMED + 1} more" if len(names) > NAMED else ""
                named = ", ".join(names[: NAMED - 1] if more else names) + more
                writer.line(f"{writer.outcome(kind, 12)} {printable(f'{named}: {what}' if what else named)}")
    if again:
        writer.line("to run these again:")
        writer.line(f"  {printable(shlex.join(again))}")


def _alike(reports: Sequence[HostReport]) -> dict[str, list[str]]:
    """Return the names of the hosts by what is said about them."""
    found: dict[str, list[str]] = {}
    for report in reports:
        for what in _said(report):
            found.setdefault(what, []).append(report.plan.host.name)
    return found


def _said(report: HostReport) -> Iterator[str]:
    steps = list(failed_steps(report))
    yield from map(failure_in_short, steps)
    if not steps:
        yield report.message


def document(summary: Summary, again: Sequence[str]) -> dict[str, Any]:
    """Return the summary for JSON: the number of hosts of each kind, the hosts to run again, and the command for it."""
    return {
        "seconds": round(summary.seconds, 3),
        "hosts": summary.total,
        "kinds": {kind: len(reports) for kind, reports in summary.kinds.items()},
        "failures": [
            _failure(report, kind)
            for kind, reports in summary.kinds.items()
            if kind not in UNREMARKABLE
            for report in reports
        ],
        "again": list(again),
    }


def _failure(report: HostReport, kind: str) -> dict[str, Any]:
    steps = [
        {
            "script": step.step.script.name,
            "outcome": step.outcome,
            "status": step.status,
            "position": step.step.position.file_line,
            "failed_at": str(step.failed_at) if step.failed_at else None,
        }
        for step in failed_steps(report)
    ]
    return {
        "host": report.plan.host.name,
        "kind": kind,
        "message": report.message,
        "hint": report.hint,
        "steps": steps,
    }
