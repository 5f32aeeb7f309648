"""Configuration files, read by invoke's own mechanism."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from invoke.config import Config

from runsdeploy.errors import InputError, Problem


class _Files(Config):
    prefix = "runsdeploy"


def load(project: Path | None) -> Mapping[str, Any]:
    """Return the merged content of the system's, the user's and the project's file; raises InputError."""
    try:
        files = _Files(project_location=project)
        files.load_project()
    except Exception as error:
        raise InputError([Problem(None, f"cannot read the configuration: {error}")]) from error
    return {str(key): files[str(key)] for key in files}
