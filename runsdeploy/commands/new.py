"""`new`: a script from a commented template."""

from __future__ import annotations

import shlex

from runsdeploy.commands.arguments import Arguments
from runsdeploy.commands.inputs import one_host, trees_of
from runsdeploy.commands.new_file import NewFile, make_all, say
from runsdeploy.errors import InputError, Problem
from runsdeploy.tree.trees import is_candidate, name_problem


def new(arguments: Arguments) -> int:
    """Make a script."""
    trees = trees_of(arguments)
    name = arguments.name
    wrong = name_problem(name)
    if not wrong and not is_candidate(name.rpartition("/")[2]):
        wrong = f"`{name}` would not be taken for a script: that is a name of configuration, or of an editor's leftover"
    if wrong:
        raise InputError([Problem(None, wrong)])
    host = one_host(arguments, trees)
    places = [place.inside for place in trees.host_directories(host) if place.tree == 0] if host else ["scripts"]
    if host and not places:
        hint = f"make one: `runsdeploy init --host {host.name}`"
        raise InputError([Problem(None, f"host `{host.name}` has no directory in the first tree", hint)])
    made = trees.located(0, places[0], name)
    hidden = [place.shown for place in trees.every(name, host) if place.path != made.path]
    nexts = [
        f"$EDITOR {shlex.quote(made.shown)}",
        f"runsdeploy plan --host {host.name if host else 'HOST'} --script {shlex.quote(name)}",
    ]
    status = make_all(arguments, trees, [NewFile(made, "script")], nexts)
    if host and hidden:
        say(f"on `{host.name}` it hides `{hidden[0]}`")
    return status
