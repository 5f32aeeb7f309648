"""What recipes and `after` say of scripts that does not fit them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from runsdeploy.bash.symbols import Argument
from runsdeploy.check.finding import Finding, doubt, error
from runsdeploy.check.model import TreeModel
from runsdeploy.check.symbols import Reading
from runsdeploy.errors import Position, Problem, did_you_mean
from runsdeploy.tree.recipe import VARIABLE

_SIGNS = frozenset({"=", "+=", "-="})
_EXPANSION = re.compile(rb"\$(?:[A-Za-z_]\w*|\{\w[^}]*\}|\()")
_QUOTED = re.compile(rb"'[^']*'|\\\$")
"""what a shell would not expand either: whoever writes that knows"""


def _undeclared(seen: TreeModel) -> Iterator[Finding]:
    """Given to a script that neither declares nor reads it."""
    for use in (*seen.uses, *seen.idle):
        for entry in use.entries:
            reading = seen.reading(entry.name, use.host)
            for operation in entry.operations if reading else ():
                if not _accepts(reading, operation.name):
                    yield _undeclared_at(operation.position, operation.name, reading)
    for reading in seen.readings:
        for call in reading.conf.calls("after"):
            option, *words = call.arguments or (Argument("", literal=True, line=0, column=0, start=0, end=0),)
            target = seen.reading(words[0].text, None) if option.text in ("-r", "-rr") and words else None
            for word in words[1:] if target else ():
                found = re.match(rf"({VARIABLE})(\+=|-=|=|\Z)", word.text)
                if found and not _accepts(target, found[1]):
                    yield _undeclared_at(reading.position(word.line, word.column), found[1], target)


def _accepts(reading: Reading | None, name: str) -> bool:
    return reading is None or name in reading.names or reading.conf.made_up or reading.takes(name)


def _undeclared_at(position: object, name: str, reading: Reading | None) -> Finding:
    assert reading is not None  # noqa: S101 - asked before
    known = {*reading.names, *(each.name for each in reading.body.reads)} - reading.sets
    message = f"`{reading.script.name}` neither declares nor reads `{name}`"
    return doubt("undeclared-operation", position, message, did_you_mean(name, known or reading.names))  # type: ignore[arg-type]


def _spaced(seen: TreeModel) -> Iterator[Finding]:
    """`port = 80` makes an array of two words."""
    for reading in seen.readings:
        for call in reading.conf.calls("var"):
            if len(call.arguments) > 1 and call.arguments[1].text in _SIGNS:
                at = reading.position(call.arguments[1].line, call.arguments[1].column)
                yield _spaced_at(at, call.arguments[0].text, call.arguments[1].text)
    for use in seen.uses:
        for each in (operation for entry in use.entries for operation in entry.operations):
            if each.kind == "()" and each.values and each.values[0].decode("utf-8", "replace") in _SIGNS:
                yield _spaced_at(each.position, each.name, each.values[0].decode())


def _spaced_at(position: Position, name: str, sign: str) -> Finding:
    message = f"`{name} {sign}` makes an array whose first value is `{sign}`"
    return doubt("spaced-operation", position, message, f"without blanks: `{name}{sign}…`")


def _expansions(seen: TreeModel) -> Iterator[Finding]:
    """`$name` in a recipe, where nothing is expanded."""
    lines: dict[str, list[bytes]] = {}
    for use in seen.uses:
        for each in (operation for entry in use.entries for operation in entry.operations):
            found = next(filter(None, map(_EXPANSION.search, each.values)), None)
            if not found:
                continue
            file, line = each.position.file, each.position.line
            if file not in lines:
                lines[file] = Path(file).read_bytes().split(b"\n")
            # A value over several lines has quotes anyway.
            if found[0] in _QUOTED.sub(b"", lines[file][line - 1]):
                said = found[0].decode("utf-8", "replace")
                message = f"`{said}` stays as it is: nothing is expanded in a recipe"
                yield doubt("unexpanded", each.position, message, f"in single quotes if it is meant: `'{said}'`")


def _unknown_afters(seen: TreeModel) -> Iterator[Finding]:
    """`after` of a script that no host has: it orders nothing."""
    names = {name for files in seen.names.values() for name, place in files.items() if place.path in seen.scripts}
    for reading in seen.readings:
        for call in reading.conf.calls("after"):
            words = call.arguments
            needed = bool(words) and words[0].text in ("-r", "-rr")
            for word in words[1:2] if needed else words:
                if word.literal and word.text not in names:
                    at, near = reading.position(word.line), did_you_mean(word.text, names)
                    # A plan that needs it is refused; so is this, where no plan was made.
                    finding = error(Problem(at, f"unknown script `{word.text}`", near))
                    orders = doubt(
                        "unknown-script", at, f"no host has a script `{word.text}`: this orders nothing", near
                    )
                    yield finding if needed else orders


RULES = (
    _undeclared,
    _spaced,
    _expansions,
    _unknown_afters,
)
