"""Guards: arguments and answers of `shouldrun`, `setdone` and `resetdone` (`shell/runs.sh`) in a given state."""

from __future__ import annotations

import re
from collections.abc import Callable, Container, Mapping, Sequence

from msgspec import Struct
from msgspec.structs import replace

from runsdeploy.bash.lexer import GUARDS, Undetermined
from runsdeploy.bash.state import MarkerState, State
from runsdeploy.bash.syntax_tree import Node, words

ShouldRun = Callable[[bytes, bytes | None], bool]
"""the answer of `shouldrun SUBSYSTEM [VALUE]` from the markers a host had before the step; VALUE None for no value"""

_CALLERS = frozenset({"quietly", "trap", "mapfile", "readarray"})
"""commands that call a function which is named in their arguments"""


class Guard(Struct, frozen=True):
    """What a guard is called with, as far as that is known."""

    subsystem: bytes | None
    """empty for the script as a whole; None if it is not known"""
    value: bytes | None = None
    """None for no value"""
    known: bool = True
    """whether `value` is known"""


def parse_arguments(state: State, arguments: Sequence[str]) -> Guard:
    """Return the subsystem and value that a guard's arguments expand to."""
    # One argument at a time: an unknown value must not make the subsystem unknown as well.
    fields = [state.expand([each]) for each in arguments[:2]] or [[b""]]
    if any(each is not None and len(each) != 1 for each in fields):
        whole = state.expand(arguments)
        fields = [None, None] if whole is None else [[each] for each in whole[:2]] or [[b""]]
    subsystem = fields[0][0] if fields[0] else None
    if len(fields) == 1:
        return Guard(subsystem)
    return Guard(subsystem, fields[1][0] if fields[1] else None, known=fields[1] is not None)


def answer(state: State, guard: Guard, should_run: ShouldRun) -> bool | None:
    """Return the answer of `shouldrun`: of the step's own markers, else of the host's; None if it is not known."""
    if guard.subsystem is None:
        return None
    markers = dict(state.markers)
    marker = markers.get(guard.subsystem) or markers.get(None)
    if marker is None:
        if guard.known:
            return should_run(guard.subsystem, guard.value)
        # A marker that does not exist answers yes for any value.
        return should_run(guard.subsystem, None) or None
    if not marker.exists:
        return None if marker.exists is None else True
    if guard.known and guard.value is None:
        return False
    return marker.value != guard.value if guard.known and marker.known else None


def set_marker(state: State, guard: Guard, *, exists: bool) -> State:
    """Return the state after `setdone` (`exists`) or `resetdone`."""
    return state.with_marker(guard.subsystem, MarkerState(exists, guard.value, guard.known))


def reset_all(state: State) -> State:
    """Return the state after `resetdone` without arguments."""
    return replace(state, markers=((None, MarkerState(exists=False)),), status=0)


def may_call(node: Node, functions: Mapping[str, Node]) -> bool:
    """Return whether a node may call a guard, itself or through these functions."""
    seen: set[str] = set()
    left = [node]
    while left:
        for word in words(left.pop()):
            if GUARDS.search(word):
                return True
            if word in functions and word not in seen:
                seen.add(word)
                left.append(functions[word])
    return False


def check_words(command: Sequence[str], assignments: Sequence[str], functions: Container[str], place: str) -> None:
    """Raise Undetermined for a simple command by which something else than the section itself may call a guard.

    That is a substitution, or a function that runs its arguments. `place` is the command's line, for messages.
    """
    calls = command[:1] and (command[0] in _CALLERS or command[0] in functions)
    for word in (*assignments, *command[1:]):
        if GUARDS.search(word) and (calls or re.search(r"\$\(|`|[<>]\(", word)):
            raise Undetermined(f"the marker that {place} checks is known only when it runs")
    if command and GUARDS.search(command[0]) and not re.fullmatch(r"[\w-]+", command[0]):
        raise Undetermined(f"what {place} calls is known only when it runs")
