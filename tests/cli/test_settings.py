"""Where the value of a flag comes from: flag, environment, configuration file, default (SPEC 7)."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from runsdeploy.cli.flags import Flag
from runsdeploy.cli.settings import resolve
from runsdeploy.commands.arguments import Arguments
from runsdeploy.errors import InputError

PATH = Flag("--path", "")
NAME = Flag("--ssh-config", "")
SWITCH = Flag("--dry-run", "", default=False)
LIST = Flag("--host", "", ())
NUMBER = Flag("--parallel", "", 4)
SECONDS = Flag("--conf-timeout", "", 10.0)
CHOICE = Flag("--format", "", "text", choices=("text", "json"))


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give the test an empty home and no variables of ours."""
    for name in list(os.environ):
        if name.startswith("RUNS"):
            monkeypatch.delenv(name)
    (tmp_path / "home").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def configure(folder: Path, **values: object) -> None:
    folder.mkdir(exist_ok=True, parents=True)
    (folder / "runsdeploy.json").write_text(json.dumps(values))


def value(flag: Flag, start: Path, **given: object) -> object:
    return resolve([flag], given, start).values[flag.key]


def problem(flag: Flag, start: Path, **given: object) -> str:
    with pytest.raises(InputError) as caught:
        resolve([flag], given, start)
    assert len(caught.value.problems) == 1
    return str(caught.value.problems[0])


def test_a_flag_comes_before_the_environment_a_file_and_the_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    assert value(NUMBER, tmp_path) == 4
    configure(tmp_path, parallel=5)
    assert value(NUMBER, tmp_path) == 5
    monkeypatch.setenv("RUNSDEPLOY_PARALLEL", "6")
    assert value(NUMBER, tmp_path) == 6
    assert value(NUMBER, tmp_path, parallel="7") == 7


def test_runspath_comes_from_the_flag_then_the_environment_then_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """SPEC 1."""
    assert value(PATH, tmp_path) is None
    configure(tmp_path, path="file")
    assert value(PATH, tmp_path) == "file"
    monkeypatch.setenv("RUNSPATH", "a:b")
    assert value(PATH, tmp_path) == "a:b"
    monkeypatch.setenv("RUNSDEPLOY_PATH", "c")
    assert value(PATH, tmp_path) == "c"
    assert value(PATH, tmp_path, path="d") == "d"


def test_the_nearest_file_wins(tmp_path: Path, home: Path):
    (home / ".runsdeploy.json").write_text(json.dumps({"parallel": 2, "ssh_config": "user"}))
    assert value(NUMBER, tmp_path) == 2
    configure(tmp_path / "tree", parallel=3)
    assert value(NUMBER, tmp_path / "tree") == 3
    assert value(NUMBER, tmp_path / "tree/scripts/web") == 3
    assert value(NAME, tmp_path / "tree") == "user"


def test_a_file_that_cannot_be_read_is_an_error(tmp_path: Path):
    (tmp_path / "runsdeploy.json").write_text("{")
    assert "cannot read the configuration" in problem(NUMBER, tmp_path)


def test_what_is_wrong_with_a_file_is_told_in_one_line_at_its_place(tmp_path: Path):
    (tmp_path / "runsdeploy.yaml").write_text("parallel: 8\nhost: [a\nformat: json\n")
    said = problem(NUMBER, tmp_path)
    assert said.startswith(f"{tmp_path}/runsdeploy.yaml:3:")
    assert "\\n" not in said


EVERY = [PATH, NAME, SWITCH, LIST, NUMBER, SECONDS, CHOICE]


def wrong(start: Path, flag: Flag = PATH) -> list[str]:
    with pytest.raises(InputError) as caught:
        resolve([flag], {}, start, EVERY)
    return [str(each) for each in caught.value.problems]


def test_names_that_no_command_has_are_errors_all_in_one_go(
    tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch
):
    (home / ".runsdeploy.json").write_text('{"ssh-config": "x", "zzz": 1}')
    configure(tmp_path, parallell=8, host=["a"])
    monkeypatch.setenv("RUNSDEPLOY_PARALEL", "3")
    assert wrong(tmp_path) == [
        "unknown environment variable `RUNSDEPLOY_PARALEL`; did you mean `RUNSDEPLOY_PARALLEL`?",
        f"{home}/.runsdeploy.json: unknown key `ssh-config`; did you mean `ssh_config`?",
        f"{home}/.runsdeploy.json: unknown key `zzz`; a key is the name of a flag, with underscores",
        f"{tmp_path}/runsdeploy.json: unknown key `parallell`; did you mean `parallel`?",
    ]


