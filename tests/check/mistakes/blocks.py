"""The seeded mistakes as data: `*.txt` beside this file, one file an area, one block a mistake.

A block is one small tree in two versions, the good one and the one with the mistake::

    == a script that nobody has          its name, and the name of its test
    $ --conf-timeout 1                   more words for `check`; optional
    @ hosts/medusa/default               a file; its lines follow, with two characters before each:
      base                                 in both versions
    - it                                   in the good one only
    + port=80                              in the mistaken one only
    ! itt                                  in the mistaken one only, reported there as an error
    ? itt                                  ... as a warning
    * itt                                  ... as either
    !=it                                 `!=` `?=` `*=`: in both, reported there in the mistaken one
    ~ unknown script `itt`               a text in message, hint or rule, in any case; `|` between alternatives

Where several lines are marked, any of them will do. `@- FILE` is in the good version only, `@+ FILE` in the mistaken
one only, and `@! FILE`, `@? FILE`, `@* FILE` are reported as a whole: without a line, or on the first.
`@ LINK -> TARGET` is a symbolic link. Files that a block does not have are those of DEFAULT. Empty lines
have no meaning.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tests.trees import Content, Link

DEFAULT = {"scripts/it": 'desc "it"\nscript:\ntrue\n', "hosts/medusa/default": "it\n"}
"""the smallest tree"""

SIGNS = {"␍": "\r", "␀": "\0", "␉": "\t", "␛": "\x1b", "⍽": "\xa0", "⟪BOM⟫": "\ufeff", "⟪FF⟫": "\udcff", "⊣\n": ""}
"""characters that are invisible or that editors change; `⊣` ends a file without a newline"""

SEVERITIES = {"!": ("error",), "?": ("warning",), "*": ("error", "warning")}

_SIGNS = ("  ", "- ", "+ ", "! ", "? ", "* ", "!=", "?=", "*=")
_HEADER = re.compile(r"@([!?*]?)([-+]?) (\S+)(?: -> (\S+))?\Z")


@dataclass
class Mistake:
    """One block: a tree in two versions, and where findings are expected."""

    name: str
    options: list[str] = field(default_factory=list)
    good: dict[str, Content] = field(default_factory=dict)
    mistaken: dict[str, Content] = field(default_factory=dict)
    expected: list[tuple[str, int, tuple[str, ...]]] = field(default_factory=list)
    """file, line (0 for the file as a whole), severities"""
    words: list[str] = field(default_factory=list)

    def is_reported_by(self, finding: dict[str, object]) -> bool:
        """Return whether a finding of `check --format json` reports this mistake at its place."""
        text = f"{finding['message']}; {finding['hint']} [{finding['rule']}]".lower()
        if not all(any(each.strip() in text for each in words.lower().split("|")) for words in self.words):
            return False
        return any(
            finding["file"] == file
            and finding["severity"] in severities
            and (finding["line"] == line or (not line and finding["line"] in (None, 1)))
            for file, line, severities in self.expected
        )


def mistakes() -> Iterator[Mistake]:
    """Yield all blocks of all areas."""
    for path in sorted(Path(__file__).parent.glob("*.txt")):
        for block in re.split(r"^== ", path.read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]:
            name, _, lines = block.partition("\n")
            yield _read(Mistake(f"{path.stem}: {name}"), lines.splitlines())


class _Reader:
    """A block, read line by line."""

    def __init__(self, mistake: Mistake) -> None:
        self.mistake = mistake
        self.file = ""
        self.texts: dict[str, dict[str, list[str]]] = {"good": {}, "mistaken": {}}

    def header(self, mark: str, only: str, file: str, target: str | None) -> None:
        """Begin a file, or make a link."""
        self.file = file
        for version in {"-": ("good",), "+": ("mistaken",)}.get(only, ("good", "mistaken")):
            if target:
                getattr(self.mistake, version)[file] = Link(target)
            else:
                self.texts[version][file] = []
        if mark:
            self.mistake.expected.append((file, 0, SEVERITIES[mark]))

    def line(self, sign: str, rest: str) -> None:
        """Add a line to the versions that have it."""
        has = {"good": sign in ("  ", "- ") or sign[1] == "=", "mistaken": sign != "- "}
        for version, files in self.texts.items():
            if has[version] and self.file in files:
                files[self.file].append(rest)
        if sign[0] in SEVERITIES:
            self.mistake.expected.append((self.file, len(self.texts["mistaken"][self.file]), SEVERITIES[sign[0]]))

    def end(self) -> Mistake:
        """Complete both versions."""
        named = self.texts["good"] | self.texts["mistaken"]
        default = {name: text for name, text in DEFAULT.items() if name not in named}
        for version, files in self.texts.items():
            getattr(self.mistake, version).update({**default, **{name: _content(each) for name, each in files.items()}})
        if not self.mistake.expected:
            raise ValueError(f"{self.mistake.name}: nothing is marked")
        return self.mistake


def _read(mistake: Mistake, lines: list[str]) -> Mistake:
    reader = _Reader(mistake)
    for line in filter(None, lines):
        sign, rest = line[:2], line[2:]
        if header := _HEADER.match(line):
            reader.header(*header.groups())
        elif sign == "$ ":
            mistake.options += rest.split()
        elif sign == "~ ":
            mistake.words.append(rest)
        elif sign in _SIGNS:
            reader.line(sign, rest)
        else:
            raise ValueError(f"{mistake.name}: `{line}`")
    return reader.end()


def _content(lines: list[str]) -> str:
    text = "".join(f"{line}\n" for line in lines)
    for sign, meant in SIGNS.items():
        text = text.replace(sign, meant)
    return text
