"""`hosts`: the hosts of the trees; no connection is made."""

from __future__ import annotations

from runsdeploy.commands.arguments import Arguments
from runsdeploy.commands.inputs import trees_of
from runsdeploy.output import json
from runsdeploy.output.terminal import show_problems, show_table
from runsdeploy.tree.script import is_script, read_head
from runsdeploy.tree.selection import choices, memberships, select
from runsdeploy.tree.trees import Host, Trees


def hosts(arguments: Arguments) -> int:
    """List the hosts with their recipes, groups and directories."""
    trees = trees_of(arguments)
    found = select(trees, choices([arguments.pattern]), known=True) if arguments.pattern else trees.hosts()
    groups, problems = memberships(trees)
    # A bad group is only reported here; it is an error for the command that selects it.
    show_problems([*problems, *trees.misplaced_hosts()])
    listed = [
        (host.name, recipes_of(trees, host), groups.get(host.name, []), trees.host_directories(host)) for host in found
    ]
    if arguments.format == "text":
        show_table(
            [
                (name, " ".join(recipes), " ".join(f"@{group}" for group in within), " ".join(d.shown for d in places))
                for name, recipes, within, places in listed
            ]
        )
    else:
        document = [
            {"host": name, "recipes": recipes, "groups": within, "directories": [place.shown for place in places]}
            for name, recipes, within, places in listed
        ]
        json.write({"schema": json.SCHEMA, "exit_status": 0, "hosts": document})
    return 0


def recipes_of(trees: Trees, host: Host) -> list[str]:
    """Return the names of the recipes in a host's directories."""
    directories = {(place.tree, place.inside) for place in trees.host_directories(host)}
    found = []
    for name, place in trees.names(host):
        folder = place.inside.removesuffix(f"/{name}")
        if (place.tree, folder) in directories and not is_script(read_head(place.path)):
            found.append(name)
    return sorted(found)
