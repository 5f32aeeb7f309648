"""What is written: text for a terminal, JSON, and findings for GitHub and SARIF viewers.

In: plans, events, reports, findings.
Out: results on stdout, messages on stderr.
Asked by: `commands` and `cli`; a rollout calls its listeners without knowing them.
Verbs: `console.Console`, `plans.show_plan`, `json.write`, `findings.show_findings`.
"""
