"""Restores: all files or none, verified, undoable, nowhere else (J13, J14, J15, J17)."""

# ruff: noqa: PTH101, PTH102, PTH108, PTH118, PTH123, PTH211  (names of files are bytes here)
import errno
import hashlib
import os
import random
import shutil
import socket
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from runsdeploy.jobs.archive import archive
from runsdeploy.jobs.errors import BACKUP_BAD, FAILED, RESTORE_NEEDED, Fault
from runsdeploy.jobs.restore import destination, restore
from runsdeploy.jobs.staging.database import COMPANIONS
from tests.jobs.backup import backup, historical, manifest, member, reseal, state, without_kept
from tests.jobs.system import open_files

FULL = bool(os.environ.get("RUNSDEPLOY_TEST_FULL"))
ROOT = os.geteuid() == 0
pytestmark = pytest.mark.timeout(1200 if FULL else 120)
root_only = pytest.mark.skipif(not ROOT, reason="owners and mounts need root")


class Drill:
    """A system, a backup of it, and what became of it since."""

    def __init__(self, base: Path) -> None:
        self.base, self.root, self.folder = base, base / "system", base / "backups"
        self.root.mkdir()
        self.folder.mkdir(mode=0o700)
        for name, content in (
            ("etc/app/settings", "one"),
            ("etc/app/state", "two"),
            ("var/data", "three"),
            ("gone/sub/x", "4"),
        ):
            (self.root / name).parent.mkdir(parents=True, exist_ok=True)
            (self.root / name).write_text(content)
        (self.root / "etc/app/settings").chmod(0o640)
        (self.root / "var/link").symlink_to("data")
        if ROOT:
            os.chown(self.root / "etc/app/state", 1234, 2345)
        self.path = backup(self.folder, self.root)
        self.new = state(self.root)
        self.spoil()
        self.old = state(self.root)

    def spoil(self) -> None:
        (self.root / "etc/app/settings").write_text("spoilt")
        (self.root / "etc/app/settings").chmod(0o4711)
        (self.root / "etc/app/state").unlink()
        (self.root / "var/link").unlink()
        (self.root / "var/link").write_text("no link")
        (self.root / "var/data").unlink()
        (self.root / "var/data").symlink_to("nowhere")
        (self.root / "var").chmod(0o700)
        (self.root / "etc/app/others").write_text("of others")
        shutil.rmtree(self.root / "gone")

    def make_plan(self, *paths, **options):
        return restore.make_plan(str(self.path), paths, str(self.root), **options)

    def restore(self, *paths, **options):
        return restore.restore(self.make_plan(*paths, **options), str(self.folder))

    def is_new(self):
        return without_kept(state(self.root)) == {**self.new, "/etc/app/others": self.old["/etc/app/others"]}

    def is_old(self):
        return state(self.root) == self.old

    def nothing_left(self):
        """Tell whether no restore has left anything."""
        left = self.folder / ".restore"
        return not (left.exists() and list(left.iterdir())) and state(self.root) == without_kept(state(self.root))


@pytest.fixture
def drill(tmp_path):
    return Drill(tmp_path)


def refused(status, act, *arguments, **options):
    with pytest.raises(Fault) as caught:
        act(*arguments, **options)
    assert caught.value.status == status, caught.value
    return str(caught.value)


def test_J13_an_intent_shows_what_would_change_and_changes_nothing(drill):
    before = state(drill.base)
    plan = drill.make_plan()
    assert state(drill.base) == before
    actions = {change.path: change.action for change in plan.changes}
    assert actions == {
        "/etc": "same",
        "/etc/app": "same",
        "/etc/app/settings": "replace",
        "/etc/app/state": "create",
        "/gone": "create",
        "/gone/sub": "create",
        "/gone/sub/x": "create",
        "/var": "replace",
        "/var/data": "replace",
        "/var/link": "replace",
    }
    assert [change.real for change in plan.changes] == [f"{drill.root}{path}" for path in actions]
    assert (plan.notes, plan.manifest.host) == ((), socket.gethostname())


