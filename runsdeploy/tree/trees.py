"""Trees: the directories of RUNSPATH, in which files are found by name.

A tree is only read. Names come from operators, recipes and CONF sections, so each one is validated before it is
joined to a path. That path, symbolic links followed, must lie in a tree or in a place that the operator allowed.

Every function here that returns a file or directory has checked its owner (`trust`). Configurations and libraries
never lead out of the trees; for a script, recipe or group, the caller checks that.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator
from functools import cached_property
from pathlib import Path

from msgspec import Struct

from runsdeploy.errors import InputError, Position, Problem, did_you_mean, display_path
from runsdeploy.tree.composition import composed, on_disk
from runsdeploy.tree.trust import Trust

CONFIGURATIONS = frozenset({"runs.conf", "sysinfos.conf"})
"""file names that are never scripts or recipes"""

LEFTOVERS = ("~", ".orig", ".rej", ".swp")
"""endings of files that editors and patch leave behind"""

RESERVED_DIRECTORIES = frozenset({"scripts", "lib", "hosts", "groups"})
"""directories of a tree that are not domains"""

HOST_NAME = re.compile(r"(?:[A-Za-z0-9_][A-Za-z0-9_-]*)(?:\.[A-Za-z0-9_-]+)*\Z|[0-9A-Fa-f:]*:[0-9A-Fa-f:.]*\Z")
"""RFC 1123 labels (and the underscore that some sites use), or an IPv6 address"""

_ADDRESS = re.compile(r"\d+(?:\.\d+){3}\Z|.*:")
"""an IPv4 or IPv6 address: its dots are not those of a domain"""

HOST_FILES = (*sorted(CONFIGURATIONS), "default")
"""files that only a host directory holds, among the directories of a project"""


class Located(Struct, frozen=True, dict=True):
    """A file or directory of a tree."""

    tree: int
    """index of the tree in `Trees.roots`"""
    inside: str
    """path below the tree's root, without a leading slash; empty for the root itself"""
    path: Path
    """the absolute path"""

    @cached_property
    def shown(self) -> str:
        """The path as an operator would type it in the working directory."""
        return display_path(self.path)

    def at(self, line: int = 0, column: int = 0) -> Position:
        """Return a position in the file."""
        return Position(self.shown, line, column)


def name_problem(name: str) -> str:
    """Return the problem of the name of a script or recipe; empty if it is valid."""
    if "\n" in name or "\0" in name:
        return f"name {name!r} holds a newline or a NUL"
    # With a slash at the end, one script would have two names, and markers under both.
    return file_problem(name) or (f"name `{name}` is that of a directory" if name.endswith("/") else "")


def file_problem(name: str) -> str:
    """Return the problem of the name of a referenced file or an output; empty if it is valid."""
    if not name:
        return "empty name"
    if name.startswith("/"):
        return f"name `{name}` is absolute, expected one relative to the tree"
    if any(len(part.encode("utf-8", "surrogateescape")) > 255 for part in name.split("/")):  # noqa: PLR2004
        return f"name `{name[:40]}…` has a component of more than 255 bytes, the most a file system takes"
    if any(part in ("..", ".", "") for part in name.rstrip("/").split("/")):
        return f"name `{name}` holds an empty, `.` or `..` component"
    return ""


def is_candidate(name: str) -> bool:
    """Say whether a file with this base name can be a script or recipe."""
    return not (name.startswith(".") or name in CONFIGURATIONS or name.endswith(LEFTOVERS))


class Host(Struct, frozen=True):
    """A host as the operator names it."""

    name: str
    """`medusa` or `medusa.univ.run`"""
    user: str = ""
    """login user when given as `user@name`"""

    @property
    def domain(self) -> str:
        """`univ.run` of `medusa.univ.run`; empty without one."""
        return "" if _ADDRESS.match(self.name) else self.name.partition(".")[2]

    @property
    def short(self) -> str:
        """`medusa` of `medusa.univ.run`; an address as a whole."""
        return self.name if _ADDRESS.match(self.name) else self.name.partition(".")[0]

    @property
    def directories(self) -> tuple[str, ...]:
        """Where its directory may be below the root of a tree, most specific first.

        `univ.run/medusa`, `hosts/medusa.univ.run`, `hosts/medusa`; without a domain only the last.
        """
        below_hosts = f"hosts/{self.short}"
        return (f"{self.domain}/{self.short}", f"hosts/{self.name}", below_hosts) if self.domain else (below_hosts,)

    @property
    def own_directories(self) -> tuple[str, ...]:
        """Those of `directories` that are of no other host: `hosts/medusa` is also for a `medusa` of another domain."""
        return self.directories[:2]

    @property
    def address(self) -> str:
        """The name to connect to, with the user if there is one."""
        return f"{self.user}@{self.name}" if self.user else self.name


