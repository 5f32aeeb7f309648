"""Drift: compares a host's markers with the current trees: done, older, never, unknown, untrusted."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping

from msgspec import Struct

from runsdeploy.markers.marker import Marker, Markers
from runsdeploy.plan.plan import Plan, Step
from runsdeploy.tree.script import Script

NEVER, DONE, OLDER, UNKNOWN, UNTRUSTED = "never", "done", "older", "unknown", "untrusted"


class Drift(Struct, frozen=True):
    """The drift of one script, or of one subsystem of it, on one host."""

    side: str
    """`target` or `controller`"""
    owner: str
    """whose markers: `own` of the login user, or `root`"""
    script: str
    subsystem: str
    """empty for the script as a whole"""
    state: str
    """`done`; `older`: done by an older version; `never`: not done; `unknown`: not in the trees; `untrusted`: the
    marker is a symbolic link or was renamed, and the script will fail when it checks it"""
    reason: str
    """why the state is not `done`"""
    marker: Marker | None
    """None for `never`"""


def compare(
    markers: Mapping[str, Markers], plan: Plan | None, find: Callable[[str], Script | None], names: Iterable[str]
) -> list[Drift]:
    """Compare the markers of one host, by side, with its plan and its scripts; return them sorted by script.

    Without a plan (None) there is no state `never`. `find` returns the script of a name, or None; `names` are the
    names of all scripts.
    """
    steps = plan.steps if plan else ()
    known = {*names, *(step.script.name for step in steps)}
    found: list[Drift] = []
    for side, each in markers.items():
        for marker in each.decode(known):
            same = [step for step in steps if (step.side, step.script.name) == (side, marker.script)]
            state, reason = _state(marker, same, same[0].script if same else find(marker.script))
            found.append(Drift(side, marker.owner, marker.script, marker.subsystem, state, reason, marker))
    if plan:
        for step in steps:
            found += _missing(plan, step, markers.get(step.side, Markers()), found)
    return sorted(found, key=lambda each: (each.script, each.side, each.owner, each.subsystem))


def _state(marker: Marker, steps: list[Step], script: Script | None) -> tuple[str, str]:
    if marker.distrust:
        return UNTRUSTED, f"{marker.distrust}, and a step fails on it: remove it with `runsdeploy reset`"
    if script is None:
        return UNKNOWN, "no such script in the trees"
    if marker.section and marker.section != script.digest:
        return OLDER, "the script has changed since"
    # The digest of a step with `uses` covers files of earlier steps, which are known only when those run.
    if marker.digest and steps and not any(step.uses or step.digest == marker.digest for step in steps):
        what = "its variables or files" if marker.section else "the script, its variables or its files"
        return OLDER, f"{what} have changed since"
    return DONE, ""


def _missing(plan: Plan, step: Step, markers: Markers, found: list[Drift]) -> Iterator[Drift]:
    """Yield the subsystems for which a step calls `shouldrun` and which have no marker."""
    from runsdeploy.markers.forecast import has_guard, subsystems  # noqa: PLC0415 - its patterns take time to compile

    owner = markers.owner(root="root" in step.flags)
    if not has_guard(step) or owner is None:
        return
    marked = {
        each.subsystem for each in found if (each.side, each.owner, each.script) == (step.side, owner, step.script.name)
    }
    wanted = subsystems(plan, step) or ([] if marked else [""])
    for subsystem in dict.fromkeys(wanted):
        if subsystem not in marked:
            yield Drift(step.side, owner, step.script.name, subsystem, NEVER, "", None)
