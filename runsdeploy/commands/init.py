"""`init`: a tree, or directories of hosts, from commented templates; existing files stay as they are."""

from __future__ import annotations

import os
import shlex
from pathlib import Path

from runsdeploy.commands.arguments import Arguments
from runsdeploy.commands.inputs import connection_to, hosts_of, trees_of
from runsdeploy.commands.new_file import NewFile, make_all, say
from runsdeploy.errors import HostError, InputError, Problem
from runsdeploy.plan.sysinfos import format_facts
from runsdeploy.session.query import ask_facts
from runsdeploy.session.session import new_session
from runsdeploy.tree.trees import Host, Trees


def init(arguments: Arguments) -> int:
    """Make a tree, or host directories in one."""
    wanted = arguments.dir or ("" if arguments.host else ".")
    trees = _new_tree(arguments, wanted) if wanted else trees_of(arguments)
    files = _tree(trees) if wanted else []
    hosts = hosts_of(arguments, trees) if arguments.host else []
    for host in hosts:
        files += _host(arguments, trees, host)
    nexts = [f"cd {shlex.quote(wanted)}"] if wanted and trees.roots[0] != Path.cwd() else []
    nexts += [
        "runsdeploy new NAME",
        f"runsdeploy plan --host {hosts[0].name}" if hosts else "runsdeploy init --host HOST",
    ]
    return make_all(arguments, trees, files, nexts)


def _new_tree(arguments: Arguments, wanted: str) -> Trees:
    root = Path(os.path.normpath(Path.cwd() / wanted))
    if ":" in str(root):
        raise InputError([Problem(None, f"`{root}` holds a colon, which separates the trees of RUNSPATH")])
    if (root.exists() or root.is_symlink()) and not root.is_dir():
        raise InputError([Problem(None, f"`{root}` is there and is no directory")])
    return Trees((root,), tuple(Path.cwd() / each for each in arguments.allow), arguments.trust)


def _tree(trees: Trees) -> list[NewFile]:
    # .gitattributes is not among the templates: those make a host directory, whose files `check` reads as recipes.
    files = {"runs.conf": "runs.conf", "scripts/example": "example", "groups/example": "group", "tasks.py": "tasks",
             ".gitattributes": "../commands/gitattributes"}  # fmt: skip
    folders = [NewFile(trees.located(0, name)) for name in ("hosts", "lib")]
    return [*(NewFile(trees.located(0, path), template) for path, template in files.items()), *folders]


def _host(arguments: Arguments, trees: Trees, host: Host) -> list[NewFile]:
    folder = trees.new_host_directory(host)
    files = [NewFile(trees.located(0, folder, name), name) for name in ("runs.conf", "default")]
    sysinfos = trees.located(0, folder, "sysinfos.conf")
    found = b""
    if arguments.sysinfos and not os.path.lexists(sysinfos.path):
        found = _facts(arguments, host)
    return [*files, NewFile(sysinfos, "sysinfos.conf", found)]


def _facts(arguments: Arguments, host: Host) -> bytes:
    """Ask a host for its facts; return them as the text of a `sysinfos.conf`, empty if the host does not answer."""
    connection = connection_to(arguments, host)
    try:
        return format_facts(ask_facts(connection.open(), new_session())).encode()
    except HostError as error:
        say(f"{host.name}: {error}; its sysinfos.conf is made of comments")
        return b""
    finally:
        connection.close()
