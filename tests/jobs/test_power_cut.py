"""Power cuts: what was not brought to the disk is lost, in any order (J2, T18)."""

from __future__ import annotations

import copy
import itertools
import json
import os
import random
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.jobs.test_full_disk import make_old
from tests.jobs.test_killed import FINAL, FULL, History, check_backups, check_restored, check_saved, strace

SIZE = 24 * 1024 * 1024
CUTS = 100 if FULL else 10
pytestmark = pytest.mark.timeout(600)  # only keeps one that hangs from hanging for ever: a busy machine is slow


# On a file system


class Image:
    """A file with an ext4 file system, mounted at a directory in a mount namespace of its own."""

    def __init__(self, image: Path, place: Path, tmp_path: Path) -> None:
        self.image = image
        # Without a guess of the file system's own at what should have been synced before a rename.
        mount = 'mount -o loop,noauto_da_alloc "$1" "$2" && echo mounted && exec cat'
        words = ["unshare", "--mount", "--propagation", "private", "sh", "-c", mount, "sh", str(image), str(place)]
        self._holder = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        assert self._holder.stdout is not None
        if self._holder.stdout.readline() != b"mounted\n":
            raise OSError(self._holder.communicate()[1].decode())
        self.inside = f"nsenter --mount=/proc/{self._holder.pid}/ns/mnt"
        self.python = str(tmp_path / f"inside-{image.name}")
        Path(self.python).write_text(f'#!/bin/sh\nexec {self.inside} {sys.executable} "$@"\n')
        Path(self.python).chmod(0o700)
        self.place = Path(f"/proc/{self._holder.pid}/root") / place.relative_to("/")

    def __enter__(self):
        return self

    def __exit__(self, *_: object) -> None:
        self._holder.communicate()

    def cut(self, copy: Path) -> None:
        """Copy what has reached the disk: as of one moment, so that two looks at all of it must be the same."""
        for _ in range(200):
            data = self.image.read_bytes()
            if self.image.read_bytes() == data:
                copy.write_bytes(data)
                return
        pytest.fail("the disk is never at rest")


@pytest.fixture(scope="module")
def disks(tmp_path_factory):
    """A directory for images; at the end nothing of them is in use."""
    folder = tmp_path_factory.mktemp("images")
    yield folder
    for path in folder.iterdir():
        until = time.monotonic() + 60
        while used := subprocess.run(["losetup", "-j", path], capture_output=True, text=True, check=False).stdout:
            if time.monotonic() > until:
                subprocess.run(["losetup", "-d", used.partition(":")[0]], check=False)
                pytest.fail(f"was still in use: {used}")
            time.sleep(0.05)


@pytest.fixture(scope="module")
def history(tmp_path_factory, hasty):
    made = History(tmp_path_factory.mktemp("power"), hasty)
    made.keep()
    return made


@pytest.fixture(scope="module")
def pristine(disks, history):
    """A disk with the good backups, not mounted."""
    if os.geteuid() != 0:
        pytest.skip("mounts need root")
    image = disks / "pristine"
    image.touch()
    os.truncate(image, SIZE)
    folder = str(history.system.backups)
    make = ["mkfs.ext4", "-q", "-F", "-m", "0", "-b", "1024", "-J", "size=1", "-d", folder, str(image)]
    try:
        subprocess.run(make, check=True, capture_output=True)
        with Image(image, history.system.backups, disks) as mounted:
            mounted.place.chmod(0o700)
            check_backups(mounted.place, history.made)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"no file system in a file here: {error}")
    finally:
        (disks / f"inside-{image.name}").unlink(missing_ok=True)
    return image


def test_T18_J2_power_cut_at_any_moment(history, pristine, disks, tmp_path):
    seed = random.randrange(2**32)
    print("seed", seed)
    pick = random.Random(seed)
    system = history.system
    wrong = []
    usual = 1.0
    for case in range(CUTS):
        history.fresh()
        now, jobs = history.state(), system.counted()
        image, copy = disks / f"before-{case}", disks / f"after-{case}"
        subprocess.run(["cp", "--sparse=always", pristine, image], check=True)
        after = pick.uniform(0.15, 1.0) * usual
        with Image(image, system.backups, tmp_path) as disk:
            started = time.monotonic()
            process = system.start("run", python=disk.python)
            try:
                if case % 4 > 1:  # every other pair of cases is of what comes behind the begin of the imports
                    while process.poll() is None and system.counted() == jobs:
                        time.sleep(0.001)
                    after = time.monotonic() - started + pick.uniform(0.0, 0.5) * usual
                while process.poll() is None and time.monotonic() - started < after:
                    time.sleep(0.001)  # up to a moment of the run, picked at random
                imported = system.counted() != jobs
                disk.cut(copy)
                out, err = process.communicate(timeout=60)
            finally:
                process.kill()
                process.communicate()
            assert process.returncode == 0, (out, err)
            usual = min(usual, time.monotonic() - started)
        with Image(copy, system.backups, tmp_path) as disk:
            try:
                check_backups(disk.place, history.made)
                if case % 2:
                    check_restored(history, now, tmp_path / "scratch", disk.python)
                last = system.run("run", "--format", "json", python=disk.python)
                assert last.returncode == 0, (last.stdout, last.stderr)
                check_backups(disk.place, history.made)
                if imported:
                    check_saved(history, {json.loads(last.stdout)["archive"], *history.made}, now, disk.place)
            except AssertionError as error:
                wrong.append(f"case {case}, {after:.4f} s of {usual:.4f}, imports begun: {imported}: {error}")
        image.unlink()
        copy.unlink()
    assert not wrong, "\n".join(wrong)


