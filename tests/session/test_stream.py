"""Acknowledged output was shown before: no output is lost with a killed controller."""

from __future__ import annotations

import contextlib
import json as standard
import re
import threading

from runsdeploy.errors import Lost
from runsdeploy.events import EarlierEvent, Output
from runsdeploy.output.console import Console
from runsdeploy.output.json import Lines
from runsdeploy.session.bundle import Bundle
from runsdeploy.session.reconnect import Reconnector
from runsdeploy.session.report import Fold
from runsdeploy.session.stream import SegmentStream
from tests.making import plan, step

OURS, THEIRS = "a" * 32, "b" * 32


def line(nonce, text):
    """Return the line of an event, as the runner writes it."""
    return b"\x1e" + nonce.encode() + b" " + text + b"\n"


def ended(nonce, number):
    """Return the lines behind a step's output."""
    return line(nonce, b"mark %d setdone -" % number) + line(nonce, b"end %d ok 0 0.01 0 none" % number)


EARLIER = (
    line(THEIRS, b"start 1 other")
    + b"first\nhalf \xe2\x82"
    + ended(THEIRS, 1)
    + line(THEIRS, b"start 2 another")
    + b"\x1eword\n"
    + ended(THEIRS, 2)
    + line(THEIRS, b"finish ok")
)
STREAM = (
    line(OURS, b"earlier cafe me@here 2026-01-01T00:00:00Z finished " + THEIRS.encode() + b" %d" % len(EARLIER))
    + EARLIER
    + line(OURS, b"start 1 one")
    + b"whole\n\x1ehalf of a line \xe2\x82"
    + ended(OURS, 1)
    + line(OURS, b"start 2 two")
    + b"no end"
    + ended(OURS, 2)
    + line(OURS, b"finish ok")
)


class Breaking:
    """A transport with one channel, which brings the beginning of the spool in two pieces and then breaks."""

    alive = True

    def __init__(self, pieces):
        self.pieces = [line(OURS, b"hello 3 /state") + line(OURS, b"attached 0"), *pieces]
        self.sent = []
        self.opened = 0

    def open(self, _command):
        self.opened += 1
        if self.opened > 1:
            raise Lost("gone", transient=False)
        return self

    def send(self, data):
        self.sent.append(data)

    def receive(self):
        if not self.pieces:
            raise Lost("broken", transient=False)
        return self.pieces.pop(0)

    def close_input(self):
        pass

    close = close_input

    def acknowledged(self):
        """Return the bytes of the spool that were acknowledged."""
        return max([int(each) for each in self.sent if re.fullmatch(rb"\d+\n", each)], default=0)


def received(at, middle, listener):
    """Receive the spool up to a byte, in two pieces; return the acknowledged offset and the events."""
    transport = Breaking([STREAM[:middle], STREAM[middle:at]])
    stream = SegmentStream(Reconnector(lambda: transport, 0), OURS, lambda _offset: Bundle(b"", _Nothing()))
    stream.resume(0)
    fold, events = Fold(plan(step(number=1, name="one"), step(number=2, name="two"))), []
    with contextlib.suppress(Lost):
        for event in stream.events():
            fold.add(event)
            listener.event(fold.plan, event, fold)
            events.append(event)
    return transport.acknowledged(), events


class _Nothing:
    def read(self, _size=-1):
        return b""

    def close(self):
        pass


def output_of(spool):
    """Return the steps' output in a piece of the spool."""
    return re.sub(rb"\x1e[ab]{32} [^\n]*\n", b"", spool)


def cuts():
    """Yield where the spool ends, and where the piece before ended."""
    for at in range(1, len(STREAM)):
        for middle in (0, at // 2, at - 1, *range(max(0, at - 40), at, 7)):
            yield at, middle


def test_t3_r9_acknowledged_output_was_shown_to_its_last_byte(capsysbinary):
    """Else output that a killed controller did not show would be lost: no other would request it again."""
    for at, middle in cuts():
        acknowledged, _ = received(at, middle, Lines())
        lines = [standard.loads(each) for each in capsysbinary.readouterr().out.splitlines()]
        text = "".join(each["text"] for each in lines if each["event"] == "output")
        shown = re.sub(rb"\\x(..)", lambda found: bytes.fromhex(found[1].decode()), text.encode())
        assert shown.startswith(output_of(STREAM[:acknowledged])), (middle, acknowledged)


def test_t3_r9_acknowledged_output_is_on_the_screen(capsysbinary, monkeypatch):
    monkeypatch.setenv("NO_COLOR", "1")
    for at, middle in cuts():
        acknowledged, _ = received(at, middle, Console(["medusa.univ.run"]))
        written = capsysbinary.readouterr()
        shown = (written.out + written.err).decode()
        for words in ("first", "half �", "word", "whole", "half of a line �", "no end"):
            raw = words.replace("�", "").encode()
            behind = STREAM.find(b"\n", STREAM.index(raw)) + 1
            assert acknowledged < behind or words.rstrip(" �") in shown, (middle, acknowledged, words)


def test_t3_r9_an_earlier_session_is_acknowledged_as_a_whole():
    """Its events can be decoded from its beginning only."""
    begins, ends = STREAM.index(EARLIER), STREAM.index(EARLIER) + len(EARLIER)
    for at, middle in cuts():
        acknowledged, events = received(at, middle, _Ignoring())
        assert not begins <= acknowledged < ends, (at, middle)
        assert all(isinstance(event, EarlierEvent) for event in events if isinstance(event, Output) and at < ends)


def test_t3_r9_an_earlier_session_without_a_last_newline_is_acknowledged_as_a_whole():
    """D2: its runner was killed; the last line of the piece was one of its own, in its middle."""
    inner = line(THEIRS, b"start 1 other") + b"a line\nhalf"
    head = line(OURS, b"earlier cafe me@here 2026-01-01T00:00:00Z killed " + THEIRS.encode() + b" %d" % len(inner))
    spool = head + inner + b"half of our own"
    for at in range(len(head), len(spool) + 1):
        for middle in (0, len(head), at - 1):
            transport = Breaking([spool[:middle], spool[middle:at]])
            stream = SegmentStream(Reconnector(lambda way=transport: way, 0), OURS, lambda _: Bundle(b"", _Nothing()))
            stream.resume(0)
            with contextlib.suppress(Lost):
                list(stream.events())
            assert transport.acknowledged() in (0, len(head + inner)), (at, middle)


class Stuck(Breaking):
    """A transport whose channel accepts no request and brings nothing until it is released."""

    def __init__(self):
        super().__init__([])
        self.asked, self.free = threading.Event(), threading.Event()

    def send(self, data):
        if data == b"stop\n":
            self.asked.set()
            self.free.wait(60)

    def receive(self):
        if not self.pieces:
            self.free.wait(60)
        return super().receive()


def test_r10_r39_an_unsent_stop_request_does_not_block_the_next_request():
    """Nor the signal after it, with which the operator leaves."""
    transport = Stuck()
    stream = SegmentStream(Reconnector(lambda: transport, 0), OURS, lambda _offset: Bundle(b"", _Nothing()))
    stream.resume(0)
    stream.request(b"stop")

    def receive():
        with contextlib.suppress(Lost):
            list(stream.events())

    receiver, requester = (
        threading.Thread(target=each, daemon=True) for each in (receive, lambda: stream.request(b"kill"))
    )
    try:
        receiver.start()
        assert transport.asked.wait(30)
        requester.start()
        requester.join(10)
        assert not requester.is_alive()
    finally:
        transport.free.set()
        receiver.join()


class _Ignoring:
    def event(self, *_):
        pass
