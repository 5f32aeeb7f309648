"""Makes the man pages from docs/reference and the table of commands: `python -m docs.manual`.

markdown-it parses the Markdown, and the small renderer below writes it as roff for man(7). The output
is ASCII, so that every version of man shows the same, and depends only on the sources.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

from markdown_it import MarkdownIt
from markdown_it.tree import SyntaxTreeNode

from runsdeploy.cli.flags import COMMON, Command, Flag
from runsdeploy.cli.table import COMMANDS

ROOT = Path(__file__).parents[1]
REFERENCE = ROOT / "docs" / "reference"
PAGES = ("runsdeploy.1", "runs-script.5")

_CHARACTERS = {"\\": r"\e", "-": r"\-", "^": r"\(ha", "~": r"\(ti", "`": r"\(ga", "'": r"\(aq", '"': r"\(dq"}
_CHARACTERS |= {"…": "...", "→": r"\(->"}
"""characters that roff would replace (groff_char(7)), or that a terminal may lack"""


def page(name: str) -> str:
    """Return a man page of `PAGES` as roff."""
    title, section = name.rsplit(".", 1)
    text = _program() if section == "1" else _language()
    head = '.\\" Made by `make man` from docs/reference and the table of commands.\n'
    return f'{head}.TH {_escape(title.upper())} {section} "" runsdeploy "runsdeploy manual"\n{text}'


# --- contents of the pages ----------------------------------------------------------------------


def _program() -> str:
    parts = [
        _title("NAME"),
        "runsdeploy \\- deploy plain bash scripts to hosts over SSH\n",
        _title("SYNOPSIS"),
        *(_synopsis(command) for command in COMMANDS),
        _title("DESCRIPTION"),
        _markdown(_sections("commands.md")[""]),
        _title("COMMANDS"),
        *(_command(command) for command in COMMANDS),
        _title("FLAGS OF ALL COMMANDS"),
        *(_flag(flag) for flag in COMMON),
    ]
    for file, left_out in (("commands.md", {"", "Flags"}), ("files.md", {""})):
        for title, text in _sections(file).items():
            if title not in left_out:
                parts += [_title(title), _markdown(text)]
    parts += [_title("SEE ALSO"), ".BR runs\\-script (5),\n.BR bash (1),\n.BR ssh_config (5)\n"]
    return "".join(parts)


def _language() -> str:
    parts = [_title("NAME"), "runs\\-script \\- trees, recipes and scripts of runsdeploy\n"]
    for title, text in _sections("language.md").items():
        if text.strip():
            parts += [_title(title or "DESCRIPTION"), _markdown(text)]
    parts += [_title("SEE ALSO"), ".BR runsdeploy (1),\n.BR bash (1)\n"]
    return "".join(parts)


def _sections(file: str) -> dict[str, str]:
    """Return the sections of a page of the reference, text by title; the text before the first title is under ""."""
    text = re.sub(r"\A# .*\n", "", (REFERENCE / file).read_text())
    pieces = re.split(r"^## (.*)\n", text, flags=re.MULTILINE)
    return {"": pieces[0], **dict(zip(pieces[1::2], pieces[2::2], strict=True))}


def _synopsis(command: Command) -> str:
    words = [_bold(f"runsdeploy {command.name}")]
    for flag in command.flags:
        if not flag.name.startswith("-"):
            name = _italic(flag.metavar or flag.key.upper())
            words.append(name if flag.default is None else f"[{name}]")
    return f".br\n{' '.join(words)} [{_italic('FLAGS')}]\n"


def _command(command: Command) -> str:
    own = [flag for flag in command.flags if flag not in COMMON]
    parts = [f".SS {_escape(command.name)}\n", f"{_inline_text(command.help[0].upper() + command.help[1:])}.\n"]
    parts += [_flag(flag) for flag in own]
    parts += [".PP\nExamples:\n", _code("\n".join(f"runsdeploy {example}" for example in command.examples))]
    return "".join(parts)


def _flag(flag: Flag) -> str:
    text = _inline_text(flag.help)
    value = flag.metavar or flag.key.upper()
    if not flag.name.startswith("-"):
        return f".TP\n{_italic(value)}\n{text}\n"
    names = ", ".join(_bold(name) for name in (flag.name, *flag.aliases))
    if flag.choices:
        text += f" ({', '.join(map(_escape, flag.choices))})"
    if not isinstance(flag.default, bool):
        names += f" [{_italic(value)}]" if flag.bare is not None else f" {_italic(value)}"
        if flag.default not in (None, "", ()):
            text += (
                f", {_escape(f'{flag.default:g}' if isinstance(flag.default, float) else str(flag.default))} by default"
            )
    return f".TP\n{names}\n{text}\n"


# --- Markdown to roff --------------------------------------------------------------------------


def _markdown(text: str) -> str:
    parser = MarkdownIt("commonmark").enable("table")
    return "".join(_block(node) for node in SyntaxTreeNode(parser.parse(text)).children)


def _block(node: SyntaxTreeNode) -> str:
    match node.type:
        case "paragraph":
            return f".PP\n{_line(_children(node))}\n"
        case "heading":
            return f".SS {_children(node)}\n"
        case "code_block" | "fence":
            return _code(node.content)
        case "table":
            return "".join(_row(row) for row in node.children[1].children)
        case "bullet_list" | "ordered_list":
            return "".join(_item(item, number, node) for number, item in enumerate(node.children, 1))
        case "html_block":
            return ""
    raise ValueError(f"no roff for a {node.type}")


def _row(row: SyntaxTreeNode) -> str:
    """Return a row of a table as an entry of a list: the first cell is the tag, the others are its text."""
    first, *others = (_children(cell) for cell in row.children)
    return f".TP\n{_line(first)}\n{_line('; '.join(others))}\n"


def _item(item: SyntaxTreeNode, number: int, above: SyntaxTreeNode) -> str:
    sign = "\\(bu 2" if above.type == "bullet_list" else f"{number}. 4"
    inner = "".join(_block(child) for child in item.children)
    return f".IP {sign}\n{inner.removeprefix('.PP' + chr(10))}"


def _children(node: SyntaxTreeNode) -> str:
    return "".join(_inline(child) for child in node.children)


def _inline(node: SyntaxTreeNode) -> str:
    match node.type:
        case "text":
            return _escape(node.content)
        case "softbreak" | "hardbreak":
            return "\n"
        case "code_inline":
            return _bold(node.content)
        case "strong":
            return f"\\fB{_children(node)}\\fR"
        case "em":
            return f"\\fI{_children(node)}\\fR"
        case "inline" | "link":
            return _children(node)
    raise ValueError(f"no roff for a {node.type}")


def _inline_text(text: str) -> str:
    """Return a text of the table of commands as roff; its only markup is backticks."""
    return _line("".join(_bold(each) if n % 2 else _escape(each) for n, each in enumerate(text.split("`"))))


def _code(text: str) -> str:
    lines = "\n".join(_line(_escape(line)) for line in text.rstrip("\n").split("\n"))
    return f".PP\n.RS 4\n.nf\n{lines}\n.fi\n.RE\n"


def _title(text: str) -> str:
    return f".SH {_escape(text.upper())}\n"


def _bold(text: str) -> str:
    return f"\\fB{_escape(text)}\\fR"


def _italic(text: str) -> str:
    return f"\\fI{_escape(text)}\\fR"


def _escape(text: str) -> str:
    return "".join(_CHARACTERS.get(char) or (char if char.isascii() else f"\\[u{ord(char):04X}]") for char in text)


def _line(text: str) -> str:
    """Protect lines that start with a dot, which roff would read as requests; `_escape` has replaced quotes."""
    return "\n".join(f"\\&{line}" if line.startswith(".") else line for line in text.split("\n"))


def write(folder: Path, names: Iterable[str] = PAGES) -> Iterator[Path]:
    """Write the pages into a folder, and yield their paths."""
    folder.mkdir(exist_ok=True)
    for name in names:
        (folder / name).write_text(page(name), "ascii")
        yield folder / name


if __name__ == "__main__":
    for made in write(ROOT / "man"):
        sys.stdout.write(f"{made.relative_to(ROOT)}\n")
