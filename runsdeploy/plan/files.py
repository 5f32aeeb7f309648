"""Files that a plan ships: referenced files, rendered templates and libraries, each checked, with size and digest.

Their bytes are read again only when they are shipped.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO

from msgspec import Struct

from runsdeploy.errors import Position, Problem, display_path
from runsdeploy.plan.conf import Conf, Ref
from runsdeploy.tree.libraries import referenced_libraries, unknown_libraries
from runsdeploy.tree.script import Script
from runsdeploy.tree.text import read_text
from runsdeploy.tree.trees import Located, Trees, file_problem

CHUNK = 1 << 20
"""bytes that are read at once"""


class File(Struct, frozen=True):
    """One member of a bundle."""

    path: str
    """below the session's directory of files, e.g. `tree0/scripts/web/site.conf`"""
    kind: str
    """`file`, `directory` or `link`"""
    mode: int
    """permission bits, as found"""
    source: Path | None = None
    """file with its bytes; None if `content` holds them"""
    content: bytes = b""
    size: int = 0
    digest: str = ""
    """SHA-256 of a file's bytes, hexadecimal"""
    target: str = ""
    """where a link points"""

    @property
    def identity(self) -> tuple[str, ...]:
        """What counts in digests. Modes depend on the umask of a checkout, so only +x counts."""
        return self.path, self.kind, "x" if self.mode & 0o111 else "-", self.digest, self.target


def content_file(path: str, content: bytes, mode: int = 0o644) -> File:
    """Return a member with these bytes."""
    return File(path, "file", mode, None, content, len(content), hashlib.sha256(content).hexdigest())


def digest_of(file: IO[bytes]) -> str:
    """Return the SHA-256 of an open file, hexadecimal."""
    found = hashlib.sha256()
    while chunk := file.read(CHUNK):
        found.update(chunk)
    return found.hexdigest()


def collect(trees: Trees, place: Located, position: Position) -> tuple[list[File], list[Problem]]:
    """Return a file, or a directory with all below it; and the problems of what cannot be shipped.

    The place itself may be a link, which is followed; links inside a directory are kept as links. No link may lead
    out of the trees. `position` is that of the reference, for problems. Raises InputError for a file of another user.
    """
    outside = trees.trust.outside_problem(place.path, position=position)
    if outside:
        return [], [outside]
    trees.trust.check_owner_below(place.path)
    files: list[File] = []
    problems: list[Problem] = []
    try:
        found = list(_walk(place))
    except OSError as error:
        return [], [_unreadable(Path(error.filename or place.path), error, position)]
    for path, inside in found:
        member = _member(trees, path, f"tree{place.tree}/{inside}", position, follow=path == place.path)
        (files if isinstance(member, File) else problems).append(member)  # type: ignore[arg-type]
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


def _member(trees: Trees, path: Path, inside: str, position: Position, *, follow: bool) -> File | Problem:
    try:
        found = path.stat() if follow else path.lstat()
        mode = stat.S_IMODE(found.st_mode) & 0o777
        if stat.S_ISLNK(found.st_mode):
            link = File(inside, "link", 0o777, target=os.readlink(path))  # noqa: PTH115 - bytes as they are
            return trees.trust.outside_problem(path, position=position) or link
        if stat.S_ISDIR(found.st_mode):
            return File(inside, "directory", mode)
        if stat.S_ISREG(found.st_mode):
            # The bytes that are sent later must have this digest, so it is enough to check the path here.
            with trees.trust.open(path) as file:
                return File(inside, "file", mode, path, size=found.st_size, digest=digest_of(file))
    except OSError as error:
        return _unreadable(path, error, position)
    return Problem(
        position, f"`{display_path(path)}` is neither a file, a directory nor a link, so it cannot be shipped"
    )


def _unreadable(path: Path, error: OSError, position: Position) -> Problem:
    return Problem(position, f"cannot read `{display_path(path)}`: {(error.strerror or str(error)).lower()}")


def referenced_files(trees: Trees, host: str, conf: Conf, ref: Ref) -> tuple[list[File], list[Problem]]:
    """Return the members that a `ref` of a CONF section stands for, its template rendered, and problems.

    A file that an earlier step makes, or that is missing, is no member.
    """
    if ref.where != "tree" or file_problem(ref.file):
        return [], []
    tree, _, inside = ref.path.removeprefix("tree").partition("/")
    place = trees.located(int(tree), inside)
    files, problems = collect(trees, place, ref.position)
    if not ref.template or problems:
        return files, problems
    if files[0].kind != "file":
        message = f"template `{ref.file}` is a {files[0].kind}, expected a file"
        return [], [Problem(ref.position, message)]
    from runsdeploy.plan.template import render  # noqa: PLC0415 - jinja2 costs 50 ms, few trees use it

    content = render(place.path, conf.variables, host)
    if isinstance(content, Problem):
        # Without facts the values are incomplete; the template is rendered again when the facts are known.
        return [], [] if conf.needs_facts else [content]
    made = (each for each in conf.settings if each.variable == ref.variable and each.position == ref.position)
    setting = next(made, None)
    if setting is None:
        return [], []  # its variable has an invalid name, which has a problem of its own
    rendered = setting.values[0].pieces[-1].decode("utf-8", "surrogateescape").lstrip("/")
    return [content_file(rendered, content, files[0].mode)], []


def library_files(trees: Trees, script: Script) -> tuple[dict[str, File], Sequence[Problem]]:
    """Return the trees' libraries that a script may load, and those that they may load, by name; and problems.

    Names are only complete at run time, so every library counts whose name stands in a text that calls `urequire`.
    """
    from runsdeploy.plan.bash_errors import syntax_errors_in  # noqa: PLC0415 - only the resolver needs bash

    known = trees.libraries()
    found: dict[str, File] = {}
    problems: list[Problem] = []
    left = [(script.body, script.source.shown)]
    while left:
        text, file = left.pop()
        problems += unknown_libraries(text, file, known)
        for name in referenced_libraries(text, known) - found.keys():
            try:
                content = read_text(known[name].path)
            except OSError as error:
                problems.append(_unreadable(known[name].path, error, known[name].at()))
                known = {each: place for each, place in known.items() if each != name}
                continue
            problems += syntax_errors_in(known[name].shown, content)
            found[name] = content_file(f"lib/{name}", content)
            left.append((content, known[name].shown))
    return found, problems
