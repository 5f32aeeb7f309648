"""The order of steps: what must come first comes first, everything else stays as the recipe has it."""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence


def stable_order(before: Sequence[Mapping[int, object]]) -> list[int] | None:
    """Sort the numbers 0..n-1 so that each comes after all keys of `before[number]`.

    Of those that may come next the smallest does. None if there is a cycle.
    """
    missing = [len(first) for first in before]
    followers: list[list[int]] = [[] for _ in before]
    for number, first in enumerate(before):
        for each in first:
            followers[each].append(number)
    ready = [number for number, count in enumerate(missing) if not count]
    heapq.heapify(ready)
    order: list[int] = []
    while ready:
        number = heapq.heappop(ready)
        order.append(number)
        for follower in followers[number]:
            missing[follower] -= 1
            if not missing[follower]:
                heapq.heappush(ready, follower)
    return order if len(order) == len(before) else None


def find_cycle(before: Sequence[Mapping[int, object]]) -> list[int]:
    """Return a cycle `a, b, ..., a` in which each must come after the next."""
    number = next(n for n in range(len(before)) if _reaches_itself(n, before))
    path = [number]
    while number not in path[:-1]:
        number = next(each for each in before[number] if _reaches_itself(each, before))
        path.append(number)
    return path[path.index(number) :]


def _reaches_itself(start: int, before: Sequence[Mapping[int, object]]) -> bool:
    seen: set[int] = set()
    left = list(before[start])
    while left:
        number = left.pop()
        if number == start:
            return True
        if number not in seen:
            seen.add(number)
            left += before[number]
    return False
