"""Recipes: files of lines `script operations...`, parsed into entries with their positions.

Words are quoted as in a POSIX shell, and nothing is expanded. An indented line is one call of `var` for the script
above it. A problem does not end the parsing: all problems of a file are found.
"""

from __future__ import annotations

import codecs
import re
import shlex
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable, Iterator

from msgspec import Struct, field
from msgspec.structs import replace

from runsdeploy.errors import Position, Problem
from runsdeploy.tree.composition import composed
from runsdeploy.tree.encoding import CARRIAGE_RETURN, encoding_problem
from runsdeploy.tree.trees import name_problem

VARIABLE = r"[A-Za-z_][A-Za-z0-9_]*"

RESERVED = (
    r"(BASH.*|RUNS.*|COMP_.*|EPOCH.*|FUNCNEST|LD_.*|LC_.*|PS[0-4]|OPT(ARG|IND|ERR)|(OLD)?PWD|E?UID|PPID|PATH|IFS|ENV|_"
    r"|CDPATH|DIRSTACK|EXECIGNORE|FIGNORE|FUNCNAME|GLOBIGNORE|GROUPS|HIST.*|LINENO|MAPFILE|PIPESTATUS"
    r"|POSIXLY_CORRECT|RANDOM|REPLY|SECONDS|SHELLOPTS|SHLVL|SRANDOM|TIMEFORMAT|TMOUT|PROMPT_COMMAND|IGNOREEOF)"
)
"""variables that bash sets, reserves or obeys (bash(1), Shell Variables), and those of runsdeploy"""

_OPERATION_SIGN = re.compile(rf"{VARIABLE}(\+=|-=|=|:)")
_OPERATION = re.compile(rf"(?P<name>{VARIABLE})(?P<kind>\+=|-=|=)?(?P<value>.*)\Z", re.DOTALL)


class Word(Struct, frozen=True):
    """One word of a recipe, quotes removed."""

    text: str
    """bytes that are not UTF-8 are surrogates in it"""
    position: Position


class Operation(Struct, frozen=True):
    """One change of one variable."""

    name: str
    kind: str
    """`=` sets, `+=` appends, `-=` removes, `()` makes an array of the values"""
    values: tuple[bytes, ...]
    """exactly one, except for `()`"""
    position: Position


class Entry(Struct, frozen=True):
    """One script line of a recipe with its indented lines, or one `@include`."""

    name: str
    """a script, or `@recipe`"""
    operations: tuple[Operation, ...]
    position: Position


class _Line(Struct):
    words: list[Word]
    indented: bool
    problems: list[Problem] = field(default_factory=list)


def parse_recipe(data: bytes, file: str) -> tuple[list[Entry], list[Problem]]:
    """Return the entries of a recipe and all its problems; `file` names it in positions."""
    entries: list[Entry] = []
    below: defaultdict[int, list[Operation]] = defaultdict(list)
    """The operations of indented lines, by the index of their entry."""
    problems: list[Problem] = []
    misread = encoding_problem(data, file)
    if misread:
        problems.append(misread)
        if not data.startswith(codecs.BOM_UTF8):
            return [], problems
        data = data[len(codecs.BOM_UTF8) :]
    dos = False
    for line in _lines(data, file):
        # One is enough of a file with DOS line ends.
        problems += [each for each in line.problems if not (dos and each.message == CARRIAGE_RETURN)]
        dos = dos or any(each.message == CARRIAGE_RETURN for each in line.problems)
        if not line.words:
            continue
        if line.problems:
            # The indented lines below it still belong to it.
            entries += [] if line.indented else [Entry(composed(line.words[0].text), (), line.words[0].position)]
            continue
        if line.indented and not entries:
            message = "indented line without a script above it"
            problems.append(Problem(line.words[0].position, message))
        elif line.indented:
            operations, wrong = parse_call(line.words)
            below[len(entries) - 1] += operations
            problems += _one_problem(wrong, repaired(line.words, script=False))
        else:
            entry, wrong = _entry(line.words)
            entries.append(entry)
            problems += wrong
    for number, operations in below.items():
        last = entries[number]
        entries[number] = Entry(last.name, (*last.operations, *operations), last.position)
    return entries, problems + [p for entry in entries for p in _include_problems(entry)]


