"""Plans cut into segments, and the files that cross between sides (SPEC 3)."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from runsdeploy.plan.plan import Plan
from runsdeploy.session.segment import cut
from tests import making


def plan(*steps: tuple[str, str, str]) -> Plan:
    """Make a plan of side (`t` or `c`), files used and files made."""
    made = []
    for number, (side, uses, outs) in enumerate(steps, 1):
        flags = "local" if side == "c" else ""
        made.append(making.step(number=number, flags=flags, uses=tuple(uses.split()), outs=tuple(outs.split())))
    return making.plan(*made)


def shape(planned: Plan) -> list[tuple[str, list[int], str, str, bool]]:
    return [
        (each.side[0], [step.number for step in each.steps], " ".join(each.needs), " ".join(each.returns), each.last)
        for each in cut(planned)
    ]


def test_neighbours_on_one_side_share_a_segment():
    assert shape(plan(("t", "", ""), ("t", "", ""), ("c", "", ""), ("t", "", ""))) == [
        ("t", [1, 2], "", "", False), ("c", [3], "", "", True), ("t", [4], "", "", True)
    ]  # fmt: skip


def test_a_file_made_on_one_side_and_used_on_the_other_crosses():
    assert shape(plan(("t", "", "key log"), ("c", "key", "cert"), ("t", "cert", ""))) == [
        ("t", [1], "", "key", False), ("c", [2], "key", "cert", True), ("t", [3], "cert", "", True)
    ]  # fmt: skip


def test_only_what_a_later_step_of_the_other_side_uses_is_moved():
    planned = plan(("t", "", "a b"), ("t", "a", ""), ("c", "", ""), ("t", "b", ""))
    assert [each[2:4] for each in shape(planned)] == [("", ""), ("", ""), ("", "")]


def test_the_maker_that_came_last_counts():
    planned = plan(("t", "", "a"), ("c", "", "a"), ("t", "a", ""), ("c", "a", ""))
    assert [each[2:4] for each in shape(planned)] == [("", ""), ("", "a"), ("a", ""), ("", "")]


def test_an_empty_plan_has_no_segments():
    assert cut(plan()) == []


STEPS = st.lists(
    st.tuples(st.sampled_from("tc"), st.sets(st.sampled_from("abc")), st.sets(st.sampled_from("abc"))), max_size=10
)


@settings(max_examples=40)
@given(STEPS)
def test_every_step_runs_once_in_order_and_finds_its_files(steps: list[tuple[str, set[str], set[str]]]):
    made: set[str] = set()
    possible = []
    for side, uses, outs in steps:
        possible.append((side, " ".join(sorted(uses & made)), " ".join(sorted(outs))))
        made |= outs
    planned = plan(*possible)
    segments = cut(planned)
    assert [step for each in segments for step in each.steps] == list(planned.steps)
    assert [each.number for each in segments] == list(range(len(segments)))
    assert all(one.side != two.side for one, two in pairwise(segments))
    # Play it: each side has its own space, what a segment returns waits for the other side.
    space: dict[str, dict[str, int]] = {"controller": {}, "target": {}}
    waiting: dict[str, int] = {}
    newest: dict[str, int] = {}
    for segment in segments:
        here = space[segment.side]
        here.update({file: waiting[file] for file in segment.needs})
        for step in segment.steps:
            assert all(here[file] == newest[file] for file in step.uses)
            here.update(dict.fromkeys(step.outs, step.number))
            newest.update(dict.fromkeys(step.outs, step.number))
        waiting.update({file: here[file] for file in segment.returns})
    for side in {each.side for each in segments}:
        assert [each.last for each in segments if each.side == side][-1]
        assert sum(each.last for each in segments if each.side == side) == 1
