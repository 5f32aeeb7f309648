"""What reaches a terminal (R17, S12)."""

from __future__ import annotations

import io
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runsdeploy.events import Finished, Output, Started
from runsdeploy.output.console import Console, Verbatim
from runsdeploy.output.json import Lines
from runsdeploy.output.terminal import Writer, colourful, printable
from runsdeploy.session.report import Fold
from tests import making


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


@given(st.binary(max_size=60) | st.text(max_size=40))
def test_s12_r17_no_control_character_passes_but_newline_and_tab(data: bytes | str):
    """CWE-150."""
    shown = printable(data)
    assert not [char for char in shown if unicodedata.category(char) in ("Cc", "Cs") and char not in "\n\t"]
    shown.encode("utf-8")


@given(st.text(st.characters(codec="utf-8", exclude_categories=("Cc", "Cs", "Zl", "Zp", "Cf")), max_size=40))
def test_text_without_control_characters_is_shown_as_it_is(text: str):
    assert printable(text) == text
    assert printable(text.encode()) == text


@pytest.mark.parametrize(
    ("data", "shown"),
    [
        (b"\x1b]52;c;cm0=\x07", r"\x1b]52;c;cm0=\x07"),
        (b"\x1bP$q\x1b\\", "\\x1bP$q\\x1b\\"),
        ("\x9b31m", r"\x9b31m"),
        (b"over\rwrite", r"over\x0dwrite"),
        (b"a\x00b\x7f", r"a\x00b\x7f"),
        (b"\xff\xe9", r"\xff\xe9"),
        ("\u2028", r"\u2028"),
        ("\ud800", r"\ud800"),
        (b"a\tb\n", "a\tb\n"),
    ],
)
def test_s12_r17_what_a_terminal_would_obey_is_spelled_out(data: bytes | str, shown: str):
    assert printable(data) == shown


@pytest.mark.parametrize(
    ("environment", "terminal", "colour"),
    [
        ({}, True, True),
        ({}, False, False),
        ({"TERM": "dumb"}, True, False),
        ({"NO_COLOR": "1"}, True, False),
        ({"NO_COLOR": ""}, True, True),
        ({"FORCE_COLOR": "1"}, False, True),
        ({"FORCE_COLOR": ""}, False, False),
        ({"FORCE_COLOR": "1", "NO_COLOR": "1"}, True, False),
        ({"FORCE_COLOR": "1", "TERM": "dumb"}, False, True),
    ],
)
def test_colour_is_for_terminals_unless_the_environment_says_otherwise(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], terminal: bool, colour: bool  # noqa: FBT001
):  # fmt: skip
    for name in ("NO_COLOR", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    stream = Terminal() if terminal else io.StringIO()
    assert colourful(stream) is colour
    assert (Writer(stream).outcome("ok") == "ok") is not colour


def test_text_that_the_stream_cannot_hold_is_spelled_out():
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    Writer(stream).line("é")
    assert stream.buffer.getvalue() == b"\\xe9\n"  # type: ignore[attr-defined]


@given(st.lists(st.binary(max_size=30), max_size=6))
def test_s12_r17_output_of_a_step_never_moves_the_cursor_however_it_is_cut(chunks: list[bytes]):
    """Nor does it look like a line of ours."""
    planned = making.plan(making.step())
    console = Console(["medusa.univ.run", "web"])
    console.out, console.talk = Writer(io.StringIO()), Writer(io.StringIO())
    fold = Fold(planned)
    for event in [Started(1, "a"), *map(Output, chunks)]:
        fold.add(event)
        console.event(planned, event, fold)
    console._flush(planned)
    text = console.out.stream.getvalue()  # type: ignore[attr-defined]
    lines = text.split("\n")[:-1]
    assert all(line.startswith("medusa.univ.run |   | ") for line in lines)
    assert not [char for char in text if unicodedata.category(char) == "Cc" and char not in "\n\t"]


def test_s12_r17_output_that_was_asked_for_reaches_a_terminal_spelled_out(monkeypatch: pytest.MonkeyPatch):
    plan, terminal = making.plan(making.step()), Terminal()
    monkeypatch.setattr("sys.stdout", terminal)
    fold, listener = Fold(plan), Verbatim()
    for data in (b"a\x1b]0;", b"title\x07\nre\x07\x1b[31mst"):
        listener.event(plan, Output(data), fold)
    listener.end(fold.close(0.0))
    assert terminal.getvalue() == "a\nre\\x07st\n"


def test_s12_what_a_killed_step_said_is_told_to_the_last_byte_even_of_half_a_character(capsysbinary):
    """Nothing ends such a step but the end of its host."""
    plan = making.plan(making.step())
    for listener, shown in (
        (Lines(), b'"text": "\\\\xe2\\\\x82"'),
        (Console(["medusa.univ.run"]), b"whole \\xe2\\x82\n"),
    ):
        fold = Fold(plan)
        for event in (Started(1, "web"), Output(b"whole "), Output(b"\xe2\x82"), Finished("interrupted")):
            fold.add(event)
            listener.event(plan, event, fold)
        listener.end(fold.close(0.0))
        assert shown in capsysbinary.readouterr().out
