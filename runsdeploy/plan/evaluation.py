"""CONF sections, evaluated: bash runs them in `shell/conf.sh`, this module asks and listens.

Sections that share nothing with the tool but a pipe: one that hangs, kills its shell or prints without
end costs its own script an error, and the rest is evaluated all the same.
"""

from __future__ import annotations

import os
import selectors
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from itertools import chain
from pathlib import Path

from runsdeploy.errors import InputError, Problem
from runsdeploy.plan.bash_errors import KILLED, body_errors, conf_errors, explained
from runsdeploy.plan.conf import Conf, Request, Setting, add_declaration
from runsdeploy.plan.variable import NOWHERE, ROOT, Value, Variable
from runsdeploy.plan.workdir import WorkDirectory, fields, open_work_directory
from runsdeploy.tree.recipe import RESERVED
from runsdeploy.tree.trees import Located, Trees

TIME_LIMIT = 10.0
"""seconds one CONF section may take"""
TALK_LIMIT = 8192
"""bytes of what a section prints that are shown"""


def evaluate(requests: Sequence[Request], trees: Trees, time_limit: float = TIME_LIMIT) -> list[Conf]:
    """Evaluate CONF sections, one result for each request, problems included; raises InputError without bash."""
    results = [Conf() for _ in requests]
    with open_work_directory(trees) as stage:
        asked = [fields(stage, number, request) for number, request in enumerate(requests)]
        done = 0
        while done < len(requests):
            done += _run(stage, asked[done:], requests[done:], results[done:], time_limit)
        for number, (request, result) in enumerate(zip(requests, results, strict=True)):
            talk = _read(stage.root / "talk" / str(number))
            parsed = _read(stage.root / "syntax" / f"{stage.body(request.script)}.talk")
            result.problems = [explained(stage, talk, problem) for problem in result.problems]
            result.problems += [*conf_errors(stage, talk), *body_errors(request.script, parsed)]
            result.messages = _messages(stage, talk, result)
    return results


# --- the bash that evaluates -------------------------------------------------------------------


def _environment(stage: WorkDirectory) -> dict[str, str]:
    kept = {
        name: os.environ[name] for name in ("PATH", "HOME", "USER", "LOGNAME", "TMPDIR", "TZ") if name in os.environ
    }
    return {**kept, "LC_ALL": "C", "RUNS_root": str(stage.root), "RUNS_reserved": RESERVED}


def _run(
    stage: WorkDirectory,
    asked: list[list[bytes]],
    requests: Sequence[Request],
    results: Sequence[Conf],
    time_limit: float,
) -> int:
    """Evaluate requests until the end, or until one takes the evaluator down; return how many were."""
    bash = shutil.which("bash")
    if bash is None:
        raise InputError([Problem(None, "no `bash` on this machine's PATH, needed to read CONF sections")])
    (stage.root / "requests").write_bytes(b"".join(each + b"\0" for each in chain(*asked)))
    started: list[subprocess.Popen[bytes]] = []
    ready = threading.Event()

    def start() -> None:
        try:
            started.append(_start(bash, stage))
        finally:
            ready.set()

    # In a thread: a signal is raised in the main one, and would come between a process and its name. (Not `join`:
    # when a signal ends it, Python 3.12 and earlier take the thread for ended too.)
    starter = threading.Thread(target=start)
    try:
        starter.start()
        ready.wait()
        return _listen(started[0], stage, requests, results, time_limit)
    finally:
        if starter.ident:
            ready.wait()
        for process in started:
            _end(process)


def _start(bash: str, stage: WorkDirectory) -> subprocess.Popen[bytes]:
    # In a session of its own: a section that hangs is killed with all that it started.
    return subprocess.Popen(
        [bash, "--norc", "--noprofile", str(Path(__file__).parents[1] / "shell" / "conf.sh")],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=_environment(stage),
        start_new_session=True,
    )


def _end(process: subprocess.Popen[bytes]) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    if process.stdout:
        process.stdout.close()


