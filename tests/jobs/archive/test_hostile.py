"""Archives that somebody made to do harm: none writes outside, runs away, or ends in a traceback (J13, S17, T23).

Each attack is made twice: as an archive of ours, with a manifest and a right checksum, and as a historical one, which
has neither. They are restored on several versions of Python, with and without force.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import resource
import stat
import subprocess
import tarfile
import zlib
from pathlib import Path

import pytest

from runsdeploy.jobs.archive import extraction, tar
from runsdeploy.jobs.archive.manifest import Member, encode
from tests.jobs.backup import IDENTITY, manifest, state
from tests.jobs.pythons import pythons

FULL = bool(os.environ.get("RUNSDEPLOY_TEST_FULL"))
LIMIT = 500
"""seconds for all archives on one Python"""
pytestmark = pytest.mark.timeout(LIMIT + 100)
OURS = f"{IDENTITY}-cron-backup.tar.gz"
HISTORICAL = "2020-01-31-02-15-00-cron-backup.tar.gz"
BOMB = 3 << 30
"""bytes of what unpacks to much"""


def put(name, content=b"x", kind=tarfile.REGTYPE, **fields):
    """Return a member as bytes, as Python's tarfile writes it."""
    member = tarfile.TarInfo(name)
    member.type, member.size, member.mtime = kind, len(content), 1_600_000_000
    for key, value in fields.items():
        setattr(member, key, value)
    header = member.tobuf(fields.pop("form", tarfile.GNU_FORMAT), "utf-8", "surrogateescape")
    return header + content + tar.padding(len(content))


def block(name, size=b"00000000001\0", kind=b"0", magic=b"ustar\x0000", **fields):
    """Return a header with fields as they are, its checksum right."""
    made = bytearray(512)
    made[: len(name)] = name
    places = {"mode": 100, "uid": 108, "gid": 116, "mtime": 136, "target": 157, "extra": 345, "sparse": 386}
    values = {"mode": b"0000644\0", "uid": b"0000000\0", "gid": b"0000000\0", "mtime": b"00000000000\0", **fields}
    made[124:136], made[156:157], made[257:265] = size, kind, magic
    for key, value in values.items():
        made[places[key] : places[key] + len(value)] = value
    made[148:156] = b" " * 8
    made[148:156] = b"%06o\0 " % sum(made)
    return bytes(made)


def record(key, value):
    """Return a record of an extended header; it starts with its own length."""
    rest = b" " + key + b"=" + value + b"\n"
    length = len(rest) + 1
    while length != len(b"%d" % length) + len(rest):
        length += 1
    return b"%d" % length + rest


def pax(name, content=b"x", **records):
    """Return a member with records in an extended header before it."""
    text = b"".join(record(key.replace("__", ".").encode(), value) for key, value in records.items())
    return block(b"PaxHeaders/x", b"%011o\0" % len(text), b"x") + text + tar.padding(len(text)) + put(name, content)


def long_name(kind, value, size=None):
    """Return a header of GNU tar for a long name."""
    size = len(value) if size is None else size
    return block(b"././@LongLink", b"%011o\0" % size, kind, b"ustar  \0") + value + tar.padding(len(value))


def file_member(path, content=b"x", **fields):
    made = Member(path, "before", "file", 0o644, 0, 0, "", "", 10**18, len(content), "", "", truncate=False)
    return made._replace(**{"sha256": hashlib.sha256(content).hexdigest(), **fields})


def link_member(path, target):
    return file_member(path, b"", kind="link", sha256="", target=target)


def document(*members, **changes):
    """Return a manifest as the first member of an archive; it may lie."""
    return raw_document(encode(manifest(members, **changes)))


def raw_document(text, **fields):
    made = manifest(**fields)
    return extraction.manifest_header(made, len(text)) + text + tar.padding(len(text))


def whole(*pairs):
    """Return an archive of ours with these members and contents, all as it should be."""
    members = [member for member, _ in pairs]
    return document(*members) + b"".join(extraction.header(m) + c + tar.padding(len(c)) for m, c in pairs) + tar.END


