"""CONF sections, evaluated: bash runs them in `shell/conf.sh`, this module asks and listens.

The sections run in a private directory in which every tree is a link, `tree0`, `tree1`, and the
shared space a place beside them. Its random path stands for the session's directory of files: it is
readable here, so that CONF can look into what it refers to, and found again in the values.
"""

from __future__ import annotations

import os
import re
import secrets
import selectors
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from importlib.resources import files
from itertools import chain
from pathlib import Path

from runsdeploy.errors import InputError, Position, Problem, did_you_mean
from runsdeploy.recipe import RESERVED, Operation, Word, parse_operations
from runsdeploy.script import Script
from runsdeploy.tree import Host, Located, Trees
from runsdeploy.variable import Value, Variable

FLAGS = ("root", "local", "once", "onchange", "strict")
FUNCTIONS = ("desc", "conf", "after", "var", "out", "ref", "sysinfos")
TIME_LIMIT = 10.0
"""seconds one CONF section may take"""
TALK_LIMIT = 8192
"""bytes of what a section prints that are shown"""


@dataclass(frozen=True)
class After:
    """One script named by `after`."""

    mode: str
    """`order`, `once` (-r) or `always` (-rr)"""
    script: str
    operations: tuple[Operation, ...]
    position: Position


@dataclass(frozen=True)
class Out:
    """One file promised by `out`."""

    variable: str
    file: str
    """path in the shared space"""
    position: Position


@dataclass(frozen=True)
class Ref:
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


@dataclass(frozen=True)
class Setting:
    """One change of a variable by a `runs.conf`, `sysinfos.conf` or CONF section, in order."""

    variable: str
    kind: str
    values: tuple[Value, ...]
    position: Position | None
    """None for facts found on the target"""


@dataclass(frozen=True)
class Request:
    """One script to evaluate for one host."""

    script: Script
    host: Host | None
    """None when a script is only described: facts are unknown then, and that is no error"""
    operations: tuple[Operation, ...] = ()
    facts: tuple[Operation, ...] = ()
    """facts found on the target, where no sysinfos.conf promises any"""
    shared: tuple[str, ...] = ()
    """files that earlier steps put into the shared space"""
    key: str = "0"
    """names the directory of its rendered templates"""


@dataclass
class Conf:
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
    strays: list[str] = field(default_factory=list)
    """variables that were assigned without `var` after a `var`"""
    needs_facts: Position | None = None
    """set if the section asked for facts that nobody knows yet; then the rest is incomplete"""
    problems: list[Problem] = field(default_factory=list)


def evaluate(requests: Sequence[Request], trees: Trees, time_limit: float = TIME_LIMIT) -> list[Conf]:
    """Evaluate CONF sections, one result for each request, problems included; raises InputError without bash."""
    results = [Conf() for _ in requests]
    with _stage(trees) as stage:
        fields = [_fields(stage, number, request) for number, request in enumerate(requests)]
        bodies = [stage.body(request.script) for request in requests]
        done = 0
        while done < len(requests):
            done += _run(stage, fields[done:], requests[done:], results[done:], time_limit)
        for number, (request, body) in enumerate(zip(requests, bodies, strict=True)):
            confs = [stage.sections[place.path] for place in trees.cascade(request.script.source, request.host)]
            results[number].problems += _syntax(stage, [*confs, stage.conf(request.script), body])
            results[number].messages = _messages(stage, number, results[number])
    return results


# --- the private directory ---------------------------------------------------------------------


_NOTE_LAST = (
    b"trap '[[ ${BASH_SOURCE[0]} == \"$RUNS_self\" ]] || RUNS_last=$BASH_COMMAND RUNS_last_line=$LINENO' DEBUG; "
)
"""stands before the first line of every section, on that line; functions do not inherit the trap"""


@dataclass
class _Stage:
    root: Path
    trees: Trees
    sections: dict[Path, int] = field(default_factory=dict)
    """number of each staged section; the text of a script below its own path, of its SCRIPT section below that"""
    sources: list[Located] = field(default_factory=list)
    """where each staged section comes from"""

    def add(self, source: Located, key: Path, text: bytes, before: bytes = b"") -> int:
        """Stage a section once; `before` is what a body already has above its first line."""
        if key not in self.sections:
            number = self.sections[key] = len(self.sources)
            self.sources.append(source)
            (self.root / "section" / str(number)).write_bytes(_NOTE_LAST + text)
            (self.root / "syntax" / str(number)).write_bytes((before or b"set -n; ") + text)
        return self.sections[key]

    def file(self, source: Located) -> int:
        """Stage a runs.conf or sysinfos.conf."""
        return self.add(source, source.path, source.path.read_bytes())

    def conf(self, script: Script) -> int:
        """Stage a CONF section."""
        return self.add(script.source, script.source.path, script.conf)

    def body(self, script: Script) -> int:
        """Stage a SCRIPT section; the line above its first is empty, so it can hold a command."""
        return self.add(script.source, script.source.path / "body", script.body, b"set -n")

    def position(self, file: bytes, line: bytes) -> Position | None:
        """Translate a section in here to the operator's file."""
        number = os.path.basename(file)  # noqa: PTH119 - bytes
        return self.sources[int(number)].at(int(line)) if number.isdigit() else None

    def tell(self, text: str) -> str:
        """Replace the paths in here in what bash said."""
        section = re.compile(re.escape(f"{self.root}/section/") + r"(\d+)")
        text = section.sub(lambda found: self.sources[int(found[1])].shown, text)
        for tree, path in enumerate(self.trees.roots):
            text = text.replace(f"{self.root}/tree{tree}/", f"{path}/")
        return text


