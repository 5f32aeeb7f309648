"""Trees: what lies in the directories of RUNSPATH, found by name.

A tree is only ever read. Names come from operators, recipes and CONF sections, so every one is
validated before it is joined to a path, and the path it leads to, symbolic links followed, must
lie inside a tree (or in a place that the operator allowed by name).

A tree is code, as a Makefile is: what somebody else could have written is not used. Everything here that
hands out a file or directory has vouched for it.
"""

from __future__ import annotations

import errno
import os
import re
import shlex
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import cached_property
from pathlib import Path
from typing import IO

from runsdeploy.errors import InputError, Position, Problem, did_you_mean

CONFIGURATIONS = frozenset({"runs.conf", "sysinfos.conf"})
"""names in a tree that are never scripts or recipes"""

LEFTOVERS = ("~", ".orig", ".rej", ".swp")
"""endings of files that editors and patch leave behind"""

RESERVED_DIRECTORIES = frozenset({"scripts", "lib", "hosts", "groups"})
"""directories of a tree that are not domains"""

HOST_NAME = re.compile(r"(?:[A-Za-z0-9_][A-Za-z0-9_-]*)(?:\.[A-Za-z0-9_-]+)*\Z|[0-9A-Fa-f:]*:[0-9A-Fa-f:.]*\Z")
"""RFC 1123 labels (and the underscore that some sites use), or an IPv6 address"""


@dataclass(frozen=True)
class Located:
    """A file or directory of a tree."""

    tree: int
    """which tree: index into `Trees.roots`"""
    inside: str
    """path below the tree's root, without a leading slash; empty for the root itself"""
    path: Path
    """the same, absolute on this machine"""

    @cached_property
    def shown(self) -> str:
        """The path as an operator would type it from where he stands."""
        return shown(self.path)

    def at(self, line: int = 0, column: int = 0) -> Position:
        """Return a position in it."""
        return Position(self.shown, line, column)


def shown(path: Path) -> str:
    """Return the path relative to the working directory if it lies below it, else as it is."""
    try:
        return str(path.relative_to(Path.cwd()))
    except ValueError:
        return str(path)


def name_problem(name: str) -> str:
    """Say what is wrong with a name of a script or recipe; empty if nothing is."""
    if "\n" in name or "\0" in name:
        return f"name {name!r} holds a newline or a NUL"
    # Else one script would have two names, and markers under both.
    return file_problem(name) or (f"name `{name}` is that of a directory" if name.endswith("/") else "")


def file_problem(name: str) -> str:
    """Say what is wrong with a name of a reference or output; empty if nothing is."""
    if not name:
        return "empty name"
    if name.startswith("/"):
        return f"name `{name}` is absolute, expected one relative to the tree"
    if any(len(part.encode("utf-8", "surrogateescape")) > 255 for part in name.split("/")):  # noqa: PLR2004
        return f"name `{name[:40]}…` has a component of more than 255 bytes, the most a file system takes"
    if any(part in ("..", ".", "") for part in name.rstrip("/").split("/")):
        return f"name `{name}` holds an empty, `.` or `..` component"
    return ""


def foreign(path: Path) -> Problem | None:
    """Say that somebody else could have written a file or directory, if so; a link says nothing of what it leads to.

    Where each user has a group of his own, checkouts are writable for the group: that counts for nothing.
    """
    try:
        found = path.lstat()
    except OSError:
        return None  # whoever reads it says what is wrong
    me, sudo = os.geteuid(), os.environ.get("SUDO_UID", "")
    # As git does: whoever may become root may have root run his tree.
    owners = {0, me, int(sudo) if me == 0 and sudo.isdecimal() else 0}
    every, word = "-R " if stat.S_ISDIR(found.st_mode) else "", shlex.quote(shown(path))
    if found.st_uid not in owners:
        message = f"belongs to user {found.st_uid}, not to you or root"
        repair = f"as root `chown {every}{me} {word}`"
    elif found.st_mode & stat.S_IWOTH and not stat.S_ISLNK(found.st_mode):
        message, repair = "others may write it", f"`chmod {every}o-w {word}`"
    else:
        return None
    hint = f"{repair}, or if you trust whoever may write there: `--trust`"
    return Problem(Position(shown(path)), f"{message}: a tree is code", hint)


