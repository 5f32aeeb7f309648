"""The reference of the libraries does what it says."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

LIBRARIES = Path(__file__).parents[2] / "runsdeploy" / "shell" / "lib"
REFERENCE = Path(__file__).parents[2] / "docs" / "reference" / "libraries.md"
TEXT = REFERENCE.read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```bash\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)
PUBLIC = [
    name
    for library in ("DEFAULTS", "uinst", "uinc")
    for name in re.findall(r"^([a-z]\w*)\(\)", (LIBRARIES / f"{library}.sh").read_text(), re.MULTILINE)
]


@pytest.mark.parametrize("block", BLOCKS)
@pytest.mark.parametrize("options", ["set -e", "set -euo pipefail"])
def test_every_block_runs_as_it_stands(bash, block: str, options: str):
    done = bash(block, options=options)
    assert done.status == 0, done


def test_the_repeated_run_of_a_block_changes_nothing(bash):
    block = next(b for b in BLOCKS if "uinst_link" in b)
    done = bash(f"{block}\nuinst_any=no\nuinst_link 1.5 releases/current\nuinst_absent releases/1.4\necho $uinst_any")
    assert done.out.endswith("\nno\n")


@pytest.mark.parametrize("name", PUBLIC)
def test_every_function_is_in_the_reference_with_an_example(name: str):
    assert f"`{name} " in TEXT
    assert any(re.search(rf"(?<!\w){name}(?!\w)", block) for block in BLOCKS)