class Trees(Struct, frozen=True, dict=True):
    """The trees of a RUNSPATH."""

    roots: tuple[Path, ...]
    """absolute directories; the first one that has a file wins"""
    allowed: tuple[Path, ...] = ()
    """places outside the trees that links may lead to, named by the operator"""
    trusted: bool = True
    """whether files that other users could have written are used too"""

    @cached_property
    def trust(self) -> Trust:
        """Which of its files may be used."""
        return Trust(self.roots, self.allowed, self.trusted)

    def located(self, tree: int, *parts: str) -> Located:
        """Return a place in a tree, which need not exist."""
        inside = "/".join(part for part in parts if part)
        return Located(tree, inside, self.roots[tree] / inside)

    def _existing(self, *parts: str) -> list[Located]:
        places = (self.located(tree, *parts) for tree in range(len(self.roots)))
        return [self._checked(place) for place in places if place.path.is_dir()]

    def host_directories(self, host: Host | None) -> list[Located]:
        """Return the host's directories, most specific first: DOMAIN/HOST of every tree, then those below `hosts`."""
        return [place for inside in host.directories for place in self._existing(inside)] if host else []

    def new_host_directory(self, host: Host) -> str:
        """Return where the first tree has, or should have, the host's own directory."""
        own = host.own_directories
        return next((inside for inside in own if (self.roots[0] / inside).is_dir()), own[0])

    def places(self, host: Host | None) -> list[Located]:
        """Return the directories in which names of scripts and recipes are looked up, in order."""
        return self.host_directories(host) + self._existing("scripts")

    def find(self, name: str, host: Host | None) -> Located | None:
        """Return the first file with this (valid) name, or None."""
        return next(self.every(name, host), None)

    def every(self, name: str, host: Host | None) -> Iterator[Located]:
        """Yield all files with this (valid) name; the first hides the others."""
        for place in self.places(host):
            found = self.located(place.tree, place.inside, on_disk(place.path, name))
            if os.path.isfile(found.path) and is_candidate(found.path.name):  # noqa: PTH113 - Path.is_file raises
                yield self._checked(found)

    def names(self, host: Host | None) -> Iterator[tuple[str, Located]]:
        """Yield every name that `find` finds a file for, with that file."""
        seen: set[str] = set()
        for place in self.places(host):
            for path in files_below(place.path):
                name = str(path.relative_to(place.path))
                if is_candidate(path.name) and composed(name) not in seen and path.is_file():
                    seen.add(composed(name))
                    yield composed(name), self._checked(self.located(place.tree, place.inside, name))

    def near(self, name: str, host: Host | None) -> str:
        """Return `did you mean ...?` for the most similar name of a script or recipe, or an empty string."""
        names = [known for known, _ in self.names(host)]
        plain = name.removeprefix("scripts/")
        stem = plain.removesuffix(".sh").removesuffix(".bash")
        same = next((each for each in (plain, stem, f"{stem}.sh", f"{stem}.bash") if each in names), "")
        return f"did you mean `{same}`?" if same else did_you_mean(name, names)

    def cascade(self, script: Located, host: Host | None) -> list[Located]:
        """Return the `runs.conf` files that apply to a script on a host, from general to specific (SPEC 2)."""
        order = [self.located(tree) for tree in reversed(range(len(self.roots)))]
        below = [host_dir.inside for host_dir in self.host_directories(host)]
        own = [self.located(script.tree, part) for part in ancestors(script.inside)]
        order += [place for place in own if place.inside.split("/")[0] == "scripts"]
        if host is not None:
            tops = ("hosts", host.domain) if host.domain else ("hosts",)
            for inside in (*tops, *reversed(host.directories)):
                order += [self.located(tree, inside) for tree in reversed(range(len(self.roots)))]
            order += [place for place in own if any(place.inside.startswith(f"{top}/") for top in below)]
        files = [self.located(place.tree, place.inside, "runs.conf") for place in order]
        return self._inside([file for file in files if file.path.is_file()])

    def sysinfos(self, host: Host | None) -> Located | None:
        """Return the most specific `sysinfos.conf` of the host."""
        files = (self.located(place.tree, place.inside, "sysinfos.conf") for place in self.host_directories(host))
        first = next((file for file in files if file.path.is_file()), None)
        return self._inside([first])[0] if first else None

    def libraries(self) -> dict[str, Located]:
        """Return the files of `lib/` by name; the first tree wins."""
        found = self._named(self._inside(self._existing("lib")), files_below)
        return dict(zip(found, self._inside([*found.values()]), strict=True))

    def groups(self) -> dict[str, Located]:
        """Return the files of `groups/` by name; the first tree wins."""
        found = self._named(self._existing("groups"), Path.iterdir, composed)
        return {name: self._checked(place) for name, place in found.items()}

    def _named(
        self, places: list[Located], listed: Callable[[Path], Iterable[Path]], key: Callable[[str], str] = str
    ) -> dict[str, Located]:
        """Return the files in directories by the key of their names; the first wins."""
        found: dict[str, Located] = {}
        for place in places:
            for path in sorted(listed(place.path)):
                name = str(path.relative_to(place.path))
                if is_candidate(path.name) and path.is_file():
                    found.setdefault(key(name), self.located(place.tree, place.inside, name))
        return found

    def _inside(self, places: list[Located]) -> list[Located]:
        """Return places that are used without being named, checked; raises InputError for links out of the trees."""
        problems = [problem for place in places if (problem := self.trust.outside_problem(place.path))]
        if problems:
            raise InputError([*problems, *self._outside_problems()])
        return [self._checked(place) for place in places]

    def _outside_problems(self) -> Iterator[Problem]:
        """Yield a problem for each configuration and library that leads out of the trees."""
        for root in self.roots:
            for path in files_below(root):
                by_place = path.name in CONFIGURATIONS or path.relative_to(root).parts[0] == "lib"
                problem = self.trust.outside_problem(path) if by_place and path.is_file() else None
                if problem:
                    yield problem

    def _checked(self, place: Located) -> Located:
        """Return an existing place; raises InputError if another user could have written it."""
        self.trust.check_owner(place.path)
        return place

    def hosts(self) -> list[Host]:
        """Return all hosts that have a directory, sorted by domain and name."""
        found = {host for host, place in self._host_directories() if place.inside in host.directories}
        return sorted(found, key=lambda host: (host.domain, host.short))

    def misplaced_hosts(self) -> list[Problem]:
        """Return a problem for each directory that is made for a host but does not lie where that host's is read."""
        return [
            Problem(
                next((self.located(place.tree, place.inside, name).at(1) for name in found), place.at()),
                f"no host has its directory at `{place.inside}`: it is not read for `{host.name}`",
                f"move it to `{host.directories[0]}`",
            )
            for host, place in self._host_directories()
            if place.inside not in host.directories
            if (found := [name for name in HOST_FILES if (place.path / name).is_file()])
        ]

    def _host_directories(self) -> Iterator[tuple[Host, Located]]:
        """Yield every directory that looks like a host's, with the host that its name stands for."""
        for tree, root in enumerate(self.roots):
            for top in directories(root):
                plain = top.name == "hosts"
                if plain or (top.name not in RESERVED_DIRECTORIES and HOST_NAME.match(top.name)):
                    for path in directories(top):
                        if HOST_NAME.match(path.name) if plain else _is_host(top, path):
                            place = self._checked(self.located(tree, top.name, path.name))
                            yield Host(path.name if plain else f"{path.name}.{top.name}"), place


