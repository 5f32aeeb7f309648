"""Disks that are full, or answer with an error, at any point of a run (J3, T6): a clean end, and nothing lost."""

from __future__ import annotations

import contextlib
import json
import os
import random
import re
import select
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from runsdeploy.jobs.archive import archive
from tests.jobs import backup
from tests.jobs.system import System
from tests.jobs.test_killed import FINAL, FULL, History, check_clean, check_lines, check_saved, counted, strace

KIB, MIB = 1024, 1024 * 1024
DAY = 86400
SAVE_DAYS = 60

pytestmark = [pytest.mark.skipif(os.geteuid() != 0, reason="mounts need root"), pytest.mark.timeout(600)]


class Disk:
    """A file system of its own at a directory, in a mount namespace that ends with this process."""

    def __init__(self, place: Path, size: int, tmp_path: Path) -> None:
        mount = f'mount -t tmpfs -o size={size},mode=700 none "$1" && echo mounted && exec cat'
        words = ["unshare", "--mount", "--propagation", "private", "sh", "-c", mount, "sh", str(place)]
        self._holder = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        assert self._holder.stdout is not None
        if self._holder.stdout.readline() != b"mounted\n":
            _, err = self._holder.communicate()
            pytest.skip(f"no mount namespaces here: {err.decode()}")
        self.python = str(tmp_path / "inside")
        """starts Python where the file system is mounted"""
        enter = f"nsenter --mount=/proc/{self._holder.pid}/ns/mnt"
        Path(self.python).write_text(f'#!/bin/sh\nexec {enter} {sys.executable} "$@"\n')
        Path(self.python).chmod(0o700)
        self.root = Path(f"/proc/{self._holder.pid}/root")
        self.place = self.root / place.relative_to("/")

    def __enter__(self):
        return self

    def __exit__(self, *_: object) -> None:
        self._holder.communicate()

    def fill(self, path: str, leave: int) -> None:
        """Write a file that leaves just so many bytes free."""
        about = os.statvfs(self.place)
        with (self.place / path).open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, max(1, about.f_bfree * about.f_frsize - leave))

    def copy_out(self, place: Path, tmp_path: Path) -> None:
        """Replace a directory outside by what is on this file system; after that it is not mounted any more."""
        subprocess.run(["cp", "-a", self.place, tmp_path / "copy"], check=True)
        shutil.rmtree(place)
        (tmp_path / "copy").rename(place)


def size_of(folder: Path) -> int:
    """Return the bytes that a directory takes on a disk."""
    return sum((path.lstat().st_size + 4095) // 4096 * 4096 + 4096 for path in folder.rglob("*"))


def sums(folder: Path) -> dict[str, bytes]:
    """Return the archives and their checksums."""
    return {path.name: path.read_bytes() for path in folder.iterdir() if ".tar.gz" in path.name}


def copied(system: System, disk: Disk) -> None:
    subprocess.run(["cp", "-a", f"{system.backups}/.", disk.place], check=True)


def check_untouched(before: dict[str, bytes], folder: Path) -> None:
    """Older archives are what they were, and whatever is named as a backup is one."""
    after = sums(folder)
    assert {name: after.get(name) == data for name, data in before.items()} == dict.fromkeys(before, True)
    for name in after:
        if FINAL.fullmatch(name):
            assert archive.verify(str(folder / name)) == [], name


@pytest.fixture(scope="module")
def history(tmp_path_factory, hasty):
    """Two good backups of today, and eight that are old enough to go."""
    root = tmp_path_factory.mktemp("disk")
    made = History(root, hasty, runs=2)
    make_old(made, root)
    made.keep()
    return made


def make_old(made: History, root: Path) -> None:
    """Add good backups that are old enough to go."""
    (root / "old").mkdir()
    (root / "old" / "file").write_text("old")
    for number in range(8):
        created = int(time.time()) - (SAVE_DAYS + 20 - number) * DAY
        moment = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(created))
        facts = {"identity": f"{moment}-00000{number}", "created": created, "sequence": -10 + number}
        backup.backup(made.system.backups, root / "old", host=socket.gethostname(), **facts)


