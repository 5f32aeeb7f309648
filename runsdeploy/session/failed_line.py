"""The line of the operator's files at which a step failed, from its last event and from bash's own last message."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence

from runsdeploy.errors import Position, display_path
from runsdeploy.events import Ended
from runsdeploy.plan.plan import Plan, Step
from runsdeploy.session.parameters import script_path

_MESSAGE = re.compile(r"(.*?): line (\d+): ")
_SHIPPED = re.compile(r".*/(?:files/(tree\d+/.*)|run/tree/(.*))")
"""where the target has scripts, referenced files and libraries"""


def failed_at(plan: Plan, step: Step, event: Ended, tail: Sequence[str]) -> Position:
    """Return the line at which a step failed; without a line if that is unknown. `tail` are the last lines of its output."""
    file, line = event.file, event.line
    if event.how != "exit":
        # A failed line that did not end the section may be older than bash's own last message.
        message_file, message_line = _last_message(step, tail)
        if message_line and (message_file != file or message_line > line):
            file, line = message_file, message_line
    if not file:
        return step.script.source.at(line if line >= step.script.first_line else 0)
    return Position(_shown(plan, file), line)


def _last_message(step: Step, tail: Sequence[str]) -> tuple[str, int]:
    """Return file and line of bash's own message, if the output ends with one: file as in `Ended`, else line 0."""
    found = _MESSAGE.match(tail[-1]) if tail else None
    if not found:
        return "", 0
    path, line, script = found[1], int(found[2]), script_path(step)
    if not path.startswith("/"):
        path = f"/files/{os.path.dirname(script)}/{os.path.normpath(path)}"  # noqa: PTH120 - a path of another machine
    shipped = _SHIPPED.fullmatch(path)
    if shipped and shipped[2]:
        return f"lib/{shipped[2]}", line
    if shipped and shipped[1] != script and any(file.path == shipped[1] for file in step.files):
        return shipped[1], line
    return "", line if path.rpartition("/")[2] == step.script.source.path.name else 0


def _shown(plan: Plan, file: str) -> str:
    """Return the path of a shipped file as the operator would type it."""
    for each in (*plan.libraries, *(each for step in plan.steps for each in step.files)):
        if each.path == file:
            return each.shown or (display_path(each.source) if each.source else file.partition("/")[2])
    return file
