"""Settings: the settings file of a system, read once, validated as a whole, never evaluated (J7, S15).

The file is a flat JSON object. Keys that begin with `crontab.` are those of the runner. All others belong to other
programs and are ignored, except those that a job refers to.
"""

import os
import re
import stat
from typing import AbstractSet, Any, Dict, FrozenSet, List, NamedTuple, Optional, Tuple

from ..errors import BadInput, Problem, did_you_mean
from .document import Document, Value

PREFIX = "crontab."
SWITCH = "RUN_"
SEED_SWITCHES = frozenset(
    {
        "RUN_CHECK_AD_CONNECTIVITY",
        "RUN_SD_CHANGED_AT",
        "RUN_SD_FIX_DEPARTMENTS",
        "RUN_SD_DB_OVERVIEW",
        "RUN_MOX_STS_ORGSYNC",
        "RUN_MOX_ROLLE",
        "RUN_CPR_UUID",
    }
)
"""switches that exist in the settings of every system; without their jobs in the catalogue they have no effect"""
LARGEST = 10**9
"""limit of all numbers"""


class Key(NamedTuple):
    """Definition of one setting."""

    kind: str
    """`text`, `path` (absolute), `count` (a whole number, as JSON number or text), `switch`, or `url`"""
    default: Any
    least: int = 0
    """lowest value of a count"""
    required: bool = False


KEYS = {
    "SVC_USER": Key("text", ""),
    "SVC_KEYTAB": Key("path", ""),
    "CRON_BACKUP": Key("path", "", required=True),
    "CRON_LOG_FILE": Key("path", ""),
    "BACKUP_SAVE_DAYS": Key("count", 60, 1),
    "MOX_ROLLE_COMPOSE_YML": Key("path", ""),
    "SNAPSHOT_LORA": Key("path", ""),
    # New in this runner; the historical script took BACKUP_MAX_SECONDS_AGE and VENV from its environment.
    "BACKUP_MAX_SECONDS_AGE": Key("count", 86400, 1),
    "INSTALL_DIR": Key("path", ""),
    "VENV": Key("path", ""),
    "SNAPSHOT_DATABASE": Key("text", ""),
    "SNAPSHOT_END_MARK": Key("switch", default=False),
    "BACKUP_KEEP_DAILY": Key("count", 0),
    "BACKUP_KEEP_WEEKLY": Key("count", 0),
    "BACKUP_KEEP_MONTHLY": Key("count", 0),
    "BACKUP_REQUIRE_MOUNT": Key("switch", default=False),
    "TIMEOUT_SECONDS": Key("count", 72000, 1),
    "METRICS_FILE": Key("path", ""),
    "PING_URL": Key("url", ""),
}
"""all settings except the switches of jobs, without the prefix"""


class Settings(NamedTuple):
    """Validated settings."""

    path: str
    """path of the file as given"""
    real: str
    """its real path"""
    values: Dict[str, Any]
    """value or default of every setting of the runner, without the prefix"""
    others: Dict[str, Any]
    """all texts, numbers and booleans of the file, by full name, including those of the runner"""
    enabled: FrozenSet[str]
    """switches that are on"""
    warnings: Tuple[str, ...]
    document: Document

    def place(self, name: str) -> Tuple[int, int]:
        """Return line and column of a key of the file; 0 and 0 if it is missing."""
        value = self.document.root.get(name)
        return (value.line, value.column) if value else (0, 0)


