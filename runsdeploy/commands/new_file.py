"""New files from commented templates; a file that exists is never overwritten."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from msgspec import Struct

from runsdeploy.commands.arguments import Arguments
from runsdeploy.errors import InputError, Problem, display_path
from runsdeploy.output import json
from runsdeploy.output.terminal import Writer, printable
from runsdeploy.tree.trees import Located, Trees

TEMPLATES = Path(__file__).parents[1] / "templates"


class NewFile(Struct, frozen=True):
    """A file or directory to make."""

    place: Located
    template: str = ""
    """name of the template; a directory has none"""
    content: bytes = b""
    """content in place of the template's"""


def make_all(arguments: Arguments, trees: Trees, files: Sequence[NewFile], nexts: Sequence[str]) -> int:
    """Make the files that do not exist yet, and list all of them with the commands to try next.

    Raises InputError before it makes any.
    """
    problems = [problem for file in files if (problem := _obstacle(trees, file.place))]
    problems += [each for file in files for each in trees.trust.owner_problems(file.place.path.parent)]
    if problems:
        raise InputError(problems)
    made_or_kept = [(file, _make(file)) for file in files]
    if arguments.format != "text":
        documents = [{"file": file.place.shown, "made": made} for file, made in made_or_kept]
        json.write({"schema": json.SCHEMA, "exit_status": 0, "files": documents})
        return 0
    writer = Writer(sys.stdout)
    for file, made in made_or_kept:
        path = f"{file.place.shown}{'' if file.template else '/'}"
        writer.line(printable(f"made {path}" if made else f"exists, left as it is: {path}"))
    for number, command in enumerate(nexts):
        say(f"{'next:' if number == 0 else '     '} {command}")
    return 0


def _obstacle(trees: Trees, place: Located) -> Problem | None:
    """Return why a file cannot be made at a place, or None."""
    folder = place.path.parent
    outside = trees.trust.outside_problem(folder, position=place.at())
    if outside:
        return outside
    above = next(each for each in (folder, *folder.parents) if os.path.lexists(each))
    return None if above.is_dir() else Problem(place.at(), f"cannot be made: `{display_path(above)}` is no directory")


def _make(file: NewFile) -> bool:
    """Make a file or directory; return False if something is there already, even a dangling link."""
    path = file.place.path
    try:
        if not file.template:
            path.mkdir(parents=True)
            return True
        path.parent.mkdir(parents=True, exist_ok=True)
        # Not Path.open: it would overwrite a file that another process makes meanwhile, and follow links.
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o666)
    except FileExistsError:
        return False
    try:
        with os.fdopen(descriptor, "wb") as opened:
            opened.write(file.content or (TEMPLATES / file.template).read_bytes())
    except BaseException:
        # On a full disk half a file would remain, and every later `init` would leave it as it is.
        path.unlink()
        raise
    return True


def say(line: str) -> None:
    """Write a line to stderr."""
    Writer(sys.stderr).line(printable(line))
