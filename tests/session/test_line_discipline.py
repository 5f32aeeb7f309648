"""Output as lines, as a terminal would leave them (O4, R16, R17)."""

from __future__ import annotations

import random
import re
import shutil
import subprocess

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runsdeploy.session import line_discipline
from runsdeploy.session.line_discipline import LONGEST_LINE, LONGEST_STRING, WIDEST, LineDiscipline
from tests.trees import wait_until

PIECES = [
    b"\n", b"\r", b"\r\n", b"\b", b"\x1b[K", b"\x1b[2K", b"\x1b[G", b"\x1b[3D", b"\x1b[2C", b"\x1b[1;31m", b"\x1b[A",
    b"\x1b]0;title\x07", b"\x1bP$q\x1b\\", b"\x1b(B", b"\x1b", b"\x1b[", b"\x1b]", b"\t", b"a", b"bc", b"d e",
    b"\xc3\xa9", b"\xe2\x82\xac", b"\xff", b"\x9b", b"\x00", b"\\", b"7", b";",
]  # fmt: skip
"""what programs write, and the halves of it"""


def lines(*chunks: bytes) -> list[str]:
    discipline = LineDiscipline()
    return [*(line for chunk in chunks for line in discipline.feed(chunk)), *discipline.end()]


@pytest.mark.parametrize(
    ("data", "shown"),
    [
        (b"one\r\ntwo\r\n", ["one", "two"]),
        (b"  0 1000\r 50 1000\r100 1000\n", ["100 1000"]),
        (b"100 1000\rdone\n", ["done1000"]),
        (b"100 1000\r\x1b[Kdone\n", ["done"]),
        (b"Reading... 0%\r\rReading... 100%\r\rReading... Done\r\n", ["Reading... Done"]),
        (b"(Reading 5%\r(Reading 100%\r(Reading 30 files.)\r\nSetting up\r\n", ["(Reading 30 files.)", "Setting up"]),
        (b"|\b/\b-\b\\\b done\n", [" done"]),
        (b"wait\b\b\b\bdone", ["done"]),
        (b"\b\bx\n", ["x"]),
        (b"\x1b[1;32mok\x1b[0m\x1b[K\n", ["ok"]),
        (b"\x1b[38;5;196mred\x1b[m \x1b[48:2::1:2:3mrgb\n", ["red rgb"]),
        (b"spin \x1b[2K\x1b[1Gdone\n", ["done"]),
        (b"\x1b[0Gtwo\x1b[Gone\n", ["one"]),
        (b"abc\x1b[2DX\x1b[1CY\n", ["aXcY"]),
        (b"[ ok ]\x1b[12Gx\n", ["[ ok ]     x"]),
        (b"\x1b]0;title\x07a\x1b]8;;http://x\x1b\\b\x1b]8;;\x1b\\\n", ["ab"]),
        (b"\x1bP$q\x1b\\\x1b_x\x1b\\\x1b^y\x1b\\\x1bXz\x1b\\a\x1b(B\x1b7\x1b8\x1bc\x1b=\n", ["a"]),
        (b"\x1b[2J\x1b[1;1H\x1b[?25l\x1b[6n\x1b[1A\x1b[10000S\x1b[!p\x1b[0 qa\n", ["a"]),
        (b"\x1b[12\n34m\n", ["\x1b[12", "34m"]),
        (b"\x1b]0;no end\n", ["\x1b]0;no end"]),
        (b"\x1b\n\x1b\x1b[31ma", ["\x1b", "\x1ba"]),
        (b"ends in \x1b[3", ["ends in \x1b[3"]),
        (b"\x1b]0;" + b"x" * (LONGEST_STRING + 1) + b"\x07", ["\x1b]0;" + "x" * (LONGEST_STRING + 1) + "\x07"]),
        (b"\x00\x07\xc2\x9b31m", ["\x00\x07\x9b31m"]),
        (b"trailing  \n", ["trailing  "]),
        (b"meter\r       \r", []),
        (b"meter\r       \rx\n", ["x"]),
        (b"tab\tkept\n\n", ["tab\tkept", ""]),
    ],
)
def test_o4_a_redrawn_line_is_shown_in_its_last_state_and_sequences_are_dropped_whole(data: bytes, shown: list[str]):
    """O4."""
    assert lines(data) == shown
    assert lines(*(bytes([byte]) for byte in data)) == shown


@given(st.lists(st.sampled_from(PIECES) | st.binary(max_size=3), max_size=40), st.randoms(use_true_random=False))
def test_o4_r17_the_same_bytes_in_any_chunks_give_the_same_lines(pieces: list[bytes], chance: random.Random):
    """O4."""
    data = b"".join(pieces)
    cuts = sorted(chance.randrange(len(data) + 1) for _ in range(5))
    chunks = [data[start:end] for start, end in zip([0, *cuts], [*cuts, len(data)], strict=True)]
    assert lines(*chunks) == lines(data)