@contextmanager
def _stage(trees: Trees) -> Iterator[_Stage]:
    with tempfile.TemporaryDirectory(prefix="runsdeploy-") as made:
        # The token is what is looked for in values: nothing an operator writes can equal it.
        root = Path(made, secrets.token_hex(16))
        for folder in ("section", "syntax", "talk", "shared"):
            (root / folder).mkdir(parents=True)
        for tree, path in enumerate(trees.roots):
            (root / f"tree{tree}").symlink_to(path)
        yield _Stage(root, trees)


def _listed(items: Iterable[bytes]) -> list[bytes]:
    every = list(items)
    return [b"%d" % len(every), *every]


def _fields(stage: _Stage, number: int, request: Request) -> list[bytes]:
    """Return the fields of a request, as `RUNS_request` reads them."""
    trees, script, host = stage.trees, request.script, request.host
    sysinfos = trees.sysinfos(host)
    places = [*trees.host_directories(host), *(trees.located(tree) for tree in range(len(trees.roots)))]
    fields = [
        b"%d" % number,
        os.fsencode(request.key),
        os.fsencode(script.name),
        os.fsencode(host.name) if host else b"",
        _staged(trees.located(script.source.tree, script.folder)),
        b"no" if host else b"yes",
        b"%d" % stage.conf(script),
        b"%d" % stage.file(sysinfos) if sysinfos else b"",
        *_listed(b"%d" % stage.file(place) for place in trees.cascade(script.source, host)),
        *_listed(map(_staged, places)),
        *_listed(map(os.fsencode, request.shared)),
    ]
    for operations in (() if sysinfos else request.facts, request.operations):
        fields += _listed(op.name.encode() for op in operations)
        fields += _listed(op.kind.encode() for op in operations)
        fields += _listed(b"%d" % len(op.values) for op in operations)
        fields += _listed(value for op in operations for value in op.values)
    return fields


def _staged(place: Located) -> bytes:
    return os.fsencode(f"tree{place.tree}/{place.inside}".rstrip("/"))


# --- the bash that evaluates -------------------------------------------------------------------


def _environment(stage: _Stage) -> dict[str, str]:
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "USER", "LOGNAME", "TMPDIR", "TZ") if name in os.environ}
    return {**kept, "LC_ALL": "C", "RUNS_root": str(stage.root), "RUNS_reserved": RESERVED}


def _run(
    stage: _Stage, fields: list[list[bytes]], requests: Sequence[Request], results: Sequence[Conf], time_limit: float
) -> int:
    """Evaluate requests until the end, or until one takes the evaluator down; return how many were."""
    bash = shutil.which("bash")
    if bash is None:
        raise InputError([Problem(None, "no `bash` on this machine's PATH, needed to read CONF sections")])
    sections = _listed(b"%d" % number for number in range(len(stage.sources)))
    (stage.root / "requests").write_bytes(b"".join(each + b"\0" for each in chain(sections, *fields)))
    # In a session of its own: a section that hangs is killed with all that it started.
    process = subprocess.Popen(
        [bash, "--norc", "--noprofile", str(files("runsdeploy") / "shell" / "conf.sh")],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=_environment(stage),
        start_new_session=True,
    )
    try:
        return _listen(process, stage, requests, results, time_limit)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        if process.stdout:
            process.stdout.close()


def _listen(
    process: subprocess.Popen[bytes], stage: _Stage, requests: Sequence[Request], results: Sequence[Conf], limit: float
) -> int:
    done, finished = 0, False
    for record in _records(process, limit):
        if record is None:
            message = f"the section was still running after {limit:g} s"
            results[done].problems.append(Problem(requests[done].script.source.at(1), message))
            return done + 1
        verb, *arguments = record
        if verb == b"old":
            version = arguments[0].decode("ascii", "replace")
            raise InputError([Problem(None, f"bash {version} is too old to read CONF sections, expected 4.2 or later")])
        if verb == b"done":
            if not finished:
                _killed(results[done], requests[done], int(arguments[0]))
            done, finished = done + 1, False
            if done == len(requests):
                return done
        elif verb in (b"finish", b"facts", b"syntax"):
            finished = True
        if verb not in (b"done", b"finish", b"syntax", b"begin"):
            _take(stage, requests[done], results[done], verb.decode(), arguments)
    _killed(results[done], requests[done], 128 + signal.SIGKILL)
    return done + 1


