"""How to reach a host, as ssh itself reads the operator's configuration.

`ssh -G` resolves Include, Match, Host and canonicalisation, so that there is one reading of the
files and not two. What it prints unexpanded (identity files, the agent) is expanded here.
"""

from __future__ import annotations

import base64
import contextlib
import os
import pwd
import re
import shlex
import socket
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

from msgspec import Struct

from runsdeploy.errors import Unreachable

SYSTEM_CONFIG = Path("/etc/ssh/ssh_config")
DEFAULT_USER = "root"
_PATIENCE = 30.0  # seconds: a `Match exec` or a canonicalising DNS query must not hang a deploy

_NAME = r"[A-Za-z0-9_][A-Za-z0-9._-]*"
_IPV6 = r"(?=[^%]*:)[0-9A-Fa-f:.]+(?:%[A-Za-z0-9._-]+)?"
_HOST = re.compile(rf"(?:{_NAME}|{_IPV6})", re.ASCII)
USER = re.compile(r"[A-Za-z0-9_.][A-Za-z0-9_.@+-]*", re.ASCII)
"""names of accounts; those of a realm have an `@`: as ssh has it, the last one divides `user@name`"""
_RELATIVE_INCLUDE = re.compile(r"^(\s*include(?:\s*=\s*|\s+))(.+)$", re.IGNORECASE | re.MULTILINE)
_KEY_FILE = b"openssh-key-v1\0"


class Settings(Struct, frozen=True):
    """What ssh would use for one host."""

    name: str
    """the host as the operator calls it: for messages"""
    host: str
    """the name or address to connect to"""
    port: int
    """the port to connect to"""
    user: str
    """whom to log in as"""
    known_as: str
    """the name in known hosts files: the alias, or the host, with the port where it is not 22"""
    known_hosts: tuple[str, ...]
    """the operator's known hosts files; a new key goes into the first"""
    global_known_hosts: tuple[str, ...]
    """the system's known hosts files"""
    revoked_keys: str
    """a file of keys never to be accepted, or empty"""
    strict: str
    """`yes`, `ask`, `accept-new` or `no`"""
    hash_names: bool
    """whether a name added to a known hosts file is hashed"""
    identities: tuple[str, ...]
    """key files to offer, in order, whether they exist or not"""
    identities_only: bool
    """whether the agent's other keys are left alone"""
    agent: str
    """the agent's socket, or empty"""
    jumps: tuple[str, ...]
    """hosts to go through, the first one nearest to here"""
    proxy_command: str
    """what ssh would run for a connection, or empty"""
    family: socket.AddressFamily
    """the kind of addresses to try"""
    connect_timeout: float
    """seconds for each of: connection, key exchange, authentication, channel"""
    alive_interval: int
    """seconds of silence after which the host is asked whether it is there"""
    alive_count: int
    """how many such questions may stay unanswered"""


def resolve(host: str, config: str | None = None, *, user: str | None = DEFAULT_USER, port: str = "") -> Settings:
    """Give what ssh would do for `name` or `user@name`; `user` logs in where nobody is configured to."""
    login, name = split_user(host)
    pinned = [*(["-l", login] if login else []), *(["-p", port] if port else [])]
    with _config_options(config, None if login else user) as options:
        found = _ask(name, ["ssh", "-G", *options, *pinned, "--", name], config)
    return _settings(name, found)


def split_user(host: str) -> tuple[str, str]:
    """Give the two halves of `user@name`, checked: nothing else may reach a command line or a file."""
    user, at, name = host.rpartition("@")
    if not _HOST.fullmatch(name):
        raise Unreachable(
            f"`{_printable(name)}` is not a host name",
            "a name has letters, digits, `.`, `_` and `-`, and begins with a letter or a digit",
        )
    if at and not USER.fullmatch(user):
        raise Unreachable(f"`{_printable(user)}` is not a user name")
    return user, name


