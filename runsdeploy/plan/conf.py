"""What a CONF section declares: the values, and how each line of a section adds to them."""

from __future__ import annotations

import codecs
import os

from msgspec import Struct, field
from msgspec.structs import replace

from runsdeploy.errors import Position, Problem, did_you_mean
from runsdeploy.plan.variable import NOWHERE, ROOT, Value, Variable
from runsdeploy.tree.recipe import Operation, Word, parse_operations
from runsdeploy.tree.script import Script
from runsdeploy.tree.trees import Host

FLAGS = ("root", "local", "once", "onchange", "strict")
FUNCTIONS = ("desc", "conf", "after", "var", "out", "ref", "sysinfos")
BELOW = (
    *("shouldrun", "setdone", "resetdone", "urequire"),
    *("etitle", "estep", "einfo", "ewarn", "eerror", "die", "is_yes", "is_no", "quietly"),
)
"""what SCRIPT sections call: functions that are always loaded there"""
LONG_WORD = 60
"""characters of a command that was not found that are told: it may be a text whose quote is misplaced"""


class Request(Struct, frozen=True):
    """One script to evaluate for one host."""

    script: Script
    host: Host | None
    """None when a script is only described: facts are unknown then, and that is no error"""
    operations: tuple[Operation, ...] = ()
    facts: tuple[Operation, ...] = ()
    """facts found on the target, where no sysinfos.conf promises any; one may be there, made of comments"""
    shared: tuple[str, ...] = ()
    """files that earlier steps put into the shared space"""
    key: str = "0"
    """names the directory of its rendered templates"""


class After(Struct, frozen=True):
    """One script named by `after`."""

    mode: str
    """`order`, `once` (-r) or `always` (-rr)"""
    script: str
    operations: tuple[Operation, ...]
    position: Position


class Out(Struct, frozen=True):
    """One file promised by `out`."""

    variable: str
    file: str
    """path in the shared space"""
    position: Position


class Ref(Struct, frozen=True):
    """One file asked for by `ref`."""

    variable: str
    file: str
    """as written"""
    how: str
    """`tree`, `shared` or `missing`"""
    found: str
    """path below the session's directory of files, `tree0/scripts/x` or `shared/x`"""
    required: bool
    template: bool
    position: Position


class Setting(Struct, frozen=True):
    """One change of a variable by a `runs.conf`, `sysinfos.conf` or CONF section, in order."""

    variable: str
    kind: str
    values: tuple[Value, ...]
    position: Position | None
    """None for facts found on the target"""


class Conf(Struct):
    """What a script declares, for one host and one set of operations."""

    description: str = ""
    flags: dict[str, Position] = field(default_factory=dict)
    afters: list[After] = field(default_factory=list)
    outs: list[Out] = field(default_factory=list)
    refs: list[Ref] = field(default_factory=list)
    settings: list[Setting] = field(default_factory=list)
    variables: list[Variable] = field(default_factory=list)
    messages: str = ""
    """what the section printed"""
    missing: list[tuple[str, Position]] = field(default_factory=list)
    """commands that were not found, those that were tested for failure included"""
    strays: list[str] = field(default_factory=list)
    """variables that were assigned without `var` after a `var`"""
    needs_facts: Position | None = None
    """set if the section asked for facts that nobody knows yet; then the rest is incomplete"""
    problems: list[Problem] = field(default_factory=list)


def add_declaration(result: Conf, verb: str, position: Position, words: list[str]) -> None:
    """Add what a line declares, or what is wrong with it."""
    match verb, words:
        case "problem", [message]:
            result.problems.append(Problem(position, message))
        case "missing", [word]:
            result.missing.append((word, position))
            if did_you_mean(word, FUNCTIONS) or word in BELOW:
                _take_unknown(result, word, position)
        case "unknown", [command]:
            # Told once more for each function and sourced file that it stands in.
            word, where = result.missing[-1] if result.missing else (command.split()[0], position)
            _take_unknown(result, word, where)
        case "flag", [flag]:
            result.flags.setdefault(flag, position)
            if flag not in FLAGS:
                expected = ", ".join(f"`{each}`" for each in FLAGS)
                message = f"unknown flag `{flag}` of `conf`, expected {expected}"
                result.problems.append(Problem(position, message, did_you_mean(flag, FLAGS)))
        case (("order" | "once" | "always"), [script, *rest]):
            operations, wrong = parse_operations(Word(word, position) for word in rest)
            result.problems += [replace(each, message=each.message.replace(NOWHERE.decode(), ROOT)) for each in wrong]
            result.afters.append(After(verb, script, tuple(operations), position))
        case "out", [name, file]:
            result.outs.append(Out(name, file, position))
        case "ref", [name, wanted, how, found, required, template]:
            result.refs.append(Ref(name, wanted, how, found, required == "yes", template == "yes", position))


def _take_unknown(result: Conf, word: str, position: Position) -> None:
    if os.fsencode(word).startswith(codecs.BOM_UTF8):
        hint = rf"`sed -i '1s/^\xef\xbb\xbf//' {position.file}`"
        problem = Problem(position, "byte order mark, expected plain UTF-8", hint)
        result.problems += [] if problem in result.problems else [problem]
        return
    word = word if len(word) <= LONG_WORD else f"{word[:LONG_WORD]}…"
    hint = "it belongs below `script:`" if word in BELOW else did_you_mean(word, FUNCTIONS)
    problem = Problem(position, f"unknown command `{word}` in a CONF section", hint)
    if problem not in result.problems:
        result.problems.append(problem)
