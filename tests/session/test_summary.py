"""The summary of a rollout (O3)."""

from __future__ import annotations

import pytest

from runsdeploy.session.report import OUTCOMES, HostReport, StepReport
from runsdeploy.session.summary import KINDS, NOT_STARTED, failed_steps, kind_of, summarize
from tests import making


def host(outcome: str, *steps: str) -> HostReport:
    planned = making.plan(*(making.step(number=number + 1) for number in range(len(steps))))
    made = [StepReport(step, each) for step, each in zip(planned.steps, steps, strict=True)]
    return HostReport(planned, outcome, made)


def test_o3_every_outcome_is_a_kind():
    """O3."""
    assert set(KINDS) == OUTCOMES | {NOT_STARTED}
    assert len(KINDS) == len(set(KINDS))


@pytest.mark.parametrize(
    ("report", "kind"),
    [
        (host("interrupted", "skipped", "skipped"), NOT_STARTED),
        (host("interrupted"), NOT_STARTED),
        (host("interrupted", "ok", "skipped"), "interrupted"),
        (host("interrupted", "interrupted", "skipped"), "interrupted"),
        (host("interrupted", "lost", "skipped"), "interrupted"),
        (host("unreachable", "skipped"), "unreachable"),
        (host("ok"), "ok"),
    ],
)
def test_o3_a_host_whose_turn_had_not_come_was_not_started(report: HostReport, kind: str):
    """O3."""
    assert kind_of(report) == kind


def test_o3_failures_come_last_and_hosts_keep_their_order():
    """O3."""
    reports = [host(each) for each in ("failed", "ok", "unreachable", "failed", "locked", "detached", "ok")]
    found = summarize(reports, 2.5)
    assert list(found.kinds) == ["ok", "detached", "locked", "unreachable", "failed"]
    assert found.kinds["failed"] == [reports[0], reports[3]]
    assert found.unsuccessful == [reports[4], reports[2], reports[0], reports[3]]
    assert (found.total, found.seconds) == (7, 2.5)


def test_o3_with_keep_going_a_host_has_several_failed_steps():
    """O3."""
    report = host("failed", "ok", "failed", "already-done", "killed", "skipped")
    assert [step.outcome for step in failed_steps(report)] == ["failed", "killed"]
