"""The glossary and the public names of the package use the same words."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs/glossary.md"
PACKAGE = ROOT / "runsdeploy"
SHIPPED = {"shell", "builtin", "templates"}
"""directories of the package that are no rooms: their files are shipped, not imported"""

ENTRY = re.compile(r"- \*\*(?P<term>[^*]+)\*\*(?: \((?P<code>[^)]*)\))?: (?P<text>[A-Z].*\.)")

PLAIN = {
    "bash keywords: a node of the syntax tree has the name of its keyword": "if while for case",
    "any programmer's words for what goes into a call and comes out": "options response result",
    "what happened, as an event or an exception": "ended finished hello interrupted marked started waiting",
    "the two parts of a file that is sent as events": "data head",
    "a plain adjective beside a word of the glossary": "bounded found local new planned unauthorized wrong",
    "paramiko's word for the class that is bounded": "packetizer",
    "a way to write results, one for each kind of output": "kept silent verbatim writer",
}
"""words that the glossary need not explain, by the reason"""

REPLACED = {
    "stop request, kill request": "wish wishes",
    "acknowledged, unacknowledged": "heard part seen told unheard",
    "event, listener; the verb is that of the receiver": "hear hearer listens past tell",
    "attached": "begun",
    "heartbeat": "pulse",
    "final acknowledgement": "farewell",
    "login output": "noise",
    "host connection": "way ways",
    "lint rule, warning": "doubt doubts",
    "tree model, checker": "survey surveyor",
    "drift": "standing standings",
    "include": "cookbook",
    "expected facts": "promise promises",
    "syntax check, bash errors": "complaint complaints grammar",
    "interpreter": "traversal traversals",
    "guard": "asks",
    "trust": "foreign",
    "output": "deafen said voice",
    "preflight, load, notification, housekeeping": "notice opening premises upkeep",
    "restore plan, atomic replace, decompression": "inflation intent swap",
}
"""words that no name has any more, by the terms that replaced them"""
RETIRED = {word for group in REPLACED.values() for word in group.split()}


class Entry(NamedTuple):
    """One entry of the glossary."""

    terms: tuple[str, ...]
    code: tuple[str, ...]
    text: str


def entries() -> list[Entry]:
    """Return the entries of the page."""
    lines = [line for line in PAGE.read_text("utf-8").splitlines() if line.startswith("- ")]
    found = []
    for line in lines:
        match = ENTRY.fullmatch(line)
        assert match, line
        code = tuple(re.findall(r"`([^`]+)`", match["code"] or ""))
        found.append(Entry(tuple(match["term"].split(", ")), code, match["text"]))
    return found


def words(name: str) -> list[str]:
    """Return the words of a term, or of the last part of a dotted name, in lower case."""
    return [word.lower() for word in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+", name.rpartition(".")[2])]


def explained() -> set[str]:
    """Return all words of all terms, each as singular and plural."""
    found = {word for entry in entries() for term in entry.terms for word in words(term)}
    return found | {f"{word}s" for word in found}


def share_word(term: str, name: str) -> bool:
    """Whether a term and a name have a word of the same stem, such as `reconnect` and `Reconnector`."""
    return any(one.startswith(other) or other.startswith(one) for one in words(term) for other in words(name))


@cache
def tree(module: Path) -> ast.Module:
    """Return a parsed module."""
    return ast.parse(module.read_bytes())


def modules() -> Iterator[Path]:
    """Yield the modules of the package, those of the job runner too."""
    for path in sorted(PACKAGE.rglob("*.py")):
        if not SHIPPED & set(path.relative_to(PACKAGE).parts):
            yield path


def dotted(module: Path) -> str:
    """Return the name by which a module is imported."""
    return ".".join(module.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def classes(module: Path) -> list[str]:
    """Return the dotted names of the public classes of a module."""
    found = (each for each in tree(module).body if isinstance(each, ast.ClassDef) and not each.name.startswith("_"))
    return [f"{dotted(module)}.{each.name}" for each in found]


def exists(name: str) -> bool:
    """Whether a name of the glossary is a room, a module, a public class or a shell file of the package."""
    if name.endswith(".sh"):
        return (PACKAGE / name).is_file()
    path = ROOT.joinpath(*name.split("."))
    if path.with_suffix(".py").is_file() or (path / "__init__.py").is_file():
        return True
    module = path.parent.with_suffix(".py")
    return module.is_file() and name in classes(module)


def public_names() -> Iterator[str]:
    """Yield the dotted name of each public module, class, function and method of the package."""
    for module in modules():
        place = dotted(module)
        yield place
        for each in tree(module).body:
            if not isinstance(each, ast.ClassDef | ast.FunctionDef) or each.name.startswith("_"):
                continue
            yield f"{place}.{each.name}"
            for inner in each.body if isinstance(each, ast.ClassDef) else ():
                if isinstance(inner, ast.FunctionDef) and not inner.name.startswith("_"):
                    yield f"{place}.{each.name}.{inner.name}"


NAMED = sorted({name for entry in entries() for name in entry.code})
ROOMS = sorted(f"runsdeploy.{path.parent.name}" for path in PACKAGE.glob("*/__init__.py"))
CLASSES = [name for module in modules() if "jobs" not in module.relative_to(PACKAGE).parts for name in classes(module)]


def test_each_term_has_one_entry():
    terms = [term.lower() for entry in entries() for term in entry.terms]
    assert [term for term in terms if terms.count(term) > 1] == []


def test_each_entry_is_one_sentence():
    assert [entry.text for entry in entries() if ". " in entry.text] == []


@pytest.mark.parametrize("name", NAMED)
def test_each_name_in_the_glossary_exists(name: str):
    assert exists(name)


def test_a_term_and_the_class_that_it_names_share_a_word():
    assert [
        f"{', '.join(entry.terms)}: {name}"
        for entry in entries()
        for name in entry.code
        if name.rpartition(".")[2][0].isupper() and not any(share_word(term, name) for term in entry.terms)
    ] == []


def test_each_room_is_in_the_glossary():
    assert [room for room in ROOMS if room not in NAMED] == []


@pytest.mark.parametrize("name", CLASSES)
def test_each_public_class_is_in_the_glossary_or_made_of_its_words(name: str):
    plain = {word for group in PLAIN.values() for word in group.split()}
    assert name in NAMED or [word for word in words(name) if word not in explained() | plain] == []


def test_each_plain_word_is_used_and_not_in_the_glossary():
    used = {word for module in modules() for name in classes(module) for word in words(name)}
    plain = [word for group in PLAIN.values() for word in group.split()]
    assert [word for word in plain if word not in used or word in explained()] == []


def test_no_public_name_has_a_retired_word():
    assert [name for name in public_names() if RETIRED & set(words(name))] == []


def test_a_retired_word_is_no_word_of_the_glossary():
    assert RETIRED & explained() == set()
