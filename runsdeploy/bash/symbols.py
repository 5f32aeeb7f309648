"""What a bash text does with names."""

from __future__ import annotations

from msgspec import Struct, field


class Mention(Struct, frozen=True):
    """A variable, read or set."""

    name: str
    line: int
    column: int
    offset: int
    """bytes before it"""
    sure: bool = True
    """False for a read that minds that there may be no value, such as `${x:-80}`"""


class Argument(Struct, frozen=True):
    """A word of a command."""

    text: str
    """its characters up to the first expansion, quotes removed"""
    literal: bool
    """whether that is all of it"""
    line: int
    column: int
    start: int
    end: int
    """offsets of its bytes"""


class Call(Struct, frozen=True):
    """A command that is called by a literal name."""

    name: str
    arguments: tuple[Argument, ...]
    line: int
    column: int
    bare: bool = False
    """whether it is a line of its own, outside of functions, whose status nothing minds"""


class Syntax(Struct):
    """What a text does with names."""

    reads: list[Mention] = field(default_factory=list)
    sets: list[Mention] = field(default_factory=list)
    calls: list[Call] = field(default_factory=list)
    functions: set[str] = field(default_factory=set)
    reads_more: bool = False
    """whether it may read variables that it does not name: `${!x}`, `eval`"""
    sets_more: bool = False
    """whether it may set variables that it does not name: `eval`, `source`"""
