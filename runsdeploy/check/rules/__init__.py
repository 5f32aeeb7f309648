"""Doubts: what is allowed, and seldom meant. Each rule is a function from a survey to its findings.

A false doubt costs more than one that is missing: who is told nonsense stops reading. So what cannot be
told from the text alone (`eval`, names that are made up, values of one host only) is given the benefit.
"""

from __future__ import annotations

from runsdeploy.check.finding import Finding
from runsdeploy.check.model import TreeModel
from runsdeploy.check.rules import commands, files, markers, recipes, variables


def doubts(seen: TreeModel) -> list[Finding]:
    """Return all doubts about what was surveyed, and the errors that no plan told."""
    modules = (variables, recipes, markers, commands, files)
    return [finding for module in modules for rule in module.RULES for finding in rule(seen)]
