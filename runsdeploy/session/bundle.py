"""Bundles: what a segment needs on the side that runs it, as one archive behind one header.

The archive is deterministic: the same plan makes the same bytes but for the session's own names. What
is shipped is what was planned: a file that changed since is refused, not sent.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import math
import os
import re
import tarfile
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import IO

from msgspec import Struct

from runsdeploy.errors import Refused, display_path
from runsdeploy.events import encode_word
from runsdeploy.plan.files import CHUNK, File, content_file
from runsdeploy.plan.plan import Plan, Step
from runsdeploy.plan.variable import Value, Variable, assignment
from runsdeploy.session.segment import Segment
from runsdeploy.tree.libraries import BUNDLED

COMMAND = (
    "exec /bin/sh -c 'unset -f read dd [; PATH=$PATH:/usr/bin:/bin; read -r _ n"
    ' && p=$(dd ibs=1 obs=65536 count="$n" 2>/dev/null)'
    ' && [ "${#p}" -eq "$n" ] && eval "$p" && main\''
)
"""what every channel runs; sh, csh and fish read it alike. It takes the program from its input, and nothing
of a program that did not arrive whole is run; `dd` by single bytes leaves what follows in the channel."""

SHELL = Path(__file__).parents[1] / "shell"
"""our bash"""

MODIFIED = 946684800
"""modification time of all members, 2000-01-01: tar warns of times before its own"""

IN_MEMORY = 8 << 20
"""bytes up to which an archive is kept in memory"""


class Session(Struct, frozen=True):
    """The names of one execution of a plan on one host."""

    identity: str
    """128 random bits, hexadecimal"""
    nonce: str
    """128 random bits, hexadecimal: what follows it is ours"""
    by: str
    """who deploys, `user@machine`"""
    keep_going: bool = False
    timeout: float = 0.0
    """seconds that a step may take; 0 for no limit"""
    patience: float = 120.0
    """seconds that nobody may listen before no further step starts"""
    wait: float = 0.0
    """seconds to wait for whoever holds the target"""
    detached: bool = False
    """whether all steps run even if nobody listens"""
    revisions: Callable[[], Sequence[str]] = tuple
    """returns what each tree is a checkout of, in order, see `revision`; asked for when markers may be made"""


OUTPUT_KEPT = 32 << 20
"""bytes that a target keeps of each end of a step's output for a controller that lags behind"""


class Bundle(Struct):
    """One segment, ready to be sent."""

    header: bytes
    """the bootstrap program and the header line that it reads"""
    archive: IO[bytes]
    """positioned at its start"""

    def chunks(self) -> Iterator[bytes]:
        """Yield all bytes in the order in which the bootstrap reads them."""
        yield self.header
        while chunk := self.archive.read(CHUNK):
            yield chunk


@cache
def shell_file(name: str) -> bytes:
    """Return a bash file of the package."""
    return (SHELL / name).read_bytes()


@cache
def bootstrap(*, questions: bool = False) -> bytes:
    """Return the bootstrap program, comments and indentation left out: it is read byte by byte."""
    return program("bootstrap.sh", "questions.sh", "facts.sh") if questions else program("bootstrap.sh")


@cache
def program(*names: str) -> bytes:
    """Return bash files of the package as one program, without comments and indentation."""
    lines = (line.strip() for name in names for line in shell_file(name).splitlines())
    return b"\n".join(line for line in lines if line and not line.startswith(b"#"))


def call(text: bytes, *words: str) -> bytes:
    """Return what makes COMMAND run a program whose `main` reads these words as its first line."""
    return b"exit %d\n" % len(text) + text + " ".join(words).encode() + b"\n"


def question(session: Session, about: str, scope: str, argument: str = "-") -> Bundle:
    """Return what asks a machine something, see `questions.sh`."""
    return Bundle(_header(session, about, scope, offset=argument, questions=True), io.BytesIO())


def watch(session: Session, segment: str, scope: str, offset: int) -> Bundle:
    """Return what asks for the spool of a segment that was started, from a byte on."""
    return Bundle(_header(session, segment, scope, offset=str(offset)), io.BytesIO())


def _header(  # noqa: PLR0913 - one for each word
    session: Session,
    segment: str,
    scope: str,
    *,
    length: int = 0,
    digest: str = "-",
    encoding: str = "plain",
    offset: str = "0",
    marks: bool = True,
    questions: bool = False,
) -> bytes:
    """Return what precedes an archive."""
    words = [session.nonce, session.identity, segment, str(length), digest, scope, encoding, offset, _yes(marks)]
    return call(bootstrap(questions=questions), *words)


