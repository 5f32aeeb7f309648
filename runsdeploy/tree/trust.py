"""Trust: whether a file may be used, because it lies in the trees and no other user could have written or replaced it.

A tree is code, as a Makefile is. So links that lead out of the trees, and files of other users, are not used. A path is
vouched for component by component, from the root directory down and through each symbolic link, before anything that it
leads to is read. In this order the answer stays true: nobody else can replace a component below a directory that nobody
else can write.
"""

from __future__ import annotations

import errno
import os
import shlex
import stat
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import IO

from msgspec import Struct, field

from runsdeploy.errors import InputError, Position, Problem, display_path

MOST_LINKS = 40
"""symbolic links in one path; Linux follows no more (path_resolution(7))"""


class Trust(Struct, frozen=True, dict=True):
    """What is trusted, and which paths were checked already."""

    roots: tuple[Path, ...] = ()
    """of the trees"""
    allowed: tuple[Path, ...] = ()
    """places outside the trees that links may lead to, named by the operator"""
    any_owner: bool = False
    """whether files that other users could have written are used too"""
    why: str = "a tree is code"
    """the end of each message: why it matters who could have written a file"""
    _checked: set[str] = field(default_factory=set)
    """paths that no other user could have written or replaced"""
    _sound: set[str] = field(default_factory=set)
    """components of such paths, without links above them"""
    _directories: dict[str, str] = field(default_factory=dict)
    """of checked directories: the path without links"""
    _folders: dict[str, str] = field(default_factory=dict)
    """of directories that hold what was looked up: the path without links"""

    @cached_property
    def _tops(self) -> frozenset[str]:
        """The trees and the allowed places, links followed."""
        return frozenset(os.path.realpath(each) for each in (*self.roots, *self.allowed))

    @cached_property
    def _within(self) -> tuple[str, ...]:
        """The trees and the allowed places, as named and with links followed, each with a slash at its end."""
        return tuple({f"{str(each).rstrip('/')}/" for each in (*self.roots, *self.allowed, *self._tops)})

    @cached_property
    def _owners(self) -> frozenset[int]:
        """Users whose files are used. As in git: a user who may become root may let root run their tree."""
        me, sudo = os.geteuid(), os.environ.get("SUDO_UID", "")
        return frozenset({0, me, int(sudo) if me == 0 and sudo.isdecimal() else 0})

    def _top(self, real: str) -> str | None:
        """Return the tree or allowed place that a path without links lies in."""
        return next((top for top in self._tops if real == top or real.startswith(f"{top.rstrip('/')}/")), None)

    def _real(self, path: Path) -> str:
        """Return a path without links; each directory is looked up once, as a script may refer to thousands of files.

        Should a directory become a link later, `descriptor` follows neither.
        """
        text = os.fspath(path)
        folder, name = os.path.split(text)
        if name in ("", ".", "..") or os.path.islink(text):  # noqa: PTH114 - thousands of files
            # Not Path.resolve, which raises on a loop of links.
            return os.path.realpath(text)
        if folder not in self._folders:
            self._folders[folder] = os.path.realpath(folder)
        return f"{self._folders[folder].rstrip('/')}/{name}"

    # --- location ----------------------------------------------------------------------------------

    def contains(self, path: Path) -> bool:
        """Say whether a path, links followed, lies in the trees or the allowed places."""
        return self._top(self._real(path)) is not None

    def outside_problem(self, path: Path, what: str = "", position: Position | None = None) -> Problem | None:
        """Return a problem if a path leads out of the trees.

        `what` names it in the message, instead of the path; `position` is where it is used.
        """
        if self.contains(path):
            return None
        real = os.path.realpath(path)
        message = f"{what or f'`{display_path(path)}`'} leads out of the trees, to `{real}`"
        hint = f"if this is intended, allow it by name: `--allow {shlex.quote(real)}`"
        return Problem(position or Position(display_path(path)), message, hint)

    def open(self, path: Path) -> IO[bytes]:
        """Open a file of the trees or the allowed places for reading; raises OSError for any other.

        Links are resolved first, and then no link is followed: a directory that becomes a link meanwhile is an error.
        """
        return os.fdopen(self.descriptor(path), "rb")

    def descriptor(self, path: Path) -> int:
        """Open a file or directory as `open` does; return its descriptor, which the caller closes."""
        real = self._real(path)
        top = self._top(real)
        if top is None:
            raise OSError(errno.EXDEV, "leads out of the trees", str(path))
        descriptor = os.open(top, os.O_RDONLY | os.O_NONBLOCK)
        for part in filter(None, real[len(top) :].split("/")):
            above = descriptor
            try:
                descriptor = os.open(part, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW, dir_fd=above)
            finally:
                os.close(above)
        return descriptor

    # --- owner -------------------------------------------------------------------------------------

    def check_owner(self, path: Path) -> None:
        """Raise InputError if another user could have written or replaced a path; it has the problems of all files.

        What lies outside the trees is not looked at: it is refused for that, where it is used.
        """
        if problems := self.owner_problems(path):
            raise InputError([*problems, *self._all_owner_problems()])

    def check_entry(self, path: str, found: os.stat_result) -> None:
        """Raise InputError as `check_owner` does, for a name in an open directory that was checked; of a link, itself.

        `found` is what the directory, or the open file itself, says of it, so that nothing is looked up once more.
        """
        if self.any_owner or (found.st_uid in self._owners and not found.st_mode & stat.S_IWOTH):
            return
        # It may have been sound before it was exchanged.
        self._sound.discard(path)
        if problem := self._problem(path, found, path):
            raise InputError([problem, *self._all_owner_problems()])

    def owner_problems(self, path: Path) -> list[Problem]:
        """Return a problem for each component of a path, links included, that another user could have written.

        A path that does not exist is judged as far as it does.
        """
        text = os.fspath(path)
        if self.any_owner or text in self._checked:
            return []
        self._vouch_above(os.path.join(os.getcwd(), text))  # noqa: PTH109, PTH118 - thousands of files
        found: list[tuple[str, Problem]] = []
        for component, problem in self._walk(text):
            # The repair of a directory in a tree is that of all below it.
            if problem and not any(component.startswith(f"{each}/") for each, _ in found if self._is_within(each)):
                found.append((component, problem))
        if found and self.roots and not self.contains(path):
            found = [each for each in found if self._is_within(each[0]) or self._is_above(each[0])]
        if not found:
            self._checked.add(text)
        return [problem for _, problem in found]

    def _vouch_above(self, path: str) -> None:
        """Look at the directories above a path, each once: of a further file there only its own entry is looked up.

        One with a problem is not remembered: whoever walks the whole path finds the problem.
        """
        folder = os.path.dirname(path)  # noqa: PTH120
        if folder != path and folder not in self._directories:
            self._vouch_above(folder)
            for _ in self._walk(folder):
                pass

    def _walk(self, path: str) -> Iterator[tuple[str, Problem | None]]:
        """Yield each component of a path as the system looks it up, without links above it, and its problem."""
        # Absolute, but not normalized: behind a link, `..` is the directory above its target.
        path = os.path.join(os.getcwd(), path)  # noqa: PTH109, PTH118 - thousands of files
        folder, name = os.path.split(path)
        here = self._directories.get(folder)
        left = [name] if here is not None else path.split("/")[::-1]
        if here is None:
            here = ""
            yield "/", self._problem("/", os.lstat("/"), path)
        links, sound, mode = 0, True, 0
        while left:
            part = left.pop()
            if part in ("", "."):
                continue
            if part == "..":
                here, mode = os.path.dirname(here).rstrip("/"), stat.S_IFDIR  # noqa: PTH120
                continue
            component = f"{here}/{part}"
            try:
                found = os.lstat(component)
                target = os.readlink(component) if stat.S_ISLNK(found.st_mode) else ""  # noqa: PTH115
            except OSError:
                return  # reading it reports the error
            problem = self._problem(component, found, path)
            sound = sound and problem is None
            yield component, problem
            if not target:
                here, mode = component, found.st_mode
                continue
            links += 1
            if links > MOST_LINKS:
                return
            left += target.split("/")[::-1]
            if target.startswith("/"):
                here, mode = "", stat.S_IFDIR
        if sound and stat.S_ISDIR(mode):
            self._directories[path] = here

    def _problem(self, component: str, found: os.stat_result, path: str) -> Problem | None:
        """Return the problem of one component of a path; of a link, only its owner counts.

        Write permission of the group is no problem: where each user has a group of their own, checkouts have it. Nor is
        that of all users for a directory like /tmp above the trees, in which they cannot replace files of others.
        """
        if component in self._sound:
            return None
        if found.st_uid in self._owners and not found.st_mode & stat.S_IWOTH:
            self._sound.add(component)
            return None
        me, mode, word = os.geteuid(), found.st_mode, shlex.quote(display_path(Path(component)))
        above = stat.S_ISDIR(mode) and not self._is_within(component)
        every = "-R " if stat.S_ISDIR(mode) and not above else "-h " if stat.S_ISLNK(mode) else ""
        if found.st_uid not in self._owners:
            message, repair = (
                f"belongs to user {found.st_uid}, not to you or root",
                f"as root `chown {every}{me} {word}`",
            )
            if above:
                # Not `chown`: it may be the home of that user.
                message += ", and who owns it can replace what is below it"
                repair = f"copy it to a directory of yours, `cp -R {shlex.quote(self._named(path))} ~`"
        elif mode & stat.S_IWOTH and not (stat.S_ISLNK(mode) or stat.S_ISCHR(mode) or (above and mode & stat.S_ISVTX)):
            message = f"others may write it{' and so replace what is below it' if above else ''}"
            repair = f"{'' if me in (0, found.st_uid) else 'as root '}`chmod {every}o-w {word}`"
        else:
            self._sound.add(component)
            return None
        hint = f"{repair}, or if you trust every user who can write there: `--trust`"
        return Problem(Position(display_path(Path(component))), f"{message}: {self.why}", hint)

    def _named(self, path: str) -> str:
        """Return what an operator would copy to have a path elsewhere: its tree, or itself."""
        return next((str(root) for root in self.roots if f"{path}/".startswith(f"{root}/")), path)

    def _is_within(self, component: str) -> bool:
        return f"{component.rstrip('/')}/".startswith(self._within)

    def _is_above(self, component: str) -> bool:
        return any(top.startswith(f"{component.rstrip('/')}/") for top in self._within)

    def _all_owner_problems(self) -> Iterator[Problem]:
        """Yield the problems of all files in the trees, but none below a directory with one: one repair does both."""
        for root in self.roots:
            yield from self.owner_problems(root)
            if self._own_problem(root):
                continue
            for folder, folders, files in os.walk(root):
                names = sorted(name for name in (*folders, *files) if not name.startswith("."))
                found = {name: self._own_problem(Path(folder, name)) for name in names}
                yield from filter(None, found.values())
                folders[:] = [name for name in folders if name in found and not found[name]]

    def _own_problem(self, path: Path) -> Problem | None:
        try:
            return self._problem(os.fspath(path), path.lstat(), os.fspath(path))
        except OSError:
            return None
