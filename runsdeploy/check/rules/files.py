"""Rules for files: missing, unused, hidden, misnamed, dangling links, DOS line ends."""

from __future__ import annotations

import filecmp
import os
import re
from collections.abc import Container, Iterator
from pathlib import Path

from runsdeploy.check.finding import Finding, warning
from runsdeploy.check.model import TreeModel
from runsdeploy.errors import Position, did_you_mean, display_path
from runsdeploy.tree.script import read_head
from runsdeploy.tree.text import read_text
from runsdeploy.tree.trees import HOST_FILES, HOST_NAME, Host, Located, directories, files_below

_SEPARATOR = re.compile(rb"^[ \t]*(?:scripts?[ \t]*:?|scirpt:|scrpit:)[ \t\r]*$", re.MULTILINE | re.IGNORECASE)

_J2_FILE = re.compile(rb"[\w./-]+\.j2\b")
LARGEST_TEMPLATE = 1 << 20
"""bytes of a file that is searched for the signs of a template"""


def _missing_files(model: TreeModel) -> Iterator[Finding]:
    """`ref` of a file that does not exist, with a name near to one that does."""
    declared = [each for symbols in model.all_symbols for each in symbols.conf.declared]
    made = {each.file for each in declared if each.kind == "out" and each.file}
    for symbols in model.checked:
        for each in symbols.conf.declared:
            if each.kind != "ref" or not each.file or each.file in made:
                continue
            if not model.files(symbols.script, each.file):
                folder = symbols.script.source.path.parent
                beside = (str(path.relative_to(folder)) for path in files_below(folder))
                near = did_you_mean(each.file, {*made, *beside})
                if near:
                    message = f"no file `{each.file}`, and no `out` that makes it"
                    yield warning("missing-file", each.position, message, near)


def _unused_outs(model: TreeModel) -> Iterator[Finding]:
    """`out` of a file that no script refers to."""
    every = [each for symbols in model.all_symbols for each in symbols.conf.declared if each.kind == "ref"]
    if any(each.file is None for each in every):
        return
    wanted = {each.file.rstrip("/") for each in every if each.file}
    for symbols in model.checked:
        for each in symbols.conf.declared:
            if each.kind == "out" and each.file and not any(_within(each.file, file) for file in wanted):
                message = f"no `ref` refers to `{each.file}`, which this `out` makes"
                hint = did_you_mean(each.file, wanted) or "a file for this script alone: `mktemp`"
                yield warning("unused-out", each.position, message, hint)


def _within(file: str, wanted: str) -> bool:
    return file == wanted or file.startswith(f"{wanted}/")


def _hidden(model: TreeModel) -> Iterator[Finding]:
    """A script or recipe hides another one of the same name with other content."""
    twice = [{place.path for place in places} for _, places in _directories_of_one_host(model)]
    for name, first, other in model.hidden():
        within = {parent for each in (first, other) for parent in each.path.parents}
        # Where one host has two directories, that is reported, once.
        reported = any(both <= within for both in twice)
        if not reported and not filecmp.cmp(first.path, other.path, shallow=False):
            yield warning("hidden", first.at(), f"`{name}` hides `{other.shown}`")


def _two_directories(model: TreeModel) -> Iterator[Finding]:
    """A host has two directories of its own in one tree: nobody looks for a file in the second one."""
    for host, (first, second) in _directories_of_one_host(model):
        files = [name for name in HOST_FILES if (second.path / name).is_file()]
        at = model.trees.located(second.tree, second.inside, *files[:1]).at(1)
        message = f"`{host.name}` has two directories, `{first.inside}` and `{second.inside}`"
        hint = f"both are read, `{first.inside}` counts first; move everything into one of them"
        yield warning("two-directories", at, message, hint)


def _directories_of_one_host(model: TreeModel) -> Iterator[tuple[Host, list[Located]]]:
    """Yield the hosts with two directories of their own in one tree, with those."""
    for host in model.hosts:
        for tree in range(len(model.trees.roots)):
            places = model.trees.host_directories(host)
            own = [place for place in places if place.tree == tree and place.inside in host.own_directories]
            if len(own) > 1:
                yield host, own


def _dos_line_ends(model: TreeModel) -> Iterator[Finding]:
    """Lines with DOS line ends: the carriage return becomes part of the last word."""
    texts = [(each.source, each.text) for each in (*model.configurations, *model.sysinfos)]
    texts += [(each.script.source, each.script.conf + b"\n" + each.script.body.lstrip(b"\n")) for each in model.checked]
    for source, text in texts:
        found = text.find(b"\r\n")
        if found >= 0:
            line = text.count(b"\n", 0, found) + 1
            message = "carriage return at the end of the line, expected unix line ends"
            yield warning("dos-line-ends", source.at(line), message, f"`dos2unix {source.shown}`")


