"""A real cron daemon reads what `cron.install` wrote, and really starts the job runner."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import time
from pathlib import Path

import pytest

from tests.commands.test_cron_install import (  # noqa: F401 - fixtures
    HOST,
    JOBS,
    UIDS,
    cron,
    inside,
    install,
    operator,
    package,
    place,
    shared_host,
    target,
)
from tests.trees import plant

DAEMON = """
mount -t tmpfs -o mode=755 tmpfs /run
: >/run/empty
mount --bind /run/empty /etc/crontab
command -v faketime >/dev/null || exec cron -f
mount -t tmpfs tmpfs /dev/shm
exec faketime -f "+$(((115 - $(date +%s) % 60) % 60))s" cron -f
"""
"""in namespaces of its own: the machine's own jobs and process file are not touched, and all of it ends at once;
cron takes the time for five seconds before the next minute, where it can be told so"""


@pytest.fixture
def daemon(target):  # noqa: F811 - the fixture
    if not shutil.which("cron"):
        pytest.skip("no cron here")
    enter = ["nsenter", "-t", str(target._process.pid), "-m"]
    alone = ["unshare", "-m", "--pid", "--fork", "--kill-child", "sh", "-ec", DAEMON]
    started = []

    def start():
        started.append(subprocess.Popen([*enter, *alone], stdin=subprocess.DEVNULL, stderr=subprocess.PIPE))
        return started[-1]

    yield start
    for process in started:
        if process.returncode is None:
            end(process)


def end(process):
    """End cron, the first of its process namespace, and so all that it started; `unshare` then ends by itself."""
    for child in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split():
        os.kill(int(child), signal.SIGKILL)
    process.communicate(timeout=30)


def rows(folder, copy):
    """Return what a database holds; copied, because SQLite resolves the link to the root of the fake host."""
    shutil.copyfile(folder / "db.sqlite", copy)
    with contextlib.closing(sqlite3.connect(copy)) as database:
        return database.execute("SELECT id, name FROM person ORDER BY id").fetchall()


def nights(folders, process, number):
    """Wait until the newest of so many runs is recorded everywhere; return the exit statuses of the newest."""
    until = time.monotonic() + 200  # cron starts them at the next full minute
    while True:
        states = [folder / "backup/state.json" for folder in folders]
        found = [json.loads(state.read_text())["runs"] if state.exists() else [] for state in states]
        if all(len(runs) >= number for runs in found):
            return [runs[-1]["exit_status"] for runs in found]
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < until, "cron has started nothing"
        time.sleep(0.2)


IMPORT = """env; id -un; pwd; [ ! -e {folder}/spoil ] || {{
python3 -c "import sqlite3
with sqlite3.connect('{folder}/db.sqlite') as database:
    database.execute('DELETE FROM person WHERE id % 2')"; exit 1; }}"""


@pytest.mark.timeout(400)
def test_J21_J27_cron_starts_what_was_installed_and_a_broken_night_is_taken_back(operator, target, daemon, tmp_path):  # noqa: F811
    """The drill: installed, a night by cron, a night whose import breaks the database, restored row by row."""
    operator.environment["PYTHONPATH"] = str(Path(__file__).parents[2])
    folders = {scheduler: inside(target, f"/srv/{scheduler}") for scheduler in ("crontab", "cron.d")}
    made = tmp_path / "db.sqlite"
    with contextlib.closing(sqlite3.connect(made)) as database, database:
        database.execute("CREATE TABLE person (id int, name text)")
        database.executemany("INSERT INTO person VALUES (?, ?)", ((n, f"navn æøå {n}") for n in range(100)))
    for scheduler, folder in folders.items():
        settings = {
            "CRON_BACKUP": f"/srv/{scheduler}/backup",
            "CRON_LOG_FILE": f"/srv/{scheduler}/log",
            "RUN_TELL": True,
        }
        text = json.dumps({f"crontab.{key}": value for key, value in settings.items()})
        told = {"name": "tell", "stage": "imports", "enabled_by": "RUN_TELL"}
        told["shell"] = IMPORT.format(folder=f"/srv/{scheduler}")
        jobs = {"schema": 1, "jobs": [told], "backup": {"before": [f"/srv/{scheduler}/db.sqlite"]}}
        plant(operator.directory, {f"{scheduler}.json": text, f"{scheduler}.jobs.json": json.dumps(jobs)})
        folder.mkdir()
        shutil.copyfile(made, folder / "db.sqlite")
        for path in (folder, folder / "db.sqlite"):
            os.chown(path, UIDS[JOBS], UIDS[JOBS])
        words = (
            "--user",
            JOBS,
            "--scheduler",
            scheduler,
            "--directory",
            f"/opt/{scheduler}",
            "--catalogue",
            f"{scheduler}.jobs.json",
        )
        done = install(operator, *words, settings=f"{scheduler}.json", schedule="* * * * *")
        assert done.status == 0, done.text + done.talk
    process = daemon()
    assert nights(folders.values(), process, 1) == [0, 0]
    for scheduler, folder in folders.items():
        said = (folder / "log").read_text().splitlines()
        assert {f"tell| {JOBS}", "tell| /", f"tell| USER={JOBS}"} <= set(said)
        assert not any(line.startswith(("tell| MAILTO", "tell| SHLVL=0")) for line in said)
        place_of = ("--directory", f"/opt/{scheduler}")
        answer = cron(operator, "status", "--max-age", "1h", *place_of, form="text", host=HOST)
        assert answer.status == 0, answer.text
    end(process)
    good = rows(folders["crontab"], tmp_path / "copy")
    assert len(good) == 100
    for folder in folders.values():
        (folder / "spoil").touch()
    process = daemon()
    assert nights(folders.values(), process, 2) == [1, 1]
    end(process)
    for scheduler, folder in folders.items():
        assert len(rows(folder, tmp_path / "copy")) == 50
        place_of = ("--directory", f"/opt/{scheduler}")
        assert "the state is suspect" in cron(operator, "status", *place_of, form="text", host=HOST).text
        done = cron(operator, "restore", "latest", "--yes", *place_of, form="text", host=HOST)
        assert done.status == 0, done.text + done.talk
        assert rows(folder, tmp_path / "copy") == good