def split_jump(jump: str) -> tuple[str, str]:
    """Give a hop of ProxyJump, `[user@]name[:port]`, as `[user@]name` and port."""
    found = re.fullmatch(
        r"(?:ssh://)?(?P<user>[^@]+@)?(?:\[(?P<ip>[^]]+)\]|(?P<name>[^:]+))(?::(?P<port>\d+))?/?", jump
    )
    if not found:
        raise Unreachable(f"`{_printable(jump)}` is not a host to jump through")
    return (found["user"] or "") + (found["ip"] or found["name"]), found["port"] or ""


def _printable(text: str) -> str:
    return text.encode("unicode_escape", "backslashreplace").decode("ascii")[:80]


@contextlib.contextmanager
def _config_options(config: str | None, user: str | None) -> Iterator[list[str]]:
    """Give the options that make ssh read the operator's configuration, and then the default user."""
    if not user:
        yield ["-F", config] if config else []
        return
    # ssh -G prints the local user where none is configured; the first value wins, so a last
    # block tells the two apart. A file of its own: ssh may read it twice, which a pipe cannot.
    with tempfile.NamedTemporaryFile("wb", prefix="runsdeploy-", suffix=".ssh_config") as wrapper:
        wrapper.write(_configuration(config) + f"\nMatch all\n    User {user}\n".encode())
        wrapper.flush()
        yield ["-F", wrapper.name]


def _configuration(config: str | None) -> bytes:
    """Give the text that means the same as the operator's files when it is read with `-F`."""
    if config:
        # copied, not included: ssh refuses to include a file that others may write to
        return _read_config(config)
    with contextlib.suppress(OSError):
        system = SYSTEM_CONFIG.read_text("utf-8", "surrogateescape")
        return b"Include ~/.ssh/config\n" + _absolute(system).encode("utf-8", "surrogateescape")
    return b"Include ~/.ssh/config\n"


def _read_config(config: str) -> bytes:
    try:
        return Path(config).read_bytes()
    except OSError as error:
        raise Unreachable(f"cannot read the ssh configuration `{config}`: {reason(error)}") from error


def _absolute(text: str) -> str:
    """Anchor the relative includes of the system's file, which `-F` would look for in ~/.ssh."""

    def anchored(found: re.Match[str]) -> str:
        with contextlib.suppress(ValueError):
            words = shlex.split(found[2], comments=True)
            return found[1] + " ".join(f'"{SYSTEM_CONFIG.parent / word}"' for word in words)
        return found[0]

    return _RELATIVE_INCLUDE.sub(anchored, text)


def _ask(name: str, command: list[str], config: str | None) -> dict[str, list[str]]:
    done = run(name, command)
    if done.returncode:
        said = done.stderr.decode("utf-8", "replace").replace(command[3], config or command[3]).splitlines()
        said = [line for line in said if not line.startswith("Pseudo-terminal")]
        raise Unreachable(f"ssh cannot read its configuration for `{name}`: {' '.join(said[:1])}")
    found: dict[str, list[str]] = {}
    for line in done.stdout.decode("utf-8", "surrogateescape").splitlines():
        key, _, value = line.partition(" ")
        found.setdefault(key, []).append(value)
    return found


