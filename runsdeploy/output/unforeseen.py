"""An unforeseen exception: one line for the operator, the rest in a file for a report of the mistake."""

from __future__ import annotations

import os
import platform
import sys
import tempfile
import traceback

from runsdeploy import __version__
from runsdeploy.errors import Problem, reason

HINT = "please send that file with a report of this mistake"


def problem_of(error: Exception, doing: str) -> Problem:
    """Return the exception as a problem that names a new file with its traceback; `doing` is what was under way.

    The file holds no values of variables and none of the command line's words but the command: they may be secrets.
    """
    said = " ".join(f"{type(error).__name__}: {error}".split())
    text = "".join(traceback.format_exception(error))
    about = f"runsdeploy {__version__}, {doing}\nPython {sys.version}\n{platform.platform()}\n\n{text}"
    try:
        descriptor, path = tempfile.mkstemp(prefix="runsdeploy-report-", suffix=".txt")
        with os.fdopen(descriptor, "w", encoding="utf-8", errors="backslashreplace") as file:
            file.write(about)
    except OSError as failed:
        sys.stderr.write(text)
        return Problem(None, f"runsdeploy itself failed: {said}; no report file: {reason(failed)}")
    return Problem(None, f"runsdeploy itself failed: {said}; traceback in `{path}`", HINT)
