"""Staging: copies of files as they are now, from which an archive can be written in peace (J11, J12, J17).

What a path means is found by going along it: a link on the way is a member of its own, and what lies behind it is
staged under its real path. So nothing that is restored later has to be written through a link.
"""

import errno
import functools
import grp
import hashlib
import os
import pwd
import re
import stat
import time
from contextlib import closing
from typing import AbstractSet, Any, Callable, Dict, Iterator, List, NamedTuple, Optional, Sequence, Set, Tuple
from urllib.parse import quote

from . import durable
from .errors import reason
from .manifest import Member

try:
    import sqlite3
except ImportError:  # Pythons are built without it, too
    sqlite3 = None  # type: ignore[assignment]

CHUNK = 1024 * 1024
PAUSES = (0.0, 0.02, 0.05, 0.1)
"""seconds before each try to copy a file that others write"""
QUIET = 200_000_000
"""nanoseconds since the last write after which a file seems to be whole; ten are enough for the next to be seen"""
BUSY = 5.0
"""seconds to wait for the lock of a database"""
BLOCK = 4096
"""bytes by which files grow on a disk"""
MOST_LINKS = 40
"""on the way to one file, as for the kernel"""
AHEAD = 60.0
"""seconds by which a snapshot may be from the future: clocks of two machines differ a little"""
TAIL = 64 * 1024

_MAGIC = b"SQLite format 3\0"
_WRITE_AHEAD = b"\2\2"
_COMPANIONS = re.compile(r"(.+)-(?:wal|shm|journal)", re.DOTALL)
_END_MARKS = (b"-- PostgreSQL database dump complete", b"-- PostgreSQL database cluster dump complete")
_AFTER_MARK = re.compile(rb"(?:--)?|\\unrestrict \S+")
_ODD_KINDS = (
    (stat.S_ISFIFO, "fifo"),
    (stat.S_ISSOCK, "socket"),
    (stat.S_ISBLK, "block device"),
    (stat.S_ISCHR, "character device"),
)
_READ_ONLY, _READ_WRITE, _URI = 0x1, 0x2, 0x40
_FULL, _DONE = 13, 101
"""of SQLite's interface in C: how to open, and how it went"""


class Wanted(NamedTuple):
    """A file, or a directory with everything below it, that belongs into the backup."""

    path: str
    """absolute"""
    required: bool
    """without it the backup is not good"""
    truncate: bool
    """a log: it may grow meanwhile, and what is copied is taken off it later; not for directories and databases"""
    why: str
    """who asks for it, for messages"""


class Staged(NamedTuple):
    """What was staged."""

    members: Tuple[Member, ...]
    """sorted by path"""
    sources: Dict[str, str]
    """path of each member that is a file, and its staged copy"""
    problems: Tuple[str, ...]
    """each makes the backup not good"""
    notes: Tuple[str, ...]
    """what is not there and need not be, or was left out"""


class _Found(NamedTuple):
    path: str
    """real but for itself, if it is a link"""
    status: os.stat_result
    target: str
    wanted: Wanted
    named: bool
    """asked for by name, itself or by a link to it; not met in a directory"""


class _Left(Exception):
    """A file cannot be staged; the text says why."""


class _Torn(_Left):
    """Somebody wrote to it: another try may do."""


class _Gone(_Torn):
    pass