def test_J15_a_restore_puts_everything_back_and_counts_it(drill):
    assert drill.restore() == 10
    assert drill.is_new()
    assert {change.action for change in drill.make_plan().changes} == {"same"}
    assert restore.unfinished(str(drill.folder)) is None


def test_J14_a_restore_that_was_done_can_be_taken_back(drill):
    drill.restore()
    assert restore.undo(str(drill.folder)) == 10
    assert drill.is_old()
    assert drill.nothing_left()
    assert "no restore to undo" in refused(FAILED, restore.undo, str(drill.folder))


def test_J14_only_the_last_restore_is_kept(drill):
    drill.restore()
    middle = without_kept(state(drill.root))
    (drill.root / "var/data").write_text("spoilt again")
    (drill.root / "var/data").chmod(0o600)
    drill.restore("/var")
    kept = [path for path in state(drill.root) if path.endswith(".undo")]
    assert len(kept) == 1
    restore.undo(str(drill.folder))
    assert (drill.root / "var/data").read_text() == "spoilt again"
    assert {**state(drill.root), "/var/data": None} == {**middle, "/var/data": None}
    assert drill.nothing_left()


def test_J14_undo_does_not_lose_what_was_written_since(drill):
    drill.restore()
    (drill.root / "etc/app/state").write_text("new work")
    assert "state" in refused(FAILED, restore.undo, str(drill.folder))
    assert (drill.root / "etc/app/state").read_text() == "new work"
    assert restore.unfinished(str(drill.folder)) is None
    restore.undo(str(drill.folder), force=True)
    assert drill.is_old()


def test_J14_undo_refuses_if_what_was_replaced_is_gone(drill):
    drill.restore()
    next((drill.root / "etc/app").glob(".*.undo")).unlink()
    assert "files are gone" in refused(FAILED, restore.undo, str(drill.folder))
    assert drill.is_new()


def test_J14_what_is_undone_is_the_very_same_file(drill):
    number = (drill.root / "etc/app/settings").stat().st_ino
    drill.restore()
    restore.undo(str(drill.folder))
    assert (drill.root / "etc/app/settings").stat().st_ino == number


@pytest.mark.parametrize(
    ("paths", "expected"),
    [
        (["/var/data"], {"/var/data"}),
        (["/var/data/", "/gone//sub/"], {"/var/data", "/gone", "/gone/sub", "/gone/sub/x"}),
        (["/var"], {"/var", "/var/data", "/var/link"}),
    ],
)
def test_J13_only_what_is_chosen_is_restored(drill, paths, expected):
    plan = drill.make_plan(*paths)
    assert {change.path for change in plan.changes} == expected
    restore.restore(plan, str(drill.folder))
    found, wanted = without_kept(state(drill.root)), {**drill.old, **{path: drill.new[path] for path in expected}}
    assert found == wanted


@pytest.mark.parametrize("path", ["/nothing", "/va", "/etc/app/settings/x", "relative", "", "/..", "/etc/../var"])
def test_J15_a_path_that_chooses_nothing_is_an_error(drill, path):
    refused(FAILED, drill.make_plan, "/var", path)
    assert drill.is_old()


def test_J15_an_empty_backup_restores_nothing_and_says_so(drill):
    name = archive.write(str(drill.folder), manifest(identity="20261026T003000Z-a1b2c3"), {})
    assert "empty" in refused(FAILED, restore.make_plan, str(drill.folder / name), root=str(drill.root))


def test_J13_a_backup_of_another_host_needs_to_be_meant(drill, tmp_path):
    path = backup(drill.folder, drill.root, identity="20261026T003000Z-a1b2c3", host="elsewhere")
    assert "--host elsewhere" in refused(FAILED, restore.make_plan, path, root=str(tmp_path))
    assert restore.make_plan(path, root=str(tmp_path), any_host=True).changes
    assert restore.make_plan(path, root=str(tmp_path), host="elsewhere").changes


