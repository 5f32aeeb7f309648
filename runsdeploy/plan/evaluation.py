"""Evaluation of CONF sections: bash runs them in `shell/conf.sh`, and this module reads the declarations.

A section shares only a pipe with runsdeploy. If it hangs, kills its shell or prints without end, its own script has
an error, and the other sections are still evaluated.
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
from runsdeploy.plan.bash_errors import KILLED, conf_errors, fatal_error, script_errors
from runsdeploy.plan.conf import Conf, Request, Setting, add_declaration
from runsdeploy.plan.variable import ROOT, ROOT_PLACEHOLDER, Value, Variable
from runsdeploy.plan.workdir import WorkDirectory, open_work_directory, request_fields
from runsdeploy.tree.recipe import RESERVED
from runsdeploy.tree.trees import Located, Trees

TIME_LIMIT = 10.0
"""seconds that one CONF section may take"""
OUTPUT_LIMIT = 8192
"""bytes of a section's output that are shown"""


def evaluate(requests: Sequence[Request], trees: Trees, time_limit: float = TIME_LIMIT) -> list[Conf]:
    """Evaluate CONF sections, and return one result for each request, with its problems.

    `time_limit` is in seconds, for each section. Raises InputError without bash.
    """
    results = [Conf() for _ in requests]
    with open_work_directory(trees) as workdir:
        encoded = [request_fields(workdir, number, request) for number, request in enumerate(requests)]
        done = 0
        while done < len(requests):
            done += _run(workdir, encoded[done:], requests[done:], results[done:], time_limit)
        for number, (request, result) in enumerate(zip(requests, results, strict=True)):
            output = _read(workdir.root / "output" / str(number))
            parsed = _read(workdir.root / "syntax" / f"{workdir.add_script(request.script)}.output")
            result.problems = [fatal_error(workdir, output, problem) for problem in result.problems]
            result.problems += [*conf_errors(workdir, output), *script_errors(request.script, parsed)]
            result.messages = _messages(workdir, output, result)
    return results


# --- the bash process --------------------------------------------------------------------------


def _environment(workdir: WorkDirectory) -> dict[str, str]:
    kept = {
        name: os.environ[name] for name in ("PATH", "HOME", "USER", "LOGNAME", "TMPDIR", "TZ") if name in os.environ
    }
    return {**kept, "LC_ALL": "C", "RUNS_root": str(workdir.root), "RUNS_reserved": RESERVED}


def _run(
    workdir: WorkDirectory,
    encoded: list[list[bytes]],
    requests: Sequence[Request],
    results: Sequence[Conf],
    time_limit: float,
) -> int:
    """Evaluate requests until all are done or one ends the bash process; return how many were evaluated."""
    bash = shutil.which("bash")
    if bash is None:
        raise InputError([Problem(None, "no `bash` on this machine's PATH, needed to read CONF sections")])
    (workdir.root / "requests").write_bytes(b"".join(each + b"\0" for each in chain(*encoded)))
    started: list[subprocess.Popen[bytes]] = []
    ready = threading.Event()

    def start() -> None:
        try:
            started.append(_start(bash, workdir))
        finally:
            ready.set()

    # In a thread: Python raises a signal in the main thread, where it could come after the process has started and
    # before its name is stored. (Not `join`: if a signal ends it, Python 3.12 and earlier take the thread for ended.)
    starter = threading.Thread(target=start)
    try:
        starter.start()
        ready.wait()
        return _read_results(started[0], workdir, requests, results, time_limit)
    finally:
        if starter.ident:
            ready.wait()
        for process in started:
            _kill(process)


def _start(bash: str, workdir: WorkDirectory) -> subprocess.Popen[bytes]:
    # In a process group of its own: a section that hangs is killed together with all that it started.
    return subprocess.Popen(
        [bash, "--norc", "--noprofile", str(Path(__file__).parents[1] / "shell" / "conf.sh")],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=_environment(workdir),
        start_new_session=True,
    )


