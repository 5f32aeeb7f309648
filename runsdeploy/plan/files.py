"""Files that a plan ships: referenced files, rendered templates and libraries, each checked, with size and digest.

Their bytes are read again only when they are shipped.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from msgspec import Struct
from msgspec.structs import replace

from runsdeploy.errors import InputError, Position, Problem, display_path
from runsdeploy.plan.conf import Conf, Ref
from runsdeploy.tree.libraries import composed_otherwise, referenced_libraries, unknown_libraries
from runsdeploy.tree.script import Script
from runsdeploy.tree.text import read_text
from runsdeploy.tree.trees import Located, Trees, file_problem
from runsdeploy.tree.trust import Trust

CHUNK = 1 << 20
"""bytes that are read at once"""

MOST_LINKS = 40
"""links that a system follows in one path (path_resolution(7))"""


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
    shown: str = ""
    """the path of a library's file as an operator would type it"""

    @property
    def identity(self) -> tuple[str, ...]:
        """What counts in digests. Modes depend on the umask of a checkout, so only +x counts."""
        return self.path, self.kind, "x" if self.mode & 0o111 else "-", self.digest, self.target


def content_file(path: str, content: bytes, mode: int = 0o644) -> File:
    """Return a member with these bytes."""
    return File(path, "file", mode, None, content, len(content), hashlib.sha256(content).hexdigest())


def digest_of(descriptor: int, size: int) -> str:
    """Return the SHA-256 of an open file, hexadecimal; `size` is what it should have: most are read at once."""
    found = hashlib.sha256()
    done = 0
    while True:
        wanted = min(max(size - done, 0) + 1, CHUNK)
        chunk = os.read(descriptor, wanted)
        found.update(chunk)
        done += len(chunk)
        # Less than was asked for, and all that there should be, is the end of a file.
        if not chunk or (len(chunk) < wanted and done >= size):
            return found.hexdigest()


def collect(trees: Trees, place: Located, position: Position) -> tuple[list[File], list[Problem]]:
    """Return a file, or a directory with all below it; and the problems of what cannot be shipped.

    The place itself may be a link, which is followed, but not out of the trees. Links inside a directory are shipped as
    links, wherever they lead: nothing is read through them. `position` is that of the reference, for problems. Raises
    InputError for a file of another user.
    """
    outside = trees.trust.outside_problem(place.path, position=position)
    if outside:
        return [], [outside]
    trees.trust.check_owner(place.path)
    collection = _Collection(position, trees.trust)
    try:
        mode = place.path.stat().st_mode
        if not collection.can_ship(mode, os.fspath(place.path)):
            return [], collection.problems
        descriptor = trees.trust.descriptor(place.path)
        add = collection.add_directory if stat.S_ISDIR(mode) else collection.add_file
        add(descriptor, os.fspath(place.path), f"tree{place.tree}/{place.inside}")
    except OSError as error:
        collection.problems.append(_unreadable(place.path, error, position))
    return collection.files, collection.problems


