"""Plans as text: the steps in order, with their variables, files and digests."""

from __future__ import annotations

import sys
from collections.abc import Collection, Iterable, Iterator, Sequence

from runsdeploy.output.terminal import Writer, printable
from runsdeploy.plan.files import File
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


def show_plan(plan: Plan, predictions: dict[int, tuple[str, str]] | None = None, *, verbose: bool = False) -> None:
    """Write a plan to stdout; `predictions` are outcome and reason by step number; `verbose` lists every file."""
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
        for line in _details(step, reason, common, verbose=verbose):
            writer.line(f"       {printable(line)}")


def _common(plan: Plan) -> list[Variable]:
    """Return the variables that all steps share: they are shown once, so that the others are seen."""
    first, *rest = plan.steps or (None,)
    if first is None or not rest:
        return []
    return [variable for variable in first.variables if all(variable in step.variables for step in rest)]


def _details(step: Step, reason: str, common: Sequence[Variable], *, verbose: bool) -> Iterable[str]:
    where = "on this machine" if step.side == "controller" else "on the target"
    flags = "".join(f", {flag}" for flag in ("root", "once", "onchange", "strict") if flag in step.flags)
    yield f"{where}{flags}, from {step.script.source.shown}, asked for at {step.position.file_line}"
    if reason:
        yield reason
    if step.why:
        yield step.why
    yield from (str(variable) for variable in step.variables if variable not in common)
    yield from _shipped(step.files, verbose=verbose)
    yield from (f"uses {shell_word(name)}, made by an earlier step" for name in step.uses)
    yield from (f"makes {shell_word(name)}" for name in step.outs)
    yield f"digest {short(step.digest)}"


def _shipped(files: Sequence[File], *, verbose: bool) -> Iterable[str]:
    """Yield what a step ships: each file, but a directory with all below it as one line, unless `verbose`."""
    tops = {f"{each.path}/" for each in files if each.kind == "directory"}
    below: dict[str, list[File]] = {}
    for each in files:
        top = next(_within(each.path, tops), each.path) if tops else each.path
        below.setdefault(top, []).append(each)
    for top, members in below.items():
        is_top = f"{top}/" in tops
        for each in members if verbose or not is_top else ():
            yield f"ships {shell_word(each.path)}{' ' + short(each.digest) if each.digest else ''}"
        if is_top and not verbose:
            count = sum(each.kind != "directory" for each in members)
            size = _size(sum(each.size for each in members))
            yield f"ships {shell_word(top)}/ ({count} file{'s' * (count != 1)}, {size})"


def _within(path: str, tops: Collection[str]) -> Iterator[str]:
    """Yield the directories, given with a slash at their ends, that a path lies in, outermost first."""
    at = path.find("/")
    while at >= 0:
        if path[: at + 1] in tops:
            yield path[:at]
        at = path.find("/", at + 1)


def _size(size: float) -> str:
    """Return a number of bytes as a person reads it, in decimal units."""
    for unit in ("B", "kB", "MB"):
        if size < 1000:  # noqa: PLR2004 - the step from unit to unit
            return f"{size:.0f} B" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} GB"
