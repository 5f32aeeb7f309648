"""The stage: the private directory in which bash evaluates CONF sections.

Every tree is a link there, `tree0`, `tree1`, and the shared space a place beside them. Its random path
stands for the session's directory of files: CONF can look into what it refers to, and the path is found
again in the values. Sections are staged once, whatever the number of scripts that read them.
"""

from __future__ import annotations

import fcntl
import os
import re
import secrets
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from msgspec import Struct, field

from runsdeploy.errors import InputError, Position, Problem, shown
from runsdeploy.plan.conf import Request
from runsdeploy.plan.variable import NOWHERE
from runsdeploy.tree.script import Script
from runsdeploy.tree.trees import Located, Trees

_PREFIX = "runsdeploy-conf-"

_NOTE_LAST = (
    b"trap '[[ ${BASH_SOURCE[0]} == \"$RUNS_self\" ]] || RUNS_last=$BASH_COMMAND RUNS_last_line=$LINENO' DEBUG; "
)
"""stands before the first line of every section, on that line; functions do not inherit the trap"""


class WorkDirectory(Struct):
    """The directory, and what was staged in it."""

    root: Path
    trees: Trees
    confs: dict[Path, int] = field(default_factory=dict)
    """numbers of the sections that are evaluated, by the file that they stand in"""
    bodies: dict[Path, int] = field(default_factory=dict)
    """numbers of the SCRIPT sections, which are only parsed"""
    sources: list[Located] = field(default_factory=list)
    """where each staged section comes from, by number"""
    lengths: dict[int, int] = field(default_factory=dict)
    """the line behind the last of each section that is evaluated, by number"""
    nuls: dict[int, list[Problem]] = field(default_factory=dict)
    """sections that hold a NUL, which bash would leave out, by number"""

    def _number(self, numbers: dict[Path, int], source: Located) -> int | None:
        """Return a new number for a section, or None if it is staged."""
        if source.path in numbers:
            return None
        numbers[source.path] = len(self.sources)
        self.sources.append(source)
        return numbers[source.path]

    def conf(self, source: Located, text: bytes) -> int:
        """Stage a CONF section, runs.conf or sysinfos.conf, to be evaluated."""
        number = self._number(self.confs, source)
        if number is not None:
            (self.root / "section" / str(number)).write_bytes(_NOTE_LAST + text)
            self.lengths[number] = text.count(b"\n") + 1
            if b"\0" in text:
                line = text.count(b"\n", 0, text.index(b"\0")) + 1
                self.nuls[number] = [Problem(source.at(line), "holds a NUL byte, expected bash")]
        return self.confs[source.path]

    def body(self, script: Script) -> int:
        """Stage a SCRIPT section, to be parsed; the line above its first is empty, so it can hold a command."""
        number = self._number(self.bodies, script.source)
        if number is not None:
            (self.root / "syntax" / str(number)).write_bytes(b"set -n" + script.body)
        return self.bodies[script.source.path]

    def at(self, number: int, line: int) -> Position:
        """Return a line of a section; bash counts on behind the end where the last line is not complete."""
        return self.sources[number].at(min(line, self.lengths.get(number, line)))

    def position(self, file: bytes, line: bytes) -> Position | None:
        """Translate a section in here to the operator's file."""
        folder, _, number = os.fsdecode(file).rpartition("/")
        if folder == f"{self.root}/section":
            return self.at(int(number), int(line))
        # A file that a section sourced by itself.
        return Position(shown(Path(self.tell(os.fsdecode(file)))), int(line)) if file else None

    def tell(self, text: str) -> str:
        """Replace the paths in here in what bash said."""
        section = re.compile(re.escape(f"{self.root}/section/") + r"(\d+)")
        text = section.sub(lambda found: self.sources[int(found[1])].shown, text)
        for tree, path in enumerate(self.trees.roots):
            text = text.replace(f"{self.root}/tree{tree}/", f"{path}/")
        return text


@contextmanager
def _alive(directory: Path) -> Iterator[None]:
    """Show others that this directory is in use: the lock is the kernel's, and ends with us however we end."""
    with (directory / "new").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        (directory / "new").rename(directory / "alive")
        yield


def _sweep(place: Path) -> None:
    """Remove the directories of ours whose process was killed."""
    for path in place.glob(f"{_PREFIX}*/alive"):
        with suppress(OSError):
            if path.parent.lstat().st_uid == os.geteuid():
                with path.open() as file:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    shutil.rmtree(path.parent)


@contextmanager
def open_work_directory(trees: Trees) -> Iterator[WorkDirectory]:
    """Make a stage for these trees, and remove it at the end, and those of killed processes."""
    # Many small files that nobody keeps: in memory where there is such a place.
    memory = Path("/dev/shm")  # noqa: S108 - the directory is private
    place = memory if "TMPDIR" not in os.environ and os.access(memory, os.W_OK | os.X_OK) else None
    with tempfile.TemporaryDirectory(prefix=_PREFIX, dir=place) as made, _alive(Path(made)):
        _sweep(Path(made).parent)
        # The token is what is looked for in values: nothing an operator writes can equal it.
        root = Path(made, secrets.token_hex(16))
        for folder in ("section", "syntax", "talk", "shared"):
            (root / folder).mkdir(parents=True)
        for tree, path in enumerate(trees.roots):
            (root / f"tree{tree}").symlink_to(path)
        yield WorkDirectory(root, trees)


def _listed(items: Iterable[bytes]) -> list[bytes]:
    """Return a list of fields behind their number, as `RUNS_list` reads it."""
    every = list(items)
    return [b"%d" % len(every), *every]


def fields(stage: WorkDirectory, number: int, request: Request) -> list[bytes]:
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
        b"%d" % stage.conf(script.source, script.conf),
        b"%d" % stage.body(script),
        b"%d" % stage.conf(sysinfos, _read(sysinfos)) if sysinfos else b"",
        *_listed(b"%d" % stage.conf(place, _read(place)) for place in trees.cascade(script.source, host)),
        *_listed(map(_staged, places)),
        *_listed(map(os.fsencode, request.shared)),
    ]
    for operations in (request.facts, request.operations):
        fields += _listed(op.name.encode() for op in operations)
        fields += _listed(op.kind.encode() for op in operations)
        fields += _listed(b"%d" % len(op.values) for op in operations)
        values = (value for op in operations for value in op.values)
        fields += _listed(value.replace(NOWHERE, os.fsencode(stage.root)) for value in values)
    return fields


def _read(place: Located) -> bytes:
    try:
        return place.path.read_bytes()
    except OSError as error:
        raise InputError([Problem(place.at(), f"cannot read it: {(error.strerror or str(error)).lower()}")]) from None


def _staged(place: Located) -> bytes:
    return os.fsencode(f"tree{place.tree}/{place.inside}".rstrip("/"))
