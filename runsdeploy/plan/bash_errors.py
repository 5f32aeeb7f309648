"""Errors that bash itself reports: syntax errors, and the reason why a section ended its shell.

bash prints them among the other output of a section. Only the beginning of a line tells them apart.
"""

from __future__ import annotations

import os
import re
import subprocess
import threading
from collections.abc import Iterable, Iterator
from functools import cache

from runsdeploy.errors import Position, Problem
from runsdeploy.plan.workdir import HERE, WorkDirectory
from runsdeploy.transport.local_bash import find_bash
from runsdeploy.tree.encoding import bash_encoding_problem
from runsdeploy.tree.script import Script

KILLED = "the section killed its shell (status {})"
"""message for a section that ended without a reason"""

_MESSAGE = re.compile(r": line (\d+): (.*)")
_SYNTAX = re.compile(HERE + r"/section/(\d+): line (\d+): ((?:syntax error|unexpected EOF|warning: here-document).*)")
_LAST_MESSAGE = re.compile(HERE + r"/section/(\d+): line (\d+): (.*)")
_FATAL = frozenset(map(KILLED.format, (1, 2, 127)))
"""statuses with which bash ends by itself: `${x:?}`, an unset variable under `set -u`, an expansion it cannot parse"""
_ARRAY = re.compile(rb"\bvar\s+([A-Za-z_]\w*)=\(([^()]*)\)?")
_HERE_DOCUMENT = re.compile(r"warning: here-document at line (\d+)")
"""names the line where a here-document without an end begins"""


def conf_errors(workdir: WorkDirectory, output: str) -> Iterator[Problem]:
    """Yield the first syntax error of each section that was evaluated; bash stopped to read the section there."""
    seen: set[str] = set()
    for line in output.splitlines():
        found = _SYNTAX.match(line)
        if found and found[1] not in seen:
            seen.add(found[1])
            at = workdir.position(int(found[1]), _line(found[2], found[3]))
            section = (workdir.root / "section" / found[1]).read_bytes()
            yield Problem(at, f"bash: {found[3]}", _array_hint(section, at.line))


def _array_hint(section: bytes, line: int) -> str:
    """Return how to write an array with `var`, if the line has bash's own syntax for it; else nothing."""
    found = _ARRAY.search(section.split(b"\n")[line - 1])
    values = " ".join(found[2].decode("utf-8", "replace").split()) if found else ""
    return f"write `var {found[1].decode()} {values}".rstrip() + "`" if found else ""


def fatal_error(workdir: WorkDirectory, output: str, problem: Problem) -> Problem:
    """Return the last message of bash if bash itself ended the shell (`problem` is KILLED then), else `problem`."""
    lines = output.splitlines() if problem.message in _FATAL else []
    messages = (_LAST_MESSAGE.match(line) for line in reversed(lines))
    found = next(filter(None, messages), None)
    return Problem(workdir.position(int(found[1]), int(found[2])), f"bash: {found[3]}") if found else problem


def script_errors(script: Script, output: str) -> Iterator[Problem]:
    """Yield the first syntax error of a SCRIPT section."""
    found = _MESSAGE.search(output)
    if found:
        line = min(_line(found[1], found[2]), script.body.count(b"\n") + 1)
        yield Problem(script.source.at(line), f"bash: {found[2]}")


def unparsed(at: Position, status: int, said: str = "") -> Problem:
    """Return the problem of a text that bash has not parsed, for no reason of the text."""
    lines = said.strip().splitlines()
    why = f": {lines[-1]}" if lines else ""
    return Problem(at, f"`bash -n` ended with status {status}{why}, so this is not parsed")


_one_at_a_time = threading.Lock()


def syntax_errors_in(file: str, text: bytes) -> tuple[Problem, ...]:
    """Return the syntax errors of one text, cached: the plans of many hosts ship the same libraries."""
    # Plans are made side by side, and each text is parsed once.
    with _one_at_a_time:
        return _cached_errors(file, text)


@cache
def _cached_errors(file: str, text: bytes) -> tuple[Problem, ...]:
    return tuple(find_syntax_errors([(file, text)]))


def find_syntax_errors(texts: Iterable[tuple[str, bytes]]) -> Iterator[Problem]:
    """Yield the first syntax error of each text, found by `bash -n`, or that it is no unix text.

    Each text comes with the name of its file.

    Raises InputError without bash.
    """
    bash = find_bash()

    def parse(each: tuple[str, bytes]) -> Problem | None:
        file, text = each
        if wrong := bash_encoding_problem(text, file):
            return wrong
        # extglob: a script may enable it itself, but `-n` does not run that line. Without `env`, BASH_ENV would be run.
        done = subprocess.run(
            [bash, "--norc", "--noprofile", "-O", "extglob", "-n"],
            input=text,
            capture_output=True,
            env={"LC_ALL": "C", "PATH": os.defpath},
            check=False,
        )
        said = done.stderr.decode("utf-8", "replace")
        found = _MESSAGE.search(said)
        if found:
            return Problem(Position(file, _line(found[1], found[2])), f"bash: {found[2]}")
        return unparsed(Position(file, 1), done.returncode, said) if done.returncode else None

    from concurrent.futures import ThreadPoolExecutor  # noqa: PLC0415 - 10 ms, and few plans have libraries

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        yield from filter(None, pool.map(parse, texts))


def _line(number: str, message: str) -> int:
    """Return the line of an error; for a here-document without an end, the line where it begins."""
    begins = _HERE_DOCUMENT.match(message)
    return int(begins[1] if begins else number)
