"""Housekeeping after a good backup: verify an older archive, delete old ones."""

import os
import time
from typing import Dict, List, Mapping, Sequence, Tuple

from ..archive import archive
from ..archive.known_state import Suspect
from ..disk import durable
from ..errors import reason
from ..settings.settings import Settings
from . import retention

ROUNDS = 30
"""number of runs in which every archive is verified again (J10)"""


def verify_oldest(folder: str, verified: Mapping[str, int], tonight: str) -> Tuple[Dict[str, int], List[str]]:
    """Verify the archives whose last verification is oldest: one of up to ROUNDS archives, two of up to twice as many.

    Return the time of the last verification of each archive, and messages about damaged ones, which are renamed.
    """
    found = archive.archives(folder)
    good = [each for each in found if each.kind == "good" and each.name != tonight]
    known = {each.name: verified.get(each.name, 0) for each in good}
    older = sorted(good, key=lambda each: known[each.name])[: -(-len(good) // ROUNDS)]
    looked_at = [(each, [each.problem]) for each in found if each.kind == "damaged"]
    # Verify twice before it is set aside: a read error may be temporary.
    looked_at += [(each, archive.verify(each.path) and archive.verify(each.path)) for each in older]
    messages = []
    for each, wrong in looked_at:
        if wrong:
            condemned = os.path.basename(archive.set_aside(each.path))
            messages.append(f"`{each.name}` is damaged ({wrong[0]}); it is `{condemned}` now")
            known.pop(each.name, None)
        else:
            known[each.name] = int(time.time())
    return {**known, tonight: int(time.time())}, messages


def prune(folder: str, settings: Settings, now: int) -> Tuple[Tuple[str, ...], List[str]]:
    """Delete the archives that the retention rule drops; return their names, and warnings (J16).

    Only archives made by the runner with a readable manifest are considered.
    """
    keys = ("BACKUP_SAVE_DAYS", "BACKUP_KEEP_DAILY", "BACKUP_KEEP_WEEKLY", "BACKUP_KEEP_MONTHLY")
    policy = retention.Policy(*(settings.values[key] for key in keys))
    decision = decide(archive.archives(folder), archive.suspect(folder), float(now), policy)
    dropped, failed = _remove(folder, sorted(decision.drop))
    return tuple(dropped), [*decision.warnings, *failed]


def decide(
    found: Sequence[archive.Archive], recorded: Suspect, now: float, policy: retention.Policy
) -> retention.Decision:
    """Decide which archives are kept; the one that `latest` means always is."""
    held = [
        retention.Candidate(each.name, each.created, each.manifest.sequence, each.manifest.good, each.known)
        for each in found
        if each.kind in ("good", "failed") and each.manifest
    ]
    decision = retention.decide(held, now, policy)
    known = archive.latest(found, recorded)
    needed = {known.name} & decision.drop if known else set()
    return decision._replace(keep=decision.keep | needed, drop=decision.drop - needed)


def _remove(folder: str, names: List[str]) -> Tuple[List[str], List[str]]:
    """Delete archives, then their checksum files; return the deleted names, and warnings."""
    gone, failed = [], []
    try:
        for name in names:
            os.unlink(os.path.join(folder, name))
            gone.append(name)
        if gone:
            # Checksum files last: after a power cut an archive without one would count as damaged.
            durable.sync_directory(folder)
            for name in gone:
                durable.remove(os.path.join(folder, f"{name}.sha256"))
            durable.sync_directory(folder)
    except OSError as error:
        failed.append(f"old backups could not all be deleted: {reason(error)}")
    return gone, failed
