"""Values as pieces around a root, and as bash words; what bash makes of them is in tests/shell (R31)."""

from __future__ import annotations

import shlex

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runsdeploy.plan.variable import Value, Variable, assignment, quote, shell_word
from tests import making


@pytest.mark.parametrize(
    ("data", "word"),
    [
        (b"", b"$''"),
        (b"plain text", b"$'plain text'"),
        (b"it's", b"$'it\\047s'"),
        (b"\\", b"$'\\134'"),
        (b"a\nb", b"$'a\\012b'"),
        (b"\x01\x7f\xff", b"$'\\001\\177\\377'"),
        (b"\x0112", b"$'\\00112'"),
        (b"$x`y`!*", b"$'$x`y`!*'"),
    ],
)
def test_r31_bytes_are_a_bash_word(data: bytes, word: bytes):
    assert quote(data) == word


@given(st.binary(max_size=60))
def test_r31_a_word_is_ascii_on_one_line_whatever_the_bytes(data: bytes):
    word = quote(data)
    assert all(0x20 <= byte < 0x7F for byte in word)
    assert word[2:-1].count(b"'") == 0


@pytest.mark.parametrize(
    ("variable", "line"),
    [
        (making.variable("a", "b"), b"a=$'b'\n"),
        (making.variable("a", "b", "", array=True), b"a=($'b' $'')\n"),
        (making.variable("a", array=True), b"a=()\n"),
        (Variable("a", False, (Value((b"", b"/f", b"")),)), b"a=$''\"$RUNS_FILES\"$'/f'\"$RUNS_FILES\"$''\n"),  # noqa: FBT003
    ],
)
def test_a_variable_is_one_assignment(variable: Variable, line: bytes):
    assert assignment(variable) == line


def test_a_value_knows_whether_it_holds_a_path():
    assert Value.of(b"plain", b"/root").literal == b"plain"
    value = Value.of(b"a=/root/x:/root/y", b"/root")
    assert (value.literal, value.pieces) == (None, (b"a=", b"/x:", b"/y"))
    assert str(value) == "a=$RUNS_FILES/x:$RUNS_FILES/y"


@pytest.mark.parametrize(
    ("variable", "text"),
    [
        (making.variable("a", "b"), "a=b"),
        (making.variable("a", ""), "a=''"),
        (making.variable("a", "b c", "it's", array=True), "a=('b c' 'it'\\''s')"),
        (making.variable("a", array=True), "a=()"),
        (making.variable("a", "\udcff"), "a='\\xff'"),
    ],
)
def test_a_variable_is_shown_as_bash_would_write_it(variable: Variable, text: str):
    assert str(variable) == text


@given(st.text(st.characters(exclude_characters="\0", codec="utf-8"), max_size=30))
def test_a_shown_word_is_read_back_as_it_was(text: str):
    assert shlex.split(shell_word(text)) == [text]
