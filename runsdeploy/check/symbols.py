"""Symbols of scripts, libraries and `runs.conf` files: what their texts declare, read, set and call."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from functools import cache, cached_property
from pathlib import Path

from msgspec import Struct, field

from runsdeploy.bash.symbols import Argument, Call, Symbols
from runsdeploy.bash.treesitter import collect_symbols
from runsdeploy.errors import InputError, Position, Problem, display_path
from runsdeploy.tree.libraries import BUNDLED, referenced_libraries
from runsdeploy.tree.recipe import VARIABLE
from runsdeploy.tree.script import Script
from runsdeploy.tree.text import read_text
from runsdeploy.tree.trees import Located

FACTS = frozenset({"sysname", "sysdist", "sysver", "bits"})
"""the variables of a `sysinfos.conf`"""

_SHELL = Path(__file__).parents[1] / "shell"
_WORD = re.compile(rf"({VARIABLE})(?:(\+=|-=|=)|\Z)", re.ASCII)


class Declaration(Struct, frozen=True):
    """A variable that `var`, `out` or `ref` declares."""

    name: str
    kind: str
    """`var`, `out` or `ref`"""
    position: Position
    word: Argument
    """the whole declaration: `name=value`"""
    array: bool = False
    file: str | None = None
    """the file of `out` or `ref`; None for one that is computed"""
    template: bool = False
    """`ref -t`"""


class Library(Struct, frozen=True):
    """A library that a script may load."""

    name: str
    symbols: Symbols
    words: frozenset[str]
    """all words of its text if it may read variables that it does not name, else none"""
    source: Located | None
    """None for a library that is part of runsdeploy"""

    def may_read(self, name: str) -> bool:
        """Return whether the library may read a variable."""
        return name in self.words or any(each.name == name for each in self.symbols.reads)


class ConfSymbols(Struct, frozen=True):
    """The symbols of a CONF section, a `runs.conf` or a `sysinfos.conf`."""

    source: Located
    text: bytes
    symbols: Symbols
    declared: tuple[Declaration, ...]
    declares_more: bool
    """whether it may declare variables whose names it computes"""

    def reads(self, name: str) -> bool:
        """Return whether the text reads a variable outside of its own declaration, such as `var x="${x:-1}"`."""
        own = [each.word for each in self.declared if each.name == name]
        return any(
            each.name == name and not any(word.start <= each.offset < word.end for word in own)
            for each in self.symbols.reads
        )

    def calls(self, name: str) -> Iterator[Call]:
        """Yield the calls of one function."""
        return (call for call in self.symbols.calls if call.name == name)


class ScriptSymbols(Struct, dict=True):
    """The symbols of a script, of its libraries and of its templates."""

    script: Script
    conf: ConfSymbols
    body: Symbols
    libraries: list[Library] = field(default_factory=list)
    """all libraries that the script may load"""
    template_reads: set[str] = field(default_factory=set)
    """variables that its templates read"""
    template_reads_more: bool = False
    """whether a template may read others, because it does not exist or cannot be parsed"""

    def position(self, line: int, column: int = 0) -> Position:
        """Return a position in the script's file."""
        return self.script.source.at(line, column)

    @cached_property
    def declared_names(self) -> frozenset[str]:
        """Variables that the CONF section declares."""
        return frozenset(each.name for each in self.conf.declared)

    @cached_property
    def functions(self) -> frozenset[str]:
        """Functions that the SCRIPT section can call: its own, and those of libraries."""
        return frozenset(self.body.functions).union(*(each.symbols.functions for each in self.libraries))

    @cached_property
    def assigned_names(self) -> frozenset[str]:
        """Variables that the SCRIPT section or a library sets."""
        every = [self.body, *(each.symbols for each in self.libraries)]
        return frozenset(each.name for symbols in every for each in symbols.sets)

    @cached_property
    def _body_reads(self) -> frozenset[str]:
        words = re.findall(VARIABLE, self.script.body.decode("utf-8", "replace")) if self.body.reads_more else ()
        return frozenset([*words, *(each.name for each in self.body.reads)])

    def body_may_read(self, name: str) -> bool:
        """Return whether the SCRIPT section, a template or a library may read a variable."""
        template = self.template_reads_more or name in self.template_reads
        return template or name in self._body_reads or any(each.may_read(name) for each in self.libraries)

    def may_read(self, name: str) -> bool:
        """Return whether any part of the script, CONF included, may read a variable."""
        return self.body_may_read(name) or any(each.name == name for each in self.conf.symbols.reads)


