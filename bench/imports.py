"""What commands load before they do anything: seconds, modules, and the packages that cost most.

python bench/imports.py [--runs N] [--top N]. Ends with 1 if a command loads what it must not.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path

import lab

COMMANDS: dict[str, tuple[str, ...]] = {
    "list": ("list",),
    "plan": ("plan", "--host", lab.HOST),
    "deploy --help": ("deploy", "--help"),
}
HEAVY = ("paramiko", "cryptography", "invoke", "jinja2", "rich", "asyncio", "yaml")
FORBIDDEN = ("paramiko", "cryptography")
"""what a command that does not connect must not load"""
_LINE = re.compile(r"import time:\s+(?P<own>\d+) \|\s+\d+ \|\s+(?P<name>\S+)$")


def main() -> int:
    """Print one table, and what is loaded against the rule."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--runs", type=int, default=11, help="runs of each command, 11 by default")
    parser.add_argument("--top", type=int, default=8, help="packages shown for each command, 8 by default")
    given = parser.parse_args()
    wrong = []
    print(f"{given.runs} runs; milliseconds of the whole process, median (min); in brackets, of one traced run\n")
    print("| command | wall | modules | heavy packages | the dearest packages |")
    print("|---|---|---|---|---|")
    with tempfile.TemporaryDirectory(prefix="runsdeploy-bench-") as folder:
        work = lab.Work(Path(folder), 10)
        for name, words in (("nothing but Python", ()), *COMMANDS.items()):
            walls = [_time(work.tree, words) for _ in range(given.runs)]
            modules = _modules(work.tree, words)
            own: dict[str, float] = defaultdict(float)
            for module, seconds in modules.items():
                own[_package(module)] += seconds
            heavy = [package for package in HEAVY if package in own]
            dearest = sorted(own, key=lambda package: -own[package])[: given.top]
            shown = ", ".join(f"{package} ({own[package] * 1000:.1f})" for package in dearest)
            wall = f"{lab.median(walls) * 1000:.0f} ({min(walls) * 1000:.0f})"
            print(f"| {name} | {wall} | {len(modules)} | {', '.join(heavy) or 'none'} | {shown} |", flush=True)
            wrong += [f"`{name}` imports {package}" for package in FORBIDDEN if package in own]
    print("\n" + ("; ".join(wrong) if wrong else f"no command here imports {' or '.join(FORBIDDEN)}"))
    return int(bool(wrong))


def _command(words: tuple[str, ...], *options: str) -> list[str]:
    return [sys.executable, *options, *(("-m", "runsdeploy", *words) if words else ("-c", "pass"))]


def _run(folder: Path, command: list[str]) -> str:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {done.returncode}:\n{done.stderr}")
    return done.stderr


def _time(folder: Path, words: tuple[str, ...]) -> float:
    began = time.perf_counter()
    _run(folder, _command(words))
    return time.perf_counter() - began


def _modules(folder: Path, words: tuple[str, ...]) -> dict[str, float]:
    """Give the modules that are imported with the seconds each took by itself."""
    found = map(_LINE.match, _run(folder, _command(words, "-X", "importtime")).splitlines())
    return {line["name"]: int(line["own"]) / 1e6 for line in found if line}


def _package(module: str) -> str:
    """Ours by module, everything else by package."""
    return ".".join(module.split(".")[: 2 if module.startswith("runsdeploy") else 1])


if __name__ == "__main__":
    sys.exit(main())
