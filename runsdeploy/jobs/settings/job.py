"""Jobs: what to run, when, and which files to back up; and how settings are inserted into their texts.

A text may contain settings in braces: `{crontab.MOX_ROLLE_COMPOSE_YML}`, `{integrations.SD_Lon.import.run_db}`, the
first of several that is set, `{mox_stsorgsync.VENV|venv}`, and `{install}`, `{venv}`, `{settings}`; `{{` is a brace.
The value becomes part of one word of a command, one path or one variable; it is never parsed again (S16).
"""

import re
from typing import Any, Dict, FrozenSet, Mapping, NamedTuple, Tuple, Union

STAGES = ("imports", "exports", "reports", "always")
"""in the order in which they run; the jobs of the last one run whatever happened"""
PLACEHOLDER = re.compile(r"\{\{|\}\}|\{([^{}]*)\}|[{}]")


class Text(NamedTuple):
    """A text with placeholders, and its position."""

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
    """A value that the catalogue must not contain, by the file that holds it."""

    file: Text


class Job(NamedTuple):
    """One job."""

    name: str
    description: str
    stage: str
    """one of STAGES"""
    enabled_by: str
    """switch in the settings, without prefix; empty if the job only runs by name"""
    command: Tuple[Text, ...]
    """program and arguments; the text of a shell command is passed to `/bin/sh -c` unchanged"""
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
    """archived with `after`; the archived bytes are then cut off"""
    daemon: bool
    """processes that it leaves behind are not ended"""
    required: bool
    """if it does not pass, the jobs after it in its stage do not run, and after an import no other stage either"""
    place: Tuple[Tuple[str, Text], ...]
    """`before` or `after`, each with the job beside which it runs; empty: behind all others"""


class Unset(Exception):
    """A text refers to a setting that is not set; the argument is its name."""


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
