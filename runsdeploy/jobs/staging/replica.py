"""Replicas: consistent copies of files that other programs may be writing (J11)."""

import functools
import grp
import os
import pwd
import stat
import time
from typing import Any, Callable, Sequence, Tuple

from ..archive import extraction
from ..archive.manifest import Member, out_of_range
from ..disk import durable, trust
from .database import copy_database, copy_method, in_use, is_database
from .scan import Found
from .source import NotStaged, Torn, blocks, is_file_at, open_source, read, seconds_until_quiet, stamp

PAUSES = (0.0, 0.02, 0.05, 0.1)
"""seconds before each attempt to copy a file that others write"""


def replicate(found: Found, copy: str, when: str) -> Member:
    """Copy a file as it is at one moment (J11); raises NotStaged, or OSError if the copy cannot be written."""
    torn = Torn()
    for pause in PAUSES:
        time.sleep(pause)
        try:
            return _try_to_copy(found, copy, when)
        except NotStaged as left:
            durable.remove(copy)
            if not isinstance(left, Torn):
                raise
            torn = left
    raise torn


def member_of(found: Found, status: os.stat_result, when: str) -> Member:
    """Return the member of the manifest for a file, link or directory, without size and digest of its content.

    Raises NotStaged for a time that a manifest cannot hold: some file systems store any number, and the whole archive
    would be refused.
    """
    kind = "link" if found.target else "directory" if stat.S_ISDIR(status.st_mode) else "file"
    owner = (status.st_uid, status.st_gid, _name(pwd.getpwuid, status.st_uid), _name(grp.getgrgid, status.st_gid))
    mode = stat.S_IMODE(status.st_mode)
    made = Member(found.path, when, kind, mode, *owner, status.st_mtime_ns, 0, "", found.target, truncate=False)
    if out_of_range(made):
        raise NotStaged("has a time of modification that no backup can hold: `touch -h` it")
    return made


def _try_to_copy(found: Found, copy: str, when: str) -> Member:
    source = open_source(found.path)
    try:
        status = os.fstat(source)
        if not stat.S_ISREG(status.st_mode):
            raise Torn("is no longer a regular file")
        truncate = found.wanted.truncate and found.named
        header = read(source, 100, 0)
        method = copy_method(found.path, header)
        if method:
            digest = copy_database(method, found.path, copy)
        elif truncate and not is_database(header):
            digest = _copy_log(source, status, copy)
        else:
            status, digest = _copy_file(source, copy)
            if is_database(header) and in_use(found.path):
                raise Torn("is a database in use")
        # If the path leads to another file by now, the copy is of a former version.
        if not is_file_at(status, found.path):
            raise Torn("was replaced while it was copied")
    finally:
        os.close(source)
    made = member_of(found, status, when)
    # Others could have put the file of somebody else there, to have its bytes cut off.
    truncate = truncate and not is_database(header) and not trust.replaceable(found.wanted.path)
    return made._replace(size=os.stat(copy).st_size, sha256=digest, truncate=truncate)


def _copy_file(source: int, copy: str) -> Tuple[os.stat_result, str]:
    """Copy a file; raises Torn if it was written to meanwhile."""
    status = os.fstat(source)
    wait = seconds_until_quiet(status)
    if wait:
        time.sleep(wait)
        status = os.fstat(source)
    if seconds_until_quiet(status):
        raise Torn("is being written to")
    digest = _write(source, status.st_size, copy)
    if read(source, 1, status.st_size) or stamp(os.fstat(source)) != stamp(status):
        raise Torn("changed while it was copied")
    return status, digest


def _copy_log(source: int, status: os.stat_result, copy: str) -> str:
    """Copy a growing file up to the size it had at the start."""
    doubtful = seconds_until_quiet(status)  # before the copy: afterwards the file would be older, and look settled
    digest = _write(source, status.st_size, copy)
    after = os.fstat(source)
    # It has grown or was rewritten: only reading it again can show which.
    changed = doubtful or stamp(after) != stamp(status)
    if changed and extraction.digest(blocks(source, status.st_size)) != digest:
        raise Torn("changed while it was copied")
    return digest


def _write(source: int, size: int, copy: str) -> str:
    """Copy the first `size` bytes of a file durably, and return their digest."""
    with durable.create(copy) as file:
        digest = extraction.digest(blocks(source, size), file)
        durable.sync(file)
    return digest


@functools.lru_cache(maxsize=None)
def _name(find: Callable[[int], Sequence[Any]], number: int) -> str:
    """Return the name of a user or a group; empty if the number has none."""
    try:
        return str(find(number)[0])
    except KeyError:
        return ""
