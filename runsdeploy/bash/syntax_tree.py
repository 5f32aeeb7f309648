"""The parts of a SCRIPT section, as `section.parse` makes them: commands, their order, what decides between them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields, is_dataclass


@dataclass(frozen=True)
class Command:
    """A simple command, or a test or arithmetic as one word; redirections left out."""

    words: tuple[str, ...]
    line: int


@dataclass(frozen=True)
class Both:
    """`&&` or `||`."""

    operator: str
    left: Node
    right: Node


@dataclass(frozen=True)
class Negated:
    """`!`."""

    body: Node


@dataclass(frozen=True)
class Listed:
    """One after the other."""

    items: tuple[Node, ...]


@dataclass(frozen=True)
class Apart:
    """What runs in processes of its own: subshells, the parts of a pipeline, jobs in the background."""

    kind: str
    """`(`, `|` or `&`"""
    items: tuple[Node, ...]


@dataclass(frozen=True)
class If:
    """`if`, `elif`, `else`."""

    arms: tuple[tuple[Node, Node], ...]
    otherwise: Node | None


@dataclass(frozen=True)
class While:
    """`while` or `until`."""

    until: bool
    condition: Node
    body: Node


@dataclass(frozen=True)
class For:
    """`for NAME in WORDS`; None for words that the section does not give."""

    name: str
    words: tuple[str, ...] | None
    body: Node


@dataclass(frozen=True)
class Case:
    """`case`: bodies with their patterns."""

    word: str
    arms: tuple[tuple[tuple[str, ...], Node], ...]


@dataclass(frozen=True)
class Function:
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
    elif is_dataclass(part):
        for field in fields(part):
            yield from commands(getattr(part, field.name))
