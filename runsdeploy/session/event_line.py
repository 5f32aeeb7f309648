"""What a session says: events between raw bytes of output, and the decoder that takes them apart.

An event is the byte RS (0x1e), the session's nonce, a space, words separated by spaces, a newline. It
may stand anywhere, in the middle of a line of output too; taking events out leaves the output exactly as
the steps wrote it. A `file` event is followed by as many raw bytes as it says; an `earlier` event by as many
bytes of another session's spool, with that one's nonce. The laws:

- decoding the same bytes in any chunks yields the same events, adjacent `Output`s joined;
- what does not follow the nonce is output, whatever it looks like;
- before the first event everything is `Noise`: what login shells print.

No I/O here.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from msgspec import Struct

MARK = b"\x1e"
DEEPEST = 20
"""sessions that may tell of one before them in a row"""

LONGEST = 8192
"""bytes that an event may have; a longer line is output"""


class LoginOutput(Struct, frozen=True):
    """Bytes before the session said anything."""

    data: bytes


class Output(Struct, frozen=True):
    """Bytes that the running step wrote, stdout and stderr in the order written."""

    data: bytes


class Hello(Struct, frozen=True):
    """The bootstrap runs: the login shell let it through."""

    version: int
    state: str
    """directory of the state on that machine"""


class Refusal(Struct, frozen=True):
    """The target cannot run the session; nothing ran."""

    reason: str
    """one word: `bash`, `sudo`, `tools`, `space`, `state`, `payload`, `absent`"""
    text: str


class Attached(Struct, frozen=True):
    """The segment was started, now or before; the bytes of its spool follow."""

    offset: int
    """of the first of them; more than was asked for where the target no longer has those between"""


class Locked(Struct, frozen=True):
    """Somebody holds the target; nothing ran."""

    kind: str
    """`session`, or `operator` who keeps the target for himself"""
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
            return "a session that has not said whose it is"  # it was beginning or ending
        doing = f", which runs `{self.doing}`" if self.doing else ""
        which = f" ({self.which})" if self.which else ""
        return f"a session of `{self.by}` since {self.since}{doing}{which}"


class Waiting(Struct, frozen=True):
    """The session waits for somebody who holds the target."""

    holder: Locked


class Unacknowledged(Struct, frozen=True):
    """A segment that nobody heard to its end; it may still run."""

    session: str
    segment: str
    """`segment` and its number"""
    nonce: str
    seen: int
    """bytes of its spool that somebody took"""
    by: str
    since: str


class EarlierSession(Struct, frozen=True):
    """A session before this one was not heard to its end; what it left unheard follows in `EarlierEvent`s."""

    session: str
    by: str
    since: str
    how: str
    """`finished`, `killed` (its runner was) or `restarted` (the target was)"""
    nonce: str
    size: int
    """bytes of its spool that follow"""


class EarlierEvent(Struct, frozen=True):
    """What an earlier session said."""

    event: Event


class Note(Struct, frozen=True):
    """Something the operator should know; nothing failed."""

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
    """the operator's line that failed; 0 if not seen"""
    how: str
    """`exit` if that line ended it, `last` if it is only the last that failed, `none`"""


class Marked(Struct, frozen=True):
    """A step asked for, set or took back a marker."""

    number: int
    action: str
    """`shouldrun` (and was told to run), `declined` (was told not to), `setdone` or `resetdone`"""
    subsystem: str
    """empty for the script as a whole"""


class FileHead(Struct, frozen=True):
    """A file made on that side follows, in `FileData`s of together `size` bytes."""

    name: str
    """in the shared space"""
    mode: int
    size: int
    digest: str
    """SHA-256, hexadecimal"""


class FileData(Struct, frozen=True):
    """Bytes of the file announced last."""

    data: bytes


class Facts(Struct, frozen=True):
    """What the target says of itself: `sysname`, `sysdist`, `sysver`, `bits`, each with its values."""

    name: str
    values: tuple[str, ...]


class Account(Struct, frozen=True):
    """Who the login user is, told with the markers."""

    kind: str
    """`root`, `sudo` (may become root without a password) or `user`"""


class MarkerFound(Struct, frozen=True):
    """A marker that the target has."""

    owner: str
    """`own` of the login user, `root` where that is another and sudo showed it"""
    path: str
    """SCRIPT/SUBSYSTEM, as `marker.path_of` makes it"""
    value: str | None
    """an encoded word of it; None in an event that says only that it is there"""
    key: str = "value"
    """what that word is: the name of a line of the marker"""


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
    | FileHead
    | FileData
    | Facts
    | Account
    | MarkerFound
    | Finished
)


