"""Catalogues: jobs as data. The default one has the seven jobs of the seed; a file can replace or extend it."""

import pkgutil
import re
from typing import Any, Dict, FrozenSet, List, NamedTuple, Optional, Tuple, Union

from ..errors import BadInput, Problem, did_you_mean
from ..process.around import WHEN
from .document import Document, Value, parse, read
from .job import PLACEHOLDER, STAGES, File, Job, Secret, Text

SCHEMA = 1
DEFAULT = "catalogue.json"
TIMEOUT = 6 * 3600.0
"""default time limit of a job in seconds (J5)"""
NEEDS = ("kerberos",)
ACTS = ("copies", "restore")
"""what has commands around it: the copies that a run makes of files before its jobs, and a restore"""

_FILES = ("before", "after", "truncate")
FIELDS = (*(name for name in Job._fields if name != "place"), "on_failure")
"""fields of a job"""
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$")
_SWITCH = re.compile(r"RUN_[A-Z0-9_]{1,60}$")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*$")
_DURATION = re.compile(r"([0-9]{1,9})([smhd]?)")
_SECONDS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}


class Catalogue(NamedTuple):
    """All jobs, in the order in which they run within their stages, and the files of all runs."""

    jobs: Tuple[Job, ...]
    before: Tuple[File, ...]
    after: Tuple[File, ...]
    truncate: Tuple[File, ...]
    around: Dict[str, Tuple[Tuple[Text, ...], ...]]
    """commands around an act, by act and time, e.g. `restore.after`"""
    parallel: FrozenSet[str]
    """stages whose jobs run at the same time"""
    path: str
    """file of the operator; empty for the default catalogue"""

    @property
    def switches(self) -> FrozenSet[str]:
        """The switches that enable a job."""
        return frozenset(job.enabled_by for job in self.jobs if job.enabled_by)


def load(path: str = "") -> Catalogue:
    """Return the default catalogue, or that of a file; raises BadInput with all problems."""
    data = pkgutil.get_data(__package__, DEFAULT) or b""
    builtin = _Reader(parse(data, DEFAULT)).catalogue()
    if not path:
        return builtin
    document, _ = read(path)
    return _Reader(document, builtin).catalogue()._replace(path=path)


def select(jobs: Tuple[Job, ...], name: str) -> Tuple[Job, ...]:
    """Return the job of that name or switch, or all jobs of that stage; raises BadInput."""
    found = tuple(job for job in jobs if name in (job.name, job.stage, job.enabled_by))
    if not found:
        known = [*STAGES, *(job.name for job in jobs)]
        hint = did_you_mean(name, known) or f"known: {', '.join(known)}"
        raise BadInput([Problem("", 0, 0, "", f"no job or stage `{name}`", hint)])
    return found


def duration(text: str) -> int:
    """Return the seconds of a time like `90`, `15m`, `6h` or `2d`; 0 if it is none."""
    match = _DURATION.fullmatch(text)
    return int(match.group(1)) * _SECONDS[match.group(2)] if match else 0