def run(
    name: str, command: list[str], stdin: bytes = b"", environment: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[bytes]:
    """Run one of ssh's own tools, with some variables more."""
    surroundings = {**os.environ, **(environment or {})}
    try:
        return subprocess.run(
            command, input=stdin, capture_output=True, timeout=_PATIENCE, check=False, env=surroundings
        )
    except FileNotFoundError as error:
        missing = f"`{command[0]}` is not installed, and it is what reads the ssh configuration and known hosts"
        raise Unreachable(missing, "install the package `openssh-client` or `openssh-clients`") from error
    except subprocess.TimeoutExpired as error:
        raise Unreachable(f"`{command[0]}` gave no answer about `{name}` within {_PATIENCE:.0f} s") from error
    except OSError as error:
        raise Unreachable(f"cannot run `{command[0]}`: {reason(error)}") from error


def _settings(name: str, found: Mapping[str, list[str]]) -> Settings:
    def one(key: str, default: str = "") -> str:
        value = found.get(key, [default])[0]
        return default if value == "none" else value

    host, port, alias = one("hostname", name), int(one("port", "22")), one("hostkeyalias")
    tokens = _tokens(name, host, str(port), one("user"), alias)
    return Settings(
        name=name,
        host=host,
        port=port,
        user=one("user"),
        known_as=alias or (host if port == 22 else f"[{host}]:{port}"),  # noqa: PLR2004 - ssh's port
        known_hosts=_files(one("userknownhostsfile")),
        global_known_hosts=_files(one("globalknownhostsfile")),
        revoked_keys=one("revokedhostkeys"),
        strict={"true": "yes", "false": "no", "off": "no"}.get(strict := one("stricthostkeychecking"), strict),
        hash_names=one("hashknownhosts") == "yes",
        identities=tuple(dict.fromkeys(_expand(path, tokens) for path in found.get("identityfile", []))),
        identities_only=one("identitiesonly") == "yes",
        agent=_agent(found.get("identityagent", ["SSH_AUTH_SOCK"])[0], tokens),
        jumps=tuple(filter(None, one("proxyjump").split(","))),
        proxy_command=one("proxycommand"),
        family={"inet": socket.AF_INET, "inet6": socket.AF_INET6}.get(one("addressfamily"), socket.AF_UNSPEC),
        connect_timeout=float(one("connecttimeout") or 10),
        alive_interval=int(one("serveraliveinterval", "0")) or 15,
        alive_count=int(one("serveralivecountmax", "3")),
    )


def _files(value: str) -> tuple[str, ...]:
    """Several paths of one line; ssh prints them unquoted, so one with a space is only known if it exists."""
    if " " in value and Path(value).exists():
        return (value,)
    return tuple(word for word in value.split() if word != "none")


def _agent(value: str, tokens: Mapping[str, str]) -> str:
    if value == "none":
        return ""
    if value == "SSH_AUTH_SOCK":
        return os.environ.get("SSH_AUTH_SOCK", "")
    if re.fullmatch(r"\$\w+", value):
        return os.environ.get(value[1:], "")
    return _expand(value, tokens)


def _tokens(name: str, host: str, port: str, user: str, alias: str) -> dict[str, str]:
    me, here = pwd.getpwuid(os.getuid()), socket.gethostname()
    return {
        "%": "%", "d": me.pw_dir, "h": host, "i": str(me.pw_uid), "k": alias or name, "L": here.split(".")[0],
        "l": here, "n": name, "p": port, "r": user, "u": me.pw_name,
    }  # fmt: skip


def _expand(path: str, tokens: Mapping[str, str]) -> str:
    path = re.sub(r"\$\{(\w+)\}", lambda found: os.environ.get(found[1], ""), path)
    path = re.sub(r"%(.)", lambda found: tokens.get(found[1], found[0]), path)
    if path.startswith("~/"):  # the account's home, as for ssh, whatever HOME says
        return tokens["d"] + path[1:]
    return str(Path(path).expanduser()) if path.startswith("~") else path


def public_part(path: str) -> bytes | None:
    """Give the public key of an identity file, which can be read without its passphrase."""
    for candidate in (path, f"{path}.pub"):
        with contextlib.suppress(OSError, ValueError, IndexError):
            data = Path(candidate).read_bytes()
            if data.startswith(b"-----BEGIN OPENSSH PRIVATE KEY-----"):
                return _outer_key(base64.b64decode(b"".join(data.split(b"\n")[1:]).partition(b"-")[0]))
            if not data.startswith(b"-----"):
                return base64.b64decode(data.split()[1], validate=True)
    return None


def _outer_key(data: bytes) -> bytes:
    """Give the clear part of OpenSSH's own format: cipher, kdf, its options, one, the public key."""
    if not data.startswith(_KEY_FILE):
        raise ValueError(data[:16])
    at = len(_KEY_FILE)
    for _ in range(3):
        at += 4 + int.from_bytes(data[at : at + 4], "big")
    at += 4
    return data[at + 4 : at + 4 + int.from_bytes(data[at : at + 4], "big")]


def reason(error: BaseException) -> str:
    """Say what a system call's error was, in our style."""
    text = (error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__
    return text[:1].lower() + text[1:].rstrip(".")