def test_J10_a_damaged_archive_is_not_restored(drill):
    data = Path(drill.path).read_bytes()
    rng = random.Random(5)
    for _ in range(200):
        position = rng.randrange(len(data))
        Path(drill.path).write_bytes(
            data[:position] + bytes([data[position] ^ (1 << rng.randrange(8))]) + data[position + 1 :]
        )
        refused(BACKUP_BAD, drill.make_plan)
    Path(drill.path).write_bytes(data)
    drill.path = archive.set_aside(drill.path)
    assert "set aside" in refused(BACKUP_BAD, drill.make_plan)
    assert drill.is_old()


def test_J10_what_is_whole_of_a_damaged_archive_can_be_had_by_force(drill):
    Path(f"{drill.path}.sha256").unlink()
    plan = drill.make_plan(force=True)
    assert "checksum" in plan.notes[0]
    data = bytearray(Path(drill.path).read_bytes())
    data[-10] ^= 1
    Path(drill.path).write_bytes(bytes(data))
    assert drill.restore("/etc", force=True) == 4
    assert (drill.root / "etc/app/settings").read_text() == "one"


def test_J10_force_does_not_restore_what_is_not_whole(tmp_path):
    root, folder = tmp_path / "system", tmp_path / "backups"
    root.mkdir()
    folder.mkdir()
    (root / "a").write_text("a")
    (root / "b").write_bytes(random.Random(6).randbytes(300_000))
    (root / "c").write_text("c")
    path = Path(backup(folder, root))
    data = bytearray(path.read_bytes())
    data[200_000] ^= 255
    path.write_bytes(bytes(data))
    reseal(path)
    into = tmp_path / "into"
    into.mkdir()
    for paths in ((), ("/b",), ("/a", "/b")):
        refused(BACKUP_BAD, restore.make_plan, str(path), paths, root=str(into), force=True)
    assert restore.restore(restore.make_plan(str(path), ("/a", "/c"), root=str(into), force=True), str(folder)) == 2
    assert {each.name: each.read_text() for each in into.iterdir()} == {"a": "a", "c": "c"}
    path.write_bytes(bytes(data[:250_000]))
    refused(BACKUP_BAD, restore.make_plan, str(path), ("/c",), root=str(into), force=True)
    assert restore.make_plan(str(path), ("/a",), root=str(into), force=True).changes[0].action == "same"


def test_J10_an_archive_that_is_changed_after_it_was_verified_changes_nothing(drill, tmp_path):
    plan = drill.make_plan()
    other = tmp_path / "other"
    shutil.copytree(drill.root, other, symlinks=True)
    (other / "var/link").write_text("something else")
    Path(drill.path).unlink()
    backup(drill.folder, other)
    refused(BACKUP_BAD, restore.restore, plan, str(drill.folder))
    assert drill.is_old()
    assert drill.nothing_left()
    Path(drill.path).unlink()
    refused(FAILED, restore.restore, plan, str(drill.folder))
    assert drill.is_old()
    assert drill.nothing_left()


def test_J13_a_link_that_is_there_is_followed_if_it_stays_inside_and_shown(drill):
    shutil.move(drill.root / "var", drill.root / "srv")
    (drill.root / "var").symlink_to("srv")
    plan = drill.make_plan("/var")
    assert [change.real for change in plan.changes] == [f"{drill.root}/srv/data", f"{drill.root}/srv/link"]
    assert restore.restore(plan, str(drill.folder)) == 2
    assert (drill.root / "srv/data").read_text() == "three"
    assert (drill.root / "var").is_symlink()


@pytest.mark.parametrize("target", ["/etc", "../outside", "{base}/outside", "/"])
def test_J13_a_link_that_leads_out_of_the_root_is_refused(drill, target):
    (drill.base / "outside").mkdir()
    shutil.rmtree(drill.root / "var")
    (drill.root / "var").symlink_to(target.format(base=drill.base))
    if target == "../outside":
        target = f"{drill.base}/outside"
    assert "outside of" in refused(FAILED, drill.make_plan)
    assert not list((drill.base / "outside").iterdir())