class Decoder:
    """Takes a session's bytes apart as they arrive."""

    def __init__(self, nonce: str, *, heard: bool = False, depth: int = 0) -> None:
        self._depth = depth
        self._start = MARK + nonce.encode() + b" "
        self._buffer = b""
        self._left = 0
        self._inner: Decoder | None = None
        self._heard = heard

    def rest(self) -> bytes:
        """Give back the bytes behind the last event."""
        taken, self._buffer = self._buffer, b""
        return taken

    @property
    def nested(self) -> bool:
        """Whether the last bytes belong to what an earlier session said, and more of it follows."""
        return self._inner is not None and self._left > 0

    def feed(self, data: bytes) -> Iterator[Event]:
        """Yield the events that are complete now."""
        self._buffer += data
        while self._buffer:
            if self._left:
                taken, self._buffer = self._buffer[: self._left], self._buffer[self._left :]
                self._left -= len(taken)
                yield from self._past(taken) if self._inner else [FileData(taken)]
                continue
            at = self._buffer.find(self._start)
            yield from self._flush(at if at >= 0 else len(self._buffer) - self._held_back())
            if at < 0:
                return
            end = self._buffer.find(b"\n", 0, LONGEST)
            if end < 0 and len(self._buffer) < LONGEST:
                return
            event = parse(self._buffer[len(self._start) : end]) if end >= 0 else None
            if event is None or (isinstance(event, EarlierSession) and self._depth == DEEPEST):
                # Not one of ours after all: give the mark back and look behind it.
                yield from self._flush(len(self._start))
                continue
            self._buffer = self._buffer[end + 1 :]
            self._heard = True
            self._left = event.size if isinstance(event, FileHead | EarlierSession) else 0
            self._inner = (
                Decoder(event.nonce, heard=True, depth=self._depth + 1) if isinstance(event, EarlierSession) else None
            )
            yield event

    def end(self) -> Iterator[Event]:
        """Yield what is left when no more bytes come."""
        yield from self._flush(len(self._buffer))

    def _past(self, data: bytes) -> Iterator[Event]:
        """Decode what another session said."""
        assert self._inner  # noqa: S101 - it is what follows an Earlier
        for event in (*self._inner.feed(data), *(() if self._left else self._inner.end())):
            # It may in turn have told of one before it.
            yield event if isinstance(event, EarlierSession | EarlierEvent) else EarlierEvent(event)

    def _held_back(self) -> int:
        """Return how many bytes at the end may be the beginning of an event."""
        longest = min(len(self._start) - 1, len(self._buffer))
        return next((n for n in range(longest, 0, -1) if self._buffer.endswith(self._start[:n])), 0)

    def _flush(self, count: int) -> Iterator[Event]:
        taken, self._buffer = self._buffer[:count], self._buffer[count:]
        if taken:
            yield Output(taken) if self._heard else LoginOutput(taken)


_NUMBER = r"\d{1,15}"
_TEXT = r"[!-~]*"
_WORD = r"[0-9a-f-]{1,64}"
_GRAMMAR = {
    "hello": re.compile(rf"{_NUMBER} {_TEXT}"),
    "refuse": re.compile(rf"[a-z]+ {_TEXT}"),
    "from": re.compile(_NUMBER),
    "locked": re.compile(rf"(session|operator) {_TEXT} {_TEXT} {_TEXT} {_TEXT}"),
    "waiting": re.compile(rf"(session|operator) {_TEXT} {_TEXT} {_TEXT} {_TEXT}"),
    "unheard": re.compile(rf"{_WORD} segment\d{{1,9}} {_WORD} {_NUMBER} {_TEXT} {_TEXT}"),
    "earlier": re.compile(rf"{_WORD} {_TEXT} {_TEXT} (finished|killed|restarted) {_WORD} {_NUMBER}"),
    "note": re.compile(_TEXT),
    "start": re.compile(rf"{_NUMBER} {_TEXT}"),
    "end": re.compile(
        rf"{_NUMBER} (ok|already-done|failed|killed|timeout|interrupted)"
        rf" \d{{1,3}} {_NUMBER}(\.\d+)? {_NUMBER} (exit|last|none)"
    ),
    "mark": re.compile(rf"{_NUMBER} (shouldrun|declined|setdone|resetdone) {_TEXT}"),
    "file": re.compile(rf"{_TEXT} [0-7]{{3,4}} {_NUMBER} [0-9a-f]{{64}}"),
    "facts": re.compile(r"(sysname|sysdist|sysver|bits)( [A-Za-z0-9._+-]{1,64}){0,16}"),
    "account": re.compile(r"root|sudo|user"),
    "marker": re.compile(r"(own|root) \./([!-9;-~]+/[!-9;-~]+(:[a-z]{1,16} [!-~]*)?|[!-9;-~]+:trusted no)"),
    "finish": re.compile(r"ok|failed|interrupted"),
}


