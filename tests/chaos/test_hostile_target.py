"""Targets that lie, break off, never stop or never begin: the controller always ends in time and with a true report.

Each behaviour is a machine of its own (`impostor`) that a real deploy is sent to. Of each the same is asked: it ends
within its time and the memory it may have, with a documented status and valid JSON, without a traceback, it writes
nothing that was not requested, and reports nothing as done without an event. Behaviours that look like a slow step
are ended by the operator's signals, which must always work.

The second half has no machine: the bytes of a real session are altered at random and decoded again in this process.
"""

from __future__ import annotations

import io
import json
import os
import random
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

import paramiko
import pytest

from runsdeploy.errors import HostError, Unreachable
from runsdeploy.events import Event
from runsdeploy.output import console
from runsdeploy.output import json as documents
from runsdeploy.session.decoder import LONGEST, Decoder
from runsdeploy.session.report import OUTCOMES, SUCCESSES, Fold
from runsdeploy.session.run import Run
from runsdeploy.session.session import new_session
from runsdeploy.transport.local import LocalTransport
from tests import making
from tests.chaos.impostor import Impostor, Link, Talk, unanswered
from tests.trees import Operator, contents, plant, script

FULL = os.environ.get("RUNSDEPLOY_TEST_FULL") == "1"
LIMIT = 30
"""seconds that a deploy may take, by T15"""
HUNG = LIMIT if FULL else 120
"""seconds after which it is taken for hung: the machine may have other things to do"""
MEMORY = 128 << 20
"""bytes of memory that a controller may ever have had, by T15"""
AT_ONCE, WAITING_AT_ONCE = 4, 8
"""machines: they all live in this process, and one that floods keeps the others from answering"""
STATUSES = {0, 1, 2, 3, 4, 6, 124, 130, 143}
NOT_OK = OUTCOMES - SUCCESSES - {"detached"}
HOST = "medusa.univ.run"

# One worker has them all: most of them wait, so they go on side by side.
pytestmark = [pytest.mark.xdist_group("hostile"), pytest.mark.timeout(600 if FULL else 300)]

MIB = 1 << 20
GUARD = "shouldrun || exit"
TREES = {
    "plain": {"one": script("", GUARD), "two": script("", "true")},
    "file": {"one": script("out o", "true"), "two": script("conf local; ref -r o", 'cp "$o" "$o.copy"')},
    "facts": {"one": script("sysinfos -d debian && var debian=yes", "true")},
}


@dataclass(frozen=True)
class Behaviour:
    """What a machine does, and what a deploy to it may end as."""

    name: str
    tell: Callable[[Talk], None] | None = None
    raw: Callable[[socket.socket], None] | None = None
    at: dict[str, Callable[[Link], Any]] = field(default_factory=dict)
    outcomes: frozenset[str] = frozenset(NOT_OK)
    """of the host"""
    steps: tuple[str, ...] = ()
    """outcomes of the steps, where they are known"""
    tree: str = "plain"
    arguments: tuple[str, ...] = ()
    form: str = "json"
    interrupted: bool = False
    """whether it would go on for ever, as a step may, until the operator interrupts it"""
    refusable: bool = False
    """whether it may be ended before the operator interrupts it"""
    absent: str = ""
    """what must not be in the output, a pattern"""
    waits: bool = False
    """whether it mostly waits until a time limit is over"""


def only(*outcomes: str) -> frozenset[str]:
    """Return outcomes of a host as a set."""
    return frozenset(outcomes)


BEHAVIOURS: list[Behaviour] = []


def behaviour(name: str, **more: Any) -> Callable[[Callable[[Talk], None]], Callable[[Talk], None]]:
    """Make a function a behaviour that has read the whole request of the session."""

    def add(act: Callable[[Talk], None]) -> Callable[[Talk], None]:
        def act_then(talk: Talk) -> None:
            talk.read_request()
            act(talk)

        BEHAVIOURS.append(Behaviour(name, tell=act_then, **more))
        return act

    return add


def before_reading(name: str, **more: Any) -> Callable[[Callable[[Talk], None]], Callable[[Talk], None]]:
    """Make a function a behaviour that has read nothing: it does not even know the nonce."""

    def add(act: Callable[[Talk], None]) -> Callable[[Talk], None]:
        BEHAVIOURS.append(Behaviour(name, tell=act, **more))
        return act

    return add


def on_socket(name: str, **more: Any) -> Callable[[Callable[[socket.socket], None]], Callable[[socket.socket], None]]:
    """Make a function of a socket a behaviour."""

    def add(act: Callable[[socket.socket], None]) -> Callable[[socket.socket], None]:
        BEHAVIOURS.append(Behaviour(name, raw=act, outcomes=only("unreachable"), **more))
        return act

    return add


OK = ("start 1 one", "end 1 ok 0 0.01 0 none", "start 2 two", "end 2 ok 0 0.01 0 none", "finish ok")
START, END = OK[:2]


def to_its_end(link: socket.socket) -> None:
    """Read until the other side closes."""
    while link.recv(65536):
        pass


# --- before there is any SSH


@on_socket("closes at once", waits=True)
def _(link: socket.socket) -> None:
    link.close()


@on_socket("says nothing", waits=True)
def _(link: socket.socket) -> None:
    to_its_end(link)


@on_socket("lines before the banner for ever")
def _(link: socket.socket) -> None:
    while True:
        link.sendall(b"welcome to medusa\r\n" * 100)


@on_socket("a banner of 10 MiB")
def _(link: socket.socket) -> None:
    link.sendall(b"SSH-2.0-" + b"x" * 10 * MIB)
    link.sendall(b"\r\n")
    to_its_end(link)


@on_socket("a line that never ends before the banner")
def _(link: socket.socket) -> None:
    while True:
        link.sendall(b"x" * MIB)


@on_socket("a banner with terminal escapes")
def _(link: socket.socket) -> None:
    link.sendall(b"SSH-1.5-\x1b]0;owned\x07\x1b[2J\r\n")
    to_its_end(link)


@on_socket("garbage")
def _(link: socket.socket) -> None:
    link.sendall(random.Random(1).randbytes(65536))
    to_its_end(link)


