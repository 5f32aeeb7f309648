"""Manifests: the first member of every archive; lists its files, and says when it was made and how its run went."""

import json
import os
import re
from typing import Any, Dict, List, NamedTuple, Optional, Sequence, Tuple

from . import known_state
from .known_state import Suspect

FORMAT = 2
"""format 1, of older versions, has no `suspect`"""
LARGEST = 64 * 1024 * 1024
"""bytes of a manifest, enough for about 200,000 members (S17)"""
NAME = "MANIFEST.json"
KINDS = ("file", "link", "directory")
_DIGITS = 24
"""of a number; the time to parse longer ones grows with the square of their length (S17)"""
_HIGHEST = {"mode": 0o7777, "uid": 2**32 - 2, "gid": 2**32 - 2, "size": 2**63 - 1}
_LATEST = 2**66
"""nanoseconds since 1970, about 2,300 years: more than file systems can store"""
_DIGEST = re.compile("[0-9a-f]{64}")


class Damaged(Exception):
    """An archive is damaged; the text says how."""


class Member(NamedTuple):
    """One file, link or directory, as it was when it was staged."""

    path: str
    """absolute; bytes that are not UTF-8 are surrogates"""
    when: str
    """`before` the jobs or `after` them"""
    kind: str
    """`file`, `link` or `directory`"""
    mode: int
    """permission bits"""
    uid: int
    gid: int
    user: str
    """name of the owner; empty if the uid has none"""
    group: str
    mtime_ns: int
    size: int
    """bytes; 0 for links and directories"""
    sha256: str
    """hexadecimal; empty for links and directories"""
    target: str
    """of a link"""
    truncate: bool
    """a log: these bytes are cut off the file once they are archived"""


class Manifest(NamedTuple):
    """Description of an archive."""

    format: int
    tool: str
    """version of the runner that made it"""
    identity: str
    """id of the run: UTC time and a random suffix"""
    host: str
    created: int
    """start of the run, seconds since 1970"""
    sequence: int
    """number of the run in this backup directory: order does not depend on clocks (J9)"""
    good: bool
    """a known state can be restored from it"""
    reasons: Tuple[str, ...]
    """why it is not good"""
    stages: Dict[str, str]
    """outcome of each stage"""
    jobs: Dict[str, Any]
    """outcome and exit status of each job that ran"""
    members: Tuple[Member, ...]
    suspect: Optional[Suspect] = None
    """whether the state was suspect when its files were copied, before its own imports; None in format 1"""


_MEMBER = Member.__annotations__
_MANIFEST = {**Manifest.__annotations__, "reasons": list, "members": list, "stages": dict, "jobs": dict}
_MANIFEST["suspect"] = dict


def encode(manifest: Manifest) -> bytes:
    """Return a manifest as JSON in ASCII; it is readable by people, and keeps every byte of a path.

    Names are encoded as UTF-8 in every locale, so that cron and the operator read the same names.
    """
    document = manifest._asdict()
    document["id"] = document.pop("identity")
    suspect = document.pop("suspect")
    if manifest.format > 1:
        document["suspect"] = known_state.document(suspect or known_state.KNOWN)
    document["members"] = [
        {name: portable(value) if type(value) is str else value for name, value in member._asdict().items()}
        for member in manifest.members
    ]
    return (json.dumps(document, indent=1, sort_keys=True) + "\n").encode("ascii")


def decode(data: bytes) -> Manifest:
    """Return the manifest; raises Damaged if the data is not a valid one."""
    try:
        document = json.loads(
            data.decode("ascii"), object_pairs_hook=_object, parse_int=_integer, parse_constant=_constant
        )
        document["identity"] = document.pop("id")
        if type(document["format"]) is int and document["format"] > FORMAT:
            found = f"manifest of format {document['format']}, expected at most {FORMAT}"
            raise Damaged(f"{found}: made by a newer version of the runner")
        fields = dict(_MANIFEST)
        if document["format"] == 1:
            del fields["suspect"]
        _check(document, fields, "manifest")
        if document["format"] < 1:
            raise Damaged(f"manifest of format {document['format']}, expected 1 to {FORMAT}")
        suspect = known_state.decode(document.pop("suspect")) if "suspect" in document else None
        members = tuple(member(entry) for entry in document.pop("members"))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise Damaged(f"manifest cannot be read: {error}") from None
    _check_tree(members)
    reasons = tuple(str(each) for each in document.pop("reasons"))
    return Manifest(members=members, reasons=reasons, suspect=suspect, **document)


