"""Completion of command lines in a shell: what may stand at the cursor. Imports argcomplete.

The shell runs the program once for each Tab, so this reads no more than names, and executes nothing of a tree.
It writes no messages: a tree with errors completes to nothing, and the command itself reports them.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

from runsdeploy.cli.flags import COMMON
from runsdeploy.cli.parser import program
from runsdeploy.cli.settings import resolve
from runsdeploy.cli.table import COMMANDS
from runsdeploy.commands.arguments import Arguments
from runsdeploy.errors import InputError
from runsdeploy.tree.recipe import parse_recipe
from runsdeploy.tree.script import is_script, read_head
from runsdeploy.tree.selection import choices, select
from runsdeploy.tree.trees import Host, Trees, open_trees

Completer = Callable[..., Iterable[str]]


def completion(arguments: Arguments) -> int:
    """Print the code that a shell has to read: the command `completion`."""
    from argcomplete.shell_integration import shellcode  # noqa: PLC0415 - a press of Tab does not need it

    from runsdeploy.output import json  # noqa: PLC0415

    # Without `-o default`: the completion itself says where a file may stand.
    code: str = shellcode(["runsdeploy"], shell=arguments.shell, complete_arguments=["-o", "nospace"]).lstrip("\n")
    if arguments.format == "text":
        sys.stdout.write(code)
    else:
        json.write({"schema": json.SCHEMA, "exit_status": 0, "shell": arguments.shell, "code": code})
    return 0


def answer(line: str) -> NoReturn:
    """Answer a shell, which says in the environment what was typed; does not return.

    `line` is what stands on the command line: only the parser of the command that it names is built.
    """
    from argcomplete import autocomplete  # noqa: PLC0415
    from argcomplete.completers import DirectoriesCompleter, FilesCompleter  # noqa: PLC0415

    files, directories = FilesCompleter(), DirectoriesCompleter()
    by_kind: dict[str, Completer] = {
        "HOST": _in_trees(_hosts),
        "SCRIPT": _in_trees(_scripts),
        "RECIPE": _in_trees(_recipes),
        "FILE": files,
        "PATH": files,
        "DIR": directories,
        "DIRS": directories,
    }
    # The last word may not be whole yet.
    typed = line.split()[1:] if line[-1:].isspace() else line.split()[1:-1]
    command = next((each for word in typed for each in COMMANDS if each.name == word), None)
    parser, flags = program([command] if command else COMMANDS, command)
    for action, flag in flags:
        kind = by_kind.get(flag.metavar) or by_kind.get(flag.key.upper()) or _one_of(flag.choices)
        action.completer = kind  # type: ignore[attr-defined]
    autocomplete(parser, always_complete_options=False)
    raise SystemExit(1)


def _one_of(words: tuple[str, ...]) -> Completer:
    return lambda **_: words


def _in_trees(find: Callable[[Trees, str, Any], Iterator[str]]) -> Completer:
    """Return a completer for names in the trees that the command would use."""

    def completer(prefix: str, parsed_args: argparse.Namespace, **_: object) -> list[str]:
        with suppress(InputError, OSError):
            arguments = resolve(COMMON, vars(parsed_args), Path.cwd())
            trees = open_trees(arguments.path, Path.cwd(), tuple(arguments.allow), trusted=arguments.trust)
            return list(find(trees, prefix, vars(parsed_args).get("host")))
        return []

    return completer


_LAST = re.compile(r"(?P<before>(?:.*[,:])?!?)(?P<word>.*)", re.DOTALL)


def _hosts(trees: Trees, prefix: str, _: object) -> Iterator[str]:
    """Yield the hosts and groups that may end a list such as `web1,!@da`."""
    found = _LAST.fullmatch(prefix)
    before, word = (found["before"], found["word"]) if found else ("", prefix)
    user, at, _name = word.rpartition("@")
    if not (at and user):
        yield from (f"{before}@{name}" for name in trees.groups())
    yield from (f"{before}{user}{at if user else ''}{host.name}" for host in trees.hosts())


def _scripts(trees: Trees, _: str, given: Any) -> Iterator[str]:
    return (name for name, data in _files(trees, given) if is_script(data))


def _recipes(trees: Trees, _: str, given: Any) -> Iterator[str]:
    found = dict(_files(trees, given))
    for name, data in found.items():
        entries, problems = ([], []) if is_script(data) else parse_recipe(data, name)
        # Other files lie beside scripts; a recipe is recognised by the names in it.
        if not problems and any(entry.name.removeprefix("@") in found for entry in entries):
            yield name


def _files(trees: Trees, given: Any) -> Iterator[tuple[str, bytes]]:
    """Yield the names that the typed host can use, and the content of their files."""
    host: Host | None = None
    with suppress(InputError):
        words = choices([given] if isinstance(given, str) else given or [])
        host = select(trees, words)[0] if words else None
    for name, place in trees.names(host):
        yield name, read_head(place.path)