@given(st.lists(st.sampled_from(PIECES) | st.binary(max_size=3), max_size=60), st.randoms(use_true_random=False))
def test_o4_r16_the_same_holds_for_lines_that_are_too_long(pieces: list[bytes], chance: random.Random):
    """O4."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(line_discipline, "LONGEST_LINE", 8)
        patch.setattr(line_discipline, "WIDEST", 6)
        data = b"".join(pieces)
        cut = chance.randrange(len(data) + 1)
        whole = lines(data)
        assert lines(data[:cut], data[cut:]) == whole
        assert all(len(line) <= 8 for line in whole)


def model(text: str) -> list[str]:
    """Return the rows that a terminal shows: one cell after the other, no wider than it is asked to be."""
    rows: list[dict[int, str]] = [{}]
    at = 0
    for drawn in re.findall(r"\x1b\[K|.", text, re.DOTALL):
        if drawn == "\n":
            rows.append({})
            at = 0  # as with ONLCR, which a terminal has and output to it relies on
        elif drawn == "\r":
            at = 0
        elif drawn == "\b":
            at = max(at - 1, 0)
        elif drawn == "\x1b[K":
            rows[-1] = {column: cell for column, cell in rows[-1].items() if column < at}
        else:
            rows[-1][at] = drawn
            at += 1
    return ["".join(row.get(column, " ") for column in range(max(row, default=-1) + 1)).rstrip() for row in rows]


DRAWN = st.lists(
    st.sampled_from(["\n", "\r", "\b", "\x1b[K"]) | st.text("abc é€", min_size=1, max_size=4), max_size=30
).map("".join)


@given(DRAWN)
def test_o4_a_cell_by_cell_model_of_a_terminal_shows_the_same(text: str):
    """O4."""
    shown = [line.rstrip() for line in lines(text.encode())]
    expected = model(text)
    assert shown + [""] * (len(expected) - len(shown)) == expected


@pytest.mark.skipif(not shutil.which("tmux"), reason="needs tmux")
def test_o4_a_real_terminal_shows_the_same(tmp_path):
    """O4: some thousand random bytes in one window."""
    seed = random.randrange(1 << 32)
    print("seed", seed)
    chance = random.Random(seed)
    tokens = ["\r", "\b", "\x1b[K", "\x1b[2K", "\x1b[G", "\x1b[2D", "\x1b[2C", "\x1b[31m", "a", "bc", "def", " ", "é"]
    rows = ["".join(chance.choices(tokens, k=chance.randrange(12))) for _ in range(40)]
    drawn = tmp_path / "drawn"
    drawn.write_text("\n".join(rows) + "\nend")
    tmux = ["tmux", "-S", tmp_path / "socket"]
    environment = {"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8", "TERM": "xterm"}
    command = f"cat '{drawn}'; tmux -S '{tmp_path}/socket' wait-for -S drawn; cat"
    subprocess.run(
        [*tmux, "-f", "/dev/null", "-u", "new-session", "-d", "-x", "80", "-y", "50", command],
        check=True, env=environment,
    )  # fmt: skip

    def capture() -> str:
        return subprocess.run([*tmux, "capture-pane", "-p"], check=True, capture_output=True, text=True).stdout

    try:
        subprocess.run([*tmux, "wait-for", "drawn"], check=True, timeout=60)
        wait_until(lambda: "\nend" in capture())  # tmux may not have drawn yet all that it was sent
        screen = capture()
    finally:
        subprocess.run([*tmux, "kill-server"], check=False)
    shown = [line.rstrip() for line in lines(drawn.read_bytes())]
    assert shown == [line.rstrip() for line in screen.splitlines()[: len(shown)]]


def test_r16_a_line_without_end_is_shown_in_pieces_and_a_meter_without_end_in_states():
    """O4."""
    assert list(map(len, lines(b"x" * (3 * LONGEST_LINE + 1)))) == [LONGEST_LINE] * 3 + [1]
    drawn = b"".join(b"\r%7d of 100000000" % number for number in range(100_000))
    states = lines(drawn)
    assert 1 < len(states) <= len(drawn) // LONGEST_LINE + 1
    assert states[-1] == "  99999 of 100000000"
    assert all(re.fullmatch(r" *\d+ of 100000000", state) for state in states)


def test_r16_few_bytes_never_become_a_long_line():
    """O4: a sequence may skip columns, but no more than terminals have."""
    assert max(map(len, lines(b"\x1b[99999Cx\n" * 10, b"\x1b[60000Gx\n", b"\x1b[1C" * 5000 + b"x\n"))) <= WIDEST + 1
    overlong = b"y" * 60_000 + b"\x1b[2Kx\n"
    assert len(lines(overlong)[0]) <= WIDEST + 1
