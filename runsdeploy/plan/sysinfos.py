"""Facts of a host: as its `sysinfos.conf` promises them, and as a text of that file's format.

Facts as found come from `shell/facts.sh`, on the host, where a promise is compared with them too.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from msgspec import Struct

from runsdeploy.plan.conf import Setting
from runsdeploy.plan.variable import Value, Variable
from runsdeploy.tree.recipe import Operation

NAMES = ("sysname", "sysdist", "sysver", "bits")
"""arrays from the specific to the general, and one scalar"""


class ExpectedFacts(Struct, frozen=True):
    """What the `sysinfos.conf` of a host says that the host is."""

    file: str
    """that file, as an operator would type it"""
    facts: tuple[tuple[str, tuple[bytes, ...]], ...]
    """names and their values, from the specific to the general"""

    @property
    def word(self) -> str:
        """All of it as one word, as `contradictions` of facts.sh reads it; bytes that no fact can have are `_`."""
        said = [(name, *(_plain(value) for value in values if value)) for name, values in self.facts]
        return "/".join(":".join(each) for each in said if each[1:])


def _plain(value: bytes) -> str:
    return re.sub(rb"[^A-Za-z0-9._+-]", b"_", value).decode()


def expected_facts(settings: Iterable[Setting], file: str) -> ExpectedFacts | None:
    """Return what the settings that were made in `file`, a sysinfos.conf, promise; None if that is nothing."""
    facts: dict[str, list[bytes]] = {}
    for setting in settings:
        if setting.variable not in NAMES or setting.position is None or setting.position.file != file:
            continue
        values = [value.literal or b"" for value in setting.values]
        before = facts.get(setting.variable, [])
        if setting.kind == "+=":
            values = before + [value for value in values if value not in before]
        elif setting.kind == "-=":
            values = [value for value in before if value not in values]
        facts[setting.variable] = values
    promise = ExpectedFacts(file, tuple((name, tuple(facts[name])) for name in NAMES if name in facts))
    return promise if promise.word else None


def repair(host: str) -> str:
    """Say what to do about a host that is not as promised."""
    return f"`runsdeploy sysinfos --host {host} --save` writes what it is, `--no-verify-sysinfos` goes on regardless"


def text(facts: Sequence[Operation]) -> str:
    """Return facts as a `sysinfos.conf` says them: one assignment a line."""
    variables = [Variable(fact.name, fact.kind == "()", tuple(map(_value, fact.values))) for fact in facts]
    return "".join(f"{variable}\n" for variable in variables)


def _value(data: bytes) -> Value:
    return Value((data,))