def size_of(wanted: Sequence[Wanted], exclude: str = "") -> int:
    """Return how many bytes staging will take, as things are now (J3); never raises."""
    sizes: Dict[str, int] = {}
    for found in _Survey(exclude).found(wanted):
        if stat.S_ISREG(found.status.st_mode):
            size = found.status.st_size + _size(f"{found.path}-wal")
            sizes[found.path] = -(-size // BLOCK) * BLOCK
    return sum(sizes.values())


def stage(
    wanted: Sequence[Wanted], folder: str, when: str, seen: AbstractSet[str] = frozenset(), exclude: str = ""
) -> Staged:
    """Copy what is wanted into a directory of our own, which is made private, each path once and none that was seen.

    What is below `exclude`, the backup directory, is left out. Everything is on the disk when this returns (J12, J17).
    Raises OSError if it cannot be written there: the disk is full (J3).
    """
    _make_private(folder)
    survey = _Survey(exclude)
    tree = _Tree(seen)
    members: List[Member] = []
    sources: Dict[str, str] = {}
    for found in survey.found(wanted):
        if found.path in tree:
            continue
        try:
            tree.add(found)
            if stat.S_ISREG(found.status.st_mode):
                copy = os.path.join(folder, str(len(sources) + 1))
                members.append(_copied(found, copy, when))
                sources[found.path] = copy
            else:
                members.append(_member(found, found.status, when))
        except _Gone:
            survey.absent(found.path, found.wanted, "disappeared", named=found.named)
        except _Left as left:
            survey.problem(found.path, str(left), found.wanted)
        else:
            if found.named and found.wanted.truncate and not (found.target or members[-1].truncate):
                survey.note(found.path, "is not a log and will not be emptied", found.wanted)
    durable.sync_directory(folder)
    members.sort(key=lambda member: member.path)
    return Staged(tuple(members), sources, tuple(survey.problems), tuple(survey.notes))


def end_mark_problem(path: str) -> str:
    """Return why a dump of pg_dump in plain SQL is not whole; nothing if it ends as it should (J11)."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            lines = os.pread(descriptor, TAIL, max(0, os.fstat(descriptor).st_size - TAIL)).splitlines()
        finally:
            os.close(descriptor)
    except OSError as error:
        return f"`{_shown(path)}` cannot be read: {reason(error)}"
    while lines and _AFTER_MARK.fullmatch(lines[-1].rstrip()):
        lines.pop()
    if lines and lines[-1].rstrip() in _END_MARKS:
        return ""
    return f"`{_shown(path)}` does not end with `{_END_MARKS[0].decode()}`: a dump that was cut, or not of plain SQL"


def freshness_problem(path: str, now: float, most: float) -> str:
    """Return why a snapshot is too old for the run that began at `now`, or from its future; both in seconds (J11)."""
    try:
        age = now - os.stat(path).st_mtime
    except OSError as error:
        return f"`{_shown(path)}` cannot be read: {reason(error)}"
    if age < -AHEAD:
        return f"`{_shown(path)}` is {-age:.0f} seconds from the future: is the clock right?"
    if age > most:
        return f"`{_shown(path)}` is {age / 3600:.1f} hours old, expected {most / 3600:.1f} at most: make a new one"
    return ""


# Finding


class _Survey:
    """What wanted paths lead to; keeps what is wrong with them."""

    def __init__(self, exclude: str) -> None:
        self.problems: Dict[str, None] = {}
        self.notes: Dict[str, None] = {}
        self._exclude = os.path.realpath(exclude) if exclude else ""
        self._entered: Set[str] = set()

    def found(self, wanted: Sequence[Wanted]) -> Iterator[_Found]:
        """Yield everything, in part several times; what is to be truncated comes first, to be found as that."""
        for each in sorted(wanted, key=lambda each: not each.truncate):
            if each.path.startswith("/"):
                yield from self._reached(each)
            else:
                self.problem(each.path, "is no absolute path", each)

    def problem(self, path: str, what: str, wanted: Wanted) -> None:
        """Keep what makes the backup not good."""
        self.problems[f"`{_shown(path)}` {what} (for {wanted.why})"] = None

    def note(self, path: str, what: str, wanted: Wanted) -> None:
        """Keep what is worth a line in the log."""
        self.notes[f"`{_shown(path)}` {what} (for {wanted.why})"] = None

    def absent(self, path: str, wanted: Wanted, what: str, *, named: bool) -> None:
        """Keep that there is nothing, as bad as that is."""
        (self.problem if named and wanted.required else self.note)(path, what, wanted)

    def _reached(self, wanted: Wanted) -> Iterator[_Found]:
        todo = [("", wanted.path, True)]
        while todo:
            above, rest, named = todo.pop()
            links: List[Tuple[str, os.stat_result, str]] = []
            try:
                path, status = _follow(above, rest, links)
            except (OSError, ValueError) as error:
                path, status = "", None
                self._unreachable(f"{above}/{rest}" if above else rest, error, wanted, named=named)
            yield from (_Found(*link, wanted, named) for link in links)
            if status is None or self._refused(path, status, wanted, named=named):
                continue
            base = _database_of(path) if stat.S_ISREG(status.st_mode) else ""
            if base:
                self.note(path, f"is left out: the copy of the database `{_shown(base)}` has what is in it", wanted)
                todo.append(("", base, named))
            elif not stat.S_ISDIR(status.st_mode):
                yield _Found(path, status, "", wanted, named)
            elif path not in self._entered:
                self._entered.add(path)
                yield _Found(path, status, "", wanted, named)
                todo += [(path, name, False) for name in self._names(path, wanted)]

    def _names(self, path: str, wanted: Wanted) -> List[str]:
        try:
            return sorted(os.listdir(path), reverse=True)
        except OSError as error:
            self.problem(path, f"cannot be read: {reason(error)}", wanted)
            return []

    def _unreachable(self, path: str, error: Exception, wanted: Wanted, *, named: bool) -> None:
        if not isinstance(error, OSError):
            self.problem(path, "is no path", wanted)
        elif error.errno in (errno.ENOENT, errno.ENOTDIR):
            broken = os.path.islink(path)
            self.absent(path, wanted, "is a link to nothing" if broken else "is missing", named=named)
        elif error.errno == errno.ELOOP:
            self.absent(path, wanted, "is a loop of links", named=named)
        else:
            self.problem(path, f"cannot be read: {reason(error)}", wanted)

    def _refused(self, path: str, status: os.stat_result, wanted: Wanted, *, named: bool) -> bool:
        """Keep what is never staged: a problem if it was asked for, else a note."""
        why = next((f"is a {name}, expected a file" for test, name in _ODD_KINDS if test(status.st_mode)), "")
        if not path:
            why, path = "is the whole system, expected a part of it", "/"
        elif self._exclude and (
            f"{path}/".startswith(f"{self._exclude}/")
            or (stat.S_ISDIR(status.st_mode) and _same_file(status, self._exclude))
        ):
            why = "is left out: it lies in the backup directory"
        if why:
            (self.problem if named else self.note)(path, why, wanted)
        return bool(why)


class _Tree:
    """Paths of members; takes only what can be in one tree with them.

    A link that a job replaced by a directory would stand above its own content: no archive may hold that (J13).
    """

    def __init__(self, seen: AbstractSet[str]) -> None:
        self._paths: Set[str] = set()
        self._above: Set[str] = set()
        self._leaves: Set[str] = set()
        for path in seen:
            self._put(path)

    def __contains__(self, path: str) -> bool:
        return path in self._paths

    def add(self, found: _Found) -> None:
        """Take a member; raises _Left if it cannot be."""
        leaf = not stat.S_ISDIR(found.status.st_mode)
        if (leaf and found.path in self._above) or not self._put(found.path):
            raise _Left("is not what it was a moment ago: a directory came or went on the way to it")
        if leaf:
            self._leaves.add(found.path)

    def _put(self, path: str) -> bool:
        """Keep a path and the directories above it, unless one of those is something else."""
        new, above = [], os.path.dirname(path)
        while above != "/" and above not in self._above:
            if above in self._leaves:
                return False
            new.append(above)
            above = os.path.dirname(above)
        self._paths.add(path)
        self._above.update(new)
        return True


def _follow(above: str, rest: str, links: List[Tuple[str, os.stat_result, str]]) -> Tuple[str, os.stat_result]:
    """Return the real path that `rest` leads to from a real directory, empty for the root; notes links on the way."""
    path, todo = above, rest.split("/")[::-1]
    while todo:
        part = todo.pop()
        if part == "..":
            path = path.rpartition("/")[0]
        if part in ("", ".", ".."):
            continue
        status = os.lstat(f"{path}/{part}")
        if not stat.S_ISLNK(status.st_mode):
            path = f"{path}/{part}"
            continue
        target = os.readlink(f"{path}/{part}")
        links.append((f"{path}/{part}", status, target))
        if len(links) > MOST_LINKS:
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
        path = "" if target.startswith("/") else path
        todo += target.split("/")[::-1]
    return path, os.lstat(path or "/")


def _database_of(path: str) -> str:
    """Return whose log or index this is, if it belongs to an SQLite database: restored beside it, it would spoil it."""
    match = _COMPANIONS.fullmatch(path)
    try:
        descriptor = _open(match.group(1)) if match else -1
    except _Left:
        return ""
    if descriptor < 0 or not match:
        return ""
    try:
        return match.group(1) if _is_database(os.read(descriptor, len(_MAGIC))) else ""
    except OSError:
        return ""
    finally:
        os.close(descriptor)


def _same_file(status: os.stat_result, path: str) -> bool:
    try:
        return os.path.samestat(status, os.lstat(path))
    except OSError:
        return False


def _size(path: str) -> int:
    try:
        return os.lstat(path).st_size
    except OSError:
        return 0


# Copying


def _copied(found: _Found, copy: str, when: str) -> Member:
    """Copy a file as it is in one moment; raises _Left if that cannot be had (J11), OSError if it cannot be written."""
    torn = _Torn()
    for pause in PAUSES:
        time.sleep(pause)
        try:
            return _try_to_copy(found, copy, when)
        except _Left as left:
            durable.remove(copy)
            if not isinstance(left, _Torn):
                raise
            torn = left
    raise torn


def _try_to_copy(found: _Found, copy: str, when: str) -> Member:
    source = _open(found.path)
    try:
        status = os.fstat(source)
        if not stat.S_ISREG(status.st_mode):
            raise _Torn("is not a file any more")
        truncate = found.wanted.truncate and found.named
        header = _read(source, 100, 0)
        way = _database_way(found.path, header)
        if way:
            digest = _copy_database(way, found.path, copy)
        elif truncate and not _is_database(header):
            digest = _copy_log(source, status, copy)
        else:
            status, digest = _copy_file(source, copy)
            if _is_database(header) and _in_use(found.path):
                raise _Torn("is a database in use")
        # The name may lead to another file by now, of which this is a former version.
        if not _same_file(status, found.path):
            raise _Torn("was replaced while it was copied")
    finally:
        os.close(source)
    made = _member(found, status, when)
    truncate = truncate and not _is_database(header)
    return made._replace(size=os.stat(copy).st_size, sha256=digest, truncate=truncate)


def _copy_file(source: int, copy: str) -> Tuple[os.stat_result, str]:
    """Copy a file that nobody writes to meanwhile."""
    status = os.fstat(source)
    wait = _unsettled(status)
    if wait:
        time.sleep(wait)
        status = os.fstat(source)
    if _unsettled(status):
        raise _Torn("is being written to")
    digest = _write(source, status.st_size, copy)
    if _read(source, 1, status.st_size) or _stamp(os.fstat(source)) != _stamp(status):
        raise _Torn("changed while it was copied")
    return status, digest


def _copy_log(source: int, status: os.stat_result, copy: str) -> str:
    """Copy what a file that grows has had at first."""
    digest = _write(source, status.st_size, copy)
    after = os.fstat(source)
    # Grown or rewritten: only a second look can tell.
    if _unsettled(status) or _stamp(after) != _stamp(status):
        again = hashlib.sha256()
        for block in _blocks(source, status.st_size):
            again.update(block)
        if again.hexdigest() != digest:
            raise _Torn("changed while it was copied")
    return digest


def _write(source: int, size: int, copy: str) -> str:
    """Copy the first bytes of a file, and return their digest."""
    digest = hashlib.sha256()
    with durable.create(copy) as file:
        for block in _blocks(source, size):
            digest.update(block)
            file.write(block)
        durable.sync(file)
    return digest.hexdigest()


def _blocks(source: int, size: int) -> Iterator[bytes]:
    at = 0
    while at < size:
        block = _read(source, min(CHUNK, size - at), at)
        if not block:
            raise _Torn("became shorter while it was copied")
        at += len(block)
        yield block


def _read(source: int, size: int, at: int) -> bytes:
    try:
        return os.pread(source, size, at)
    except OSError as error:
        raise _Left(f"cannot be read: {reason(error)}") from None


def _open(path: str) -> int:
    """Open a file, never through a link, and without waiting for the other end of a fifo that took its place."""
    try:
        return os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        raise _Gone("disappeared") from None
    except OSError as error:
        odd = error.errno in (errno.ELOOP, errno.ENXIO, errno.ENOTDIR)
        raise (_Torn if odd else _Left)(f"cannot be read: {reason(error)}") from None


def _stamp(status: os.stat_result) -> Tuple[int, ...]:
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


def _unsettled(status: os.stat_result) -> float:
    """Return how many seconds it takes until a file has not been written to for a while.

    Two versions written within one tick of the kernel's clock have the same stamp, and so has half of each. And who
    rewrites a file in place may be in the middle of it.
    """
    quiet = QUIET if status.st_ctime_ns % 10**9 else 10**9 + QUIET  # some file systems have only seconds
    age = int(time.time() * 10**9) - status.st_ctime_ns
    return (quiet - age) / 10**9 if -quiet < age < quiet else 0.0


def _make_private(folder: str) -> None:
    try:
        os.mkdir(folder, 0o700)
    except FileExistsError:
        if os.path.islink(folder):
            raise
    os.chmod(folder, 0o700)
    durable.sync_directory(os.path.dirname(folder))


def _member(found: _Found, status: os.stat_result, when: str) -> Member:
    kind = "link" if found.target else "directory" if stat.S_ISDIR(status.st_mode) else "file"
    owner = (status.st_uid, status.st_gid, _user(status.st_uid), _group(status.st_gid))
    mode = stat.S_IMODE(status.st_mode)
    return Member(found.path, when, kind, mode, *owner, status.st_mtime_ns, 0, "", found.target, truncate=False)


@functools.lru_cache(maxsize=None)
def _user(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return ""


@functools.lru_cache(maxsize=None)
def _group(gid: int) -> str:
    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return ""


def _shown(path: str) -> str:
    """Return a path for a message: on one line, whatever is in it."""
    return path if path.isprintable() else ascii(path)[1:-1]


# Databases

_Way = Callable[[str, str], None]


def _is_database(header: bytes) -> bool:
    return header.startswith(_MAGIC)


def _in_use(path: str) -> bool:
    return _size(f"{path}-wal") > 0 or _size(f"{path}-journal") > 0


def _database_way(path: str, header: bytes) -> Optional[_Way]:
    """Return how to copy a database at one moment of its history; None for what can be copied as any file."""
    if not _is_database(header):
        return None
    if header[18:20] == _WRITE_AHEAD and not _size(f"{path}-wal"):
        # All is in the file itself; SQLite would leave two files of its own beside it, or fail where it may not.
        return None
    if hasattr(getattr(sqlite3, "Connection", None), "backup"):
        return _back_up
    return _back_up_by_library if _library() else None


def _copy_database(way: _Way, path: str, copy: str) -> str:
    durable.create(copy).close()
    way(path, copy)
    digest = hashlib.sha256()
    with open(copy, "rb") as file:
        for block in iter(functools.partial(file.read, CHUNK), b""):
            digest.update(block)
        os.fsync(file.fileno())
    return digest.hexdigest()


def _back_up(path: str, copy: str) -> None:
    """Copy a database with what its log has; raises _Left if it is locked or damaged."""
    try:
        with closing(_connect(path, "ro")) as source, closing(_connect(copy, "rw")) as target:
            # With a lock from the start: `backup` waits for one without end.
            source.execute("BEGIN")
            source.execute("PRAGMA schema_version").fetchone()
            target.execute("PRAGMA journal_mode = OFF")
            source.backup(target)
    except sqlite3.Error as error:
        _fail(str(error), copy, full="is full" in str(error))


def _connect(path: str, mode: str) -> "sqlite3.Connection":
    return sqlite3.connect(_uri(path, mode), uri=True, timeout=BUSY, isolation_level=None)


def _uri(path: str, mode: str) -> str:
    return f"file:{quote(os.fsencode(path))}?mode={mode}"


def _fail(message: str, copy: str, *, full: bool) -> None:
    if full:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), copy)
    raise _Left(f"is a database that cannot be copied: {message}")


@functools.lru_cache(maxsize=None)
def _library() -> Any:
    """Return SQLite's library: `sqlite3` has no backup before Python 3.7. None if there is none to be had."""
    try:
        import _sqlite3  # noqa: PLC0415  (Pythons are built without these)
        import ctypes  # noqa: PLC0415

        library = ctypes.CDLL(_sqlite3.__file__)
        number, text, pointer = ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p
        library.sqlite3_open_v2.argtypes = [text, ctypes.POINTER(pointer), number, text]
        library.sqlite3_busy_timeout.argtypes = [pointer, number]
        library.sqlite3_exec.argtypes = [pointer, text, pointer, pointer, pointer]
        library.sqlite3_backup_init.argtypes = [pointer, text, pointer, text]
        library.sqlite3_backup_init.restype = pointer
        library.sqlite3_backup_step.argtypes = [pointer, number]
        library.sqlite3_backup_finish.argtypes = [pointer]
        library.sqlite3_close.argtypes = [pointer]
        library.sqlite3_errcode.argtypes = [pointer]
        library.sqlite3_errstr.restype = text
    except (ImportError, OSError, AttributeError):
        return None
    return library


def _back_up_by_library(path: str, copy: str) -> None:
    """Do the same as `_back_up` by the library itself."""
    import ctypes  # noqa: PLC0415  (found by _library)

    library, source, target = _library(), ctypes.c_void_p(), ctypes.c_void_p()
    try:
        status = (
            library.sqlite3_open_v2(_uri(path, "ro").encode(), ctypes.byref(source), _READ_ONLY | _URI, None)
            or library.sqlite3_open_v2(_uri(copy, "rw").encode(), ctypes.byref(target), _READ_WRITE | _URI, None)
            or library.sqlite3_busy_timeout(source, int(BUSY * 1000))
            or library.sqlite3_exec(target, b"PRAGMA journal_mode = OFF", None, None, None)
        )
        backup = None if status else library.sqlite3_backup_init(target, b"main", source, b"main")
        if backup:
            status = library.sqlite3_backup_step(backup, -1)
            library.sqlite3_backup_finish(backup)
        status = status or library.sqlite3_errcode(target)
    finally:
        library.sqlite3_close(source)
        library.sqlite3_close(target)
    if status != _DONE:
        _fail(library.sqlite3_errstr(status).decode(), copy, full=status == _FULL)
