"""The resolver: makes the plan of one host from the entries of its recipe.

It evaluates the CONF section of every step, adds the scripts of `after -r` and `-rr`, sorts the steps, and collects
their files. It opens no connection and changes nothing. All problems of all steps are reported together.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial

from runsdeploy.errors import InputError, Position, Problem
from runsdeploy.plan.conf import Conf, Ref, Request
from runsdeploy.plan.evaluation import TIME_LIMIT, evaluate
from runsdeploy.plan.files import File, destination, is_behind_link, library_files, links_of, referenced_files
from runsdeploy.plan.order import Identity, Node, available_files, is_settled, sort_nodes
from runsdeploy.plan.plan import Plan, Step
from runsdeploy.plan.sysinfos import ExpectedFacts, expected_facts
from runsdeploy.plan.threads import Progress
from runsdeploy.tree.composition import composed, on_disk, spelt
from runsdeploy.tree.recipe import Entry, Operation
from runsdeploy.tree.script import Script, read_script
from runsdeploy.tree.trees import Host, Trees, file_problem, name_problem

MOST_ROUNDS = 8
"""rounds of evaluation; if files still appear and vanish with the order of steps after them, that is a contradiction"""


MOST_STEPS = 10_000
"""steps that a plan may have: scripts that each name the next one twice by `after -rr` double with each script"""

MOST_LEVELS = 100
"""steps that may request each other by `after -r` and `-rr`, one the other"""


class FactsUnknown(InputError):
    """Only facts of the host are missing: no `sysinfos.conf` sets them, and the host was not asked yet."""


def resolve(  # noqa: PLR0913 - all that a plan is made of
    trees: Trees,
    host: Host,
    entries: Sequence[Entry],
    *,
    sets: Sequence[Operation] = (),
    facts: Sequence[Operation] = (),
    time_limit: float = TIME_LIMIT,
    progress: Progress | None = None,
) -> Plan:
    """Make the plan for the entries of a recipe.

    `sets` are operations on every step; `facts` are those found on the host; `time_limit` is in seconds, for each CONF
    section; `progress` is that of the thread. Raises InputError with every problem, or FactsUnknown if only facts of
    the host are missing.
    """
    evaluate_all = partial(evaluate, time_limit=time_limit, progress=progress)
    resolver = _Resolver(trees, host, tuple(sets), tuple(facts), evaluate_all)
    shared: Mapping[Identity, tuple[str, ...]] = {}
    for _ in range(MOST_ROUNDS):
        nodes = resolver.expand(entries, shared)
        available = available_files(nodes)
        if all(is_settled(node, available[node.identity]) for node in nodes):
            return _complete(trees, host, nodes, available, resolver.problems)
        shared = available
    message = "files made by `out` and steps moved by `after` contradict each other: the order never settles"
    raise InputError([Problem(entries[0].position, message)])


def expected_facts_for(
    trees: Trees, host: Host, time_limit: float = TIME_LIMIT, progress: Progress | None = None
) -> ExpectedFacts | None:
    """Return the facts that the host's sysinfos.conf sets, for a plan that is made from other trees.

    Raises InputError for a problem in that file; other problems of the trees do not matter here.
    """
    place = trees.sysinfos(host)
    if place is None:
        return None
    empty = Script("", trees.located(place.tree, place.inside.rpartition("/")[0], "."), b"", b"")
    conf = evaluate([Request(empty, host)], trees, time_limit, progress)[0]
    wrong = [problem for problem in conf.problems if problem.position and problem.position.file == place.shown]
    if wrong:
        raise InputError(wrong)
    return expected_facts(conf.settings, place.shown)


class _Resolver:
    """Scripts that were found and sections that were evaluated in one resolution; both are kept from round to round."""

    def __init__(
        self,
        trees: Trees,
        host: Host,
        sets: tuple[Operation, ...],
        facts: tuple[Operation, ...],
        evaluate_all: Callable[[Sequence[Request], Trees], list[Conf]],
    ) -> None:
        self.trees, self.host, self.sets, self.facts, self.evaluate_all = trees, host, sets, facts, evaluate_all
        self.problems: list[Problem] = []
        """those of the last round"""
        self.evaluated: dict[tuple[Identity, tuple[str, ...]], Conf] = {}
        self.scripts: dict[str, Script | Problem | None] = {}
        self.keys: dict[Identity, str] = {}
        self.keyed: Counter[str] = Counter()
        """how many keys there are for a script"""
        self.names: Counter[str] = Counter()
        """how many nodes of this round a script has"""

    def expand(self, entries: Sequence[Entry], shared: Mapping[Identity, tuple[str, ...]]) -> list[Node]:
        """Return the nodes of the entries, and of all scripts that they add, in order.

        `shared` are the files of earlier steps that each section is evaluated with. Raises InputError without bash.
        """
        self.problems = []
        found = ((self._script(entry.name, entry.position), entry) for entry in entries)
        nodes = [Node(script, entry.operations, entry.position) for script, entry in found if script]
        self.names = Counter(node.script.name for node in nodes)
        waiting = list(nodes)
        while waiting:
            self._evaluate(waiting, shared)
            waiting = [added for node in waiting for added in self._added(node, nodes)]
        nodes, problems = sort_nodes(nodes)
        self.problems += problems
        return nodes

    def _script(self, name: str, position: Position) -> Script | None:
        """Return a script by name; if there is none, note the problem."""
        wrong = name_problem(name)
        if wrong:
            self.problems.append(Problem(position, wrong))
            return None
        if name not in self.scripts:
            found = self.trees.find(name, self.host)
            outside = self.trees.trust.outside_problem(found.path, f"script `{name}`") if found else None
            self.scripts[name] = outside or (read_script(name, found) if found else None)
        script = self.scripts[name]
        if script is None:
            self.problems.append(Problem(position, f"unknown script `{name}`", self.trees.near(name, self.host)))
        elif isinstance(script, Problem):
            self.problems += [script, Problem(position, f"`{name}` cannot be run, see `{script.position}`")]
        return script if isinstance(script, Script) else None

    def _evaluate(self, nodes: Sequence[Node], shared: Mapping[Identity, tuple[str, ...]]) -> None:
        """Set the `conf` of nodes; sections that were evaluated with the same files already are not run again."""
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
            self.evaluated.update(zip(new, self.evaluate_all(requests, self.trees), strict=True))
        for node in nodes:
            node.conf = self.evaluated[node.identity, node.shared]

    def _key(self, node: Node) -> str:
        """Return a name for a step: its script and how many steps of the script came before.

        Rendered templates lie under it. It does not depend on the step's place in the plan, so digests do not either.
        """
        name, identity = node.script.name, node.identity
        if identity not in self.keys:
            self.keys[identity] = f"{name}/{self.keyed[name]}"
            self.keyed[name] += 1
        return self.keys[identity]

    def _added(self, node: Node, nodes: list[Node]) -> Iterator[Node]:
        """Yield the nodes that `after -r` and `-rr` of a node add; each is inserted before it."""
        for after in node.conf.afters:
            if after.script == node.script.name:
                # An `after` in a runs.conf applies to the other scripts only.
                if after.position.file == node.script.source.shown:
                    cycle = f"cycle in `after`: {after.script} → {after.script}"
                    self.problems.append(Problem(after.position, cycle))
                continue
            if after.mode == "order" or (after.mode == "once" and self.names[after.script]):
                continue
            names = [each.script.name for each in node.requesters()][::-1]
            if after.mode == "always" and after.script in names:
                cycle = " → ".join([*names[names.index(after.script) :], after.script])
                self.problems.append(Problem(after.position, f"cycle in `after`: {cycle}"))
                continue
            if len(names) > MOST_LEVELS or len(nodes) == MOST_STEPS:
                how = f"{MOST_LEVELS} steps that add each other" if len(names) > MOST_LEVELS else f"{MOST_STEPS} steps"
                self.problems.append(Problem(after.position, f"`{names[0]}` makes more than {how} by `after`"))
                return
            script = self._script(after.script, after.position)
            if script:
                self.names[script.name] += 1
                why = f"added by `after` of `{node.script.name}`"
                added = Node(script, after.operations, after.position, why, node)
                nodes.insert(next(n for n, each in enumerate(nodes) if each is node), added)
                yield added


# --- completing ----------------------------------------------------------------------------------


def _complete(
    trees: Trees,
    host: Host,
    nodes: Sequence[Node],
    available: Mapping[Identity, tuple[str, ...]],
    problems: Sequence[Problem],
) -> Plan:
    """Make the plan of sorted nodes; `problems` are those found so far. Raises InputError or FactsUnknown."""
    problems = [
        *problems,
        *_declaration_problems(nodes, available),
        *_composition_problems(trees, host, nodes, available),
    ]
    libraries: dict[str, File] = {}
    steps: list[Step] = []
    for number, node in enumerate(nodes, 1):
        files, wrong_files = _step_files(trees, host, node.conf)
        loaded, wrong_libraries = library_files(trees, node.script)
        problems += [*wrong_files, *wrong_libraries]
        libraries |= loaded
        steps.append(_step(number, node, available[node.identity], files, loaded))
    problems += [*_overlap_problems(steps), *_link_problems(steps)]
    if problems:
        raise InputError(problems)
    unknown = next((node for node in nodes if node.conf.needs_facts), None)
    if unknown:
        message = f"`{unknown.script.name}` needs facts of `{host.name}`, and no `sysinfos.conf` sets them"
        raise FactsUnknown(
            [Problem(unknown.conf.needs_facts, message, "write one, or deploy: a deploy finds them on the target")]
        )
    place = trees.sysinfos(host)
    # Every section was evaluated after the same sysinfos.conf, so any one shows what that file sets.
    expected = expected_facts(nodes[0].conf.settings, place.shown) if place and nodes else None
    return Plan(host, tuple(steps), tuple(libraries[name] for name in sorted(libraries)), expected)


def _declaration_problems(nodes: Sequence[Node], available: Mapping[Identity, tuple[str, ...]]) -> Iterator[Problem]:
    """Yield the problems of sections, of names of files and scripts, and of required files that are missing."""
    outs_unknown = False
    for node in nodes:
        # A section that stops for want of facts may have made more files.
        outs_unknown = outs_unknown or bool(node.conf.needs_facts)
        yield from node.conf.problems
        files = [(out.file, out.position) for out in node.conf.outs]
        files += [(ref.file, ref.position) for ref in node.conf.refs]
        yield from (Problem(position, wrong) for name, position in files if (wrong := file_problem(name)))
        names = [(after.script, after.position) for after in node.conf.afters if after.mode == "order"]
        yield from (Problem(position, wrong) for name, position in names if (wrong := name_problem(name)))
        if not outs_unknown:
            yield from _missing_files(node.conf.refs, available[node.identity])


def _missing_files(refs: Sequence[Ref], available: Sequence[str]) -> Iterator[Problem]:
    made = frozenset(available)
    for ref in refs:
        required = ref.required or ref.template
        if ref.where == "missing" and required and ref.file not in made and not file_problem(ref.file):
            message = f"required file `{ref.file}` is neither in the trees nor made by an earlier step's `out`"
            yield Problem(ref.position, message)


def _composition_problems(
    trees: Trees, host: Host, nodes: Sequence[Node], available: Mapping[Identity, tuple[str, ...]]
) -> Iterator[Problem]:
    """Yield a problem for each file that is only there in another composition of its name: bash looks for bytes."""
    for node in nodes:
        for ref in node.conf.refs:
            if ref.where != "missing" or ref.file.isascii() or ref.file in available[node.identity]:
                continue
            beside = trees.located(node.script.source.tree, node.script.folder)
            places = [beside, *trees.host_directories(host), *(trees.located(n) for n in range(len(trees.roots)))]
            found = [name for place in places if (name := on_disk(place.path, ref.file)) != ref.file]
            found += [name for name in available[node.identity] if composed(name) == composed(ref.file)]
            if found:
                message = f"file `{ref.file}` is composed differently here, `{spelt(ref.file)}`, than where it is, "
                yield Problem(
                    ref.position, f"{message}`{spelt(found[0])}`", "rename the file, or write the name as it is"
                )


def _step_files(trees: Trees, host: Host, conf: Conf) -> tuple[dict[str, File], list[Problem]]:
    """Return the files that a section refers to, by path, and problems."""
    files: dict[str, File] = {}
    problems: list[Problem] = []
    for ref in conf.refs:
        members, wrong = referenced_files(trees, host.name, conf, ref)
        files.update((file.path, file) for file in members)
        problems += wrong
    return files, problems


def _step(
    number: int, node: Node, available: Sequence[str], files: Mapping[str, File], libraries: Mapping[str, File]
) -> Step:
    conf = node.conf
    made = frozenset(available)
    uses = {ref.file for ref in conf.refs if ref.file in made and ref.where != "tree"}
    return Step(
        number,
        node.script,
        node.position,
        frozenset(conf.flags),
        conf.description,
        tuple(sorted(conf.variables, key=lambda variable: variable.name)),
        tuple(files[path] for path in sorted(files)),
        tuple(sorted(libraries)),
        tuple(sorted({out.file for out in conf.outs})),
        tuple(sorted(uses)),
        node.why,
        conf.messages,
    )


def _overlap_problems(steps: Sequence[Step]) -> Iterator[Problem]:
    """Yield a problem for each script that is also shipped as a file: a script is shipped without its CONF section."""
    scripts = {f"tree{step.script.source.tree}/{step.script.source.inside}": step for step in steps}
    for step in steps:
        for file in step.files:
            if file.path in scripts:
                name = scripts[file.path].script.name
                message = f"`{step.script.name}` refers to the file of `{name}`, which is a step too"
                yield Problem(step.position, message)


def _link_problems(steps: Sequence[Step]) -> Iterator[Problem]:
    """Yield a problem for each file that would be written through a link which is shipped too.

    There is none if the link leads to the same file, and that is shipped: then it is shipped only once (`bundle`).
    """
    for side in {step.side for step in steps}:
        here = [step for step in steps if step.side == side]
        files = {file.path: file for step in here for file in step.files if file.kind != "link"}
        links = links_of(file for step in here for file in step.files)
        for step in here if links else ():
            script = File(f"tree{step.script.source.tree}/{step.script.source.inside}", "script", 0o644)
            for file in (script, *step.files):
                if not is_behind_link(file, links):
                    continue
                same = files.get(destination(file.path, links) or "")
                if file.kind == "link" or same is None or (same.kind, same.digest) != (file.kind, file.digest):
                    message = (
                        f"`{file.path}` lies behind a link that is shipped as a link, and the link does not lead to it"
                    )
                    yield Problem(step.position, message, "refer to the file by its path without links")
                    break
