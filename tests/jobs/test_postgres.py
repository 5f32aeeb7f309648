"""The drill that the runner exists for, with a real database: dumped, broken by an import, brought back."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
import uuid
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
        self.ask(f"CREATE DATABASE {name}")
        self.database = name

    def ask(self, statement: str) -> str:
        """Return what a statement returns."""
        return self.do("psql", *self.client, "-XAtc", statement).strip()

    def dump(self, path: Path) -> None:
        """Write a snapshot that can be loaded over what is there."""
        path.write_text(self.do("pg_dump", *self.client, "--clean", "--if-exists"))

    def stop(self) -> None:
        """End it."""
        self.server.send_signal(signal.SIGQUIT)
        self.server.wait(timeout=60)


@pytest.fixture(scope="module")
def cluster():
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


FINGERPRINT = "SELECT count(*), md5(string_agg(id || name, ',' ORDER BY id)) FROM person"


@pytest.fixture
def lora(system, cluster):
    """A system whose import works on the database, and whose restore loads the snapshot."""
    cluster.fresh(f"d{uuid.uuid4().hex}")
    cluster.ask("CREATE TABLE person (id int PRIMARY KEY, name text)")
    cluster.ask("INSERT INTO person SELECT n, 'navn æøå ' || n FROM generate_series(1, 1000) n")
    cluster.dump(system.snapshot)
    psql = [str(cluster.bin / "psql"), *cluster.client, "-X", "-v", "ON_ERROR_STOP=1"]
    spoil = "DELETE FROM person WHERE id % 3 = 0; UPDATE person SET name = 'x' WHERE id < 50; SELECT 1/0"
    system.write_catalogue(
        {
            "name": "import",
            "stage": "imports",
            "enabled_by": "RUN_IMPORT",
            "command": [*psql, "-c", "BEGIN; " + spoil.replace("; SELECT 1/0", "") + "; COMMIT", "-c", "SELECT 1/0"],
        },
        restore={"after": [[*psql, "--quiet", "--single-transaction", "-f", "{crontab.SNAPSHOT_LORA}"]]},
    )
    system.write_settings(RUN_IMPORT=True, SNAPSHOT_END_MARK=True)
    return system


def test_a_database_that_an_import_broke_comes_back_from_the_nights_backup(lora, cluster):
    before = cluster.ask(FINGERPRINT)
    night = lora.run("run")
    assert night.returncode == 1, night.stdout
    assert "imports `import`: failed(1)" in night.stdout
    assert "division by zero" in night.stdout
    assert cluster.ask(FINGERPRINT) != before
    lora.snapshot.write_text("overwritten by a dump of the broken state\n")

    looked = lora.run("restore", "latest")
    assert looked.returncode == 0
    assert f"replace  {lora.snapshot}" in looked.stdout
    assert cluster.ask(FINGERPRINT) != before

    done = lora.run("restore", "latest", "--yes")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "all were read back and compared" in done.stdout
    assert cluster.ask(FINGERPRINT) == before


def test_J11_a_dump_that_was_cut_short_is_no_backup_and_nothing_is_imported(lora, cluster):
    whole = lora.snapshot.read_bytes()
    lora.snapshot.write_bytes(whole[: len(whole) // 2])
    before = cluster.ask(FINGERPRINT)
    night = lora.run("run")
    assert night.returncode == 3
    assert "the backup is not good" in night.stdout
    assert cluster.ask(FINGERPRINT) == before
    assert [path.name.partition("Z-")[2][7:] for path in lora.archives()] == ["cron-backup-failed.tar.gz"]


def test_a_command_behind_a_restore_that_fails_is_told_and_is_the_exit_status(lora, cluster):
    lora.run("run")
    cluster.ask("DROP TABLE person")
    cluster.ask("CREATE VIEW person AS SELECT 1 AS id")
    done = lora.run("restore", "latest", "--yes")
    assert done.returncode == 1
    assert "the files are restored" in done.stderr
    assert "run it by hand: " in done.stderr
