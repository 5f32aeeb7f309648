"""Surveys: everything in the trees that was looked at, as hosts use it, and as its texts tell of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path

from msgspec import Struct, field

from runsdeploy.check.finding import Finding
from runsdeploy.check.symbols import Library, Reading, Sheet, read_libraries, read_sheet, read_text
from runsdeploy.plan.plan import Plan, Step
from runsdeploy.tree.recipe import Entry
from runsdeploy.tree.script import Script
from runsdeploy.tree.trees import Host, Located, Trees


class Use(Struct, frozen=True):
    """Entries of recipes, as one host runs them."""

    host: Host
    entries: tuple[Entry, ...]
    plan: Plan | None = None
    """None where it cannot be made, be it for want of facts"""
    findings: tuple[Finding, ...] = ()


class TreeModel(Struct, dict=True):
    """What was seen."""

    trees: Trees
    hosts: Sequence[Host]
    whole: bool
    """whether these are all hosts: only then is it known what nobody uses"""
    scripts: dict[Path, Script] = field(default_factory=dict)
    """every script that can be reached, by its file"""
    others: list[Located] = field(default_factory=list)
    """files beside them that are none"""
    names: dict[str, dict[str, Located]] = field(default_factory=dict)
    """the files of each host's own directories, and under the empty name those for all hosts"""
    uses: list[Use] = field(default_factory=list)
    """the recipes of the hosts"""
    idle: list[Use] = field(default_factory=list)
    """scripts that no recipe names"""
    findings: list[Finding] = field(default_factory=list)

    def script(self, name: str, host: Host | None) -> Script | None:
        """Return the script that a name stands for on a host."""
        place = (self.names.get(host.name, {}) if host else {}).get(name) or self.names[""].get(name)
        return self.scripts.get(place.path) if place else None

    def used(self) -> Iterator[tuple[Host, Entry, Script]]:
        """Yield the entries of all recipes with what they name."""
        for use in self.uses:
            for entry in use.entries:
                script = self.script(entry.name, use.host)
                if script:
                    yield use.host, entry, script

    # --- what the texts say ------------------------------------------------------------------------

    @cached_property
    def libraries(self) -> dict[str, Library]:
        """Every library, read."""
        return read_libraries(self.trees.libraries())

    @cached_property
    def every(self) -> list[Reading]:
        """Every script, read."""
        return [self._read(script) for script in self.scripts.values()]

    def _read(self, script: Script) -> Reading:
        reading = read_text(script, self.libraries)
        for each in reading.conf.declared:
            if each.template:
                from runsdeploy.plan.template import mentions  # noqa: PLC0415 - jinja2 costs 50 ms, few trees use it

                told = [mentions(path) for path in self._templates(script, each.file)]
                reading.asks_more |= not told or not all(isinstance(found, set) for found in told)
                reading.asked.update(*(found for found in told if isinstance(found, set)))
        return reading

    def _templates(self, script: Script, file: str | None) -> list[Path]:
        """Return the files that a template may be; all beside the script if its name is made up."""
        own = script.source.path.parent
        return self.files(script, file) if file is not None else sorted(own.glob("*.j2"))

    def files(self, script: Script, file: str) -> list[Path]:
        """Return what a `ref` of a script may find by this name on any host."""
        found = (path / file for path in (script.source.path.parent, *self._places, *self.trees.roots))
        return [path for path in found if path.exists() or path.is_symlink()]

    @cached_property
    def _places(self) -> list[Path]:
        return [place.path for host in self.trees.hosts() for place in self.trees.host_directories(host)]

    @cached_property
    def readings(self) -> list[Reading]:
        """The scripts that these hosts have; all if they are all."""
        looked_at = {script.source.path for *_, script in self.used()}
        looked_at |= {
            step.script.source.path for use in (*self.uses, *self.idle) if use.plan for step in use.plan.steps
        }
        return [each for each in self.every if self.whole or each.script.source.path in looked_at]

    @cached_property
    def _by_path(self) -> dict[Path, Reading]:
        return {reading.script.source.path: reading for reading in self.every}

    def reading(self, name: str, host: Host | None) -> Reading | None:
        """Return what is known of the script that a name stands for on a host."""
        script = self.script(name, host)
        return self._by_path[script.source.path] if script else None

    @cached_property
    def configurations(self) -> list[Sheet]:
        """Every `runs.conf` that holds for something."""
        found: dict[Path, Located] = {}
        for host in (None, *self.hosts):
            for script in [next(iter(self.scripts.values()), None)] if host else self.scripts.values():
                found |= {place.path: place for place in self.trees.cascade(script.source, host)} if script else {}
        return [read_sheet(place.path.read_bytes(), place) for _, place in sorted(found.items())]

    @cached_property
    def facts(self) -> list[Sheet]:
        """Every `sysinfos.conf` that holds for a host."""
        found = filter(None, (self.trees.sysinfos(host) for host in self.hosts))
        return [read_sheet(place.path.read_bytes(), place) for place in found]

    # --- how they are used -------------------------------------------------------------------------

    @cached_property
    def taken(self) -> dict[Path, list[tuple[Host, Step]]]:
        """The steps of all plans, by the file of their script."""
        found: dict[Path, list[tuple[Host, Step]]] = {}
        for use in self.uses:
            for step in use.plan.steps if use.plan else ():
                found.setdefault(step.script.source.path, []).append((use.host, step))
        return found

    def steps(self, script: Script) -> list[tuple[Host, Step]]:
        """Return the steps of all plans that run a script."""
        return self.taken.get(script.source.path, [])

    @cached_property
    def _operated(self) -> dict[Path, set[str]]:
        found: dict[Path, set[str]] = {}
        for _, entry, script in self.used():
            found.setdefault(script.source.path, set()).update(each.name for each in entry.operations)
        return found

    def operated(self, script: Script) -> set[str]:
        """Return the variables that recipes give a script."""
        return self._operated.get(script.source.path, set())

    def hidden(self) -> Iterator[tuple[str, Located, Located]]:
        """Yield the names for which one file hides another, as a script or a recipe: both."""
        recipes = {use.entries[0].position.file for use in self.uses if use.entries}
        told: set[tuple[Path, Path]] = set()
        for host in (None, *self.hosts):
            for name in self.names[host.name if host else ""]:
                first, *behind = self.trees.every(name, host)
                for other in behind:
                    meant = first.path in self.scripts or first.shown in recipes or other.path in self.scripts
                    if meant and (first.path, other.path) not in told:
                        told.add((first.path, other.path))
                        yield name, first, other
