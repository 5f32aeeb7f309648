"""Writers and restores that are killed, or failed by the system, at each of their steps (J1, J3, J14, T17, T19)."""

import random
import shutil
import signal

import pytest

from runsdeploy.jobs.archive import archive
from runsdeploy.jobs.errors import FAILED, RESTORE_NEEDED
from runsdeploy.jobs.restore import restore
from runsdeploy.jobs.staging.database import COMPANIONS
from tests.jobs import crash
from tests.jobs.backup import backup, state, without_kept

pytestmark = [
    pytest.mark.skipif(bool(crash.why_not()), reason=crash.why_not() or "-"),
    pytest.mark.timeout(1200 if crash.FULL else 600),
]

KILLED = (-signal.SIGKILL, 128 + signal.SIGKILL)
IDENTITY = "20261030T003000Z-a1b2c3"
NAME = f"{IDENTITY}-cron-backup.tar.gz"


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    return crash.Program(tmp_path_factory.mktemp("program"))


class Writer:
    """A history of backups, and a tree of which the next one is made."""

    def __init__(self, base, program):
        self.program, self.folder, self.tree = program, base / "backups", base / "tree"
        self.folder.mkdir()
        (self.tree / "sub").mkdir(parents=True)
        for number in range(4):
            (self.tree / f"sub/{number}").write_bytes(random.Random(number).randbytes(40_000))
        for day in range(3):
            backup(self.folder, self.tree, identity=f"2026102{day}T003000Z-a1b2c3", sequence=day)
        self.before = state(self.folder)
        self.words = ("write", self.folder, self.tree, IDENTITY)
        self.calls = program.calls(*self.words)
        self.reset()

    def reset(self):
        for each in self.folder.iterdir():
            if f"/{each.name}" not in self.before:
                each.unlink()

    def check(self):
        """The history is there; a final name exists if and only if the archive is sound."""
        found = state(self.folder)
        assert {path: found[path] for path in self.before} == self.before
        for each in archive.archives(str(self.folder)):
            assert each.kind == "good"
            assert archive.verify(each.path) == []
        new = sorted(path for path in found if path not in self.before)
        assert all(path.startswith(f"/{NAME}") for path in new)
        assert all(path in (f"/{NAME}", f"/{NAME}.sha256") or path.endswith(".tmp") for path in new)
        return new


@pytest.fixture
def writer(tmp_path, program):
    return Writer(tmp_path, program)


def test_J1_a_writer_killed_at_any_step_leaves_a_sound_archive_or_none(writer):
    assert len(writer.calls) > 12
    for call, number in crash.some(writer.calls, 1):
        status, said = writer.program.run(call, number, "signal=KILL", *writer.words)
        assert status in KILLED, (call, number, said)
        new = writer.check()
        if f"/{NAME}" not in new:
            for path in new:
                if not path.endswith(".sha256"):
                    (writer.folder / path[1:]).unlink()
            assert writer.program.run("ptrace", 1, "signal=KILL", *writer.words) == (0, "")
            assert f"/{NAME}" in writer.check()
        writer.reset()


@pytest.mark.parametrize("error", ["ENOSPC", "EIO", "EDQUOT"])
def test_J3_a_writer_that_the_system_fails_at_any_step_leaves_nothing(writer, error):
    for call, number in crash.some(writer.calls, 2):
        status, said = writer.program.run(call, number, f"error={error}", *writer.words)
        assert status, (call, number)
        assert "OSError" in said, (call, number, said)
        assert writer.check() == [], (call, number)


