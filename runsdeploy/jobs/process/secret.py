"""Secrets: values for the environment of jobs that must not be stored in any file of the runner (S13).

The catalogue names the source of a secret. It is read when the first job that needs it starts, once per run, kept in
memory, and masked in the output of jobs. There is no cryptography here: `pass`, `sops`, `age` and the like do that.
"""

import os
import stat
import subprocess
import threading
from typing import Dict, NamedTuple, Tuple

from ..errors import Fault, reason

LARGEST = 64 * 1024
TIMEOUT = 60.0
"""seconds that a command may take"""
SOURCES = ("file", "command", "environment", "credential")


class Source(NamedTuple):
    """Where a secret comes from."""

    kind: str
    """one of SOURCES"""
    words: Tuple[str, ...]
    """a path, a program and its arguments, the name of an environment variable, or of a systemd credential"""


class Secrets:
    """The secrets of one run, each read once."""

    def __init__(self, environment: Dict[str, str]) -> None:
        self._environment = environment
        """environment of commands that print a secret"""
        self._known: Dict[Source, str] = {}
        self._guard = threading.Lock()

    def read(self, source: Source) -> str:
        """Return a secret without its line end; raises Fault that names the source and never the secret."""
        with self._guard:
            if source not in self._known:
                self._known[source] = self._read(source)
            return self._known[source]

    def _read(self, source: Source) -> str:
        readers = {"file": _file, "command": self._command, "environment": _variable, "credential": _credential}
        data = readers[source.kind](source.words)
        if len(data) > LARGEST:
            raise Fault(f"secret from {source.kind} `{source.words[0]}` is longer than {LARGEST} bytes")
        text = os.fsdecode(data[:-1] if data.endswith(b"\n") else data)
        if not text or "\0" in text:
            raise Fault(f"secret from {source.kind} `{source.words[0]}` is empty or has a zero byte")
        return text

    @property
    def values(self) -> Tuple[bytes, ...]:
        """The secrets read so far, to be masked."""
        return tuple(os.fsencode(value) for value in self._known.values())

    def _command(self, words: Tuple[str, ...]) -> bytes:
        try:
            # stderr is dropped: it is not part of the secret, and it may contain it.
            done = subprocess.run(
                words,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                cwd="/",
                env=self._environment,
                timeout=TIMEOUT,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise Fault(f"secret: `{words[0]}` took more than {TIMEOUT:g} s") from None
        except OSError as error:
            raise Fault(f"secret: `{words[0]}` cannot be run: {reason(error)}") from None
        if done.returncode:
            raise Fault(f"secret: `{words[0]}` ended with {done.returncode}")
        return done.stdout


def _file(words: Tuple[str, ...]) -> bytes:
    try:
        descriptor = os.open(words[0], os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(descriptor, "rb") as file:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode) or status.st_mode & 0o077 or status.st_uid not in (0, os.geteuid()):
                hint = f"chown {os.geteuid()} {words[0]} && chmod 600 {words[0]}"
                raise Fault(f"secret `{words[0]}` is not a file that only this account can read", hint)
            return file.read(LARGEST + 1)
    except OSError as error:
        raise Fault(f"secret `{words[0]}` cannot be read: {reason(error)}") from None


def _variable(words: Tuple[str, ...]) -> bytes:
    value = os.environb.get(os.fsencode(words[0]))
    if value is None:
        raise Fault(f"secret: the runner was started without the variable `{words[0]}`")
    return value


def _credential(words: Tuple[str, ...]) -> bytes:
    folder = os.environ.get("CREDENTIALS_DIRECTORY", "")
    if not folder or "/" in words[0]:
        raise Fault(f"secret: systemd gave the runner no credential `{words[0]}`")
    return _file((os.path.join(folder, words[0]),))
