"""What a start costs: whole processes, as ratios to bare Python and to `import invoke`, and what they load.

python bench/start.py [--runs N] [--top N]. Ends with 1 if a command misses its limit or loads what it must not.
"""

from __future__ import annotations

import argparse
import os
import random
import re
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import NamedTuple

import lab

PYTHON, INVOKE = "python -c pass", "python -c 'import invoke'"
PROGRAM = str(Path(sys.executable).with_name("runsdeploy"))
LINE = f"runsdeploy deploy --host {lab.HOST[:3]}"
TAB = {"_ARGCOMPLETE": "1", "_ARGCOMPLETE_IFS": "\v", "COMP_LINE": LINE, "COMP_POINT": str(len(LINE)),
       "_ARGCOMPLETE_STDOUT_FILENAME": os.devnull}  # fmt: skip
"""what a shell sets at a press of Tab"""


class Start(NamedTuple):
    """One command to start."""

    words: tuple[str, ...]
    to: str = PYTHON
    """what its limit is a ratio to"""
    limit: float = 0.0
    """the goal; 0 for none"""
    settings: dict[str, str] = {}  # noqa: RUF012 - never changed
    ends: int = 0


STARTS = {
    PYTHON: Start((sys.executable, "-c", "pass")),
    INVOKE: Start((sys.executable, "-c", "import invoke")),
    "--version": Start((PROGRAM, "--version"), PYTHON, 3.0),
    "deploy --help": Start((PROGRAM, "deploy", "--help"), INVOKE),
    "hosts": Start((PROGRAM, "hosts"), INVOKE),
    "list": Start((PROGRAM, "list"), INVOKE, 1.3),
    "plan of one host": Start((PROGRAM, "plan", "--host", lab.HOST), INVOKE, 1.3),
    "a press of Tab": Start((PROGRAM,), PYTHON, 8.0, TAB),
}
HEAVY = ("paramiko", "cryptography", "invoke", "jinja2", "rich", "asyncio", "yaml", "dataclasses", "msgspec")
FORBIDDEN = ("paramiko", "cryptography", "invoke", "dataclasses")
"""what a command that does not connect must not load"""
_LINE = re.compile(r"import time:\s+(?P<own>\d+) \|\s+\d+ \|\s+(?P<name>\S+)$")


def main() -> int:
    """Print one table, and what misses its limit."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--runs", type=int, default=15, help="runs of each command, 15 by default")
    parser.add_argument("--top", type=int, default=6, help="packages shown for each command, 6 by default")
    given = parser.parse_args()
    wrong = []
    print(f"{given.runs} runs, in turns; milliseconds of whole processes, median (min); in brackets, one traced run\n")
    print(
        "| command | wall | to Python | to `import invoke` | limit | modules | heavy packages | the dearest packages |"
    )
    print("|---|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory(prefix="runsdeploy-bench-") as folder:
        work = lab.Work(Path(folder), 10)
        walls: dict[str, list[float]] = {name: [] for name in STARTS}
        for turn in range(given.runs + 1):
            for name in random.sample(list(STARTS), len(STARTS)):
                seconds = _time(work.tree, STARTS[name])
                walls[name] += [seconds] if turn else []
        median = {name: lab.median(each) for name, each in walls.items()}
        for name, start in STARTS.items():
            own: dict[str, float] = defaultdict(float)
            modules = _modules(work.tree, start)
            for module, seconds in modules.items():
                own[_package(module)] += seconds
            heavy = ", ".join(package for package in HEAVY if package in own) or "none"
            dearest = sorted(own, key=lambda package: -own[package])[: given.top]
            shown = ", ".join(f"{package} ({own[package] * 1000:.1f})" for package in dearest)
            ratios = [median[name] / median[each] for each in (PYTHON, INVOKE)]
            limit = f"≤ {start.limit:g} x `{start.to}`" if start.limit else "-"
            wall = f"{median[name] * 1000:.0f} ({min(walls[name]) * 1000:.0f})"
            cells = (name, wall, f"{ratios[0]:.2f}", f"{ratios[1]:.2f}", limit, str(len(modules)), heavy, shown)
            print(f"| {' | '.join(cells)} |", flush=True)
            ratio = median[name] / median[start.to]
            wrong += [f"`{name}` is {ratio:.2f} x `{start.to}`"] if start.limit and ratio > start.limit else []
            ours = name not in (PYTHON, INVOKE)
            wrong += [f"`{name}` imports {package}" for package in FORBIDDEN if ours and package in own]
    print("\n" + ("; ".join(wrong) if wrong else f"all within their limits; none imports {', '.join(FORBIDDEN)}"))
    return int(bool(wrong))


def _run(folder: Path, start: Start, *options: str) -> str:
    program, *words = start.words
    command = [sys.executable, *options, program, *words] if program == PROGRAM else [program, *options, *words]
    done = subprocess.run(
        command, cwd=folder, capture_output=True, text=True, check=False, env={**os.environ, **start.settings}
    )
    if done.returncode not in (0, start.ends):
        raise SystemExit(f"{' '.join(command)} ended with {done.returncode}:\n{done.stderr}")
    return done.stderr


def _time(folder: Path, start: Start) -> float:
    began = time.perf_counter()
    _run(folder, start)
    return time.perf_counter() - began


def _modules(folder: Path, start: Start) -> dict[str, float]:
    """Give the modules that are imported with the seconds each took by itself."""
    found = map(_LINE.match, _run(folder, start, "-X", "importtime").splitlines())
    return {line["name"]: int(line["own"]) / 1e6 for line in found if line}


def _package(module: str) -> str:
    """Ours by room, everything else by package."""
    return ".".join(module.split(".")[: 2 if module.startswith("runsdeploy") else 1])


if __name__ == "__main__":
    sys.exit(main())
