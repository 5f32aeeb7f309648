"""Configuration files, read by invoke's own mechanism. Imports invoke."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from invoke.config import Config

from runsdeploy.errors import InputError, Position, Problem, did_you_mean, display_path


class _Files(Config):
    prefix = "runsdeploy"

    def unknown(self, known: Collection[str]) -> Iterator[Problem]:
        """Yield a problem for each key that is neither known nor invoke's, with its file."""
        for level in ("system", "user", "project"):
            file, said = getattr(self, f"_{level}_path"), getattr(self, f"_{level}") or {}
            for key, value in said.items():
                # A Python file has names of its own: imports, definitions, and names that begin with `_`.
                if key in known or key in self.global_defaults() or str(key).startswith("_") or callable(value):
                    continue
                hint = did_you_mean(str(key), known) or "a key is the name of a flag, with underscores"
                yield Problem(Position(display_path(Path(file))), f"unknown key `{key}`", hint)


def load(project: Path | None, known: Collection[str] = ()) -> Mapping[str, Any]:
    """Return the merged content of the system's, the user's and the project's file; raises InputError.

    Where keys are given as `known`, any other is an error.
    """
    try:
        files = _Files(project_location=project)
        files.load_project()
    except Exception as error:
        raise InputError([_unreadable(error)]) from error
    problems = list(files.unknown(known)) if known else []
    if problems:
        raise InputError(problems)
    return {str(key): files[str(key)] for key in files}


def _unreadable(error: Exception) -> Problem:
    """Return a parser's error as one line; the position of a YAML error stands in front."""
    mark = getattr(error, "problem_mark", None)
    where = Position(display_path(Path(mark.name)), mark.line + 1, mark.column + 1) if mark else None
    said = getattr(error, "problem", None) if mark else None
    return Problem(where, f"cannot read the configuration: {said or ' '.join(str(error).split())}")
