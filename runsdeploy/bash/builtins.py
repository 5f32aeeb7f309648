"""Bash's builtins that set or read the variables they are given (bash(1), SHELL BUILTIN COMMANDS)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise

OPAQUE = frozenset({"eval", ".", "source"})
"""builtins that run code which the text does not contain: they may read and set any variable"""

ASKING = frozenset({"command", "type", "hash", "which", "alias", "unalias"})
"""commands whose arguments are names of commands that may not exist"""

_VALUES_ONLY = re.compile(
    r"/etc/(os-release|lsb-release|\w+-release|environment|default/[\w.-]+|sysconfig/[\w.-]+)\Z|/usr/lib/os-release\Z"
)
"""files that set variables and define no functions (os-release(5), environment(5))"""

NAMES = frozenset(
    """
    alias bg bind break builtin caller case cd command compgen complete compopt continue coproc declare dirs disown
    do done echo elif else enable esac eval exec exit export false fc fg fi for function getopts hash help history
    if in jobs kill let local logout mapfile popd printf pushd pwd read readarray readonly return select set shift
    shopt source suspend test then time times trap true type typeset ulimit umask unalias unset until wait while
    """.split()  # noqa: SIM905 - a list literal would take 70 lines
)
"""builtins, and reserved words"""

_NAME = r"[A-Za-z_]\w*"
_DECLARING = frozenset({"declare", "local", "typeset", "export", "readonly"})
_VALUED = {"read": "adinNptu", "mapfile": "dnOsuCc", "readarray": "dnOsuCc", "printf": "v"}
"""letters of the options that take a value, by builtin"""


def names_set(name: str, words: Sequence[str]) -> list[str]:
    """Return the variables that a builtin sets when it is called with these arguments."""
    plain, options = _split(words, _VALUED.get(name, ""))
    if name in _DECLARING:
        return [found[0] for word in plain if (found := re.match(_NAME, word))]
    named = {
        "read": [*plain, *options.get("a", [])],
        "mapfile": plain[:1],
        "readarray": plain[:1],
        "printf": options.get("v", []),
        "getopts": plain[1:2],
        "coproc": [*plain[:1], "COPROC"],
        "let": re.findall(_NAME, " ".join(words)),
    }
    return [each.partition("[")[0] for each in named.get(name, [])]


def defines_functions(name: str, words: Sequence[str], *, literal: bool) -> bool:
    """Return whether a builtin may define functions that the text does not show; `literal`: all words are known."""
    if name == "eval":
        return not literal
    return name in OPAQUE and not (literal and words and _VALUES_ONLY.match(words[0]))


def names_read(name: str, words: Sequence[str]) -> list[str]:
    """Return the variables that a builtin may read when it is called with these arguments; they may be unset."""
    if name in ("let", "export"):
        return names_set(name, words)
    if name in ("test", "["):
        return [word.partition("[")[0] for option, word in pairwise(words) if option == "-v"]
    return []


def exports_all(name: str, words: Sequence[str]) -> bool:
    """Return whether a call exports every variable, so that programs may read them (`set -a`)."""
    return name == "set" and any(re.match(r"-[a-z]*a|allexport", word) for word in words)


def _split(words: Sequence[str], valued: str) -> tuple[list[str], dict[str, list[str]]]:
    """Return the operands of a call, and the values of its options by letter; letters in `valued` take a value."""
    options: dict[str, list[str]] = {}
    left = list(words)
    while left and re.match(r"-[A-Za-z]", left[0]):
        letters = left.pop(0)[1:]
        taken = next((n for n, letter in enumerate(letters) if letter in valued), None)
        if taken is not None:
            value = letters[taken + 1 :] or (left.pop(0) if left else "")
            options.setdefault(letters[taken], []).append(value)
    return left[1:] if left[:1] == ["--"] else left, options
