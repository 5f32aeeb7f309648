"""Settings: the settings file of a system, read once, validated as a whole, never evaluated (J7, S15).

The file is a flat JSON object. Keys that begin with `crontab.` are those of the runner. All others belong to other
programs and are ignored, except those that a job refers to.
"""

import os
import re
import stat
from typing import AbstractSet, Any, Dict, FrozenSet, Iterator, List, NamedTuple, Tuple

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
    file, own = document.file, {name[len(PREFIX) :]: v for name, v in document.root.items() if name.startswith(PREFIX)}
    problems: List[Problem] = []
    warnings: List[str] = []
    values = {name: key.default for name, key in KEYS.items()}
    enabled = set()
    if status.st_mode & stat.S_IROTH:
        warnings.append(f"{file}: readable for everybody: `chmod o-r {file}` if it contains secrets")
    for short, value in own.items():
        near = message = ""
        if short.startswith(SWITCH):
            on, message = _switch(value)
            enabled |= {short} if on else set()
            if on and short not in switches:
                message, near = "it enables no job of the catalogue", did_you_mean(short, switches)
        elif short in KEYS:
            values[short], message = _convert(KEYS[short], value)
        else:
            hint = did_you_mean(short, KEYS)
            name = f"{file}:{value.line}: `{PREFIX}{short}`"
            warnings.append(f"{name} is unknown and has no effect; {hint}".rstrip("; "))
        if message:
            problems.append(document.problem(value, PREFIX + short, message, near))
    known = switches | SEED_SWITCHES
    useless = [f"`{s}` (line {v.line})" for s, v in own.items() if s.startswith(SWITCH) and s not in known]
    if useless:  # real settings have many: one line
        warnings.append(f"{file}: off, and of no job of the catalogue: {', '.join(useless)}")
    problems += _missing(document, own, values)
    if problems:
        raise BadInput(problems)
    others = {name: v.content for name, v in document.root.items() if isinstance(v.content, (str, int, float, bool))}
    return Settings(file, os.path.realpath(file), values, others, frozenset(enabled), tuple(warnings), document)


def _missing(document: Document, own: Dict[str, Value], values: Dict[str, Any]) -> Iterator[Problem]:
    """Yield the problems of settings that are required, or that another one needs."""
    for short, key in KEYS.items():
        if key.required and short not in own:
            yield Problem(document.file, 1, 1, PREFIX + short, "is not set, but is required")
        elif key.required and own[short].content == "":
            yield document.problem(own[short], PREFIX + short, "is empty, but is required")
    if values["SNAPSHOT_DATABASE"] and not values["SNAPSHOT_LORA"]:
        message = f"needs `{PREFIX}SNAPSHOT_LORA`, the file that the database is dumped to"
        yield document.problem(own["SNAPSHOT_DATABASE"], f"{PREFIX}SNAPSHOT_DATABASE", message)
    nested = document.root.get(PREFIX[:-1])
    if nested and isinstance(nested.content, dict):
        hint = f'keys are flat: `"{PREFIX}CRON_BACKUP"`'
        yield document.problem(nested, PREFIX[:-1], "is an object, which has no effect", hint)


def _convert(key: Key, value: Value) -> Tuple[Any, str]:
    """Return the converted value, and a message if it is not valid."""
    if key.kind == "switch":
        return _switch(value)
    if key.kind == "count":
        return _count(key, value)
    text, message = value.content, ""
    if not isinstance(text, str):
        return key.default, f"found {value.kind}, expected a text"
    if any(ord(char) < ord(" ") or ord(char) == 127 for char in text):  # noqa: PLR2004 - DEL
        message = "contains control characters"
    elif key.kind == "path" and text and not text.startswith("/"):
        message = f"found `{text}`, expected an absolute path"
    elif key.kind == "url" and text and not text.startswith(("http://", "https://")):
        message = "expected a URL that begins with `http://` or `https://`"
    return text, message


def _switch(value: Value) -> Tuple[bool, str]:
    found = {"true": True, "false": False}.get(value.content) if isinstance(value.content, str) else value.content
    if isinstance(found, bool):
        return found, ""
    return False, f"found {_shown(value)}, expected true or false"


def _count(key: Key, value: Value) -> Tuple[int, str]:
    number = value.content
    if isinstance(number, str) and re.match("[0-9]{1,12}$", number):
        number = int(number)
    if isinstance(number, int) and not isinstance(number, bool) and key.least <= number <= LARGEST:
        return number, ""
    return key.default, f"found {_shown(value)}, expected a whole number from {key.least} to {LARGEST}"


def _shown(value: Value) -> str:
    return f"`{value.content}`" if isinstance(value.content, (str, int, float)) else value.kind
