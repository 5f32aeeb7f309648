"""Notifications of a run: metrics file, then a ping; no result depends on them (J20)."""

from typing import Dict, List

from ..disk import trust
from ..errors import OK, reason
from ..settings.settings import Settings
from . import metrics, monitor
from .log import Log
from .record import History, Record, summary


def run_started(settings: Settings) -> List[str]:
    """Send the notification that a run starts; return warnings."""
    url = settings.values["PING_URL"]
    warning = monitor.ping(url, "start") if url else ""
    return [warning] if warning else []


def run_ended(settings: Settings, record: Record, history: History, log: Log) -> List[str]:
    """Send the result of a run; return warnings."""
    values = settings.values
    text = "\n".join(summary(record.document))
    warnings = [_write_metrics(values["METRICS_FILE"], record, history)]
    if values["PING_URL"]:
        tails: Dict[str, List[str]] = {job.name: log.tail(job.name) for job in record.jobs if job.outcome != "ok"}
        body = "\n".join([text, *(f"{name}| {line}" for name, tail in tails.items() for line in tail)])
        event = "success" if record.exit_status == OK else "fail"
        warnings.append(monitor.ping(values["PING_URL"], event, body.encode()))
    return [warning for warning in warnings if warning]


def _write_metrics(path: str, record: Record, history: History) -> str:
    if not path:
        return ""
    found = trust.problems(path)
    if found:
        return f"metrics were not written to `{path}`, others could have put it there: {trust.describe(found)}"
    try:
        metrics.write(path, record, history)
    except OSError as error:
        return f"metrics could not be written to `{path}`: {reason(error)}"
    return ""
