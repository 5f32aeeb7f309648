"""What OpenSSH's tools did not say is no answer: a changed key would count as a new one."""

from __future__ import annotations

import os

import pytest

from runsdeploy.errors import Unreachable
from runsdeploy.transport import known_hosts
from tests.trees import Executable, plant

NO_ANSWER = {
    "an unreadable file": "echo 'do_known_hosts: hostkeys_foreach: Permission denied' >&2; exit 255",
    "killed": "kill -9 $$",
    "a library is missing": "echo 'error while loading shared libraries' >&2; exit 127",
    "found, and nothing said": "exit 0",
}


@pytest.fixture
def configured(tmp_path, monkeypatch):
    """Give a place for other tools, before the real ones."""
    known = plant(tmp_path, {"known": "host ssh-ed25519 AAAA\n", "bin": None}) / "known"
    monkeypatch.setenv("PATH", f"{tmp_path}/bin", prepend=os.pathsep)
    (tmp_path / "config").write_text(f"Host *\n    UserKnownHostsFile {known}\n    GlobalKnownHostsFile none\n")
    return tmp_path


@pytest.mark.parametrize("how", NO_ANSWER.values(), ids=NO_ANSWER)
def test_r20_known_keys_that_could_not_be_read_are_not_unknown_ones(configured, how):
    """D10: `--accept-new` would accept a changed key."""
    plant(configured / "bin", {"ssh-keygen": Executable(f"#!/bin/sh\n{how}\n")})
    with pytest.raises(Unreachable, match=r"`ssh-keygen -F` cannot read `\S+/known`: ") as caught:
        known_hosts.look_up("host", str(configured / "config"))
    assert "ssh-keygen -F host -f" in caught.value.hint


def test_r20_a_host_that_is_not_there_is_unknown(configured):
    """The real tool says so by status 1."""
    assert known_hosts.look_up("other", str(configured / "config"))[1] == ()


@pytest.mark.parametrize("said", ["", "user root\n"])
def test_settings_that_were_not_printed_are_not_the_defaults(configured, said):
    """D10: without `userknownhostsfile` every host would be unknown."""
    plant(configured / "bin", {"ssh": Executable(f"#!/bin/sh\nprintf '{said}'\n")})
    with pytest.raises(Unreachable, match="`ssh -G` printed no settings for `host`"):
        known_hosts.look_up("host", str(configured / "config"))
