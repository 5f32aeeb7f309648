"""Forecasts: what a deploy would do, told from the markers of the host without running anything.

`would-run` and `already-done` are said only where the section leaves no other way (see `traversal`); everything
else is `maybe`, with the reason. What a step marks is known to the steps of the same script behind it.
"""

from __future__ import annotations

from collections.abc import Iterable

from runsdeploy.bash.expansion import IFS, Value
from runsdeploy.bash.interpreter import Interpreter
from runsdeploy.bash.lexer import GUARDS, Unclear
from runsdeploy.bash.state import DECLINED, TESTS, WORKS, Mark, Way
from runsdeploy.markers.marker import Markers
from runsdeploy.plan.plan import Plan, Step

RUN, DONE, MAYBE = "would-run", "already-done", "maybe"

_Marks = dict[bytes | None, Mark]


def forecast(plan: Plan, target: Markers, controller: Markers) -> dict[int, tuple[str, str]]:
    """Return outcome and reason for every step by its number."""
    said: dict[int, tuple[str, str]] = {}
    marked: dict[tuple[str, str, str], _Marks] = {}
    for step in plan.steps:
        markers = controller if step.side == "controller" else target
        owner = markers.owner(root="root" in step.flags)
        if owner is None:
            said[step.number] = MAYBE, "root's markers cannot be read: `sudo -n` does not work there"
            continue
        marks = marked.setdefault((step.side, owner, step.script.name), {})
        traversal = _traversal(plan, step, markers, owner)
        try:
            way = Way(tuple(marks.items()), _values(plan, step), errexit="strict" in step.flags)
            ends = _ends(step, traversal, way)
        except Unclear as unclear:
            asks_itself = GUARDS.search(_text(step)) or step.libraries
            said[step.number] = (MAYBE, str(unclear)) if asks_itself else _always()
            ends = {Way(marks=((None, Mark(None)),))} if asks_itself else set()
        else:
            outcome, reason = _verdict(ends, traversal.doubt)
            new = markers.should_run(owner, _name(step), _guarded(step), None)
            said[step.number] = outcome, _reason(step, outcome, new=new) or reason
        _agree(marks, ends)
    return said


def asks(step: Step) -> bool:
    """Say whether a step asks for markers at all."""
    return bool(step.flags & {"once", "onchange"} or GUARDS.search(_text(step)))


def subsystems(plan: Plan, step: Step) -> list[str]:
    """Return the subsystems that a step that was never done would ask for, as far as that can be told."""
    traversal = _traversal(plan, step, Markers(), "own")
    try:
        _ends(step, traversal, Way(values=_values(plan, step)))
    except Unclear:
        return []
    return [each.decode("utf-8", "surrogateescape") for each in traversal.asked]


def _text(step: Step) -> str:
    return step.script.body.decode("utf-8", "surrogateescape")


def _name(step: Step) -> bytes:
    return step.script.name.encode("utf-8", "surrogateescape")


def _values(plan: Plan, step: Step) -> tuple[tuple[str, Value], ...]:
    """Return the variables of a step as far as they are known before it runs."""
    values: dict[str, Value] = {"@": (), "RUNS_SCRIPT": _name(step), "RUNS_HOST": plan.host.name.encode()}
    values["IFS"] = IFS
    values["RUNS_DIGEST"] = None if step.uses else step.digest.encode()
    for variable in step.variables:
        literals = [value.literal for value in variable.values]
        known = tuple(each for each in literals if each is not None)
        if len(known) == len(literals):
            values[variable.name] = known if variable.array else known[0]
    return tuple(sorted(values.items(), key=lambda each: each[0]))


def _traversal(plan: Plan, step: Step, markers: Markers, owner: str) -> Interpreter:
    """Prepare to follow a step."""
    libraries = {file.path.removeprefix("lib/"): file.content for file in plan.libraries}

    def library(name: str) -> str | None:
        return libraries[name].decode("utf-8", "surrogateescape") if name in libraries else None

    return Interpreter(lambda *asked: markers.should_run(owner, _name(step), *asked), library)


def _ends(step: Step, traversal: Interpreter, way: Way) -> set[Way]:
    """Return all ways in which a step may end; raises Unclear."""
    if not step.flags & {"once", "onchange"}:
        return traversal.through(_text(step), way)
    subsystem = _guarded(step)
    known, value = (not step.uses, step.digest.encode()) if subsystem else (True, None)
    ends: set[Way] = set()
    for asked in traversal.ask(way, subsystem, value, f"`conf {'onchange' if subsystem else 'once'}`", known=known):
        if not asked.yes:
            ends.add(asked)
            continue
        try:
            after = traversal.through(_text(step), asked)
        except Unclear:
            # It runs in any case; what else it marks is not known.
            after = {asked.mark(None, Mark(None))}
        mark = Mark(there=True, value=value, known=known)
        ends |= {each.mark(subsystem, mark) for each in after if _succeeds(each) is not False}
        ends |= {each for each in after if not _succeeds(each)}
    return ends


def _guarded(step: Step) -> bytes:
    """Return the subsystem that `conf once` and `conf onchange` ask for."""
    return b"onchange" if "onchange" in step.flags else b""


def _reason(step: Step, outcome: str, *, new: bool) -> str:
    """Say why a step runs or not that is guarded by its CONF section; empty for others."""
    if not step.flags & {"once", "onchange"}:
        return ""
    if outcome == MAYBE:
        return f"runs if `{step.uses[0]}`, made by an earlier step, has changed" if step.uses else ""
    if outcome == DONE:
        return "done with the same script, variables and files" if "onchange" in step.flags else "done before"
    return "never done" if new else "has changed since it was done"


def _agree(marks: _Marks, ends: Iterable[Way]) -> None:
    """Keep what all ends of a step have marked alike; the rest is not known to the steps behind it.

    Behind one that fails nothing runs, so it counts only if there is no other.
    """
    good = [end for end in ends if _succeeds(end) is not False]
    found = [dict(end.marks) for end in good or ends]
    unknown = Mark(None)
    said = {key: {each.get(key, unknown) for each in found} for key in {key for each in found for key in each}}
    if found:
        marks.clear()
    marks.update({key: each.pop() if len(each) == 1 else unknown for key, each in said.items()})
    if marks.get(None) == unknown:
        marks.clear()
        marks[None] = unknown


def _verdict(ends: Iterable[Way], doubt: str) -> tuple[str, str]:
    """Say what these ends have in common."""
    found = {_outcome(end): end for end in ends}
    if set(found) == {RUN}:
        place = found[RUN].yes
        return (RUN, f"{place} finds no marker") if place else _always()
    if set(found) == {DONE}:
        return DONE, f"{found[DONE].no} finds its marker"
    return MAYBE, doubt or "what it does is known only when it runs"


def _outcome(end: Way) -> str:
    """Judge an end as `judge` of `shell/run_step.sh` does; a failure is a run."""
    if end.yes or not end.no:
        return RUN
    return {True: DONE, False: RUN, None: MAYBE}[_succeeds(end)]


def _succeeds(end: Way) -> bool | None:
    """Say whether a step that ends so is a success; None if that is not known."""
    if end.status == TESTS:
        return None
    return end.status in (0, WORKS) or (end.status == DECLINED and bool(end.no))


def _always() -> tuple[str, str]:
    return RUN, "runs every time: it asks for no marker"
