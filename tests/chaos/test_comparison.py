"""The comparison of `bench/cuts.py`, so far as it needs nothing installed: our own side of it."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]


@pytest.mark.timeout(600)
def test_t31_of_the_cuts_that_others_are_compared_by_none_repeats_or_loses_a_step():
    done = subprocess.run(
        [sys.executable, REPOSITORY / "bench/cuts.py", "--cuts", "3", "--seed", "31", "--only", "runsdeploy"],
        capture_output=True, text=True, timeout=500, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (row,) = re.findall(r"^\W*runsdeploy.*$", done.stdout, re.MULTILINE)
    cases, _, once, twice, missing, output = [int(word) for word in re.findall(r"\d+", row)][:6]
    assert (cases, once, twice, missing, output) == (3, 3, 0, 0, 0), done.stdout
