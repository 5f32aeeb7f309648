"""Expansion: what words of bash become, where that can be told (bash(1), EXPANSION)."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

Value = bytes | tuple[bytes, ...] | None
"""a text, an array, or not known"""


IFS = b" \t\n"
"""what separates words, unless a script says otherwise"""


def expand(words: Sequence[str], values: Mapping[str, Value]) -> list[bytes] | None:
    """Return what words become; None if that is not known."""
    found: list[bytes] = []
    for word in words:
        whole = _WHOLE.fullmatch(word)
        array = values.get(whole[1] or "@") if whole else None
        if isinstance(array, tuple):
            found += array
            continue
        expanded = None if whole else _expand(word, values)
        if expanded is None:
            return None
        found.append(expanded)
    return found


_WHOLE = re.compile(r'"\$(?:\{([A-Za-z_]\w*)\[@\]\}|@|\{@\})"')
_PART = re.compile(
    r"""'(?P<single>[^']*)'|"(?P<double>(?:[^"\\`]|\\.)*)"|\\(?P<escaped>.)"""
    r"""|(?P<variable>\$\w+|\$\{\w+(?::?-[\w./:@%+=,-]*)?\})|(?P<plain>[\w./:@%+=,^\x80-\U0010ffff-]+)""",
    re.DOTALL,
)
_VARIABLE = re.compile(r"\$(?:(\d|[A-Za-z_]\w*)|\{(\w+)(?:(:?)-([\w./:@%+=,-]*))?\}|\{([A-Za-z_]\w*)\[\*\]\})")
_SAFE = re.compile(rb"[\w./:@%+=,-]+")


def _expand(word: str, values: Mapping[str, Value]) -> bytes | None:
    """Return what one word becomes; None if that is not known, or may be several words or none."""
    found, at = b"", 0
    if word.startswith("~"):
        return None
    while at < len(word):
        part = _PART.match(word, at)
        if not part:
            return None
        at = part.end()
        if part["variable"]:
            value = _of(part["variable"], values)
            # Unquoted, a value could become several words, or none.
            if value is None or not _SAFE.fullmatch(value) or values.get("IFS") != IFS:
                return None
        elif part["double"] is not None:
            value = _within(part["double"], values)
        else:
            value = _bytes(part["single"] or part["escaped"] or part["plain"] or "")
        if value is None:
            return None
        found += value
    return found


def _within(text: str, values: Mapping[str, Value]) -> bytes | None:
    """Return what a text in double quotes becomes."""
    found, at = b"", 0
    while at < len(text):
        if text[at] == "\\":
            found += _bytes(text[at + 1] if text[at + 1] in '$`"\\' else text[at : at + 2].replace("\\\n", ""))
            at += 2
        elif text[at] == "$" and text[at + 1 : at + 2].strip():
            variable = _VARIABLE.match(text, at)
            value = _of(variable[0], values) if variable else None
            if variable is None or value is None:
                return None
            found, at = found + value, variable.end()
        else:
            found, at = found + _bytes(text[at]), at + 1
    return found


def _of(text: str, values: Mapping[str, Value]) -> bytes | None:
    """Return the value of an expansion."""
    found = _VARIABLE.fullmatch(text)
    if not found:
        return None
    name = found[1] or found[2] or found[5]
    value = values.get(name)
    if found[5] and isinstance(value, tuple):
        between = values.get("IFS")
        return between[:1].join(value) if isinstance(between, bytes) and between.isascii() else None
    if found[4] is not None and value == b"" and found[3]:
        return _bytes(found[4])
    return value if isinstance(value, bytes) else None


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def fits(patterns: Sequence[str], word: bytes | None) -> bool | None:
    """Say whether one of the patterns of a `case` fits; None if that is not known."""
    if "*" in patterns:
        return True
    if word is None or not all(re.fullmatch(r"[\w./:@%+=,-]+", each) for each in patterns):
        return None
    return any(_bytes(each) == word for each in patterns)
