"""`deploy`: run the plans of hosts on them."""

from __future__ import annotations

from runsdeploy.commands.arguments import Arguments
from runsdeploy.commands.execution import execute
from runsdeploy.commands.inputs import work_of


def deploy(arguments: Arguments) -> int:
    """Deploy to the hosts."""
    return execute(arguments, work_of(arguments))[0]
