"""Abstract interpretation of a SCRIPT section: every state it may end in, without running anything.

The interpreter follows all execution paths at once. Where markers and known values decide a condition there is one
path. Where an exit status is unknown, a path forks in two. A command whose status is not tested is assumed to succeed.

Once a `shouldrun` has said yes, the step runs whatever comes next: from there a path may become unknown (`eval`, a file
that is sourced, a text that the parser does not cover) and still has its outcome. Its markers are unknown then.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence

from msgspec.structs import replace

from runsdeploy.bash import guards, simple_command
from runsdeploy.bash.expansion import Value, matches
from runsdeploy.bash.guards import Guard, ShouldRun
from runsdeploy.bash.lexer import Undetermined
from runsdeploy.bash.parser import parse
from runsdeploy.bash.state import ASSUMED_SUCCESS, DECLINED, PARAMETERS, UNKNOWN_STATUS, MarkerState, State
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
    first_line,
    simple_commands,
)

MAX_STATES, MAX_NODES, MAX_CALL_DEPTH = 64, 20_000, 20
"""limits: states at one point, nodes executed, nested function calls; a section that exceeds one is Undetermined"""

_PROTECTED = frozenset({"shouldrun", "setdone", "resetdone", "urequire"})


class Interpreter:
    """Executes one section symbolically; all state of the section itself is in State values."""

    def __init__(self, should_run: ShouldRun, read_library: Callable[[str], str | None]) -> None:
        """`read_library` returns the text of a library of the trees; None for one that is part of runsdeploy."""
        self._should_run, self._read_library = should_run, read_library
        self._functions: dict[str, Node] = {}
        self._call_depth = 0
        self._nodes = 0
        """nodes executed so far"""
        self._inside = ""
        """suffix for places in the library that is being loaded"""
        self.subsystems: dict[bytes, None] = {}
        """subsystems that `shouldrun` is called for on any path, in this order"""
        self.ambiguity = ""
        """the first reason for which a path forked"""
        self.unknown = ""
        """the first reason for which a path was not followed to its end"""

    def run(self, text: str, state: State) -> set[State]:
        """Return all states that a section may end in when it starts in `state`.

        Raises Undetermined if a path is not known before a `shouldrun` on it said yes.
        """
        return {replace(each, jump="") for each in self._run(parse(text), state, tested=False)}

    def _give_up(self, states: Iterable[State], reason: str) -> set[State]:
        """Return the end of paths that are not known from here; raises Undetermined unless they all run anyway."""
        decided = min(states, key=lambda each: each.first_yes)
        if not decided.first_yes:
            raise Undetermined(reason)
        self.unknown = self.unknown or reason
        after = decided.with_marker(None, MarkerState(None))
        return {replace(after, variables=(), status=ASSUMED_SUCCESS, jump="exit")}

    def _limit(self, new: set[State], seen: set[State], reason: str) -> tuple[set[State], set[State]]:
        """Return which of the new states are followed, and the ends of the others: only so many states are followed."""
        if len(seen) <= MAX_STATES:
            return new, set()
        undecided = {each for each in seen if not each.first_yes}
        if len(undecided) > MAX_STATES:
            raise Undetermined(reason)
        decided = new - undecided
        return new & undecided, self._give_up(decided, reason) if decided else set()

    # --- guards ----------------------------------------------------------------------------

    def shouldrun(self, state: State, guard: Guard, place: str) -> set[State]:
        """Return the states after `shouldrun`: one, or two if its answer is known only when it runs."""
        if guard.subsystem is not None:
            self.subsystems.setdefault(guard.subsystem)
        runs = guards.answer(state, guard, self._should_run)
        yes = replace(state, first_yes=state.first_yes or place, status=0)
        no = replace(state, first_no=state.first_no or place, status=DECLINED)
        if runs is None:
            self._note(f"the marker that {place} checks is known only when it runs")
            return {yes, no}
        return {yes} if runs else {no}

    def _guard(self, name: str, arguments: Sequence[str], state: State, place: str) -> set[State]:
        if name == "resetdone" and not arguments:
            return {guards.reset_all(state)}
        guard = guards.parse_arguments(state, arguments)
        if name == "shouldrun":
            return self.shouldrun(state, guard, place)
        return {guards.set_marker(state, guard, exists=name == "setdone")}

    def _note(self, reason: str) -> None:
        self.ambiguity = self.ambiguity or reason

    # --- lists and compound commands -------------------------------------------------------

    def _run_each(self, node: Node, states: Iterable[State], *, tested: bool) -> set[State]:
        """Run a node from several states; one with a pending jump skips it."""
        found: set[State] = set()
        for state in states:
            found |= {state} if state.jump else self._run(node, state, tested=tested)
        followed, ends = self._limit(found, found, "it has too many execution paths")
        return followed | ends

    def _run(self, node: Node, state: State, *, tested: bool) -> set[State]:
        """Run a node; `tested` says whether something tests its exit status, so that `set -e` does not apply."""
        try:
            found = self._run_node(node, state, tested=tested)
            return found if found or not state.first_yes else self._give_up({state}, "a loop has no end")
        except Undetermined as undetermined:
            return self._give_up({state}, str(undetermined))
        except RecursionError:
            return self._give_up({state}, "its commands are nested too deep")

    def _run_node(self, node: Node, state: State, *, tested: bool) -> set[State]:  # noqa: C901, PLR0911, PLR0912 - a case a node
        self._nodes += 1
        if self._nodes > MAX_NODES:
            raise Undetermined("it is too long")
        match node:
            case SimpleCommand():
                return self._simple_command(node, state, tested=tested)
            case CommandList(items):
                states = {state}
                for item in items:
                    states = self._run_each(item, states, tested=tested)
                return states
            case AndOr(operator, left, right):
                yes, no = self._branch(left, state)
                runs, skips = (yes, no) if operator == "&&" else (no, yes)
                return self._run_each(right, runs, tested=tested) | skips
            case Negation(body):
                yes, no = self._branch(body, state)
                return {each.with_status(1) for each in yes} | {each.with_status(0) for each in no}
            case If():
                return self._if(node, state, tested=tested)
            case While():
                return self._while(node, state, tested=tested)
            case For():
                return self._for(node, state, tested=tested)
            case Case():
                return self._case(node, state, tested=tested)
            case FunctionDefinition():
                return {self._define(node, state)}
            case Subshell(body):
                return {each.apply_errexit(tested=tested) for each in self._child(body, {state}, state, tested=tested)}
            case Pipeline():
                return self._pipeline(node, state, tested=tested)
            case Background(body):
                if guards.may_call(body, self._functions):
                    raise Undetermined("it checks markers in the background")
                return {state.with_status(0)}
            case Unparsed(reason):
                raise Undetermined(reason)

    def _branch(self, node: Node, state: State) -> tuple[set[State], set[State]]:
        """Run a condition; return the states in which it is true or jumps, and those in which it is false."""
        yes: set[State] = set()
        no: set[State] = set()
        for each in self._run(node, state, tested=True):
            if each.jump:
                yes.add(each)
                continue
            if each.status < 0:
                self._note(f"the exit status of {self._place(node)} is known only when it runs")
            if each.status <= 0:
                yes.add(each.with_status(0))
            if each.status:
                no.add(each.with_status(max(each.status, 1)))
        return yes, no

    def _if(self, node: If, state: State, *, tested: bool) -> set[State]:
        found: set[State] = set()
        left = {state}
        for condition, body in node.branches:
            decided = [self._branch(condition, each) for each in left]
            found |= self._run_each(body, {each for yes, _ in decided for each in yes}, tested=tested)
            left = {each for _, no in decided for each in no}
        if node.otherwise:
            return found | self._run_each(node.otherwise, left, tested=tested)
        return found | {each.with_status(0) for each in left}

    def _while(self, node: While, state: State, *, tested: bool) -> set[State]:
        def enter(each: State) -> tuple[set[State], set[State]]:
            yes, no = self._branch(node.condition, each)
            runs, ends = (no, yes) if node.until else (yes, no)
            return runs, {end.with_status(0) for end in ends}

        return self._loop(node.body, state, enter, tested=tested)

    def _for(self, node: For, state: State, *, tested: bool) -> set[State]:
        fields = state.expand(node.words) if node.words is not None else None
        if fields is None:
            self._note("the number of iterations of a loop is known only when it runs")
            return self._loop(node.body, state, lambda each: ({each.assign(node.name, None)}, {each}), tested=tested)
        found: set[State] = set()
        seen: set[State] = set()
        states = {state.with_status(0)}
        for field in fields:
            seen |= states
            states, lost = self._limit(states, seen, "a loop has too many iterations")
            states, ends = self._iterate(node.body, {each.assign(node.name, field) for each in states}, tested=tested)
            found |= ends | lost
        return found | states

    def _loop(
        self, body: Node, state: State, enter: Callable[[State], tuple[set[State], set[State]]], *, tested: bool
    ) -> set[State]:
        """Iterate until no iteration starts in a new state.

        `enter` returns, for a state before an iteration, the states that run the body and those that end the loop.
        """
        found: set[State] = set()
        seen: set[State] = set()
        states = {state.with_status(0)}
        while new := states - seen:
            seen |= new
            new, lost = self._limit(new, seen, "a loop has too many iterations")
            entered = [enter(each) for each in new]
            states, ends = self._iterate(body, {each for runs, _ in entered for each in runs}, tested=tested)
            found |= ends.union(lost, *(ends for _, ends in entered))
        decided = {each for each in seen if each.first_yes}
        return found or (self._give_up(decided, "a loop has no end") if decided else set())

    def _iterate(self, body: Node, states: set[State], *, tested: bool) -> tuple[set[State], set[State]]:
        """Run a loop's body once; return the states that may iterate again, and those that have left the loop."""
        done = self._run_each(body, states, tested=tested)
        again = {replace(each, jump="") for each in done if each.jump in ("", "continue")}
        broken = {replace(each, jump="", status=0) for each in done if each.jump == "break"}
        return again, broken | {each for each in done if each.jump not in ("", "continue", "break")}

    def _case(self, node: Case, state: State, *, tested: bool) -> set[State]:
        fields = state.expand((node.word,))
        found: set[State] = set()
        for patterns, body in node.clauses:
            fits = matches(patterns, fields[0] if fields and len(fields) == 1 else None)
            if fits is not False:
                found |= self._run(body, state.with_status(0), tested=tested)
            if fits:
                return found
            if fits is None:
                self._note("which clause of a `case` runs is known only when it runs")
        return found | {state.with_status(0)}

    # --- child processes -------------------------------------------------------------------

    def _child(self, body: Node, states: set[State], parent: State, *, tested: bool) -> set[State]:
        """Run a node in a child process: only its markers, guard answers and exit status reach the parent."""
        return {
            replace(parent, markers=end.markers, first_yes=end.first_yes, first_no=end.first_no, status=end.status)
            for end in self._run_each(body, states, tested=tested)
        }

    def _pipeline(self, node: Pipeline, state: State, *, tested: bool) -> set[State]:
        guarded = [guards.may_call(item, self._functions) for item in node.items]
        if not any(guarded):
            return {state.with_status(ASSUMED_SUCCESS)}
        states = {state}
        for item in node.items:
            states = self._child(item, states, state, tested=True)
        if not guarded[-1]:
            return {each.with_status(ASSUMED_SUCCESS) for each in states}
        return {each.apply_errexit(tested=tested) for each in states}

    # --- simple commands -------------------------------------------------------------------

    def _place(self, node: Node) -> str:
        return f"line {first_line(node) or '?'}{self._inside}"

    def _simple_command(self, node: SimpleCommand, state: State, *, tested: bool) -> set[State]:
        left, place = list(node.words), self._place(node)
        assignments: list[str] = []
        while left and re.match(r"[A-Za-z_]\w*(\[[^\]]*\])?\+?=", left[0]):
            assignments.append(left.pop(0))
        guards.check_words(left, assignments, self._functions, place)
        state = simple_command.apply_expansions(state, node.words)
        if not left:
            for each in assignments:
                state = simple_command.assign(state, each)
            substitutes = any(re.search(r"\$\(|`", each) for each in assignments)
            return {state.with_status(UNKNOWN_STATUS if substitutes else 0)}
        name, arguments = left[0], left[1:]
        if name in self._functions:
            done = self._call(name, arguments, state, tested=tested)
        elif name in ("shouldrun", "setdone", "resetdone"):
            done = self._guard(name, arguments, state, place)
        elif name == "urequire":
            done = self._load_libraries(arguments, state)
        elif name == "return":
            # Outside of functions and libraries bash reports an error and goes on.
            inside = self._call_depth or self._inside
            done = {simple_command.run_return(state, arguments) if inside else state.with_status(2)}
        else:
            done = {simple_command.run(state, name, arguments, place)}
        return {each.apply_errexit(tested=tested) for each in done}

    # --- functions and libraries -----------------------------------------------------------

    def _define(self, node: FunctionDefinition, state: State) -> State:
        known = self._functions.setdefault(node.name, node.body)
        if node.name in _PROTECTED or known != node.body:
            raise Undetermined(f"it redefines the function `{node.name}`")
        return state.with_status(0)

    def _call(self, name: str, arguments: Sequence[str], state: State, *, tested: bool) -> set[State]:
        if self._call_depth >= MAX_CALL_DEPTH:
            raise Undetermined(f"calls of `{name}` are nested too deep")
        body, fields = self._functions[name], state.expand(arguments)
        inner = state.forget(PARAMETERS)
        if fields is not None:
            given: list[tuple[str, Value]] = [("@", tuple(fields)), *zip(PARAMETERS[1:], fields, strict=False)]
            for each, value in given:
                inner = inner.assign(each, value)
        self._call_depth += 1
        try:
            ends = self._run(body, inner, tested=tested)
        finally:
            self._call_depth -= 1
        for each in (*PARAMETERS, *_local_variables(body)):
            ends = {end.assign(each, state.value(each)) for end in ends}
        return {replace(end, jump="") if end.jump == "return" else end for end in ends}

    def _load_libraries(self, arguments: Sequence[str], state: State) -> set[State]:
        fields = state.expand(arguments)
        if fields is None:
            raise Undetermined("which library it loads is known only when it runs")
        states = {state.with_status(0)}
        for field in fields:
            name = field.decode("utf-8", "surrogateescape")
            key, text = f"urequire {name}", self._read_library(name)
            # A library that is loaded already is not run again.
            if text is None or any(each.value(key) for each in states):
                continue
            outer, self._inside = self._inside, f" of library `{name}`"
            try:
                states = self._run_each(parse(text), {each.assign(key, b"loaded") for each in states}, tested=False)
            finally:
                self._inside = outer
            states = {replace(each, jump="") if each.jump == "return" else each for each in states}
        return states


def _local_variables(body: Node) -> set[str]:
    """Return the variables that are local to a function with this body."""
    local = [
        each.words[1:] for each in simple_commands(body) if each.words[:1] in (("local",), ("declare",), ("typeset",))
    ]
    declared = [word for each in local if "-g" not in each for word in each]
    return {found[0] for found in (re.match(r"[A-Za-z_]\w*", word) for word in declared) if found}
