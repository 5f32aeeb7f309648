"""`info`: one script in full, and what set its variables."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from typing import Any

from msgspec import Struct

from runsdeploy.commands.arguments import Arguments
from runsdeploy.commands.hosts import recipes_of
from runsdeploy.commands.inputs import one_host, trees_of
from runsdeploy.commands.list import described
from runsdeploy.errors import InputError, Position, Problem
from runsdeploy.output import json
from runsdeploy.output.terminal import Writer, printable, show_problems
from runsdeploy.plan.blame import COUNTS, OVERRIDDEN, UNCHANGED, Origin, operation_text, trace
from runsdeploy.plan.conf import Conf, Request
from runsdeploy.plan.evaluation import evaluate
from runsdeploy.plan.variable import Variable
from runsdeploy.tree.composition import composed
from runsdeploy.tree.includes import COMMAND_LINE, RecipeIncludes
from runsdeploy.tree.recipe import Entry, Operation
from runsdeploy.tree.script import Script, read_script
from runsdeploy.tree.trees import Host, Located, Trees, name_problem


class _Use(Struct, frozen=True):
    """One place that asks for the script, with operations of its own."""

    position: Position
    by: str
    """the script whose `after` asks for it; empty for a recipe"""
    operations: tuple[Operation, ...]
    conf: Conf


def info(arguments: Arguments) -> int:
    """Show one script in full."""
    trees = trees_of(arguments)
    host = one_host(arguments, trees)
    name = composed(arguments.name)
    wrong = name_problem(name)
    if wrong:
        raise InputError([Problem(None, wrong)])
    places = list(trees.every(name, host))
    if not places:
        raise InputError([Problem(None, f"unknown script `{name}`", trees.near(name, host))])
    script = trees.trust.outside_problem(places[0].path, f"script `{name}`") or read_script(name, places[0])
    if isinstance(script, Problem):
        raise InputError([script])
    asked = list(_asked(arguments, trees, host, name)) if host else []
    requests = [Request(script, host), *(Request(script, host, operations) for _, _, operations in asked)]
    conf, *others = evaluate(requests, trees, arguments.conf_timeout)
    if conf.problems:
        raise InputError(conf.problems)
    uses = [_Use(*each, other) for each, other in zip(asked, others, strict=True)]
    show_problems(problem for use in uses for problem in use.conf.problems)
    if arguments.format == "text":
        _show(script, places[1:], conf, uses, blame=host is not None)
    else:
        document = _document(script, places[1:], conf)
        if host:
            document |= _blame(conf, uses)
        json.write({"schema": json.SCHEMA, "exit_status": 0, "script": document})
    return 0


def _asked(
    arguments: Arguments, trees: Trees, host: Host, name: str
) -> Iterator[tuple[Position, str, tuple[Operation, ...]]]:
    """Yield the places that ask for a script: lines of the host's recipes, `after -r` and `-rr` of its scripts."""
    includes = RecipeIncludes(trees, host)
    entries = [
        entry
        for recipe in recipes_of(trees, host)
        for entry in includes.expand(Entry(f"@{recipe}", (), COMMAND_LINE))
        if entry.name == name
    ]
    show_problems(dict.fromkeys(includes.problems))
    # A recipe that several others include counts once.
    yield from ((entry.position, "", entry.operations) for entry in dict.fromkeys(entries))
    for script, conf in described(trees, host, arguments.conf_timeout):
        for after in conf.afters:
            if after.script == name and after.mode != "order":
                yield after.position, script.name, after.operations


# --- as text -----------------------------------------------------------------------------------


def _show(script: Script, hidden: Sequence[Located], conf: Conf, uses: Sequence[_Use], *, blame: bool) -> None:
    writer = Writer(sys.stdout)
    for line in _lines(script, hidden, conf, uses, blame=blame):
        writer.line(printable(line))


