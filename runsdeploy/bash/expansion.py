"""Expansion of words to bytes, where the values of their variables are known (bash(1), EXPANSION)."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

Value = bytes | tuple[bytes, ...] | None
"""a scalar, an array, or None where the value is not known"""

IFS = b" \t\n"
"""bash's default field separators"""


def expand(words: Sequence[str], values: Mapping[str, Value]) -> list[bytes] | None:
    """Return the fields that words expand to; None if they are not known. A variable not in `values` is unknown."""
    found: list[bytes] = []
    for word in words:
        whole = _ARRAY.fullmatch(word)
        array = values.get(whole[1] or "@") if whole else None
        if isinstance(array, tuple):
            found += array
            continue
        expanded = None if whole else _expand_word(word, values)
        if expanded is None:
            return None
        found.append(expanded)
    return found


_ARRAY = re.compile(r'"\$(?:\{([A-Za-z_]\w*)\[@\]\}|@|\{@\})"')
_PART = re.compile(
    r"""'(?P<single>[^']*)'|"(?P<double>(?:[^"\\`]|\\.)*)"|\\(?P<escaped>.)"""
    r"""|(?P<variable>\$\w+|\$\{\w+(?::?-[\w./:@%+=,-]*)?\})|(?P<plain>[\w./:@%+=,^\x80-\U0010ffff-]+)""",
    re.DOTALL,
)
_VARIABLE = re.compile(r"\$(?:(\d|[A-Za-z_]\w*)|\{(\w+)(?:(:?)-([\w./:@%+=,-]*))?\}|\{([A-Za-z_]\w*)\[\*\]\})")
_SAFE = re.compile(rb"[\w./:@%+=,-]+")


def _expand_word(word: str, values: Mapping[str, Value]) -> bytes | None:
    """Return the one field that a word expands to; None if it is not known, or may be several fields or none."""
    found, at = b"", 0
    if word.startswith("~"):
        return None
    while at < len(word):
        part = _PART.match(word, at)
        if not part:
            return None
        at = part.end()
        if part["variable"]:
            value = _expand_variable(part["variable"], values)
            # Bash splits an unquoted value into fields: there could be several, or none.
            if value is None or not _SAFE.fullmatch(value) or values.get("IFS") != IFS:
                return None
        elif part["double"] is not None:
            value = _expand_double_quoted(part["double"], values)
        else:
            value = _encode(part["single"] or part["escaped"] or part["plain"] or "")
        if value is None:
            return None
        found += value
    return found


def _expand_double_quoted(text: str, values: Mapping[str, Value]) -> bytes | None:
    found, at = b"", 0
    while at < len(text):
        if text[at] == "\\":
            found += _encode(text[at + 1] if text[at + 1] in '$`"\\' else text[at : at + 2].replace("\\\n", ""))
            at += 2
        elif text[at] == "$" and text[at + 1 : at + 2].strip():
            variable = _VARIABLE.match(text, at)
            value = _expand_variable(variable[0], values) if variable else None
            if variable is None or value is None:
                return None
            found, at = found + value, variable.end()
        else:
            found, at = found + _encode(text[at]), at + 1
    return found


def _expand_variable(text: str, values: Mapping[str, Value]) -> bytes | None:
    """Return the value of `$name`, `${name}`, `${name-default}`, `${name:-default}` or `${name[*]}`."""
    found = _VARIABLE.fullmatch(text)
    if not found:
        return None
    name = found[1] or found[2] or found[5]
    value = values.get(name)
    if found[5] and isinstance(value, tuple):
        separators = values.get("IFS")
        return separators[:1].join(value) if isinstance(separators, bytes) and separators.isascii() else None
    if found[4] is not None and value == b"" and found[3]:
        return _encode(found[4])
    return value if isinstance(value, bytes) else None


def _encode(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def matches(patterns: Sequence[str], word: bytes | None) -> bool | None:
    """Return whether a word matches one of the patterns of a `case` clause; None if that is not known."""
    if "*" in patterns:
        return True
    if word is None or not all(re.fullmatch(r"[\w./:@%+=,-]+", each) for each in patterns):
        return None
    return any(_encode(each) == word for each in patterns)
