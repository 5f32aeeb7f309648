"""Readings: what the text of a script, a library or a `runs.conf` says, without running it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from functools import cache, cached_property
from pathlib import Path

from msgspec import Struct, field

from runsdeploy.bash.treesitter import Argument, Call, Syntax, parse
from runsdeploy.errors import Position
from runsdeploy.tree.libraries import BUNDLED, referenced_libraries
from runsdeploy.tree.recipe import VARIABLE
from runsdeploy.tree.script import Script
from runsdeploy.tree.trees import Located

FACTS = frozenset({"sysname", "sysdist", "sysver", "bits"})

_SHELL = Path(__file__).parents[1] / "shell"
_WORD = re.compile(rf"({VARIABLE})(?:(\+=|-=|=)|\Z)", re.ASCII)


class Declaration(Struct, frozen=True):
    """One variable of `var`, `out` or `ref`."""

    name: str
    kind: str
    """`var`, `out` or `ref`"""
    position: Position
    word: Argument
    array: bool = False
    file: str | None = None
    """of `out` and `ref`; None where the text makes it up"""
    template: bool = False


class Library(Struct, frozen=True):
    """A library that a script may load."""

    name: str
    syntax: Syntax
    words: frozenset[str]
    """all words of it, where it reads what it does not name"""
    source: Located | None
    """None for one that is part of runsdeploy"""

    def reads(self, name: str) -> bool:
        """Say whether it may read a variable."""
        return name in self.words or any(each.name == name for each in self.syntax.reads)


class Sheet(Struct, frozen=True):
    """What a CONF section, or a `runs.conf`, does with names."""

    source: Located
    text: bytes
    syntax: Syntax
    declared: tuple[Declaration, ...]
    made_up: bool
    """whether it declares more names than it spells"""

    def reads(self, name: str) -> bool:
        """Say whether it reads a variable for anything but that variable's own value, as in `var x="${x:-1}"`."""
        own = [each.word for each in self.declared if each.name == name]
        return any(
            each.name == name and not any(word.start <= each.offset < word.end for word in own)
            for each in self.syntax.reads
        )

    def calls(self, name: str) -> Iterator[Call]:
        """Yield its calls of one function."""
        return (call for call in self.syntax.calls if call.name == name)


class Reading(Struct, dict=True):
    """A script, read."""

    script: Script
    conf: Sheet
    body: Syntax
    libraries: list[Library] = field(default_factory=list)
    """all that it may load"""
    asked: set[str] = field(default_factory=set)
    """names that its templates ask for"""
    asks_more: bool = False
    """whether a template may ask for more, because it is not there or cannot be read"""

    def position(self, line: int, column: int = 0) -> Position:
        """Return a place in its file."""
        return self.script.source.at(line, column)

    @cached_property
    def names(self) -> frozenset[str]:
        """The variables that its CONF section declares."""
        return frozenset(each.name for each in self.conf.declared)

    @cached_property
    def defined(self) -> frozenset[str]:
        """The functions that it can call besides programs."""
        return frozenset(self.body.functions).union(*(each.syntax.functions for each in self.libraries))

    @cached_property
    def sets(self) -> frozenset[str]:
        """The variables that its SCRIPT section sets by itself, or by a library."""
        every = [self.body, *(each.syntax for each in self.libraries)]
        return frozenset(mention.name for syntax in every for mention in syntax.sets)

    @cached_property
    def _body_reads(self) -> frozenset[str]:
        words = re.findall(VARIABLE, self.script.body.decode("utf-8", "replace")) if self.body.reads_more else ()
        return frozenset([*words, *(each.name for each in self.body.reads)])

    def uses(self, name: str) -> bool:
        """Say whether its SCRIPT section, a template or a library may read a variable."""
        asked = self.asks_more or name in self.asked
        return asked or name in self._body_reads or any(each.reads(name) for each in self.libraries)

    def takes(self, name: str) -> bool:
        """Say whether anything in it, CONF included, minds the value of a variable."""
        return self.uses(name) or any(each.name == name for each in self.conf.syntax.reads)


def read_sheet(text: bytes, source: Located) -> Sheet:
    """Read a CONF section, a `runs.conf` or a `sysinfos.conf`."""
    syntax = parse(text)
    declared: list[Declaration] = []
    made_up = syntax.sets_more
    for call in syntax.calls:
        if call.name in ("var", "out", "ref"):
            found, whole = _declared(call, source.shown)
            declared += found
            made_up |= not whole
    return Sheet(source, text, syntax, tuple(declared), made_up)


def read_libraries(own: dict[str, Located]) -> dict[str, Library]:
    """Read all libraries, those of the trees first."""
    return _bundled() | {name: _library(name, place.path, place) for name, place in own.items()}


@cache
def _bundled() -> dict[str, Library]:
    paths = {name: _SHELL / ("runs.sh" if name == "runs" else f"lib/{name}.sh") for name in BUNDLED}
    return {name: _library(name, path, None) for name, path in paths.items()}


def read_text(script: Script, libraries: dict[str, Library]) -> Reading:
    """Read a script; templates are the business of whoever knows where they are."""
    conf = read_sheet(script.conf, script.source)
    reading = Reading(script, conf, parse(script.body))
    left, loaded = [script.body], {"runs", "DEFAULTS"}
    while left:
        for name in referenced_libraries(left.pop(), libraries) - loaded:
            loaded.add(name)
            source = libraries[name].source
            left += [source.path.read_bytes()] if source else []
    reading.libraries = [libraries[name] for name in sorted(loaded)]
    return reading


def _library(name: str, path: Path, source: Located | None) -> Library:
    text = path.read_bytes()
    syntax = parse(text)
    if source is None:
        # What it evaluates are its own names; `uinst` brings what it shares with `uinc`.
        syntax.sets_more = syntax.reads_more = False
    words = re.findall(VARIABLE, text.decode("utf-8", "replace")) if syntax.reads_more else ()
    return Library(name, syntax, frozenset(words), source)


def _declared(call: Call, file: str) -> tuple[list[Declaration], bool]:
    """Return what a call declares, and whether that is all."""
    words = list(call.arguments)
    template = False
    while call.name == "ref" and words and words[0].text.startswith("-"):
        template |= "t" in words.pop(0).text
    first = _WORD.match(words[0].text) if words else None
    if call.name == "var" and first and not first[2] and words[0].literal:
        return [Declaration(first[1], "var", _at(words[0], file), _span(words), array=True)], True
    found: list[Declaration] = []
    for word in words:
        parsed = _WORD.match(word.text)
        if parsed and (parsed[2] or word.literal):
            name = parsed[1]
            if call.name == "var":
                array = parsed[2] != "="
                found.append(Declaration(name, "var", _at(word, file), word, array))
            elif parsed[2] in (None, "="):
                behind = word.text[parsed.end() :] if parsed[2] else name
                kept = behind if word.literal else None
                found.append(Declaration(name, call.name, _at(word, file), word, file=kept, template=template))
    return found, all(word.literal or _WORD.match(word.text) for word in words)


def _at(word: Argument, file: str) -> Position:
    return Position(file, word.line, word.column)


def _span(words: Sequence[Argument]) -> Argument:
    first = words[0]
    return Argument(first.text, first.literal, first.line, first.column, first.start, words[-1].end)
