"""Destinations: the directories that restored files go to, and the files in them while that is under way.

Directories are opened component by component, never through a link: what was resolved once and shown is where a file
goes, whoever puts a link there meanwhile (J13).
"""

import contextlib
import errno
import os
import stat
from typing import IO, Iterable, Iterator, List, NamedTuple, Optional, Sequence

from ..archive.extraction import digest
from ..archive.gunzip import chunks
from ..archive.manifest import Damaged, Member, printable
from ..errors import Fault
from ..staging.database import COMPANIONS

_DIRECTORY = os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_OLD = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_NO_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)
"""why a file system has no hard link for us"""
ABSENT = "absent"
"""kind of a member that is nothing: what is in its place goes"""
_KINDS = {stat.S_IFREG: "file", stat.S_IFLNK: "link", stat.S_IFDIR: "directory", stat.S_IFIFO: "fifo"}


class FileState(NamedTuple):
    """What is under a name, as far as it tells whether it is still the same."""

    kind: str
    mode: int
    uid: int
    gid: int
    size: int
    mtime_ns: int


@contextlib.contextmanager
def open_directory(directory: str) -> Iterator[int]:
    """Open a directory by its real path; raises OSError if a component is a link by now."""
    parts = [part for part in directory.split("/") if part]
    descriptor = os.open("/", os.O_RDONLY | _DIRECTORY)
    try:
        for count, part in enumerate(parts, 1):
            # Above the last one it is enough to be let through.
            flags = os.O_RDONLY if count == len(parts) else os.O_PATH
            below = os.open(part, flags | _DIRECTORY, dir_fd=descriptor)
            os.close(descriptor)
            descriptor = below
        yield descriptor
    finally:
        os.close(descriptor)


def state_in(directory: int, name: str) -> Optional[FileState]:
    """Return what is under a name in a directory, None if nothing is."""
    try:
        status = os.stat(name, dir_fd=directory, follow_symlinks=False)
    except FileNotFoundError:
        return None
    kind = _KINDS.get(stat.S_IFMT(status.st_mode), "special file")
    mode = stat.S_IMODE(status.st_mode)
    return FileState(kind, mode, status.st_uid, status.st_gid, status.st_size, status.st_mtime_ns)


def state(directory: str, name: str) -> Optional[FileState]:
    """Return what is under a name in a directory that may be gone itself."""
    try:
        with open_directory(directory) as descriptor:
            return state_in(descriptor, name)
    except FileNotFoundError:
        return None


def companions(directory: str, name: str) -> List[str]:
    """Return the names of files beside a database that SQLite would play back into it; raises OSError.

    They are known by their content, as SQLite itself knows them: others may be called like that, too.
    """
    with contextlib.suppress(FileNotFoundError), open_directory(directory) as descriptor:
        return [name + end for end in COMPANIONS if _begins(descriptor, name + end, COMPANIONS[end])]
    return []


def has_content(directory: str, name: str, member: Member) -> bool:
    """Tell whether a file or link has the content of a member; raises OSError if it cannot be read."""
    if not state(directory, name):
        return member.kind == ABSENT
    with open_directory(directory) as descriptor:
        found = state_in(descriptor, name)
        if found is None or found.kind != member.kind:
            return False
        if member.kind == "link":
            return os.readlink(name, dir_fd=descriptor) == member.target
        with os.fdopen(os.open(name, _OLD, dir_fd=descriptor), "rb") as file:
            return found.size == member.size and digest(chunks(file)) == member.sha256


def starts_with(directory: str, name: str, member: Member) -> bool:
    """Tell whether a file begins with the content of a member; raises OSError if it cannot be read."""
    with open_directory(directory) as descriptor, os.fdopen(os.open(name, _OLD, dir_fd=descriptor), "rb") as file:
        if os.fstat(file.fileno()).st_size < member.size:
            return False
        return digest(_first(file, member.size)) == member.sha256


def _first(file: IO[bytes], size: int) -> Iterator[bytes]:
    while size > 0:
        block = file.read(min(size, 64 * 1024))
        if not block:
            return
        size -= len(block)
        yield block


def stage(directory: str, name: str, member: Member, content: Iterable[bytes]) -> None:
    """Make a file or link under a name that must be free; on the disk when this returns, its name aside.

    It has its owner and mode before it has any content (J17). Raises OSError; Damaged if the content is not the
    member's; Fault if the file system does not keep owner or mode.
    """
    with open_directory(directory) as descriptor:
        if member.kind == "link":
            os.symlink(member.target, name, dir_fd=descriptor)
            os.chown(name, member.uid, member.gid, dir_fd=descriptor, follow_symlinks=False)
            times = (member.mtime_ns, member.mtime_ns)
            os.utime(name, ns=times, dir_fd=descriptor, follow_symlinks=False)
            return
        with _new(descriptor, name, member.mode, member.uid, member.gid) as file:
            if digest(_tee(content, file)) != member.sha256:
                raise Damaged(f"`{printable(member.path)}` has another content than when it was verified")
            _finish(file, member.mtime_ns)


