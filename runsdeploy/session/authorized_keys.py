"""Check an account's authorized_keys on a host, or add a key to it: runs `shell/setup.sh` there."""

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
"""bytes of output that the login shell and sudo may write"""


class WrongPassword(Refused):
    """Sudo on the host did not accept the password."""


class KeyRequest(Struct, frozen=True):
    """A request to one host."""

    mode: Literal["hello", "look", "add"]
    """`hello` only tests that commands run there, `look` changes nothing"""
    host: str
    """its name, for messages"""
    user: str = ""
    """the owner of the file; empty for the login"""
    key: PublicKey | None = None
    """the key; None for `hello`"""
    password: Password | None = None
    """the password for sudo, if sudo asks for one"""


class KeyResponse(Struct, frozen=True):
    """A host's response."""

    result: str
    """`hello`; for the key `added`, `present`, `absent`; `password` if sudo needs one and the request has none"""
    file: str = ""
    """path of the authorized_keys file on the host"""


def run_setup(transport: Transport, request: KeyRequest) -> KeyResponse:
    """Run a request on a host; raises HostError. The password is sent once, and only to sudo."""
    nonce, prompt = secrets.token_hex(16), secrets.token_hex(16)
    channel = transport.open(COMMAND)
    late = threading.Event()

    def give_up() -> None:
        late.set()
        channel.close()

    limit = threading.Timer(PATIENCE, give_up)
    limit.daemon = True
    limit.start()
    try:
        output = _exchange(channel, nonce, prompt, request)
        return _parse_output(output, channel.stderr(), nonce, prompt, request)
    except Refused:
        if late.is_set():
            raise Lost(f"`{request.host}` did not answer within {PATIENCE:.0f} s") from None
        raise
    finally:
        limit.cancel()
        channel.close()


def _exchange(channel: Channel, nonce: str, word: str, request: KeyRequest) -> bytes:
    """Send the program, and then password, header and key, each when the host asks for it; return the host's output.

    Everybody on the host may read the `word` by which sudo and its program ask; only the nonce marks results.
    """
    header = (nonce, word, request.mode, request.user or "-", "yes" if request.password else "no")
    _send(channel, call(program("setup.sh"), *header))
    ready, prompt, again = f"\x1e{nonce} ready".encode(), f"{word}?".encode(), f"\x1e{word} header\n".encode()
    key_sent = password_sent = header_sent = False
    output = b""
    while piece := channel.receive():
        output += piece
        if len(output) > LARGEST:
            raise Refused(f"`{request.host}` sent more than {LARGEST} bytes before its response")
        if request.password and prompt in output:
            # sudo prompts up to three times, and each wrong answer counts where accounts are locked.
            if output.count(prompt) > 1:
                raise _wrong_password(request)
            if not password_sent:
                password_sent = True
                _send(channel, request.password.secret + b"\n")
        if not header_sent and again in output:
            header_sent = True
            _send(channel, " ".join(header).encode() + b"\n")
        if request.key and not key_sent and ready in output:
            key_sent = True
            _send(channel, request.key.line.encode() + b"\n")
            channel.close_input()
    return output


def _send(channel: Channel, data: bytes) -> None:
    try:
        channel.send(data)
    except Lost:
        # The command ended. Its output has the reason, if the connection is still open.
        return


def _parse_output(output: bytes, stderr: bytes, nonce: str, prompt: str, request: KeyRequest) -> KeyResponse:
    frames = re.findall(rb"\x1e%s (\w+) ?([^\n]*)\n" % nonce.encode(), output)
    result, text = next((frame for frame in reversed(frames) if frame[0] not in (b"ready", b"sudo")), (b"", b""))
    if result == b"refuse":
        message, _, hint = text.partition(b"\t")
        raise Refused(f"`{request.host}`: {_decode(message, request)}", _decode(hint, request))
    if result in (b"hello", b"password", b"added", b"present", b"absent"):
        return KeyResponse(result.decode(), _decode(text, request))
    if (b"sudo", b"") in frames:
        behind = output.rpartition(nonce.encode())[2]
        raise _sudo_refusal(behind.rpartition(prompt.encode())[2], request)
    tail = _decode(b" ".join((output + b"\n" + stderr).split())[-300:], request)
    raise Refused(f"`{request.host}` did not run the program" + (f"; its output: {tail}" if tail else ""))


def _sudo_refusal(output: bytes, request: KeyRequest) -> Refused:
    lines = [line.strip() for line in output.replace(b"?", b"", 1).splitlines() if line.strip()]
    if any(b"incorrect" in line or b"try again" in line for line in lines):
        return _wrong_password(request)
    last = _decode(lines[-1].removeprefix(b"sudo: "), request).rstrip(".") if lines else "it gave no reason"
    return Refused(f"`sudo` on `{request.host}` refused: {last}", f"sudo must let the login become `{request.user}`")


def _wrong_password(request: KeyRequest) -> WrongPassword:
    return WrongPassword(f"`sudo` on `{request.host}` did not accept the password")


def _decode(output: bytes, request: KeyRequest) -> str:
    """Return a host's output as text, without the password."""
    hidden = request.password.hide(output) if request.password else output
    return hidden.decode("utf-8", "backslashreplace")
