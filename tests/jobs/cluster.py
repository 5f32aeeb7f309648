"""A PostgreSQL server for tests: one for all of them, a database for each."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path

import pytest

LONGEST_SOCKET = 90


def programs():
    """Return the directory of PostgreSQL's programs; Debian keeps them off PATH."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), reverse=True)
    beside = shutil.which("initdb")
    return found[0].parent if found else Path(beside).parent if beside else None


class Cluster:
    """A database server of its own, which listens on a socket in its own directory and nowhere else."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.data, self.bin = folder, folder / "data", programs()
        self.database = "postgres"
        self.account = pwd.getpwnam("postgres") if os.geteuid() == 0 else pwd.getpwuid(os.geteuid())
        os.chown(folder, self.account.pw_uid, self.account.pw_gid)
        folder.chmod(0o755)
        self.do("initdb", "--auth=trust", "--username=lora", "--no-sync", "-D", str(self.data))
        settings = ("listen_addresses=", f"unix_socket_directories={folder}", "fsync=off")
        words = [word for setting in settings for word in ("-c", setting)]
        # Our own child, so that it is surely gone in the end: pg_ctl would give it away.
        with (folder / "log").open("wb") as log:
            self.server = subprocess.Popen(
                [str(self.bin / "postgres"), "-D", str(self.data), *words], cwd="/", stderr=log, **self.rights
            )
        until = time.monotonic() + 60
        while self.try_to("pg_isready", *self.client[:2]).returncode:
            assert self.server.poll() is None, (folder / "log").read_text()
            assert time.monotonic() < until
            time.sleep(0.05)

    @property
    def rights(self) -> dict[str, int]:
        """The account to run as."""
        return {"user": self.account.pw_uid, "group": self.account.pw_gid} if os.geteuid() == 0 else {}

    def try_to(self, name: str, *words: str) -> subprocess.CompletedProcess[str]:
        """Run one of its programs as the account it insists on."""
        argv = [str(self.bin / name), *words]
        return subprocess.run(argv, cwd="/", capture_output=True, text=True, check=False, timeout=60, **self.rights)

    def do(self, name: str, *words: str) -> str:
        """Run one of its programs, which must succeed; return what it wrote."""
        done = self.try_to(name, *words)
        assert done.returncode == 0, done.stderr
        return done.stdout

    @property
    def client(self) -> list[str]:
        """How to reach it."""
        return ["-h", str(self.folder), "-U", "lora", "-d", self.database]

    def fresh(self, name: str) -> None:
        """Work in a new database from now on."""
        self.database = "postgres"
        self.ask(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")
        self.ask(f"CREATE DATABASE {name}")
        self.database = name

    def ask(self, statement: str) -> str:
        """Return what a statement returns."""
        return self.do("psql", *self.client, "-XAtc", statement).strip()

    @property
    def address(self) -> str:
        """Return where its database is, as one word of a program of PostgreSQL."""
        return f"host={self.folder} user=lora dbname={self.database}"

    def dump(self, path: Path, *words: str) -> None:
        """Write a snapshot with the options of `pg_dump` given."""
        argv = [str(self.bin / "pg_dump"), *self.client, *words]
        with path.open("wb") as file:
            subprocess.run(argv, cwd="/", stdout=file, check=True, timeout=60, **self.rights)

    def stop(self) -> None:
        """End it."""
        self.server.send_signal(signal.SIGQUIT)
        self.server.wait(timeout=60)


@pytest.fixture(scope="session")
def cluster():
    """The server; tests that use it are in one group of xdist, so that there is one."""
    if programs() is None:
        pytest.skip("no PostgreSQL here")
    folder = Path(tempfile.mkdtemp(prefix="pg-"))
    assert len(str(folder)) < LONGEST_SOCKET
    try:
        server = Cluster(folder)
        try:
            yield server
        finally:
            server.stop()
    finally:
        shutil.rmtree(folder)
