"""The whole runner on every Python, in every environment, with every way that its jobs can end (J18, J21, T20)."""

from __future__ import annotations

import itertools
import json
import os
import random
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.jobs.pythons import pythons
from tests.jobs.system import System, outcomes

ROOT = Path(__file__).parents[2]
FULL = bool(os.environ.get("RUNSDEPLOY_TEST_FULL"))
CASES = 600 if FULL else 100
DEFAULT = json.loads((ROOT / "runsdeploy" / "jobs" / "settings" / "catalogue.json").read_text())
pytestmark = pytest.mark.timeout(600)  # only keeps one that hangs from hanging for ever: a busy machine is slow


def version(python: str) -> str:
    return python if python == sys.executable else Path(python).parents[1].name


every_python = pytest.mark.parametrize("python", pythons(), ids=version)
ends_of_pythons = pytest.mark.parametrize("python", [pythons()[0], pythons()[-1]], ids=version)


# Pythons


@every_python
def test_J21_J24_every_command_on_every_python(python, system):
    system.write_catalogue(system.job("one"), system.job("two", "exports"), system.job("three", "reports"))
    system.write_settings(RUN_ONE=True, RUN_TWO=True, RUN_THREE=True)
    checked = system.run("check", python=python)
    assert (checked.returncode, checked.stderr) == (0, "")
    assert "enabled: one, two, three" in checked.stdout
    for words in ((), ("--format", "json")):
        ran = system.run("run", *words, python=python)
        assert ran.returncode == 0, ran.stdout + ran.stderr
        assert ran.stderr == ""
    document = json.loads(ran.stdout)
    assert outcomes(document) == {"one": "ok", "two": "ok", "three": "ok"}
    assert system.counted() == ["one", "two", "three"] * 2
    assert document["archive"] in system.run("backups", python=python).stdout
    assert system.run("verify", "--all", python=python).stdout.count(": sound\n") == 2
    system.snapshot.write_text("changed")
    restored = system.run("restore", "latest", "--yes", python=python)
    assert restored.returncode == 0, restored.stdout + restored.stderr
    assert system.snapshot.read_text() == "-- a snapshot\n"
    assert system.run("restore", "--undo", python=python).returncode == 0
    assert system.snapshot.read_text() == "changed"
    assert document["identity"] in system.run("status", python=python).stdout
    assert system.run("logs", python=python).returncode == 0
    for words in (("check",), ("jobs",), ("backups",), ("verify", "--all"), ("restore", "latest"), ("status",)):
        ran = system.run(*words, "--format", "json", python=python)
        assert (ran.returncode, ran.stderr) == (0, ""), words
        assert json.loads(ran.stdout)["schema"] == 1


@every_python
def test_J18_errors_are_the_same_on_every_python(python, system):
    system.write_catalogue(system.job("one", shell="exit 3"), system.job("two", "exports"))
    system.write_settings(RUN_ONE=True, RUN_TWO=True)
    ran = system.run("run", python=python)
    assert (ran.returncode, system.counted()) == (1, ["one"])
    assert "imports `one`: failed(3)" in ran.stdout
    assert "exports `two`: not-run: imports did not pass" in ran.stdout
    for words in (("run", "nonsense"), ("--format", "json", "run", "nonsense"), ("verify", "nonsense"), ("nonsense",)):
        ran = system.run(*words, python=python)
        assert ran.returncode == 2, words
        assert "Traceback" not in ran.stderr
    system.settings_file.write_text("{")
    ran = system.run("--format", "json", "run", python=python)
    assert (ran.returncode, json.loads(ran.stdout)["exit_status"]) == (2, 2)


def test_J24_backups_of_one_python_are_those_of_another(system):
    """Written by the oldest and read by the newest, and the other way round."""
    old, new = pythons()[0], pythons()[-1]
    for writer, reader in ((old, new), (new, old)):
        assert system.run("run", python=writer).returncode == 0
        assert system.run("verify", python=reader).returncode == 0
        before = system.snapshot.read_bytes()
        system.snapshot.write_text("altered")
        assert system.run("restore", "latest", "--yes", python=reader).returncode == 0
        assert system.snapshot.read_bytes() == before


