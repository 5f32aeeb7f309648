"""Settings are read once, checked whole, never evaluated (J7, S15)."""

from __future__ import annotations

import io
import json
import os
import random
import re

import pytest

from runsdeploy.jobs.errors import BadInput
from runsdeploy.jobs.settings import catalogue, document, settings
from tests.jobs.system import SEED

SWITCHES = catalogue.load().switches


def settle(text, tmp_path, mode=0o600):
    file = tmp_path / "settings.json"
    file.write_bytes(text if isinstance(text, bytes) else json.dumps(text, indent=1).encode())
    file.chmod(mode)
    read, status = document.read(str(file))
    return settings.validate(read, status, SWITCHES)


def problems(text, tmp_path, **options):
    with pytest.raises(BadInput) as caught:
        settle(text, tmp_path, **options)
    return [str(problem).replace(f"{tmp_path}/", "") for problem in caught.value.problems]


def test_the_seed_to_the_letter_enables_nothing_and_keeps_sixty_days(tmp_path):
    found = settle(SEED, tmp_path)
    assert found.enabled == frozenset()
    assert found.warnings == ()
    assert found.values["BACKUP_SAVE_DAYS"] == 60
    assert found.values["CRON_BACKUP"] == "/path/backup-dir"
    assert found.values["SVC_USER"] == "USER@KOMMUNE.NET"


@pytest.mark.parametrize("days", ["60", 60, "060"])
def test_days_are_a_number_or_a_text(days, tmp_path):
    assert settle({**SEED, "crontab.BACKUP_SAVE_DAYS": days}, tmp_path).values["BACKUP_SAVE_DAYS"] == 60


@pytest.mark.parametrize("days", [0, "0", -1, "-1", "abc", "", 1.5, True, None, [], "٦٠", " 60", "1" * 30])
def test_J16_days_that_are_no_whole_number_above_zero_are_refused(days, tmp_path):
    (told,) = problems({**SEED, "crontab.BACKUP_SAVE_DAYS": days}, tmp_path)
    assert re.match(r"settings.json:13:\d+: `crontab.BACKUP_SAVE_DAYS`: found .*, expected a whole number from 1", told)


@pytest.mark.parametrize("value", [True, "true"])
def test_a_switch_is_true_or_the_text_of_it(value, tmp_path):
    assert settle({**SEED, "crontab.RUN_MOX_ROLLE": value}, tmp_path).enabled == {"RUN_MOX_ROLLE"}


@pytest.mark.parametrize("value", [1, 0, "yes", "True", "", None, [], {}])
def test_a_switch_that_is_anything_else_is_refused(value, tmp_path):
    (told,) = problems({**SEED, "crontab.RUN_CPR_UUID": value}, tmp_path)
    assert re.match(r"settings.json:12:\d+: `crontab.RUN_CPR_UUID`: found .*, expected true or false$", told)


def test_an_unknown_switch_is_an_error_with_the_nearest_name(tmp_path):
    told = problems({**SEED, "crontab.RUN_SD_CHANGEDAT": True}, tmp_path)
    message = "settings.json:16:30: `crontab.RUN_SD_CHANGEDAT`: it enables no job of the catalogue"
    assert told == [f"{message}\n  did you mean `RUN_SD_CHANGED_AT`?"]


def test_switches_of_unknown_jobs_that_are_off_are_one_warning(tmp_path):
    """N17: real settings have twenty; they are no reason to make no backup."""
    found = settle({**SEED, "crontab.RUN_AD_SYNC": False, "crontab.RUN_EXPORTS_TEST": "false"}, tmp_path)
    (told,) = found.warnings
    assert told.endswith(
        "settings.json: off, and of no job of the catalogue: `RUN_AD_SYNC` (line 16), `RUN_EXPORTS_TEST` (line 17)"
    )
    assert found.enabled == frozenset()


def test_J7_another_unknown_key_of_ours_is_a_warning_with_the_nearest_name(tmp_path):
    (told,) = settle({**SEED, "crontab.BACKUP_SAVE_DAY": "60"}, tmp_path).warnings
    assert "settings.json:16: `crontab.BACKUP_SAVE_DAY` is unknown and has no effect; did you mean" in told


