"""Tokens: the words and operators of a bash text, as they are written (POSIX, XCU 2.3; bash(1), QUOTING)."""

from __future__ import annotations

import re

from msgspec import Struct

GUARDS = re.compile(r"\b(?:shouldrun|setdone|resetdone)\b")


class Unclear(Exception):
    """Something that cannot be followed; says why."""


def scan(text: str) -> list[Token]:
    """Return the tokens of a text, comments and here-documents left out; raises Unclear."""
    return _Scanner(text).tokens()


_OPERATOR = re.compile(r"&&|\|\||;;&|;;|;&|\|&|&>>|&>|<<<|<<-|<<|>>|<&|>&|>\||<>|[;&|()<>\n]")
REDIRECTIONS = frozenset({"<", ">", ">>", "<<", "<<-", "<<<", "<&", ">&", ">|", "<>", "&>", "&>>"})
_DESCRIPTOR = re.compile(r"(\d+|\{\w+\})\Z")
_ASSIGNED = re.compile(r"\w+(\[[^\]]*\])?\+?=\Z")


class Token(Struct, frozen=True):
    """A word or an operator."""

    text: str
    line: int
    operator: bool


class _Scanner:
    def __init__(self, text: str) -> None:
        self.text, self.at, self.line = text, 0, 1
        self.found: list[Token] = []
        self.waiting: list[tuple[str, bool]] = []
        """delimiters of here-documents that follow the line, and whether tabs before them go"""

    def tokens(self) -> list[Token]:  # noqa: C901 - one line for each kind
        while self.at < len(self.text):
            begin, char = self.at, self.text[self.at]
            if char in " \t\r":
                self.at += 1
            elif char == "\\" and self.text.startswith("\\\n", self.at):
                self.at += 2
            elif char == "#":
                self.at = self._find("\n", self.at, otherwise=len(self.text))
            elif self.text.startswith("((", self.at):
                self._balance("(", ")")
                if not self.text.startswith("))", self.at - 2):
                    raise Unclear("parentheses in parentheses")
                self._add(begin, operator=False)
            elif (found := _OPERATOR.match(self.text, self.at)) and not self.text.startswith(("<(", ">("), self.at):
                self.at = found.end()
                self._add(begin, operator=True)
                if char == "\n":
                    self._here_documents()
            else:
                self._word()
                # `2` of `2>file` is no argument.
                if not (
                    self.text[self.at : self.at + 1] in ("<", ">") and _DESCRIPTOR.match(self.text[begin : self.at])
                ):
                    self._add(begin, operator=False)
            self.line += self.text.count("\n", begin, self.at)
        if self.waiting:
            raise Unclear("a here-document without its end")
        return self.found

    def _add(self, begin: int, *, operator: bool) -> None:
        token = Token(self.text[begin : self.at], self.line, operator)
        if self.found and self.found[-1].operator and self.found[-1].text in ("<<", "<<-"):
            self.waiting.append((re.sub(r"[\\'\"]", "", token.text), self.found[-1].text == "<<-"))
        self.found.append(token)

    def _here_documents(self) -> None:
        for delimiter, tabs in self.waiting:
            found = re.compile(rf"^{r'	*' if tabs else ''}{re.escape(delimiter)}$", re.MULTILINE).search(
                self.text, self.at
            )
            if not found:
                raise Unclear("a here-document without its end")
            check_substitutions(self.text[self.at : found.start()])
            self.at = min(found.end() + 1, len(self.text))
        self.waiting = []

    def _find(self, what: str, begin: int, otherwise: int | None = None) -> int:
        found = self.text.find(what, begin)
        if found < 0 and otherwise is None:
            raise Unclear(f"{what} that has no end")
        return found if found >= 0 else otherwise or 0

    def _word(self) -> None:
        begin = self.at
        while self.at < len(self.text):
            char = self.text[self.at]
            if char == "(" and _ASSIGNED.match(self.text[begin : self.at]):
                self._balance("(", ")")
            elif char in "<>" and self.at == begin:
                self.at += 1
                self._balance("(", ")")
            elif char in " \t\n;&|()<>":
                return
            else:
                self._piece()

    def _piece(self) -> None:
        """Go behind one quoted piece, expansion or character."""
        char = self.text[self.at]
        if char == "'":
            self.at = self._find("'", self.at + 1) + 1
        elif char == '"':
            self._double()
        elif char == "`":
            self._escaped("`")
        elif char == "$":
            self._dollar()
        else:
            self.at += 2 if char == "\\" else 1

    def _escaped(self, end: str) -> None:
        found = re.compile(rf"[^\\{end}]*(?:\\.[^\\{end}]*)*{end}", re.DOTALL).match(self.text, self.at + 1)
        if not found:
            raise Unclear("a quote that has no end")
        self.at = found.end()

    def _double(self) -> None:
        self.at += 1
        while self.at < len(self.text):
            char, following = self.text[self.at], self.text[self.at + 1 : self.at + 2]
            if char == '"':
                self.at += 1
                return
            if char == "'" or (char == "$" and following in ("'", '"')):
                self.at += 1
            else:
                self._piece()
        raise Unclear("a quote that has no end")

    def _dollar(self) -> None:
        following = self.text[self.at + 1 : self.at + 2]
        self.at += 1
        if following == "'":
            self._escaped("'")
        elif following == '"':
            self._double()
        elif following == "(":
            self._balance("(", ")")
        elif following == "{":
            self._balance("{", "}")

    def _balance(self, opening: str, closing: str) -> None:
        depth = 0
        while self.at < len(self.text):
            char = self.text[self.at]
            if char in (opening, closing):
                depth += 1 if char == opening else -1
                self.at += 1
                if not depth:
                    return
            else:
                self._piece()
        raise Unclear(f"`{opening}` that has no end")


def check_substitutions(text: str) -> None:
    """Raise Unclear for guards in what is run to make a text."""
    if GUARDS.search(text) and re.search(r"\$\(|`|[<>]\(", text):
        raise Unclear("a guard in a substitution")
