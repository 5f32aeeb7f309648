"""What a simple command makes of a way through a SCRIPT section."""

from __future__ import annotations

import re
from collections.abc import Sequence

from msgspec.structs import replace

from runsdeploy.bash.lexer import Unclear, scan
from runsdeploy.bash.state import PARAMETERS, TESTS, WORKS, Way

# --- what words change by themselves -------------------------------------------------------------


def expanded(way: Way, words: Sequence[str]) -> Way:
    """Return a way behind the expansion of words, which may set variables."""
    for word in words:
        way = way.forget(re.findall(r"\$\{(\w+):?=", word))
        if word.startswith("((") or "$((" in word:
            way = way.forget(re.findall(r"[A-Za-z_]\w*", word))
    return way


def assigned(way: Way, setting: str) -> Way:
    """Return a way behind `NAME=VALUE`."""
    name, operator, value = re.split(r"(\+?=)", setting, maxsplit=1)
    if operator == "+=" or not name.isidentifier():
        return way.forget([name])
    if value.startswith("("):
        words = way.words([token.text for token in scan(value[1:-1]) if token.text != "\n"])
        return way.set(name, None if words is None else tuple(words))
    # There nothing is split.
    words = way.words([f'"{value}"' if re.fullmatch(r"[$\w{}./:-]*", value) else value])
    return way.set(name, words[0] if words is not None and len(words) == 1 else None)


# --- commands ------------------------------------------------------------------------------------

_SUCCEED = frozenset({"true", ":", "trap", "shopt", "echo", "etitle", "estep", "einfo", "ewarn", "eerror", "umask"})
_TESTS = frozenset({"grep", "cmp", "diff", "let", "read", "expr", "command", "type", "hash", "wait"})
"""what is called to find something out: its failure is an answer"""
_SETS = frozenset({"read", "printf", "mapfile", "readarray", "getopts", "let", "unset", "wait"})


def behind(way: Way, name: str, arguments: Sequence[str], place: str) -> Way:  # noqa: C901, PLR0911 - one for each command
    """Return a way behind a command that asks for no marker; raises Unclear."""
    match name:
        case "exit":
            return replace(way.ended(_status(way, arguments)), leaving=name)
        case "break" | "continue" if not arguments:
            return replace(way.ended(0), leaving=name)
        case "die":
            return replace(way.ended(1), leaving="exit")
        case "exec" if arguments:
            return replace(way.ended(WORKS), leaving="exit")
        case "false":
            return way.ended(1)
        case "shift":
            return way.forget(PARAMETERS).ended(0)
        case "set":
            return _options(way, arguments).ended(0)
        case "local" | "declare" | "typeset" | "export" | "readonly":
            return _declared(way, name, arguments).ended(0)
        case "[" | "[[" | "test":
            holds = _holds(way, name, arguments)
            return way.ended(TESTS if holds is None else 0 if holds else 1)
        case "source" | "." if arguments and re.fullmatch(r"/[\w./-]+", arguments[0]):
            # A file of the target's may set any variable, and knows nothing of markers.
            return way.forget(name for name, _ in way.values).ended(WORKS)
    if (
        name in ("eval", "source", ".", "break", "continue")
        or (name == "trap" and "exit" in " ".join(arguments))
        or (name == "kill" and re.search(r"\$\$|\$BASHPID", " ".join(arguments)))
    ):
        raise Unclear(f"what `{name}` does in {place} is known only when it runs")
    way = way.forget(arguments) if name in _SETS else way
    return way.ended(0 if name in _SUCCEED else TESTS if name in _TESTS or name.startswith("((") else WORKS)


def returned(way: Way, arguments: Sequence[str]) -> Way:
    """Return a way behind `return`."""
    return replace(way.ended(_status(way, arguments)), leaving="return")


def _status(way: Way, arguments: Sequence[str]) -> int:
    if not arguments or arguments[0] in ("$?", '"$?"'):
        return way.status
    words = way.words(arguments)
    return int(words[0]) & 255 if words and re.fullmatch(rb"\d{1,9}", words[0]) else TESTS


def _options(way: Way, arguments: Sequence[str]) -> Way:
    """Take `set` into account: `-e` decides where a section ends, and words become parameters."""
    if any(not re.match(r"[-+]\w", each) for each in arguments):
        way = way.forget(PARAMETERS)
    for number, each in enumerate(arguments):
        if re.fullmatch(r"[-+][A-Za-z]+", each) and ("e" in each or arguments[number + 1 : number + 2] == ["errexit"]):
            way = replace(way, errexit=each[0] == "-")
    return way


def _declared(way: Way, name: str, arguments: Sequence[str]) -> Way:
    for each in arguments:
        if "=" in each:
            way = assigned(way, each)
        elif name not in ("export", "readonly"):
            way = way.forget([each])
    return way


def _holds(way: Way, name: str, arguments: Sequence[str]) -> bool | None:
    """Say whether a test of texts holds; None if that is not known."""
    parts = arguments[0].split(" ")[1:-1] if name == "[[" else [each for each in arguments if each != "]"]
    if name == "[[":
        # There nothing is split; what is on the right is a pattern.
        parts[:2] = [f'"{each}"' if re.fullmatch(r"[$\w{}]+", each) else each for each in parts[:2]]
    match way.words(parts):
        case [b"-n", text]:
            return text != b""
        case [b"-z", text]:
            return text == b""
        case [left, (b"=" | b"==" | b"!=") as operator, right]:
            return (left == right) == (operator != b"!=")
        case _:
            return None
