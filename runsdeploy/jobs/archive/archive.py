"""Archives: write, list and verify the backups of a directory, and set damaged ones aside (J1, J10).

An archive gets its final name only when it is complete, durable, and was read back from the disk without an error.
Its checksum file, in the format of `sha256sum`, exists before the archive has that name.
"""

import calendar
import errno
import gzip
import os
import re
import secrets
import stat
import time
from typing import IO, Iterable, List, Mapping, NamedTuple, Optional, Sequence, Tuple

from ..disk import durable
from ..errors import reason
from . import extraction, historical, known_state, tar
from .extraction import Listing
from .gunzip import CHUNK, GzipReader, chunks, open_archive
from .known_state import KNOWN, Suspect
from .manifest import LARGEST, Damaged, Manifest, decode, encode, printable

CHECKSUM = ".sha256"
BAD = ".bad"
UNVERIFIABLE = "historical: it has no checksum; verified is only that it can be read to its end"
_ID = r"\d{8}T\d{6}Z-[0-9a-f]{6}"
_OURS = re.compile(rf"({_ID})-cron-backup(-failed)?\.tar\.gz", re.ASCII)
_HISTORICAL = re.compile(r"(\d{4}(?:-\d\d){5})-cron-backup\.tar\.gz", re.ASCII)
_SUM_LINE = re.compile(r"([0-9a-f]{64})  ([^\n]+)\n")
_SUM_BYTES = 1024


class Archive(NamedTuple):
    """One archive of a backup directory, as described by its name, its checksum file and its manifest."""

    name: str
    path: str
    kind: str
    """`good`, `failed` (not good), `historical`, `bad` (set aside as `NAME.bad`), `damaged` (cannot be read)"""
    manifest: Optional[Manifest]
    """None for a historical archive, or if it cannot be read"""
    created: float
    """start of the run, seconds since 1970"""
    size: int
    """bytes of the archive file"""
    problem: str
    """why it is damaged, or what cannot be verified"""

    @property
    def known(self) -> bool:
        """Whether it is a good backup of a known state: no import was unfinished when its files were copied."""
        return self.kind == "good" and self.manifest is not None and not (self.manifest.suspect or KNOWN).since


def final_name(manifest: Manifest) -> str:
    """Return the file name of the archive of a run; raises Damaged if the id of the run is not valid."""
    name = f"{manifest.identity}-cron-backup{'' if manifest.good else '-failed'}.tar.gz"
    if not _OURS.fullmatch(name):
        raise Damaged(f"`{printable(name)}` is not a valid name of an archive")
    return name


def is_historical(name: str) -> bool:
    """Return whether an archive was made by the historical script, judged by its name; it may be set aside."""
    return _HISTORICAL.fullmatch(_without_bad(name)) is not None


def write(folder: str, manifest: Manifest, sources: Mapping[str, str]) -> str:
    """Make the archive of a run and return its file name; the lock must be held.

    `sources` maps the path of each member to its staged copy. When this returns, the archive is verified and durable.
    If it raises OSError or Damaged, nothing is left of it. Existing archives are never changed (J1, J3). Its mode is
    0600 from the first byte (J17).
    """
    ordered = sorted(manifest.members, key=lambda member: os.fsencode(member.path))
    manifest = manifest._replace(members=tuple(ordered))
    name = final_name(manifest)
    path = os.path.join(folder, name)
    if os.path.lexists(path):
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), path)
    temporary = f"{path}.{secrets.token_hex(6)}.tmp"
    made = [temporary]
    try:
        with durable.create(temporary) as file:
            _pack(file, manifest, sources)
            durable.sync(file)
        checksum = _verify_written(temporary, manifest)
        made.append(path + CHECKSUM)
        durable.write_file(path + CHECKSUM, f"{checksum}  {name}\n".encode("ascii"))
        made.insert(0, path)
        os.rename(temporary, path)
        durable.sync_directory(folder)
    except BaseException:
        for each in made:
            durable.remove(each)
        raise
    return name


def archives(folder: str) -> List[Archive]:
    """Return the archives of a directory, newest first, by sequence, then time; other files are ignored.

    Reads manifests and checksum files, not contents. Raises OSError if the directory cannot be read, but never for a
    file in it.
    """
    found = [_describe(folder, name) for name in os.listdir(folder) if _stem(_without_bad(name))]
    return in_order(each for each in found if each is not None)