def attacks(outside):
    """Return what both kinds of archive are attacked with: members as bytes, whatever their place."""
    there = f"{outside}/victim"
    up = "../" * 30
    huge = b"99999999999"
    sparse = {"GNU__sparse__major": b"1", "GNU__sparse__minor": b"0", "GNU__sparse__realsize": huge}
    return {
        "dots": put("../outside/victim"),
        "dots in the middle": put("a/../../outside/victim"),
        "many dots": put(f"{up}{there[1:]}"),
        "dots at the end": put("a/.."),
        "only dots": put(".."),
        "one dot": put("./x"),
        "absolute": put(there),
        "absolute twice": put(f"/{there}"),
        "backslashes": put("..\\..\\victim"),
        "empty name": block(b"") + b"x".ljust(512, b"\0"),
        "only a slash": put("/"),
        "link to /etc": put("l", b"", tarfile.SYMTYPE, linkname="/etc"),
        "file through a link": put("l", b"", tarfile.SYMTYPE, linkname=str(outside)) + put("l/victim"),
        "file through two links": put("l", b"", tarfile.SYMTYPE, linkname=".")
        + put("l/m", b"", tarfile.SYMTYPE, linkname=str(outside))
        + put("l/m/victim"),
        "file through dots in a link": put("l", b"", tarfile.SYMTYPE, linkname="../outside") + put("l/victim"),
        "directory that is a link": put("l", b"", tarfile.SYMTYPE, linkname=str(outside))
        + put("l", b"", tarfile.DIRTYPE)
        + put("l/victim"),
        "link after its file": put("l/victim") + put("l", b"", tarfile.SYMTYPE, linkname=str(outside)),
        "file over a link": put("l", b"", tarfile.SYMTYPE, linkname=there) + put("l", b"harm"),
        "file through a link that is there": put("link/victim"),
        "directory over a link that is there": put("link", b"", tarfile.DIRTYPE, mode=0o777) + put("link/victim"),
        "link loop": put("l", b"", tarfile.SYMTYPE, linkname="m")
        + put("m", b"", tarfile.SYMTYPE, linkname="l")
        + put("m/x"),
        "hard link out": put("h", b"", tarfile.LNKTYPE, linkname=there) + put("h", b"harm"),
        "hard link up": put("h", b"", tarfile.LNKTYPE, linkname="../outside/victim"),
        "hard link with content": block(b"h", kind=b"1", target=there.encode()) + b"x".ljust(512, b"\0"),
        "hard link to itself": put("h", b"", tarfile.LNKTYPE, linkname="h"),
        "same name twice": put("d", b"one") + put("d", b"two"),
        "same name as file and directory": put("d") + put("d", b"", tarfile.DIRTYPE) + put("d/x"),
        "same name as file and fifo": put("d") + put("d", b"", tarfile.FIFOTYPE),
        "character device": put("null", b"", tarfile.CHRTYPE, devmajor=1, devminor=3),
        "block device": put("disk", b"", tarfile.BLKTYPE, devmajor=8, devminor=0),
        "fifo": put("fifo", b"", tarfile.FIFOTYPE),
        "setuid": put("suid", mode=0o6755),
        "setuid directory": put("sdir", b"", tarfile.DIRTYPE, mode=0o7777),
        "unknown type": put("z", b"x", b"Z"),
        "label": put("volume", b"", b"V"),
        "part of a volume": put("part", b"x", b"M"),
        "directory of a dump": put("dump", b"Yx\0\0", b"D"),
        "size 2^63": block(b"big", b"\x80\0\0\0\x80" + bytes(7)) + b"x".ljust(512, b"\0"),
        "size 2^88": block(b"big", b"\x80" + b"\xff" * 11) + b"x".ljust(512, b"\0"),
        "size 8 GiB": block(b"big", b"77777777777\0") + b"x".ljust(512, b"\0"),
        "negative size": block(b"neg", b"\xff" * 12) + b"x".ljust(512, b"\0"),
        "minus in a size": block(b"neg", b"-0000000001\0") + b"x".ljust(512, b"\0"),
        "letters in a size": block(b"odd", b"0000000000z\0") + b"x".ljust(512, b"\0"),
        "negative owner": block(b"own", uid=b"\xff" * 8) + b"x".ljust(512, b"\0"),
        "size of a directory": block(b"dir", kind=b"5") + b"x".ljust(512, b"\0"),
        "wrong checksum": block(b"sum")[:148] + b"000000\0 " + block(b"sum")[156:] + b"x".ljust(512, b"\0"),
        "pax path up": pax("p", path=b"../outside/victim"),
        "pax path absolute": pax("p", path=there.encode()),
        "pax path with NUL": pax("p", path=b"a\0b"),
        "pax path empty": pax("p", path=b""),
        "pax size larger": pax("p", size=b"512000000000"),
        "pax size smaller": pax("p", b"x" * 1024, size=b"512") + put("q"),
        "pax size negative": pax("p", size=b"-512"),
        "pax size 10^18": pax("p", size=b"1" + b"0" * 18),
        "pax size of digits": pax("p", size=b"9" * 5000),
        "pax linkpath": pax("p", linkpath=there.encode()),
        "pax owner": pax("p", uid=b"-1", gid=b"99999999999"),
        "pax time": pax("p", mtime=b"9" * 19),
        "pax time of no number": pax("p", mtime=b"nan"),
        "pax sparse 0.0": pax("p", GNU__sparse__size=huge, GNU__sparse__numblocks=b"1", GNU__sparse__offset=b"0"),
        "pax sparse 0.1": pax("p", GNU__sparse__map=b"0,1,9,1", GNU__sparse__size=huge, GNU__sparse__name=b"../x"),
        "pax sparse 1.0": pax("p", b"1\n0\n1\n".ljust(512, b"\0") + b"x", **sparse, GNU__sparse__name=there.encode()),
        "pax record too long": block(b"h", b"%011o\0" % 16, b"x") + b"99 path=x\n".ljust(512, b"\0") + put("p"),
        "pax record of length 0": block(b"h", b"%011o\0" % 16, b"x") + b"0 path=../x\n".ljust(512, b"\0") + put("p"),
        "pax record without end": block(b"h", b"%011o\0" % 512, b"x") + b"path" * 128 + put("p"),
        "pax record of no length": block(b"h", b"%011o\0" % 16, b"x") + b" path=../x\n".ljust(512, b"\0") + put("p"),
        "pax header of 8 GiB": block(b"h", b"77777777777\0", b"x") + bytes(4096),
        "pax header at the end": block(b"h", b"%011o\0" % 0, b"x"),
        "pax global path": block(b"g", b"%011o\0" % 26, b"g")
        + b"26 path=../outside/victim\n".ljust(512, b"\0")
        + put("p"),
        "solaris header": block(b"h", b"%011o\0" % 16, b"X") + b"16 path=../../x\n".ljust(512, b"\0") + put("p"),
        "sparse of old GNU": block(b"s", b"00000001000\0", b"S", b"ustar  \0", sparse=b"7" * 90) + bytes(512),
        "sparse without end": block(b"s", b"00000001000\0", b"S", b"ustar  \0") + (b"\xff" * 512) * 8,
        "long name up": long_name(b"L", b"../outside/victim\0") + put("p"),
        "long name absolute": long_name(b"L", there.encode() + b"\0") + put("p"),
        "long name of 8 GiB": long_name(b"L", b"x", 8**11 - 1) + put("p"),
        "long name of 100 kB": long_name(b"L", b"x" * 100_000) + put("p"),
        "long name too long for a disk": long_name(b"L", b"x" * 300) + put("p"),
        "path too long for a disk": long_name(b"L", b"x/" * 3000 + b"x") + put("p"),
        "long names for ever": long_name(b"L", b"x") * 5000 + put("p"),
        "long target": long_name(b"K", b"/" + b"x" * 5000) + put("l", b"", tarfile.SYMTYPE, linkname="y"),
        "prefix up": block(b"victim", extra=b"../outside") + b"x".ljust(512, b"\0"),
        "prefix absolute": block(b"victim", extra=str(outside).encode()) + b"x".ljust(512, b"\0"),
        "no end": put("p") + b"no end",
        "end in the middle": put("p") + tar.END + put("../outside/victim"),
        "one block of zeros": put("p") + bytes(512) + put("q"),
        "more directories than there should be": b"".join(put("d/" * n, b"", tarfile.DIRTYPE) for n in range(1, 40)),
        "terminal": put("\x1b]0;evil\x07\x1b[2J"),
    }  # fmt: skip