def test_keys_of_other_programs_are_left_alone(tmp_path):
    found = settle({**SEED, "integrations.SD_Lon.import.run_db": "/srv/db", "mora.base": ["anything", 1.5]}, tmp_path)
    assert found.others["integrations.SD_Lon.import.run_db"] == "/srv/db"
    assert "mora.base" not in found.others


def test_every_problem_is_told_in_one_go(tmp_path):
    wrong = {
        **SEED,
        "crontab.CRON_BACKUP": "relative",
        "crontab.RUN_X": True,
        "crontab.SVC_USER": 5,
        "crontab.PING_URL": "printer",
    }
    told = problems(wrong, tmp_path)
    assert len(told) == 4
    assert all(re.match(r"settings.json:\d+:\d+: `crontab\.\w+`: ", line) for line in told)


@pytest.mark.parametrize("value", [None, ""])
def test_a_backup_directory_is_needed(value, tmp_path):
    text = {key: v for key, v in SEED.items() if key != "crontab.CRON_BACKUP"}
    if value is not None:
        text["crontab.CRON_BACKUP"] = value
    (told,) = problems(text, tmp_path)
    assert "`crontab.CRON_BACKUP`" in told
    assert "but is required" in told


def test_S15_settings_that_everybody_can_write_are_refused_and_readable_ones_warned_of(tmp_path):
    (told,) = problems(SEED, tmp_path, mode=0o602)
    assert told.startswith("settings.json: writable for everybody\n  chmod o-w ")
    (warning,) = settle(SEED, tmp_path, mode=0o604).warnings
    assert "readable for everybody" in warning


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_S8_settings_of_another_account_are_refused(tmp_path):
    file = tmp_path / "settings.json"
    file.write_text(json.dumps(SEED))
    os.chown(file, 12345, 12345)
    with pytest.raises(BadInput, match="owned by uid 12345, expected this account"):
        settings.validate(*document.read(str(file)), SWITCHES)


@pytest.mark.parametrize("name", ["missing", "dangling", "loop", "folder", "pipe"])
def test_J7_what_cannot_be_read_is_told_and_never_waited_for(name, tmp_path):
    path = tmp_path / "settings.json"
    if name == "dangling":
        path.symlink_to("nowhere.json")
    elif name == "loop":
        path.symlink_to("settings.json")
    elif name == "folder":
        path.mkdir()
    elif name == "pipe":
        os.mkfifo(path)
    with pytest.raises(BadInput) as caught:
        document.read(str(path))
    assert len(caught.value.problems) == 1
    assert str(path) in str(caught.value)


def test_J7_the_beginning_of_one_version_with_the_end_of_the_next_is_refused(tmp_path, monkeypatch):
    path = tmp_path / "settings.json"
    path.write_text('{"a": true, "z": true}')
    os.utime(path, (0, 0))

    class Rewritten(io.FileIO):
        def read(self, size=-1):
            beginning = super().read(12)
            path.write_text('{"a": false,"z": false}')
            return beginning + super().read(size)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fdopen", Rewritten)
        with pytest.raises(BadInput, match="changed while it was read"):
            document.read(str(path))
    assert document.read(str(path))[0].root["a"].content is False


def test_J7_a_file_larger_than_a_megabyte_is_refused(tmp_path):
    path = tmp_path / "settings.json"
    path.write_bytes(b'{"a": "' + b"x" * 1024 * 1024 + b'"}')
    with pytest.raises(BadInput, match="more than 1048576 bytes"):
        document.read(str(path))


