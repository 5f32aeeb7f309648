"""Model of the trees for the linter: all files and their symbols, and how hosts use them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from collections.abc import Set as AbstractSet
from functools import cached_property
from pathlib import Path

from msgspec import Struct, field

from runsdeploy.check.finding import Finding
from runsdeploy.check.symbols import (
    ConfSymbols,
    Library,
    ScriptSymbols,
    collect_conf,
    collect_libraries,
    collect_script,
)
from runsdeploy.plan.plan import Plan, Step
from runsdeploy.tree.recipe import Entry
from runsdeploy.tree.script import Script
from runsdeploy.tree.text import read_text
from runsdeploy.tree.trees import Host, Located, Trees


class HostEntries(Struct, frozen=True):
    """Recipe entries for one host, with the plan that they make there."""

    host: Host
    entries: tuple[Entry, ...]
    plan: Plan | None = None
    """None if it was not made: errors, unknown facts, or `--static`"""
    findings: tuple[Finding, ...] = ()


class TreeModel(Struct, dict=True):
    """All files of the trees that hosts can reach, and the plans of these hosts."""

    trees: Trees
    hosts: Sequence[Host]
    complete: bool
    """whether `hosts` are all hosts of the trees: only then can a file be called unused"""
    scripts: dict[Path, Script] = field(default_factory=dict)
    """all scripts, by path"""
    broken: set[Path] = field(default_factory=set)
    """files that would be scripts without their errors"""
    other_files: list[Located] = field(default_factory=list)
    """files beside scripts that are no scripts"""
    names: dict[str, dict[str, Located]] = field(default_factory=dict)
    """files by host name and their own name; the empty host name has the files for all hosts"""
    recipes: list[HostEntries] = field(default_factory=list)
    """the recipes of the hosts"""
    unreferenced: list[HostEntries] = field(default_factory=list)
    """scripts that no recipe names, as entries of a recipe of their own"""
    findings: list[Finding] = field(default_factory=list)
    """errors of recipes, groups and plans"""

    def script(self, name: str, host: Host | None) -> Script | None:
        """Return the script that a name refers to on a host; host None looks only at files for all hosts."""
        place = (self.names.get(host.name, {}) if host else {}).get(name) or self.names[""].get(name)
        return self.scripts.get(place.path) if place else None

    def entries(self) -> Iterator[tuple[Host, Entry, Script]]:
        """Yield the entries of all recipes, with the script that each refers to."""
        for recipe in self.recipes:
            for entry in recipe.entries:
                script = self.script(entry.name, recipe.host)
                if script:
                    yield recipe.host, entry, script

    # --- symbols -----------------------------------------------------------------------------------

    @cached_property
    def libraries(self) -> dict[str, Library]:
        """All libraries, by name."""
        return collect_libraries(self.trees.libraries())

    @cached_property
    def all_symbols(self) -> list[ScriptSymbols]:
        """The symbols of all scripts."""
        return [self._collect(script) for script in self.scripts.values()]

    def _collect(self, script: Script) -> ScriptSymbols:
        symbols = collect_script(script, self.libraries)
        for each in symbols.conf.declared:
            if each.template:
                from runsdeploy.plan.template import mentions  # noqa: PLC0415 - jinja2 costs 50 ms, few trees use it

                names = [mentions(path) for path in self._templates(script, each.file)]
                symbols.template_reads_more |= not names or not all(isinstance(found, set) for found in names)
                symbols.template_reads.update(*(found for found in names if isinstance(found, set)))
        return symbols

    def _templates(self, script: Script, file: str | None) -> list[Path]:
        """Return the files that a template may be: of this name, or all beside the script if the name is computed."""
        own = script.source.path.parent
        return self.files(script, file) if file is not None else sorted(own.glob("*.j2"))

    def files(self, script: Script, file: str) -> list[Path]:
        """Return the files that a `ref FILE` of a script may find, on any host."""
        found = (path / file for path in (script.source.path.parent, *self._host_directories, *self.trees.roots))
        return [path for path in found if path.exists() or path.is_symlink()]

    @cached_property
    def shipped(self) -> frozenset[Path]:
        """The files and directories that a `ref` may ship."""
        return frozenset(
            path
            for symbols in self.all_symbols
            for each in symbols.conf.declared
            if each.kind == "ref" and each.file
            for path in self.files(symbols.script, each.file)
            # A directory that holds the script itself is that of scripts.
            if path not in (symbols.script.source.path, *symbols.script.source.path.parents)
        )

    @cached_property
    def names_after(self) -> frozenset[str]:
        """The names of scripts that an `after` has."""
        calls = (call for symbols in self.all_symbols for call in symbols.conf.calls("after"))
        return frozenset(word.text for call in calls for word in call.arguments)

    def drop(self, paths: AbstractSet[Path]) -> None:
        """Forget files that are no scripts and no recipes."""
        self.scripts = {path: script for path, script in self.scripts.items() if path not in paths}
        self.other_files = [place for place in self.other_files if place.path not in paths]
        self.all_symbols = [each for each in self.all_symbols if each.script.source.path not in paths]

    @cached_property
    def _host_directories(self) -> list[Path]:
        return [place.path for host in self.trees.hosts() for place in self.trees.host_directories(host)]

    @cached_property
    def checked(self) -> list[ScriptSymbols]:
        """The symbols of the scripts to report on: all, or those that the given hosts use."""
        used = {script.source.path for *_, script in self.entries()}
        plans = [each.plan for each in (*self.recipes, *self.unreferenced) if each.plan]
        used |= {step.script.source.path for plan in plans for step in plan.steps}
        return [each for each in self.all_symbols if self.complete or each.script.source.path in used]

    @cached_property
    def _by_path(self) -> dict[Path, ScriptSymbols]:
        return {symbols.script.source.path: symbols for symbols in self.all_symbols}

    def symbols_of(self, name: str, host: Host | None) -> ScriptSymbols | None:
        """Return the symbols of the script that a name refers to on a host."""
        script = self.script(name, host)
        return self._by_path[script.source.path] if script else None

    @cached_property
    def configurations(self) -> list[ConfSymbols]:
        """The symbols of every `runs.conf` that applies to a script or host."""
        found: dict[Path, Located] = {}
        for host in (None, *self.hosts):
            for script in [next(iter(self.scripts.values()), None)] if host else self.scripts.values():
                found |= {place.path: place for place in self.trees.cascade(script.source, host)} if script else {}
        return [collect_conf(read_text(place.path), place) for _, place in sorted(found.items())]

    @cached_property
    def sysinfos(self) -> list[ConfSymbols]:
        """The symbols of every `sysinfos.conf` that applies to a host."""
        found = filter(None, (self.trees.sysinfos(host) for host in self.hosts))
        return [collect_conf(read_text(place.path), place) for place in found]

    # --- use ---------------------------------------------------------------------------------------

    @cached_property
    def steps_by_path(self) -> dict[Path, list[tuple[Host, Step]]]:
        """The steps of all recipes' plans, by the path of their script."""
        found: dict[Path, list[tuple[Host, Step]]] = {}
        for recipe in self.recipes:
            for step in recipe.plan.steps if recipe.plan else ():
                found.setdefault(step.script.source.path, []).append((recipe.host, step))
        return found

    def steps(self, script: Script) -> list[tuple[Host, Step]]:
        """Return the steps of all recipes' plans that run a script."""
        return self.steps_by_path.get(script.source.path, [])

    @cached_property
    def _operations(self) -> dict[Path, set[str]]:
        found: dict[Path, set[str]] = {}
        for _, entry, script in self.entries():
            found.setdefault(script.source.path, set()).update(each.name for each in entry.operations)
        return found

    def operations_on(self, script: Script) -> set[str]:
        """Return the variables that recipes set for a script."""
        return self._operations.get(script.source.path, set())

    def hidden(self) -> Iterator[tuple[str, Located, Located]]:
        """Yield the names for which one script or recipe hides another: the name, the file that is used, the other."""
        recipes = {recipe.entries[0].position.file for recipe in self.recipes if recipe.entries}
        seen: set[tuple[Path, Path]] = set()
        for host in (None, *self.hosts):
            for name in self.names[host.name if host else ""]:
                first, *others = self.trees.every(name, host)
                for other in others:
                    relevant = first.path in self.scripts or first.shown in recipes or other.path in self.scripts
                    if relevant and (first.path, other.path) not in seen:
                        seen.add((first.path, other.path))
                        yield name, first, other
