"""What many of a thing cost: processor time, of markers the time by the clock, as ratios to system tools and a tenth.

python bench/growth.py [--number N]. Ends with 1 if a tenfold work takes more than LINEAR times as long.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PROGRAM = [sys.executable, "-m", "runsdeploy"]
LINEAR = 15.0
"""a tenfold work may take so many times as long: 10, and as much again half for what varies"""
PATIENCE = "600"
"""seconds for one CONF section"""


def spent(*words: str, folder: Path, state: str = "", wall: bool = False) -> float:
    """Run a command; return the seconds of processor time that it and its children took, or those by the clock."""
    began = time.perf_counter()
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(
        words,
        cwd=folder,
        check=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "RUNSDEPLOY_STATE_DIR": state},
    )
    if wall:
        return time.perf_counter() - began
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def data(tree: Path, number: int) -> None:
    """Write files of 2 kB."""
    for each in range(number):
        path = tree / f"scripts/data/d{each // 1000}/f{each}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(os.urandom(1000).hex().encode())


def directory(tree: Path, number: int) -> None:
    """One `ref` of a directory."""
    data(tree, number)
    (tree / "scripts/s").write_text("ref d=data\nscript:\n:\n")


def refs(tree: Path, number: int) -> None:
    """As many `ref` as files, in one section."""
    data(tree, number)
    lines = [f"ref x{each}=data/d{each // 1000}/f{each}\n" for each in range(number)]
    (tree / "scripts/s").write_text(f"{''.join(lines)}script:\n:\n")


def markers(tree: Path, number: int) -> None:
    """One marker with a value of ten bytes for each."""
    (tree / "scripts/s").write_text(
        f'script:\nprintf -v v \'%0{number * 10}d\' 7\nsetdone sub "$v"\nshouldrun sub "$v" || :\n'
    )


def groups(tree: Path, number: int) -> None:
    """A recipe of levels, each including the next twice."""
    (tree / "scripts/s").write_text("script:\n:\n")
    levels = max(number // 1000, 2)
    for each in range(levels):
        after = f"@level{each + 1}\n" * 2 if each + 1 < levels else "h\n"
        path = tree / f"groups/level{each}"
        path.parent.mkdir(exist_ok=True)
        path.write_text(after)


WORK: dict[str, Callable[[Path, int], None]] = {
    "directory": directory, "refs": refs, "markers": markers, "groups": groups
}  # fmt: skip


def measure(name: str, number: int) -> tuple[float, float]:
    """Return the seconds of a plan without those of an empty one, and of `sha256sum` on what it ships."""
    with tempfile.TemporaryDirectory() as made:
        tree = Path(made)
        (tree / "scripts").mkdir()
        (tree / "hosts/h").mkdir(parents=True)
        (tree / "hosts/h/default").write_text("s\n")
        (tree / "scripts/s").write_text("script:\n:\n")
        verb = ("deploy", "--local") if name == "markers" else ("plan",)
        plan = (*PROGRAM, "-C", made, "--conf-timeout", PATIENCE, *verb, "--host")
        # The runner of a deploy is no child of ours: its processor time is not counted.
        wall = name == "markers"
        start = min(spent(*plan, "h", folder=ROOT, state=f"{made}/state", wall=wall) for _ in range(2))
        WORK[name](tree, number)
        host = "@level0" if name == "groups" else "h"
        took = spent(*plan, host, folder=ROOT, state=f"{made}/state", wall=wall) - start
        read = ("sh", "-c", "find scripts -type f | xargs sha256sum")
        return max(took, 0.05), spent(*read, folder=tree)


def main() -> int:
    """Print one table, and what grows faster than its work."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--number", type=int, default=20_000, help="how many of each")
    parser.add_argument("what", nargs="*", help=f"of {', '.join(WORK)}; all by default")
    chosen = parser.parse_args()
    print("| work | seconds | / sha256sum | / a tenth of it |\n| --- | --- | --- | --- |")
    failed = False
    for name in chosen.what or WORK:
        small, _ = measure(name, chosen.number // 10)
        large, tools = measure(name, chosen.number)
        files = name in ("directory", "refs")
        # Below half a second, a ratio says nothing.
        missed = large / small > LINEAR and large > 0.5  # noqa: PLR2004
        failed = failed or missed
        ratio = f"{large / tools:.1f}" if files else ""
        print(f"| {name} | {large:.2f} | {ratio} | {large / small:.1f}{' (more than linear)' if missed else ''} |")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