@on_socket("a banner, a byte at a time", waits=True)
def _(link: socket.socket) -> None:
    for byte in b"SSH-2.0-OpenSSH_" + b"9" * 100:
        link.sendall(bytes([byte]))
        time.sleep(1)


@on_socket("a banner and nothing else", waits=True)
def _(link: socket.socket) -> None:
    link.sendall(b"SSH-2.0-OpenSSH_9.2\r\n")
    to_its_end(link)


@on_socket("a banner, then it closes", waits=True)
def _(link: socket.socket) -> None:
    link.sendall(b"SSH-2.0-OpenSSH_9.2\r\n")


@on_socket("a banner, then garbage")
def _(link: socket.socket) -> None:
    link.sendall(b"SSH-2.0-OpenSSH_9.2\r\n" + random.Random(2).randbytes(65536))
    to_its_end(link)


@on_socket("a first packet of 256 MiB")
def _(link: socket.socket) -> None:
    link.sendall(b"SSH-2.0-OpenSSH_9.2\r\n" + (256 * MIB).to_bytes(4) + b"\x04\x14")
    while True:
        link.sendall(bytes(MIB))


@on_socket("packets that mean nothing, for ever, in place of keys")
def _(link: socket.socket) -> None:
    ignored = (28).to_bytes(4) + b"\x0a\x02" + (10).to_bytes(4) + bytes(12 + 10)
    link.sendall(b"SSH-2.0-OpenSSH_9.2\r\n")
    while True:
        link.sendall(ignored * 100)


# --- in the SSH protocol


def never(link: Link) -> None:
    """Answer no more, not even a keepalive."""
    link.impostor.over.wait(HUNG)


def hang_up(link: Link) -> None:
    """Close the connection."""
    link.transport.close()


def banners(link: Link) -> int:
    """Send banners as long as they are read; the login comes after."""
    message = paramiko.Message()
    message.add_byte(bytes([53]))  # SSH_MSG_USERAUTH_BANNER
    message.add_string("\x1b[2Jwelcome " * 2000)
    message.add_string("")
    for _ in range(200):
        link.transport._send_message(message)
    return paramiko.AUTH_FAILED


def partly(link: Link) -> int:  # noqa: ARG001 - as all
    """Ask for something else as well."""
    return paramiko.AUTH_PARTIALLY_SUCCESSFUL


def no_channel(link: Link) -> int:  # noqa: ARG001 - as all
    """Refuse a channel."""
    return paramiko.OPEN_FAILED_ADMINISTRATIVELY_PROHIBITED


def closed_window(link: Link) -> None:
    """Let nothing be sent on channels."""
    link.transport.default_window_size = 0


def narrow(link: Link) -> None:
    """Let no more be sent on channels than what starts a session."""
    link.transport.default_window_size, link.narrow = 0, True


BEHAVIOURS += [
    Behaviour("silent at login", at={"auth": never}, outcomes=only("unreachable"), waits=True),
    Behaviour("hangs up at login", at={"auth": hang_up}, outcomes=only("unreachable")),
    Behaviour("refuses the key, behind 200 banners", at={"auth": banners}, outcomes=only("unreachable")),
    Behaviour("wants more than a key", at={"auth": partly}, outcomes=only("unreachable")),
    Behaviour("silent when a channel is opened", at={"open": never}, waits=True),
    Behaviour("hangs up when a channel is opened", at={"open": hang_up}),
    Behaviour("refuses channels", at={"open": no_channel}, outcomes=only("refused")),
    Behaviour("silent when the command is started", at={"exec": never}, waits=True),
    Behaviour("hangs up when the command is started", at={"exec": hang_up}),
    Behaviour("refuses the command", at={"exec": lambda _: False}, outcomes=only("refused")),
    Behaviour("is there, but never says whether the command was started", at={"exec": unanswered}, waits=True),
    Behaviour(
        "takes no byte of what is sent", tell=lambda talk: talk.link.wait(), at={"open": closed_window}, waits=True
    ),
]


@before_reading("starts the command, and nothing comes of it", waits=True)
def _(talk: Talk) -> None:
    talk.link.wait()


@before_reading("ends the output, but not the command", waits=True)
def _(talk: Talk) -> None:
    talk.channel.shutdown_write()
    talk.link.wait()


@before_reading("closes the channel without a word")
def _(talk: Talk) -> None:
    talk.channel.close()


@before_reading("a status, then output, then the end")
def _(talk: Talk) -> None:
    talk.channel.send_exit_status(0)
    talk.write(b"this account is not available\n")
    talk.exit(None)


@before_reading("the end of the output, then output")
def _(talk: Talk) -> None:
    talk.channel.shutdown_write()
    talk.flood(b"more\n")
    talk.exit(1)


@before_reading("a status of 2^32 - 1", outcomes=only("refused", "lost"))
def _(talk: Talk) -> None:
    talk.write(b"no\n")
    talk.exit(0xFFFFFFFF)


@before_reading("errors for ever", waits=True)
def _(talk: Talk) -> None:
    while True:
        talk.complain(b"\x1b[31mbash: cannot\x1b[0m\n" * 1000)
        time.sleep(0 if FULL else 0.02)


@before_reading("login output before the nonce, 1 GiB of it" if FULL else "login output before the nonce, 24 MiB of it")
def _(talk: Talk) -> None:
    talk.pour(b"last login: today\n" * 10000, (1024 if FULL else 24) * MIB)
    talk.exit(1)


@before_reading("login output for ever", waits=True)
def _(talk: Talk) -> None:
    while True:
        talk.write(b"last login: today\n")
        time.sleep(0.1)


@before_reading("login output with terminal escapes", form="text", arguments=("--verbose",))
def _(talk: Talk) -> None:
    talk.write(b"\x1b[2J\x1b]0;owned\x07\x9b31m\xe2\x80\xae\n" * 100)
    talk.exit(1)


@before_reading("120 MiB that there was no window for")
def _(talk: Talk) -> None:
    for _ in range(120 * 32):
        talk.flood(bytes(32768))
    talk.exit(1)


@before_reading("a packet of 100 MiB")
def _(talk: Talk) -> None:
    talk.flood(bytes(100 * MIB))
    talk.exit(1)


