"""Tickets: whatever is wrong with Kerberos is a warning that says what, in time, and no ticket is left behind."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from runsdeploy.jobs.process import kerberos
from runsdeploy.jobs.process.kerberos import Ticket, login, logout

USER = "svc@KOMMUNE.NET"

GOOD = """\
printf '%s\\n' "$@" > "$(dirname "$0")/words"
env > "$(dirname "$0")/environment"
echo ticket > "${KRB5CCNAME#FILE:}"
"""


class Machine:
    """A machine with programs of Kerberos, or without."""

    def __init__(self, directory: Path) -> None:
        self.programs, self.own, self.keytab = directory / "bin", directory / "run", directory / "keytab"
        self.programs.mkdir()
        self.own.mkdir(0o700)
        self.keytab.write_bytes(b"\x05\x02")
        self.cache = self.own / "krb5cc"

    def has(self, name: str, text: str, shebang: str = "#!/bin/sh") -> None:
        (self.programs / name).write_text(f"{shebang}\n{text}\n")
        (self.programs / name).chmod(0o755)

    def find(self, name: str) -> str | None:
        path = self.programs / name
        return str(path) if path.exists() else None

    def login(self, user: str = USER, keytab: str | None = None, timeout: float = 30.0) -> Ticket:
        keytab = str(self.keytab) if keytab is None else keytab
        return login(user, keytab, str(self.own), self.find, timeout)

    def read(self, name: str) -> list[str]:
        return (self.programs / name).read_text().splitlines()


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def test_J19_a_ticket_goes_to_a_cache_of_the_run_alone(machine, monkeypatch):
    monkeypatch.setenv("KRB5CCNAME", "FILE:/no/such/of/somebody")
    monkeypatch.setenv("KRB5_TRACE", "/dev/stderr")
    machine.has("kinit", GOOD)
    ticket = machine.login()
    assert ticket == Ticket(f"FILE:{machine.cache}", "")
    assert machine.cache.read_text() == "ticket\n"
    assert machine.read("words") == [USER, "-k", "-t", str(machine.keytab)]
    environment = dict(line.split("=", 1) for line in machine.read("environment"))
    assert environment["KRB5CCNAME"] == ticket.cache
    assert set(environment) <= {"KRB5CCNAME", "PATH", "LC_ALL", "PWD", "SHLVL", "_"}
    assert os.environ["KRB5CCNAME"] == "FILE:/no/such/of/somebody"


def test_J19_a_keytab_may_say_that_it_is_a_file(machine):
    machine.has("kinit", GOOD)
    assert machine.login(keytab=f"FILE:{machine.keytab}").warning == ""
    assert machine.read("words")[3] == f"FILE:{machine.keytab}"


@pytest.mark.parametrize(
    ("text", "warning"),
    [
        (
            "echo first; echo 'kinit: Client not found' >&2; exit 1",
            "ended with status 1, its last line: kinit: Client not found",
        ),
        ("exit 255", "ended with status 255"),
        ("kill -9 $$", "was killed by signal 9"),
        ("exec sleep inf", "did not end in 0.3 seconds"),
        ("trap '' TERM; while :; do sleep inf; done", "did not end in 0.3 seconds"),
        ("echo half > ${KRB5CCNAME#FILE:}; exit 1", "ended with status 1"),
        ("printf 'Password for svc: '; read word || exit 1", "ended with status 1, its last line: Password for svc:"),
        ("printf 'Password for svc: ' > /dev/tty", "ended with status"),
        ("printf '\\033]52;evil\\n'; exit 1", "ended with status 1, its last line: ?]52;evil"),
        ("yes clock skew too great | head -n 200000; exit 1", "its last line: clock skew too great"),
        ("true", "reported success, but wrote no cache"),
    ],
)
def test_J19_a_kinit_that_fails_is_a_warning_that_says_how(machine, text, warning):
    machine.has("kinit", text)
    ticket = machine.login(timeout=0.3 if "seconds" in warning else 30.0)
    assert ticket.cache == ""
    assert ticket.warning.startswith(f"no ticket for `{USER}` from `{machine.keytab}`: `{machine.programs}/kinit` ")
    assert warning in ticket.warning
    assert "\n" not in ticket.warning
    assert not machine.cache.exists()


def test_J19_a_kinit_that_cannot_be_executed_is_a_warning_that_says_why(machine):
    machine.has("kinit", "", shebang="#!/no/such/shell")
    warning = machine.login().warning
    assert "could not be run: not-found" in warning
    assert "needs an interpreter that was not found" in warning


@pytest.mark.parametrize(
    ("user", "keytab", "warning"),
    [
        ("", "/k", "no ticket: `crontab.SVC_USER` is not set"),
        (USER, "", "no ticket: `crontab.SVC_KEYTAB` is not set"),
        ("", "", "no ticket: `crontab.SVC_USER` is not set"),
        ("-V", "/dev/zero", "no ticket: `crontab.SVC_USER` is `-V`, which `kinit` would take for an option"),
        (USER, "keytab", "no ticket: `crontab.SVC_KEYTAB` is `keytab`, expected an absolute path"),
        (USER, "-V", "no ticket: `crontab.SVC_KEYTAB` is `-V`, expected an absolute path"),
        (USER, "/no/such", "no ticket: keytab `/no/such` cannot be read: no such file or directory"),
        (USER, "FILE:/no/such", "no ticket: keytab `FILE:/no/such` cannot be read: no such file or directory"),
        (USER, "/etc", "no ticket: keytab `/etc` cannot be read: is a directory"),
        (USER, "/dev/null", "no ticket: keytab `/dev/null` is empty"),
        (USER, "/\0", "no ticket: keytab `/\0` cannot be read: embedded null byte"),
    ],
)
def test_J19_settings_that_cannot_give_a_ticket_are_a_warning_and_no_attempt(machine, user, keytab, warning):
    machine.has("kinit", GOOD)
    assert machine.login(user, keytab) == Ticket("", warning)
    assert not (machine.programs / "words").exists()


def test_J19_a_machine_without_kinit_is_a_warning(machine):
    assert machine.login() == Ticket("", "no ticket: `kinit` is not on this machine, install the Kerberos client")


def test_J19_an_old_cache_never_passes_for_a_new_ticket(machine):
    machine.cache.write_text("yesterday")
    machine.has("kinit", "exit 0")
    assert machine.login().cache == ""
    assert not machine.cache.exists()


@pytest.mark.parametrize(
    "text",
    [
        'echo "$KRB5CCNAME" > "$(dirname "$0")/destroyed"; rm "${KRB5CCNAME#FILE:}"',
        "exit 1",
        "kill -9 $$",
        "exec sleep inf",
        None,
    ],
)
def test_J19_after_a_logout_no_ticket_is_left_whatever_kdestroy_does(machine, text):
    machine.has("kinit", GOOD)
    if text is not None:
        machine.has("kdestroy", text)
    ticket = machine.login()
    assert logout(ticket, machine.find, timeout=0.3 if text and "inf" in text else 30.0) == ""
    assert not machine.cache.exists()
    if text and "destroyed" in text:
        assert machine.read("destroyed") == [ticket.cache]


def test_J19_a_logout_without_a_ticket_does_nothing(machine):
    machine.has("kdestroy", 'touch "$(dirname "$0")/destroyed"')
    assert logout(Ticket("", "why"), machine.find) == ""
    assert not (machine.programs / "destroyed").exists()


def test_J19_a_cache_that_stays_is_a_warning(machine):
    machine.cache.mkdir()
    warning = logout(Ticket(f"FILE:{machine.cache}", ""), machine.find)
    assert warning == f"ticket cache `{machine.cache}` cannot be removed: is a directory"


def test_J21_programs_are_found_whatever_cron_has_for_a_path(monkeypatch):
    find: Callable[[str], str | None] = kerberos.find_program
    expected = find("env")
    for path in ("", "/no/such", None):
        monkeypatch.setenv("PATH", path) if path is not None else monkeypatch.delenv("PATH")
        assert find("env") == expected is not None
