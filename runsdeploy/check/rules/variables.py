"""Rules for variables that are declared and not read, or read and not set."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from runsdeploy.bash.symbols import Occurrence
from runsdeploy.check.finding import Finding, warning
from runsdeploy.check.model import TreeModel
from runsdeploy.check.slip import slip_of
from runsdeploy.check.symbols import FACTS, Declaration, ScriptSymbols
from runsdeploy.errors import did_you_mean
from runsdeploy.tree.recipe import RESERVED

GIVEN = frozenset({"RUNS_HOST", "RUNS_SCRIPT", "RUNS_SESSION", "RUNS_SHARED", "RUNS_FILES", "RUNS_DIGEST"})
"""variables that the runner sets for a SCRIPT section"""

_TESTED = re.compile(rb"-[zn][ \t]+\"?\$\{?([A-Za-z_]\w*)")
_ENVIRONMENT = re.compile(rf"{RESERVED}\Z|[A-Z][A-Z0-9_]*\Z|(https?|ftp|no|all)_proxy\Z")


def _unused(model: TreeModel) -> Iterator[Finding]:
    """A variable is declared, and nothing reads it."""
    for symbols in model.checked:
        unset = _unset_names(model, symbols)
        for each in _first(symbols.conf.declared):
            if not (symbols.body_may_read(each.name) or symbols.conf.reads(each.name) or _names_file(symbols, each)):
                message = f"`{each.name}` is declared here, and nothing reads it"
                yield warning("unused-variable", each.position, message, did_you_mean(each.name, unset))
    for section in model.configurations if model.complete else ():
        others = [other for other in model.configurations if other is not section]
        for each in _first(section.declared):
            read = section.reads(each.name) or any(other.reads(each.name) for other in others)
            if not read and not any(symbols.may_read(each.name) for symbols in model.all_symbols):
                message = f"`{each.name}` is set here, and no script reads it"
                declared = {name for symbols in model.all_symbols for name in symbols.declared_names}
                near = did_you_mean(each.name, declared)
                yield warning("unused-variable", each.position, message, near)


def _first(declared: Iterable[Declaration]) -> Iterator[Declaration]:
    """Yield the first declaration of each name that is not a fact: facts are set for all scripts."""
    found: dict[str, Declaration] = {}
    for each in declared:
        found.setdefault(each.name, each)
    return (each for each in found.values() if each.name not in FACTS)


def _names_file(symbols: ScriptSymbols, each: Declaration) -> bool:
    """Return whether a SCRIPT section names the file of a `ref`: the file is in its working directory."""
    return each.kind == "ref" and each.file is not None and each.file.encode() in symbols.script.body


def _unset_names(model: TreeModel, symbols: ScriptSymbols) -> dict[str, Occurrence]:
    """Return the variables that a SCRIPT section reads and nothing sets, with the first occurrence."""
    if symbols.body.sets_more or any(each.symbols.sets_more for each in symbols.libraries):
        return {}
    steps = model.steps(symbols.script)
    if symbols.conf.declares_more and not steps:
        return {}
    given = {name for section in model.configurations for name in (each.name for each in section.declared)}
    given |= {each.name for _, step in steps for each in step.variables} | model.operations_on(symbols.script)
    if any(True for _ in symbols.conf.calls("sysinfos")):
        given |= FACTS
    optional = {each.name for each in symbols.body.reads if not each.required}
    known = symbols.declared_names | symbols.assigned_names
    # A name that is tested for being empty may be an option from the environment, unless it is a slip.
    tested = {each.decode() for each in _TESTED.findall(symbols.script.body)}
    optional |= {name for name in tested if name.isupper() or not slip_of(name, known)}
    found: dict[str, Occurrence] = {}
    for each in sorted(symbols.body.reads, key=lambda each: (each.line, each.column)):
        if each.name not in known | given | optional | GIVEN and not _from_environment(each.name, known):
            found.setdefault(each.name, each)
    return found


def _from_environment(name: str, known: Iterable[str]) -> bool:
    """Return whether a name is one of the environment or of bash, and not a misspelt name of the script."""
    if name.startswith("RUNS_"):
        return not did_you_mean(name, GIVEN)
    # A short name is near to too many.
    slip = len(name) > 4 and not re.match(RESERVED, name) and slip_of(name, known)  # noqa: PLR2004
    return bool(_ENVIRONMENT.match(name)) and not slip


def _unset(model: TreeModel) -> Iterator[Finding]:
    """A variable is read, and nothing sets it."""
    for symbols in model.checked:
        stray = _stray_names(symbols)
        for name, occurrence in _unset_names(model, symbols).items():
            if name not in stray:
                near = did_you_mean(name, (symbols.declared_names | symbols.assigned_names | GIVEN) - {name})
                at = symbols.position(occurrence.line, occurrence.column)
                yield warning("unset-variable", at, f"`{name}` is read here, and nothing sets it", near)
        yield from _unset_somewhere(model, symbols)


def _unset_somewhere(model: TreeModel, symbols: ScriptSymbols) -> Iterator[Finding]:
    """A variable is read, and set for some hosts only."""
    steps = model.steps(symbols.script)
    known = {each.name for each in symbols.body.reads if not each.required}
    known |= symbols.declared_names | symbols.assigned_names
    for occurrence in {each.name: each for each in reversed(symbols.body.reads) if each.name not in known}.values():
        having = [{each.name for each in step.variables} for _, step in steps]
        if any(occurrence.name in names for names in having):
            hosts = sorted(
                {host.name for (host, _), names in zip(steps, having, strict=True) if occurrence.name not in names}
            )
            more = f" and {len(hosts) - 1} more hosts" if len(hosts) > 1 else ""
            if hosts:
                message = f"`{occurrence.name}` is read here, and set for other hosts, but not for `{hosts[0]}`{more}"
                hint = f'`var {occurrence.name}="${{{occurrence.name}-}}"` in CONF if it may be empty'
                yield warning("unset-variable", symbols.position(occurrence.line, occurrence.column), message, hint)


def _stray_names(symbols: ScriptSymbols) -> dict[str, Occurrence]:
    """Return the variables that CONF assigns without `var` and SCRIPT reads, with the last assignment."""
    read = {each.name for each in symbols.body.reads} - symbols.assigned_names
    found: dict[str, Occurrence] = {}
    for each in symbols.conf.symbols.sets:
        last = max((d.position.line for d in symbols.conf.declared if d.name == each.name), default=0)
        if each.name in read and each.line > last:
            found[each.name] = each
    return found


def _stray(model: TreeModel) -> Iterator[Finding]:
    """CONF assigns a variable without `var`, and SCRIPT reads it."""
    for symbols in model.checked:
        for name, occurrence in _stray_names(symbols).items():
            again = " again" if name in symbols.declared_names else ""
            message = f"`{name}` is assigned{again} without `var`: SCRIPT reads it, but does not get this value"
            at = symbols.position(occurrence.line, occurrence.column)
            yield warning("stray-assignment", at, message, f"`var {name}=…`")


RULES = (
    _unused,
    _unset,
    _stray,
)
