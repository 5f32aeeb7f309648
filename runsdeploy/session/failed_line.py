"""The line of the operator's files at which a step failed, from its last event and from bash's own last message."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence

from msgspec import Struct

from runsdeploy.errors import Position, display_path
from runsdeploy.events import Ended
from runsdeploy.plan.plan import Plan, Step
from runsdeploy.session.parameters import script_path

_MESSAGE = re.compile(r"(.*?): line (\d+): (syntax error|unexpected EOF|`)?")
_SHIPPED = re.compile(r".*/(?:files/(tree\d+/.*)|run/tree/(.*))")
"""where the target has scripts, referenced files and libraries"""


class _Message(Struct):
    """A message of bash about a line."""

    file: str
    """as in `Ended`"""
    line: int
    syntax: bool
    """whether it is about the syntax"""


def failed_at(plan: Plan, step: Step, event: Ended, tail: Sequence[str]) -> Position:
    """Return the line at which a step failed; without a line if that is unknown. `tail` is the end of its output."""
    file, line = event.file, event.line
    found = _last_message(step, tail)
    # A failed line that did not end the section may be older than bash's own last message. With a syntax error in a
    # sourced file, the line that sources it fails.
    if found and (event.how != "exit" or found.syntax) and (found.file != file or found.line > line):
        file, line = found.file, found.line
    if not file:
        return step.script.source.at(line if line >= step.script.first_line else 0)
    return Position(_shown(plan, file), line)


def _last_message(step: Step, tail: Sequence[str]) -> _Message | None:
    """Return bash's own message about a file of the operator, if the output ends with one."""
    # A syntax error has two lines; a CR in the second one, which quotes the text, overwrites its beginning.
    for number, text in enumerate(reversed(tail[-2:])):
        found = _message_in(step, text)
        if found and (number == 0 or found.syntax):
            return found
    return None


def _message_in(step: Step, text: str) -> _Message | None:
    found = _MESSAGE.match(text)
    if not found:
        return None
    path, line, syntax, script = found[1], int(found[2]), bool(found[3]), script_path(step)
    if not path.startswith("/"):
        path = f"/files/{os.path.dirname(script)}/{os.path.normpath(path)}"  # noqa: PTH120 - a path of another machine
    shipped = _SHIPPED.fullmatch(path)
    if shipped and shipped[2]:
        return _Message(f"lib/{shipped[2]}", line, syntax)
    if shipped and shipped[1] != script and any(file.path == shipped[1] for file in step.files):
        return _Message(shipped[1], line, syntax)
    return _Message("", line, syntax) if path.rpartition("/")[2] == step.script.source.path.name else None


def _shown(plan: Plan, file: str) -> str:
    """Return the path of a shipped file as the operator would type it."""
    for each in (*plan.libraries, *(each for step in plan.steps for each in step.files)):
        if each.path == file:
            return each.shown or (display_path(each.source) if each.source else file.partition("/")[2])
    return file
