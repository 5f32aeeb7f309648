"""Arguments: the flags of a command, resolved to values."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from msgspec import Struct

_SECRET = re.compile(r"(?i)(\w*(?:passw|secret|token|credential|api_?key|private_?key)\w*[+-]?=).+", re.DOTALL)


class Arguments(Struct, frozen=True):
    """The values of a command's flags; each is an attribute named as the flag, with underscores."""

    values: dict[str, Any]
    typed_command: tuple[str, ...] = ()
    """the program and its command as words"""
    typed_flags: tuple[str, ...] = ()
    """the flags that were typed as words, but `--host`"""

    def __getattr__(self, name: str) -> Any:
        try:
            return self.values[name]
        except KeyError:
            raise AttributeError(name) from None

    def again(self, hosts: Sequence[str]) -> list[str]:
        """Return the words that run the same command for these hosts; empty if there are none, or it is unknown.

        They are shown, and a CI job keeps what is shown: the values of variables whose names look like those of secrets
        are left out.
        """
        if not hosts or not self.typed_command:
            return []
        flags = [_SECRET.sub(r"\1...", word) for word in self.typed_flags]
        return [*self.typed_command, "--host", ",".join(hosts), *flags]
