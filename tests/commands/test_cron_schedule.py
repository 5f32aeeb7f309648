"""Schedules as cron, systemd and people read them."""

from __future__ import annotations

import shutil
import subprocess
from datetime import datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

from runsdeploy.commands.cron.schedule import NICKNAMES, Schedule, read_schedule
from runsdeploy.errors import InputError

START = datetime(2026, 10, 25, 1, 30)  # noqa: DTZ001 - a wall clock


@pytest.mark.parametrize(
    ("text", "words", "timer", "first"),
    [
        ("15 2 * * *", "at 02:15", "OnCalendar=*-*-* 02:15:00", "2026-10-25 02:15"),
        (" 15\t2 * *  * ", "at 02:15", "OnCalendar=*-*-* 02:15:00", "2026-10-25 02:15"),
        ("*/20 * * * *", "every 20 minutes", "OnCalendar=*-*-* *:00,20,40:00", "2026-10-25 01:40"),
        ("0 0 1 * *", "at 00:00, on day 1 of the month", "OnCalendar=*-*-01 00:00:00", "2026-11-01 00:00"),
        ("5 4 * * 7", "at 04:05, only on Sunday", "OnCalendar=Sun *-*-* 04:05:00", "2026-10-25 04:05"),
        (
            "0 6 * jan-mar MON,wed",
            "at 06:00, only on Monday and Wednesday, January through March",
            "OnCalendar=Mon,Wed *-01,02,03-* 06:00:00",
            "2027-01-04 06:00",
        ),
        ("0 0 13 * fri", "at 00:00, on day 13 of the month, or on Friday", "", "2026-10-30 00:00"),
        # O21: cron-descriptor leaves the `or` out where the days are a range.
        (
            "0 0 1,15 * mon-fri",
            "at 00:00, on day 1 and 15 of the month, or Monday through Friday",
            "",
            "2026-10-26 00:00",
        ),
        (
            "0 0 1-7 jan,mar sun,wed",
            "at 00:00, between day 1 and 7 of the month, or on Sunday and Wednesday, only in January and March",
            "",
            "2027-01-01 00:00",
        ),
        (
            "0 12 * * 5-7",
            "at 12:00, Friday through Sunday",
            "OnCalendar=Sun,Fri,Sat *-*-* 12:00:00",
            "2026-10-25 12:00",
        ),
        ("@daily", "at 00:00", "OnCalendar=*-*-* 00:00:00", "2026-10-26 00:00"),
        ("@hourly", "every hour", "OnCalendar=*-*-* *:00:00", "2026-10-25 02:00"),
    ],
)
def test_a_schedule_is_read(text: str, words: str, timer: str, first: str):
    found = read_schedule(text)
    assert (found.line, found.words, found.timer) == (" ".join(text.split()), words, timer)
    assert f"{found.next_times(START, 3)[0]:%Y-%m-%d %H:%M}" == first


def test_a_start_of_the_machine_has_no_times():
    assert read_schedule("@reboot") == Schedule("@reboot", "at each start of the machine", "OnBootSec=1min")
    assert read_schedule("@reboot").next_times(START, 3) == []


@pytest.mark.parametrize(
    ("text", "messages"),
    [
        ("", ["has 0 fields, expected 5"]),
        ("* * * *", ["has 4 fields, expected 5"]),
        ("0 15 2 * * *", ["has 6 fields, expected 5"]),
        ("15 2 * * * root", ["has 6 fields"]),
        ("60 24 0 13 8", ["`60` is not from 0 to 59", "`24`", "`0` is not from 1 to 31", "`13`", "`8` is not"]),
        ("*/0 * * * *", ["a step of 0"]),
        ("5/15 * * * *", ["write `5-59/15`"]),
        ("0 0 * * fri-mon", ["`fri-mon` ends before it begins"]),
        ("0 0 * * sat-7x", ["`7x`"]),
        ("0 0 L * *", ["`L`"]),
        ("0 0 * * 5#3", ["`5#3`"]),
        ("0 0 ? * *", ["`?`"]),
        ("H H * * *", ["`H`", "`H`"]),
        ("0~30 * * * *", ["`0~30`"]),
        ("1,,2 * * * *", ["`` is neither"]),
        ("-1 * * * *", ["`-1`"]),
        ("+1 * * * *", ["`+1`"]),
        ("\u0661 * * * *", ["`\u0661`"]),
        ("% * * * *", ["`%`"]),
        ("0 0 30 2 *", ["never comes"]),
        ("0 0 31 4,6,9,11 *", ["never comes"]),
        ("0 0 */2 * mon", ["crons differ"]),
        ("0 0 1-31 * mon", ["crons differ"]),
        ("@dayly", ["unknown schedule `@dayly`"]),
        ("@Daily", ["unknown schedule"]),
        ("@every 5m", ["unknown schedule"]),
    ],
)
def test_what_not_every_cron_reads_alike_is_refused_with_all_that_is_wrong(text: str, messages: list[str]):
    with pytest.raises(InputError) as refused:
        read_schedule(text)
    assert len(refused.value.problems) >= len(set(messages))
    for message in messages:
        assert message in str(refused.value)


