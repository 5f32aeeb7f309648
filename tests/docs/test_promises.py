"""Each promise of docs/reliability.md has tests with its number, and each number of a test has a promise."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]
PAGE = TESTS.parent / "docs/reliability.md"
NUMBERS = [
    *(f"R{n}" for n in range(1, 43)),
    *(f"S{n}" for n in range(1, 15)),
    *(f"T{n}" for n in (*range(1, 17), *range(27, 32))),
]
STATES = ("holds", "partly", "does not hold")
ROW = re.compile(r"\| (?P<number>[A-Z]+\d+) \| (?P<promise>.*?) \| (?P<state>.*?) \| (?P<why>.*?) \|")


def rows() -> list[re.Match[str]]:
    """Return the rows of the table."""
    lines = PAGE.read_text("utf-8").partition("## Promises")[2].splitlines()
    found = [line for line in lines if re.match(r"\|\s*[A-Z]+\d", line)]
    return [match for match in (ROW.fullmatch(line) for line in found) if match]


@cache
def cited(root: Path = TESTS) -> dict[str, set[str]]:
    """Return the tests by the number in their names; the job runner's numbers are in capitals, and left out."""
    found: dict[str, set[str]] = {}
    for file in sorted(root.rglob("test_*.py")):
        for node in ast.walk(ast.parse(file.read_bytes())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_"):
                for number in re.findall(r"(?<=_)[rst]\d+(?=_)", node.name):
                    found.setdefault(number.upper(), set()).add(f"{file.name}: {node.name}")
    return found


def test_every_number_has_one_row_in_order():
    assert [row["number"] for row in rows()] == NUMBERS


def test_every_row_says_what_is_promised_in_a_known_state_and_what_was_measured_or_why():
    for row in rows():
        assert row["state"] in STATES, row[0]
        assert row["promise"].strip(), row[0]
        assert row["why"].strip(), row[0]
        assert row["state"] == "does not hold" or "not measured yet" not in row["why"], row[0]


def test_what_holds_wholly_or_in_part_has_a_test_of_its_number():
    tests = cited()
    assert [row["number"] for row in rows() if row["state"] != "does not hold" and row["number"] not in tests] == []


def test_a_number_of_a_test_has_a_row():
    assert {number: names for number, names in cited().items() if number not in NUMBERS} == {}


def test_numbers_are_found_in_the_names_of_functions_alone(tmp_path: Path):
    (tmp_path / "test_it.py").write_text(
        '"""R1."""\ndef test_r2_t16_x():\n    "r3"\nclass T:\n    async def test_s4_y(self): ...\n'
        "def test_T17_z(): ...\ndef not_a_test_r5_x(): ...\n# def test_r6_x\ndef test_for32_x(): ...\n"
    )
    assert sorted(cited(tmp_path)) == ["R2", "S4", "T16"]


@pytest.mark.parametrize("number", ["R4", "S2", "T8"])
def test_the_page_tells_how_to_run_the_tests_of_a_number(number: str):
    """`-k r4_` must not run those of R42."""
    names = [name for found in cited().values() for name in found if f"{number.lower()}_" in name.partition(": ")[2]]
    assert set(names) == cited().get(number, set())
