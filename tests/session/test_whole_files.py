"""Nothing runs with a file of the session that is not there, or not whole: `rm -rf "$d"/*` would mean another place."""

from __future__ import annotations

import shutil

import pytest

from tests.trees import Executable, Operator, plant, script

HOST = "medusa.univ.run"
SECOND = script("var d=/tmp/x", 'echo "second <$d>"')


@pytest.mark.parametrize("how", ["rm", "cut", "empty"])
@pytest.mark.parametrize("file", ["step/2/values.sh", "step/2/meta.sh", "step.sh", "runs.sh"])
def test_r17_a_step_does_not_run_without_its_files(tmp_path, file, how):
    """D10: the file of the next step is removed, or cut in its middle, after it was verified."""
    harm = {"rm": 'rm "$each"', "cut": 'truncate -s $(($(wc -c <"$each") - 9)) "$each"', "empty": ': >"$each"'}[how]
    first = script("", f'each=$RUNS_RUN/{file}\n[ -s "$each" ]\n{harm}')
    third = script("", "echo third")
    tree = plant(
        tmp_path / "tree",
        {"scripts/a": first, "scripts/b": SECOND, "scripts/c": third, "hosts/medusa/default": "a\nb\nc\n"},
    )
    operator = Operator(tmp_path / "operator")
    done = operator.deploy(tree)
    assert done.status == 1
    assert done.outcomes == [("a", "ok"), ("b", "failed"), ("c", "skipped")]
    assert "second" not in done.output
    told = done.output + "".join(event.get("text", "") for event in done.events)
    assert "cannot read" in told
    assert "nothing of this step was run" in told


@pytest.mark.parametrize("file", ["segment.sh", "runs.sh", "spool.sh", "lock.sh", "run_step.sh"])
@pytest.mark.parametrize("how", ["rm", "truncate -s -9"])
def test_nothing_runs_without_the_files_of_the_runner(tmp_path, file, how):
    """D10: without `segment.sh` there were no steps, and that was no failure."""
    operator = Operator(tmp_path / "operator")
    real = shutil.which("setsid")
    harm = f'for each; do case $each in */runner.sh) {how} "${{each%/*}}/{file}" ;; esac; done'
    wrapper = f'#!/bin/sh\n{harm}\nexec {real} "$@"\n'
    place = plant(tmp_path / "bin", {"setsid": Executable(wrapper)})
    operator.environment["PATH"] = f"{place}:{operator.settings()['PATH']}"
    done = operator.deploy(plant(tmp_path / "tree", {"scripts/b": SECOND, "hosts/medusa/default": "b\n"}))
    assert done.status == 3
    assert done.hosts == {HOST: "refused"}
    assert f"cannot read the session's file `{file}`" in done.document["hosts"][0]["message"]
    assert done.outcomes == [("b", "skipped")]