def _lines(
    script: Script, hidden: Sequence[Located], conf: Conf, uses: Sequence[_Use], *, blame: bool
) -> Iterator[str]:
    yield f"{script.name}  {conf.description}".rstrip()
    yield f"  file     {script.source.shown}, script from line {script.first_line}"
    yield from (f"  hides    {place.shown}" for place in hidden)
    if conf.flags:
        yield f"  conf     {' '.join(sorted(conf.flags))}"
    for after in conf.afters:
        option = {"order": "", "once": "-r ", "always": "-rr "}[after.mode]
        yield f"  after    {option}{after.script}  ({after.position})"
    for variable in conf.variables:
        origins = trace(conf.settings, variable.name)
        yield f"  var      {variable}{_where(origins)}"
        if blame and len(origins) > 1:
            yield from _rows([(_position(origin), f"{origin}{_SAID[origin.effect]}") for origin in origins])
    for ref in conf.refs:
        place = ref.path if ref.where == "tree" else ref.where
        yield f"  ref      {ref.variable}={ref.file}: {place}  ({ref.position})"
    for out in conf.outs:
        yield f"  out      {out.variable}={out.file}  ({out.position})"
    if conf.needs_facts:
        yield f"  sysinfos asked for at {conf.needs_facts}, and unknown: what follows it is not shown"
    for use in uses:
        yield f"  used     {use.position.file_line}{f', by `after` of {use.by}' if use.by else ''}"
        rows = [(str(each.position), operation_text(each)) for each in use.operations]
        yield from _rows([*rows, *(("gives", str(each)) for each in _differing(use.conf, conf))])


_SAID = {COUNTS: "", UNCHANGED: ", as it was", OVERRIDDEN: ", overridden"}


def _where(origins: Sequence[Origin]) -> str:
    """Return the place that set a variable, not one that only repeated its value."""
    place = next((_position(origin) for origin in origins if origin.effect == COUNTS), "")
    return f"  ({place})" if place else ""


def _position(origin: Origin) -> str:
    return str(origin.setting.position or "")


def _rows(rows: Sequence[tuple[str, str]]) -> Iterator[str]:
    width = max((len(left) for left, _ in rows), default=0)
    for left, right in rows:
        yield f"             {left.ljust(width)}  {right}"


def _differing(conf: Conf, base: Conf) -> list[Variable]:
    return [variable for variable in conf.variables if variable not in base.variables]


# --- as JSON -----------------------------------------------------------------------------------


def _document(script: Script, hidden: Sequence[Located], conf: Conf) -> dict[str, Any]:
    return {
        "script": script.name,
        "file": script.source.shown,
        "line": script.first_line,
        "hides": [place.shown for place in hidden],
        "desc": conf.description,
        "flags": sorted(conf.flags),
        "after": [{"mode": a.mode, "script": a.script, "position": str(a.position)} for a in conf.afters],
        "variables": _values(conf),
        "ref": [{"name": r.variable, "file": r.file, "how": r.where, "required": r.required} for r in conf.refs],
        "out": [{"name": o.variable, "file": o.file} for o in conf.outs],
    }


def _values(conf: Conf) -> dict[str, Any]:
    return {v.name: [str(x) for x in v.values] if v.array else str(v.values[0]) for v in conf.variables}


def _blame(conf: Conf, uses: Sequence[_Use]) -> dict[str, Any]:
    return {
        "settings": {
            variable.name: [
                {
                    "position": _position(origin),
                    "kind": origin.setting.kind,
                    "values": [str(value) for value in origin.setting.values],
                    "effect": origin.effect,
                }
                for origin in trace(conf.settings, variable.name)
            ]
            for variable in conf.variables
        },
        "used": [
            {
                "position": str(use.position),
                "by": use.by,
                "operations": [
                    {
                        "name": each.name,
                        "kind": each.kind,
                        "values": [json.text(value) for value in each.values],
                        "position": str(each.position),
                    }
                    for each in use.operations
                ],
                "variables": _values(use.conf),
            }
            for use in uses
        ],
    }
