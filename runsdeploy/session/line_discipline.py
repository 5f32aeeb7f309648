"""Output as lines of text, as a terminal would leave them: of a line that was redrawn, the last state.

Programs draw meters with carriage returns, backspaces and escape sequences, and end lines with CR LF where they take
their output for a terminal. A `LineDiscipline` models one terminal line. It has no screen: a sequence that leaves the
line (ECMA-48: cursor up, erase in page, ...) is dropped, as are colours, titles and all else that is well-formed. Other
control characters, and sequences that are malformed or have no end, stay in the text; who shows it spells them out.

The laws: the same bytes in any chunks give the same lines; the state is bounded, and so is the time for each byte.
"""

from __future__ import annotations

import codecs
import re

LONGEST_LINE = 65536
"""characters that are written without a newline before they are shown: as a piece of a line, or as a meter's state"""

LONGEST_STRING = 4096
"""characters of the text in an escape sequence (OSC, DCS and the like); a longer one is malformed"""

WIDEST = 256
"""columns that the cursor can skip: a sequence of a few bytes must not become a line of many"""

# ECMA-48: control sequences 5.4, strings 5.6 (xterm also ends them by BEL), other escape sequences 5.3 (ECMA-35, 13).
_TOKEN = re.compile(
    rf"""
    (?P<move> \r?\n | [\r\b])
    | \x1b\[ (?P<value>[0-?]{{0,32}}) [ -/]{{0,4}} (?P<control>[@-~])
    | \x1b[]PX^_] [^\x00-\x1f\x7f]{{0,{LONGEST_STRING}}} (?:\x07|\x1b\\)
    | \x1b [ -/]{{1,4}} [0-~]
    | \x1b [0-OQ-WYZ\\`-~]
    """,
    re.VERBOSE,
)
_INCOMPLETE = re.compile(
    rf"\r\Z|\x1b(?:\[[0-?]{{0,32}}[ -/]{{0,4}}|[]PX^_][^\x00-\x1f\x7f]{{0,{LONGEST_STRING}}}\x1b?|[ -/]{{1,4}})?\Z"
)


class LineDiscipline:
    """The state of one terminal line. Each character takes one cell, be it a tab, a wide or a combining one."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("surrogateescape")
        self._incomplete = ""
        self._cells: list[str] = []
        self._column = self._written = 0
        self._redrawn = False

    def feed(self, data: bytes) -> list[str]:
        """Return the lines that these bytes complete; a byte that is not UTF-8 is a surrogate, as Python carries it."""
        return self._add(self._decoder.decode(data))

    def end(self) -> list[str]:
        """Return the line without an end, if there is one; the next bytes begin a new one."""
        lines = self._add(self._decoder.decode(b"", final=True), last=True)
        rest = self._take()
        return [*lines, rest] if rest else lines

    def _add(self, text: str, *, last: bool = False) -> list[str]:
        text = self._incomplete + text
        held = None if last else _INCOMPLETE.search(text)
        self._incomplete = text[held.start() :] if held else ""
        end = held.start() if held else len(text)
        lines: list[str] = []
        at = 0
        for token in _TOKEN.finditer(text, 0, end):
            start = token.start()
            move = token["move"]
            if move and move[-1] == "\n" and not self._cells and not self._redrawn and start - at < LONGEST_LINE:
                lines.append(text[at:start])  # most lines
            else:
                self._write(text[at:start], lines)
                self._obey(token, lines)
            at = token.end()
        self._write(text[at:end], lines)
        return lines

    def _obey(self, token: re.Match[str], lines: list[str]) -> None:
        move, control, value = token["move"], token["control"], token["value"]
        if move == "\r":
            self._go(0, lines)
        elif move == "\b":
            self._go(self._column - 1, lines)
        elif move:
            lines.append(self._take())
        elif control and (not value or value.isdecimal()):
            # What redraws a line without leaving it: cursor forward, back, to a column; erase to the end, and all.
            number = min(int(value or 0), LONGEST_LINE)
            if control == "C":
                self._go(self._column + max(number, 1), lines)
            elif control == "D":
                self._go(self._column - max(number, 1), lines)
            elif control == "G":
                self._go(number - 1, lines)
            elif control == "K" and number in (0, 2):
                self._redrawn = True
                del self._cells[0 if number else self._column :]
                self._column = min(self._column, max(WIDEST, len(self._cells)))

    def _go(self, column: int, lines: list[str]) -> None:
        """Move the cursor; a line that is drawn for long without a newline shows its state before it goes back."""
        if column < self._column and self._written >= LONGEST_LINE:
            lines.append(self._state())
            self._written = 0
        self._redrawn = True
        self._column = min(max(column, 0), max(WIDEST, len(self._cells)))

    def _write(self, text: str, lines: list[str]) -> None:
        """Write characters over those that are there; a line that becomes too long is shown in pieces."""
        while text:
            piece, text = text[: LONGEST_LINE - self._column], text[LONGEST_LINE - self._column :]
            self._cells.extend(" " * (self._column - len(self._cells)))
            self._cells[self._column : self._column + len(piece)] = piece
            self._column += len(piece)
            self._written += len(piece)
            if self._column == LONGEST_LINE:
                lines.append(self._take())

    def _state(self) -> str:
        line = "".join(self._cells)
        return line.rstrip(" ") if self._redrawn else line

    def _take(self) -> str:
        """Return the line and begin a new one."""
        line = self._state()
        self._cells.clear()
        self._column = self._written = 0
        self._redrawn = False
        return line