@before_reading("100 MiB of errors that there was no window for")
def _(talk: Talk) -> None:
    for _ in range(100 * 32):
        talk.flood(bytes(32768), stderr=True)
    talk.exit(1)


# --- with the right nonce: how a session begins


@behaviour("reads everything and sends nothing", waits=True)
def _(talk: Talk) -> None:
    talk.link.wait()


@behaviour("reads everything and hangs up")
def _(talk: Talk) -> None:
    talk.link.transport.close()


@behaviour("says nothing but another nonce", outcomes=only("refused"))
def _(talk: Talk) -> None:
    for text in ("hello 3 /s", "attached 0", *OK):
        talk.write(talk.event(text, "0" * 32))
    talk.exit()


@behaviour("hello and the end, for ever")
def _(talk: Talk) -> None:
    talk.emit("hello 3 /s")
    talk.exit()


@behaviour("hello and no more", interrupted=True)
def _(talk: Talk) -> None:
    talk.emit("hello 3 /s")
    talk.hang()


@behaviour("hellos of odd versions and of 8 KiB")
def _(talk: Talk) -> None:
    talk.emit("hello 999999999999999 /s", "hello -1 /s", "hello 3 " + "%1b" * 2700, "hello 2 " + "x" * 9000, "hello")
    talk.exit()


@behaviour("begins and ends, for ever", outcomes=only("lost"), steps=("skipped", "skipped"))
def _(talk: Talk) -> None:
    talk.begin()
    talk.exit()


@behaviour("begins where nobody asked, further each time", outcomes=only("lost"))
def _(talk: Talk) -> None:
    talk.emit("hello 3 /s", f"attached {talk.number * 1000}")
    talk.exit()


@behaviour("begins before what was asked for, again and again", outcomes=only("lost"))
def _(talk: Talk) -> None:
    talk.emit("hello 3 /s", "attached 0", START)
    talk.exit()


@behaviour("begins at byte 10^15 - 1", outcomes=only("lost"))
def _(talk: Talk) -> None:
    talk.emit("hello 3 /s", f"attached {10**15 - 1}", START)
    talk.exit()


@behaviour("begins nowhere", outcomes=only("ok", "lost"))
def _(talk: Talk) -> None:
    talk.emit("hello 3 /s", "attached", "attached -5", "attached x", f"attached {10**40}", *OK)
    talk.exit()


@behaviour("begins without hello", outcomes=only("ok", "lost"))
def _(talk: Talk) -> None:
    talk.emit("attached 0", *OK)
    talk.exit()


@behaviour("starts a step, and from then on only hangs up", outcomes=only("lost"), steps=("lost", "skipped"))
def _(talk: Talk) -> None:
    if talk.number == 1:
        talk.begin()
        talk.emit(START)
    talk.link.transport.close()


@behaviour("a step that says nothing, for ever", interrupted=True, steps=("lost", "skipped"))
def _(talk: Talk) -> None:
    talk.begin()
    talk.emit(START)
    talk.hang()


@behaviour("a step, and no window for the operator's word", at={"open": narrow}, interrupted=True)
def _(talk: Talk) -> None:
    talk.begin()
    talk.emit(START)
    talk.hang()


@behaviour("refuses in 8 KiB of terminal escapes and bidi", outcomes=only("refused"), form="text")
def _(talk: Talk) -> None:
    talk.emit("hello 3 /s", "refuse bash " + "%1B%5B2J%E2%80%AE%9B%07" * 350)
    talk.exit()


@behaviour("refuses after all was well", outcomes=only("refused"))
def _(talk: Talk) -> None:
    talk.begin()
    talk.emit(*OK[:-1], "refuse state no")
    talk.exit()


@behaviour("held by somebody with terminal escapes", outcomes=only("locked"), form="text")
def _(talk: Talk) -> None:
    talk.begin()
    talk.emit("locked session %1B%5D0;owned%07 %0Amedusa.univ.run:%20ok %E2%80%AE -")
    talk.exit()


@behaviour("waits for ever, a word at a time", form="text", interrupted=True)
def _(talk: Talk) -> None:
    talk.begin()
    for _ in range(500):
        talk.emit("waiting operator %1B%5B2J" + "x" * 1000 + " - - -")
    talk.hang()


@behaviour("notes that look like results", form="text", absent=rf"(?m)^{HOST}: ok")
def _(talk: Talk) -> None:
    forged = f"%0A{HOST}:%20ok%20(2%20ok)%20in%200.10%20s"
    talk.begin()
    talk.emit(f"note {forged}", f"earlier 12ab {forged} {forged} killed 34cd 0", "finish ok")
    talk.exit()


# --- with the right nonce: steps


@behaviour("ok without any step", outcomes=only("lost"), steps=("skipped", "skipped"))
def _(talk: Talk) -> None:
    talk.begin()
    talk.emit("finish ok")
    talk.exit()


@behaviour("ends of steps that did not start", outcomes=only("lost"), steps=("skipped", "skipped"))
def _(talk: Talk) -> None:
    talk.begin()
    talk.emit("end 1 ok 0 0.01 0 none", "end 2 ok 0 0.01 0 none", "finish ok")
    talk.exit()


@behaviour("starts of steps that do not end", outcomes=only("lost"), steps=("lost", "lost"))
def _(talk: Talk) -> None:
    talk.begin()
    talk.emit("start 1 one", "start 2 two", "finish ok")
    talk.exit()


@behaviour("steps that were not planned, numbers of 15 digits", outcomes=only("lost"), form="jsonl")
def _(talk: Talk) -> None:
    talk.begin()
    for number in (0, 3, 10**15 - 1):
        talk.emit(
            f"start {number} ../../x", f"mark {number} setdone x", f"end {number} ok 0 999999999999999.9 999 exit"
        )
    talk.emit("finish ok")
    talk.exit()


@behaviour("an end of numbers of 15 digits", outcomes=only("failed"))
def _(talk: Talk) -> None:
    talk.begin()
    talk.emit(START, "end 1 failed 999 999999999999999.999 999999999999999 exit", "finish failed")
    talk.exit()


