"""The commands as an invoke collection, for a `tasks.py`: `ns = namespace()`. Imports invoke."""

from __future__ import annotations

import inspect
import keyword
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

    def body(context: Context, **given: Any) -> None:
        # `invoke --dry deploy` must not do what `invoke deploy` does.
        if "dry_run" in given and context.config.run.dry:
            given["dry_run"] = True
        typed = {key.rstrip("_"): value for key, value in given.items() if value not in ("", [])}
        typed |= {flag.key: str(flag.bare) for flag in command.flags if flag.bare and given[flag.key] is True}
        status = perform(command, typed)
        if status:
            raise Exit(code=status)

    parameters = [inspect.Parameter("context", inspect.Parameter.POSITIONAL_OR_KEYWORD)]
    parameters += [_parameter(flag) for flag in sorted(command.flags, key=lambda flag: not _required(flag))]
    body.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
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


def _parameter(flag: Flag) -> inspect.Parameter:
    """Return a flag as a parameter; its default is empty, which means that it was not typed."""
    if _required(flag):
        default: Any = inspect.Parameter.empty
    elif isinstance(flag.default, bool):
        default = False
    else:
        default = None if isinstance(flag.default, tuple) else ""
    # `--continue` is a word of Python's; invoke takes the underscore off again.
    name = f"{flag.key}_" if keyword.iskeyword(flag.key) else flag.key
    return inspect.Parameter(name, inspect.Parameter.POSITIONAL_OR_KEYWORD, default=default)
