"""Reports: a plan and the events of its run, folded into outcomes. A missing event is never taken for success."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import Struct, field

from runsdeploy import exit_status
from runsdeploy.errors import ControllerFailed, HostError, Lost, Position, Refused, Unreachable
from runsdeploy.events import (
    EarlierEvent,
    EarlierSession,
    Ended,
    Event,
    Finished,
    Locked,
    Marked,
    Output,
    Refusal,
    Started,
    Unacknowledged,
)
from runsdeploy.plan.plan import Plan, Step
from runsdeploy.plan.sysinfos import repair_hint
from runsdeploy.session.failed_line import failed_at
from runsdeploy.session.line_discipline import LineDiscipline

SUCCESSES = frozenset({"ok", "already-done"})
OUTCOMES = SUCCESSES | {
    "failed", "killed", "timeout", "interrupted", "skipped", "lost", "unreachable", "locked", "refused", "detached"
}  # fmt: skip
"""all outcomes of a step or a host"""

EARLIER_KEPT, STEPS_KEPT = 1000, 10_000
"""earlier sessions, and steps of each, that are kept: a target keeps fewer"""

TAIL_LINES = 10
TAIL_LENGTH = 4096
"""lines of a step's output, and characters of all of them, that are shown when it fails"""


class StepReport(Struct):
    """The outcome of one step."""

    step: Step
    outcome: str = "skipped"
    status: int | None = None
    seconds: float = 0.0
    failed_at: Position | None = None
    """the operator's innermost line that failed, in the script or a file that it sourced; without a line if unknown"""
    hint: str = ""
    """the command that repairs the script, if known"""
    marked: list[str] = field(default_factory=list)
    """subsystems that `setdone` marked; empty text for the script as a whole"""
    unmarked: list[str] = field(default_factory=list)
    """subsystems for which `shouldrun` answered yes, without a `setdone` after it"""
    tail: list[str] = field(default_factory=list)
    """the last lines of its output, as a terminal would leave them"""


class HostReport(Struct):
    """The outcome of one host."""

    plan: Plan
    outcome: str
    steps: list[StepReport]
    message: str = ""
    hint: str = ""
    seconds: float = 0.0
    earlier: list[EarlierReport] = field(default_factory=list)
    """earlier sessions without a final acknowledgement"""


class EarlierReport(Struct):
    """What the unacknowledged output of an earlier session reports."""

    session: EarlierSession | Unacknowledged
    steps: list[list[str]] = field(default_factory=list)
    """script and outcome of each step in that output; `lost` for one that did not end"""

    def add(self, event: Event) -> None:
        """Add one event of that session."""
        match event:
            case Started(_, script) if len(self.steps) < STEPS_KEPT:
                self.steps.append([script, "lost"])
            case Ended() if self.steps and self.steps[-1][1] == "lost":
                self.steps[-1][1] = event.outcome
            case Ended():
                # Its start was acknowledged before.
                self.steps.append(["", event.outcome])


