"""Archives: complete and sound or not there, and no damage unseen (J1, J3, J10, J24)."""

import errno
import gzip
import hashlib
import io
import json
import os
import random
import shutil
import stat
import subprocess
import tarfile
from pathlib import Path

import pytest

from runsdeploy.jobs.archive import archive, extraction, tar
from runsdeploy.jobs.archive.gunzip import GzipReader
from runsdeploy.jobs.archive.manifest import Damaged, Member, decode, encode
from tests.jobs.backup import CREATED, IDENTITY, backup, historical, manifest, member, members, reseal
from tests.jobs.pythons import pythons

NAME = f"{IDENTITY}-cron-backup.tar.gz"
FULL = bool(os.environ.get("RUNSDEPLOY_TEST_FULL"))
pytestmark = pytest.mark.timeout(1200 if FULL else 120)
root_only = pytest.mark.skipif(os.geteuid() != 0, reason="owners and mounts need root")


@pytest.fixture
def folder(tmp_path):
    path = tmp_path / "backups"
    path.mkdir(mode=0o700)
    return path


@pytest.fixture
def tree(tmp_path):
    """A small system with names of every kind."""
    root = tmp_path / "system"
    (root / "etc/app").mkdir(parents=True)
    (root / "etc/app/settings.json").write_text("{}")
    (root / "etc/app/empty").write_bytes(b"")
    (root / "etc/app/blob").write_bytes(random.Random(1).randbytes(70_000))
    (root / "etc/app/new\nline").write_text("x" * 512)
    (root / "etc/app/blåbær").write_text("y" * 511)
    Path(os.fsdecode(os.fsencode(root) + b"/etc/app/\xff\xfe bytes")).write_text("z" * 513)
    (root / "etc/app" / ("n" * 255)).write_text("long")
    (root / "etc/app/link").symlink_to("../" * 40 + "é" * 30)
    (root / "etc/app/secret").write_text("s")
    (root / "etc/app/secret").chmod(0o600)
    os.utime(root / "etc/app/secret", ns=(0, 1_234_567_890_123_456_789))
    os.utime(root / "etc/app/empty", ns=(0, -5_000_000_001))
    return root


def read(path):
    """Return all contents by path, read as a restore does."""
    with Path(path).open("rb") as file:
        stream = GzipReader(file)
        return {
            each.path: b"".join(chunks) for each, chunks in extraction.members(stream, extraction.read_manifest(stream))
        }


def test_an_archive_is_written_under_its_name_with_a_check_sum_that_sha256sum_takes(folder, tree):
    path = backup(folder, tree)
    assert Path(path).name == NAME
    assert sorted(each.name for each in folder.iterdir()) == [NAME, f"{NAME}.sha256"]
    subprocess.run(["sha256sum", "--strict", "-c", f"{NAME}.sha256"], cwd=folder, check=True, capture_output=True)
    assert archive.verify(path) == []
    assert read(path) == {
        each.path: Path(f"{tree}{each.path}").read_bytes() if each.kind == "file" else b"" for each in members(tree)
    }


def test_J17_archive_and_check_sum_are_private_whatever_the_umask(folder, tree):
    before = os.umask(0)
    try:
        backup(folder, tree)
    finally:
        os.umask(before)
    assert {stat.S_IMODE(each.stat().st_mode) for each in folder.iterdir()} == {0o600}


def test_the_same_input_makes_the_same_bytes(tmp_path, folder, tree):
    first = Path(backup(folder, tree)).read_bytes()
    other = tmp_path / "other"
    other.mkdir()
    assert Path(backup(other, tree)).read_bytes() == first


def test_what_is_not_good_says_so_in_its_name(folder, tree):
    path = backup(folder, tree, good=False, reasons=("the snapshot is old",))
    assert Path(path).name == f"{IDENTITY}-cron-backup-failed.tar.gz"
    (found,) = archive.archives(str(folder))
    assert (found.kind, found.manifest.reasons, found.problem) == ("failed", ("the snapshot is old",), "")


def test_gnu_tar_and_python_unpack_an_archive_by_hand(tmp_path, folder, tree):
    path = backup(folder, tree)
    out = tmp_path / "out"
    out.mkdir()
    subprocess.run(["tar", "--warning=no-timestamp", "-xzf", path, "-C", out], check=True, stdin=subprocess.DEVNULL)
    for each in members(tree):
        found = member(each.path, f"{out}/files")
        if each.kind != "directory":
            assert found._replace(mtime_ns=0) == each._replace(mtime_ns=0)
            assert found.mtime_ns // 10**9 == each.mtime_ns // 10**9
    with tarfile.open(path) as unpacked:
        names = [os.fsencode(each.name) for each in unpacked]
    assert names == [b"MANIFEST.json", *(b"files" + os.fsencode(each.path) for each in members(tree))]


