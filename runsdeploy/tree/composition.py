"""Composition: the two ways to write `é` in Unicode, one character or a letter and an accent (UAX 15, NFC and NFD).

Editors and most systems write the first, archives and old file systems of a Mac the second; an operator sees no
difference. A name therefore counts as it is in NFC, in recipes, in CONF and in markers; a file is found by that.
"""

from __future__ import annotations

import os
from pathlib import Path

from runsdeploy.errors import InputError, Position, Problem, display_path


def composed(name: str) -> str:
    """Return a name in NFC; bytes that are not UTF-8 stay as they are."""
    if name.isascii():
        return name
    import unicodedata  # noqa: PLC0415 - few names need it

    return unicodedata.normalize("NFC", name)


def spelt(name: str) -> str:
    """Return a name with all but ASCII spelled out, to show in what two names differ."""
    return name.encode("unicode_escape").decode("ascii")


def on_disk(folder: Path, name: str) -> str:
    """Return the path of a file below a folder, as the file system has it; `name` itself if there is none.

    Raises InputError if two files have the name, composed differently.
    """
    if name.isascii():
        return name
    found = [""]
    for part in composed(name).split("/"):
        found = [os.path.join(each, entry) for each in found for entry in _named(folder / each, part)]  # noqa: PTH118 - relative
    existing = [each for each in found if (folder / each).exists()]
    if len(existing) > 1:
        different = ", ".join(f"`{spelt(each)}`" for each in sorted(existing))
        message = f"{len(existing)} files have the name `{composed(name)}`, composed differently: {different}"
        raise InputError([Problem(Position(display_path(folder / existing[0])), message, "keep one of them")])
    return existing[0] if existing else name


def _named(folder: Path, name: str) -> list[str]:
    """Return the entries of a folder with a name that is in NFC."""
    if name.isascii():
        return [name]
    try:
        return [entry for entry in os.listdir(folder) if composed(entry) == name]  # noqa: PTH208 - names only
    except OSError:
        return []
