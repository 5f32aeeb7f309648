"""Programs for a target: bash files of the package as one text, and the constant line that reads and runs it."""

from __future__ import annotations

from functools import cache
from pathlib import Path

COMMAND = (
    "exec /bin/sh -c 'unset -f read dd [; PATH=$PATH:/usr/bin:/bin; read -r _ n"
    ' && p=$(dd ibs=1 obs=65536 count="$n" 2>/dev/null)'
    ' && [ "${#p}" -eq "$n" ] && eval "$p" && main\''
)
"""the command of every channel; sh, csh and fish parse it alike. It reads the program from its input and runs none of
it unless all of it arrived; `dd` reads single bytes, so the bytes behind the program stay in the channel."""

SHELL = Path(__file__).parents[1] / "shell"
"""the directory of our bash files"""


@cache
def shell_file(name: str) -> bytes:
    """Return a bash file of the package."""
    return (SHELL / name).read_bytes()


@cache
def bootstrap(*, questions: bool = False) -> bytes:
    """Return the bootstrap program, on demand with the answers to questions (`shell/questions.sh`)."""
    return program("bootstrap.sh", "state.sh", "trust.sh", "sweep.sh", *(["questions.sh", "facts.sh"] if questions else []))


@cache
def program(*names: str) -> bytes:
    """Return bash files of the package as one program, without comments and indentation: it is read byte by byte."""
    lines = (line.strip() for name in names for line in shell_file(name).splitlines())
    return b"\n".join(line for line in lines if line and not line.startswith(b"#"))


def call(text: bytes, *words: str) -> bytes:
    """Return the input with which COMMAND runs a program; its `main` reads these words as one line."""
    return b"exit %d\n" % len(text) + text + " ".join(words).encode() + b"\n"
