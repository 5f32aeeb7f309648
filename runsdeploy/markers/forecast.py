"""Forecasts: what each step of a plan would do, from the markers of the host, without running anything.

A forecast is `would-run` or `already-done` only if every execution path of the SCRIPT section agrees (see
`bash.interpreter`), else `maybe`, with the reason. A path on which a `shouldrun` said yes runs, whatever follows.
Markers that a step sets count for later steps of the same script.
"""

from __future__ import annotations

from collections.abc import Iterable

from runsdeploy.bash.expansion import IFS, Value
from runsdeploy.bash.guards import Guard
from runsdeploy.bash.interpreter import Interpreter
from runsdeploy.bash.lexer import GUARDS, Undetermined
from runsdeploy.bash.state import ASSUMED_SUCCESS, DECLINED, UNKNOWN_STATUS, MarkerState, State
from runsdeploy.markers.marker import Markers
from runsdeploy.plan.plan import Plan, Step

RUN, DONE, MAYBE = "would-run", "already-done", "maybe"

_MarkerStates = dict[bytes | None, MarkerState]


def forecast(plan: Plan, target: Markers, controller: Markers) -> dict[int, tuple[str, str]]:
    """Return the forecast of every step, by its number: RUN, DONE or MAYBE, and the reason.

    `target` and `controller` are the markers of the host's two sides.
    """
    forecasts: dict[int, tuple[str, str]] = {}
    changes: dict[tuple[str, str, str], _MarkerStates] = {}
    for step in plan.steps:
        markers = controller if step.side == "controller" else target
        owner = markers.owner(root="root" in step.flags)
        if owner is None:
            forecasts[step.number] = MAYBE, "root's markers cannot be read: `sudo -n` does not work there"
            continue
        changed = changes.setdefault((step.side, owner, step.script.name), {})
        interpreter = _interpreter(plan, step, markers, owner)
        try:
            state = State(tuple(changed.items()), _variables(plan, step), errexit="strict" in step.flags)
            ends = _run(step, interpreter, state)
        except Undetermined as undetermined:
            may_call_guard = GUARDS.search(_text(step)) or step.libraries
            forecasts[step.number] = (MAYBE, str(undetermined)) if may_call_guard else _always()
            ends = {State(markers=((None, MarkerState(None)),))} if may_call_guard else set()
        else:
            outcome, reason = _common_outcome(ends, interpreter.ambiguity)
            new = markers.should_run(owner, _name(step), _conf_subsystem(step), None)
            forecasts[step.number] = outcome, _conf_reason(step, outcome, new=new) or reason
        _merge(changed, ends)
    return forecasts


def has_guard(step: Step) -> bool:
    """Return whether a step has a guard: `conf once`, `conf onchange`, or a call in its SCRIPT section."""
    return bool(step.flags & {"once", "onchange"} or GUARDS.search(_text(step)))


def subsystems(plan: Plan, step: Step) -> list[str]:
    """Return the subsystems for which a step that was never done would call `shouldrun`; none if that is not known."""
    interpreter = _interpreter(plan, step, Markers(), "own")
    try:
        _run(step, interpreter, State(variables=_variables(plan, step)))
    except Undetermined:
        return []
    if interpreter.unknown:
        return []
    return [each.decode("utf-8", "surrogateescape") for each in interpreter.subsystems]


def _text(step: Step) -> str:
    return step.script.body.decode("utf-8", "surrogateescape")


def _name(step: Step) -> bytes:
    return step.script.name.encode("utf-8", "surrogateescape")


def _variables(plan: Plan, step: Step) -> tuple[tuple[str, Value], ...]:
    """Return the variables of a step whose values are known before it runs."""
    values: dict[str, Value] = {"@": (), "RUNS_SCRIPT": _name(step), "RUNS_HOST": plan.host.name.encode()}
    values["IFS"] = IFS
    values["RUNS_DIGEST"] = None if step.uses else step.digest.encode()
    for variable in step.variables:
        literals = [value.literal for value in variable.values]
        known = tuple(each for each in literals if each is not None)
        if len(known) == len(literals):
            values[variable.name] = known if variable.array else known[0]
    return tuple(sorted(values.items(), key=lambda each: each[0]))


