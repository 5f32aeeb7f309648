"""What is asked of markers and never marked, or the reverse."""

from __future__ import annotations

import re
from collections.abc import Iterator

from runsdeploy.bash.symbols import Call
from runsdeploy.check.finding import Finding, doubt
from runsdeploy.check.model import TreeModel
from runsdeploy.check.symbols import Reading
from runsdeploy.errors import did_you_mean

_INVERTED = re.compile(rb"\s*shouldrun\b[^&|;#]*&&\s*(?:exit|return)\b(?:\s+0)?\s*(?:;|#|$)")
"""a line that ends the script when there is something to do"""


def _markers(seen: TreeModel) -> Iterator[Finding]:
    """Asked for and never marked, or the reverse."""
    for reading in seen.readings:
        asks = [call for call in reading.body.calls if call.name == "shouldrun"]
        marks = [call for call in reading.body.calls if call.name == "setdone"]
        flags = {word.text for call in reading.conf.calls("conf") for word in call.arguments}
        for call in asks:
            if call.bare:
                message = "`shouldrun` only answers, and nothing minds the answer"
                yield doubt("ignored-answer", reading.position(call.line, call.column), message, "`shouldrun || exit`")
            said = reading.script.body.split(b"\n")[call.line - 1]
            if _INVERTED.match(said):
                message = "this ends the script when it should run: `shouldrun` answers yes then"
                yield doubt("ignored-answer", reading.position(call.line, call.column), message, "`shouldrun || exit`")
        helped = any(
            call.name in ("setdone", "shouldrun")
            for each in reading.libraries
            if each.source
            for call in each.syntax.calls
        )
        if not helped and not flags & {"once", "onchange"}:
            yield from _unpaired(reading, asks, marks)
            yield from _valueless(reading, asks, marks)


def _unpaired(reading: Reading, asks: list[Call], marks: list[Call]) -> Iterator[Finding]:
    for rule, calls, others, message in (
        ("never-marked", asks, marks, "`{}` asks for what no `setdone` marks: it is done every time"),
        ("never-asked", marks, asks, "`{}` marks what no `shouldrun` asks for: it is done every time"),
    ):
        known = {_subsystem(call) for call in others}
        for call in () if None in known else calls:
            subsystem = _subsystem(call)
            if subsystem is not None and subsystem not in known:
                said = f"{call.name} {subsystem}".rstrip()
                near = did_you_mean(subsystem, filter(None, known)) if subsystem else ""
                yield doubt(rule, reading.position(call.line, call.column), message.format(said), near)


def _valueless(reading: Reading, asks: list[Call], marks: list[Call]) -> Iterator[Finding]:
    valued = {_subsystem(call) for call in asks if len(call.arguments) > 1}
    for call in marks:
        subsystem = _subsystem(call)
        if subsystem and len(call.arguments) == 1 and subsystem in valued:
            message = f"`setdone {subsystem}` has no value, and `shouldrun` asks for one: it is done every time"
            yield doubt("never-marked", reading.position(call.line, call.column), message)


def _subsystem(call: Call) -> str | None:
    """Return what a call asks for or marks, empty for the script as a whole; None if that is made up."""
    if not call.arguments:
        return ""
    first = call.arguments[0]
    return first.text if first.literal else None


RULES = (_markers,)
