"""Mistyped words: what on a command line no flag takes, and what was probably meant.

Loaded only for a command line that cannot be parsed, or that may mean something else.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence

from msgspec import Struct

from runsdeploy.cli import habits
from runsdeploy.cli.flags import COMMON, FALSE, TRUE, Command, Flag
from runsdeploy.cli.table import COMMANDS
from runsdeploy.errors import Problem, did_you_mean

NEVER_SUGGESTED = frozenset(
    {"--trust", "--allow", "--accept-new", "--force", "--no-verify-sysinfos", "--as-root", "--yes"}
)
"""flags that switch a protection off: a mistyped flag must not lead to one"""

ALWAYS = ("--help", "-h", "--version", "-V")
"""flags of the program itself"""

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_OPERATION = re.compile(rf"{_NAME.pattern}[+-]?=.*", re.DOTALL)


class _Stray(Struct, frozen=True):
    """Words that are no flags and no values of flags, and what stands before them."""

    words: tuple[str, ...]
    flag: Flag | None = None
    """the flag before them, if there is one"""
    value: str = ""
    """its value"""


def problems(command: Command, words: Sequence[str]) -> list[Problem]:
    """Return the problems of the words that follow a command, with what was probably meant."""
    found: list[Problem] = []
    strays = list(_strays(command, words, found))
    places = [flag for flag in command.flags if not flag.name.startswith("-")]
    for flag in places:
        if not strays:
            if flag.default is None and not found:
                found.append(Problem(None, f"no {flag.metavar} given: {flag.help}", _see(command)))
            continue
        taken, strays = strays[0], strays[1:]
        if flag.apart and taken.flag and isinstance(taken.flag.default, tuple):
            hint = f"{_hint(command, taken)} to make a tree there, write it first: `{command.name} {taken.words[0]} …`"
            found.append(_unexpected(taken, hint))
        elif len(taken.words) > 1:
            rest = _Stray(taken.words[1:], taken.flag, taken.value)
            joined = ",".join(taken.words)
            hint = f"did you mean `{command.name} {joined}`?" if flag.metavar == "HOST" else _hint(command, rest)
            found.append(_unexpected(rest, hint))
    return [*found, *(_unexpected(stray, _hint(command, stray)) for stray in strays)]


def unknown_before_command(name: str) -> Problem:
    """Return the problem of a flag that is not one for all commands, where the command should stand."""
    if any(name in (flag.name, *flag.aliases) for command in COMMANDS for flag in command.flags):
        return Problem(None, f"flag `{name}` belongs to a command", f"write it after the command: `COMMAND {name}`")
    every = {flag.name for command in COMMANDS for flag in command.flags}
    hint = habits.flag_hint(name, every) or _resembling(name, [*(flag.name for flag in COMMON), *ALWAYS])
    return Problem(None, f"unknown flag `{name}`", hint or "see `runsdeploy --help`")


def no_value(name: str, see: str) -> Problem:
    """Return the problem of a flag that nothing follows."""
    return Problem(None, f"flag `{name}` needs a value", see)


def _see(command: Command) -> str:
    return f"see `runsdeploy {command.name} --help`"


def _strays(command: Command, words: Sequence[str], found: list[Problem]) -> Iterator[_Stray]:
    """Yield the words that are no flags and no values; problems of flags are added to `found`."""
    flags = {name: flag for flag in command.flags for name in (flag.name, *flag.aliases) if name.startswith("-")}
    left, flag, value = list(words), None, ""
    while left:
        plain = [left.pop(0)]
        if not _looks_like_flag(plain[0]):
            while left and not _looks_like_flag(left[0]):
                plain.append(left.pop(0))
            yield _Stray(tuple(plain), flag, value)
            continue
        name, equals, value = plain[0].partition("=")
        flag = flags.get(name)
        if flag is None:
            found += _unknown(command, name, flags)
            while left and not _looks_like_flag(left[0]):
                left.pop(0)  # may be its values
        elif isinstance(flag.default, bool):
            if equals or (left and left[0].lower() in (TRUE | FALSE) - {""}):
                found.append(_switch(name, value if equals else left.pop(0)))
        elif not equals and left and not _looks_like_flag(left[0]):
            value = left.pop(0)
        elif not equals and flag.bare is None:
            found.append(no_value(name, _see(command)))


def _looks_like_flag(word: str) -> bool:
    """Say whether argparse takes a word for a flag: not `-`, a negative number, or a text with a space in it."""
    return len(word) > 1 and word.startswith("-") and " " not in word and not re.fullmatch(r"-\d*\.?\d+", word)


def _unknown(command: Command, name: str, flags: Mapping[str, Flag]) -> Iterator[Problem]:
    """Yield the problems of a flag that a command does not have, or of short flags in one word."""
    first = flags.get(name[:2])
    if not name.startswith("--") and first and isinstance(first.default, bool):
        for letter in (f"-{char}" for char in name[1:]):
            if letter not in flags:
                hint = habits.flag_hint(letter, flags) or _see(command)
                yield Problem(None, f"unknown flag `{letter}` in `{name}`", hint)
        return
    hint = habits.flag_hint(name, flags)
    if name in ALWAYS:
        hint = f"write it alone: `runsdeploy {name}`"
    elif name.startswith("-C"):
        hint = f"write it before the command: `runsdeploy -C {name[2:] or 'DIR'} {command.name}`"
    yield Problem(None, f"unknown flag `{name}`", hint or _resembling(name, [*flags, *ALWAYS]) or _see(command))


def _switch(name: str, value: str) -> Problem:
    hint = "leave the flag out" if value.lower() in FALSE else f"write `{name}` alone"
    return Problem(None, f"flag `{name}` takes no value, found `{value}`", hint)


def _unexpected(stray: _Stray, hint: str) -> Problem:
    several = "s" if len(stray.words) > 1 else ""
    return Problem(None, f"unexpected word{several} `{' '.join(stray.words)}`", hint)


def _hint(command: Command, stray: _Stray) -> str:
    """Return what was meant by words that nothing takes: it depends on the flag whose value they follow."""
    meant, flag, value, words = "", stray.flag, stray.value, stray.words
    if flag is None or isinstance(flag.default, bool):
        pass
    elif flag.metavar == "HOST" and flag.default is None:
        return f"`{command.name}` takes one host"
    elif flag.metavar == "HOST":
        meant = f"--host {shlex.quote(','.join(each.strip(',') for each in (value, *words)))}"
    elif flag.name == "--set":
        meant = _set(value, words)
    elif isinstance(flag.default, tuple):
        meant = " ".join(f"{flag.name} {shlex.quote(each)}" for each in (value, *words))
    elif flag.name == "--path":
        meant = f"--path {shlex.quote(':'.join((value, *words)))}"
    elif flag.text:
        meant = f"{flag.name} {shlex.quote(' '.join((value, *words)))}"
    if not meant:
        meant = f"{'--script' if '/' in words[0] else '--host'} {shlex.quote(words[0])}"
        if meant.split()[0] not in [each.name for each in command.flags]:
            return _see(command)
    return f"did you mean `{meant}`?"


def _set(value: str, words: Sequence[str]) -> str:
    """Return the operation, or operations, of `--set` whose words were not quoted."""
    if words[0] in ("=", "+=", "-=") or value.endswith("="):
        return f"--set {shlex.quote(value + words[0] + ' '.join(words[1:]))}"
    if all(_OPERATION.fullmatch(word) for word in words):
        return " ".join(f"--set {shlex.quote(each)}" for each in (value, *words))
    if len(words) == 1 and _NAME.fullmatch(value):
        return f"--set {shlex.quote(f'{value}={words[0]}')}"
    return f"--set {shlex.quote(' '.join((value, *words)))}"


def _resembling(word: str, flags: Iterable[str]) -> str:
    """Return the hint to the flag that is most alike, if it may be suggested: never the second best in its place."""
    hint = did_you_mean(word, [flag for flag in flags if flag.startswith("-")])
    return "" if any(f"`{flag}`" in hint for flag in NEVER_SUGGESTED) else hint
