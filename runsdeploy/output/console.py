"""What people see: plans, events and reports as text.

Results go to stdout, talk to stderr. Whatever comes from a target is shown with its control characters
spelled out, so that no output can move the cursor, rename the window or write to the clipboard. Colour is
for terminals, and only where NO_COLOR is not set.
"""

from __future__ import annotations

import codecs
import os
import re
import sys
from collections.abc import Iterable, Sequence
from typing import TextIO

from msgspec.structs import replace

from runsdeploy.check.finding import ERROR, WARNING, Finding
from runsdeploy.errors import Problem
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
from runsdeploy.plan.plan import Plan, Step
from runsdeploy.plan.variable import Variable, shell_word
from runsdeploy.session.report import SUCCESSES, EarlierReport, Fold, HostReport, StepReport, last_lines

COLOURS = {"ok": "32", "already-done": "36", "would-run": "33", "maybe": "35"}
"""SGR codes (ECMA-48, 8.3.117) of outcomes; all others are red"""

LONGEST_LINE = 65536
"""bytes of a line that has no end yet before they are shown"""

_CONTROL = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\u2028\u2029\ud800-\udfff]"
)


def printable(data: bytes | str) -> str:
    """Spell out what a terminal would obey or could not show."""
    text = data.decode("utf-8", "surrogateescape") if isinstance(data, bytes) else data
    return _CONTROL.sub(_spell, text)


def _spell(found: re.Match[str]) -> str:
    code = ord(found[0])
    if 0xDC80 <= code <= 0xDCFF:  # noqa: PLR2004 - a byte that is not UTF-8, as Python carries it
        code -= 0xDC00
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"  # noqa: PLR2004


