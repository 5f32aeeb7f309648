"""Where a value comes from: every change of a variable, and which changes still count.

The changes are those that bash made when it evaluated the sections, so an `if` that was not taken adds none.
"""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import Struct

from runsdeploy.plan.conf import Setting
from runsdeploy.plan.variable import Value, shell_word
from runsdeploy.tree.recipe import Operation

COUNTS, UNCHANGED, OVERRIDDEN = "counts", "unchanged", "overridden"


class Origin(Struct, frozen=True):
    """One change of a variable."""

    setting: Setting
    effect: str
    """`counts`; `unchanged` if it had that value, as after `var port="${port:-80}"`; `overridden` by a later one"""

    def __str__(self) -> str:
        values = [value.shown() for value in self.setting.values]
        if self.setting.kind == "()":
            return f"{self.setting.variable}=({' '.join(values)})"
        return f"{self.setting.variable}{self.setting.kind}{values[0]}"


def trace(settings: Sequence[Setting], variable: str) -> list[Origin]:
    """Return the changes of one variable, the last one first."""
    now: tuple[bool, tuple[Value, ...]] | None = None
    changed: list[tuple[Setting, bool]] = []
    for setting in settings:
        if setting.variable == variable:
            before, now = now, _applied(setting, now[1] if now else ())
            changed.append((setting, before != now))
    found: list[Origin] = []
    hidden = False
    for setting, made in reversed(changed):
        found.append(Origin(setting, OVERRIDDEN if hidden else COUNTS if made else UNCHANGED))
        hidden = hidden or (made and setting.kind in ("=", "()"))
    return found


def _applied(setting: Setting, before: tuple[Value, ...]) -> tuple[bool, tuple[Value, ...]]:
    """Return whether a variable is an array after a change, and its values (`RUNS_apply` in shell/declarations.sh)."""
    if setting.kind == "+=":
        return True, before if setting.values[0] in before else (*before, *setting.values)
    if setting.kind == "-=":
        return True, tuple(value for value in before if value not in setting.values)
    return setting.kind == "()", setting.values


def operation_text(operation: Operation) -> str:
    """Return an operation as a recipe would have it."""
    words = [shell_word(value.decode("utf-8", "backslashreplace")) for value in operation.values]
    if operation.kind == "()":
        return " ".join([operation.name, *words])
    return f"{operation.name}{operation.kind}{words[0]}"
