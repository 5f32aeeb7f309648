"""Which hosts are meant: names, patterns, groups, and what is taken away from them.

A list, that of `--host` or the lines of `groups/NAME`, stands for all hosts that its words name, minus all
that its words with a `!` name, whatever their order. Nothing ever stands for all hosts but `*`: a list that
only takes away, a word that matches nothing, and a list that nothing is left of are errors.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from fnmatch import fnmatchcase
from functools import cached_property

from msgspec import Struct

from runsdeploy.errors import InputError, Position, Problem, did_you_mean
from runsdeploy.tree.trees import HOST_NAME, Host, Located, Trees

_PATTERN = re.compile(r"[*?\[]")


class Choice(Struct, frozen=True):
    """One word of a list."""

    text: str
    """`name`, `user@name`, a pattern, `@group`; behind a `!` to take it away"""
    position: Position | None = None
    """the line of a group; None for what was typed"""


def choices(given: Iterable[str]) -> list[Choice]:
    """Return the words of what was given with `--host`: separated by commas or colons."""
    return [Choice(word) for each in given for word in re.split(r"[,:]", each) if word]


def select(trees: Trees, words: Sequence[Choice], *, known: bool = False) -> list[Host]:
    """Return the hosts of a list, each once, in the order in which they are named; raises InputError.

    A host that is named twice is logged in to as the user who stands with either; two users are an error.
    With `known`, what was typed must have a directory: whoever only looks at the trees would be told nothing of a
    misspelt name. (Groups may hold others.)
    """
    selection = _Selection(trees, known=known)
    found = selection.of(words, (), "what was named")
    if selection.problems:
        raise InputError(selection.problems)
    return found


def memberships(trees: Trees) -> tuple[dict[str, list[str]], list[Problem]]:
    """Return the groups that each host is in, by its name, and all that is wrong with groups."""
    selection = _Selection(trees)
    found: dict[str, list[str]] = {}
    for group in sorted(selection.files):
        for host in selection.group(Choice(f"@{group}"), (), may_be_empty=True):
            found.setdefault(host.name, []).append(group)
    return found, list(dict.fromkeys(selection.problems))


def near_host(name: str, known: Sequence[Host]) -> str:
    """`did you mean …?` for the host that this is nearly the name of, or that has it without the domain; or nothing."""
    same = [host.name for host in known if host.short == name]
    return f"did you mean `{same[0]}`?" if same else did_you_mean(name, (host.name for host in known))


class _Selection:
    """The problems of one selection."""

    def __init__(self, trees: Trees, *, known: bool = False) -> None:
        self.trees, self.must_be_known = trees, known
        self.problems: list[Problem] = []

    @cached_property
    def known(self) -> list[Host]:
        """The hosts that patterns are matched against."""
        return self.trees.hosts()

    @cached_property
    def files(self) -> dict[str, Located]:
        """The groups."""
        return self.trees.groups()

    def of(self, words: Sequence[Choice], above: tuple[str, ...], name: str) -> list[Host]:
        """Return the hosts of a list; `name` says what it is when nothing is left of it."""
        taken = [Choice(word.text[1:], word.position) for word in words if word.text.startswith("!")]
        given = [word for word in words if not word.text.startswith("!")]
        if taken and not given:
            message = f"{name} only takes away: `!{taken[0].text}`"
            self._problem(taken[0], message, "name what to take it from, e.g. `*`")
            return []
        before = len(self.problems)
        hosts: dict[str, Host] = {}
        for word in given:
            for host in self._word(word, above):
                user = hosts[host.name].user if host.name in hosts else ""
                if user and host.user not in ("", user):
                    self._problem(word, f"`{host.name}` is named with two users, `{user}` and `{host.user}`")
                hosts[host.name] = host if host.user else Host(host.name, user)
        sound = before == len(self.problems)
        away = {host.name for word in taken for host in self._away(word, hosts, above, sound=sound)}
        left = [host for host in hosts.values() if host.name not in away]
        if hosts and not left and before == len(self.problems):
            self._problem(taken[0], f"nothing is left of {name}: `!{taken[0].text}`")
        return left

    def _word(self, word: Choice, above: tuple[str, ...]) -> list[Host]:
        """Return the hosts that one word stands for."""
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
        if self.must_be_known and word.position is None and not self.trees.host_directories(host):
            self._problem(word, f"unknown host `{name}`: no directory in the trees", self._near(name))
        return [host]

    def _near(self, name: str) -> str:
        """Say which host was probably meant, or how to make it one."""
        return near_host(name, self.known) or f"make it: `runsdeploy init --host {name}`"

    def _away(self, word: Choice, hosts: dict[str, Host], above: tuple[str, ...], *, sound: bool) -> list[Host]:
        """Return the hosts that one word takes away from these; `sound` says that these are all."""
        # Nobody is in `maintenance` today, or nobody who was named: that is no mistake.
        if word.text.startswith("@"):
            return self.group(word, above, may_be_empty=True)
        if "@" in word.text:
            self._problem(word, f"`!{word.text}` names a user, expected a host")
            return []
        # One that was mistyped would be deployed to.
        found = [host for host in hosts.values() if fnmatchcase(host.name, word.text)]
        if not found and sound:
            hint = did_you_mean(word.text, hosts)
            self._problem(word, f"`!{word.text}` takes nothing away: no such host is named", hint)
        return found

    def group(self, word: Choice, above: tuple[str, ...], *, may_be_empty: bool = False) -> list[Host]:
        """Return the hosts of a group."""
        name = word.text[1:]
        if name not in self.files:
            self._problem(
                word, f"unknown group `@{name}`", did_you_mean(word.text, (f"@{each}" for each in self.files))
            )
            return []
        if name in above:
            cycle = " → ".join(f"@{each}" for each in [*above[above.index(name) :], name])
            self._problem(word, f"cycle of groups: {cycle}")
            return []
        file = self.files[name]
        outside = self.trees.trust.outside(file.path, f"group `@{name}`")
        if outside:
            self.problems.append(outside)
            return []
        try:
            data = file.path.read_bytes()
        except OSError as error:
            self.problems.append(Problem(file.at(), f"cannot read group: {(error.strerror or str(error)).lower()}"))
            return []
        words = [Choice(text, file.at(line)) for line, text in _lines(data)]
        if not words and not may_be_empty:
            self.problems.append(Problem(file.at(), f"group `@{name}` names no host"))
        return self.of(words, (*above, name), f"group `@{name}`")

    def _problem(self, word: Choice, message: str, hint: str = "") -> None:
        self.problems.append(Problem(word.position, message, hint))


def _lines(data: bytes) -> Iterator[tuple[int, str]]:
    """Yield the lines of a group that say something, with their numbers."""
    for number, line in enumerate(data.split(b"\n"), 1):
        text = line.decode("utf-8", "surrogateescape").partition("#")[0].strip()
        if text:
            yield number, text
