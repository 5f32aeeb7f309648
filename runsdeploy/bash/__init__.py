"""Bash text, parsed and never run.

In: the text of a CONF or SCRIPT section, a library or a `runs.conf`; for a dry run also values and markers.
Out: the symbols of the text, or every state in which it may end.
Asked by: `check` for symbols, `markers` for dry runs.
Verbs: `parser.parse`, `interpreter.Interpreter`, `treesitter.collect_symbols`.
"""
