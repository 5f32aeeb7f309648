"""Gates: which jobs may run, given how those before them ended; the one place where that is decided (J18).

The historical script decided it with `&&` and `||` around functions, where bash switches `set -e` off: a job that
failed in its middle passed. Here an outcome is a value, and only `ok` is ok.
"""

from typing import Sequence

from ..errors import BACKUP_BAD, FAILED, OK
from ..report.record import Result

NOT_RUN = "not-run"


def blocked_by(stage: str, results: Sequence[Result], *, backup_good: bool) -> str:
    """Return why the next job of a stage must not run; nothing if it may.

    Imports build on each other and need a way back, so the first failure stops them. Exports and reports tell others
    what was imported, so they need all imports, and do not need each other.
    """
    if not backup_good:
        return "the backup is not good"
    failed = [each.name for each in results if each.stage == "imports" and each.outcome != "ok"]
    if not failed:
        return ""
    return f"`{failed[0]}` did not pass" if stage == "imports" else "imports did not pass"


def stage_outcome(stage: str, results: Sequence[Result]) -> str:
    """Return `none` (it has no jobs), `ok`, `skipped` (none ran), `interrupted` or `failed`."""
    outcomes = {each.outcome for each in results if each.stage == stage}
    if not outcomes:
        return "none"
    if outcomes == {"ok"}:
        return "ok"
    if outcomes == {NOT_RUN}:
        return "skipped"
    return "interrupted" if "interrupted" in outcomes else "failed"


def exit_status(results: Sequence[Result], *, backup_good: bool) -> int:
    """Return the exit status of a run: a backup that is not good is worse than a job that failed."""
    if not backup_good:
        return BACKUP_BAD
    return OK if all(each.outcome == "ok" for each in results) else FAILED
