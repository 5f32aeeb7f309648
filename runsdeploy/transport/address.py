"""Addresses of hosts as an operator types them: `name`, `user@name`, and the jump hosts of ProxyJump."""

from __future__ import annotations

import re

from runsdeploy.errors import Unreachable

_NAME = r"[A-Za-z0-9_][A-Za-z0-9._-]*"
_IPV6 = r"(?=[^%]*:)[0-9A-Fa-f:.]+(?:%[A-Za-z0-9._-]+)?"
_HOST = re.compile(rf"(?:{_NAME}|{_IPV6})", re.ASCII)
USER = re.compile(r"[A-Za-z0-9_.][A-Za-z0-9_.@+-]*", re.ASCII)
"""names of accounts. Those of a realm contain an `@`: as in ssh, the last `@` divides `user@name`"""
_JUMP = re.compile(r"(?:ssh://)?(?P<user>[^@]+@)?(?:\[(?P<ip>[^]]+)\]|(?P<name>[^:]+))(?::(?P<port>\d+))?/?")


def split_user(host: str) -> tuple[str, str]:
    """Split `user@name` into user (may be empty) and name; raises Unreachable if one has other characters.

    The check matters: user and name become arguments of ssh and lines of files.
    """
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
    """Split a hop of ProxyJump, `[user@]name[:port]`, into `[user@]name` and port (may be empty)."""
    found = _JUMP.fullmatch(jump)
    if not found:
        raise Unreachable(f"`{_printable(jump)}` is not a jump host")
    return (found["user"] or "") + (found["ip"] or found["name"]), found["port"] or ""


def _printable(text: str) -> str:
    return text.encode("unicode_escape", "backslashreplace").decode("ascii")[:80]
