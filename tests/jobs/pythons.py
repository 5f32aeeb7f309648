"""The interpreters of this machine that the job runner must work with."""

from __future__ import annotations

import functools
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

_OLDEST = (3, 6)
_ASK = "import sys; print(*sys.version_info[:3])"


@functools.cache
def pythons() -> list[str]:
    """Return one executable for each version from 3.6 on, oldest first; the one of the tests among them."""
    found = {sys.version_info[:3]: sys.executable}
    for path in _candidates():
        version = _version(path)
        if version is not None and version >= _OLDEST:
            found.setdefault(version, str(path))
    return [found[version] for version in sorted(found)]


def _candidates() -> Iterator[Path]:
    root = Path(os.environ.get("PYENV_ROOT") or "~/.pyenv").expanduser()
    yield from sorted(root.glob("versions/*/bin/python"))
    for place in ["/usr/bin", *filter(os.path.isabs, os.get_exec_path())]:
        yield from sorted(path for path in Path(place).glob("python3*") if re.fullmatch(r"python3(\.\d+)?", path.name))


def _version(path: Path) -> tuple[int, int, int] | None:
    argv = [path, "-I", "-c", _ASK]
    try:
        answer = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, timeout=20, check=True).stdout
        major, minor, micro = (int(word) for word in answer.split())
    except (OSError, ValueError, subprocess.SubprocessError):
        return None  # a shim of a version that is not switched on, a broken link
    return major, minor, micro
