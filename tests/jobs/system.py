"""A system as the seed describes it, in a directory: settings, snapshot, jobs, backups, and the runner."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Sequence
from pathlib import Path

SEED = {
    "crontab.SVC_USER": "USER@KOMMUNE.NET",
    "crontab.SVC_KEYTAB": "/path/keytab-file",
    "crontab.CRON_BACKUP": "/path/backup-dir",
    "crontab.CRON_LOG_FILE": "/path/cron-log-file",
    "crontab.RUN_CHECK_AD_CONNECTIVITY": False,
    "crontab.RUN_SD_CHANGED_AT": False,
    "crontab.RUN_SD_FIX_DEPARTMENTS": False,
    "crontab.RUN_SD_DB_OVERVIEW": False,
    "crontab.RUN_MOX_STS_ORGSYNC": False,
    "crontab.RUN_MOX_ROLLE": False,
    "crontab.RUN_CPR_UUID": False,
    "crontab.BACKUP_SAVE_DAYS": "60",
    "crontab.MOX_ROLLE_COMPOSE_YML": "",
    "crontab.SNAPSHOT_LORA": "/path/db-snapshot.sql",
}
"""the settings of the seed, to the letter"""


class System:
    """Files below one directory, and the runner installed in it."""

    def __init__(self, root: Path, program: Path) -> None:
        self.root = root
        self.install = root / "install"
        (self.install / "settings").mkdir(parents=True)
        self.program = self.install / "job-runner.pyz"
        shutil.copy(program, self.program)
        self.backups = root / "backup-dir"
        self.log = root / "cron-log-file"
        self.snapshot = root / "db-snapshot.sql"
        self.snapshot.write_text("-- a snapshot\n")
        self.settings_file = self.install / "settings" / "kommune.json"
        (self.install / "settings" / "settings.json").symlink_to("kommune.json")
        self.counter = root / "counter"
        text = json.dumps(SEED).replace('"/path/', f'"{root}/')
        self.settings = json.loads(text)
        self.write_settings()

    def write_settings(self, **changes: object) -> None:
        """Write the settings, changed by keys without prefix; None takes a key away."""
        for name, value in changes.items():
            self.settings[f"crontab.{name}"] = value
            if value is None:
                del self.settings[f"crontab.{name}"]
        self.settings_file.write_text(json.dumps(self.settings, indent=4))
        self.settings_file.chmod(0o600)

    def write_catalogue(self, *jobs: dict, **fields: object) -> None:
        """Write a catalogue of its own, in place of the default one."""
        text = json.dumps({"schema": 1, "jobs": jobs, **fields})
        (self.install / "settings" / "catalogue.json").write_text(text)

    def job(self, name: str, stage: str = "imports", shell: str = "exit 0", **fields: object) -> dict:
        """Return a job that counts its runs; it is enabled by `RUN_` and its name in capitals."""
        counting = f"echo {name} >>{self.counter}; {shell}"
        switch = f"RUN_{name.upper().replace('-', '_')}"
        return {"name": name, "stage": stage, "enabled_by": switch, "shell": counting, **fields}

    def counted(self) -> list[str]:
        """Return the jobs that ran, in order."""
        return self.counter.read_text().split() if self.counter.exists() else []

    def start(self, *words: str, python: str = sys.executable, **options: object) -> subprocess.Popen[bytes]:
        """Start the runner as cron does: with next to nothing in its environment."""
        argv = [python, "-I", str(self.program), *words]
        options.setdefault("env", {"PATH": "/usr/bin:/bin"})
        options.setdefault("stdin", subprocess.DEVNULL)
        return subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd="/", **options)  # type: ignore[call-overload]

    def run(self, *words: str, **options: object) -> subprocess.CompletedProcess[str]:
        """Run the runner to its end."""
        process = self.start(*words, **options)
        try:
            out, err = process.communicate(timeout=90)
        except BaseException:
            process.kill()
            process.communicate()
            raise
        return subprocess.CompletedProcess(process.args, process.returncode, out.decode(), err.decode())

    def json(self, *words: str) -> dict:
        """Run a command for its JSON."""
        return json.loads(self.run("--format", "json", *words).stdout)

    def archives(self) -> list[Path]:
        """Return the files that are named as archives, oldest first."""
        return sorted(self.backups.glob("*-cron-backup*.tar.gz"))

    def members(self, archive: Path) -> dict[str, bytes]:
        """Return the content of an archive, by GNU tar's own understanding of it: path and bytes."""
        with tarfile.open(archive) as tar:
            return {
                f"/{member.name.partition('/')[2]}": tar.extractfile(member).read()  # type: ignore[union-attr]
                for member in tar
                if member.isfile() and member.name.startswith("files/")
            }


def tree(root: Path) -> dict[str, object]:
    """Return all that is below a directory, comparable."""
    found: dict[str, object] = {}
    for folder, folders, files in os.walk(root):
        for name in (*folders, *files):
            path = Path(folder, name)
            about = path.lstat()
            content: object = (
                str(path.readlink()) if path.is_symlink() else path.read_bytes() if path.is_file() else None
            )
            found[str(path.relative_to(root))] = (about.st_mode, content)
    return found


def open_files() -> set[tuple[str, str]]:
    """Return the descriptors of this process and what they are; others of its may be closed at any time, as garbage."""
    found = set()
    for descriptor in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):  # the one that lists them
            found.add((descriptor.name, str(descriptor.readlink())))
    return found


def outcomes(document: dict) -> dict[str, str]:
    """Return how each job of a run ended."""
    return {job["name"]: job["outcome"] for job in document["jobs"]}


Jobs = Sequence[dict]