def lies(outside):
    """Return archives of ours whose manifest lies, or that are not what it says."""
    x = file_member("/x")
    header = extraction.header
    content = b"x".ljust(512, b"\0")
    plain = [header(x), content, tar.END]
    text = encode(manifest([x]))

    def with_member(**changes):
        made = json.loads(text)
        made["members"][0].update(changes)
        return raw_document(json.dumps(made).encode()) + b"".join(plain)

    def with_field(**changes):
        return raw_document(json.dumps({**json.loads(text), **changes}).encode()) + b"".join(plain)

    y = file_member("/y", b"y")
    both = json.dumps({**json.loads(text), "members": json.loads(text)["members"] * 2}).encode()
    return {
        "lie path up": with_member(path="/../outside/victim"),
        "lie path of dots": with_member(path="/a/./../x"),
        "lie path relative": with_member(path="x"),
        "lie path empty": with_member(path=""),
        "lie path root": with_member(path="/"),
        "lie path of two slashes": with_member(path="//x"),
        "lie path with NUL": with_member(path="/x\0y"),
        "lie path without bytes": with_member(path="/\ud800"),
        "lie path of a number": with_member(path=1),
        "lie kind": with_member(kind="fifo"),
        "lie kind link": with_member(kind="link", target=f"{outside}/victim", sha256="", size=0),
        "lie mode": with_member(mode=0o104755),
        "lie mode setuid": whole((file_member("/suid", mode=0o6755), b"x")),
        "lie owner": with_member(uid=-1),
        "lie size larger": with_member(size=513),
        "lie size smaller": with_member(size=0),
        "lie size 2^63": with_member(size=2**63),
        "lie size 2^62": with_member(size=2**62),
        "lie size of digits": raw_document(text.replace(b'"size": 1,', b'"size": 1' + b"0" * 10**6 + b","))
        + b"".join(plain),
        "lie sum": with_member(sha256="0" * 64),
        "lie sum of a path": with_member(sha256="../../../x"),
        "lie time": with_member(mtime_ns=2**70),
        "lie user": with_member(user="root\0x"),
        "lie user that cannot be": whole((file_member("/x", user="\x1b[2J" * 20), b"x")),
        "lie members twice": raw_document(both) + b"".join(plain),
        "lie through a file": document(file_member("/x"), file_member("/x/y")) + b"".join(plain),
        "lie through a link": document(link_member("/l", str(outside)), file_member("/l/victim")) + b"".join(plain),
        "lie through a link that is there": whole((file_member("/link/victim"), b"x")),
        "lie directory over a link that is there": whole(
            (file_member("/link", b"", kind="directory", sha256="", mode=0o777), b""),
            (file_member("/link/victim"), b"x"),
        ),
        "lie link": whole((link_member("/l", str(outside)), b"")),
        "lie no members": document() + tar.END,
        "lie members are none": with_field(members=None),
        "lie identity": with_field(id="../../x"),
        "lie identity of another": with_field(id="20261025T003001Z-a1b2c3"),
        "lie not good": with_field(good=False),
        "lie format": with_field(format=2),
        "lie format of text": with_field(format="1"),
        "lie more fields": with_field(path="/x"),
        "member missing": document(x, y) + b"".join(plain),
        "member too many": document(x) + header(x) + content + header(y) + content + tar.END,
        "member after the end": document(x) + b"".join(plain) + header(y) + content + tar.END,
        "members in another order": document(y, x) + header(x) + content + header(y) + content + tar.END,
        "member of another kind": document(x) + put("files/x", b"", tarfile.SYMTYPE, linkname=str(outside)) + tar.END,
        "member with another mode": document(x) + header(x._replace(mode=0o777)) + content + tar.END,
        "member with other content": document(x) + header(x) + b"y".ljust(512, b"\0") + tar.END,
        "member with more behind it": document(x) + header(x) + b"x".ljust(511, b"\0") + b"y" + tar.END,
        "manifest second": header(x) + content + document(x) + tar.END,
        "manifest twice": document(x) + document(x) + b"".join(plain),
        "manifest is a link": put("MANIFEST.json", b"", tarfile.SYMTYPE, linkname="/etc/passwd") + b"".join(plain),
        "manifest of 8 GiB": block(b"MANIFEST.json", b"77777777777\0") + text,
        "manifest of -1": block(b"MANIFEST.json", b"\xff" * 12) + text,
        "manifest cut": raw_document(text[:-20]) + b"".join(plain),
        "manifest of brackets": raw_document(b"[" * 200_000) + b"".join(plain),
        "manifest by a pax header": pax("x", text, path=b"MANIFEST.json") + b"".join(plain),
        "manifest alone": document(x),
        "no manifest": header(x) + content + tar.END,
        "nothing": b"",
    }  # fmt: skip


