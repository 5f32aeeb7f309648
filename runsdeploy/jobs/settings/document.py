"""A strict JSON parser that keeps the position of every value; what `json` tolerates is an error here (J7)."""

import bisect
import json.decoder
import os
import re
import stat
from typing import Any, Dict, Iterator, List, NamedTuple, Tuple

from ..disk import trust
from ..errors import BadInput, Problem, reason

LARGEST = 1024 * 1024
"""bytes of a text"""
DEEPEST = 32
"""levels of nesting"""
LONGEST_NUMBER = 40
"""characters of a number; Python takes seconds to convert a million digits"""

_SPACE = re.compile(r"[ \t\n\r]*")
_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][-+]?[0-9]+)?")
_TOKEN = re.compile(r"[\w.+-]{1,20}|[^\n]")
_WORDS = {"true": True, "false": False, "null": None}
_KINDS = {dict: "an object", list: "a list", str: "a text", bool: "true or false", int: "a number", float: "a number"}


class Value(NamedTuple):
    """One JSON value, with its position."""

    content: Any
    """None, bool, int, float, str, a list of Values or a dict of str and Value"""
    line: int
    column: int

    @property
    def kind(self) -> str:
        """The JSON type in words."""
        return _KINDS.get(type(self.content), "null")


class Document(NamedTuple):
    """A JSON file whose root is an object."""

    file: str
    """name of the file in messages"""
    root: Dict[str, Value]

    def problem(self, value: Value, key: str, message: str, hint: str = "") -> Problem:
        """Return a problem at the position of a value."""
        return Problem(self.file, value.line, value.column, key, message, hint)


def read(path: str) -> Tuple[Document, os.stat_result]:
    """Read a file once, following links; return its document and its status; raises BadInput.

    Nothing of a file that another account could have written or replaced is read: it decides what runs (S8, S15).
    """
    found = trust.problems(path)
    if found:
        raise BadInput(found)
    data, status = _bytes(path)
    return parse(data, path), status


def _bytes(path: str) -> Tuple[bytes, os.stat_result]:
    try:
        # O_NONBLOCK: a fifo in place of the file must not block the run.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(descriptor, "rb") as file:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise BadInput([Problem(path, 0, 0, "", "not a regular file")])
            data = file.read(LARGEST + 1)
            after = os.fstat(descriptor)
            # The start of one version and the end of the next can be a valid document that nobody wrote.
            if (after.st_size, after.st_mtime_ns) != (status.st_size, status.st_mtime_ns):
                raise BadInput([Problem(path, 0, 0, "", "changed while it was read: try again")])
    except OSError as error:
        hint = f"it is a link to `{os.readlink(path)}`" if os.path.islink(path) else ""
        raise BadInput([Problem(path, 0, 0, "", f"cannot read: {reason(error)}", hint)]) from None
    if len(data) > LARGEST:
        raise BadInput([Problem(path, 0, 0, "", f"more than {LARGEST} bytes, expected a few lines")])
    return data, status


def parse(data: bytes, file: str) -> Document:
    """Parse a document; raises BadInput with the positions of all problems."""
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before = data[: error.start]
        line, column = before.count(b"\n") + 1, error.start - (before.rfind(b"\n") + 1) + 1
        raise BadInput([Problem(file, line, column, "", "not UTF-8: save the file as UTF-8")]) from None
    reader = _Reader(text, file)
    root = reader.document()
    if reader.problems:
        raise BadInput(reader.problems)
    return Document(file, root)


class _Reader:
    """Parses one text from left to right."""

    def __init__(self, text: str, file: str) -> None:
        self.text, self.file, self.at = text, file, 0
        self._lines = [match.end() for match in re.finditer("\n", text)]
        self.problems: List[Problem] = []
        """problems that do not stop the parser"""

    def document(self) -> Dict[str, Value]:
        value = self._value(0, "")
        if self._next():
            self._fail(f"found `{self._found()}` after the end, expected nothing")
        if not isinstance(value.content, dict):
            message = f"found {value.kind}, expected an object"
            raise BadInput([Problem(self.file, value.line, value.column, "", message)])
        return value.content

    def _position(self, at: int) -> Tuple[int, int]:
        line = bisect.bisect_right(self._lines, at)
        return line + 1, at - (self._lines[line - 1] if line else 0) + 1

    def _fail(self, message: str, at: int = -1) -> Any:
        line, column = self._position(self.at if at < 0 else at)
        raise BadInput([*self.problems, Problem(self.file, line, column, "", message)])

    def _found(self) -> str:
        match = _TOKEN.match(self.text, self.at)
        return ascii(match.group())[1:-1] if match else "the end"

    def _next(self) -> str:
        """Skip white space; return the next character, empty at the end."""
        match = _SPACE.match(self.text, self.at)
        self.at = match.end() if match else self.at
        return self.text[self.at : self.at + 1]

    def _value(self, depth: int, key: str) -> Value:
        first = self._next()
        line, column = self._position(self.at)
        if depth > DEEPEST:
            self._fail(f"nested deeper than {DEEPEST} levels")
        if first == "{":
            content: Any = self._object(depth, key)
        elif first == "[":
            content = [self._value(depth + 1, f"{key}[{number}]") for number in self._items("]")]
        elif first == '"':
            content = self._text()
        else:
            content = self._scalar()
        return Value(content, line, column)

    def _object(self, depth: int, above: str) -> Dict[str, Value]:
        found: Dict[str, Value] = {}
        for _ in self._items("}"):
            if self._next() != '"':
                self._fail(f"found `{self._found()}`, expected a name in double quotes")
            start = self.at
            name = self._text()
            key = f"{above}.{name}" if above else name
            if self._next() != ":":
                self._fail(f"found `{self._found()}` after the name `{name}`, expected `:`")
            self.at += 1
            value = self._value(depth + 1, key)
            if name in found:
                message = f"duplicate key, first in line {found[name].line}"
                self.problems.append(Problem(self.file, *self._position(start), key, message))
            found[name] = value
        return found

    def _items(self, end: str) -> Iterator[int]:
        """Go through an object or a list; yield the number of each item, at which the parser stands then."""
        self.at += 1
        number, mark = 0, end if self._next() == end else ","
        while mark == ",":
            yield number
            number += 1
            mark = self._next()
            if mark not in (",", end) or not mark:
                self._fail(f"found `{self._found()}`, expected `,` or `{end}`")
            if mark == ",":
                self.at += 1
                if self._next() == end:
                    self._fail(f"found `{end}` after a comma, expected another value")
        self.at += 1

    def _text(self) -> str:
        start = self.at
        try:
            text, self.at = json.decoder.scanstring(self.text, start + 1)  # type: ignore[attr-defined]
        except json.JSONDecodeError as error:
            self._fail(f"text cannot be read: {error.msg.lower()}", error.pos)
        try:
            text.encode()
        except UnicodeEncodeError:
            self._fail("text with half a surrogate pair", start)
        return str(text)

    def _scalar(self) -> Any:
        for word, content in _WORDS.items():
            if self.text.startswith(word, self.at):
                self.at += len(word)
                return content
        match = _NUMBER.match(self.text, self.at)
        if not match:
            self._fail(f"found `{self._found()}`, expected a value")
            return None
        if len(match.group()) > LONGEST_NUMBER:
            self._fail("number with too many digits")
        number = match.group()
        value = int(number) if number.lstrip("-").isdigit() else float(number)
        if value in (float("inf"), float("-inf")):
            self._fail(f"number `{number}` is too large")
        self.at = match.end()
        return value