def is_candidate(name: str) -> bool:
    """Say whether a file of this base name may be a script or recipe at all."""
    return not (name.startswith(".") or name in CONFIGURATIONS or name.endswith(LEFTOVERS))


@dataclass(frozen=True)
class Host:
    """A host as the operator names it."""

    name: str
    """`medusa` or `medusa.univ.run`"""
    user: str = ""
    """login user when given as `user@name`"""

    @property
    def domain(self) -> str:
        """`univ.run` of `medusa.univ.run`; empty without one."""
        return self.name.partition(".")[2]

    @property
    def short(self) -> str:
        """`medusa` of `medusa.univ.run`."""
        return self.name.partition(".")[0]

    @property
    def address(self) -> str:
        """What to connect to."""
        return f"{self.user}@{self.name}" if self.user else self.name


@dataclass(frozen=True)
class Trees:
    """RUNSPATH, opened."""

    roots: tuple[Path, ...]
    """absolute directories, first wins"""
    allowed: tuple[Path, ...] = ()
    """places outside the trees that links may lead to, because the operator said so"""
    trusted: bool = True
    """whether it does not matter who else may write there"""
    _vouched: set[Path] = field(default_factory=set, compare=False, repr=False)
    """what was looked at and is the operator's own"""

    def located(self, tree: int, *parts: str) -> Located:
        """Name a place in a tree; it need not exist."""
        inside = "/".join(part for part in parts if part)
        return Located(tree, inside, self.roots[tree] / inside)

    def _existing(self, *parts: str) -> list[Located]:
        places = (self.located(tree, *parts) for tree in range(len(self.roots)))
        return [self._vouch(place) for place in places if place.path.is_dir()]

    def host_directories(self, host: Host | None) -> list[Located]:
        """Return the host's directories, most specific first: DOMAIN/HOST of every tree, then hosts/HOST."""
        if host is None:
            return []
        full = self._existing(host.domain, host.short) if host.domain else []
        return full + self._existing("hosts", host.short)

    def places(self, host: Host | None) -> list[Located]:
        """Return the directories in which names of scripts and recipes are looked up, in order."""
        return self.host_directories(host) + self._existing("scripts")

    def find(self, name: str, host: Host | None) -> Located | None:
        """Return the file of this (valid) name that comes first, or None."""
        for place in self.places(host):
            found = self.located(place.tree, place.inside, name)
            if os.path.isfile(found.path) and is_candidate(found.path.name):  # noqa: PTH113 - Path.is_file raises
                return self._vouch(found)
        return None

    def names(self, host: Host | None) -> Iterator[tuple[str, Located]]:
        """Yield every name that `find` would find, once, with what it finds."""
        seen: set[str] = set()
        for place in self.places(host):
            for path in files_below(place.path):
                name = str(path.relative_to(place.path))
                if is_candidate(path.name) and name not in seen and path.is_file():
                    seen.add(name)
                    yield name, self._vouch(self.located(place.tree, place.inside, name))

    def near(self, name: str, host: Host | None) -> str:
        """Say which known name was probably meant."""
        return did_you_mean(name, (known for known, _ in self.names(host)))

    def cascade(self, script: Located, host: Host | None) -> list[Located]:
        """Return the `runs.conf` files that hold for a script on a host, general to specific (SPEC 2)."""
        order = [self.located(tree) for tree in reversed(range(len(self.roots)))]
        below = [host_dir.inside for host_dir in self.host_directories(host)]
        own = [self.located(script.tree, part) for part in ancestors(script.inside)]
        order += [place for place in own if place.inside.split("/")[0] == "scripts"]
        if host is not None:
            levels = [("hosts",), (host.domain,), ("hosts", host.short), (host.domain, host.short)]
            for level in levels if host.domain else levels[::2]:
                order += [self.located(tree, *level) for tree in reversed(range(len(self.roots)))]
            order += [place for place in own if any(place.inside.startswith(f"{top}/") for top in below)]
        files = [self.located(place.tree, place.inside, "runs.conf") for place in order]
        return [self._vouch(file) for file in files if file.path.is_file()]

    def sysinfos(self, host: Host | None) -> Located | None:
        """Return the most specific `sysinfos.conf` of the host."""
        for place in self.host_directories(host):
            file = self.located(place.tree, place.inside, "sysinfos.conf")
            if file.path.is_file():
                return self._vouch(file)
        return None

    def libraries(self) -> dict[str, Located]:
        """Return the files of `lib/` by name; the first tree wins."""
        found: dict[str, Located] = {}
        for place in self._existing("lib"):
            for path in files_below(place.path):
                name = str(path.relative_to(place.path))
                if is_candidate(path.name) and name not in found:
                    found[name] = self._vouch(self.located(place.tree, place.inside, name))
        return found

    def escapes(self, path: Path) -> bool:
        """Say whether a path, links followed, leads out of the trees and the allowed places.

        If it does not, it may be used, so all below it is vouched for; raises InputError.
        """
        # Not Path.resolve, which raises on a loop of links.
        real = Path(os.path.realpath(path))
        if not any(top == real or top in real.parents for top in self._tops):
            return True
        if not self.trusted:
            self._vouch_for(path)
            for folder, folders, files in os.walk(path):
                for name in (*folders, *files):
                    self._vouch_for(Path(folder, name))
        return False

    def opened(self, path: Path) -> IO[bytes]:
        """Open a file of the trees or the allowed places for reading; raises OSError for any other.

        Links are followed first, then none: a directory that becomes a link meanwhile leads nowhere.
        """
        real = Path(os.path.realpath(path))
        top = next((top for top in self._tops if top == real or top in real.parents), None)
        if top is None:
            raise OSError(errno.EXDEV, "leads out of the trees", str(path))
        descriptor = os.open(top, os.O_RDONLY | os.O_NONBLOCK)
        for part in real.relative_to(top).parts:
            above = descriptor
            try:
                descriptor = os.open(part, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW, dir_fd=above)
            finally:
                os.close(above)
        return os.fdopen(descriptor, "rb")

    @cached_property
    def _tops(self) -> frozenset[Path]:
        """The trees and the allowed places, links followed."""
        return frozenset(Path(os.path.realpath(each)) for each in (*self.roots, *self.allowed))

    def _vouch(self, place: Located) -> Located:
        """Return a place that exists, unless somebody else could have written it; raises InputError then."""
        if not self.trusted:
            self._vouch_for(place.path)
        return place

    def _vouch_for(self, path: Path) -> None:
        if path in self._vouched:
            return
        # Whoever may write a directory above may put another file there.
        for each in (path, Path(os.path.realpath(path))):
            chain = (each, *each.parents)
            top = max((n for n, above in enumerate(chain) if above in self._tops or above in self.roots), default=-1)
            for inside in reversed(chain[: top + 1]):
                problem = None if inside in self._vouched else foreign(inside)
                if problem:
                    raise InputError([problem, *self._foreign()])
                self._vouched.add(inside)

    def _foreign(self) -> Iterator[Problem]:
        """Yield all that is not the operator's own; what lies below is repaired with it."""
        for root in self.roots:
            if problem := foreign(root):
                yield problem
                continue
            for folder, folders, files in os.walk(root):
                names = sorted(name for name in (*folders, *files) if not name.startswith("."))
                found = {name: foreign(Path(folder, name)) for name in names}
                yield from filter(None, found.values())
                folders[:] = [name for name in folders if name in found and not found[name]]

    def hosts(self) -> list[Host]:
        """Return all hosts that have a directory, sorted by domain and name."""
        found: set[Host] = set()
        for tree, root in enumerate(self.roots):
            for top in directories(root):
                plain = top.name == "hosts"
                if plain or (top.name not in RESERVED_DIRECTORIES and HOST_NAME.match(top.name)):
                    for path in directories(top):
                        if HOST_NAME.match(path.name) if plain else _is_host(top, path):
                            self._vouch(self.located(tree, top.name, path.name))
                            found.add(Host(path.name if plain else f"{path.name}.{top.name}"))
        return sorted(found, key=lambda host: (host.domain, host.short))

    def group(self, name: str, above: tuple[str, ...]) -> list[Host]:
        """Return the hosts of `groups/NAME`, of the first tree that has it; raises InputError."""
        place = next((each for each in self._groups() if each.path.name == name), None)
        if place is None:
            near = did_you_mean(name, (each.path.name for each in self._groups()))
            raise InputError([Problem(None, f"unknown group `@{name}`", near)])
        if name in above:
            cycle = " → ".join(f"@{each}" for each in [*above[above.index(name) :], name])
            raise InputError([Problem(place.at(), f"cycle of groups: {cycle}")])
        hosts: dict[str, Host] = {}
        for word in _group_words(self._vouch(place).path.read_bytes()):
            found = self.group(word[1:], (*above, name)) if word.startswith("@") else self.select(word)
            hosts.update((host.name, host) for host in found)
        if not hosts:
            raise InputError([Problem(place.at(), f"group `@{name}` names no host")])
        return list(hosts.values())

    def _groups(self) -> list[Located]:
        return [
            self.located(place.tree, place.inside, path.name)
            for place in self._existing("groups")
            for path in sorted(place.path.iterdir())
            if path.is_file() and is_candidate(path.name)
        ]

    def select(self, wanted: str) -> list[Host]:
        """Return the hosts that one word of `--host` stands for: a name, a pattern over the known hosts, or `@group`.

        Raises InputError for a bad name, and for a pattern that matches nothing.
        """
        if wanted.startswith("@"):
            return self.group(wanted[1:], ())
        user, _, name = wanted.rpartition("@")
        if re.search(r"[*?\[]", name):
            matching = [Host(host.name, user) for host in self.hosts() if fnmatchcase(host.name, name)]
            if not matching:
                raise InputError([Problem(None, f"pattern `{wanted}` matches no host", "see `runsdeploy hosts`")])
            return matching
        if not HOST_NAME.match(name) or user.startswith("-"):
            raise InputError([Problem(None, f"`{wanted}` is not a host name")])
        return [Host(name, user)]