def pack(plan: Plan, segment: Segment, session: Session, scope: str = ".", shared: Sequence[File] = ()) -> Bundle:
    """Make the bundle of a segment; `shared` are the files that it needs from the other side.

    Raises Refused if a file is not what it was when the plan was made.
    """
    name = f"segment{segment.number}"
    archive: IO[bytes] = tempfile.SpooledTemporaryFile(max_size=IN_MEMORY)  # noqa: SIM115 - the bundle owns it
    with tarfile.open(fileobj=archive, mode="w", format=tarfile.GNU_FORMAT, encoding="utf-8") as tar:
        for member in members(plan, segment, session, shared):
            _add(tar, member)
    encoding = "plain"
    if archive.tell() <= IN_MEMORY:
        # Each doubling of what is sent at once costs a slow link a round trip; big files are often packed already.
        archive.seek(0)
        packed = gzip.compress(archive.read(), compresslevel=6, mtime=0)
        archive.close()
        archive, encoding = io.BytesIO(packed), "gzip"
    length = archive.seek(0, io.SEEK_END)
    archive.seek(0)
    digest = _hash(archive)
    archive.seek(0)
    marks = keeps(plan, segment.side)
    head = _header(session, name, scope, length=length, digest=digest, encoding=encoding, marks=marks)
    return Bundle(head, archive)


def keeps(plan: Plan, side: str) -> bool:
    """Say whether steps of a side set markers or keep files: where that cannot be done it is of no use to begin."""
    return any(_marks(step) or step.outs for step in plan.steps if step.side == side)


def _hash(archive: IO[bytes]) -> str:
    found = hashlib.sha256()
    while chunk := archive.read(CHUNK):
        found.update(chunk)
    return found.hexdigest()


def members(plan: Plan, segment: Segment, session: Session, shared: Sequence[File]) -> Iterator[File]:
    """Yield the members, each path once, directories of files before what is in them."""
    run, steps = f"segment{segment.number}/run", segment.steps
    for part in ("runner.sh", "lock.sh", "runs.sh", "step.sh", "mark.sh"):
        yield content_file(f"{run}/{part}", shell_file(part))
    if _expected_facts(plan, segment):
        yield content_file(f"{run}/facts.sh", shell_file("facts.sh"))
    yield content_file(f"{run}/lib/DEFAULTS.sh", shell_file("lib/DEFAULTS.sh"))
    # A library is loaded by name at run time: it is left out only if no script can mean it.
    text = b"\n".join([*(step.script.body for step in steps), *(file.content for file in plan.libraries)])
    libraries = [name for name in BUNDLED[2:] if name.encode() in text or re.search(rb"urequire[^\n]*\$", text)]
    for library in [*libraries, "files"] if libraries else []:
        yield content_file(f"{run}/lib/{library}.sh", shell_file(f"lib/{library}.sh"))
    for file in plan.libraries:
        yield content_file(f"{run}/tree/{file.path.removeprefix('lib/')}", file.content)
    yield content_file(f"{run}/segment.sh", _segment(plan, segment, session))
    for step in steps:
        yield content_file(f"{run}/step/{step.number}/meta.sh", _meta(step, _origin(plan, step, session)))
        yield content_file(f"{run}/step/{step.number}/values.sh", b"".join(map(assignment, step.variables)))
    files = {f"files/{file.path}": file for step in steps for file in step.files}
    files |= {f"files/{script_path(step)}": content_file("", step.script.body) for step in steps}
    files |= {f"files/shared/{file.path}": file for file in shared}
    for path in sorted(files):
        file = files[path]
        yield File(path, file.kind, file.mode, file.source, file.content, file.size, file.digest, file.target)


def script_path(step: Step) -> str:
    """Return where a step's SCRIPT section lies, below the session's directory of files."""
    return f"tree{step.script.source.tree}/{step.script.source.inside}"


def _add(tar: tarfile.TarFile, file: File) -> None:
    info = tarfile.TarInfo(file.path)
    info.mode, info.mtime = file.mode, MODIFIED
    if file.kind == "directory":
        info.type = tarfile.DIRTYPE
        # What is below it must be written whoever we are; the runner's user owns it all.
        info.mode |= 0o700
        tar.addfile(info)
    elif file.kind == "link":
        info.type, info.linkname = tarfile.SYMTYPE, file.target
        tar.addfile(info)
    else:
        info.size = file.size
        with _open(file) as content:
            measured = _Measured(content)
            try:
                tar.addfile(info, measured)
            except OSError as error:
                raise _changed(file) from error
            if measured.hash.hexdigest() != file.digest or content.read(1):
                raise _changed(file)


