"""`render`: a plan as one bash file, for a host that cannot be reached."""

from __future__ import annotations

import hashlib
import os
import sys
import tempfile
from pathlib import Path

from runsdeploy import exit_status
from runsdeploy.commands.arguments import Arguments
from runsdeploy.commands.inputs import show_unread, work_of
from runsdeploy.commands.plans import plans_of
from runsdeploy.errors import InputError, Problem, Refused
from runsdeploy.events import Finished
from runsdeploy.output import console, json
from runsdeploy.output.plans import show_messages
from runsdeploy.output.terminal import Writer, printable, write_bytes
from runsdeploy.plan.files import File, content_file
from runsdeploy.plan.plan import Plan
from runsdeploy.session.bundle import content_of
from runsdeploy.session.render import local_segment, problems, render
from runsdeploy.session.report import Fold
from runsdeploy.session.run import Run
from runsdeploy.session.session import new_session
from runsdeploy.temporary import make_directory
from runsdeploy.transport.local import LocalTransport
from runsdeploy.tree import revision


def write_plan(arguments: Arguments) -> int:
    """Write the plan of one host as a bash file."""
    work = work_of(arguments)
    if len(work.hosts) > 1:
        raise InputError([Problem(None, f"`render` takes one host, not {len(work.hosts)}")])
    target = Path(arguments.output) if arguments.output not in ("", None, "-") else None
    if target and not target.parent.is_dir():
        raise InputError([Problem(None, f"no directory `{target.parent}` to write `{target.name}` to")])
    if target and target.is_dir():
        inside = target / f"{work.hosts[0].name}.sh"
        raise InputError([Problem(None, f"`{target}` is a directory, expected a file", f"e.g. `--output {inside}`")])
    revisions = revision.look_up(work.trees.roots, work.trees.trust)
    plans = plans_of(arguments, work).plans
    show_unread(work, plans)
    plan = plans[0]
    wrong = problems(plan, local_done=arguments.run_local)
    if wrong:
        raise InputError(wrong)
    show_messages(plan)
    shared, status = _run_local(plan) if arguments.run_local else ([], exit_status.OK)
    if status:
        if arguments.format != "text":
            json.write({"schema": json.SCHEMA, "exit_status": status, "hosts": []})
        return status
    text = b"".join(render(plan, revisions(), shared))
    if target:
        _write(target, text)
    if arguments.format != "text":
        about = {"host": plan.host.name, "plan": plan.digest, "sha256": hashlib.sha256(text).hexdigest()}
        place = {"file": str(target)} if target else {"text": text.decode()}
        json.write({"schema": json.SCHEMA, "exit_status": 0, "hosts": [about | place]})
    elif target:
        Writer(sys.stderr).line(f"run it there with `bash {printable(target.name)}`")
    else:
        write_bytes(text)
    return 0


def _run_local(plan: Plan) -> tuple[list[File], int]:
    """Run the local steps as a deploy does; return the files that remote steps need of them, and an exit status."""
    segment = local_segment(plan)
    if segment is None:
        return [], 0
    with make_directory("runsdeploy-render-") as place:
        run = Run(plan, new_session(), LocalTransport, segments=[segment], place=place)
        if not _succeeds(run):
            return [], exit_status.FAILED
        missing = [name for name in segment.returns if name not in run.received]
        if missing:
            raise Refused(f"`{missing[0]}`, declared by `out`, does not exist: the script that made it removed it")
        return [content_file(file.path, content_of(file), file.mode) for file in run.received.values()], exit_status.OK


def _succeeds(run: Run) -> bool:
    """Run the segments and show them; return whether they ended well."""
    plan, ended = run.plan, ""
    fold, listener = Fold(plan), console.Console([plan.host.name])
    # stdout is for the rendered plan.
    listener.out = listener.talk
    for event in run.events():
        fold.add(event)
        listener.event(plan, event, fold)
        if isinstance(event, Finished):
            ended = event.outcome
    if ended != "ok":
        listener.end(fold.close(0.0))
    return ended == "ok"


def _write(target: Path, text: bytes) -> None:
    """Write a file atomically, readable by its owner only: it may hold secrets."""
    with tempfile.NamedTemporaryFile(dir=target.parent, prefix=".tmp.", delete=False) as file:
        try:
            file.write(text)
            file.flush()
            os.fchmod(file.fileno(), 0o600)
            os.fsync(file.fileno())
            Path(file.name).replace(target)
        except BaseException:
            Path(file.name).unlink()
            raise
