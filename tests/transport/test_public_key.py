"""Public keys: found in ssh's order, or refused. ssh-keygen makes the keys."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from runsdeploy.errors import InputError
from runsdeploy.transport import public_key
from runsdeploy.transport.public_key import find, parse
from runsdeploy.transport.ssh_config import resolve

BLOB = "AAAAC3NzaC1lZDI1NTE5AAAAIPHQn+2FvYOmoVdGtmOWFEQWIlfTmEPUS5jBkOAJLg9V"
GOOD = f"ssh-ed25519 {BLOB} me@here"
pytestmark = pytest.mark.skipif(not shutil.which("ssh-keygen"), reason="needs an OpenSSH client")


@pytest.fixture
def settings(tmp_path):
    """Return ssh's settings for a host without configured keys."""
    (tmp_path / "config").write_text("IdentityFile none\nIdentityAgent none\n")
    return replace(resolve("medusa.univ.run", str(tmp_path / "config")), identities=(), agent="")


def make(path, kind="ed25519", *more):
    subprocess.run(
        ["ssh-keygen", "-q", "-t", kind, "-N", "", "-C", "a key", "-f", str(path), *more],
        check=True,
        capture_output=True,
    )
    return Path(f"{path}.pub").read_text().strip()


def wrong(data, where="k.pub"):
    with pytest.raises(InputError) as caught:
        parse(data.encode() if isinstance(data, str) else data, where)
    return str(caught.value)


@pytest.mark.parametrize("kind", ["ed25519", "ecdsa", "rsa"])
def test_a_key_is_read_from_either_half(kind, settings, tmp_path):
    line = make(tmp_path / "id", kind)
    for file in ("id", "id.pub"):
        key = find(str(tmp_path / file), settings)
        assert key.line == line
        assert key.private == str(tmp_path / "id")
    (tmp_path / "id").unlink()
    assert find(str(tmp_path / "id.pub"), settings).line == line


def test_a_private_key_alone_is_enough_and_needs_no_passphrase(settings, tmp_path):
    line = make(tmp_path / "id")
    subprocess.run(
        ["ssh-keygen", "-q", "-p", "-P", "", "-N", "locked", "-f", str(tmp_path / "id")],
        check=True,
        capture_output=True,
    )
    (tmp_path / "id.pub").unlink()
    assert find(str(tmp_path / "id"), settings).line == line.rpartition(" a key")[0]


def test_the_hint_for_an_old_private_key_alone_makes_its_public_half(settings, tmp_path):
    make(tmp_path / "id", "rsa", "-m", "PEM")
    (tmp_path / "id.pub").unlink()
    with pytest.raises(InputError) as caught:
        find(str(tmp_path / "id"), settings)
    assert f"`{tmp_path}/id` is a private key without its public half" in str(caught.value)
    assert f"ssh-keygen -y -f {tmp_path}/id >{tmp_path}/id.pub" in str(caught.value)


def test_halves_that_do_not_match_are_an_error(settings, tmp_path):
    make(tmp_path / "id")
    (tmp_path / "id.pub").write_text(make(tmp_path / "other"))
    with pytest.raises(InputError) as caught:
        find(str(tmp_path / "id.pub"), settings)
    assert "is not the public half of" in str(caught.value)


def test_the_first_configured_key_that_exists_is_taken(settings, tmp_path):
    make(tmp_path / "first")
    second = make(tmp_path / "second")
    for name in ("first", "first.pub"):
        (tmp_path / name).unlink()
    make(tmp_path / "third")
    names = tuple(str(tmp_path / name) for name in ("first", "second", "third"))
    assert find(None, replace(settings, identities=names)).line == second


@pytest.fixture
def agent(tmp_path):
    """Start an ssh-agent for the test."""
    path = tmp_path / "agent"
    with subprocess.Popen(["ssh-agent", "-D", "-a", str(path)], stdout=subprocess.DEVNULL) as process:
        deadline = time.monotonic() + 60
        with socket.socket(socket.AF_UNIX) as connection:
            # The socket file exists before the agent listens.
            while connection.connect_ex(str(path)):
                assert time.monotonic() < deadline
                time.sleep(0.005)
        yield path
        process.terminate()


def test_the_agents_first_key_is_taken_where_there_is_no_file(settings, tmp_path, agent):
    with pytest.raises(InputError):
        find(None, replace(settings, agent=str(agent)))
    lines = [make(tmp_path / name) for name in ("one", "two")]
    for name in ("one", "two"):
        subprocess.run(
            ["ssh-add", "-q", str(tmp_path / name)], check=True, env={**os.environ, "SSH_AUTH_SOCK": str(agent)}
        )
    key = find(None, replace(settings, agent=str(agent)))
    assert key.line == lines[0]
    assert key.private == ""


def test_without_any_key_the_hint_makes_one(settings, tmp_path):
    with pytest.raises(InputError) as caught:
        find(None, replace(settings, identities=(str(tmp_path / "none"),)))
    assert f"none of `{tmp_path}/none`" in str(caught.value)
    assert str(caught.value).endswith("make one: `ssh-keygen -t ed25519`")


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        ("", "it has 0 lines, expected one"),
        (f"{GOOD}\n{GOOD}\n", "it has 2 lines, expected one"),
        ("nonsense\n", "expected `KIND BASE64 COMMENT`"),
        (f"ssh-ed2551 {BLOB}", "it is labelled `ssh-ed2551` but is `ssh-ed25519`"),
        (f"ssh-rsa {BLOB}", "it is labelled `ssh-rsa` but is `ssh-ed25519`"),
        (f'command="rm -rf /" {GOOD}', "expected `KIND BASE64 COMMENT`"),
        (f"no-pty {GOOD}", "expected `KIND BASE64 COMMENT`"),
        (f"ssh-ed25519 {BLOB[:-1]}", "expected `KIND BASE64 COMMENT`"),
        ("ssh-ed25519 AAAAC3NzaC1lZDI1NTE5", "expected `KIND BASE64 COMMENT`"),
        (f"{GOOD}\x1b[2J", "control characters"),
        (b"\xff\xfe", "not UTF-8"),
        ("ssh-dss AAAAB3NzaC1kc3MAAAAB", "DSA key, which sshd no longer accepts"),
        ("x AAAAIHNzaC1lZDI1NTE5LWNlcnQtdjAxQG9wZW5zc2guY29tAAAA", "is a certificate"),
        (f"{GOOD}{'x' * public_key.LONGEST}", "longer than any"),
    ],
)
def test_anything_but_a_public_key_is_refused_by_name(data, expected):
    message = wrong(data)
    assert expected in message
    assert "`k.pub`" in message


@pytest.mark.parametrize("text", [f"\n# a comment\n{GOOD}\n", f"  {GOOD}\r\n", f"{GOOD}"])
def test_blank_lines_comments_and_ends_of_lines_do_not_matter(text):
    assert parse(text.encode(), "k.pub").line == GOOD


@given(st.one_of(st.binary(max_size=200), st.text(max_size=200).map(lambda text: f"{GOOD} {text}".encode())))
def test_no_bytes_make_more_than_one_line_or_a_traceback(data):
    try:
        line = parse(data, "k.pub").line
    except InputError:
        return
    assert line.isprintable()
    assert line.split()[0] in public_key.KINDS