@root_only
def test_gnu_tar_tells_owners_and_sizes_that_have_no_room_in_a_plain_header(folder):
    odd = Member("/x", "before", "link", 0o777, 3_000_000, 4_000_000, "u" * 60, "", 0, 0, "", "t" * 300, truncate=False)
    odd = odd._replace(mtime_ns=2**33 * 10**9)
    name = archive.write(str(folder), manifest([odd]), {})
    listed = subprocess.run(["tar", "-tvzf", folder / name], check=True, capture_output=True, text=True).stdout
    assert "u" * 60 in listed
    assert f"/x -> {'t' * 300}" in listed
    with tarfile.open(folder / name) as unpacked:
        found = unpacked.getmembers()[1]
    assert (found.uid, found.gid, found.mtime) == (3_000_000, 4_000_000, 2**33)
    header = tar.header(tar.Entry(b"n", "file", 0o600, 0, 0, b"", b"", 0, 2**40, b""))
    with tarfile.open(fileobj=io.BytesIO(header + bytes(1024))) as unpacked:
        assert unpacked.next().size == 2**40


def test_members_come_in_the_order_of_their_bytes_and_setuid_is_never_in_an_archive(folder, tree):
    (tree / "suid").write_text("x")
    (tree / "suid").chmod(0o6755)
    path = backup(folder, tree)
    with tarfile.open(path) as unpacked:
        assert unpacked.getmember("files/suid").mode == 0o755


FOREIGN = """
import json, sys, tarfile
sys.path.insert(0, sys.argv[1])
from jobs.archive import archive
from jobs.archive.manifest import decode
folder, document, sources, form = sys.argv[2:]
tarfile.PAX_FORMAT = getattr(tarfile, form)
with open(document, "rb") as file:
    made = decode(file.read())
with open(sources) as file:
    archive.write(folder, made, json.load(file))
"""


@pytest.mark.parametrize("form", ["PAX_FORMAT", "GNU_FORMAT"])
@pytest.mark.parametrize("python", [pythons()[0], pythons()[-1]])
def test_headers_that_another_version_wrote_are_read(tmp_path, folder, tree, python, form):
    """Versions of Python, and of the runner, write other bytes for one entry: entries are compared, not bytes."""
    (tree / ("d" * 90)).mkdir()
    (tree / ("d" * 90) / ("ø" * 90)).write_text("far below")
    found = members(tree)
    document, sources = tmp_path / "manifest", tmp_path / "sources"
    document.write_bytes(encode(manifest(found)))
    sources.write_text(json.dumps({each.path: f"{tree}{each.path}" for each in found}))
    package = Path(__file__).parents[3] / "runsdeploy"
    argv = [python, "-I", "-S", "-B", "-c", FOREIGN, package, folder, document, sources, form]
    subprocess.run(argv, check=True, env={"LC_ALL": "C.UTF-8", "PATH": os.environ["PATH"]})
    assert archive.verify(str(folder / NAME)) == []
    assert set(read(folder / NAME)) == {each.path for each in found}


def test_J1_a_second_archive_of_the_same_name_is_refused_and_the_first_untouched(folder, tree):
    path = Path(backup(folder, tree))
    before = path.read_bytes()
    with pytest.raises(FileExistsError):
        backup(folder, tree, created=CREATED + 1)
    assert path.read_bytes() == before
    assert archive.verify(str(path)) == []


@pytest.mark.parametrize("change", ["shorter", "longer", "other", "gone", "link"])
def test_J1_a_staged_file_that_is_not_what_the_manifest_says_leaves_nothing(folder, tree, change):
    source = tree / "etc/app/blob"
    found = members(tree)
    data = source.read_bytes()
    if change in ("gone", "link"):
        source.rename(tree / "away")
    if change == "link":
        source.symlink_to(tree / "away")
    if change in ("shorter", "longer", "other"):
        source.write_bytes({"shorter": data[:-1], "longer": data + b"x", "other": b"x" + data[1:]}[change])
    with pytest.raises((OSError, Damaged)):
        archive.write(str(folder), manifest(found), {each.path: f"{tree}{each.path}" for each in found})
    assert not list(folder.iterdir())


