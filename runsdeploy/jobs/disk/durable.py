"""Durable files: after a crash or a power cut a file has its old content or its new content, never a mix (B5)."""

import os
import re
import secrets
from contextlib import suppress
from typing import IO

PRIVATE = 0o600
_TEMPORARY = re.compile(r"(.+)\.[0-9a-f]{12}\.tmp$")


def write_file(path: str, data: bytes, mode: int = PRIVATE) -> None:
    """Write a file atomically; it is on the disk when this returns. Raises OSError, and then nothing is changed."""
    temporary = f"{path}.{secrets.token_hex(6)}.tmp"
    try:
        with create(temporary, mode) as file:
            file.write(data)
            sync(file)
        os.rename(temporary, path)
    except BaseException:
        remove(temporary)
        raise
    sync_directory(os.path.dirname(path))


def make_directories(path: str) -> None:
    """Make a private directory and its missing parents; they are on the disk when this returns."""
    above = os.path.dirname(path)
    if not os.path.isdir(above):
        make_directories(above)
    make_directory(path)


def make_directory(path: str) -> None:
    """Make a private directory that must not exist; it is on the disk when this returns."""
    above = os.path.dirname(path)
    os.mkdir(path, 0o700)
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        inherit_owner(descriptor, above)
    finally:
        os.close(descriptor)
    sync_directory(above)


def inherit_owner(descriptor: int, folder: str) -> None:
    """Give a file that root made to the owner of its directory: nightly runs must be able to use it."""
    if os.geteuid() == 0:
        owner = os.stat(folder or ".")
        if owner.st_uid:
            os.fchown(descriptor, owner.st_uid, owner.st_gid)


def sweep(folder: str, name: str = "") -> None:
    """Remove temporary files of a killed `write_file`, of one name or of all; no writer may be active."""
    with suppress(OSError):
        for each in os.listdir(folder):
            match = _TEMPORARY.match(each)
            if match and name in ("", match.group(1)):
                remove(os.path.join(folder, each))


def create(path: str, mode: int = PRIVATE) -> IO[bytes]:
    """Create a file that must not exist, never through a link; its mode is set before any content (J17)."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, PRIVATE)
    try:
        os.fchmod(descriptor, mode)
        inherit_owner(descriptor, os.path.dirname(path))
        return os.fdopen(descriptor, "wb")
    except BaseException:
        os.close(descriptor)
        raise


def sync(file: IO[bytes]) -> None:
    """Flush a file to the disk."""
    file.flush()
    os.fsync(file.fileno())


def sync_directory(path: str) -> None:
    """Flush the names in a directory to the disk."""
    descriptor = os.open(path or ".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove(path: str) -> None:
    """Remove a file; it may be gone already."""
    with suppress(FileNotFoundError):
        os.unlink(path)