def _entry(words: list[Word]) -> tuple[Entry, list[Problem]]:
    head, *rest = words
    operations, problems = parse_operations(rest)
    better = repaired(words)
    name = head.text
    if better and name in _BULLETS:
        # As in a list of YAML or Markdown.
        name, operations, problems = (
            better[0],
            [],
            [Problem(head.position, f"unknown script `{head.text}`", _write(better))],
        )
    problems = _one_problem(problems, better)
    wrong = name_problem(name.removeprefix("@"))
    if wrong:
        problems.insert(0, Problem(head.position, wrong))
    return Entry(composed(name), tuple(operations), head.position), problems


_BULLETS = ("-", "*", "+")


def _one_problem(problems: list[Problem], better: list[str] | None) -> list[Problem]:
    """Return one problem instead of one for each bad word, if the line as it was probably meant is known."""
    bad = [each for each in problems if each.message.startswith("bad operation")]
    if not better or not bad:
        return problems
    one = Problem(bad[0].position, bad[0].message, _write(better))
    return [one, *(each for each in problems if each not in bad)]


def _write(texts: list[str]) -> str:
    return f"write `{shlex.join(texts).replace(chr(39) * 2, '')}`"


def repaired(words: list[Word], *, script: bool = True) -> list[str] | None:
    """Return the words of a line as they were probably meant: `a port = 80`, `a port: 80` or `- a`; None if not known.

    The line begins with a script, unless `script` is False.
    """
    texts = [word.text for word in words]
    while texts and texts[0] in _BULLETS:
        texts.pop(0)
    found = [texts.pop(0).removesuffix(":")] if script and texts else []
    while texts:
        text = texts.pop(0)
        spaced = re.fullmatch(rf"({VARIABLE})(=|\+=|-=|:=?)?", text)
        if spaced and texts and not spaced[2] and re.match(r"(\+=|-=|:=|==?|:)", texts[0]):
            sign, value = re.match(r"(\+=|-=|:=|==?|:)(.*)", texts.pop(0), re.DOTALL).groups()  # type: ignore[union-attr]
        elif spaced and (spaced[2] or (texts and script and not re.match(VARIABLE, texts[0]))):
            sign, value = spaced[2] or "=", ""
        else:
            found.append(re.sub(rf"^({VARIABLE}):=?(?=[^=])", r"\1=", text))
            continue
        if not value and texts and not _OPERATION_SIGN.match(texts[0]):
            value = texts.pop(0)
        found.append(f"{spaced[1]}{sign if sign in ('+=', '-=') else '='}{value}")
    operations = (_OPERATION.match(each) for each in found[script:])
    changed = found != [word.text for word in words]
    fine = bool(found) and all(each and (each["kind"] or not each["value"]) for each in operations)
    return found if changed and fine and not (script and name_problem(found[0].removeprefix("@"))) else None


def _include_problems(entry: Entry) -> Iterator[Problem]:
    if entry.name.startswith("@") and entry.operations:
        found = entry.operations[0]
        yield Problem(found.position, f"`{entry.name}` takes no operations, found one on `{found.name}`")


def parse_operations(words: Iterable[Word]) -> tuple[list[Operation], list[Problem]]:
    """Return the operations of words, one each, and problems."""
    operations: list[Operation] = []
    problems: list[Problem] = []
    for word in words:
        parsed = _operation(word)
        (operations if isinstance(parsed, Operation) else problems).append(parsed)  # type: ignore[arg-type]
    return operations, problems


def parse_call(words: list[Word]) -> tuple[list[Operation], list[Problem]]:
    """Return the operations of one call of `var`, `name values...` or one operation a word, and problems."""
    head, *rest = words
    if not re.fullmatch(VARIABLE, head.text):
        return parse_operations(words)
    parsed = _operation(head)
    if isinstance(parsed, Problem):
        return [], [parsed]
    return [Operation(parsed.name, "()", tuple(_encode(word.text) for word in rest), head.position)], []


def parse_argument(text: str, position: Position) -> tuple[list[Operation], list[Problem]]:
    """Return the operations of a text in which a shell has removed quotes already, and problems.

    `name=value` is one operation, whose value is all of the rest, byte for byte. `name value...` is one call of `var`,
    with words as on the line of a recipe, but for comments.
    """
    if not re.match(rf"{VARIABLE}[ \t]", text):
        return parse_operations([Word(text, position)])
    if re.match(rf"{VARIABLE}[ \t]+[+-]?=", text):
        return [], [Problem(position, f"bad operation `{text}`: blank before `=`, expected `name=value`")]
    lexer = _Lexer(text, position.file, comments=False)
    line = lexer.line()
    if lexer.at < len(text):
        line.problems.append(Problem(position, f"`{text}` has more than one line, expected the words of one"))
    if line.problems:
        return [], [replace(problem, position=position) for problem in line.problems]
    return parse_call([Word(word.text, position) for word in line.words])


