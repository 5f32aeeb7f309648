"""Schedules: when cron starts something, as cron, systemd and people read it.

Accepted is what every cron accepts alike: five fields of numbers, names, ranges, steps and lists, and the
nicknames. What some crons take for something else (`5/15`, `fri-mon`, `L`, `H`) is refused.
"""

from __future__ import annotations

import re
from datetime import datetime

from cron_descriptor import FormatException, Options, get_description
from croniter import CroniterBadDateError, croniter
from msgspec import Struct

from runsdeploy.errors import InputError, Problem, did_you_mean

NICKNAMES = {
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
    "@monthly": "0 0 1 * *",
    "@weekly": "0 0 * * 0",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@hourly": "0 * * * *",
}
"""crontab(5), with the fields that they stand for"""

BOOT = "@reboot"

_PART = re.compile(r"(?:\*|(?P<first>[A-Za-z0-9]+)(?:-(?P<last>[A-Za-z0-9]+))?)(?:/(?P<step>[0-9]{1,4}))?")
_DAYS = ("Sun", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat")
_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")


class Schedule(Struct, frozen=True):
    """When something is started."""

    line: str
    """as a crontab has it, e.g. `15 2 * * *`"""
    words: str
    """the same for people"""
    timer: str
    """the setting of a systemd timer, e.g. `OnCalendar=*-*-* 02:15:00`; empty if systemd cannot say it"""
    lists: str = ""
    """the five fields with every value written out: croniter takes `1-1` for every day; empty without times"""

    def next_times(self, start: datetime, count: int) -> list[datetime]:
        """Return the next times after one, by the same clock; none for a start of the machine."""
        if not self.lists:
            return []
        times = croniter(self.lists, start)
        return [times.get_next(datetime) for _ in range(count)]


class _Kind(Struct, frozen=True):
    """What one of the five fields may hold."""

    name: str
    least: int
    most: int
    names: tuple[str, ...] = ()
    """in order, the first for `least`"""


_KINDS = (
    _Kind("minute", 0, 59),
    _Kind("hour", 0, 23),
    _Kind("day of the month", 1, 31),
    _Kind("month", 1, 12, _MONTHS),
    _Kind("day of the week", 0, 7, tuple(day.lower() for day in _DAYS)),
)


def read_schedule(text: str) -> Schedule:
    """Return the schedule that a text means; raises InputError with all that is wrong with it."""
    line = " ".join(text.split())
    if line == BOOT:
        return Schedule(line, "at each start of the machine", "OnBootSec=1min")
    if line.startswith("@"):
        if line not in NICKNAMES:
            hint = did_you_mean(line, [*NICKNAMES, BOOT]) or f"expected one of {', '.join([*NICKNAMES, BOOT])}"
            raise InputError([Problem(None, f"unknown schedule `{line}`", hint)])
        fields = NICKNAMES[line].split()
    else:
        fields = line.split()
    if len(fields) != len(_KINDS):
        message = f"schedule `{text}` has {len(fields)} fields, expected 5: minute hour day month weekday"
        raise InputError([Problem(None, message, "e.g. `15 2 * * *`, every day at 02:15")])
    problems: list[Problem] = []
    values = [_values(field, kind, problems) for field, kind in zip(fields, _KINDS, strict=True)]
    if not problems and _ambiguous(fields, values):
        hint = "write the days out, or leave one of the two fields `*`"
        problems.append(Problem(None, f"schedule `{line}`: crons differ on which days these two fields mean", hint))
    lists = " ".join(_list(each, kind, "") for each, kind in zip(values, _KINDS, strict=True))
    if not problems and not _comes(lists):
        problems.append(Problem(None, f"schedule `{line}` never comes: there is no such day"))
    if problems:
        raise InputError(problems)
    return Schedule(line, _words(fields, lists), _timer(fields, values), lists)


def _values(field: str, kind: _Kind, problems: list[Problem]) -> frozenset[int]:
    """Return the values that a field means."""
    found: set[int] = set()
    for part in field.split(","):
        try:
            found.update(_part_values(part, kind))
        except ValueError as error:
            problems.append(Problem(None, f"`{field}` is no {kind.name} of a schedule: {error}"))
    # Sunday is 0 and 7.
    return frozenset(value % 7 for value in found) if kind.names[:1] == ("sun",) else frozenset(found)


def _part_values(part: str, kind: _Kind) -> range:
    """Return the values of one part of a list; raises ValueError."""
    match = _PART.fullmatch(part)
    if not match:
        raise ValueError(f"`{part}` is neither `*`, a number, a range nor a step")
    step = int(match["step"] or 1)
    if not step:
        raise ValueError("a step of 0")
    if not match["first"]:
        return range(kind.least, kind.most + 1, step)
    first = _number(match["first"], kind)
    if not match["last"]:
        if match["step"]:
            raise ValueError(f"write `{first}-{kind.most}/{step}`: some crons take `{part}` for `{first}`")
        return range(first, first + 1)
    last = _number(match["last"], kind)
    if last < first:
        raise ValueError(f"`{part}` ends before it begins")
    return range(first, last + 1, step)


def _number(word: str, kind: _Kind) -> int:
    """Return a number or a name as a number; raises ValueError."""
    if word.lower() in kind.names:
        return kind.names.index(word.lower()) + kind.least
    if not re.fullmatch(r"[0-9]{1,2}", word) or not kind.least <= int(word) <= kind.most:
        raise ValueError(f"`{word}` is not from {kind.least} to {kind.most}")
    return int(word)


def _ambiguous(fields: list[str], values: list[frozenset[int]]) -> bool:
    """Say whether crons differ on the days: of two restricted fields one is enough, but not if it begins with `*`."""
    days, weekdays = fields[2], fields[4]
    all_days = len(values[2]) == 31 or len(values[4]) == len(_DAYS)  # noqa: PLR2004 - the longest month
    return days != "*" != weekdays and (days.startswith("*") or weekdays.startswith("*") or all_days)


def _list(values: frozenset[int], kind: _Kind, width: str = "02") -> str:
    """Return values written out, `*` for all."""
    every = kind.most - kind.least + (0 if kind.most == 7 else 1)  # noqa: PLR2004 - Sunday again
    return "*" if len(values) == every else ",".join(f"{value:{width}}" for value in sorted(values))


def _comes(lists: str) -> bool:
    try:
        croniter(lists, datetime(2000, 1, 1)).get_next()  # noqa: DTZ001 - a calendar, no point in time
    except CroniterBadDateError:
        return False
    return True


def _words(fields: list[str], lists: str) -> str:
    """Return a schedule in words."""
    minute, hour, days, month, weekdays = fields
    if days == "*" or weekdays == "*":
        return _described(fields, lists)
    # cron starts on either of the two; cron-descriptor says `Monday through Friday` as if both had to hold.
    first = _described([minute, hour, days, "*", "*"], lists)
    second, season = (_described(["*", "*", "*", *each], lists).partition(", ")[2]
                      for each in (("*", weekdays), (month, "*")))  # fmt: skip
    return ", ".join(filter(None, (first, f"or {second.removeprefix('only ')}", season)))


def _described(fields: list[str], lists: str) -> str:
    options = Options()
    options.use_24hour_time_format = True
    try:
        words = str(get_description(" ".join(fields), options))
    except FormatException:
        # It knows most of what people write, `0,*/2` for one it does not.
        every = lists.split()
        written_out = (one if field != "*" else field for field, one in zip(fields, every, strict=True))
        words = str(get_description(" ".join(written_out), options))
    return words[0].lower() + words[1:]


def _timer(fields: list[str], values: list[frozenset[int]]) -> str:
    """Return the schedule as a systemd timer has it, lists written out: systemd before 2016 knows no ranges."""
    if fields[2] != "*" != fields[4]:
        # cron starts on either of the two, systemd only where both hold.
        return ""
    minutes, hours, days, months = (_list(each, kind) for each, kind in zip(values[:4], _KINDS, strict=False))
    weekdays = ",".join(day for number, day in enumerate(_DAYS) if number in values[4])
    weekdays = "" if len(values[4]) == len(_DAYS) else f"{weekdays} "
    return f"OnCalendar={weekdays}*-{months}-{days} {hours}:{minutes}:00"
