"""Catalogues: jobs as data; the seed's seven by default, an operator's own beside or instead of them."""

from __future__ import annotations

import json
import re

import pytest

from runsdeploy.jobs.errors import BadInput
from runsdeploy.jobs.settings import catalogue
from runsdeploy.jobs.settings.job import Unset, expand


def load(tmp_path, **fields):
    path = tmp_path / "catalogue.json"
    path.write_text(json.dumps({"schema": 1, **fields}))
    return catalogue.load(str(path))


def problems(tmp_path, **fields):
    with pytest.raises(BadInput) as caught:
        load(tmp_path, **fields)
    return [str(problem).replace(f"{tmp_path}/", "") for problem in caught.value.problems]


JOB = {"name": "a", "stage": "imports", "enabled_by": "RUN_A", "command": ["/bin/true"]}


def test_the_default_catalogue_has_the_jobs_of_the_seed():
    jobs = {job.enabled_by: (job.stage, [word.text for word in job.command]) for job in catalogue.load().jobs}
    assert jobs["RUN_CHECK_AD_CONNECTIVITY"][0] == "imports"
    assert jobs["RUN_SD_CHANGED_AT"] == ("imports", ["{venv}/bin/python3", "integrations/SD_Lon/sd_changed_at.py"])
    assert jobs["RUN_SD_FIX_DEPARTMENTS"][0] == "imports"
    assert jobs["RUN_SD_DB_OVERVIEW"][0] == "reports"
    assert jobs["RUN_MOX_STS_ORGSYNC"][0] == "exports"
    assert jobs["RUN_MOX_ROLLE"] == ("exports", ["docker-compose", "-f", "{crontab.MOX_ROLLE_COMPOSE_YML}", "up"])
    assert jobs["RUN_CPR_UUID"][1] == ["{venv}/bin/python3", "exporters/cpr_uuid.py"]
    assert len(jobs) == 7


def test_an_own_catalogue_replaces_the_default_one(tmp_path):
    assert [job.name for job in load(tmp_path, jobs=[JOB]).jobs] == ["a"]


def test_an_extension_adds_behind_and_replaces_in_place(tmp_path):
    mine = {**JOB, "name": "sd-changed-at", "timeout": "15m"}
    found = load(tmp_path, extends="default", jobs=[JOB, mine], backup={"before": ["/x"]}).jobs
    imports = [job.name for job in found if job.stage == "imports"]
    assert imports == ["check-ad-connectivity", "sd-fix-departments", "sd-changed-at", "a"]
    assert found[2].timeout == 900
    assert len(found) == 8


def test_the_default_jobs_run_in_the_order_of_the_historical_script():
    """N10: `mox-rolle` reads what `cpr-uuid` writes, which "is not allowed to fail" there."""
    jobs = catalogue.load().jobs
    assert [job.name for job in jobs] == [
        "check-ad-connectivity", "sd-fix-departments", "sd-changed-at",
        "mox-sts-orgsync", "cpr-uuid", "mox-rolle",
        "sd-db-overview",
    ]  # fmt: skip
    assert [job.name for job in jobs if job.required and job.stage != "imports"] == ["cpr-uuid"]


def named(found):
    return [job.name for job in found]


PLACES = {
    "before one": ([{"name": "x", "before": "sd-fix-departments"}], "check-ad x sd-fix sd-changed"),
    "before the first": ([{"name": "x", "before": ["check-ad-connectivity"]}], "x check-ad sd-fix sd-changed"),
    "after one": ([{"name": "x", "after": "check-ad-connectivity"}], "check-ad x sd-fix sd-changed"),
    "two at one place": (
        [{"name": "x", "after": "sd-fix-departments"}, {"name": "y", "after": "sd-fix-departments"}],
        "check-ad sd-fix x y sd-changed",
    ),
    "beside another own one": (
        [{"name": "x", "before": "y"}, {"name": "y", "before": "sd-changed-at"}],
        "check-ad sd-fix x y sd-changed",
    ),
    "between two": (
        [{"name": "x", "before": "sd-changed-at", "after": "check-ad-connectivity"}],
        "check-ad sd-fix x sd-changed",
    ),
    "a default one moved": ([{"name": "sd-changed-at", "before": "sd-fix-departments"}], "check-ad sd-changed sd-fix"),
}


