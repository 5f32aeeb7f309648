"""`deploy` and `plan`."""

from __future__ import annotations

import sys

from runsdeploy.cli.command import COMMON, Arguments, Command, Flag
from runsdeploy.commands.inputs import dropped_of, entries_of, hosts_of, sets_of, trees_of
from runsdeploy.output import console, json
from runsdeploy.rollout.execution import CONNECTION, HOST, Work, execute, make_plans


def work_of(arguments: Arguments) -> Work:
    """Return what was asked for; raises InputError."""
    trees = trees_of(arguments)
    hosts = hosts_of(arguments, trees)
    for dropped in (each for host in hosts for each in dropped_of(arguments, trees, host)):
        console.Writer(sys.stderr).line(console.printable(dropped))
    return Work(trees, hosts, lambda host: entries_of(arguments, trees, host), sets_of(arguments))


def plan(arguments: Arguments) -> int:
    """Print the plans of the hosts; nothing is connected to."""
    plans = make_plans(arguments, work_of(arguments))
    if arguments.format == "text":
        for each in plans:
            console.show_messages(each)
            console.show_plan(each)
    else:
        json.write({"schema": json.SCHEMA, "exit_status": 0, "hosts": [json.plan(each) for each in plans]})
    return 0


def deploy(arguments: Arguments) -> int:
    """Deploy to the hosts."""
    return execute(arguments, work_of(arguments))[0]


SELECTION = (
    HOST,
    Flag("--recipe", "recipe to run instead of `default`", (), metavar="RECIPE"),
    Flag("--script", "script to run instead of a recipe", (), metavar="SCRIPT"),
    Flag(
        "--set",
        "operation on a variable of every step, after all others: `name=value`, `name+=value`",
        (),
        metavar="OP",
    ),
)

_DETACH = Flag("--detach", "leave once the first step runs on the target; `attach` hears the rest", default=False)

COMMANDS = (
    Command(
        "deploy",
        deploy,
        "run the recipe of each host on it, once",
        (*SELECTION, *CONNECTION, _DETACH, *COMMON),
        ("deploy --host medusa.univ.run", "deploy --host 'web*.univ.run' --script ping --format json"),
    ),
    Command(
        "plan",
        plan,
        "show what deploy would do, without connecting",
        (*SELECTION, *COMMON),
        ("plan --host medusa.univ.run", "plan --host medusa.univ.run --set port=8080 --format json"),
    ),
)