def parse(line: bytes) -> Event | None:
    """Parse the words of an event; None if they are none of ours: a target's mistakes are data."""
    verb, _, rest = line.decode("ascii", "replace").partition(" ")
    if verb not in _GRAMMAR or not _GRAMMAR[verb].fullmatch(rest):
        return None
    return _make(verb, rest.split(" "))


def _make(verb: str, words: list[str]) -> Event:  # noqa: C901, PLR0911, PLR0912 - one line for each event
    """Make the event of words that fit its grammar."""
    match verb:
        case "hello":
            return Hello(int(words[0]), decode_word(words[1]))
        case "refuse":
            return Refusal(words[0], decode_word(words[1]))
        case "locked":
            return _locked(words)
        case "waiting":
            return Waiting(_locked(words))
        case "from":
            return Attached(int(words[0]))
        case "unheard":
            return Unacknowledged(
                words[0], words[1], words[2], int(words[3]), decode_word(words[4]), decode_word(words[5])
            )
        case "earlier":
            return EarlierSession(
                words[0], decode_word(words[1]), decode_word(words[2]), words[3], words[4], int(words[5])
            )
        case "note":
            return Note(decode_word(words[0]))
        case "start":
            return Started(int(words[0]), decode_word(words[1]))
        case "end":
            return Ended(int(words[0]), words[1], int(words[2]), float(words[3]), int(words[4]), words[5])
        case "mark":
            return Marked(int(words[0]), words[1], decode_word(words[2]))
        case "file":
            return FileHead(decode_word(words[0]), int(words[1], 8), int(words[2]), words[3])
        case "facts":
            return Facts(words[0], tuple(words[1:]))
        case "account":
            return Account(words[0])
        case "marker":
            path, _, key = words[1].removeprefix("./").partition(":")
            return MarkerFound(words[0], path, words[2], key) if key else MarkerFound(words[0], path, None)
        case _:
            return Finished(words[0])


def _locked(words: list[str]) -> Locked:
    by, since, doing, which = ("" if each == "-" else decode_word(each) for each in words[1:])
    return Locked(words[0], by, since, doing, which)


def decode_word(word: str) -> str:
    """Take a percent-encoded word back; bytes that are not UTF-8 become surrogates."""
    plain = re.sub(rb"%([0-9A-Fa-f]{2})", lambda found: bytes([int(found[1], 16)]), word.encode())
    return plain.decode("utf-8", "surrogateescape")


def encode_word(data: str) -> str:
    """Percent-encode a text, as the runner does."""
    plain = data.encode("utf-8", "surrogateescape")
    return re.sub(rb"[^A-Za-z0-9_.-]", lambda found: b"%%%02X" % found[0][0], plain).decode("ascii")


def encode(event: Event, nonce: str) -> bytes:  # noqa: C901, PLR0912 - one line for each event
    """Return the bytes of an event, as a session writes them; the counterpart of `Decoder`."""
    match event:
        case LoginOutput() | Output() | FileData():
            return event.data
        case Hello():
            said = f"hello {event.version} {encode_word(event.state)}"
        case Refusal():
            said = f"refuse {event.reason} {encode_word(event.text)}"
        case Locked():
            said = f"locked {_holder(event)}"
        case Waiting():
            said = f"waiting {_holder(event.holder)}"
        case Attached():
            said = f"from {event.offset}"
        case Unacknowledged():
            said = f"unheard {event.session} {event.segment} {event.nonce} {event.seen} {encode_word(event.by)} {event.since}"
        case EarlierSession():
            said = (
                f"earlier {event.session} {encode_word(event.by)} {event.since} {event.how} {event.nonce} {event.size}"
            )
        case EarlierEvent():
            return encode(event.event, nonce)
        case Note():
            said = f"note {encode_word(event.text)}"
        case Started():
            said = f"start {event.number} {encode_word(event.script)}"
        case Ended():
            said = f"end {event.number} {event.outcome} {event.status} {event.seconds} {event.line} {event.how}"
        case Marked():
            said = f"mark {event.number} {event.action} {encode_word(event.subsystem)}"
        case FileHead():
            said = f"file {encode_word(event.name)} {event.mode:04o} {event.size} {event.digest}"
        case Facts():
            said = " ".join(["facts", event.name, *event.values])
        case Account():
            said = f"account {event.kind}"
        case MarkerFound():
            line = f":{event.key} {event.value}" if event.value is not None else ""
            said = f"marker {event.owner} ./{event.path}{line}"
        case Finished():
            said = f"finish {event.outcome}"
    return MARK + nonce.encode() + b" " + said.encode() + b"\n"


def _holder(event: Locked) -> str:
    words = (event.by, event.since, event.doing, event.which)
    return " ".join([event.kind, *("%2D" if each == "-" else encode_word(each) or "-" for each in words)])
