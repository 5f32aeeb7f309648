"""Metrics: a collector finds a whole file that it can parse, always (J20)."""

from __future__ import annotations

import os
import re
import stat
import subprocess
import sys
import threading
import zipfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runsdeploy.jobs.archive.known_state import KNOWN, Suspect
from runsdeploy.jobs.report.metrics import render, write
from runsdeploy.jobs.report.record import History, Record, Result

RECORD = Record(
    identity="20260101T000000Z-abcdef",
    host="h",
    started=1792888139,
    seconds=61.25,
    exit_status=1,
    archive="a",
    archive_bytes=123456789012,
    backup_good=True,
    reasons=(),
    faults=(),
    stages={},
    jobs=(
        Result("sd_changed_at", "imports", "ok", 0, 12.5),
        Result("cpr_uuid", "imports", "timeout", None, 0.0),
        Result("mox_rolle", "imports", "not-run", None, 0.0),
    ),
    warnings=("a", "b"),
    pruned=(),
    suspect=Suspect("20260101T000000Z-abcdef", ("cpr_uuid",)),
)
HISTORY = History((), {}, 1, 1792801800, 1792888100, 3)
FIGURES = (RECORD, HISTORY)
NOTHING = (
    RECORD._replace(started=0, seconds=0.0, exit_status=2, archive_bytes=0, jobs=(), warnings=(), suspect=KNOWN),
    History((), {}, 0, None, None, 0),
)


def with_jobs(figures: tuple[Record, History], *jobs: Result) -> tuple[Record, History]:
    return figures[0]._replace(jobs=jobs), figures[1]


def job(name: str, outcome: str, status: int, seconds: float = 1.0) -> Result:
    return Result(name, "exports", outcome, status, seconds)


NAME = r"[a-zA-Z_:][a-zA-Z0-9_:]*"
LABEL = re.compile(rf'({NAME})="((?:[^"\\\n]|\\[\\"n])*)"(,|\Z)')
SAMPLE = re.compile(rf"({NAME})(?:\{{(.*)\}})? (NaN|[+-]Inf|-?\d+(?:\.\d+)?(?:e[+-]?\d+)?)", re.DOTALL)
MEANING = {"\\\\": "\\", '\\"': '"', "\\n": "\n"}


def labels(text: str) -> tuple[tuple[str, str], ...]:
    found, at = [], 0
    while at < len(text):
        match = LABEL.match(text, at)
        assert match, f"bad labels {text!r}"
        found.append((match[1], re.sub(r"\\.", lambda each: MEANING[each[0]], match[2])))
        at = match.end()
    return tuple(found)


def parse(data: bytes) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """Read the text format 0.0.4, stricter than any collector: no sample twice, a head once and before its samples."""
    text = data.decode("utf-8")
    assert text.endswith("\n")
    found: dict[tuple[str, tuple[tuple[str, str], ...]], float] = {}
    helped, typed, current = set(), set(), ""
    for line in text[:-1].split("\n"):
        word = line.split(" ")
        if line.startswith("# HELP "):
            assert word[2] not in helped
            helped.add(current := word[2])
            assert len(word) > 3
        elif line.startswith("# TYPE "):
            assert word[2] == current
            assert word[3:] in (["gauge"], ["counter"])
            assert (word[3] == "counter") == current.endswith("_total")
            typed.add(current)
        else:
            match = SAMPLE.fullmatch(line)
            assert match, f"bad line {line!r}"
            key = match[1], labels(match[2] or "")
            assert key not in found
            assert match[1] == current
            assert current in typed
            found[key] = float(match[3])
    return found


def test_J20_every_figure_is_there_under_its_name_and_unit():
    prefix = "runsdeploy_jobs_"
    assert parse(render(*FIGURES)) == {
        (prefix + "last_success_timestamp_seconds", ()): 1792801800.0,
        (prefix + "last_run_timestamp_seconds", ()): 1792888200.25,
        (prefix + "last_run_duration_seconds", ()): 61.25,
        (prefix + "last_run_exit_status", ()): 1,
        (prefix + "backup_last_good_timestamp_seconds", ()): 1792888100.0,
        (prefix + "state_suspect", ()): 1,
        (prefix + "backup_bytes", ()): 123456789012,
        (prefix + "job_last_exit_status", (("job", "sd_changed_at"),)): 0,
        (prefix + "job_last_outcome", (("job", "sd_changed_at"), ("outcome", "ok"))): 1,
        (prefix + "job_last_outcome", (("job", "cpr_uuid"), ("outcome", "timeout"))): 1,
        (prefix + "job_last_duration_seconds", (("job", "sd_changed_at"),)): 12.5,
        (prefix + "job_last_duration_seconds", (("job", "cpr_uuid"),)): 0,
        (prefix + "overlap_skipped_total", ()): 3,
        (prefix + "last_run_warnings", ()): 2,
    }


def test_J20_what_never_happened_is_left_out_and_never_1970():
    names = {name for name, _ in parse(render(*NOTHING))}
    assert names == {
        f"runsdeploy_jobs_{each}"
        for each in (
            "last_run_timestamp_seconds",
            "last_run_duration_seconds",
            "last_run_exit_status",
            "state_suspect",
            "last_run_warnings",
            "overlap_skipped_total",
        )
    }
    assert b"last_success" not in render(*NOTHING)