@behaviour("killed by no signal there is", outcomes=only("failed"), form="text")
def _(talk: Talk) -> None:
    talk.begin()
    talk.emit(START, "end 1 killed 1 0.01 0 none", "finish failed")
    talk.exit()


@behaviour("two ends of everything", outcomes=only("ok"), steps=("ok", "ok"))
def _(talk: Talk) -> None:
    talk.begin()
    talk.emit(*OK, "finish failed", START, "end 1 failed 1 0.01 0 none", "finish ok")
    talk.exit()


@behaviour("more after the end, without an end", outcomes=only("ok"), steps=("ok", "ok"))
def _(talk: Talk) -> None:
    talk.begin()
    talk.emit(*OK)
    talk.pour(b"x" * 65536, 16 * MIB)


@behaviour("words that nobody knows", outcomes=only("ok"), form="jsonl")
def _(talk: Talk) -> None:
    talk.begin()
    talk.emit(
        OK[0],
        "obey rm%20-rf",
        "",
        " ",
        "start",
        "end 2",
        "end 1 great 0 0 0 none",
        "finish great",
        "mark 1 x y",
        "x" * 9000,
    )
    talk.emit(*OK[1:])
    talk.exit()


@behaviour("100,000 marks of traversing names", outcomes=only("ok"))
def _(talk: Talk) -> None:
    talk.begin()
    talk.emit(OK[0])
    for at in range(0, 100_000, 1000):
        talk.emit(
            *(f"mark 1 {'setdone' if n % 2 else 'shouldrun'} ../../../../tmp/{n // 2}" for n in range(at, at + 1000))
        )
    talk.emit(*OK[1:])
    talk.exit()


@behaviour("15,000 questions, never a mark", outcomes=only("ok"))
def _(talk: Talk) -> None:
    talk.begin()
    talk.emit(OK[0])
    for at in range(0, 15_000, 1000):
        talk.emit(*(f"mark 1 shouldrun {n}" for n in range(at, at + 1000)))
    talk.emit(*OK[1:])
    talk.exit()


@behaviour(
    "200 MiB of output without an end of line" if FULL else "24 MiB of output without an end of line", form="text"
)
def _(talk: Talk) -> None:
    talk.begin()
    talk.emit(START)
    talk.pour(b"x" * 65536, (200 if FULL else 24) * MIB)
    talk.emit(END, "finish failed")
    talk.exit()


@behaviour("64 MiB of short lines" if FULL else "2 MiB of short lines", outcomes=only("ok"), form="jsonl")
def _(talk: Talk) -> None:
    talk.begin()
    talk.emit(OK[0])
    talk.pour(b"x\n" * 16384, (64 if FULL else 2) * MIB)
    talk.emit(*OK[1:])
    talk.exit()


@behaviour("output that there was no window for", form="text", interrupted=True, refusable=True)
def _(talk: Talk) -> None:
    talk.begin()
    talk.emit(START)
    # Faster than it can be shown: output that is not shown yet must not pile up. On a busy machine it is a step with
    # much output, until the operator stops it.
    enough = threading.Timer(5, talk.link.impostor.silent.set)
    enough.daemon = True
    enough.start()
    for _ in range((400 if FULL else 100) * 32):
        talk.flood(b"x\n" * 16384)
    talk.hang()


@behaviour("output that would obey a terminal", form="text", outcomes=only("ok"))
def _(talk: Talk) -> None:
    talk.begin()
    talk.emit(OK[0])
    talk.write(b"\x1b[2J\x1b]52;c;b3duZWQ=\x07\x9b\xc2\x9b\xe2\x80\xae\xff\r\b\n" * 100 + b"\x1b")
    talk.emit(*OK[1:])
    talk.exit()


@behaviour("4 MiB of marks that are none", outcomes=only("ok"))
def _(talk: Talk) -> None:
    talk.begin()
    talk.emit(OK[0])
    talk.pour(talk.event("no") * 800, 4 * MIB)
    talk.pour(b"\x1e" * 65536, 4 * MIB)
    talk.emit(*OK[1:])
    talk.exit()


@behaviour("a byte a second", interrupted=True)
def _(talk: Talk) -> None:
    talk.begin()
    talk.link.impostor.silent.set()
    for byte in b"".join(map(talk.event, OK)):
        talk.write(bytes([byte]))
        time.sleep(1)


# --- with the right nonce: files


CONTENT = b"made there\n"
DIGEST = sha256(CONTENT).hexdigest()
HEAD = f"file o 0644 {len(CONTENT)} {DIGEST}"


def made(talk: Talk, *heads: str, content: bytes = CONTENT) -> None:
    """Run the first step, and send files."""
    if talk.length:
        talk.begin()
        files = b"".join(talk.event(head) + content for head in heads)
        talk.emit(*OK[:2], *([f"returned {len(files)}"] if heads else []), "finish ok", "attached 0")
        talk.write(files)
    else:
        talk.emit("hello 3 /s", "finish ok")
    talk.exit()


def sends(name: str, *heads: str, content: bytes = CONTENT, **more: Any) -> None:
    """Add a behaviour that sends files; the step that needs one does not run."""
    given = {"outcomes": only("lost", "refused"), "steps": ("ok", "skipped"), "tree": "file", **more}
    behaviour(name, **given)(lambda talk: made(talk, *heads, content=content))


sends("the file that was asked for", HEAD, outcomes=only("ok"), steps=("ok", "ok"))
sends("the file twice", HEAD, HEAD, outcomes=only("ok"), steps=("ok", "ok"))
sends("no file")
sends("a file that nobody asked for", HEAD.replace(" o ", " p "))
sends("a file above everything", HEAD.replace(" o ", " ../../../../../hostile "))
sends("a file with an absolute name", HEAD.replace(" o ", " /tmp/hostile-target "))
sends("a file without a name", HEAD.replace(" o ", "  "))
sends("a file of 8 KiB of name", HEAD.replace(" o ", f" {'o' * 8000} "))
sends("a file of the wrong bytes", HEAD, content=b"x" * len(CONTENT))
sends("a file of 10^15 - 1 bytes", f"file o 0644 {10**15 - 1} {DIGEST}")
sends("a file in the middle of a file", f"file o 0644 200 {DIGEST}", HEAD, content=b"x")
sends("an empty file with the digest of another", f"file o 0644 0 {DIGEST}", content=b"")
sends("a file that is a device for everybody", HEAD.replace("0644", "7777"), outcomes=only("ok"), steps=("ok", "ok"))


