"""Backups of real trees, for tests of archives and restores; runs on every Python that the runner runs on."""

# ruff: noqa: PTH115, PTH118  (Python 3.6; paths are bytes in disguise, as the runner takes them)
import hashlib
import os
import socket
import stat
import subprocess
from pathlib import Path

from runsdeploy.jobs.archive import archive
from runsdeploy.jobs.archive.manifest import Manifest, Member

IDENTITY = "20261025T003000Z-a1b2c3"
CREATED = 1792888200


def member(path, root=""):
    """Return a file of the system as a member; `root` stands for `/`."""
    real = root + path
    status = os.lstat(real)
    kind = {stat.S_IFREG: "file", stat.S_IFLNK: "link", stat.S_IFDIR: "directory"}[stat.S_IFMT(status.st_mode)]
    return Member(
        path=path,
        when="before",
        kind=kind,
        mode=stat.S_IMODE(status.st_mode),
        uid=status.st_uid,
        gid=status.st_gid,
        user="",
        group="",
        mtime_ns=status.st_mtime_ns,
        size=status.st_size if kind == "file" else 0,
        sha256=hashlib.sha256(Path(real).read_bytes()).hexdigest() if kind == "file" else "",
        target=os.readlink(real) if kind == "link" else "",
        truncate=False,
    )


def members(root):
    """Return all that is below a directory as members, the directory standing for `/`."""
    root = str(root)
    found = []
    for folder, folders, files in os.walk(root):
        found += [member(os.path.join(folder, name)[len(root) :], root) for name in (*folders, *files)]
    return tuple(sorted(found, key=lambda each: os.fsencode(each.path)))


def manifest(members=(), **changes):
    """Return a manifest that is good unless told otherwise."""
    made = Manifest(
        format=1,
        tool="0.2.0",
        identity=IDENTITY,
        host=socket.gethostname(),
        created=CREATED,
        sequence=1,
        good=True,
        reasons=(),
        stages={"imports": "ok"},
        jobs={"one": {"outcome": "ok", "status": 0}},
        members=tuple(members),
    )
    return made._replace(**changes)


def backup(folder, root, **changes):
    """Write an archive of all below a directory; return its path."""
    found = members(root)
    sources = {each.path: str(root) + each.path for each in found}
    return os.path.join(str(folder), archive.write(str(folder), manifest(found, **changes), sources))


def reseal(path):
    """Write the checksum that an archive has now."""
    digest = hashlib.sha256(Path(path).read_bytes()).hexdigest()
    Path(f"{path}.sha256").write_text(f"{digest}  {Path(path).name}\n")


def historical(folder, root, name="2020-01-31-02-15-00-cron-backup.tar.gz"):
    """Make an archive as the historical script did: absolute paths, one appended after the other, then gzip."""
    path = folder / name[: -len(".gz")]
    files = sorted(str(each) for each in root.rglob("*") if each.is_file() or each.is_symlink())
    subprocess.run(["tar", "-cf", path, files[0]], check=True, stderr=subprocess.DEVNULL)
    for each in [*files[1:], files[0]]:
        subprocess.run(["tar", "-rf", path, each], check=True, stderr=subprocess.DEVNULL)
    subprocess.run(["gzip", path], check=True)
    return folder / name


def state(root):
    """Return all that is below a directory: mode, owner, content, and the time of what is no directory."""
    found = {}
    root = str(root)
    for folder, folders, files in os.walk(root):
        for name in (*folders, *files):
            path = os.path.join(folder, name)
            status = os.lstat(path)
            content, time = None, status.st_mtime_ns
            if stat.S_ISREG(status.st_mode):
                content = Path(path).read_bytes()
            elif stat.S_ISLNK(status.st_mode):
                content = os.readlink(path)
            elif stat.S_ISDIR(status.st_mode):
                time = None
            found[path[len(root) :]] = (status.st_mode, status.st_uid, status.st_gid, time, content)
    return found


def without_kept(found):
    """Return a state without what a restore keeps to be taken back."""
    return {path: each for path, each in found.items() if not (path.endswith(".undo") and "/." in path)}