@pytest.mark.parametrize("when", ["before the restore", "while it is staged", "before the swap"])
def test_J13_a_link_that_is_swapped_in_meanwhile_is_not_followed(drill, monkeypatch, when):
    outside = drill.base / "outside"
    outside.mkdir()
    plan = drill.make_plan("/etc/app/settings")

    def swap_in():
        shutil.move(drill.root / "etc/app", drill.root / "etc/away")
        (drill.root / "etc/app").symlink_to(outside)

    if when == "before the restore":
        swap_in()
    real = {"while it is staged": "stage", "before the swap": "move"}.get(when, "sync")
    original, done = getattr(destination, real), []

    def swapped(*arguments):
        if not done and when != "before the restore":
            done.append(swap_in())
        return original(*arguments)

    monkeypatch.setattr(destination, real, swapped)
    with pytest.raises(Fault):
        restore.restore(plan, str(drill.folder))
    assert not list(outside.iterdir())
    monkeypatch.undo()
    (drill.root / "etc/app").unlink()
    shutil.move(drill.root / "etc/away", drill.root / "etc/app")
    if restore.unfinished(str(drill.folder)):
        restore.undo(str(drill.folder))
    assert drill.is_old()


@pytest.mark.parametrize("obstacle", ["directory", "fifo", "file above", "dangling link above"])
def test_J13_what_is_in_the_way_is_named_before_anything_is_done(drill, obstacle):
    target = drill.root / "etc/app/state"
    if obstacle == "directory":
        target.mkdir()
    elif obstacle == "fifo":
        os.mkfifo(target)
    else:
        shutil.rmtree(target.parent)
        target.parent.write_text("x") if obstacle == "file above" else target.parent.symlink_to("nowhere")
    before = state(drill.base)
    assert str(target.parent) in refused(FAILED, drill.make_plan)
    assert state(drill.base) == before


def test_J13_two_members_that_lead_to_one_place_are_refused(drill):
    shutil.rmtree(drill.root / "var")
    (drill.root / "var").symlink_to("etc")
    (drill.root / "copy").mkdir()
    (drill.root / "copy/var").mkdir()
    (drill.root / "copy/etc").mkdir()
    (drill.root / "copy/var/same").write_text("1")
    (drill.root / "copy/etc/same").write_text("2")
    path = backup(drill.folder, drill.root / "copy", identity="20261026T003000Z-a1b2c3")
    assert "several" in refused(FAILED, restore.make_plan, path, root=str(drill.root))


def test_J13_nothing_is_restored_among_the_backups(drill):
    plan = restore.make_plan(str(drill.path), ("/var/data",), str(drill.root))
    shown = plan.changes[0].real
    refused(FAILED, restore.restore, plan, str(Path(shown).parent))
    assert drill.is_old()


def test_J13_setuid_and_setgid_are_not_restored(drill):
    odd = member("/etc/app/settings", str(drill.root))._replace(mode=0o7755)
    name = archive.write(
        str(drill.folder), manifest([odd], identity="20261026T003000Z-a1b2c3"), {odd.path: f"{drill.root}{odd.path}"}
    )
    restore.restore(restore.make_plan(str(drill.folder / name), root=str(drill.root)), str(drill.folder))
    assert stat.S_IMODE((drill.root / "etc/app/settings").stat().st_mode) == 0o1755


@root_only
def test_owners_are_found_by_name_if_there_is_one(drill):
    path = drill.root / "etc/app/settings"
    odd = member("/etc/app/settings", str(drill.root))._replace(user="nobody", group="no such group", uid=77, gid=78)
    name = archive.write(str(drill.folder), manifest([odd], identity="20261026T003000Z-a1b2c3"), {odd.path: str(path)})
    restore.restore(restore.make_plan(str(drill.folder / name), root=str(drill.root)), str(drill.folder))
    assert (path.owner(), path.stat().st_gid) == ("nobody", 78)


def test_J17_a_file_has_its_mode_before_it_has_content(drill, monkeypatch):
    seen = []
    original = destination.digest

    def passed(content, file=None):
        if file:
            seen.append((stat.S_IMODE(os.fstat(file.fileno()).st_mode), os.fstat(file.fileno()).st_size))
        return original(content, file)

    monkeypatch.setattr(destination, "digest", passed)
    before = os.umask(0)
    try:
        drill.restore("/etc/app/settings")
    finally:
        os.umask(before)
    assert seen == [(0o640, 0)]