def _killed(result: Conf, request: Request, status: int) -> None:
    """Report a section that ended without saying so; 128 + n is how a shell reports signal n."""
    if status == 128 + signal.SIGXFSZ:
        message = "the section prints without end"
    else:
        message = f"the section killed its shell (status {status})"
    result.problems.append(Problem(request.script.source.at(1), message))


def _records(process: subprocess.Popen[bytes], limit: float) -> Iterator[list[bytes] | None]:
    """Yield records as they arrive, None if nothing came for so many seconds."""
    assert process.stdout is not None  # noqa: S101 - opened as a pipe above
    buffer, fields = b"", list[bytes]()
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
            fields += whole
            while fields and len(fields) > int(fields[0]):
                record, fields = fields[1 : int(fields[0]) + 1], fields[int(fields[0]) + 1 :]
                if record[0] in (b"begin", b"done"):
                    deadline = time.monotonic() + limit
                yield record


# --- what the sections say ---------------------------------------------------------------------


def _take(stage: _Stage, request: Request, result: Conf, verb: str, arguments: list[bytes]) -> None:
    """Add one record to the result."""
    root = os.fsencode(stage.root)
    if verb == "desc":
        result.description = arguments[0].decode("utf-8", "replace")
        return
    if verb == "stray":
        result.strays.append(arguments[0].decode())
        return
    if verb == "value":
        name, kind, *values = arguments
        each = tuple(Value.of(value, root) for value in values)
        result.variables.append(Variable(name.decode(), kind == b"array", each))
        return
    if verb == "set":
        name, file, line, kind, *values = arguments
        each = tuple(Value.of(value, root) for value in values)
        position = stage.position(file, line)
        result.settings.append(Setting(name.decode(), kind.decode(), each, position))
        return
    position = stage.position(arguments[-2], arguments[-1]) if verb == "facts" else None
    if position:
        result.needs_facts = position
    else:
        _take_placed(stage, request, result, verb, [os.fsdecode(argument) for argument in arguments])


def _take_placed(stage: _Stage, request: Request, result: Conf, verb: str, arguments: list[str]) -> None:
    """Add one record whose first fields are (after the mode of `after`) file and line."""
    mode = arguments.pop(0) if verb == "after" else ""
    file, line, *rest = arguments
    position = stage.position(os.fsencode(file), line.encode()) or request.script.source.at()
    if verb == "problem":
        result.problems.append(Problem(position, rest[0]))
    elif verb == "unknown":
        word = rest[0].split()[0]
        hint = did_you_mean(word, FUNCTIONS)
        result.problems.append(Problem(position, f"unknown command `{word}` in a CONF section", hint))
    elif verb == "flag":
        if rest[0] not in FLAGS:
            hint = did_you_mean(rest[0], FLAGS)
            message = f"unknown flag `{rest[0]}` of `conf`, expected {', '.join(f'`{flag}`' for flag in FLAGS)}"
            result.problems.append(Problem(position, message, hint))
        result.flags.setdefault(rest[0], position)
    elif verb == "after":
        operations, wrong = parse_operations(Word(word, position) for word in rest[1:])
        result.problems += wrong
        result.afters.append(After(mode, rest[0], tuple(operations), position))
    elif verb == "out":
        result.outs.append(Out(rest[0], rest[1], position))
    elif verb == "ref":
        name, wanted, how, found, required, template = rest
        result.refs.append(Ref(name, wanted, how, found, required == "yes", template == "yes", position))


_BASH_ERROR = re.compile(r": line (\d+): (.*)")


def _syntax(stage: _Stage, sections: Iterable[int]) -> Iterator[Problem]:
    """Yield what bash cannot parse, the first error of each section."""
    for section in sections:
        found = _BASH_ERROR.search(_read(stage.root / "syntax" / f"{section}.talk"))
        if found:
            yield Problem(stage.sources[section].at(int(found[1])), f"bash: {found[2]}")


def _messages(stage: _Stage, number: int, result: Conf) -> str:
    """Return what the sections printed, and our own remark on what they cannot have meant."""
    text = stage.tell(_read(stage.root / "talk" / str(number)))
    for name in result.strays:
        setting = next(setting for setting in reversed(result.settings) if setting.variable == name)
        text += f"{setting.position}: `{name}` is assigned again without `var`, and that stays in CONF\n"
    return text


def _read(path: Path) -> str:
    with suppress(FileNotFoundError), path.open("rb") as file:
        return file.read(TALK_LIMIT).decode("utf-8", "replace")
    return ""
