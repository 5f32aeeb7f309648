"""Rules for recipes and `after` that do not fit the scripts they name."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from runsdeploy.bash.symbols import Argument
from runsdeploy.check.finding import Finding, error, warning
from runsdeploy.check.model import TreeModel
from runsdeploy.check.symbols import ScriptSymbols
from runsdeploy.errors import Position, Problem, did_you_mean
from runsdeploy.tree.recipe import VARIABLE
from runsdeploy.tree.text import read_text

_SIGNS = frozenset({"=", "+=", "-="})
_EXPANSION = re.compile(rb"\$(?:[A-Za-z_]\w*|\{\w[^}]*\}|\()")
_QUOTED = re.compile(rb"'[^']*'|\\\$")
"""text that a shell would not expand either: the operator means it as it is"""


def _undeclared(model: TreeModel) -> Iterator[Finding]:
    """An operation on a variable that the script neither declares nor reads."""
    for recipe in (*model.recipes, *model.unreferenced):
        for entry in recipe.entries:
            symbols = model.symbols_of(entry.name, recipe.host)
            if symbols:
                for each in entry.operations:
                    yield from _accept(symbols, each.name, each.position)
    for symbols in model.checked:
        for call in symbols.conf.calls("after"):
            option, *words = call.arguments or (Argument("", literal=True, line=0, column=0, start=0, end=0),)
            target = model.symbols_of(words[0].text, None) if option.text in ("-r", "-rr") and words else None
            for word in words[1:]:
                found = re.match(rf"({VARIABLE})(\+=|-=|=|\Z)", word.text)
                if found and target:
                    yield from _accept(target, found[1], symbols.position(word.line, word.column))


def _accept(symbols: ScriptSymbols, name: str, position: Position) -> Iterator[Finding]:
    """Yield a warning if a script neither declares nor reads a variable."""
    if name in symbols.declared_names or symbols.conf.declares_more or symbols.may_read(name):
        return
    known = {*symbols.declared_names, *(each.name for each in symbols.body.reads)} - symbols.assigned_names
    message = f"`{symbols.script.name}` neither declares nor reads `{name}`"
    yield warning("undeclared-operation", position, message, did_you_mean(name, known or symbols.declared_names))


def _spaced(model: TreeModel) -> Iterator[Finding]:
    """`port = 80`, which makes an array of two values."""
    for symbols in model.checked:
        for call in symbols.conf.calls("var"):
            if len(call.arguments) > 1 and call.arguments[1].text in _SIGNS:
                at = symbols.position(call.arguments[1].line, call.arguments[1].column)
                yield _spaced_at(at, call.arguments[0].text, call.arguments[1].text)
    for recipe in model.recipes:
        for each in (operation for entry in recipe.entries for operation in entry.operations):
            if each.kind == "()" and each.values and each.values[0].decode("utf-8", "replace") in _SIGNS:
                yield _spaced_at(each.position, each.name, each.values[0].decode())


def _spaced_at(position: Position, name: str, sign: str) -> Finding:
    message = f"`{name} {sign}` makes an array whose first value is `{sign}`"
    return warning("spaced-operation", position, message, f"without blanks: `{name}{sign}…`")


def _expansions(model: TreeModel) -> Iterator[Finding]:
    """`$name` in a recipe, which expands nothing."""
    lines: dict[str, list[bytes]] = {}
    for recipe in model.recipes:
        for each in (operation for entry in recipe.entries for operation in entry.operations):
            found = next(filter(None, map(_EXPANSION.search, each.values)), None)
            if not found:
                continue
            file, line = each.position.file, each.position.line
            if file not in lines:
                lines[file] = read_text(Path(file)).split(b"\n")
            # Only one line is searched: a value over several lines is quoted anyway.
            if found[0] in _QUOTED.sub(b"", lines[file][line - 1]):
                text = found[0].decode("utf-8", "replace")
                message = f"`{text}` stays as it is: nothing is expanded in a recipe"
                yield warning("unexpanded", each.position, message, f"in single quotes if it is meant: `'{text}'`")


def _unknown_afters(model: TreeModel) -> Iterator[Finding]:
    """`after` of a script that no host has: it has no effect."""
    names = {name for files in model.names.values() for name, place in files.items() if place.path in model.scripts}
    for symbols in model.checked:
        for call in symbols.conf.calls("after"):
            words = call.arguments
            needed = bool(words) and words[0].text in ("-r", "-rr")
            for word in words[1:2] if needed else words:
                if word.literal and word.text not in names:
                    at, near = symbols.position(word.line), did_you_mean(word.text, names)
                    # `after -r` of an unknown script is an error of the plan; with `--static` there is no plan.
                    finding = error(Problem(at, f"unknown script `{word.text}`", near))
                    message = f"no host has a script `{word.text}`: this `after` has no effect"
                    yield finding if needed else warning("unknown-script", at, message, near)


RULES = (
    _undeclared,
    _spaced,
    _expansions,
    _unknown_afters,
)
