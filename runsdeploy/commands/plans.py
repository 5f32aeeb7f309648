"""The plans that the arguments of a command ask for, and meanwhile how far planning is."""

from __future__ import annotations

from collections.abc import Mapping

from runsdeploy.commands.arguments import Arguments
from runsdeploy.output.progress import progress_of
from runsdeploy.rollout.planning import Planned, make_plans
from runsdeploy.rollout.work import Work
from runsdeploy.transport.host_connection import HostConnection


def plans_of(arguments: Arguments, work: Work, connections: Mapping[str, HostConnection] | None = None) -> Planned:
    """Plan the work on all its hosts, and say on stderr how far that is; raises InputError with all problems."""
    # Only the commands that run steps have the flag; the others show what they would verify.
    verify = not arguments.values.get("no_verify_sysinfos", False)
    with progress_of("planning") as listener:
        return make_plans(
            work,
            arguments.conf_timeout,
            connections,
            verify=verify,
            parallel=arguments.values.get("parallel", 1),
            listener=listener,
        )
