"""The plans of all hosts: all mistakes of all hosts are found before any host is touched."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial

from msgspec import Struct
from msgspec.structs import replace

from runsdeploy.errors import HostError, InputError, Problem
from runsdeploy.plan.plan import Plan
from runsdeploy.plan.resolver import FactsUnknown, expected_facts_for, resolve
from runsdeploy.plan.threads import Progress, ProgressListener, number_of_threads, run_all
from runsdeploy.rollout.work import Work
from runsdeploy.session.query import ask_facts
from runsdeploy.session.report import Fold, HostReport
from runsdeploy.session.session import new_session
from runsdeploy.transport.host_connection import HostConnection
from runsdeploy.tree.trees import Host


class Planned(Struct, frozen=True):
    """The plans of a rollout."""

    plans: list[Plan]
    """in the order of the hosts"""
    unusable: list[HostReport]
    """hosts without a plan: they did not answer when they were asked for their facts"""


class _Made(Struct):
    """What came of planning one host."""

    host: Host
    plan: Plan | None = None
    problems: Sequence[Problem] = ()
    again: Callable[..., Plan] | None = None
    """makes the plan from `facts`, if only these are missing"""
    error: HostError | None = None
    """why the host could not be asked for them"""


def make_plans(
    work: Work,
    time_limit: float,
    connections: Mapping[str, HostConnection] | None = None,
    *,
    verify: bool = True,
    parallel: int = 1,
    listener: ProgressListener | None = None,
) -> Planned:
    """Plan the work on all its hosts, side by side; raises InputError with the problems of all of them, in their order.

    `time_limit` is the number of seconds that a CONF section may take. A host whose facts no `sysinfos.conf` has is
    asked for them over its connection, at most `parallel` at a time, after everything else is known to be right;
    without connections that is a problem. Without `verify` the plans carry no expected facts.
    """

    def make(host: Host, progress: Progress) -> _Made:
        progress.name = host.name
        return _make(work, host, time_limit, progress, verify=verify, offline=connections is None)

    def ask(made: _Made, progress: Progress) -> _Made:
        progress.name = made.host.name
        return _ask(made, connections or {}, progress)

    every = run_all(make, work.hosts, listener)
    _raise_problems(every)
    without = [made for made in every if made.again]
    if without:
        _raise_problems(run_all(ask, without, listener, most=min(parallel, number_of_threads())))
    # The other hosts are deployed to; these have no plan to show.
    unusable = [Fold(Plan(made.host, (), ())).close(0.0, made.error) for made in every if made.error]
    return Planned([made.plan for made in every if made.plan], unusable)


def _raise_problems(every: Sequence[_Made]) -> None:
    problems = [problem for made in every for problem in made.problems]
    if problems:
        raise InputError(problems)


def _make(work: Work, host: Host, time_limit: float, progress: Progress, *, verify: bool, offline: bool) -> _Made:
    """Plan one host, as far as that is possible without its facts."""
    made = _Made(host)
    try:
        entries, made.problems = work.entries(host)
        again = partial(resolve, work.trees, host, entries, sets=work.sets, time_limit=time_limit)
        try:
            plan = again(progress=progress)
        except FactsUnknown as error:
            made.again = again
            made.problems = [*made.problems, *(error.problems if offline else ())]
            return made
        expected = plan.expected_facts
        if work.expecting:
            expected = expected_facts_for(work.expecting, host, time_limit, progress)
        made.plan = replace(plan, expected_facts=expected if verify else None)
    except InputError as error:
        made.problems = [*made.problems, *error.problems]
    return made


def _ask(made: _Made, connections: Mapping[str, HostConnection], progress: Progress) -> _Made:
    """Ask a host for its facts, and plan it with them."""
    try:
        facts = ask_facts(connections[made.host.name].open(), new_session())
        if made.again:
            made.plan = made.again(facts=facts, progress=progress)
    except HostError as error:
        made.error = error
    except InputError as error:
        made.problems = error.problems
    return made
