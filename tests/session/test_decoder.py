"""The protocol of a session: one table for both directions, and the laws of the decoder (R16, R17, R39)."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

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
from runsdeploy.session.decoder import LONGEST, LONGEST_MARKER, Decoder
from runsdeploy.session.event_line import MARK, encode, parse

NONCE = "00112233445566778899aabbccddeeff"
OTHER = "ffeeddccbbaa99887766554433221100"
START = MARK + NONCE.encode() + b" "
SHA = "a" * 64
HELLO = encode(Hello(3, "/s"), NONCE)

TABLE: list[tuple[str, Event]] = [
    ("hello 3 %2Fvar%2Flib%2Frunsdeploy", Hello(3, "/var/lib/runsdeploy")),
    ("refuse bash the%20target%20has%20no%20%60bash%60", Refusal("bash", "the target has no `bash`")),
    ("refuse space ", Refusal("space", "")),
    ("locked session root%40medusa 2026 a session%201", Locked("session", "root@medusa", "2026", "a", "session 1")),
    ("locked operator kim%40b 2026 - -", Locked("operator", "kim@b", "2026", "", "")),
    ("waiting session kim%40b 2026 a%20b -", Waiting(Locked("session", "kim@b", "2026", "a b", ""))),
    ("attached 17", Attached(17)),
    ("unacknowledged 0a segment3 0b 5 kim%40b 2026", Unacknowledged("0a", "segment3", "0b", 5, "kim@b", "2026")),
    ("note two%0Alines", Note("two\nlines")),
    ("note %FF", Note("\udcff")),
    ("start 1 a", Started(1, "a")),
    ("end 1 ok 0 0.04 0 none", Ended(1, "ok", 0, 0.04, 0, "none")),
    ("end 12 already-done 0 0.0 0 none", Ended(12, "already-done", 0, 0.0, 0, "none")),
    ("end 3 failed 255 12.5 17 exit", Ended(3, "failed", 255, 12.5, 17, "exit")),
    ("end 3 killed 137 1.25 0 last", Ended(3, "killed", 137, 1.25, 0, "last")),
    ("end 3 failed 1 1.25 7 exit tree0%2Fa%20b.sh", Ended(3, "failed", 1, 1.25, 7, "exit", "tree0/a b.sh")),
    ("mark 1 shouldrun ", Marked(1, "shouldrun", "")),
    ("mark 1 declined a%20b", Marked(1, "declined", "a b")),
    ("mark 2 setdone %20x%3A", Marked(2, "setdone", " x:")),
    ("mark 2 resetdone x", Marked(2, "resetdone", "x")),
    ("returned 120", Returned(120)),
    (f"file dir%2Ff 0644 3 {SHA}", FileHead("dir/f", 0o644, 3, SHA)),
    (f"file f 0755 0 {SHA}", FileHead("f", 0o755, 0, SHA)),
    ("facts sysdist debian linux", Facts("sysdist", ("debian", "linux"))),
    ("facts sysver 11.7", Facts("sysver", ("11.7",))),
    ("facts bits 64", Facts("bits", ("64",))),
    ("facts sysdist", Facts("sysdist", ())),
    ("account root", Account("root")),
    ("account sudo", Account("sudo")),
    ("account user", Account("user")),
    ("marker own ./web%2Fnginx/script", MarkerFound("own", "web%2Fnginx/script", None)),
    ("marker root ./a/subsystem=b:value %3D1", MarkerFound("root", "a/subsystem=b", "%3D1")),
    ("marker own ./a/script:time 2025-01-01T00:00:00Z", MarkerFound("own", "a/script", "2025-01-01T00:00:00Z", "time")),
    ("finish ok", Finished("ok")),
    ("finish failed", Finished("failed")),
    ("finish interrupted", Finished("interrupted")),
]

FOREIGN = [
    "",
    " ",
    "hello",
    "hello x /",
    "hello 3 a b",
    "hello -1 a",
    "hello 1234567890123456 a",
    "Hello 1 a",
    "refuse BASH x",
    "start",
    "start 1",
    "start +1",
    "start \u0661",
    "start 1\r",
    "start 1 a b",
    "attached -1",
    "locked nobody a b c d",
    "earlier ../x a b finished 0a 1",
    "unacknowledged 0a segment 0b 1 a b",
    " start 1",
    "end 1 lost 0 0.0 0 none",
    "end 1 skipped 0 0.0 0 none",
    "end 1 ok 0000 0.0 0 none",
    "end 1 ok 0 .5 0 none",
    "end 1 ok 0 0.0 none",
    "end 1 ok 0 0.0 0",
    "end 1 ok 0 0.0 0 maybe",
    "end 1 ok 0 nan 0 none",
    "end 1 ok 0 1e9 0 none",
    "mark 1 setdone a b",
    "mark 1 forget a",
    "file f 9999 1 " + SHA,
    "file f 0644 1 " + SHA.upper(),
    "file f 0644 1 abc",
    "file f 0644 -1 " + SHA,
    "file  0644 1",
    "facts kernel linux",
    "facts sysname $(id)",
    "facts sysname " + "a" * 65,
    "facts sysname" + " a" * 17,
    "account admin",
    "marker me ./a/b",
    "marker own a/b",
    "marker own ./a",
    "finish",
    "finish lost",
    "finish ok ok",
]


def joined(events: list[Event]) -> list[Event]:
    """Join what the chunks of the transport may have cut."""
    found: list[Event] = []
    for event in events:
        if found and type(found[-1]) is type(event) and isinstance(event, (Output, LoginOutput, FileData)):
            found[-1] = type(event)(found[-1].data + event.data)  # type: ignore[union-attr]
        else:
            found.append(event)
    return found


def decode(*chunks: bytes, nonce: str = NONCE) -> list[Event]:
    decoder = Decoder(nonce)
    events = [event for chunk in chunks for event in decoder.feed(chunk)]
    return joined([*events, *decoder.end()])


def cut(data: bytes, places: list[int]) -> list[bytes]:
    ends = sorted({0, len(data), *(place % (len(data) + 1) for place in places)})
    return [data[one:two] for one, two in pairwise(ends)]


@pytest.mark.parametrize(("line", "event"), TABLE)
def test_an_event_is_written_and_read_alike(line: str, event: Event):
    wire = START + line.encode() + b"\n"
    assert encode(event, NONCE) == wire
    assert parse(line.encode()) == event
    assert decode(wire) == [event]


def test_the_table_has_every_event_that_has_a_line_of_its_own():
    assert {type(event) for _, event in TABLE} == set(Event.__args__) - {
        LoginOutput,
        Output,
        FileData,
        EarlierSession,
        EarlierEvent,
    }


def test_a_byte_may_be_encoded_that_need_not_be():
    assert parse(b"mark 2 setdone %2Ex%61") == Marked(2, "setdone", ".xa")


@pytest.mark.parametrize("line", FOREIGN)
def test_a_line_that_is_no_event_is_output_even_behind_the_nonce(line: str):
    assert parse(line.encode()) is None
    wire = START + line.encode() + b"\n"
    assert decode(HELLO + wire) == [Hello(3, "/s"), Output(wire)]


@pytest.mark.parametrize("event", [LoginOutput(b"n"), Output(b"o"), FileData(b"f")])
def test_raw_bytes_are_written_as_they_are(event: Event):
    assert encode(event, NONCE) == event.data  # type: ignore[union-attr]


def test_r29_bytes_before_the_first_event_are_login_output():
    motd = b"Welcome to \x1b[1mmedusa\x1b[0m\n" + MARK + b"not ours\n"
    assert decode(motd + HELLO + b"out") == [LoginOutput(motd), Hello(3, "/s"), Output(b"out")]


def test_without_an_event_everything_is_login_output():
    assert decode(b"This account is not available.\n") == [LoginOutput(b"This account is not available.\n")]


def test_an_event_may_stand_in_the_middle_of_a_line_of_output():
    wire = HELLO + b"abc" + encode(Started(2, "a"), NONCE) + b"def\n"
    assert decode(wire) == [Hello(3, "/s"), Output(b"abc"), Started(2, "a"), Output(b"def\n")]


def test_an_event_that_never_ends_is_given_back_when_the_channel_does():
    assert decode(HELLO + START + b"start 1") == [Hello(3, "/s"), Output(START + b"start 1")]


@pytest.mark.parametrize("length", [LONGEST - 1, LONGEST, LONGEST + 1, 3 * LONGEST])
def test_a_line_longer_than_an_event_may_be_is_output(length: int):
    wire = START + b"note " + b"a" * (length - len(START) - 5)
    expected = Note("a" * (length - len(START) - 5)) if length < LONGEST else Output(wire + b"\n")
    assert decode(HELLO + wire + b"\n") == [Hello(3, "/s"), expected]
    assert decode(HELLO, *cut(wire + b"\n", list(range(0, length, 7)))) == [Hello(3, "/s"), expected]


def test_r16_output_without_end_does_not_pile_up_in_the_decoder():
    """What cannot be the beginning of an event is handed on at once."""
    decoder = Decoder(NONCE)
    list(decoder.feed(HELLO))
    for chunk in (b"x" * 65536, MARK * 65536, START * 4000, (START + b"note ") + b"y" * 65536):
        handed = sum(len(event.data) for event in decoder.feed(chunk) if isinstance(event, Output))
        assert handed >= len(chunk) - LONGEST
        list(decoder.end())


def test_an_event_inside_of_a_file_is_part_of_the_file():
    inside = encode(Finished("ok"), NONCE)
    head = FileHead("f", 0o644, len(inside), SHA)
    wire = encode(head, NONCE) + inside + encode(Finished("failed"), NONCE)
    assert decode(wire) == [head, FileData(inside), Finished("failed")]


def test_a_file_that_is_cut_short_is_no_output():
    head = FileHead("f", 0o644, 10, SHA)
    assert decode(encode(head, NONCE) + b"12345") == [head, FileData(b"12345")]


NUMBERS = st.integers(0, 10**15 - 1)
TEXTS = st.binary(max_size=40).map(lambda data: data.decode("utf-8", "surrogateescape"))
FACTS = st.from_regex(r"[A-Za-z0-9._+-]{1,64}", fullmatch=True)
PATHS = st.from_regex(r"[A-Za-z0-9%_.=-]{1,20}/[A-Za-z0-9%_.=-]{1,20}", fullmatch=True)
HELD = st.builds(Locked, st.sampled_from(["session", "operator"]), TEXTS, TEXTS, TEXTS, TEXTS)
LINES = st.one_of(
    st.builds(Hello, NUMBERS, TEXTS),
    st.builds(Refusal, st.sampled_from(["bash", "sudo", "tools", "space"]), TEXTS),
    HELD,
    st.builds(Waiting, HELD),
    st.builds(Attached, NUMBERS),
    st.builds(Unacknowledged, st.just("0a"), st.just("segment1"), st.just("0b"), NUMBERS, TEXTS, st.just("2026")),
    st.builds(Note, TEXTS),
    st.builds(Started, NUMBERS, TEXTS),
    st.builds(
        Ended,
        NUMBERS,
        st.sampled_from(["ok", "already-done", "failed", "killed"]),
        st.integers(0, 255),
        st.integers(0, 10**9).map(lambda hundredths: hundredths / 100),
        NUMBERS,
        st.sampled_from(["exit", "last", "none"]),
    ),
    st.builds(Marked, NUMBERS, st.sampled_from(["shouldrun", "declined", "setdone", "resetdone"]), TEXTS),
    st.builds(
        Facts, st.sampled_from(["sysname", "sysdist", "sysver", "bits"]), st.lists(FACTS, max_size=16).map(tuple)
    ),
    st.builds(Account, st.sampled_from(["root", "sudo", "user"])),
    st.builds(MarkerFound, st.sampled_from(["own", "root"]), PATHS, st.none()),
    st.builds(MarkerFound, st.sampled_from(["own", "root"]), PATHS, FACTS, st.sampled_from(["value", "plan"])),
    st.builds(Finished, st.sampled_from(["ok", "failed", "interrupted"])),
)
IMITATIONS = st.sampled_from(
    [
        MARK,
        MARK * 3,
        MARK + OTHER.encode() + b" finish ok\n",
        MARK + b" start 1\n",
        MARK + NONCE.encode(),
        MARK + NONCE.encode() + b"\n",
        MARK + NONCE.upper().encode() + b" finish ok\n",
        MARK + NONCE[:-1].encode() + b" end 1 ok 0 0.0 0\n",
        NONCE.encode() + b" finish ok\n",
        START + b"finish sure\n",
        START + START + b"\n",
        START,
    ]
)
OUTPUTS = st.builds(Output, st.binary(max_size=60) | IMITATIONS)


@st.composite
def files(draw: st.DrawFn) -> list[Event]:
    data = draw(st.binary(max_size=3000) | IMITATIONS)
    head = FileHead(draw(TEXTS), draw(st.integers(0o100, 0o777)), len(data), SHA)
    return [head, FileData(data)] if data else [head]


STREAMS = st.lists(OUTPUTS.map(lambda event: [event]) | LINES.map(lambda event: [event]) | files(), max_size=12)


@given(LINES)
def test_every_event_comes_back_as_it_was(event: Event):
    assert decode(encode(event, NONCE)) == [event]


@settings(max_examples=40)
@given(STREAMS, st.lists(st.integers(0, 10**6), max_size=12))
@example([[Output(START)], [Output(b"start 1")], [Output(b"\n")]], [])
def test_the_same_bytes_in_any_chunks_are_the_same_events(stream: list[list[Event]], places: list[int]):
    wire = b"".join(encode(event, NONCE) for part in stream for event in part)
    whole = decode(wire)
    assert decode(*cut(wire, places)) == whole
    assert decode(*(wire[at : at + 1] for at in range(len(wire)))) == whole


@settings(max_examples=40)
@given(STREAMS, st.lists(st.integers(0, 10**6), max_size=4))
def test_r17_events_between_output_that_imitates_them_all_arrive_in_order(stream: list[list[Event]], places: list[int]):
    """Framing cannot be spoofed. What stands alone is never swallowed by an unfinished imitation."""
    calm = [
        [replace(event, data=event.data.replace(NONCE.encode(), OTHER.encode()))]
        if isinstance(event := part[0], Output)
        else part
        for part in stream
    ]
    events: list[Event] = [Hello(3, "/s"), *(event for part in calm for event in part)]
    wire = b"".join(encode(event, NONCE) for event in events)
    expected = joined([event for event in events if not (isinstance(event, Output) and not event.data)])
    assert decode(*cut(wire, places)) == expected


@given(st.lists(st.binary(max_size=200) | IMITATIONS, max_size=10), st.lists(st.integers(0, 10**6), max_size=6))
def test_r17_output_that_imitates_events_stays_output_byte_for_byte(parts: list[bytes], places: list[int]):
    data = b"".join(parts).replace(START, MARK + OTHER.encode() + b" ")
    events = decode(HELLO, *cut(data, places))
    assert events == ([Hello(3, "/s"), Output(data)] if data else [Hello(3, "/s")])


@settings(max_examples=40)
@given(st.lists(st.binary(max_size=300) | IMITATIONS | LINES.map(lambda event: encode(event, NONCE)), max_size=8))
def test_r17_r39_s9_random_bytes_never_raise_and_no_byte_of_output_is_lost(chunks: list[bytes]):
    """A target's mistakes are data."""
    for event in decode(*chunks):
        assert isinstance(event, Event)
    raw = b"".join(event.data for event in decode(*chunks) if isinstance(event, (LoginOutput, Output, FileData)))
    assert len(raw) <= len(b"".join(chunks))


