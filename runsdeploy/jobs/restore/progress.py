"""Progress of a restore, on the disk, so that it can be continued or undone after a crash (J14).

`.restore/NUMBER/` in the backup directory has the plan and the phase, each a file that is replaced atomically, and a
reserve of disk space that is freed when the disk is full, so that a phase can always be written (B5).
"""

import contextlib
import errno
import json
import os
import shutil
from typing import List, Optional, Tuple

from ..archive.manifest import printable
from ..disk import durable
from ..errors import RESTORE_NEEDED, Fault
from .layout import Layout, decode, encode

FOLDER = ".restore"
STAGING, REPLACING, COMMANDS, DONE, UNDOING, OVER = "staging", "swapping", "commands", "done", "undoing", "over"
"""nothing is changed; files are being replaced; all are, but not all commands have passed; all have; files are being
put back; kept files are being removed"""
_PLAN, _PHASE, _RESERVE, _PASSED = "plan.json", "phase", "reserve", "passed.json"
_RESERVED = 64 * 1024


class Progress:
    """One restore and its directory."""

    def __init__(self, folder: str, number: int) -> None:
        self.number = number
        self.path = os.path.join(folder, FOLDER, f"{number:06}")

    @classmethod
    def begin(cls, folder: str, planned: Layout, *, with_commands: bool) -> "Progress":
        """Create the directory of a new restore; raises OSError, and then nothing is left of it."""
        above = os.path.join(folder, FOLDER)
        with contextlib.suppress(FileExistsError):
            durable.make_directory(above)
        made = cls(folder, 1 + max([each.number for each in all_restores(folder)], default=0))
        durable.make_directory(made.path)
        try:
            durable.write_file(made._file(_RESERVE), os.urandom(_RESERVED))
            if with_commands:
                made.set_passed([])
            made.write_plan(planned)
        except BaseException:
            made.remove()
            raise
        return made

    @property
    def has_plan(self) -> bool:
        """Whether it has a plan; a restore without one has changed nothing."""
        return os.path.lexists(self._file(_PLAN))

    @property
    def layout(self) -> Layout:
        """The layout of its plan; raises Fault."""
        try:
            with open(self._file(_PLAN), "rb") as file:
                return decode(json.loads(file.read().decode("ascii")))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise Fault(f"plan `{self._file(_PLAN)}` cannot be read: {error}", "", RESTORE_NEEDED) from None

    @property
    def passed(self) -> Optional[List[Tuple[str, ...]]]:
        """The commands behind the files that have passed, as words; None if it has no commands. Raises Fault."""
        try:
            with open(self._file(_PASSED), "rb") as file:
                return [tuple(words) for words in json.loads(file.read().decode("ascii"))]
        except FileNotFoundError:
            return None
        except (OSError, ValueError, TypeError) as error:
            raise Fault(f"`{self._file(_PASSED)}` cannot be read: {error}", "", RESTORE_NEEDED) from None

    def set_passed(self, commands: List[Tuple[str, ...]]) -> None:
        """Write which commands have passed; raises OSError."""
        self._write(_PASSED, json.dumps(commands).encode("ascii"))

    @property
    def phase(self) -> str:
        """Its phase; raises Fault."""
        if not self.has_plan:
            return OVER
        try:
            with open(self._file(_PHASE), "rb") as file:
                phase = file.read(100).decode("ascii", "replace").strip()
        except FileNotFoundError:
            return STAGING
        except OSError as error:
            raise Fault(f"phase `{self._file(_PHASE)}` cannot be read: {error}", "", RESTORE_NEEDED) from None
        if phase not in (STAGING, REPLACING, COMMANDS, DONE, UNDOING, OVER):
            raise Fault(
                f"phase `{self._file(_PHASE)}` is `{printable(phase)}`, expected one of a restore", "", RESTORE_NEEDED
            )
        return phase

    def write_plan(self, planned: Layout) -> None:
        """Write a plan, of which nothing is done yet; raises OSError."""
        self._write(_PLAN, json.dumps(encode(planned)).encode("ascii"))

    def set_phase(self, phase: str) -> None:
        """Write the next phase; raises OSError, and then the phase is still the former one."""
        before = self.phase
        try:
            self._write(_PHASE, f"{phase}\n".encode("ascii"))
        except OSError:
            # The new phase may be in the file, though not on the disk: write the former one again.
            with contextlib.suppress(OSError):
                self._write(_PHASE, f"{before}\n".encode("ascii"))
            raise

    def remove(self) -> None:
        """Remove the directory; no file may be staged or kept any more. Raises OSError."""
        # Remove the plan first, durably: a restore without a plan has changed nothing.
        durable.remove(self._file(_PLAN))
        durable.sync_directory(self.path)
        shutil.rmtree(self.path)

    def _file(self, name: str) -> str:
        return os.path.join(self.path, name)

    def _write(self, name: str, data: bytes) -> None:
        self.write(self._file(name), data)

    def write(self, path: str, data: bytes) -> None:
        """Write a file of the backup directory; a full disk has room for it. Raises OSError."""
        try:
            durable.write_file(path, data)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            durable.remove(self._file(_RESERVE))
            durable.write_file(path, data)


def all_restores(folder: str) -> List[Progress]:
    """Return all restores of a backup directory, oldest first."""
    try:
        names = os.listdir(os.path.join(folder, FOLDER))
    except FileNotFoundError:
        return []
    return [Progress(folder, number) for number in sorted(int(name) for name in names if name.isdigit())]


def latest(folder: str, *phases: str) -> Optional[Progress]:
    """Return the last restore in one of these phases, or None; raises Fault if a phase cannot be read."""
    found = [each for each in all_restores(folder) if each.phase in phases]
    return found[-1] if found else None
