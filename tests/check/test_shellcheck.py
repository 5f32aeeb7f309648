"""What shellcheck says is kept by digest; the longest section comes first, and none can hold up the others."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from runsdeploy.check import shellcheck as module
from runsdeploy.check.cache import KEPT, open_cache
from runsdeploy.check.shellcheck import SHARE
from tests.trees import plant, script, wait_until

TREE = {
    "hosts/medusa/default": "one\ntwo\n",
    "scripts/one": script("", "echo $1"),
    "scripts/two": script("", "cd /x\necho $1"),
}
COUNTING = """#!/bin/bash
case $* in
*--version*) echo "version: ${SHELLCHECK_VERSION:-1}"; exit ;;
esac
for file; do [[ $file == /* ]] && grep -o 'echo.*' "$file" >>"$ASKED"; done
exec "$REAL" "$@"
"""


@pytest.fixture
def asked(operator, tmp_path):
    """Return a function that runs `check` on a tree; it returns the commands of sections that shellcheck was given."""
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "shellcheck").write_text(COUNTING)
    (folder / "shellcheck").chmod(0o755)
    log = tmp_path / "asked"
    real = shutil.which("shellcheck", path=str(Path(sys.executable).parent))
    operator.environment |= {"PATH": f"{folder}:{os.environ['PATH']}", "ASKED": str(log), "REAL": str(real)}
    operator.environment["XDG_CACHE_HOME"] = str(tmp_path / "cache")

    def check(tree, *options):
        log.write_text("")
        done = operator.run("check", "--format", "json", *options, cwd=tree)
        rules = [(each["file"], each["line"], each["rule"]) for each in done.document["findings"]]
        return log.read_text().splitlines(), rules

    return check


def test_d26_a_section_is_checked_once_and_its_findings_move_with_it(asked, tmp_path):
    tree = plant(tmp_path / "tree", TREE)
    first, rules = asked(tree)
    assert sorted(first) == ["echo $1", "echo $1"]
    assert rules == [("scripts/one", 2, "SC2086"), ("scripts/two", 2, "SC2164"), ("scripts/two", 3, "SC2086")]
    assert asked(tree) == ([], rules)
    # CONF is longer by a line that declares nothing: the section is the same, a line below.
    plant(tree, {"scripts/one": script("desc one\n", "echo $1")})
    moved, rules = asked(tree)
    assert not moved
    assert ("scripts/one", 3, "SC2086") in rules


@pytest.mark.parametrize("change", ["section", "variables", "settings", "options", "version"])
def test_d26_what_the_answer_depends_on_is_asked_again(asked, operator, tmp_path, change):
    tree = plant(tmp_path / "tree", TREE)
    _, before = asked(tree)
    if change == "section":
        plant(tree, {"scripts/one": script("", "echo $2")})
    elif change == "variables":
        plant(tree, {"scripts/one": script("var x=1", "echo $1")})
    elif change == "settings":
        plant(tree, {".shellcheckrc": "disable=SC2086\n"})
    else:
        operator.environment |= {"SHELLCHECK_OPTS": "-e SC2086"} if change == "options" else {"SHELLCHECK_VERSION": "2"}
    again, after = asked(tree)
    assert len(again) == (1 if change in ("section", "variables") else 2)
    assert [rule for *_, rule in after].count("SC2086") == (0 if change in ("settings", "options") else 2)
    assert change != "version" or after == before


def test_d26_what_depends_on_further_files_is_not_kept(asked, operator, tmp_path):
    tree = plant(tmp_path / "tree", {**TREE, ".shellcheckrc": "external-sources = true\n"})
    assert [len(asked(tree)[0]) for _ in range(2)] == [2, 2]
    plant(tree, {".shellcheckrc": ""})
    operator.environment["SHELLCHECK_OPTS"] = "-ax"
    assert [len(asked(tree)[0]) for _ in range(2)] == [2, 2]


def test_d26_a_cache_that_others_could_have_written_is_not_used(asked, tmp_path):
    tree = plant(tmp_path / "tree", TREE)
    asked(tree)
    cache = tmp_path / "cache/runsdeploy/shellcheck"
    for file in cache.iterdir():
        file.write_text("[]")
    assert asked(tree) == ([], [])  # as it stands there: nobody else can have written it
    cache.chmod(0o777)
    again, rules = asked(tree)
    assert (len(again), len(rules)) == (2, 3)
    cache.chmod(0o700)
    for file in cache.iterdir():
        file.write_text('{"half": ')
    assert len(asked(tree)[0]) == 2


@pytest.mark.parametrize("cache", ["a file", "a link", "no home"])
def test_d26_without_a_cache_all_is_checked(asked, operator, tmp_path, cache):
    tree = plant(tmp_path / "tree", TREE)
    place = tmp_path / "cache"
    if cache == "a file":
        place.write_text("")
    elif cache == "a link":
        (tmp_path / "elsewhere").mkdir(mode=0o700)
        plant(tmp_path, {"cache/runsdeploy/x": ""})
        (place / "runsdeploy/shellcheck").symlink_to(tmp_path / "elsewhere")
    else:
        operator.environment |= {"XDG_CACHE_HOME": "relative", "HOME": ""}
    assert [len(asked(tree)[1]) for _ in range(2)] == [3, 3]
    assert not (tree / "relative").exists()
    assert cache != "a link" or not list((tmp_path / "elsewhere").iterdir())


def test_d26_old_answers_go(asked, tmp_path):
    tree = plant(tmp_path / "tree", TREE)
    asked(tree)
    old = tmp_path / "cache/runsdeploy/shellcheck/old"
    old.write_text("[]")
    os.utime(old, (0, time.time() - KEPT - 60))
    asked(tree)
    assert len(list(old.parent.iterdir())) == 2


def test_d26_settings_in_a_directory_of_others_above_ours_do_not_count(asked, operator, tmp_path):
    tree = plant(tmp_path / "tree", TREE)
    plant(tmp_path / "tmp", {".shellcheckrc": "disable=all\n"})
    operator.environment["TMPDIR"] = str(tmp_path / "tmp")
    assert len(asked(tree)[1]) == 3
    # Those of the operator do, as for shellcheck itself.
    plant(operator.home, {".config/shellcheckrc": "disable=SC2086\n"})
    assert [rule for *_, rule in asked(tree)[1]] == ["SC2164"]
    plant(operator.home, {".shellcheckrc": "disable=SC2164\n"})
    assert [rule for *_, rule in asked(tree)[1]] == ["SC2086", "SC2086"]


STUCK = """#!/bin/bash
case $* in
*--version*) exit ;;
esac
echo "$$" >>"$BEGUN"
for file; do [[ $file == /* ]] && grep -q giant "$file" && exec sleep 600; done
printf '{"comments":[]}\\n'
"""


@pytest.fixture
def stuck(tmp_path, monkeypatch):
    """Make a shellcheck that does not end with texts that hold `giant`; return the file with its processes."""
    plant(tmp_path, {"bin/shellcheck": STUCK})
    (tmp_path / "bin/shellcheck").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    monkeypatch.setenv("BEGUN", str(tmp_path / "begun"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "begun"


def test_d26_a_section_that_takes_too_long_is_told_and_the_others_are_checked(stuck, tmp_path, monkeypatch, capsys):
    files = {"hosts/m/default": "giant\nsmall\n", "scripts/small": script("", "true")}
    files["scripts/giant"] = script("", "# giant\n" + "true\n" * SHARE)
    tree = plant(tmp_path / "tree", files)
    monkeypatch.setattr(module, "LIMIT", 0.3)
    from runsdeploy.cli.main import main  # noqa: PLC0415 - with the environment as it is now

    monkeypatch.chdir(tree)
    assert main(["check"]) == 0
    told = capsys.readouterr().err
    assert "scripts/giant:2: `shellcheck` did not end within 0.3 s: the section of 16385 lines was not checked" in told
    pids = [int(line) for line in stuck.read_text().splitlines()]
    assert len(pids) == 2
    assert not [pid for pid in pids if Path(f"/proc/{pid}").exists()]
    assert len(list((tmp_path / "cache/runsdeploy/shellcheck").iterdir())) == 1


def test_d26_an_interrupt_ends_shellcheck_and_leaves_nothing(stuck, operator, tmp_path):
    tree = plant(tmp_path / "tree", {"hosts/m/default": "it\n", "scripts/it": script("", "# giant")})
    (tmp_path / "tmp").mkdir()
    environment = {**operator.settings(), **{name: os.environ[name] for name in ("PATH", "BEGUN", "XDG_CACHE_HOME")}}
    environment["TMPDIR"] = str(tmp_path / "tmp")
    process = subprocess.Popen(
        [sys.executable, "-m", "runsdeploy", "check"], cwd=tree, env=environment, stderr=subprocess.DEVNULL
    )
    try:
        wait_until(lambda: stuck.exists() and stuck.read_text())
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 130
    finally:
        process.kill()
        process.wait()
    wait_until(lambda: not Path(f"/proc/{stuck.read_text().strip()}").exists())
    assert not list((tmp_path / "tmp").iterdir())


def test_d26_the_longest_sections_come_first_and_short_ones_together():
    texts = [module._Text(None, Path(str(size)), 0, 1, size, "") for size in (10, 90_000, 20, 15_000, 1_000)]
    shares = [[text.size for text in share] for share in module._shares(texts)]
    assert shares == [[90_000], [15_000, 1_000, 20, 10]]


def test_d26_the_cache_is_private_and_below_the_home(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", "")
    monkeypatch.setenv("HOME", str(tmp_path))
    cache = open_cache()
    assert cache.directory == tmp_path / ".cache/runsdeploy/shellcheck"
    assert cache.directory.stat().st_mode & 0o777 == 0o700
    cache.put("key", [{"code": 1}])
    assert (cache.get("key"), cache.get("other")) == ([{"code": 1}], None)
    assert json.loads((cache.directory / "key").read_text()) == [{"code": 1}]