def validate(document: Document, status: os.stat_result, switches: AbstractSet[str]) -> Settings:
    """Return the settings of a file; `switches` are those of the catalogue. Raises BadInput with all problems."""
    problems: List[Problem] = []
    values = {name: key.default for name, key in KEYS.items()}
    enabled, warnings = set(), _open_to_others(document.file, status)
    for name, value in document.root.items():
        if not name.startswith(PREFIX):
            continue
        short = name[len(PREFIX) :]
        if short.startswith(SWITCH):
            on, message = _switch(value)
            enabled |= {short} if on else set()
            if on and short not in switches:
                message = "it enables no job of the catalogue"
        elif short in KEYS:
            values[short], message = _convert(KEYS[short], value)
        else:
            hint = did_you_mean(short, KEYS)
            warnings.append(f"{document.file}:{value.line}: `{name}` is unknown and has no effect; {hint}".rstrip("; "))
            continue
        if message:
            near = did_you_mean(short, switches) if "no job" in message else ""
            problems.append(document.problem(value, name, message, near))
    warnings += _useless(document, switches | SEED_SWITCHES)
    problems += _missing(document, values)
    if values["SNAPSHOT_DATABASE"] and not values["SNAPSHOT_LORA"]:
        name = f"{PREFIX}SNAPSHOT_DATABASE"
        message = f"needs `{PREFIX}SNAPSHOT_LORA`, the file that the database is dumped to"
        problems.append(document.problem(document.root[name], name, message))
    nested = document.root.get(PREFIX[:-1])
    if nested and isinstance(nested.content, dict):
        hint = f'keys are flat: `"{PREFIX}CRON_BACKUP"`'
        problems.append(document.problem(nested, PREFIX[:-1], "is an object, which has no effect", hint))
    if problems:
        raise BadInput(problems)
    others = {name: v.content for name, v in document.root.items() if isinstance(v.content, (str, int, float, bool))}
    real = os.path.realpath(document.file)
    return Settings(document.file, real, values, others, frozenset(enabled), tuple(warnings), document)


def _missing(document: Document, values: Dict[str, Any]) -> List[Problem]:
    return [
        Problem(document.file, 1, 1, PREFIX + name, "is not set, but is required")
        for name, key in KEYS.items()
        if key.required and not values[name] and not _given(document, name)
    ] + [
        document.problem(document.root[PREFIX + name], PREFIX + name, "is empty, but is required")
        for name, key in KEYS.items()
        if key.required and _given(document, name) and document.root[PREFIX + name].content == ""
    ]


def _given(document: Document, name: str) -> bool:
    return PREFIX + name in document.root


def _open_to_others(file: str, status: os.stat_result) -> List[str]:
    warnings = []
    if status.st_mode & stat.S_IROTH:
        warnings.append(f"{file}: readable for everybody: `chmod o-r {file}` if it contains secrets")
    return warnings


def _useless(document: Document, known: AbstractSet[str]) -> List[str]:
    """Return a warning of the switches that are off and of no job: real settings have many, so it is one line."""
    keys = [(name, value.line) for name, value in document.root.items() if name.startswith(PREFIX)]
    names = [(name[len(PREFIX) :], line) for name, line in keys]
    found = [f"`{name}` (line {line})" for name, line in names if name.startswith(SWITCH) and name not in known]
    return [f"{document.file}: off, and of no job of the catalogue: {', '.join(found)}"] if found else []


def _convert(key: Key, value: Value) -> Tuple[Any, str]:
    """Return the converted value, and a message if it is not valid."""
    if key.kind == "switch":
        return _switch(value)
    if key.kind == "count":
        return _count(key, value)
    if not isinstance(value.content, str):
        return key.default, f"found {value.kind}, expected a text"
    return value.content, _text_problem(key, value.content)


def _text_problem(key: Key, text: str) -> str:
    if any(ord(char) < ord(" ") or ord(char) == 127 for char in text):  # noqa: PLR2004 - DEL
        return "contains control characters"
    if key.kind == "path" and text and not text.startswith("/"):
        return f"found `{text}`, expected an absolute path"
    if key.kind == "url" and text and not text.startswith(("http://", "https://")):
        return "expected a URL that begins with `http://` or `https://`"
    return ""


def _switch(value: Value) -> Tuple[bool, str]:
    words = {"true": True, "false": False}
    found = words.get(value.content) if isinstance(value.content, str) else value.content
    if isinstance(found, bool):
        return found, ""
    shown = f"`{value.content}`" if isinstance(value.content, (str, int, float)) else value.kind
    return False, f"found {shown}, expected true or false"


def _count(key: Key, value: Value) -> Tuple[int, str]:
    number: Optional[int] = None
    if isinstance(value.content, str) and re.match("[0-9]{1,12}$", value.content):
        number = int(value.content)
    elif isinstance(value.content, int) and not isinstance(value.content, bool):
        number = value.content
    if number is not None and key.least <= number <= LARGEST:
        return number, ""
    shown = f"`{value.content}`" if isinstance(value.content, (str, int, float)) else value.kind
    return key.default, f"found {shown}, expected a whole number from {key.least} to {LARGEST}"
