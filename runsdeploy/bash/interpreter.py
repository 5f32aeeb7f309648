"""Traversals: what a SCRIPT section may come to, from what its markers answer, without running anything.

All ways through the section are followed at once. Where the markers and the step's values decide, there is
one; a command whose status is not known makes two. Commands are taken to succeed where nobody asks.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence

from msgspec.structs import replace

from runsdeploy.bash.expansion import Value, fits
from runsdeploy.bash.lexer import GUARDS, Unclear
from runsdeploy.bash.parser import parse
from runsdeploy.bash.simple_command import assigned, behind, expanded, returned
from runsdeploy.bash.state import DECLINED, PARAMETERS, TESTS, WORKS, Mark, Way
from runsdeploy.bash.syntax_tree import (
    Apart,
    Both,
    Case,
    Command,
    For,
    Function,
    If,
    Listed,
    Negated,
    Node,
    While,
    commands,
)

WIDEST, LONGEST, DEEPEST = 64, 20_000, 20
"""ways at a time, commands, and functions in each other, before a section is given up"""

_RUNS = frozenset({"quietly", "trap", "mapfile", "readarray"})
"""what runs functions that are named to it"""


class Interpreter:
    """The ways through one section."""

    def __init__(self, answer: Callable[[bytes, bytes | None], bool], library: Callable[[str], str | None]) -> None:
        """`answer` is what `shouldrun` would say, `library` returns the text of one of the trees."""
        self._answer, self._library = answer, library
        self._functions: dict[str, Node] = {}
        self._depth = 0
        """functions that call each other"""
        self._count = 0
        self._inside = ""
        """the library that is being loaded"""
        self.asked: dict[bytes, None] = {}
        """subsystems that it asks for on some way"""
        self.doubt = ""
        """why there is more than one way"""

    def through(self, text: str, way: Way) -> set[Way]:
        """Return all ends of a section; raises Unclear."""
        try:
            return {replace(each, leaving="") for each in self._run(parse(text), way, tested=False)}
        except RecursionError:
            raise Unclear("it is nested too deep to be followed") from None

    # --- guards ----------------------------------------------------------------------------

    def ask(
        self, way: Way, subsystem: bytes | None, value: bytes | None, place: str, *, known: bool = True
    ) -> set[Way]:
        """Ask for a marker; a subsystem that is None, or a value that is not `known`, only the run will tell."""
        if subsystem is not None:
            self.asked.setdefault(subsystem)
        runs = self._runs(way, subsystem, value, known=known)
        if runs is None:
            self._doubts(f"{place} asks for what is known only when it runs")
        told = replace(way, yes=way.yes or place, status=0)
        declined = replace(way, no=way.no or place, status=DECLINED)
        return {told, declined} if runs is None else {told} if runs else {declined}

    def _runs(self, way: Way, subsystem: bytes | None, value: bytes | None, *, known: bool) -> bool | None:
        if subsystem is None:
            return None
        marks = dict(way.marks)
        mark = marks.get(subsystem) or marks.get(None)
        if mark is None:
            # One that is not there is not there with any value.
            return self._answer(subsystem, value) if known else self._answer(subsystem, None) or None
        if not mark.there:
            return None if mark.there is None else True
        if known and value is None:
            return False
        return mark.value != value if known and mark.known else None

    def _guard(self, name: str, arguments: Sequence[str], way: Way, place: str) -> set[Way]:
        """Do what `shouldrun`, `setdone` or `resetdone` does with these arguments."""
        if name == "resetdone" and not arguments:
            return {replace(way, marks=((None, Mark(there=False)),), status=0)}
        # One that only the run will tell must not hide the other.
        words = [way.words([each]) for each in arguments[:2]] or [[b""]]
        if any(each is not None and len(each) != 1 for each in words):
            whole = way.words(arguments)
            words = [None, None] if whole is None else [[each] for each in whole[:2]] or [[b""]]
        subsystem = words[0][0] if words[0] else None
        value, known = (words[1][0] if words[1] else None, words[1] is not None) if len(words) > 1 else (None, True)
        if name == "shouldrun":
            return self.ask(way, subsystem, value, place, known=known)
        return {way.mark(subsystem, Mark(name == "setdone", value, known))}

    def _doubts(self, why: str) -> None:
        self.doubt = self.doubt or why

    # --- what decides between commands -----------------------------------------------------

    def _all(self, node: Node, ways: Iterable[Way], *, tested: bool) -> set[Way]:
        found: set[Way] = set()
        for way in ways:
            found |= {way} if way.leaving else self._run(node, way, tested=tested)
        if len(found) > WIDEST:
            raise Unclear("it has too many ways to be told apart")
        return found

    def _run(self, node: Node, way: Way, *, tested: bool) -> set[Way]:  # noqa: C901, PLR0911 - one for each kind
        self._count += 1
        if self._count > LONGEST:
            raise Unclear("it is too long to be followed")
        match node:
            case Command():
                return self._command(node, way, tested=tested)
            case Listed(items):
                ways = {way}
                for item in items:
                    ways = self._all(item, ways, tested=tested)
                return ways
            case Both(operator, left, right):
                yes, no = self._decided(left, way)
                goes, stays = (yes, no) if operator == "&&" else (no, yes)
                return self._all(right, goes, tested=tested) | stays
            case Negated(body):
                yes, no = self._decided(body, way)
                return {each.behind(1) for each in yes} | {each.behind(0) for each in no}
            case If():
                return self._if(node, way, tested=tested)
            case While() | For():
                return self._loop(node, way, tested=tested)
            case Case():
                return self._case(node, way, tested=tested)
            case Function():
                return {self._define(node, way)}
            case Apart():
                return self._apart(node, way, tested=tested)

    def _decided(self, node: Node, way: Way) -> tuple[set[Way], set[Way]]:
        """Return the ways on which something is true, and those on which it is not; what leaves is in the first."""
        yes: set[Way] = set()
        no: set[Way] = set()
        for each in self._run(node, way, tested=True):
            if each.leaving:
                yes.add(each)
                continue
            if each.status < 0:
                self._doubts(f"what {self._place(node)} finds is known only when it runs")
            if each.status <= 0:
                yes.add(each.ended(0))
            if each.status:
                no.add(each.ended(max(each.status, 1)))
        return yes, no

    def _if(self, node: If, way: Way, *, tested: bool) -> set[Way]:
        found: set[Way] = set()
        left = {way}
        for condition, body in node.arms:
            decided = [self._decided(condition, each) for each in left]
            found |= self._all(body, {each for yes, _ in decided for each in yes}, tested=tested)
            left = {each for _, no in decided for each in no}
        if node.otherwise:
            return found | self._all(node.otherwise, left, tested=tested)
        return found | {each.ended(0) for each in left}

    def _loop(self, node: While | For, way: Way, *, tested: bool) -> set[Way]:
        """Turn for each word, or until no way stands where none stood before."""
        words = way.words(node.words) if isinstance(node, For) and node.words is not None else None
        found: set[Way] = set()
        seen: set[Way] = set()
        fresh = {way.ended(0)}
        turn = 0
        while fresh - seen if words is None else turn < len(words):
            going = fresh - seen if words is None else fresh
            seen |= going
            if len(seen) > WIDEST:
                raise Unclear("a loop has too many turns to be followed")
            if isinstance(node, While):
                decided = [self._decided(node.condition, each) for each in going]
                goes = {each for pair in decided for each in pair[node.until]}
                found |= {each.behind(0) for pair in decided for each in pair[not node.until]}
            else:
                goes = {each.set(node.name, words[turn] if words is not None else None) for each in going}
            if isinstance(node, For) and words is None:
                self._doubts("how often a loop turns is known only when it runs")
                found |= going
            turned = self._all(node.body, goes, tested=tested)
            found |= {each for each in turned if each.leaving not in ("", "continue", "break")}
            found |= {replace(each, leaving="", status=0) for each in turned if each.leaving == "break"}
            fresh = {replace(each, leaving="") for each in turned if each.leaving in ("", "continue")}
            turn += 1
        return found | (fresh if words is not None else set())

    def _case(self, node: Case, way: Way, *, tested: bool) -> set[Way]:
        words = way.words((node.word,))
        found: set[Way] = set()
        for patterns, body in node.arms:
            fit = fits(patterns, words[0] if words and len(words) == 1 else None)
            if fit is not False:
                found |= self._run(body, way.ended(0), tested=tested)
            if fit:
                return found
            if fit is None:
                self._doubts("which part of a `case` it takes is known only when it runs")
        return found | {way.ended(0)}

    def _apart(self, node: Apart, way: Way, *, tested: bool) -> set[Way]:
        guarded = [self._asks(item) for item in node.items]
        if node.kind != "(" and not any(guarded):
            return {way.ended(WORKS if node.kind == "|" else 0)}
        if node.kind == "&":
            raise Unclear("it asks for markers in the background")
        ways = {way}
        for item in node.items:
            ends = self._all(item, ways, tested=tested or node.kind == "|")
            # It leaves nobody but itself; its variables go with it, its markers stay.
            ways = {replace(way, marks=end.marks, yes=end.yes, no=end.no, status=end.status) for end in ends}
        if node.kind == "|" and not guarded[-1]:
            return {each.ended(WORKS) for each in ways}
        return {each.checked(tested=tested) for each in ways}

    def _asks(self, node: Node) -> bool:
        """Say whether a part of the section may ask for markers, itself or by functions that it calls."""
        text = repr(node)
        called = (body for name, body in self._functions.items() if re.search(rf"'{re.escape(name)}'", text))
        return bool(GUARDS.search(text)) or any(GUARDS.search(repr(body)) for body in called)

    # --- commands --------------------------------------------------------------------------

    def _place(self, node: Node) -> str:
        line = re.search(r"line=(\d+)", repr(node))
        return f"line {line[1] if line else '?'}{self._inside}"

    def _command(self, node: Command, way: Way, *, tested: bool) -> set[Way]:
        words, place = list(node.words), self._place(node)
        settings: list[str] = []
        while words and re.match(r"[A-Za-z_]\w*(\[[^\]]*\])?\+?=", words[0]):
            settings.append(words.pop(0))
        self._check_words(words, settings, place)
        way = expanded(way, node.words)
        if not words:
            for setting in settings:
                way = assigned(way, setting)
            return {way.ended(TESTS if any(re.search(r"\$\(|`", each) for each in settings) else 0)}
        name, arguments = words[0], words[1:]
        if name in self._functions:
            done = self._call(name, arguments, way, tested=tested)
        elif name in ("shouldrun", "setdone", "resetdone"):
            done = self._guard(name, arguments, way, place)
        elif name == "urequire":
            done = self._require(arguments, way)
        elif name == "return":
            # Outside of functions and libraries bash only complains.
            done = {returned(way, arguments) if self._depth or self._inside else way.ended(2)}
        else:
            done = {behind(way, name, arguments, place)}
        return {each.checked(tested=tested) for each in done}

    def _check_words(self, words: Sequence[str], settings: Sequence[str], place: str) -> None:
        """Raise Unclear for guards that something else than the section itself may run."""
        runs = words[:1] and (words[0] in _RUNS or words[0] in self._functions)
        for word in (*settings, *words[1:]):
            if GUARDS.search(word) and (runs or re.search(r"\$\(|`|[<>]\(", word)):
                raise Unclear(f"what asks for markers in {place} is known only when it runs")
        if words and GUARDS.search(words[0]) and not re.fullmatch(r"[\w-]+", words[0]):
            raise Unclear(f"what {place} calls is known only when it runs")

    def _define(self, node: Function, way: Way) -> Way:
        known = self._functions.setdefault(node.name, node.body)
        if node.name in ("shouldrun", "setdone", "resetdone", "urequire") or known != node.body:
            raise Unclear(f"`{node.name}` is made anew")
        return way.ended(0)

    def _call(self, name: str, arguments: Sequence[str], way: Way, *, tested: bool) -> set[Way]:
        if self._depth >= DEEPEST:
            raise Unclear(f"`{name}` calls itself too often")
        body, words = self._functions[name], way.words(arguments)
        inner = way.forget(PARAMETERS)
        if words is not None:
            given: list[tuple[str, Value]] = [("@", tuple(words)), *zip(PARAMETERS[1:], words, strict=False)]
            for each, value in given:
                inner = inner.set(each, value)
        self._depth += 1
        ends = self._run(body, inner, tested=tested)
        self._depth -= 1
        for each in (*PARAMETERS, *_declared(body)):
            ends = {end.set(each, way.value(each)) for end in ends}
        return {replace(end, leaving="") if end.leaving == "return" else end for end in ends}

    def _require(self, arguments: Sequence[str], way: Way) -> set[Way]:
        words = way.words(arguments)
        if words is None:
            raise Unclear("which library it loads is known only when it runs")
        ways = {way.ended(0)}
        for word in words:
            name = word.decode("utf-8", "surrogateescape")
            key, text = f"urequire {name}", self._library(name)
            # Loading twice is free.
            if text is None or any(each.value(key) for each in ways):
                continue
            outer, self._inside = self._inside, f" of library `{name}`"
            ways = self._all(parse(text), {each.set(key, b"loaded") for each in ways}, tested=False)
            ways = {replace(each, leaving="") if each.leaving == "return" else each for each in ways}
            self._inside = outer
        return ways


def _declared(body: Node) -> set[str]:
    """Return the variables that are gone behind a function."""
    local = [each.words[1:] for each in commands(body) if each.words[:1] in (("local",), ("declare",), ("typeset",))]
    words = [word for each in local if "-g" not in each for word in each]
    return {found[0] for found in (re.match(r"[A-Za-z_]\w*", word) for word in words) if found}