def check_ended(ran: subprocess.CompletedProcess[str], names: str) -> dict:
    """It ended as documented, and if not well, said where and how much."""
    told = ran.stdout + ran.stderr
    assert "Traceback" not in told
    assert ran.returncode in (0, 3), told
    if ran.returncode:
        assert names in told
    return json.loads(ran.stdout)


def sizes(needed: int) -> list[int]:
    """Return bytes to leave free: finely at both ends."""
    fine = 4 * KIB if FULL else 16 * KIB
    ladder = {*range(0, 128 * KIB, fine), *range(0, needed + MIB, 64 * KIB if FULL else 4 * MIB), needed + MIB}
    return sorted(ladder)


def test_T6_J3_backup_directory_on_a_disk_of_any_size(history, tmp_path):
    """From no byte free to all that is needed and a mebibyte: no job runs where no backup can be made."""
    needed = size_of(history.place) + 16 * MIB
    wrong, ended = [], set()
    for free in sizes(needed):
        history.fresh()
        system = history.system
        total = size_of(system.backups) + needed + 2 * MIB
        with Disk(system.backups, total, tmp_path) as disk:
            copied(system, disk)
            disk.fill("other", free)
            before, jobs, lines = sums(disk.place), system.counted(), history.lines.read_bytes()
            ran = system.run("run", "--format", "json", python=disk.python)
            ended.add(ran.returncode)
            try:
                check_untouched_but_for_age(ran.returncode, before, disk.place)
                assert (system.counted() == jobs) == (ran.returncode == 3), "jobs ran without a backup"
                assert (history.lines.read_bytes() == lines) == (ran.returncode == 3), "cut without a backup"
                document = check_ended(ran, str(system.backups))
                assert ran.returncode == 0 or re.search(r"\d+ bytes", ran.stdout), "no bytes are named"
                assert ran.returncode == 0 or document["reasons"]
            except (AssertionError, ValueError) as error:
                wrong.append(f"{free} bytes free, status {ran.returncode}: {error} {ran.stdout[:300]} {ran.stderr}")
    assert not wrong, "\n".join(wrong)
    assert ended == {0, 3}


def check_untouched_but_for_age(status: int, before: dict[str, bytes], folder: Path) -> None:
    """Nothing is pruned unless the run's own backup is good."""
    after = sums(folder)
    kept = {name: data for name, data in before.items() if status != 0 or name in after}
    check_untouched(kept, folder)
    if status == 0:
        assert len(kept) < len(before), "nothing was pruned: the case says nothing"


