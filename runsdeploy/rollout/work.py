"""Work: what is to be done on which hosts, before it is planned."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from msgspec import Struct

from runsdeploy.errors import Problem
from runsdeploy.tree.recipe import Entry, Operation
from runsdeploy.tree.trees import Host, Trees


class Work(Struct, frozen=True):
    """What is to be done on which hosts."""

    trees: Trees
    hosts: Sequence[Host]
    entries: Callable[[Host], tuple[list[Entry], list[Problem]]]
    """returns the recipe entries to run on a host, with all problems"""
    sets: Sequence[Operation] = ()
    """operations on every step, after all others"""
    scope: str = "."
    """part of the hosts' state to work in, below the state directory"""
    expecting: Trees | None = None
    """trees whose `sysinfos.conf` hold the expected facts, if not `trees`"""
