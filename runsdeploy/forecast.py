"""Forecasts: what a deploy would do, told from the markers of the host without running anything.

`would-run` and `already-done` are said only where the section leaves no other way; everything else is
`maybe`, with the reason. A guard is a call of `shouldrun`. It is certain to be asked if only harmless lines
stand above it: then what it answers decides.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from runsdeploy.marker import Markers
from runsdeploy.plan import Plan, Step

RUN, DONE, MAYBE = "would-run", "already-done", "maybe"

_GUARD = re.compile(r"(?<![\w-])shouldrun(?![\w-])([^;&|)\n]*)(.*)")
_HARMLESS = re.compile(
    r"\s*(#.*|urequire [\w ./+-]+|(etitle|estep|einfo) [^$`;&|<>()]*"
    r"|[A-Za-z_]\w*=([^$`;&|<>()'\"\\ ]*|'[^']*'|\"[^\"$`\\]*\")|set -[a-z]+( pipefail)?)?\s*\Z"
)
_LEAVES = re.compile(r"\s*\|\|\s*(exit( 0| \$\?)?|\{[^|&]*;\s*exit( 0)?;?\s*\})\s*(#.*)?\Z")
_WORD = re.compile(
    r"""\s*(?:'([^']*)'|"((?:[^"\\$`]|\$\w+|\$\{\w+\})*)"|((?:[\w./:@%+=,-]|\$\w+|\$\{\w+\})+))(?=\s|\Z)"""
)
_VARIABLE = re.compile(r"\$\{?(\w+)\}?")


@dataclass(frozen=True)
class _Guard:
    """One call of `shouldrun` in a section."""

    runs: bool | None
    """what it answers; None if its arguments are known only when it runs"""
    line: int
    certain: bool
    """whether it is asked in any case"""
    otherwise: str
    """what a "no" does: `leaves` the section, `goes on`, or `unknown`"""


def forecast(plan: Plan, target: Markers, controller: Markers) -> dict[int, tuple[str, str]]:
    """Return outcome and reason for every step by its number."""
    said: dict[int, tuple[str, str]] = {}
    changing: set[tuple[str, str]] = set()
    for step in plan.steps:
        markers = controller if step.side == "controller" else target
        owner = "root" if "root" in step.flags and markers.account != "root" else "own"
        place = (step.side, step.script.name)
        outcome, reason = _of_step(step, markers, owner)
        if owner == "root" and markers.account == "user":
            outcome, reason = MAYBE, "root's markers cannot be read: `sudo -n` does not work there"
        if place in changing and _asks(step):
            outcome, reason = MAYBE, "the same script runs before, and may change its markers"
        said[step.number] = outcome, reason
        if outcome != DONE:
            changing.add(place)
    return said


def _asks(step: Step) -> bool:
    return bool(step.flags & {"once", "onchange"} or _GUARD.search(_text(step)))


def _text(step: Step) -> str:
    return step.script.body.decode("utf-8", "surrogateescape")


def _of_step(step: Step, markers: Markers, owner: str) -> tuple[str, str]:
    name = step.script.name.encode("utf-8", "surrogateescape")
    if "onchange" in step.flags:
        if step.uses:
            return MAYBE, f"runs if `{step.uses[0]}`, made by an earlier step, has changed"
        if not markers.should_run(owner, name, b"onchange", step.digest.encode()):
            return DONE, "done with the same script, variables and files"
        return RUN, "never done" if markers.should_run(
            owner, name, b"onchange", None
        ) else "has changed since it was done"
    if "once" in step.flags:
        return (RUN, "never done") if markers.should_run(owner, name, b"", None) else (DONE, "done before")
    if step.libraries:
        return MAYBE, f"what library `{step.libraries[0]}` asks is known only when it runs"
    return _judge(list(_guards(step, markers, owner)), only_guarded=_only_guarded(_text(step)))


def _judge(guards: list[_Guard], *, only_guarded: bool) -> tuple[str, str]:  # noqa: PLR0911 - one line for each answer
    """Say what a section with these guards does."""
    if not guards:
        return RUN, "runs every time: it asks for no marker"
    first = guards[0]
    unknown = next((guard for guard in guards if guard.runs is None), None)
    if first.certain and first.runs:
        return RUN, f"line {first.line} finds no marker"
    if first.certain and first.runs is False and first.otherwise == "leaves":
        return DONE, f"line {first.line} finds its marker"
    if first.runs is False and first.otherwise == "unknown":
        return MAYBE, f"what line {first.line} does when it finds its marker is known only when it runs"
    if unknown:
        return MAYBE, f"line {unknown.line} asks with a value known only when it runs"
    if all(guard.runs for guard in guards):
        return RUN, "no marker is set"
    if only_guarded and all(guard.runs is False and guard.otherwise != "unknown" for guard in guards):
        return DONE, "all markers are set"
    return MAYBE, "which markers it asks for is known only when it runs"