@pytest.mark.parametrize("what", PLACES)
def test_an_own_job_is_put_before_or_behind_another_one(what, tmp_path):
    """N18."""
    jobs, order = PLACES[what]
    found = load(tmp_path, extends="default", jobs=[{**JOB, **job} for job in jobs]).jobs
    imports = [job.name for job in found if job.stage == "imports"]
    full = {"check-ad": "check-ad-connectivity", "sd-fix": "sd-fix-departments", "sd-changed": "sd-changed-at"}
    assert imports == [full.get(word, word) for word in order.split()]


def test_a_place_can_stand_among_files(tmp_path):
    """N18."""
    job = {**JOB, "name": "x", "before": ["a", "/file", {"path": "/other", "required": False}]}
    found = load(tmp_path, jobs=[JOB, job]).jobs
    assert named(found) == ["x", "a"]
    assert [file.path.text for file in found[0].before] == ["/file", "/other"]


def test_jobs_stand_in_the_order_in_which_they_run(tmp_path):
    """N18: not in that of the file."""
    jobs = [{**JOB, "name": stage[:1], "stage": stage} for stage in ("always", "reports", "imports", "exports")]
    assert named(load(tmp_path, jobs=jobs).jobs) == ["i", "e", "r", "a"]


RULES = [
    ({"stage": "imports"}, True),
    ({"stage": "imports", "on_failure": "continue"}, False),
    ({"stage": "imports", "required": False}, False),
    ({"stage": "exports"}, False),
    ({"stage": "exports", "required": True}, True),
    ({"stage": "exports", "on_failure": "stop"}, True),
    ({"stage": "always"}, False),
]


@pytest.mark.parametrize(("fields", "required"), RULES)
def test_a_job_says_whether_others_need_it(fields, required, tmp_path):
    """N11."""
    assert load(tmp_path, jobs=[{**JOB, **fields}]).jobs[0].required is required


def test_what_is_named_before_is_required_and_what_is_named_after_is_not(tmp_path):
    job = {**JOB, "before": ["/a", {"path": "/b", "required": False}], "after": ["/c"], "truncate": ["/d"]}
    found = load(tmp_path, jobs=[job]).jobs[0]
    assert [file.required for file in (*found.before, *found.after, *found.truncate)] == [True, False, False, False]