@pytest.mark.parametrize("identity", ["../x", "20261025T003000Z-a1b2c3/../../x", "", "20261025T003000Z-a1b2c3\n"])
def test_an_identity_that_makes_no_name_is_refused(folder, identity):
    with pytest.raises(Damaged):
        archive.write(str(folder), manifest(identity=identity), {})
    assert not list(folder.iterdir())


def test_an_empty_backup_can_be_written_and_verified(folder):
    assert archive.verify(str(folder / archive.write(str(folder), manifest(), {}))) == []


LADDER = """
import os, subprocess, sys
sys.path.insert(0, sys.argv[1])
from runsdeploy.jobs.archive import archive
from tests.jobs.backup import backup
from pathlib import Path
base = Path(sys.argv[2])
tree, folder = base / "tree", base / "disk"
step = int(sys.argv[3])
results = set()
for size in range(0, 400 * 1024, step):
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=%d" % (110 * 1024 + size), "tmpfs", str(folder)], check=True)
    try:
        old = backup(folder, base / "small", identity="20200101T000000Z-000000")
        before = sorted(os.listdir(str(folder)))
        try:
            made = backup(folder, tree)
        except OSError as error:
            assert error.errno == 28, error
            assert sorted(os.listdir(str(folder))) == before
            results.add("full")
        else:
            assert archive.verify(made) == []
            results.add("ok")
        assert archive.verify(old) == []
    finally:
        subprocess.run(["umount", str(folder)], check=True)
assert results == {"full", "ok"}, results
"""


@root_only
def test_J3_on_a_full_disk_nothing_is_left_and_older_archives_stay(tmp_path):
    for name in ("tree", "small", "disk"):
        (tmp_path / name).mkdir()
    (tmp_path / "tree/blob").write_bytes(random.Random(2).randbytes(200_000))
    (tmp_path / "small/file").write_text("small")
    here = str(Path(__file__).parents[3])
    step = str(4096 if FULL else 32768)
    python = Path(os.sys.executable)
    subprocess.run(["unshare", "-m", python, "-B", "-c", LADDER, here, tmp_path, step], check=True, timeout=100)


def test_archives_are_listed_newest_first_by_sequence_whatever_the_clock_said(folder, tree):
    for sequence, (stamp, created) in enumerate(
        [("20300101T000000Z", 10**9), ("20200101T000000Z", 2 * 10**9), ("19700101T000000Z", 0)]
    ):
        backup(folder, tree, identity=f"{stamp}-00000{sequence}", sequence=sequence + 1, created=created)
    old = historical(folder, tree)
    found = archive.archives(str(folder))
    assert [each.kind for each in found] == ["good", "good", "good", "historical"]
    assert [each.manifest.sequence for each in found[:3]] == [3, 2, 1]
    assert found[3].path == str(old)
    assert found[3].size == old.stat().st_size
    assert "no checksum" in found[3].problem


def test_files_of_others_are_ignored(folder, tree):
    backup(folder, tree)
    for name in (
        "x",
        f"{NAME}.123456123456.tmp",
        f"{NAME}.sha256.aa.tmp",
        f"x{NAME}",
        f"{NAME}x",
        f"{NAME}\n",
        "2020-01-31-cron-backup.tar.gz",
    ):
        (folder / name).write_text("x")
    (folder / "20261025T003000Z-ffffff-cron-backup.tar.gz").mkdir()
    (folder / "20261025T003000Z-fffff0-cron-backup.tar.gz").symlink_to(NAME)
    os.mkfifo(folder / "20261025T003000Z-fffff1-cron-backup.tar.gz")
    assert [each.name for each in archive.archives(str(folder))] == [NAME]


def test_one_bad_file_hides_no_other(folder, tree):
    good = backup(folder, tree)
    for number, content in enumerate(
        (b"", b"x", b"\x1f\x8b", gzip.compress(b""), gzip.compress(b"\0" * 5000), gzip.compress(b"x" * 5000))
    ):
        (folder / f"20261025T00300{number}Z-ffffff-cron-backup.tar.gz").write_bytes(content)
    found = archive.archives(str(folder))
    assert [each.path for each in found if each.kind == "good"] == [good]
    assert [each.kind for each in found if each.path != good] == ["damaged"] * 6
    assert all(each.problem and each.created > 10**9 for each in found if each.path != good)


def test_J10_a_condemned_archive_is_bad_and_its_check_sum_still_tells(folder, tree):
    path = backup(folder, tree)
    bad = archive.set_aside(path)
    assert bad == f"{path}.bad"
    assert archive.verify(bad) == []
    (found,) = archive.archives(str(folder))
    assert (found.kind, found.manifest.identity) == ("bad", IDENTITY)
    backup(folder, tree)
    with pytest.raises(FileExistsError):
        archive.set_aside(path)


