"""The record of the known state: set and cleared by imports only (J26)."""

from __future__ import annotations

import json

import pytest

from runsdeploy.jobs.archive import archive, known_state
from runsdeploy.jobs.archive.archive import Archive
from runsdeploy.jobs.archive.known_state import KNOWN, Suspect, begin, end
from tests.jobs.backup import backup, manifest

SINCE = Suspect("1", ("a",))
ENDS = [
    ("no import", SINCE, "none", {}, SINCE),
    ("backup not good", SINCE, "skipped", {"a": "not-run"}, SINCE),
    ("nothing was executed", KNOWN, "failed", {"a": "no-ticket", "b": "not-run"}, KNOWN),
    ("fails", KNOWN, "failed", {"a": "failed", "b": "not-run"}, Suspect("2", ("a",))),
    ("another fails too", SINCE, "failed", {"b": "timeout"}, Suspect("1", ("a", "b"))),
    ("it passes, the next fails", SINCE, "failed", {"a": "ok", "b": "killed"}, Suspect("1", ("b",))),
    ("ended between two", KNOWN, "failed", {"a": "ok", "b": "not-run"}, Suspect("2", ("b",))),
    ("ended between two again", SINCE, "failed", {"b": "ok", "c": "not-run"}, Suspect("1", ("a", "c"))),
    ("passes", SINCE, "ok", {"a": "ok", "b": "ok"}, KNOWN),
    ("another passes (N1)", SINCE, "ok", {"b": "ok"}, SINCE),
    ("of an older version, all pass", Suspect("1", ()), "ok", {"b": "ok"}, KNOWN),
    ("killed, outcomes are lost", KNOWN, "interrupted", {}, Suspect("2", ())),
]


@pytest.mark.parametrize(("before", "stage", "outcomes", "after"), [row[1:] for row in ENDS], ids=[r[0] for r in ENDS])
def test_J26_only_imports_decide(before: Suspect, stage: str, outcomes: dict[str, str], after: Suspect):
    assert end(before, "2", stage, outcomes) == after


def test_J26_an_import_that_left_the_catalogue_is_not_waited_for():
    assert end(SINCE, "2", "ok", {"b": "ok"}, {"b"}) == KNOWN
    assert end(SINCE, "2", "ok", {"b": "ok"}, {"a", "b"}) == SINCE


def test_J26_a_kill_leaves_only_what_has_not_passed():
    assert begin(KNOWN, "2", "b", ["a"]) == Suspect("2", ("b",))
    assert begin(SINCE, "2", "b", []) == Suspect("1", ("a", "b"))


@pytest.mark.parametrize("text", [None, "", "{", "[]", '{"since": 1, "imports": []}', '{"since": "1", "imports": [1]}'])
def test_J26_without_a_record_the_newest_manifest_tells_the_state(text, tmp_path):
    """After the loss of the file, and on the first run after an upgrade."""
    (tmp_path / "root").mkdir()
    folder = tmp_path / "backups"
    assert archive.suspect(str(folder)) == KNOWN
    folder.mkdir()
    if text is not None:
        (folder / known_state.FILE).write_text(text)
    assert archive.suspect(str(folder)) == KNOWN
    jobs = {"a": {"stage": "imports", "outcome": "failed", "status": 1}, "z": {"stage": "reports", "outcome": "failed"}}
    backup(folder, tmp_path / "root", format=2, stages={"imports": "failed"}, jobs=jobs, suspect=KNOWN)
    assert archive.suspect(str(folder)) == Suspect(manifest().identity, ("a",))
    known_state.save(str(folder), SINCE)
    assert archive.suspect(str(folder)) == SINCE


def night(number: int, imports: str, *, first: int = 1, **fields: object) -> Archive:
    """Return the archive of a night as an older version made it: without `suspect`."""
    made = manifest(
        identity=f"202610{number:02}T003000Z-a1b2c3",
        sequence=first + number - 1,
        stages={"imports": imports},
        jobs={"a": {"outcome": "ok" if imports == "ok" else "failed", "status": 0}} if imports != "none" else {},
        **fields,
    )
    assert "suspect" not in json.loads(archive.encode(made))
    name = archive.final_name(made)
    return Archive(name, name, "good" if made.good else "failed", archive.decode(archive.encode(made)), 1.0, 1, "")


def known(*nights: Archive) -> str:
    """Return for each night, oldest first, whether its backup is of a known state."""
    return "".join("+" if each.known else "-" for each in archive.in_order(nights)[::-1])


def test_J26_J24_archives_of_older_versions_are_suspect_by_the_results_of_those_before():
    results = ("ok", "failed", "none", "failed", "ok", "ok", "interrupted", "ok", "none")
    assert known(*(night(at, imports) for at, imports in enumerate(results, 1))) == "++---++-+"


def test_J26_N4_the_oldest_that_an_older_version_kept_is_not_taken_for_the_state_before():
    """N3: with a version that deleted the known state, there is none; a first run ever is one."""
    spoilt = [night(at, "failed", first=9) for at in range(1, 5)]
    assert known(*spoilt) == "----"
    assert archive.latest(archive.in_order(spoilt), Suspect(spoilt[0].name.partition("-cron")[0], ())) is None
    assert known(*(night(at, "failed") for at in range(1, 5))) == "+---"
    assert known(*(night(at, imports, first=9) for at, imports in enumerate(("failed", "ok", "ok"), 1))) == "--+"
    assert known(*(night(at, "none", first=9) for at in range(1, 4))) == "+++"


def test_J26_a_backup_that_is_not_good_or_bad_is_never_the_known_state():
    bad = night(3, "ok")._replace(kind="bad")
    every = archive.in_order([night(1, "ok"), night(2, "skipped", good=False), bad])
    assert archive.latest(every, KNOWN) == every[2]


def test_J26_the_record_names_latest_also_after_a_suspect_backup_was_restored_by_name():
    every = archive.in_order(night(at, imports) for at, imports in enumerate(("failed", "ok", "ok"), 1))
    assert archive.latest(every, KNOWN) == every[0]
    named = every[2]
    assert named.manifest
    assert archive.latest(every, Suspect(named.manifest.identity, ("a",))) == named
