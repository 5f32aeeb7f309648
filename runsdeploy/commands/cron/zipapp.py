"""The job runner as one file: the modules of `runsdeploy/jobs`, zipped behind the line that starts Python.

The same modules make the same bytes, whatever machine, time or compression library: that is what makes the
digest of what is installed comparable with that of what is shipped (S18).
"""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

from runsdeploy.errors import InputError, Problem

JOBS = Path(__file__).parents[2] / "jobs"
"""the package that is zipped; read as files, never imported"""

FIRST_LINE = b"#!/usr/bin/env python3\n"

MODIFIED = (1980, 1, 1, 0, 0, 0)
"""modification time of all members: the first that the format can say"""


def build(jobs: Path = JOBS) -> bytes:
    """Return the bytes of the program; raises InputError if the package has no job runner."""
    for name in ("__main__.py", "main.py"):
        if not (jobs / name).is_file():
            hint = "install runsdeploy again"
            raise InputError([Problem(None, f"there is no job runner in this installation: no `{jobs}/{name}`", hint)])
    files = [path for kind in ("*.py", "*.json") for path in jobs.rglob(kind) if path.stem.isidentifier()]
    members = {f"jobs/{path.relative_to(jobs).as_posix()}": path.read_bytes() for path in files}
    # What Python starts stands at the root; sorted it comes first, so that it is found even in a file that was replaced
    # between Python's looks at it.
    members["__main__.py"] = members.pop("jobs/__main__.py")
    program = io.BytesIO()
    program.write(FIRST_LINE)
    # Stored: two versions of zlib need not compress alike, and what is sent to a host is compressed anyway.
    with zipfile.ZipFile(program, "a", zipfile.ZIP_STORED) as archive:
        for name in sorted(members):
            about = zipfile.ZipInfo(name, MODIFIED)
            about.create_system, about.external_attr = 3, 0o100644 << 16
            archive.writestr(about, members[name])
    return program.getvalue()
