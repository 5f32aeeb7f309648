r"""Plans, events and reports as JSON: one document, or one event a line.

Texts are UTF-8 where the bytes are; other bytes are spelled `\\xNN`. Paths into the session's directory
are written with `$RUNS_FILES`.
"""

from __future__ import annotations

import codecs
import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from runsdeploy.errors import Problem
from runsdeploy.events import (
    EarlierEvent,
    EarlierSession,
    Ended,
    Event,
    Finished,
    Note,
    Output,
    Started,
    Unacknowledged,
    Waiting,
)
from runsdeploy.output.terminal import write_bytes
from runsdeploy.plan.plan import Plan, Step
from runsdeploy.session.report import EarlierReport, Fold, HostReport, StepReport

SCHEMA = 1


def write(document: dict[str, Any]) -> None:
    """Write one document as one line to stdout."""
    # A terminal interprets more characters than JSON escapes.
    text = json.dumps(document, ensure_ascii=sys.stdout.isatty())
    write_bytes(text.encode("utf-8", "backslashreplace") + b"\n")


def text(data: bytes) -> str:
    r"""Return bytes as text; bytes that are not UTF-8 are spelled `\xNN`."""
    return data.decode("utf-8", "backslashreplace")


def problems(status: int, found: Sequence[Problem]) -> dict[str, Any]:
    """Return the document of a command that failed before it did anything."""
    return {"schema": SCHEMA, "exit_status": status, "errors": [problem(each) for each in found], "hosts": []}


def problem(each: Problem) -> dict[str, Any]:
    """Return a problem; an unknown place is null."""
    at = each.position
    place = {"file": at and at.file, "line": at and at.line, "column": at and at.column}
    return {**place, "message": each.message, "hint": each.hint}


def plan(each: Plan, predictions: dict[int, tuple[str, str]] | None = None) -> dict[str, Any]:
    """Return a plan."""
    steps = [_step(step, (predictions or {}).get(step.number)) for step in each.steps]
    return {"host": each.host.name, "plan": each.digest, "digest": each.digest, "steps": steps}


def _step(step: Step, prediction: tuple[str, str] | None) -> dict[str, Any]:
    values = {
        variable.name: [str(value) for value in variable.values] if variable.array else str(variable.values[0])
        for variable in step.variables
    }
    document = {
        "number": step.number,
        "script": step.script.name,
        "file": step.script.source.shown,
        "position": step.position.file_line,
        "side": step.side,
        "user": "root" if "root" in step.flags else "login",
        "flags": sorted(step.flags),
        "desc": step.description,
        "variables": values,
        "files": [
            {"path": file.path, "kind": file.kind, "size": file.size, "sha256": file.digest} for file in step.files
        ],
        "out": list(step.outs),
        "uses": list(step.uses),
        "why": step.why,
        "digest": step.digest,
    }
    if prediction:
        document["outcome"], document["reason"] = prediction
    return document


def report(
    session: str, status: int, hosts: Sequence[HostReport], outputs: Mapping[str, bytes] | None = None
) -> dict[str, Any]:
    """Return the document of a deploy; `outputs` is the output of each host's steps, for commands that include it."""
    documents = [_host(each) for each in hosts]
    for document in documents if outputs is not None else ():
        document["output"] = text((outputs or {}).get(document["host"], b""))
    return {"schema": SCHEMA, "session": session, "exit_status": status, "hosts": documents}


def _host(each: HostReport) -> dict[str, Any]:
    document: dict[str, Any] = {
        "host": each.plan.host.name,
        "outcome": each.outcome,
        "plan": each.plan.digest,
        "seconds": round(each.seconds, 3),
        "steps": [_reported(step) for step in each.steps],
    }
    if each.earlier:
        document["earlier"] = [{**_session(one.session), "steps": one.steps} for one in each.earlier]
    if each.message:
        document["message"], document["hint"] = each.message, each.hint
    return document


def _session(each: EarlierSession | Unacknowledged) -> dict[str, Any]:
    document = {"session": each.session, "by": each.by, "since": each.since}
    return document | ({"how": each.how} if isinstance(each, EarlierSession) else {})


