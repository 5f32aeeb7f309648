"""Atomic replacement of a set of files: afterwards all are old or all are new (J14).

New files are staged beside their destinations. Old files are kept there too, by a hard link where possible. Then each
destination changes by one rename. A file that is still staged is not yet in place, and one that is no longer staged is:
so an interrupted replacement can be continued or reverted by looking at the files, any number of times.
"""

import os
from typing import Iterator, List, Sequence, Tuple

from ..archive.extraction import Contents
from ..archive.manifest import Damaged, printable
from ..errors import Fault
from . import destination
from .layout import Layout, Slot, count_changes, list_paths, stale_companions


def stage(layout: Layout, contents: Contents) -> None:
    """Stage all new files beside their destinations; after OSError, Damaged or Fault some of them may exist."""
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
    """Keep all files that will be replaced; they and the staged files are durable then. Raises OSError or Fault."""
    for slot in layout.slots:
        if slot.old:
            destination.keep_old(slot.anchor, slot.name, slot.kept)
        if destination.state(slot.anchor, slot.kept) != slot.old or (not slot.old and destination.state(*_final(slot))):
            raise Fault(f"`{printable(slot.real)}` changed meanwhile", "stop the programs that write it, and try again")
    appeared = _appeared(layout)
    if appeared:
        text = f"{list_paths(appeared)} appeared meanwhile: the database is in use"
        raise Fault(text, "stop the programs that use it, and try again")
    destination.sync(slot.anchor for slot in layout.slots)


def discard(layout: Layout) -> None:
    """Remove all staged and kept files."""
    for slot in layout.slots:
        destination.remove(slot.anchor, slot.staged)
        destination.remove(slot.anchor, slot.kept)


def replace(layout: Layout) -> int:
    """Put all staged files in place, verify them, and return how many files, links and directories they are (J15).

    Raises OSError, or Fault if a destination has another content.
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
        raise Fault(f"restored files do not have the content of the archive: {list_paths(different)}")
    return count_changes(layout)


def changed(layout: Layout) -> List[str]:
    """Return destinations whose content is not the restored one, and new companion files of databases."""
    different = [slot.real for slot in layout.slots if not destination.has_content(*_final(slot), slot.member)]
    return different + _appeared(layout)


def missing_old(layout: Layout) -> List[str]:
    """Return destinations whose old file is no longer kept."""
    return [slot.real for slot in layout.slots if slot.old and not destination.state(slot.anchor, slot.kept)]


def revert(layout: Layout) -> int:
    """Put all old files back; return how many files, links and directories they are.

    A destination whose new file is still staged was not changed. New files that are in place are deleted. Raises
    OSError, or Fault if a destination is not as it was.
    """
    for folder in layout.folders:
        if folder.old and destination.state(*os.path.split(folder.real)):
            destination.set_owner_and_mode(folder.real, *folder.old)
        elif destination.state(*os.path.split(folder.real)):
            # Files in it must be deleted, and its mode may not allow that.
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
    """Yield the directories in which names change."""
    for slot in layout.slots:
        yield slot.anchor
        yield slot.parent
    for folder in layout.folders:
        yield os.path.dirname(folder.real)


def _appeared(layout: Layout) -> List[str]:
    return [os.path.join(slot.parent, name) for slot, name in stale_companions(layout.slots)]


def _put_back(slot: Slot, beside: Sequence[str]) -> None:
    """Put the old file of a slot back; new companion files belong to the new file and are removed."""
    kept = slot.old is not None and destination.state(slot.anchor, slot.kept) is not None
    for name in beside if kept or slot.old is None else ():
        destination.remove(slot.parent, name)
    if slot.old is None:
        destination.remove(*_final(slot))
    elif kept:
        destination.move(slot.anchor, slot.kept, slot.parent, slot.name)
        # rename does nothing if both names are links to the same file: then the kept name is still there.
        destination.remove(slot.anchor, slot.kept)
