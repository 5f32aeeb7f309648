"""Markers: how their names are written (as `shell/runs.sh` does), and what they answer."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, field

from runsdeploy.errors import Refused
from runsdeploy.events import MarkerFound

LONGEST = 200
"""characters of a name before it is shortened; file systems take 255 bytes"""


def encode(data: bytes) -> str:
    """Percent-encode all but letters, digits, `_`, `-` and a dot that does not lead."""
    text = re.sub(rb"[^A-Za-z0-9_.-]|^\.", lambda found: b"%%%02X" % found[0][0], data)
    return text.decode("ascii")


def name_of(data: bytes) -> str:
    """Return the file name for a name, one to one; `%+` marks a shortened one."""
    text = encode(data)
    return f"{text[:100]}%+{hashlib.sha256(data).hexdigest()}" if len(text) > LONGEST else text


def path_of(script: bytes, subsystem: bytes) -> str:
    """Return the path of a marker below the directory of markers."""
    last = f"subsystem={name_of(subsystem)}" if subsystem else "script"
    return f"{name_of(script)}/{last}"


LARGEST, ENTRY = 64 << 20, 300
"""bytes of memory for all that a machine says of markers, and what each costs besides its text"""


@dataclass
class Markers:
    """The markers of one state directory, and of root's where that is another."""

    found: dict[tuple[str, str], str | None] = field(default_factory=dict)
    """encoded value (None: marked without one) by owner and path"""
    account: str = "root"
    """who asked: `root`, `sudo` (who sees root's too) or `user` (who does not)"""

    _size: int = 0

    def add(self, event: MarkerFound) -> None:
        """Take in what a machine said."""
        self._size += len(event.path) + len(event.value or "") + ENTRY
        if self._size > LARGEST:
            raise Refused("the target has more markers than anybody would")
        self.found[event.owner, event.path] = event.value or self.found.get((event.owner, event.path))

    def should_run(self, owner: str, script: bytes, subsystem: bytes, value: bytes | None) -> bool:
        """Answer as `shouldrun [subsystem [value]]` would there."""
        key = (owner, path_of(script, subsystem))
        if key not in self.found:
            return True
        return value is not None and self.found[key] != encode(b"=" + value)
