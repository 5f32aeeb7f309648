"""What is misnamed, hidden, outside, or written in the manner of another system."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator

from runsdeploy.check.finding import Finding, doubt
from runsdeploy.check.model import TreeModel
from runsdeploy.errors import Position, did_you_mean, display_path
from runsdeploy.tree.trees import HOST_NAME, directories, files_below

_SEPARATOR = re.compile(rb"^[ \t]*(?:scripts?[ \t]*:?|scirpt:|scrpit:)[ \t\r]*$", re.MULTILINE | re.IGNORECASE)


def _missing_files(seen: TreeModel) -> Iterator[Finding]:
    """`ref` of a file that there is not, and nearly the name of one that there is."""
    made = {each.file for reading in seen.every for each in reading.conf.declared if each.kind == "out" and each.file}
    for reading in seen.readings:
        for each in reading.conf.declared:
            if each.kind == "ref" and each.file and not seen.files(reading.script, each.file) and each.file not in made:
                beside = reading.script.source.path.parent
                near = did_you_mean(
                    each.file, {*made, *(str(path.relative_to(beside)) for path in files_below(beside))}
                )
                if near:
                    yield doubt(
                        "missing-file", each.position, f"there is no file `{each.file}`, and no `out` of it", near
                    )


def _unused_outs(seen: TreeModel) -> Iterator[Finding]:
    """Promised to other scripts, and asked for by none."""
    every = [each for reading in seen.every for each in reading.conf.declared if each.kind == "ref"]
    if any(each.file is None for each in every):
        return
    wanted = {each.file.rstrip("/") for each in every if each.file}
    for reading in seen.readings:
        for each in reading.conf.declared:
            if each.kind == "out" and each.file and not any(_within(each.file, file) for file in wanted):
                message = f"no script refers to `{each.file}`, the file of this `out`"
                hint = did_you_mean(each.file, wanted) or "a file for this script alone: `mktemp`"
                yield doubt("unused-out", each.position, message, hint)


def _within(file: str, wanted: str) -> bool:
    return file == wanted or file.startswith(f"{wanted}/")


def _hidden(seen: TreeModel) -> Iterator[Finding]:
    """Hidden by another of the same name that says something else."""
    for name, first, behind in seen.hidden():
        if first.path.read_bytes() != behind.path.read_bytes():
            yield doubt("hidden", first.at(), f"`{name}` here hides `{behind.shown}`")


def _unix(seen: TreeModel) -> Iterator[Finding]:
    """Lines that end as DOS has it: the carriage return becomes part of the last word."""
    texts = [(each.source, each.text) for each in (*seen.configurations, *seen.facts)]
    texts += [(each.script.source, each.script.conf + b"\n" + each.script.body.lstrip(b"\n")) for each in seen.readings]
    for source, text in texts:
        found = text.find(b"\r\n")
        if found >= 0:
            line = text.count(b"\n", 0, found) + 1
            message = "carriage return at the end of the line, expected unix line ends"
            yield doubt("dos-line-ends", source.at(line), message, f"`dos2unix {source.shown}`")


def _unnamed(seen: TreeModel) -> Iterator[Finding]:
    """Directories made for a host whose name no host can have."""
    for root in seen.trees.roots if seen.whole else ():
        for folder in (path for top in directories(root) if top.name == "hosts" for path in directories(top)):
            marks = [folder / mark for mark in ("default", "runs.conf", "sysinfos.conf") if (folder / mark).is_file()]
            if marks and not HOST_NAME.match(folder.name):
                yield doubt("unknown-host", Position(display_path(marks[0]), 1), f"`{folder.name}` is not a host name")


def _dangling(seen: TreeModel) -> Iterator[Finding]:
    """Links to nothing where scripts and libraries are looked for; what is shipped may hold such links."""
    shipped = {
        path
        for reading in seen.every
        for each in reading.conf.declared
        if each.kind == "ref" and each.file
        for path in seen.files(reading.script, each.file)
    }
    places = [root / top for root in seen.trees.roots for top in ("scripts", "lib", "groups")]
    places += [place.path for host in seen.hosts for place in seen.trees.host_directories(host)]
    for path in (path for place in dict.fromkeys(places) if seen.whole for path in files_below(place)):
        if path.is_symlink() and not os.path.exists(path) and not shipped & {path, *path.parents}:  # noqa: PTH110 - Path.exists raises
            message = f"a link to `{path.readlink()}`, which is not there"
            yield doubt("dangling-link", Position(display_path(path), 1), message)


def _misspelt_defaults(seen: TreeModel) -> Iterator[Finding]:
    """Nearly the name `default`, in the directory of a host that has no recipe of that name."""
    scripts = seen.scripts
    for host in seen.hosts:
        names = seen.names[host.name]
        near = [name for name in names if did_you_mean(name, ["default"]) and names[name].path not in scripts]
        if near and "default" not in names:
            message = f"`{host.name}` has no recipe `default`, and this is nearly its name"
            yield doubt("misspelt-recipe", names[near[0]].at(1), message, "did you mean `default`?")


def _separators(seen: TreeModel) -> Iterator[Finding]:
    """Meant for a script, but its line `script:` is misspelt."""
    for reading in seen.readings:
        for call in reading.body.calls:
            if call.name == "script:":
                message = "a second line `script:`, which is a command here"
                yield doubt("misspelt-separator", reading.position(call.line, call.column), message)
    for place in seen.others:
        data = place.path.read_bytes()
        found = _SEPARATOR.search(data)
        if found and not found[0].endswith(b"script:\r"):
            line = data.count(b"\n", 0, found.start()) + 1
            said = found[0].decode("utf-8", "replace")
            message = f"`{said}` does not divide a script"
            yield doubt("misspelt-separator", place.at(line), message, "write `script:`, and nothing else on the line")


def _group_hosts(seen: TreeModel) -> Iterator[Finding]:
    """In a group, without a directory, and nearly the name of a host that has one."""
    names = {host.name for host in seen.trees.hosts()}
    groups = {name: place for name, place in seen.trees.groups().items() if seen.trees.trust.contains(place.path)}
    for place in groups.values() if seen.whole else ():
        for number, line in enumerate(place.path.read_bytes().decode("utf-8", "replace").split("\n"), 1):
            word = line.partition("#")[0].strip().removeprefix("!")
            if word in names or not re.fullmatch(r"[\w.-]+", word):
                continue
            hint = f"if the group is meant: `@{word}`" if word in groups else did_you_mean(word, names)
            if hint:
                yield doubt("unknown-host", place.at(number), f"host `{word}` has no directory in the trees", hint)


RULES = (
    _missing_files,
    _unused_outs,
    _hidden,
    _unix,
    _unnamed,
    _dangling,
    _misspelt_defaults,
    _separators,
    _group_hosts,
)
