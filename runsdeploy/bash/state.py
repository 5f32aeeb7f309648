"""State of the interpreter at one point of one execution path: variables, markers, exit status."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from msgspec import Struct
from msgspec.structs import replace

from runsdeploy.bash.expansion import Value, expand

DECLINED = 100
"""exit status of `shouldrun` for "no" (`shell/runs.sh`)"""

ASSUMED_SUCCESS, UNKNOWN_STATUS = -1, -2
"""statuses that are not known: one of a command that is assumed to succeed; one that may be zero or not"""

PARAMETERS = ("@", *map(str, range(1, 10)))
"""names under which `State.variables` has the positional parameters"""


class MarkerState(Struct, frozen=True):
    """A marker as a step has left it so far."""

    exists: bool | None
    """None if that is not known"""
    value: bytes | None = None
    """None if it was set without a value"""
    known: bool = True
    """whether `value` is known"""


class State(Struct, frozen=True):
    """One point of one execution path. Paths whose states are equal are followed as one."""

    markers: tuple[tuple[bytes | None, MarkerState], ...] = ()
    """markers that the step has changed, by subsystem; the key None holds for all subsystems that have no entry"""
    variables: tuple[tuple[str, Value], ...] = ()
    """values of variables and positional parameters; all others are unknown"""
    first_yes: str = ""
    """place of the first `shouldrun` that answered yes"""
    first_no: str = ""
    """place of the first `shouldrun` that answered no"""
    status: int = 0
    """exit status of the last command"""
    errexit: bool = False
    """whether `set -e` is on"""
    jump: str = ""
    """`exit`, `return`, `break` or `continue` if the path left the current list; further commands are not run"""

    def with_status(self, status: int) -> State:
        """Return the state after a command with this exit status, or the same state if a jump is pending."""
        return self if self.jump else replace(self, status=status)

    def apply_errexit(self, *, tested: bool) -> State:
        """Return the state after `set -e` took effect: an untested command that failed ends the section."""
        exits = not tested and self.errexit and not self.jump and self.status > 0
        return replace(self, jump="exit") if exits else self

    def value(self, name: str) -> Value:
        """Return the value of a variable; None if it is not known."""
        return dict(self.variables).get(name)

    def assign(self, name: str, value: Value) -> State:
        """Return the state with a variable set; None for an unknown value."""
        variables = {**dict(self.variables), name: value}
        return replace(self, variables=tuple(sorted(variables.items(), key=lambda each: each[0])))

    def forget(self, names: Iterable[str]) -> State:
        """Return the state with these variables unknown; words that are no names are ignored."""
        found = self
        for each in names:
            name = each.partition("=")[0].partition("[")[0]
            found = found.assign(name, None) if re.fullmatch(r"\w+|@", name) else found
        return found

    def with_marker(self, subsystem: bytes | None, marker: MarkerState) -> State:
        """Return the state with a marker changed; with subsystem None every marker becomes unknown."""
        if subsystem is None:
            return replace(self, markers=((None, MarkerState(None)),), status=0)
        markers = {**dict(self.markers), subsystem: marker}
        return replace(self, markers=tuple(sorted(markers.items(), key=lambda each: each[0] or b"")), status=0)

    def expand(self, words: Sequence[str]) -> list[bytes] | None:
        """Return the fields that words expand to; None if they are not known."""
        return expand(words, dict(self.variables))
