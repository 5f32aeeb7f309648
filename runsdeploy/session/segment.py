"""Segments: a plan cut where the side changes, with the files that go to the other side at each cut."""

from __future__ import annotations

from itertools import groupby

from msgspec import Struct

from runsdeploy.plan.plan import Plan, Step


class Segment(Struct, frozen=True):
    """Neighbouring steps that run on one side, in one channel."""

    number: int
    """from 0"""
    side: str
    """`controller` or `target`"""
    steps: tuple[Step, ...]
    needs: tuple[str, ...]
    """files of the shared space that come from the other side"""
    returns: tuple[str, ...]
    """files that go to a later segment of the other side"""
    last: bool
    """whether no later segment runs on this side"""


def cut(plan: Plan) -> list[Segment]:
    """Cut a plan into segments, in order."""
    groups = [tuple(steps) for _, steps in groupby(plan.steps, key=lambda step: step.side)]
    home = {step.number: number for number, steps in enumerate(groups) for step in steps}
    needs: list[set[str]] = [set() for _ in groups]
    returns: list[set[str]] = [set() for _ in groups]
    makers: dict[str, Step] = {}
    for step in plan.steps:
        for file in step.uses:
            maker = makers[file]
            if maker.side != step.side:
                needs[home[step.number]].add(file)
                returns[home[maker.number]].add(file)
        makers.update(dict.fromkeys(step.outs, step))
    sides = [steps[0].side for steps in groups]
    return [
        Segment(
            number,
            sides[number],
            steps,
            *_sorted(needs[number], returns[number]),
            sides[number] not in sides[number + 1 :],
        )
        for number, steps in enumerate(groups)
    ]


def _sorted(needs: set[str], returns: set[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    return tuple(sorted(needs)), tuple(sorted(returns))