def collect_conf(text: bytes, source: Located) -> ConfSymbols:
    """Return the symbols of a CONF section, a `runs.conf` or a `sysinfos.conf`."""
    symbols = collect_symbols(text)
    declared: list[Declaration] = []
    declares_more = symbols.sets_more
    for call in symbols.calls:
        if call.name in ("var", "out", "ref"):
            found, whole = _declarations(call, source.shown)
            declared += found
            declares_more |= not whole
    return ConfSymbols(source, text, symbols, tuple(declared), declares_more)


def collect_libraries(own: dict[str, Located]) -> dict[str, Library]:
    """Return all libraries by name; `own` are those of the trees, which take precedence over bundled ones."""
    return _bundled() | {name: _library(name, place.path, place) for name, place in own.items()}


@cache
def _bundled() -> dict[str, Library]:
    paths = {name: _SHELL / ("runs.sh" if name == "runs" else f"lib/{name}.sh") for name in BUNDLED}
    return {name: _library(name, path, None) for name, path in paths.items()}


def collect_script(script: Script, libraries: dict[str, Library]) -> ScriptSymbols:
    """Return the symbols of a script without its templates, whose places only the model knows."""
    conf = collect_conf(script.conf, script.source)
    symbols = ScriptSymbols(script, conf, collect_symbols(script.body))
    left, loaded = [script.body], {"runs", "DEFAULTS"}
    while left:
        for name in referenced_libraries(left.pop(), libraries) - loaded:
            loaded.add(name)
            source = libraries[name].source
            left += [read_text(source.path)] if source else []
    symbols.libraries = [libraries[name] for name in sorted(loaded)]
    return symbols


def _library(name: str, path: Path, source: Located | None) -> Library:
    try:
        text = read_text(path)
    except OSError as wrong:
        message = f"cannot read library `{name}`: {(wrong.strerror or str(wrong)).lower()}"
        raise InputError([Problem(Position(display_path(path)), message)]) from None
    symbols = collect_symbols(text)
    if source is None:
        # Our libraries use `eval` only with names of their own; `uinst` contains what it shares with `uinc`.
        symbols.sets_more = symbols.reads_more = False
    words = re.findall(VARIABLE, text.decode("utf-8", "replace")) if symbols.reads_more else ()
    return Library(name, symbols, frozenset(words), source)


def _declarations(call: Call, file: str) -> tuple[list[Declaration], bool]:
    """Return what a call of `var`, `out` or `ref` declares, and whether that is all."""
    words = list(call.arguments)
    template = False
    while call.name == "ref" and words and words[0].text.startswith("-"):
        template |= "t" in words.pop(0).text
    first = _WORD.match(words[0].text) if words else None
    if call.name == "var" and first and not first[2] and words[0].literal:
        return [Declaration(first[1], "var", _position(words[0], file), _span(words), array=True)], True
    found: list[Declaration] = []
    for word in words:
        parsed = _WORD.match(word.text)
        if parsed and (parsed[2] or word.literal):
            name = parsed[1]
            if call.name == "var":
                array = parsed[2] != "="
                found.append(Declaration(name, "var", _position(word, file), word, array))
            elif parsed[2] in (None, "="):
                value = word.text[parsed.end() :] if parsed[2] else name
                file_name = value if word.literal else None
                at = _position(word, file)
                found.append(Declaration(name, call.name, at, word, file=file_name, template=template))
    return found, all(word.literal or _WORD.match(word.text) for word in words)


def _position(word: Argument, file: str) -> Position:
    return Position(file, word.line, word.column)


def _span(words: Sequence[Argument]) -> Argument:
    """Return all words as one argument."""
    first = words[0]
    return Argument(first.text, first.literal, first.line, first.column, first.start, words[-1].end)
