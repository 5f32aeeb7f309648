"""Values for tests, made by hand: no tree is read and nothing is evaluated."""

from __future__ import annotations

from pathlib import Path

from runsdeploy.errors import Position
from runsdeploy.plan.plan import Plan, Step
from runsdeploy.plan.variable import Value, Variable
from runsdeploy.tree.script import Script
from runsdeploy.tree.trees import Host, Located


def script(body: str = "", conf: str = "", name: str = "web") -> Script:
    """Make a script as `read_script` would."""
    source = Located(0, f"scripts/{name}", Path("/trees/one/scripts") / name)
    lines = conf.count("\n") + 1
    return Script(name, source, conf.encode(), b"\n" * lines + body.encode("utf-8", "surrogateescape"))


def variable(name: str, *values: str, array: bool = False) -> Variable:
    """Make a variable of texts."""
    return Variable(name, array, tuple(Value((value.encode("utf-8", "surrogateescape"),)) for value in values))


def step(  # noqa: PLR0913, PLR0917 - a step is made of many things
    body: str = "",
    number: int = 1,
    name: str = "web",
    flags: str = "",
    variables: tuple[Variable, ...] = (),
    outs: tuple[str, ...] = (),
    uses: tuple[str, ...] = (),
    libraries: tuple[str, ...] = (),
    conf: str = "",
) -> Step:
    """Make a step; `flags` are words."""
    return Step(
        number,
        script(body, conf, name),
        Position("hosts/medusa/default", number, 1),
        frozenset(flags.split()),
        "",
        variables,
        (),
        libraries,
        outs,
        uses,
        "",
        "",
    )


def plan(*steps: Step) -> Plan:
    """Make the plan of a host."""
    return Plan(Host("medusa.univ.run"), steps, ())
