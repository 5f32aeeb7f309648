"""`make demo`: the sample tree deployed twice to a throwaway host, over a real sshd on loopback.

Nothing is left behind: the host's home, its state and its keys are in a temporary directory.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.sshd import FakeHost

HOST = "medusa.univ.run"
PROGRAM = Path(sys.executable).with_name("runsdeploy")
COMMANDS = (
    ("what would be done, without connecting", "plan"),
    ("what would be done, by what the host says is done already", "deploy", "--dry-run"),
    ("do it", "deploy"),
    ("again: what is done is not done twice", "deploy"),
)


def main() -> int:
    """Run the demo; return 0 if everything went as it says."""
    with tempfile.TemporaryDirectory(prefix="runsdeploy-demo-") as folder, FakeHost(HOST, Path(folder, "host")) as host:
        environment = {
            **os.environ,
            "RUNSDEPLOY_SSH_CONFIG": str(host.ssh_config),
            # The local step's state belongs to this demo too.
            "RUNSDEPLOY_STATE_DIR": str(Path(folder, "controller")),
            # The sample says of its host what this machine need not be.
            "RUNSDEPLOY_NO_VERIFY_SYSINFOS": "1",
        }
        for title, *words in COMMANDS:
            print(f"\n# {title}\n$ runsdeploy {' '.join(words)} --host {HOST}", flush=True)
            done = subprocess.run([PROGRAM, *words, "--host", HOST], env=environment, check=False)
            if done.returncode:
                return done.returncode
        print(f"\n# on the host\n$ cat etc/motd srv/www/index.html\n{_installed(host)}", flush=True)
    return 0


def _installed(host: FakeHost) -> str:
    return "".join((host.home / name).read_text() for name in ("etc/motd", "srv/www/index.html"))


if __name__ == "__main__":
    sys.exit(main())
