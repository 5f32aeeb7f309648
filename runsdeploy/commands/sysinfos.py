"""`sysinfos`: what hosts are, in the format of the file that promises it."""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

from msgspec import Struct

from runsdeploy import exit_status
from runsdeploy.commands.arguments import Arguments
from runsdeploy.commands.inputs import connection_to, hosts_of, trees_of
from runsdeploy.errors import HostError, InputError, Problem
from runsdeploy.output import json
from runsdeploy.output.terminal import Writer, printable
from runsdeploy.plan.sysinfos import format_facts
from runsdeploy.session.query import ask_facts
from runsdeploy.session.session import new_session
from runsdeploy.tree.recipe import Operation
from runsdeploy.tree.trees import Host, Located, Trees


class _Result(Struct, frozen=True):
    """What came of one host."""

    host: Host
    facts: tuple[Operation, ...] = ()
    file: str = ""
    """its sysinfos.conf, where that was to be saved"""
    saved: str = ""
    """`new`, `changed`, `unchanged` or `kept`"""
    message: str = ""
    """why it could not be asked, or not saved"""
    hint: str = ""
    status: int = exit_status.OK
    """exit status that follows from it"""


def sysinfos(arguments: Arguments) -> int:
    """Show the facts of the hosts; with `--save` write them to their sysinfos.conf."""
    trees = trees_of(arguments)
    hosts = hosts_of(arguments, trees)
    files = _files(trees, hosts) if arguments.save else {}
    out, talk = Writer(sys.stdout), Writer(sys.stderr)
    results = []
    for host in hosts:
        each = _ask(arguments, host, files.get(host.name))
        results.append(each)
        if each.facts and arguments.format == "text":
            for line in ([f"# {host.name}"] if len(hosts) > 1 else []) + format_facts(each.facts).splitlines():
                out.line(line)
        if each.message:
            talk.line(printable(f"{host.name}: {each.message}{f'; {each.hint}' if each.hint else ''}"))
        elif each.saved:
            talk.line(f"{each.saved}: {each.file}")
    status = max(each.status for each in results)
    if arguments.format != "text":
        json.write({"schema": json.SCHEMA, "exit_status": status, "hosts": [_document(each) for each in results]})
    return status


def _files(trees: Trees, hosts: list[Host]) -> dict[str, Located]:
    """Return the file to write for each host; raises InputError before any host is asked."""
    files: dict[str, Located] = {}
    problems = []
    for host in hosts:
        places = trees.host_directories(host)
        if not places:
            hint = f"make it: `runsdeploy init --host {host.name}`"
            problems.append(Problem(None, f"host `{host.name}` has no directory in the trees to save to", hint))
            continue
        file = trees.sysinfos(host) or trees.located(places[0].tree, places[0].inside, "sysinfos.conf")
        outside = trees.trust.outside_problem(file.path)
        problems += [outside] if outside else []
        files[host.name] = file
    if problems:
        raise InputError(problems)
    return files


def _ask(arguments: Arguments, host: Host, file: Located | None) -> _Result:
    connection = connection_to(arguments, host)
    try:
        facts = ask_facts(connection.open(), new_session())
    except HostError as error:
        return _Result(host, message=error.message, hint=error.hint, status=exit_status.UNUSABLE)
    finally:
        connection.close()
    if not facts:
        return _Result(host, message="it says nothing of what it is", status=exit_status.UNUSABLE)
    return _save(arguments, host, facts, file) if file else _Result(host, facts)


def _save(arguments: Arguments, host: Host, facts: tuple[Operation, ...], file: Located) -> _Result:
    """Write the facts of a host, after the operator has seen what changes."""
    path = Path(os.path.realpath(file.path))
    found, before = format_facts(facts).encode(), path.read_bytes() if path.exists() else None
    if before is not None and found.split(b"\n") == _fact_lines(before):
        return _Result(host, facts, file.shown, "unchanged")
    _show_difference(file, (before or b""), found)
    # A file of comments only, as `init` makes it, holds nothing that could be lost.
    if before is not None and any(_fact_lines(before)) and not arguments.yes:
        if not (sys.stdin.isatty() and sys.stderr.isatty()):
            message = f"`{file.shown}` says something else, and there is no terminal to ask whether to replace it"
            return _Result(host, facts, file.shown, "kept", message, "`--yes` replaces it", exit_status.BAD_INPUT)
        sys.stderr.write(f"replace {printable(file.shown)}? [y/N] ")
        sys.stderr.flush()
        if sys.stdin.readline().strip().lower() not in ("y", "yes"):
            return _Result(host, facts, file.shown, "kept")
    _write(path, found)
    return _Result(host, facts, file.shown, "new" if before is None else "changed")


def _fact_lines(data: bytes) -> list[bytes]:
    """Return the lines of a sysinfos.conf that are not comments, and an empty one for the end of the file."""
    return [*(line for line in data.split(b"\n") if line.strip() and not line.startswith(b"#")), b""]


def _show_difference(file: Located, before: bytes, after: bytes) -> None:
    import difflib  # noqa: PLC0415 - needed when something is to be written

    writer = Writer(sys.stderr)
    old, new = (data.decode("utf-8", "surrogateescape").splitlines() for data in (before, after))
    for line in difflib.unified_diff(old, new, file.shown, f"{file.shown} (as found)", lineterm=""):
        writer.line(printable(line))


def _write(path: Path, data: bytes) -> None:
    """Write a file atomically; an existing file keeps its mode."""
    mode = path.stat().st_mode & 0o777 if path.exists() else None
    if mode is None:
        mask = os.umask(0)
        os.umask(mask)
        mode = 0o666 & ~mask
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=".tmp.", delete=False) as file:
        try:
            file.write(data)
            file.flush()
            os.fchmod(file.fileno(), mode)
            os.fsync(file.fileno())
            Path(file.name).replace(path)
        except BaseException:
            Path(file.name).unlink()
            raise


def _document(each: _Result) -> dict[str, object]:
    facts = {
        fact.name: [value.decode() for value in fact.values] if fact.kind == "()" else fact.values[0].decode()
        for fact in each.facts
    }
    document: dict[str, object] = {"host": each.host.name}
    if each.facts:
        document["sysinfos"] = facts
    if each.saved:
        document |= {"file": each.file, "saved": each.saved}
    return document | ({"message": each.message, "hint": each.hint} if each.message else {})
