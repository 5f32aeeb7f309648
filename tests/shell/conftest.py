"""Real bash, in a temporary directory, with the bundled libraries."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

LIBRARIES = Path(__file__).parents[2] / "runsdeploy" / "shell" / "lib"
ODD_NAMES = [
    "a b",
    "-n",
    "--help",
    'it\'s "quoted"',
    "new\nline",
    "ends with newline\n",
    "été",
    "$HOME `id`",
    "*",
    "back\\slash",
    "[x]",
    "\\n",
    os.fsdecode(b"latin-\xe9"),
    "tab\tand \x01 control",
]


class Outcome(NamedTuple):
    """What a script said and how it ended; bytes that are not UTF-8 survive."""

    status: int
    out: str
    err: str


Shell = Callable[..., Outcome]


@pytest.fixture
def bash(tmp_path: Path) -> Shell:
    """Run a SCRIPT as `conf strict` would, in the test's directory."""

    def run(
        script: str,
        *args: str | bytes,
        options: str = "set -euo pipefail",
        umask: int = 0o022,
        path: Path | None = None,
        cwd: Path = tmp_path,
    ) -> Outcome:
        load = f"for l in DEFAULTS uinst uinc; do . '{LIBRARIES}'/$l.sh; done"
        env = {
            "PATH": str(path) if path else os.environ["PATH"],
            "LC_ALL": "C.UTF-8",
            "TMPDIR": str(tmp_path),
        }
        done = subprocess.run(
            [shutil.which("bash") or "bash", "-c", f"{options}\n{load}\n{script}", "script", *args],
            cwd=cwd,
            env=env,
            umask=umask,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=False,
            timeout=60,
        )
        return Outcome(done.returncode, os.fsdecode(done.stdout), os.fsdecode(done.stderr))

    return run


@pytest.fixture(params=["", "set -euo pipefail", "set -Eeufo pipefail -C; shopt -s nocasematch failglob; IFS=/e"])
def options(request: pytest.FixtureRequest) -> str:
    """Set what a script may have set before it calls a library."""
    return str(request.param)


@pytest.fixture
def snapshot() -> Callable[[Path], dict[str, tuple[int, ...]]]:
    """Look at everything that a second run must leave as it is, times of change included."""

    def look(root: Path) -> dict[str, tuple[int, ...]]:
        return {
            str(p.relative_to(root)): (p.lstat().st_ino, p.lstat().st_ctime_ns, p.lstat().st_mode)
            for p in [root, *root.rglob("*")]
        }

    return look


@pytest.fixture(params=ODD_NAMES)
def odd_name(request: pytest.FixtureRequest) -> str:
    """Give a name that a file may have and a careless script does not expect."""
    return str(request.param)


@pytest.fixture(params=[name for name in ODD_NAMES if "\n" not in name])
def odd_line(request: pytest.FixtureRequest) -> str:
    """Do the same where a name is a part of one line."""
    return str(request.param)


@pytest.fixture
def busybox_path(tmp_path: Path) -> Path:
    """Make a PATH of busybox's applets and bash, and nothing else."""
    busybox = shutil.which("busybox")
    if busybox is None:
        pytest.fail("busybox is needed to show that the libraries work with its tools: apt-get install busybox")
    directory = tmp_path / "applets"
    directory.mkdir()
    subprocess.run([busybox, "--install", "-s", str(directory)], check=True)
    (directory / "bash").symlink_to(shutil.which("bash") or "/bin/bash")
    return directory
