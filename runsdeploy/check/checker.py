"""Builds the linter's model from the trees: all recipes, scripts and groups in one pass; an error does not end it.

A script that no recipe names is resolved too: for its own host if it lies in a host directory, else for a host that
does not exist. Errors that depend on values of a real host are dropped then.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path

from msgspec.structs import replace

from runsdeploy.check.finding import Finding, error, warning
from runsdeploy.check.model import HostEntries, TreeModel
from runsdeploy.errors import InputError, Problem, did_you_mean
from runsdeploy.plan.bash_errors import find_syntax_errors
from runsdeploy.plan.resolver import FactsUnknown, resolve
from runsdeploy.plan.threads import Progress, ProgressListener, run_all
from runsdeploy.tree.composition import composed
from runsdeploy.tree.includes import COMMAND_LINE, RecipeIncludes
from runsdeploy.tree.recipe import Entry, parse_recipe
from runsdeploy.tree.script import Script, is_script, read_head, read_script
from runsdeploy.tree.selection import memberships
from runsdeploy.tree.text import read_text
from runsdeploy.tree.trees import Host, Located, Trees, files_below, is_candidate, name_problem

NOWHERE = Host("nowhere.invalid")
"""a host that cannot exist (RFC 6761, 6.4)"""

MOST_MISSPELT = 100
"""words of a file that are compared with the names of scripts: a text of a million lines is no recipe"""

RECIPE_RULES = frozenset({"missing-file", "template", "failing-section"})
"""rules of errors that a recipe's values may prevent: no errors in a script that no recipe names"""


def build_model(
    trees: Trees,
    hosts: Sequence[Host],
    time_limit: float,
    *,
    complete: bool,
    static: bool,
    listener: ProgressListener | None = None,
) -> TreeModel:
    """Return the model of the trees as these hosts use them; raises InputError only for trees that are not trusted.

    `time_limit` is in seconds, for each CONF section; `complete` says that these are all hosts; with `static` no
    CONF section is run, and there are no plans.
    """
    model = TreeModel(trees, hosts, complete)
    resolve_each = partial(_look_up, model) if static else partial(_resolve, trees, time_limit)
    model.names = {"": dict(trees.names(None)), **{host.name: dict(_host_files(trees, host)) for host in hosts}}
    for files in model.names.values():
        for name, place in files.items():
            _add_file(model, name, place)
    _drop_shipped(model)
    model.recipes = run_all(resolve_each, [recipe for host in hosts for recipe in _recipes(model, host)], listener)
    used = {script.source.path for *_, script in model.entries()} | set(model.steps_by_path)
    unused = [HostEntries(host, _unused(model, host, used)) for host in (*hosts, *((NOWHERE,) if complete else ()))]
    model.unreferenced = run_all(resolve_each, [each for each in unused if each.entries], listener)
    # One script's errors, or the facts that it needs, must not hide the findings of the others.
    failed = [each for each in model.unreferenced if not (static or each.plan) and len(each.entries) > 1]
    single = [replace(each, entries=(entry,)) for each in failed for entry in each.entries]
    model.unreferenced += run_all(resolve_each, single, listener)
    model.findings += [finding for each in model.recipes for finding in each.findings]
    model.findings += [kept for each in model.unreferenced for finding in each.findings for kept in _tolerate(finding)]
    model.findings += [error(problem) for problem in memberships(trees)[1]]
    model.findings += [error(problem) for problem in trees.misplaced_hosts()] if complete else []
    return model


def syntax_errors(model: TreeModel, *, static: bool) -> list[Finding]:
    """Return bash's syntax errors; raises InputError for a library or configuration that leads out of the trees."""
    # Unless `static`, sections were parsed when their CONF was evaluated.
    return [error(problem) for problem in find_syntax_errors(_texts(model, sections=static))]


def _texts(model: TreeModel, *, sections: bool) -> Iterator[tuple[str, bytes]]:
    """Yield the texts that bash must parse, with their files."""
    yield from ((each.source.shown, read_text(each.source.path)) for each in model.libraries.values() if each.source)
    if sections:
        for script in model.scripts.values():
            yield from ((script.source.shown, script.conf), (script.source.shown, script.body))
        yield from ((each.source.shown, each.text) for each in (*model.configurations, *model.sysinfos))


# --- files of a host -----------------------------------------------------------------------------


def _host_files(trees: Trees, host: Host) -> Iterator[tuple[str, Located]]:
    """Yield the files in a host's directories that may be scripts or recipes, by name; the first of a name counts."""
    seen: set[str] = set()
    for place in trees.host_directories(host):
        for path in files_below(place.path):
            name = str(path.relative_to(place.path))
            if is_candidate(path.name) and composed(name) not in seen and path.is_file():
                seen.add(composed(name))
                trees.trust.check_owner(path)
                yield composed(name), trees.located(place.tree, place.inside, name)


