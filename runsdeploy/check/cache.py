"""The cache: what shellcheck said of a text, kept below `$XDG_CACHE_HOME` (XDG Base Directory Specification) by digest.

The cache is never needed: where it cannot be used, or another user could have written it, everything is checked again.
"""

from __future__ import annotations

import contextlib
import json
import os
import stat
import tempfile
import time
from pathlib import Path

from msgspec import Struct

from runsdeploy.tree.trust import Trust

KEPT = 60 * 86_400.0
"""seconds that an answer stays that nobody asks for"""

Comment = dict[str, object]
"""one finding as shellcheck prints it with `--format=json1`, without the name of the file"""


class Cache(Struct, frozen=True):
    """A directory with one file for each answer; without a directory it keeps nothing."""

    directory: Path | None = None

    def get(self, key: str) -> list[Comment] | None:
        """Return what was kept for a key; None if nothing was, or what is there cannot be read."""
        if not (self.directory and key):
            return None
        file = self.directory / key
        try:
            found = json.loads(file.read_bytes())
            os.utime(file)
        except (OSError, ValueError):
            return None
        return found if isinstance(found, list) else None

    def put(self, key: str, comments: list[Comment]) -> None:
        """Keep an answer; where that fails, for a full disk or otherwise, nothing is kept."""
        if not (self.directory and key):
            return
        with contextlib.suppress(OSError):
            descriptor, path = tempfile.mkstemp(dir=self.directory)
            try:
                with open(descriptor, "w", encoding="utf-8") as file:  # noqa: PTH123 - an open descriptor
                    json.dump(comments, file)
                Path(path).replace(self.directory / key)
            except OSError:
                Path(path).unlink(missing_ok=True)

    def sweep(self) -> None:
        """Remove what nobody asked for during KEPT, also what a killed `put` left."""
        with contextlib.suppress(OSError):
            for each in os.scandir(self.directory) if self.directory else ():
                if each.stat(follow_symlinks=False).st_mtime < time.time() - KEPT:
                    Path(each.path).unlink(missing_ok=True)


def open_cache() -> Cache:
    """Return the cache of this user, made if it is missing; one that keeps nothing if it cannot be trusted or made."""
    above = os.environ.get("XDG_CACHE_HOME", "")
    home = os.environ.get("HOME", "")
    # The specification: a relative path is invalid, and is ignored.
    base = Path(above) if above.startswith("/") else Path(home, ".cache") if home.startswith("/") else None
    if not base:
        return Cache()
    directory = base / "runsdeploy" / "shellcheck"
    try:
        directory.parent.mkdir(parents=True, exist_ok=True)
        directory.mkdir(mode=0o700, exist_ok=True)
        found = directory.lstat()
    except OSError:
        return Cache()
    private = stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid() and not found.st_mode & 0o077
    return Cache(directory if private and not Trust().owner_problems(directory) else None)
