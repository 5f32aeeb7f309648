"""Plans as text: the steps in order, with their variables, files and digests."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence

from runsdeploy.output.terminal import Writer, printable
from runsdeploy.plan.plan import Plan, Step
from runsdeploy.plan.variable import Variable, shell_word


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
    """Return a plan in one line, without its host."""
    return f"{len(plan.steps)} step{'s' if len(plan.steps) != 1 else ''}, plan {short(plan.digest)}"


def show_plan(plan: Plan, predictions: dict[int, tuple[str, str]] | None = None) -> None:
    """Write a plan to stdout; `predictions` are outcome and reason by step number."""
    writer = Writer(sys.stdout)
    writer.line(f"{plan.host.name}: {heading(plan)}")
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
    """Return the variables that all steps share: they are shown once, so that the others are seen."""
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
