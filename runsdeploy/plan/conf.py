"""CONF sections, evaluated: bash runs them in `shell/conf.sh`, this module asks and listens.

Sections that share nothing with the tool but a pipe: one that hangs, kills its shell or prints without
end costs its own script an error, and the rest is evaluated all the same.
"""

from __future__ import annotations

import codecs
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

from msgspec import Struct, field
from msgspec.structs import replace

from runsdeploy.errors import InputError, Position, Problem, did_you_mean
from runsdeploy.plan.bash_errors import KILLED, body_errors, conf_errors, explained
from runsdeploy.plan.variable import ROOT, Value, Variable
from runsdeploy.plan.workdir import NOWHERE, Request, WorkDirectory, fields, open_work_directory
from runsdeploy.tree.recipe import RESERVED, Operation, Word, parse_operations
from runsdeploy.tree.trees import Located, Trees

FLAGS = ("root", "local", "once", "onchange", "strict")
FUNCTIONS = ("desc", "conf", "after", "var", "out", "ref", "sysinfos")
BELOW = (
    *("shouldrun", "setdone", "resetdone", "urequire"),
    *("etitle", "estep", "einfo", "ewarn", "eerror", "die", "is_yes", "is_no", "quietly"),
)
"""what SCRIPT sections call: functions that are always loaded there"""
TIME_LIMIT = 10.0
"""seconds one CONF section may take"""
LONG_WORD = 60
"""characters of a command that was not found that are told: it may be a text whose quote is misplaced"""
TALK_LIMIT = 8192
"""bytes of what a section prints that are shown"""


class After(Struct, frozen=True):
    """One script named by `after`."""

    mode: str
    """`order`, `once` (-r) or `always` (-rr)"""
    script: str
    operations: tuple[Operation, ...]
    position: Position


class Out(Struct, frozen=True):
    """One file promised by `out`."""

    variable: str
    file: str
    """path in the shared space"""
    position: Position


class Ref(Struct, frozen=True):
    """One file asked for by `ref`."""

    variable: str
    file: str
    """as written"""
    how: str
    """`tree`, `shared` or `missing`"""
    found: str
    """path below the session's directory of files, `tree0/scripts/x` or `shared/x`"""
    required: bool
    template: bool
    position: Position


class Setting(Struct, frozen=True):
    """One change of a variable by a `runs.conf`, `sysinfos.conf` or CONF section, in order."""

    variable: str
    kind: str
    values: tuple[Value, ...]
    position: Position | None
    """None for facts found on the target"""


class Conf(Struct):
    """What a script declares, for one host and one set of operations."""

    description: str = ""
    flags: dict[str, Position] = field(default_factory=dict)
    afters: list[After] = field(default_factory=list)
    outs: list[Out] = field(default_factory=list)
    refs: list[Ref] = field(default_factory=list)
    settings: list[Setting] = field(default_factory=list)
    variables: list[Variable] = field(default_factory=list)
    messages: str = ""
    """what the section printed"""
    missing: list[tuple[str, Position]] = field(default_factory=list)
    """commands that were not found, those that were tested for failure included"""
    strays: list[str] = field(default_factory=list)
    """variables that were assigned without `var` after a `var`"""
    needs_facts: Position | None = None
    """set if the section asked for facts that nobody knows yet; then the rest is incomplete"""
    problems: list[Problem] = field(default_factory=list)


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
            _take_placed(result, os.fsdecode(mode), position, list(map(os.fsdecode, words)))
        case _, [file, line, *words]:
            words = [word.replace(root, ROOT.encode()) for word in words]
            position = stage.position(file, line) or request.script.source.at()
            _take_placed(result, verb, position, list(map(os.fsdecode, words)))


def _take_placed(result: Conf, verb: str, position: Position, words: list[str]) -> None:
    """Add what a line declares, or what is wrong with it."""
    match verb, words:
        case "problem", [message]:
            result.problems.append(Problem(position, message))
        case "missing", [word]:
            result.missing.append((word, position))
            if did_you_mean(word, FUNCTIONS) or word in BELOW:
                _take_unknown(result, word, position)
        case "unknown", [command]:
            # Told once more for each function and sourced file that it stands in.
            word, where = result.missing[-1] if result.missing else (command.split()[0], position)
            _take_unknown(result, word, where)
        case "flag", [flag]:
            result.flags.setdefault(flag, position)
            if flag not in FLAGS:
                expected = ", ".join(f"`{each}`" for each in FLAGS)
                message = f"unknown flag `{flag}` of `conf`, expected {expected}"
                result.problems.append(Problem(position, message, did_you_mean(flag, FLAGS)))
        case (("order" | "once" | "always"), [script, *rest]):
            operations, wrong = parse_operations(Word(word, position) for word in rest)
            result.problems += [replace(each, message=each.message.replace(NOWHERE.decode(), ROOT)) for each in wrong]
            result.afters.append(After(verb, script, tuple(operations), position))
        case "out", [name, file]:
            result.outs.append(Out(name, file, position))
        case "ref", [name, wanted, how, found, required, template]:
            result.refs.append(Ref(name, wanted, how, found, required == "yes", template == "yes", position))


def _take_unknown(result: Conf, word: str, position: Position) -> None:
    if os.fsencode(word).startswith(codecs.BOM_UTF8):
        hint = rf"`sed -i '1s/^\xef\xbb\xbf//' {position.file}`"
        problem = Problem(position, "byte order mark, expected plain UTF-8", hint)
        result.problems += [] if problem in result.problems else [problem]
        return
    word = word if len(word) <= LONG_WORD else f"{word[:LONG_WORD]}…"
    hint = "it belongs below `script:`" if word in BELOW else did_you_mean(word, FUNCTIONS)
    problem = Problem(position, f"unknown command `{word}` in a CONF section", hint)
    if problem not in result.problems:
        result.problems.append(problem)


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
