"""Parameters of the runner: the texts of `segment.sh` and of each step's `meta.sh`, assignments that bash reads."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterable, Iterator
from contextlib import suppress

from runsdeploy.events import encode_word
from runsdeploy.plan.plan import Plan, Step
from runsdeploy.plan.variable import Value, Variable, assignment
from runsdeploy.session.segment import Segment
from runsdeploy.session.session import Session

SILENCE = 60.0
"""seconds without output after which a note says that a step still runs"""

OUTPUT_KEPT = 32 << 20
"""bytes that a target keeps of each end of a step's output, for a controller that is slower than the step"""


def segment_parameters(plan: Plan, segment: Segment, session: Session) -> bytes:
    """Return the text of `segment.sh`."""
    return _assignments(
        RUNS_segment_host=plan.host.name,
        RUNS_segment_session=session.identity,
        RUNS_segment_plan=plan.digest,
        RUNS_segment_by=encode_word(session.by),
        RUNS_segment_timeout=str(round(session.timeout * 100)),
        RUNS_segment_patience=str(math.ceil(session.patience)),
        RUNS_segment_wait=str(math.ceil(session.wait)),
        RUNS_segment_detach=yes(session.detached),
        RUNS_segment_output=str(OUTPUT_KEPT),
        RUNS_segment_silence=str(round(SILENCE * 100)),
        RUNS_segment_steps=[str(step.number) for step in segment.steps],
        RUNS_segment_root=yes(needs_root(plan, segment.side)),
        RUNS_segment_keep_going=yes(session.keep_going),
        RUNS_segment_last=yes(segment.last),
        RUNS_segment_returns=segment.returns,
        RUNS_segment_expected_facts=expected_facts_of(plan, segment),
        RUNS_segment_marking=[step.script.name for step in segment.steps if sets_marker(step)],
    ) + end_mark("segment.sh")


def step_parameters(plan: Plan, step: Step, session: Session) -> bytes:
    """Return the text of a step's `meta.sh`."""
    path = script_path(step)
    once = next((flag for flag in ("onchange", "once") if flag in step.flags), "")
    return _assignments(
        RUNS_step_number=str(step.number),
        RUNS_step_script=step.script.name,
        RUNS_step_file=path,
        RUNS_step_folder=os.path.dirname(path),  # noqa: PTH120 - a path of another machine
        RUNS_step_digest=step.digest,
        RUNS_step_root=yes("root" in step.flags),
        RUNS_step_strict=yes("strict" in step.flags),
        RUNS_step_errtrace=_errtrace(plan, step),
        RUNS_step_once=once,
        RUNS_step_origin=_origin(plan, step, session),
        RUNS_step_outs=step.outs,
        RUNS_step_uses=step.uses,
        RUNS_step_refs=_references(step),
    ) + end_mark("meta.sh")


def end_mark(name: str) -> bytes:
    """Return the last line of a file that bash sources: without it, the file was not read, or not to its end."""
    return _assignments(RUNS_end=name)


def step_values(step: Step) -> bytes:
    """Return the text of a step's `values.sh`."""
    return b"".join(map(assignment, step.variables)) + end_mark("values.sh")


def _references(step: Step) -> list[str]:
    """Return the paths of a step's references below the session's directory of files, without those in directories."""
    found: list[str] = []
    for path in sorted(f"{file.path}/" for file in step.files):
        if not found or not path.startswith(found[-1]):
            found.append(path)
    return [path[:-1] for path in found]


def script_path(step: Step) -> str:
    """Return the path of a step's SCRIPT section, below the session's directory of files."""
    return f"tree{step.script.source.tree}/{step.script.source.inside}"


def expected_facts_of(plan: Plan, segment: Segment) -> str:
    """Return the facts that the runner must verify, as one word; later segments rely on a check before, see `run`."""
    return (
        plan.expected_facts.encoded if plan.expected_facts and segment.side == "target" and segment.number == 0 else ""
    )


def needs_root(plan: Plan, side: str) -> bool:
    """Return whether a step of a side runs as root."""
    return any("root" in step.flags and step.side == side for step in plan.steps)


def sets_marker(step: Step) -> bool:
    """Return whether a step may set a marker."""
    return bool(step.flags & {"once", "onchange"}) or b"setdone" in step.script.body


_ERROR_TRAP = re.compile(rb"\bERR\b|\btrap\b[^\n]*\b(?i:err)\b")
_ERRTRACE = re.compile(rb"\bset\s+-\w*E|\berrtrace\b")
_FUNCTION_TRAP = re.compile(rb"\b(RETURN|DEBUG)\b")
"""traps that a function cannot set for its caller, as our `trap` would have to"""
_SOURCE = re.compile(rb"(^|[\s;&|(])(\.|source)[ \t]")
SOURCED = 1 << 20
"""bytes of a referenced file up to which it may be bash that is sourced"""


def _errtrace(plan: Plan, step: Step) -> str:
    """Return how a step's failures are recorded: `yes` by our ERR trap, under errtrace.

    `no` or `own` if the section, or a file that it may source, sets an ERR trap itself; `own` if functions inherit it.
    """
    trap = errtrace = function_trap = False
    for text in _sourced_texts(plan, step):
        trap = trap or (b"trap" in text and bool(_ERROR_TRAP.search(text)))
        errtrace = errtrace or bool(_ERRTRACE.search(text))
        function_trap = function_trap or bool(_FUNCTION_TRAP.search(text))
    if not trap:
        return "yes"
    return "own" if errtrace and not function_trap else "no"


def _sourced_texts(plan: Plan, step: Step) -> Iterator[bytes]:
    """Yield a section and the files that it may source; one at a time, as there may be thousands."""
    yield step.script.body
    yield from (file.content for file in plan.libraries)
    for file in step.files if _SOURCE.search(step.script.body) else ():
        with suppress(OSError):
            if file.kind == "file" and file.size <= SOURCED:
                yield file.source.read_bytes() if file.source else file.content


def yes(condition: bool) -> str:  # noqa: FBT001 - it is the question
    """Return `yes` or `no`, as bash reads it."""
    return "yes" if condition else "no"


def _origin(plan: Plan, step: Step, session: Session) -> str:
    """Return the lines that a marker holds about the origin of its step, besides those that the runner adds."""
    facts = {"plan": plan.digest, "script": step.script.digest, "by": encode_word(session.by)}
    revisions = session.revisions()
    if step.script.source.tree < len(revisions) and (revision := revisions[step.script.source.tree]):
        facts["revision"] = encode_word(revision)
    return "".join(f"{name} {value}\n" for name, value in facts.items())


def _assignments(**values: str | Iterable[str]) -> bytes:
    """Return bash assignments of texts and lists of texts."""
    lines = []
    for name, value in values.items():
        texts = [value] if isinstance(value, str) else list(value)
        each = tuple(Value((text.encode("utf-8", "surrogateescape"),)) for text in texts)
        lines.append(assignment(Variable(name, not isinstance(value, str), each)))
    return b"".join(lines)