@given(st.binary(max_size=100))
def test_r39_s9_any_bytes_parse_to_an_event_or_to_none(line: bytes):
    assert parse(line) is None or isinstance(parse(line), Event)


@given(st.lists(st.binary(max_size=5000), min_size=1, max_size=4), st.lists(st.integers(0, 10**6), max_size=9))
def test_files_of_any_size_arrive_byte_for_byte(contents: list[bytes], places: list[int]):
    events: list[Event] = []
    for number, content in enumerate(contents):
        events += [FileHead(f"f{number}", 0o644, len(content), SHA), FileData(content)]
    events.append(Finished("ok"))
    wire = b"".join(encode(event, NONCE) for event in events)
    expected = [event for event in events if not (isinstance(event, FileData) and not event.data)]
    assert decode(*cut(wire, places)) == expected


@given(st.binary(max_size=100).filter(lambda data: START not in data), st.lists(st.integers(0, 999), max_size=5))
def test_r29_login_output_of_any_bytes_comes_before_hello(noise: bytes, places: list[int]):
    expected = [LoginOutput(noise), Hello(3, "/s")] if noise else [Hello(3, "/s")]
    assert decode(*cut(noise + HELLO, places)) == expected


@given(TEXTS)
def test_a_text_of_any_bytes_is_one_word(data: str):
    assert decode_word(encode_word(data)) == data
    assert encode_word(data).isascii()
    assert not set(encode_word(data)) & set(" \n\x1e:/")


