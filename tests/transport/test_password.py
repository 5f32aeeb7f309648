"""Passwords: their sources, and that no output contains them."""

from __future__ import annotations

import traceback

import pytest

from runsdeploy.errors import InputError
from runsdeploy.transport import password
from runsdeploy.transport.password import Password, read
from runsdeploy.transport.ssh.connecting import Options

SECRET = b"kanari-\xe9 %s"


def test_s7_no_text_of_an_object_contains_its_password():
    secret = Password(SECRET)
    holders = [
        secret,
        [secret],
        Options(password=secret),
        traceback.TracebackException.from_exception(ValueError(secret)),
    ]
    assert [each for each in holders if "kanari" in f"{each!r}{each}"] == []


def test_s7_a_hosts_output_is_shown_without_the_password():
    assert Password(SECRET).hide(b"sudo: no such user " + SECRET + b"!") == b"sudo: no such user (password)!"


@pytest.mark.parametrize("end", [b"", b"\n", b"\r\n", b"\nsecond\n"])
def test_the_first_line_is_the_password_byte_for_byte(end, tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"  " + SECRET + b" " + end)
    path.chmod(0o600)
    assert read(str(path)).secret == b"  " + SECRET + b" "


def test_the_message_about_another_encoding_contains_no_typed_byte(monkeypatch):
    def torn(_prompt):
        raise UnicodeDecodeError("utf-8", SECRET, 7, 8, "invalid")

    monkeypatch.setattr(password.getpass, "getpass", torn)
    with pytest.raises(InputError) as caught:
        password.ask("password: ")
    assert "kanari" not in "".join(traceback.format_exception(caught.value))
    assert "encoding" in str(caught.value)
