"""Reports: events folded against the plan; a missing event is never success (B8)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runsdeploy.errors import HostError, Lost, Refused, Unreachable
from runsdeploy.events import Ended, Event, Finished, Hello, Locked, LoginOutput, Marked, Note, Output, Refusal, Started
from runsdeploy.session.report import (
    OUTCOMES,
    SUCCESSES,
    TAIL_LENGTH,
    TAIL_LINES,
    Fold,
    HostReport,
    StepReport,
    status_of,
)
from tests import making


def ended(number: int, outcome: str, status: int, seconds: float, line: int, how: str = "") -> Ended:
    """Make the end of a step, as an event has it."""
    return Ended(number, outcome, status, seconds, line, how or ("exit" if line else "none"))


def began(number: int) -> Started:
    return Started(number, "a")


OK = [began(1), ended(1, "ok", 0, 0.1, 0)]
DONE = [began(2), ended(2, "already-done", 0, 0.1, 0)]


def fold(*events: Event, error: HostError | None = None, steps: int = 2) -> HostReport:
    folded = Fold(making.plan(*(making.step("x\n", number + 1, f"s{number + 1}") for number in range(steps))))
    for event in events:
        folded.add(event)
    return folded.close(1.5, error)


def outcomes(report: HostReport) -> list[str]:
    return [step.outcome for step in report.steps]


CASES = [
    ("all ended well", [*OK, *DONE, Finished("ok")], None, "ok", ["ok", "already-done"]),
    ("no event came", [], None, "lost", ["skipped", "skipped"]),
    ("only the end came", [Finished("ok")], None, "lost", ["skipped", "skipped"]),
    ("no event of one step", [*OK, Finished("ok")], None, "lost", ["ok", "skipped"]),
    ("a step did not end", [*OK, began(2)], None, "lost", ["ok", "lost"]),
    ("a step did not end, though the session did", [*OK, began(2), Finished("ok")], None, "lost", ["ok", "lost"]),
    ("a step ended that did not start", [*OK, ended(2, "ok", 0, 0.1, 0), Finished("ok")], None, "lost",
     ["ok", "skipped"]),
    ("another step ended", [began(1), ended(2, "ok", 0, 0.1, 0), Finished("ok")], None, "lost", ["lost", "skipped"]),
    ("a step that was not planned", [*OK, *DONE, began(3), ended(3, "failed", 1, 0, 0), Finished("ok")], None, "ok",
     ["ok", "already-done"]),
    ("a step failed", [began(1), ended(1, "failed", 3, 0.1, 0), Finished("failed")], None, "failed",
     ["failed", "skipped"]),
    ("a step was killed", [began(1), ended(1, "killed", 137, 0.1, 0), Finished("failed")], None, "failed",
     ["killed", "skipped"]),
    ("a step failed, the next went well", [began(1), ended(1, "failed", 3, 0.1, 0), *DONE, Finished("failed")], None,
     "failed", ["failed", "already-done"]),
    ("the end says failed", [*OK, *DONE, Finished("failed")], None, "failed", ["ok", "already-done"]),
    ("interrupted between steps", [*OK, Finished("interrupted")], None, "interrupted", ["ok", "skipped"]),
    ("interrupted in a step", [began(1), Finished("interrupted")], None, "interrupted", ["lost", "skipped"]),
    ("refused", [Hello(3, "/s"), Refusal("bash", "no bash")], None, "refused", ["skipped", "skipped"]),
    ("locked", [Hello(3, "/s"), Locked("session", "root@gorgo", "2026", "", "")], None, "locked",
     ["skipped", "skipped"]),
    ("never reached", [], Unreachable("no route"), "unreachable", ["skipped", "skipped"]),
    ("lost in a step", [began(1)], Lost("gone"), "lost", ["lost", "skipped"]),
    ("lost after all ended", [*OK, *DONE], Lost("gone"), "lost", ["ok", "already-done"]),
    ("refused on our side", [], Refused("changed"), "refused", ["skipped", "skipped"]),
    ("login output and notes change nothing",
     [LoginOutput(b"x"), Note("n"), *OK, Output(b"y"), *DONE, Finished("ok")], None, "ok", ["ok", "already-done"]),
]  # fmt: skip


@pytest.mark.parametrize(
    ("events", "error", "outcome", "steps"), [each[1:] for each in CASES], ids=[each[0] for each in CASES]
)
def test_events_make_the_outcome(events: list[Event], error: HostError | None, outcome: str, steps: list[str]):
    report = fold(*events, error=error)
    assert (report.outcome, outcomes(report)) == (outcome, steps)
    assert report.outcome in OUTCOMES


EVENTS = st.one_of(
    st.builds(Started, st.integers(0, 3)),
    st.builds(
        Ended,
        st.integers(0, 3),
        st.sampled_from(["ok", "already-done", "failed", "killed"]),
        st.integers(0, 255),
        st.just(0.1),
        st.integers(0, 9),
        st.sampled_from(["exit", "last", "none"]),
    ),
    st.builds(
        Marked,
        st.integers(0, 3),
        st.sampled_from(["shouldrun", "declined", "setdone", "resetdone"]),
        st.text(max_size=2),
    ),
    st.builds(Output, st.binary(max_size=20)),
    st.builds(Finished, st.sampled_from(["ok", "failed", "interrupted"])),
    st.builds(Refusal, st.just("bash"), st.just("x")),
    st.builds(Locked, st.just("")),
)


@given(st.lists(EVENTS, max_size=12), st.sampled_from([None, Lost("l"), Unreachable("u"), Refused("r")]))
def test_r39_s9_a_host_is_ok_only_if_events_report_that_every_step_started_and_ended_well(
    events: list[Event], error: HostError | None
):
    """Whatever events a target sends, in whatever order."""
    report = fold(*events, error=error)
    assert report.outcome in OUTCOMES
    assert set(outcomes(report)) <= OUTCOMES
    assert len(report.steps) == 2
    if report.outcome == "ok":
        assert error is None
        assert set(outcomes(report)) <= SUCCESSES
        for number in (1, 2):
            assert began(number) in events
            assert any(isinstance(event, Ended) and event.number == number for event in events)
    if status_of([report]) == 0:
        assert report.outcome == "ok"


def test_a_report_has_the_reasons_of_a_host():
    assert fold(Refusal("bash", "no bash")).message == "no bash"
    assert "root@gorgo" in fold(Locked("session", "root@gorgo", "2026", "", "")).message
    report = fold(error=Unreachable("no route", "try this"))
    assert (report.message, report.hint, report.seconds) == ("no route", "try this", 1.5)


def step_of(*events: Event, conf: str = "") -> StepReport:
    folded = Fold(making.plan(making.step("a\nb\nc\n", conf=conf)))
    for event in (began(1), *events):
        folded.add(event)
    return folded.close(0).steps[0]


def test_status_and_seconds_of_a_step_are_kept():
    step = step_of(ended(1, "failed", 3, 12.25, 0))
    assert (step.status, step.seconds) == (3, 12.25)


@pytest.mark.parametrize(
    ("event_line", "output", "line"),
    [
        (5, b"", 5),
        (0, b"x\n/state/files/tree0/scripts/web: line 6: nosuch: command not found\n", 6),
        (5, b"/files/tree0/scripts/web: line 6: x\n", 5),
        (0, b"", 0),
        (2, b"", 0),
        (0, b"/files/web: line x: y\n", 0),
        (0, b"/files/other: line 6: y\n", 0),
        (0, b"/files/web: line 5: a\n/files/web: line 6: b\n", 6),
    ],
)
def test_a_failure_is_placed_in_the_operators_file(event_line: int, output: bytes, line: int):
    step = step_of(Output(output), ended(1, "failed", 1, 0.1, event_line), conf="1\n2\n3\n")
    assert step.failed_at
    assert (step.failed_at.file, step.failed_at.line) == (step.step.script.source.shown, line)


def test_a_report_has_the_markers_that_a_step_set_or_missed():
    marks = [
        ("shouldrun", "a"),
        ("setdone", "a"),
        ("shouldrun", "b"),
        ("shouldrun", ""),
        ("declined", "c"),
        ("shouldrun", "b"),
    ]
    step = step_of(*(Marked(1, action, subsystem) for action, subsystem in marks))
    assert (step.marked, step.unmarked) == (["a"], ["b", ""])
    step = step_of(Marked(1, "setdone", "a"), Marked(1, "setdone", "b"), Marked(1, "resetdone", "a"))
    assert step.marked == ["b"]
    assert step_of(Marked(1, "setdone", "a"), Marked(1, "setdone", ""), Marked(1, "resetdone", "")).marked == []


def test_r16_the_end_of_the_output_is_kept_and_no_more():
    step = step_of(*(Output(b"%d\n" % number * 100) for number in range(1000)), ended(1, "failed", 1, 0.1, 0))
    assert step.tail == ["999"] * TAIL_LINES
    step = step_of(Output(b"x" * 10_000 + b"\nend\nno newline"), ended(1, "failed", 1, 0.1, 0))
    assert step.tail[1:] == ["end", "no newline"]
    assert sum(map(len, step.tail)) == TAIL_LENGTH


def test_o4_the_end_of_the_output_is_kept_as_a_terminal_would_leave_it():
    """O4: a meter is one line, so that what was said before it is not lost; and cut sequences are put together."""
    meter = [Output(b"\r%5d of 99999" % number) for number in range(2000)]
    said = [Output(b"fetching\r\n"), *meter, Output(b"\ncurl: \x1b[3"), Output(b"1m(22) 404\x1b[0m\n")]
    assert step_of(*said, ended(1, "failed", 1, 0.1, 0)).tail == ["fetching", " 1999 of 99999", "curl: (22) 404"]


def test_the_end_of_a_killed_steps_output_is_kept_too():
    report = fold(began(1), Output(b"a\nb"), error=Lost("gone"))
    assert report.steps[0].tail == ["a", "b"]


def host(outcome: str, *steps: str) -> HostReport:
    planned = making.plan(*(making.step(number=number + 1) for number in range(len(steps))))
    return HostReport(
        planned, outcome, [StepReport(step, each) for step, each in zip(planned.steps, steps, strict=True)]
    )


STATUSES = [
    (0, [host("ok", "ok"), host("ok", "already-done")], 0),
    (1, [host("failed", "failed", "skipped"), host("ok", "ok")], 0),
    (1, [host("failed", "killed")], 0),
    (1, [host("lost", "failed", "lost")], 0),
    (1, [host("failed", "failed"), host("unreachable", "skipped"), host("locked", "skipped")], 0),
    (3, [host("unreachable", "skipped"), host("ok", "ok")], 0),
    (3, [host("lost", "lost")], 0),
    (3, [host("refused", "skipped")], 0),
    (3, [host("unreachable", "skipped"), host("locked", "skipped")], 0),
    (4, [host("locked", "skipped"), host("ok", "ok")], 0),
    (124, [host("timeout", "timeout")], 0),
    (130, [host("ok", "ok")], 2),
    (130, [host("failed", "failed")], 2),
    (143, [host("interrupted", "lost")], 15),
]


@pytest.mark.parametrize(("status", "reports", "signal"), STATUSES)
def test_the_exit_status_is_that_of_the_specification(status: int, reports: list[HostReport], signal: int):
    assert status_of(reports, signal) == status


@given(st.lists(st.sampled_from(sorted(OUTCOMES)), min_size=1, max_size=3))
def test_the_exit_status_is_0_only_if_every_host_is_ok(outcomes: list[str]):
    status = status_of([host(outcome) for outcome in outcomes])
    assert (status == 0) == (set(outcomes) <= SUCCESSES | {"detached"})