def test_J17_what_is_written_of_a_restore_is_private(drill):
    drill.restore()
    for each in (drill.folder / ".restore").rglob("*"):
        assert stat.S_IMODE(each.stat().st_mode) & 0o077 == 0


def test_J14_a_second_restore_waits_for_the_end_of_one_that_is_unfinished(drill, monkeypatch):
    plan = drill.make_plan()
    with monkeypatch.context() as patch:
        patch.setattr(destination, "move", lambda *_: (_ for _ in ()).throw(OSError(errno.EIO, "no disk")))
        assert "interrupted" in refused(RESTORE_NEEDED, restore.restore, plan, str(drill.folder))
    found = restore.unfinished(str(drill.folder))
    assert (found.archive, found.phase) == (str(drill.path), "swapping")
    assert f"{drill.root}/var/data" in found.paths
    refused(RESTORE_NEEDED, restore.restore, plan, str(drill.folder))
    assert restore.continue_restore(str(drill.folder)) == 10
    assert drill.is_new()
    assert "nothing to continue" in refused(FAILED, restore.continue_restore, str(drill.folder))


@root_only
@pytest.mark.parametrize("error", ["EPERM", "EOPNOTSUPP", "EMLINK"])
def test_J14_where_there_are_no_hard_links_copies_are_kept(drill, error, monkeypatch):
    def no_link(*_, **__):
        raise OSError(getattr(errno, error), "no links here")

    os.setxattr(drill.root / "etc/app/settings", "user.test", b"kept") if _has_attributes(drill.root) else None
    monkeypatch.setattr(os, "link", no_link)
    drill.restore()
    assert drill.is_new()
    restore.undo(str(drill.folder))
    assert drill.is_old()
    if _has_attributes(drill.root):
        assert os.getxattr(drill.root / "etc/app/settings", "user.test") == b"kept"


def _has_attributes(path):
    try:
        os.setxattr(path, "user.test", b"x")
    except OSError:
        return False
    os.removexattr(path, "user.test")
    return True


NOT_ROOT = """
import os, sys
sys.path.insert(0, sys.argv[1])
from runsdeploy.jobs.restore import restore
from runsdeploy.jobs.errors import Fault
os.setgroups([]); os.setgid(65534); os.setuid(65534)
try:
    restore.restore(restore.make_plan(sys.argv[2], root=sys.argv[3]), os.path.dirname(sys.argv[2]))
except Fault as fault:
    print(fault)
"""


@root_only
def test_a_drill_below_another_root_needs_nobodys_leave(drill):
    for path in (drill.base, *drill.base.rglob("*")):
        os.chown(path, 65534, 65534, follow_symlinks=False)
    # Where others may look; what is above tests is shared with others, and stays as it is.
    with tempfile.TemporaryDirectory() as above:
        Path(above).chmod(0o711)
        place = shutil.move(drill.base, above)
        words = [str(each).replace(str(drill.base), place) for each in (drill.path, drill.root)]
        argv = [sys.executable, "-B", "-c", NOT_ROOT, str(Path(__file__).parents[3]), *words]
        done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=60)
        shutil.move(place, drill.base)
    assert (done.stdout, done.stderr) == ("", "")
    assert {path.lstat().st_uid for path in drill.root.rglob("*")} == {65534}
    assert (drill.root / "etc/app/state").read_bytes() == drill.new["/etc/app/state"][-1]


FULL_DISK = """
import os, subprocess, sys
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from runsdeploy.jobs.restore import restore
from runsdeploy.jobs.restore import atomic_replace
from runsdeploy.jobs.restore import layout
from runsdeploy.jobs.errors import Fault
from tests.jobs.backup import backup, state
layout._check_space = lambda slots: None  # as if somebody else filled the disk meanwhile
base, step = Path(sys.argv[2]), int(sys.argv[3])
path = backup(base / "backups", base / "tree")
results = set()
for size in range(8 * 4096, 300 * 1024, step):
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=%d" % size, "tmpfs", str(base / "disk")], check=True)
    try:
        (base / "disk/a").write_text("old")
        before = state(base / "disk")
        try:
            restore.restore(restore.make_plan(path, root=str(base / "disk")), str(base / "backups"))
            results.add("ok")
            restore.undo(str(base / "backups"))
        except Fault as fault:
            assert fault.status == 1 and "no space left" in str(fault), fault
            results.add("full")
        assert state(base / "disk") == before
        assert restore.unfinished(str(base / "backups")) is None
    finally:
        subprocess.run(["umount", str(base / "disk")], check=True)
assert results == {"full", "ok"}, results
"""