def latest(found: Sequence[Archive], recorded: Suspect) -> Optional[Archive]:
    """Return the archive that `latest` means: the newest known one, or the known one that the record names.

    Both are the same, unless an older suspect archive was restored by name. None if there is neither.
    """
    known = [each for each in found if each.known]
    named = [each for each in known if each.manifest and each.manifest.identity == recorded.since]
    return next(iter(named or known), None)


def suspect(folder: str) -> Suspect:
    """Return what is recorded about the state now; without a record, what follows from the newest manifest."""
    saved = known_state.load(folder)
    if saved is not None:
        return saved
    try:
        found = archives(folder)
    except FileNotFoundError:  # no run yet
        return KNOWN
    return next((_after(each.manifest) for each in found if each.manifest and _counts(each)), KNOWN)


def in_order(found: Iterable[Archive]) -> List[Archive]:
    """Return archives newest first, with `suspect` filled in where a manifest of an older version lacks it.

    There it follows from the results of the older archives. Before the oldest, the state counts as known, unless the
    imports of that archive did not pass and other runs were before it: the known state may have been deleted.
    """
    filled: List[Archive] = []
    fact: Optional[Suspect] = None
    for each in sorted(found, key=lambda each: (_sequence(each), each.created, each.name)):
        made = each.manifest
        if made and _counts(each):
            if made.suspect is None:
                unknown = made.sequence > 1 and _after(made).since == made.identity
                fact = fact if fact is not None else Suspect(made.identity, ()) if unknown else KNOWN
                made = made._replace(suspect=fact)
            fact = _after(made)
        filled.append(each._replace(manifest=made))
    return filled[::-1]


def _counts(each: Archive) -> bool:
    return each.kind in ("good", "failed")


def _after(made: Manifest) -> Suspect:
    """Return the fact after the run that made an archive, from its manifest."""
    stage = made.stages.get("imports", "none")
    # Format 1 does not say which jobs are imports; if one of these did not pass, no other job has run.
    jobs = {name: job["outcome"] for name, job in made.jobs.items() if job.get("stage", "imports") == "imports"}
    return known_state.end(made.suspect or KNOWN, made.identity, stage, jobs)


def verify(path: str) -> List[str]:
    """Read an archive to its last byte and return its problems; none if it is sound (J10)."""
    return list(inspect(path)[0].problems)


def inspect(path: str) -> Tuple[Listing, str]:
    """Read an archive to its last byte; return its contents and problems, and a note if it cannot be verified."""
    name = _without_bad(os.path.basename(path))
    problems: List[str] = []
    listed = Listing(None, (), {}, {}, ())
    note = UNVERIFIABLE if is_historical(name) else ""
    try:
        with open_archive(path) as file:
            if not note:
                problems += _checksum_problems(path, file)
            file.seek(0)
            listed = (historical if note else extraction).listing(GzipReader(file))
            problems += listed.problems
            if listed.manifest:
                problems += _name_problems(name, listed.manifest)
    except Damaged as error:
        problems.append(str(error))
    except OSError as error:
        problems.append(f"cannot be read: {reason(error)}")
    return listed._replace(problems=tuple(problems)), note


def set_aside(path: str) -> str:
    """Rename a damaged archive to `NAME.bad`, so that it never counts as good; return the new path. Raises OSError."""
    bad = path + BAD
    if os.path.lexists(bad):
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), bad)
    os.rename(path, bad)
    durable.sync_directory(os.path.dirname(path))
    return bad


def _pack(file: IO[bytes], manifest: Manifest, sources: Mapping[str, str]) -> None:
    """Write manifest and members; the same input makes the same bytes."""
    document = encode(manifest)
    if len(document) > LARGEST:
        raise Damaged(f"manifest of {len(document)} bytes, expected {LARGEST} at most")
    with gzip.GzipFile(filename="", mode="wb", compresslevel=6, fileobj=file, mtime=0) as packed:
        packed.write(extraction.manifest_header(manifest, len(document)))
        packed.write(document + tar.padding(len(document)))
        for member in manifest.members:
            packed.write(extraction.header(member))
            if member.kind == "file":
                _copy(sources.get(member.path, ""), member.size, packed)
        packed.write(tar.END)


def _copy(source: str, size: int, packed: gzip.GzipFile) -> None:
    """Append a staged file, padded to a whole block; raises Damaged if its size has changed."""
    with open_archive(source) as file:
        left = size
        while left:
            part = file.read(min(left, CHUNK))
            if not part:
                raise Damaged(f"staged file `{printable(source)}` has {size - left} bytes, expected {size}")
            packed.write(part)
            left -= len(part)
        if file.read(1):
            raise Damaged(f"staged file `{printable(source)}` has more than {size} bytes")
    packed.write(tar.padding(size))


