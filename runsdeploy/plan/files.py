"""Files that steps refer to: found, checked, measured; read again only when they are shipped."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from msgspec import Struct

from runsdeploy.errors import Position, Problem, shown
from runsdeploy.tree.trees import Located, Trees

CHUNK = 1 << 20


class File(Struct, frozen=True):
    """One member of a bundle."""

    path: str
    """below the session's directory of files, e.g. `tree0/scripts/web/site.conf`"""
    kind: str
    """`file`, `directory` or `link`"""
    mode: int
    """permission bits, as found"""
    source: Path | None = None
    """where its bytes are; None if `content` holds them"""
    content: bytes = b""
    size: int = 0
    digest: str = ""
    """SHA-256 of a file's bytes, hexadecimal"""
    target: str = ""
    """what a link says"""

    @property
    def identity(self) -> tuple[str, ...]:
        """What of it counts in digests. Modes differ with the umask of a checkout: only +x counts."""
        return self.path, self.kind, "x" if self.mode & 0o111 else "-", self.digest, self.target


def content_file(path: str, content: bytes, mode: int = 0o644) -> File:
    """Make a file of bytes at hand."""
    return File(path, "file", mode, None, content, len(content), hashlib.sha256(content).hexdigest())


def digest_of(file: IO[bytes]) -> str:
    """Return the SHA-256 of an open file, hexadecimal."""
    found = hashlib.sha256()
    while chunk := file.read(CHUNK):
        found.update(chunk)
    return found.hexdigest()


def collect(trees: Trees, place: Located, position: Position) -> tuple[list[File], list[Problem]]:
    """Return a file, or a directory with all below it; and what of it cannot be shipped.

    A link that is referred to itself is followed; links inside a directory are kept as links. Both must
    not lead out of the trees.
    """
    outside = trees.trust.outside(place.path, position=position)
    if outside:
        return [], [outside]
    trees.trust.vouch_below(place.path)
    files: list[File] = []
    problems: list[Problem] = []
    try:
        found = list(_walk(place))
    except OSError as error:
        return [], [_unreadable(Path(error.filename or place.path), error, position)]
    for path, inside in found:
        taken = _take(trees, path, f"tree{place.tree}/{inside}", position, follow=path == place.path)
        (files if isinstance(taken, File) else problems).append(taken)  # type: ignore[arg-type]
    return files, problems


def _walk(place: Located) -> Iterator[tuple[Path, str]]:
    yield place.path, place.inside
    if place.path.is_dir():
        for entry in sorted(os.listdir(place.path)):  # noqa: PTH208 - names only
            path, inside = place.path / entry, f"{place.inside}/{entry}".lstrip("/")
            if path.is_symlink():
                yield path, inside
            else:
                yield from _walk(Located(place.tree, inside, path))


def _take(trees: Trees, path: Path, inside: str, position: Position, *, follow: bool) -> File | Problem:
    try:
        found = path.stat() if follow else path.lstat()
        mode = stat.S_IMODE(found.st_mode) & 0o777
        if stat.S_ISLNK(found.st_mode):
            link = File(inside, "link", 0o777, target=os.readlink(path))  # noqa: PTH115 - bytes as they are
            return trees.trust.outside(path, position=position) or link
        if stat.S_ISDIR(found.st_mode):
            return File(inside, "directory", mode)
        if stat.S_ISREG(found.st_mode):
            # What is sent later must have this digest, so it is enough to be sure of the bytes here.
            with trees.trust.opened(path) as file:
                return File(inside, "file", mode, path, size=found.st_size, digest=digest_of(file))
    except OSError as error:
        return _unreadable(path, error, position)
    return Problem(position, f"`{shown(path)}` is neither a file, a directory nor a link, so it cannot be shipped")


def _unreadable(path: Path, error: OSError, position: Position) -> Problem:
    return Problem(position, f"cannot read `{shown(path)}`: {(error.strerror or str(error)).lower()}")
