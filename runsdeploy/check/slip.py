"""Slips: names that differ from a known one by a typing error, and by nothing that has a meaning.

Nearness as in `did_you_mean` helps where a name is known to be wrong. Here it is the only evidence: `is_ipv4` and
`is_ipv6`, or `msg_info` and `einfo`, are names of their own.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

LONG = 8
"""characters of a name in which two letters may be wrong; in a shorter one, one"""

SHORT_WORD = 3
"""characters of a word between underscores in which another letter makes another word: `get_id`, `get_ip`"""


def slip_of(name: str, known: Iterable[str]) -> str:
    """Return the known name that was probably meant; empty if there is none, or if `name` is known."""
    names = set(known)
    if name in names:
        return ""
    found = [(distance, each) for each in names if (distance := _distance(name, each))]
    return min(found)[1] if found else ""


def _distance(name: str, other: str) -> int:
    """Return the typing errors between two names; 0 for equal ones, and for names that differ in more than those."""
    shorter = min(len(name), len(other))
    most = 2 if shorter >= LONG else 1
    if shorter < SHORT_WORD or abs(len(name) - len(other)) > most or _differ_by_meaning(name, other):
        return 0
    found = _edits(name, other)
    return found if found <= most and (found == 1 or name[0] == other[0]) else 0


def _differ_by_meaning(name: str, other: str) -> bool:
    """Return whether names differ in a number, in one short word, or only in `_` around them: `_X` is made of `X`."""
    if name.strip("_") == other.strip("_"):
        return True
    if re.findall(r"\d+", name) != re.findall(r"\d+", other):
        return True
    words = list(zip(name.split("_"), other.split("_"), strict=False))
    if name.count("_") != other.count("_"):
        return False
    differing = [(one, two) for one, two in words if one != two]
    short = [max(len(one), len(two)) <= SHORT_WORD and sorted(one) != sorted(two) for one, two in differing]
    return len(words) > 1 and all(short)


def _edits(name: str, other: str) -> int:
    """Return how many letters were left out, added, mistaken or swapped (optimal string alignment)."""
    rows = [list(range(len(other) + 1))]
    for i, one in enumerate(name, 1):
        row = [i]
        for j, two in enumerate(other, 1):
            best = min(rows[-1][j] + 1, row[j - 1] + 1, rows[-1][j - 1] + (one != two))
            if i > 1 and j > 1 and one == other[j - 2] and name[i - 2] == two:
                best = min(best, rows[-2][j - 2] + 1)
            row.append(best)
        rows.append(row)
    return rows[-1][-1]
