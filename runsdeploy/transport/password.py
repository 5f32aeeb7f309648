"""A password: asked for once, or read from a file; never shown."""

from __future__ import annotations

import getpass
import os
import stat
import sys
from pathlib import Path

from msgspec import Struct

from runsdeploy.errors import InputError, Problem


class Password(Struct, frozen=True):
    """A password. Its text is bytes: what a terminal or a file gave, whatever the locale."""

    secret: bytes
    """for those who send it, and for nobody else"""

    def __repr__(self) -> str:
        return "Password()"

    def hide(self, said: bytes) -> bytes:
        """Return what a host said, without the password: some echo what they are given."""
        return said.replace(self.secret, b"(password)")


def read(file: str) -> Password:
    """Read the first line of a file, of stdin for `-`; raises InputError.

    A file that others may read is refused, as ssh does with keys.
    """
    try:
        if file == "-":
            return _checked(sys.stdin.buffer.readline(), "stdin")
        with Path(file).open("rb") as opened:
            status = os.fstat(opened.fileno())
            if stat.S_ISREG(status.st_mode) and stat.S_IMODE(status.st_mode) & 0o077:
                raise _problem(f"others may read the password file `{file}`", f"chmod 600 {file}")
            return _checked(opened.readline(), f"`{file}`")
    except OSError as error:
        raise _problem(f"cannot read the password file `{file}`: {(error.strerror or '').lower()}") from error


def takes_password(methods: tuple[str, ...]) -> bool:
    """Return whether one of these methods is about a password; many hosts that use PAM only offer the second."""
    return "password" in methods or "keyboard-interactive" in methods


def can_ask() -> bool:
    """Return whether there is a terminal, and somebody at it."""
    if os.environ.get("CI"):
        return False
    try:
        os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY))
    except OSError:
        return False
    return True


def ask(prompt: str) -> Password:
    """Ask on the terminal, without echo; raises InputError."""
    try:
        typed = getpass.getpass(prompt)
    except EOFError:
        raise _problem("no password was given") from None
    except UnicodeDecodeError:  # it has what was typed in it
        raise _problem("the password is not in the terminal's encoding", "use `--password-file`") from None
    return _checked(typed.encode("utf-8", "surrogateescape"), "what was typed")


def _checked(line: bytes, where: str) -> Password:
    secret = line.removesuffix(b"\n").removesuffix(b"\r")
    if not secret or b"\0" in secret:
        raise _problem(f"no password in {where}", "expected it on the first line")
    return Password(secret)


def _problem(message: str, hint: str = "") -> InputError:
    return InputError([Problem(None, message, hint)])
