"""Retention never takes the archive that is needed (J9, J16, T21).

The rules are said a second time here, one archive at a time and by counting, and compared with what `keep` decides:
over random histories, over ten simulated years of nights, and over versions of `keep` that are wrong on purpose.
"""

from __future__ import annotations

import datetime as dt
import inspect
import os
import random
import time
import types
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from runsdeploy.jobs.retention import retention
from runsdeploy.jobs.retention.retention import Candidate, Decision, Policy, decide

FULL = os.environ.get("RUNSDEPLOY_TEST_FULL") == "1"
HISTORIES = 100_000 if FULL else 10_000
SEEDS = 100 if FULL else 10
HOUR, DAY = 3600.0, 86400.0
NOON = 1_750_000_000.0
Keep = Callable[..., Decision]


class Case(NamedTuple):
    archives: tuple[Candidate, ...]
    now: float
    policy: Policy
    force: bool


def place(archive: Candidate) -> tuple[int, float, str]:
    return archive.sequence, archive.created, archive.name


def newer(one: Candidate, other: Candidate) -> bool:
    return place(one) > place(other)


def newest(archives: list[Candidate]) -> Candidate | None:
    return next((each for each in archives if not any(newer(other, each) for other in archives)), None)


def date(archive: Candidate) -> dt.datetime:
    return dt.datetime.fromtimestamp(max(0.0, archive.created), dt.timezone.utc)


PERIODS: dict[str, Callable[[Candidate], Any]] = {
    "daily": lambda each: date(each).date(),
    "weekly": lambda each: tuple(date(each).isocalendar())[:2],
    "monthly": lambda each: (date(each).year, date(each).month),
}


def protected(case: Case) -> set[str]:
    """Every archive that must not go, each for its own reason."""
    archives, now, policy, _ = case
    good = [each for each in archives if each.good]
    names = {each.name for each in archives if not now - each.created > policy.days * DAY}
    names |= {each.name for each in good if not any(newer(other, each) for other in good)}
    known = [each for each in good if each.known]
    names |= {each.name for each in known if sum(newer(other, each) for other in known) < max(1, policy.at_least)}
    past = [each for each in known if each.created <= now]
    for kind, period in PERIODS.items():
        of = {each.name: period(each) for each in past}
        last = {of[each.name]: each for each in sorted(past, key=place)}
        names |= {each.name for at, each in last.items() if sum(later > at for later in last) < getattr(policy, kind)}
    return names


def doubtful(case: Case, droppable: int) -> bool:
    """Whether the clock seems to have jumped."""
    archives, now, policy, _ = case
    last = newest(list(archives))
    if last is None or last.created - now > DAY:
        return last is not None
    good = [each for each in archives if each.good]
    first = newest(good)
    second = newest([each for each in good if each != first])
    step = first.created - second.created if first and second else 0.0
    return droppable > 1 and (max(step, now - last.created) > 2 * policy.days * DAY or step < -DAY)


def violations(keep: Keep, case: Case) -> list[str]:
    """Everything that is wrong with a decision."""
    archives, _, _, force = case
    decision = keep(archives, case.now, case.policy, force=force)
    names = {each.name for each in archives}
    kept = protected(case)
    free = [each for each in archives if each.name in names - kept]
    free_good = [each for each in free if each.good]
    gone = [each for each in archives if each.name in decision.drop]
    gone_good = [each for each in gone if each.good]
    jump = doubtful(case, len(free))
    most = len(free_good) if force else sum(each.good for each in archives) // 2
    expected_good = 0 if jump else min(most, len(free_good))
    future = sum(each.created > case.now for each in archives)
    wrong = {
        "not every archive is in exactly one set": decision.keep | decision.drop == names
        and not decision.keep & decision.drop,
        "a protected archive goes": not decision.drop & kept,
        "dropped after a jump of the clock": not (jump and gone),
        "too many or too few good ones go": len(gone_good) == expected_good,
        "a newer good one goes before an older one": not any(
            newer(each, other) for each in gone_good for other in free_good if other.name in decision.keep
        ),
        "an old one that is not good stays": jump or len(gone) - len(gone_good) == len(free) - len(free_good),
        "warnings": len(decision.warnings) == bool(future) + (jump or len(free_good) > most),
        "a warning says another thing": ("from the future" in " ".join(decision.warnings)) == bool(future)
        and ("no archive is dropped" in " ".join(decision.warnings)) == jump,
    }
    return [what for what, held in wrong.items() if not held]


