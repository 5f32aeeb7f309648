"""Selection of hosts: names, patterns and groups, and exceptions from them.

A list (the value of `--host`, or the lines of `groups/NAME`) stands for all hosts that its words name, minus all hosts
that its words with a `!` name, in any order. Only `*` stands for all hosts: a list of exceptions only, a word that
matches no host, and a list without any host left are errors.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from fnmatch import fnmatchcase
from functools import cached_property

from msgspec import Struct

from runsdeploy.errors import InputError, Position, Problem, did_you_mean
from runsdeploy.tree.composition import composed, on_disk
from runsdeploy.tree.encoding import encoding_problem
from runsdeploy.tree.text import read_text
from runsdeploy.tree.trees import HOST_NAME, Host, Located, Trees

_PATTERN = re.compile(r"[*?\[]")
_EVERY = frozenset({"all", "any", "every", "everything"})
"""names by which other tools call all hosts, in lower case"""

MOST_LEVELS = 100
"""groups that may include each other, one in the other"""


class Choice(Struct, frozen=True):
    """One word of a list."""

    text: str
    """`name`, `user@name`, a pattern or `@group`; with a `!` before it, an exception"""
    position: Position | None = None
    """the line of a group; None for a word of the command line"""


def choices(given: Iterable[str]) -> list[Choice]:
    """Return the words of the values of `--host`, which commas or colons separate."""
    return [Choice(word) for each in given for word in re.split(r"[,:]", each) if word]


def select(trees: Trees, words: Sequence[Choice], *, known: bool = False) -> list[Host]:
    """Return the hosts of a list, each once, in the order in which they are named; raises InputError.

    A host may be named twice; a user with either name applies, and two different users are an error.
    With `known`, a host of the command line must have a directory: a command that connects to nothing would not find a
    misspelt name otherwise. (Groups may hold hosts without one.)
    """
    selection = _Selection(trees, known=known)
    found = selection.hosts(words, (), "the list of hosts")
    if selection.problems:
        raise InputError(selection.problems)
    return found


def memberships(trees: Trees) -> tuple[dict[str, list[str]], list[Problem]]:
    """Return the groups of each host, by its name, and all problems of groups."""
    selection = _Selection(trees)
    found: dict[str, list[str]] = {}
    for group in sorted(selection.files):
        for host in selection.group(Choice(f"@{group}"), (), may_be_empty=True):
            found.setdefault(host.name, []).append(group)
    return found, list(dict.fromkeys(selection.problems))


def near_host(name: str, trees: Trees) -> str:
    """Return `did you mean ...?` for the group of this name, the host of it in some domain, or a similar one; or ""."""
    known = trees.hosts()
    same = [f"@{name}"] if name in trees.groups() else [host.name for host in known if host.short == name]
    return f"did you mean `{same[0]}`?" if same else did_you_mean(name, (host.name for host in known))


class _Group(Struct, frozen=True):
    """A group that was read."""

    hosts: Sequence[Host]
    problem: Problem | None
    """the first of its problems; None without one"""
    empty: Problem | None
    """the problem of a group that names no host, where it must name one"""


class _Selection:
    """One selection, and its problems."""

    def __init__(self, trees: Trees, *, known: bool = False) -> None:
        self.trees, self.must_be_known = trees, known
        self.problems: list[Problem] = []
        self.read: dict[str, _Group] = {}
        """the groups that were read, by name: n groups that each include the next one twice are read n times"""

    @cached_property
    def known(self) -> list[Host]:
        """The hosts that patterns are matched against."""
        return self.trees.hosts()

    @cached_property
    def files(self) -> dict[str, Located]:
        """The files of the groups, by name."""
        return self.trees.groups()

    def hosts(self, words: Sequence[Choice], above: tuple[str, ...], name: str) -> list[Host]:
        """Return the hosts of a list; `above` are the groups that it is in, and `name` names it in messages."""
        exceptions = [Choice(word.text[1:], word.position) for word in words if word.text.startswith("!")]
        given = [word for word in words if not word.text.startswith("!")]
        if exceptions and not given:
            message = f"{name} only excludes hosts: `!{exceptions[0].text}`"
            self._problem(exceptions[0], message, "name hosts too, e.g. `*`")
            return []
        before = len(self.problems)
        hosts: dict[str, Host] = {}
        for word in given:
            for host in self._word(word, above):
                user = hosts[host.name].user if host.name in hosts else ""
                if user and host.user not in ("", user):
                    self._problem(word, f"`{host.name}` is named with two users, `{user}` and `{host.user}`")
                hosts[host.name] = host if host.user else Host(host.name, user)
        complete = before == len(self.problems)
        excluded = {host.name for word in exceptions for host in self._excluded(word, hosts, above, complete=complete)}
        left = [host for host in hosts.values() if host.name not in excluded]
        if hosts and not left and before == len(self.problems):
            self._problem(exceptions[0], f"no host is left of {name}: `!{exceptions[0].text}`")
        return left

    def _word(self, word: Choice, above: tuple[str, ...]) -> list[Host]:
        """Return the hosts that one word names."""
        if word.text.startswith("@"):
            return self.group(word, above)
        user, _, name = word.text.rpartition("@")
        if _PATTERN.search(name):
            matching = [Host(host.name, user) for host in self.known if fnmatchcase(host.name, name)]
            if not matching:
                self._problem(word, f"pattern `{word.text}` matches no host", "see `runsdeploy hosts`")
            return matching
        if not HOST_NAME.match(name) or user.startswith("-"):
            self._problem(word, f"`{word.text}` is not a host name")
            return []
        if name.isdigit():
            hint = "a port is the ssh configuration's business, and a colon stands between two hosts"
            self._problem(word, f"`{word.text}` is not a host name but a number", hint)
            return []
        host = Host(name, user)
        if name.lower() in _EVERY and name not in self.files and not self.trees.host_directories(host):
            every = f"{user}@*" if user else "*"
            meant = f"`{every}`" if word.position else f"`'{every}'`, in quotes"
            self._problem(word, f"`{word.text}` names no host", f"every host that has a directory: {meant}")
            return []
        if self.must_be_known and word.position is None and not self.trees.host_directories(host):
            self._problem(word, f"unknown host `{name}`: no directory in the trees", self._near(name))
        return [host]

    def _near(self, name: str) -> str:
        """Return the most similar host, or the command that makes its directory."""
        return near_host(name, self.trees) or f"make it: `runsdeploy init --host {name}`"

    def _excluded(self, word: Choice, hosts: dict[str, Host], above: tuple[str, ...], *, complete: bool) -> list[Host]:
        """Return the hosts that an exception excludes from `hosts`; `complete`: no word before had a problem."""
        # A group of exceptions, such as `maintenance`, may be empty or name other hosts: that is no mistake.
        if word.text.startswith("@"):
            return self.group(word, above, may_be_empty=True)
        if "@" in word.text:
            self._problem(word, f"`!{word.text}` names a user, expected a host")
            return []
        # A deploy would run on the host whose name was mistyped.
        found = [host for host in hosts.values() if fnmatchcase(host.name, word.text)]
        if not found and complete:
            hint = did_you_mean(word.text, hosts)
            self._problem(word, f"`!{word.text}` excludes nothing: no such host is named", hint)
        return found

    def group(self, word: Choice, above: tuple[str, ...], *, may_be_empty: bool = False) -> list[Host]:
        """Return the hosts of a group; `above` are the groups that include it."""
        name = composed(word.text[1:])
        if name not in self.files:
            self._problem(
                word, f"unknown group `@{name}`", did_you_mean(word.text, (f"@{each}" for each in self.files))
            )
            return []
        if name in above:
            cycle = " → ".join(f"@{each}" for each in [*above[above.index(name) :], name])
            self._problem(word, f"cycle of groups: {cycle}")
            return []
        if name not in self.read:
            if len(above) == MOST_LEVELS:
                self._problem(word, f"`@{name}` lies more than {MOST_LEVELS} groups deep in `@{above[0]}`")
                return []
            before = len(self.problems)
            hosts, empty = self._read(name, above)
            self.read[name] = _Group(hosts, next(iter(self.problems[before:]), None), empty)
        else:
            # As where it was read: a list with a wrong group is incomplete.
            self.problems += filter(None, [self.read[name].problem])
        found = self.read[name]
        if found.empty and not may_be_empty:
            self.problems.append(found.empty)
        return list(found.hosts)

    def _read(self, name: str, above: tuple[str, ...]) -> tuple[list[Host], Problem | None]:
        """Return the hosts of a group's file, and the problem if it names none."""
        file = self.files[name]
        outside = self.trees.trust.outside_problem(file.path, f"group `@{name}`")
        if outside:
            self.problems.append(outside)
            return [], None
        try:
            on_disk(file.path.parent, name)
            data = read_text(file.path)
        except InputError as error:
            self.problems += error.problems
            return [], None
        except OSError as error:
            self.problems.append(Problem(file.at(), f"cannot read group: {(error.strerror or str(error)).lower()}"))
            return [], None
        wrong = encoding_problem(data, file.shown)
        if wrong:
            self.problems.append(wrong)
            return [], None
        words = [Choice(text, file.at(line)) for line, text in _lines(data)]
        empty = None if words else Problem(file.at(), f"group `@{name}` names no host")
        return self.hosts(words, (*above, name), f"group `@{name}`"), empty

    def _problem(self, word: Choice, message: str, hint: str = "") -> None:
        self.problems.append(Problem(word.position, message, hint))


def _lines(data: bytes) -> Iterator[tuple[int, str]]:
    """Yield the lines of a group that are not empty or comments, with their numbers."""
    for number, line in enumerate(data.split(b"\n"), 1):
        text = line.decode("utf-8", "surrogateescape").partition("#")[0].strip()
        if text:
            yield number, text