def member(entry: Any) -> Member:
    """Return a member from JSON; raises Damaged, or ValueError for a name that cannot be encoded."""
    _check(entry, _MEMBER, "member")
    fields: Dict[str, Any] = {name: native(value) if type(value) is str else value for name, value in entry.items()}
    made = Member(**fields)
    path = made.path
    if not path.startswith("/") or "\0" in path or any(part in ("", ".", "..") for part in path[1:].split("/")):
        raise Damaged(f"manifest names `{printable(path)}`, expected an absolute path without `..`")
    if out_of_range(made) or not _is_consistent(made):
        raise Damaged(f"manifest describes `{printable(path)}` with values that do not fit together")
    return made


def out_of_range(made: Member) -> bool:
    """Return whether a member has a number that no file can have."""
    numbers = [0 <= getattr(made, name) <= highest for name, highest in _HIGHEST.items()]
    return not all(numbers) or abs(made.mtime_ns) >= _LATEST


def ancestors(path: str) -> List[str]:
    """Return the parent directories of an absolute path, nearest first, without `/`."""
    parts = path.split("/")
    return ["/".join(parts[:count]) for count in range(len(parts) - 1, 1, -1)]


def portable(name: str) -> str:
    """Return a file name decoded as UTF-8, independent of the locale."""
    return os.fsencode(name).decode("utf-8", "surrogateescape")


def native(name: str) -> str:
    """Return a portable name decoded by the locale; raises ValueError if it cannot be encoded."""
    return os.fsdecode(name.encode("utf-8", "surrogateescape"))


def printable(name: str) -> str:
    """Return a name for a message: on one line, without control characters."""
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode("ascii") for each in name)


def _is_consistent(made: Member) -> bool:
    """Return whether the fields of a member fit together."""
    if made.kind not in KINDS or made.when not in ("before", "after"):
        return False
    if "\0" in made.user + made.group + made.target or bool(made.target) != (made.kind == "link"):
        return False
    if made.kind == "file":
        return _DIGEST.fullmatch(made.sha256) is not None
    return made.size == 0 and not made.sha256


def _check_tree(members: Sequence[Member]) -> None:
    """Raise Damaged if members cannot be in one tree; so no file can be written through a link of the archive (J13)."""
    kinds = {each.path: each.kind for each in members}
    if len(kinds) != len(members):
        raise Damaged("manifest names a path twice")
    for path in kinds:
        for above in ancestors(path):
            if kinds.get(above, "directory") != "directory":
                raise Damaged(f"manifest names `{printable(path)}` below a {kinds[above]}")


def _object(pairs: List[Tuple[str, Any]]) -> Dict[str, Any]:
    document = dict(pairs)
    if len(document) != len(pairs):
        raise ValueError("duplicate key in an object")
    return document


def _integer(text: str) -> int:
    if len(text) > _DIGITS:
        raise ValueError(f"a number of {len(text)} digits")
    return int(text)


def _constant(text: str) -> Any:
    raise ValueError(f"`{text}` is not a number")


def _check(document: Dict[str, Any], fields: Dict[str, Any], what: str) -> None:
    if set(document) != set(fields):
        odd = sorted(set(document) ^ set(fields))
        raise Damaged(f"{what} with missing or unknown fields: {', '.join(odd)}")
    for name, kind in fields.items():
        if type(document[name]) is not kind:
            raise Damaged(f"{what} with a bad `{name}`: {ascii(document[name])[:100]}")
