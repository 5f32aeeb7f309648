"""A rollout as text: what happens on each host while it happens, and how each host ended."""

from __future__ import annotations

import codecs
import sys
from collections.abc import Iterable

from runsdeploy.events import (
    EarlierEvent,
    EarlierSession,
    Ended,
    Event,
    Finished,
    LoginOutput,
    Note,
    Output,
    Started,
    Unacknowledged,
    Waiting,
)
from runsdeploy.output.plans import heading
from runsdeploy.output.terminal import Writer, printable, write_bytes
from runsdeploy.plan.plan import Plan
from runsdeploy.session.report import SUCCESSES, EarlierReport, Fold, HostReport, StepReport, last_lines

LONGEST_LINE = 65536
"""bytes of a line without an end before they are shown"""


def _lines(data: bytes) -> tuple[list[bytes], bytes]:
    """Return the lines to show, and the rest: a line without an end. A long rest is shown in pieces."""
    *lines, rest = data.split(b"\n")
    if len(rest) > LONGEST_LINE:
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        decoder.decode(rest)
        held, _ = decoder.getstate()  # the bytes of an incomplete character
        lines, rest = [*lines, rest[: len(rest) - len(held)]], held
    return lines, rest


class Console:
    """Shows a rollout while it runs. With several hosts each line begins with the host's name."""

    def __init__(self, hosts: int, *, verbose: bool = False) -> None:
        self.out, self.talk = Writer(sys.stdout), Writer(sys.stderr)
        self.several = hosts > 1
        self.verbose = verbose
        self.partial: dict[str, bytes] = {}

    def _prefix(self, plan: Plan) -> str:
        return f"{plan.host.name} | " if self.several else ""

    def begin(self, plan: Plan) -> None:
        """Write the host and its plan."""
        self.out.line(self._prefix(plan) + heading(plan))

    def event(self, plan: Plan, event: Event, fold: Fold) -> None:
        """Write an event."""
        match event:
            case Started(number) if number in fold.steps:
                # The output of an earlier session whose runner was killed may lack its last newline.
                self._flush(plan)
                name = printable(fold.steps[number].step.script.name)
                self.talk.line(f"{self._prefix(plan)}[{number}/{len(plan.steps)}] {name}")
            case Output(data):
                self._output(plan, data)
            case LoginOutput(data) if self.verbose:
                self.talk.line(f"{self._prefix(plan)}login shell: {printable(data)}")
            case Note(text):
                self.talk.line(f"{self._prefix(plan)}note: {printable(text)}")
            case Waiting(holder):
                self.talk.line(printable(f"{self._prefix(plan)}waiting for {holder}"))
            case Ended(number) if number in fold.steps:
                self._flush(plan)
                self._ended(plan, fold.steps[number])
            case EarlierSession() | Unacknowledged():
                self.out.line(self._prefix(plan) + earlier(event))
            case EarlierEvent(inner):
                self.earlier_event(plan, inner, fold.earlier[-1])

    def earlier_event(self, plan: Plan, event: Event, report: EarlierReport) -> None:
        """Write an event of an earlier session; `report` already includes it."""
        match event:
            case Started(_, script):
                self.talk.line(f"{self._prefix(plan)}[earlier] {printable(script)}")
            case Output(data):
                self._output(plan, data)
            case Note(text):
                self.talk.line(f"{self._prefix(plan)}note: {printable(text)}")
            case Ended():
                self._flush(plan)
                script, outcome = report.steps[-1]
                name = printable(script) or "the step that ran"
                self.out.line(f"{self._prefix(plan)}{self.out.outcome(outcome, 12)} {name}  {event.seconds:.2f} s")
            case Finished(outcome):
                self._flush(plan)
                self.out.line(f"{self._prefix(plan)}that session: {self.out.outcome(outcome)}")

    def _output(self, plan: Plan, data: bytes) -> None:
        lines, self.partial[plan.host.name] = _lines(self.partial.get(plan.host.name, b"") + data)
        for line in lines:
            self._output_line(plan, line)

    def _flush(self, plan: Plan) -> None:
        rest = self.partial.pop(plan.host.name, b"")
        if rest:
            self._output_line(plan, rest)

    def _output_line(self, plan: Plan, line: bytes) -> None:
        self.out.line(f"{self._prefix(plan)}  | {printable(line)}")

    def _ended(self, plan: Plan, report: StepReport) -> None:
        name = printable(report.step.script.name)
        seconds = f"{report.seconds:.2f} s"
        self.out.line(f"{self._prefix(plan)}{self.out.outcome(report.outcome, 12)} {name}  {seconds}")

    def stopping(self, message: str) -> None:
        """Write what an interrupt does."""
        self.talk.line(message)

    def end(self, report: HostReport) -> None:
        """Write the result of a host, with the details of each failure."""
        self._flush(report.plan)
        prefix = self._prefix(report.plan)
        for step in report.steps:
            if step.outcome not in SUCCESSES | {"skipped", "detached"}:
                for line in failure(step):
                    self.talk.line(prefix + line)
        # `attach` has no plan of the session: its own events name the steps.
        outcomes = [step.outcome for step in report.steps] or [said for one in report.earlier for _, said in one.steps]
        counts = {outcome: outcomes.count(outcome) for outcome in dict.fromkeys(outcomes)}
        listed = ", ".join(f"{count} {outcome}" for outcome, count in counts.items()) or "nothing to do"
        outcome = self.out.outcome(report.outcome)
        self.out.line(f"{prefix}{report.plan.host.name}: {outcome} ({listed}) in {report.seconds:.2f} s")
        if report.message:
            self.talk.line(printable(f"{prefix}{report.plan.host.name}: {report.message}"))
        if report.hint:
            self.talk.line(printable(f"{prefix}  {report.hint}"))


