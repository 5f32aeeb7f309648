"""Check a host's key against ssh's known_hosts files, and record a new one.

`ssh-keygen -F` looks up names, because it supports hashed names, patterns and markers.
"""

from __future__ import annotations

import base64
import contextlib
import fcntl
import hashlib
import hmac
import os
import re
import shlex
from collections.abc import Callable, Iterable
from pathlib import Path

from msgspec import Struct

from runsdeploy.errors import Unreachable, reason
from runsdeploy.transport.openssh import run
from runsdeploy.transport.ssh_config import Settings, resolve

_FOUND_LINE = re.compile(r"# Host .* found: line (\d+) ?(CA|REVOKED)?\s*")
_WRITABLE_NAME = re.compile(r"[\w.:%\[\]-]+", re.ASCII)
_REVOCATION_LIST = b"SSHKRL\n\0"


class Key(Struct, frozen=True):
    """A host's public key."""

    kind: str
    """`ssh-ed25519` and the like"""
    blob: bytes
    """the key in SSH wire format"""

    @property
    def fingerprint(self) -> str:
        """The fingerprint as ssh shows it."""
        return "SHA256:" + base64.b64encode(hashlib.sha256(self.blob).digest()).decode().rstrip("=")

    def __str__(self) -> str:
        return f"{self.kind} {self.fingerprint}"


class Entry(Struct, frozen=True):
    """A line of a known_hosts file that matches a host."""

    key: Key
    """the key on the line"""
    file: str
    """path of the file"""
    line: int
    """counted from 1"""
    revoked: bool
    """whether the line has the marker `@revoked`"""


Destination = tuple["Settings", tuple["Entry", ...]]
"""a host's ssh settings and its known keys"""


def look_up(host: str, config: str | None) -> Destination:
    """Return a host's ssh settings and known keys, without connecting; raises Unreachable.

    `host` is `name` or `user@name`; `config` is a file as for `ssh -F`.
    """
    settings = resolve(host, config)
    return settings, find(settings)


def find(settings: Settings) -> tuple[Entry, ...]:
    """Return all lines of the known_hosts files that match a host."""
    return tuple(_find_name(settings, settings.known_as))


def _find_name(settings: Settings, name: str) -> Iterable[Entry]:
    for file in (*settings.known_hosts, *settings.global_known_hosts):
        if Path(file).is_file():
            found = run(settings.name, ["ssh-keygen", "-F", name, "-f", file])
            # 0: found, 1: not found. Anything else is no answer; a key that changed would count as a new one.
            if found.returncode not in (0, 1) or (found.returncode == 0 and not found.stdout):
                why = found.stderr.decode("utf-8", "replace").strip().rpartition("\n")[2]
                raise Unreachable(
                    f"`ssh-keygen -F` cannot read `{file}`: {why or f'it ended with status {found.returncode}'}",
                    f"look with `ssh-keygen -F {shlex.quote(name)} -f {shlex.quote(file)}`",
                )
            yield from _entries(found.stdout.decode("utf-8", "replace"), file)


def _entries(text: str, file: str) -> Iterable[Entry]:
    """Parse the output of `ssh-keygen -F`: pairs of lines, first the line number, then the line itself."""
    lines = iter(text.splitlines())
    for line in lines:
        found = _FOUND_LINE.fullmatch(line)
        if not found:
            continue
        words = next(lines, "").split()
        if found[2] == "CA":  # the key of a certificate authority, which is not the host's own
            continue
        with contextlib.suppress(ValueError):  # a torn line
            kind, blob = words[2:4] if found[2] else words[1:3]
            yield Entry(Key(kind, base64.b64decode(blob)), file, int(found[1]), found[2] == "REVOKED")


def check(
    settings: Settings,
    entries: tuple[Entry, ...],
    offered: Key,
    *,
    accept_new: bool = False,
    warn: Callable[[str], None],
) -> None:
    """Return if the offered key is trusted, and record it if it is new and accepted; raises Unreachable.

    `warn` gets a message about an accepted key. A changed or revoked key is never accepted.
    """
    _reject_revoked(settings, entries, offered)
    known = [entry for entry in entries if not entry.revoked]
    if any(entry.key.blob == offered.blob for entry in known):
        return
    if known:
        raise _changed_key(settings, known, offered)
    if _known_without_port(settings, offered):
        return
    if not (accept_new or settings.strict in ("accept-new", "no")):
        raise _unknown_key(settings, offered)
    _accept(settings, offered, warn)