class Ruin:
    """A system that is not as its backup, and a restore of it at some point."""

    def __init__(self, base, program):
        self.program, self.place, self.saved = program, base / "place", base / "saved"
        self.root, self.folder = self.place / "root", self.place / "backups"
        for each in (self.root / "a", self.root / "gone/sub", self.root / "mode", self.folder):
            each.mkdir(parents=True)
        for name in ("a/replaced", "a/created", "gone/sub/deep", "mode/other", "mode/base"):
            (self.root / name).write_text(f"new {name}")
        (self.root / "a/link").symlink_to("created")
        (self.root / "a/replaced").chmod(0o640)
        (self.root / "mode").chmod(0o750)
        self.path = backup(self.folder, self.root)
        self.new = state(self.root)
        (self.root / "a/replaced").write_text("old")
        (self.root / "a/replaced").chmod(0o604)
        (self.root / "a/created").unlink()
        (self.root / "a/link").unlink()
        (self.root / "a/link").write_text("old link")
        (self.root / "mode/other").unlink()
        (self.root / "mode/other").symlink_to("old")
        (self.root / "mode").chmod(0o705)
        shutil.rmtree(self.root / "gone")
        (self.root / "mode/base").write_text("old")
        (self.root / "mode/base-wal").write_bytes(COMPANIONS["-wal"][0] + b"old")
        (self.root / "a/created-journal").write_bytes(COMPANIONS["-journal"][0] + b"old")
        self.old = state(self.root)
        self.restoring = ("restore", self.path, self.root, self.folder)
        self.save()

    def save(self):
        if self.saved.exists():
            shutil.rmtree(self.saved)
        crash.copy(self.place, self.saved)

    def reset(self):
        crash.replace(self.place, self.saved)

    def calls(self, *words):
        """Return the calls of an act from the saved state."""
        found = self.program.calls(*words)
        self.reset()
        return found

    def is_new(self):
        return without_kept(state(self.root)) == self.new

    def is_old(self):
        """Tell whether everything is as it was, with nothing left of any restore."""
        left = self.folder / ".restore"
        return state(self.root) == self.old and not (left.exists() and list(left.iterdir()))

    def recovers(self):
        """From the state as it is: continued all is new, taken back all is old."""
        found = restore.unfinished(str(self.folder))
        aside = self.place.with_name("aside")
        crash.copy(self.place, aside)
        if found and found.phase == "undoing":
            with pytest.raises(restore.Fault):
                restore.continue_restore(str(self.folder))
        elif found:
            restore.continue_restore(str(self.folder))
            assert self.is_new()
            restore.undo(str(self.folder))
            assert self.is_old()
        else:
            assert self.is_new() or without_kept(state(self.root)) == self.old
        crash.replace(self.place, aside)
        shutil.rmtree(aside)
        if found or self.is_new():
            restore.undo(str(self.folder))
            assert self.is_old()
        assert restore.unfinished(str(self.folder)) is None
        return found.phase if found else "none"


@pytest.fixture
def ruin(tmp_path, program):
    return Ruin(tmp_path, program)


def kill_everywhere(ruin, step, *words):
    """Kill an act at its calls, each time from the saved state; return the phases in which it was."""
    calls, phases = ruin.calls(*words), {}
    for call, number in crash.some(calls, step):
        status, said = ruin.program.run(call, number, "signal=KILL", *words)
        assert status in KILLED, (call, number, said)
        try:
            phase = ruin.recovers()
        except BaseException:
            print("killed at", call, number, "of", len(calls))
            raise
        phases[phase] = phases.get(phase, 0) + 1
        ruin.reset()
    return phases


def at(ruin, phase):
    """Bring a restore to the middle of a phase, and save that: to keep what is there, or to put files in place."""
    acts = [
        each
        for each in ruin.calls(*ruin.restoring)
        if each[0].startswith({"staging": "link", "swapping": "renameat"}[phase])
    ]
    ruin.program.run(*acts[len(acts) // 2], "signal=KILL", *ruin.restoring)
    assert restore.unfinished(str(ruin.folder)).phase == phase
    ruin.save()


def test_J14_a_restore_killed_at_any_step_becomes_all_new_or_all_old(ruin):
    phases = kill_everywhere(ruin, 4, *ruin.restoring)
    assert set(phases) == {"none", "staging", "swapping"}


@pytest.mark.parametrize("phase", ["staging", "swapping"])
def test_J14_to_continue_can_be_killed_too(ruin, phase):
    at(ruin, phase)
    phases = kill_everywhere(ruin, 6, "continue_restore", ruin.folder)
    assert {phase, "swapping"} <= set(phases) <= {phase, "swapping", "none"}


@pytest.mark.parametrize("phase", ["staging", "swapping", "done"])
def test_J14_to_take_back_can_be_killed_too(ruin, phase):
    if phase == "done":
        restore.restore(restore.make_plan(ruin.path, root=str(ruin.root)), str(ruin.folder))
        ruin.save()
    else:
        at(ruin, phase)
    phases = kill_everywhere(ruin, 4, "undo", ruin.folder)
    assert phase == "staging" or "undoing" in phases


@pytest.mark.parametrize("error", ["ENOSPC", "EIO"])
def test_J14_a_restore_that_the_system_fails_at_any_step_changes_nothing_or_is_unfinished(ruin, error):
    for call, number in crash.some(ruin.calls(*ruin.restoring), 4):
        status, said = ruin.program.run(call, number, f"error={error}", *ruin.restoring)
        assert "Traceback" not in said, (call, number, said)
        unfinished = restore.unfinished(str(ruin.folder))
        assert status == (RESTORE_NEEDED if unfinished else FAILED) or (status == 0 and ruin.is_new()), (
            call,
            number,
            said,
        )
        if status == FAILED:
            assert ruin.is_old(), (call, number, said)
        ruin.recovers()
        ruin.reset()
