"""Reading archives: the manifest, then the members in the order of the manifest.

Nothing here writes a file, and only the manifest decides what is read from an archive (J13).
"""

import hashlib
import os
from typing import IO, Dict, Iterable, Iterator, List, NamedTuple, Optional, Tuple

from . import tar
from .gunzip import GzipReader
from .manifest import LARGEST, NAME, Damaged, Manifest, Member, decode, printable

FILES = "files"
"""directory of the members in an archive"""
KEPT_MODE_BITS = 0o1777
"""permission bits that are restored: not setuid and setgid (J13)"""

Contents = Iterator[Tuple[Member, Iterator[bytes]]]


class Listing(NamedTuple):
    """Contents of an archive, found by reading it to its end."""

    manifest: Optional[Manifest]
    """None for a historical archive"""
    members: Tuple[Member, ...]
    """those that are undamaged and can be restored"""
    positions: Dict[str, int]
    """index of each path in the order of the archive"""
    refused: Dict[str, str]
    """reasons why paths cannot be restored, by path"""
    problems: Tuple[str, ...]
    """why the archive is damaged; none if it is sound"""


def header(member: Member) -> bytes:
    """Return the tar header of a member; so an archive can also be unpacked with tar."""
    return tar.header(_entry(member))


def manifest_header(manifest: Manifest, size: int) -> bytes:
    """Return the header of the manifest, the first member."""
    return tar.header(_manifest_entry(manifest, size))


def read_manifest(stream: GzipReader) -> Manifest:
    """Return the manifest at the start of an archive; raises Damaged."""
    for entry, content in tar.entries(stream):
        if entry.name != NAME.encode():
            break
        if entry.size > LARGEST:
            raise Damaged(f"has a manifest of {entry.size} bytes, expected {LARGEST} at most")
        manifest = decode(b"".join(content))
        if entry != _manifest_entry(manifest, entry.size):
            raise Damaged("has a header of its manifest that differs from what is written")
        return manifest
    raise Damaged("does not start with a manifest")


def members(stream: GzipReader, manifest: Manifest) -> Contents:
    """Yield each member of the manifest with its content; the caller checks the digest.

    Raises Damaged as soon as a member is not what the manifest implies. The size of everything is known from the
    manifest, so a decompression bomb cannot deliver more.
    """
    expected = iter(manifest.members)
    for entry, content in tar.entries(stream):
        member = next(expected, None)
        if member is None:
            raise Damaged("has more members than its manifest lists")
        if entry != _entry(member):
            raise Damaged(f"has another header than the manifest implies for `{printable(member.path)}`")
        yield member, content
    if next(expected, None):
        raise Damaged("has fewer members than its manifest lists")


def listing(stream: GzipReader) -> Listing:
    """Read an archive to its end, or up to the damage; raises Damaged if it has no manifest."""
    manifest = read_manifest(stream)
    found: List[Member] = []
    positions: Dict[str, int] = {}
    refused: Dict[str, str] = {}
    problems: List[str] = []
    try:
        for position, (member, content) in enumerate(members(stream, manifest)):
            positions[member.path] = position
            if digest(content) == (member.sha256 or digest(())):
                found.append(member)
                continue
            refused[member.path] = "its content differs from the manifest"
            problems.append(f"`{printable(member.path)}`: {refused[member.path]}")
    except Damaged as error:
        problems.append(str(error))
        whole = {member.path for member in found}
        for member in manifest.members:
            if member.path not in whole:
                refused.setdefault(member.path, "it comes after the damage")
    return Listing(manifest, tuple(found), positions, refused, tuple(problems))


def digest(parts: Iterable[bytes], copy: Optional[IO[bytes]] = None) -> str:
    """Return the SHA-256 of all parts together, in hexadecimal; each is also written to `copy`."""
    hashed = hashlib.sha256()
    for part in parts:
        hashed.update(part)
        if copy:
            copy.write(part)
    return hashed.hexdigest()


def _entry(member: Member) -> tar.Entry:
    return tar.Entry(
        name=FILES.encode() + os.fsencode(member.path),
        kind=member.kind,
        mode=member.mode & KEPT_MODE_BITS,
        uid=member.uid,
        gid=member.gid,
        user=os.fsencode(member.user),
        group=os.fsencode(member.group),
        mtime=member.mtime_ns // 10**9,
        size=member.size,
        target=os.fsencode(member.target),
    )


def _manifest_entry(manifest: Manifest, size: int) -> tar.Entry:
    return tar.Entry(NAME.encode(), "file", 0o600, 0, 0, b"", b"", manifest.created, size, b"")
