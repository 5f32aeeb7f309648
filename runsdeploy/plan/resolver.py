"""Plans: what will be done on one host, whole, in order, printable, with a digest.

`resolve` evaluates the CONF section of every step, adds the scripts that `after -r` and `-rr` ask
for, sorts, finds and measures files. It opens no connection and changes nothing. All problems of all
steps are reported together.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise

from msgspec import Struct, field

from runsdeploy.errors import InputError, Position, Problem
from runsdeploy.plan.conf import After, Conf, Ref, Request
from runsdeploy.plan.evaluation import TIME_LIMIT, evaluate
from runsdeploy.plan.files import File, collect, content_file
from runsdeploy.plan.order import find_cycle, stable_order
from runsdeploy.plan.plan import Plan, Step
from runsdeploy.plan.syntax_check import wrong_in
from runsdeploy.plan.sysinfos import ExpectedFacts, expected_facts
from runsdeploy.tree.libraries import meant_libraries, unknown_libraries
from runsdeploy.tree.recipe import Entry, Operation
from runsdeploy.tree.script import Script, read_script
from runsdeploy.tree.trees import Host, Trees, file_problem, name_problem

SETTLE = 8
"""rounds after which files that appear and vanish with the order are given up as a contradiction"""


class FactsUnknown(InputError):
    """All is well but for facts of the host, which nobody promised and no one asked it for yet."""


class _Node(Struct):
    """A step before it is complete."""

    script: Script
    operations: tuple[Operation, ...]
    position: Position
    why: str = ""
    asked_by: _Node | None = None
    conf: Conf = field(default_factory=Conf)
    shared: tuple[str, ...] = ()

    @property
    def identity(self) -> tuple[object, ...]:
        """What stays the same when everything is evaluated again."""
        return (self.script.name, self.position, self.asked_by.identity if self.asked_by else ())

    def chain(self) -> Iterator[_Node]:
        """Yield itself and those that asked for it."""
        yield self
        if self.asked_by:
            yield from self.asked_by.chain()


def resolve(
    trees: Trees,
    host: Host,
    entries: Sequence[Entry],
    *,
    sets: Sequence[Operation] = (),
    facts: Sequence[Operation] = (),
    time_limit: float = TIME_LIMIT,
) -> Plan:
    """Make the plan for the entries of a recipe; `sets` are the operator's operations on every step.

    Raises InputError with every problem, or FactsUnknown if only facts of the host are missing.
    """
    resolver = _Resolver(trees, host, tuple(sets), tuple(facts), time_limit)
    shared: dict[tuple[object, ...], tuple[str, ...]] = {}
    for _ in range(SETTLE):
        nodes = resolver.expand(entries, shared)
        seen = resolver.visible(nodes)
        if all(resolver.settled(node, seen) for node in nodes):
            return resolver.finish(nodes, seen)
        shared = seen
    message = "files made by `out` and steps moved by `after` contradict each other: the order never settles"
    raise InputError([Problem(entries[0].position, message)])


def expected_facts_for(trees: Trees, host: Host, time_limit: float = TIME_LIMIT) -> ExpectedFacts | None:
    """Return what the host's sysinfos.conf promises, for plans that are made from other trees.

    Raises InputError for what is wrong with that file; what else is wrong with the trees is of no account then.
    """
    place = trees.sysinfos(host)
    if place is None:
        return None
    nothing = Script("", trees.located(place.tree, place.inside.rpartition("/")[0], "."), b"", b"")
    conf = evaluate([Request(nothing, host)], trees, time_limit)[0]
    wrong = [problem for problem in conf.problems if problem.position and problem.position.file == place.shown]
    if wrong:
        raise InputError(wrong)
    return expected_facts(conf.settings, place.shown)


class _Resolver:
    """The problems of one resolution, and what it has evaluated so far."""

    def __init__(
        self, trees: Trees, host: Host, sets: tuple[Operation, ...], facts: tuple[Operation, ...], limit: float
    ) -> None:
        self.trees, self.host, self.sets, self.facts, self.limit = trees, host, sets, facts, limit
        self.problems: list[Problem] = []
        self.evaluated: dict[tuple[object, ...], Conf] = {}
        self.scripts: dict[str, Script | Problem | None] = {}
        self.keys: dict[tuple[object, ...], str] = {}

    def script(self, name: str, position: Position) -> Script | None:
        """Find a script by name, or note why there is none."""
        wrong = name_problem(name)
        if wrong:
            self.problems.append(Problem(position, wrong))
            return None
        if name not in self.scripts:
            found = self.trees.find(name, self.host)
            outside = self.trees.trust.outside(found.path, f"script `{name}`") if found else None
            self.scripts[name] = outside or (read_script(name, found) if found else None)
        script = self.scripts[name]
        if script is None:
            self.problems.append(Problem(position, f"unknown script `{name}`", self.trees.near(name, self.host)))
        elif isinstance(script, Problem):
            self.problems += [script, Problem(position, f"`{name}` cannot be run, see `{script.position}`")]
        return script if isinstance(script, Script) else None

    # --- adding and sorting ----------------------------------------------------------------

    def expand(self, entries: Sequence[Entry], shared: dict[tuple[object, ...], tuple[str, ...]]) -> list[_Node]:
        """Return the nodes of the entries and of all they ask for, in order; raises InputError."""
        self.problems = []
        found = ((self.script(entry.name, entry.position), entry) for entry in entries)
        nodes = [_Node(script, entry.operations, entry.position) for script, entry in found if script]
        waiting = list(nodes)
        while waiting:
            self._evaluate(waiting, shared)
            waiting = [added for node in waiting for added in self._ask(node, nodes)]
        before = [self._before(node, nodes) for node in nodes]
        order = stable_order(before)
        if order is None:
            # Any order will do to find what else is wrong; `finish` raises.
            self.problems.append(_cycle_problem(nodes, before))
            order = list(range(len(nodes)))
        for place, number in enumerate(order):
            late = [nodes[first] for first in before[number] if first > number]
            if late and place != number and not nodes[number].why:
                nodes[number].why = f"moved behind `{late[-1].script.name}`, which it comes `after`"
        return [nodes[number] for number in order]

    def _evaluate(self, nodes: Sequence[_Node], shared: dict[tuple[object, ...], tuple[str, ...]]) -> None:
        for node in nodes:
            node.shared = shared.get(node.identity, ())
        new = {
            (node.identity, node.shared): node for node in nodes if (node.identity, node.shared) not in self.evaluated
        }
        requests = [
            Request(node.script, self.host, node.operations + self.sets, self.facts, node.shared, self._key(node))
            for node in new.values()
        ]
        if requests:
            self.evaluated.update(zip(new, evaluate(requests, self.trees, self.limit), strict=True))
        for node in nodes:
            node.conf = self.evaluated[node.identity, node.shared]

    def _key(self, node: _Node) -> str:
        """Name a step by its script and how many of the same came before: digests must not tell the place."""
        same = [key for identity, key in self.keys.items() if identity[0] == node.script.name]
        return self.keys.setdefault(node.identity, f"{node.script.name}/{len(same)}")

    def _ask(self, node: _Node, nodes: list[_Node]) -> Iterator[_Node]:
        """Yield the nodes that a node's `after -r` and `-rr` add, put before it."""
        for after in node.conf.afters:
            if after.script == node.script.name:
                # In a runs.conf it is meant for the others.
                if after.position.file == node.script.source.shown:
                    cycle = f"cycle in `after`: {after.script} → {after.script}"
                    self.problems.append(Problem(after.position, cycle))
                continue
            if after.mode == "order":
                continue
            if after.mode == "once" and any(other.script.name == after.script for other in nodes):
                continue
            if after.mode == "always" and any(each.script.name == after.script for each in node.chain()):
                names = [each.script.name for each in node.chain()][::-1]
                cycle = " → ".join([*names[names.index(after.script) :], after.script])
                self.problems.append(Problem(after.position, f"cycle in `after`: {cycle}"))
                continue
            script = self.script(after.script, after.position)
            if script:
                why = f"asked for by `{node.script.name}`"
                added = _Node(script, after.operations, after.position, why, node)
                nodes.insert(next(n for n, each in enumerate(nodes) if each is node), added)
                yield added

    def _before(self, node: _Node, nodes: Sequence[_Node]) -> dict[int, After | None]:
        """Return the numbers of the nodes that must run before this one, with the reason."""
        wanted = {after.script: after for after in node.conf.afters if after.mode != "always"}
        wanted.pop(node.script.name, None)
        named = {n: wanted[each.script.name] for n, each in enumerate(nodes) if each.script.name in wanted}
        added = {n: None for n, each in enumerate(nodes) if each.asked_by is node}
        return {**named, **added}

    # --- files that steps make for each other ------------------------------------------------

    def visible(self, nodes: Sequence[_Node]) -> dict[tuple[object, ...], tuple[str, ...]]:
        """Return, for every node, the files that the nodes before it make."""
        seen: dict[tuple[object, ...], tuple[str, ...]] = {}
        made: list[str] = []
        for node in nodes:
            seen[node.identity] = tuple(dict.fromkeys(made))
            made += [out.file for out in node.conf.outs]
        return seen

    def settled(self, node: _Node, seen: dict[tuple[object, ...], tuple[str, ...]]) -> bool:
        """Say whether a node was evaluated as if it saw these files."""
        own = f"tree{node.script.source.tree}/{node.script.folder}/"
        for ref in node.conf.refs:
            made = ref.file in seen[node.identity]
            if made and ref.how == "tree" and ref.found != own + ref.file:
                return False
            if not made and ref.how == "shared":
                return False
        return True

    # --- completing ----------------------------------------------------------------------------

    def finish(self, nodes: Sequence[_Node], seen: dict[tuple[object, ...], tuple[str, ...]]) -> Plan:
        """Make the plan of sorted nodes; raises InputError or FactsUnknown."""
        self._check(nodes, seen)
        libraries: dict[str, File] = {}
        steps = [self._step(number, node, seen[node.identity], libraries) for number, node in enumerate(nodes, 1)]
        self._check_overlap(steps)
        if self.problems:
            raise InputError(self.problems)
        unknown = [node for node in nodes if node.conf.needs_facts]
        if unknown:
            message = (
                f"`{unknown[0].script.name}` asks for sysinfos, and no `sysinfos.conf` of `{self.host.name}` tells them"
            )
            hint = "write one, or deploy: the target is asked then"
            raise FactsUnknown([Problem(unknown[0].conf.needs_facts, message, hint)])
        return Plan(
            self.host, tuple(steps), tuple(libraries[name] for name in sorted(libraries)), self._expected_facts(nodes)
        )

    def _expected_facts(self, nodes: Sequence[_Node]) -> ExpectedFacts | None:
        """Return what sysinfos.conf promises; it was evaluated with every script, each time alike."""
        place = self.trees.sysinfos(self.host)
        return expected_facts(nodes[0].conf.settings, place.shown) if place and nodes else None

    def _check(self, nodes: Sequence[_Node], seen: dict[tuple[object, ...], tuple[str, ...]]) -> None:
        blind = False
        for node in nodes:
            # What a script makes that asks for facts is only known with them.
            blind = blind or bool(node.conf.needs_facts)
            self.problems += node.conf.problems
            files = [(out.file, out.position) for out in node.conf.outs]
            files += [(ref.file, ref.position) for ref in node.conf.refs]
            self.problems += [Problem(position, wrong) for name, position in files if (wrong := file_problem(name))]
            names = [(after.script, after.position) for after in node.conf.afters if after.mode == "order"]
            self.problems += [Problem(position, wrong) for name, position in names if (wrong := name_problem(name))]
            made = seen.get(node.identity, ())
            self.problems += [_missing(ref) for ref in node.conf.refs if _is_missing(ref, made) and not blind]

    def _step(self, number: int, node: _Node, seen: tuple[str, ...], libraries: dict[str, File]) -> Step:
        conf = node.conf
        files: dict[str, File] = {}
        for ref in conf.refs:
            files.update((file.path, file) for file in self._files(node, ref))
        uses = {ref.file for ref in conf.refs if ref.file in seen and ref.how != "tree"}
        return Step(
            number,
            node.script,
            node.position,
            frozenset(conf.flags),
            conf.description,
            tuple(sorted(conf.variables, key=lambda variable: variable.name)),
            tuple(files[path] for path in sorted(files)),
            tuple(sorted(self._libraries(node.script, libraries))),
            tuple(sorted({out.file for out in conf.outs})),
            tuple(sorted(uses)),
            node.why,
            conf.messages,
        )

    def _files(self, node: _Node, ref: Ref) -> list[File]:
        if ref.how != "tree" or file_problem(ref.file):
            return []
        tree, _, inside = ref.found.removeprefix("tree").partition("/")
        place = self.trees.located(int(tree), inside)
        files, problems = collect(self.trees, place, ref.position)
        self.problems += problems
        if not ref.template or problems:
            return files
        if files[0].kind != "file":
            self.problems.append(Problem(ref.position, f"template `{ref.file}` is a {files[0].kind}, expected a file"))
            return []
        from runsdeploy.plan.template import render  # noqa: PLC0415 - jinja2 costs 50 ms, few trees use it

        content = render(place.path, node.conf.variables, self.host.name)
        if isinstance(content, Problem):
            # Values are incomplete until the facts are known; then it is rendered again.
            self.problems += [] if node.conf.needs_facts else [content]
            return []
        value = next(
            (each for each in node.conf.settings if each.variable == ref.variable and each.position == ref.position),
            None,
        )
        if value is None:
            return []  # its variable has a name that cannot be; that is told
        rendered = value.values[0].pieces[-1].decode("utf-8", "surrogateescape").lstrip("/")
        return [content_file(rendered, content, files[0].mode)]

    def _libraries(self, script: Script, libraries: dict[str, File]) -> set[str]:
        """Return the libraries of the trees that a script may load, and those that they may load.

        They are loaded by name at run time: all are taken whose name stands in a text that calls `urequire`.
        """
        known = self.trees.libraries()
        found: set[str] = set()
        left = [(script.body, script.source.shown)]
        while left:
            text, file = left.pop()
            self.problems += unknown_libraries(text, file, known)
            for name in meant_libraries(text, known) - found:
                found.add(name)
                content = known[name].path.read_bytes()
                self.problems += wrong_in(known[name].shown, content)
                libraries[name] = content_file(f"lib/{name}", content)
                left.append((content, known[name].shown))
        return found

    def _check_overlap(self, steps: Sequence[Step]) -> None:
        """A script is shipped without its CONF section: it cannot also be shipped as the file it is."""
        scripts = {f"tree{step.script.source.tree}/{step.script.source.inside}": step for step in steps}
        for step in steps:
            for file in step.files:
                if file.path in scripts:
                    message = (
                        f"`{step.script.name}` refers to the file of `{scripts[file.path].script.name}`, a step here"
                    )
                    self.problems.append(Problem(step.position, message))


def _is_missing(ref: Ref, made: Iterable[str]) -> bool:
    return (
        ref.how == "missing" and (ref.required or ref.template) and ref.file not in made and not file_problem(ref.file)
    )


def _missing(ref: Ref) -> Problem:
    return Problem(
        ref.position, f"required file `{ref.file}` is neither in the trees nor made by an earlier step's `out`"
    )


def _cycle_problem(nodes: Sequence[_Node], before: Sequence[dict[int, After | None]]) -> Problem:
    path = find_cycle(before)
    after = before[path[0]][path[1]]
    chain = " → ".join(nodes[number].script.name for number in path)
    places = ", ".join(str(reason.position) for one, two in pairwise(path) if (reason := before[one][two]))
    return Problem(after.position if after else nodes[path[0]].position, f"cycle in `after`: {chain} ({places})")
