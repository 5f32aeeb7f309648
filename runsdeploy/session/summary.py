"""The summary of a rollout: how many hosts ended how, and which of them to run again. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from msgspec import Struct

from runsdeploy.session.report import SUCCESSES, HostReport, StepReport

NOT_STARTED = "not-started"
"""kind of a host whose turn had not come, or that had started no step, when the operator interrupted"""

KINDS = (
    "ok", "already-done", "detached", "skipped", NOT_STARTED, "interrupted", "locked", "refused", "unreachable", "lost",
    "timeout", "killed", "failed",
)  # fmt: skip
"""kinds of hosts, the gravest last: what is written last is on the last screen"""

UNREMARKABLE = SUCCESSES | {"detached"}
"""outcomes of hosts that need not run again"""


class Summary(Struct, frozen=True):
    """The reports of a rollout by kind."""

    seconds: float
    """that the rollout took"""
    kinds: dict[str, list[HostReport]]
    """the kinds that there are, in the order of KINDS; in each the hosts in the order of the rollout"""

    @property
    def total(self) -> int:
        """Return the number of hosts."""
        return sum(map(len, self.kinds.values()))

    @property
    def unsuccessful(self) -> list[HostReport]:
        """Return the hosts to run again, the gravest last."""
        return [each for kind, reports in self.kinds.items() if kind not in UNREMARKABLE for each in reports]


def summarize(reports: Sequence[HostReport], seconds: float) -> Summary:
    """Return the summary of a rollout that took so many seconds."""
    found: dict[str, list[HostReport]] = {}
    for each in reports:
        found.setdefault(kind_of(each), []).append(each)
    return Summary(seconds, {kind: found[kind] for kind in sorted(found, key=KINDS.index)})


def kind_of(report: HostReport) -> str:
    """Return the outcome of a host, or that it was not started."""
    started = any(step.outcome != "skipped" for step in report.steps)
    return NOT_STARTED if report.outcome == "interrupted" and not started else report.outcome


def failed_steps(report: HostReport) -> Iterator[StepReport]:
    """Yield the steps that started and did not succeed."""
    return (step for step in report.steps if step.outcome not in UNREMARKABLE | {"skipped"})
