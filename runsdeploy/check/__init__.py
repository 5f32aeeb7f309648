"""The linter: what is wrong with a tree, without a network.

In: trees and the hosts to check; with `--static` no CONF section is evaluated.
Out: findings: errors and warnings, each with a rule and a place.
Asked by: `commands.check`; `output` shows findings.
Verbs: `checker.build_model`, `rules.apply_rules`, `shellcheck.shellcheck`.
"""
