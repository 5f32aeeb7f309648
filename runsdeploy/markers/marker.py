"""Markers: their file names and contents, as `shell/runs.sh` writes them, and the answers of `shouldrun`."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping

from msgspec import Struct, field

from runsdeploy.errors import Refused
from runsdeploy.events import MarkerFound, decode_word

LONGEST = 200
"""characters of a name; longer ones are shortened, because file systems limit names to 255 bytes"""


def encode(data: bytes) -> str:
    """Percent-encode all bytes but letters, digits, `_`, `-`, and dots other than a leading one."""
    text = re.sub(rb"[^A-Za-z0-9_.-]|^\.", lambda found: b"%%%02X" % found[0][0], data)
    return text.decode("ascii")


def name_of(data: bytes) -> str:
    """Return the file name for a script or subsystem, one to one; a shortened one contains `%+`."""
    text = encode(data)
    return f"{text[:100]}%+{hashlib.sha256(data).hexdigest()}" if len(text) > LONGEST else text


def path_of(script: bytes, subsystem: bytes) -> str:
    """Return the path of a marker, relative to the directory of markers; subsystem empty for the whole script."""
    last = f"subsystem={name_of(subsystem)}" if subsystem else "script"
    return f"{name_of(script)}/{last}"


def _decode(name: str, known: dict[str, str]) -> str:
    """Return the name for a file name; a shortened one that is not in `known` is returned as it is."""
    return known.get(name) or (name if "%+" in name else decode_word(name))


def _distrust(path: str, lines: Mapping[str, str]) -> str:
    """Return why a marker is not trusted; those of older versions do not say as what they were made."""
    if "trusted" in lines:
        return "a symbolic link"
    return f"it was made as `{lines['of']}`" if lines.get("of", path) != path else ""


class Marker(Struct, frozen=True):
    """A marker. A string is empty where the marker has no such line, as those of older versions."""

    owner: str
    """whose marker: `own` of the login user, or `root`"""
    path: str
    """relative to the directory of markers"""
    script: str
    """the script's name in recipes"""
    subsystem: str
    """empty for the script as a whole"""
    value: str | None
    """None if it was set without a value"""
    time: str = ""
    """UTC, by the clock of the host: `2025-11-23T04:05:06Z`"""
    session: str = ""
    digest: str = ""
    """SHA-256 of the step: script, variables, files, also those that earlier steps made for it"""
    plan: str = ""
    section: str = ""
    """SHA-256 of the SCRIPT section"""
    by: str = ""
    """the operator, `user@machine`"""
    revision: str = ""
    """the commit of the script's tree, with a `+` if the tree had changes that were not committed"""
    distrust: str = ""
    """why `shouldrun` fails on it: a symbolic link, whose target may be a file of any user, or a renamed marker"""


LARGEST, ENTRY = 64 << 20, 300
"""bytes: limit on the memory for a host's markers, and the overhead counted for each line"""


class Markers(Struct):
    """The markers of one state directory, and root's if root has another one."""

    found: dict[tuple[str, str], dict[str, str]] = field(default_factory=dict)
    """by owner and path: a marker's lines, as encoded words by key"""
    account: str = "root"
    """the account that read them: `root`, `sudo` (can read root's too) or `user` (cannot)"""

    _size: int = 0

    def add(self, event: MarkerFound) -> None:
        """Add one line of a marker; raises Refused if the host sends more than LARGEST bytes."""
        self._size += len(event.path) + len(event.value or "") + ENTRY
        if self._size > LARGEST:
            raise Refused(f"the host sent more than {LARGEST >> 20} MiB of markers")
        lines = self.found.setdefault((event.owner, event.path), {})
        if event.value:
            lines[event.key] = event.value

    def owner(self, *, root: bool) -> str | None:
        """Return the owner of a script's markers, with `conf root` or without; None if they cannot be read."""
        if not root or self.account == "root":
            return "own"
        return "root" if self.account == "sudo" else None

    def should_run(self, owner: str, script: bytes, subsystem: bytes, value: bytes | None) -> bool:
        """Return the answer of `shouldrun [subsystem [value]]` on the host; value None for no value."""
        path = path_of(script, subsystem)
        lines = self.found.get((owner, path))
        if lines is None or _distrust(path, lines):
            return True  # also for an untrusted marker: the step runs, and fails at `shouldrun`
        return value is not None and lines.get("value") != encode(b"=" + value)

    def decode(self, names: Iterable[str] = ()) -> Iterator[Marker]:
        """Yield all markers, sorted by owner and path; shortened names are restored if they are in `names`."""
        known = {name_of(name.encode("utf-8", "surrogateescape")): name for name in names}
        for (owner, path), lines in sorted(self.found.items()):
            folder, _, file = path.partition("/")
            subsystem = file.removeprefix("subsystem=")
            # Any other file is no marker, such as a temporary file that a crash left.
            if file == "script" or subsystem != file or (not file and "trusted" in lines):
                texts = {key: decode_word(word) for key, word in lines.items()}
                yield Marker(
                    owner,
                    path,
                    _decode(folder, known),
                    "" if file in ("script", "") else _decode(subsystem, known),
                    texts["value"].removeprefix("=") if "value" in texts else None,
                    texts.get("time", ""),
                    texts.get("session", ""),
                    texts.get("digest", ""),
                    texts.get("plan", ""),
                    texts.get("script", ""),
                    texts.get("by", ""),
                    texts.get("revision", ""),
                    _distrust(path, lines),
                )
