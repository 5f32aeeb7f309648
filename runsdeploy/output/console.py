"""A rollout as text: what happens on each host while it happens, and how each host and all of them ended."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence

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
from runsdeploy.session.line_discipline import LineDiscipline
from runsdeploy.session.report import EarlierReport, Fold, HostReport, StepReport
from runsdeploy.session.summary import failed_steps

WIDEST_NAME = 32
"""columns that host names are padded to at most"""


def prefixes(names: Sequence[str]) -> dict[str, str]:
    """Return what the lines of each host begin with: nothing for a single host, else its name, all equally wide."""
    width = min(max(map(len, names), default=0), WIDEST_NAME)
    return {name: f"{name.ljust(width)} | " if len(names) > 1 else "" for name in names}


class Console:
    """Shows a rollout while it runs. With several hosts each line begins with the host's name, and has it only once."""

    def __init__(self, names: Sequence[str], *, verbose: bool = False) -> None:
        """`names` are those of all hosts."""
        self.out, self.talk = Writer(sys.stdout), Writer(sys.stderr)
        self.prefixes = prefixes(names)
        self.verbose = verbose
        self.disciplines: dict[str, LineDiscipline] = {}

    def _prefix(self, plan: Plan) -> str:
        return self.prefixes[plan.host.name]

    def _subject(self, plan: Plan) -> str:
        """Return what a line about a host begins with."""
        return self._prefix(plan) or f"{plan.host.name}: "

    def begin(self, plan: Plan) -> None:
        """Write the host and its plan."""
        self.out.line(self._subject(plan) + heading(plan))

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
                for line in login_lines(data):
                    self.talk.line(self._prefix(plan) + line)
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
        self._output_lines(plan, self.disciplines.setdefault(plan.host.name, LineDiscipline()).feed(data))

    def _flush(self, plan: Plan) -> None:
        discipline = self.disciplines.pop(plan.host.name, None)
        if discipline:
            self._output_lines(plan, discipline.end())

    def _output_lines(self, plan: Plan, lines: Iterable[str]) -> None:
        for line in lines:
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
        for step in failed_steps(report):
            for line in failure(step):
                self.talk.line(prefix + line)
        # `attach` has no plan of the session: its own events name the steps.
        outcomes = [step.outcome for step in report.steps] or [said for one in report.earlier for _, said in one.steps]
        counts = {outcome: outcomes.count(outcome) for outcome in dict.fromkeys(outcomes)}
        listed = ", ".join(f"{count} {outcome}" for outcome, count in counts.items()) or "nothing to do"
        outcome = self.out.outcome(report.outcome)
        self.out.line(f"{self._subject(report.plan)}{outcome} ({listed}) in {report.seconds:.2f} s")
        if report.message:
            self.talk.line(printable(f"{self._subject(report.plan)}{report.message}"))
        if report.hint:
            self.talk.line(printable(f"{prefix}  {report.hint}"))


class Verbatim:
    """Shows the rollout of one host whose output is the result: output goes to stdout unchanged, the rest to stderr.

    A terminal is shown the lines that the output leaves, their control characters spelled out.
    """

    def __init__(self, *, verbose: bool = False) -> None:
        self.talk, self.verbose = Writer(sys.stderr), verbose
        self.terminal = Writer(sys.stdout) if sys.stdout.isatty() else None
        self.discipline = LineDiscipline()

    def begin(self, plan: Plan) -> None:
        """Write nothing."""

    def event(self, plan: Plan, event: Event, fold: Fold) -> None:  # noqa: ARG002 - as all listeners
        """Write output, notes and waiting."""
        match event:
            case Output(data) if self.terminal:
                for line in self.discipline.feed(data):
                    self.terminal.line(printable(line))
            case Output(data):
                write_bytes(data)
            case LoginOutput(data) if self.verbose:
                for line in login_lines(data):
                    self.talk.line(line)
            case Note(text):
                self.talk.line(f"note: {printable(text)}")
            case Waiting(holder):
                self.talk.line(printable(f"waiting for {holder}"))

    def stopping(self, message: str) -> None:
        """Write what an interrupt does."""
        self.talk.line(message)

    def end(self, report: HostReport) -> None:
        """Write why a host could not be used; the command explains the status of its step."""
        for line in self.discipline.end():
            if self.terminal:
                self.terminal.line(printable(line))
        for text in (
            report.message and f"{report.plan.host.name}: {report.message}",
            report.hint and f"  {report.hint}",
        ):
            if text:
                self.talk.line(printable(text))


def login_lines(data: bytes) -> Iterable[str]:
    """Yield the lines that show what a login shell printed."""
    discipline = LineDiscipline()
    yield from (f"login shell: {printable(line)}" for line in (*discipline.feed(data), *discipline.end()))


def earlier(event: EarlierSession | Unacknowledged) -> str:
    """Return one line that names the session whose unacknowledged output follows."""
    how = {"killed": "; its runner was killed", "restarted": "; the target was restarted meanwhile"}
    ended = how.get(event.how, "") if isinstance(event, EarlierSession) else ""
    return f"unacknowledged output of {printable(event.by)}'s session, started {printable(event.since)}{ended}:"


def failure_in_short(report: StepReport) -> str:
    """Return where a step failed, its script and its status."""
    where = report.failed_at or report.step.position.file_line
    status = "" if report.status is None else f" with status {report.status}"
    if report.outcome == "killed" and report.status:
        status = f" by signal {report.status - 128}"
    return printable(f"{where}: `{report.step.script.name}` {report.outcome}{status}")


def failure(report: StepReport) -> Iterable[str]:
    """Yield the lines that explain a step that did not succeed."""
    yield f"{failure_in_short(report)} (asked for at {printable(report.step.position.file_line)})"
    yield from (f"    {printable(line)}" for line in report.tail)
    if report.hint:
        yield f"  {printable(report.hint)}"
    for word, names in (("marked", report.marked), ("not marked", report.unmarked)):
        if names:
            yield f"  {word}: " + ", ".join(f"`{printable(each)}`" if each else "the script" for each in names)