@root_only
def test_J14_on_a_full_disk_nothing_is_changed_and_nothing_left(tmp_path):
    for name in ("tree", "backups", "disk"):
        (tmp_path / name).mkdir()
    for name in "abc":
        (tmp_path / "tree" / name).write_bytes(random.Random(7).randbytes(60_000))
    here, step = str(Path(__file__).parents[3]), str(4096 if FULL else 24576)
    argv = ["unshare", "-m", sys.executable, "-B", "-c", FULL_DISK, here, tmp_path, step]
    subprocess.run(argv, check=True, timeout=100)


@root_only
def test_S17_what_cannot_fit_is_refused_before_anything_is_staged(tmp_path):
    """What a manifest promises is counted first: a bomb does not fill a disk."""
    script = """
import subprocess, sys
sys.path.insert(0, sys.argv[1])
from runsdeploy.jobs.restore import restore
from runsdeploy.jobs.errors import Fault
subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", sys.argv[3]], check=True)
try:
    restore.make_plan(sys.argv[2], root=sys.argv[3])
except Fault as fault:
    print(fault)
"""
    (tmp_path / "tree").mkdir()
    (tmp_path / "disk").mkdir()
    (tmp_path / "tree/big").write_bytes(bytes(3_000_000))
    path = backup(tmp_path, tmp_path / "tree")
    argv = [
        "unshare",
        "-m",
        sys.executable,
        "-B",
        "-c",
        script,
        str(Path(__file__).parents[3]),
        path,
        tmp_path / "disk",
    ]
    assert "no room" in subprocess.run(argv, check=True, timeout=60, capture_output=True, text=True).stdout


def test_J24_a_historical_archive_is_restored_the_last_of_each_name(tmp_path):
    root, folder, into = tmp_path / "system", tmp_path / "backups", tmp_path / "into"
    for each in (root, folder, into):
        each.mkdir()
    (root / "one").write_text("1")
    (root / "two\n").write_text("2")
    (root / "sub").mkdir()
    (root / "sub" / ("n" * 200)).write_text("long")
    (root / "link").symlink_to("one")
    os.utime(root / "one", (10**9, 10**9))
    path = historical(folder, root)
    (root / "one").write_text("later")
    os.utime(root / "one", (10**9, 10**9))
    subprocess.run(["gunzip", path], check=True)
    subprocess.run(["tar", "-rf", str(path)[:-3], root / "one"], check=True, stderr=subprocess.DEVNULL)
    subprocess.run(["gzip", str(path)[:-3]], check=True)
    plan = restore.make_plan(str(path), (str(root),), str(into))
    assert "no checksum" in plan.notes[0]
    assert restore.restore(plan, str(folder)) == 4
    found, wanted = state(f"{into}{root}"), state(root)
    assert {path: (*each[:3], each[4]) for path, each in found.items()} == {
        path: (*each[:3], each[4]) for path, each in wanted.items()
    }
    assert found["/one"] == wanted["/one"]
    restore.undo(str(folder))
    assert state(into) == {}


@pytest.fixture
def base(drill):
    """A file that has logs of a database beside it, and one that is only called so."""
    data = drill.root / "var/data"
    data.unlink()
    data.write_text("old")
    for end, (beginning, *_) in COMPANIONS.items():
        Path(f"{data}{end}").write_bytes(beginning + b"of the old one")
    (drill.root / "etc/app/state-journal").write_text("dear diary")
    (drill.root / "etc/app/settings-wal").mkdir()
    (drill.root / "var/link-wal").write_bytes(COMPANIONS["-wal"][1])
    drill.old = state(drill.root)
    return data