def _is_host(domain: Path, path: Path) -> bool:
    """Say whether a directory looks like a host's, unlike other directories of a project, such as `docs/reference`."""
    return bool(HOST_NAME.match(path.name)) and (
        "." in domain.name or any((path / name).exists() for name in HOST_FILES)
    )


def directories(path: Path) -> list[Path]:
    """Return the directories directly below one, sorted, without hidden ones."""
    return sorted(entry for entry in path.iterdir() if entry.is_dir() and not entry.name.startswith("."))


def files_below(path: Path) -> Iterator[Path]:
    """Yield the files below a directory, sorted, without those in hidden directories."""
    for folder, folders, files in os.walk(path):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (Path(folder) / name for name in sorted(files))


def ancestors(inside: str) -> list[str]:
    """Return the folders above a file, outermost first: `a`, `a/b` for `a/b/c`."""
    parts = inside.split("/")[:-1]
    return ["/".join(parts[: n + 1]) for n in range(len(parts))]


def _normalized(path: Path) -> Path:
    """Return a directory's path without `..`, which behind a link is not the directory before it."""
    plain, real = os.path.normpath(path), os.path.realpath(path)
    return Path(plain if os.path.realpath(plain) == real else real)


def open_trees(runspath: str | None, start: Path, allowed: tuple[str, ...] = (), *, trusted: bool = False) -> Trees:
    """Open the trees of a RUNSPATH, or the nearest ancestor of `start` that holds `scripts/` or `hosts/`.

    `allowed` are places outside the trees that links may lead to. Unless the trees are `trusted`, using a file that
    another user could have written raises InputError later. Raises InputError naming every entry that is no directory.
    """
    if runspath:
        entries = [start / os.path.expanduser(entry) for entry in runspath.split(":") if entry]  # noqa: PTH111 - Path.expanduser raises
        problems = [
            Problem(None, f"no directory `{entry}`, named in RUNSPATH", f"make it: `runsdeploy init {entry}`")
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
        raise InputError([Problem(None, message, "make one: `runsdeploy init`, or say where it is: `--path DIR`")])
    roots = tuple(map(_normalized, entries))
    return Trees(roots, tuple(start / each for each in allowed), trusted)
