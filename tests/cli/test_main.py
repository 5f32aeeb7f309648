"""Arguments of the program: bad ones are status 2, told in the format that was asked for (SPEC 7)."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from runsdeploy.cli.main import main


@pytest.fixture(autouse=True)
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Stand in an empty tree, with no variables of ours and an empty home."""
    for name in list(os.environ):
        if name.startswith("RUNS"):
            monkeypatch.delenv(name)
    (tmp_path / "tree/scripts").mkdir(parents=True)
    (tmp_path / "home").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path / "tree")
    return tmp_path / "tree"


BAD = [
    (["nosuch"], "nosuch"),
    (["deploy", "--nosuch"], "--nosuch"),
    (["deploy", "--hos", "a"], "--hos"),
    (["deploy", "--host"], "--host"),
    (["deploy"], "no host given"),
    (["plan"], "no host given"),
    (["deploy", "--host", ","], "no host given"),
    (["plan", "--host", "*.nowhere"], "matches no host"),
    (["plan", "--host", "-oProxyCommand=x"], "--host"),
    (["plan", "--host=-oProxyCommand=x"], "not a host name"),
    (["plan", "--host", "medusa"], "unknown host `medusa`"),
    (["plan", "--host", "medusa", "--script", "nosuch"], "unknown script `nosuch`"),
    (["plan", "--host", "medusa", "--script", "../x"], "`..`"),
    (["plan", "--host", "medusa", "--recipe", "nosuch"], "unknown recipe `nosuch`"),
    (["plan", "--host", "medusa", "--script", "x", "--set", "PATH=x"], "`PATH` is reserved"),
    (["plan", "--host", "medusa", "--script", "x", "--set", "a-b"], "bad operation `a-b`"),
    (["deploy", "--host", "medusa", "--parallel", "0"], "expected a number above zero"),
    (["deploy", "--host", "medusa", "--parallel", "many"], "expected a number"),
    (["deploy", "--host", "medusa", "--conf-timeout", "x"], "expected a number"),
    (["list", "--path", "nowhere"], "no directory"),
    (["info"], "info"),
    (["info", "nosuch"], "unknown script `nosuch`"),
    (["info", "/etc/passwd"], "absolute"),
    (["hosts", "a", "b"], "b"),
]


@pytest.mark.parametrize(("words", "message"), BAD, ids=[" ".join(words) for words, _ in BAD])
def test_bad_input_is_status_2_and_told_on_stderr(capfd: pytest.CaptureFixture[str], words: list[str], message: str):
    assert main(words) == 2
    said = capfd.readouterr()
    assert message in said.err
    assert "Traceback" not in said.err
    assert said.out == ""


@pytest.mark.parametrize("form", [["--format", "json"], ["--format=json"], ["--format", "jsonl"], ["--format=jsonl"]])
@pytest.mark.parametrize(("words", "message"), BAD, ids=[" ".join(words) for words, _ in BAD])
def test_bad_input_is_valid_json_if_that_was_asked_for(
    capfd: pytest.CaptureFixture[str], form: list[str], words: list[str], message: str
):
    assert main([words[0], *form, *words[1:]]) == 2
    document = json.loads(capfd.readouterr().out)
    assert (document["schema"], document["exit_status"], document["hosts"]) == (1, 2, [])
    assert any(message in error["message"] + error["hint"] for error in document["errors"])


@pytest.mark.parametrize("words", [["deploy"], ["deploy", "--nosuch"], ["nosuch"]])
def test_json_may_be_asked_for_by_the_environment(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, words: list[str]
):
    monkeypatch.setenv("RUNSDEPLOY_FORMAT", "json")
    assert main(words) == 2
    assert json.loads(capfd.readouterr().out)["exit_status"] == 2


def test_json_may_be_asked_for_by_a_configuration_file(capfd: pytest.CaptureFixture[str], tree: Path):
    (tree / "runsdeploy.json").write_text('{"format": "json"}')
    assert main(["deploy"]) == 2
    assert json.loads(capfd.readouterr().out)["exit_status"] == 2


def test_a_format_that_there_is_not_is_bad_input(capfd: pytest.CaptureFixture[str]):
    assert main(["list", "--format", "yaml"]) == 2
    assert "expected one of text, json, jsonl" in capfd.readouterr().err


def test_without_a_command_the_help_is_shown(capfd: pytest.CaptureFixture[str]):
    assert main([]) == 2
    assert "deploy" in "".join(capfd.readouterr())


@pytest.mark.parametrize("words", [["--help"], ["deploy", "--help"], ["--version"], ["list", "-h"]])
def test_help_and_version_are_no_errors(capfd: pytest.CaptureFixture[str], words: list[str]):
    with pytest.raises(SystemExit) as caught:
        main(words)
    assert caught.value.code == 0
    assert capfd.readouterr().out


def test_a_word_of_another_argument_does_not_choose_the_format(capfd: pytest.CaptureFixture[str]):
    assert main(["deploy", "--nosuch", "json-host"]) == 2
    assert capfd.readouterr().out == ""
