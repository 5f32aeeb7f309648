"""An account's authorized_keys on a host: looked at, or given one more key. `shell/setup.sh` does it there."""

from __future__ import annotations

import re
import secrets
import threading
from typing import Literal

from msgspec import Struct

from runsdeploy.errors import Lost, Refused
from runsdeploy.session.program import COMMAND, call, program
from runsdeploy.transport.channel import Channel, Transport
from runsdeploy.transport.password import Password
from runsdeploy.transport.public_key import PublicKey

PATIENCE = 60.0
"""seconds that a host may take: PAM delays what it refuses, and a directory service may be slow"""

LARGEST = 1 << 20
"""bytes that login shell and sudo may say"""


class WrongPassword(Refused):
    """Sudo on the host did not accept the password."""


class Question(Struct, frozen=True):
    """What is asked of a host."""

    mode: Literal["hello", "look", "add"]
    """`hello` only shows that commands run there"""
    host: str
    """its name, for messages"""
    user: str = ""
    """whose file it is; empty for the login's own"""
    key: PublicKey | None = None
    """the key; None for `hello`"""
    password: Password | None = None
    """for sudo, if that asks for one"""


class Answer(Struct, frozen=True):
    """What the host said."""

    said: str
    """`hello`; of the key `added`, `present`, `absent`; `password` if sudo wants one and there is none"""
    file: str = ""
    """the authorized_keys file as the host calls it"""


def ask(transport: Transport, question: Question) -> Answer:
    """Ask a host, or have it add the key; raises HostError. The password is sent once, and to sudo alone."""
    nonce = secrets.token_hex(16)
    channel = transport.open(COMMAND)
    late = threading.Event()

    def give_up() -> None:
        late.set()
        channel.close()

    limit = threading.Timer(PATIENCE, give_up)
    limit.daemon = True
    limit.start()
    try:
        heard = _converse(channel, nonce, question)
        return _judge(heard, channel.stderr(), nonce, question)
    except Refused:
        if late.is_set():
            raise Lost(f"`{question.host}` gave no answer within {PATIENCE:.0f} s") from None
        raise
    finally:
        limit.cancel()
        channel.close()


def _converse(channel: Channel, nonce: str, question: Question) -> bytes:
    """Say everything when it is asked for; return what was heard."""
    words = (nonce, question.mode, question.user or "-", "yes" if question.password else "no")
    _send(channel, call(program("setup.sh"), *words))
    ready, prompt = f"\x1e{nonce} ready".encode(), f"{nonce}?".encode()
    told_key = told_password = False
    heard = b""
    while piece := channel.receive():
        heard += piece
        if len(heard) > LARGEST:
            raise Refused(f"`{question.host}` says more than {LARGEST} bytes before it does anything")
        if question.password and prompt in heard:
            if heard.count(prompt) > 1:  # sudo asks up to three times, and each counts for whatever locks accounts
                raise _wrong(question)
            if not told_password:
                told_password = True
                _send(channel, question.password.secret + b"\n")
        if question.key and not told_key and ready in heard:
            told_key = True
            _send(channel, question.key.line.encode() + b"\n")
            channel.close_input()
    return heard


def _send(channel: Channel, data: bytes) -> None:
    try:
        channel.send(data)
    except Lost:
        # A command that ended has said why, if the connection is still there.
        return


def _judge(heard: bytes, errors: bytes, nonce: str, question: Question) -> Answer:
    frames = re.findall(rb"\x1e%s (\w+) ?([^\n]*)\n" % nonce.encode(), heard)
    said, text = next((frame for frame in reversed(frames) if frame[0] not in (b"ready", b"sudo")), (b"", b""))
    if said == b"refuse":
        message, _, hint = text.partition(b"\t")
        raise Refused(f"`{question.host}`: {_shown(message, question)}", _shown(hint, question))
    if said in (b"hello", b"password", b"added", b"present", b"absent"):
        return Answer(said.decode(), _shown(text, question))
    if (b"sudo", b"") in frames:
        raise _sudo_refused(heard.rpartition(nonce.encode())[2], question)
    tail = _shown(b" ".join((heard + b"\n" + errors).split())[-300:], question)
    raise Refused(f"`{question.host}` did not run what it was sent" + (f", it said: {tail}" if tail else ""))


def _sudo_refused(said: bytes, question: Question) -> Refused:
    lines = [line.strip() for line in said.replace(b"?", b"", 1).splitlines() if line.strip()]
    if any(b"incorrect" in line or b"try again" in line for line in lines):
        return _wrong(question)
    last = _shown(lines[-1].removeprefix(b"sudo: "), question).rstrip(".") if lines else "it did not say why"
    return Refused(f"`sudo` on `{question.host}` refused: {last}", f"it must let the login become `{question.user}`")


def _wrong(question: Question) -> WrongPassword:
    return WrongPassword(f"`sudo` on `{question.host}` did not accept the password")


def _shown(said: bytes, question: Question) -> str:
    """Return what a host said as text, without what it must not repeat."""
    hidden = question.password.hide(said) if question.password else said
    return hidden.decode("utf-8", "backslashreplace")
