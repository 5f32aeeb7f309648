"""The plans of all hosts: all mistakes of all hosts are found before any host is touched."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from msgspec import Struct
from msgspec.structs import replace

from runsdeploy.errors import HostError, InputError, Problem
from runsdeploy.plan.plan import Plan
from runsdeploy.plan.resolver import FactsUnknown, expected_facts_for, resolve
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


def make_plans(
    work: Work, time_limit: float, connections: Mapping[str, HostConnection] | None = None, *, verify: bool = True
) -> Planned:
    """Plan the work on all its hosts; raises InputError with the problems of all of them.

    `time_limit` is the number of seconds that a CONF section may take. A host whose facts no `sysinfos.conf` has is
    asked for them over its connection, after everything else is known to be right; without connections that is a
    problem. Without `verify` the plans carry no expected facts.
    """
    problems: list[Problem] = []
    plans: dict[str, Plan] = {}
    without_facts: list[tuple[Host, partial[Plan]]] = []
    for host in work.hosts:
        entries, wrong = work.entries(host)
        problems += wrong
        make = partial(resolve, work.trees, host, entries, sets=work.sets, time_limit=time_limit)
        try:
            plan = make()
            expected = plan.expected_facts
            if work.expecting:
                expected = expected_facts_for(work.expecting, host, time_limit)
            plans[host.name] = replace(plan, expected_facts=expected if verify else None)
        except FactsUnknown as error:
            without_facts.append((host, make))
            problems += error.problems if connections is None else ()
        except InputError as error:
            problems += error.problems
    if problems:
        raise InputError(problems)
    unusable: list[HostReport] = []
    for host, make in without_facts:
        try:
            plans[host.name] = make(facts=ask_facts((connections or {})[host.name].open(), new_session()))
        except HostError as error:
            # The other hosts are deployed to; this one has no plan to show.
            unusable.append(Fold(Plan(host, (), ())).close(0.0, error))
    return Planned([plans[host.name] for host in work.hosts if host.name in plans], unusable)
