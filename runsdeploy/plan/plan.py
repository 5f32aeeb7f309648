"""The plan: all that will be done on one host, complete, in order, printable, with a digest."""

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
    """One script to run, with everything that it needs."""

    number: int
    """place in the plan, from 1"""
    script: Script
    position: Position
    """where it was requested: a line of a recipe, an `after`, the command line"""
    flags: frozenset[str]
    description: str
    variables: tuple[Variable, ...]
    files: tuple[File, ...]
    """files that are shipped with it, sorted by path"""
    libraries: tuple[str, ...]
    """names of the trees' libraries that it may load, sorted"""
    outs: tuple[str, ...]
    """files that it writes to the shared space"""
    uses: tuple[str, ...]
    """files that earlier steps write there for it"""
    why: str
    """why it is here, or not where the recipe has it; may be empty"""
    messages: str
    """what its CONF section printed"""

    @property
    def side(self) -> str:
        """`controller` or `target`."""
        return "controller" if "local" in self.flags else "target"

    @cached_property
    def digest(self) -> str:
        """SHA-256 of what the step will do: script, variables and files, but not its place in the plan."""
        script = self.script
        section = script.body.split(b"\n", script.first_line - 1)[-1]
        facts: list[object] = ["runsdeploy step 1", section, sorted(self.flags & {"root", "local", "strict"})]
        facts += [(each.name, each.array, [value.pieces for value in each.values]) for each in self.variables]
        facts += [file.identity for file in self.files]
        return hashlib.sha256(repr([*facts, self.outs, self.uses]).encode()).hexdigest()


class Plan(Struct, frozen=True, dict=True):
    """The steps for one host."""

    host: Host
    steps: tuple[Step, ...]
    libraries: tuple[File, ...]
    """files of `lib/` that steps may load, under `lib/NAME`"""
    expected_facts: ExpectedFacts | None = None
    """facts that the host's `sysinfos.conf` sets; checked before the first step, and not part of the digest"""

    @cached_property
    def digest(self) -> str:
        """SHA-256 of host, steps and order: the plan that was shown is the plan that runs."""
        facts = [(step.script.name, step.digest, sorted(step.flags)) for step in self.steps]
        libraries = [file.identity for file in self.libraries]
        return hashlib.sha256(repr(("runsdeploy plan 1", self.host.name, facts, libraries)).encode()).hexdigest()
