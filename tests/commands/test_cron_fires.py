"""A real cron daemon reads what `cron.install` wrote, and really starts the job runner."""

from __future__ import annotations

import json
import os
import shutil
import signal
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
        return started[0]

    yield start
    for process in started:
        # cron is the first of its namespace, so all it started ends with it; `unshare` then ends by itself.
        for child in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split():
            os.kill(int(child), signal.SIGKILL)
        process.communicate(timeout=30)


@pytest.mark.timeout(400)
def test_J21_cron_starts_what_was_installed(operator, target, daemon):  # noqa: F811
    operator.environment["PYTHONPATH"] = str(Path(__file__).parents[2])
    told = {"name": "tell", "stage": "imports", "enabled_by": "RUN_TELL", "shell": "env; id -un; pwd"}
    plant(operator.directory, {"jobs.json": json.dumps({"schema": 1, "jobs": [told]})})
    folders = {scheduler: inside(target, f"/srv/{scheduler}") for scheduler in ("crontab", "cron.d")}
    for scheduler, folder in folders.items():
        settings = {
            "CRON_BACKUP": f"/srv/{scheduler}/backup",
            "CRON_LOG_FILE": f"/srv/{scheduler}/log",
            "RUN_TELL": True,
        }
        text = json.dumps({f"crontab.{key}": value for key, value in settings.items()})
        plant(operator.directory, {f"{scheduler}.json": text})
        folder.mkdir()
        os.chown(folder, UIDS[JOBS], UIDS[JOBS])
        words = (
            "--user",
            JOBS,
            "--scheduler",
            scheduler,
            "--directory",
            f"/opt/{scheduler}",
            "--catalogue",
            "jobs.json",
        )
        done = install(operator, *words, settings=f"{scheduler}.json", schedule="* * * * *")
        assert done.status == 0, done.text + done.talk
    process = daemon()
    until = time.monotonic() + 200  # cron starts them at the next full minute
    while not all((folder / "backup/state.json").exists() for folder in folders.values()):
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < until, "cron has started nothing"
        time.sleep(0.2)
    for scheduler, folder in folders.items():
        state = json.loads((folder / "backup/state.json").read_text())
        assert [run["exit_status"] for run in state["runs"]][:1] == [0]
        said = (folder / "log").read_text().splitlines()
        assert {f"tell| {JOBS}", "tell| /", f"tell| USER={JOBS}"} <= set(said)
        assert not any(line.startswith(("tell| MAILTO", "tell| SHLVL=0")) for line in said)
        place_of = ("--directory", f"/opt/{scheduler}")
        answer = cron(operator, "status", "--max-age", "1h", *place_of, form="text", host=HOST)
        assert answer.status == 0, answer.text
