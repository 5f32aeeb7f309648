"""Metrics of the last run, for the textfile collector of node_exporter (J20).

They contain numbers and names of jobs only, no paths, messages or settings, so they cannot contain a secret.
"""

import math
from typing import Iterable, Iterator, NamedTuple, Optional, Tuple

from ..disk import durable

PREFIX = "runsdeploy_jobs_"
READABLE = 0o644
"""the collector runs as another account"""


class JobFigure(NamedTuple):
    """How one job ended."""

    name: str
    outcome: str
    """one of the outcomes of `record.Result`"""
    status: Optional[int]
    """exit status; None if it has none"""
    seconds: float
    """duration, by the monotonic clock"""


class Figures(NamedTuple):
    """How a run ended."""

    finished: float
    """end of the run, seconds since 1970"""
    seconds: float
    """duration, by the monotonic clock (J9)"""
    exit_status: int
    last_success: Optional[float]
    """end of the last run with exit status 0, seconds since 1970; None if there was none"""
    backup_last_good: Optional[float]
    """time of the last good backup, seconds since 1970; None if there is none"""
    backup_bytes: Optional[int]
    """size of that backup; None if there is none"""
    jobs: Tuple[JobFigure, ...]
    overlaps: int
    """starts that found another run active, since the first (J4)"""
    suspect: bool = False
    """an import has begun that has not passed since (J26)"""


_Sample = Tuple[str, Optional[float]]


class _Family(NamedTuple):
    """All samples of one metric."""

    name: str
    help_text: str
    """text of the HELP line"""
    samples: Tuple[_Sample, ...]
    """labels in braces or nothing, and the value; None if there is no value"""
    kind: str = "gauge"


def write(path: str, figures: Figures) -> None:
    """Write the metrics atomically to a file that ends in `.prom` (J20); raises OSError."""
    durable.write_file(path, render(figures), READABLE)


def render(figures: Figures) -> bytes:
    """Return the metrics in the text format 0.0.4 of Prometheus; a metric without a value is left out."""
    lines = [line for family in _families(figures) for line in _lines(family)]
    return "".join(f"{line}\n" for line in lines).encode("utf-8")


def _families(figures: Figures) -> Tuple[_Family, ...]:
    # The collector rejects a file with a duplicate sample: of two jobs with the same name the last one counts.
    jobs = tuple({_label(job.name): job for job in figures.jobs}.items())
    return (
        _one("last_success_timestamp_seconds", "End of the last run that succeeded.", figures.last_success),
        _one("last_run_timestamp_seconds", "End of the last run.", figures.finished),
        _one("last_run_duration_seconds", "How long the last run took.", figures.seconds),
        _one("last_run_exit_status", "Exit status of the last run.", figures.exit_status),
        _one("backup_last_good_timestamp_seconds", "When the last good backup was made.", figures.backup_last_good),
        _one("state_suspect", "1 if an import began that has not passed since, else 0.", int(figures.suspect)),
        _one("backup_bytes", "Size of the last good backup.", figures.backup_bytes),
        _each("job_last_exit_status", "Exit status of the job in the last run.", ((n, j.status) for n, j in jobs)),
        _Family(
            "job_last_outcome",
            "How the job ended in the last run: always 1, the outcome is the label.",
            tuple((f'{{job="{name}",outcome="{_label(job.outcome)}"}}', 1) for name, job in jobs),
        ),
        _each("job_last_duration_seconds", "How long the job took in the last run.", ((n, j.seconds) for n, j in jobs)),
        _one("overlap_skipped_total", "Runs that found another one running.", figures.overlaps)._replace(
            kind="counter"
        ),
    )


def _one(name: str, help_text: str, value: Optional[float]) -> _Family:
    return _Family(name, help_text, (("", value),))


def _each(name: str, help_text: str, values: Iterable[_Sample]) -> _Family:
    return _Family(name, help_text, tuple((f'{{job="{label}"}}', value) for label, value in values))


def _lines(family: _Family) -> Iterator[str]:
    samples = [(labels, value) for labels, value in family.samples if value is not None]
    if not samples:
        return
    name = PREFIX + family.name
    yield f"# HELP {name} {family.help_text}"
    yield f"# TYPE {name} {family.kind}"
    for labels, value in samples:
        yield f"{name}{labels} {_number(value)}"


def _label(value: str) -> str:
    r"""Return a label value, escaped for quotes; bytes that are not UTF-8 become \udcXX, as readers reject them."""
    text = value.encode("utf-8", "backslashreplace").decode("utf-8")
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def _number(value: float) -> str:
    if isinstance(value, int):
        return str(int(value))
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "+Inf" if value > 0 else "-Inf"
    return repr(float(value))
