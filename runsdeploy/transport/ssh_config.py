"""A host's settings in the operator's ssh configuration, as ssh itself evaluates it.

`ssh -G` evaluates Include, Match, Host and canonicalisation, so there is no second implementation that could differ.
This module expands what `ssh -G` prints unexpanded: identity files and the agent's socket.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import re
import shlex
import socket
from collections.abc import Iterator, Mapping
from pathlib import Path

from msgspec import Struct

from runsdeploy.errors import Unreachable, reason
from runsdeploy.temporary import make_directory
from runsdeploy.transport.address import split_user
from runsdeploy.transport.openssh import run

SYSTEM_CONFIG = Path("/etc/ssh/ssh_config")
DEFAULT_USER = "root"

_RELATIVE_INCLUDE = re.compile(r"^(\s*include(?:\s*=\s*|\s+))(.+)$", re.IGNORECASE | re.MULTILINE)


class Settings(Struct, frozen=True):
    """The settings that ssh would use for one host."""

    name: str
    """the operator's name for the host, for messages"""
    host: str
    """the name or address to connect to"""
    port: int
    """the port to connect to"""
    user: str
    """the account to log in to"""
    known_as: str
    """the name in known_hosts files: the alias, or the host, with the port if it is not 22"""
    known_hosts: tuple[str, ...]
    """the operator's known_hosts files; a new key is added to the first"""
    global_known_hosts: tuple[str, ...]
    """the system's known_hosts files"""
    revoked_keys: str
    """a file of keys that are never accepted, or empty"""
    strict: str
    """`yes`, `ask`, `accept-new` or `no`"""
    hash_names: bool
    """whether a name is hashed when it is added to a known_hosts file"""
    identities: tuple[str, ...]
    """key files to offer, in order; some may not exist"""
    identities_only: bool
    """whether the agent's other keys are not offered"""
    agent: str
    """the agent's socket, or empty"""
    jumps: tuple[str, ...]
    """jump hosts, the one nearest to the controller first"""
    proxy_command: str
    """the command that ssh would run for a connection, or empty"""
    family: socket.AddressFamily
    """the kind of addresses to try"""
    connect_timeout: float
    """seconds for each of: connection, key exchange, authentication, channel"""
    alive_interval: int
    """seconds of silence before each keepalive"""
    alive_count: int
    """keepalives that may stay unanswered"""


def resolve(host: str, config: str | None = None, *, user: str | None = DEFAULT_USER, port: str = "") -> Settings:
    """Return ssh's settings for `name` or `user@name`; raises Unreachable.

    `config` is a file as for `ssh -F`. `user` is the login if neither `host` nor the configuration names one; None for
    the operator's own name. `port` overrides the configuration.
    """
    login, name = split_user(host)
    pinned = [*(["-l", login] if login else []), *(["-p", port] if port else [])]
    with _config_options(config, None if login else user) as options:
        printed = _print_settings(name, ["ssh", "-G", *options, *pinned, "--", name], config)
    return _settings(name, printed)


@contextlib.contextmanager
def _config_options(config: str | None, user: str | None) -> Iterator[list[str]]:
    """Yield the options that make ssh read the operator's configuration, and after it the default user."""
    if not user:
        yield ["-F", config] if config else []
        return
    # `ssh -G` does not show whether the user is configured or the local one. The first value of an option counts, so a
    # block at the end sets our default. It is a file because ssh may read it twice, which a pipe does not allow.
    with make_directory("runsdeploy-ssh-") as folder:
        wrapper = folder / "ssh_config"
        wrapper.write_bytes(_configuration(config) + f"\nMatch all\n    User {user}\n".encode())
        yield ["-F", str(wrapper)]


