"""The operator's public key: the one a host is to know him by, found where ssh looks for keys, and judged."""

from __future__ import annotations

import base64
import binascii
import os
import shlex
from pathlib import Path

from msgspec import Struct

from runsdeploy.errors import InputError, Problem, Unreachable, did_you_mean
from runsdeploy.transport.known_hosts import Key
from runsdeploy.transport.ssh_config import Settings, public_part, reason, run

KINDS = (
    "ssh-ed25519",
    "ecdsa-sha2-nistp256",
    "ecdsa-sha2-nistp384",
    "ecdsa-sha2-nistp521",
    "ssh-rsa",
    "sk-ssh-ed25519@openssh.com",
    "sk-ecdsa-sha2-nistp256@openssh.com",
)
"""kinds of keys that sshd takes; `ssh-dss` is what it took until OpenSSH 7.0"""

LONGEST = 16 * 1024
"""bytes of a line: sshd reads no longer ones in older versions, 16384 bits of RSA are 2.8 KB"""


class PublicKey(Struct, frozen=True):
    """A public key, and where its private half may be."""

    kind: str
    """one of KINDS"""
    blob: bytes
    """the key as it is sent"""
    comment: str = ""
    """whose it is; for people"""
    private: str = ""
    """the file of the private half, which need not exist; empty for a key of the agent"""

    @property
    def line(self) -> str:
        """The key as a line of authorized_keys, without its end."""
        return f"{self.kind} {base64.b64encode(self.blob).decode()} {self.comment}".rstrip()

    def __str__(self) -> str:
        return str(Key(self.kind, self.blob))


def find(file: str | None, settings: Settings) -> PublicKey:
    """Return the key in a file, else the first that ssh would offer to a host; raises InputError.

    `file` may be the public or the private half. The order is that of `ssh -G`: IdentityFile, then the agent.
    """
    if file:
        return _of_file(file)
    for identity in settings.identities:
        if Path(f"{identity}.pub").is_file() or Path(identity).is_file():
            return _of_file(identity)
    agent = _of_agent(settings)
    if agent:
        return agent
    looked = ", ".join(f"`{identity}`" for identity in settings.identities) or "no file"
    message = f"you have no key: there is none of {looked}, and the agent has none"
    raise _problem(message, "make one: `ssh-keygen -t ed25519`")


def _of_file(file: str) -> PublicKey:
    """Read either half; the private one is looked at only for the public key that stands in it unencrypted."""
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
        return _of_private(path)
    key = parse(data, public, private)
    own = public_part(private) if public != private and Path(private).is_file() else None
    if own and own != key.blob:
        hint = f"ssh-keygen -y -f {shlex.quote(private)} >{shlex.quote(public)}"
        raise _problem(f"`{public}` is not the public half of `{private}`", hint)
    return key


def _of_private(path: str) -> PublicKey:
    blob = public_part(path)
    if not blob:
        hint = f"ssh-keygen -y -f {shlex.quote(path)} >{shlex.quote(path)}.pub"
        raise _problem(f"`{path}` is a private key without its public half", hint)
    return PublicKey(_kind(blob, path), blob, private=path)


def _of_agent(settings: Settings) -> PublicKey | None:
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
    """Return the one key of a public key file; raises InputError saying what is wrong with it.

    Nothing else may get into authorized_keys, where a second line or an option would mean something.
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
        raise _problem(f"`{where}` is not a public key: it is called `{kind}` and is `{inner}`")
    if not comment.isprintable():
        raise _problem(f"the comment of `{where}` has control characters", "replace it: `ssh-keygen -c -f FILE`")
    return PublicKey(kind, blob, comment.strip(), private)


def _kind(blob: bytes, where: str, said: str = "") -> str:
    """Return the kind that a key says it is of; raises InputError for one that sshd would not take."""
    length = int.from_bytes(blob[:4], "big")
    kind = blob[4 : 4 + length].decode("ascii", "replace")
    if kind in KINDS and len(blob) > 4 + length:
        return kind
    if "-cert-" in kind:
        raise _problem(f"`{where}` is a certificate, expected a public key", "name the key: `--key FILE`")
    if kind == "ssh-dss":
        raise _problem(f"`{where}` is a DSA key, which sshd takes no more", "make one: `ssh-keygen -t ed25519`")
    hint = did_you_mean(said, KINDS) if said and said not in KINDS else ""
    raise _problem(f"`{where}` is not a public key: expected `KIND BASE64 COMMENT`", hint)


def _problem(message: str, hint: str = "") -> InputError:
    return InputError([Problem(None, message, hint)])