def field(least: int, most: int) -> some.SearchStrategy[str]:
    """Return fields of a schedule, as people write them and as nobody does."""
    number = some.integers(least, most)
    span = some.tuples(number, number).map(lambda two: f"{min(two)}-{max(two)}")
    part = some.one_of(
        number.map(str),
        span,
        some.tuples(some.one_of(some.just("*"), span), some.integers(1, most)).map("{0[0]}/{0[1]}".format),
    )
    return some.one_of(some.just("*"), some.lists(part, min_size=1, max_size=3).map(",".join))


FIELDS = some.tuples(field(0, 59), field(0, 23), field(1, 31), field(1, 12), field(0, 7))


def meant(text: str, least: int, most: int) -> set[int]:
    """Read a field once more, in another way."""
    found = set()
    for part in text.split(","):
        span, _, step = part.partition("/")
        first, _, last = (f"{least}-{most}" if span == "*" else span).partition("-")
        found |= {
            n
            for n in range(least, most + 1)
            if int(first) <= n <= int(last or first) and (n - int(first)) % int(step or 1) == 0
        }
    return found


@settings(max_examples=200, deadline=None)
@given(FIELDS)
def test_next_times_are_those_that_the_fields_say(fields: tuple[str, ...]):
    try:
        schedule = read_schedule(" ".join(fields))
    except InputError as error:
        assert "crons differ" in str(error) or "never comes" in str(error)  # noqa: PT017 - either is right
        return
    assert schedule.words
    minutes, hours, days, months = (meant(*each) for each in zip(fields, (0, 0, 1, 1), (59, 23, 31, 12), strict=False))
    weekdays = {n % 7 for n in meant(fields[4], 0, 7)}

    def day_is_meant(time: datetime) -> bool:
        of_month, of_week = time.day in days, time.isoweekday() % 7 in weekdays
        return (of_month and of_week) if "*" in (fields[2], fields[4]) else (of_month or of_week)

    times = schedule.next_times(START, 3)
    for time in times:
        assert (time.minute in minutes, time.hour in hours, time.month in months, day_is_meant(time)) == (True,) * 4
    # None was passed over: as far as an hour can be looked at minute by minute.
    for minute in range(1, 61):
        time = START + timedelta(minutes=minute)
        if time.minute in minutes and time.hour in hours and time.month in months and day_is_meant(time):
            assert times[0] <= time
            break


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="needs systemd-analyze, of the package systemd")
@pytest.mark.parametrize(
    "text", [*NICKNAMES, "*/7 8-18/3 * feb,dec 1-5", "15 2 29 2 *", "0 0 1,15 * *", "59 23 * * 0,7"]
)
def test_systemd_starts_at_the_same_times(text: str):
    schedule = read_schedule(text)
    calendar = schedule.timer.removeprefix("OnCalendar=")
    said = subprocess.run(
        ["systemd-analyze", "calendar", "--iterations=5", f"--base-time={START:%Y-%m-%d %H:%M:%S} UTC", calendar],
        capture_output=True, text=True, check=True, env={"TZ": "UTC", "PATH": "/usr/bin:/bin", "LC_ALL": "C"},
    ).stdout  # fmt: skip
    times = [line.split()[-3:-1] for line in said.splitlines() if line.endswith(" UTC")]
    assert [" ".join(time) for time in times] == [f"{time:%Y-%m-%d %H:%M:%S}" for time in schedule.next_times(START, 5)]
