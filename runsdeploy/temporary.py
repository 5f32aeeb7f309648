"""Temporary directories that are removed even if their process is killed: by the next one that makes one."""

from __future__ import annotations

import errno
import fcntl
import os
import resource
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from runsdeploy.errors import reason, writing


def place() -> Path:
    """Return the directory for temporary files, absolute: TMPDIR or the system's; raises OSError if there is none."""
    try:
        # Before Python 3.12 tempfile leaves a relative TMPDIR relative.
        return Path(tempfile.gettempdir()).absolute()
    except FileNotFoundError as error:
        limited = resource.getrlimit(resource.RLIMIT_FSIZE)[0] == 0
        number = errno.EFBIG if limited else errno.EROFS
        raise OSError(number, f"no directory for temporary files can be written ({reason(error)})") from error


@contextmanager
def make_directory(prefix: str, parent: Path | None = None) -> Iterator[Path]:
    """Make a private directory, in TMPDIR unless `parent` is given, and remove it at the end.

    Those of killed processes with this prefix are removed too. The path is absolute.
    """
    parent = parent or place()
    with (
        tempfile.TemporaryDirectory(prefix=prefix, dir=parent, ignore_cleanup_errors=True) as made,
        ExitStack() as stack,
    ):
        with writing(Path(made)):
            stack.enter_context(_in_use(Path(made)))
        _remove_abandoned(prefix, parent)
        yield Path(made)


@contextmanager
def _in_use(directory: Path) -> Iterator[None]:
    """Lock the file `alive` in a directory while it is in use; the kernel ends the lock however the process ends."""
    with (directory / "new").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        (directory / "new").rename(directory / "alive")
        yield


def _remove_abandoned(prefix: str, parent: Path) -> None:
    """Remove the directories of killed processes of this user."""
    for path in parent.glob(f"{prefix}*/alive"):
        with suppress(OSError):
            if path.parent.lstat().st_uid == os.geteuid():
                with path.open() as file:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    shutil.rmtree(path.parent)
