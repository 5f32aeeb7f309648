"""The values of flags: from the command line, else the environment, else configuration files, else the default.

The files are invoke's own kind, named `runsdeploy.yaml`, `.yml`, `.json` or `.py`: beside the tree, in the
home directory (with a dot before the name), in /etc; the nearest wins. invoke is loaded only if there is one.
Each of them can be code, like a tree: none is read before it is vouched for (`tree.trust`), and none can set `trust`.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from runsdeploy.cli.flags import FALSE, LARGEST, TRUE, Flag
from runsdeploy.commands.arguments import Arguments
from runsdeploy.errors import InputError, Problem, did_you_mean
from runsdeploy.tree.trust import Trust

SUFFIXES = ("yaml", "yml", "json", "py")
OTHERS = frozenset(f"RUNSDEPLOY_{each}" for each in ("STATE_DIR", "BASH", "SETTINGS", "RUN", "JOB", "JOBS_LOCALE"))
"""variables that stand for no flag: the state directory, and the environment of the job runner's jobs"""
TESTS = "RUNSDEPLOY_TEST"
"""prefix of the test suite's variables"""


def resolve(
    flags: Iterable[Flag], given: Mapping[str, Any], start: str | Path, every: Iterable[Flag] = ()
) -> Arguments:
    """Return the value of every flag; raises InputError for bad values.

    `every` are the flags of all commands, which share files and environment: a name that is none of theirs is an error.
    """
    trusted = bool(given.get("trust") or os.environ.get("RUNSDEPLOY_TRUST", "").lower() in TRUE)
    known = {flag.key for flag in every}
    problems = list(_unknown(known)) if known else []
    files: Mapping[str, Any] = {}
    try:
        files = {key: value for key, value in _files(Path(start), known, trusted=trusted).items() if key != "trust"}
    except InputError as error:
        problems += error.problems
    values: dict[str, Any] = {}
    for flag in flags:
        name = f"RUNSDEPLOY_{flag.key.upper()}"
        typed = given.get(flag.key)
        if typed not in (None, False, [], ()):
            value, source = typed, flag.name
        elif name in os.environ:
            value, source = os.environ[name], name
        elif flag.key == "path" and "RUNSPATH" in os.environ:
            value, source = os.environ["RUNSPATH"], "RUNSPATH"
        else:
            value, source = files.get(flag.key, flag.default), f"configuration key {flag.key}"
        try:
            values[flag.key] = _convert(flag, value)
        except ValueError as error:
            problems.append(Problem(None, f"bad value `{value}` of `{source}`: {error}"))
    if ssh_config := values.get("ssh_config"):
        # It can name commands to run. What it includes, and the operator's own file, are checked by ssh.
        trust = Trust(any_owner=trusted, why="an ssh configuration can run commands")
        problems += trust.owner_problems(Path(start, ssh_config))
    if problems:
        raise InputError(problems)
    return Arguments(values)


def _unknown(known: Iterable[str]) -> Iterator[Problem]:
    """Yield a problem for each `RUNSDEPLOY_` variable that nothing reads: a misspelt one would silently do nothing."""
    names = [f"RUNSDEPLOY_{key.upper()}" for key in known]
    for name in sorted(os.environ):
        if name.startswith("RUNSDEPLOY_") and name not in OTHERS and name not in names and not name.startswith(TESTS):
            hint = did_you_mean(name, [*names, *OTHERS]) or "a variable is the name of a flag, in capitals"
            yield Problem(None, f"unknown environment variable `{name}`", hint)


def _convert(flag: Flag, value: Any) -> Any:
    """Convert a value to the type of the flag; raises ValueError."""
    if value is None:
        return None
    if isinstance(flag.default, bool):
        if isinstance(value, str) and value.lower() not in TRUE | FALSE:
            raise ValueError("expected yes or no")
        return value.lower() in TRUE if isinstance(value, str) else bool(value)
    if isinstance(flag.default, tuple):
        items = value.split(",") if isinstance(value, str) and value else value or ()
        if not isinstance(items, list | tuple) or not all(isinstance(item, str) for item in items):
            raise ValueError("expected a text or a list of texts")
        return tuple(items)
    if isinstance(flag.default, int | float):
        return _number(flag, value)
    if not isinstance(value, str | int):
        raise ValueError("expected a text")  # noqa: TRY004
    text = str(value)
    if flag.choices and text not in flag.choices:
        raise ValueError(f"expected one of {', '.join(flag.choices)}")
    return text


def _number(flag: Flag, value: Any) -> float:
    kind = type(flag.default)
    try:
        number: float = kind(value)
    except (TypeError, ValueError, OverflowError):
        raise ValueError("expected a number") from None
    if isinstance(value, bool) or (isinstance(value, float) and number != value):
        raise ValueError("expected a number")
    if not 0 <= number <= LARGEST or (flag.default and not number):
        raise ValueError(f"expected a number {'above' if flag.default else 'from'} zero and at most {LARGEST}")
    return number


def _files(start: Path, known: Collection[str], *, trusted: bool) -> Mapping[str, Any]:
    """Return the content of the configuration files; raises InputError if another user could have written one."""
    project = next(
        (
            folder
            for folder in (start, *start.parents)
            if any((folder / f"runsdeploy.{end}").is_file() for end in SUFFIXES)
        ),
        None,
    )
    beside = [project / "runsdeploy"] if project else []
    stems = [*beside, Path("/etc/runsdeploy"), Path("~/.runsdeploy").expanduser()]
    files = [path for stem in stems for end in SUFFIXES if (path := stem.with_name(f"{stem.name}.{end}")).is_file()]
    if not files:
        return {}
    trust = Trust(any_owner=trusted, why="a configuration file can be code")
    if problems := [problem for path in files for problem in trust.owner_problems(path)]:
        raise InputError(problems)
    from runsdeploy.cli.configuration import load  # noqa: PLC0415 - costs an import of invoke, seldom needed

    return load(project, frozenset(map(str, files)), known)
