"""The bash of this machine: one for CONF sections, local steps and syntax checks.

macOS keeps a bash of 2007 first on PATH, and Homebrew's is elsewhere; so the first one that is new enough is taken.
"""

from __future__ import annotations

import os
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

from runsdeploy.errors import InputError, Problem

VARIABLE = "RUNSDEPLOY_BASH"
"""environment variable that names the bash to ask first, on any machine (bootstrap.sh)"""
FOLDERS = ("/opt/homebrew/bin", "/usr/local/bin")
"""where bash may be besides PATH: Homebrew's places on Apple silicon and on Intel"""
OLDEST = (4, 2)
"""the oldest version that is new enough"""

_TIME_LIMIT = 10.0
"""seconds that a program called `bash` may take to print its version"""

_lock = threading.Lock()
_found: dict[tuple[str, ...], str] = {}


def find_bash() -> str:
    """Return the absolute path of the first bash that is new enough: RUNSDEPLOY_BASH, PATH, FOLDERS.

    Each is asked for its version once in the life of the process. Raises InputError, naming all that were found.
    """
    candidates = tuple(_candidates())
    with _lock:
        if candidates not in _found:
            _found[candidates] = _first(candidates)
        return _found[candidates]


def environment() -> dict[str, str]:
    """Return the variable that makes the bootstrap take the same bash, if one was looked for already."""
    found = _found.get(tuple(_candidates()))
    return {VARIABLE: found} if found else {}


def _candidates() -> Iterator[str]:
    """Yield the absolute paths at which bash may be, each once."""
    folders = [folder for folder in os.environ.get("PATH", os.defpath).split(os.pathsep) if folder]
    paths = [f"{folder}/bash" for folder in (*folders, *FOLDERS)]
    named = os.environ.get(VARIABLE)
    yield from dict.fromkeys(os.path.abspath(path) for path in ([named] if named else []) + paths)  # noqa: PTH100 - links stay


def _first(candidates: tuple[str, ...]) -> str:
    told = []
    for path in candidates:
        if not (Path(path).is_file() and os.access(path, os.X_OK)):
            continue
        version = _version(path)
        if _numbers(version) >= OLDEST:
            return path
        told.append(f"`{path}` is {version or 'no bash'}")
    if not told:
        message = f"no `bash` on this machine: not on PATH, not in {' or '.join(f'`{each}`' for each in FOLDERS)}"
    else:
        message = ", ".join(told)
    oldest = ".".join(map(str, OLDEST))
    hint = f"`brew install bash` on a Mac, or name one by {VARIABLE}"
    raise InputError([Problem(None, f"{message}, expected bash {oldest} or later", hint)])


def _version(path: str) -> str:
    """Return what a bash says its version is; empty if it is none."""
    try:
        done = subprocess.run(
            [path, "--norc", "--noprofile", "-c", 'printf %s "$BASH_VERSION"'],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={"LC_ALL": "C", "PATH": os.defpath},
            timeout=_TIME_LIMIT,
            check=True,
        )
    except subprocess.SubprocessError:
        return ""
    except OSError as error:
        # A limit of this machine says nothing about the file.
        if isinstance(error, PermissionError | FileNotFoundError) or "exec format" in str(error).lower():
            return ""
        raise
    return done.stdout.decode("ascii", "replace")


def _numbers(version: str) -> tuple[int, ...]:
    """Return the first two numbers of a version; nothing if it has none."""
    numbers = version.split(".")[:2]
    return tuple(map(int, numbers)) if all(each.isdigit() for each in numbers) else ()
