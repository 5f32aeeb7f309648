"""`plan`: show the plans of hosts, without connecting."""

from __future__ import annotations

from runsdeploy.commands.arguments import Arguments
from runsdeploy.commands.inputs import show_unread, work_of
from runsdeploy.commands.plans import plans_of
from runsdeploy.output import json
from runsdeploy.output.plans import show_messages, show_plan


def plan(arguments: Arguments) -> int:
    """Print the plans of the hosts."""
    work = work_of(arguments)
    plans = plans_of(arguments, work).plans
    show_unread(work, plans)
    if arguments.format == "text":
        for each in plans:
            show_messages(each)
            show_plan(each, verbose=arguments.verbose)
    else:
        json.write({"schema": json.SCHEMA, "exit_status": 0, "hosts": [json.plan(each) for each in plans]})
    return 0
