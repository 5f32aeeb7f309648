"""Standings: how what a host has marked compares with what the trees hold now."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping

from msgspec import Struct

from runsdeploy.markers.marker import Marker, Markers
from runsdeploy.plan.plan import Plan, Step
from runsdeploy.tree.script import Script

NEVER, DONE, OLDER, UNKNOWN, UNTRUSTED = "never", "done", "older", "unknown", "untrusted"


class Drift(Struct, frozen=True):
    """One script, or one subsystem of it, on one host."""

    side: str
    """`target` or `controller`"""
    owner: str
    """`own` of the login user, or `root`"""
    script: str
    subsystem: str
    """empty for the script as a whole"""
    state: str
    """`never` done, `done`, done by an `older` version, `unknown` to the trees, `untrusted`: the script will fail"""
    reason: str
    """why it is not simply done"""
    marker: Marker | None
    """None if it was never done"""


def compare(
    markers: Mapping[str, Markers], plan: Plan | None, find: Callable[[str], Script | None], names: Iterable[str]
) -> list[Drift]:
    """Compare the markers of each side with a host's plan, where there is one, and with its scripts.

    `find` returns the script of a name; `names` are those that there are.
    """
    steps = plan.steps if plan else ()
    known = {*names, *(step.script.name for step in steps)}
    found: list[Drift] = []
    for side, each in markers.items():
        for marker in each.told(known):
            same = [step for step in steps if (step.side, step.script.name) == (side, marker.script)]
            state, reason = _judge(marker, same, same[0].script if same else find(marker.script))
            found.append(Drift(side, marker.owner, marker.script, marker.subsystem, state, reason, marker))
    if plan:
        for step in steps:
            found += _missing(plan, step, markers.get(step.side, Markers()), found)
    return sorted(found, key=lambda each: (each.script, each.side, each.owner, each.subsystem))


def _judge(marker: Marker, steps: list[Step], script: Script | None) -> tuple[str, str]:
    if not marker.trusted:
        return UNTRUSTED, "a link, which no step goes by: take it away with `runsdeploy reset`"
    if script is None:
        return UNKNOWN, "no such script in the trees"
    if marker.section and marker.section != script.digest:
        return OLDER, "the script has changed since"
    # What earlier steps made is part of the digest, and known only when they run.
    if marker.digest and steps and not any(step.uses or step.digest == marker.digest for step in steps):
        what = "its variables or files" if marker.section else "the script, its variables or its files"
        return OLDER, f"{what} have changed since"
    return DONE, ""


def _missing(plan: Plan, step: Step, markers: Markers, found: list[Drift]) -> Iterator[Drift]:
    """Yield what a step asks for and nobody marked."""
    from runsdeploy.markers.forecast import asks, subsystems  # noqa: PLC0415 - its patterns take time to compile

    owner = markers.owner(root="root" in step.flags)
    if not asks(step) or owner is None:
        return
    there = {
        each.subsystem for each in found if (each.side, each.owner, each.script) == (step.side, owner, step.script.name)
    }
    wanted = subsystems(plan, step) or ([] if there else [""])
    for subsystem in dict.fromkeys(wanted):
        if subsystem not in there:
            yield Drift(step.side, owner, step.script.name, subsystem, NEVER, "", None)
