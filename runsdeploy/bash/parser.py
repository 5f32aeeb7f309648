"""Parser: makes the syntax tree of a SCRIPT section (POSIX, XCU 2.10; bash(1), SHELL GRAMMAR).

It covers the part of bash's grammar that decides which commands run, and in which order. All else (`select`, `coproc`,
`;&`) is an `Unparsed`, and so is the rest of a section from a place where its words cannot be told: a wrong tree would
make a wrong prediction.
"""

from __future__ import annotations

from collections.abc import Container

from runsdeploy.bash.lexer import BROKEN, REDIRECTIONS, Token, Undetermined, check_substitutions, tokenize_beginning
from runsdeploy.bash.syntax_tree import (
    AndOr,
    Background,
    Case,
    CommandList,
    For,
    FunctionDefinition,
    If,
    Negation,
    Node,
    Pipeline,
    SimpleCommand,
    Subshell,
    Unparsed,
    While,
)


def parse(text: str) -> Node:
    """Return the syntax tree of a section; its last node is Unparsed where the parser does not go on."""
    tokens, broken = tokenize_beginning(text)
    return _Parser(tokens).section(text, broken)


_RESERVED = ("then", "elif", "else", "fi", "do", "done", "esac", "}")
_COMPOUND = ("{", "(", "((", "[[", "if", "while", "until", "for", "case", "select")