def _interpreter(plan: Plan, step: Step, markers: Markers, owner: str) -> Interpreter:
    libraries = {file.path.removeprefix("lib/"): file.content for file in plan.libraries}

    def read_library(name: str) -> str | None:
        return libraries[name].decode("utf-8", "surrogateescape") if name in libraries else None

    return Interpreter(lambda *asked: markers.should_run(owner, _name(step), *asked), read_library)


def _run(step: Step, interpreter: Interpreter, state: State) -> set[State]:
    """Return all states that a step may end in, its `conf once` or `conf onchange` included; raises Undetermined."""
    if not step.flags & {"once", "onchange"}:
        return interpreter.run(_text(step), state)
    subsystem = _conf_subsystem(step)
    guard = Guard(subsystem, step.digest.encode(), known=not step.uses) if subsystem else Guard(subsystem)
    ends: set[State] = set()
    for start in interpreter.shouldrun(state, guard, f"`conf {'onchange' if subsystem else 'once'}`"):
        if not start.first_yes:
            ends.add(start)
            continue
        after = interpreter.run(_text(step), start)
        marker = MarkerState(exists=True, value=guard.value, known=guard.known)
        ends |= {each.with_marker(subsystem, marker) for each in after if _succeeds(each) is not False}
        ends |= {each for each in after if not _succeeds(each)}
    return ends


def _conf_subsystem(step: Step) -> bytes:
    """Return the subsystem whose marker `conf once` and `conf onchange` use."""
    return b"onchange" if "onchange" in step.flags else b""


def _conf_reason(step: Step, outcome: str, *, new: bool) -> str:
    """Return why a step with `conf once` or `conf onchange` has this outcome; empty for other steps.

    `new` says that the host has no marker of that guard.
    """
    if not step.flags & {"once", "onchange"}:
        return ""
    if outcome == MAYBE:
        return f"runs if `{step.uses[0]}`, made by an earlier step, has changed" if step.uses else ""
    if outcome == DONE:
        return "done with the same script, variables and files" if "onchange" in step.flags else "done before"
    return "never done" if new else "has changed since it was done"


def _merge(changed: _MarkerStates, ends: Iterable[State]) -> None:
    """Replace `changed` by the markers on which all ends of a step agree; all others become unknown to later steps.

    An end that fails counts only if there is no other: after a failed step no further one runs.
    """
    good = [end for end in ends if _succeeds(end) is not False]
    found = [dict(end.markers) for end in good or ends]
    unknown = MarkerState(None)
    states = {key: {each.get(key, unknown) for each in found} for key in {key for each in found for key in each}}
    if found:
        changed.clear()
    changed.update({key: each.pop() if len(each) == 1 else unknown for key, each in states.items()})
    if changed.get(None) == unknown:
        changed.clear()
        changed[None] = unknown


def _common_outcome(ends: Iterable[State], ambiguity: str) -> tuple[str, str]:
    """Return the outcome that all ends have in common, and its reason; else MAYBE."""
    found = {_outcome(end): end for end in ends}
    if set(found) == {RUN}:
        place = found[RUN].first_yes
        return (RUN, f"{place} finds no marker") if place else _always()
    if set(found) == {DONE}:
        return DONE, f"{found[DONE].first_no} finds its marker"
    return MAYBE, ambiguity or "what it does is known only when it runs"


def _outcome(end: State) -> str:
    """Judge an end by the rules of `judge` in `shell/run_step.sh`; a failure counts as a run."""
    if end.first_yes or not end.first_no:
        return RUN
    return {True: DONE, False: RUN, None: MAYBE}[_succeeds(end)]


def _succeeds(end: State) -> bool | None:
    """Return whether a step that ends in this state succeeds; None if that is not known."""
    if end.status == UNKNOWN_STATUS:
        return None
    return end.status in (0, ASSUMED_SUCCESS) or (end.status == DECLINED and bool(end.first_no))


def _always() -> tuple[str, str]:
    return RUN, "runs every time: it checks no marker"