WRONG = {
    "schema": ({"schema": 2, "jobs": []}, "catalogue.json:1:12: `schema`: expected 1"),
    "unknown field": ({"job": []}, "`job`: is unknown\n  did you mean `jobs`?"),
    "no list": ({"jobs": {}}, "`jobs`: found an object, expected a list"),
    "no name": ({"jobs": [{"stage": "imports", "command": ["x"]}]}, "`jobs`: has no `name`"),
    "bad name": (
        {"jobs": [{**JOB, "name": "../x"}]},
        "`jobs.name`: found `../x`, expected a name like `nightly-import`",
    ),
    "twice": ({"jobs": [JOB, JOB]}, "`jobs.a`: duplicate name"),
    "stage": ({"jobs": [{**JOB, "stage": "import"}]}, "`jobs.a.stage`: found `import`, expected one of `imports`,"),
    "switch": ({"jobs": [{**JOB, "enabled_by": "SVC_USER"}]}, "`jobs.a.enabled_by`: found `SVC_USER`, expected"),
    "no command": ({"jobs": [{"name": "a", "stage": "imports"}]}, "`jobs.a`: needs either `command`"),
    "both": ({"jobs": [{**JOB, "shell": "x"}]}, "`jobs.a`: needs either `command`"),
    "empty command": ({"jobs": [{**JOB, "command": []}]}, "`jobs.a.command`: expected a program and its arguments"),
    "number in command": (
        {"jobs": [{**JOB, "command": ["x", 5]}]},
        "`jobs.a.command`: found a number",
    ),
    "timeout": ({"jobs": [{**JOB, "timeout": "soon"}]}, "`jobs.a.timeout`: expected a time above zero"),
    "no time": ({"jobs": [{**JOB, "timeout": 0}]}, "`jobs.a.timeout`: expected a time above zero"),
    "truth": ({"jobs": [{**JOB, "daemon": "yes"}]}, "`jobs.a.daemon`: found a text, expected true or false"),
    "needs": ({"jobs": [{**JOB, "needs": ["ldap"]}]}, "`jobs.a.needs`: found `ldap`, expected one of `kerberos`"),
    "relative": ({"jobs": [{**JOB, "before": ["x/y"]}]}, "`jobs.a.before`: found `x/y`, expected an absolute path"),
    "brace": ({"jobs": [{**JOB, "command": ["a{b"]}]}, "`jobs.a.command`: has `{`, expected a setting"),
    "variable": (
        {"jobs": [{**JOB, "environment": {"A B": "x"}}]},
        "`jobs.a.environment.A B`: is not a valid name",
    ),
    "extends": ({"extends": "mine", "jobs": []}, '`extends`: expected "default"'),
    "a name in a list of files": (
        {"jobs": [{**JOB, "truncate": ["y"]}]},
        "`jobs.a.truncate`: found `y`, expected an absolute path",
    ),
    "a name among the files of all runs": (
        {"backup": {"before": ["x"]}, "jobs": []},
        "`backup.before`: found `x`, expected an absolute path",
    ),
    "no place": ({"jobs": [{**JOB, "before": "b"}]}, "`jobs.a.before`: `b` is no job, expected one of the stage"),
    "place in another stage": (
        {"jobs": [{**JOB, "before": "b"}, {**JOB, "name": "b", "stage": "exports"}]},
        "`jobs.a.before`: `b` is a job of the stage `exports`, expected one of the stage `imports`",
    ),
    "beside itself": ({"jobs": [{**JOB, "after": "a"}]}, "`jobs.a.after`: `a` cannot run after `a`"),
    "in a circle": (
        {"jobs": [{**JOB, "after": "b"}, {**JOB, "name": "b", "after": "a"}]},
        "`jobs.b.after`: `b` cannot run after `a`: other places contradict it",
    ),
    "against each other": (
        {"jobs": [{**JOB, "before": "b", "after": "c"}, {**JOB, "name": "b"}, {**JOB, "name": "c"}]},
        "`jobs.a.after`: `a` cannot run after `c`: other places contradict it",
    ),
    "on_failure": ({"jobs": [{**JOB, "on_failure": "skip"}]}, "`jobs.a.on_failure`: found `skip`, expected one of"),
    "two rules": (
        {"jobs": [{**JOB, "required": True, "on_failure": "continue"}]},
        "`jobs.a.required`: contradicts `on_failure`",
    ),
    "parallel": ({"parallel": ["all"], "jobs": []}, "`parallel`: found `all`, expected one of `imports`"),
}


@pytest.mark.parametrize("what", WRONG)
def test_what_is_wrong_is_told_with_its_place(what, tmp_path):
    fields, expected = WRONG[what]
    told = problems(tmp_path, **fields)
    assert any(expected in line for line in told), told
    assert all(re.match(r"catalogue\.json:\d+:\d+: `", line) for line in told)


def test_all_problems_are_told_in_one_go(tmp_path):
    assert len(problems(tmp_path, jobs=[{**JOB, "timeout": 0, "stage": "x"}, {"name": "b"}], extends="x")) == 5


def test_settings_become_part_of_one_word():
    names = {"a": "x y; $(id)", "b": "", "c": True, "d": 5}
    assert expand("{b|a}/{{{d}}}{c}", names) == "x y; $(id)/{5}true"
    with pytest.raises(Unset, match="b"):
        expand("{b}", names)


def test_S16_a_shell_command_is_not_a_text_that_settings_are_put_into(tmp_path):
    job = load(tmp_path, jobs=[{"name": "a", "stage": "imports", "shell": "echo ${HOME} {x}"}]).jobs[0]
    assert job.shell
    assert job.command[0].text == "echo ${HOME} {x}"
