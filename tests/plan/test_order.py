"""The order of steps: laws of a stable topological sort."""

from __future__ import annotations

from itertools import pairwise, permutations

from hypothesis import given
from hypothesis import strategies as st

from runsdeploy.plan.order import find_cycle, stable_order

Before = list[dict[int, None]]


@st.composite
def constraints(draw: st.DrawFn, largest: int = 12) -> Before:
    count = draw(st.integers(0, largest))
    number = st.integers(0, max(0, count - 1))
    return [dict.fromkeys(draw(st.lists(number, max_size=3))) for _ in range(count)]


@st.composite
def without_cycle(draw: st.DrawFn, largest: int = 12) -> Before:
    count = draw(st.integers(0, largest))
    rank = draw(st.permutations(range(count)))
    pairs = draw(st.lists(st.tuples(st.integers(0, 99), st.integers(0, 99)), max_size=20)) if count else []
    before: Before = [{} for _ in range(count)]
    for one, two in pairs:
        first, second = sorted((one % count, two % count), key=rank.index)
        if first != second:
            before[second][first] = None
    return before


def respects(order: list[int], before: Before) -> bool:
    place = {number: at for at, number in enumerate(order)}
    return all(place[first] < place[number] for number, each in enumerate(before) for first in each)


@given(without_cycle())
def test_the_order_is_a_permutation_that_respects_every_constraint(before: Before):
    order = stable_order(before)
    assert order is not None
    assert sorted(order) == list(range(len(before)))
    assert respects(order, before)


@given(without_cycle(largest=6))
def test_the_order_is_the_lexicographically_smallest_one(before: Before):
    allowed = [list(each) for each in permutations(range(len(before))) if respects(list(each), before)]
    assert stable_order(before) == min(allowed)


@given(without_cycle())
def test_nothing_moves_if_nothing_is_violated(before: Before):
    kept = [{first: None for first in each if first < number} for number, each in enumerate(before)]
    assert stable_order(kept) == list(range(len(before)))


@given(constraints())
def test_there_is_an_order_or_a_real_cycle(before: Before):
    order = stable_order(before)
    if order is not None:
        assert respects(order, before)
        return
    cycle = find_cycle(before)
    assert len(cycle) > 1
    assert cycle[0] == cycle[-1]
    assert len(set(cycle)) == len(cycle) - 1
    for number, first in pairwise(cycle):
        assert first in before[number]


def test_what_comes_after_itself_is_a_cycle():
    assert stable_order([{}, {1: None}]) is None
    assert find_cycle([{}, {1: None}]) == [1, 1]


def test_only_what_must_move_does():
    assert stable_order([{2: None}, {}, {}, {0: None}]) == [1, 2, 0, 3]


def test_a_long_chain_is_sorted():
    count = 5000
    before: Before = [{number + 1: None} for number in range(count - 1)] + [{}]
    assert stable_order(before) == list(reversed(range(count)))


def test_the_cycle_of_a_long_chain_is_found_at_once():
    """D22: to look for a way back from each of the 20,000 numbers takes the square of their number."""
    count = 20000
    before: Before = [{number - 1: None} if number else {} for number in range(count)]
    before[-2][count - 1] = None
    assert find_cycle(before) == [count - 2, count - 1, count - 2]
