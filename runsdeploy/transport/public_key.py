"""The operator's public key: find the one that ssh would offer, and check its file."""

from __future__ import annotations

import base64
import binascii
import contextlib
import os
import shlex
from pathlib import Path

from msgspec import Struct

from runsdeploy.errors import InputError, Problem, Unreachable, did_you_mean, reason
from runsdeploy.transport.known_hosts import Key
from runsdeploy.transport.openssh import run
from runsdeploy.transport.ssh_config import Settings

KINDS = (
    "ssh-ed25519",
    "ecdsa-sha2-nistp256",
    "ecdsa-sha2-nistp384",
    "ecdsa-sha2-nistp521",
    "ssh-rsa",
    "sk-ssh-ed25519@openssh.com",
    "sk-ecdsa-sha2-nistp256@openssh.com",
)
"""kinds of keys that sshd accepts; it accepted `ssh-dss` until OpenSSH 7.0"""

LONGEST = 16 * 1024
"""bytes of a line: the limit of older sshds. A line with 16384 bits of RSA has 2.8 KB"""

_OPENSSH_KEY = b"openssh-key-v1\0"


class PublicKey(Struct, frozen=True):
    """A public key, and the path of its private half."""

    kind: str
    """one of KINDS"""
    blob: bytes
    """the key in SSH wire format"""
    comment: str = ""
    """the owner, for people"""
    private: str = ""
    """path of the private half, which may not exist; empty for a key of the agent"""

    @property
    def line(self) -> str:
        """The key as a line of authorized_keys, without the newline."""
        return f"{self.kind} {base64.b64encode(self.blob).decode()} {self.comment}".rstrip()

    def __str__(self) -> str:
        return str(Key(self.kind, self.blob))


def find(file: str | None, settings: Settings) -> PublicKey:
    """Return the key in `file`, or else the first key that ssh would offer to the host; raises InputError.

    `file` may be the public or the private half. The order is that of `ssh -G`: IdentityFile, then the agent.
    """
    if file:
        return _from_file(file)
    for identity in settings.identities:
        if Path(f"{identity}.pub").is_file() or Path(identity).is_file():
            return _from_file(identity)
    agent = _from_agent(settings)
    if agent:
        return agent
    files = ", ".join(f"`{identity}`" for identity in settings.identities)
    searched = f"none of {files} exists" if files else "no file is configured"
    message = f"you have no key: {searched}, and the agent has none"
    raise _problem(message, "make one: `ssh-keygen -t ed25519`")


def _from_file(file: str) -> PublicKey:
    """Read either half. A private key contains its public half unencrypted; nothing else of it is read."""
    path = os.path.abspath(os.path.expanduser(file))  # noqa: PTH100, PTH111 - Path.expanduser raises
    private = path.removesuffix(".pub")
    public = f"{private}.pub"
    if not Path(public).is_file() and path != public:
        public = path
    try:
        data = Path(public).read_bytes()[: LONGEST + 1]
    except OSError as error:
        raise _problem(f"cannot read the key `{public}`: {reason(error)}") from error
    if b"PRIVATE KEY-----" in data:
        return _from_private(path)
    key = parse(data, public, private)
    own = public_half(private) if public != private and Path(private).is_file() else None
    if own and own != key.blob:
        hint = f"ssh-keygen -y -f {shlex.quote(private)} >{shlex.quote(public)}"
        raise _problem(f"`{public}` is not the public half of `{private}`", hint)
    return key


def _from_private(path: str) -> PublicKey:
    blob = public_half(path)
    if not blob:
        hint = f"ssh-keygen -y -f {shlex.quote(path)} >{shlex.quote(path)}.pub"
        raise _problem(f"`{path}` is a private key without its public half", hint)
    return PublicKey(_kind(blob, path), blob, private=path)


def public_half(path: str) -> bytes | None:
    """Return the public key of an identity file, without its passphrase; None if there is none."""
    for candidate in (path, f"{path}.pub"):
        with contextlib.suppress(OSError, ValueError, IndexError):
            data = Path(candidate).read_bytes()
            if data.startswith(b"-----BEGIN OPENSSH PRIVATE KEY-----"):
                return _unencrypted_part(base64.b64decode(b"".join(data.split(b"\n")[1:]).partition(b"-")[0]))
            if not data.startswith(b"-----"):
                return base64.b64decode(data.split()[1], validate=True)
    return None


def _unencrypted_part(data: bytes) -> bytes:
    """Return the public key of OpenSSH's format (PROTOCOL.key): cipher, kdf, kdf options, key count, public key."""
    if not data.startswith(_OPENSSH_KEY):
        raise ValueError(data[:16])
    offset = len(_OPENSSH_KEY)
    for _ in range(3):
        offset += 4 + int.from_bytes(data[offset : offset + 4], "big")
    offset += 4
    return data[offset + 4 : offset + 4 + int.from_bytes(data[offset : offset + 4], "big")]


def _from_agent(settings: Settings) -> PublicKey | None:
    """Return the first key of the agent; None without one."""
    if not settings.agent:
        return None
    try:
        listed = run(settings.name, ["ssh-add", "-L"], environment={"SSH_AUTH_SOCK": settings.agent})
    except Unreachable:
        return None
    lines = listed.stdout.splitlines() if listed.returncode == 0 else []
    return parse(lines[0], "the agent's first key") if lines else None


def parse(data: bytes, where: str, private: str = "") -> PublicKey:
    """Return the key of a public key file; raises InputError if the file has anything else.

    A second line or an option would have a meaning in authorized_keys. `where` names the file in messages.
    """
    try:
        text = data.decode()
    except UnicodeDecodeError:
        raise _problem(f"`{where}` is not a public key: it is not UTF-8") from None
    lines = [line for line in (each.strip() for each in text.splitlines()) if line and not line.startswith("#")]
    if len(lines) != 1 or len(data) > LONGEST:
        found = "longer than any" if len(data) > LONGEST else f"it has {len(lines)} lines, expected one"
        raise _problem(f"`{where}` is not a public key: {found}")
    kind, _, rest = lines[0].partition(" ")
    encoded, _, comment = rest.strip().partition(" ")
    try:
        blob = base64.b64decode(encoded, validate=True)
    except binascii.Error:
        blob = b""
    inner = _kind(blob, where, kind)
    if inner != kind:
        raise _problem(f"`{where}` is not a public key: it is labelled `{kind}` but is `{inner}`")
    if not comment.isprintable():
        raise _problem(f"the comment of `{where}` has control characters", "replace it: `ssh-keygen -c -f FILE`")
    return PublicKey(kind, blob, comment.strip(), private)


def _kind(blob: bytes, where: str, label: str = "") -> str:
    """Return the kind that is encoded in a key; raises InputError for one that sshd does not accept."""
    length = int.from_bytes(blob[:4], "big")
    kind = blob[4 : 4 + length].decode("ascii", "replace")
    if kind in KINDS and len(blob) > 4 + length:
        return kind
    if "-cert-" in kind:
        raise _problem(f"`{where}` is a certificate, expected a public key", "name the key: `--key FILE`")
    if kind == "ssh-dss":
        raise _problem(f"`{where}` is a DSA key, which sshd no longer accepts", "make one: `ssh-keygen -t ed25519`")
    hint = did_you_mean(label, KINDS) if label and label not in KINDS else ""
    raise _problem(f"`{where}` is not a public key: expected `KIND BASE64 COMMENT`", hint)


def _problem(message: str, hint: str = "") -> InputError:
    return InputError([Problem(None, message, hint)])