class Verbatim:
    """Shows the rollout of one host whose output is the result: output goes to stdout unchanged, the rest to stderr.

    On a terminal control characters are spelled out all the same.
    """

    def __init__(self, *, verbose: bool = False) -> None:
        self.talk, self.verbose = Writer(sys.stderr), verbose
        self.terminal = Writer(sys.stdout) if sys.stdout.isatty() else None
        self.partial = b""

    def begin(self, plan: Plan) -> None:
        """Write nothing."""

    def event(self, plan: Plan, event: Event, fold: Fold) -> None:  # noqa: ARG002 - as all listeners
        """Write output, notes and waiting."""
        match event:
            case Output(data) if self.terminal:
                lines, self.partial = _lines(self.partial + data)
                for line in lines:
                    self.terminal.line(printable(line))
            case Output(data):
                write_bytes(data)
            case LoginOutput(data) if self.verbose:
                self.talk.line(f"login shell: {printable(data)}")
            case Note(text):
                self.talk.line(f"note: {printable(text)}")
            case Waiting(holder):
                self.talk.line(printable(f"waiting for {holder}"))

    def stopping(self, message: str) -> None:
        """Write what an interrupt does."""
        self.talk.line(message)

    def end(self, report: HostReport) -> None:
        """Write why a host could not be used; the command explains the status of its step."""
        if self.terminal and self.partial:
            self.terminal.line(printable(self.partial))
        for text in (
            report.message and f"{report.plan.host.name}: {report.message}",
            report.hint and f"  {report.hint}",
        ):
            if text:
                self.talk.line(printable(text))


def earlier(event: EarlierSession | Unacknowledged) -> str:
    """Return one line that names the session whose unacknowledged output follows."""
    how = {"killed": "; its runner was killed", "restarted": "; the target was restarted meanwhile"}
    ended = how.get(event.how, "") if isinstance(event, EarlierSession) else ""
    return f"unacknowledged output of {printable(event.by)}'s session, started {printable(event.since)}{ended}:"


def failure(report: StepReport) -> Iterable[str]:
    """Yield the lines that explain a step that did not succeed."""
    where = report.failed_at or report.step.position.file_line
    name = printable(report.step.script.name)
    status = "" if report.status is None else f" with status {report.status}"
    if report.outcome == "killed" and report.status:
        status = f" by signal {report.status - 128}"
    yield f"{where}: `{name}` {report.outcome}{status} (asked for at {report.step.position.file_line})"
    yield from (f"    {printable(line)}" for line in last_lines(report.tail))
    if report.hint:
        yield f"  {printable(report.hint)}"
    for word, names in (("marked", report.marked), ("not marked", report.unmarked)):
        if names:
            yield f"  {word}: " + ", ".join(f"`{printable(each)}`" if each else "the script" for each in names)
