"""Lexer: splits bash text into words and operators (POSIX, XCU 2.3; bash(1), QUOTING). Words keep their quotes."""

from __future__ import annotations

import re

from msgspec import Struct

GUARDS = re.compile(r"\b(?:shouldrun|setdone|resetdone)\b")
"""the functions of `shell/runs.sh` that read or write markers"""

BROKEN = "\0"
"""text of the token after the last good one: no command ends with it, so none that it cuts is taken for a whole one"""


class Undetermined(Exception):
    """Static analysis cannot determine what a text does; the message gives the reason."""


def tokenize(text: str) -> list[Token]:
    """Return the tokens of a text without comments and here-documents; raises Undetermined for broken quoting."""
    return _Lexer(text).tokens()


def tokenize_beginning(text: str) -> tuple[list[Token], str]:
    """Return the tokens up to the first broken quoting, and what is broken; empty if nothing is.

    Bash runs a section command by command: what stands above the broken place still tells what the section does.
    """
    lexer = _Lexer(text)
    try:
        return lexer.tokens(), ""
    except Undetermined as undetermined:
        return [*lexer.found, Token(BROKEN, lexer.line, operator=True)], str(undetermined)


_OPERATOR = re.compile(r"&&|\|\||;;&|;;|;&|\|&|&>>|&>|<<<|<<-|<<|>>|<&|>&|>\||<>|[;&|()<>\n]")
REDIRECTIONS = frozenset({"<", ">", ">>", "<<", "<<-", "<<<", "<&", ">&", ">|", "<>", "&>", "&>>"})
_DESCRIPTOR = re.compile(r"(\d+|\{\w+\})\Z")
_ASSIGNMENT = re.compile(r"\w+(\[[^\]]*\])?\+?=\Z")


class Token(Struct, frozen=True):
    """A word or an operator."""

    text: str
    line: int
    """from 1"""
    operator: bool


class _Lexer:
    def __init__(self, text: str) -> None:
        self.text, self.at, self.line = text, 0, 1
        self.found: list[Token] = []
        self.pending: list[tuple[str, bool]] = []
        """here-documents that start on the next line: the delimiter, and whether leading tabs are stripped (`<<-`)"""

    def tokens(self) -> list[Token]:  # noqa: C901 - one branch for each kind of token
        while self.at < len(self.text):
            begin, char = self.at, self.text[self.at]
            if char in " \t\r":
                self.at += 1
            elif char == "\\" and self.text.startswith("\\\n", self.at):
                self.at += 2
            elif char == "#":
                end = self.text.find("\n", self.at)
                self.at = end if end >= 0 else len(self.text)
            elif self.text.startswith("((", self.at):
                self._skip_balanced("(", ")")
                if not self.text.startswith("))", self.at - 2):
                    raise Undetermined("`((` is not arithmetic")
                self._add(begin, operator=False)
            elif (found := _OPERATOR.match(self.text, self.at)) and not self.text.startswith(("<(", ">("), self.at):
                self.at = found.end()
                self._add(begin, operator=True)
                if char == "\n":
                    self._skip_here_documents()
            else:
                self._skip_word()
                # The `2` of `2>file` is a file descriptor, no argument.
                if not (
                    self.text[self.at : self.at + 1] in ("<", ">") and _DESCRIPTOR.match(self.text[begin : self.at])
                ):
                    self._add(begin, operator=False)
            self.line += self.text.count("\n", begin, self.at)
        if self.pending:
            raise Undetermined("a here-document has no end")
        return self.found

    def _add(self, begin: int, *, operator: bool) -> None:
        token = Token(self.text[begin : self.at], self.line, operator)
        if self.found and self.found[-1].operator and self.found[-1].text in ("<<", "<<-"):
            self.pending.append((re.sub(r"[\\'\"]", "", token.text), self.found[-1].text == "<<-"))
        self.found.append(token)

    def _skip_here_documents(self) -> None:
        for delimiter, tabs in self.pending:
            found = re.compile(rf"^{r'	*' if tabs else ''}{re.escape(delimiter)}$", re.MULTILINE).search(
                self.text, self.at
            )
            if not found:
                raise Undetermined("a here-document has no end")
            check_substitutions(self.text[self.at : found.start()])
            self.at = min(found.end() + 1, len(self.text))
        self.pending = []

    def _skip_word(self) -> None:
        begin = self.at
        while self.at < len(self.text):
            char = self.text[self.at]
            if char == "(" and _ASSIGNMENT.match(self.text[begin : self.at]):
                self._skip_balanced("(", ")")
            elif char in "<>" and self.at == begin:
                self.at += 1
                self._skip_balanced("(", ")")
            elif char in " \t\n;&|()<>":
                return
            else:
                self._skip_part()

    def _skip_part(self) -> None:
        """Skip one quoted string, expansion or character of a word."""
        char = self.text[self.at]
        if char == "'":
            end = self.text.find("'", self.at + 1)
            if end < 0:
                raise Undetermined("a quote has no end")
            self.at = end + 1
        elif char == '"':
            self._skip_double_quotes()
        elif char == "`":
            self._skip_quotes("`")
        elif char == "$":
            self._skip_expansion()
        else:
            self.at += 2 if char == "\\" else 1

    def _skip_quotes(self, end: str) -> None:
        """Skip quotes in which a backslash escapes: backquotes and `$'…'`."""
        found = re.compile(rf"[^\\{end}]*(?:\\.[^\\{end}]*)*{end}", re.DOTALL).match(self.text, self.at + 1)
        if not found:
            raise Undetermined("a quote has no end")
        self.at = found.end()

    def _skip_double_quotes(self) -> None:
        self.at += 1
        while self.at < len(self.text):
            char, following = self.text[self.at], self.text[self.at + 1 : self.at + 2]
            if char == '"':
                self.at += 1
                return
            if char == "'" or (char == "$" and following in ("'", '"')):
                self.at += 1
            else:
                self._skip_part()
        raise Undetermined("a quote has no end")

    def _skip_expansion(self) -> None:
        following = self.text[self.at + 1 : self.at + 2]
        self.at += 1
        if following == "'":
            self._skip_quotes("'")
        elif following == '"':
            self._skip_double_quotes()
        elif following == "(":
            self._skip_balanced("(", ")")
        elif following == "{":
            self._skip_balanced("{", "}")

    def _skip_balanced(self, opening: str, closing: str) -> None:
        depth = 0
        while self.at < len(self.text):
            char = self.text[self.at]
            if char in (opening, closing):
                depth += 1 if char == opening else -1
                self.at += 1
                if not depth:
                    return
            else:
                self._skip_part()
        raise Undetermined(f"`{opening}` has no end")


def check_substitutions(text: str) -> None:
    """Raise Undetermined for a text whose command or process substitutions may call a guard."""
    if GUARDS.search(text) and re.search(r"\$\(|`|[<>]\(", text):
        raise Undetermined("a substitution calls `shouldrun`, `setdone` or `resetdone`")
