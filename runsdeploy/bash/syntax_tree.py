"""The parts of a SCRIPT section, as `section.parse` makes them: commands, their order, what decides between them."""

from __future__ import annotations

from collections.abc import Iterator

from msgspec import Struct


class Command(Struct, frozen=True):
    """A simple command, or a test or arithmetic as one word; redirections left out."""

    words: tuple[str, ...]
    line: int


class Both(Struct, frozen=True):
    """`&&` or `||`."""

    operator: str
    left: Node
    right: Node


class Negated(Struct, frozen=True):
    """`!`."""

    body: Node


class Listed(Struct, frozen=True):
    """One after the other."""

    items: tuple[Node, ...]


class Apart(Struct, frozen=True):
    """What runs in processes of its own: subshells, the parts of a pipeline, jobs in the background."""

    kind: str
    """`(`, `|` or `&`"""
    items: tuple[Node, ...]


class If(Struct, frozen=True):
    """`if`, `elif`, `else`."""

    arms: tuple[tuple[Node, Node], ...]
    otherwise: Node | None


class While(Struct, frozen=True):
    """`while` or `until`."""

    until: bool
    condition: Node
    body: Node


class For(Struct, frozen=True):
    """`for NAME in WORDS`; None for words that the section does not give."""

    name: str
    words: tuple[str, ...] | None
    body: Node


class Case(Struct, frozen=True):
    """`case`: bodies with their patterns."""

    word: str
    arms: tuple[tuple[tuple[str, ...], Node], ...]


class Function(Struct, frozen=True):
    """The definition of a function."""

    name: str
    body: Node


Node = Command | Both | Negated | Listed | Apart | If | While | For | Case | Function


def commands(part: object) -> Iterator[Command]:
    """Return all simple commands of a part of a section."""
    if isinstance(part, Command):
        yield part
    elif isinstance(part, tuple):
        for each in part:
            yield from commands(each)
    elif isinstance(part, Struct):
        for name in part.__struct_fields__:
            yield from commands(getattr(part, name))