@behaviour("a file of 10 GiB that does not come", tree="file", interrupted=True, steps=("ok", "skipped"))
def _(talk: Talk) -> None:
    talk.begin()
    talk.emit(*OK[:2], f"returned {11 << 30}", "finish ok", "attached 0", f"file o 0644 {10 << 30} {DIGEST}")
    talk.hang()


@behaviour("a file in the output of a step", tree="file", outcomes=only("lost"), steps=("lost", "skipped"))
def _(talk: Talk) -> None:
    talk.begin()
    talk.emit(OK[0], HEAD)
    talk.write(CONTENT)
    talk.emit(OK[1], "finish ok")
    talk.exit()


@behaviour("files from another byte on", tree="file", outcomes=only("lost"), steps=("ok", "skipped"))
def _(talk: Talk) -> None:
    talk.begin()
    talk.emit(*OK[:2], "returned 100", "finish ok", "attached 50")
    talk.exit()


@behaviour("a file, and a clean-up that does not answer", tree="file", outcomes=only("lost", "refused"), waits=True)
def _(talk: Talk) -> None:
    if talk.length:
        talk.begin()
        talk.emit(*OK[:2], "returned 100", "finish ok", "attached 0", HEAD.replace(" o ", " p "))
    talk.link.wait()


# --- with the right nonce: what other sessions did


@behaviour("sessions in sessions, 1,000 deep", form="jsonl")
def _(talk: Talk) -> None:
    inner = talk.event("finish ok")
    for _ in range(1000):
        inner = talk.event(f"earlier 12ab root@gorgo 2026 killed {talk.nonce} {len(inner)}") + inner
    talk.begin()
    talk.write(inner)
    talk.emit("finish ok")
    talk.exit()


@behaviour("a session of 10^15 bytes before ours, with all of ours in it", outcomes=only("lost"))
def _(talk: Talk) -> None:
    if talk.number == 1:
        talk.begin()
        talk.emit(f"earlier 12ab root@gorgo 2026 finished {talk.nonce} {10**15 - 1}", *OK)
    talk.exit()


@behaviour("100,000 sessions before ours", outcomes=only("ok", "lost"))
def _(talk: Talk) -> None:
    talk.begin()
    for _ in range(100):
        talk.emit(*[f"earlier 12ab {'x' * 200} 2026 killed 34cd 0"] * 1000)
    talk.emit(*OK)
    talk.exit()


@behaviour("a session of 200,000 steps before ours", outcomes=only("ok"), form="json")
def _(talk: Talk) -> None:
    inner = b"".join(talk.event(f"start {n} {'x' * 60}") for n in range(1000)) * 200
    talk.begin()
    talk.emit(f"earlier 12ab root@gorgo 2026 killed {talk.nonce} {len(inner)}")
    talk.write(inner)
    talk.emit(*OK)
    talk.exit()


@behaviour(
    "files and lies of another session", outcomes=only("lost", "refused"), steps=("skipped", "skipped"), tree="file"
)
def _(talk: Talk) -> None:
    inner = b"".join(map(talk.event, (*OK, "locked session a b c d", HEAD))) + CONTENT + talk.event("refuse bash no")
    talk.begin()
    talk.emit(f"earlier 12ab root@gorgo 2026 killed {talk.nonce} {len(inner)}")
    talk.write(inner)
    talk.emit("finish ok")
    talk.exit()


# --- with the right nonce: answers


def answers(name: str, *texts: str, **more: Any) -> None:
    """Add a behaviour that answers a question."""

    def reply(talk: Talk) -> None:
        talk.read_request()
        talk.emit("hello 3 /s")
        for text in texts:
            talk.emit(text)
        talk.emit("finish ok")
        talk.exit()

    BEHAVIOURS.append(Behaviour(name, tell=reply, **more))


FACTS = ("facts sysname linux", "facts sysdist debian linux", "facts sysver 12", "facts bits 64")
answers(
    "facts that are programs",
    "facts sysdist $(touch%20x)",
    "facts sysdist=($(touch x))",
    "facts sysname `id`",
    "facts PATH .",
    "facts bits 64;touch",
    tree="facts",
    outcomes=frozenset(OUTCOMES),
)
answers("no facts", tree="facts", outcomes=frozenset(OUTCOMES))
answers(
    "20,000 facts", *["facts sysdist " + " ".join(["x" * 60] * 16)] * 20000, tree="facts", outcomes=frozenset(OUTCOMES)
)
answers("a refusal in place of facts", "refuse tools %1B%5B2J" + "x" * 8000, tree="facts", form="text")
answers(
    "sessions in sessions in place of facts",
    *[f"earlier 12ab root@gorgo 2026 killed {'0' * 32} 0"] * 100,
    tree="facts",
    outcomes=frozenset(OUTCOMES),
)
answers(
    "markers of traversing names",
    "account root",
    "marker own ./../../etc/passwd",
    "marker own ./a/../../b:value x",
    "marker root ./%2e%2e/script",
    "marker own ./three/script:value " + "x" * 8000,
    arguments=("--dry-run",),
    outcomes=only("would-run"),
)
answers("an account nobody has", "account emperor", "account", arguments=("--dry-run",), outcomes=only("would-run"))
answers("half an answer", arguments=("--dry-run",), outcomes=only("would-run"))


@behaviour("facts 1,000 sessions deep", tree="facts")
def _(talk: Talk) -> None:
    inner = talk.event("facts bits 64")
    for _ in range(1000):
        inner = talk.event(f"earlier 12ab root@gorgo 2026 killed {talk.nonce} {len(inner)}") + inner
    talk.emit("hello 3 /s")
    talk.write(inner)
    talk.emit("finish ok")
    talk.exit()


