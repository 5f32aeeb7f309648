"""Grammar: what bash itself says of a text that it parses and does not run."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterable, Iterator
from functools import cache

from runsdeploy.errors import InputError, Position, Problem

_SAID = re.compile(r"line (\d+): (.*)")
_OPENED = re.compile(r"warning: here-document at line (\d+)")
"""where a here-document began that has no end"""


@cache
def wrong_in(file: str, text: bytes) -> tuple[Problem, ...]:
    """Return what `wrong` says of one text, asked once: the plans of many hosts ship the same libraries."""
    return tuple(wrong([(file, text)]))


def wrong(texts: Iterable[tuple[str, bytes]]) -> Iterator[Problem]:
    """Yield the first thing in each text, named by its file, that bash cannot parse; raises InputError without bash."""
    bash = shutil.which("bash")
    if bash is None:
        raise InputError([Problem(None, "no `bash` on this machine's PATH, needed to read scripts")])

    def parse(each: tuple[str, bytes]) -> Problem | None:
        file, text = each
        # extglob: scripts may turn it on themselves, and that line is not run. BASH_ENV would be run.
        done = subprocess.run(
            [bash, "--norc", "--noprofile", "-O", "extglob", "-n"],
            input=text,
            capture_output=True,
            env={"LC_ALL": "C", "PATH": os.defpath},
            check=False,
        )
        found = _SAID.search(done.stderr.decode("utf-8", "replace"))
        if not found:
            return None
        opened = _OPENED.match(found[2])
        return Problem(Position(file, int(opened[1] if opened else found[1])), f"bash: {found[2]}")

    from concurrent.futures import ThreadPoolExecutor  # noqa: PLC0415 - 10 ms, and few plans have libraries

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        yield from filter(None, pool.map(parse, texts))
