"""Run OpenSSH's own tools: `ssh -G`, `ssh-keygen`, `ssh-add`."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping

from runsdeploy.errors import Unreachable, reason

_TIME_LIMIT = 30.0
"""seconds that a tool may take: a `Match exec` or a canonicalising DNS query must not hang a deploy"""


def run(
    host: str, command: list[str], stdin: bytes = b"", environment: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[bytes]:
    """Run a tool to its end, whatever its exit status; raises Unreachable if it cannot be run or hangs.

    `host` is a name for messages; `environment` is added to the controller's own.
    """
    try:
        return subprocess.run(
            command,
            input=stdin,
            capture_output=True,
            timeout=_TIME_LIMIT,
            check=False,
            env={**os.environ, **(environment or {})},
        )
    except FileNotFoundError as error:
        missing = f"`{command[0]}` is not installed; runsdeploy needs it to read the ssh configuration and known_hosts"
        raise Unreachable(missing, "install the package `openssh-client` or `openssh-clients`") from error
    except subprocess.TimeoutExpired as error:
        raise Unreachable(f"`{command[0]}` did not end within {_TIME_LIMIT:.0f} s for `{host}`") from error
    except OSError as error:
        raise Unreachable(f"cannot run `{command[0]}`: {reason(error)}") from error
