"""A script: one file, split at its line `script:` into the CONF section above it and the SCRIPT section below."""

from __future__ import annotations

import hashlib
import re
from functools import cached_property
from pathlib import Path

from msgspec import Struct

from runsdeploy.errors import Position, Problem
from runsdeploy.tree.encoding import bash_encoding_problem, encoding_problem, is_misencoded_script
from runsdeploy.tree.text import open_file, read_text
from runsdeploy.tree.trees import Located

SEPARATOR = re.compile(rb"^script:$", re.MULTILINE)
_DOS_SEPARATOR = re.compile(rb"^script:\r$", re.MULTILINE)

MOST_HEAD = 1 << 20
"""bytes in which a script has its line `script:`, and which a recipe may have"""

CHUNK = 1 << 16
"""bytes that are read at once: a file with a NUL among them, and no line `script:`, is a payload"""

ADD_SEPARATOR = "put a line `script:` above the commands"
"""hint for a file of shell commands"""

_SHEBANG = re.compile(rb"#![^\n]*\b(?:ba|da|k|z|a)?sh\b")
_COMMAND = re.compile(
    rb"^[ \t]*(?:(?:set [-+][a-z]|export \w+=|source |\. |if |for \w+ in |while |case |function |local |trap |cd )"
    rb"|(?:sudo|echo|printf|mkdir|cp|mv|rm|ln|chmod|chown|install|touch|cat|sed|grep|tee|curl|wget|tar|git|useradd|apt|apt-get"
    rb"|dnf|yum|apk|zypper|pacman|pip3?|npm|systemctl|service|docker|test|exit|shouldrun|setdone|urequire|desc|einfo"
    rb"|etitle)(?:[ \t]+[^=\s]|[ \t]*$))"
    rb"|\$\(|[^\n]&&[ \t]|\|\|[ \t]|;[ \t]*(?:then|do)\b|^[ \t]*\w+[ \t]*\(\)[ \t]*\{|^[A-Za-z_]\w*=",
    re.MULTILINE,
)
"""what lines of bash have, and lines of a recipe do not: common commands with an operand, and bash's syntax"""


class Script(Struct, frozen=True, dict=True):
    """A script, read once: the bytes that are planned are the bytes that are shipped."""

    name: str
    """as recipes name it, e.g. `web/nginx`"""
    source: Located
    """the file that it was read from"""
    conf: bytes
    """the CONF section"""
    body: bytes
    """the SCRIPT section, with an empty line for each line above it, so that bash counts lines as an editor does"""

    @property
    def folder(self) -> str:
        """The directory that holds the script, below the root of its tree."""
        return self.source.inside.rpartition("/")[0]

    @property
    def first_line(self) -> int:
        """The number of the first line of the SCRIPT section in the file."""
        return self.conf.count(b"\n") + 2

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the SCRIPT section alone."""
        return hashlib.sha256(self.body[self.first_line - 1 :]).hexdigest()


def is_script(data: bytes) -> bool:
    """Say whether a file has a line that is exactly `script:`, or would have one with unix line ends."""
    return SEPARATOR.search(data) is not None or is_misencoded_script(data)


def read_head(path: Path) -> bytes:
    """Return the beginning of a file, as far as it can be a script or recipe; raises OSError.

    That is up to the line `script:`, to a NUL byte, to the end, or MOST_HEAD bytes, and at most a CHUNK more.
    """
    head = bytearray()
    with open_file(path) as file:
        while len(head) < MOST_HEAD and (chunk := file.read(CHUNK)):
            # The line may have begun in the chunk before.
            before = head.rfind(b"\n") + 1
            head += chunk
            found = SEPARATOR.search(head, before)
            if b"\0" in chunk or (found and found.end() < len(head)):
                break
        else:
            return bytes(head)
    return bytes(head)


def read_script(name: str, source: Located) -> Script | Problem:
    """Read a script, or return the problem why it is none."""
    try:
        data = read_head(source.path)
        # A file with this line is a script, whatever its size.
        if SEPARATOR.search(data):
            data = read_text(source.path)
    except OSError as error:
        return Problem(source.at(), f"cannot read script `{name}`: {(error.strerror or str(error)).lower()}")
    found = SEPARATOR.search(data)
    if found is None:
        return _not_a_script(name, source, data)
    if b"\0" in data:
        line = data.count(b"\n", 0, data.index(b"\0")) + 1
        return Problem(source.at(line), f"script `{name}` holds a NUL byte, expected bash")
    conf, body = data[: found.start()], data[found.end() + 1 :]
    # Each section by itself: a quote without its end in CONF says nothing of SCRIPT.
    wrong = encoding_problem(data, source.shown) or bash_encoding_problem(conf, source.shown)
    wrong = wrong or bash_encoding_problem(body, source.shown, conf.count(b"\n") + 2)
    if wrong:
        return wrong
    return Script(name, source, conf, b"\n" * (conf.count(b"\n") + 1) + body)


def _not_a_script(name: str, source: Located, data: bytes) -> Problem:
    dos = _DOS_SEPARATOR.search(data)
    if dos:
        where: Position = source.at(data.count(b"\n", 0, dos.start()) + 1)
        return Problem(where, f"script `{name}` has DOS line ends, expected unix ones", f"`dos2unix {source.shown}`")
    wrong = encoding_problem(data, source.shown)
    if wrong:
        return wrong
    return Problem(source.at(), *no_separator(name, data, f"if it is a recipe, write `@{name}`"))


def no_separator(name: str, data: bytes, hint: str) -> tuple[str, str]:
    """Return message and hint for a file without a line `script:`; `hint` is for one that may be a recipe."""
    message = f"`{name}` has no line `script:`, so it is not a script"
    return message, ADD_SEPARATOR if holds_commands(data) else hint


def holds_commands(data: bytes) -> bool:
    """Return whether a file without a line `script:` holds shell commands, which no recipe does."""
    return is_shell_program(data) or _COMMAND.search(data) is not None


def is_shell_program(data: bytes) -> bool:
    """Return whether the first line of a file names a shell."""
    return _SHEBANG.match(data) is not None
