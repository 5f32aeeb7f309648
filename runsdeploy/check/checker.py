"""The walk over the trees that makes a survey: all recipes, scripts and groups, in one go. Errors never end it.

What no recipe names is resolved too, for its own host if it lies in a host directory, else for one that nobody
has: what only a real host's values can tell is then no error.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from msgspec.structs import replace

from runsdeploy.check.finding import Finding, doubt, error
from runsdeploy.check.model import TreeModel, Use
from runsdeploy.errors import InputError, Problem, did_you_mean
from runsdeploy.plan.bash_errors import find_syntax_errors
from runsdeploy.plan.resolver import FactsUnknown, resolve
from runsdeploy.tree.includes import COMMAND_LINE, RecipeIncludes
from runsdeploy.tree.recipe import Entry, parse_recipe
from runsdeploy.tree.script import Script, is_script, read_script
from runsdeploy.tree.selection import memberships
from runsdeploy.tree.trees import Host, Located, Trees, files_below, is_candidate, name_problem

NOWHERE = Host("nowhere.invalid")
"""a host that nobody has (RFC 6761, 6.4)"""

DEPENDS = frozenset({"missing-file", "template", "failing-section"})
"""rules that ask for what a recipe gives a script: no errors while none names it"""


def survey(trees: Trees, hosts: Sequence[Host], time_limit: float, *, whole: bool, static: bool) -> TreeModel:
    """Look at the trees as these hosts use them; raises InputError only for trees that cannot be trusted."""
    seen = TreeModel(trees, hosts, whole)
    plan = partial(_looked_up, seen) if static else partial(_planned, trees, time_limit)
    seen.names = {"": dict(trees.names(None)), **{host.name: dict(_own(trees, host)) for host in hosts}}
    for files in seen.names.values():
        for name, place in files.items():
            _read(seen, name, place)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        seen.uses = list(pool.map(plan, [use for host in hosts for use in _recipes(seen, host)]))
        used = {script.source.path for *_, script in seen.used()} | set(seen.taken)
        idle = [Use(host, _idle(seen, host, used)) for host in (*hosts, *((NOWHERE,) if whole else ()))]
        seen.idle = list(pool.map(plan, [use for use in idle if use.entries]))
        # Facts that one script asks for, or its errors, must not hide what there is to say of the others.
        blind = [use for use in seen.idle if not (static or use.plan) and len(use.entries) > 1]
        seen.idle += pool.map(plan, [replace(use, entries=(entry,)) for use in blind for entry in use.entries])
    seen.findings += [finding for use in seen.uses for finding in use.findings]
    seen.findings += [each for use in seen.idle for finding in use.findings for each in _loosely(finding)]
    seen.findings += [error(problem) for problem in memberships(trees)[1]]
    seen.findings += [error(problem) for problem in trees.misplaced_hosts()] if whole else []
    return seen


def syntax_errors(seen: TreeModel, *, static: bool) -> list[Finding]:
    """Return what bash cannot parse; raises InputError for a library or configuration that leads out of the trees."""
    # Sections that are evaluated are parsed with that.
    return [error(problem) for problem in find_syntax_errors(_texts(seen, sections=static))]


def _texts(seen: TreeModel, *, sections: bool) -> Iterator[tuple[str, bytes]]:
    """Yield the texts that bash is to parse, with their files."""
    yield from ((each.source.shown, each.source.path.read_bytes()) for each in seen.libraries.values() if each.source)
    if sections:
        for script in seen.scripts.values():
            yield from ((script.source.shown, script.conf), (script.source.shown, script.body))
        yield from ((each.source.shown, each.text) for each in (*seen.configurations, *seen.facts))


def _looked_up(seen: TreeModel, use: Use) -> Use:
    """Look for the scripts of a use by their names; nothing is executed."""
    problems: list[Problem] = []
    for entry in use.entries:
        if name_problem(entry.name):
            continue  # the recipe's parser said so
        place = seen.trees.find(entry.name, use.host)
        script = read_script(entry.name, place) if place else None
        if place is None:
            near = seen.trees.near(entry.name, use.host)
            problems.append(Problem(entry.position, f"unknown script `{entry.name}`", near))
        elif outside := seen.trees.trust.outside_problem(place.path, f"script `{entry.name}`"):
            problems.append(outside)
        elif isinstance(script, Problem):
            problems.append(script)
    return replace(use, findings=(*use.findings, *map(error, problems)))


def _own(trees: Trees, host: Host) -> Iterator[tuple[str, Located]]:
    """Yield the files in a host's directories that may be scripts or recipes, by name; the first wins."""
    seen: set[str] = set()
    for place in trees.host_directories(host):
        for path in files_below(place.path):
            name = str(path.relative_to(place.path))
            if is_candidate(path.name) and name not in seen and path.is_file():
                seen.add(name)
                yield name, trees.located(place.tree, place.inside, name)


