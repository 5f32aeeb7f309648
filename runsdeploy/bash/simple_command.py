"""Effect of one simple command on the state of an execution path, for all commands but guards and functions.

Where the exit status of a command is not tested, the command is assumed to succeed.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from msgspec.structs import replace

from runsdeploy.bash.lexer import Undetermined, tokenize
from runsdeploy.bash.state import ASSUMED_SUCCESS, PARAMETERS, UNKNOWN_STATUS, State

# --- expansions and assignments ------------------------------------------------------------------


def apply_expansions(state: State, words: Sequence[str]) -> State:
    """Return the state after the expansion of words: `${x:=1}` and arithmetic set variables."""
    for word in words:
        state = state.forget(re.findall(r"\$\{(\w+):?=", word))
        if word.startswith("((") or "$((" in word:
            state = state.forget(re.findall(r"[A-Za-z_]\w*", word))
    return state


def assign(state: State, assignment: str) -> State:
    """Return the state after `NAME=VALUE`, `NAME=(…)` or `NAME+=VALUE`."""
    name, operator, value = re.split(r"(\+?=)", assignment, maxsplit=1)
    if operator == "+=" or not name.isidentifier():
        return state.forget([name])
    if value.startswith("("):
        words = state.expand([token.text for token in tokenize(value[1:-1]) if token.text != "\n"])
        return state.assign(name, None if words is None else tuple(words))
    # Bash does not split the value of an assignment into fields: it is as good as quoted.
    words = state.expand([f'"{value}"' if re.fullmatch(r"[$\w{}./:-]*", value) else value])
    return state.assign(name, words[0] if words is not None and len(words) == 1 else None)


# --- commands ------------------------------------------------------------------------------------

_ALWAYS_SUCCEED = frozenset(
    {"true", ":", "trap", "shopt", "echo", "etitle", "estep", "einfo", "ewarn", "eerror", "umask"}
)
_TESTS = frozenset({"grep", "cmp", "diff", "let", "read", "expr", "command", "type", "hash", "wait"})
"""commands whose failure is a normal answer"""
_SETTERS = frozenset({"read", "printf", "mapfile", "readarray", "getopts", "let", "unset", "wait"})
"""commands that may set the variables they are given"""


def run(state: State, name: str, arguments: Sequence[str], place: str) -> State:  # noqa: C901, PLR0911 - a case a command
    """Return the state after a command; raises Undetermined if the text does not show what the command does.

    `place` is the command's line, for messages.
    """
    match name:
        case "exit":
            return replace(state.with_status(_exit_status(state, arguments)), jump=name)
        case "break" | "continue" if not arguments:
            return replace(state.with_status(0), jump=name)
        case "die":
            return replace(state.with_status(1), jump="exit")
        case "exec" if arguments:
            return replace(state.with_status(ASSUMED_SUCCESS), jump="exit")
        case "false":
            return state.with_status(1)
        case "shift":
            return state.forget(PARAMETERS).with_status(0)
        case "set":
            return _set_options(state, arguments).with_status(0)
        case "local" | "declare" | "typeset" | "export" | "readonly":
            return _declare(state, name, arguments).with_status(0)
        case "[" | "[[" | "test":
            holds = _evaluate_test(state, name, arguments)
            return state.with_status(UNKNOWN_STATUS if holds is None else 0 if holds else 1)
        case "source" | "." if arguments and re.fullmatch(r"/[\w./-]+", arguments[0]):
            # A file of the target may set any variable, but does not call guards.
            return state.forget(name for name, _ in state.variables).with_status(ASSUMED_SUCCESS)
    if (
        name in ("eval", "source", ".", "break", "continue")
        or (name == "trap" and "exit" in " ".join(arguments))
        or (name == "kill" and re.search(r"\$\$|\$BASHPID", " ".join(arguments)))
    ):
        raise Undetermined(f"what `{name}` does in {place} is known only when it runs")
    state = state.forget(arguments) if name in _SETTERS else state
    if name in _ALWAYS_SUCCEED:
        return state.with_status(0)
    return state.with_status(UNKNOWN_STATUS if name in _TESTS or name.startswith("((") else ASSUMED_SUCCESS)


def run_return(state: State, arguments: Sequence[str]) -> State:
    """Return the state after `return` in a function or library."""
    return replace(state.with_status(_exit_status(state, arguments)), jump="return")


def _exit_status(state: State, arguments: Sequence[str]) -> int:
    """Return the status that `exit` or `return` ends with."""
    if not arguments or arguments[0] in ("$?", '"$?"'):
        return state.status
    words = state.expand(arguments)
    return int(words[0]) & 255 if words and re.fullmatch(rb"\d{1,9}", words[0]) else UNKNOWN_STATUS


def _set_options(state: State, arguments: Sequence[str]) -> State:
    """Return the state after `set`: it may change errexit and the positional parameters."""
    if any(not re.match(r"[-+]\w", each) for each in arguments):
        state = state.forget(PARAMETERS)
    for number, each in enumerate(arguments):
        if re.fullmatch(r"[-+][A-Za-z]+", each) and ("e" in each or arguments[number + 1 : number + 2] == ["errexit"]):
            state = replace(state, errexit=each[0] == "-")
    return state


def _declare(state: State, name: str, arguments: Sequence[str]) -> State:
    for each in arguments:
        if "=" in each:
            state = assign(state, each)
        elif name not in ("export", "readonly"):
            state = state.forget([each])
    return state


def _evaluate_test(state: State, name: str, arguments: Sequence[str]) -> bool | None:
    """Return whether a comparison of strings holds; None if that is not known, and for all other tests."""
    parts = arguments[0].split(" ")[1:-1] if name == "[[" else [each for each in arguments if each != "]"]
    if name == "[[":
        # `[[` does not split words into fields. Its right operand is a pattern, so it is not quoted here.
        parts[:2] = [f'"{each}"' if re.fullmatch(r"[$\w{}]+", each) else each for each in parts[:2]]
    match state.expand(parts):
        case [b"-n", text]:
            return text != b""
        case [b"-z", text]:
            return text == b""
        case [left, (b"=" | b"==" | b"!=") as operator, right]:
            return (left == right) == (operator != b"!=")
        case _:
            return None