def test_J10_a_check_sum_file_that_is_not_right_is_damage(folder, tree):
    path = backup(folder, tree)
    sums = Path(f"{path}.sha256")
    right = sums.read_bytes()
    for wrong in (
        b"",
        right[:-1],
        right + b"\n",
        right.upper(),
        right.replace(b"  ", b" *"),
        right.replace(b"2026", b"2027"),
        b"\xff" * 90,
        right * 2,
    ):
        sums.write_bytes(wrong)
        assert archive.verify(path), wrong
        assert archive.archives(str(folder))[0].kind == "damaged", wrong
    sums.unlink()
    assert "checksum" in archive.verify(path)[0]
    os.mkfifo(sums)
    assert archive.verify(path)


def test_J10_archives_that_were_swapped_are_seen(folder, tree):
    first, second = backup(folder, tree), backup(folder, tree, identity="20261026T003000Z-a1b2c3")
    for end in ("", ".sha256"):
        shutil.move(first + end, folder / "keep")
        shutil.move(second + end, first + end)
        shutil.move(folder / "keep", second + end)
    assert archive.verify(first)
    assert archive.verify(second)
    reseal(first)
    assert "swapped" in archive.verify(first)[0]
    assert [each.kind for each in archive.archives(str(folder))] == ["damaged"] * 2


def test_a_failed_backup_renamed_to_a_good_one_is_seen(folder, tree):
    path = backup(folder, tree, good=False)
    shutil.move(path, folder / NAME)
    reseal(folder / NAME)
    assert archive.verify(str(folder / NAME))
    assert archive.archives(str(folder))[0].kind == "damaged"


def variants(tmp_path):
    """Archives of several shapes."""
    rng = random.Random(3)
    contents = [
        {"a": b""},
        {"a": b"text " * 500},
        {f"d/{n}": rng.randbytes(n) for n in (1, 511, 512, 513, 3000)},
        {"blob": rng.randbytes(60_000)},
    ]
    for number, files in enumerate(contents):
        root, folder = tmp_path / f"root{number}", tmp_path / f"folder{number}"
        folder.mkdir()
        for name, content in files.items():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_bytes(content)
        yield folder, Path(backup(folder, root))


def test_J10_every_flipped_bit_is_seen(tmp_path):
    rng = random.Random(seed := random.randrange(2**32))
    print("seed", seed)
    for folder, path in variants(tmp_path):
        data = path.read_bytes()
        for _ in range(12_500 if FULL else 450):
            position, bit = rng.randrange(len(data)), rng.randrange(8)
            path.write_bytes(data[:position] + bytes([data[position] ^ (1 << bit)]) + data[position + 1 :])
            assert archive.verify(str(path)), (position, bit)
        path.write_bytes(data)
        assert archive.verify(str(path)) == []
        assert archive.archives(str(folder))[0].kind == "good"


def test_J10_every_truncation_and_every_addition_is_seen(tmp_path):
    for _, path in variants(tmp_path):
        data = path.read_bytes()
        for length in sorted({*range(0, len(data), 4096), *range(40), *range(len(data) - 40, len(data))}):
            path.write_bytes(data[: max(0, length)])
            assert archive.verify(str(path)), length
        for more in (b"\0", b"\0" * 512, data, gzip.compress(b"")):
            path.write_bytes(data + more)
            assert archive.verify(str(path))


def test_J10_what_passes_without_its_check_sum_has_the_right_contents(tmp_path):
    """Some bits of gzip mean nothing: time, system, the rest of the last byte; the inner sums see the others."""
    rng = random.Random(seed := random.randrange(2**32))
    print("seed", seed)
    for _, path in variants(tmp_path):
        data, contents = path.read_bytes(), read(path)
        for _ in range(3000 if FULL else 150):
            position = rng.randrange(len(data))
            path.write_bytes(data[:position] + bytes([data[position] ^ (1 << rng.randrange(8))]) + data[position + 1 :])
            reseal(path)
            if not archive.verify(str(path)):
                assert read(path) == contents


def test_J10_every_flipped_bit_of_the_check_sum_file_is_seen(folder, tree):
    path = backup(folder, tree)
    sums = Path(f"{path}.sha256")
    right = sums.read_bytes()
    for position in range(len(right)):
        for bit in range(8):
            sums.write_bytes(right[:position] + bytes([right[position] ^ (1 << bit)]) + right[position + 1 :])
            assert archive.verify(path), (position, bit)