class Fold:
    """A fold of the events of one host."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.steps = {step.number: StepReport(step) for step in plan.steps}
        self.running: StepReport | None = None
        self.lines = LineDiscipline()
        self.finished = "ok"
        self.failure: tuple[str, str, str] | None = None
        self.earlier: list[EarlierReport] = []

    def add(self, event: Event) -> None:
        """Add one event; events of steps that are not in the plan are ignored."""
        match event:
            case Started(number) if number in self.steps:
                self.running = self.steps[number]
                self.running.outcome = "lost"
                self.lines = LineDiscipline()
            case Output(data) if self.running:
                self.running.tail = last_lines([*self.running.tail, *self.lines.feed(data)])
            case Marked(number, action, subsystem) if number in self.steps:
                _mark(self.steps[number], action, subsystem)
            case Ended() if self.running and event.number == self.running.step.number:
                self._end_output(self.running)
                self._end(self.running, event)
                self.running = None
            case Refusal(reason, text):
                expected = self.plan.expected_facts if reason == "facts" else None
                hint = repair_hint(self.plan.host.name) if expected else ""
                self.failure = ("refused", f"{expected.file}: {text}" if expected else text, hint)
            case Locked(kind):
                remove = f"runsdeploy lock remove --host {self.plan.host.address}"
                hint = remove if kind == "operator" else "deploy later, or with `--wait`"
                self.failure = ("locked", f"the host is held: {event}", hint)
            case EarlierSession() | Unacknowledged() if len(self.earlier) < EARLIER_KEPT:
                self.earlier.append(EarlierReport(event))
            case EarlierEvent(inner) if self.earlier:
                self.earlier[-1].add(inner)
            case Finished() if event.outcome != "ok":
                self.finished = event.outcome

    def _end_output(self, report: StepReport) -> None:
        report.tail = last_lines([*report.tail, *self.lines.end()])

    def _end(self, report: StepReport, event: Ended) -> None:
        report.outcome, report.status, report.seconds = event.outcome, event.status, event.seconds
        if event.outcome in SUCCESSES:
            return
        report.failed_at = failed_at(self.plan, report.step, event, report.tail)
        if b"\r\n" in report.step.script.body:
            report.hint = f"`dos2unix {report.step.script.source.shown}`"
        elif any("\\r'" in line for line in report.tail):
            report.hint = f"`dos2unix {report.failed_at.file}`"

    def close(self, seconds: float, error: HostError | None = None) -> HostReport:
        """Return the report of the host when no more events come."""
        if self.running:
            self._end_output(self.running)
        steps = list(self.steps.values())
        outcome, message, hint = self._judge(steps, error)
        if outcome == "detached":
            for step in steps:
                step.outcome = "detached"
        return HostReport(self.plan, outcome, steps, message, hint, seconds, self.earlier)

    def _judge(self, steps: list[StepReport], error: HostError | None) -> tuple[str, str, str]:
        if self.failure:
            return self.failure
        failed = next((step for step in steps if step.outcome in ("failed", "killed", "timeout")), None)
        if error:
            word = next(word for kind, word in _ERRORS.items() if isinstance(error, kind))
            if isinstance(error, ControllerFailed) and any(step.outcome != "skipped" for step in steps):
                word = "interrupted"
            return "failed" if failed else word, error.message, error.hint
        if failed:
            return ("timeout" if failed.outcome == "timeout" else "failed"), "", ""
        if self.finished != "ok":
            attach = f"see the rest with `runsdeploy attach --host {self.plan.host.address}`"
            texts = ("the session continues by itself", attach) if self.finished == "detached" else ("", "")
            return self.finished, *texts
        if all(step.outcome in SUCCESSES for step in steps):
            return "ok", "", ""
        return "lost", "the session ended without an outcome", "deploy again: a step with a marker does not run twice"


_ERRORS: dict[type[HostError], str] = {
    Unreachable: "unreachable",
    Refused: "refused",
    Lost: "lost",
    HostError: "refused",
}


def _mark(report: StepReport, action: str, subsystem: str) -> None:
    if action == "shouldrun" and subsystem not in report.unmarked:
        report.unmarked.append(subsystem)
    if action == "setdone":
        report.marked.append(subsystem)
        report.unmarked = [each for each in report.unmarked if each != subsystem]
    if action == "resetdone":
        report.marked = [each for each in report.marked if subsystem not in ("", each)]


def last_lines(lines: Sequence[str]) -> list[str]:
    """Return the last TAIL_LINES lines, of TAIL_LENGTH characters at most: the end of the first may be all of it."""
    kept: list[str] = []
    left = TAIL_LENGTH
    for line in reversed(lines[-TAIL_LINES:]):
        kept.append(line[-left:])
        left -= len(line)
        if left <= 0:
            break
    return kept[::-1]


def status_of(reports: list[HostReport], interrupted: int = 0) -> int:
    """Return the exit status of a command with these reports (SPEC 7); `interrupted` is the signal or 0.

    The first of these that fits: interrupted, a step failed, a step timed out, a host could not be used, locked, ok.
    """
    outcomes = {report.outcome for report in reports}
    steps = {step.outcome for report in reports for step in report.steps}
    if interrupted:
        return exit_status.SIGNALLED + interrupted
    if "failed" in outcomes or steps & {"failed", "killed"}:
        return exit_status.FAILED
    if "timeout" in outcomes:
        return exit_status.TIMEOUT
    if outcomes & {"unreachable", "lost", "refused", "interrupted"}:
        return exit_status.UNUSABLE
    if "locked" in outcomes:
        return exit_status.LOCKED
    # Nothing unknown is ever reported as success; of a detached session the operator asked for no outcome.
    return exit_status.OK if outcomes <= SUCCESSES | {"detached"} else exit_status.UNUSABLE