@behaviour(
    "1,000,000 markers" if FULL else "300,000 markers",
    arguments=("--dry-run",),
    outcomes=only("would-run", "refused", "skipped"),
)
def _(talk: Talk) -> None:
    talk.emit("hello 3 /s", "account root")
    for at in range(0, 1_000_000 if FULL else 300_000, 1000):
        talk.emit(*(f"marker own ./{'x' * 150}{n}/script" for n in range(at, at + 1000)))
    talk.emit("finish ok")
    talk.exit()


@behaviour("a question that is not answered", tree="facts", interrupted=True)
def _(talk: Talk) -> None:
    talk.emit("hello 3 /s")
    talk.hang()


@behaviour("an answer without an end", tree="facts", outcomes=frozenset(OUTCOMES))
def _(talk: Talk) -> None:
    talk.emit("hello 3 /s", *FACTS)
    talk.exit()


# --- deploys to them


@dataclass(frozen=True)
class Outcome:
    """How a deploy to one of them went."""

    status: int | None
    """None if it hung"""
    out: bytes
    talk: str
    peak: int
    """bytes of memory that it had at most"""
    seconds: float
    before: dict[bytes, Any]
    after: dict[bytes, Any]
    reached: bool
    faults: list[BaseException]


# The program, which at its very end prints the memory that it used: that of an ended process is unknown.
PROGRAM = """\
import os, sys
end = os._exit
def leave(status):
    with open(os.environ["HOSTILE_PEAK"], "w") as file, open("/proc/self/status") as about:
        file.write(about.read())
    end(status)
os._exit = leave
from runsdeploy.cli.main import entry
entry()
"""


def deploy(each: Behaviour, directory: Path) -> Outcome:
    """Deploy to a behaviour."""
    scripts = {f"scripts/{name}": text for name, text in TREES[each.tree].items()}
    tree = plant(directory / "his" / "tree", {**scripts, "hosts/medusa/default": "\n".join(TREES[each.tree]) + "\n"})
    cwd = directory / "his" / "cwd"
    cwd.mkdir()
    with Impostor(directory / "impostor", each.tell, each.at, each.raw) as impostor:
        operator = Operator(directory / "his" / "operator", impostor.ssh_config)
        operator.environment["HOSTILE_PEAK"] = str(directory / "peak")
        before = contents(directory / "his")
        words = operator.deploy_arguments(tree, "--patience", "1", *each.arguments, form=each.form)
        began = time.monotonic()
        with (directory / "out").open("wb") as out, (directory / "talk").open("wb") as talk:
            process = subprocess.Popen(
                [sys.executable, "-c", PROGRAM, *map(os.fspath, words)],
                stdin=subprocess.DEVNULL, stdout=out, stderr=talk, cwd=cwd, env=operator.settings(),
                start_new_session=True,
            )  # fmt: skip
        status = end_of(process, impostor, directory / "peak", interrupted=each.interrupted)
        seconds = time.monotonic() - began
        after = {path: it for path, it in contents(directory / "his").items() if not path.startswith(b"operator/state")}
    found = re.search(r"VmHWM:\s+(\d+) kB", read(directory / "peak").decode())
    return Outcome(
        status, read(directory / "out"), read(directory / "talk").decode("utf-8", "backslashreplace"),
        int(found[1]) * 1024 if found else 0, seconds, before, after, impostor.reached.is_set(), impostor.faults,
    )  # fmt: skip


def read(path: Path) -> bytes:
    """Take what a file holds, if there is one, and no more than a reader would look at."""
    if not path.exists():
        return b""
    with path.open("rb") as file:
        # Gone as soon as it is read: some write hundreds of MiB.
        path.unlink()
        return file.read(256 * MIB)


def end_of(process: subprocess.Popen[bytes], impostor: Impostor, peak: Path, *, interrupted: bool) -> int | None:
    """Wait for the end of a deploy, interrupting it if need be; None if it hung, and then `peak` is what it had."""
    deadline = time.monotonic() + HUNG
    while process.poll() is None:
        if time.monotonic() > deadline:
            peak.write_bytes(Path(f"/proc/{process.pid}/status").read_bytes())
            process.kill()
            process.wait()
            return None
        try:
            process.wait(0.5 if interrupted and impostor.silent.is_set() else 0.05)
        except subprocess.TimeoutExpired:
            if interrupted and impostor.silent.is_set():
                process.send_signal(signal.SIGTERM)
    return process.returncode


