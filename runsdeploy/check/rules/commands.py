"""Rules for commands, libraries and facts that do not exist, and for errors that bash printed."""

from __future__ import annotations

import re
from collections.abc import Iterator

from runsdeploy.bash.builtins import NAMES
from runsdeploy.bash.programs import PROGRAMS
from runsdeploy.check.finding import Finding, error, warning
from runsdeploy.check.model import TreeModel
from runsdeploy.check.slip import slip_of
from runsdeploy.check.symbols import FACTS
from runsdeploy.errors import Position, Problem, did_you_mean
from runsdeploy.plan.conf import FUNCTIONS

_BASH_ERROR = re.compile(r"^([^\s:][^:]*): line (\d+): (.+)$", re.MULTILINE)
_EXPRESSION = re.compile(r"(operator|expression|operand) expected|syntax error")
_BITS = re.compile(rb"^[ \t]*bits=(?!\"\"|'')[\"']?([^\"'$`\s;#]+)[\"']?[ \t]*(?:#.*)?$", re.MULTILINE)


def _commands(model: TreeModel) -> Iterator[Finding]:
    """A SCRIPT section calls a command that does not exist."""
    for symbols in model.checked:
        # What a section evaluates, or sources on the target, may define any function.
        if symbols.body.calls_more or any(each.symbols.calls_more for each in symbols.libraries if each.source):
            continue
        known = {name for name in symbols.functions if not name.startswith(("_", "RUNS_"))}
        for call in symbols.body.calls:
            if call.name in symbols.functions | symbols.body.asked or not _may_be_function(call.name):
                continue
            at = symbols.position(call.line, call.column)
            home = next((each for each in model.libraries.values() if call.name in each.symbols.functions), None)
            if call.name in FUNCTIONS:
                message = f"`{call.name}` is a function of CONF sections, and this is SCRIPT"
                yield warning("conf-in-script", at, message, "write it above the line `script:`")
            elif home:
                message = f"`{call.name}` is a function of the library `{home.name}`, which is not loaded"
                yield warning("library-not-loaded", at, message, f"`urequire {home.name}`")
            elif len(call.name) > 3 and (near := slip_of(call.name, known)):  # noqa: PLR2004 - near to too many
                yield warning("misspelt-command", at, f"unknown command `{call.name}`", f"did you mean `{near}`?")


def _may_be_function(name: str) -> bool:
    """Return whether a command is neither a builtin nor a well-known program.

    Not `which`: what is installed on this machine says nothing of the target.
    """
    return re.fullmatch(r"[A-Za-z]\w+", name) is not None and name not in NAMES and name not in PROGRAMS


def _conf_commands(model: TreeModel) -> Iterator[Finding]:
    """A CONF section calls a misspelt function of CONF, perhaps in a branch that is not run for these hosts."""
    confs = [symbols.conf for symbols in model.checked] + model.configurations
    for conf in (each for each in confs if not each.symbols.calls_more):
        for call in conf.symbols.calls:
            known = conf.symbols.functions | conf.symbols.asked
            near = slip_of(call.name, FUNCTIONS) if _may_be_function(call.name) and call.name not in known else ""
            if near:
                at = conf.source.at(call.line, call.column)
                message = f"unknown command `{call.name}` in a CONF section"
                yield warning("misspelt-command", at, message, f"did you mean `{near}`?")


def _unknown_libraries(model: TreeModel) -> Iterator[Finding]:
    """`urequire` of a library that does not exist, also in a branch that is not run."""
    for symbols in model.checked:
        for call in symbols.body.calls:
            for word in call.arguments if call.name == "urequire" else ():
                if word.literal and word.text not in model.libraries:
                    message, near = f"unknown library `{word.text}`", did_you_mean(word.text, model.libraries)
                    yield error(Problem(symbols.position(call.line), message, near))


def _unknown_facts(model: TreeModel) -> Iterator[Finding]:
    """A `sysinfos.conf` sets a misspelt fact."""
    for conf in model.sysinfos:
        for each in conf.symbols.sets:
            near = did_you_mean(each.name, FACTS)
            if near and each.name not in FACTS:
                at = conf.source.at(each.line, each.column)
                yield warning("unknown-fact", at, f"`{each.name}` is not a fact", near)


def _wrong_bits(model: TreeModel) -> Iterator[Finding]:
    """A `sysinfos.conf` expects a number of bits that no host has: a deploy would be refused."""
    for conf in model.sysinfos:
        for found in _BITS.finditer(conf.text):
            if found[1] not in (b"32", b"64"):
                at = conf.source.at(conf.text.count(b"\n", 0, found.start(1)) + 1)
                value = found[1].decode("utf-8", "replace")
                yield error(Problem(at, f"`bits` is `{value}`, expected 32 or 64"))


def _bash_errors(model: TreeModel) -> Iterator[Finding]:
    """Bash printed an error while it ran a CONF section, and went on to its end."""
    for recipes, unreferenced in ((model.recipes, False), (model.unreferenced, True)):
        for step in (step for each in recipes if each.plan for step in each.plan.steps):
            for found in _BASH_ERROR.finditer(step.messages):
                # In a script that no recipe names, a variable may be empty that a recipe would set.
                if not (unreferenced and _EXPRESSION.search(found[3])):
                    yield warning("complaint", Position(found[1], int(found[2])), f"bash: {found[3]}")


RULES = (
    _commands,
    _conf_commands,
    _unknown_libraries,
    _unknown_facts,
    _wrong_bits,
    _bash_errors,
)