def _guards(step: Step, markers: Markers, owner: str) -> Iterator[_Guard]:
    harmless = True
    assigned: set[str] = set()
    touched: set[bytes | None] = set()
    name = step.script.name.encode("utf-8", "surrogateescape")
    for number, line in enumerate(_text(step).split("\n"), 1):
        if line.lstrip().startswith("#"):
            continue
        found = _GUARD.search(line)
        if found:
            words = _words(found[1], step, assigned)
            runs = None
            if words is not None and not touched & {None, words[0] if words else b""}:
                subsystem, value = (words[0] if words else b""), (words[1] if len(words) > 1 else None)
                runs = markers.should_run(owner, name, subsystem, value)
            before = line[: found.start()]
            certain = harmless and bool(re.fullmatch(r"(if |if ! |! )?", before))
            yield _Guard(runs, number, certain, _otherwise(before, found[2]))
        touched.update(_touched(line, step, assigned))
        harmless = harmless and bool(_HARMLESS.match(line))
        assigned.update(re.findall(r"\b([A-Za-z_]\w*)\+?=", line))
        assigned.update(re.findall(r"\b(?:read|for|unset|declare|local|mapfile|readarray|printf -v)\s[^;|&]*", line))


_OPENS = re.compile(r"(if shouldrun\b[^;&|]*;\s*then|shouldrun\b[^;&|]*&&\s*\{)(.*)\Z")
_ONE_LINE = re.compile(r"shouldrun\b[^;&|]*&&[^|;&{(]*\Z")
_UNLESS = re.compile(r"\s*;\s*then\s+exit( 0)?\s*;\s*fi\s*\Z")


def _only_guarded(text: str) -> bool:
    """Say whether nothing but harmless lines stands outside blocks that a guard opens."""
    closing = ""
    for line in text.split("\n"):
        if closing:
            closing = "" if line.rstrip() == closing else closing
            if re.match(r"\s*(else|elif)\b", line):
                return False
            continue
        opened = _OPENS.match(line)
        if opened:
            end = "fi" if opened[1].startswith("if") else "}"
            closing = "" if opened[2].rstrip().endswith(f"; {end}") else end
            if re.search(r"\b(else|elif)\b", opened[2]):
                return False
        elif not _HARMLESS.match(line) and not _ONE_LINE.match(line):
            return False
    return not closing


def _otherwise(before: str, behind: str) -> str:
    """Say what a guard's "no" does, by what stands around it on its line."""
    if before == "if ! ":
        return "leaves" if _UNLESS.match(behind) else "unknown"
    if before or not behind.lstrip().startswith("||"):
        return "goes on"
    return "leaves" if _LEAVES.match(behind) else "unknown"


def _touched(line: str, step: Step, assigned: set[str]) -> Iterator[bytes | None]:
    """Yield the subsystems whose markers a line may set or take back; None for any."""
    for verb, arguments in re.findall(r"\b(setdone|resetdone)(?![\w-])([^;&|)}\n]*)", line):
        words = _words(arguments, step, assigned)
        yield None if words is None or (verb == "resetdone" and not words) else words[0] if words else b""


def _words(text: str, step: Step, assigned: set[str]) -> list[bytes] | None:
    """Return the arguments of a guard; None if they cannot be told."""
    known = {
        variable.name: variable.values[0].literal
        for variable in step.variables
        if not variable.array
        and variable.name not in assigned
        and not any(variable.name in each.split() for each in assigned)
    }
    known["RUNS_DIGEST"] = None if step.uses else step.digest.encode()
    known["RUNS_SCRIPT"] = step.script.name.encode("utf-8", "surrogateescape")
    words: list[bytes] = []
    at, text = 0, text.rstrip()
    text = re.sub(r"\s+then$", "", text)
    while at < len(text):
        found = _WORD.match(text, at)
        if not found:
            return None
        at = found.end()
        literal = found[1]
        part = literal if literal is not None else found[2] if found[2] is not None else found[3]
        value = part.encode("utf-8", "surrogateescape") if literal is not None else _expand(part, known)
        # Unquoted, a value could become several words, or none.
        if value is None or (found[3] and "$" in found[3] and not re.fullmatch(rb"[\w./:@%+=,-]+", value)):
            return None
        words.append(value)
    return words


def _expand(text: str, known: dict[str, bytes | None]) -> bytes | None:
    parts = _VARIABLE.split(text)
    values = [known.get(part) if odd % 2 else part.encode("utf-8", "surrogateescape") for odd, part in enumerate(parts)]
    return b"".join(value for value in values if value is not None) if None not in values else None
