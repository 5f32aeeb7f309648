"""Another account plants links, files and renames in every directory that it can write, while root deploys (S5, R34).

The controller and the target are both root's. The second account is a process without any privilege. It can write a
directory like /tmp above everything, in which tree, state and TMPDIR lie, and a loose directory that honest links lead
past. Nothing of it may run, be read, or be written through; and no deploy may be refused for anything but its tricks.
"""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from tests.sshd import FakeHost
from tests.trees import Link, Operator, plant, script

SECONDS = float(os.environ.get("RUNSDEPLOY_TEST_PLANTING") or 12)
SOMEBODY = 61874
HOST = "medusa.univ.run"

PLANTER = r"""
import os, random, shutil, sys
top, seed, account = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
os.setgroups([])
os.setgid(account)
os.setuid(account)
dice, done = random.Random(seed), 0
code = f"from os import system as _s\n_s('id -u >>{top}/open/ran')\n"
shell = f"id -u >>{top}/open/ran\nscript:\nid -u >>{top}/open/ran\n"
places = [os.path.join(folder, name) for folder in (f"{top}/open", f"{top}/loose", f"{top}/loose/way")
          for name in ("tree", "state", "tmp", "runsdeploy.py", "runsdeploy.yaml", "__pycache__", "way", "runs.conf",
                       "scripts", "state/holder", "state/lock", "state/markers/it/script", "tree/scripts/it")]
targets = [f"{top}/canary", f"{top}/open/bait", f"{top}/private/state", "/etc/shadow", f"{top}/loose"]
os.makedirs(f"{top}/open/bait/scripts", exist_ok=True)
for name in ("scripts/it", "runsdeploy.py", "runs.conf"):
    open(f"{top}/open/bait/{name}", "w").write(code if name.endswith(".py") else shell)
print("ready", flush=True)
while True:
    place, trick = dice.choice(places), dice.randrange(6)
    try:
        if trick == 0:
            os.symlink(dice.choice(targets), place)
        elif trick == 1:
            os.rename(place, f"{place}.{done}")
        elif trick == 2:
            os.makedirs(f"{place}/scripts")
            for name in ("scripts/it", "runsdeploy.py", "runs.conf"):
                open(f"{place}/{name}", "w").write(code if name.endswith(".py") else shell)
        elif trick == 3:
            open(place, "a").write(code if place.endswith(".py") else shell)
        elif trick == 4:
            os.link(dice.choice(targets), place)
        else:
            os.unlink(place) if os.path.islink(place) or os.path.isfile(place) else shutil.rmtree(place)
        done += 1
    except OSError:
        pass
    if os.path.exists(f"{top}/open/stop") or os.getppid() == 1:
        print(done, flush=True)
        break
"""


@pytest.mark.timeout(SECONDS + 300)
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be another account")
def test_s5_r34_what_another_account_plants_meanwhile_is_never_used():
    """RUNSDEPLOY_TEST_PLANTING is its length in seconds."""
    seed = random.randrange(1 << 30)
    print(f"seed {seed}")
    # Not below pytest's own directory, which keeps others out.
    with tempfile.TemporaryDirectory(prefix="runsdeploy-planting-", dir="/var/tmp") as made:
        top = Path(made)
        top.chmod(0o755)
        plant(
            top,
            {
                "open": None,
                "loose/way/tree/scripts/it": script(),
                "private/state": None,
                "canary": "known only to root\n",
            },
        )
        (top / "canary").chmod(0o600)
        (top / "private").chmod(0o700)
        body = 'shouldrun || exit\n[[ $(id -u) == 0 ]] && echo "$n" >>"$HOME/counted"\nsetdone'
        tree = {"scripts/it": script("var n=0", body), "hosts/medusa/default": "it\n"}
        for each in ("open/ours", "sound"):
            plant(top / each, tree)
        plant(top, {"open/ours/state": None, "open/ours/tmp": None, "sound/link": Link("../open/ours")})
        (top / "open/ours/tmp").chmod(0o700)
        for folder, mode in (("open", 0o1777), ("loose", 0o777), ("loose/way", 0o777)):
            (top / folder).chmod(mode)
        before = (top / "canary").read_text(), Path("/etc/shadow").read_bytes()
        with FakeHost(HOST, top / "private/host") as host:
            operator = Operator(top / "private/operator", host.ssh_config)
            planter = subprocess.Popen(
                [sys.executable, "-c", PLANTER, str(top), str(seed), str(SOMEBODY)],
                stdout=subprocess.PIPE, text=True, cwd="/",
            )  # fmt: skip
            try:
                assert planter.stdout is not None
                assert planter.stdout.readline() == "ready\n"
                deploys, refused = rounds(top, host, operator)
            finally:
                (top / "open/stop").touch()
                tricks = planter.communicate(timeout=60)[0].strip()
            counted = (host.home / "counted").read_text().split() if (host.home / "counted").exists() else []
            counted += (operator.home / "counted").read_text().split() if (operator.home / "counted").exists() else []
            print(f"{deploys} deploys, {refused} refused, {tricks} tricks")
            assert int(tricks) > 0
            assert not (top / "open/ran").exists(), "something planted was run"
            assert (top / "canary").read_text() == before[0]
            assert Path("/etc/shadow").read_bytes() == before[1]
            assert sorted(set(counted)) == sorted(counted), "a step ran twice"
            assert len(counted) == deploys, "a deploy that ended well did not run its step, or one that was refused did"
            shutil.rmtree(top / "open", ignore_errors=True)


def rounds(top, host, operator):
    """Deploy until the time is over: (number of good deploys, number of refused ones)."""
    end, good, refused, number = time.monotonic() + SECONDS, 0, 0, 0
    secret = (top / "canary").read_text()
    sound = [top / "open/ours", top / "sound", top / "sound/link"]
    unsound = [top / "loose/way/tree", top / "open/tree", top / "loose/tree"]
    while time.monotonic() < end:
        number += 1
        local = number % 2 == 0
        # The state and TMPDIR of the controller: below the sticky directory; every third time where others may write.
        bad_state = local and number % 6 == 0
        operator.environment = {
            "RUNSDEPLOY_STATE_DIR": str(top / ("loose/way/state" if bad_state else "open/ours/state")),
            "TMPDIR": str(top / "open/ours/tmp"),
        }
        bad_tree = number % 4 == 3
        tree = (unsound if bad_tree else sound)[number % 3]
        words = ["--local"] if local else ["--ssh-config", host.ssh_config]
        run = ("--script", "it", "--set", f"n={number}", "--format", "json")
        # One marker a round: the step runs each time.
        reset = operator.run(
            "reset", "--host", HOST, "--script", "it", "--path", top / "sound", *words, "--format", "json"
        )
        assert bad_state or reset.status in (0, 3), reset.text + reset.talk
        # Above that directory they may plant a configuration file of their own, which stops it.
        stoppable = number % 5 == 4
        place = top / ("open/ours/scripts" if stoppable else "private")
        done = operator.run("deploy", "--host", HOST, "--path", tree, *run, *words, cwd=place)
        shown = done.text + done.talk
        assert secret not in shown, f"a secret file was shown: {shown}"
        if bad_tree or bad_state:
            assert done.status in (2, 3), shown
            refused += 1
        elif stoppable and done.status == 2:
            assert "a configuration file can be code" in shown, shown
            refused += 1
        else:
            assert done.status == 0, shown
            good += 1
    return good, refused