def _operation(word: Word) -> Operation | Problem:
    match = _OPERATION.match(word.text)
    if not match or (not match["kind"] and match["value"]):
        message = f"bad operation `{word.text}`, expected `name=value`, `name+=value`, `name-=value` or `name`"
        return Problem(word.position, message)
    if re.fullmatch(RESERVED, match["name"]):
        return Problem(word.position, f"variable `{match['name']}` is reserved: a script needs it as bash sets it")
    values = (_encode(match["value"]),) if match["kind"] else ()
    return Operation(match["name"], match["kind"] or "()", values, word.position)


def _encode(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def _lines(data: bytes, file: str) -> Iterator[_Line]:
    """Split a recipe into logical lines; a quoted newline belongs to its word."""
    text = data.decode("utf-8", "surrogateescape")
    lexer = _Lexer(text, file)
    while lexer.at < len(text):
        yield lexer.line()


class _Lexer:
    """The lexer of recipes: a position in the text that moves forward word by word."""

    def __init__(self, text: str, file: str, *, comments: bool = True) -> None:
        self.text, self.file, self.at, self.comments = text, file, 0, comments
        self.starts = [0, *(found.end() for found in re.finditer("\n", text))]

    def position(self, at: int) -> Position:
        line = bisect_right(self.starts, at)
        return Position(self.file, line, at - self.starts[line - 1] + 1)

    def line(self) -> _Line:
        """Read one logical line, including its newline."""
        line = _Line([], indented=self.text[self.at] in " \t")
        while self.at < len(self.text):
            char = self.text[self.at]
            if char == "\n":
                self.at += 1
                break
            if char in " \t":
                self.at += 1
            elif self.text.startswith("\\\n", self.at):
                self.at += 2
            elif char == "#" and self.comments:
                self.at = self._end_of_line()
            else:
                self._word(line)
        return line

    def _end_of_line(self) -> int:
        end = self.text.find("\n", self.at)
        return len(self.text) if end < 0 else end

    def _word(self, line: _Line) -> None:
        start, parts = self.at, [""]
        while self.at < len(self.text) and self.text[self.at] not in " \t\n":
            parts.append(self._part(line))
        # A carriage return that belongs to the word is quoted, or has a backslash before it.
        end, ends = self.text[start : self.at], self.text[self.at : self.at + 1] in ("\n", "")
        dos = ends and parts[-1] == "\r" and end.endswith("\r") and not end.endswith("\\\r")
        word = Word("".join(parts[:-1] if dos else parts), self.position(start))
        if dos:
            line.problems.append(Problem(word.position, CARRIAGE_RETURN, f"`dos2unix {self.file}`"))
        if not dos or self.at - start > 1:
            line.words.append(word)
        if "\0" in word.text:
            line.problems.append(Problem(word.position, "NUL byte, which no bash variable can hold"))

    def _part(self, line: _Line) -> str:
        """Read one quoted or plain character of a word."""
        char = self.text[self.at]
        if char == "'":
            return self._until_quote(line)
        if char == '"':
            return self._double_quoted(line)
        self.at += 1
        if char != "\\":
            return char
        if self.at == len(self.text):
            line.problems.append(Problem(self.position(self.at - 1), "backslash at the end of the file"))
            return ""
        self.at += 1
        return "" if self.text[self.at - 1] == "\n" else self.text[self.at - 1]

    def _until_quote(self, line: _Line) -> str:
        start = self.at
        end = self.text.find("'", start + 1)
        if end < 0:
            return self._unterminated(line, start, "'")
        self.at = end + 1
        return self.text[start + 1 : end]

    def _double_quoted(self, line: _Line) -> str:
        start = self.at
        parts: list[str] = []
        self.at += 1
        while self.at < len(self.text):
            char = self.text[self.at]
            self.at += 1
            if char == '"':
                return "".join(parts)
            if char == "\\" and self.at < len(self.text) and self.text[self.at] in '\\"$`\n':
                char = self.text[self.at].replace("\n", "")
                self.at += 1
            parts.append(char)
        return self._unterminated(line, start, '"')

    def _unterminated(self, line: _Line, start: int, quote: str) -> str:
        line.problems.append(Problem(self.position(start), f"quote {quote} without its end"))
        # Continue with the next line: one missing quote must not hide the problems below it.
        self.at = start
        self.at = self._end_of_line()
        return ""