def _add_file(model: TreeModel, name: str, place: Located) -> None:
    """Add a file to the model's scripts if it is one, else to its other files."""
    try:
        script = read_script(name, place) if is_script(read_head(place.path)) else None
    except OSError:
        return  # reported where the file is needed
    if isinstance(script, Script):
        model.scripts[place.path] = script
    elif script:
        model.broken.add(place.path)
        model.findings.append(error(script))
    else:
        model.other_files.append(place)


def _drop_shipped(model: TreeModel) -> None:
    """Remove the files that only a `ref` ships: a list of words or a configuration is no script and no recipe."""
    try:
        shipped = model.shipped
    except InputError:
        return  # a library that may not be read; reported when the rules need it
    named = {"default", *model.names_after}
    for place in model.other_files:
        named |= {entry.name.removeprefix("@") for entry in _parsed(place) if not shipped & {place.path}}
    dropped: set[Path] = set()
    for names in model.names.values():
        for name, place in [*names.items()]:
            if name not in named and shipped & {place.path, *place.path.parents}:
                dropped.add(names.pop(name).path)
    kept = {place.path for names in model.names.values() for place in names.values()}
    model.drop(dropped - kept)


def _recipes(model: TreeModel, host: Host) -> Iterator[HostEntries]:
    """Yield the recipes of a host: `default`, then those that no other includes, then the rest of include cycles."""
    known = {*model.names[""], *model.names[host.name]}
    files = {
        name: place
        for name, place in model.names[host.name].items()
        if place.path not in {*model.scripts, *model.broken}
    }
    recipes = {name: place for name, place in files.items() if _is_recipe(name, place, known)}
    included = {entry.name[1:] for place in recipes.values() for entry in _parsed(place) if entry.name.startswith("@")}
    includes = RecipeIncludes(model.trees, host)
    for name in sorted(recipes, key=lambda name: (name != "default", name in included, name)):
        if recipes[name].path not in includes.files:
            before = len(includes.problems)
            entries = tuple(includes.expand(Entry(f"@{name}", (), COMMAND_LINE)))
            yield HostEntries(host, entries, None, tuple(map(error, includes.problems[before:])))


def _parsed(place: Located) -> Sequence[Entry]:
    try:
        head = read_head(place.path)
    except OSError:
        return []
    # A payload beside the scripts may hold anything.
    return [] if b"\0" in head else parse_recipe(head, place.shown)[0]


def _is_recipe(name: str, place: Located, known: Iterable[str]) -> bool:
    """Return whether a file of a host directory is a recipe, because it names scripts, and not a file for a `ref`."""
    names = [entry.name.removeprefix("@") for entry in _parsed(place)]
    near = (did_you_mean(each, known) for each in names[:MOST_MISSPELT])
    return name == "default" or any(each in known for each in names) or any(near)


def _unused(model: TreeModel, host: Host, used: set[Path]) -> tuple[Entry, ...]:
    """Return entries for the scripts of a host's directories, or of NOWHERE, whose paths are not in `used`."""
    files = model.names[host.name if host is not NOWHERE else ""]
    unused = {name: place for name, place in files.items() if place.path in model.scripts and place.path not in used}
    return tuple(Entry(name, (), place.at(1)) for name, place in unused.items())


# --- plans ---------------------------------------------------------------------------------------


def _resolve(trees: Trees, time_limit: float, recipe: HostEntries, progress: Progress) -> HostEntries:
    """Return the recipe with its plan, or with the errors that prevent one."""
    progress.name = recipe.host.name
    try:
        plan = resolve(trees, recipe.host, recipe.entries, time_limit=time_limit, progress=progress)
        return replace(recipe, plan=plan)
    except FactsUnknown:
        return recipe
    except InputError as bad:
        return replace(recipe, findings=(*recipe.findings, *map(error, bad.problems)))


def _look_up(model: TreeModel, recipe: HostEntries, _: Progress) -> HostEntries:
    """Return the recipe with errors for scripts that do not exist; executes nothing."""
    problems: list[Problem] = []
    for entry in recipe.entries:
        if name_problem(entry.name):
            continue  # reported by the recipe's parser
        place = model.trees.find(entry.name, recipe.host)
        script = read_script(entry.name, place) if place else None
        if place is None:
            near = model.trees.near(entry.name, recipe.host)
            problems.append(Problem(entry.position, f"unknown script `{entry.name}`", near))
        elif outside := model.trees.trust.outside_problem(place.path, f"script `{entry.name}`"):
            problems.append(outside)
        elif isinstance(script, Problem):
            problems.append(script)
    return replace(recipe, findings=(*recipe.findings, *map(error, problems)))


def _tolerate(finding: Finding) -> Iterator[Finding]:
    """Yield a finding of a script that no recipe names: an error of RECIPE_RULES as a warning, or not at all."""
    problem = finding.problem
    if finding.rule not in RECIPE_RULES:
        yield finding
    elif finding.rule != "missing-file":
        yield warning(finding.rule, problem.position, problem.message, problem.hint)