def bomb(before=b"", size=BOMB):
    """Return gzip of a start and gigabytes of zeros after it."""
    packer = zlib.compressobj(9, wbits=-15)
    packed = [gzip.compress(b"")[:10], packer.compress(before), packer.flush(zlib.Z_FULL_FLUSH)]
    part = packer.compress(bytes(1 << 24)) + packer.flush(zlib.Z_FULL_FLUSH)
    packed += [part] * (size >> 24)
    return b"".join([*packed, packer.flush(), bytes(8)])


def bombs():
    """Return archives that unpack to much: name of the file, attack, bytes."""
    x = file_member("/x")
    big = x._replace(size=1 << 40)
    yield OURS, "bomb", bomb()
    yield OURS, "bomb behind the end", bomb(whole((x, b"x")))
    yield OURS, "bomb as manifest", bomb(block(b"MANIFEST.json", b"77777777777\0"))
    yield OURS, "bomb as manifest of 64 MiB", bomb(block(b"MANIFEST.json", b"00400000000\0"))
    yield OURS, "bomb that the manifest promises", bomb(document(big) + extraction.header(big), 1 << 28)
    yield HISTORICAL, "bomb", bomb()
    yield HISTORICAL, "bomb that a header promises", bomb(block(b"big", b"77777777777\0"), 1 << 28)
    yield HISTORICAL, "bomb as a long name", bomb(block(b"././@LongLink", b"77777777777\0", b"L"))
    yield HISTORICAL, "bomb as a pax header", bomb(block(b"h", b"77777777777\0", b"x"))
    yield HISTORICAL, "bomb behind the end", bomb(put("x") + tar.END)