def _listen(
    process: subprocess.Popen[bytes],
    stage: WorkDirectory,
    requests: Sequence[Request],
    results: Sequence[Conf],
    limit: float,
) -> int:
    done, finished, section = 0, False, requests[0].script.source
    for record in _records(process, limit):
        if record is None:
            results[done].problems.append(Problem(section.at(1), f"the section was still running after {limit:g} s"))
            return done + 1
        verb, *arguments = record
        if verb == b"old":
            version = arguments[0].decode("ascii", "replace")
            raise InputError([Problem(None, f"bash {version} is too old to read CONF sections, expected 4.2 or later")])
        if verb == b"done":
            if not finished:
                results[done].problems.append(_killed(section, int(arguments[0])))
            done, finished = done + 1, False
            if done == len(requests):
                return done
        elif verb in (b"finish", b"facts"):
            finished = True
        elif verb == b"section":
            section = stage.sources[int(arguments[0])]
            results[done].problems += stage.nuls.get(int(arguments[0]), ())
        if verb not in (b"done", b"finish", b"begin", b"section"):
            _take(stage, requests[done], results[done], verb.decode(), arguments)
    results[done].problems.append(_killed(section, 128 + signal.SIGKILL))
    return done + 1


def _killed(section: Located, status: int) -> Problem:
    """Report a section that ended without saying so; 128 + n is how a shell reports signal n."""
    if status == 128 + signal.SIGXFSZ:
        return Problem(section.at(1), "the section prints without end")
    return Problem(section.at(1), KILLED.format(status))


def _records(process: subprocess.Popen[bytes], limit: float) -> Iterator[list[bytes] | None]:
    """Yield records as they arrive, None if nothing came for so many seconds."""
    assert process.stdout is not None  # noqa: S101 - opened as a pipe above
    buffer, heard = b"", list[bytes]()
    deadline = time.monotonic() + limit
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        while True:
            if not selector.select(max(0.0, deadline - time.monotonic())):
                yield None
                return
            chunk = os.read(process.stdout.fileno(), 65536)
            if not chunk:
                return
            *whole, buffer = (buffer + chunk).split(b"\0")
            heard += whole
            while heard:
                # A section that writes to our descriptor ends the conversation; it is taken for killed.
                if not heard[0].isdigit():
                    return
                if len(heard) <= int(heard[0]):
                    break
                record, heard = heard[1 : int(heard[0]) + 1], heard[int(heard[0]) + 1 :]
                if record[0] in (b"begin", b"done"):
                    deadline = time.monotonic() + limit
                yield record


# --- what the sections say ---------------------------------------------------------------------


def _take(stage: WorkDirectory, request: Request, result: Conf, verb: str, arguments: list[bytes]) -> None:
    """Add one record to the result."""
    root = os.fsencode(stage.root)
    match verb, arguments:
        case "desc", [text]:
            result.description = text.decode("utf-8", "replace")
        case "stray", [name]:
            result.strays.append(name.decode())
        case "value", [name, kind, *values]:
            each = tuple(Value.of(value, root) for value in values)
            result.variables.append(Variable(name.decode(), kind == b"array", each))
        case "set", [name, file, line, kind, *values]:
            each = tuple(Value.of(value, root) for value in values)
            result.settings.append(Setting(name.decode(), kind.decode(), each, stage.position(file, line)))
        case "facts", [file, line]:
            result.needs_facts = stage.position(file, line)
        case "after", [mode, file, line, *words]:
            # Another stage will evaluate these operations.
            words = [word.replace(root, NOWHERE) for word in words]
            position = stage.position(file, line) or request.script.source.at()
            add_declaration(result, os.fsdecode(mode), position, list(map(os.fsdecode, words)))
        case _, [file, line, *words]:
            words = [word.replace(root, ROOT.encode()) for word in words]
            position = stage.position(file, line) or request.script.source.at()
            add_declaration(result, verb, position, list(map(os.fsdecode, words)))


def _messages(stage: WorkDirectory, talk: str, result: Conf) -> str:
    """Return what the sections printed, and our own remark on what they cannot have meant."""
    text = stage.tell(talk)
    for name in result.strays:
        # What only a recipe sets has no place in CONF.
        places = [f"{setting.position}: " for setting in reversed(result.settings) if setting.variable == name]
        text += f"{(places or [''])[0]}`{name}` is assigned again without `var`, and that stays in CONF\n"
    return text


def _read(path: Path) -> str:
    with suppress(FileNotFoundError), path.open("rb") as file:
        return file.read(TALK_LIMIT).decode("utf-8", "replace")
    return ""