def test_J14_logs_of_the_former_database_go_with_it_and_come_back_with_it(drill, base):
    plan = drill.make_plan()
    removed = {change.path for change in plan.changes if change.action == "remove"}
    assert removed == {"/var/data-wal", "/var/data-shm", "/var/data-journal"}
    assert len(plan.notes) == 3
    assert f"`{base}-wal` belongs to the database" in "".join(plan.notes)
    assert state(drill.root) == drill.old
    assert restore.restore(plan, str(drill.folder)) == 10
    others = {"/etc/app/others", "/etc/app/state-journal", "/etc/app/settings-wal", "/var/link-wal"}
    assert without_kept(state(drill.root)) == {**drill.new, **{path: drill.old[path] for path in others}}
    assert restore.undo(str(drill.folder)) == 10
    assert drill.is_old()
    assert drill.nothing_left()


def test_J14_a_log_of_a_database_that_is_not_restored_stays(drill, base):
    drill.restore("/etc")
    assert Path(f"{base}-wal").exists()


def test_J14_logs_that_are_in_the_backup_are_restored(tmp_path):
    """The historical script saved them like any file."""
    root, folder = tmp_path / "system", tmp_path / "backups"
    root.mkdir()
    folder.mkdir()
    (root / "base").write_text("x")
    (root / "base-wal").write_bytes(COMPANIONS["-wal"][0] + b"new")
    path, new = backup(folder, root), state(root)
    (root / "base-wal").write_bytes(COMPANIONS["-wal"][0] + b"old")
    old = state(root)
    restore.restore(restore.make_plan(path, root=str(root)), str(folder))
    assert without_kept(state(root)) == new
    restore.undo(str(folder))
    (root / "base").write_text("y")
    assert restore.restore(restore.make_plan(path, ("/base",), str(root)), str(folder)) == 1
    assert set(without_kept(state(root))) == {"/base"}
    restore.undo(str(folder))
    assert state(root)["/base-wal"] == old["/base-wal"]


@pytest.mark.parametrize("when", ["start", "keep_old", "move"])
def test_J14_a_database_that_comes_into_use_meanwhile_is_not_spoilt(drill, when, monkeypatch):
    plan, log = drill.make_plan(), drill.root / "var/data-wal"

    def use(*_):
        log.write_bytes(COMPANIONS["-wal"][0] + b"of a program")

    if when == "start":
        use()
    else:
        act = getattr(destination, when)
        monkeypatch.setattr(destination, when, lambda *words: (use(), act(*words)))
    status = RESTORE_NEEDED if when == "move" else FAILED
    assert f"`{log}`" in refused(status, restore.restore, plan, str(drill.folder))
    monkeypatch.undo()
    if when == "move":
        refused(RESTORE_NEEDED, restore.continue_restore, str(drill.folder))
        restore.undo(str(drill.folder))
    else:
        log.unlink()
    assert drill.is_old()
    assert drill.nothing_left()


def test_J14_undo_does_not_lose_what_only_a_log_has_nor_plays_it_into_the_former_database(drill):
    drill.restore()
    log = drill.root / "var/data-wal"
    log.write_bytes(COMPANIONS["-wal"][0] + b"of a program")
    assert f"`{log}`" in refused(FAILED, restore.undo, str(drill.folder))
    assert log.exists()
    restore.undo(str(drill.folder), force=True)
    assert drill.is_old()