# In a model


class Inode:
    """A file or directory: what is certainly on the disk, and what may be."""

    def __init__(self, *, folder: bool = False) -> None:
        self.folder = folder
        self.entries: dict[str, Inode] = {}
        """names that are on the disk"""
        self.pending: list[tuple[str, str, Inode]] = []
        """changes of names that may be on the disk, each whole or not at all: (`old name`, `new name`, which)"""
        self.unsynced = 0
        """writes that may be lost"""

    def now(self) -> dict[str, Inode]:
        """Return the names as processes see them."""
        return applied(self.entries, self.pending)

    def states(self) -> Iterator[dict[str, Inode]]:
        """Yield the names as they may be found after a power cut."""
        for chosen in itertools.product((False, True), repeat=len(self.pending)):
            yield applied(self.entries, [change for change, on in zip(self.pending, chosen, strict=True) if on])

    def sync(self) -> None:
        """Bring it to the disk."""
        self.entries, self.pending = self.now(), []
        self.unsynced = 0


def applied(entries: dict[str, Inode], changes: list[tuple[str, str, Inode]]) -> dict[str, Inode]:
    found = dict(entries)
    for old, new, which in changes:
        if old:
            found.pop(old, None)
        if new:
            found[new] = which
    return found


class Model:
    """The file system below one directory, after the calls of a run so far."""

    def __init__(self, root: Path) -> None:
        self.root = str(root)
        self.top = self._read(root)

    def _read(self, path: Path) -> Inode:
        made = Inode(folder=path.is_dir())
        for each in path.iterdir() if made.folder else ():
            made.entries[each.name] = self._read(each)
        return made

    def find(self, path: str) -> Inode | None:
        found: Inode | None = self.top
        for part in path[len(self.root) :].split("/"):
            if part and found is not None:
                found = found.now().get(part)
        return found

    def change(self, old: str, new: str, which: Inode) -> None:
        """Change names within one directory."""
        (above, _, former), (place, _, name) = old.rpartition("/"), new.rpartition("/")
        folder = self.find(place or above)
        assert folder is not None
        assert not (old and new) or above == place
        folder.pending.append((former, name, which))

    def certain(self, path: str) -> bool:
        """Tell whether a file is there whatever is lost, with its content."""
        found: Inode | None = self.top
        for part in path[len(self.root) :].split("/"):
            if part and found is not None:
                touched = any(part in (old, new) for old, new, _ in found.pending)
                found = None if touched else found.entries.get(part)
        return found is not None and not found.unsynced


CALL = re.compile(r"(\w+)\((.*)\) += (-?\d+)")
OPEN = re.compile(r"\d+<([^>]*)>")
TRACED = (
    *("openat", "creat", "write", "pwrite64", "ftruncate", "fsync", "fdatasync", "rename", "renameat", "renameat2"),
    *("unlink", "unlinkat", "mkdir", "mkdirat", "rmdir", "linkat", "symlinkat", "sendfile", "copy_file_range"),
)


