"""Configuration files, read by invoke's own mechanism. Imports invoke."""

from __future__ import annotations

import errno
import os
import runpy
from collections.abc import Collection, Iterator, Mapping
from os import PathLike
from pathlib import Path
from types import ModuleType
from typing import Any

from invoke.config import Config
from invoke.exceptions import UnpicklableConfigMember

from runsdeploy.errors import InputError, Position, Problem, did_you_mean, display_path


class _Files(Config):
    """The system's, the user's and the project's file, of those that may be read."""

    prefix = "runsdeploy"

    def __init__(self, project: Path | None, readable: Collection[str]) -> None:
        super().__init__(project_location=project, lazy=True)
        self._set(_readable=readable)
        self.load_base_conf_files()
        self.load_project(merge=False)
        self.merge()

    def _load_yaml(self, path: PathLike[str]) -> Any:
        return super()._load_yaml(self._vouched(path))

    _load_yml = _load_yaml

    def _load_json(self, path: PathLike[str]) -> Any:
        return super()._load_json(self._vouched(path))

    def _load_py(self, path: str) -> dict[str, Any]:
        # Not invoke's: that runs the bytecode in `__pycache__` beside the file, which another user may have made.
        names = runpy.run_path(os.fspath(self._vouched(Path(path))))
        data = {name: value for name, value in names.items() if not name.startswith("__")}
        for name, value in data.items():
            if isinstance(value, ModuleType):
                raise UnpicklableConfigMember(f"`{name}` is a module, which cannot be the value of a key")
        return data

    def _vouched(self, path: PathLike[str]) -> PathLike[str]:
        """Return the path; raises FileNotFoundError for a file that appeared after the others were vouched for."""
        if os.fspath(path) not in self._readable:
            raise FileNotFoundError(errno.ENOENT, "not vouched for", os.fspath(path))
        return path

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


def load(project: Path | None, readable: Collection[str], known: Collection[str] = ()) -> Mapping[str, Any]:
    """Return the merged content of the system's, the user's and the project's file; raises InputError.

    Only the files in `readable` are read. Where keys are given as `known`, any other is an error.
    """
    try:
        files = _Files(project, readable)
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
