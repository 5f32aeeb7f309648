"""Sessions: the names and rules of one execution of a plan on one host."""

from __future__ import annotations

import getpass
import os
import secrets
from collections.abc import Callable, Sequence
from typing import Any

from msgspec import Struct
from msgspec.structs import replace


class Session(Struct, frozen=True):
    """One execution of a plan on one host: its names, and the rules it follows."""

    identity: str
    """128 random bits, hexadecimal"""
    by: str
    """the operator and the controller, `user@machine`"""
    keep_going: bool = False
    """whether a step runs after one that failed"""
    timeout: float = 0.0
    """seconds that a step may take; 0 for no limit"""
    patience: float = 120.0
    """seconds that no controller need be attached before no further step starts"""
    wait: float = 0.0
    """seconds to wait for the holder of the target"""
    detached: bool = False
    """whether all steps run without an attached controller"""
    revisions: Callable[[], Sequence[str]] = tuple
    """returns the commit of each tree, in order, see `revision`; called when markers may be made"""


def new_session(**rules: Any) -> Session:
    """Make a session of the user of this process; `rules` are fields of `Session`."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):
        user = "unknown"
    return Session(secrets.token_hex(16), f"{user}@{os.uname().nodename}", **rules)


def new_sessions(count: int, **rules: Any) -> list[Session]:
    """Make the sessions of one deploy: identities `ID`, `ID-2`, `ID-3` …, of one user."""
    first = new_session(**rules)
    rest = [replace(first, identity=f"{first.identity}-{n}") for n in range(2, count + 1)]
    return [first, *rest]


def new_nonce() -> str:
    """Return the nonce of one segment or question: 128 random bits, hexadecimal, which mark its events."""
    return secrets.token_hex(16)


def local_scope(host: str) -> str:
    """Return the directory of a host's local steps on the controller, below the controller's state directory."""
    return f"hosts/{host}"
