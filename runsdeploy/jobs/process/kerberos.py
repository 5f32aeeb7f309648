"""Kerberos: a ticket for one run, from a keytab, in a cache that nothing else uses (J19).

A run without a ticket goes on with a warning: many jobs need none, and the catalogue marks those that do.
"""

import contextlib
import os
import shutil
from typing import Callable, Dict, List, NamedTuple, Optional, Tuple

from ..disk import trust
from ..errors import reason
from .process import Command, run

PATH = "/usr/local/bin:/usr/bin:/bin:/usr/local/sbin:/usr/sbin:/sbin:/usr/lib/mit/bin"
"""search path for the programs; the PATH of cron is not used (J21)"""
TIMEOUT = 30.0
"""seconds to wait for a KDC"""

_CACHE = "krb5cc"
_GRACE = 2.0
"""seconds between SIGTERM and SIGKILL: kinit has nothing to clean up"""
_ANSWER = 64 * 1024
"""bytes kept of the output of a program"""
_LONGEST = 300
"""characters of its last line in a warning"""


class Ticket(NamedTuple):
    """The result of a login."""

    cache: str
    """value of KRB5CCNAME for jobs; empty if there is no ticket"""
    warning: str
    """why there is none, and how to repair that; empty if there is one"""


def find_program(name: str) -> Optional[str]:
    """Return the path of a Kerberos program, None if it is not installed."""
    return shutil.which(name, path=PATH)


def login(
    user: str,
    keytab: str,
    directory: str,
    find: Callable[[str], Optional[str]] = find_program,
    timeout: float = TIMEOUT,
    suffix: str = "",
) -> Ticket:
    """Get a ticket for a user, in a cache in `directory`, which must be private; never raises OSError.

    `suffix` makes the name of the cache another one.
    """
    program = find("kinit")
    warning = _settings_problem(user, keytab)
    if warning or program is None:
        return Ticket("", warning or "no ticket: `kinit` is not on this machine, install the Kerberos client")
    ticket = Ticket(f"FILE:{os.path.join(directory, _CACHE + suffix)}", "")
    _remove(ticket)
    failure = _call((program, user, "-k", "-t", keytab), ticket, timeout)
    if not failure:
        return ticket
    _remove(ticket)
    return Ticket("", f"no ticket for `{user}` from `{keytab}`: `{program}` {failure}")


def logout(ticket: Ticket, find: Callable[[str], Optional[str]] = find_program, timeout: float = TIMEOUT) -> str:
    """Destroy a ticket, and remove its cache even if `kdestroy` failed; return a warning if it is still there."""
    if not ticket.cache:
        return ""
    program = find("kdestroy")
    try:
        if program is not None:
            _call((program,), ticket, timeout)
    finally:
        warning = _remove(ticket)
    return warning


def _settings_problem(user: str, keytab: str) -> str:
    """Return why no ticket can be had with these settings; empty if one can."""
    for name, value in (("crontab.SVC_USER", user), ("crontab.SVC_KEYTAB", keytab)):
        if not value:
            return f"no ticket: `{name}` is not set"
    if user.startswith("-"):
        return f"no ticket: `crontab.SVC_USER` is `{user}`, which `kinit` would take for an option"
    path = keytab[len("FILE:") :] if keytab.startswith("FILE:") else keytab
    if not os.path.isabs(path):
        return f"no ticket: `crontab.SVC_KEYTAB` is `{keytab}`, expected an absolute path"
    found = trust.problems(path)
    if found:
        return f"no ticket: keytab `{keytab}` could have been written by others: {trust.describe(found)}"
    try:
        with open(path, "rb") as file:
            empty = not file.read(1)
    except (OSError, ValueError) as error:
        why = reason(error) if isinstance(error, OSError) else str(error)
        return f"no ticket: keytab `{keytab}` cannot be read: {why}"
    return f"no ticket: keytab `{keytab}` is empty" if empty else ""


def _call(argv: Tuple[str, ...], ticket: Ticket, timeout: float) -> str:
    """Run a program with a minimal environment; return how it failed, to complete a warning, empty if it passed."""
    output: List[bytes] = []
    environment: Dict[str, str] = {"PATH": PATH, "LC_ALL": "C", "KRB5CCNAME": ticket.cache}
    command = Command(argv, "/", environment, timeout, daemon=False)
    ending = run(command, output.append, limit=_ANSWER, grace=_GRACE)
    if ending.outcome == "ok" and os.path.exists(_file(ticket)):
        return ""
    failures = {
        "ok": "reported success, but wrote no cache",
        "failed": f"ended with status {ending.status}",
        "killed": f"was killed by signal {ending.status}",
        "timeout": f"did not end in {timeout:g} seconds",
    }
    failure = failures.get(ending.outcome, f"could not be run: {ending.outcome}")
    # Lines in brackets are those of the runner; one of them has the reason if the program could not be started.
    lines = [line.strip() for line in b"".join(output).decode("utf-8", "replace").splitlines()]
    lines = [line for line in lines if line and (ending.outcome not in failures or not line.startswith("["))]
    last = "".join(letter if letter.isprintable() else "?" for letter in lines[-1][:_LONGEST]) if lines else ""
    return failure + (f", its last line: {last}" if last else "")


def _file(ticket: Ticket) -> str:
    return ticket.cache[len("FILE:") :]


def _remove(ticket: Ticket) -> str:
    """Remove a cache; it may be gone already. Return a warning if it could not be removed."""
    try:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(_file(ticket))
    except OSError as error:
        return f"ticket cache `{_file(ticket)}` cannot be removed: {reason(error)}"
    return ""