class _Parser:
    """Recursive descent: a method for each production of the grammar."""

    def __init__(self, tokens: list[Token]) -> None:
        self.tokens, self.at = tokens, 0

    def section(self, text: str, broken: str) -> Node:
        """Parse a whole section; `broken` is the reason why its tokens end before it does."""
        items: list[Node] = []
        while True:
            self._skip("\n", ";")
            if self.at >= len(self.tokens):
                return CommandList(tuple(items))
            try:
                items.append(self._item(()))
            except (Undetermined, RecursionError) as stopped:
                deep = isinstance(stopped, RecursionError)
                reason = broken or ("its commands are nested too deep" if deep else str(stopped))
                return CommandList((*items, Unparsed(reason, (text,))))

    def _is(self, text: str, *, operator: bool = False) -> bool:
        here = self.tokens[self.at] if self.at < len(self.tokens) else None
        return here is not None and (here.text, here.operator) == (text, operator)

    def _operator(self, among: Container[str]) -> str:
        """Return the operator at the current position if it is one of these, else an empty string."""
        here = self.tokens[self.at] if self.at < len(self.tokens) else None
        return here.text if here and here.operator and here.text in among else ""

    def _expect(self, text: str, *, operator: bool = False) -> None:
        if not self._is(text, operator=operator):
            raise Undetermined(f"`{text}` is missing")
        self.at += 1

    def _next(self) -> Token:
        if self.at >= len(self.tokens) or self._operator((BROKEN,)):
            raise Undetermined("the section ends too early")
        self.at += 1
        return self.tokens[self.at - 1]

    def _skip(self, *operators: str) -> None:
        while self._operator(operators):
            self.at += 1

    def _at_end(self, ends: Container[str]) -> bool:
        """Return whether a list ends here: at the end of the section, at one of these words, at `)` or `;;`."""
        here = self.tokens[self.at].text if self.at < len(self.tokens) else ""
        return not here or here in ends or bool(self._operator((")", ";;", ";&", ";;&")))

    def _list(self, ends: Container[str]) -> Node:
        """Parse commands up to a word or operator that ends the list."""
        items: list[Node] = []
        while True:
            self._skip("\n", ";")
            if self._at_end(ends):
                return CommandList(tuple(items))
            items.append(self._item(ends))

    def _item(self, ends: Container[str]) -> Node:
        """Parse one command of a list, with the operator that ends it."""
        found = self._and_or()
        if self._operator(("&",)):
            self.at += 1
            return Background(found)
        if not self._at_end(ends) and not self._operator(("\n", ";")):
            raise Undetermined(f"`{self.tokens[self.at].text}` is unexpected")
        return found

    def _and_or(self) -> Node:
        left = self._pipeline()
        while operator := self._operator(("&&", "||")):
            self.at += 1
            self._skip("\n")
            left = AndOr(operator, left, self._pipeline())
        return left

    def _pipeline(self) -> Node:
        if self._is("time"):
            self.at += 1
        if self._is("!"):
            self.at += 1
            return Negation(self._pipeline())
        items = [self._command()]
        while self._operator(("|", "|&")):
            self.at += 1
            self._skip("\n")
            items.append(self._command())
        return items[0] if len(items) == 1 else Pipeline(tuple(items))

    def _command(self) -> Node:
        here = self._next()
        if here.operator and here.text == "(":
            body = self._list(())
            self._expect(")", operator=True)
            return self._redirected(Subshell(body))
        if here.operator and here.text not in REDIRECTIONS:
            raise Undetermined(f"`{here.text}` instead of a command")
        if not here.operator:
            compound = {
                "{": self._group, "if": self._if, "while": self._while, "until": self._while,
                "for": self._for, "case": self._case, "function": self._function,
                "select": self._select, "coproc": self._coproc,
            }.get(here.text)  # fmt: skip
            if compound:
                return self._redirected(compound(here.text))
            if here.text in _RESERVED:
                raise Undetermined(f"`{here.text}` is unexpected")
            if self._operator(("(",)):
                self.at -= 1
                return self._function("")
        self.at -= 1
        return self._simple()

    def _simple(self) -> Node:
        words: list[str] = []
        line = self.tokens[self.at].line
        while self.at < len(self.tokens):
            here = self.tokens[self.at]
            if words[:1] == ["[["]:
                words.append(here.text)
                self.at += 1
                if here.text == "]]":
                    return self._redirected(SimpleCommand(("[[", " ".join(words)), line))
            elif here.operator and here.text in REDIRECTIONS:
                self._redirection()
            elif here.operator:
                break
            else:
                words.append(here.text)
                self.at += 1
        return SimpleCommand(tuple(words), line)

    def _redirection(self) -> None:
        self.at += 1
        check_substitutions(self._next().text)

    def _redirected(self, node: Node) -> Node:
        while self._operator(REDIRECTIONS):
            self._redirection()
        return node

    def _group(self, _: str) -> Node:
        body = self._list(("}",))
        self._expect("}")
        return body

    def _if(self, _: str) -> Node:
        branches: list[tuple[Node, Node]] = []
        while True:
            condition = self._list(("then",))
            self._expect("then")
            branches.append((condition, self._list(("elif", "else", "fi"))))
            end = self._next().text
            if end == "else":
                otherwise = self._list(("fi",))
                self._expect("fi")
                return If(tuple(branches), otherwise)
            if end != "elif":
                return If(tuple(branches), None)

    def _while(self, word: str) -> Node:
        condition = self._list(("do",))
        return While(word == "until", condition, self._do())

    def _do(self) -> Node:
        self._expect("do")
        body = self._list(("done",))
        self._expect("done")
        return body

    def _for(self, _: str) -> Node:
        line, name = self.tokens[self.at].line if self.at < len(self.tokens) else 0, self._next().text
        self._skip("\n")
        words: list[str] | None = None
        if self._is("in"):
            self.at += 1
            words = []
            while self.at < len(self.tokens) and not self.tokens[self.at].operator:
                words.append(self._next().text)
        self._skip("\n", ";")
        body = self._do()
        if name.startswith("(("):
            # Neither its variable nor the number of iterations is known before it runs.
            return While(until=False, condition=SimpleCommand((name,), line), body=body)
        return For(name, None if words is None else tuple(words), body)

    def _case(self, _: str) -> Node:
        word = self._next().text
        self._skip("\n")
        self._expect("in")
        self._skip("\n")
        clauses: list[tuple[tuple[str, ...], Node]] = []
        falls = False
        while not self._is("esac"):
            self._skip("(")
            patterns = [self._next().text]
            while self._operator(("|",)):
                self.at += 1
                patterns.append(self._next().text)
            self._expect(")", operator=True)
            clauses.append((tuple(patterns), self._list(("esac",))))
            falls |= bool(self._operator((";&", ";;&")))
            self._skip(";;", ";&", ";;&", "\n")
        self.at += 1
        found = Case(word, tuple(clauses))
        return Unparsed("`;&` in a `case`", (found,)) if falls else found

    def _select(self, word: str) -> Node:
        return Unparsed("`select` is not supported", (self._for(word),))

    def _coproc(self, _: str) -> Node:
        # A name stands only before a compound command.
        named = self.tokens[self.at + 1 : self.at + 2]
        self.at += bool(named) and named[0].text in _COMPOUND and not self._is("(", operator=True)
        return Unparsed("`coproc` is not supported", (self._command(),))

    def _function(self, word: str) -> Node:
        name = self._next().text
        if not word or self._operator(("(",)):
            self._expect("(", operator=True)
            self._expect(")", operator=True)
        self._skip("\n")
        return FunctionDefinition(name, self._command())
