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
        node: Node | None = self
        while node:
            yield node
            node = node.requested_by


def sort_nodes(nodes: Sequence[Node]) -> tuple[list[Node], list[Problem]]:
    """Return the nodes in the order in which they run, and the problem of a cycle.

    With a cycle the order stays as it is. A node that moves gets the reason in its `why`.
    """
    by_script: dict[str, list[int]] = {}
    added: dict[int, list[int]] = {}
    for number, node in enumerate(nodes):
        by_script.setdefault(node.script.name, []).append(number)
        added.setdefault(id(node.requested_by), []).append(number)
    before = [_predecessors(node, by_script, added.get(id(node), ())) for node in nodes]
    order = stable_order(before)
    if order is None:
        return list(nodes), [_cycle_problem(nodes, before)]
    for place, number in enumerate(order):
        late = [nodes[first] for first in before[number] if first > number]
        if late and place != number and not nodes[number].why:
            nodes[number].why = f"moved behind `{late[-1].script.name}` by its `after`"
    return [nodes[number] for number in order], []


def _predecessors(node: Node, by_script: Mapping[str, Sequence[int]], added: Sequence[int]) -> dict[int, After | None]:
    """Return the numbers of the nodes that must run before this one, each with the `after` that says so.

    `by_script` are the numbers of the nodes of each script, `added` those of the nodes that this one requested.
    """
    wanted = {after.script: after for after in node.conf.afters if after.mode != "always"}
    wanted.pop(node.script.name, None)
    named = {number: after for script, after in wanted.items() for number in by_script.get(script, ())}
    # In the order of the nodes, which decides what a message names.
    return {**{number: named[number] for number in sorted(named)}, **dict.fromkeys(added)}


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
    made: tuple[str, ...] = ()
    for node in nodes:
        available[node.identity] = made
        if node.conf.outs:
            made = tuple(dict.fromkeys((*made, *(out.file for out in node.conf.outs))))
    return available


def is_settled(node: Node, available: Sequence[str]) -> bool:
    """Say whether a node's references are found as they would be if its section saw exactly these files."""
    own = f"tree{node.script.source.tree}/{node.script.folder}/"
    there = frozenset(available)
    for ref in node.conf.refs:
        made = ref.file in there
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
    order = _sorted_part(before)
    return order if len(order) == len(before) else None


def _sorted_part(before: Sequence[Mapping[int, object]]) -> list[int]:
    """Return the sorted numbers, without those of cycles and those behind them."""
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
    return order


def find_cycle(before: Sequence[Mapping[int, object]]) -> list[int]:
    """Return a cycle `a, b, ..., a` in which each must come after the next; there must be one."""
    # Whatever is left without the numbers that can be sorted has a predecessor that is left too.
    left = set(range(len(before))) - set(_sorted_part(before))
    number = min(left)
    places: dict[int, int] = {}
    while number not in places:
        places[number] = len(places)
        number = next(each for each in before[number] if each in left)
    path = list(places)[places[number] :]
    first = path.index(min(path))
    return [*path[first:], *path[:first], path[first]]