def _reject_revoked(settings: Settings, entries: tuple[Entry, ...], offered: Key) -> None:
    places = [f"{e.file}:{e.line}" for e in entries if e.revoked and e.key.blob == offered.blob]
    if not places and settings.revoked_keys and _listed_as_revoked(settings, offered):
        places = [settings.revoked_keys]
    if places:
        raise Unreachable(
            f"the host key of `{settings.name}` is revoked: {offered}, by {places[0]}",
            "replace the host's key: an attacker who has the revoked key can impersonate the host",
        )


def _listed_as_revoked(settings: Settings, offered: Key) -> bool:
    """Look the key up in the file of RevokedHostKeys; as in ssh, an unreadable file revokes every key."""
    encoded = base64.b64encode(offered.blob)
    try:
        data = Path(settings.revoked_keys).read_bytes()
    except OSError:
        return True
    if not data.startswith(_REVOCATION_LIST):
        return encoded in data.split()
    line = b"%s %s\n" % (offered.kind.encode(), encoded)
    return run(settings.name, ["ssh-keygen", "-Q", "-f", settings.revoked_keys, "/dev/stdin"], line).returncode != 0


def _known_without_port(settings: Settings, offered: Key) -> bool:
    """Return whether the key is known for port 22 of the host: ssh trusts it on other ports too."""
    if settings.known_as == settings.host or not settings.known_as.endswith(f"]:{settings.port}"):
        return False
    entries = tuple(_find_name(settings, settings.host))
    _reject_revoked(settings, entries, offered)
    return any(entry.key.blob == offered.blob for entry in entries)


def _changed_key(settings: Settings, known: list[Entry], offered: Key) -> Unreachable:
    old = next((entry for entry in known if entry.key.kind == offered.kind), known[0])
    name, file = shlex.quote(settings.known_as), shlex.quote(old.file)
    return Unreachable(
        f"the host key of `{settings.name}` changed: it is {offered}, "
        f"but {old.file}:{old.line} has {old.key}; an attacker may intercept the connection",
        f"if the host was reinstalled: `ssh-keygen -R {name} -f {file}`",
    )


def _unknown_key(settings: Settings, offered: Key) -> Unreachable:
    return Unreachable(
        f"the host key of `{settings.name}` is not known: {offered} for `{settings.known_as}`",
        "compare the fingerprint with the host's own (`ssh-keygen -l -f /etc/ssh/ssh_host_"
        f"{_family(offered.kind)}_key.pub` on its console), then pass `--accept-new`",
    )


def _family(kind: str) -> str:
    return "ecdsa" if "ecdsa" in kind else "rsa" if "rsa" in kind else "ed25519"


def _accept(settings: Settings, key: Key, warn: Callable[[str], None]) -> None:
    accepted = f"accepted the new host key of `{settings.name}`, {key}"
    try:
        file = _record(settings, key)
    except (OSError, ValueError) as error:
        warn(f"{accepted}, but it was not recorded: {reason(error)}")
    else:
        warn(f"{accepted}, and added it to {file}")


def _record(settings: Settings, key: Key) -> str:
    if not settings.known_hosts:
        raise ValueError("there is no known_hosts file")
    if not _WRITABLE_NAME.fullmatch(settings.known_as):
        raise ValueError("its name cannot be written into a known_hosts file")
    _append(Path(settings.known_hosts[0]), _line(settings, key))
    return settings.known_hosts[0]


def _line(settings: Settings, key: Key) -> bytes:
    name = settings.known_as.encode()
    if settings.hash_names:
        salt = os.urandom(20)
        name = b"|1|%s|%s" % tuple(map(base64.b64encode, (salt, hmac.digest(salt, name, "sha1"))))
    return b"%s %s %s\n" % (name, key.kind.encode(), base64.b64encode(key.blob))


def _append(path: Path, line: bytes) -> None:
    """Append a line with one write under a lock, because several hosts may be accepted at once."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with os.fdopen(os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600), "r+b", 0) as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        end = os.fstat(file.fileno()).st_size
        torn = end and os.pread(file.fileno(), 1, end - 1) != b"\n"
        file.write(b"\n" + line if torn else line)
