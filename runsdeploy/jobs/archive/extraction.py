"""What is in an archive: its manifest, and the members one after the other, each where the manifest says.

Nothing here puts a file anywhere, and nothing of the archive but its manifest decides what is read (J13).
"""

import hashlib
import os
from typing import Dict, Iterable, Iterator, List, NamedTuple, Optional, Tuple

from . import tar
from .gunzip import GzipReader
from .manifest import LARGEST, NAME, Damaged, Manifest, Member, decode, printable

FILES = "files"
"""members of an archive are below it"""
KEPT_MODE_BITS = 0o1777
"""permission bits that are kept: nothing that is restored runs as somebody else (J13)"""

Contents = Iterator[Tuple[Member, Iterator[bytes]]]


class Listing(NamedTuple):
    """What can be had from an archive, found by reading it to its end."""

    manifest: Optional[Manifest]
    """None of a historical archive"""
    members: Tuple[Member, ...]
    """whole, and such as can be restored"""
    positions: Dict[str, int]
    """which member in the order of the archive each path is"""
    refused: Dict[str, str]
    """what cannot be restored, by its path, and why"""
    problems: Tuple[str, ...]
    """why the archive is not sound"""


def header(member: Member) -> bytes:
    """Return the header of a member; the archive can be unpacked by hand, too."""
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
        raise Damaged("does not begin with its manifest")
    size = tar.number(block[124:136])
    if size > LARGEST:
        raise Damaged(f"has a manifest of {size} bytes, expected {LARGEST} at most")
    manifest = decode(b"".join(tar.data(stream, size)))
    if block != manifest_header(manifest, size):
        raise Damaged("does not begin with its manifest as it is written")
    return manifest


def members(stream: GzipReader, manifest: Manifest) -> Contents:
    """Yield each member of the manifest with its bytes, to be hashed by who takes them.

    Raises Damaged as soon as the archive is not byte for byte what the manifest makes it, contents aside: what it
    says has as many bytes as can be known beforehand, so a bomb ends where the manifest ends.
    """
    for member in manifest.members:
        expected = header(member)
        if stream.read(len(expected)) != expected:
            raise Damaged(f"has something else where its manifest says `{printable(member.path)}`")
        content = tar.data(stream, member.size)
        yield member, content
        for _ in content:
            pass
    if stream.read(len(tar.END)) != tar.END:
        raise Damaged("has more members than its manifest")
    stream.expect_end()


def listing(stream: GzipReader) -> Listing:
    """Read an archive of ours to its end, or as far as it can be; raises Damaged if it has no manifest."""
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
            refused[member.path] = "its content is not what the manifest says"
            problems.append(f"`{printable(member.path)}`: {refused[member.path]}")
    except Damaged as error:
        problems.append(str(error))
        whole = {member.path for member in found}
        for member in manifest.members:
            if member.path not in whole:
                refused.setdefault(member.path, "it lies behind the damage")
    return Listing(manifest, tuple(found), positions, refused, tuple(problems))


def digest(parts: Iterable[bytes]) -> str:
    """Return the SHA-256 of bytes."""
    hashed = hashlib.sha256()
    for part in parts:
        hashed.update(part)
    return hashed.hexdigest()
