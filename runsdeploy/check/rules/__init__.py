"""Lint rules: valid but suspicious. Each rule is a function from the model to its findings.

In: a `TreeModel`. Out: warnings, and the errors that no plan reports. User: `commands.check`.
A false warning costs more than a missing one, because operators stop reading a linter that is often wrong. Where the
text alone does not decide (`eval`, computed names, values of one host only), a rule reports nothing.
"""

from __future__ import annotations

from runsdeploy.check.finding import Finding
from runsdeploy.check.model import TreeModel
from runsdeploy.check.rules import asking, commands, files, markers, recipes, secrets, variables


def apply_rules(model: TreeModel) -> list[Finding]:
    """Return the findings of all rules."""
    modules = (variables, recipes, markers, commands, files, asking, secrets)
    return [finding for module in modules for rule in module.RULES for finding in rule(model)]
