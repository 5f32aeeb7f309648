"""Findings for GitHub Actions, of which it shows ten errors and ten warnings for a step (O10)."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runsdeploy.check.finding import ERROR, WARNING, Finding
from runsdeploy.errors import Position, Problem
from runsdeploy.output import github


def finding(severity: str, number: int, rule: str = "unused-variable", message: str = "it is `x`") -> Finding:
    return Finding(Problem(Position("scripts/a", number, 1), message), severity, rule)


MANY = [
    *(finding(WARNING, number, "SC2086") for number in range(1, 15)),
    *(finding(WARNING, number) for number in range(20, 34)),
    *(finding(ERROR, number, "unknown-script") for number in range(40, 54)),
]
"""14 errors and 28 warnings"""


@pytest.fixture
def summary(tmp_path, monkeypatch) -> Path:
    path = tmp_path / "summary"
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(path))
    return path


def written(capsysbinary: pytest.CaptureFixture[bytes]) -> list[str]:
    return capsysbinary.readouterr().out.decode().splitlines()


def rows(text: str) -> list[list[str]]:
    """Return the cells of a table as GitHub divides it: at bars that no backslash escapes."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    return [re.split(r"(?<!\\) ?\| ?", line)[1:-1] for line in lines[2:]]


def test_o10_the_ten_that_matter_of_each_and_all_in_the_summary(summary, capsysbinary):
    """O10."""
    summary.write_text("before\n")
    github.write(MANY)
    *commands, more = written(capsysbinary)
    assert [re.match(r"::(\w+) file=scripts/a,line=(\d+)", line).groups() for line in commands] == [
        *((ERROR, str(number)) for number in range(40, 50)),
        *((WARNING, str(number)) for number in range(20, 30)),
    ]
    assert more == "and 22 more: see the summary"
    text = summary.read_text()
    assert text.startswith("before\n\n### runsdeploy: 14 errors and 28 warnings\n")
    found = rows(text)
    assert len(found) == len(MANY)
    assert found[0] == ["error", "scripts/a\\:40\\:1", "it is `x`", "unknown\\-script"]


def test_o10_without_a_summary_the_others_are_in_the_log(monkeypatch, capsysbinary):
    """O10."""
    monkeypatch.delenv("GITHUB_STEP_SUMMARY", raising=False)
    github.write(MANY)
    lines = written(capsysbinary)
    assert lines[20] == "and 22 more, which GitHub does not show:"
    assert lines[21] == "error: scripts/a:50:1: it is `x` [unknown-script]"
    assert len(lines) == 20 + 1 + 22


def test_o10_a_summary_that_cannot_be_written_is_reported_and_replaced_by_the_log(summary, capsysbinary):
    """O10."""
    summary.mkdir()
    github.write(MANY)
    captured = capsysbinary.readouterr()
    assert b"cannot write the summary of the step" in captured.err
    assert captured.out.count(b"\n") == 20 + 1 + 22


def test_o10_few_findings_are_commands_and_a_summary_and_none_are_nothing(summary, capsysbinary):
    """O10."""
    github.write([])
    assert written(capsysbinary) == []
    assert not summary.exists()
    github.write(MANY[:2])
    assert len(written(capsysbinary)) == 2
    assert len(rows(summary.read_text())) == 2


def test_o10_a_large_summary_is_cut_at_a_row_and_says_so(summary, capsysbinary):
    """O10: GitHub would drop all of it."""
    earlier = b"x" * 100_000
    summary.write_bytes(earlier)
    github.write([finding(ERROR, number, message="long " * 200) for number in range(1, 2000)])
    text = summary.read_text().removeprefix(earlier.decode())
    assert summary.stat().st_size <= github.SUMMARY_LIMIT
    found = rows(text)
    assert all(len(cells) == 4 for cells in found)
    assert 700 < len(found) < 1000
    assert text.endswith(f"\n{1999 - len(found)} more findings have no room here: `runsdeploy check` shows them.\n")
    assert len(written(capsysbinary)) == 11


@given(st.text(st.sampled_from("`|\\<>&*_[]()#a \n\r\t\x1b:-@"), max_size=12))
def test_o10_s12_no_text_leaves_its_cell_or_becomes_markup(text: str):
    """O10."""
    row = github._row(finding(ERROR, 1, message=text)).decode()
    assert row.count("\n") == 1
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f]", row)
    cell = row.split(" | ", 2)[2].rpartition(" | ")[0]
    # Outside of code every mark is escaped, and bars are everywhere.
    plain = re.sub(r"(?<!\\)`[^`]+`", lambda code: re.sub(r"\\\||[^|]", "", code[0]), cell)
    assert not re.search(r"[`|<>&*_\[\]#@]", re.sub(r"\\.", "", plain))
