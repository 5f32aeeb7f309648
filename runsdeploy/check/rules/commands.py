"""What is called and not there, and what bash complained of."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator

from runsdeploy.bash.builtins import NAMES
from runsdeploy.check.finding import Finding, doubt, error
from runsdeploy.check.model import TreeModel
from runsdeploy.check.symbols import FACTS
from runsdeploy.errors import Position, Problem, did_you_mean
from runsdeploy.plan.conf import FUNCTIONS

_COMPLAINT = re.compile(r"^([^\s:][^:]*): line (\d+): (.+)$", re.MULTILINE)
_EXPRESSION = re.compile(r"(operator|expression|operand) expected|syntax error")
_BITS = re.compile(rb"^[ \t]*bits=(?!\"\"|'')[\"']?([^\"'$`\s;#]+)[\"']?[ \t]*(?:#.*)?$", re.MULTILINE)


def _commands(seen: TreeModel) -> Iterator[Finding]:
    """Called in SCRIPT, and not there."""
    for reading in seen.readings:
        known = {name for name in reading.defined if not name.startswith(("_", "RUNS_"))}
        for call in reading.body.calls:
            if call.name in reading.defined or not re.fullmatch(r"[A-Za-z]\w+", call.name) or _program(call.name):
                continue
            at = reading.position(call.line, call.column)
            home = next((each for each in seen.libraries.values() if call.name in each.syntax.functions), None)
            near = did_you_mean(call.name, known)
            if call.name in FUNCTIONS:
                message = f"`{call.name}` is a function of CONF, and this is SCRIPT"
                yield doubt("conf-in-script", at, message, "write it above the line `script:`")
            elif home:
                message = f"`{call.name}` is of the library `{home.name}`, which is not loaded"
                yield doubt("library-not-loaded", at, message, f"`urequire {home.name}`")
            elif near and len(call.name) > 3:  # noqa: PLR2004 - short words are near to everything
                yield doubt("misspelt-command", at, f"`{call.name}` is no function that is loaded", near)


def _program(name: str) -> bool:
    return name in NAMES or shutil.which(name) is not None


def _conf_commands(seen: TreeModel) -> Iterator[Finding]:
    """Called in CONF, nearly a function of CONF, and not there; it need not be run on this host."""
    sheets = [reading.conf for reading in seen.readings] + seen.configurations
    for sheet in sheets:
        for call in sheet.syntax.calls:
            near = did_you_mean(call.name, FUNCTIONS) if re.fullmatch(r"[a-z]\w+", call.name) else ""
            if near and call.name not in (*FUNCTIONS, *sheet.syntax.functions) and not _program(call.name):
                at = sheet.source.at(call.line, call.column)
                yield doubt("misspelt-command", at, f"unknown command `{call.name}` in a CONF section", near)


def _unknown_libraries(seen: TreeModel) -> Iterator[Finding]:
    """`urequire` of what nobody has, wherever it stands."""
    for reading in seen.readings:
        for call in reading.body.calls:
            for word in call.arguments if call.name == "urequire" else ():
                if word.literal and word.text not in seen.libraries:
                    message, near = f"unknown library `{word.text}`", did_you_mean(word.text, seen.libraries)
                    yield error(Problem(reading.position(call.line), message, near))


def _unknown_facts(seen: TreeModel) -> Iterator[Finding]:
    """Told by a `sysinfos.conf`, and nearly the name of a fact."""
    for sheet in seen.facts:
        for each in sheet.syntax.sets:
            near = did_you_mean(each.name, FACTS)
            if near and each.name not in FACTS:
                yield doubt("unknown-fact", sheet.source.at(each.line, each.column), f"`{each.name}` is no fact", near)


def _wrong_bits(seen: TreeModel) -> Iterator[Finding]:
    """Promised by a `sysinfos.conf`, and what no host can be: a deploy would be refused."""
    for sheet in seen.facts:
        for found in _BITS.finditer(sheet.text):
            if found[1] not in (b"32", b"64"):
                at = sheet.source.at(sheet.text.count(b"\n", 0, found.start(1)) + 1)
                said = found[1].decode("utf-8", "replace")
                yield error(Problem(at, f"`bits` is promised as `{said}`, expected 32 or 64"))


def _complaints(seen: TreeModel) -> Iterator[Finding]:
    """What bash complained of while it ran a CONF section to its end."""
    for uses, idle in ((seen.uses, False), (seen.idle, True)):
        for step in (step for use in uses if use.plan for step in use.plan.steps):
            for found in _COMPLAINT.finditer(step.messages):
                # What only a recipe could give a script, it may well want in an expression.
                if not (idle and _EXPRESSION.search(found[3])):
                    yield doubt("complaint", Position(found[1], int(found[2])), f"bash: {found[3]}")


RULES = (
    _commands,
    _conf_commands,
    _unknown_libraries,
    _unknown_facts,
    _wrong_bits,
    _complaints,
)