def store(folder, name, packed, attack):
    """Write one archive with a right checksum into a directory of its own."""
    own = folder / f"{'ours' if name == OURS else 'historical'}, {attack}".replace("/", "|")
    own.mkdir()
    (own / name).write_bytes(packed)
    if name == OURS:
        (own / f"{name}.sha256").write_text(f"{hashlib.sha256(packed).hexdigest()}  {name}\n")


def set_out(base):
    """Make the archives, what they must not touch, and return where all that is."""
    folder, outside, above = base / "archives", base / "outside", base / "roots"
    for each in (folder, outside, above):
        each.mkdir()
    (outside / "victim").write_text("unharmed")
    (base / "victim").write_text("unharmed")
    x = file_member("/x")
    for attack, members in attacks(outside).items():
        store(folder, HISTORICAL, gzip.compress(put("good") + members + tar.END, 1), attack)
        store(folder, OURS, gzip.compress(document(x) + members + tar.END, 1), attack)
    for attack, plain in lies(outside).items():
        store(folder, OURS, gzip.compress(plain, 1), attack)
    for name, attack, packed in bombs():
        store(folder, name, packed, attack)
    good = gzip.compress(whole((x, b"x")), 1)
    for attack, packed in {
        "two streams": good + good,
        "zeros behind it": good + bytes(100),
        "no gzip": gzip.decompress(good),
    }.items():
        store(folder, OURS, packed, attack)
    store(folder, OURS, good, "control")
    store(folder, HISTORICAL, gzip.compress(put("x") + put("d/y") + tar.END), "control")
    store(folder, OURS, good, "swapped checksum")
    (folder / "ours, swapped checksum" / f"{OURS}.sha256").write_text(f"{'0' * 64}  {OURS}\n")
    store(folder, OURS, good, "checksum of another")
    sums = folder / "ours, checksum of another" / f"{OURS}.sha256"
    sums.write_text(sums.read_text().replace("2026", "2027"))
    store(folder, OURS, good, "checksum is a link")
    sums = folder / "ours, checksum is a link" / f"{OURS}.sha256"
    sums.rename(folder / "sum")
    sums.symlink_to(folder / "sum")
    return folder, above


