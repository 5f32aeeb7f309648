"""The known state: whether imports have begun that have not passed since, and since which run (J26).

This is recorded when it happens, in `suspect.json` of the backup directory and in every manifest. `latest`, retention,
lists, status, metrics and mail read it; nothing else decides whether a backup is of a known state.
"""

import json
import os
from typing import Collection, Dict, Mapping, NamedTuple, Optional, Tuple

from ..disk import durable

FILE = "suspect.json"
NOT_BEGUN = ("not-run", "no-ticket", "no-secret", "not-found", "not-executable")
"""outcomes of jobs of which nothing was executed"""


class Suspect(NamedTuple):
    """What makes the state of the system suspect; empty if it is known."""

    since: str
    """id of the run of the first unfinished import: its backup, made before, is the known state; empty if known"""
    imports: Tuple[str, ...]
    """names of the unfinished imports, sorted; empty also if they are not known, as after an older version"""


KNOWN = Suspect("", ())


def begin(before: Suspect, run: str, job: str, passed: Collection[str]) -> Suspect:
    """Return the fact when an import begins; it is saved before the import starts, so a kill cannot lose it.

    `before` is the fact before the imports of the run, of which some have `passed` already.
    """
    return Suspect(before.since or run, tuple(sorted({*before.imports, job} - set(passed))))


def end(
    before: Suspect, run: str, stage: str, outcomes: Mapping[str, str], names: Optional[Collection[str]] = None
) -> Suspect:
    """Return the fact after the imports of a run, from the fact before them, the outcome of their stage and their own.

    It is cleared by a run whose imports all pass, if none is left that is unfinished: an import that was switched off,
    or another import that is run by name, repairs nothing. An import that is no longer in the catalogue (`names`, if
    given) is not waited for.
    """
    if stage in ("none", "skipped") or (outcomes and all(each in NOT_BEGUN for each in outcomes.values())):
        return before
    passed = {job for job, outcome in outcomes.items() if outcome == "ok"}
    failed = {job for job, outcome in outcomes.items() if outcome not in ("ok", "not-run")}
    if stage != "ok" and not failed:
        # The run was interrupted between two imports; they build on each other, so the rest is unfinished.
        failed = set(outcomes) - passed
    left = {*before.imports, *failed} - passed
    if stage != "ok":
        return Suspect(before.since or run, tuple(sorted(left)))
    left = left if names is None else left & set(names)
    return Suspect(before.since, tuple(sorted(left))) if left else KNOWN


def describe(suspect: Suspect) -> str:
    """Return the fact as a message; empty if the state is known."""
    if not suspect.since:
        return ""
    names = ", ".join(f"`{job}`" for job in suspect.imports) or "an import"
    return f"the state is suspect since run {suspect.since}: {names} began and has not passed since"


def load(folder: str) -> Optional[Suspect]:
    """Return the saved fact; None if there is none yet, or it cannot be read."""
    try:
        with open(os.path.join(folder, FILE), "rb") as file:
            found = json.loads(file.read().decode("ascii"))
        return decode(found)
    except (OSError, ValueError, KeyError, TypeError):
        return None


def save(folder: str, suspect: Suspect) -> None:
    """Write the fact; durable when this returns. Raises OSError."""
    durable.write_file(os.path.join(folder, FILE), encode(suspect))


def encode(suspect: Suspect) -> bytes:
    """Return the content of the file."""
    return (json.dumps(document(suspect), sort_keys=True) + "\n").encode("ascii")


def document(suspect: Suspect) -> Dict[str, object]:
    """Return the fact as JSON."""
    return {"since": suspect.since, "imports": list(suspect.imports)}


def decode(found: object) -> Suspect:
    """Return the fact from JSON; raises ValueError if it is none."""
    if not isinstance(found, dict) or set(found) != set(Suspect._fields):
        raise ValueError("expected an object with `since` and `imports`")
    since, imports = found["since"], found["imports"]
    if not isinstance(since, str) or not isinstance(imports, list) or not all(isinstance(job, str) for job in imports):
        raise ValueError("expected texts in `since` and `imports`")
    return Suspect(since, tuple(imports))
