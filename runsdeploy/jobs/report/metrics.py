"""Metrics: the last run as text that the textfile collector of node_exporter reads (J20).

Nothing but figures and names of jobs comes in: no paths, no messages, no settings, so no secret can.
"""

import math
from typing import Iterable, Iterator, NamedTuple, Optional, Tuple

from ..disk import durable

PREFIX = "runsdeploy_jobs_"
READABLE = 0o644
"""the collector runs as somebody else"""


class JobFigure(NamedTuple):
    """How one job ended."""

    name: str
    outcome: str
    """one word of the closed set of outcomes"""
    status: Optional[int]
    """exit status; None if it has none, as of a job that did not run"""
    seconds: float
    """how long it ran, by a clock that nobody sets"""


class Figures(NamedTuple):
    """How a run ended."""

    finished: float
    """end of the run, seconds since 1970"""
    seconds: float
    """how long it ran, by a clock that nobody sets (J9)"""
    exit_status: int
    last_success: Optional[float]
    """end of the last run that ended with 0, seconds since 1970; None if there was none"""
    backup_last_good: Optional[float]
    """when the last good backup was made, seconds since 1970; None if there is none"""
    backup_bytes: Optional[int]
    """size of that backup; None if there is none"""
    jobs: Tuple[JobFigure, ...]
    overlaps: int
    """runs that found another one running, ever (J4)"""


_Sample = Tuple[str, Optional[float]]


class _Family(NamedTuple):
    """The samples of one name."""

    name: str
    help_text: str
    """what the name means"""
    samples: Tuple[_Sample, ...]
    """labels in braces or nothing, and the value; None for a value that is not there"""
    kind: str = "gauge"


def write(path: str, figures: Figures) -> None:
    """Put the metrics under a name that ends in `.prom`, whole or not at all (J20); raises OSError."""
    durable.write_file(path, render(figures), READABLE)


def render(figures: Figures) -> bytes:
    """Return the metrics in Prometheus' text format 0.0.4; what has no value is left out, never 0."""
    lines = [line for family in _families(figures) for line in _lines(family)]
    return "".join(f"{line}\n" for line in lines).encode("utf-8")


def _families(figures: Figures) -> Tuple[_Family, ...]:
    # The collector drops a file with the same sample twice: of two jobs with a name the last one counts.
    jobs = tuple({_label(job.name): job for job in figures.jobs}.items())
    return (
        _one("last_success_timestamp_seconds", "End of the last run that succeeded.", figures.last_success),
        _one("last_run_timestamp_seconds", "End of the last run.", figures.finished),
        _one("last_run_duration_seconds", "How long the last run took.", figures.seconds),
        _one("last_run_exit_status", "Exit status of the last run.", figures.exit_status),
        _one("backup_last_good_timestamp_seconds", "When the last good backup was made.", figures.backup_last_good),
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
    r"""Return a label's value as it stands in quotes; what is not UTF-8 as \udcXX, or no reader takes it."""
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