def surroundings(base):
    """Return all that is around the roots: nothing of it may change but what restores write beside the archives."""
    found = state(base)
    return {
        path: each
        for path, each in found.items()
        if not path.startswith("/roots/") and "/.restore" not in path and path != "/roots"
    }


HARMLESS_FORCED = {"ours, lie link", "ours, lie mode setuid", "ours, lie user that cannot be", "ours, control"}
"""archives of ours that can be: what they ask for is allowed"""
WHOLE_INSIDE = HARMLESS_FORCED | {
    "ours, two streams",
    "ours, zeros behind it",
    "ours, swapped checksum",
    "ours, checksum of another",
    "ours, checksum is a link",
    "ours, lie identity",
    "ours, lie identity of another",
    "ours, lie not good",
    "ours, member too many",
    "ours, member after the end",
    "ours, bomb behind the end",
}
"""those whose members are all whole: force takes them"""


def versions():
    found = pythons()
    wanted = found if FULL else [each for each in found if _version(each) in {(3, 6), (3, 12)}]
    return wanted or found[:1]


def _version(python):
    ask = "import sys; print(*sys.version_info[:2])"
    said = subprocess.run([python, "-I", "-c", ask], capture_output=True, check=True, timeout=20).stdout
    return tuple(int(word) for word in said.split())


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    base = tmp_path_factory.mktemp("hostile")
    set_out(base)
    return base


def drive(python, base, folder, above):
    repository = Path(__file__).parents[3]
    argv = [python, "-I", "-S", "-B", repository / "tests/jobs/drive.py", repository, "hostile", folder, above]
    before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=LIMIT, cwd=base)
    assert done.returncode == 0, done.stderr
    assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss < max(before, 800_000)
    return json.loads(done.stdout)


@pytest.mark.parametrize("python", versions())
def test_T23_no_hostile_archive_writes_outside_of_the_root_or_ends_in_a_traceback(made, tmp_path, python):
    base, above = made, made / "roots" / tmp_path.name
    above.mkdir()
    (above.parent / "outside").symlink_to(base / "outside") if not (above.parent / "outside").exists() else None
    before = surroundings(base)
    try:
        results = drive(python, base, base / "archives", above)
    finally:
        assert surroundings(base) == before
    assert len(results) > 150
    for name, result in results.items():
        for state_of in (result["plain state"], result["forced state"]):
            for path, mode in state_of:
                assert stat.S_ISREG(mode) or stat.S_ISDIR(mode) or stat.S_ISLNK(mode), (name, path)
                assert not mode & (stat.S_ISUID | stat.S_ISGID), (name, path)
        for key in ("plain", "forced"):
            assert isinstance(result[key], int) or result[key][:2] in ("1:", "3:"), (name, result[key])
            assert isinstance(result[key], int) or (result[f"{key} state"] == [] and "\x1b" not in result[key]), (
                name,
                result,
            )
    ours = {name: result for name, result in results.items() if name.startswith("ours, ")}
    assert {name for name, result in ours.items() if result["problems"] == []} - {
        "ours, lie no members"
    } == HARMLESS_FORCED | {name for name in ours if name in LINKS_THERE}
    assert {name for name, result in ours.items() if isinstance(result["plain"], int)} == HARMLESS_FORCED
    assert {name for name, result in ours.items() if isinstance(result["forced"], int)} == WHOLE_INSIDE
    assert results["ours, control"]["plain state"] == [["/x", 0o100644]]
    assert [path for path, _ in results["historical, control"]["plain state"]] == ["/d", "/d/y", "/x"]


LINKS_THERE = {"ours, lie through a link that is there", "ours, lie directory over a link that is there"}
"""sound archives that would go through a link of the machine: refused there"""
