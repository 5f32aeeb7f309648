"""What is staged, and whether all holds that always must; processes that write meanwhile."""

from __future__ import annotations

import contextlib
import hashlib
import os
import select
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from runsdeploy.jobs.archive import manifest
from runsdeploy.jobs.archive.manifest import Manifest, Member
from runsdeploy.jobs.staging.scan import Wanted
from runsdeploy.jobs.staging.staging import Staged

Stage = Callable[..., Staged]
ROOT = Path(__file__).parents[2]
FULL = os.environ.get("RUNSDEPLOY_TEST_FULL") == "1"
TIMES = 200 if FULL else 50
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: other users, mounts")


def want(path: object, *, required: bool = False, truncate: bool = False, why: str = "job `test`") -> Wanted:
    return Wanted(os.fsdecode(path), required, truncate, why)  # type: ignore[arg-type]


def check(staged: Staged, folder: Path, when: str, former: Sequence[Member] = ()) -> None:
    paths = [member.path for member in staged.members]
    assert paths == sorted(set(paths))
    assert set(staged.sources) == {member.path for member in staged.members if member.kind == "file"}
    assert sorted(map(str, folder.iterdir())) == sorted(staged.sources.values())
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    for member in staged.members:
        assert member.when == when
        if member.kind == "file":
            content = Path(staged.sources[member.path]).read_bytes()
            assert (member.size, member.sha256) == (len(content), hashlib.sha256(content).hexdigest())
            assert stat.S_IMODE(os.lstat(staged.sources[member.path]).st_mode) == 0o600
    whole = Manifest(1, "0", "id", "host", 0, 1, True, (), {}, {}, (*former, *staged.members))  # noqa: FBT003
    assert manifest.decode(manifest.encode(whole)).members == whole.members
    for message in (*staged.problems, *staged.notes):
        assert message.isprintable()
        assert message[0] == "`"


def kinds(staged: Staged) -> dict[str, str]:
    return {member.path: member.kind for member in staged.members}


def content(staged: Staged, path: object) -> bytes:
    return Path(staged.sources[os.fsdecode(path)]).read_bytes()  # type: ignore[arg-type]


@contextlib.contextmanager
def writer(code: str, *arguments: object) -> Iterator[subprocess.Popen[bytes]]:
    """A process that writes until this ends; it says when it has begun."""
    words = [sys.executable, "-c", f"import os, random, sys, time\n{code}", *map(str, arguments)]
    process = subprocess.Popen(words, stdout=subprocess.PIPE)
    assert process.stdout
    try:
        ready, _, _ = select.select([process.stdout], [], [], 30)
        assert ready
        assert process.stdout.readline() == b"ready\n"
        yield process
        assert process.poll() is None, "the writer died"
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
