"""The line of one event: its grammar, read by `parse`, written by `encode`.

An event is the byte RS (0x1e), the session's nonce, a space, words separated by spaces, a newline. The first word is
the verb; texts are percent-encoded into one word (`events.encode_word`). `shell/bootstrap.sh` and `shell/runner.sh`
write the same lines.
"""

from __future__ import annotations

import re

from runsdeploy.events import (
    Account,
    Attached,
    EarlierEvent,
    EarlierSession,
    Ended,
    Event,
    Facts,
    FileData,
    FileHead,
    Finished,
    Hello,
    Locked,
    LoginOutput,
    Marked,
    MarkerFound,
    Note,
    Output,
    Refusal,
    Returned,
    Started,
    Unacknowledged,
    Waiting,
    decode_word,
    encode_word,
)

MARK = b"\x1e"
"""the byte that begins an event; the nonce follows"""

_NUMBER = r"\d{1,15}"
_TEXT = r"[!-~]*"
_IDENTIFIER = r"[0-9a-f-]{1,64}"
_GRAMMAR = {
    "hello": re.compile(rf"{_NUMBER} {_TEXT}"),
    "refuse": re.compile(rf"[a-z]+ {_TEXT}"),
    "attached": re.compile(_NUMBER),
    "locked": re.compile(rf"(session|operator) {_TEXT} {_TEXT} {_TEXT} {_TEXT}"),
    "waiting": re.compile(rf"(session|operator) {_TEXT} {_TEXT} {_TEXT} {_TEXT}"),
    "unacknowledged": re.compile(rf"{_IDENTIFIER} segment\d{{1,9}} {_IDENTIFIER} {_NUMBER} {_TEXT} {_TEXT}"),
    "earlier": re.compile(rf"{_IDENTIFIER} {_TEXT} {_TEXT} (finished|killed|restarted) {_IDENTIFIER} {_NUMBER}"),
    "note": re.compile(_TEXT),
    "start": re.compile(rf"{_NUMBER} {_TEXT}"),
    "end": re.compile(
        rf"{_NUMBER} (ok|already-done|failed|killed|timeout|interrupted)"
        rf" \d{{1,3}} {_NUMBER}(\.\d+)? {_NUMBER} (exit|last|none)( {_TEXT})?"
    ),
    "mark": re.compile(rf"{_NUMBER} (shouldrun|declined|setdone|resetdone) {_TEXT}"),
    "returned": re.compile(_NUMBER),
    "file": re.compile(rf"{_TEXT} [0-7]{{3,4}} {_NUMBER} [0-9a-f]{{64}}"),
    "facts": re.compile(r"(sysname|sysdist|sysver|bits)( [A-Za-z0-9._+-]{1,64}){0,16}"),
    "account": re.compile(r"root|sudo|user"),
    "marker": re.compile(r"(own|root) \./([!-9;-~]+/[!-9;-~]+(:[a-z]{1,16} [!-~]*)?|[!-9;-~]+:trusted no)"),
    "finish": re.compile(r"ok|failed|interrupted"),
}


def parse(line: bytes) -> Event | None:
    """Parse the words of an event; None if they are no event: the mistakes of a target are data, never an error."""
    verb, _, rest = line.decode("ascii", "replace").partition(" ")
    if verb not in _GRAMMAR or not _GRAMMAR[verb].fullmatch(rest):
        return None
    return _make(verb, rest.split(" "))


def _make(verb: str, words: list[str]) -> Event:  # noqa: C901, PLR0911, PLR0912 - one line for each event
    """Make an event from words that match its grammar."""
    match verb:
        case "hello":
            return Hello(int(words[0]), decode_word(words[1]))
        case "refuse":
            return Refusal(words[0], decode_word(words[1]))
        case "locked":
            return _locked(words)
        case "waiting":
            return Waiting(_locked(words))
        case "attached":
            return Attached(int(words[0]))
        case "unacknowledged":
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
            file = decode_word(words[6]) if len(words) > 6 else ""  # noqa: PLR2004 - the optional word
            return Ended(int(words[0]), words[1], int(words[2]), float(words[3]), int(words[4]), words[5], file)
        case "mark":
            return Marked(int(words[0]), words[1], decode_word(words[2]))
        case "returned":
            return Returned(int(words[0]))
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


def encode(event: Event, nonce: str) -> bytes:  # noqa: C901, PLR0912 - one line for each event
    """Return the bytes of an event, as a session writes them."""
    match event:
        case LoginOutput() | Output() | FileData():
            return event.data
        case Hello():
            line = f"hello {event.version} {encode_word(event.state)}"
        case Refusal():
            line = f"refuse {event.reason} {encode_word(event.text)}"
        case Locked():
            line = f"locked {_holder(event)}"
        case Waiting():
            line = f"waiting {_holder(event.holder)}"
        case Attached():
            line = f"attached {event.offset}"
        case Unacknowledged():
            origin = f"{event.session} {event.segment} {event.nonce}"
            line = f"unacknowledged {origin} {event.acknowledged} {encode_word(event.by)} {event.since}"
        case EarlierSession():
            line = (
                f"earlier {event.session} {encode_word(event.by)} {event.since} {event.how} {event.nonce} {event.size}"
            )
        case EarlierEvent():
            return encode(event.event, nonce)
        case Note():
            line = f"note {encode_word(event.text)}"
        case Started():
            line = f"start {event.number} {encode_word(event.script)}"
        case Ended():
            line = f"end {event.number} {event.outcome} {event.status} {event.seconds} {event.line} {event.how}"
            line += f" {encode_word(event.file)}" if event.file else ""
        case Marked():
            line = f"mark {event.number} {event.action} {encode_word(event.subsystem)}"
        case Returned():
            line = f"returned {event.size}"
        case FileHead():
            line = f"file {encode_word(event.name)} {event.mode:04o} {event.size} {event.digest}"
        case Facts():
            line = " ".join(["facts", event.name, *event.values])
        case Account():
            line = f"account {event.kind}"
        case MarkerFound():
            value = f":{event.key} {event.value}" if event.value is not None else ""
            line = f"marker {event.owner} ./{event.path}{value}"
        case Finished():
            line = f"finish {event.outcome}"
    return MARK + nonce.encode() + b" " + line.encode() + b"\n"


def _holder(event: Locked) -> str:
    words = (event.by, event.since, event.doing, event.which)
    return " ".join([event.kind, *("%2D" if each == "-" else encode_word(each) or "-" for each in words)])
