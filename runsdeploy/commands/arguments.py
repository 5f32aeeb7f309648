"""Arguments: the flags of a command, resolved to values."""

from __future__ import annotations

from typing import Any

from msgspec import Struct


class Arguments(Struct, frozen=True):
    """The values of a command's flags; each is an attribute named as the flag, with underscores."""

    values: dict[str, Any]

    def __getattr__(self, name: str) -> Any:
        try:
            return self.values[name]
        except KeyError:
            raise AttributeError(name) from None
