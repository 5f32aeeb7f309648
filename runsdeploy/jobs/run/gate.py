"""The gate: decides which jobs may run, from the results of the jobs before them; nothing else decides it (J18).

The historical script used `&&` and `||` around functions, where bash disables `set -e`: a job that failed in the middle
counted as successful. Here an outcome is a value, and only `ok` means success.
"""

from typing import Sequence

from ..errors import BACKUP_BAD, FAILED, OK
from ..report.record import Result

NOT_RUN = "not-run"


def blocked_by(stage: str, results: Sequence[Result], *, backup_good: bool) -> str:
    """Return why the next job of a stage must not run; empty if it may.

    Imports depend on each other and need a good backup to go back to, so the first failure stops them. Exports and
    reports publish what was imported, so they need all imports; each other only as far as a job is `required`. Jobs of
    the stage `always` run whatever happened.
    """
    if stage == "always":
        return ""
    if not backup_good:
        return "the backup is not good"
    failed = [each for each in results if each.required and each.outcome != "ok"]
    mine = [each.name for each in failed if each.stage == stage]
    if mine:
        return f"`{mine[0]}` did not pass"
    return "imports did not pass" if any(each.stage == "imports" for each in failed) else ""


def stage_outcome(stage: str, results: Sequence[Result]) -> str:
    """Return `none` (no jobs), `ok`, `skipped` (no job ran), `interrupted` or `failed`."""
    outcomes = {each.outcome for each in results if each.stage == stage}
    if not outcomes:
        return "none"
    if outcomes == {"ok"}:
        return "ok"
    if outcomes == {NOT_RUN}:
        return "skipped"
    return "interrupted" if "interrupted" in outcomes else "failed"


def exit_status(results: Sequence[Result], *, backup_good: bool) -> int:
    """Return the exit status of a run; a backup that is not good outweighs a failed job."""
    if not backup_good:
        return BACKUP_BAD
    return OK if all(each.outcome == "ok" for each in results) else FAILED