# Histories: an archive is one number, so that hypothesis is quick to draw and to shrink them.
GAPS = (
    DAY,
    DAY,
    DAY,
    0.0,
    HOUR,
    DAY - 1,
    DAY + 1,
    7 * DAY,
    31 * DAY,
    61 * DAY,
    -HOUR,
    -2 * DAY,
    -400 * DAY,
    3650 * DAY,
)
STEPS = (1, 1, 1, 0, 2, -3)
CODES = len(GAPS) * len(STEPS) * 4 * 4
POLICIES = [
    Policy(days, daily, weekly, monthly, at_least)
    for days in (1, 7, 60)
    for daily, weekly, monthly in ((0, 0, 0), (3, 0, 0), (0, 2, 0), (0, 0, 3), (7, 4, 12), (-1, 0, 0))
    for at_least in (3, 0, 1, 5)
]
ENDS = (0.0, HOUR, DAY, 7 * DAY, 60 * DAY, 60 * DAY + 1, 121 * DAY, 130 * DAY, -HOUR, -DAY, -DAY - 1, -3650 * DAY)


def history(codes: list[int], end: int, policy: int, *, force: bool) -> Case:
    archives: list[Candidate] = []
    created, sequence = NOON, 5
    for number, code in enumerate(codes):
        rest, gap = divmod(code, len(GAPS))
        rest, step = divmod(rest, len(STEPS))
        created, sequence = created + GAPS[gap], sequence + STEPS[step]
        archives.append(Candidate(f"{number:03}", created, sequence, good=rest % 4 != 0, known=rest // 4 > 1))
    shuffled = tuple(archives[::2] + archives[1::2])
    return Case(shuffled, created + ENDS[end], POLICIES[policy], force)


def random_case(generator: random.Random) -> Case:
    codes = [generator.randrange(CODES) for _ in range(generator.randrange(20))]
    force = generator.random() < 0.3
    return history(codes, generator.randrange(len(ENDS)), generator.randrange(len(POLICIES)), force=force)


@pytest.mark.timeout(3600)
@settings(
    max_examples=HISTORIES // 10, deadline=None, database=None, print_blob=True, suppress_health_check=list(HealthCheck)
)
@given(
    st.lists(st.integers(0, CODES - 1), max_size=20),
    st.integers(0, len(ENDS) - 1),
    st.integers(0, len(POLICIES) - 1),
    st.booleans(),
)
def test_J16_no_history_makes_retention_break_a_rule(codes: list[int], end: int, policy: int, force: bool):  # noqa: FBT001  # hypothesis fills it
    case = history(codes, end, policy, force=force)
    assert violations(decide, case) == []


def test_J16_T21_random_histories_by_seed_break_no_rule_either():
    seed = random.randrange(2**32)
    print("seed", seed)
    generator = random.Random(seed)
    for _ in range(HISTORIES):
        case = random_case(generator)
        assert violations(decide, case) == [], case


# Ten years of nights.
def nights(generator: random.Random, *, stepping: bool) -> Iterator[tuple[float, bool, bool]]:
    """What the clock says, whether the backup is good and whether the imports passed; the last year is quiet."""
    offset, true = 0.0, NOON
    for night in range(3650):
        true += DAY + generator.uniform(-HOUR, HOUR)
        if stepping and generator.random() < 0.01:
            offset = generator.choice((1, -1)) * generator.choice((1, HOUR, DAY, 40 * DAY, 400 * DAY, 3650 * DAY))
        if generator.random() < 0.05 or night > 3285:
            offset = 0.0
        bad = generator.random() < 0.2
        yield true + offset, not (bad and generator.random() < 0.5), not bad


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("stepping", [False, True], ids=["right clock", "stepping clock"])
def test_T21_in_ten_years_of_nights_what_a_restore_needs_is_always_there(*, stepping: bool):
    start = random.randrange(2**32)
    for seed in range(start, start + SEEDS):
        print("seed", seed, "stepping", stepping)
        simulate(random.Random(seed), stepping=stepping)


def simulate(generator: random.Random, *, stepping: bool) -> None:
    policy = Policy(generator.choice((1, 7, 60)), generator.choice((0, 7)), generator.choice((0, 4)), 12, 3)
    held: dict[str, Candidate] = {}
    all_good: list[str] = []
    all_known: list[str] = []
    suspect = False
    for night, (now, good, passed) in enumerate(nights(generator, stepping=stepping)):
        name = f"{night:04}"
        held[name] = Candidate(name, now, night + 1, good, known=not suspect)
        all_good += [name] if good else []
        all_known += [name] if good and not suspect else []
        suspect = not passed if good else suspect  # without a good backup no import runs
        if good:  # the runner prunes only then
            case = Case(tuple(held.values()), now, policy, force=False)
            if night % 61 == 0:
                assert violations(decide, case) == [], case
            for gone in decide(*case[:3]).drop:
                del held[gone]
        assert set(all_good[-1:]) <= set(held), night
        assert set(all_known[-3:]) <= set(held), night
    # A wrong date comes true one day: only archives with a right one are few for sure.
    right = [each for each in held.values() if abs(each.created - NOON - int(each.name) * DAY) < 5 * DAY]
    assert len(right) <= policy.days + 1 + 3 + 2 + policy.daily + policy.weekly + policy.monthly
    assert stepping or len(right) == len(held)


# Single rules, to be read.
def archives(*ages: float, now: float = NOON, good: str = "", known: str = "") -> list[Candidate]:
    """Archives of these ages in days, made in this order; marks `-` say which are not good and which are suspect."""
    return [
        Candidate(f"{at}", now - age * DAY, at + 1, good[at : at + 1] != "-", known[at : at + 1] != "-")
        for at, age in enumerate(ages)
    ]


def test_J16_nothing_to_decide_is_no_decision():
    assert decide([], NOON, Policy(60)) == Decision(frozenset(), frozenset(), ())


def test_J16_three_good_ones_stay_whatever_their_age_and_the_older_ones_go():
    decision = decide(archives(100, 99, 98, 97, 96, 95), NOON, Policy(60))
    assert decision.drop == {"0", "1", "2"}
    assert decision.warnings == ()


def test_J16_an_archive_of_exactly_the_days_stays():
    assert decide(archives(60 + 1e-6, 60, 2, 1, 0), NOON, Policy(60)).drop == {"0"}


def test_J16_archives_that_are_not_good_do_not_count_and_go_by_age():
    assert decide(archives(90, 80, 79, 78, 3, 2, 1, good="    ---"), NOON, Policy(60)).drop == {"0"}
    assert decide(archives(90, 80, 79, 78, 77, good="-   -"), NOON, Policy(60)).drop == {"0", "4"}


def test_J16_the_only_good_one_stays_even_if_nothing_is_wanted():
    held = archives(900, 80, 70, 1, good=" ---")
    assert decide(held, NOON, Policy(60, at_least=0)).drop == {"1", "2"}
    assert decide(held, NOON, Policy(60, at_least=-5), force=True).drop == {"1", "2"}


def test_J16_J26_the_known_state_and_the_two_before_it_stay_however_many_nights_fail():
    """N3: with 7 days, the nights after the first failed import do not push out what was before it."""
    held = archives(*range(19, -1, -1), known=" " * 8 + "-" * 12)
    for _ in range(5):
        held = [each for each in held if each.name in decide(held, NOON, Policy(7)).keep]
    assert [each.name for each in held] == ["5", "6", "7", *(f"{at}" for at in range(12, 20))]


def test_J16_the_newest_good_one_stays_also_if_it_is_suspect():
    held = archives(99, 98, 97, 96, 95, known="    -")
    assert decide(held, NOON, Policy(60)).drop == {"0"}


def test_J16_at_most_half_of_the_good_ones_go_at_once_the_oldest_first_unless_forced():
    held = archives(*range(98, 58, -1), 1)
    decision = decide(held, NOON, Policy(30, at_least=1))
    assert decision.drop == {str(each) for each in range(20)}
    assert "20 of 40 good archives" in decision.warnings[0]
    assert len(decide(held, NOON, Policy(30, at_least=1), force=True).drop) == 40


def test_J9_order_rests_on_the_sequence_not_on_the_clock():
    held = [Candidate("old clock", 0.0, 9, good=True, known=True), *archives(99, 98, 97)]
    assert decide(held, NOON, Policy(60, at_least=1), force=True).keep >= {"old clock"}


def test_J9_an_archive_from_the_future_stays_with_a_warning():
    held = archives(99, 98, -400, 3, 2, 1, 0)
    decision = decide(held, NOON, Policy(60))
    assert decision.drop == {"0", "1"}
    assert decision.warnings == ("archives from the future are kept: 1, `2` by 400.0 days, is the clock right?",)


@pytest.mark.parametrize("force", [False, True])
@pytest.mark.parametrize(
    ("ages", "warning"),
    [
        ((99, 98, 97, 96, 3, 2, 1, -2), "2.0 days ahead"),
        ((990, 989, 988, 987, 986, 121), "121.0 days without"),
        ((3990, 3989, 3988, 3987, 3986, 0), "3986.0 days without"),
        ((99, 98, 97, 96, 3, -30, 0), "30.0 days older"),
    ],
    ids=["newest in the future", "long without", "clock went ahead before this run", "clock went back"],
)
def test_J9_a_jump_of_the_clock_suspends_dropping(ages: tuple[float, ...], warning: str, *, force: bool):
    decision = decide(archives(*ages), NOON, Policy(60), force=force)
    assert decision.drop == frozenset()
    assert warning in decision.warnings[-1]


def test_J9_the_run_after_the_jump_goes_on():
    assert decide(archives(3990, 3989, 3988, 3987, 3986, 1, 0), NOON, Policy(60)).drop == {"0", "1", "2"}


def test_J16_the_last_good_one_of_each_day_week_and_month_stays():
    now = dt.datetime(2026, 3, 31, 12, tzinfo=dt.timezone.utc).timestamp()
    held = archives(*(hours / 24 for hours in range(400 * 24, -1, -6)), now=now)
    decision = decide(held, now, Policy(1, 3, 2, 4, 1), force=True)
    kept = [f"{date(each):%Y-%m-%d %H}" for each in held if each.name in decision.keep]
    months = ["2025-12-31 18", "2026-01-31 18", "2026-02-28 18"]
    assert kept[:4] == [*months, "2026-03-29 18"]  # a Sunday: the last of its week, and of its day
    assert set(kept[4:]) == {"2026-03-30 12", "2026-03-30 18", "2026-03-31 00", "2026-03-31 06", "2026-03-31 12"}


def test_J16_days_without_an_archive_do_not_count():
    assert decide(archives(300, 200, 100, 50, 5), NOON, Policy(10, daily=4, at_least=1), force=True).drop == {"0"}


@pytest.mark.parametrize("days", [0, -1])
def test_J16_less_than_a_day_is_refused(days: int):
    with pytest.raises(ValueError, match="expected 1 or more"):
        decide(archives(1), NOON, Policy(days))


@pytest.mark.parametrize("now", [0.0, 1.0, -1e9, 1e12])
def test_J9_no_time_makes_it_fail_or_take_the_newest(now: float):
    held = [*archives(9, 8, 7, 6, 0), Candidate("b", -1e12, 99, good=True, known=False)]
    assert decide(held, now, Policy(1, 9, 9, 9)).keep >= {"b", "4", "3", "2"}


@pytest.fixture
def zone() -> Iterator[Callable[[str], None]]:
    before = os.environ.get("TZ")

    def put(name: str | None) -> None:
        os.environ.pop("TZ", None)
        os.environ.update({"TZ": name} if name is not None else {})
        time.tzset()

    yield put
    put(before)


@pytest.mark.parametrize("name", ["Europe/Copenhagen", "Indian/Reunion", "Pacific/Kiritimati", "America/Los_Angeles"])
def test_J9_time_zones_and_summer_time_change_no_decision(zone: Callable[[str], None], name: str):
    start = dt.datetime(2025, 10, 20, tzinfo=dt.timezone.utc).timestamp()
    held = [Candidate(f"{at}", start + at * HOUR / 2, at, good=True, known=True) for at in range(400)]
    decisions = []
    for each in ("UTC", name):
        zone(each)
        decisions.append([decide(held, start + at * HOUR, Policy(1, 7, 4, 3), force=True) for at in range(150, 220)])
    assert decisions[0] == decisions[1]


# Versions of decide() that are wrong: what is not noticed here is not tested.
MUTANTS = [
    ("archive.sequence, archive.created,", "archive.created, archive.sequence,"),
    ("archive.sequence, archive.created,", "-archive.sequence, archive.created,"),
    ("good = [each for each in order if each.good]\n    known", "good = list(order)\n    known"),
    ("known = [each for each in good if each.known]", "known = good"),
    ("known = [each for each in good if each.known]", "known = [each for each in order if each.known]"),
    ("(*good[-1:], *known", "(*good[:0], *known"),
    ("(*good[-1:], *known", "(*good[:1], *known"),
    ("(*good[-1:], *known", "(*order[-1:], *known"),
    ("known[-max(1, policy.at_least) :]", "known[: max(1, policy.at_least)]"),
    ("known[-max(1, policy.at_least) :]", "order[-max(1, policy.at_least) :]"),
    ("known[-max(1, policy.at_least) :]", "known[-max(1, policy.at_least - 1) :]"),
    ("known[-max(1, policy.at_least) :]", "known[-max(1, 3) :]"),
    ("known[-max(1, policy.at_least) :]", "known[len(known) - policy.at_least :]"),
    ("max(1, policy.at_least)", "max(2, policy.at_least)"),
    ("kept |= _calendar([each", "kept &= _calendar([each"),
    ("in known if each.created <= now]", "in known if each.created >= now]"),
    ("in known if each.created <= now]", "in known]"),
    ("in known if each.created <= now]", "in good if each.created <= now]"),
    ("now - each.created > policy.days * DAY", "now - each.created >= policy.days * DAY"),
    ("now - each.created > policy.days * DAY", "now - each.created < policy.days * DAY"),
    ("now - each.created > policy.days * DAY", "abs(now - each.created) > policy.days * DAY"),
    ("now - each.created > policy.days * DAY", "now - each.created > policy.days * 3600"),
    ("each.name not in kept and", "each.name not in kept or"),
    ("each.name not in kept and", ""),
    ("    if jump:\n", "    if jump and not force:\n"),
    ("    if jump:\n", "    if False:\n"),
    ("drop, warnings = [], [*warnings,", "drop, warnings = drop[:1], [*warnings,"),
    ("    elif not force:", "    elif force:"),
    ("len(good) // 2", "len(good) // 2 + 1"),
    ("len(good) // 2", "len(good) // 3"),
    ("len(good) // 2", "len(order) // 2"),
    ("(_week, policy.weekly), ", ""),
    ("(_day, policy.daily)", "(_day, policy.weekly)"),
    ("reverse=True", "reverse=False"),
    ("[: max(0, count)]", "[: max(0, count) + 1]"),
    ("[: max(0, count)]", "[: count]"),
    ("_day(moment) + 3)", "_day(moment) + 2)"),
    ("date.tm_year * 12 + date.tm_mon", "date.tm_mon"),
    ("each.created > now]", "each.created < now]"),
    ("if newest - now > DAY:", "if newest - now > 30 * DAY:"),
    ("if newest - now > DAY:", "if newest - now >= DAY:"),
    ("if count > 1 else []", "if count > 0 else []"),
    ("if count > 1 else []", "if count > 2 else []"),
    ("[(newest, now), *zip", "[*zip"),
    (", *zip(good[-2:], good[-1:])]", "]"),
    ("later - earlier > 2 * days * DAY", "later - earlier > 3 * days * DAY"),
    ("later - earlier > 2 * days * DAY", "later - earlier > days * DAY"),
    ("earlier - later > DAY", "earlier - later > 1000 * DAY"),
    ("good[most:]", "good[:most]"),
    ("good[most:]", "good[most + 1 :]"),
    ("if each.name not in spared]", "if each.good and each.name not in spared]"),
]


@pytest.fixture(scope="module")
def cases() -> list[Case]:
    generator = random.Random(20260131)
    return [random_case(generator) for _ in range(4000)]


def mutant(source: str) -> Keep:
    module = types.ModuleType("mutant")
    exec(compile(source, "mutant", "exec"), module.__dict__)  # noqa: S102  # source of our own
    return module.decide  # type: ignore[no-any-return]


def test_J16_the_rules_hold_for_the_unchanged_source(cases: list[Case]):
    unchanged = mutant(inspect.getsource(retention))
    assert not [case for case in cases if violations(unchanged, case)]


@pytest.mark.parametrize(("old", "new"), MUTANTS, ids=[f"{old.strip()} -> {new.strip()}" for old, new in MUTANTS])
def test_T20_a_planted_mistake_in_retention_is_noticed(cases: list[Case], old: str, new: str):
    source = inspect.getsource(retention)
    assert source.count(old) == 1, "the mutant has no place"
    wrong = mutant(source.replace(old, new))
    assert any(violations(wrong, case) for case in cases)