def _open(file: File) -> IO[bytes]:
    if file.source is None:
        return io.BytesIO(file.content)
    try:
        return file.source.open("rb")
    except OSError as error:
        raise _changed(file) from error


def _changed(file: File) -> Refused:
    return Refused(
        f"`{display_path(file.source) if file.source else file.path}` changed while it was deployed", "deploy again"
    )


def content_of(file: File) -> bytes:
    """Return the bytes of a file; raises Refused if they are not those that were planned."""
    with _open(file) as content:
        data = content.read()
    if hashlib.sha256(data).hexdigest() != file.digest:
        raise _changed(file)
    return data


class _Measured:
    """A file that hashes what is read from it: the bytes that are sent are the bytes that were planned."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file, self.hash = file, hashlib.sha256()

    def read(self, size: int = -1) -> bytes:
        data = self.file.read(size)
        self.hash.update(data)
        return data


# --- what the runner reads -----------------------------------------------------------------------


def _shell(**values: str | Iterable[str]) -> bytes:
    """Return bash assignments of texts and lists of texts."""
    lines = []
    for name, value in values.items():
        texts = [value] if isinstance(value, str) else list(value)
        each = tuple(Value((text.encode("utf-8", "surrogateescape"),)) for text in texts)
        lines.append(assignment(Variable(name, not isinstance(value, str), each)))
    return b"".join(lines)


def _marks(step: Step) -> bool:
    return bool(step.flags & {"once", "onchange"}) or b"setdone" in step.script.body


def _yes(condition: bool) -> str:  # noqa: FBT001 - it is the question
    return "yes" if condition else "no"


def _expected_facts(plan: Plan, segment: Segment) -> str:
    """Return what the target must be like. Before a later segment it was asked, see `session`."""
    expected = plan.expected_facts
    return expected.encoded if expected and segment.side == "target" and segment.number == 0 else ""


def _segment(plan: Plan, segment: Segment, session: Session) -> bytes:
    return _shell(
        RUNS_segment_host=plan.host.name,
        RUNS_segment_session=session.identity,
        RUNS_segment_plan=plan.digest,
        RUNS_segment_by=encode_word(session.by),
        RUNS_segment_timeout=str(round(session.timeout * 100)),
        RUNS_segment_patience=str(math.ceil(session.patience)),
        RUNS_segment_wait=str(math.ceil(session.wait)),
        RUNS_segment_detach=_yes(session.detached),
        RUNS_segment_output=str(OUTPUT_KEPT),
        RUNS_segment_steps=[str(step.number) for step in segment.steps],
        RUNS_segment_root=_yes(any("root" in step.flags and step.side == segment.side for step in plan.steps)),
        RUNS_segment_keep_going=_yes(session.keep_going),
        RUNS_segment_last=_yes(segment.last),
        RUNS_segment_returns=segment.returns,
        RUNS_segment_expected_facts=_expected_facts(plan, segment),
        RUNS_segment_marking=[step.script.name for step in segment.steps if _marks(step)],
    )


def _origin(plan: Plan, step: Step, session: Session) -> str:
    """Return what a marker says of where the step came from, besides what the runner adds: lines of it."""
    facts = {"plan": plan.digest, "script": step.script.digest, "by": encode_word(session.by)}
    revisions = session.revisions()
    if step.script.source.tree < len(revisions) and (revision := revisions[step.script.source.tree]):
        facts["revision"] = encode_word(revision)
    return "".join(f"{name} {said}\n" for name, said in facts.items())


def _meta(step: Step, origin: str = "") -> bytes:
    path = script_path(step)
    once = next((flag for flag in ("onchange", "once") if flag in step.flags), "")
    return _shell(
        RUNS_step_number=str(step.number),
        RUNS_step_script=step.script.name,
        RUNS_step_file=path,
        RUNS_step_folder=os.path.dirname(path),  # noqa: PTH120 - a path of another machine
        RUNS_step_digest=step.digest,
        RUNS_step_root=_yes("root" in step.flags),
        RUNS_step_strict=_yes("strict" in step.flags),
        RUNS_step_once=once,
        RUNS_step_origin=origin,
        RUNS_step_outs=step.outs,
        RUNS_step_uses=step.uses,
    )
