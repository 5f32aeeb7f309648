"""Crashes on purpose: one act of the driver, killed at, or failed by, one of its calls to the system, by strace."""

import functools
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

FULL = bool(os.environ.get("RUNSDEPLOY_TEST_FULL"))
CHANGING = ["write", "pwrite64", "fsync", "fdatasync", "ftruncate", "rename", "renameat", "renameat2", "unlink"]
CHANGING += ["unlinkat", "rmdir", "link", "linkat", "symlink", "symlinkat", "mkdir", "mkdirat", "chmod", "fchmod"]
CHANGING += ["fchmodat", "chown", "fchown", "lchown", "fchownat", "utimensat"]
"""calls that change files; what lies between two of them is one state"""
_CALL = re.compile(r"(?:\d+ +)?(\w+)\((.*)")
_REPOSITORY = Path(__file__).parents[2]


@functools.cache
def why_not():
    """Return why nothing can be traced here, or nothing."""
    if not shutil.which("strace"):
        return "strace is not installed"
    argv = ["strace", "-qq", "-o", "/dev/null", "-e", "inject=unlink:signal=KILL:when=1", "true"]
    done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=20)
    return f"strace cannot trace here: {done.stderr.strip()}" if done.returncode else ""


class Program:
    """The driver with a copy of the runner, which nobody changes while calls are counted."""

    def __init__(self, base):
        self.base = base
        shutil.copytree(_REPOSITORY / "runsdeploy/jobs", base / "runsdeploy/jobs")
        (base / "tests/jobs").mkdir(parents=True)
        for name in ("tests/__init__.py", "tests/jobs/__init__.py", "runsdeploy/__init__.py"):
            (base / name).write_text("")
        for name in ("tests/jobs/backup.py", "tests/jobs/drive.py"):
            shutil.copy(_REPOSITORY / name, base / name)
        subprocess.run([sys.executable, "-m", "compileall", "-q", base], check=True)

    def argv(self, *words):
        return [sys.executable, "-I", "-S", "-B", self.base / "tests/jobs/drive.py", self.base, *words]

    def calls(self, *words):
        """Return the calls that change files in an act that is left to its end, each with its number, in order."""
        log = self.base / "trace"
        trace = ",".join([*CHANGING, "openat", "?lstat", "newfstatat"])
        argv = ["strace", "-qq", "-f", "-s", "512", "-e", "signal=none", "-e", f"trace={trace}", "-o", log]
        done = subprocess.run([*argv, *self.argv(*words)], capture_output=True, text=True, check=False, timeout=60)
        assert done.returncode == 0, done.stdout + done.stderr
        counts, begun, found = {}, False, []
        for line in log.read_text(errors="replace").splitlines():
            call, arguments = _CALL.match(line).groups()
            counts[call] = counts.get(call, 0) + 1
            begun = begun or '"/begin"' in arguments
            if begun and (call in CHANGING or "O_CREAT" in arguments):
                found.append((call, counts[call]))
        return found

    def run(self, call, number, fault, *words):
        """Do an act with a fault (`signal=KILL`, `error=EIO`) at one of its calls; return exit status and output."""
        argv = ["strace", "-qq", "-f", "-o", "/dev/null", "-e", f"inject={call}:{fault}:when={number}"]
        done = subprocess.run([*argv, *self.argv(*words)], capture_output=True, text=True, check=False, timeout=60)
        return done.returncode, done.stdout + done.stderr


def some(calls, step):
    """Return every so manieth of the calls, all of them in the full size."""
    return calls if FULL else calls[::step]


def copy(source, target):
    """Copy a directory with all that belongs to its files, hard links too."""
    subprocess.run(["cp", "-a", "--", source, target], check=True)


def replace(target, source):
    """Make a directory what another one is."""
    shutil.rmtree(target)
    copy(source, target)