@pytest.fixture(scope="module")
def outcomes(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """Deploy to all behaviours that were asked for, some at a time."""
    place = tmp_path_factory.mktemp("hostile")
    wanted = [
        item.callspec.params["each"] for item in request.session.items
        if item.path == request.path and "each" in getattr(getattr(item, "callspec", None), "params", {})
    ]  # fmt: skip
    with ThreadPoolExecutor(AT_ONCE) as busy, ThreadPoolExecutor(WAITING_AT_ONCE) as waiting:
        yield {
            each.name: (waiting if each.waits else busy).submit(deploy, each, place / str(n))
            for n, each in enumerate(wanted)
        }


@pytest.mark.parametrize("each", BEHAVIOURS, ids=lambda each: each.name.replace(" ", "-"))
def test_t15_r39_s9_a_hostile_target_harms_nothing_and_no_report_is_wrong(each, outcomes):
    done: Outcome = outcomes[each.name].result()
    told = done.out.decode("utf-8", "backslashreplace")
    print(f"{done.seconds:.1f} s, {done.peak >> 20} MiB, status {done.status}\n{told[-3000:]}\n{done.talk[-3000:]}")
    assert done.faults == [], "the behaviour is broken"
    assert done.reached, "the behaviour was never met"
    assert done.status is not None, f"still there after {HUNG} s"
    assert "Traceback" not in done.talk
    assert "runsdeploy itself failed" not in told + done.talk
    assert done.status in STATUSES
    assert done.status == 143 or not each.interrupted or (each.refusable and done.status == 3)
    assert done.after == done.before
    assert 0 < done.peak <= MEMORY
    # JSON is for programs, and has to escape no more than what JSON forbids.
    shown = done.talk + (told if each.form == "text" else "")
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", shown), "a terminal would obey"
    assert not (each.absent and re.search(each.absent, told))
    if each.form == "text":
        assert bool(re.search(rf"(?m)^{HOST}: ok", told)) == (each.outcomes == only("ok"))
    else:
        judge(each, done, json.loads(told.splitlines()[-1]))


def judge(each: Behaviour, done: Outcome, document: dict[str, Any]) -> None:
    """Compare a document with the events."""
    assert document["exit_status"] == done.status
    if document.get("dry_run"):
        assert {step["outcome"] for host in document["hosts"] for step in host["steps"]} <= each.outcomes | {"maybe"}
    elif not document["hosts"]:
        # Facts that make no plan are a mistake in what was given; an interrupt may come before there is a plan.
        assert each.tree == "facts"
        assert done.status == (143 if each.interrupted else 2)
    else:
        (host,) = document["hosts"]
        assert host["outcome"] in ({"interrupted"} if each.interrupted else each.outcomes)
        said = tuple(step["outcome"] for step in host["steps"])
        assert not each.steps or said == each.steps
        assert (done.status == 0) == (host["outcome"] == "ok")
        assert host["outcome"] != "ok" or set(said) <= SUCCESSES


# --- transcripts, altered at random


CASES = 10_000 if FULL else 300
SEED = int(os.environ.get("RUNSDEPLOY_TEST_SEED", "0")) or random.SystemRandom().randrange(1 << 32)
CONNECTIONS = 12
"""after which a machine is gone: a session that reconnects for ever must not block the test"""


@dataclass
class Recorded:
    """The bytes of a real session, channel by channel."""

    run: Run
    channels: list[bytes]


class _Recorder:
    """The local transport, whose channels are recorded."""

    alive = True

    def __init__(self) -> None:
        self.channels: list[bytearray] = []

    def open(self, command: str) -> Any:
        channel = LocalTransport().open(command)
        recording = bytearray()
        self.channels.append(recording)
        receive = channel.receive

        def record() -> bytes:
            data = receive()
            recording.extend(data)
            return data

        channel.receive = record  # type: ignore[method-assign]
        return channel

    def close(self) -> None:
        """Nothing is held open."""


class _Replay:
    """A channel that brings the given bytes in chunks of any size, and ignores its input."""

    def __init__(self, data: bytes, dice: random.Random) -> None:
        self.data, self.dice, self.at = data, dice, 0

    def send(self, data: bytes) -> None:
        """Take it."""

    def close_input(self) -> None:
        """Take it."""

    def receive(self) -> bytes:
        """Return the next chunk."""
        size = self.dice.choice((1, 7, 100, 4096, 1 << 18))
        self.at += size
        return self.data[self.at - size : self.at]

    def stderr(self) -> bytes:
        """Return nothing."""
        return b""

    def exit_status(self) -> int | None:
        """Return success."""
        return 0

    def close(self) -> None:
        """Take it."""


class _Replayed:
    """A machine that replays altered transcripts, for a limited number of connections."""

    alive = True

    def __init__(self, channels: list[bytes], dice: random.Random) -> None:
        self.channels, self.dice, self.count = channels, dice, 0

    def connect(self) -> _Replayed:
        if self.count >= CONNECTIONS:
            raise Unreachable("it is gone")
        return self

    def open(self, command: str) -> _Replay:  # noqa: ARG002 - as all transports
        self.count += 1
        return _Replay(self.channels[min(self.count, len(self.channels)) - 1], self.dice)

    def close(self) -> None:
        """Nothing is held open."""


PLAN = making.plan(
    making.step('echo hello; setdone; echo made >"$RUNS_SHARED/o"', 1, "one", outs=("o",)),
    making.step("shouldrun sub; printf '\\036x'; setdone sub; exit 3", 2, "two"),
)


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Recorded:
    """Record a real session."""
    place = tmp_path_factory.mktemp("recorded")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RUNSDEPLOY_STATE_DIR", str(place / "state"))
        patch.setenv("HOME", str(place))
        recorder = _Recorder()
        run = Run(PLAN, new_session(patience=1.0), lambda: recorder)
        assert [type(event).__name__ for event in run.events()][-1] == "Finished"
    return Recorded(run, [bytes(channel) for channel in recorder.channels])


def nonce_of(channels: list[bytes]) -> str:
    """Return the nonce of a recorded session's one segment."""
    found = re.search(rb"\x1e([0-9a-f]{32}) hello", channels[0])
    assert found
    return found[1].decode()


def altered(data: bytes, nonce: str, dice: random.Random) -> bytes:
    """Return a transcript with some accidents."""
    mark = b"\x1e" + nonce.encode() + b" "
    for _ in range(dice.randint(1, 5)):
        data = dice.choice(ACCIDENTS)(data, mark, dice)
    return data


def on_the_way(data: bytes, mark: bytes, dice: random.Random) -> bytes:
    """Lose, double or make up some bytes."""
    at, other = sorted((dice.randrange(len(data) + 1), dice.randrange(len(data) + 1)))
    between = (
        b"",
        data[at:other] * 2,
        dice.randbytes(dice.randint(1, 40)) + data[at:other],
        mark * dice.randint(1, 30) + data[at:other],
    )
    return data[:at] + dice.choice(between) + (data[other:] if dice.randrange(5) else b"")


def in_order(data: bytes, mark: bytes, dice: random.Random) -> bytes:
    """Lose, double, add or shuffle events."""
    events = data.split(mark)
    which = dice.randrange(len(events))
    match dice.randrange(4):
        case 0:
            dice.shuffle(events)
        case 1:
            del events[which]
        case 2:
            events[which:which] = [events[which]] * dice.randint(1, 3)
        case _:
            events.insert(which, dice.choice(INSERTED) % {b"nonce": mark[1:-1]} + b"\n")
    return mark.join(events)


def in_number(data: bytes, mark: bytes, dice: random.Random) -> bytes:
    """Say other numbers in one event."""
    events = data.split(mark)
    which = dice.randrange(len(events))
    number = dice.choice((b"0", b"-1", b"3", b"9" * 15, b"9" * 16, b"x", b""))
    events[which] = re.sub(rb"\d+", lambda found: dice.choice((number, found[0])), events[which])
    return mark.join(events)


ACCIDENTS = (on_the_way, in_order, in_number)


INSERTED = (
    b"attached 0", b"attached 99999", b"hello 3 /x", b"start 1 one", b"end 1 ok 0 0.1 0 none", b"end 2 ok 0 0.1 0 none",
    b"finish ok", b"refuse bash %%1b", b"locked session a b c d", b"waiting operator - - - -", b"note %%0a%%ff",
    b"earlier 12 a b killed %(nonce)s 200", b"earlier 12 a b killed 34 999999999999999",
    b"file o 0644 10 " + b"0" * 64, b"file p 0644 0 " + b"0" * 64, b"mark 2 setdone ..", b"facts bits 64",
    b"unacknowledged 12 segment0 %(nonce)s 5 a b", b"account root", b"marker own ./a/script:value =x",
)  # fmt: skip


@pytest.mark.parametrize("form", ["text", "jsonl"])
def test_t15_altered_transcripts_end_in_a_report_that_claims_nothing_more(form, recorded, monkeypatch):
    """Run it again with RUNSDEPLOY_TEST_SEED. A step that a report calls ok must be ok in the bytes."""
    print(f"seed {SEED}")
    monkeypatch.setattr("time.sleep", lambda _: None)
    monkeypatch.setattr("runsdeploy.session.reconnect.PAUSES", (0.0,))
    nonce = nonce_of(recorded.channels)
    monkeypatch.setattr("runsdeploy.session.run.new_nonce", lambda: nonce)
    for case in range(CASES // 2):
        dice = random.Random(f"{SEED} {form} {case}")
        channels = [altered(data, nonce, dice) for data in recorded.channels for _ in range(3)]
        out = io.TextIOWrapper(io.BytesIO(), "utf-8")
        monkeypatch.setattr(sys, "stdout", out)
        monkeypatch.setattr(sys, "stderr", io.StringIO())
        listener: Any = (
            console.Console([recorded.run.plan.host.name], verbose=True) if form == "text" else documents.Lines()
        )
        report, seconds = replay(recorded.run, channels, dice, listener)
        out.flush()
        written = out.buffer.getvalue()  # type: ignore[attr-defined]
        monkeypatch.undo()
        monkeypatch.setattr("runsdeploy.session.reconnect.PAUSES", (0.0,))
        monkeypatch.setattr("runsdeploy.session.run.new_nonce", lambda: nonce)
        where = f"seed {SEED}, case {case}: {channels}"
        assert seconds < 10, where
        for step in report.steps:
            said = rb"\x1e%s end %d %s " % (nonce.encode(), step.step.number, step.outcome.encode())
            assert step.outcome not in SUCCESSES or any(re.search(said, data) for data in channels), where
        assert report.outcome != "ok" or all(step.outcome in SUCCESSES for step in report.steps), where
        assert not re.search(rb"[\x00-\x08\x0b-\x1f]", written), where
        if form == "jsonl":
            for line in written.splitlines():
                json.loads(line)


def replay(run: Run, channels: list[bytes], dice: random.Random, listener: Any) -> tuple[Any, float]:
    """Hear altered transcripts; return the report, and how long it took."""
    machine = _Replayed(channels, dice)
    again = Run(run.plan, run.session, machine.connect)  # type: ignore[arg-type]
    fold, error = Fold(run.plan), None
    began = time.process_time()
    listener.begin(run.plan)
    try:
        for event in again.events():
            fold.add(event)
            listener.event(run.plan, event, fold)
    except HostError as failed:
        error = failed
    report = fold.close(0.0, error)
    listener.end(report)
    return report, time.process_time() - began


def test_a_recorded_session_is_replayed_with_the_same_report(recorded, monkeypatch):
    """The control: without an accident the same comes out."""
    nonce = nonce_of(recorded.channels)
    monkeypatch.setattr("runsdeploy.session.run.new_nonce", lambda: nonce)
    report, _ = replay(recorded.run, recorded.channels, random.Random(1), documents.Silent())
    assert (report.outcome, [step.outcome for step in report.steps]) == ("failed", ["ok", "failed"])


NONCE = "0123456789abcdef" * 2
STREAMS = {
    "marks-of-nobody": b"\x1e" * MIB,
    "beginnings-of-events": (b"\x1e" + NONCE.encode()) * (MIB // 33),
    "events-that-are-none": (b"\x1e" + NONCE.encode() + b" no\n") * (MIB // 37),
    "starts-of-events": (b"\x1e" + NONCE.encode() + b" ") * (MIB // 34),
    "all-but-the-last-byte": (b"\x1e" + NONCE[:-1].encode()) * (MIB // 32),
    "notes": (b"\x1e" + NONCE.encode() + b" note x\n") * (MIB // 41),
}


@pytest.mark.parametrize("chunk", [1 << 18, 1 << 12, 61])
@pytest.mark.parametrize("name", STREAMS)
def test_t15_a_decoder_takes_any_10_mib_in_bounded_time_and_memory(name, chunk):
    """Each MiB costs as much as the one before; 10 of them with RUNSDEPLOY_TEST_FULL."""
    decoder, began = Decoder(NONCE, in_session=True), time.process_time()
    for _ in range(10 if FULL else 1):
        for at in range(0, len(STREAMS[name]), chunk):
            for _event in decoder.feed(STREAMS[name][at : at + chunk]):
                pass
    assert time.process_time() - began < (10 if FULL else 3)


def test_t15_a_decoder_keeps_no_more_than_one_event():
    kept = 0
    for name in STREAMS:
        decoder = Decoder(NONCE)
        for at in range(0, MIB, 4096):
            for _ in decoder.feed(STREAMS[name][at : at + 4096]):
                pass
            kept = max(kept, len(decoder._buffer))
    assert kept < LONGEST + 4096


@pytest.mark.parametrize("depth", [2, 100, 1000])
def test_t15_nested_earlier_sessions_are_decoded_or_taken_for_output(depth):
    def event(text: str) -> bytes:
        return b"\x1e" + NONCE.encode() + b" " + text.encode() + b"\n"

    inner = event("note x")
    for _ in range(depth):
        inner = event(f"earlier 12ab root@gorgo 2026 killed {NONCE} {len(inner)}") + inner
    events: list[Event] = list(Decoder(NONCE, in_session=True).feed(inner + event("finish ok")))
    assert type(events[-1]).__name__ == "Finished"
