"""The work directory: the private directory in which bash evaluates CONF sections.

It holds a link to every tree, `tree0`, `tree1`, and the directory `shared` beside them. Its random path stands for
the session's directory of files: a section can read the files that it refers to, and the path is recognised in the
values afterwards. Each section is written once, however many scripts read it.
"""

from __future__ import annotations

import os
import re
import secrets
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from msgspec import Struct, field

from runsdeploy.errors import InputError, Position, Problem, display_path, writing
from runsdeploy.plan.conf import Request
from runsdeploy.plan.variable import ROOT_PLACEHOLDER
from runsdeploy.temporary import make_directory, place
from runsdeploy.tree.encoding import bash_encoding_problem
from runsdeploy.tree.script import Script
from runsdeploy.tree.text import read_text
from runsdeploy.tree.trees import Located, Trees
from runsdeploy.tree.trust import Trust

OUTPUT_LIMIT = 8192
"""bytes of a section's output that are shown"""

_PREFIX = "runsdeploy-conf-"

HERE = "\ud800"
"""stands for the path of the work directory in outputs, whatever bytes that has: no text in UTF-8 holds it"""

_FIRST_LINE = (
    b"RUNS_opened=yes; "
    b"trap '[[ ${BASH_SOURCE[0]} == \"$RUNS_self\" ]] || RUNS_last=$BASH_COMMAND RUNS_last_line=$LINENO' DEBUG; "
)
"""stands on a section's first line: says that bash has read it, and records its last command (not in functions)"""


class WorkDirectory(Struct):
    """The directory, and the sections written to it."""

    root: Path
    trees: Trees
    confs: dict[Path, int] = field(default_factory=dict)
    """numbers of the sections that bash evaluates, by the file that holds them"""
    bodies: dict[Path, int] = field(default_factory=dict)
    """numbers of the SCRIPT sections, which bash only parses, by the file that holds them"""
    sources: list[Located] = field(default_factory=list)
    """the operator's file of each section, by number"""
    lengths: dict[int, int] = field(default_factory=dict)
    """number of lines of each evaluated section, by number"""
    parsed: dict[int, int] = field(default_factory=dict)
    """status with which bash ended to parse a SCRIPT section, by number"""
    unreadable: dict[int, list[Problem]] = field(default_factory=dict)
    """problems of sections that bash would misread, by number: it leaves out a NUL, and keeps a carriage return"""

    def _add(self, numbers: dict[Path, int], source: Located) -> int | None:
        """Return a new number for a section, or None if the section is written already."""
        if source.path in numbers:
            return None
        numbers[source.path] = len(self.sources)
        self.sources.append(source)
        return numbers[source.path]

    def add_conf(self, source: Located, text: bytes) -> int:
        """Write a CONF section, runs.conf or sysinfos.conf for evaluation, and return its number."""
        number = self._add(self.confs, source)
        if number is not None:
            wrong = bash_encoding_problem(text, source.shown)
            if not wrong and b"\0" in text:
                line = text.count(b"\n", 0, text.index(b"\0")) + 1
                wrong = Problem(source.at(line), "holds a NUL byte, expected bash")
            self.unreadable[number] = [wrong] if wrong else []
            # What bash would say of such a text only repeats the problem.
            (self.root / "section" / str(number)).write_bytes(_FIRST_LINE + (b"" if wrong else text))
            self.lengths[number] = text.count(b"\n") + 1
        return self.confs[source.path]

    def add_script(self, script: Script) -> int:
        """Write a SCRIPT section for parsing, and return its number.

        Its first line is empty (the line `script:` stands there in the file), so it can hold a command of ours.
        """
        number = self._add(self.bodies, script.source)
        if number is not None:
            (self.root / "syntax" / str(number)).write_bytes(b"set -n" + script.body)
        return self.bodies[script.source.path]

    def position(self, number: int, line: int) -> Position:
        """Return the operator's position of a line of a section.

        bash counts past the end of a section whose last line is incomplete; that becomes the last line.
        """
        return self.sources[number].at(min(line, self.lengths.get(number, line)))

    def source_position(self, file: bytes, line: bytes) -> Position | None:
        """Return the operator's position for a file and line that bash reports; None if it reports no file."""
        folder, _, number = os.fsdecode(file).rpartition("/")
        if folder == f"{self.root}/section":
            return self.position(int(number), int(line))
        # A file that a section sourced by itself.
        return Position(display_path(Path(self.with_operator_paths(os.fsdecode(file)))), int(line)) if file else None

    def with_operator_paths(self, text: str) -> str:
        """Replace paths of this directory in a text by the operator's own paths."""
        text = text.replace(str(self.root), HERE)
        text = re.sub(rf"{HERE}/section/(\d+)", lambda found: self.sources[int(found[1])].shown, text)
        for tree, path in enumerate(self.trees.roots):
            text = text.replace(f"{HERE}/tree{tree}/", f"{path}/")
        return text.replace(HERE, str(self.root))

    def read(self, *inside: str) -> str:
        """Return the beginning of an output, with HERE for this directory; raises OSError if it is not there."""
        with self.root.joinpath(*inside).open("rb") as file:
            data = file.read(OUTPUT_LIMIT).removesuffix(b"\0")
        return HERE.join(piece.decode("utf-8", "replace") for piece in data.split(os.fsencode(self.root)))


