"""Metrics of the last run, for the textfile collector of node_exporter (J20).

They contain numbers and names of jobs only, no paths, messages or settings, so they cannot contain a secret.
"""

from typing import List, Optional, Sequence, Tuple

from ..disk import durable
from .record import History, Record

PREFIX = "runsdeploy_jobs_"
READABLE = 0o644
"""the collector runs as another account"""


def write(path: str, record: Record, history: History) -> None:
    """Write the metrics atomically to a file that ends in `.prom` (J20); raises OSError."""
    durable.write_file(path, render(record, history), READABLE)


def render(record: Record, history: History) -> bytes:
    """Return the metrics in the text format 0.0.4 of Prometheus; a metric without a value is left out.

    `history` includes the run; times are seconds since 1970, durations seconds of the monotonic clock (J9).
    """
    # The collector rejects a file with a duplicate sample: of two jobs with the same name the last one counts.
    jobs = {f'job="{_label(job.name)}"': job for job in record.jobs if job.outcome != "not-run"}
    statuses = [(f"{{{label}}}", job.status) for label, job in jobs.items()]
    outcomes = [(f'{{{label},outcome="{_label(job.outcome)}"}}', 1) for label, job in jobs.items()]
    durations = [(f"{{{label}}}", job.seconds) for label, job in jobs.items()]
    suspect = int(bool(record.suspect.since))
    lines = [
        *_one("last_run_warnings", "Warnings of the last run.", len(record.warnings)),
        *_one("last_success_timestamp_seconds", "End of the last run that succeeded.", history.last_success),
        *_one("last_run_timestamp_seconds", "End of the last run.", record.started + record.seconds),
        *_one("last_run_duration_seconds", "How long the last run took.", record.seconds),
        *_one("last_run_exit_status", "Exit status of the last run.", record.exit_status),
        *_one("backup_last_good_timestamp_seconds", "When the last good backup was made.", history.backup_last_good),
        *_one("state_suspect", "1 if an import began that has not passed since, else 0.", suspect),
        *_one("backup_bytes", "Size of the last good backup.", record.archive_bytes or None),
        *_each("job_last_exit_status", "Exit status of the job in the last run.", statuses),
        *_each("job_last_outcome", "How the job ended in the last run: always 1, the outcome is the label.", outcomes),
        *_each("job_last_duration_seconds", "How long the job took in the last run.", durations),
        *_one("overlap_skipped_total", "Runs that found another one running.", history.overlaps),
    ]
    return "".join(f"{line}\n" for line in lines).encode("utf-8")


def _one(name: str, help_text: str, value: Optional[float]) -> List[str]:
    return _each(name, help_text, [("", value)])


def _each(name: str, help_text: str, values: Sequence[Tuple[str, Optional[float]]]) -> List[str]:
    """Return the lines of one metric; the labels of each value are in braces, or empty."""
    samples = [f"{PREFIX}{name}{labels} {value!r}" for labels, value in values if value is not None]
    kind = "counter" if name.endswith("_total") else "gauge"
    return samples and [f"# HELP {PREFIX}{name} {help_text}", f"# TYPE {PREFIX}{name} {kind}", *samples]


def _label(value: str) -> str:
    r"""Return a label value, escaped for quotes; bytes that are not UTF-8 become \udcXX, as readers reject them."""
    text = value.encode("utf-8", "backslashreplace").decode("utf-8")
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
