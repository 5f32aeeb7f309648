"""Plans: what will be done on one host, whole, in order, printable, with a digest."""

from __future__ import annotations

import hashlib
from functools import cached_property

from msgspec import Struct

from runsdeploy.errors import Position
from runsdeploy.plan.files import File
from runsdeploy.plan.sysinfos import ExpectedFacts
from runsdeploy.plan.variable import Variable
from runsdeploy.tree.script import Script
from runsdeploy.tree.trees import Host


class Step(Struct, frozen=True, dict=True):
    """One script to run, complete."""

    number: int
    """place in the plan, from 1"""
    script: Script
    position: Position
    """where it was asked for: a line of a recipe, an `after`, the command line"""
    flags: frozenset[str]
    description: str
    variables: tuple[Variable, ...]
    files: tuple[File, ...]
    """shipped with it, sorted by path"""
    libraries: tuple[str, ...]
    """libraries of the trees that it may load, sorted"""
    outs: tuple[str, ...]
    """files it makes in the shared space"""
    uses: tuple[str, ...]
    """files that earlier steps make there for it"""
    why: str
    """why it is here or not where the recipe has it; empty if nothing is to be said"""
    messages: str
    """what its CONF section printed"""

    @property
    def side(self) -> str:
        """`controller` or `target`."""
        return "controller" if "local" in self.flags else "target"

    @cached_property
    def digest(self) -> str:
        """SHA-256 of what it will do: script, variables, files; not of where it stands."""
        script = self.script
        behind = script.body.split(b"\n", script.first_line - 1)[-1]
        facts: list[object] = ["runsdeploy step 1", behind, sorted(self.flags & {"root", "local", "strict"})]
        facts += [(each.name, each.array, [value.pieces for value in each.values]) for each in self.variables]
        facts += [file.identity for file in self.files]
        return hashlib.sha256(repr([*facts, self.outs, self.uses]).encode()).hexdigest()


class Plan(Struct, frozen=True, dict=True):
    """The steps for one host."""

    host: Host
    steps: tuple[Step, ...]
    libraries: tuple[File, ...]
    """files of `lib/` that steps load, under `lib/NAME`"""
    promise: ExpectedFacts | None = None
    """what the host's `sysinfos.conf` says that it is; checked before the first step, and no part of the digest"""

    @cached_property
    def digest(self) -> str:
        """SHA-256 of host, steps and order: the plan that was shown is the plan that runs."""
        facts = [(step.script.name, step.digest, sorted(step.flags)) for step in self.steps]
        libraries = [file.identity for file in self.libraries]
        return hashlib.sha256(repr(("runsdeploy plan 1", self.host.name, facts, libraries)).encode()).hexdigest()
