"""`list`, `info`, `hosts`: what is in the trees; no connection, nothing executed but CONF sections."""

from __future__ import annotations

import sys

from runsdeploy.command import COMMON, Arguments, Command, Flag
from runsdeploy.conf import Conf, evaluate
from runsdeploy.console import Writer, printable
from runsdeploy.errors import InputError, Problem
from runsdeploy.outputs import json
from runsdeploy.script import Script, is_script, read_script
from runsdeploy.stage import Request
from runsdeploy.tasks.opening import trees_of
from runsdeploy.tree import Host, Trees, name_problem


def _host(arguments: Arguments, trees: Trees) -> Host | None:
    if not arguments.host:
        return None
    hosts = trees.select(arguments.host)
    if len(hosts) > 1:
        raise InputError([Problem(None, f"`{arguments.host}` matches {len(hosts)} hosts, expected one")])
    return hosts[0]


def _described(trees: Trees, host: Host | None, limit: float) -> list[tuple[Script, Conf]]:
    """Return every script with what its CONF section declares."""
    found = [read_script(name, place) for name, place in trees.names(host) if is_script(place.path.read_bytes())]
    scripts = [script for script in found if isinstance(script, Script)]
    return list(zip(scripts, evaluate([Request(script, None) for script in scripts], trees, limit), strict=True))


def list_scripts(arguments: Arguments) -> int:
    """List the scripts with their descriptions."""
    trees = trees_of(arguments)
    described = sorted(
        _described(trees, _host(arguments, trees), arguments.conf_timeout), key=lambda each: each[0].name
    )
    if arguments.format != "text":
        scripts = [{"script": s.name, "desc": c.description, "file": s.source.shown} for s, c in described]
        json.write({"schema": json.SCHEMA, "exit_status": 0, "scripts": scripts})
        return 0
    writer = Writer(sys.stdout)
    width = max((len(script.name) for script, _ in described), default=0)
    for script, conf in described:
        writer.line(f"{printable(script.name).ljust(width)}  {printable(conf.description)}".rstrip())
    return 0


def info(arguments: Arguments) -> int:
    """Show one script in full."""
    trees = trees_of(arguments)
    host = _host(arguments, trees)
    name = arguments.name
    wrong = name_problem(name)
    place = None if wrong else trees.find(name, host)
    if place is None:
        raise InputError([Problem(None, wrong or f"unknown script `{name}`", "" if wrong else trees.near(name, host))])
    script = read_script(name, place)
    if isinstance(script, Problem):
        raise InputError([script])
    conf = evaluate([Request(script, host)], trees, arguments.conf_timeout)[0]
    if conf.problems:
        raise InputError(conf.problems)
    if arguments.format == "text":
        _show(script, conf)
    else:
        json.write({"schema": json.SCHEMA, "exit_status": 0, "script": _document(script, conf)})
    return 0


def _show(script: Script, conf: Conf) -> None:
    writer = Writer(sys.stdout)
    writer.line(f"{printable(script.name)}  {printable(conf.description)}".rstrip())
    writer.line(f"  file     {script.source.shown}, script from line {script.first_line}")
    if conf.flags:
        writer.line(f"  conf     {' '.join(sorted(conf.flags))}")
    for after in conf.afters:
        option = {"order": "", "once": "-r ", "always": "-rr "}[after.mode]
        writer.line(f"  after    {option}{after.script}  ({after.position})")
    for variable in conf.variables:
        setting = [each for each in conf.settings if each.variable == variable.name]
        where = f"  ({setting[-1].position})" if setting and setting[-1].position else ""
        writer.line(f"  var      {printable(str(variable))}{where}")
    for ref in conf.refs:
        writer.line(
            f"  ref      {ref.variable}={ref.file}: {ref.found if ref.how == 'tree' else ref.how}  ({ref.position})"
        )
    for out in conf.outs:
        writer.line(f"  out      {out.variable}={out.file}  ({out.position})")
    if conf.needs_facts:
        writer.line(f"  sysinfos asked for at {conf.needs_facts}, and unknown: what follows it is not shown")


def _document(script: Script, conf: Conf) -> dict[str, object]:
    return {
        "script": script.name,
        "file": script.source.shown,
        "line": script.first_line,
        "desc": conf.description,
        "flags": sorted(conf.flags),
        "after": [{"mode": a.mode, "script": a.script, "position": str(a.position)} for a in conf.afters],
        "variables": {v.name: [str(x) for x in v.values] if v.array else str(v.values[0]) for v in conf.variables},
        "ref": [{"name": r.variable, "file": r.file, "how": r.how, "required": r.required} for r in conf.refs],
        "out": [{"name": o.variable, "file": o.file} for o in conf.outs],
    }


def hosts(arguments: Arguments) -> int:
    """List the hosts with their recipes."""
    trees = trees_of(arguments)
    found = trees.select(arguments.pattern) if arguments.pattern else trees.hosts()
    listed = [(host, _recipes(trees, host)) for host in found]
    if arguments.format != "text":
        document = [
            {
                "host": host.name,
                "recipes": recipes,
                "directories": [place.shown for place in trees.host_directories(host)],
            }
            for host, recipes in listed
        ]
        json.write({"schema": json.SCHEMA, "exit_status": 0, "hosts": document})
        return 0
    writer = Writer(sys.stdout)
    width = max((len(host.name) for host, _ in listed), default=0)
    for host, recipes in listed:
        writer.line(f"{host.name.ljust(width)}  {' '.join(recipes)}".rstrip())
    return 0


def _recipes(trees: Trees, host: Host) -> list[str]:
    directories = {(place.tree, place.inside) for place in trees.host_directories(host)}
    found = []
    for name, place in trees.names(host):
        folder = place.inside.removesuffix(f"/{name}")
        if (place.tree, folder) in directories and not is_script(place.path.read_bytes()):
            found.append(name)
    return sorted(found)


_HOST = Flag("--host", "with the scripts and variables of this host", metavar="HOST")

COMMANDS = (
    Command("list", list_scripts, "list the scripts with their descriptions", (_HOST, *COMMON), ("list",)),
    Command(
        "info",
        info,
        "show one script in full",
        (Flag("name", "the script", metavar="NAME"), _HOST, *COMMON),
        ("info web/nginx", "info web/nginx --host medusa.univ.run"),
    ),
    Command(
        "hosts",
        hosts,
        "list the hosts with their recipes",
        (Flag("pattern", "which hosts, e.g. `*.univ.run`; all if none is given", "", metavar="PATTERN"), *COMMON),
        ("hosts", "hosts '*.univ.run'"),
    ),
)