def test_events_of_an_earlier_session_are_kept_apart_from_those_of_this_one():
    before = encode(Started(7, "x"), OTHER) + b"out" + encode(Finished("interrupted"), OTHER)
    head = EarlierSession("0a", "kim@b", "2026", "finished", OTHER, len(before))
    wire = HELLO + encode(head, NONCE) + before + encode(Started(1, "a"), NONCE)
    for size in (1, 7, len(wire)):
        decoder = Decoder(NONCE)
        events = [each for at in range(0, len(wire), size) for each in decoder.feed(wire[at : at + size])]
        said = b"".join(
            each.event.data for each in events if isinstance(each, EarlierEvent) and isinstance(each.event, Output)
        )
        assert said == b"out"
        rest = [each for each in events if not (isinstance(each, EarlierEvent) and isinstance(each.event, Output))]
        assert rest == [
            Hello(3, "/s"),
            head,
            EarlierEvent(Started(7, "x")),
            EarlierEvent(Finished("interrupted")),
            Started(1, "a"),
        ]


def test_an_earlier_session_that_reports_one_before_it():
    first = b"one"
    inner = encode(EarlierSession("0a", "kim@b", "2026", "finished", "01", len(first)), OTHER) + first + b"two"
    head = EarlierSession("0b", "kim@b", "2026", "finished", OTHER, len(inner))
    events = list(Decoder(NONCE).feed(HELLO + encode(head, NONCE) + inner))
    assert events[1:] == [
        head,
        EarlierSession("0a", "kim@b", "2026", "finished", "01", 3),
        EarlierEvent(Output(b"one")),
        EarlierEvent(Output(b"two")),
    ]


def test_a_marker_of_the_longest_value_is_an_event_in_any_chunks():
    """D23: `status` and forecasts read values that are far longer than any other event."""
    found = MarkerFound("own", "web/subsystem=a", "%3D" + "a" * 3_999_997)
    data = encode(found, NONCE)
    assert len(data) < LONGEST_MARKER
    for size in (32768, len(data)):
        decoder = Decoder(NONCE, in_session=True)
        assert [e for at in range(0, len(data), size) for e in decoder.feed(data[at : at + size])] == [found]
