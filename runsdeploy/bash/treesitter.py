"""Collects the symbols of a bash text with tree-sitter, which parses past errors.

The sole importer of tree_sitter. The linter needs a full parser: names stand in quotes, comments, here-documents and
nested expansions. Where code is made at run time (`eval`, `source`, `${!x}`) the result says that there may be more.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from functools import cache

import tree_sitter_bash
from tree_sitter import Language, Node, Parser

from runsdeploy.bash.builtins import ASKING, OPAQUE, defines_functions, exports_all, names_read, names_set
from runsdeploy.bash.symbols import Argument, Call, Occurrence, Symbols

_NAME = re.compile(r"[A-Za-z_]\w*\Z", re.ASCII)
_EXPANSION = re.compile(r"(?<!\\)\$\{?[#!]?([A-Za-z_]\w*)", re.ASCII)
_SET = re.compile(r"(?<![\w$])([A-Za-z_]\w*)(?:\[[^]]*\])?\+?=", re.ASCII)
_SETTING = re.compile(r"\b(?:read|for|select|local|declare|typeset|mapfile|readarray|getopts|printf +-v)\b(.*)")
_FUNCTION = re.compile(rb"^[ \t]*(?:function[ \t]+)?([A-Za-z_][\w:-]*)[ \t]*\(\)", re.MULTILINE)
_ASSIGNING = frozenset({"=", "+=", "-=", "*=", "/=", "%=", "<<=", ">>=", "&=", "|=", "^="})
_DEFAULTS = frozenset({":-", "-", ":+", "+", ":?", "?", ":=", "="})
_COMPARES = frozenset({"-eq", "-ne", "-lt", "-le", "-gt", "-ge"})


def collect_symbols(text: bytes) -> Symbols:
    """Return the symbols of a text; never fails. Of a text with syntax errors the result may be incomplete."""
    tree = _parser().parse(text)
    collector = _Collector(text)
    collector.visit(tree.root_node)
    if tree.root_node.has_error:
        collector.add_by_pattern()
    return collector.symbols


@cache
def _parser() -> Parser:
    return Parser(Language(tree_sitter_bash.language()))


class _Collector:
    """Visits a tree-sitter tree: `_TYPE` handles nodes of that type and returns the nodes still to be visited."""

    def __init__(self, text: bytes) -> None:
        self.text, self.lines, self.symbols = text, text.split(b"\n"), Symbols()

    def visit(self, root: Node) -> None:
        # Not recursive: texts may be nested deeper than Python allows.
        left = [root]
        while left:
            node = left.pop()
            visit = getattr(self, f"_{node.type}", None)
            left += reversed(list(visit(node)) if visit else node.children)

    def add_by_pattern(self) -> None:
        """Add variables of a text with syntax errors by regular expressions: an extra name prevents a false warning."""
        known = {each.name for each in self.symbols.reads}
        self.symbols.functions |= {found[1].decode() for found in _FUNCTION.finditer(self.text)}
        for number, line in enumerate(self.lines, 1):
            text = line.decode("utf-8", "replace")
            sets = [found[1] for found in _SET.finditer(text)]
            sets += [name for found in _SETTING.finditer(text) for name in re.findall(r"[A-Za-z_]\w*", found[1])]
            self.symbols.sets += [Occurrence(name, number, 1, 0) for name in sets]
            reads = [found[1] for found in _EXPANSION.finditer(text) if found[1] not in known]
            self.symbols.reads += [Occurrence(name, number, 1, 0, required=False) for name in reads]

    def _text_of(self, node: Node) -> str:
        return self.text[node.start_byte : node.end_byte].decode("utf-8", "surrogateescape")

    def _place(self, node: Node) -> tuple[int, int]:
        line, column = node.start_point[0], node.start_point[1]
        return line + 1, len(self.lines[line][:column].decode("utf-8", "replace")) + 1

    def _occurrence(self, node: Node, name: str = "", *, required: bool = True) -> Occurrence | None:
        name = name or self._text_of(node)
        return Occurrence(name, *self._place(node), node.start_byte, required) if _NAME.match(name) else None

    def _reads(self, node: Node | None, name: str = "", *, required: bool = True) -> None:
        found = self._occurrence(node, name, required=required) if node else None
        self.symbols.reads += [found] if found else []

    def _sets(self, node: Node | None, name: str = "") -> None:
        found = self._occurrence(node, name) if node else None
        self.symbols.sets += [found] if found else []

    # --- variables ---------------------------------------------------------------------------------

    def _variable_name(self, node: Node) -> Iterator[Node]:
        # Declarations and expansions handle the names in them; this is one in arithmetic.
        self._reads(node)
        return iter(())

    def _subscript(self, node: Node) -> Iterator[Node]:
        self._reads(node.child_by_field_name("name"))
        return self._index(node)

    def _index(self, node: Node) -> Iterator[Node]:
        """Visit an index: a word is a key of an associative array, or a variable in arithmetic."""
        for child in node.children_by_field_name("index"):
            if child.type in ("word", "variable_name"):
                self._reads(child, required=False)
            else:
                yield child

    def _variable_assignment(self, node: Node) -> Iterator[Node]:
        yield from self._assignment_target(node.child_by_field_name("name"))
        yield from node.children_by_field_name("value")

    def _assignment_target(self, node: Node | None) -> Iterator[Node]:
        """Visit what an assignment sets: a variable, or an element of an array."""
        if node and node.type == "subscript":
            self._sets(node.child_by_field_name("name"))
            return self._index(node)
        self._sets(node)
        return iter(())

    def _simple_expansion(self, node: Node) -> Iterator[Node]:
        self._reads(node.children[-1] if node.children else None)
        return iter(())

    def _expansion(self, node: Node) -> Iterator[Node]:
        named = [child for child in node.children if child.type in ("variable_name", "subscript")]
        operators = [child.type for child in node.children if not child.is_named][1:-1]
        subject = named[0] if named else None
        name = subject.child_by_field_name("name") if subject and subject.type == "subscript" else subject
        if subject and operators[:1] == ["!"]:
            self.symbols.reads_more |= subject.type == "variable_name"
            operators = operators[1:]
        operator = operators[0] if operators else ""
        self._reads(name, required=operator not in _DEFAULTS)
        if operator in (":=", "="):
            self._sets(name)
        if subject and subject.type == "subscript":
            yield from self._index(subject)
        for child in node.children:
            if child.type == "variable_name" and child != subject:
                # A variable in `${x:n}`, a text in `${x:-n}`.
                self._reads(child, required=False)
            elif child.is_named and child != subject:
                yield child

    def _unparsed(self, node: Node) -> Iterator[Node]:
        """Visit text that tree-sitter may leave unparsed: patterns, and some here-documents."""
        if not node.children:
            self._scan(node)
        return iter(node.children)

    _regex = _extglob_pattern = _heredoc_content = _unparsed

    def _heredoc_redirect(self, node: Node) -> Iterator[Node]:
        start = next((self._text_of(child) for child in node.children if child.type == "heredoc_start"), "")
        for child in node.children:
            if child.type != "heredoc_body" or child.children:
                yield child
            elif not re.search(r"[\\'\"]", start):
                self._scan(child)

    def _scan(self, node: Node) -> None:
        """Add the variables of a text that tree-sitter did not parse."""
        for found in _EXPANSION.finditer(self._text_of(node)):
            self._reads(node, found[1], required=False)

    # --- arithmetic --------------------------------------------------------------------------------

    def _binary_expression(self, node: Node) -> Iterator[Node]:
        operator = node.child_by_field_name("operator")
        kind = self._text_of(operator) if operator else ""
        left = node.child_by_field_name("left")
        if kind in _ASSIGNING and left and left.type in ("variable_name", "subscript", "word"):
            yield from self._assignment_target(left)
            yield from node.children_by_field_name("right")
            return
        for child in node.children:
            if child.type == "word" and (kind in _COMPARES or kind in ("<", ">", "<=", ">=")):
                self._reads(child, required=False)
            else:
                yield child

    def _postfix_expression(self, node: Node) -> Iterator[Node]:
        for child in node.named_children:
            if child.type in ("variable_name", "word", "subscript"):
                yield from self._assignment_target(child)
            else:
                yield child

    def _unary_expression(self, node: Node) -> Iterator[Node]:
        operator = self._text_of(node.children[0]) if node.children else ""
        if operator in ("++", "--"):
            return self._postfix_expression(node)
        if operator == "-v":
            self._reads(node.children[-1], re.split(r"\[", self._text_of(node.children[-1]))[0], required=False)
        return iter(node.children)

    # --- statements --------------------------------------------------------------------------------

    def _for_statement(self, node: Node) -> Iterator[Node]:
        variable = node.child_by_field_name("variable")
        self._sets(variable)
        return (child for child in node.children if child != variable)

    def _function_definition(self, node: Node) -> Iterator[Node]:
        name = node.child_by_field_name("name")
        if name:
            self.symbols.functions.add(self._text_of(name))
        return (child for child in node.children if child != name)

    def _unset_command(self, node: Node) -> Iterator[Node]:
        return (child for child in node.children if child.type != "variable_name")

    def _declaration_command(self, node: Node) -> Iterator[Node]:
        """Visit `declare`, `local`, `typeset`, `export` and `readonly`."""
        keyword, *rest = node.children
        options = "".join(self._text_of(child) for child in rest if self._text_of(child).startswith("-"))
        reference, existing = "n" in options, "p" in options or keyword.type in ("export", "readonly")
        self.symbols.reads_more |= reference
        self.symbols.sets_more |= reference
        if keyword.type in ("declare", "typeset") and re.search(r"[fF]", options):
            self.symbols.asked |= {self._text_of(child) for child in rest}
            return
        for child in rest:
            if child.type == "variable_name":
                (self._reads(child, required=False) if existing else self._sets(child))
            else:
                yield child
                if child.type == "variable_assignment" and (existing or reference):
                    name = child.child_by_field_name("name")
                    value = child.child_by_field_name("value")
                    self._reads(value if reference else name, required=False)

    def _command(self, node: Node) -> Iterator[Node]:
        name = node.child_by_field_name("name")
        called = self._argument(name) if name else None
        arguments = [self._argument(child) for child in node.children_by_field_name("argument")]
        if called and not called.literal:
            # `$local x=1`, where the variable holds `local`.
            for each in arguments:
                self._sets(node, each.text.partition("=")[0] if "=" in each.text else "-")
        if called and called.literal:
            words = [called, *arguments]
            while len(words) > 1 and words[0].text in ("command", "builtin") and not words[1].text.startswith("-"):
                words = words[1:]
            ignored = bool(node.parent and node.parent.type == "program" and node.next_named_sibling)
            fed, in_function = _surroundings(node, self.text)
            place = called.line, called.column
            self.symbols.calls.append(Call(words[0].text, tuple(words[1:]), *place, ignored, fed, in_function))
            self._effects(node, words[0].text, words[1:])
        return iter(node.children)

    def _file_redirect(self, node: Node) -> Iterator[Node]:
        operators = {child.type for child in node.children}
        found = self.symbols.files_read if "<" in operators else self.symbols.files_written
        destination = node.child_by_field_name("destination")
        if destination and operators & {"<", ">", ">>", "&>", "&>>", ">|"}:
            found.append(self._argument(destination))
        return iter(node.children)

    def _effects(self, node: Node, name: str, words: list[Argument]) -> None:
        """Add the variables that a builtin sets or reads because they are its arguments."""
        if name in OPAQUE:
            self.symbols.reads_more = self.symbols.sets_more = True
        texts = [word.text for word in words]
        literal = all(word.literal for word in words)
        self.symbols.calls_more |= defines_functions(name, texts, literal=literal)
        if name in ASKING:
            self.symbols.asked |= {word.text.partition("=")[0] for word in words if word.literal}
        self.symbols.reads_more |= exports_all(name, texts)
        for each in names_set(name, texts):
            self._sets(node, each)
        for each in names_read(name, texts):
            self._reads(node, each, required=False)
        if name == "trap":
            # Its first argument is code in quotes.
            for argument in node.children_by_field_name("argument")[:1]:
                self._scan(argument)

    def _argument(self, node: Node) -> Argument:
        parts, literal = _literal(node, self.text)
        return Argument(parts, literal, *self._place(node), node.start_byte, node.end_byte)


def _surroundings(node: Node, text: bytes) -> tuple[bool, bool]:
    """Return whether the standard input of a command may be given, and whether it stands in a function."""
    fed, each = False, node
    while True:
        if each.type in ("command", "redirected_statement"):
            fed |= any(_feeds(child, text) for child in each.children)
        above = each.parent
        if above is None or above.type == "function_definition":
            return fed, above is not None
        fed |= above.type == "pipeline" and above.named_children[0] != each
        # `while read line`: a loop over what there may be, not a question.
        fed |= above.type == "while_statement" and each.type != "do_group"
        each = above


def _feeds(node: Node, text: bytes) -> bool:
    """Return whether a node is a redirection of the standard input, but not from a terminal."""
    if node.type in ("heredoc_redirect", "herestring_redirect"):
        return True
    reads = node.type == "file_redirect" and any(child.type in ("<", "<&") for child in node.children)
    return reads and b"/dev/tty" not in text[node.start_byte : node.end_byte]


def _literal(node: Node, text: bytes) -> tuple[str, bool]:
    """Return the characters of a word up to the first expansion, and whether there is none."""
    spelled = text[node.start_byte : node.end_byte].decode("utf-8", "surrogateescape")
    match node.type:
        case "word" | "number" | "variable_name":
            return re.sub(r"\\\n|\\(.)", r"\1", spelled), not re.search(r"(?<!\\)[*?\[{~]", spelled)
        case "raw_string":
            return spelled[1:-1], True
        case "string_content":
            return re.sub(r'\\([$`"\\])', r"\1", spelled), True
        case "string" | "concatenation" | "command_name":
            return _joined(_literal(child, text) for child in node.children if child.type != '"')
    return "", False


def _joined(parts: Iterable[tuple[str, bool]]) -> tuple[str, bool]:
    found = ""
    for part, literal in parts:
        found += part
        if not literal:
            return found, False
    return found, True
