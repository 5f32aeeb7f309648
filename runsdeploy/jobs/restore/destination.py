"""Destinations: file operations in the directories of restored files.

Directories are opened component by component, never through a link: a file goes to the path that was resolved and shown
in the plan, even if a link is put there meanwhile (J13).
"""

import contextlib
import errno
import os
import shutil
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
"""errors of file systems on which a hard link is not possible"""
ABSENT = "absent"
"""kind of a member for a file that is to be removed"""
_KINDS = {stat.S_IFREG: "file", stat.S_IFLNK: "link", stat.S_IFDIR: "directory", stat.S_IFIFO: "fifo"}


class FileState(NamedTuple):
    """Attributes of a file by which a change is detected."""

    kind: str
    mode: int
    uid: int
    gid: int
    size: int
    mtime_ns: int


@contextlib.contextmanager
def open_directory(directory: str) -> Iterator[int]:
    """Open a directory by its real path; raises OSError if a component is now a link."""
    parts = [part for part in directory.split("/") if part]
    descriptor = os.open("/", os.O_RDONLY | _DIRECTORY)
    try:
        for count, part in enumerate(parts, 1):
            # Parents need no read permission, only search permission.
            flags = os.O_RDONLY if count == len(parts) else os.O_PATH
            below = os.open(part, flags | _DIRECTORY, dir_fd=descriptor)
            os.close(descriptor)
            descriptor = below
        yield descriptor
    finally:
        os.close(descriptor)


def state_in(directory: int, name: str) -> Optional[FileState]:
    """Return the state of a file in an open directory, None if it does not exist."""
    try:
        status = os.stat(name, dir_fd=directory, follow_symlinks=False)
    except FileNotFoundError:
        return None
    kind = _KINDS.get(stat.S_IFMT(status.st_mode), "special file")
    mode = stat.S_IMODE(status.st_mode)
    return FileState(kind, mode, status.st_uid, status.st_gid, status.st_size, status.st_mtime_ns)


def state(directory: str, name: str) -> Optional[FileState]:
    """Return the state of a file, None if it or its directory does not exist."""
    try:
        with open_directory(directory) as descriptor:
            return state_in(descriptor, name)
    except FileNotFoundError:
        return None


def companions(directory: str, name: str) -> List[str]:
    """Return the names of companion files that SQLite would apply to a database; raises OSError.

    They are recognized by their content, as SQLite does it: other files may have such names too.
    """
    with contextlib.suppress(FileNotFoundError), open_directory(directory) as descriptor:
        return [name + end for end in COMPANIONS if _begins(descriptor, name + end, COMPANIONS[end])]
    return []


def has_content(directory: str, name: str, member: Member) -> bool:
    """Return whether a file or link has the content of a member; raises OSError if it cannot be read."""
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
    """Return whether a file starts with the content of a member; raises OSError if it cannot be read."""
    with open_directory(directory) as descriptor, os.fdopen(os.open(name, _OLD, dir_fd=descriptor), "rb") as file:
        if os.fstat(file.fileno()).st_size < member.size:
            return False
        return digest(chunks(file, member.size)) == member.sha256


def stage(directory: str, name: str, member: Member, content: Iterable[bytes]) -> None:
    """Make a file or link, which must not exist; its content is on the disk when this returns, its name may not be.

    Owner and mode are set before any content (J17). Raises OSError; Damaged if the content is not that of the member;
    Fault if the file system does not store owner or mode.
    """
    with open_directory(directory) as descriptor:
        if member.kind == "link":
            os.symlink(member.target, name, dir_fd=descriptor)
            os.chown(name, member.uid, member.gid, dir_fd=descriptor, follow_symlinks=False)
            times = (member.mtime_ns, member.mtime_ns)
            os.utime(name, ns=times, dir_fd=descriptor, follow_symlinks=False)
            return
        with _new(descriptor, name, member.mode, member.uid, member.gid) as file:
            if digest(content, file) != member.sha256:
                raise Damaged(f"`{printable(member.path)}` has another content than when it was verified")
            _finish(file, member.mtime_ns)


def keep_old(directory: str, name: str, kept: str) -> None:
    """Keep a file under a second name, as a hard link, or as a copy where hard links are not possible."""
    with open_directory(directory) as descriptor:
        try:
            os.link(name, kept, src_dir_fd=descriptor, dst_dir_fd=descriptor, follow_symlinks=False)
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
            _copy(descriptor, name, kept)


def move(directory: str, name: str, to: str, final: str) -> None:
    """Rename a file to its destination, replacing the file there."""
    with open_directory(directory) as source, open_directory(to) as target:
        os.rename(name, final, src_dir_fd=source, dst_dir_fd=target)


def remove(directory: str, name: str) -> None:
    """Remove a file; it or its directory may be gone already."""
    with contextlib.suppress(FileNotFoundError), open_directory(directory) as descriptor:
        os.unlink(name, dir_fd=descriptor)


def make_directory(parent: str, name: str) -> None:
    """Make a private directory, unless it exists."""
    with contextlib.suppress(FileExistsError), open_directory(parent) as descriptor:
        os.mkdir(name, 0o700, dir_fd=descriptor)


def remove_directory(parent: str, name: str) -> None:
    """Remove a directory if it is empty; it may be gone already."""
    try:
        with open_directory(parent) as descriptor:
            os.rmdir(name, dir_fd=descriptor)
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.ENOTEMPTY, errno.EEXIST):
            raise


def set_owner_and_mode(directory: str, mode: int, uid: int, gid: int) -> None:
    """Set owner and mode of a directory durably."""
    with open_directory(directory) as descriptor:
        _set_owner_and_mode(descriptor, mode, uid, gid)
        os.fsync(descriptor)


def sync(directories: Iterable[str]) -> None:
    """Flush the names in directories to the disk."""
    for directory in sorted(set(directories)):
        with contextlib.suppress(FileNotFoundError), open_directory(directory) as descriptor:
            os.fsync(descriptor)


def _begins(directory: int, name: str, beginnings: Sequence[bytes]) -> bool:
    """Return whether a file exists that starts with one of some byte strings."""
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
    """Set owner and mode of an open file; the owner first, as chown clears mode bits."""
    status = os.fstat(descriptor)
    if (status.st_uid, status.st_gid) != (uid, gid):
        os.fchown(descriptor, uid, gid)
    os.fchmod(descriptor, mode)
    status = os.fstat(descriptor)
    found = stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid
    if found != (mode, uid, gid):
        text = "the file system set mode {:o}, owner {}, group {}; expected {:o}, {}, {}"
        raise Fault(text.format(*found, mode, uid, gid))


def _finish(file: IO[bytes], mtime_ns: int) -> None:
    file.flush()
    os.utime(file.fileno(), ns=(mtime_ns, mtime_ns))
    os.fsync(file.fileno())


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
            shutil.copyfileobj(source, file)
            for name_of in os.listxattr(source.fileno()):
                os.setxattr(file.fileno(), name_of, os.getxattr(source.fileno(), name_of))
            _finish(file, status.st_mtime_ns)