def _read(seen: TreeModel, name: str, place: Located) -> None:
    """Take a file for a script, if it is one."""
    try:
        script = read_script(name, place) if is_script(place.path.read_bytes()) else None
    except OSError:
        return  # whoever needs it says so
    if isinstance(script, Script):
        seen.scripts[place.path] = script
    elif script:
        seen.findings.append(error(script))
    else:
        seen.others.append(place)


def _recipes(seen: TreeModel, host: Host) -> Iterator[Use]:
    """Yield the recipes of a host: `default`, then those that nothing includes, then what circles leave."""
    known = {*seen.names[""], *seen.names[host.name]}
    files = {name: place for name, place in seen.names[host.name].items() if place.path not in seen.scripts}
    recipes = {name: place for name, place in files.items() if _is_recipe(name, place, known)}
    included = {entry.name[1:] for place in recipes.values() for entry in _parsed(place) if entry.name.startswith("@")}
    includes = RecipeIncludes(seen.trees, host)
    for name in sorted(recipes, key=lambda name: (name != "default", name in included, name)):
        if recipes[name].path not in includes.files:
            before = len(includes.problems)
            entries = tuple(includes.expand(Entry(f"@{name}", (), COMMAND_LINE)))
            yield Use(host, entries, None, tuple(map(error, includes.problems[before:])))


def _parsed(place: Located) -> Sequence[Entry]:
    try:
        return parse_recipe(place.path.read_bytes(), place.shown)[0]
    except OSError:
        return []


def _is_recipe(name: str, place: Located, known: Iterable[str]) -> bool:
    """Tell a recipe from other files of a host directory, which a `ref` may look for: it names scripts."""
    names = [entry.name.removeprefix("@") for entry in _parsed(place)]
    return name == "default" or any(each in known for each in names) or any(did_you_mean(each, known) for each in names)


def _planned(trees: Trees, time_limit: float, use: Use) -> Use:
    """Make the plan of a use."""
    try:
        return replace(use, plan=resolve(trees, use.host, use.entries, time_limit=time_limit))
    except FactsUnknown:
        return use
    except InputError as bad:
        return replace(use, findings=(*use.findings, *map(error, bad.problems)))


def _idle(seen: TreeModel, host: Host, used: set[Path]) -> tuple[Entry, ...]:
    """Return the scripts of a host's directories, or of all hosts, that no recipe names, as entries."""
    files = seen.names[host.name if host is not NOWHERE else ""]
    idle = {name: place for name, place in files.items() if place.path in seen.scripts and place.path not in used}
    return tuple(Entry(name, (), place.at(1)) for name, place in idle.items())


def _loosely(finding: Finding) -> Iterator[Finding]:
    """Yield what is wrong with a script that no recipe names, but for files that nobody could have made for it."""
    problem = finding.problem
    if finding.rule not in DEPENDS:
        yield finding
    elif finding.rule != "missing-file":
        yield doubt(finding.rule, problem.position, problem.message, problem.hint)