# Environments


@ends_of_pythons
def test_J21_nothing_in_the_environment_and_a_working_directory_that_is_gone(python, system, tmp_path):
    gone = tmp_path / "gone"
    gone.mkdir()
    system.write_catalogue(system.job("one", shell=f"env >{tmp_path}/environment; umask >{tmp_path}/umask"))
    system.write_settings(RUN_ONE=True)
    script = 'cd "$1" && rmdir "$1" && shift && exec env -i "$@"'
    words = [python, "-I", str(system.program), "run"]
    ran = subprocess.run(["sh", "-c", script, "sh", str(gone), *words], capture_output=True, check=False, timeout=60)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    found = dict(line.split("=", 1) for line in (tmp_path / "environment").read_text().splitlines())
    assert found["PATH"].endswith("/usr/bin:/sbin:/bin")
    assert {"HOME", "LANG", "SHELL", "RUNSDEPLOY_SETTINGS"} <= set(found)


@ends_of_pythons
@pytest.mark.parametrize("closed", [c for n in range(4) for c in itertools.combinations((0, 1, 2), n)], ids=str)
def test_J21_any_of_the_standard_descriptors_closed(closed, python, system):
    """No file of the runner's comes to be standard output, and the job has all three."""
    shell = "for n in 0 1 2; do [ -e /proc/$$/fd/$n ] || exit 7; done; echo to out; echo to err >&2; cat"
    system.write_catalogue(system.job("one", shell=shell))
    system.write_settings(RUN_ONE=True)
    redirections = " ".join({0: "<&-", 1: ">&-", 2: "2>&-"}[number] for number in closed)
    script = f'exec "$@" {redirections}'
    words = ["sh", "-c", script, "sh", python, "-I", str(system.program), "run"]
    ran = subprocess.run(words, env={"PATH": "/usr/bin:/bin"}, capture_output=True, check=False, timeout=60)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert ran.stderr == b""
    assert (1 in closed) == (ran.stdout == b"")
    text = system.log.read_text()
    assert "one| to out\n" in text
    assert "one| to err\n" in text
    assert system.run("verify", "--all").returncode == 0
    # With all of them closed a failure is a status still.
    system.write_catalogue(system.job("one", shell="exit 9"))
    assert subprocess.run(words, env={}, capture_output=True, check=False, timeout=60).returncode == 1