STRICT = {
    b'{"a": 1,\n "a": 2}': "s.json:2:2: `a`: duplicate key, first in line 1",
    b'{"a": {"b": 1, "b": 1}}': "s.json:1:16: `a.b`: duplicate key",
    b'{"a": NaN}': "s.json:1:7: found `NaN`, expected a value",
    b'{"a": -Infinity}': "s.json:1:7: found `-Infinity`, expected a value",
    b'{"a": 1e999}': "s.json:1:7: number `1e999` is too large",
    b'{"a": ' + b"1" * 5000 + b"}": "s.json:1:7: number with too many digits",
    b"[" * 100_000: "s.json:1:34: nested deeper than 32 levels",
    b'{"a": "\xe6"}': "s.json:1:8: not UTF-8",
    b'{"a": "\\ud800"}': "s.json:1:7: text with half a surrogate pair",
    b'{"a": "x\ny"}': "s.json:1:9: text cannot be read",
    b"{'a': 1}": "s.json:1:2: found",
    b'{"a": 1,}': "s.json:1:9: found `}` after a comma",
    b'{"a": 1} {': "s.json:1:10: found `{` after the end",
    b'{"a" 1}': "s.json:1:6: found `1` after the name `a`, expected `:`",
    b'{"a": 01}': "s.json:1:8: found `1`, expected `,` or `}`",
    b'{"a": $(id)}': "s.json:1:7: found `$`, expected a value",
    b"[]": "s.json:1:1: found a list, expected an object",
    b"": "s.json:1:1: found `the end`, expected a value",
    b"// no\n{}": "s.json:1:1: found `/`, expected a value",
}


@pytest.mark.parametrize("text", STRICT, ids=[told[:50] for told in STRICT.values()])
def test_J7_what_json_forgives_is_an_error_at_its_place(text):
    with pytest.raises(BadInput) as caught:
        document.parse(text, "s.json")
    assert str(caught.value).startswith(STRICT[text])


def test_a_byte_order_mark_is_no_error():
    assert document.parse(b'\xef\xbb\xbf{"a": "\xc3\xa6"}', "s").root["a"].content == "æ"


def plain(value: document.Value) -> object:
    """Return a value without positions."""
    if isinstance(value.content, dict):
        return {key: plain(each) for key, each in value.content.items()}
    return [plain(each) for each in value.content] if isinstance(value.content, list) else value.content


def test_J7_whatever_python_reads_strictly_is_read_the_same():
    text = json.dumps(SEED | {"x": [1, -2.5, 1e10, {"y": None}], 'æ\n\t\\"': "\U0001f600"})
    assert plain(document.Value(document.parse(text.encode(), "s").root, 1, 1)) == json.loads(text)


ODD = [b"", b'"', b"{", b"}", b",", b"\0", b"\xff", b"tru", b"1e9"]


def test_T9_J7_ten_thousand_mutated_files_end_in_settings_or_in_places():
    seed = random.randrange(2**32)
    print("seed", seed)
    pick = random.Random(seed)
    whole = json.dumps(SEED, indent=1).encode()
    texts = [whole[:end] for end in range(len(whole))]
    count = 10_000 if os.environ.get("RUNSDEPLOY_TEST_FULL") else 2_000
    for _ in range(count):
        text = bytearray(whole)
        for _ in range(pick.randint(1, 4)):
            at = pick.randrange(len(text))
            text[at : at + pick.randint(0, 3)] = pick.choice(
                [b"", b'"', b"{", b"}", b",", b"\0", b"\xff", b"tru", b"1e9"]
            )
        texts.append(bytes(text))
    status = os.stat_result((0o100600, 0, 0, 1, os.geteuid(), 0, 0, 0, 0, 0))
    for text in texts:
        lines = text.decode("utf-8", "replace").count("\n") + 1
        try:
            settings.validate(document.parse(text, "s.json"), status, SWITCHES)
        except BadInput as error:
            for problem in error.problems:
                assert re.match(r"s\.json:\d+:\d+: ", str(problem)), (text, problem)
                assert 1 <= problem.line <= lines + 1


HOSTILE = ["$(touch {})", "`touch {}`", "; touch {}", "' ; touch {} ; '", "x\\ny"]


@pytest.mark.parametrize("value", HOSTILE)
def test_J7_W5_text_found_in_settings_is_never_executed(value, system):
    """The historical script handed its settings to `eval`."""
    mark = system.root / "executed"
    system.write_settings(SVC_USER=value.replace("{}", str(mark)), RUN_HOSTILE=True)
    system.settings["other.value"] = value.replace("{}", str(mark))
    system.write_settings()
    system.write_catalogue(
        system.job("hostile", shell='printf "%s" "$GIVEN" >given', environment={"GIVEN": "{other.value}"})
        | {"directory": str(system.root)}
    )
    assert system.run("run").returncode == 0
    assert not mark.exists()
    assert (system.root / "given").read_text() == value.replace("{}", str(mark))
