"""Symbols: the variables that a bash text reads and sets, the commands it calls, the functions it defines."""

from __future__ import annotations

import re

from msgspec import Struct, field
from msgspec.structs import replace


class Occurrence(Struct, frozen=True):
    """One place where a variable is read or set."""

    name: str
    line: int
    """from 1"""
    column: int
    """in characters, from 1"""
    offset: int
    """in bytes, from 0"""
    required: bool = True
    """False for a read that allows for an unset variable, such as `${x:-80}`"""


class Argument(Struct, frozen=True):
    """A word of a command."""

    text: str
    """its characters up to the first expansion, without quotes"""
    literal: bool
    """whether `text` is the whole word"""
    line: int
    column: int
    start: int
    end: int
    """byte offsets: the first byte, and the one after the last"""


class Call(Struct, frozen=True):
    """A command that is called by a literal name."""

    name: str
    arguments: tuple[Argument, ...]
    line: int
    column: int
    ignored: bool = False
    """whether nothing uses its exit status: it is a line of its own, outside of functions, and not the last one"""
    fed: bool = False
    """whether its standard input is given: a pipeline, a redirection or a here-document, of it or around it"""
    in_function: bool = False


WRAPPERS = frozenset({"sudo", "doas", "env", "nice", "ionice", "nohup", "exec", "time", "quietly"})
"""programs that run the program among their arguments"""


def unwrapped(call: Call) -> Call:
    """Return the call of the program that `sudo`, `env` and the like run; the call itself if it is none of those."""
    if call.name not in WRAPPERS:
        return call
    words = list(call.arguments)
    while words and (words[0].text.startswith("-") or re.match(r"\w+=", words[0].text)):
        words.pop(0)
    if not words or not words[0].literal:
        return call
    return unwrapped(replace(call, name=words[0].text, arguments=tuple(words[1:])))


class Symbols(Struct):
    """All symbols of a text, in its order."""

    reads: list[Occurrence] = field(default_factory=list)
    sets: list[Occurrence] = field(default_factory=list)
    calls: list[Call] = field(default_factory=list)
    functions: set[str] = field(default_factory=set)
    files_read: list[Argument] = field(default_factory=list)
    """files of redirections: `<x`, `$(<x)`"""
    files_written: list[Argument] = field(default_factory=list)
    """files of redirections: `>x`, `>>x`"""
    asked: set[str] = field(default_factory=set)
    """commands that the text asks for before it calls them: `command -v x`, `declare -F x`"""
    reads_more: bool = False
    """whether the text may read variables that it does not name: `${!x}`, `eval`"""
    sets_more: bool = False
    """whether the text may set variables that it does not name: `eval`, `source`"""
    calls_more: bool = False
    """whether the text may define functions that it does not name: `eval`, `source` of a file with more than values"""
