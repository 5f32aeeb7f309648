"""Evaluation of CONF sections: bash runs them in `shell/conf.sh`, and this module reads the declarations.

A section shares only a pipe with runsdeploy. If it hangs, kills its shell or prints without end, its own script has
an error, and the other sections are still evaluated.
"""

from __future__ import annotations

import os
import selectors
import signal
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from itertools import chain
from pathlib import Path

from msgspec import Struct

from runsdeploy.errors import InputError, Problem
from runsdeploy.plan.bash_errors import KILLED, conf_errors, fatal_error, script_errors, unparsed
from runsdeploy.plan.conf import Conf, Request, Setting, add_declaration
from runsdeploy.plan.threads import PAUSE, Progress
from runsdeploy.plan.variable import ROOT, ROOT_PLACEHOLDER, Value, Variable
from runsdeploy.plan.workdir import WorkDirectory, open_work_directory, request_fields
from runsdeploy.transport.local_bash import find_bash
from runsdeploy.tree.recipe import RESERVED
from runsdeploy.tree.trees import Located, Trees

TIME_LIMIT = 10.0
"""seconds that one CONF section may take"""
ENDLESS = "the section prints without end"
UNREAD = "bash could not read the section"
"""messages that are looked for again"""
LARGEST_OUTPUT = 16 << 20
"""bytes of output after which a section is taken for one that prints without end (`ulimit -f` in conf.sh)"""


def evaluate(
    requests: Sequence[Request], trees: Trees, time_limit: float = TIME_LIMIT, progress: Progress | None = None
) -> list[Conf]:
    """Evaluate CONF sections, and return one result for each request, with its problems.

    `time_limit` is in seconds, for each section; `progress` is that of the thread. Raises InputError without a bash
    that is new enough, or if a file of the work directory cannot be used; Stopped if the progress is stopped.
    """
    progress = progress or Progress()
    results = [Conf() for _ in requests]
    with progress.working(), open_work_directory(trees) as workdir:
        encoded = [request_fields(workdir, number, request) for number, request in enumerate(requests)]
        done = 0
        while done < len(requests):
            progress.check()
            done += _run(workdir, encoded[done:], requests[done:], results[done:], time_limit, progress)
        for number, (request, result) in enumerate(zip(requests, results, strict=True)):
            _add_output(workdir, number, request, result)
    return results


def _add_output(workdir: WorkDirectory, number: int, request: Request, result: Conf) -> None:
    """Add what bash said of a request's sections: errors as problems, the rest as messages."""
    body = workdir.add_script(request.script)
    output = _read(workdir, request.script.source, bool(result.problems), "output", str(number))
    # A section that killed all of bash was the last one: its SCRIPT section was not parsed.
    said = _read(workdir, request.script.source, bool(result.problems), "syntax", f"{body}.output")
    result.problems = [fatal_error(workdir, output, problem) for problem in dict.fromkeys(result.problems)]
    unread = [each for each in result.problems if each.message == UNREAD]
    wrong = list(conf_errors(workdir, output))
    if wrong and unread:
        # bash read it, and understood not even its first line.
        result.problems = [each for each in result.problems if each not in unread]
    wrong += script_errors(request.script, said)
    status = workdir.parsed.get(body, 0)
    if status and not wrong and not result.problems:
        wrong.append(unparsed(request.script.source.at(request.script.first_line), status))
    result.problems += wrong
    result.messages = _messages(workdir, output, result)


# --- the bash process --------------------------------------------------------------------------


def _environment(workdir: WorkDirectory) -> dict[str, str]:
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "USER", "LOGNAME", "TZ") if name in os.environ}
    if "TMPDIR" in os.environ:
        # Absolute: a section runs in the directory of its script.
        kept["TMPDIR"] = os.path.abspath(os.environ["TMPDIR"])  # noqa: PTH100 - links stay
    return {**kept, "LC_ALL": "C", "RUNS_root": str(workdir.root), "RUNS_reserved": RESERVED}


def _run(
    workdir: WorkDirectory,
    encoded: list[list[bytes]],
    requests: Sequence[Request],
    results: Sequence[Conf],
    time_limit: float,
    progress: Progress,
) -> int:
    """Evaluate requests until all are done or one ends the bash process; return how many were evaluated."""
    bash = find_bash()
    (workdir.root / "requests").write_bytes(b"".join(each + b"\0" for each in chain(*encoded)))
    started: list[subprocess.Popen[bytes]] = []
    failed: list[OSError] = []
    ready = threading.Event()

    def start() -> None:
        try:
            started.append(_start(bash, workdir))
        except OSError as error:
            failed.append(error)
        finally:
            ready.set()

    # In a thread: Python raises a signal in the main thread, where it could come after the process has started and
    # before its name is stored. (Not `join`: if a signal ends it, Python 3.12 and earlier take the thread for ended.)
    starter = threading.Thread(target=start)
    try:
        starter.start()
        ready.wait()
        if not started:
            raise failed[0]
        return _read_results(started[0], workdir, requests, results, time_limit, progress)
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
    progress: Progress,
) -> int:
    """Add the records that arrive to the results; return how many requests are done."""
    reader = _Reader(workdir, requests, results, progress, requests[0].script.source)
    for record in _records(process, limit, progress):
        if record is None:
            reader.add_problem(f"the section was still running after {limit:g} s")
            return reader.done + 1
        reader.add(record[0], record[1:])
        if reader.done == len(requests):
            return reader.done
    if not workdir.root.is_dir():
        raise InputError([_lost(workdir, workdir.root, reader.section)])
    results[reader.done].problems.append(_killed(reader.section, _status(process)))
    return reader.done + 1


