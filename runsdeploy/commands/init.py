"""`init` and `new`: trees, host directories and scripts from commented templates; what exists is left as it is."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from msgspec import Struct

from runsdeploy.cli.command import COMMON, Arguments, Command, Flag
from runsdeploy.commands.inputs import hosts_of, trees_of
from runsdeploy.commands.list import one_host
from runsdeploy.errors import HostError, InputError, Problem, display_path
from runsdeploy.output import json
from runsdeploy.output.console import Writer, printable
from runsdeploy.plan.sysinfos import format_facts
from runsdeploy.rollout.execution import ACCEPT_NEW, LOCAL, Way
from runsdeploy.session.session import ask_facts, new_session
from runsdeploy.tree.trees import Host, Located, Trees, is_candidate, name_problem

TEMPLATES = Path(__file__).parents[1] / "templates"


class _Wish(Struct, frozen=True):
    """A file or directory that is to be there."""

    place: Located
    template: str = ""
    """name of the template; a directory has none"""
    content: bytes = b""
    """in place of the template's"""


def init(arguments: Arguments) -> int:
    """Make a tree, or host directories in one."""
    wanted = arguments.dir or ("" if arguments.host else ".")
    trees = _new_tree(arguments, wanted) if wanted else trees_of(arguments)
    wishes = _tree(trees) if wanted else []
    hosts = hosts_of(arguments, trees) if arguments.host else []
    for host in hosts:
        wishes += _host(arguments, trees, host)
    nexts = [f"cd {shlex.quote(wanted)}"] if wanted and trees.roots[0] != Path.cwd() else []
    nexts += [
        "runsdeploy new NAME",
        f"runsdeploy plan --host {hosts[0].name}" if hosts else "runsdeploy init --host HOST",
    ]
    return _fulfil(arguments, trees, wishes, nexts)


def _new_tree(arguments: Arguments, wanted: str) -> Trees:
    root = Path(os.path.normpath(Path.cwd() / wanted))
    if ":" in str(root):
        raise InputError([Problem(None, f"`{root}` holds a colon, which separates the trees of RUNSPATH")])
    if (root.exists() or root.is_symlink()) and not root.is_dir():
        raise InputError([Problem(None, f"`{root}` is there and is no directory")])
    return Trees((root,), tuple(Path.cwd() / each for each in arguments.allow), arguments.trust)


def _tree(trees: Trees) -> list[_Wish]:
    files = {"runs.conf": "runs.conf", "scripts/example": "example", "groups/example": "group"}
    folders = [_Wish(trees.located(0, name)) for name in ("hosts", "lib")]
    return [*(_Wish(trees.located(0, path), template) for path, template in files.items()), *folders]


def _host(arguments: Arguments, trees: Trees, host: Host) -> list[_Wish]:
    folder = host.directory
    wishes = [_Wish(trees.located(0, folder, name), name) for name in ("runs.conf", "default")]
    sysinfos = trees.located(0, folder, "sysinfos.conf")
    found = b""
    if arguments.sysinfos and not os.path.lexists(sysinfos.path):
        found = _facts(arguments, host)
    return [*wishes, _Wish(sysinfos, "sysinfos.conf", found)]


def _facts(arguments: Arguments, host: Host) -> bytes:
    """Return the text of a `sysinfos.conf` as the host tells it; empty if it does not answer."""
    way = Way(arguments, host)
    try:
        return format_facts(ask_facts(way.open(), new_session())).encode()
    except HostError as error:
        _talk(f"{host.name}: {error}; its sysinfos.conf is made of comments")
        return b""
    finally:
        way.close()


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
    status = _fulfil(arguments, trees, [_Wish(made, "script")], nexts)
    if host and hidden:
        _talk(f"on `{host.name}` it hides `{hidden[0]}`")
    return status


# --- making ------------------------------------------------------------------------------------


def _fulfil(arguments: Arguments, trees: Trees, wishes: Sequence[_Wish], nexts: Sequence[str]) -> int:
    """Make what is not there yet, tell of all, and name the commands to try next; raises InputError before any."""
    problems = [problem for wish in wishes if (problem := _obstacle(trees, wish.place))]
    if problems:
        raise InputError(problems)
    told = [(wish, _make(wish)) for wish in wishes]
    if arguments.format != "text":
        files = [{"file": wish.place.shown, "made": made} for wish, made in told]
        json.write({"schema": json.SCHEMA, "exit_status": 0, "files": files})
        return 0
    writer = Writer(sys.stdout)
    for wish, made in told:
        path = f"{wish.place.shown}{'' if wish.template else '/'}"
        writer.line(printable(f"made {path}" if made else f"exists, left as it is: {path}"))
    for number, command in enumerate(nexts):
        _talk(f"{'next:' if number == 0 else '     '} {command}")
    return 0


def _obstacle(trees: Trees, place: Located) -> Problem | None:
    """Say why a file cannot be made at a place, if so."""
    folder = place.path.parent
    # Whether others could have written there is asked when it is read.
    outside = trees.trust.outside_problem(folder, position=place.at())
    if outside:
        return outside
    above = next(each for each in (folder, *folder.parents) if os.path.lexists(each))
    return None if above.is_dir() else Problem(place.at(), f"cannot be made: `{display_path(above)}` is no directory")


def _make(wish: _Wish) -> bool:
    """Make a file or directory and say so; leave what is there, a link that leads nowhere too."""
    path = wish.place.path
    try:
        if not wish.template:
            path.mkdir(parents=True)
            return True
        path.parent.mkdir(parents=True, exist_ok=True)
        # Not Path.open: what another process makes meanwhile must not be overwritten, nor links followed.
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o666)
    except FileExistsError:
        return False
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(wish.content or (TEMPLATES / wish.template).read_bytes())
    except BaseException:
        # A full disk must not leave half a file, which would be left as it is ever after.
        path.unlink()
        raise
    return True


def _talk(line: str) -> None:
    Writer(sys.stderr).line(printable(line))


COMMANDS = (
    Command(
        "init",
        init,
        "make a tree, or the directories of hosts, with commented examples; what exists is left as it is",
        (
            Flag("dir", "where to make a tree; here if neither it nor a host is given", "", metavar="DIR"),
            Flag("--host", "make the directory of this host; several as elsewhere", (), metavar="HOST"),
            Flag("--sysinfos", "ask the hosts what they are, for their sysinfos.conf", default=False),
            LOCAL,
            ACCEPT_NEW,
            *COMMON,
        ),
        ("init", "init infrastructure", "init --host medusa.univ.run", "init --host medusa.univ.run --sysinfos"),
    ),
    Command(
        "new",
        new,
        "make a script from a commented template",
        (
            Flag("name", "its name, e.g. `web/nginx`", metavar="NAME"),
            Flag("--host", "in this host's directory, not for all hosts", metavar="HOST"),
            *COMMON,
        ),
        ("new web/nginx", "new certificate --host medusa.univ.run"),
    ),
)