def _reported(each: StepReport) -> dict[str, Any]:
    document: dict[str, Any] = {
        "script": each.step.script.name,
        "side": each.step.side,
        "outcome": each.outcome,
        "status": each.status,
        "seconds": each.seconds,
        "position": each.step.position.file_line,
    }
    if each.failed_at:
        document["failed_at"] = str(each.failed_at)
        document["output_tail"] = [text(line.encode("utf-8", "surrogateescape")) for line in each.tail]
    if each.hint:
        document["hint"] = each.hint
    if each.marked or each.unmarked:
        document["marked"], document["not_marked"] = each.marked, each.unmarked
    return document


class Lines:
    """Writes a rollout as one event a line."""

    def __init__(self) -> None:
        self.decoders: dict[str, codecs.IncrementalDecoder] = {}

    def _text(self, host: str, data: bytes, *, last: bool = False) -> str:
        """Decode output: a character may come in two pieces."""
        make = codecs.getincrementaldecoder("utf-8")
        return self.decoders.setdefault(host, make("backslashreplace")).decode(data, final=last)

    def _flush(self, common: dict[str, Any]) -> None:
        """Write the rest of an incomplete character."""
        rest = self._text(common["host"], b"", last=True)
        if rest:
            write({"event": "output", "text": rest, **common})

    def begin(self, each: Plan) -> None:
        """Write that a host begins."""
        write({"event": "begin", "host": each.host.name, "plan": each.digest, "steps": len(each.steps)})

    def event(self, each: Plan, event: Event, fold: Fold) -> None:
        """Write an event."""
        host = each.host.name
        match event:
            case Started(number) if number in fold.steps:
                self._flush({"host": host})
                write({"event": "start", "host": host, "number": number, "script": fold.steps[number].step.script.name})
            case Output(data):
                write({"event": "output", "host": host, "text": self._text(host, data)})
            case Ended(number) if number in fold.steps:
                self._flush({"host": host})
                write({"event": "end", "host": host, "number": number, **_reported(fold.steps[number])})
            case Note():
                write({"event": "note", "host": host, "text": event.text})
            case Waiting(holder):
                write({"event": "waiting", "host": host, "holder": str(holder)})
            case EarlierSession() | Unacknowledged():
                write({"event": "earlier", "host": host, **_session(event)})
            case EarlierEvent(inner):
                self.earlier_event(host, inner, fold.earlier[-1])

    def earlier_event(self, host: str, event: Event, report: EarlierReport) -> None:
        """Write an event of an earlier session; `report` already includes it."""
        common = {"host": host, "earlier": report.session.session}
        match event:
            case Started(number, script):
                write({"event": "start", "number": number, "script": script, **common})
            case Output(data):
                write({"event": "output", "text": self._text(host, data), **common})
            case Finished():
                self._flush(common)
            case Ended(number, outcome):
                self._flush(common)
                write({"event": "end", "number": number, "outcome": outcome, **common})
            case Note(text):
                write({"event": "note", "text": text, **common})

    def stopping(self, message: str) -> None:
        """Write what an interrupt does."""
        write({"event": "stopping"})
        sys.stderr.write(f"{message}\n")

    def end(self, each: HostReport) -> None:
        """Write that a host ended, after the rest of a killed step's output."""
        self._flush({"host": each.plan.host.name})
        write({"event": "host", "host": each.plan.host.name, "outcome": each.outcome})


class Silent:
    """Writes nothing: the document at the end has everything."""

    def begin(self, each: Plan) -> None:
        """Write nothing."""

    def event(self, each: Plan, event: Event, fold: Fold) -> None:
        """Write nothing."""

    def stopping(self, message: str) -> None:
        """Write what an interrupt does, to stderr."""
        sys.stderr.write(f"{message}\n")

    def end(self, each: HostReport) -> None:
        """Write nothing."""


class Kept(Silent):
    """The same, but keeps the output of the steps for the document at the end."""

    def __init__(self) -> None:
        self.outputs: dict[str, bytes] = {}

    def event(self, each: Plan, event: Event, fold: Fold) -> None:  # noqa: ARG002 - as all listeners
        """Keep output."""
        if isinstance(event, Output):
            self.outputs[each.host.name] = self.outputs.get(each.host.name, b"") + event.data
