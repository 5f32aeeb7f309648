"""The last block of a rollout over several hosts (O3)."""

from __future__ import annotations

import re

import pytest
from msgspec.structs import replace

from runsdeploy.errors import Position
from runsdeploy.output import summary as summaries
from runsdeploy.session.report import HostReport, StepReport
from runsdeploy.session.summary import summarize
from runsdeploy.tree.trees import Host
from tests import making

AGAIN = ["runsdeploy", "deploy", "--host", "web1,web2", "--set", "a=b c"]


@pytest.fixture(autouse=True)
def _plain(monkeypatch):
    monkeypatch.setenv("NO_COLOR", "1")


def report(name: str, outcome: str, *steps: StepReport, message: str = "") -> HostReport:
    return HostReport(replace(making.plan(), host=Host(name)), outcome, list(steps), message)


def failed(line: int = 14, status: int = 7, name: str = "web/nginx") -> StepReport:
    return StepReport(making.step(name=name), "failed", status, failed_at=Position(f"scripts/{name}", line))


def shown(capsys: pytest.CaptureFixture[str], reports: list[HostReport]) -> list[str]:
    summaries.show_summary(summarize(reports, 12.345), AGAIN)
    return capsys.readouterr().out.splitlines()


def test_o3_twenty_hosts_with_two_failures_fit_on_a_screen_and_end_with_the_failures(capsys):
    """O3."""
    reports = [report(f"web{number}", "ok") for number in range(20)]
    reports[3] = report("web3", "failed", failed())
    reports[9] = report("web9", "failed", failed(15))
    assert shown(capsys, reports) == [
        "",
        "20 hosts in 12.35 s: 18 ok, 2 failed",
        "failed       web3: scripts/web/nginx:14: `web/nginx` failed with status 7",
        "failed       web9: scripts/web/nginx:15: `web/nginx` failed with status 7",
        "to run these again:",
        "  runsdeploy deploy --host web1,web2 --set 'a=b c'",
    ]


def test_o3_hosts_that_failed_alike_share_a_line_and_many_are_counted(capsys):
    """O3."""
    reports = [report(f"web{number}", "failed", failed()) for number in range(50)]
    reports += [report(f"db{number}", "interrupted") for number in range(3)]
    _, total, *lines = shown(capsys, reports)
    assert total == "53 hosts in 12.35 s: 3 not-started, 50 failed"
    assert lines[:2] == [
        "not-started  db0, db1, db2",
        "failed       web0, web1, web2 and 47 more: scripts/web/nginx:14: `web/nginx` failed with status 7",
    ]


def test_o3_hosts_that_could_not_be_used_are_listed_by_kind_with_the_reason(capsys):
    """O3."""
    kinds = ["failed", "locked", "unreachable", "lost", "refused", "interrupted", "timeout", "ok", "detached"]
    reports = [report(f"h-{kind}", kind, message=f"because of {kind}") for kind in kinds]
    _, total, *lines = shown(capsys, reports)
    assert total.endswith(
        "1 ok, 1 detached, 1 not-started, 1 locked, 1 refused, 1 unreachable, 1 lost, 1 timeout, 1 failed"
    )
    assert lines[:-2] == [
        f"{('not-started' if kind == 'interrupted' else kind).ljust(12)} h-{kind}: because of {kind}"
        for kind in ("interrupted", "locked", "refused", "unreachable", "lost", "timeout", "failed")
    ]


def test_o3_nothing_is_listed_and_no_command_given_if_all_is_well(capsys):
    """O3."""
    summaries.show_summary(summarize([report("a", "ok"), report("b", "ok")], 1), [])
    assert capsys.readouterr().out == "\n2 hosts in 1.00 s: 2 ok\n"


def test_s12_o3_names_and_messages_cannot_command_the_terminal(capsys):
    """O3."""
    evil = report("web", "failed", failed(name="a\x1b[2J"), failed(name="b\nc"))
    for line in [*shown(capsys, [evil, report("x", "lost", message="\x1b]0;t\x07\nfailed y")])]:
        assert not re.search("[\x00-\x1f\x7f]", line)


def test_o3_the_document_has_the_same_facts():
    """O3."""
    reports = [report("a", "ok"), report("b", "failed", failed()), report("c", "unreachable", message="no answer")]
    document = summaries.document(summarize(reports, 2), AGAIN)
    assert document["kinds"] == {"ok": 1, "unreachable": 1, "failed": 1}
    assert (document["hosts"], document["seconds"], document["again"]) == (3, 2, AGAIN)
    unreachable, broken = document["failures"]
    assert unreachable == {"host": "c", "kind": "unreachable", "message": "no answer", "hint": "", "steps": []}
    assert broken["steps"] == [
        {
            "script": "web/nginx",
            "outcome": "failed",
            "status": 7,
            "position": "hosts/medusa/default:1",
            "failed_at": "scripts/web/nginx:14",
        }
    ]
