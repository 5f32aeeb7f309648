"""Historical archives: tar files of absolute paths, without manifest and checksum (J24)."""

import os
from typing import Dict, Tuple

from . import tar
from .extraction import Contents, Listing, digest
from .gunzip import GzipReader
from .manifest import KINDS, Damaged, Member, ancestors, out_of_range

MOST = 200_000
"""members of an archive"""


def members(stream: GzipReader) -> Contents:
    """Yield every member with its content, also those that cannot be restored; raises Damaged."""
    for count, (entry, content) in enumerate(tar.entries(stream)):
        if count >= MOST:
            raise Damaged(f"has more than {MOST} members")
        yield _member(entry), content


def listing(stream: GzipReader) -> Listing:
    """Read an archive to its end, or up to the damage.

    A path usually occurs several times: the historical script appended files. The last one counts, also if it cannot
    be restored.
    """
    found: Dict[str, Tuple[int, Member]] = {}
    problems = []
    try:
        for position, (member, content) in enumerate(members(stream)):
            sha256 = digest(content)
            found[member.path] = position, member._replace(sha256=sha256 if member.kind == "file" else "")
        if not found:
            problems.append("has no member")
    except Damaged as error:
        problems.append(str(error))
    last = {path: member for path, (_, member) in found.items()}
    refused = {path: why for path, why in ((path, _refusal(path, last)) for path in last) if why}
    usable = {path: each for path, each in found.items() if path not in refused}
    return Listing(
        None,
        tuple(member for _, member in usable.values()),
        {path: position for path, (position, _) in usable.items()},
        refused,
        tuple(problems),
    )


def _member(entry: tar.Entry) -> Member:
    """Return an entry as a member of a manifest; GNU tar has removed the leading slash of its path."""
    return Member(
        path="/" + os.fsdecode(entry.name),
        when="before",
        kind=entry.kind,
        mode=entry.mode,
        uid=entry.uid,
        gid=entry.gid,
        user=os.fsdecode(entry.user),
        group=os.fsdecode(entry.group),
        mtime_ns=entry.mtime * 10**9,
        size=entry.size if entry.kind == "file" else 0,
        sha256="",
        target=os.fsdecode(entry.target),
        truncate=False,
    )


def _refusal(path: str, members: Dict[str, Member]) -> str:
    """Return why a path cannot be restored; empty if it can (J13)."""
    member = members[path]
    if "\0" in path or any(part in ("", ".", "..") for part in path[1:].split("/")):
        return "its name is not a valid path below `/`"
    if member.kind not in KINDS:
        return f"it is a {member.kind}"
    if out_of_range(member) or bool(member.target) != (member.kind == "link"):
        return "its owner, time, size or target is not valid"
    for above in ancestors(path):
        if above in members and members[above].kind != "directory":
            return f"it is below a {members[above].kind} of the archive"
    return ""
