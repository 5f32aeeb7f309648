"""The built-in tree: its scripts as work for hosts, for `cron.*`."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import ParamSpec, TypeVar

from runsdeploy.commands.arguments import Arguments
from runsdeploy.commands.inputs import hosts_of, trees_of
from runsdeploy.errors import InputError, Problem
from runsdeploy.rollout.work import Work
from runsdeploy.temporary import make_directory
from runsdeploy.tree.includes import COMMAND_LINE
from runsdeploy.tree.recipe import Entry, Operation
from runsdeploy.tree.trees import Host, Trees

BUILTIN = Path(__file__).parents[2] / "builtin"
"""the tree that is part of runsdeploy"""

_ACCOUNT = re.compile(r"[A-Za-z_][A-Za-z0-9_.@-]{0,63}")

_Given = ParamSpec("_Given")
_Made = TypeVar("_Made")


def gather(
    problems: list[Problem], make: Callable[_Given, _Made], *given: _Given.args, **named: _Given.kwargs
) -> _Made | None:
    """Return the result of a function, or None if it raises InputError; its problems are added to `problems`."""
    try:
        return make(*given, **named)
    except InputError as error:
        problems += error.problems
        return None


def named_hosts(arguments: Arguments) -> list[Host]:
    """Return the selected hosts; without a tree only names can be given."""
    return hosts_of(arguments, _trees(arguments))


def known_hosts(arguments: Arguments) -> list[Host]:
    """Return the hosts that have a directory."""
    return _trees(arguments).hosts()


def _trees(arguments: Arguments) -> Trees:
    """Return the operator's trees, or an empty RUNSPATH if there are none."""
    try:
        return trees_of(arguments)
    except InputError:
        if arguments.path:
            raise
        return Trees(())


@contextmanager
def builtin_work(
    arguments: Arguments, script: str, hosts: Sequence[Host],
    variables: Callable[[Host], Mapping[str, str | Sequence[str]]],
    files: Mapping[str, bytes] | None = None,
) -> Iterator[Work]:  # fmt: skip
    """Yield a script of the built-in tree as work for hosts.

    What is shipped lies in a tree of its own, private and there as long as the work is. The operator's trees say
    which hosts there are and what those are, and no more: a script of theirs that is called alike must not run instead.
    """
    with make_directory("runsdeploy-cron-") as folder:
        for name, content in (files or {}).items():
            (folder / name).write_bytes(content)

        def entries(host: Host) -> tuple[list[Entry], list[Problem]]:
            return [Entry(script, _operations(variables(host)), COMMAND_LINE)], []

        yield Work(Trees((folder, BUILTIN)), hosts, entries, expecting=_trees(arguments))


def _operations(variables: Mapping[str, str | Sequence[str]]) -> tuple[Operation, ...]:
    return tuple(
        Operation(name, "=", (os.fsencode(value),), COMMAND_LINE)
        if isinstance(value, str)
        else Operation(name, "()", tuple(map(os.fsencode, value)), COMMAND_LINE)
        for name, value in variables.items()
    )


def place_of(arguments: Arguments, problems: list[Problem]) -> dict[str, str]:
    """Return the directory and the account of the job runner, as variables of a script."""
    directory, user = arguments.directory or "", arguments.user or ""
    if directory and (not directory.startswith("/") or not is_printable(directory)):
        problems.append(Problem(None, f"bad `--directory` {directory!r}: expected an absolute path"))
    elif directory:
        directory = os.path.normpath(f"/{directory.lstrip('/')}")
        if directory.count("/") < 2:  # noqa: PLR2004
            hint = f"e.g. `{directory.rstrip('/')}/job-runner`"
            problems.append(Problem(None, f"`--directory {directory}` is not for the job runner alone", hint))
    if user and not _ACCOUNT.fullmatch(user):
        problems.append(Problem(None, f"bad `--user` {user!r}: expected the name of an account"))
    return {"directory": directory, "user": user}


def is_printable(text: str) -> bool:
    """Return whether a text has no control characters: neither crontabs nor units can hold them."""
    return all(character.isprintable() or "\udc80" <= character <= "\udcff" for character in text)