class Replay:
    """A traced run, call by call."""

    def __init__(self, trace: str, root: Path, model: Model) -> None:
        self.calls = [match.groups() for match in map(CALL.match, trace.splitlines()) if match]
        self.root, self.model = str(root), model

    def ours(self, path: str) -> bool:
        return path.startswith(f"{self.root}/") or path == self.root

    def steps(self) -> Iterator[tuple[str, str, str]]:
        """Do one call after the other on the model; yield each beforehand: its name, its path and its arguments."""
        for call, words, result in self.calls:
            opened = OPEN.match(words)
            quoted = [json.loads(each) for each in re.findall(r'"(?:[^"\\]|\\.)*"', words) if "\\" not in each]
            folder = opened.group(1) if opened else ""
            path = quoted[0] if quoted and not call.endswith(("write", "write64")) else folder
            path = str(Path(folder, path))
            if int(result) < 0:
                continue
            yield call, path, words
            if self.ours(path):
                self._do(call, path, words, quoted)

    def _do(self, call: str, path: str, words: str, quoted: list[str]) -> None:
        found = self.model.find(path)
        if call == "openat":
            if "O_CREAT" in words and found is None:
                self.model.change("", path, Inode())
            elif "O_TRUNC" in words and found is not None:
                found.unsynced += 1
        elif call in ("write", "pwrite64", "ftruncate"):
            assert found is not None, path
            found.unsynced += 1
        elif call in ("fsync", "fdatasync"):
            assert found is not None, path
            found.sync()
        elif call == "rename":
            assert found is not None, path
            self.model.change(path, quoted[1], found)
        elif call in ("mkdir", "mkdirat"):
            self.model.change("", path, Inode(folder=True))
        elif call in ("unlink", "unlinkat", "rmdir"):
            assert found is not None, path
            self.model.change(path, "", found)
        else:
            pytest.fail(f"a call that the model does not know: {call}({words})")


@pytest.fixture(scope="module")
def traced(tmp_path_factory, hasty):
    """One run that stages, runs jobs, archives, cuts a log, and deletes old backups; and what was before."""
    root = tmp_path_factory.mktemp("model")
    made = History(root, hasty, runs=2)
    make_old(made, root)
    made.change()
    model = Model(made.system.backups)
    trace = root / "trace"
    options = ["-y", "-s", "300", "-o", shlex.quote(str(trace)), "-e", f"trace={','.join(TRACED)}"]
    ran = made.system.run("run", "--format", "json", python=strace(root / "tracing", *options))
    assert ran.returncode == 0, ran.stderr
    document = json.loads(ran.stdout)
    assert document["pruned"]
    return made, document, trace.read_text(), model


@pytest.fixture
def replay(traced):
    made, document, trace, model = traced
    return made, document, Replay(trace, made.system.backups, copy.deepcopy(model))


def named_well(name: str) -> bool:
    return bool(
        FINAL.fullmatch(name) or FINAL.fullmatch(name.partition(".sha256")[0]) or name in ("state.json", "suspect.json")
    ) and not (name.endswith(".tmp"))


def test_T18_J2_whatever_is_lost_what_is_named_well_is_whole(replay):
    """No final name before the content, and no archive without its checksum, in any state that a power cut leaves."""
    _, _, run = replay
    states = 0
    wrong = set()
    for _ in run.steps():
        for names in run.model.top.states():
            states += 1
            for name, inode in names.items():
                if named_well(name) and inode.unsynced:
                    wrong.add(f"`{name}` may be there without its content")
                if FINAL.fullmatch(name) and f"{name}.sha256" not in names:
                    wrong.add(f"`{name}` may be there without its checksum")
    assert not wrong, "\n".join(sorted(wrong))
    assert states > 100


def test_T18_J2_nothing_is_cut_or_deleted_before_the_new_backup_is_certain(replay):
    made, document, run = replay
    new = f"{made.system.backups}/{document['archive']}"
    acts = []
    for call, path, _ in run.steps():
        gone = call == "unlink" and FINAL.fullmatch(Path(path).name)
        if gone or (call in ("ftruncate", "pwrite64") and path == str(made.lines)):
            acts.append((call, path))
            assert run.model.certain(new), (call, path)
            assert run.model.certain(f"{new}.sha256"), (call, path)
    assert len(acts) > len(document["pruned"])


def test_T18_J2_when_the_first_job_begins_what_was_staged_is_certain(replay):
    """Also that its directories are there: it is what the next run makes a backup of."""
    made, document, run = replay
    own = f"{made.system.backups}/.runs/{document['identity']}"
    for _, path, words in run.steps():
        if path == f"{own}/journal" and r"\"act\": \"start\"" in words:
            folder = run.model.find(f"{own}/before")
            assert folder is not None
            staged = [f"{own}/before/{name}" for name in folder.now()]
            lost = [each for each in (f"{own}/staged.json", *staged) if not run.model.certain(each)]
            assert len(staged) > 3
            assert lost == []
            return
    pytest.fail("no job was seen to begin")


def test_J2_a_backup_directory_that_is_made_is_certain_when_its_first_backup_is(system, tmp_path):
    trace = tmp_path / "trace"
    model = Model(system.root)
    options = ["-y", "-s", "300", "-o", shlex.quote(str(trace)), "-e", f"trace={','.join(TRACED)}"]
    ran = system.run("run", "--format", "json", python=strace(tmp_path / "tracing", *options))
    assert ran.returncode == 0, ran.stderr
    model.find(str(system.root)).entries.pop("tracing", None)
    run = Replay(trace.read_text(), system.root, model)
    for _ in run.steps():
        pass
    assert model.certain(f"{system.backups}/{json.loads(ran.stdout)['archive']}")