LOCALES = (
    {},
    {"LANG": "C"},
    {"LC_ALL": "C"},
    {"LC_ALL": "POSIX"},
    {"LANG": "fr_FR"},
    {"LC_ALL": "fr_FR.ISO-8859-1"},
    {"LC_ALL": "C.UTF-8"},
    {"LC_ALL": "nonsense"},
    {"PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "LC_ALL": "C"},
)


@ends_of_pythons
@pytest.mark.parametrize("locale", LOCALES, ids=lambda each: " ".join(f"{k}={v}" for k, v in each.items()) or "none")
def test_J21_R21_names_and_output_beyond_ascii_in_any_locale(locale, python, tmp_path, program):
    place = tmp_path / "kommune ø æ"
    place.mkdir()
    system = System(place, program)
    named = place / "data ø.csv"
    named.write_text("rød grød")
    (place / os.fsdecode(b"latin \xf8")).write_bytes(b"\xf8")
    system.write_catalogue(
        system.job("one", shell="printf 'blåbær ø\\n'; printf 'raw \\370\\n'; exit 4", before=[str(named)]),
        backup={"before": [str(place / "data ø.csv")], "after": [str(place)]},
    )
    system.write_settings(RUN_ONE=True, CRON_LOG_FILE=str(place / "log ø"), METRICS_FILE=str(place / "ø.prom"))
    environment = {"PATH": "/usr/bin:/bin", **locale}
    ran = system.run("run", python=python, env=environment)
    assert ran.returncode == 1, ran.stdout + ran.stderr
    assert "one| blåbær ø\n" in ran.stdout
    assert "one| raw \\xf8\n" in ran.stdout
    assert b"one| bl\xc3\xa5b\xc3\xa6r \xc3\xb8\none| raw \xf8\n" in (place / "log ø").read_bytes()
    (archive,) = system.archives()
    assert system.members(archive)[str(named)] == "rød grød".encode()
    assert system.members(archive)[str(place / os.fsdecode(b"latin \xf8"))] == b"\xf8"
    named.unlink()
    done = system.run("restore", "latest", str(named), "--yes", python=python, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    assert named.read_text() == "rød grød"
    for words in (("check",), ("backups",), ("status",), ("restore", "latest")):
        told = system.run(*words, python=python, env=environment)
        assert told.returncode == 0, (words, told.stderr)
    with system.start("logs", python=python, env=environment) as logs:
        assert b"\none| raw \xf8\n" in logs.communicate(timeout=60)[0]
    assert json.loads(system.run("run", "--format", "json", python=python, env=environment).stdout)["exit_status"] == 1
    system.settings_file.write_text('{"ø": ')
    wrong = system.run("check", python=python, env=environment)
    assert wrong.returncode == 2
    assert f"{system.install}/settings/settings.json:1:" in wrong.stderr


@ends_of_pythons
@pytest.mark.parametrize("mask", [0o000, 0o077, 0o777])
def test_J17_J21_whatever_the_umask(mask, python, system):
    system.write_catalogue(system.job("one"))
    system.write_settings(RUN_ONE=True)
    ran = system.run("run", python=python, preexec_fn=lambda: os.umask(mask))
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert {path.stat().st_mode & 0o777 for path in system.archives()} == {0o600}
    assert system.backups.stat().st_mode & 0o777 == 0o700


# The seed's seven jobs


JOBS = {job["name"]: job for job in DEFAULT["jobs"]}
IMPORTS = [name for name, job in JOBS.items() if job["stage"] == "imports"]
OTHERS = [name for stage in ("exports", "reports") for name, job in JOBS.items() if job["stage"] == stage]
ENDINGS = ("ok", "one", "most", "signal", "timeout", "missing", "no-program")
OUTCOMES = {
    "ok": ("ok", 0),
    "one": ("failed", 1),
    "most": ("failed", 255),
    "signal": ("killed", 9),
    "timeout": ("timeout", None),
    "missing": ("not-found", None),
    "no-program": ("not-executable", None),
}
PROGRAM = """#!/bin/sh
# Stands for every program of the jobs: which job it is, its arguments tell.
case "$*" in
    *test_connectivity.py*--test-read-settings*) job=check-ad-connectivity ;;
    *sd_changed_at.py*) job=sd-changed-at ;;
    *sd_fix_departments.py*) job=sd-fix-departments ;;
    *"-m mox_stsorgsync"*) job=mox-sts-orgsync ;;
    *"-f "*/docker-compose.yml*up*) job=mox-rolle ;;
    *cpr_uuid.py*) job=cpr-uuid ;;
    *db_overview.py*) job=sd-db-overview ;;
    *) exit 99 ;;
esac
echo $job >>COUNTER
case $(cat "BEHAVIOUR/$job") in
    one) exit 1 ;;
    most) exit 255 ;;
    signal) kill -KILL $$ ;;
    timeout) exec sleep 300 ;;
esac
"""


class Seed:
    """The seed's jobs with programs that end as they are told; docker-compose is ours in a mount namespace."""

    def __init__(self, system: System, tmp_path: Path) -> None:
        self.system = system
        self.behaviour = tmp_path / "behaviour"
        self.behaviour.mkdir()
        text = PROGRAM.replace("COUNTER", str(system.counter)).replace("BEHAVIOUR", str(self.behaviour))
        fake, venv, own = tmp_path / "fake", system.install / "venv" / "bin", tmp_path / "sts" / "bin"
        for place, name in ((fake, "docker-compose"), (venv, "python3"), (own, "python3")):
            place.mkdir(parents=True)
            (place / name).write_text(text)
            (place / name).chmod(0o755)
        (system.install / "no-program").write_text("text")
        (tmp_path / "docker-compose.yml").touch()
        system.settings["mox_stsorgsync.VENV"] = str(own.parent)
        system.write_settings(MOX_ROLLE_COMPOSE_YML=str(tmp_path / "docker-compose.yml"), SVC_USER="", SVC_KEYTAB="")
        self.python = str(tmp_path / "python")
        mounted = f'mount --bind {fake} /usr/local/sbin && exec {sys.executable} "$@"'
        script = f"#!/bin/sh\nexec unshare --mount --propagation private sh -c '{mounted}' sh \"$@\"\n"
        Path(self.python).write_text(script)
        Path(self.python).chmod(0o700)

    def arrange(self, endings: dict[str, str], enabled: set[str]) -> None:
        """Say how each job will end, and which are enabled."""
        catalogue = json.loads(json.dumps(DEFAULT))
        for job in catalogue["jobs"]:
            ending = endings[job["name"]]
            (self.behaviour / job["name"]).write_text(ending)
            if ending == "timeout":
                job["timeout"] = 0.3
            elif ending in ("missing", "no-program"):
                job["command"][0] = f"{{install}}/{ending}"
        own = self.system.install / "settings" / "catalogue.json"
        own.unlink(missing_ok=True)
        if catalogue != DEFAULT:
            own.write_text(json.dumps(catalogue))
        self.system.counter.unlink(missing_ok=True)
        self.system.write_settings(**{job["enabled_by"]: job["name"] in enabled for job in JOBS.values()})


@pytest.fixture
def seed(system, tmp_path):
    if os.geteuid() != 0:
        pytest.skip("a docker-compose of ours needs a mount, and that needs root")
    made = Seed(system, tmp_path)
    made.arrange(dict.fromkeys(JOBS, "ok"), set(JOBS))
    ran = system.run("--version", python=made.python)
    if ran.returncode:
        pytest.skip(f"no mount namespaces here: {ran.stderr}")
    return made


def model(endings: dict[str, str], chosen: list[str]) -> tuple[dict[str, tuple[str, int | None]], int]:
    """Return how jobs end and the exit status, by the specification.

    Imports in order, stopping at the first failure; then, only if imports passed, exports and reports, each stopping
    at the failure of a job that others need.
    """
    found: dict[str, tuple[str, int | None]] = {}
    passed = True
    for name in (name for name in IMPORTS if name in chosen):
        found[name] = OUTCOMES[endings[name]] if passed else ("not-run", None)
        passed = passed and endings[name] == "ok"
    needed: dict[str, bool] = {}
    for name in (name for name in OTHERS if name in chosen):
        stage = JOBS[name]["stage"]
        found[name] = OUTCOMES[endings[name]] if passed and needed.get(stage, True) else ("not-run", None)
        if JOBS[name].get("required"):
            needed[stage] = endings[name] == "ok"
    return found, 0 if all(outcome == "ok" for outcome, _ in found.values()) else 1


def started(expected: dict[str, tuple[str, int | None]]) -> list[str]:
    """Return the jobs whose programs get to run, in order."""
    return [
        name for name, (outcome, _) in expected.items() if outcome not in ("not-run", "not-found", "not-executable")
    ]


def stage_outcomes(expected: dict[str, tuple[str, int | None]]) -> dict[str, str]:
    found = {}
    for stage in ("imports", "exports", "reports", "always"):
        ended = {outcome for name, (outcome, _) in expected.items() if JOBS[name]["stage"] == stage}
        names = {frozenset(): "none", frozenset({"ok"}): "ok", frozenset({"not-run"}): "skipped"}
        found[stage] = names.get(frozenset(ended), "failed")
    return found


def check_case(seed: Seed, endings: dict[str, str], enabled: set[str], *words: str, chosen: list[str]) -> None:
    """Run a case, and compare it with the model in everything that tells of it."""
    seed.arrange(endings, enabled)
    system = seed.system
    about = {"endings": endings, "enabled": sorted(enabled), "words": words}
    ran = system.run("run", *words, "--format", "json", python=seed.python)
    document = json.loads(ran.stdout)
    expected, status = model(endings, chosen)
    found = {job["name"]: (job["outcome"], job["status"]) for job in document["jobs"]}
    assert found == expected, about
    assert list(found) == list(expected), about
    said = system.counted()
    # One with 0.3 seconds may be ended before it said that it runs.
    assert said == [each for each in started(expected) if each in said or expected[each][0] != "timeout"], about
    assert (ran.returncode, document["exit_status"]) == (status, status), about
    assert document["stages"] == stage_outcomes(expected), about
    assert document["backup_good"], about


def pairwise(pick: random.Random, count: int) -> list[dict[str, str]]:
    """Return cases, each job with an ending or disabled, that have every pair of two jobs' ways as soon as they can."""
    ways = (*ENDINGS, "off")
    names = list(JOBS)
    pairs = itertools.combinations(names, 2)
    open_pairs = {(a, x, b, y) for a, b in pairs for x, y in itertools.product(ways, repeat=2)}

    def news(case: dict[str, str]) -> int:
        return sum((a, case[a], b, case[b]) in open_pairs for a, b in itertools.combinations(names, 2))

    cases = []
    while len(cases) < count:
        # Behind an import that failed there is nothing to tell apart: let most of them pass.
        candidates = [
            {name: pick.choice(ways if name in OTHERS or pick.random() < 0.5 else ("ok", "off")) for name in names}
            for _ in range(30)
        ]
        best = max(candidates, key=news)
        cases.append(best)
        open_pairs -= {(a, best[a], b, best[b]) for a, b in itertools.combinations(names, 2)}
    return cases


@pytest.mark.parametrize("part", range(4))
def test_T20_J18_the_seeds_jobs_end_in_pairs_of_ways(part, seed):
    number = random.randrange(2**32)
    print("seed", number, "part", part)
    pick = random.Random(number)
    for case in pairwise(pick, CASES // 4):
        endings = {name: "ok" if way == "off" else way for name, way in case.items()}
        enabled = {name for name, way in case.items() if way != "off"}
        check_case(seed, endings, enabled, chosen=[name for name in JOBS if name in enabled])


@pytest.mark.parametrize("ending", ENDINGS[1:])
def test_T20_J18_each_single_failure_of_the_seeds_jobs(ending, seed):
    for name in JOBS:
        check_case(seed, {**dict.fromkeys(JOBS, "ok"), name: ending}, set(JOBS), chosen=list(JOBS))


def test_J18_every_job_and_every_stage_by_name_though_disabled(seed):
    endings = dict.fromkeys(JOBS, "ok")
    for name in JOBS:
        check_case(seed, endings, set(), name, chosen=[name])
        check_case(seed, {**endings, name: "one"}, set(JOBS) - {name}, name, chosen=[name])
    for stage in ("imports", "exports", "reports"):
        chosen = [name for name, job in JOBS.items() if job["stage"] == stage]
        check_case(seed, endings, set(), stage, chosen=chosen)
        check_case(seed, {**endings, chosen[0]: "most"}, set(), stage, chosen=chosen)


def test_J18_no_job_enabled_is_a_backup_and_nothing_else(seed):
    check_case(seed, dict.fromkeys(JOBS, "one"), set(), chosen=[])
    assert len(seed.system.archives()) == 1


def test_J18_backup_that_is_not_good_no_job_runs_and_that_is_told(seed):
    seed.arrange(dict.fromkeys(JOBS, "ok"), set(JOBS))
    system = seed.system
    for break_it in (system.snapshot.unlink, lambda: (system.snapshot.touch(), os.utime(system.snapshot, (1, 1)))):
        break_it()
        ran = system.run("run", "--format", "json", python=seed.python)
        document = json.loads(ran.stdout)
        assert (ran.returncode, document["exit_status"]) == (3, 3)
        assert set(outcomes(document).values()) == {"not-run"}
        assert set(outcomes(document)) == set(JOBS)
        assert system.counted() == []
        assert "-cron-backup-failed.tar.gz" in document["archive"]


def test_J18_environment_and_place_of_the_seeds_jobs(seed, tmp_path):
    seed.arrange(dict.fromkeys(JOBS, "ok"), {"cpr-uuid"})
    python = seed.system.install / "venv" / "bin" / "python3"
    python.write_text(f"#!/bin/sh\npwd >{tmp_path}/where\nenv >{tmp_path}/environment\n")
    assert seed.system.run("run", python=seed.python).returncode == 0
    assert (tmp_path / "where").read_text() == f"{seed.system.install}\n"
    assert f"PYTHONPATH={seed.system.install}\n" in (tmp_path / "environment").read_text()


# Parallel stages


def test_J18_jobs_of_a_parallel_stage_run_at_once_and_are_awaited(system):
    """Each waits for all others: one after the other they would wait for ever."""
    names = ["first", "second", "third"]
    for name in names:
        os.mkfifo(system.root / name)
    turn = dict(zip(names, [*names[1:], names[0]], strict=True))
    jobs = [
        system.job(
            name, "exports", f"(echo >{system.root}/{turn[name]}) & read x <{system.root}/{name}; wait", timeout=30
        )
        for name in names
    ]
    later = system.job("later", "reports", f"[ $(wc -l <{system.counter}) = 4 ]")
    system.write_catalogue(*jobs, later, parallel=["exports"])
    system.write_settings(**{f"RUN_{name.upper()}": True for name in (*names, "later")})
    ran = system.run("run", "--format", "json")
    assert ran.returncode == 0, ran.stdout
    assert outcomes(json.loads(ran.stdout)) == dict.fromkeys((*names, "later"), "ok")
    assert sorted(system.counted()[:3]) == sorted(names)


def test_J18_failures_in_a_parallel_stage_are_each_told_and_stop_no_other(system):
    ways = {"good": "exit 0", "bad": "exit 5", "shot": "kill -KILL $$", "slow": "sleep 300"}
    limits = dict.fromkeys(ways, 60) | {"slow": 1}
    jobs = [system.job(name, "exports", shell, timeout=limits[name]) for name, shell in ways.items()]
    system.write_catalogue(*jobs, system.job("report", "reports"), parallel=["exports", "imports"])
    system.write_settings(**{f"RUN_{name.upper()}": True for name in (*ways, "report")})
    ran = system.run("run", "--format", "json")
    document = json.loads(ran.stdout)
    told = {job["name"]: (job["outcome"], job["status"]) for job in document["jobs"]}
    assert told == {
        "good": ("ok", 0),
        "bad": ("failed", 5),
        "shot": ("killed", 9),
        "slow": ("timeout", None),
        "report": ("ok", 0),
    }
    assert ran.returncode == 1
    assert sorted({*system.counted(), "slow"}) == sorted([*ways, "report"])  # which may be ended before it said so


def test_J18_imports_are_one_after_the_other_though_called_parallel(system):
    jobs = [system.job(name, shell="exit 1" if name == "second" else "exit 0") for name in ("first", "second", "third")]
    system.write_catalogue(*jobs, parallel=["imports"])
    system.write_settings(RUN_FIRST=True, RUN_SECOND=True, RUN_THIRD=True)
    assert system.run("run").returncode == 1
    assert system.counted() == ["first", "second"]


def test_J15_archives_tell_host_and_outcome_of_each_job(system):
    system.write_catalogue(system.job("one"), system.job("two", "exports", "exit 2"))
    system.write_settings(RUN_ONE=True, RUN_TWO=True)
    begun = time.time()
    assert system.run("run").returncode == 1
    (listed,) = system.json("backups")["backups"]
    assert listed["host"] == socket.gethostname()
    assert begun - 2 <= listed["created"] <= time.time()
    assert listed["stages"] == {"imports": "ok", "exports": "failed", "reports": "none", "always": "none"}
    assert {name: job["outcome"] for name, job in listed["jobs"].items()} == {"one": "ok", "two": "failed"}