def test_a_time_keeps_its_microseconds():
    found = parse(render(RECORD._replace(seconds=0.123456), HISTORY))
    assert found["runsdeploy_jobs_last_run_timestamp_seconds", ()] == 1792888139.123456


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_J20_any_float_parses_and_comes_back(value: float):
    record = RECORD._replace(seconds=value)
    assert parse(render(record, HISTORY))["runsdeploy_jobs_last_run_duration_seconds", ()] == value


@given(st.lists(st.text(st.characters()), unique=True))
def test_J20_any_name_parses_and_comes_back_with_surrogates_spelled_out(names: list[str]):
    jobs = [job(name, f"{name}!", number) for number, name in enumerate(names)]
    found = parse(render(*with_jobs(NOTHING, *jobs)))
    statuses = {key[1]: value for key, value in found.items() if key[0].endswith("job_last_exit_status")}
    spelled = [name.encode("utf-8", "backslashreplace").decode("utf-8") for name in names]
    assert statuses == {(("job", name),): number for number, name in enumerate(spelled)}


def test_J20_a_name_cannot_forge_a_sample():
    evil = 'x"} 1\nrunsdeploy_jobs_last_run_exit_status 0\n# TYPE \\'
    found = parse(render(*with_jobs(FIGURES, job(evil, "failed", 1))))
    assert found["runsdeploy_jobs_last_run_exit_status", ()] == 1
    assert found["runsdeploy_jobs_job_last_exit_status", (("job", evil),)] == 1


def test_J20_of_two_jobs_with_a_name_the_last_counts_and_the_file_parses():
    jobs = (job("a", "ok", 0), job("a", "failed", 7, 2.0), job("\udcff", "ok", 0), job("\\udcff", "failed", 8))
    found = parse(render(*with_jobs(NOTHING, *jobs)))
    assert found["runsdeploy_jobs_job_last_exit_status", (("job", "a"),)] == 7
    assert found["runsdeploy_jobs_job_last_exit_status", (("job", "\\udcff"),)] == 8


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077, 0o777])
def test_J20_the_collector_can_read_the_file_whatever_the_umask(tmp_path: Path, umask: int):
    before = os.umask(umask)
    try:
        write(str(tmp_path / "a.prom"), *FIGURES)
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "a.prom").stat().st_mode) == 0o644
    assert (tmp_path / "a.prom").read_bytes() == render(*FIGURES)


def test_J20_a_write_that_fails_raises_and_leaves_things_as_they_were(tmp_path: Path):
    (tmp_path / "a.prom").mkdir()
    with pytest.raises(OSError):
        write(str(tmp_path / "a.prom"), *FIGURES)
    with pytest.raises(OSError):
        write(str(tmp_path / "nowhere/a.prom"), *FIGURES)
    assert [each.name for each in tmp_path.iterdir()] == ["a.prom"]


def test_J20_a_thousand_reads_during_rewrites_find_whole_files_and_only_ours_end_in_prom(tmp_path: Path):
    """T24: two versions of very different length take turns; a reader lists and reads as the collector does."""
    many = [job(f"job {number}", "ok", 0) for number in range(500)]
    versions = [NOTHING, with_jobs(FIGURES, *many)]
    texts = [render(*each) for each in versions]
    path, over, failed = tmp_path / "a.prom", threading.Event(), []

    def rewrite():
        try:
            turn = 0
            while not over.is_set():
                write(str(path), *versions[turn % 2])
                turn += 1
        except OSError as error:
            failed.append(error)

    write(str(path), *versions[0])
    writer = threading.Thread(target=rewrite)
    writer.start()
    seen, reads = [0, 0], 0
    try:
        while (reads < 1000 or not all(seen)) and not failed:
            assert [each.name for each in tmp_path.glob("*.prom")] == ["a.prom"]
            data = path.read_bytes()
            assert data in texts
            seen[texts.index(data)] += 1
            if reads % 50 == 0:
                parse(data)
            reads += 1
    finally:
        over.set()
        writer.join()
    assert not failed
    assert [each.name for each in tmp_path.iterdir()] == ["a.prom"]
    for text in texts:
        parse(text)


OTHERS = [
    path
    for version in ("3.6", "3.8", "3.13")
    for path in sorted(Path.home().glob(f".pyenv/versions/{version}.*/bin/python"))
]


@pytest.mark.parametrize("python", [Path(sys.executable), *OTHERS], ids=lambda path: path.parts[-3])
def test_the_same_bytes_come_from_every_python_out_of_a_zip(tmp_path: Path, python: Path):
    package = Path(__file__).parents[3] / "runsdeploy/jobs"
    with zipfile.ZipFile(tmp_path / "jobs.zip", "w") as archive:
        for file in package.rglob("*.py"):
            archive.write(file, f"jobs/{file.relative_to(package)}")
    expected = with_jobs(FIGURES, *RECORD.jobs, job("\udcff", "ok", 0))
    program = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "from jobs.report.metrics import *\n"
        "from jobs.report.record import *\n"
        f"write(sys.argv[2], *{expected!r})\n"
    )
    argv = [str(python), "-I", "-W", "error", "-c", program, str(tmp_path / "jobs.zip"), str(tmp_path / "a.prom")]
    subprocess.run(argv, check=True, timeout=60, env={})
    assert (tmp_path / "a.prom").read_bytes() == render(*expected)