def test_T6_J3_a_job_fills_the_disk_of_the_backups(history, tmp_path):
    """What is left for the archive is anything from nothing to enough; what was saved before is not lost."""
    wrong, ended = [], set()
    catalogue = history.system.install / "settings" / "catalogue.json"
    most = 160 * KIB
    for left in range(0, most, 4 * KIB if FULL else 16 * KIB):
        history.fresh()
        system = history.system
        usual = catalogue.read_text()
        waiting, going = tmp_path / "waiting", tmp_path / "going"
        os.mkfifo(waiting)
        os.mkfifo(going)
        catalogue.write_text(usual.replace("echo imported", f"echo >{waiting}; read x <{going}; echo imported"))
        total = size_of(system.backups) + size_of(history.place) + 20 * MIB
        with Disk(system.backups, total, tmp_path) as disk:
            copied(system, disk)
            before, lines, now = sums(disk.place), history.lines.read_bytes(), history.state()
            process = system.start("run", "--format", "json", python=disk.python)
            try:
                waiting.read_text()
                disk.fill("other", left)
                going.write_text("\n")
                out, err = process.communicate(timeout=60)
            finally:
                process.kill()
                process.communicate()
                waiting.unlink()
                going.unlink()
            ran = subprocess.CompletedProcess("", process.returncode, out.decode(), err.decode())
            ended.add(ran.returncode)
            try:
                check_untouched_but_for_age(ran.returncode, before, disk.place)
                assert (history.lines.read_bytes() == lines) == (ran.returncode == 3), "cut without a backup"
                document = check_ended(ran, str(system.backups))
                assert ran.returncode == 0 or re.search(r"\d+ bytes", ran.stdout), "no bytes are named"
                assert {"import"} <= {job["name"] for job in document["jobs"]}, "that a job ran is forgotten"
            except (AssertionError, ValueError) as error:
                wrong.append(f"{left} bytes left, status {ran.returncode}: {error} {ran.stdout[:600]} {ran.stderr}")
                continue
            catalogue.write_text(usual)
            (disk.place / "other").unlink()
            last = system.run("run", "--format", "json", python=disk.python)
            disk.copy_out(system.backups, tmp_path)
            try:
                assert last.returncode == 0, (last.stdout, last.stderr)
                check_saved(history, {json.loads(last.stdout)["archive"], *history.made}, now)
                check_clean(system)
            except AssertionError as error:
                wrong.append(f"{left} bytes left, status {ran.returncode}, and then: {error}")
    assert not wrong, "\n".join(wrong)
    assert ended == {0, 3}


@pytest.mark.parametrize("left", [0, 4096, 16384])
def test_J3_full_disk_when_a_killed_run_is_to_be_settled(left, history, tmp_path):
    """What that run had saved waits until there is room."""
    history.fresh()
    system = history.system
    catalogue = system.install / "settings" / "catalogue.json"
    usual = catalogue.read_text()
    waiting = tmp_path / "waiting"
    os.mkfifo(waiting)
    catalogue.write_text(usual.replace("echo imported", f"echo begun; cat {waiting}; echo imported"))
    with Disk(system.backups, size_of(system.backups) + 18 * MIB, tmp_path) as disk:
        copied(system, disk)
        now = history.state()
        process = system.start("run", python=disk.python)
        try:
            with waiting.open("w") as held:  # opens once the job reads it
                process.kill()
                process.communicate()
                ended = select.poll()
                ended.register(held, 0)
                assert ended.poll(60_000), "the job of the killed run goes on"
        finally:
            process.kill()
        catalogue.write_text(usual)
        disk.fill("other", left)
        before, jobs = sums(disk.place), system.counted()
        ran = system.run("run", "--format", "json", python=disk.python)
        assert ran.returncode == 3, ran.stdout
        assert str(system.backups) in ran.stdout
        assert system.counted() == jobs
        check_untouched(before, disk.place)
        (disk.place / "other").unlink()
        last = system.run("run", "--format", "json", python=disk.python)
        assert last.returncode == 0, last.stdout
        check_saved(history, {json.loads(last.stdout)["archive"], *history.made}, now, disk.place)
        disk.copy_out(system.backups, tmp_path)
        check_clean(system)


@pytest.mark.parametrize("left", [0, 100, 4096])
def test_J3_full_disk_of_staging(left, history, tmp_path):
    history.fresh()
    system = history.system
    with Disk(system.backups / ".runs", 64 * KIB, tmp_path) as disk:
        disk.fill("other", left)
        before, jobs = sums(system.backups), system.counted()
        ran = system.run("run", "--format", "json", python=disk.python)
        check_untouched(before, system.backups)
        assert system.counted() == jobs
        check_ended(ran, str(system.backups))
        assert ran.returncode == 3


