"""Swaps: a set of files replaced by another one, so that afterwards it is all old or all new (J14).

New files are staged beside their destinations and what is there is kept beside it, too, as the very same file where
there are hard links. Then each destination changes by one rename. What is staged is not yet in place, what is not has
been put there: so a swap that was interrupted is continued or reverted by looking, and again if that is interrupted.
"""

import os
from typing import Iterator, List, Sequence, Tuple

from ..archive.extraction import Contents
from ..archive.manifest import Damaged, printable
from ..errors import Fault
from . import destination
from .layout import Layout, Slot, count_changes, list_paths, stale_companions


def stage(layout: Layout, contents: Contents) -> None:
    """Put all new files beside their destinations; raises OSError, Damaged or Fault, with some of them made."""
    wanted = {slot.position: slot for slot in layout.slots if slot.member.kind != destination.ABSENT}
    for position, (member, content) in enumerate(contents if wanted else ()):
        slot = wanted.pop(position, None)
        if slot:
            if (member.path, member.kind, member.target) != (slot.member.path, slot.member.kind, slot.member.target):
                raise Damaged(
                    f"has `{printable(member.path)}` where `{printable(slot.member.path)}` was when it was verified"
                )
            destination.stage(slot.anchor, slot.staged, slot.member, content)
        if not wanted:
            break
    if wanted:
        raise Damaged("has fewer members than when it was verified")


def keep_old(layout: Layout) -> None:
    """Keep all that is about to be replaced, on the disk with what is staged after it; raises OSError or Fault."""
    for slot in layout.slots:
        if slot.old:
            destination.keep_old(slot.anchor, slot.name, slot.kept)
        if destination.state(slot.anchor, slot.kept) != slot.old or (not slot.old and destination.state(*_final(slot))):
            raise Fault(f"`{printable(slot.real)}` changed meanwhile", "let nothing else write it, and try again")
    appeared = _appeared(layout)
    if appeared:
        text = f"{list_paths(appeared)} appeared meanwhile: the database is in use"
        raise Fault(text, "stop what uses it, and try again")
    destination.sync(slot.anchor for slot in layout.slots)


def discard(layout: Layout) -> None:
    """Remove what is staged and kept."""
    for slot in layout.slots:
        destination.remove(slot.anchor, slot.staged)
        destination.remove(slot.anchor, slot.kept)


def replace(layout: Layout) -> int:
    """Put all new files in place, those that are not there yet; return how many hold what they should (J15).

    Raises OSError, or Fault if something else is found in a place.
    """
    for folder in layout.folders:
        if folder.old is None:
            destination.make_directory(*os.path.split(folder.real))
    for slot in layout.slots:
        if slot.member.kind == destination.ABSENT and destination.state(*_final(slot)) == slot.old:
            destination.remove(*_final(slot))
    for slot in layout.slots:
        if destination.state(slot.anchor, slot.staged):
            destination.move(slot.anchor, slot.staged, slot.parent, slot.name)
    destination.sync(_touched(layout))
    for folder in reversed(layout.folders):
        destination.set_owner_and_mode(folder.real, folder.mode, folder.uid, folder.gid)
    different = changed(layout)
    if different:
        raise Fault(f"restored files do not hold what they should: {list_paths(different)}")
    return count_changes(layout)


def changed(layout: Layout) -> List[str]:
    """Return where there is something else than what was restored, or something beside it that belongs to it."""
    different = [slot.real for slot in layout.slots if not destination.has_content(*_final(slot), slot.member)]
    return different + _appeared(layout)


def missing_old(layout: Layout) -> List[str]:
    """Return of which places there is nothing any more to go back to."""
    return [slot.real for slot in layout.slots if slot.old and not destination.state(slot.anchor, slot.kept)]


def revert(layout: Layout) -> int:
    """Put all old files back, those that are not there; return how many places are as they were.

    A place whose new file is still staged was not touched. The new files that were put in place are lost.
    Raises OSError, or Fault if a place is not as it was.
    """
    for folder in layout.folders:
        if folder.old and destination.state(*os.path.split(folder.real)):
            destination.set_owner_and_mode(folder.real, *folder.old)
        elif destination.state(*os.path.split(folder.real)):
            # Its files must go, and it may be one that nobody can write to.
            destination.set_owner_and_mode(folder.real, folder.mode | 0o700, folder.uid, folder.gid)
    beside = stale_companions(layout.slots)
    for slot in layout.slots:
        if not destination.state(slot.anchor, slot.staged):
            _put_back(slot, [name for each, name in beside if each == slot])
    for folder in reversed(layout.folders):
        if folder.old is None:
            destination.remove_directory(*os.path.split(folder.real))
    destination.sync(_touched(layout))
    different = [slot.real for slot in layout.slots if destination.state(*_final(slot)) != slot.old]
    if different:
        raise Fault(f"files are not as they were: {list_paths(different)}")
    return count_changes(layout)


def _final(slot: Slot) -> Tuple[str, str]:
    return slot.parent, slot.name


def _touched(layout: Layout) -> Iterator[str]:
    """Yield the directories whose names a swap changes."""
    for slot in layout.slots:
        yield slot.anchor
        yield slot.parent
    for folder in layout.folders:
        yield os.path.dirname(folder.real)


def _appeared(layout: Layout) -> List[str]:
    return [os.path.join(slot.parent, name) for slot, name in stale_companions(layout.slots)]


def _put_back(slot: Slot, beside: Sequence[str]) -> None:
    """Put back what was in a place; what came to lie beside the new file belongs to that, and goes with it."""
    kept = slot.old is not None and destination.state(slot.anchor, slot.kept) is not None
    for name in beside if kept or slot.old is None else ():
        destination.remove(slot.parent, name)
    if slot.old is None:
        destination.remove(*_final(slot))
    elif kept:
        destination.move(slot.anchor, slot.kept, slot.parent, slot.name)
        # A rename between two names of one file does nothing: then both are still there.
        destination.remove(slot.anchor, slot.kept)
