"""`list`: the scripts of the trees. Nothing is connected to; CONF sections are evaluated."""

from __future__ import annotations

from runsdeploy.commands.arguments import Arguments
from runsdeploy.commands.inputs import one_host, trees_of
from runsdeploy.output import json
from runsdeploy.output.terminal import show_table
from runsdeploy.plan.conf import Conf, Request
from runsdeploy.plan.evaluation import evaluate
from runsdeploy.tree.script import Script, is_script, read_head, read_script
from runsdeploy.tree.trees import Host, Trees


def described(trees: Trees, host: Host | None, limit: float) -> list[tuple[Script, Conf]]:
    """Return every script with what its CONF section declares."""
    inside = [(name, place) for name, place in trees.names(host) if trees.trust.contains(place.path)]
    found = [read_script(name, place) for name, place in inside if is_script(read_head(place.path))]
    scripts = [script for script in found if isinstance(script, Script)]
    return list(zip(scripts, evaluate([Request(script, None) for script in scripts], trees, limit), strict=True))


def list_scripts(arguments: Arguments) -> int:
    """List the scripts with their descriptions."""
    trees = trees_of(arguments)
    found = described(trees, one_host(arguments, trees), arguments.conf_timeout)
    found.sort(key=lambda each: each[0].name)
    if arguments.format != "text":
        scripts = [{"script": s.name, "desc": c.description, "file": s.source.shown} for s, c in found]
        json.write({"schema": json.SCHEMA, "exit_status": 0, "scripts": scripts})
        return 0
    show_table([(script.name, conf.description) for script, conf in found])
    return 0
