"""Secrets: values for the environment of jobs that must not be stored in any file of the runner (S13).

The catalogue names the file that holds a secret. It is read when the first job that needs it starts, once per run, kept
in memory, and masked in the output of jobs.
"""

import os
import stat

from ..disk import trust
from ..errors import Fault, reason

LARGEST = 64 * 1024
"""bytes"""


def read(path: str) -> str:
    """Return the secret in a file, without its line end; raises Fault that names the file and never the secret."""
    found = trust.problems(path)
    if found:
        raise Fault(f"secret `{path}` could have been written by others: {trust.describe(found)}")
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(descriptor, "rb") as file:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode) or status.st_mode & 0o077:
                hint = f"chown {os.geteuid()} {path} && chmod 600 {path}"
                raise Fault(f"secret `{path}` is not a file that only this account can read", hint)
            data = file.read(LARGEST + 1)
    except OSError as error:
        raise Fault(f"secret `{path}` cannot be read: {reason(error)}") from None
    text = os.fsdecode(data[:-1] if data.endswith(b"\n") else data)
    if len(data) > LARGEST or not text or "\0" in text:
        raise Fault(f"secret `{path}` is empty, longer than {LARGEST} bytes, or has a zero byte")
    return text
