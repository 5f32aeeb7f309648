"""Bundles: one segment as bytes, an archive behind a header; and the headers of requests without an archive.

The archive is deterministic: the same plan makes the same bytes, but for the names of the session. A file that
changed since it was planned is refused, not sent.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import re
import tarfile
import tempfile
from collections.abc import Iterator, Sequence
from typing import IO

from msgspec import Struct

from runsdeploy.errors import Refused, display_path, is_limit, writing
from runsdeploy.plan.files import CHUNK, File, content_file, is_behind_link, links_of
from runsdeploy.plan.plan import Plan
from runsdeploy.session.parameters import (
    end_mark,
    expected_facts_of,
    needs_root,
    script_path,
    segment_parameters,
    sets_marker,
    step_parameters,
    step_values,
    yes,
)
from runsdeploy.session.program import bootstrap, call, shell_file
from runsdeploy.session.segment import Segment
from runsdeploy.session.session import Session
from runsdeploy.temporary import place
from runsdeploy.tree.libraries import BUNDLED

MODIFIED = 946684800
"""modification time of all members, 2000-01-01 in seconds of Unix time: tar warns about 1970"""

IN_MEMORY = 8 << 20
"""bytes up to which an archive is kept in memory"""

SOURCED = ("spool.sh", "lock.sh", "sweep.sh", "run_step.sh", "locate.sh", "silence.sh", "runs.sh", "step.sh")
"""files of `shell/` that the runner or a step sources, each with an end mark"""


class Bundle(Struct):
    """The bytes of one request to a target: a segment to start or to follow, or a question."""

    header: bytes
    """the bootstrap program and the header line that it reads"""
    archive: IO[bytes]
    """positioned at its start"""

    def chunks(self) -> Iterator[bytes]:
        """Yield all bytes in the order in which the bootstrap reads them."""
        yield self.header
        while chunk := self.archive.read(CHUNK):
            yield chunk


def question(nonce: str, session: Session, about: str, scope: str, argument: str = "-") -> Bundle:
    """Return the request that asks a machine a question; `about` is one of `answer` in `shell/questions.sh`."""
    return Bundle(_header(nonce, session, about, scope, offset=argument, questions=True), io.BytesIO())


def watch(nonce: str, session: Session, segment: str, scope: str, offset: int) -> Bundle:
    """Return the request for the spool of a started segment, from byte `offset` on."""
    return Bundle(_header(nonce, session, segment, scope, offset=str(offset)), io.BytesIO())


def _header(  # noqa: PLR0913 - one for each word
    nonce: str,
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
    """Return the bootstrap program and the header line; `offset` is the argument of a question."""
    words = [nonce, session.identity, segment, str(length), digest, scope, encoding, offset, yes(marks)]
    return call(bootstrap(questions=questions), *words)


def pack(
    plan: Plan, segment: Segment, session: Session, nonce: str, scope: str = ".", shared: Sequence[File] = ()
) -> Bundle:
    """Make the bundle of a segment; `shared` are the files that it needs from the other side.

    Raises Refused if a file changed after the plan was made.
    """
    with writing(place()):
        return _pack(plan, segment, session, nonce, scope, shared)


def _pack(plan: Plan, segment: Segment, session: Session, nonce: str, scope: str, shared: Sequence[File]) -> Bundle:
    name = f"segment{segment.number}"
    archive: IO[bytes] = tempfile.SpooledTemporaryFile(max_size=IN_MEMORY)  # noqa: SIM115 - the bundle owns it
    with tarfile.open(fileobj=archive, mode="w", format=tarfile.GNU_FORMAT, encoding="utf-8") as tar:
        for member in members(plan, segment, session, shared):
            _add(tar, member)
    encoding = "plain"
    if archive.tell() <= IN_MEMORY:
        # Each doubling of the bytes costs a round trip on a slow link; big files are often compressed already.
        archive.seek(0)
        packed = gzip.compress(archive.read(), compresslevel=6, mtime=0)
        archive.close()
        archive, encoding = io.BytesIO(packed), "gzip"
    length = archive.seek(0, io.SEEK_END)
    archive.seek(0)
    digest = _hash(archive)
    archive.seek(0)
    marks = keeps_state(plan, segment.side)
    head = _header(nonce, session, name, scope, length=length, digest=digest, encoding=encoding, marks=marks)
    return Bundle(head, archive)


def keeps_state(plan: Plan, side: str) -> bool:
    """Return whether steps of a side set markers or keep files: without a place for those, no step must start."""
    return any(sets_marker(step) or step.outs for step in plan.steps if step.side == side)


def _hash(archive: IO[bytes]) -> str:
    found = hashlib.sha256()
    while chunk := archive.read(CHUNK):
        found.update(chunk)
    return found.hexdigest()


def members(plan: Plan, segment: Segment, session: Session, shared: Sequence[File]) -> Iterator[File]:
    """Yield the members of the archive, each path once, directories before their files."""
    run, steps = f"segment{segment.number}/run", segment.steps
    for part in ("runner.sh", "record.sh", "mark.sh"):
        yield content_file(f"{run}/{part}", shell_file(part))
    if needs_root(plan, segment.side):
        # What root runs about the directory of its own markers.
        yield content_file(f"{run}/trust.sh", shell_file("trust.sh"))
    for part in SOURCED:
        yield content_file(f"{run}/{part}", shell_file(part) + end_mark(part))
    if expected_facts_of(plan, segment):
        yield content_file(f"{run}/facts.sh", shell_file("facts.sh"))
    yield content_file(f"{run}/lib/DEFAULTS.sh", shell_file("lib/DEFAULTS.sh"))
    # A library is loaded by name at run time: it is left out only if no script can name it.
    text = b"\n".join([*(step.script.body for step in steps), *(file.content for file in plan.libraries)])
    libraries = [name for name in BUNDLED[2:] if name.encode() in text or re.search(rb"urequire[^\n]*\$", text)]
    for library in [*libraries, "files"] if libraries else []:
        yield content_file(f"{run}/lib/{library}.sh", shell_file(f"lib/{library}.sh"))
    for file in plan.libraries:
        yield content_file(f"{run}/tree/{file.path.removeprefix('lib/')}", file.content)
    yield content_file(f"{run}/segment.sh", segment_parameters(plan, segment, session))
    for step in steps:
        yield content_file(f"{run}/step/{step.number}/meta.sh", step_parameters(plan, step, session))
        yield content_file(f"{run}/step/{step.number}/values.sh", step_values(step))
    files = {f"files/{file.path}": file for file in _referenced(plan, segment)}
    files |= {f"files/{script_path(step)}": content_file("", step.script.body) for step in steps}
    files |= {f"files/shared/{file.path}": file for file in shared}
    for path in sorted(files):
        file = files[path]
        yield File(path, file.kind, file.mode, file.source, file.content, file.size, file.digest, file.target)


def _referenced(plan: Plan, segment: Segment) -> Iterator[File]:
    """Yield the files that the steps of a segment refer to, without those behind a link that is shipped.

    Such a file is at the end of the link, see `_link_problems` of the resolver; another step may be the one to ship it.
    """
    here = [step for step in plan.steps if step.side == segment.side]
    links = links_of(file for step in here for file in step.files)
    behind = links and any(is_behind_link(file, links) for step in segment.steps for file in step.files)
    for step in here if behind else segment.steps:
        yield from (file for file in step.files if not behind or not is_behind_link(file, links))


def _add(tar: tarfile.TarFile, file: File) -> None:
    info = tarfile.TarInfo(file.path)
    info.mode, info.mtime = file.mode, MODIFIED
    if file.kind == "directory":
        info.type = tarfile.DIRTYPE
        # Its files must be written by any user; the runner's user owns them all.
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
                # The archive may have no space.
                if is_limit(error):
                    raise
                raise _changed(file) from error
            if measured.hash.hexdigest() != file.digest or content.read(1):
                raise _changed(file)


def _open(file: File) -> IO[bytes]:
    if file.source is None:
        return io.BytesIO(file.content)
    try:
        return file.source.open("rb")
    except FileNotFoundError as error:
        raise _changed(file) from error


def _changed(file: File) -> Refused:
    return Refused(
        f"`{display_path(file.source) if file.source else file.path}` changed while it was deployed", "deploy again"
    )


def content_of(file: File) -> bytes:
    """Return the bytes of a file; raises Refused if they changed after the plan was made."""
    with _open(file) as content:
        data = content.read()
    if hashlib.sha256(data).hexdigest() != file.digest:
        raise _changed(file)
    return data


class _Measured:
    """A file that hashes the bytes read from it: the bytes sent must be the bytes planned."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file, self.hash = file, hashlib.sha256()

    def read(self, size: int = -1) -> bytes:
        data = self.file.read(size)
        self.hash.update(data)
        return data