@contextmanager
def open_work_directory(trees: Trees) -> Iterator[WorkDirectory]:
    """Make a work directory for these trees, and remove it at the end; also remove those of killed processes."""
    # Many small, short-lived files: in memory where the system has a place for that.
    memory = Path("/dev/shm")  # noqa: S108 - the directory is private
    usable = "TMPDIR" not in os.environ and os.access(memory, os.W_OK | os.X_OK)
    parent = memory if usable else place()
    # Others could replace the directory, and with it the sections.
    trust = Trust(any_owner=trees.trusted, why="CONF sections are run there")
    if problems := trust.owner_problems(parent):
        raise InputError(problems)
    with make_directory(_PREFIX, parent) as made, writing(made):
        # This path is searched for in values: its random part makes sure that no operator writes it by chance.
        root = Path(made, secrets.token_hex(16))
        for folder in ("section", "syntax", "output", "shared"):
            (root / folder).mkdir(parents=True)
        for tree, path in enumerate(trees.roots):
            (root / f"tree{tree}").symlink_to(path)
        yield WorkDirectory(root, trees)


def request_fields(workdir: WorkDirectory, number: int, request: Request) -> list[bytes]:
    """Return the fields of a request in the order in which `RUNS_request` of shell/conf.sh reads them."""
    trees, script, host = workdir.trees, request.script, request.host
    sysinfos = trees.sysinfos(host)
    places = [*trees.host_directories(host), *(trees.located(tree) for tree in range(len(trees.roots)))]
    fields = [
        b"%d" % number,
        os.fsencode(request.key),
        os.fsencode(script.name),
        os.fsencode(host.name) if host else b"",
        _linked(trees.located(script.source.tree, script.folder)),
        b"no" if host else b"yes",
        b"%d" % workdir.add_conf(script.source, script.conf),
        b"%d" % workdir.add_script(script),
        b"%d" % workdir.add_conf(sysinfos, _read(sysinfos)) if sysinfos else b"",
        *_counted(b"%d" % workdir.add_conf(place, _read(place)) for place in trees.cascade(script.source, host)),
        *_counted(map(_linked, places)),
        *_counted(map(os.fsencode, request.shared)),
    ]
    for operations in (request.facts, request.operations):
        fields += _counted(op.name.encode() for op in operations)
        fields += _counted(op.kind.encode() for op in operations)
        fields += _counted(b"%d" % len(op.values) for op in operations)
        values = (value for op in operations for value in op.values)
        fields += _counted(value.replace(ROOT_PLACEHOLDER, os.fsencode(workdir.root)) for value in values)
    return fields


def _counted(items: Iterable[bytes]) -> list[bytes]:
    """Return a list of fields with their number before them, as `RUNS_list` reads it."""
    every = list(items)
    return [b"%d" % len(every), *every]


def _read(place: Located) -> bytes:
    try:
        return read_text(place.path)
    except OSError as error:
        raise InputError([Problem(place.at(), f"cannot read it: {(error.strerror or str(error)).lower()}")]) from None


def _linked(place: Located) -> bytes:
    """Return the path of a place through the work directory's link to its tree."""
    return os.fsencode(f"tree{place.tree}/{place.inside}".rstrip("/"))
