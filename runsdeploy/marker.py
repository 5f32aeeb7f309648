"""Markers: how their names are written (as `shell/runs.sh` does), and what they answer."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, field

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


@dataclass
class Markers:
    """The markers of one state directory, and of root's where that is another."""

    found: dict[tuple[str, str], str | None] = field(default_factory=dict)
    """encoded value (None: marked without one) by owner and path"""
    account: str = "root"
    """who asked: `root`, `sudo` (who sees root's too) or `user` (who does not)"""

    def add(self, event: MarkerFound) -> None:
        """Take in what a machine said."""
        self.found[event.owner, event.path] = event.value or self.found.get((event.owner, event.path))

    def should_run(self, owner: str, script: bytes, subsystem: bytes, value: bytes | None) -> bool:
        """Answer as `shouldrun [subsystem [value]]` would there."""
        key = (owner, path_of(script, subsystem))
        if key not in self.found:
            return True
        return value is not None and self.found[key] != encode(b"=" + value)
