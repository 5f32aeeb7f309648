"""What a CONF section declares: the values, and how each call in a section adds to them.

Pure: bash evaluates the section (`evaluation`), and hands each declaration to `add_declaration`.
"""

from __future__ import annotations

import codecs
import os

from msgspec import Struct, field
from msgspec.structs import replace

from runsdeploy.errors import Position, Problem, did_you_mean
from runsdeploy.plan.variable import ROOT, ROOT_PLACEHOLDER, Value, Variable
from runsdeploy.tree.composition import composed
from runsdeploy.tree.recipe import Operation, Word, parse_operations
from runsdeploy.tree.script import Script
from runsdeploy.tree.trees import Host

FLAGS = ("root", "local", "once", "onchange", "strict")
"""flags that `conf` sets"""
FUNCTIONS = ("desc", "conf", "after", "var", "out", "ref", "sysinfos")
"""functions that a CONF section can call"""
SCRIPT_FUNCTIONS = (
    *("shouldrun", "setdone", "resetdone", "urequire"),
    *("etitle", "estep", "einfo", "ewarn", "eerror", "die", "is_yes", "is_no", "quietly"),
)
"""functions that every SCRIPT section can call, and no CONF section"""
LONG_WORD = 60
"""characters of an unknown command that a message shows: with a misplaced quote the command is a whole text"""


class Request(Struct, frozen=True):
    """One script to evaluate for one host."""

    script: Script
    host: Host | None
    """None when a script is only described: unknown facts are no error then"""
    operations: tuple[Operation, ...] = ()
    facts: tuple[Operation, ...] = ()
    """facts found on the target; used only if the host's sysinfos.conf sets none"""
    shared: tuple[str, ...] = ()
    """files that earlier steps write to the shared space"""
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
    """One file that the script declares with `out`: it writes the file to the shared space."""

    variable: str
    file: str
    """path in the shared space"""
    position: Position


class Ref(Struct, frozen=True):
    """One file that the script refers to with `ref`."""

    variable: str
    file: str
    """as written"""
    where: str
    """where it was found: `tree`, `shared` or `missing`"""
    path: str
    """path below the session's directory of files: `tree0/scripts/x` or `shared/x`"""
    required: bool
    template: bool
    position: Position


class Setting(Struct, frozen=True):
    """One change of a variable by a `runs.conf`, a `sysinfos.conf` or a CONF section."""

    variable: str
    kind: str
    """`=`, `+=`, `-=` or `()`, as in `Operation`"""
    values: tuple[Value, ...]
    position: Position | None
    """None for facts found on the target"""


class Conf(Struct):
    """What a script declares for one host and one set of operations."""

    description: str = ""
    flags: dict[str, Position] = field(default_factory=dict)
    afters: list[After] = field(default_factory=list)
    outs: list[Out] = field(default_factory=list)
    refs: list[Ref] = field(default_factory=list)
    settings: list[Setting] = field(default_factory=list)
    variables: list[Variable] = field(default_factory=list)
    messages: str = ""
    """what the section printed"""
    not_found: list[tuple[str, Position]] = field(default_factory=list)
    """commands that were not found, including those whose failure was tested"""
    plain_assignments: list[str] = field(default_factory=list)
    """variables that were assigned without `var` after a `var`"""
    needs_facts: Position | None = None
    """position of a `sysinfos` call that stopped the section because the facts are unknown; the rest is incomplete"""
    problems: list[Problem] = field(default_factory=list)


def add_declaration(conf: Conf, verb: str, position: Position, words: list[str]) -> None:
    """Add one declaration to a Conf, or the problem with it; `verb` and `words` are those of shell/declarations.sh."""
    match verb, words:
        case "problem", [message]:
            conf.problems.append(Problem(position, message))
        case "not_found", [word]:
            conf.not_found.append((word, position))
            if did_you_mean(word, FUNCTIONS) or word in SCRIPT_FUNCTIONS:
                _add_unknown_command(conf, word, position)
        case "unknown", [command]:
            # bash reports it once more for each function and sourced file that the call is in.
            word, where = conf.not_found[-1] if conf.not_found else (command.split()[0], position)
            _add_unknown_command(conf, word, where)
        case "flag", [flag]:
            conf.flags.setdefault(flag, position)
            if flag not in FLAGS:
                expected = ", ".join(f"`{each}`" for each in FLAGS)
                message = f"unknown flag `{flag}` of `conf`, expected {expected}"
                conf.problems.append(Problem(position, message, did_you_mean(flag, FLAGS)))
        case (("order" | "once" | "always"), [script, *rest]):
            operations, wrong = parse_operations(Word(word, position) for word in rest)
            hidden = ROOT_PLACEHOLDER.decode()
            conf.problems += [replace(each, message=each.message.replace(hidden, ROOT)) for each in wrong]
            conf.afters.append(After(verb, composed(script), tuple(operations), position))
        case "out", [name, file]:
            conf.outs.append(Out(name, file, position))
        case "ref", [name, file, where, path, required, template]:
            conf.refs.append(Ref(name, file, where, path, required == "yes", template == "yes", position))


def _add_unknown_command(conf: Conf, word: str, position: Position) -> None:
    if os.fsencode(word).startswith(codecs.BOM_UTF8):
        hint = rf"`sed -i '1s/^\xef\xbb\xbf//' {position.file}`"
        problem = Problem(position, "byte order mark, expected plain UTF-8", hint)
        conf.problems += [] if problem in conf.problems else [problem]
        return
    word = word if len(word) <= LONG_WORD else f"{word[:LONG_WORD]}…"
    hint = "it belongs below `script:`" if word in SCRIPT_FUNCTIONS else did_you_mean(word, FUNCTIONS)
    problem = Problem(position, f"unknown command `{word}` in a CONF section", hint)
    if problem not in conf.problems:
        conf.problems.append(problem)