def _configuration(config: str | None) -> bytes:
    """Return a text that means the same as the operator's files when ssh reads it with `-F`."""
    if config:
        # Copied, not included: ssh refuses to include a file that other users may write.
        return _read_config(config)
    with contextlib.suppress(OSError):
        system = SYSTEM_CONFIG.read_text("utf-8", "surrogateescape")
        return b"Include ~/.ssh/config\n" + _absolute_includes(system).encode("utf-8", "surrogateescape")
    return b"Include ~/.ssh/config\n"


def _read_config(config: str) -> bytes:
    try:
        return Path(config).read_bytes()
    except OSError as error:
        raise Unreachable(f"cannot read the ssh configuration `{config}`: {reason(error)}") from error


def _absolute_includes(text: str) -> str:
    """Make the relative includes of the system's file absolute: with `-F`, ssh would search them in ~/.ssh."""

    def absolute(found: re.Match[str]) -> str:
        with contextlib.suppress(ValueError):
            words = shlex.split(found[2], comments=True)
            return found[1] + " ".join(f'"{SYSTEM_CONFIG.parent / word}"' for word in words)
        return found[0]

    return _RELATIVE_INCLUDE.sub(absolute, text)


def _print_settings(name: str, command: list[str], config: str | None) -> dict[str, list[str]]:
    """Run `ssh -G` and return its lines: all values of each key."""
    done = run(name, command)
    if done.returncode:
        errors = done.stderr.decode("utf-8", "replace").replace(command[3], config or command[3]).splitlines()
        errors = [line for line in errors if not line.startswith("Pseudo-terminal")]
        raise Unreachable(f"ssh cannot read its configuration for `{name}`: {' '.join(errors[:1])}")
    values: dict[str, list[str]] = {}
    for line in done.stdout.decode("utf-8", "surrogateescape").splitlines():
        key, _, value = line.partition(" ")
        values.setdefault(key, []).append(value)
    if "hostname" not in values or "userknownhostsfile" not in values:
        raise Unreachable(f"`ssh -G` printed no settings for `{name}`", "is the first `ssh` on PATH that of OpenSSH?")
    return values


def _settings(name: str, printed: Mapping[str, list[str]]) -> Settings:
    def one(key: str, default: str = "") -> str:
        value = printed.get(key, [default])[0]
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
        identities=tuple(dict.fromkeys(_expand(path, tokens) for path in printed.get("identityfile", []))),
        identities_only=one("identitiesonly") == "yes",
        agent=_agent(printed.get("identityagent", ["SSH_AUTH_SOCK"])[0], tokens),
        jumps=tuple(filter(None, one("proxyjump").split(","))),
        proxy_command=one("proxycommand"),
        family={"inet": socket.AF_INET, "inet6": socket.AF_INET6}.get(one("addressfamily"), socket.AF_UNSPEC),
        connect_timeout=float(one("connecttimeout") or 10),
        alive_interval=int(one("serveraliveinterval", "0")) or 15,
        alive_count=int(one("serveralivecountmax", "3")),
    )


def _files(value: str) -> tuple[str, ...]:
    """Split a line into paths. ssh prints them unquoted, so a path with a space is recognised only if it exists."""
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
    """Return the values of percent tokens, ssh_config(5), TOKENS."""
    account, controller = pwd.getpwuid(os.getuid()), socket.gethostname()
    return {
        "%": "%", "d": account.pw_dir, "h": host, "i": str(account.pw_uid), "k": alias or name,
        "L": controller.split(".")[0], "l": controller, "n": name, "p": port, "r": user, "u": account.pw_name,
    }  # fmt: skip


def _expand(path: str, tokens: Mapping[str, str]) -> str:
    path = re.sub(r"\$\{(\w+)\}", lambda found: os.environ.get(found[1], ""), path)
    path = re.sub(r"%(.)", lambda found: tokens.get(found[1], found[0]), path)
    if path.startswith("~/"):  # the home of passwd, as in ssh, and not HOME
        return tokens["d"] + path[1:]
    return str(Path(path).expanduser()) if path.startswith("~") else path
