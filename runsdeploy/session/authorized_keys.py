"""An account's authorized_keys on a host: read, or extended by one key. `shell/setup.sh` does it there."""

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
"""seconds that a host may take: PAM delays a refusal, and a directory service may be slow"""

LARGEST = 1 << 20
"""bytes that login shell and sudo may print"""


class WrongPassword(Refused):
    """Sudo on the host did not accept the password."""


class Question(Struct, frozen=True):
    """One request to a host."""

    mode: Literal["hello", "look", "add"]
    """`hello` only shows that commands run there"""
    host: str
    """the host's name, for messages"""
    user: str = ""
    """the owner of the file; empty for the login user"""
    key: PublicKey | None = None
    """the key; None for `hello`"""
    password: Password | None = None
    """for sudo, if it asks for one"""


class Answer(Struct, frozen=True):
    """The answer of a host."""

    result: str
    """`hello`; for the key `added`, `present`, `absent`; `password` if sudo asks for one and none was given"""
    file: str = ""
    """the path of the authorized_keys file on the host"""


def ask(transport: Transport, question: Question) -> Answer:
    """Send a request to a host; raises HostError. The password is sent once, and only to sudo."""
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
        received = _converse(channel, nonce, question)
        return _judge(received, channel.stderr(), nonce, question)
    except Refused:
        if late.is_set():
            raise Lost(f"`{question.host}` gave no answer within {PATIENCE:.0f} s") from None
        raise
    finally:
        limit.cancel()
        channel.close()


def _converse(channel: Channel, nonce: str, question: Question) -> bytes:
    """Send the program, then key and password when they are asked for; return all bytes received."""
    words = (nonce, question.mode, question.user or "-", "yes" if question.password else "no")
    _send(channel, call(program("setup.sh"), *words))
    ready, prompt = f"\x1e{nonce} ready".encode(), f"{nonce}?".encode()
    key_sent = password_sent = False
    received = b""
    while piece := channel.receive():
        received += piece
        if len(received) > LARGEST:
            raise Refused(f"`{question.host}` prints more than {LARGEST} bytes before it does anything")
        if question.password and prompt in received:
            if (
                received.count(prompt) > 1
            ):  # sudo asks up to three times, and each attempt counts where failed logins lock accounts
                raise _wrong(question)
            if not password_sent:
                password_sent = True
                _send(channel, question.password.secret + b"\n")
        if question.key and not key_sent and ready in received:
            key_sent = True
            _send(channel, question.key.line.encode() + b"\n")
            channel.close_input()
    return received


def _send(channel: Channel, data: bytes) -> None:
    try:
        channel.send(data)
    except Lost:
        # A command that ended has sent its reason, if the connection still works.
        return


def _judge(received: bytes, errors: bytes, nonce: str, question: Question) -> Answer:
    frames = re.findall(rb"\x1e%s (\w+) ?([^\n]*)\n" % nonce.encode(), received)
    result, text = next((frame for frame in reversed(frames) if frame[0] not in (b"ready", b"sudo")), (b"", b""))
    if result == b"refuse":
        message, _, hint = text.partition(b"\t")
        raise Refused(f"`{question.host}`: {_shown(message, question)}", _shown(hint, question))
    if result in (b"hello", b"password", b"added", b"present", b"absent"):
        return Answer(result.decode(), _shown(text, question))
    if (b"sudo", b"") in frames:
        raise _sudo_refused(received.rpartition(nonce.encode())[2], question)
    tail = _shown(b" ".join((received + b"\n" + errors).split())[-300:], question)
    raise Refused(f"`{question.host}` did not run the program" + (f"; it printed: {tail}" if tail else ""))


def _sudo_refused(output: bytes, question: Question) -> Refused:
    lines = [line.strip() for line in output.replace(b"?", b"", 1).splitlines() if line.strip()]
    if any(b"incorrect" in line or b"try again" in line for line in lines):
        return _wrong(question)
    last = _shown(lines[-1].removeprefix(b"sudo: "), question).rstrip(".") if lines else "without a reason"
    return Refused(f"`sudo` on `{question.host}` refused: {last}", f"it must let the login become `{question.user}`")


def _wrong(question: Question) -> WrongPassword:
    return WrongPassword(f"`sudo` on `{question.host}` did not accept the password")


def _shown(data: bytes, question: Question) -> str:
    """Return bytes of a host as text, with the password hidden."""
    hidden = question.password.hide(data) if question.password else data
    return hidden.decode("utf-8", "backslashreplace")
