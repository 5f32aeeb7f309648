"""A password: typed once on the terminal, or read from a file; never shown."""

from __future__ import annotations

import getpass
import os
import stat
import sys
from pathlib import Path

from msgspec import Struct

from runsdeploy.errors import InputError, Problem


class Password(Struct, frozen=True):
    """A password, as the bytes that the terminal or the file had, independent of the locale."""

    secret: bytes
    """the password itself; use it only to send it"""

    def __repr__(self) -> str:
        return "Password()"

    def hide(self, output: bytes) -> bytes:
        """Return a host's output without the password: some hosts echo their input."""
        return output.replace(self.secret, b"(password)")


def read(file: str) -> Password:
    """Read the first line of a file, of stdin for `-`; raises InputError.

    A file that other users may read is refused, as ssh refuses such private keys.
    """
    try:
        if file == "-":
            return _parse(sys.stdin.buffer.readline(), "stdin")
        with Path(file).open("rb") as opened:
            status = os.fstat(opened.fileno())
            if stat.S_ISREG(status.st_mode) and stat.S_IMODE(status.st_mode) & 0o077:
                raise _problem(f"other users may read the password file `{file}`", f"chmod 600 {file}")
            return _parse(opened.readline(), f"`{file}`")
    except OSError as error:
        raise _problem(f"cannot read the password file `{file}`: {(error.strerror or '').lower()}") from error


def takes_password(methods: tuple[str, ...]) -> bool:
    """Return whether a host with these authentication methods accepts a password.

    Many hosts that use PAM offer only `keyboard-interactive`.
    """
    return "password" in methods or "keyboard-interactive" in methods


def can_ask() -> bool:
    """Return whether an operator can be asked: there is a terminal, and CI is not set."""
    if os.environ.get("CI"):
        return False
    try:
        os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY))
    except OSError:
        return False
    return True


def ask(prompt: str) -> Password:
    """Read a password from the terminal, without echo; raises InputError."""
    try:
        typed = getpass.getpass(prompt)
    except EOFError:
        raise _problem("no password was typed") from None
    except UnicodeDecodeError:  # the exception contains the typed bytes
        raise _problem("the password is not in the terminal's encoding", "use `--password-file`") from None
    return _parse(typed.encode("utf-8", "surrogateescape"), "the input")


def _parse(line: bytes, where: str) -> Password:
    secret = line.removesuffix(b"\n").removesuffix(b"\r")
    if not secret or b"\0" in secret:
        raise _problem(f"no password in {where}", "expected it on the first line")
    return Password(secret)


def _problem(message: str, hint: str = "") -> InputError:
    return InputError([Problem(None, message, hint)])
