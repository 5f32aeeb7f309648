"""The retention rule: which archives are kept and which are deleted; a pure function of a list (J9, J16)."""

import time
from typing import Callable, FrozenSet, List, NamedTuple, Sequence, Set, Tuple

DAY = 86400


class Policy(NamedTuple):
    """How long archives are kept."""

    days: int
    """archives older than this may be deleted; 1 or more"""
    daily: int = 0
    """also keep the last known state of each of that many days; days without one do not count"""
    weekly: int = 0
    """the same for weeks, which start on Monday"""
    monthly: int = 0
    at_least: int = 3
    """number of known states that are kept regardless of age; at least one always is"""


class Candidate(NamedTuple):
    """One archive made by the runner, as far as retention needs it."""

    name: str
    created: float
    """start of its run, seconds since 1970 by the clock at that time"""
    sequence: int
    """number of its run: it decides which archive is newer; times only decide between equal numbers (J9)"""
    good: bool
    """a known state can be restored from it"""
    known: bool
    """it is good, and the state was not suspect when it was made (J26)"""


class Decision(NamedTuple):
    """The decision; every archive is in exactly one of the two sets."""

    keep: FrozenSet[str]
    drop: FrozenSet[str]
    warnings: Tuple[str, ...]


def decide(archives: Sequence[Candidate], now: float, policy: Policy, *, force: bool = False) -> Decision:
    """Decide which archives are kept (J16); times are seconds since 1970, days, weeks and months are those of UTC.

    Archives older than `policy.days` are dropped, except:

    - the newest good one;
    - the newest ones of a known state up to `policy.at_least`: the first of them is `latest`;
    - the last one of a known state of each day, week and month that the policy keeps;
    - archives from the future.

    If the clock seems to have jumped, nothing is dropped (J9). Without `force`, at most half of the good ones are
    dropped at once. Raises ValueError if `policy.days` is less than one.
    """
    if policy.days < 1:
        raise ValueError(f"archives kept for {policy.days} days, expected 1 or more")
    order = sorted(archives, key=_age)
    good = [each for each in order if each.good]
    known = [each for each in good if each.known]
    kept = {each.name for each in (*good[-1:], *known[-max(1, policy.at_least) :])}
    kept |= _calendar([each for each in known if each.created <= now], policy)
    drop = [each for each in order if each.name not in kept and now - each.created > policy.days * DAY]
    warnings = _from_the_future(order, now)
    jump = _clock_jump(order, now, policy.days, len(drop))
    if jump:
        drop, warnings = [], [*warnings, f"no archive is dropped this time: {jump}, is the clock right?"]
    elif not force:
        drop, warnings = _limit_drops(len(good) // 2, drop, warnings)
    gone = frozenset(each.name for each in drop)
    return Decision(frozenset(each.name for each in order) - gone, gone, tuple(warnings))


def _age(archive: Candidate) -> Tuple[int, float, str]:
    return archive.sequence, archive.created, archive.name


def _calendar(known: Sequence[Candidate], policy: Policy) -> Set[str]:
    periods = ((_day, policy.daily), (_week, policy.weekly), (_month, policy.monthly))
    return {name for period, count in periods for name in _last_of_each(period, count, known)}


def _last_of_each(period: Callable[[float], int], count: int, known: Sequence[Candidate]) -> List[str]:
    last = {period(max(0.0, each.created)): each.name for each in known}
    return [last[each] for each in sorted(last, reverse=True)[: max(0, count)]]


def _day(moment: float) -> int:
    return int(moment // DAY)


def _week(moment: float) -> int:
    return (_day(moment) + 3) // 7  # 1970 began on a Thursday


def _month(moment: float) -> int:
    date = time.gmtime(moment)
    return date.tm_year * 12 + date.tm_mon


def _from_the_future(order: Sequence[Candidate], now: float) -> List[str]:
    future = [each for each in order if each.created > now]
    if not future:
        return []
    last = max(future, key=lambda each: each.created)
    days = (last.created - now) / DAY
    return [f"archives from the future are kept: {len(future)}, `{last.name}` by {days:.1f} days, is the clock right?"]


def _clock_jump(order: Sequence[Candidate], now: float, days: int, count: int) -> str:
    """Return why the clock seems to have jumped; empty if it does not.

    A run prunes after it has made its own archive, so the newest archive always agrees with the clock. Therefore the
    two newest good ones are compared too. After a jump, the next run finds two archives of the new clock, and prunes.
    """
    newest = order[-1].created if order else now
    if newest - now > DAY:
        return f"the newest archive is {(newest - now) / DAY:.1f} days ahead of the clock"
    good = [each.created for each in order if each.good]
    steps = [(newest, now), *zip(good[-2:], good[-1:])] if count > 1 else []
    for earlier, later in steps:
        if later - earlier > 2 * days * DAY:
            return f"{(later - earlier) / DAY:.1f} days without a good archive"
        if earlier - later > DAY:
            return f"the newest good archive is {(earlier - later) / DAY:.1f} days older than the one before it"
    return ""


def _limit_drops(most: int, drop: Sequence[Candidate], warnings: List[str]) -> Tuple[List[Candidate], List[str]]:
    """Limit the good archives to drop to `most`, the oldest ones; those that are not good are all dropped."""
    good = [each for each in drop if each.good]
    spared = {each.name for each in good[most:]}
    if spared:
        warnings = [
            *warnings,
            f"{most} of {len(good)} good archives are dropped, at most half of all are dropped at once",
        ]
    return [each for each in drop if each.name not in spared], warnings
