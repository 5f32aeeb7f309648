"""What bash itself said of the sections that it read: syntax errors, and why it gave up.

Its words are found in what a section printed, where only the beginning of a line tells them from any other output.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from runsdeploy.errors import Problem
from runsdeploy.plan.workdir import WorkDirectory
from runsdeploy.tree.script import Script

KILLED = "the section killed its shell (status {})"
"""how a section is reported that ended without saying why"""

_BODY = re.compile(r": line (\d+): (.*)")
_SYNTAX = re.compile(r"/section/(\d+): line (\d+): ((?:syntax error|unexpected EOF|warning: here-document).*)")
_LAST_WORDS = re.compile(r"/section/(\d+): line (\d+): (.*)")
_GAVE_UP = frozenset(map(KILLED.format, (1, 2, 127)))
"""with these bash ends by itself: `${x:?}`, an unset variable under `set -u`, an expansion that it cannot read"""
_ARRAY = re.compile(rb"\bvar\s+([A-Za-z_]\w*)=\(([^()]*)\)?")
_OPENED = re.compile(r"warning: here-document at line (\d+)")


def body_errors(script: Script, talk: str) -> Iterator[Problem]:
    """Yield the first thing in a SCRIPT section that bash could not parse."""
    found = _BODY.search(talk)
    if found:
        yield Problem(
            script.source.at(min(_line(found[1], found[2]), script.body.count(b"\n") + 1)), f"bash: {found[2]}"
        )


def conf_errors(stage: WorkDirectory, talk: str) -> Iterator[Problem]:
    """Yield the first thing in each section of CONF that bash could not parse; it stopped reading there."""
    seen: set[str] = set()
    for line in talk.splitlines():
        found = _SYNTAX.match(line.removeprefix(str(stage.root)))
        if found and found[1] not in seen:
            seen.add(found[1])
            at = stage.at(int(found[1]), _line(found[2], found[3]))
            yield Problem(at, f"bash: {found[3]}", _hint((stage.root / "section" / found[1]).read_bytes(), at.line))


def _hint(section: bytes, line: int) -> str:
    """Say how `var` makes an array, where somebody wrote one as bash does."""
    found = _ARRAY.search(section.split(b"\n")[line - 1])
    said = " ".join(found[2].decode("utf-8", "replace").split()) if found else ""
    return f"write `var {found[1].decode()} {said}".rstrip() + "`" if found else ""


def explained(stage: WorkDirectory, talk: str, problem: Problem) -> Problem:
    """Return the problem, or why the shell ended if no signal killed it: it said so last."""
    lines = talk.splitlines() if problem.message in _GAVE_UP else []
    said = (_LAST_WORDS.match(line.removeprefix(str(stage.root))) for line in reversed(lines))
    found = next(filter(None, said), None)
    return Problem(stage.at(int(found[1]), int(found[2])), f"bash: {found[3]}") if found else problem


def _line(told: str, said: str) -> int:
    """Return the line that is meant: of a here-document without an end, where it begins."""
    opened = _OPENED.match(said)
    return int(opened[1] if opened else told)
