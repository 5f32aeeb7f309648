"""Ways: where one way through a SCRIPT section stands."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from msgspec import Struct
from msgspec.structs import replace

from runsdeploy.bash.expansion import Value, expand

DECLINED = 100
"""what `shouldrun` ends with for "no" (`shell/runs.sh`)"""

WORKS, TESTS = -1, -2
"""statuses: 0 unless something goes wrong; 0 or another, who knows"""

PARAMETERS = ("@", *map(str, range(1, 10)))


class Mark(Struct, frozen=True):
    """What a marker would answer in the course of a step."""

    there: bool | None
    """None if that is not known"""
    value: bytes | None = None
    """None if it was marked without one"""
    known: bool = True
    """whether the value is known"""


class Way(Struct, frozen=True):
    """One way through a section, up to where it stands. Ways that stand alike are one."""

    marks: tuple[tuple[bytes | None, Mark], ...] = ()
    """what changed, by subsystem; under None what holds for all that are not named"""
    values: tuple[tuple[str, Value], ...] = ()
    """of variables and positional parameters; what is not here is not known"""
    yes: str = ""
    """where it first was told to run"""
    no: str = ""
    """where it first was told not to"""
    status: int = 0
    errexit: bool = False
    leaving: str = ""
    """`exit`, `return`, `break`, `continue`: what follows does not run"""

    def ended(self, status: int) -> Way:
        """Return it behind a command with this status."""
        return replace(self, status=status)

    def behind(self, status: int) -> Way:
        """Return it behind what ends with this status, unless it left."""
        return self if self.leaving else self.ended(status)

    def checked(self, *, tested: bool) -> Way:
        """Return it behind a command whose status is `tested`, or not: then `set -e` has its say."""
        leaves = not tested and self.errexit and not self.leaving and self.status > 0
        return replace(self, leaving="exit") if leaves else self

    def value(self, name: str) -> Value:
        """Return the value of a variable."""
        return dict(self.values).get(name)

    def set(self, name: str, value: Value) -> Way:
        """Return it with a variable set; None for a value that is not known."""
        values = {**dict(self.values), name: value}
        return replace(self, values=tuple(sorted(values.items(), key=lambda each: each[0])))

    def forget(self, names: Iterable[str]) -> Way:
        """Return it with the values of variables not known; what is no name is passed over."""
        found = self
        for each in names:
            name = each.partition("=")[0].partition("[")[0]
            found = found.set(name, None) if re.fullmatch(r"\w+|@", name) else found
        return found

    def mark(self, subsystem: bytes | None, mark: Mark) -> Way:
        """Return it with a marker set or taken back; of a subsystem that is not known any may be meant."""
        if subsystem is None:
            return replace(self, marks=((None, Mark(None)),), status=0)
        marks = {**dict(self.marks), subsystem: mark}
        return replace(self, marks=tuple(sorted(marks.items(), key=lambda each: each[0] or b"")), status=0)

    def words(self, raw: Sequence[str]) -> list[bytes] | None:
        """Return what words become; None if that is not known."""
        return expand(raw, dict(self.values))