def _kill(process: subprocess.Popen[bytes]) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    if process.stdout:
        process.stdout.close()


def _read_results(
    process: subprocess.Popen[bytes],
    workdir: WorkDirectory,
    requests: Sequence[Request],
    results: Sequence[Conf],
    limit: float,
) -> int:
    """Add the records that arrive to the results; return how many requests are done."""
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
            section = workdir.sources[int(arguments[0])]
            results[done].problems += workdir.unreadable.get(int(arguments[0]), ())
        if verb not in (b"done", b"finish", b"begin", b"section"):
            _add_record(workdir, requests[done], results[done], verb.decode(), arguments)
    results[done].problems.append(_killed(section, 128 + signal.SIGKILL))
    return done + 1


def _killed(section: Located, status: int) -> Problem:
    """Return the problem of a section that did not end regularly; a shell reports signal n as status 128 + n."""
    if status == 128 + signal.SIGXFSZ:
        return Problem(section.at(1), "the section prints without end")
    return Problem(section.at(1), KILLED.format(status))


def _records(process: subprocess.Popen[bytes], limit: float) -> Iterator[list[bytes] | None]:
    """Yield records as they arrive; yield None and stop if a section takes longer than `limit` seconds."""
    assert process.stdout is not None  # noqa: S101 - opened as a pipe above
    buffer, received = b"", list[bytes]()
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
            received += whole
            while received:
                # A section that writes to our descriptor breaks the format; it is reported as killed.
                if not received[0].isdigit():
                    return
                if len(received) <= int(received[0]):
                    break
                record, received = received[1 : int(received[0]) + 1], received[int(received[0]) + 1 :]
                if record[0] in (b"begin", b"done"):
                    deadline = time.monotonic() + limit
                yield record


# --- records -----------------------------------------------------------------------------------


def _add_record(workdir: WorkDirectory, request: Request, result: Conf, verb: str, arguments: list[bytes]) -> None:
    """Add one record to the result, with paths of the work directory translated."""
    root = os.fsencode(workdir.root)
    match verb, arguments:
        case "desc", [text]:
            result.description = text.decode("utf-8", "replace")
        case "plain", [name]:
            result.plain_assignments.append(name.decode())
        case "value", [name, kind, *values]:
            each = tuple(Value.of(value, root) for value in values)
            result.variables.append(Variable(name.decode(), kind == b"array", each))
        case "set", [name, file, line, kind, *values]:
            each = tuple(Value.of(value, root) for value in values)
            position = workdir.source_position(file, line)
            result.settings.append(Setting(name.decode(), kind.decode(), each, position))
        case "facts", [file, line]:
            result.needs_facts = workdir.source_position(file, line)
        case "after", [mode, file, line, *words]:
            # Another work directory evaluates these operations.
            words = [word.replace(root, ROOT_PLACEHOLDER) for word in words]
            at = workdir.source_position(file, line) or request.script.source.at()
            add_declaration(result, os.fsdecode(mode), at, list(map(os.fsdecode, words)))
        case _, [file, line, *words]:
            words = [word.replace(root, ROOT.encode()) for word in words]
            at = workdir.source_position(file, line) or request.script.source.at()
            add_declaration(result, verb, at, list(map(os.fsdecode, words)))


def _messages(workdir: WorkDirectory, output: str, result: Conf) -> str:
    """Return what the sections printed, and a remark on each assignment without `var`."""
    text = workdir.with_operator_paths(output)
    for name in result.plain_assignments:
        # A variable that only a recipe sets has no position in CONF.
        places = [f"{setting.position}: " for setting in reversed(result.settings) if setting.variable == name]
        text += f"{(places or [''])[0]}`{name}` is assigned again without `var`, and that stays in CONF\n"
    return text


def _read(path: Path) -> str:
    with suppress(FileNotFoundError), path.open("rb") as file:
        return file.read(OUTPUT_LIMIT).decode("utf-8", "replace")
    return ""
