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
    assert [job.name for job in found][:2] == ["check-ad-connectivity", "sd-changed-at"]
    assert found[1].timeout == 900
    assert found[-1].name == "a"
    assert len(found) == 8


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