def _unrendered(model: TreeModel) -> Iterator[Finding]:
    """`ref` without `-t` of a template: it is shipped as it is."""
    for symbols in model.checked:
        # A section that handles the signs by itself may want the template.
        if b"{{" in symbols.script.body or re.search(rb"\bj(?:inja)?2\b(?!\.)", _J2_FILE.sub(b"", symbols.script.body)):
            continue
        for each in symbols.conf.declared:
            if each.kind != "ref" or each.template or not each.file:
                continue
            names = {"host", "RUNS_HOST", *symbols.declared_names}
            if any(_is_template(path, names) for path in model.files(symbols.script, each.file)):
                message = f"`{each.file}` is a template, and a `ref` without `-t` ships it as it is"
                yield warning("unrendered", each.position, message, f"`ref -t -r {each.name}={each.file}`")


def _is_template(path: Path, names: Container[str]) -> bool:
    """Return whether a file is a template by its name and text, or prints one of these variables."""
    if not path.is_file() or path.stat().st_size > LARGEST_TEMPLATE:
        return False
    text = path.read_bytes()
    if path.suffix in (".j2", ".jinja", ".jinja2"):
        return b"{{" in text or b"{%" in text
    return any(found[1].decode() in names for found in re.finditer(rb"\{\{-?[ \t]*(\w+)[ \t]*(?:\|[^}]*)?-?\}\}", text))


def _unnamed(model: TreeModel) -> Iterator[Finding]:
    """A directory of a host whose name is not a host name."""
    for root in model.trees.roots if model.complete else ():
        for folder in (path for top in directories(root) if top.name == "hosts" for path in directories(top)):
            files = [folder / name for name in ("default", "runs.conf", "sysinfos.conf") if (folder / name).is_file()]
            if files and not HOST_NAME.match(folder.name):
                yield warning(
                    "unknown-host", Position(display_path(files[0]), 1), f"`{folder.name}` is not a host name"
                )


def _dangling(model: TreeModel) -> Iterator[Finding]:
    """A dangling symbolic link where scripts and libraries are looked for, unless a `ref` ships it."""
    places = [root / top for root in model.trees.roots for top in ("scripts", "lib", "groups")]
    places += [place.path for host in model.hosts for place in model.trees.host_directories(host)]
    for path in (path for place in dict.fromkeys(places) if model.complete for path in files_below(place)):
        if path.is_symlink() and not os.path.exists(path) and not model.shipped & {path, *path.parents}:  # noqa: PTH110 - Path.exists raises
            message = f"a link to `{path.readlink()}`, which does not exist"
            yield warning("dangling-link", Position(display_path(path), 1), message)


def _misspelt_defaults(model: TreeModel) -> Iterator[Finding]:
    """A file with a name near to `default`, of a host without a recipe `default`."""
    scripts = model.scripts
    for host in model.hosts:
        names = model.names[host.name]
        near = [name for name in names if did_you_mean(name, ["default"]) and names[name].path not in scripts]
        if near and "default" not in names:
            message = f"host `{host.name}` has no recipe `default`, and this name is near to it"
            yield warning("misspelt-recipe", names[near[0]].at(1), message, "did you mean `default`?")


def _separators(model: TreeModel) -> Iterator[Finding]:
    """A misspelt line `script:`, or a second one."""
    for symbols in model.checked:
        for call in symbols.body.calls:
            if call.name == "script:":
                message = "a second line `script:`, which bash runs as a command"
                yield warning("misspelt-separator", symbols.position(call.line, call.column), message)
    for place in model.other_files:
        data = read_head(place.path)
        found = _SEPARATOR.search(data)
        if found and not found[0].endswith(b"script:\r"):
            line = data.count(b"\n", 0, found.start()) + 1
            text = found[0].decode("utf-8", "replace")
            message = f"`{text}` does not separate CONF from SCRIPT"
            hint = "write `script:`, and nothing else on the line"
            yield warning("misspelt-separator", place.at(line), message, hint)


def _group_hosts(model: TreeModel) -> Iterator[Finding]:
    """A host of a group has no directory, and its name is near to one that has."""
    names = {host.name for host in model.trees.hosts()}
    groups = {name: place for name, place in model.trees.groups().items() if model.trees.trust.contains(place.path)}
    for place in groups.values() if model.complete else ():
        for number, line in enumerate(read_text(place.path).decode("utf-8", "replace").split("\n"), 1):
            word = line.partition("#")[0].strip().removeprefix("!")
            if word in names or not re.fullmatch(r"[\w.-]+", word):
                continue
            hint = f"if the group is meant: `@{word}`" if word in groups else did_you_mean(word, names)
            if hint:
                yield warning("unknown-host", place.at(number), f"host `{word}` has no directory in the trees", hint)


RULES = (
    _missing_files,
    _unused_outs,
    _hidden,
    _two_directories,
    _dos_line_ends,
    _unrendered,
    _unnamed,
    _dangling,
    _misspelt_defaults,
    _separators,
    _group_hosts,
)
