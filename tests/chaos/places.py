"""Places: fake hosts with mounts of their own, where a disk can be full, read-only, or without programs.

sshd is started in a private mount namespace. What is mounted there nobody else sees, and it is gone with the last
of its processes, however a test ends.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests import sshd
from tests.sshd import FakeHost
from tests.trees import plant

WRAPPER = """\
#!/bin/sh
exec unshare -m "{program}" "$@"
"""

EVERYWHERE = ("/usr/local/bin", "/usr/local/sbin", "/usr/bin", "/usr/sbin")
"""where the bootstrap looks for programs; `/bin` and `/sbin` are links to the last two, or bound like them"""


def why_not() -> str:
    """Return why there can be no places here, or nothing."""
    if os.geteuid() != 0:
        return "mounts, which takes root"
    if not shutil.which("unshare") or not shutil.which("nsenter"):
        return "needs the package util-linux"
    if subprocess.run(["unshare", "-m", "true"], check=False, capture_output=True).returncode:
        return "this machine allows no mount namespaces"
    return ""


@dataclass
class Place:
    """A fake host, and what it sees."""

    host: FakeHost
    """its sshd; no path of it is below /tmp, /run or /dev/shm, so those can be mounted over"""

    def run(self, commands: str) -> str:
        """Run commands of a shell as the host sees its files; they must succeed."""
        done = subprocess.run(
            ["nsenter", "-t", str(self._pid), "-m", "sh", "-ec", commands],
            check=False, capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL,
        )  # fmt: skip
        assert done.returncode == 0, f"{commands}: {done.stderr}"
        return done.stdout

    def see(self, path: Path | str) -> Path:
        """Return where a path of the host can be looked at from here."""
        return Path(f"/proc/{self._pid}/root{path}")

    @property
    def state(self) -> Path:
        """The state directory, as the host sees it."""
        return self.see(self.host.state)

    def disk(self, path: Path | str, options: str = "mode=700") -> None:
        """Mount a fresh file system there, in place of the one that this mounted before."""
        self.run(
            f'mkdir -p "{path}"; umount -l "{path}" 2>/dev/null || true; mount -t tmpfs -o {options} tmpfs "{path}"'
        )

    def freeze(self, path: Path | str, options: str = "ro") -> None:
        """Mount a directory onto itself with such options."""
        self.run(f'mount --bind "{path}" "{path}"; mount -o remount,bind,{options} "{path}"')

    def hide(self, *programs: str) -> None:
        """Take programs away, once."""
        # Not by mounting something over them: to bash, what may not be executed is still a program.
        real, links = self.host.directory / "real", self.host.directory / "links"
        self.run(
            f'mkdir "{real}" "{links}"; mount --bind /usr/bin "{real}"; mount -t tmpfs -o mode=755 tmpfs "{links}"\n'
            f'ln -s "{real}"/* "{links}"; cd "{links}"; rm -f {" ".join(programs)}; mount --bind "{links}" /usr/bin'
        )

    def only(self, programs: Path) -> None:
        """Leave no programs but those of a directory, which has to have a `sh`."""
        for folder in EVERYWHERE:
            self.run(f'mount --bind "{programs}" "{folder}"')

    @property
    def _pid(self) -> int:
        process = self.host._process
        assert process, "the host is not up"
        return process.pid


@contextlib.contextmanager
def place(name: str = "medusa.univ.run", **options: tuple[str, ...]) -> Iterator[Place]:
    """Start a fake host in a mount namespace of its own."""
    # pytest's directories are below /tmp, which some of our hosts shall see small.
    with tempfile.TemporaryDirectory(prefix="runsdeploy-place-", dir="/var/tmp") as made:
        directory = Path(made)
        wrapper = plant(directory, {"sshd": WRAPPER.format(program=sshd._sshd())}) / "sshd"
        wrapper.chmod(0o755)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sshd, "_sshd", lambda: str(wrapper))
            host = FakeHost(name, directory / "host", **options)
            host.start()
        try:
            host.state.mkdir(exist_ok=True, mode=0o700)
            yield Place(host)
        finally:
            host.stop()
            assert not host.processes(), f"{host.name} left processes behind"


def busybox(directory: Path) -> Path:
    """Make a directory of busybox's applets, with bash and sshd beside them, and return it."""
    directory.mkdir(mode=0o755)
    program = shutil.which("busybox")
    assert program, "needs the package busybox"
    shutil.copy(program, directory / "busybox")
    applets = subprocess.run([program, "--list"], check=True, capture_output=True, text=True).stdout.split()
    for applet in {*applets} - {"busybox"}:
        (directory / applet).symlink_to("busybox")
    for each in (shutil.which("bash"), sshd._sshd()):
        assert each
        shutil.copy(each, directory / Path(each).name)
    return directory
