"""The order of steps: a step that another one needs comes before it; everything else stays as the recipe has it.

Pure functions: over numbers (`stable_order`, `find_cycle`), and over nodes, which are steps not yet complete.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import TypeAlias

from msgspec import Struct, field

from runsdeploy.errors import Position, Problem
from runsdeploy.plan.conf import After, Conf
from runsdeploy.tree.recipe import Operation
from runsdeploy.tree.script import Script

Identity: TypeAlias = tuple[object, ...]
"""names a node through all rounds of evaluation"""


class Node(Struct):
    """A step before its files are collected."""

    script: Script
    operations: tuple[Operation, ...]
    position: Position
    """where it was requested: a line of a recipe, an `after`, the command line"""
    why: str = ""
    """why it is here, or not where the recipe has it; may be empty"""
    requested_by: Node | None = None
    """the node whose `after -r` or `-rr` added it"""
    conf: Conf = field(default_factory=Conf)
    shared: tuple[str, ...] = ()
    """files of earlier steps that its CONF section was evaluated with"""

    @property
    def identity(self) -> Identity:
        """Its script, position and requester: they stay the same when all sections are evaluated again."""
        return (self.script.name, self.position, self.requested_by.identity if self.requested_by else ())

    def requesters(self) -> Iterator[Node]:
        """Yield the node itself, the node that requested it, and so on."""
        yield self
        if self.requested_by:
            yield from self.requested_by.requesters()


def sort_nodes(nodes: Sequence[Node]) -> tuple[list[Node], list[Problem]]:
    """Return the nodes in the order in which they run, and the problem of a cycle.

    With a cycle the order stays as it is. A node that moves gets the reason in its `why`.
    """
    before = [_predecessors(node, nodes) for node in nodes]
    order = stable_order(before)
    if order is None:
        return list(nodes), [_cycle_problem(nodes, before)]
    for place, number in enumerate(order):
        late = [nodes[first] for first in before[number] if first > number]
        if late and place != number and not nodes[number].why:
            nodes[number].why = f"moved behind `{late[-1].script.name}` by its `after`"
    return [nodes[number] for number in order], []


def _predecessors(node: Node, nodes: Sequence[Node]) -> dict[int, After | None]:
    """Return the numbers of the nodes that must run before this one, each with the `after` that says so."""
    wanted = {after.script: after for after in node.conf.afters if after.mode != "always"}
    wanted.pop(node.script.name, None)
    named = {n: wanted[each.script.name] for n, each in enumerate(nodes) if each.script.name in wanted}
    added = {n: None for n, each in enumerate(nodes) if each.requested_by is node}
    return {**named, **added}


def _cycle_problem(nodes: Sequence[Node], before: Sequence[Mapping[int, After | None]]) -> Problem:
    path = find_cycle(before)
    after = before[path[0]][path[1]]
    chain = " → ".join(nodes[number].script.name for number in path)
    places = ", ".join(str(reason.position) for one, two in pairwise(path) if (reason := before[one][two]))
    return Problem(after.position if after else nodes[path[0]].position, f"cycle in `after`: {chain} ({places})")


# --- files that steps make for each other ------------------------------------------------------


def available_files(nodes: Sequence[Node]) -> dict[Identity, tuple[str, ...]]:
    """Return, for every node, the files that `out` of the nodes before it makes."""
    available: dict[Identity, tuple[str, ...]] = {}
    made: list[str] = []
    for node in nodes:
        available[node.identity] = tuple(dict.fromkeys(made))
        made += [out.file for out in node.conf.outs]
    return available


def is_settled(node: Node, available: Sequence[str]) -> bool:
    """Say whether a node's references are found as they would be if its section saw exactly these files."""
    own = f"tree{node.script.source.tree}/{node.script.folder}/"
    for ref in node.conf.refs:
        made = ref.file in available
        if made and ref.where == "tree" and ref.path != own + ref.file:
            return False
        if not made and ref.where == "shared":
            return False
    return True


# --- numbers -----------------------------------------------------------------------------------


def stable_order(before: Sequence[Mapping[int, object]]) -> list[int] | None:
    """Sort the numbers 0..n-1 so that each comes after all keys of `before[number]`.

    Of the numbers that may come next, the smallest one does. None if there is a cycle.
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