@pytest.mark.parametrize("size", [4096, 8192, 65536])
def test_J3_full_disk_of_the_log_stops_no_job_and_is_told(size, history, tmp_path):
    history.fresh()
    system = history.system
    logs = history.place / "logs"
    logs.mkdir()
    system.write_settings(CRON_LOG_FILE=str(logs / "log"))
    try:
        with Disk(logs, size, tmp_path) as disk:
            disk.fill("other", 0)
            jobs = system.counted()
            ran = system.run("run", python=disk.python)
            assert ran.returncode == 0, ran.stdout
            assert system.counted() == [*jobs, "import", "export"]
            assert f"log `{logs}/log` cannot be written: no space left on device" in ran.stdout
    finally:
        system.write_settings(CRON_LOG_FILE=str(system.log))


def test_J3_J20_full_disk_of_the_metrics_stops_nothing_and_is_told(history, tmp_path):
    history.fresh()
    system = history.system
    folder = history.place / "metrics"
    folder.mkdir()
    system.write_settings(METRICS_FILE=str(folder / "runs.prom"))
    try:
        with Disk(folder, 8192, tmp_path) as disk:
            (disk.place / "runs.prom").write_text("former\n")
            disk.fill("other", 0)
            ran = system.run("run", python=disk.python)
            assert ran.returncode == 0, ran.stdout
            assert f"`{folder}/runs.prom`: no space left on device" in ran.stdout
            assert sorted(path.name for path in disk.place.iterdir()) == ["other", "runs.prom"]
            assert (disk.place / "runs.prom").read_text() == "former\n"
    finally:
        system.write_settings(METRICS_FILE=str(history.place / "runs.prom"))


@pytest.mark.parametrize("free", [0, 4096, 65536])
def test_J3_J20_a_full_backup_disk_is_told_to_the_monitoring(free, history, tmp_path):
    """That is when it is needed: the metrics, on another disk, say that the run failed."""
    history.fresh()
    system = history.system
    with Disk(system.backups, size_of(system.backups) + MIB, tmp_path) as disk:
        copied(system, disk)
        disk.fill("other", free)
        ran = system.run("run", python=disk.python)
        assert ran.returncode == 3, ran.stdout + ran.stderr
        assert "last_run_exit_status 3\n" in (history.place / "runs.prom").read_text()


def told_to_terminal(trace: Path) -> set[tuple[str, int]]:
    """Return which writes of a traced run are to standard output or error: no disk."""
    found, number = set(), 0
    for line in trace.read_text().splitlines():
        if line.startswith("write("):
            number += 1
            if line.startswith(("write(1,", "write(2,")):
                found.add(("write", number))
    return found


