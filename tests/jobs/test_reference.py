"""The reference names every setting, field, command and status there is, and its example is a catalogue."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from runsdeploy.jobs.commands import commands
from runsdeploy.jobs.report import metrics
from runsdeploy.jobs.settings import catalogue, settings
from tests.docs.test_docs import BLOCK
from tests.jobs.report.test_metrics import FIGURES

PAGE = (Path(__file__).parents[2] / "docs" / "reference" / "job-runner.md").read_text()


@pytest.mark.parametrize("key", sorted({*settings.KEYS, *settings.SEED_SWITCHES}))
def test_every_setting_is_told(key):
    row = next(line for line in PAGE.splitlines() if line.startswith("| `") and f"`{key}`" in line)
    default = settings.KEYS[key].default if key in settings.KEYS else False
    if default not in ("", False) and key != "CRON_BACKUP":
        assert f"| {default} |" in row


def test_every_field_of_a_job_is_told():
    for field in catalogue.FIELDS:
        assert re.search(rf"^\| .*`{field}`", PAGE, re.MULTILINE), field


def test_every_command_is_told():
    for command in commands.COMMANDS:
        assert re.search(rf"^\| `{command}\b", PAGE, re.MULTILINE), command


def test_the_example_is_a_catalogue(tmp_path):
    (block,) = (found for found in BLOCK.finditer(PAGE) if found["file"] == "catalogue.json")
    path = tmp_path / "catalogue.json"
    path.write_text(block["text"])
    found = catalogue.load(str(path))
    assert [job.name for job in found.jobs][3] == "opus-import"
    assert len(found.jobs) == 8
    fields = set(re.findall(r'"(\w+)":', block["text"].partition('"jobs"')[2]))
    assert fields - {"path", "required", "LC_ALL"} == set(catalogue.FIELDS) - {"shell", "daemon", "required"}


def test_every_metric_is_told():
    for name in set(re.findall(r"^runsdeploy_jobs_(\w+)", metrics.render(*FIGURES).decode(), re.MULTILINE)):
        assert re.search(rf"[…_]{name}", PAGE), name