def test_J24_a_historical_archive_is_verified_as_far_as_it_can_be(folder, tree):
    path = historical(folder, tree)
    assert archive.verify(str(path)) == []
    data = path.read_bytes()
    rng = random.Random(4)
    for length in (0, 1, 10, 100, len(data) // 2, len(data) - 8, len(data) - 1):
        path.write_bytes(data[:length])
        assert archive.verify(str(path)), length
    plain = gzip.decompress(data)
    for _ in range(200):
        position = rng.randrange(10, len(data))
        path.write_bytes(data[:position] + bytes([data[position] ^ (1 << rng.randrange(8))]) + data[position + 1 :])
        # Some bits mean nothing: the file's name, what fills up a byte.
        assert archive.verify(str(path)) or gzip.decompress(path.read_bytes()) == plain, position


def test_J24_a_historical_archive_without_a_member_or_with_a_damaged_header_is_not_sound(folder, tree):
    path = historical(folder, tree)
    plain = bytearray(gzip.decompress(path.read_bytes()))
    path.write_bytes(gzip.compress(bytes(10240)))
    assert archive.verify(str(path)) == ["has no member"]
    second = plain.index(b"ustar", 600)
    plain[second - 200] ^= 1
    path.write_bytes(gzip.compress(bytes(plain)))
    assert archive.verify(str(path)) == ["has a damaged header"]


def test_J24_the_last_of_several_members_with_one_name_counts(folder, tree):
    file = tree / "etc/app/settings.json"
    path = folder / "2020-01-31-02-15-00-cron-backup.tar"
    subprocess.run(["tar", "-cf", path, file], check=True, stderr=subprocess.DEVNULL)
    file.write_text("later")
    subprocess.run(["tar", "-rf", path, file], check=True, stderr=subprocess.DEVNULL)
    subprocess.run(["gzip", path], check=True)
    listing, note = archive.inspect(f"{path}.gz")
    assert [(each.path, each.sha256) for each in listing.members] == [(str(file), hashlib.sha256(b"later").hexdigest())]
    assert listing.positions == {str(file): 1}
    assert "no checksum" in note


def test_a_manifest_survives_being_written_and_read(tree):
    made = manifest(members(tree), reasons=("one", "two"))
    assert decode(encode(made)) == made


@pytest.mark.parametrize(
    "change",
    [
        {"path": "/a/../b"}, {"path": "/a//b"}, {"path": "/"}, {"path": "a"}, {"path": "/a\0b"}, {"path": "/./a"},
        {"path": "/\ud800"}, {"kind": "fifo"}, {"kind": "directory"}, {"kind": "link"}, {"when": "never"},
        {"mode": 0o10000}, {"mode": -1}, {"uid": -1}, {"uid": 2**32 - 1}, {"gid": 2**40}, {"size": -1}, {"size": 2**63},
        {"size": 10**30}, {"size": 1.5}, {"size": True}, {"sha256": ""}, {"sha256": "A" * 64}, {"sha256": "../x"},
        {"target": "/etc"}, {"user": "a\0b"}, {"mtime_ns": 2**66}, {"truncate": 1}, {"extra": 1},
    ],
)  # fmt: skip
def test_a_manifest_with_a_member_that_cannot_be_is_refused(tree, change):
    document = json.loads(encode(manifest([member("/etc/app/blob", str(tree))])))
    decode(json.dumps(document).encode())
    document["members"][0].update(change)
    with pytest.raises(Damaged):
        decode(json.dumps(document).encode())


@pytest.mark.parametrize(
    "text",
    [b"", b"null", b"[]", b"{}", b"\xff", b"[" * 100_000, b"9" * 100_000, b'{"a":1,"a":1}', b"NaN"],
)
def test_S17_what_is_no_manifest_is_refused_whatever_it_is(text):
    with pytest.raises(Damaged):
        decode(text)


def test_a_manifest_of_a_newer_format_says_so():
    document = json.loads(encode(manifest()))
    with pytest.raises(Damaged, match="newer version"):
        decode(json.dumps({**document, "format": 3, "news": 1}).encode())


def test_an_archive_that_cannot_be_read_is_a_problem_and_no_traceback(folder):
    missing = str(folder / NAME)
    assert archive.verify(missing) == ["cannot be read: no such file or directory"]
    os.mkfifo(missing)
    assert archive.verify(missing) == ["is not a regular file"]
    with pytest.raises(OSError) as caught:
        archive.archives(str(folder / "none"))
    assert caught.value.errno == errno.ENOENT
    shutil.rmtree(folder)
