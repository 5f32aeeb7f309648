"""Findings for GitHub Actions: workflow commands, which it shows beside the lines of a pull request, and a summary.

GitHub shows the first 10 errors and the first 10 warnings of a step and drops the others without a word, so those that
matter most are written first, and all of them to the step's summary, if there is one, else to the log.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from runsdeploy.check.finding import ERROR, WARNING, Finding
from runsdeploy.output.findings import count
from runsdeploy.output.terminal import Writer, printable, write_bytes

SHOWN = 10
"""annotations of each severity that GitHub shows for a step (docs.github.com, "Workflow commands", limits)"""

SUMMARY_LIMIT = 900 * 1024
"""bytes of a summary that are written; GitHub drops the whole of one that is larger than 1 MiB, or nearly so"""

_HEAD = "| | place | finding | rule |\n| --- | --- | --- | --- |\n"
_SHELLCHECK = re.compile(r"SC\d+")


def write(findings: Iterable[Finding]) -> None:
    """Write the findings that GitHub shows to stdout, a command for each; all of them to the summary, or to the log."""
    # A stable sort: the order of the caller counts, but shellcheck knows less of the trees than our own rules do.
    ordered = sorted(findings, key=lambda each: (each.severity != ERROR, bool(_SHELLCHECK.fullmatch(each.rule))))
    kinds = [[each for each in ordered if each.severity == severity] for severity in (ERROR, WARNING)]
    shown = [each for kind in kinds for each in kind[:SHOWN]]
    others = [each for kind in kinds for each in kind[SHOWN:]]
    lines = list(map(_command, shown))
    summarized = bool(ordered) and _write_summary(ordered)
    if others:
        lines += [f"and {len(others)} more{': see the summary' if summarized else ', which GitHub does not show:'}"]
    lines += [] if summarized else map(_plain, others)
    write_bytes("".join(f"{line}\n" for line in lines).encode("utf-8", "backslashreplace"))


def _command(each: Finding) -> str:
    at = each.problem.position
    place = {"file": at.file, "line": at.line, "col": at.column} if at else {}
    properties = {name: str(value) for name, value in place.items() if value} | {"title": each.rule}
    said = ",".join(f"{name}={_property(value)}" for name, value in properties.items())
    return f"::{each.severity} {said}::{_data(_message(each))}"


def _message(each: Finding) -> str:
    return f"{each.problem.message}; {each.problem.hint}" if each.problem.hint else each.problem.message


def _data(text: str) -> str:
    """Escape a message as actions/toolkit does (packages/core/src/command.ts), then spell out the rest."""
    return printable(text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A"))


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")


def _plain(each: Finding) -> str:
    """Return a line of the log. It begins with a word of ours: GitHub obeys lines that begin with `::`."""
    return f"{each.severity}: {printable(str(each.problem))} [{each.rule}]"


def _write_summary(findings: Sequence[Finding]) -> bool:
    """Append a table of all findings to the step's summary; return False if there is none, or it cannot be written."""
    path = Path(os.environ.get("GITHUB_STEP_SUMMARY", ""))
    if not path.name:
        return False
    try:
        with path.open("ab") as file:
            file.write(_table(findings, SUMMARY_LIMIT - file.tell()))
    except OSError as error:
        why = (error.strerror or str(error)).lower()
        Writer(sys.stderr).line(printable(f"cannot write the summary of the step, `{path}`: {why}"))
        return False
    return True


def _table(findings: Sequence[Finding], limit: int) -> bytes:
    """Return the findings as a table in Markdown, of as many whole rows as fit into so many bytes."""
    text = f"\n### runsdeploy: {count(findings)}\n\n{_HEAD}".encode()
    left = len(findings)
    for each in findings:
        row = _row(each)
        if len(text) + len(row) + 200 > limit:  # the last line has less
            break
        text += row
        left -= 1
    return text + (
        f"\n{left} more findings have no room here: `runsdeploy check` shows them.\n".encode() if left else b""
    )


def _row(each: Finding) -> bytes:
    place = _markdown(str(each.problem.position)) if each.problem.position else ""
    cells = (each.severity, place, _markdown(_message(each)), _markdown(each.rule))
    return ("| " + " | ".join(cells) + " |\n").encode("utf-8", "backslashreplace")


def _markdown(text: str) -> str:
    """Escape a text for a cell of a table; text between backticks is shown as code (GitHub Flavored Markdown)."""
    pieces = printable(text.replace("\n", "\\n").replace("\t", " ")).split("`")
    if len(pieces) % 2 == 0 or not all(pieces[1::2]) or any(piece.endswith("\\") for piece in pieces):
        # Unpaired or empty: nothing is code.
        return _escape("`".join(pieces))
    # In a table a bar divides cells also within code.
    cells = [piece.replace("|", "\\|") if place % 2 else _escape(piece) for place, piece in enumerate(pieces)]
    return "`".join(cells)


def _escape(text: str) -> str:
    """Escape all punctuation that Markdown or HTML may give a meaning (CommonMark 0.31, 2.4)."""
    return re.sub(r"[\\`*_{}\[\]<>()#+!|~&@:$-]", r"\\\g<0>", text)