def keep_old(directory: str, name: str, kept: str) -> None:
    """Keep what is under a name under a second one: the very same file, or a copy where there are no hard links."""
    with open_directory(directory) as descriptor:
        try:
            os.link(name, kept, src_dir_fd=descriptor, dst_dir_fd=descriptor, follow_symlinks=False)
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
            _copy(descriptor, name, kept)


def move(directory: str, name: str, to: str, final: str) -> None:
    """Move a file to where it belongs, at once; what was there is gone."""
    with open_directory(directory) as source, open_directory(to) as target:
        os.rename(name, final, src_dir_fd=source, dst_dir_fd=target)


def remove(directory: str, name: str) -> None:
    """Remove a file that may be gone, in a directory that may be gone."""
    with contextlib.suppress(FileNotFoundError), open_directory(directory) as descriptor:
        os.unlink(name, dir_fd=descriptor)


def make_directory(parent: str, name: str) -> None:
    """Make a directory that nobody else can enter yet, unless it exists."""
    with contextlib.suppress(FileExistsError), open_directory(parent) as descriptor:
        os.mkdir(name, 0o700, dir_fd=descriptor)


def remove_directory(parent: str, name: str) -> None:
    """Remove a directory if it is empty; it may be gone."""
    try:
        with open_directory(parent) as descriptor:
            os.rmdir(name, dir_fd=descriptor)
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.ENOTEMPTY, errno.EEXIST):
            raise


def set_owner_and_mode(directory: str, mode: int, uid: int, gid: int) -> None:
    """Give a directory its owner and mode, on the disk when this returns."""
    with open_directory(directory) as descriptor:
        _set_owner_and_mode(descriptor, mode, uid, gid)
        os.fsync(descriptor)


def sync(directories: Iterable[str]) -> None:
    """Bring the names in directories to the disk."""
    for directory in sorted(set(directories)):
        with contextlib.suppress(FileNotFoundError), open_directory(directory) as descriptor:
            os.fsync(descriptor)


def _begins(directory: int, name: str, beginnings: Sequence[bytes]) -> bool:
    """Tell whether there is a file with one of some beginnings."""
    try:
        found = state_in(directory, name)
        if found is None or found.kind != "file":
            return False
        with os.fdopen(os.open(name, _OLD, dir_fd=directory), "rb") as file:
            return file.read(len(beginnings[0])) in beginnings
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENAMETOOLONG):
            return False
        raise


def _new(directory: int, name: str, mode: int, uid: int, gid: int) -> IO[bytes]:
    """Create an empty file with its owner and mode."""
    file = os.fdopen(os.open(name, _NEW, 0o600, dir_fd=directory), "wb")
    try:
        _set_owner_and_mode(file.fileno(), mode, uid, gid)
    except BaseException:
        file.close()
        raise
    return file


def _set_owner_and_mode(descriptor: int, mode: int, uid: int, gid: int) -> None:
    """Set owner and mode of what is open; the owner first, as that takes permissions away."""
    status = os.fstat(descriptor)
    if (status.st_uid, status.st_gid) != (uid, gid):
        os.fchown(descriptor, uid, gid)
    os.fchmod(descriptor, mode)
    status = os.fstat(descriptor)
    found = stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid
    if found != (mode, uid, gid):
        text = "the file system makes it mode {:o}, owner {}, group {}; expected {:o}, {}, {}"
        raise Fault(text.format(*found, mode, uid, gid))


def _finish(file: IO[bytes], mtime_ns: int) -> None:
    file.flush()
    os.utime(file.fileno(), ns=(mtime_ns, mtime_ns))
    os.fsync(file.fileno())


def _tee(content: Iterable[bytes], file: IO[bytes]) -> Iterator[bytes]:
    """Write what passes."""
    for part in content:
        file.write(part)
        yield part


def _copy(directory: int, name: str, kept: str) -> None:
    """Copy a file or link with owner, mode and time."""
    status = os.stat(name, dir_fd=directory, follow_symlinks=False)
    if stat.S_ISLNK(status.st_mode):
        os.symlink(os.readlink(name, dir_fd=directory), kept, dir_fd=directory)
        os.chown(kept, status.st_uid, status.st_gid, dir_fd=directory, follow_symlinks=False)
        os.utime(kept, ns=(status.st_mtime_ns, status.st_mtime_ns), dir_fd=directory, follow_symlinks=False)
        return
    with os.fdopen(os.open(name, _OLD, dir_fd=directory), "rb") as source:
        mode = stat.S_IMODE(status.st_mode)
        with _new(directory, kept, mode, status.st_uid, status.st_gid) as file:
            for part in chunks(source):
                file.write(part)
            for name_of in os.listxattr(source.fileno()):
                os.setxattr(file.fileno(), name_of, os.getxattr(source.fileno(), name_of))
            _finish(file, status.st_mtime_ns)
