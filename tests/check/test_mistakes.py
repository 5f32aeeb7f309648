"""T10: 300 mistakes of operators. `check` reports each at its line, and nothing for the tree without the mistake.

The mistakes are data, in `tests/check/mistakes`. All trees are checked in this process, which is
ten times as fast as a process for each.
"""

from __future__ import annotations

import json
import shutil
import sys
from functools import cache
from pathlib import Path

import pytest

from runsdeploy.cli.main import main
from tests.check.mistakes.blocks import mistakes
from tests.trees import plant

MISTAKES = list(mistakes())


@pytest.fixture
def checked(tmp_path, tmp_path_factory, monkeypatch, capfdbinary):
    """Check a tree: return the exit status and the findings."""
    for name in ("RUNSPATH", "RUNSDEPLOY_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    # Most sections are those of another tree.
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "shellcheck"))
    # shellcheck is installed in the development environment, which may not be active.
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:/usr/bin:/bin")

    def check(name, files, *options):
        monkeypatch.chdir(plant(tmp_path / name, files))
        status = main(["check", "--format", "json", "--path", ".", *options])
        written, talk = capfdbinary.readouterr()
        assert b"Traceback" not in talk
        document = json.loads(written)
        assert document["exit_status"] == status
        return status, document["findings"]

    return check


@cache
def _shellcheck():
    return shutil.which("shellcheck", path=f"{Path(sys.executable).parent}:/usr/bin:/bin")


def test_there_are_300_mistakes_and_each_has_a_name_of_its_own():
    assert len({mistake.name for mistake in MISTAKES}) == len(MISTAKES) >= 300


@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda mistake: mistake.name)
def test_t10_a_mistake_is_told_at_its_line(mistake, checked):
    assert _shellcheck(), "shellcheck is part of `.[dev]`"
    status, findings = checked("mistaken", mistake.mistaken, *mistake.options)
    assert any(map(mistake.is_reported_by, findings)), _listed(findings)
    # An error keeps a deploy from starting, a warning does not.
    assert status == (2 if any(finding["severity"] == "error" for finding in findings) else 0)
    for finding in findings:
        if finding["file"] and Path(finding["file"]).exists():
            lines = Path(finding["file"]).read_bytes().count(b"\n")
            assert finding["line"] is None or finding["line"] <= lines + 1
    assert checked("good", mistake.good) == (0, []), "of the good tree"


def _listed(findings):
    lines = (f"{f['file']}:{f['line']}: {f['severity']}: {f['message']} [{f['rule']}]" for f in findings)
    return "\n".join(["reported:", *lines])