def _group_words(data: bytes) -> list[str]:
    """Return the words of a group: one a line, comments left out."""
    lines = (line.partition("#")[0].strip() for line in data.decode("utf-8", "surrogateescape").splitlines())
    return [line for line in lines if line]


def _is_host(domain: Path, path: Path) -> bool:
    """Tell a host directory from any other directory of a project, such as `docs/reference`."""
    marks = (*CONFIGURATIONS, "default")
    return bool(HOST_NAME.match(path.name)) and ("." in domain.name or any((path / mark).exists() for mark in marks))


def directories(path: Path) -> list[Path]:
    """Return the visible directories directly below one, sorted."""
    return sorted(entry for entry in path.iterdir() if entry.is_dir() and not entry.name.startswith("."))


def files_below(path: Path) -> Iterator[Path]:
    """Yield the files below a directory, sorted, hidden directories left out."""
    for folder, folders, files in os.walk(path):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (Path(folder) / name for name in sorted(files))


def ancestors(inside: str) -> list[str]:
    """Return the folders above a file, outermost first: `a`, `a/b` for `a/b/c`."""
    parts = inside.split("/")[:-1]
    return ["/".join(parts[: n + 1]) for n in range(len(parts))]


def open_trees(runspath: str | None, start: Path, allowed: tuple[str, ...] = (), *, trusted: bool = False) -> Trees:
    """Open the trees of a RUNSPATH, or the nearest ancestor of `start` that holds `scripts/` or `hosts/`.

    Unless they are trusted, what others may write in them is refused when it is used.
    Raises InputError naming every entry that is not a directory.
    """
    if runspath:
        entries = [start / os.path.expanduser(entry) for entry in runspath.split(":") if entry]  # noqa: PTH111 - Path.expanduser raises
        problems = [
            Problem(None, f"no directory `{entry}`, named in RUNSPATH", f"make it: `mkdir -p {entry}/scripts`")
            for entry in entries
            if not entry.is_dir()
        ]
        if problems:
            raise InputError(problems)
    else:
        entries = [
            folder for folder in (start, *start.parents) if (folder / "scripts").is_dir() or (folder / "hosts").is_dir()
        ][:1]
    if not entries:
        message = f"no tree: neither `{start}` nor a directory above it holds `scripts/` or `hosts/`"
        raise InputError([Problem(None, message, "say where with `--path DIR` or RUNSPATH")])
    roots = tuple(Path(os.path.normpath(entry)) for entry in entries)
    return Trees(roots, tuple(start / each for each in allowed), trusted)
