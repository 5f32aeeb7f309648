"""Events: everything that a session reports, as values. All rooms speak this vocabulary.

`session.decoder` makes them from the bytes of a channel, `session.event_line` has the line of each; no I/O here.
"""

from __future__ import annotations

import re

from msgspec import Struct


class LoginOutput(Struct, frozen=True):
    """Bytes before the first event of a session: what login shells print."""

    data: bytes


class Output(Struct, frozen=True):
    """Bytes that the running step wrote, stdout and stderr in the order written."""

    data: bytes


class Hello(Struct, frozen=True):
    """The bootstrap runs: the login shell started it."""

    version: int
    """number of the protocol"""
    state: str
    """the state directory on that machine"""


class Refusal(Struct, frozen=True):
    """The target cannot run the session; nothing ran."""

    reason: str
    """one word: `bash`, `sudo`, `tools`, `space`, `state`, `payload`, `absent`, `facts`"""
    text: str


class Attached(Struct, frozen=True):
    """The controller is attached to a segment that was started, now or before; bytes of its spool follow."""

    offset: int
    """of the first of them; more than was requested where the target dropped the bytes between"""


class Locked(Struct, frozen=True):
    """Another session or an operator holds the target; nothing ran."""

    kind: str
    """`session`, or `operator` for a hold by `lock add`"""
    by: str
    """`user@machine`"""
    since: str
    """by the target's clock"""
    doing: str
    """the step that runs, or the operator's reason; may be empty"""
    which: str
    """the session and its process on the target; may be empty"""

    def __str__(self) -> str:
        if self.kind == "operator":
            return f"`{self.by}` holds it since {self.since}" + (f": {self.doing}" if self.doing else "")
        if not self.by:
            return "a session whose owner is not recorded yet"  # it was starting or ending
        doing = f", which runs `{self.doing}`" if self.doing else ""
        which = f" ({self.which})" if self.which else ""
        return f"a session of `{self.by}` since {self.since}{doing}{which}"


class Waiting(Struct, frozen=True):
    """The session waits for the holder of the target."""

    holder: Locked


class Unacknowledged(Struct, frozen=True):
    """A segment without a final acknowledgement; it may still run."""

    session: str
    segment: str
    """`segment` and its number"""
    nonce: str
    acknowledged: int
    """bytes of its spool that a controller acknowledged"""
    by: str
    since: str


class EarlierSession(Struct, frozen=True):
    """An earlier session had no final acknowledgement; its unacknowledged output follows in `EarlierEvent`s."""

    session: str
    by: str
    since: str
    how: str
    """how it ended: `finished`, `killed` (its runner was) or `restarted` (the target was)"""
    nonce: str
    size: int
    """bytes of its spool that follow"""


class EarlierEvent(Struct, frozen=True):
    """An event of an earlier session."""

    event: Event


class Note(Struct, frozen=True):
    """A text for the operator; nothing failed."""

    text: str


class Started(Struct, frozen=True):
    """A step starts."""

    number: int
    script: str


class Ended(Struct, frozen=True):
    """A step ended."""

    number: int
    outcome: str
    """`ok`, `already-done`, `failed`, `killed`, `timeout` or `interrupted`"""
    status: int
    seconds: float
    line: int
    """the line of the operator's file that failed; 0 if unknown"""
    how: str
    """`exit` if that line ended the step, `last` if it may have, `none`"""
    file: str = ""
    """the file of the line, if it is not the script: a path below the directory of shipped files, or `lib/NAME`"""


class Marked(Struct, frozen=True):
    """A step queried, set or removed a marker."""

    number: int
    action: str
    """`shouldrun` (answered yes), `declined` (`shouldrun` answered no), `setdone` or `resetdone`"""
    subsystem: str
    """empty for the script as a whole"""


class Returned(Struct, frozen=True):
    """The segment made files for the other side, which can be fetched when it is over."""

    size: int
    """bytes in all: `FileHead`s and `FileData`, as they are fetched"""


class FileHead(Struct, frozen=True):
    """A fetched file follows, as `FileData` events of `size` bytes in all."""

    name: str
    """in the shared space"""
    mode: int
    size: int
    digest: str
    """SHA-256, hexadecimal"""


class FileData(Struct, frozen=True):
    """Bytes of the file whose `FileHead` came last."""

    data: bytes


class Facts(Struct, frozen=True):
    """One fact of the target: `sysname`, `sysdist`, `sysver` or `bits`, with its values."""

    name: str
    values: tuple[str, ...]


class Account(Struct, frozen=True):
    """The kind of login user; comes with the markers."""

    kind: str
    """`root`, `sudo` (may become root without a password) or `user`"""


class MarkerFound(Struct, frozen=True):
    """A marker that the target has."""

    owner: str
    """`own`: of the login user; `root`: of root, read through sudo by another login"""
    path: str
    """SCRIPT/SUBSYSTEM, as `marker.path_of` makes it"""
    value: str | None
    """one encoded value of it; None in an event that only lists the marker"""
    key: str = "value"
    """the name of that value: the first word of a line in the marker"""


class Finished(Struct, frozen=True):
    """The segment is over; nothing follows."""

    outcome: str
    """`ok`, `failed` or `interrupted`"""


Event = (
    LoginOutput
    | Output
    | Hello
    | Attached
    | Refusal
    | Locked
    | Waiting
    | Unacknowledged
    | EarlierSession
    | EarlierEvent
    | Note
    | Started
    | Ended
    | Marked
    | Returned
    | FileHead
    | FileData
    | Facts
    | Account
    | MarkerFound
    | Finished
)


def decode_word(word: str) -> str:
    """Decode a percent-encoded word; bytes that are not UTF-8 become surrogates."""
    plain = re.sub(rb"%([0-9A-Fa-f]{2})", lambda found: bytes([int(found[1], 16)]), word.encode())
    return plain.decode("utf-8", "surrogateescape")


def encode_word(data: str) -> str:
    """Percent-encode a text, as the runner does; surrogates become the bytes that they stand for."""
    plain = data.encode("utf-8", "surrogateescape")
    return re.sub(rb"[^A-Za-z0-9_.-]", lambda found: b"%%%02X" % found[0][0], plain).decode("ascii")
