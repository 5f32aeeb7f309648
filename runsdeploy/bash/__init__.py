"""Bash text is analysed, never run.

In: the text of a CONF or SCRIPT section, a library or a `runs.conf`; for a dry run also values and markers.
Out: its symbols (`treesitter.collect_symbols`), or every state it may end in (`interpreter.Interpreter.run`).
Users: `check` for symbols, `markers` for dry runs. This room imports no other.
"""