def discard_output() -> None:
    """Go on without whoever read our output, and has seen enough."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def colourful(stream: TextIO) -> bool:
    """Say whether to use colour (https://no-color.org, and its counterpart FORCE_COLOR)."""
    if os.environ.get("NO_COLOR"):
        return False
    return bool(os.environ.get("FORCE_COLOR")) or (stream.isatty() and os.environ.get("TERM") != "dumb")


class Writer:
    """Writes lines to a stream, with colour where that is wanted."""

    def __init__(self, stream: TextIO) -> None:
        self.stream, self.colour = stream, colourful(stream)

    def paint(self, text: str, code: str) -> str:
        """Wrap a text in a colour."""
        return f"\x1b[{code}m{text}\x1b[0m" if self.colour else text

    def outcome(self, word: str, width: int = 0) -> str:
        """Return an outcome in its colour."""
        return self.paint(word.ljust(width), COLOURS.get(word, "31"))

    def line(self, text: str = "") -> None:
        """Write a line; text that the stream's encoding lacks is spelled out."""
        encoding = self.stream.encoding or "utf-8"
        text = text.replace("\n", "\\x0a")
        print(text.encode(encoding, "backslashreplace").decode(encoding), file=self.stream, flush=True)


def show_problems(problems: Iterable[Problem]) -> None:
    """Write the problems of bad input, one a line, to stderr."""
    writer = Writer(sys.stderr)
    for problem in problems:
        writer.line(printable(str(problem)))


def show_findings(findings: Sequence[Finding]) -> None:
    """Write findings to stdout, one a line, and to stderr how many they are."""
    writer = Writer(sys.stdout)
    for each in findings:
        problem, code = each.problem, "31" if each.severity == ERROR else "33"
        where = f"{printable(str(problem.position))}: " if problem.position else ""
        said = printable(str(replace(problem, position=None, message=f"{problem.message} [{each.rule}]")))
        writer.line(f"{where}{writer.paint(each.severity, code)}: {said}")
    errors = sum(each.severity == ERROR for each in findings)
    counts = [f"{n} {word}{'s' * (n != 1)}" for n, word in ((errors, ERROR), (len(findings) - errors, WARNING)) if n]
    Writer(sys.stderr).line(" and ".join(counts) or "nothing to tell")


def show_messages(plan: Plan) -> None:
    """Write what CONF sections printed, to stderr."""
    writer = Writer(sys.stderr)
    for step in plan.steps:
        for line in step.messages.splitlines():
            writer.line(f"{step.script.name}: {printable(line)}")


def short(digest: str) -> str:
    """Return enough of a digest to recognise it."""
    return digest[:12]


def heading(plan: Plan) -> str:
    """Return a plan in one line."""
    return f"{plan.host.name}: {len(plan.steps)} step{'s' if len(plan.steps) != 1 else ''}, plan {short(plan.digest)}"


# --- plans ---------------------------------------------------------------------------------------


def show_plan(plan: Plan, predictions: dict[int, tuple[str, str]] | None = None) -> None:
    """Write a plan to stdout; `predictions` are outcome and reason by step number."""
    writer = Writer(sys.stdout)
    writer.line(heading(plan))
    common = _common(plan)
    if common:
        writer.line("     all steps")
    for variable in common:
        writer.line(f"       {printable(str(variable))}")
    for step in plan.steps:
        outcome, reason = (predictions or {}).get(step.number, ("", ""))
        said = f" {writer.outcome(outcome, 12)}" if outcome else ""
        description = f"  {printable(step.description)}" if step.description else ""
        writer.line(f"{step.number:4}{said} {writer.paint(printable(step.script.name), '1')}{description}")
        for line in _details(step, reason, common):
            writer.line(f"       {printable(line)}")


def _common(plan: Plan) -> list[Variable]:
    """Return the variables that all steps have alike: said once, they do not hide the others."""
    first, *rest = plan.steps or (None,)
    if first is None or not rest:
        return []
    return [variable for variable in first.variables if all(variable in step.variables for step in rest)]


def _details(step: Step, reason: str, common: Sequence[Variable]) -> Iterable[str]:
    where = "on this machine" if step.side == "controller" else "on the target"
    flags = "".join(f", {flag}" for flag in ("root", "once", "onchange", "strict") if flag in step.flags)
    yield f"{where}{flags}, from {step.script.source.shown}, asked for at {step.position.file_line}"
    if reason:
        yield reason
    if step.why:
        yield step.why
    yield from (str(variable) for variable in step.variables if variable not in common)
    for file in step.files:
        yield f"ships {shell_word(file.path)}{' ' + short(file.digest) if file.digest else ''}"
    yield from (f"uses {shell_word(name)}, made by an earlier step" for name in step.uses)
    yield from (f"makes {shell_word(name)}" for name in step.outs)
    yield f"digest {short(step.digest)}"


# --- deploys -------------------------------------------------------------------------------------


def _lines(data: bytes) -> tuple[list[bytes], bytes]:
    """Return what can be shown, and the beginning of a line; one without end is shown in pieces, not kept unbounded."""
    *lines, rest = data.split(b"\n")
    if len(rest) > LONGEST_LINE:
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        decoder.decode(rest)
        held, _ = decoder.getstate()  # of a character that has not come whole
        lines, rest = [*lines, rest[: len(rest) - len(held)]], held
    return lines, rest


class Console:
    """Tells a rollout as it happens. Lines carry the host's name where there are several."""

    def __init__(self, hosts: int, *, verbose: bool = False) -> None:
        self.out, self.talk = Writer(sys.stdout), Writer(sys.stderr)
        self.several = hosts > 1
        self.verbose = verbose
        self.partial: dict[str, bytes] = {}

    def _prefix(self, plan: Plan) -> str:
        return f"{plan.host.name} | " if self.several else ""

    def begin(self, plan: Plan) -> None:
        """Say which host, and which plan."""
        self.out.line(self._prefix(plan) + heading(plan))

    def hear(self, plan: Plan, event: Event, fold: Fold) -> None:
        """Write what an event means."""
        match event:
            case Started(number) if number in fold.steps:
                # An earlier session that was killed ended its output nowhere.
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
            case EarlierEvent(past):
                self.past(plan, past, fold.earlier[-1])

    def past(self, plan: Plan, event: Event, report: EarlierReport) -> None:
        """Write what an earlier session said; `report` knows it already."""
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

    def stopping(self, said: str) -> None:
        """Say what an interrupt does."""
        self.talk.line(said)

    def end(self, report: HostReport) -> None:
        """Write a host's result, and what an operator needs to know of a failure."""
        self._flush(report.plan)
        prefix = self._prefix(report.plan)
        for step in report.steps:
            if step.outcome not in SUCCESSES | {"skipped", "detached"}:
                for line in failure(step):
                    self.talk.line(prefix + line)
        # A session that was attached to has no plan here; it tells its steps itself.
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
    """Tells the rollout of one host whose output is what was asked for: it goes to stdout as it is, the rest to stderr.

    On a terminal control characters are spelled out all the same.
    """

    def __init__(self, *, verbose: bool = False) -> None:
        self.talk, self.verbose = Writer(sys.stderr), verbose
        self.terminal = Writer(sys.stdout) if sys.stdout.isatty() else None
        self.partial = b""

    def begin(self, plan: Plan) -> None:
        """Say nothing."""

    def hear(self, plan: Plan, event: Event, fold: Fold) -> None:  # noqa: ARG002 - as all listeners
        """Hand output on."""
        match event:
            case Output(data) if self.terminal:
                lines, self.partial = _lines(self.partial + data)
                for line in lines:
                    self.terminal.line(printable(line))
            case Output(data):
                sys.stdout.buffer.write(data)
                sys.stdout.buffer.flush()
            case LoginOutput(data) if self.verbose:
                self.talk.line(f"login shell: {printable(data)}")
            case Note(text):
                self.talk.line(f"note: {printable(text)}")
            case Waiting(holder):
                self.talk.line(printable(f"waiting for {holder}"))

    def stopping(self, said: str) -> None:
        """Say what an interrupt does."""
        self.talk.line(said)

    def end(self, report: HostReport) -> None:
        """Say why a host could not be used; what a step's status means is for who asked for it."""
        if self.terminal and self.partial:
            self.terminal.line(printable(self.partial))
        for text in (
            report.message and f"{report.plan.host.name}: {report.message}",
            report.hint and f"  {report.hint}",
        ):
            if text:
                self.talk.line(printable(text))


def earlier(event: EarlierSession | Unacknowledged) -> str:
    """Return in one line whose session it is that was not heard to its end."""
    how = {"killed": "; its runner was killed", "restarted": "; the target was restarted meanwhile"}
    ended = how.get(event.how, "") if isinstance(event, EarlierSession) else ""
    return f"what nobody heard of the session of {printable(event.by)} since {printable(event.since)}{ended}:"


def failure(report: StepReport) -> Iterable[str]:
    """Yield the lines that explain a step that did not succeed."""
    where = report.failed_at or report.step.position.file_line
    name = printable(report.step.script.name)
    status = "" if report.status is None else f" with status {report.status}"
    if report.outcome == "killed" and report.status:
        status = f" by signal {report.status - 128}"
    yield f"{where}: `{name}` {report.outcome}{status} (asked for at {report.step.position.file_line})"
    yield from (f"    {printable(line)}" for line in last_lines(report.tail))
    for word, names in (("marked", report.marked), ("not marked", report.unmarked)):
        if names:
            yield f"  {word}: " + ", ".join(f"`{printable(each)}`" if each else "the script" for each in names)