class _Reader:
    """Reads one catalogue and collects its problems."""

    def __init__(self, document: Document, builtin: Optional[Catalogue] = None) -> None:
        self.document, self.builtin = document, builtin
        self.problems: List[Problem] = []
        self.directory = Text("/", document.file, 0, 0)
        self.environment: Dict[str, Union[Text, Secret]] = {}

    def catalogue(self) -> Catalogue:
        """Return the catalogue; raises BadInput."""
        root = Value(self.document.root, 1, 1)
        fields = self._fields(
            root, "", ("schema", "extends", "directory", "environment", "backup", *ACTS, "parallel", "jobs")
        )
        if "schema" not in fields or fields["schema"].content != SCHEMA:
            self._problem(fields.get("schema", root), "schema", f"expected {SCHEMA}")
        # Directory and environment of the default catalogue stay with its own jobs.
        extended = self.builtin if "extends" in fields and self._extends(fields["extends"]) else None
        self.directory = self._text(fields.get("directory"), "directory") or Text("/", self.document.file, 0, 0)
        self.environment = self._environment(fields.get("environment"), "environment")
        jobs = self._in_order(self._jobs(fields.get("jobs"), extended.jobs if extended else ()))
        backup = self._fields(fields.get("backup"), "backup", _FILES)
        before, after, truncate = (self._files(self._list(backup.get(k), f"backup.{k}"), f"backup.{k}") for k in _FILES)
        found = Catalogue(
            jobs,
            before,
            after,
            truncate,
            self._around(fields),
            frozenset(text.text for text in self._texts(fields.get("parallel"), "parallel", STAGES)),
            "",
        )
        if self.problems:
            raise BadInput(self.problems)
        return _join(extended, found) if extended else found

    def _problem(self, value: Value, key: str, message: str, hint: str = "") -> None:
        self.problems.append(self.document.problem(value, key, message, hint))

    def _extends(self, value: Value) -> bool:
        if value.content == "default":
            return True
        self._problem(value, "extends", 'expected "default", the catalogue of the runner')
        return False

    def _fields(self, value: Optional[Value], key: str, known: Tuple[str, ...] = ()) -> Dict[str, Value]:
        """Return the fields of an object; any are known if no names are given."""
        if value is None:
            return {}
        if not isinstance(value.content, dict):
            self._problem(value, key, f"found {value.kind}, expected an object")
            return {}
        for name, entry in value.content.items():
            if known and name not in known:
                hint = did_you_mean(name, known) or f"known: {', '.join(known)}"
                self._problem(entry, f"{key}.{name}".lstrip("."), "is unknown", hint)
        return value.content

    def _text(self, value: Optional[Value], key: str) -> Optional[Text]:
        if value is None:
            return None
        if not isinstance(value.content, str) or "\0" in value.content:
            self._problem(value, key, f"found {value.kind}, expected a text")
            return None
        for match in PLACEHOLDER.finditer(value.content):
            if match.group() in ("{", "}") or (match.group(1) is not None and not all(match.group(1).split("|"))):
                self._problem(
                    value, key, f"has `{match.group()}`, expected a setting `{{NAME}}`, or `{{{{` for a brace"
                )
        return Text(value.content, self.document.file, value.line, value.column)

    def _list(self, value: Optional[Value], key: str) -> List[Value]:
        if value is None:
            return []
        if isinstance(value.content, list):
            return value.content
        self._problem(value, key, f"found {value.kind}, expected a list")
        return []

    def _texts(self, value: Optional[Value], key: str, known: Tuple[str, ...] = ()) -> Tuple[Text, ...]:
        found = []
        for entry in self._list(value, key):
            text = self._text(entry, key)
            if text and known and text.text not in known:
                self._problem(entry, key, f"found `{text.text}`, expected one of {', '.join(f'`{k}`' for k in known)}")
            elif text:
                found.append(text)
        return tuple(found)

    def _around(self, fields: Dict[str, Value]) -> Dict[str, Tuple[Tuple[Text, ...], ...]]:
        lists = {act: self._fields(fields.get(act), act, WHEN) for act in ACTS}
        return {f"{act}.{when}": self._commands(lists[act].get(when), f"{act}.{when}") for act in ACTS for when in WHEN}

    def _commands(self, value: Optional[Value], key: str) -> Tuple[Tuple[Text, ...], ...]:
        commands = []
        for entry in self._list(value, key):
            words = self._texts(entry, key)
            if not words and isinstance(entry.content, list):
                self._problem(entry, key, "found an empty list, expected a program and its arguments")
            commands.append(words)
        return tuple(commands)

    def _environment(self, value: Optional[Value], key: str) -> Dict[str, Union[Text, Secret]]:
        found = {}
        for name, entry in self._fields(value, key).items():
            secret = isinstance(entry.content, dict)
            given = self._secret(entry, f"{key}.{name}") if secret else self._text(entry, f"{key}.{name}")
            if not _VARIABLE.match(name):
                self._problem(entry, f"{key}.{name}", "is not a valid name of a variable")
            elif given:
                found[name] = given
        return found

    def _secret(self, entry: Value, key: str) -> Optional[Secret]:
        file = self._fields(entry, key, ("file",)).get("file")
        text = self._text(file, f"{key}.file")
        if file is None or (text and not text.text):
            self._problem(entry, key, "expected the `file` that holds the secret")
        return Secret(text) if text else None

    def _files(self, entries: List[Value], key: str) -> Tuple[File, ...]:
        """Return the files of a list; by default those copied before the jobs are required, the others are not."""
        found, required = [], key.endswith(".before")
        for entry in entries:
            if isinstance(entry.content, dict):
                fields = self._fields(entry, key, ("path", "required"))
                path = self._text(fields.get("path"), f"{key}.path")
                needed = self._boolean(fields.get("required"), f"{key}.required", default=required)
                if "path" not in fields:
                    self._problem(entry, key, "has no `path`")
            else:
                path, needed = self._text(entry, key), required
            if path and path.text[:1] not in ("/", "{"):
                self._problem(
                    entry, key, f"found `{path.text}`, expected an absolute path or one that begins with `{{`"
                )
            elif path:
                found.append(File(path, needed))
        return tuple(found)

    def _beside(self, value: Optional[Value], key: str) -> Tuple[Tuple[File, ...], Tuple[Text, ...]]:
        """Return the files of `before` or `after` of a job, and the jobs beside which it runs, which have no `/`."""
        entries = [value] if value and _is_place(value) else self._list(value, key)
        names = [Text(each.content, self.document.file, each.line, each.column) for each in entries if _is_place(each)]
        return self._files([each for each in entries if not _is_place(each)], key), tuple(names)

    def _boolean(self, value: Optional[Value], key: str, *, default: bool) -> bool:
        if value is None or isinstance(value.content, bool):
            return default if value is None else bool(value.content)
        self._problem(value, key, f"found {value.kind}, expected true or false")
        return default

    def _jobs(self, value: Optional[Value], inherited: Tuple[Job, ...]) -> Tuple[Job, ...]:
        own: Dict[str, Job] = {}
        for entry in self._list(value, "jobs"):
            job = self._job(entry)
            if job and job.name in STAGES:
                self._problem(entry, f"jobs.{job.name}", "is the name of a stage, expected another name")
            elif job and job.name in own:
                self._problem(entry, f"jobs.{job.name}", "duplicate name")
            elif job:
                own[job.name] = job
        # A job of the same name replaces the inherited one at its place in the order.
        return (*(own.pop(job.name, job) for job in inherited), *own.values())

    def _job(self, entry: Value) -> Optional[Job]:
        fields = self._fields(entry, "jobs", FIELDS)
        name = self._word(entry, fields, "name", "jobs", _NAME)
        key = f"jobs.{name}"
        stage = self._word(entry, fields, "stage", key, None, STAGES)
        switch = self._word(entry, fields, "enabled_by", key, _SWITCH) if "enabled_by" in fields else ""
        before, successors = self._beside(fields.get("before"), f"{key}.before")
        after, predecessors = self._beside(fields.get("after"), f"{key}.after")
        return Job(
            name,
            self._word(entry, fields, "description", key) if "description" in fields else "",
            stage,
            switch,
            self._command(entry, fields, key),
            "shell" in fields,
            {**self.environment, **self._environment(fields.get("environment"), f"{key}.environment")},
            self._text(fields.get("directory"), f"{key}.directory") or self.directory,
            self._timeout(fields.get("timeout"), f"{key}.timeout"),
            self._texts(fields.get("requires"), f"{key}.requires"),
            frozenset(text.text for text in self._texts(fields.get("needs"), f"{key}.needs", NEEDS)),
            before,
            after,
            self._files(self._list(fields.get("truncate"), f"{key}.truncate"), f"{key}.truncate"),
            self._boolean(fields.get("daemon"), f"{key}.daemon", default=False),
            self._required(entry, fields, key, stage),
            (*(("before", each) for each in successors), *(("after", each) for each in predecessors)),
        )

    def _required(self, entry: Value, fields: Dict[str, Value], key: str, stage: str) -> bool:
        """Return whether the failure of a job stops others: of an import it does, unless it says `continue`."""
        stops = stage == "imports"
        if "on_failure" in fields:
            stops = self._word(entry, fields, "on_failure", key, None, ("stop", "continue")) == "stop"
        needed = self._boolean(fields.get("required"), f"{key}.required", default=stops)
        if "on_failure" in fields and needed != stops:
            self._problem(fields["required"], f"{key}.required", "contradicts `on_failure`, expected one of the two")
        return needed

    def _in_order(self, jobs: Tuple[Job, ...]) -> Tuple[Job, ...]:
        """Return the jobs in the order in which they run, with those that name a place at it."""
        known = {job.name: job for job in jobs}
        placed: Dict[Tuple[str, str], List[Job]] = {}
        for job in jobs:
            for number, (word, name) in enumerate(job.place):
                beside = known.get(name.text)
                if beside is None or beside.stage != job.stage:
                    what = f"is a job of the stage `{beside.stage}`" if beside else "is no job"
                    message = f"`{name.text}` {what}, expected one of the stage `{job.stage}`, or an absolute path"
                    hint = did_you_mean(name.text, [each.name for each in jobs if each.stage == job.stage])
                    self._problem(Value(name.text, name.line, name.column), f"jobs.{job.name}.{word}", message, hint)
                elif number == 0:
                    placed.setdefault((word, name.text), []).append(job)
        ordered: List[Job] = []

        def put(job: Job) -> None:
            for each in placed.pop(("before", job.name), ()):
                put(each)
            ordered.append(job)
            for each in placed.pop(("after", job.name), ()):
                put(each)

        for job in jobs:
            if not job.place:
                put(job)
        self._check_order(jobs, ordered)
        return tuple(sorted(ordered, key=lambda job: STAGES.index(job.stage) if job.stage else 0))

    def _check_order(self, jobs: Tuple[Job, ...], ordered: List[Job]) -> None:
        """Add a problem for each place that a job cannot have: behind itself, or against another one."""
        rank = {job.name: number for number, job in enumerate(ordered)}
        names = {job.name for job in jobs}
        for job in jobs:
            for word, name in job.place:
                mine, other = rank.get(job.name, -1), rank.get(name.text, -1)
                right = mine >= 0 and other >= 0 and (mine < other) == (word == "before")
                if name.text in names and not right:
                    message = f"`{job.name}` cannot run {word} `{name.text}`: other places contradict it"
                    self._problem(Value(name.text, name.line, name.column), f"jobs.{job.name}.{word}", message)

    def _word(
        self,
        entry: Value,
        fields: Dict[str, Value],
        name: str,
        key: str,
        pattern: Any = None,
        known: Tuple[str, ...] = (),
    ) -> str:
        value = fields.get(name)
        if value is None:
            self._problem(entry, key, f"has no `{name}`")
            return ""
        fits = isinstance(value.content, str) and (not pattern or pattern.match(value.content))
        if fits and (not known or value.content in known):
            return str(value.content)
        expected = f"one of {', '.join(f'`{k}`' for k in known)}" if known else _EXAMPLES.get(name, "a text")
        shown = f"`{value.content}`" if isinstance(value.content, str) else value.kind
        self._problem(value, f"{key}.{name}", f"found {shown}, expected {expected}")
        return ""

    def _command(self, entry: Value, fields: Dict[str, Value], key: str) -> Tuple[Text, ...]:
        if ("command" in fields) == ("shell" in fields):
            self._problem(entry, key, "needs either `command` (a list: program and arguments) or `shell` (a text)")
            return ()
        if "shell" in fields:
            value = fields["shell"]
            if not isinstance(value.content, str):
                self._problem(value, f"{key}.shell", f"found {value.kind}, expected a text")
                return ()
            # Braces belong to the shell here; settings are passed through the environment only.
            return (Text(value.content, self.document.file, value.line, value.column),)
        words = self._texts(fields["command"], f"{key}.command")
        if not words:
            self._problem(fields["command"], f"{key}.command", "expected a program and its arguments")
        return words

    def _timeout(self, value: Optional[Value], key: str) -> float:
        if value is None:
            return TIMEOUT
        content = value.content
        if isinstance(content, (int, float)) and not isinstance(content, bool):
            seconds = float(content)
        else:
            seconds = float(duration(content)) if isinstance(content, str) else 0.0
        if not 0 < seconds <= 30 * 86400:
            self._problem(value, key, "expected a time above zero and at most 30 days, like `90`, `15m` or `6h`")
        return seconds


def _is_place(value: Value) -> bool:
    """Return whether an entry of `before` or `after` is the name of a job, not a file."""
    return isinstance(value.content, str) and bool(_NAME.match(value.content))


_EXAMPLES = {"name": "a name like `nightly-import`", "enabled_by": "a switch like `RUN_NIGHTLY_IMPORT`"}


def _join(builtin: Catalogue, own: Catalogue) -> Catalogue:
    return Catalogue(
        own.jobs,
        (*builtin.before, *own.before),
        (*builtin.after, *own.after),
        (*builtin.truncate, *own.truncate),
        {key: (*commands, *own.around[key]) for key, commands in builtin.around.items()},
        builtin.parallel | own.parallel,
        own.path,
    )
