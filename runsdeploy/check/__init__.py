"""The linter: what is wrong with a tree, without a network.

In: trees and the hosts to check; for each host its plan, made as a deploy would make it (`--static`: none).
Out: findings, each an error or a warning, with a rule's name and a place (`finding`, `rules`, `shellcheck`).
Users: `commands.check`; `output` shows findings. This room imports `plan`, `tree` and `bash`.
"""
