"""Markers: how their names are written (as `shell/runs.sh` does), what they answer, and what they tell."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator

from msgspec import Struct, field

from runsdeploy.errors import Refused
from runsdeploy.events import MarkerFound, decode_word

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


def _decoded(name: str, known: dict[str, str]) -> str:
    """Take a file name back; a shortened one that none of the known names has stays as it is."""
    return known.get(name) or (name if "%+" in name else decode_word(name))


class Marker(Struct, frozen=True):
    """What a marker says of what was done; texts are empty where it does not say it, as older ones do not."""

    owner: str
    """`own` of the login user, or `root`"""
    path: str
    """below the directory of markers"""
    script: str
    """as recipes call it"""
    subsystem: str
    """empty for the script as a whole"""
    value: str | None
    """None if it was marked without one"""
    time: str = ""
    """UTC by the clock of its machine, `2025-11-23T04:05:06Z`"""
    session: str = ""
    digest: str = ""
    """of the step: script, variables, files; with those of earlier steps where it uses any"""
    plan: str = ""
    section: str = ""
    """SHA-256 of the SCRIPT section"""
    by: str = ""
    """who deployed, `user@machine`"""
    revision: str = ""
    """the commit of the script's tree, with a `+` if the tree held more than that"""
    trusted: bool = True
    """whether `shouldrun` goes by it: not by a link, which anybody's file may be behind"""


LARGEST, ENTRY = 64 << 20, 300
"""bytes of memory for all that a machine says of markers, and what each costs besides its text"""


class Markers(Struct):
    """The markers of one state directory, and of root's where that is another."""

    found: dict[tuple[str, str], dict[str, str]] = field(default_factory=dict)
    """encoded words by the names of their lines, by owner and path"""
    account: str = "root"
    """who asked: `root`, `sudo` (who sees root's too) or `user` (who does not)"""

    _size: int = 0

    def add(self, event: MarkerFound) -> None:
        """Take in what a machine said."""
        self._size += len(event.path) + len(event.value or "") + ENTRY
        if self._size > LARGEST:
            raise Refused("the target has more markers than anybody would")
        lines = self.found.setdefault((event.owner, event.path), {})
        if event.value:
            lines[event.key] = event.value

    def owner(self, *, root: bool) -> str | None:
        """Return whose markers those of a script with or without `conf root` are; None if they cannot be read."""
        if not root or self.account == "root":
            return "own"
        return "root" if self.account == "sudo" else None

    def should_run(self, owner: str, script: bytes, subsystem: bytes, value: bytes | None) -> bool:
        """Answer as `shouldrun [subsystem [value]]` would there."""
        lines = self.found.get((owner, path_of(script, subsystem)))
        if lines is None or "trusted" in lines:
            return True  # of what is not trusted too: the step runs, and fails when it asks
        return value is not None and lines.get("value") != encode(b"=" + value)

    def told(self, names: Iterable[str] = ()) -> Iterator[Marker]:
        """Yield what the markers say, sorted; `names` are scripts and subsystems that may be behind shortened names."""
        known = {name_of(name.encode("utf-8", "surrogateescape")): name for name in names}
        for (owner, path), lines in sorted(self.found.items()):
            folder, _, file = path.partition("/")
            subsystem = file.removeprefix("subsystem=")
            # Anything else is none of ours, such as what a crash left of one that was being written.
            if file == "script" or subsystem != file or (not file and "trusted" in lines):
                said = {key: decode_word(word) for key, word in lines.items()}
                yield Marker(
                    owner,
                    path,
                    _decoded(folder, known),
                    "" if file in ("script", "") else _decoded(subsystem, known),
                    said["value"].removeprefix("=") if "value" in said else None,
                    said.get("time", ""),
                    said.get("session", ""),
                    said.get("digest", ""),
                    said.get("plan", ""),
                    said.get("script", ""),
                    said.get("by", ""),
                    said.get("revision", ""),
                    "trusted" not in lines,
                )
