"""What a deploy would do: the forecast of a plan from the markers of the host."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from runsdeploy.errors import HostError
from runsdeploy.markers.forecast import forecast
from runsdeploy.markers.marker import Markers
from runsdeploy.plan.plan import Plan
from runsdeploy.plan.threads import Progress, ProgressListener, run_all
from runsdeploy.session.query import ask_markers, verify_facts
from runsdeploy.session.session import local_scope, new_session
from runsdeploy.transport.host_connection import HostConnection
from runsdeploy.transport.local import LocalTransport

Prediction = dict[int, tuple[str, str]]
"""outcome and reason, by the number of the step"""


def predict(plan: Plan, connection: HostConnection) -> Prediction:
    """Ask the sides that run steps for their markers and forecast every step; raises HostError."""
    sides = {step.side for step in plan.steps}
    target = controller = Markers()
    if "target" in sides:
        verify_facts(connection.open(), new_session(), plan)
        target = ask_markers(connection.open(), new_session(), ".")
    if "controller" in sides:
        controller = ask_markers(LocalTransport(), new_session(), local_scope(plan.host.name))
    return forecast(plan, target, controller)


def predict_all(
    plans: Sequence[Plan],
    connections: Mapping[str, HostConnection],
    parallel: int,
    listener: ProgressListener | None = None,
) -> list[Prediction | HostError]:
    """Predict each plan, so many hosts at a time; return predictions in the order of the plans, or what failed."""

    def each(plan: Plan, progress: Progress) -> Prediction | HostError:
        progress.name = plan.host.name
        try:
            return predict(plan, connections[plan.host.name])
        except HostError as error:
            return error

    return run_all(each, plans, listener, most=parallel)
