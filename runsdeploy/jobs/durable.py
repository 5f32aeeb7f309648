"""Files that are either as they were or as they should be, whatever happens meanwhile, power cuts included (B5)."""

import os
import secrets
from contextlib import suppress
from typing import IO

PRIVATE = 0o600


def write_file(path: str, data: bytes, mode: int = PRIVATE) -> None:
    """Put data under a name: complete and on the disk when this returns; raises OSError with nothing changed."""
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


def create(path: str, mode: int = PRIVATE) -> IO[bytes]:
    """Create a file that must not exist, never through a link, with its mode before any content (J17)."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, PRIVATE)
    try:
        os.fchmod(descriptor, mode)
        return os.fdopen(descriptor, "wb")
    except BaseException:
        os.close(descriptor)
        raise


def sync(file: IO[bytes]) -> None:
    """Bring what was written to a file to the disk."""
    file.flush()
    os.fsync(file.fileno())


def sync_directory(path: str) -> None:
    """Bring the names in a directory to the disk."""
    descriptor = os.open(path or ".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove(path: str) -> None:
    """Remove a file that may be gone already."""
    with suppress(FileNotFoundError):
        os.unlink(path)
