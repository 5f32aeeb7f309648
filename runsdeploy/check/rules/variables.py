"""What is declared and not read, or read and not set."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from runsdeploy.bash.symbols import Mention
from runsdeploy.check.finding import Finding, doubt
from runsdeploy.check.model import TreeModel
from runsdeploy.check.symbols import FACTS, Declaration, Reading
from runsdeploy.errors import did_you_mean
from runsdeploy.tree.recipe import RESERVED

GIVEN = frozenset({"RUNS_HOST", "RUNS_SCRIPT", "RUNS_SESSION", "RUNS_SHARED", "RUNS_FILES", "RUNS_DIGEST"})
"""what the runner sets for a SCRIPT section"""

_ENVIRONMENT = re.compile(rf"{RESERVED}\Z|[A-Z][A-Z0-9_]*\Z|(https?|ftp|no|all)_proxy\Z")


def _unused(seen: TreeModel) -> Iterator[Finding]:
    """Declared, and read by nothing."""
    for reading in seen.readings:
        unset = _unset_names(seen, reading)
        for each in _first(reading.conf.declared):
            if not (reading.uses(each.name) or reading.conf.reads(each.name) or _opened(reading, each)):
                message = f"`{each.name}` is declared here, and nothing reads it"
                yield doubt("unused-variable", each.position, message, did_you_mean(each.name, unset))
    for section in seen.configurations if seen.whole else ():
        others = [other for other in seen.configurations if other is not section]
        for each in _first(section.declared):
            read = section.reads(each.name) or any(other.reads(each.name) for other in others)
            if not read and not any(reading.takes(each.name) for reading in seen.every):
                message = f"`{each.name}` is set here for scripts, and none reads it"
                near = did_you_mean(each.name, {name for reading in seen.every for name in reading.names})
                yield doubt("unused-variable", each.position, message, near)


def _first(declared: Iterable[Declaration]) -> Iterator[Declaration]:
    """Yield the first declaration of each name that is no fact: those are for all."""
    found: dict[str, Declaration] = {}
    for each in declared:
        found.setdefault(each.name, each)
    return (each for each in found.values() if each.name not in FACTS)


def _opened(reading: Reading, each: Declaration) -> bool:
    """Say whether a SCRIPT section opens a file by its name: it lies in the working directory."""
    return each.kind == "ref" and each.file is not None and each.file.encode() in reading.script.body


def _unset_names(seen: TreeModel, reading: Reading) -> dict[str, Mention]:
    """Return the variables that a SCRIPT section reads, and nothing anywhere sets, with the first place."""
    if reading.body.sets_more or any(each.syntax.sets_more for each in reading.libraries):
        return {}
    steps = seen.steps(reading.script)
    if reading.conf.made_up and not steps:
        return {}
    given = {name for section in seen.configurations for name in (each.name for each in section.declared)}
    given |= {each.name for _, step in steps for each in step.variables} | seen.operated(reading.script)
    if any(True for _ in reading.conf.calls("sysinfos")):
        given |= FACTS
    minded = {each.name for each in reading.body.reads if not each.sure}
    known = reading.names | reading.sets
    found: dict[str, Mention] = {}
    for each in sorted(reading.body.reads, key=lambda each: (each.line, each.column)):
        if each.name not in known | given | minded | GIVEN and not _elsewhere(each.name, known):
            found.setdefault(each.name, each)
    return found


def _elsewhere(name: str, known: Iterable[str]) -> bool:
    """Say whether a variable is one of the environment, or of bash, and no misspelt one of the script's own."""
    if name.startswith("RUNS_"):
        return not did_you_mean(name, GIVEN)
    return bool(_ENVIRONMENT.match(name)) and not (name.isupper() and _nearly(name, known))


def _nearly(name: str, known: Iterable[str]) -> bool:
    return not re.match(RESERVED, name) and len(name) > 4 and bool(did_you_mean(name, known))  # noqa: PLR2004


def _unset(seen: TreeModel) -> Iterator[Finding]:
    """Read, and set by nothing."""
    for reading in seen.readings:
        strays = _stray_names(reading)
        for name, mention in _unset_names(seen, reading).items():
            if name not in strays:
                near = did_you_mean(name, (reading.names | reading.sets | GIVEN) - {name})
                at = reading.position(mention.line, mention.column)
                yield doubt("unset-variable", at, f"`{name}` is read here, and nothing sets it", near)
        yield from _unset_somewhere(seen, reading)


def _unset_somewhere(seen: TreeModel, reading: Reading) -> Iterator[Finding]:
    """Read, and set for some hosts only."""
    steps = seen.steps(reading.script)
    minded = {each.name for each in reading.body.reads if not each.sure} | reading.names | reading.sets
    for mention in {each.name: each for each in reversed(reading.body.reads) if each.name not in minded}.values():
        having = [{each.name for each in step.variables} for _, step in steps]
        if any(mention.name in names for names in having):
            hosts = sorted(
                {host.name for (host, _), names in zip(steps, having, strict=True) if mention.name not in names}
            )
            more = f" and {len(hosts) - 1} more hosts" if len(hosts) > 1 else ""
            if hosts:
                message = f"`{mention.name}` is read here, and set for other hosts, but not for `{hosts[0]}`{more}"
                hint = f'`var {mention.name}="${{{mention.name}-}}"` in CONF if it may be empty'
                yield doubt("unset-variable", reading.position(mention.line, mention.column), message, hint)


def _stray_names(reading: Reading) -> dict[str, Mention]:
    """Return what CONF assigns without `var`, and SCRIPT reads in vain."""
    read = {each.name for each in reading.body.reads} - reading.sets
    found: dict[str, Mention] = {}
    for each in reading.conf.syntax.sets:
        last = max((d.position.line for d in reading.conf.declared if d.name == each.name), default=0)
        if each.name in read and each.line > last:
            found[each.name] = each
    return found


def _strays(seen: TreeModel) -> Iterator[Finding]:
    """Assigned in CONF without `var`."""
    for reading in seen.readings:
        for name, mention in _stray_names(reading).items():
            again = " again" if name in reading.names else ""
            message = f"`{name}` is assigned{again} without `var`, so SCRIPT, which reads it, does not get it"
            at = reading.position(mention.line, mention.column)
            yield doubt("stray-assignment", at, message, f"`var {name}=…`")


RULES = (
    _unused,
    _unset,
    _strays,
)
