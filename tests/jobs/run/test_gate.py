"""Which jobs may run: a table of its own beside the code, and mutants of the code that the table must notice (T20)."""

from __future__ import annotations

import inspect
import itertools
import types

import pytest

from runsdeploy.jobs.report.record import Result
from runsdeploy.jobs.run import gate

JOBS = {
    "i0": "imports", "i1": "imports", "i2": "imports", "i3": "imports",
    "e1": "exports", "e2": "exports", "e3": "exports", "r1": "reports", "a1": "always",
}  # fmt: skip
NEEDED = ("i1", "i2", "i3", "e2")
"""`required`; `i0` has `"on_failure": "continue"`"""
ENDINGS = ("ok", "failed", "killed", "timeout", "not-found", "not-executable", "interrupted")


def went(module, endings, *, backup_good):
    """Go through all jobs as a run does; return how each ended."""
    results = []
    for name, stage in JOBS.items():
        closed = module.blocked_by(stage, results, backup_good=backup_good)
        outcome = module.NOT_RUN if closed else endings[name]
        status = 1 if outcome == "failed" else None
        results.append(Result(name, stage, outcome, status, 0.0, closed, name in NEEDED))
    return results


def expected(endings, *, backup_good):
    """Say the same in other words: from the end of the story, as SPEC tells it."""
    imports = [endings[name] for name in ("i1", "i2", "i3")]
    good = imports.index(next((x for x in imports if x != "ok"), "end")) if set(imports) != {"ok"} else 3
    ran = {"i0", *(f"i{number + 1}" for number in range(min(good + 1, 3)))} if backup_good else set()
    if backup_good and good == 3:
        ran |= {"e1", "e2", "r1"} | ({"e3"} if endings["e2"] == "ok" else set())
    ran |= {"a1"}
    return {name: endings[name] if name in ran else "not-run" for name in JOBS}


def cases():
    """Every single and every double failure, of every kind, with and without a good backup."""
    for good in (True, False):
        yield dict.fromkeys(JOBS, "ok"), good
        for name, ending in itertools.product(JOBS, ENDINGS):
            yield {**dict.fromkeys(JOBS, "ok"), name: ending}, good
        for (one, first), (two, second) in itertools.combinations(itertools.product(JOBS, ENDINGS[1:]), 2):
            if one != two:
                yield {**dict.fromkeys(JOBS, "ok"), one: first, two: second}, good


def disagreement(module):
    """Return the first case in which a gate does not do what SPEC says; None if it always does."""
    for endings, good in cases():
        results = went(module, endings, backup_good=good)
        model = expected(endings, backup_good=good)
        if {each.name: each.outcome for each in results} != model:
            return endings, good
        status = 3 if not good else 0 if set(model.values()) == {"ok"} else 1
        if module.exit_status(results, backup_good=good) != status:
            return endings, good, status
        for stage in ("imports", "exports", "reports", "always"):
            mine = {model[name] for name, of in JOBS.items() if of == stage}
            word = (
                "ok" if mine == {"ok"}
                else "skipped" if mine == {"not-run"}
                else "interrupted" if "interrupted" in mine
                else "failed"
            )  # fmt: skip
            if module.stage_outcome(stage, results) != word:
                return endings, good, stage, word
        if module.stage_outcome("other", results) != "none":
            return "other"
    return None


def test_J18_T20_what_runs_is_what_the_specification_says():
    assert disagreement(gate) is None


MUTANTS = {
    "W1: a failure reported as success": (
        'return OK if all(each.outcome == "ok" for each in results)',
        "return OK if (True)",
    ),
    "W2: only a status counts": ('each.required and each.outcome != "ok"', "each.required and each.status"),
    "W3: imports without a backup": ('if not backup_good:\n        return "', 'if False:\n        return "'),
    "exports after failed imports": ('return "imports did not pass" if', 'return "" if'),
    "jobs go on behind a failure": ('return f"`{mine[0]}` did not pass"', 'return ""'),
    "a failed export closes the gate": ('if any(each.stage == "imports" for each in failed)', "if failed"),
    "a failure stops jobs that do not need it": ("if each.required and each", "if each"),
    "nothing runs always": ('if stage == "always":', "if False:"),
    "a bad backup is no failure": ("if not backup_good:\n        return BACKUP", "if False:\n        return BACKUP"),
    "any job that passed is enough": ("return OK if all(", "return OK if any("),
    "a bad backup is like a failed job": ("return BACKUP_BAD", "return FAILED"),
    "skipped stages are ok": ('return "skipped"', 'return "ok"'),
    "stages without jobs are ok": ('return "none"', 'return "ok"'),
    "a stage passes if one job does": ('if outcomes == {"ok"}', 'if "ok" in outcomes'),
    "a timeout is an interruption": ('if "interrupted" in outcomes', 'if "timeout" in outcomes'),
}


@pytest.mark.parametrize("name", MUTANTS)
def test_T20_the_bugs_of_the_ancestor_and_others_are_noticed_when_planted(name):
    right, wrong = MUTANTS[name]
    source = inspect.getsource(gate)
    assert source.count(right) == 1
    mutant = types.ModuleType("mutant")
    mutant.__package__ = gate.__package__
    exec(source.replace(right, wrong), mutant.__dict__)  # noqa: S102 - our own source, changed
    assert disagreement(mutant) is not None
