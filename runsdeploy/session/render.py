"""A plan as one bash file that runs without runsdeploy and leaves what a deploy leaves.

The file writes the members of a bundle and starts the same runner, see `shell/render.sh`. The same plan makes the same
bytes: the names of the session are made where the file runs.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator, Sequence

from runsdeploy.errors import Problem
from runsdeploy.plan.files import File, content_file
from runsdeploy.plan.plan import Plan, Step
from runsdeploy.plan.variable import quote, shell_word
from runsdeploy.session.bundle import content_of, keeps_state, members
from runsdeploy.session.parameters import script_path
from runsdeploy.session.program import shell_file
from runsdeploy.session.segment import Segment
from runsdeploy.session.session import Session

RUNTIME = "segment0/run"
"""directory of the programs among the members"""

BY = "rendered"
"""placeholder in markers for the user who will run the file"""


def problems(plan: Plan, *, local_done: bool) -> list[Problem]:
    """Return why a plan cannot be rendered: it has local steps, unless those are `local_done` already."""
    found = []
    target_made: set[str] = set()
    for step in plan.steps:
        if step.side == "target":
            target_made.update(step.outs)
        elif target_made & set(step.uses):
            file = min(target_made & set(step.uses))
            message = f"`{step.script.name}` is local and needs `{file}`, which an earlier step makes on the target"
            found.append(Problem(step.position, message, "deploy it, or leave it out"))
        elif not local_done:
            message = f"`{step.script.name}` is local: the target cannot run it"
            found.append(Problem(step.position, message, "`--run-local` runs it here, now, and includes its files"))
    if not any(step.side == "target" for step in plan.steps):
        found.append(Problem(None, f"nothing of the plan of `{plan.host.name}` runs on the target"))
    return found


def local_segment(plan: Plan) -> Segment | None:
    """Return the local steps of a plan as one segment, with their files for the target; None without local steps."""
    steps = tuple(step for step in plan.steps if step.side == "controller")
    return Segment(0, "controller", steps, (), _files_for_target(plan), last=True) if steps else None


def _files_for_target(plan: Plan) -> tuple[str, ...]:
    makers: dict[str, Step] = {}
    wanted: set[str] = set()
    for step in plan.steps:
        if step.side == "target":
            wanted.update(file for file in step.uses if makers[file].side == "controller")
        makers.update(dict.fromkeys(step.outs, step))
    return tuple(sorted(wanted))


def render(plan: Plan, revisions: Sequence[str] = (), shared: Sequence[File] = ()) -> Iterator[bytes]:
    """Yield the file's bytes; `shared` are files that local steps made.

    Raises Refused if a file changed after the plan was made.
    """
    steps = tuple(step for step in plan.steps if step.side == "target")
    segment = Segment(0, "target", steps, tuple(file.path for file in shared), (), last=True)
    session = Session("", BY, detached=True, revisions=lambda: revisions)
    left = {member.path: member for member in members(plan, segment, session, shared)}
    for name in ("bootstrap.sh", "state.sh", "trust.sh"):
        left[f"{RUNTIME}/{name}"] = content_file(f"{RUNTIME}/{name}", shell_file(name))
    facts_file = plan.expected_facts.file if plan.expected_facts else ""
    yield _head(plan, steps)
    yield shell_file("render.sh")
    yield _line("begin", plan.host.name, "yes" if keeps_state(plan, "target") else "no", facts_file)
    for step in steps:
        script = step.script
        where, user = _comment(str(step.position)), "root" if "root" in step.flags else "the login user"
        yield f"\n# --- step {step.number}: {_comment(script.name)} ({where}), as {user}\n".encode()
        yield _line("step", str(step.number), script.name, script.source.shown, str(script.first_line))
        own = [f"{RUNTIME}/step/{step.number}/{name}.sh" for name in ("values", "meta")]
        own += [f"files/{file.path}" for file in step.files]
        for path in [*own, f"files/{script_path(step)}"]:
            if path in left:
                above = script.first_line - 1 if path == f"files/{script_path(step)}" else 0
                yield _member(left.pop(path), above)
    yield b"\n# --- shared files and the runner: the same in every rendered plan but for libraries\n"
    yield from map(_member, left.values())
    yield b"\nrun\n"


def _head(plan: Plan, steps: Sequence[Step]) -> bytes:
    lines = [
        f"The plan of {plan.host.name}, {plan.digest}, rendered by runsdeploy.",
        "",
        "On that host, as the login user: `bash FILE`. It takes the lock of a deploy and leaves its markers,",
        "so a step that is done does not run again. Exit status 0: all is done, 1: a step failed,",
        "3: the host cannot run it, 4: the host is held. The file has all values and files of the plan, secrets too.",
        "",
        *(f"  {step.number}  {_comment(step.script.name)}  {_comment(step.description)}".rstrip() for step in steps),
    ]
    return b"#!/usr/bin/env bash\n" + "".join(f"# {line}".rstrip() + "\n" for line in lines).encode() + b"\n"


def _comment(text: str) -> str:
    """Return a text as one line of UTF-8."""
    return "".join(each if each.isprintable() else "?" for each in text)


def _line(*words: str) -> bytes:
    return b" ".join([words[0].encode(), *map(_word, words[1:])]) + b"\n"


def _word(text: str) -> bytes:
    return shell_word(text).encode() if text.isprintable() else quote(text.encode("utf-8", "surrogateescape"))


def _member(member: File, above: int = 0) -> bytes:
    """Return the call that writes a file, directory or link; its first `above` lines are left empty."""
    if member.kind == "directory":
        # Its files must be written by any user.
        return _line("folder", f"{member.mode | 0o700:04o}", member.path)
    if member.kind == "link":
        return _line("link", member.target, member.path)
    data = content_of(member)[above:]
    words = ["put", f"{member.mode:04o}", member.path]
    if not _readable(data):
        return _here([*words, str(above), "base64"], base64.encodebytes(data))
    if data and not data.endswith(b"\n"):
        return _here([*words, str(above), "open"], data + b"\n")
    return _here([*words, str(above)] if above else words, data)


def _readable(data: bytes) -> bool:
    """Return whether a here-document and an editor keep a text as it is."""
    try:
        text = data.decode()
    except UnicodeDecodeError:
        return False
    return not re.search("[\x00-\x08\x0b-\x1f\x7f]", text)


def _here(words: Sequence[str], data: bytes) -> bytes:
    end = b"END"
    # A line of the text that equals the delimiter would end the here-document.
    while end in data.split(b"\n"):
        end += b"_"
    return _line(*words)[:-1] + b" <<'" + end + b"'\n" + data + end + b"\n"
