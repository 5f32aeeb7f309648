"""Facts of a host: as its `sysinfos.conf` sets them, and as a text in the format of that file.

`shell/facts.sh` finds the facts on the host, and compares them with the expected ones there.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from msgspec import Struct

from runsdeploy.plan.conf import Setting
from runsdeploy.plan.variable import Value, Variable
from runsdeploy.tree.recipe import Operation

NAMES = ("sysname", "sysdist", "sysver", "bits")
"""three arrays from the specific to the general, and one scalar"""


class ExpectedFacts(Struct, frozen=True):
    """The facts that the `sysinfos.conf` of a host sets."""

    file: str
    """path of that file, as an operator would type it"""
    facts: tuple[tuple[str, tuple[bytes, ...]], ...]
    """names and their values, from the specific to the general"""

    @property
    def encoded(self) -> str:
        """All facts as one word, for `contradictions` of shell/facts.sh; bytes that no fact can have become `_`."""
        facts = [(name, *(_plain(value) for value in values if value)) for name, values in self.facts]
        return "/".join(":".join(each) for each in facts if each[1:])


def _plain(value: bytes) -> str:
    return re.sub(rb"[^A-Za-z0-9._+-]", b"_", value).decode()


def expected_facts(settings: Iterable[Setting], file: str) -> ExpectedFacts | None:
    """Return the facts that `file`, a sysinfos.conf, sets, taken from all settings; None if it sets none."""
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
    expected = ExpectedFacts(file, tuple((name, tuple(facts[name])) for name in NAMES if name in facts))
    return expected if expected.encoded else None


def repair_hint(host: str) -> str:
    """Return what to do about a host whose facts are not the expected ones."""
    return f"`runsdeploy sysinfos --host {host} --save` saves its facts, `--no-verify-sysinfos` ignores the difference"


def format_facts(facts: Sequence[Operation]) -> str:
    """Return facts as the text of a `sysinfos.conf`: one assignment a line."""
    variables = [Variable(fact.name, fact.kind == "()", tuple(map(_value, fact.values))) for fact in facts]
    return "".join(f"{variable}\n" for variable in variables)


def _value(data: bytes) -> Value:
    return Value((data,))
