"""Rules for `shouldrun` without `setdone`, and the reverse."""

from __future__ import annotations

import re
from collections.abc import Iterator

from runsdeploy.bash.symbols import Call
from runsdeploy.check.finding import Finding, warning
from runsdeploy.check.model import TreeModel
from runsdeploy.check.symbols import ScriptSymbols
from runsdeploy.errors import did_you_mean

_INVERTED = re.compile(rb"\s*shouldrun\b[^&|;#]*&&\s*(?:exit|return)\b(?:\s+0)?\s*(?:;|#|$)")
"""a line that ends the script if it should run"""


def _ignored_answers(model: TreeModel) -> Iterator[Finding]:
    """`shouldrun` whose answer is ignored, or inverted."""
    for symbols in model.checked:
        lines = symbols.script.body.split(b"\n")
        for call in (call for call in symbols.body.calls if call.name == "shouldrun"):
            at = symbols.position(call.line, call.column)
            if call.ignored:
                message = "`shouldrun` only answers, and its answer is ignored"
                yield warning("ignored-answer", at, message, "`shouldrun || exit`")
            if _INVERTED.match(lines[call.line - 1]):
                message = "this ends the script if it should run: `shouldrun` answers yes then"
                yield warning("ignored-answer", at, message, "`shouldrun || exit`")


def _pairs(model: TreeModel) -> Iterator[Finding]:
    """`shouldrun` without its `setdone`, and the reverse, unless CONF or a library of the trees has the other one."""
    for symbols in model.checked:
        asks = [call for call in symbols.body.calls if call.name == "shouldrun"]
        marks = [call for call in symbols.body.calls if call.name == "setdone"]
        flags = {word.text for call in symbols.conf.calls("conf") for word in call.arguments}
        libraries = [each.symbols for each in symbols.libraries if each.source]
        by_library = any(call.name in ("setdone", "shouldrun") for each in libraries for call in each.calls)
        if not by_library and not flags & {"once", "onchange"}:
            yield from _unpaired(symbols, asks, marks)
            yield from _valueless(symbols, asks, marks)


def _unpaired(symbols: ScriptSymbols, asks: list[Call], marks: list[Call]) -> Iterator[Finding]:
    for rule, calls, others, message in (
        ("never-marked", asks, marks, "no `setdone` sets the marker of `{}`: it runs every time"),
        ("never-asked", marks, asks, "no `shouldrun` checks the marker of `{}`: it runs every time"),
    ):
        known = {_subsystem(call) for call in others}
        for call in () if None in known else calls:
            subsystem = _subsystem(call)
            if subsystem is not None and subsystem not in known:
                command = f"{call.name} {subsystem}".rstrip()
                near = did_you_mean(subsystem, filter(None, known)) if subsystem else ""
                yield warning(rule, symbols.position(call.line, call.column), message.format(command), near)


def _valueless(symbols: ScriptSymbols, asks: list[Call], marks: list[Call]) -> Iterator[Finding]:
    valued = {_subsystem(call) for call in asks if len(call.arguments) > 1}
    for call in marks:
        subsystem = _subsystem(call)
        if subsystem and len(call.arguments) == 1 and subsystem in valued:
            message = f"`setdone {subsystem}` sets no value, and `shouldrun` expects one: it runs every time"
            yield warning("never-marked", symbols.position(call.line, call.column), message)


def _subsystem(call: Call) -> str | None:
    """Return the subsystem of a call, empty for the script as a whole; None for one that is computed."""
    if not call.arguments:
        return ""
    first = call.arguments[0]
    return first.text if first.literal else None


RULES = (_ignored_answers, _pairs)
