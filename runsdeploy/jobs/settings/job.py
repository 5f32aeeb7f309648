"""Jobs: what to run, when, with which files backed up; and the texts of theirs that settings are put into.

Texts may name settings in braces: `{crontab.MOX_ROLLE_COMPOSE_YML}`, `{integrations.SD_Lon.import.run_db}`, the first
of several that is set `{mox_stsorgsync.VENV|venv}`, and `{install}`, `{venv}`, `{settings}`; `{{` is a brace. What a
setting says becomes part of one word of a command, of one path, of one variable: it is never parsed again (S16).
"""

import re
from typing import Any, Dict, FrozenSet, Mapping, NamedTuple, Tuple, Union

STAGES = ("imports", "exports", "reports")
PLACEHOLDER = re.compile(r"\{\{|\}\}|\{([^{}]*)\}|[{}]")


class Text(NamedTuple):
    """A text with placeholders, and where it stands."""

    text: str
    file: str
    line: int
    column: int


class File(NamedTuple):
    """A file to back up."""

    path: Text
    required: bool
    """without it the backup is not good"""


class Secret(NamedTuple):
    """A value that the catalogue must not hold, and where it comes from."""

    kind: str
    """one of secret.SOURCES"""
    words: Tuple[Text, ...]


class Job(NamedTuple):
    """One job."""

    name: str
    description: str
    stage: str
    """one of STAGES"""
    enabled_by: str
    """the switch in the settings, without prefix; empty: only run by name"""
    command: Tuple[Text, ...]
    """program and arguments; a shell command is handed to `/bin/sh -c` as it stands"""
    shell: bool
    environment: Dict[str, Union[Text, Secret]]
    directory: Text
    timeout: float
    """seconds"""
    requires: Tuple[Text, ...]
    """full names of settings that must be set"""
    needs: FrozenSet[str]
    """`kerberos`: without a ticket the job fails before it starts"""
    before: Tuple[File, ...]
    after: Tuple[File, ...]
    truncate: Tuple[File, ...]
    """archived with `after`, and then emptied of what was archived"""
    daemon: bool
    """processes that it leaves behind are left alone"""


class Unset(Exception):
    """A text names a setting that is not set; the argument is its name."""


def expand(text: str, names: Mapping[str, Any]) -> str:
    """Return a text with its placeholders filled in; raises Unset."""

    def fill(match: Any) -> str:
        if match.group() in ("{{", "}}"):
            return str(match.group()[0])
        for name in (match.group(1) or "").split("|"):
            found = names.get(name)
            if found not in (None, ""):
                return str(found).lower() if isinstance(found, bool) else str(found)
        raise Unset(match.group(1))

    return PLACEHOLDER.sub(fill, text)
