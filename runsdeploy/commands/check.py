"""`check`: errors and warnings of the trees, without a network."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from importlib import import_module

from msgspec.structs import replace

from runsdeploy import exit_status
from runsdeploy.check.finding import ERROR, Finding, error
from runsdeploy.commands.arguments import Arguments
from runsdeploy.commands.inputs import trees_of
from runsdeploy.errors import InputError
from runsdeploy.output import json
from runsdeploy.output.findings import document, show_findings
from runsdeploy.output.progress import progress_of
from runsdeploy.output.terminal import show_problems
from runsdeploy.tree.selection import choices, select


def check(arguments: Arguments) -> int:
    """Report all findings; return 2 if one is an error."""
    found: list[Finding] = []
    try:
        for each in _findings(arguments):
            found += each
    except InputError as wrong:
        found += [error(problem) for problem in wrong.problems]
    findings = sorted(_distinct(found), key=_order)
    if arguments.format == "github":
        # Only the first are shown beside the code, so errors come before what is one only with `--strict`.
        findings.sort(key=lambda each: each.severity != ERROR)
    if arguments.strict:
        findings = [replace(each, severity=ERROR) for each in findings]
    status = exit_status.BAD_INPUT if any(each.severity == ERROR for each in findings) else exit_status.OK
    _write(arguments.format, findings, status)
    return status


def _findings(arguments: Arguments) -> Iterator[list[Finding]]:
    """Yield findings, the surest first; raises InputError for an error that makes further checks impossible."""
    # Modules that no other command needs.
    from runsdeploy.check.checker import build_model, syntax_errors  # noqa: PLC0415
    from runsdeploy.check.rules import apply_rules  # noqa: PLC0415
    from runsdeploy.check.shellcheck import missing, program, shellcheck  # noqa: PLC0415

    trees = trees_of(arguments)
    words = choices(arguments.host)
    hosts = select(trees, words, known=True) if words else trees.hosts()
    with progress_of("checking", "recipes") as listener:
        model = build_model(
            trees,
            hosts,
            arguments.conf_timeout,
            complete=not arguments.host,
            static=arguments.static,
            listener=listener,
        )
    if program() is None:
        show_problems([missing()])
    yield model.findings
    yield syntax_errors(model, static=arguments.static)
    yield apply_rules(model)
    with progress_of("shellcheck:", "sections") as listener:
        findings, unchecked = shellcheck(model.checked, listener)
    show_problems(unchecked)
    yield findings


def _distinct(findings: Sequence[Finding]) -> list[Finding]:
    """Return each finding once, without warnings that only repeat an error."""
    errors = {_place(each) for each in findings if each.severity == ERROR}
    broken = {_place(each)[0]: each.problem.message for each in findings if each.rule == "bash-syntax"}
    return [each for each in dict.fromkeys(findings) if each.severity == ERROR or not _is_echo(each, errors, broken)]


def _is_echo(each: Finding, errors: set[tuple[str, int]], broken: dict[str, str]) -> bool:
    """Say whether a warning only repeats an error: of its line, or of a text that bash could not parse."""
    file, _ = _place(each)
    # Where the text ends too soon, shellcheck names what was left open.
    ended = re.search(r"unexpected (EOF|end of file)", broken.get(file, ""))
    return _place(each) in errors or (file in broken and not (ended and re.match(r"SC1\d\d\d", each.rule)))


def _place(each: Finding) -> tuple[str, int]:
    at = each.problem.position
    return (at.file, at.line) if at else ("", 0)


def _order(finding: Finding) -> tuple[object, ...]:
    at = finding.problem.position
    return (at is not None, at or (), finding.severity != ERROR, finding.problem)


def _write(form: str, findings: Sequence[Finding], status: int) -> None:
    if form in ("json", "jsonl"):
        documents = [document(each) for each in findings]
        json.write({"schema": json.SCHEMA, "exit_status": status, "findings": documents})
    elif form == "text":
        show_findings(findings)
    else:
        import_module(f"runsdeploy.output.{form}").write(findings)
