"""Names with an `é` in one character or in two: they look the same, and are one name (D34)."""

from __future__ import annotations

import unicodedata

import pytest

from tests.trees import Operator, plant, script

NFC, NFD = "étape", unicodedata.normalize("NFD", "étape")
WAYS = [(NFC, NFD), (NFD, NFC)]


@pytest.fixture
def anyone(tmp_path):
    return Operator(tmp_path / "operator")


@pytest.mark.parametrize(("written", "kept"), WAYS)
def test_scripts_recipes_and_groups_are_found_in_either_composition(tmp_path, anyone, written, kept):
    """D34: taken, under one name in the plan, by `after` too."""
    tree = plant(
        tmp_path / "tree",
        {
            f"scripts/{kept}/{kept}": script("", "echo ran"),
            "scripts/b": script(f"after -r {written}/{written}"),
            f"hosts/medusa/{kept}": f"{written}/{written}\nb\n{kept}/{kept}\n",
            "hosts/medusa/default": f"@{written}\n",
            f"groups/{kept}": "medusa\n",
        },
    )
    done = anyone.run("plan", "--path", tree, "--host", f"@{written}", "--format", "json")
    assert done.status == 0, done.talk
    name = f"{NFC}/{NFC}"
    assert [step["script"] for step in done.steps] == [name, name, "b"]
    named = anyone.run(
        "plan", "--path", tree, "--host", "medusa", "--script", f"{written}/{written}", "--format", "json"
    )
    assert [step["script"] for step in named.steps] == [name]
    assert anyone.run("info", "--path", tree, f"{written}/{written}").status == 0
    assert [each["script"] for each in anyone.run("list", "--path", tree, "--format", "json").document["scripts"]] == [
        "b",
        name,
    ]


def test_a_marker_has_one_name_in_both(tmp_path, anyone):
    """D34: a checkout on a Mac must not run the script once more."""
    for way in (NFC, NFD):
        tree = plant(tmp_path / way, {f"scripts/{way}": script("conf once"), "hosts/medusa/default": f"{way}\n"})
        done = anyone.deploy(tree, host="medusa")
        assert done.outcomes == [(NFC, "ok" if way is NFC else "already-done")]
    shown = anyone.run("status", "--local", "--path", tree, "--host", "medusa", "--script", NFD, "--format", "json")
    assert [each["script"] for each in shown.document["hosts"][0]["markers"]] == [NFC]
    assert (
        f"took back {NFC}" in anyone.run("reset", "--local", "--path", tree, "--host", "medusa", "--script", NFD).text
    )


def test_two_files_that_differ_only_in_composition_are_an_error(tmp_path, anyone):
    files = {f"scripts/{way}": script() for way in (NFC, NFD)} | {f"groups/{way}": "medusa\n" for way in (NFC, NFD)}
    tree = plant(tmp_path / "tree", {**files, "hosts/medusa/default": f"{NFC}\n"})
    if len(list((tree / "scripts").iterdir())) == 1:
        pytest.skip("this file system has one name for both")
    for host in ("medusa", f"@{NFD}"):
        done = anyone.run("plan", "--path", tree, "--host", host)
        assert done.status == 2
        assert r"composed differently: `e\u0301tape`, `\xe9tape`; keep one of them" in done.talk


@pytest.mark.parametrize(("written", "kept"), WAYS)
@pytest.mark.parametrize("option", ["", "-r "])
def test_a_ref_says_in_what_the_names_differ(tmp_path, anyone, written, kept, option):
    """D34: bash looks for bytes; without a word the path would be that of no file."""
    tree = plant(
        tmp_path / "tree",
        {
            "scripts/a": script(f"ref {option}x={written}"),
            f"scripts/{kept}": "text",
            "scripts/maker": script(f"out y={kept}.txt"),
            "scripts/user": script(f"ref {option}y={written}.txt"),
            "hosts/medusa/default": "a\nmaker\nuser\n",
        },
    )
    done = anyone.run("plan", "--path", tree, "--host", "medusa")
    assert done.status == 2
    assert r"\xe9tape" in done.talk
    assert r"e\u0301tape" in done.talk
    places = [line.partition(": ")[0].rpartition("/")[2] for line in done.talk.splitlines() if "composed" in line]
    assert places == ["a:1", "user:1"]


@pytest.mark.parametrize(("written", "kept"), WAYS)
def test_a_library_says_in_what_the_names_differ(tmp_path, anyone, written, kept):
    tree = plant(
        tmp_path / "tree",
        {
            "scripts/a": script("", f"urequire {written}"),
            f"lib/{kept}": "lib() { :; }",
            "hosts/medusa/default": "a\n",
        },
    )
    done = anyone.run("plan", "--path", tree, "--host", "medusa")
    assert done.status == 2
    assert "scripts/a:2: library" in done.talk
    assert "composed differently" in done.talk