class _Collection:
    """The members of one reference.

    Names are looked up in directories that are open, so that none is followed that becomes a link meanwhile, and the
    owner is checked of what is open: that is what is read. A directory may have 50,000 files, so paths are texts, and
    a file costs one lstat, open, fstat, read up to its end, and close.
    """

    def __init__(self, position: Position, trust: Trust) -> None:
        self.position, self.trust = position, trust
        self.files: list[File] = []
        self.problems: list[Problem] = []

    def can_ship(self, mode: int, path: str) -> bool:
        """Say whether a file of this mode can be shipped; if not, note the problem."""
        if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode) or stat.S_ISLNK(mode)):
            message = f"`{display_path(Path(path))}` is neither a file, a directory nor a link, so it cannot be shipped"
            self.problems.append(Problem(self.position, message))
            return False
        return True

    def add_file(self, descriptor: int, path: str, inside: str) -> None:
        """Add a file, whose descriptor is closed. The bytes that are sent later must have the digest of these."""
        try:
            found = os.fstat(descriptor)
            self.trust.check_entry(path, found)
            # It may have become another kind of file since it was looked up.
            if self.can_ship(found.st_mode, path):
                mode = stat.S_IMODE(found.st_mode) & 0o777
                digest = digest_of(descriptor, found.st_size)
                self.files.append(File(inside, "file", mode, Path(path), size=found.st_size, digest=digest))
        finally:
            os.close(descriptor)

    def add_directory(self, descriptor: int, path: str, inside: str) -> None:
        """Add a directory, whose descriptor is closed, and all below it."""
        left: list[tuple[int, str, str, list[str]]] = []
        try:
            left.append(self._opened(descriptor, path, inside))
            while left:
                folder, above, below, names = left[-1]
                if not names:
                    os.close(left.pop()[0])
                    continue
                name = names.pop()
                try:
                    new = self._add(folder, name, f"{above}/{name}", f"{below}/{name}")
                except OSError as error:
                    self.problems.append(_unreadable(Path(above, name), error, self.position))
                    continue
                if new is not None:
                    left.append(self._opened(new, f"{above}/{name}", f"{below}/{name}"))
        finally:
            for folder, *_ in left:
                os.close(folder)

    def _opened(self, descriptor: int, path: str, inside: str) -> tuple[int, str, str, list[str]]:
        """Add a directory without what is below it; return it with the names in it."""
        names: list[str] = []
        try:
            found = os.fstat(descriptor)
            self.trust.check_entry(path, found)
            self.files.append(File(inside.rstrip("/"), "directory", stat.S_IMODE(found.st_mode) & 0o777))
            names = sorted(os.listdir(descriptor), reverse=True)
        except InputError:
            os.close(descriptor)
            raise
        except OSError as error:
            self.problems.append(_unreadable(Path(path), error, self.position))
        return descriptor, path, inside.rstrip("/"), names

    def _add(self, folder: int, name: str, path: str, inside: str) -> int | None:
        """Add what has a name in an open directory; of a directory, return the descriptor instead."""
        found = os.lstat(name, dir_fd=folder)
        mode = found.st_mode
        if not self.can_ship(mode, path):
            return None
        if stat.S_ISLNK(mode):
            self.trust.check_entry(path, found)
            self.files.append(File(inside, "link", 0o777, target=os.readlink(name, dir_fd=folder)))
            return None
        new = os.open(name, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
        if stat.S_ISDIR(mode):
            return new
        self.add_file(new, path, inside)
        return None


def links_of(files: Iterable[File]) -> dict[str, str]:
    """Return the targets of the links among members, by path."""
    return {file.path: file.target for file in files if file.kind == "link"}


def is_behind_link(file: File, links: Mapping[str, str]) -> bool:
    """Say whether a member has a link on its path, or a link's path: to write it would write through the link."""
    at = file.path.find("/")
    while at >= 0:
        if file.path[:at] in links:
            return True
        at = file.path.find("/", at + 1)
    return file.kind != "link" and file.path in links


def destination(path: str, links: Mapping[str, str]) -> str | None:
    """Return the path of a member with links followed; None if they lead out of what is shipped, or in a circle."""
    left, done, followed = path.split("/")[::-1], list[str](), 0
    while left:
        part = left.pop()
        if part == "..":
            if not done:
                return None
            done.pop()
        elif part not in ("", "."):
            done.append(part)
            target = links.get("/".join(done))
            if target is not None:
                followed += 1
                if target.startswith("/") or followed > MOST_LINKS:
                    return None
                done.pop()
                left += target.split("/")[::-1]
    return "/".join(done)


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
        problems += [*unknown_libraries(text, file, known), *composed_otherwise(text, file, known)]
        for name in referenced_libraries(text, known) - found.keys():
            try:
                content = read_text(known[name].path)
            except OSError as error:
                problems.append(_unreadable(known[name].path, error, known[name].at()))
                known = {each: place for each, place in known.items() if each != name}
                continue
            problems += syntax_errors_in(known[name].shown, content)
            found[name] = replace(content_file(f"lib/{name}", content), shown=known[name].shown)
            left.append((content, known[name].shown))
    return found, problems
