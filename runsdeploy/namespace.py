"""The commands as an invoke collection, for a `tasks.py`: `ns = namespace()`. Imports invoke.

A task of the collection is called like a function too: `ns["deploy"](context, host="web1")`, in a task of the
operator's or as `pre=[call(ns["deploy"], host="web1")]`. A status other than 0 is raised as invoke's Exit.
"""

from __future__ import annotations

import inspect
import keyword
import os
from collections.abc import Iterable
from typing import Any

from invoke.collection import Collection
from invoke.context import Context
from invoke.exceptions import Exit
from invoke.tasks import task

from runsdeploy.cli.flags import Command, Flag
from runsdeploy.cli.main import perform
from runsdeploy.cli.table import COMMANDS


def namespace() -> Collection:
    """Return a collection with every command as a task, with the program's flags; `cron.run` is `run` of `cron`."""
    collection = Collection()
    inner: dict[str, Collection] = {}
    for command in COMMANDS:
        group, _, name = command.name.rpartition(".")
        if group:
            inner.setdefault(group, Collection(group)).add_task(_task(command, name))
        else:
            collection.add_task(_task(command, name))
    for each in inner.values():
        collection.add_collection(each)
    return collection


def _task(command: Command, name: str) -> Any:
    """Make a task whose signature is the command's flags: that is what invoke reads."""
    parameters = [inspect.Parameter("context", inspect.Parameter.POSITIONAL_OR_KEYWORD)]
    parameters += [_parameter(flag) for flag in sorted(command.flags, key=lambda flag: not _required(flag))]
    signature = inspect.Signature(parameters)

    def body(*positional: Any, **named: Any) -> None:
        bound = signature.bind(*positional, **named)
        context: Context = bound.arguments.pop("context")
        typed = {
            flag.key: value
            for flag in command.flags
            if (value := _typed(flag, bound.arguments.get(_variable(flag)))) is not None
        }
        # `invoke --dry deploy` must not do what `invoke deploy` does.
        if context.config.run.dry and any(flag.key == "dry_run" for flag in command.flags):
            typed["dry_run"] = True
        status = perform(command, typed)
        if status:
            raise Exit(code=status)

    body.__signature__ = signature  # type: ignore[attr-defined]
    # Tasks of one name and one code are the same for invoke, which would run only one of `status` and `cron.status`.
    body.__code__ = body.__code__.replace(co_name=command.name)
    body.__doc__ = f"{command.help[0].upper()}{command.help[1:]}."
    return task(
        name=name,
        # invoke would make `-h` of `--host`, which everybody reads as help.
        auto_shortflags=False,
        iterable=[flag.key for flag in command.flags if isinstance(flag.default, tuple)],
        optional=[flag.key for flag in command.flags if flag.bare],
        positional=[flag.key for flag in command.flags if _required(flag)],
        help={flag.key.replace("_", "-"): flag.help for flag in command.flags},
    )(body)


def _required(flag: Flag) -> bool:
    return not flag.name.startswith("-") and flag.default is None


def _variable(flag: Flag) -> str:
    """Return the name of a flag as a parameter."""
    # `--continue` is a word of Python's; invoke takes the underscore off again.
    return f"{flag.key}_" if keyword.iskeyword(flag.key) else flag.key


def _typed(flag: Flag, value: Any) -> Any:
    """Return the value of a parameter as it would have been typed; None if it is empty, as invoke leaves it."""
    if value is None or value is False or value == "":
        return None
    if flag.bare and value is True:
        return str(flag.bare)
    if isinstance(flag.default, tuple):
        # A text is one value: the settings would split it at commas.
        several = isinstance(value, Iterable) and not isinstance(value, str | bytes)
        given = list(value) if several else [value]
        return [os.fspath(each) if isinstance(each, os.PathLike) else each for each in given] or None
    if isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)
    return os.fspath(value) if isinstance(value, os.PathLike) else value


def _parameter(flag: Flag) -> inspect.Parameter:
    """Return a flag as a parameter; its default is empty, which means that it was not typed."""
    if _required(flag):
        default: Any = inspect.Parameter.empty
    elif isinstance(flag.default, bool):
        default = False
    else:
        default = None if isinstance(flag.default, tuple) else ""
    return inspect.Parameter(_variable(flag), inspect.Parameter.POSITIONAL_OR_KEYWORD, default=default)
