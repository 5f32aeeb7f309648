"""Restorations: what is written of a restore so that it can be finished or taken back (J14).

`.restore/NUMBER/` in the backup directory holds the plan, the phase, each a file that is replaced at once, and some
space that is given up when the disk is full: a phase can always be told (B5).
"""

import contextlib
import errno
import json
import os
import shutil
from typing import List, Optional

from ..archive.manifest import printable
from ..disk import durable
from ..errors import RESTORE_NEEDED, Fault
from .layout import Layout, decode, encode

FOLDER = ".restore"
STAGING, REPLACING, DONE, UNDOING, OVER = "staging", "swapping", "done", "undoing", "over"
"""nothing is changed yet; files are put in place; all are; files are put back; what it kept is being removed"""
_PLAN, _PHASE, _RESERVE = "plan.json", "phase", "reserve"
_RESERVED = 64 * 1024


class Progress:
    """One restore, by its directory."""

    def __init__(self, folder: str, number: int) -> None:
        self.number = number
        self.path = os.path.join(folder, FOLDER, f"{number:06}")

    @classmethod
    def begin(cls, folder: str, planned: Layout) -> "Progress":
        """Note a new one; raises OSError with nothing left of it."""
        above = os.path.join(folder, FOLDER)
        with contextlib.suppress(FileExistsError):
            durable.make_directory(above)
        made = cls(folder, 1 + max([each.number for each in all_restores(folder)], default=0))
        durable.make_directory(made.path)
        try:
            durable.write_file(made._file(_RESERVE), os.urandom(_RESERVED))
            made.write_plan(planned)
        except BaseException:
            made.remove()
            raise
        return made

    @property
    def has_plan(self) -> bool:
        """Tell whether it has a plan; one without has done nothing."""
        return os.path.lexists(self._file(_PLAN))

    @property
    def layout(self) -> Layout:
        """Return its plan; raises Fault."""
        try:
            with open(self._file(_PLAN), "rb") as file:
                return decode(json.loads(file.read().decode("ascii")))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise Fault(f"plan `{self._file(_PLAN)}` cannot be read: {error}", "", RESTORE_NEEDED) from None

    @property
    def phase(self) -> str:
        """Return the phase it is in; raises Fault."""
        if not self.has_plan:
            return OVER
        try:
            with open(self._file(_PHASE), "rb") as file:
                phase = file.read(100).decode("ascii", "replace").strip()
        except FileNotFoundError:
            return STAGING
        except OSError as error:
            raise Fault(f"phase `{self._file(_PHASE)}` cannot be read: {error}", "", RESTORE_NEEDED) from None
        if phase not in (STAGING, REPLACING, DONE, UNDOING, OVER):
            raise Fault(
                f"phase `{self._file(_PHASE)}` is `{printable(phase)}`, expected one of a restore", "", RESTORE_NEEDED
            )
        return phase

    def write_plan(self, planned: Layout) -> None:
        """Note another plan, of which nothing is done yet; raises OSError."""
        self._write(_PLAN, json.dumps(encode(planned)).encode("ascii"))

    def set_phase(self, phase: str) -> None:
        """Note that a phase begins; raises OSError, and then it is still in the one before."""
        before = self.phase
        try:
            self._write(_PHASE, f"{phase}\n".encode("ascii"))
        except OSError:
            # It may stand there all the same, if not yet on the disk.
            with contextlib.suppress(OSError):
                self._write(_PHASE, f"{before}\n".encode("ascii"))
            raise

    def remove(self) -> None:
        """Remove what is written; nothing may be staged or kept any more. Raises OSError."""
        # The plan goes first, on the disk as well: a restore without one has done nothing.
        durable.remove(self._file(_PLAN))
        durable.sync_directory(self.path)
        shutil.rmtree(self.path)

    def _file(self, name: str) -> str:
        return os.path.join(self.path, name)

    def _write(self, name: str, data: bytes) -> None:
        try:
            durable.write_file(self._file(name), data)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            durable.remove(self._file(_RESERVE))
            durable.write_file(self._file(name), data)


def all_restores(folder: str) -> List[Progress]:
    """Return what is written of restores, the oldest first."""
    try:
        names = os.listdir(os.path.join(folder, FOLDER))
    except FileNotFoundError:
        return []
    return [Progress(folder, number) for number in sorted(int(name) for name in names if name.isdigit())]


def latest(folder: str, *phases: str) -> Optional[Progress]:
    """Return the last restore that is in one of these phases; raises Fault if one cannot be read."""
    found = [each for each in all_restores(folder) if each.phase in phases]
    return found[-1] if found else None
