"""Syntax tree: the nodes that `parser.parse` returns, named as in bash(1), SHELL GRAMMAR."""

from __future__ import annotations

from collections.abc import Iterator

from msgspec import Struct


class SimpleCommand(Struct, frozen=True):
    """A simple command, or `[[ … ]]` or `((…))` with its content as one word. Redirections are left out."""

    words: tuple[str, ...]
    """assignments, command name and arguments, unexpanded"""
    line: int


class AndOr(Struct, frozen=True):
    """Two commands with `&&` or `||` between them."""

    operator: str
    left: Node
    right: Node


class Negation(Struct, frozen=True):
    """`! pipeline`."""

    body: Node


class CommandList(Struct, frozen=True):
    """Commands that run one after the other."""

    items: tuple[Node, ...]


class Subshell(Struct, frozen=True):
    """`( list )`."""

    body: Node


class Pipeline(Struct, frozen=True):
    """Two or more commands with `|` between them, each in a process of its own."""

    items: tuple[Node, ...]


class Background(Struct, frozen=True):
    """A command that `&` ends: it runs while the next ones do."""

    body: Node


class If(Struct, frozen=True):
    """`if`, `elif`, `else`."""

    branches: tuple[tuple[Node, Node], ...]
    """conditions with their bodies"""
    otherwise: Node | None


class While(Struct, frozen=True):
    """`while` or `until`."""

    until: bool
    condition: Node
    body: Node


class For(Struct, frozen=True):
    """`for NAME in WORDS`; `words` is None for `for NAME`, which iterates over the positional parameters."""

    name: str
    words: tuple[str, ...] | None
    body: Node


class Case(Struct, frozen=True):
    """`case WORD in`, with the clauses' patterns and bodies."""

    word: str
    clauses: tuple[tuple[tuple[str, ...], Node], ...]


class FunctionDefinition(Struct, frozen=True):
    """`name() { … }`."""

    name: str
    body: Node


class Unparsed(Struct, frozen=True):
    """A command that the parser does not cover, or the rest of a section from the first place that it cannot read."""

    reason: str
    inside: tuple[Node | str, ...]
    """what it may run: the nodes or the text"""


Node = (
    SimpleCommand
    | AndOr
    | Negation
    | CommandList
    | Subshell
    | Pipeline
    | Background
    | If
    | While
    | For
    | Case
    | FunctionDefinition
    | Unparsed
)


def simple_commands(node: Node) -> Iterator[SimpleCommand]:
    """Yield all simple commands of a node, in the order of the text."""
    return (each for each in _parts(node) if isinstance(each, SimpleCommand))


def words(node: Node) -> Iterator[str]:
    """Yield all words of a node: of commands, loops and `case`, names of functions."""
    return (each for each in _parts(node) if isinstance(each, str))


def first_line(node: Node) -> int:
    """Return the line of a node's first simple command, from 1; 0 for a node without one."""
    return next((each.line for each in simple_commands(node)), 0)


def _parts(node: Node) -> Iterator[object]:
    """Yield a node and everything that it consists of, in the order of the text."""
    # Not recursive: sections may be nested deeper than Python allows.
    left: list[object] = [node]
    while left:
        part = left.pop()
        yield part
        if isinstance(part, tuple):
            left += reversed(part)
        elif isinstance(part, Struct):
            left += [getattr(part, name) for name in reversed(part.__struct_fields__)]
