"""From work to exit status, for the commands that run steps: plan, connect, forecast or run, report."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from runsdeploy import exit_status
from runsdeploy.commands.arguments import Arguments
from runsdeploy.commands.inputs import connection_to, show_unread
from runsdeploy.commands.plans import plans_of
from runsdeploy.errors import HostError, InputError, Problem
from runsdeploy.output import console, json
from runsdeploy.output import summary as summaries
from runsdeploy.output.plans import show_messages, show_plan
from runsdeploy.output.progress import progress_of
from runsdeploy.output.terminal import discard_output
from runsdeploy.plan.plan import Plan
from runsdeploy.rollout.planning import Planned
from runsdeploy.rollout.rollout import Listener, roll_out
from runsdeploy.rollout.work import Work
from runsdeploy.session.report import Fold, HostReport, status_of
from runsdeploy.session.run import Run
from runsdeploy.session.session import Session, new_sessions
from runsdeploy.session.summary import summarize
from runsdeploy.transport.host_connection import HostConnection, preload
from runsdeploy.tree import revision
from runsdeploy.tree.trees import Host

Listen = Callable[[Arguments, Sequence[str]], Listener]
"""makes the listener of a rollout, given the names of its hosts"""


def execute(arguments: Arguments, work: Work, listen: Listen | None = None) -> tuple[int, list[HostReport]]:
    """Do the work, or with `--dry-run` show what it would do; return the exit status and the reports.

    Raises InputError before anything is touched.
    """
    _check(arguments, work.hosts)
    with _connections(arguments, work.hosts) as connections:
        revisions = revision.look_up([] if arguments.dry_run else work.trees.roots, work.trees.trust)
        planned = plans_of(arguments, work, connections)
        show_unread(work, planned.plans)
        if arguments.dry_run:
            return _forecast(arguments, work.hosts, planned, connections), []
        _check_detached(arguments, planned.plans)
        sessions = _sessions(arguments, len(planned.plans), revisions)
        runs = [
            Run(plan, session, connections[plan.host.name].open, work.scope)
            for plan, session in zip(planned.plans, sessions, strict=False)
        ]
        listener = (listen or listener_of)(arguments, [host.name for host in work.hosts])
        if arguments.format != "jsonl":
            for plan in planned.plans:
                show_messages(plan)
        for report in planned.unusable:
            listener.end(report)
        began = time.monotonic()
        reports, signal = roll_out(runs, listener, arguments.parallel)
        reports += planned.unusable
        status = status_of(reports, signal)
        summary = summarize(reports, time.monotonic() - began)
        again = arguments.again([each.plan.host.address for each in summary.unsuccessful])
        if arguments.format != "text":
            outputs = listener.outputs if isinstance(listener, json.Kept) else None
            document = json.report(sessions[0].identity, status, reports, outputs)
            json.write({**document, "summary": summaries.document(summary, again)})
        elif len(reports) > 1:
            # As in the rollout itself: a reader that closed the pipe does not change the exit status.
            try:
                summaries.show_summary(summary, again)
            except BrokenPipeError:
                discard_output()
        return status, reports


def _check(arguments: Arguments, hosts: Sequence[Host]) -> None:
    """Raise InputError for flags that contradict the machine or the hosts."""
    if arguments.ssh_config and not Path(arguments.ssh_config).is_file():
        raise InputError([Problem(None, f"no ssh configuration file `{arguments.ssh_config}`")])
    if arguments.local and len(hosts) > 1:
        message = f"`--local` deploys to this machine, which is one host and not {len(hosts)}"
        raise InputError([Problem(None, message, f"e.g. `--host {hosts[0].name}`")])


@contextmanager
def _connections(arguments: Arguments, hosts: Sequence[Host]) -> Iterator[Mapping[str, HostConnection]]:
    """Give the connections to hosts by name; the SSH library is loaded while the plans are made."""
    prefix = console.prefixes([host.name for host in hosts])
    connections = {host.name: connection_to(arguments, host, prefix[host.name]) for host in hosts}
    loading = preload(list(connections.values())[: arguments.parallel])
    try:
        yield connections
    finally:
        for connection in connections.values():
            connection.close()
        for thread in loading:
            # An interpreter that ends under a thread that still imports aborts.
            thread.join()


def _forecast(
    arguments: Arguments, hosts: Sequence[Host], planned: Planned, connections: Mapping[str, HostConnection]
) -> int:
    """Show the plans with what each step would do; return 6 if that was asked for and a step would run."""
    # The interpreter's patterns take time to compile, and only dry runs use them.
    from runsdeploy.markers.forecast import DONE  # noqa: PLC0415
    from runsdeploy.rollout.prediction import predict_all  # noqa: PLC0415

    reports = list(planned.unusable)
    changes, documents = False, []
    with progress_of("asking") as listener:
        predictions = predict_all(planned.plans, connections, arguments.parallel, listener)
    for plan, prediction in zip(planned.plans, predictions, strict=True):
        if isinstance(prediction, HostError):
            reports.append(Fold(plan).close(0.0, prediction))
            continue
        documents.append(json.plan(plan, prediction))
        changes = changes or any(outcome != DONE for outcome, _ in prediction.values())
        if arguments.format == "text":
            show_messages(plan)
            show_plan(plan, prediction, verbose=arguments.verbose)
    status = status_of(reports) or (exit_status.CHANGES if arguments.exit_code and changes else exit_status.OK)
    if arguments.format != "text":
        document = json.report("", status, reports)
        json.write({**document, "dry_run": True, "hosts": [*documents, *document["hosts"]]})
    for report in reports if arguments.format == "text" else ():
        console.Console([host.name for host in hosts]).end(report)
    return status


def _check_detached(arguments: Arguments, plans: Sequence[Plan]) -> None:
    """Raise InputError if a detached plan ends with a local step: no controller is there to run it."""
    for plan in plans if arguments.values.get("detach", False) else ():
        if plan.steps and plan.steps[-1].side != "target":
            message = "with `--detach` the last step must run on the target, this one is local"
            raise InputError([Problem(plan.steps[-1].position, message)])


def _sessions(arguments: Arguments, count: int, revisions: Callable[[], Sequence[str]]) -> list[Session]:
    """Return a session for each plan, and at least one, with what the operator asked of all of them."""
    return new_sessions(
        count,
        keep_going=arguments.keep_going,
        timeout=arguments.timeout,
        patience=arguments.patience,
        wait=arguments.wait,
        detached=arguments.values.get("detach", False),
        revisions=revisions,
    )


def listener_of(arguments: Arguments, names: Sequence[str]) -> Listener:
    """Return the listener of a rollout in the format that was asked for."""
    if arguments.format == "jsonl":
        return json.Lines()
    if arguments.format == "json":
        return json.Silent()
    return console.Console(names, verbose=arguments.verbose)