def random_tree(root, rng):
    """Make up to 60 files, links and directories with names that people do not use."""
    bytes_of_names = bytes(set(range(1, 256)) - {ord("/")})
    folders = [os.fsencode(root)]
    for _ in range(rng.randrange(5, 60)):
        length = rng.choice((1, 3, 8, 40, 255))
        name = rng.choice(
            (bytes(rng.choices(bytes_of_names, k=length)), b"-rf", b"a b", "é".encode(), b"*", b"\n", b".x")
        )
        path = os.path.join(rng.choice(folders), name)
        if name in (b".", b"..") or os.path.lexists(path) or len(path) > 3000:
            continue
        kind = rng.randrange(4)
        if kind == 0:
            os.mkdir(path)
            folders.append(path)
        elif kind == 1:
            os.symlink(bytes(rng.choices(bytes_of_names + b"/", k=rng.choice((1, 100, 101, 1000)))), path)
        else:
            with open(path, "wb") as file:
                file.write(rng.randbytes(rng.choice((0, 1, 511, 512, 513, 5000))))
            os.chmod(path, rng.choice((0o600, 0o644, 0o400, 0o000 if ROOT else 0o600, 0o1777)))
        if ROOT:
            os.chown(path, rng.choice((0, 1, 65534, 2**31)), rng.choice((0, 7, 2**31)), follow_symlinks=False)
        times = rng.choice((0, -(10**9) - 1, 1_234_567_890_123_456_789, 4_102_444_800_000_000_001))
        os.utime(path, ns=(times, times), follow_symlinks=False)


@pytest.mark.parametrize("number", range(100 if FULL else 12))
def test_T26_whatever_was_in_a_tree_is_there_again_and_undo_brings_the_ruin_back(tmp_path, number):
    rng = random.Random(seed := random.randrange(2**32))
    print("seed", seed, number)
    root, folder = tmp_path / "system", tmp_path / "backups"
    root.mkdir()
    folder.mkdir()
    random_tree(root, rng)
    (root / "one").write_text("always")
    path, new = backup(folder, root), state(root)
    for each in sorted(new, key=len, reverse=True):
        mode, act = new[each][0], rng.randrange(5)
        if stat.S_ISDIR(mode):
            os.chmod(f"{root}{each}", rng.choice((0o700, 0o755)))
            if act == 0:
                shutil.rmtree(f"{root}{each}")
        elif os.path.lexists(f"{root}{each}") and act < 3:
            os.unlink(f"{root}{each}")
            if act == 1:
                Path(f"{root}{each}").write_bytes(b"ruin")
            elif act == 2:
                os.symlink("/ruin", f"{root}{each}")
    old = state(root)
    plan = restore.make_plan(path, root=str(root))
    assert restore.restore(plan, str(folder)) == len(new)
    assert without_kept(state(root)) == new
    assert archive.verify(path) == []
    restore.undo(str(folder))
    assert state(root) == old


def test_restores_without_end_leave_nothing_behind(drill):
    for _ in range(5):
        drill.restore()
    assert len(list((drill.folder / ".restore").iterdir())) == 1
    descriptors = open_files()
    restore.undo(str(drill.folder))
    assert drill.nothing_left()
    assert open_files() <= descriptors


def test_a_damaged_plan_is_an_unfinished_restore_that_says_so(drill, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(destination, "move", lambda *_: (_ for _ in ()).throw(OSError(errno.EIO, "no disk")))
        refused(RESTORE_NEEDED, drill.restore)
    (plan,) = (drill.folder / ".restore").glob("*/plan.json")
    right = plan.read_bytes()
    for wrong in (b"", right[:-1], b"[]", b"{}", b"\xff"):
        plan.write_bytes(wrong)
        refused(RESTORE_NEEDED, restore.unfinished, str(drill.folder))
    plan.write_bytes(right)
    restore.undo(str(drill.folder))
    assert drill.is_old()


def test_a_restore_that_is_being_taken_back_is_not_continued(drill, monkeypatch):
    drill.restore()
    with monkeypatch.context() as patch:
        patch.setattr(destination, "move", lambda *_: (_ for _ in ()).throw(OSError(errno.EIO, "no disk")))
        refused(RESTORE_NEEDED, restore.undo, str(drill.folder))
    assert restore.unfinished(str(drill.folder)).phase == "undoing"
    refused(RESTORE_NEEDED, restore.continue_restore, str(drill.folder))
    restore.undo(str(drill.folder))
    assert drill.is_old()


def test_the_digest_of_what_is_in_place_is_what_the_manifest_says(drill):
    drill.restore()
    listing, _ = archive.inspect(drill.path)
    for each in listing.members:
        if each.kind == "file":
            assert hashlib.sha256(Path(f"{drill.root}{each.path}").read_bytes()).hexdigest() == each.sha256