CALLS = ("write", "pwrite64", "fsync", "rename", "mkdir", "unlink", "ftruncate")


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("error", ["ENOSPC", "EIO"])
def test_T6_J3_any_call_fails_with_an_error_of_the_disk(error, call, history, tmp_path):
    calls = counted(history).get(call, range(0))
    others = told_to_terminal(history.trace)
    step = 1 if FULL else min(8, max(1, len(calls) // 4))
    wrong = []
    for number in calls[(error == "EIO") * step // 2 :: step]:
        if (call, number) in others:
            continue
        inject = ("-o", "/dev/null", "-e", f"trace={call}", "-e", f"inject={call}:error={error}:when={number}")
        history.fresh()
        system = history.system
        before, jobs = sums(system.backups), system.counted()
        lines, now = history.lines.read_bytes(), history.state()
        ran = system.run("run", "--format", "json", python=strace(tmp_path / "failing", *inject))
        begun = system.counted() != jobs
        try:
            document = check_ended(ran, "")
            assert ran.returncode == 0 or re.search("no space left on device|input/output error", ran.stdout)
            if "error" in document:
                assert not begun
            else:
                check_told(document, before, system.backups)
                assert document["backup_good"] or history.lines.read_bytes() == lines, "cut without a backup"
                assert not begun or document["jobs"], "that a job ran is forgotten"
            last = system.run("run", "--format", "json")
            assert last.returncode == 0, (last.stdout, last.stderr)
            assert "could not be archived" not in last.stdout
            assert "was killed" not in last.stdout
            check_untouched_or_pruned(0, before, system.backups)
            check_clean(system)
            # A log that could not be cut is left, and archived again.
            check_lines(history, once=call != "ftruncate")
            if begun:
                check_saved(history, {json.loads(last.stdout)["archive"], *history.made}, now)
        except (AssertionError, ValueError) as problem:
            wrong.append(
                f"{error} at {call} {number}, status {ran.returncode}: {problem} {ran.stdout[:900]} {ran.stderr}"
            )
    assert not wrong, "\n\n".join(wrong)


@pytest.mark.parametrize("act", ["start", "ended", "stage"])
@pytest.mark.parametrize("error", ["ENOSPC", "EIO"])
def test_J3_J18_a_journal_that_cannot_be_written_forgets_no_job(error, act, history, tmp_path):
    """All jobs are told of: the one that ran, and those that do not run because of that."""
    history.fresh()
    system = history.system
    trace = tmp_path / "trace"
    python = strace(tmp_path / "tracing", "-o", str(trace), "-s", "200", "-e", "trace=write")
    assert system.run("run", python=python).returncode == 0
    writes = [line for line in trace.read_text().splitlines() if line.startswith("write(")]
    number = 1 + next(at for at, line in enumerate(writes) if rf"\"act\": \"{act}\"" in line)
    history.fresh()
    jobs = system.counted()
    inject = ("-o", "/dev/null", "-e", "trace=write", "-e", f"inject=write:error={error}:when={number}")
    ran = system.run("run", "--format", "json", python=strace(tmp_path / "failing", *inject))
    document = json.loads(ran.stdout)
    assert ran.returncode == 3
    begun = system.counted()[len(jobs) :]
    assert [job["name"] for job in document["jobs"]] == ["import", "export"]
    assert [job["name"] for job in document["jobs"] if job["outcome"] != "not-run"] == begun
    assert document["stages"]["imports"] == ("ok" if begun else "skipped")


def check_told(document: dict, before: dict[str, bytes], folder: Path) -> None:
    """What a run tells of its backup and of those it deleted is so; without a good one it deletes none."""
    names = {name for name in before if FINAL.fullmatch(name)}
    after = {name for name in sums(folder) if FINAL.fullmatch(name)}
    assert after - names == {document["archive"]} - {""}, "told is another archive"
    assert names - after == set(document["pruned"]), "told are other archives that were deleted"
    assert document["backup_good"] == (bool(document["archive"]) and "-failed" not in document["archive"])
    assert document["backup_good"] or not names - after, "pruned without a good backup"
    check_untouched({name: data for name, data in before.items() if name.partition(".sha256")[0] in after}, folder)


def check_untouched_or_pruned(status: int, before: dict[str, bytes], folder: Path) -> None:
    after = sums(folder)
    check_untouched({name: data for name, data in before.items() if status != 0 or name in after}, folder)


def test_T6_J3_output_to_a_disk_that_fills_at_random_moments(history, tmp_path):
    """Another one fills the disk and frees it again while runs go on; whatever happens, backups are sound."""
    seed = random.randrange(2**32)
    print("seed", seed)
    pick = random.Random(seed)
    history.fresh()
    system = history.system
    with Disk(system.backups, size_of(system.backups) + 18 * MIB, tmp_path) as disk:
        copied(system, disk)
        for _ in range(30 if FULL else 6):
            before = {name: data for name, data in sums(disk.place).items() if "T" in name}
            process = system.start("run", python=disk.python)
            try:
                while process.poll() is None:
                    with contextlib.suppress(OSError):  # the run was quicker
                        disk.fill("other", pick.randrange(0, 64 * KIB))
                    time.sleep(pick.uniform(0, 0.02))  # a moment of the run, picked at random
                    (disk.place / "other").unlink()
                out, err = process.communicate()
            finally:
                process.kill()
                process.communicate()
            assert process.returncode in (0, 3), (out, err)
            check_untouched_or_pruned(process.returncode, before, disk.place)
        assert system.run("run", python=disk.python).returncode == 0