def test_names_of_other_commands_of_invoke_and_of_a_program_are_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    text = "from os.path import join\n_here = 1\nparallel = 8\nrun = {'echo': True}\npath = join('a', 'b')\n"
    (tmp_path / "runsdeploy.py").write_text(text)
    for name in ("STATE_DIR", "TEST_SEED", "TEST_FULL", "HOST", "JOB", "SETTINGS"):
        monkeypatch.setenv(f"RUNSDEPLOY_{name}", "1")
    assert resolve([PATH], {}, tmp_path, EVERY).path == "a/b"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1", True),
        ("yes", True),
        ("True", True),
        ("on", True),
        ("0", False),
        ("no", False),
        ("FALSE", False),
        ("", False),
    ],
)
def test_a_switch_in_the_environment_is_yes_or_no(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, expected: bool  # noqa: FBT001
):  # fmt: skip
    monkeypatch.setenv("RUNSDEPLOY_DRY_RUN", text)
    assert value(SWITCH, tmp_path) is expected


def test_a_switch_that_is_neither_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("RUNSDEPLOY_DRY_RUN", "maybe")
    assert problem(SWITCH, tmp_path) == "bad value `maybe` of `RUNSDEPLOY_DRY_RUN`: expected yes or no"


@pytest.mark.parametrize("configured", [True, False])
def test_a_switch_in_a_file_may_be_turned_on_by_the_flag(tmp_path: Path, configured: bool):  # noqa: FBT001
    configure(tmp_path, dry_run=configured)
    assert value(SWITCH, tmp_path) is configured
    assert value(SWITCH, tmp_path, dry_run=True) is True


@pytest.mark.parametrize("flag", [NUMBER, SECONDS])
@pytest.mark.parametrize("text", ["x", "", "0", "-1", "1e", "nan", "inf", "-inf", "1,5", "one"])
def test_a_number_that_is_none_or_not_above_zero_is_an_error(tmp_path: Path, flag: Flag, text: str):
    assert f"bad value `{text}` of `{flag.name}`: expected a number" in problem(flag, tmp_path, **{flag.key: text})


@pytest.mark.parametrize("configured", [2.7, True, [1], {"a": 1}])
def test_a_whole_number_in_a_file_is_not_made_of_something_else(tmp_path: Path, configured: object):
    configure(tmp_path, parallel=configured)
    assert "expected a number" in problem(NUMBER, tmp_path)


def test_a_number_of_seconds_may_have_a_fraction(tmp_path: Path):
    assert value(SECONDS, tmp_path, conf_timeout="0.5") == 0.5
    configure(tmp_path, conf_timeout=3)
    assert value(SECONDS, tmp_path) == 3.0


def test_a_list_is_repeated_flags_or_words_separated_by_commas(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    assert value(LIST, tmp_path) == ()
    assert value(LIST, tmp_path, host=["a", "b"]) == ("a", "b")
    configure(tmp_path, host=["c", "d"])
    assert value(LIST, tmp_path) == ("c", "d")
    monkeypatch.setenv("RUNSDEPLOY_HOST", "e,f")
    assert value(LIST, tmp_path) == ("e", "f")


@pytest.mark.parametrize("configured", [5, True, {"a": "b"}, [1], [None]])
def test_a_list_in_a_file_that_is_no_list_of_texts_is_an_error(tmp_path: Path, configured: object):
    configure(tmp_path, host=configured)
    assert "configuration key host" in problem(LIST, tmp_path)


def test_a_choice_that_there_is_not_is_an_error(tmp_path: Path):
    assert problem(CHOICE, tmp_path, format="yaml") == "bad value `yaml` of `--format`: expected one of text, json"


def test_all_bad_values_are_told_in_one_go(tmp_path: Path):
    with pytest.raises(InputError) as caught:
        resolve([CHOICE, NUMBER], {"format": "yaml", "parallel": "x"}, tmp_path)
    assert len(caught.value.problems) == 2


def test_arguments_are_attributes_and_only_those_there_are():
    assert Arguments({"host": 1}).host == 1
    with pytest.raises(AttributeError):
        _ = Arguments({}).host
