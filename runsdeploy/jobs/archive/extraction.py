"""Reading archives: the manifest, then the members in the order of the manifest.

Nothing here writes a file, and only the manifest decides what is read from an archive (J13).
"""

import hashlib
import os
from typing import Dict, Iterable, Iterator, List, NamedTuple, Optional, Tuple

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
    return tar.header(
        tar.Entry(
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
    )


def manifest_header(manifest: Manifest, size: int) -> bytes:
    """Return the header of the manifest, the first member."""
    return tar.header(tar.Entry(NAME.encode(), "file", 0o600, 0, 0, b"", b"", manifest.created, size, b""))


def read_manifest(stream: GzipReader) -> Manifest:
    """Return the manifest at the start of an archive; raises Damaged."""
    block = stream.read(tar.BLOCK)
    if block[:100] != NAME.encode().ljust(100, b"\0"):
        raise Damaged("does not start with a manifest")
    size = tar.number(block[124:136])
    if size > LARGEST:
        raise Damaged(f"has a manifest of {size} bytes, expected {LARGEST} at most")
    manifest = decode(b"".join(tar.data(stream, size)))
    if block != manifest_header(manifest, size):
        raise Damaged("has a header of its manifest that differs from what is written")
    return manifest


def members(stream: GzipReader, manifest: Manifest) -> Contents:
    """Yield each member of the manifest with its content; the caller checks the digest.

    Raises Damaged as soon as a byte outside of contents differs from what the manifest implies. The size of everything
    is known from the manifest, so a decompression bomb cannot deliver more.
    """
    for member in manifest.members:
        expected = header(member)
        if stream.read(len(expected)) != expected:
            raise Damaged(f"has another header than the manifest implies for `{printable(member.path)}`")
        content = tar.data(stream, member.size)
        yield member, content
        for _ in content:
            pass
    if stream.read(len(tar.END)) != tar.END:
        raise Damaged("has more members than its manifest lists")
    stream.expect_end()


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


def digest(parts: Iterable[bytes]) -> str:
    """Return the SHA-256 of all parts together, in hexadecimal."""
    hashed = hashlib.sha256()
    for part in parts:
        hashed.update(part)
    return hashed.hexdigest()