def _verify_written(path: str, manifest: Manifest) -> str:
    """Read a new archive back from the disk and return its checksum; raises Damaged if it is not as written."""
    with open_archive(path) as file:
        # Drop the page cache of the file: it must be read from the disk.
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        checksum = extraction.digest(chunks(file))
        file.seek(0)
        listed = extraction.listing(GzipReader(file))
    if listed.problems or listed.manifest != decode(encode(manifest)):
        raise Damaged(f"archive differs from what was written: {'; '.join(listed.problems) or 'another manifest'}")
    return checksum


def _without_bad(name: str) -> str:
    return name[: -len(BAD)] if name.endswith(BAD) else name


def _stem(name: str) -> str:
    """Return the part of an archive's name that has its time; empty if the name is not that of an archive."""
    match = _OURS.fullmatch(name) or _HISTORICAL.fullmatch(name)
    return match.group(1) if match else ""


def _sequence(archive: Archive) -> int:
    return archive.manifest.sequence if archive.manifest else 0


def _describe(folder: str, name: str) -> Optional[Archive]:
    """Return the description of a file that is named like an archive; None if it is not a regular file."""
    path, plain = os.path.join(folder, name), _without_bad(name)
    try:
        status = os.lstat(path)
    except OSError:
        return None  # deleted since the directory was read
    if not stat.S_ISREG(status.st_mode):
        return None
    past = is_historical(plain)
    manifest, problem = (None, UNVERIFIABLE) if past else _read(path)
    if name != plain:
        kind = "bad"
    elif past:
        kind = "historical"
    elif problem or manifest is None:
        kind = "damaged"
    else:
        kind = "good" if manifest.good else "failed"
    created = float(manifest.created) if manifest else _time(_stem(plain), status.st_mtime)
    return Archive(name, path, kind, manifest, created, status.st_size, problem)


def _read(path: str) -> Tuple[Optional[Manifest], str]:
    """Return the manifest if it can be read, and the problems that show without reading the contents."""
    manifest = None
    try:
        with open_archive(path) as file:
            manifest = extraction.read_manifest(GzipReader(file))
        problems = _name_problems(_without_bad(os.path.basename(path)), manifest)
        return manifest, "; ".join(problems or _read_checksum(path)[1])
    except Damaged as error:
        return manifest, str(error)
    except OSError as error:
        return manifest, f"cannot be read: {reason(error)}"


def _name_problems(name: str, manifest: Manifest) -> List[str]:
    """Return a problem if an archive has the name of another one."""
    try:
        expected = final_name(manifest)
    except Damaged as error:
        return [str(error)]
    return [] if name == expected else [f"holds the backup `{expected}`: files were swapped or renamed"]


def _read_checksum(path: str) -> Tuple[str, List[str]]:
    """Return the checksum from the file beside an archive, and the problems of that file."""
    plain = _without_bad(path)
    name = os.path.basename(plain)
    try:
        with open_archive(plain + CHECKSUM) as file:
            match = _SUM_LINE.fullmatch(os.fsdecode(file.read(_SUM_BYTES)))
    except Damaged as error:
        return "", [f"checksum `{name}{CHECKSUM}` {error}"]
    except OSError as error:
        return "", [f"checksum `{name}{CHECKSUM}` cannot be read: {reason(error)}"]
    if not match or match.group(2) != name:
        return "", [f"checksum `{name}{CHECKSUM}` is not a line of `sha256sum` for this archive"]
    return match.group(1), []


def _checksum_problems(path: str, file: IO[bytes]) -> List[str]:
    expected, problems = _read_checksum(path)
    found = extraction.digest(chunks(file)) if expected else ""
    return problems if found == expected else [f"has the checksum {found}, expected {expected}"]


def _time(stem: str, otherwise: float) -> float:
    """Return the time in a name: UTC, but local time in historical names."""
    try:
        if stem.endswith("Z", 15, 16):
            return float(calendar.timegm(time.strptime(stem[:16], "%Y%m%dT%H%M%SZ")))
        return time.mktime(time.strptime(stem, "%Y-%m-%d-%H-%M-%S"))
    except (ValueError, OverflowError):
        return otherwise
