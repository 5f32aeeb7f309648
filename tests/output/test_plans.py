"""Plans as text (O9)."""

from __future__ import annotations

from pathlib import Path

import pytest

from runsdeploy.output.plans import _shipped, _size
from runsdeploy.plan.files import File, content_file
from tests.trees import Operator, plant, script


def shipped(*files: File, verbose: bool = False) -> list[str]:
    return [line.removeprefix("ships ") for line in _shipped(files, verbose=verbose)]


def directory(path: str) -> File:
    return File(path, "directory", 0o755)


VENDOR = (
    directory("tree0/vendor"),
    content_file("tree0/vendor/a", b"x" * 1500),
    directory("tree0/vendor/sub dir"),
    content_file("tree0/vendor/sub dir/b", b"y"),
    File("tree0/vendor/link", "link", 0o777, target="a"),
)


def test_o9_a_directory_is_one_line_with_the_number_and_size_of_its_files():
    """O9."""
    single, rendered = content_file("tree0/vendor.conf", b"z"), content_file("template/vendor/x", b"")
    assert shipped(rendered, *VENDOR, single) == [
        f"template/vendor/x {rendered.digest[:12]}",
        "tree0/vendor/ (3 files, 1.5 kB)",
        f"tree0/vendor.conf {single.digest[:12]}",
    ]
    assert shipped(directory("tree0/empty"), directory("tree1/one"), content_file("tree1/one/a", b"1")) == [
        "tree0/empty/ (0 files, 0 B)",
        "tree1/one/ (1 file, 1 B)",
    ]


def test_o9_verbose_lists_every_member():
    """O9."""
    lines = shipped(*VENDOR, verbose=True)
    assert [line.rpartition(" ")[0] or line for line in lines][1] == "tree0/vendor/a"
    assert len(lines) == len(VENDOR)
    assert "'tree0/vendor/sub dir'" in lines


@pytest.mark.parametrize(
    ("size", "text"),
    [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (3_100_000, "3.1 MB"), (2e9, "2.0 GB"), (5e12, "5000.0 GB")],
)
def test_o9_sizes_are_rounded_to_a_unit(size: float, text: str):
    """O9."""
    assert _size(size) == text


def test_o9_plan_and_dry_run_count_and_json_keeps_all(tmp_path: Path):
    """O9: a vendor directory of 300 files."""
    files = {f"scripts/vendor/d{number % 7}/f{number}": "x" * 10 for number in range(300)}
    files |= {"scripts/it": script("ref v=vendor", "ls $v"), "hosts/medusa/default": "it\n"}
    tree = plant(tmp_path / "tree", files)
    operator = Operator(tmp_path / "operator")
    words = ["--path", str(tree), "--host", "medusa.univ.run"]
    for command in (["plan"], ["deploy", "--dry-run", "--local"]):
        text = operator.run(*command, *words).text
        assert text.count("ships ") == 1
        assert "ships tree0/scripts/vendor/ (300 files, 3.0 kB)" in text
        assert operator.run(*command, *words, "-v").text.count("ships ") == 1 + 7 + 300
        (step,) = operator.run(*command, *words, "--format", "json").document["hosts"][0]["steps"]
        assert len(step["files"]) == 1 + 7 + 300
