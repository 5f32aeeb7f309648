"""Rules for what a SCRIPT section needs and does not have when it runs: a person, and files that nothing ships."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from runsdeploy.bash.questions import question_of
from runsdeploy.bash.symbols import Argument, Call, unwrapped
from runsdeploy.check.finding import Finding, warning
from runsdeploy.check.model import TreeModel
from runsdeploy.check.symbols import ScriptSymbols

_TERMINAL = re.compile(rb"(?:\[|test)[^\n]*-t[ \t]+[012]\b|\btty -s\b|Assume-Yes|assumeyes=1")
"""a section that asks only where there is a terminal, or that tells the package manager what to answer"""


def _questions(model: TreeModel) -> Iterator[Finding]:
    """A program asks a person: the standard input of a section is empty. Told once for each program."""
    for symbols in model.checked:
        seen = set(symbols.functions)
        if _TERMINAL.search(symbols.script.body):
            continue
        # `exec <file` replaces the standard input for all that follows.
        fed = any(call.name == "exec" and call.fed for call in symbols.body.calls)
        names = {call.name for call in symbols.body.calls}
        if names & {"yum", "dnf", "rpm", "apk"} and not names & {"apt", "apt-get", "dpkg"}:
            seen.add("adduser")  # another name of `useradd` there, which asks nothing
        for call in () if fed else symbols.body.calls:
            found = None if call.fed else _read(call) or question_of(call)
            if found and found[0] not in seen:
                seen.add(found[0])
                at = symbols.position(call.line, call.column)
                yield warning("asks", at, f"`{found[0]}` asks a person, and nobody is there", found[1])


def _read(call: Call) -> tuple[str, str] | None:
    """Return `read` and what to write instead, if it reads what a person types."""
    if call.name != "read":
        return None
    options = [word.text for word in call.arguments if word.text.startswith("-")]
    prompts = any(re.match(r"-[a-zA-Z]*p", each) for each in options)
    other = any(re.match(r"-[a-zA-Z]*[tu]", each) for each in options)
    # Without a prompt, a function may be called with something to read.
    asks = (prompts or not call.in_function) and not other
    return ("read", 'a variable in CONF: `var answer="${answer:-yes}"`') if asks else None


# --- files ---------------------------------------------------------------------------------------

_READERS = frozenset(
    {
        "source", ".", "bash", "sh", "dash", "cat", "sed", "grep", "awk", "diff", "cmp", "patch", "psql", "python",
        "python3", "perl", "ruby", "jq", "tar", "unzip", "gpg", "wc", "head", "tail", "base64", "sha256sum", "cp",
        "mv", "install", "ln", "rsync",
    }
)  # fmt: skip
"""programs that read files of which the names are their arguments"""
_COPIES = frozenset({"cp", "mv", "install", "ln", "rsync"})
"""programs whose last argument is a place that they write"""
_UNPACKERS = frozenset(
    {"tar", "unzip", "git", "wget", "curl", "cpio", "svn", "hg", "make", "go", "npm", "7z", "unxz", "gunzip"}
)
"""programs that may make files whose names are not among their arguments"""


def _unshipped(model: TreeModel) -> Iterator[Finding]:
    """A SCRIPT section names a file that lies beside it in the tree, and no `ref` ships it."""
    for symbols in model.checked:
        refs = [each for each in symbols.conf.declared if each.kind == "ref"]
        if symbols.conf.declares_more or any(each.file is None for each in refs):
            continue
        folder = symbols.script.source.path.parent
        found = dict.fromkeys(name for name, _ in _named_files(symbols))
        for name, word in _named_files(symbols):
            path = folder / name
            if found.pop(name, 0) is None and _lies_beside(path, folder) and not _is_shipped(model, symbols, path):
                variable = re.sub(r"\W", "_", path.name.split(".")[0]) or "file"
                message = f"`{name}` lies beside this script, and nothing ships it"
                at = symbols.position(word.line, word.column)
                yield warning("unshipped-file", at, message, f"add to CONF: `ref -r {variable}={name}`")


def _lies_beside(path: Path, folder: Path) -> bool:
    try:
        return path.exists() and folder in path.resolve().parents
    except OSError:
        return False


def _is_shipped(model: TreeModel, symbols: ScriptSymbols, path: Path) -> bool:
    """Return whether a `ref` of any script ships a path, or it is a script itself: then it may be a step."""
    own = symbols.script.source.path
    return path == own or path in model.scripts or bool(model.shipped & {path, *path.parents})


def _named_files(symbols: ScriptSymbols) -> Iterator[tuple[str, Argument]]:
    """Yield the relative names of files that a section reads and has not made before, in its order."""
    made = {_plain(word): word.line for word in reversed(symbols.body.files_written)}
    end = min((call.line for call in symbols.body.calls if _leaves(call)), default=len(symbols.script.body))
    words = [(word, word.line) for word in symbols.body.files_read]
    for call in map(unwrapped, symbols.body.calls):
        if call.name.startswith("./"):
            words.append((Argument(call.name, True, call.line, call.column, 0, 0), call.line))  # noqa: FBT003
        operands = [word for word in call.arguments if not word.text.startswith("-")]
        copies = call.name in _COPIES or call.name.startswith("uinst_")
        into = any(re.match(r"-\w*t\Z|--target-directory", word.text) for word in call.arguments)
        if copies and not into and operands:
            made.setdefault(_plain(operands.pop()), call.line)
        elif call.name in ("touch", "tee", "mkdir", "mktemp"):
            made |= {_plain(word): min(call.line, made.get(_plain(word), call.line)) for word in operands}
        if call.name in _READERS or call.name.startswith("uinst_"):
            words += [(word, call.line) for word in operands]
    for word, line in sorted(words, key=lambda each: (each[1], each[0].column)):
        name = _plain(word)
        if (
            line <= end
            and word.literal
            and name
            and not name.startswith(("/", "~", "-"))
            and made.get(name, line) >= line
        ):
            yield name, word


def _plain(word: Argument) -> str:
    return word.text.removeprefix("./").rstrip("/")


def _leaves(call: Call) -> bool:
    """Return whether a call leaves the script's directory, or may make files in it."""
    unpacks = call.name in _UNPACKERS and not any(word.text in ("-t", "-tf", "-l", "--list") for word in call.arguments)
    return call.name in ("cd", "pushd") or unpacks


RULES = (_questions, _unshipped)