class _Reader(Struct):
    """Reads the records of one bash, and adds them to the results of its requests."""

    workdir: WorkDirectory
    requests: Sequence[Request]
    results: Sequence[Conf]
    progress: Progress
    section: Located
    """the one that is evaluated"""
    done: int = 0
    """number of requests that are"""
    finished: bool = False
    """whether the request's sections ended regularly"""
    parsing: bool = False
    """whether the end of the subshell is that of the parser"""

    def add_problem(self, message: str) -> None:
        self.results[self.done].problems.append(Problem(self.section.at(1), message))

    def add(self, verb: bytes, arguments: list[bytes]) -> None:
        """Add one record; raises InputError if no section can be evaluated here."""
        match verb, arguments:
            case ((b"begin" | b"finish" | b"parse"), []):
                self.finished, self.parsing = verb != b"begin", verb == b"parse"
            case b"section", [number]:
                self.section = self.workdir.sources[int(number)]
                self.progress.section = self.section.shown
                self.results[self.done].problems += self.workdir.unreadable.get(int(number), ())
            case b"unread", [_]:
                self.add_problem(UNREAD)
            case b"lost", [path]:
                problem = _lost(self.workdir, Path(os.fsdecode(path)), self.section)
                if problem.message != ENDLESS:
                    raise InputError([problem])
                self.results[self.done].problems.append(problem)
            case b"parsed", [status]:
                self._add_parsed(int(status))
            case b"done", [status]:
                self._end(int(status))
            case _:
                self.finished = self.finished or verb == b"facts"
                request, result = self.requests[self.done], self.results[self.done]
                _add_record(self.workdir, request, result, verb.decode(), arguments)

    def _add_parsed(self, status: int) -> None:
        self.workdir.parsed[self.workdir.add_script(self.requests[self.done].script)] = status

    def _end(self, status: int) -> None:
        if not self.finished:
            self.results[self.done].problems.append(_killed(self.section, status))
        if self.parsing:
            self._add_parsed(status)
        self.done, self.finished, self.parsing = self.done + 1, False, False


def _status(process: subprocess.Popen[bytes]) -> int:
    """Return the status of a bash that closed its output, as a shell reports it; one that still runs is killed."""
    try:
        status = process.wait(PAUSE)
    except subprocess.TimeoutExpired:
        return 128 + signal.SIGKILL
    return status if status > 0 else 128 - status


def _lost(workdir: WorkDirectory, path: Path, section: Located) -> Problem:
    """Return the problem of a file of the work directory that bash could not use, with the reason."""
    at = section.at(1)
    try:
        if path.stat().st_size >= LARGEST_OUTPUT:
            return Problem(at, ENDLESS)
        if path.is_file():
            with path.open("ab") as file:
                file.write(b"\0")
        why = "it cannot be used"
    except OSError as error:
        why = (error.strerror or str(error)).lower()
    if not workdir.root.is_dir():
        path, why = workdir.root, "it was removed meanwhile"
    message = f"the section cannot be evaluated: `{path}`: {why}"
    return Problem(at, message, "name another directory by TMPDIR, e.g. `TMPDIR=/tmp`")


def _killed(section: Located, status: int) -> Problem:
    """Return the problem of a section that did not end regularly; a shell reports signal n as status 128 + n."""
    if status == 128 + signal.SIGXFSZ:
        return Problem(section.at(1), ENDLESS)
    return Problem(section.at(1), KILLED.format(status))


def _records(process: subprocess.Popen[bytes], limit: float, progress: Progress) -> Iterator[list[bytes] | None]:
    """Yield records as they arrive; yield None and stop if a section takes longer than `limit` seconds.

    Raises Stopped.
    """
    assert process.stdout is not None  # noqa: S101 - opened as a pipe above
    # The pieces of a field that has not ended, and fields of a record that has not: a value may have megabytes.
    pieces, received, at = list[bytes](), list[bytes](), 0
    deadline = time.monotonic() + limit
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        while True:
            progress.check()
            left = deadline - time.monotonic()
            if not selector.select(max(0.0, min(left, PAUSE))):
                if left <= PAUSE:
                    yield None
                    return
                continue
            chunk = os.read(process.stdout.fileno(), 65536)
            if not chunk:
                return
            first, *rest = chunk.split(b"\0")
            pieces.append(first)
            if rest:
                received += [b"".join(pieces), *rest[:-1]]
                pieces = rest[-1:]
            while at < len(received):
                # A section that writes to our descriptor breaks the format; it is reported as killed.
                if not received[at].isdigit():
                    return
                end = at + int(received[at]) + 1
                if len(received) < end:
                    break
                record, at = received[at + 1 : end], end
                if record[0] in (b"begin", b"done"):
                    deadline = time.monotonic() + limit
                yield record
            del received[:at]
            at = 0


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


def _read(workdir: WorkDirectory, source: Located, may_lack: bool, *inside: str) -> str:  # noqa: FBT001 - local
    """Return the beginning of an output; raises InputError if there is none, unless it may lack."""
    try:
        return workdir.read(*inside)
    except OSError:
        if may_lack and workdir.root.is_dir():
            return ""
        raise InputError([_lost(workdir, workdir.root.joinpath(*inside), source)]) from None
