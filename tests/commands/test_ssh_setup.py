"""`ssh.setup` on real sshds that know passwords, through a real sudo, for accounts of the test's own.

As in test_root, sshd runs in a mount namespace of its own, where the accounts, their passwords and sudo's rules
exist: nothing of the machine is changed, not even by a test that is killed.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import pytest

from runsdeploy.errors import Lost
from runsdeploy.session import authorized_keys
from runsdeploy.transport.ssh import connecting
from tests import sshd
from tests.chaos.test_interrupts import terminal
from tests.docs.test_docs import INDENTED
from tests.sshd import FakeHost, make_key
from tests.trees import Operator, plant, remove, wait, wait_until

__all__ = ["terminal"]
pytestmark = pytest.mark.xdist_group("setup")

HOST = "medusa.univ.run"
SECRET = "kanari-é \"q\" 's' $HOME%n;x"  # noqa: S105 - a test's own
"""the password of all accounts that have one: a canary that shells, formats and locales like to mistake"""
HASHED = "$6$runsdeploy$f26RTzSw2ntHD4hlSFPGTzHH1Qx/CyFKIrSPp8Ej0dz2/aKEJNS7fjpaKoUIskp2Fv2nq2No9eF7qtPMVObzB/"
WRONG = "a wrong one"
ACCOUNTS = {
    # name: number, shell, password, rule of sudo
    "root": (0, "/bin/bash", HASHED, ""),
    "rd-alice": (61901, "/bin/bash", HASHED, "rd-alice ALL=(ALL) ALL"),
    "rd-free": (61902, "/bin/bash", HASHED, "rd-free ALL=(ALL) NOPASSWD: ALL"),
    "rd-nobody": (61903, "/bin/bash", HASHED, ""),
    "rd-tty": (61904, "/bin/bash", HASHED, "Defaults:rd-tty requiretty\nrd-tty ALL=(ALL) ALL"),
    "rd-once": (61905, "/bin/bash", HASHED, "Defaults:rd-once passwd_tries=1\nrd-once ALL=(ALL) ALL"),
    "rd-locked": (61906, "/bin/bash", "*", ""),
    "rd-tcsh": (61907, "/bin/tcsh", HASHED, ""),
    "rd-fish": (61908, "/usr/bin/fish", HASHED, ""),
    "rd-dash": (61909, "/bin/dash", HASHED, ""),
    "rd-nologin": (61910, "/usr/sbin/nologin", HASHED, ""),
    "rd-homeless": (61911, "/bin/bash", HASHED, ""),
    "alice": (61913, "/bin/bash", HASHED, "alice ALL=(ALL) ALL"),
    "rd-other": (61912, "/bin/bash", HASHED.replace("26RT", "26RU"), "rd-other ALL=(ALL) ALL"),
}

WRAPPER = """\
#!/bin/sh
exec unshare -m sh -ec '
    for each in passwd shadow group sudoers.d; do mount --bind "{place}/etc/$each" "/etc/$each"; done
    [ ! -e "{place}/etc/pam" ] || mount --bind "{place}/etc/pam" /etc/pam.d/sshd
    mount -t tmpfs -o mode=755 tmpfs /var/lib
    mount -t tmpfs -o mode=755 tmpfs /var/log
    exec "{program}" "$@"
' sshd "$@"
"""


@pytest.fixture(scope="module")
def place():
    """Make the accounts, in a directory that other users can reach, as pytest's own are not."""
    if os.geteuid() != 0:
        pytest.skip("makes accounts and a mount namespace, which takes root")
    if not shutil.which("sudo") or not shutil.which("unshare"):
        pytest.skip("needs the packages sudo and util-linux")
    if subprocess.run(["unshare", "-m", "true"], check=False, capture_output=True).returncode:
        pytest.skip("this machine allows no mount namespaces")
    with tempfile.TemporaryDirectory(prefix="runsdeploy-setup-", dir="/tmp") as made:
        place = Path(made)
        place.chmod(0o755)
        files = {name: Path("/etc", name).read_text().splitlines() for name in ("passwd", "shadow", "group")}
        files = {name: [line for line in lines if not line.startswith("root:")] for name, lines in files.items()}
        for name, (number, shell, secret, _) in ACCOUNTS.items():
            files["passwd"].append(f"{name}:x:{number}:{number}::{place}/homes/{name}:{shell}")
            files["group"].append(f"{name}:x:{number}:")
            files["shadow"].append(f"{name}:{secret}:19000:0:99999:7:::")
        plant(place / "etc", {name: "\n".join(lines) + "\n" for name, lines in files.items()})
        (place / "etc/shadow").chmod(0o600)
        rules = "\n".join(["Defaults lecture=always", *(rule for *_, rule in ACCOUNTS.values())])
        plant(place / "etc/sudoers.d", {"setup": f"{rules}\n"})
        (place / "etc/sudoers.d/setup").chmod(0o440)
        (place / "homes").mkdir()
        wrapper = plant(place, {"sshd": WRAPPER.format(place=place, program=sshd._sshd())}) / "sshd"
        wrapper.chmod(0o755)
        yield place


def started(place, name, *server):
    state = plant(place / name, {"state": None}) / "state"
    # It must be writable by its account alone.
    state.chmod(0o700)
    os.chown(state, ACCOUNTS["rd-alice"][0], ACCOUNTS["rd-alice"][0])
    # HOME is the account's own here.
    environment = f"SetEnv RUNSDEPLOY_STATE_DIR={state}"
    ours = ("AuthorizedKeysFile .ssh/authorized_keys", "StrictModes yes", environment, *server)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sshd, "_sshd", lambda: str(place / "sshd"))
        host = FakeHost(HOST, place / name, server=ours, client=("User rd-alice",))
        host.start()
    return host


@contextmanager
def running(host):
    try:
        yield host
    finally:
        host.stop()
        print(f"--- sshd of {host.name}\n{host.log()}")


@pytest.fixture(scope="module")
def pam_host(place):
    """A host as many are: PAM, and no `password` but `keyboard-interactive`."""
    with running(started(place, "pam", "UsePAM yes", "KbdInteractiveAuthentication yes")) as host:
        yield host


@pytest.fixture(scope="module")
def shared_host(place):
    """A host with `password`, without PAM."""
    with running(started(place, "plain", "PasswordAuthentication yes")) as host:
        yield host


@pytest.fixture
def homes(place):
    """Give every account an empty home."""
    remove(place / "homes")
    (place / "homes").mkdir()
    for name, (number, *_) in ACCOUNTS.items():
        (place / "homes" / name).mkdir(mode=0o755)
        os.chown(place / "homes" / name, number, number)
    (place / "homes/rd-homeless").rmdir()
    return place / "homes"


@pytest.fixture
def target(shared_host, homes):
    assert homes
    return shared_host


@pytest.fixture
def password(operator):
    """Write the password where it is given from."""
    path = operator.home / "password"
    path.write_text(f"{SECRET}\nsecond line\n")
    path.chmod(0o600)
    return path


def words_of(operator, *words, host=HOST, form="json"):
    return ["ssh.setup", "--ssh-config", operator.ssh_config, "--host", host, "--format", form, *words]


def setup(operator, *words, **more):
    return operator.run(*words_of(operator, *words, **more))


def outcomes(done):
    return [(each["host"], each["outcome"]) for each in done.document["hosts"]]


def only(done):
    (found,) = done.document["hosts"]
    return found


def keys(homes, name="rd-alice"):
    return homes / name / ".ssh/authorized_keys"


def said_from_now_on(host):
    """Return what gives the lines that sshd logs from now on: it may log when its client has gone, until it ends."""

    def said():
        wait_until(lambda: not host.processes())
        return host.log()

    before = said()
    return lambda: said().removeprefix(before)


def own(path):
    """Return owner, group and mode."""
    status = path.stat()
    return status.st_uid, status.st_gid, status.st_mode & 0o7777


def public(host):
    return Path(f"{host.client_key}.pub").read_text()


def write_keys(homes, text, name="rd-alice", mode=0o600):
    path = keys(homes, name)
    path.parent.mkdir(mode=0o700, exist_ok=True)
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    path.chmod(mode)
    for each in (path.parent, path):
        os.chown(each, ACCOUNTS[name][0], ACCOUNTS[name][0])
    return path


# --- with a password


@pytest.mark.parametrize("kind", ["shared_host", "pam_host"])
def test_a_host_that_only_knows_the_password_gets_the_key_once(kind, request, homes, password, tmp_path):
    """By `password` and by `keyboard-interactive`; a second run finds all as it should be, and changes no byte."""
    host = request.getfixturevalue(kind)
    operator = Operator(tmp_path / "operator", host.ssh_config)
    before = operator.run("deploy", "--ssh-config", host.ssh_config, "--host", HOST, "--script", "x", "--path", ".")
    assert before.status == 2
    first = setup(operator, "--password-file", password, form="text")
    assert first.status == 0, first.talk
    assert first.text == "medusa.univ.run: key added, login with it works\n"
    assert keys(homes).read_text() == public(host)
    uid = ACCOUNTS["rd-alice"][0]
    assert own(keys(homes)) == (uid, uid, 0o600)
    assert own(keys(homes).parent) == (uid, uid, 0o700)
    assert sorted(each.name for each in (homes / "rd-alice").rglob("*")) == [".ssh", "authorized_keys"]
    status = keys(homes).stat()
    second = setup(operator, form="text")
    assert second.text == "medusa.univ.run: key was there, login with it works\n"
    after = keys(homes).stat()
    assert (after.st_ino, after.st_ctime_ns) == (status.st_ino, status.st_ctime_ns)


def test_the_document_says_what_became_of_each_host(operator, target, homes, password):
    done = setup(operator, "--password-file", password)
    assert done.document == {
        "schema": 1,
        "exit_status": 0,
        "hosts": [
            {
                "host": HOST,
                "outcome": "added",
                "key": f"ssh-ed25519 {fingerprint(target.client_key)}",
                "message": "login with it works",
                "hint": "",
            }
        ],
    }
    assert homes
    again = setup(operator, form="jsonl").document
    assert again["hosts"][0]["outcome"] == "present"


def fingerprint(key):
    said = subprocess.run(["ssh-keygen", "-l", "-f", f"{key}.pub"], check=True, capture_output=True, text=True)
    return said.stdout.split()[1]


@pytest.mark.usefixtures("homes")
@pytest.mark.parametrize("kind", ["shared_host", "pam_host"])
def test_a_wrong_password_is_told_and_was_tried_once(kind, request, tmp_path):
    host = request.getfixturevalue(kind)
    operator = Operator(tmp_path / "operator", host.ssh_config)
    logged = said_from_now_on(host)
    done = operator_with(operator, WRONG)
    assert done.status == done.document["exit_status"] == 3
    assert only(done)["outcome"] == "unreachable"
    assert only(done)["message"] == "`medusa.univ.run` did not accept the password of user `rd-alice`"
    log = logged()
    assert log.count("Failed password") + log.count("Failed keyboard-interactive") == 1


def operator_with(operator, secret, *words, **more):
    return setup(operator, "--password-file", given_in_a_file(operator, secret), *words, **more)


def given_in_a_file(operator, secret):
    path = operator.home / "password"
    path.write_text(f"{secret}\n")
    path.chmod(0o600)
    return path


@pytest.mark.usefixtures("homes", "target")
def test_an_account_without_a_password_refuses_every_password(operator, password):
    done = setup(operator, "--password-file", password, host=f"rd-locked@{HOST}")
    assert done.status == 3
    assert "did not accept the password of user `rd-locked`" in only(done)["message"]


def test_root_is_told_who_else_could_do_it(operator, place, homes, password):
    """What Debian's sshd says to a root with the right password."""
    with running(started(place, "prohibit", "PasswordAuthentication yes", "PermitRootLogin prohibit-password")) as host:
        operator.ssh_config = host.ssh_config
        done = setup(operator, "--password-file", password, host=f"root@{HOST}")
        assert done.status == 3
        assert f"--host USER@{HOST} --for root" in only(done)["hint"]
        done = setup(operator, "--password-file", password, "--for", "root")
        assert (done.status, only(done)["message"]) == (0, "login with it works")
        assert keys(homes, "root").read_text() == public(host)


@pytest.mark.usefixtures("homes")
def test_a_host_that_takes_no_password_is_not_shown_one(operator, place, password):
    with running(started(place, "keysonly")) as host:
        operator.ssh_config = host.ssh_config
        done = setup(operator, "--password-file", password)
        assert done.status == 3
        assert "accepted no key for user `rd-alice`" in only(done)["message"]
        assert "accepts no password either" in only(done)["hint"]
        wait_until(lambda: not host.processes())
        assert "password" not in host.log()


@pytest.mark.usefixtures("homes")
def test_a_host_that_asks_for_more_than_a_password_is_told_and_gets_it_once(operator, place, password):
    """As for a code of a token: a second prompt of PAM's."""
    second = "auth required pam_ftp.so users=rd-alice ignore\nauth required pam_deny.so\n"
    stack = f"auth required pam_unix.so\n{second}account required pam_permit.so\n"
    plant(place / "etc", {"pam": stack})
    try:
        with running(started(place, "token", "UsePAM yes", "KbdInteractiveAuthentication yes")) as host:
            operator.ssh_config = host.ssh_config
            done = setup(operator, "--password-file", password)
    finally:
        (place / "etc/pam").unlink()
    assert (done.status, only(done)["outcome"]) == (3, "unreachable")
    assert "asks user `rd-alice` for more than a password" in only(done)["message"]


def test_a_host_that_never_answers_is_given_up(target, homes, monkeypatch):
    write_keys(homes, public(target))
    plant(homes / "rd-alice", {".bashrc": "cat >/dev/null\n"})  # until the channel is closed
    monkeypatch.setattr(authorized_keys, "PATIENCE", 0.5)
    options = connecting.Options(ssh_config=str(target.ssh_config))
    with closing(connecting.connect(HOST, options)) as connection, pytest.raises(Lost) as caught:
        authorized_keys.run_setup(connection, authorized_keys.KeyRequest("hello", HOST))
    assert "did not answer" in str(caught.value)


def test_a_wrong_password_is_not_tried_on_further_hosts(operator, target, homes, tmp_path):
    """A mistyped password must not lock an account on each of 500 hosts."""
    names = [f"web{n}.univ.run" for n in range(4)]
    operator.ssh_config = several(target, names, tmp_path)
    logged = said_from_now_on(target)
    done = operator_with(operator, WRONG, host=",".join(names))
    assert done.status == 3
    assert [outcome for _, outcome in outcomes(done)] == ["unreachable", "skipped", "skipped", "skipped"]
    assert "`web0.univ.run` did not accept it" in done.document["hosts"][3]["message"]
    assert logged().count("Failed password") == 1
    done = operator_with(operator, SECRET, host=",".join(names))
    assert done.status == 0, done.talk
    # One home behind all four names: the first adds the key, the others find it.
    assert [outcome for _, outcome in outcomes(done)] == ["added", "present", "present", "present"]
    assert keys(homes).read_text() == public(target)


def several(host, names, tmp_path):
    path = tmp_path / "several"
    path.write_text("".join(host.stanza().replace(f"Host {HOST}\n", f"Host {name}\n") for name in names))
    return path


def test_a_host_that_cannot_be_reached_stops_no_other(operator, target, homes, password, tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        closed = f"Host gone.univ.run\n  Port {free.getsockname()[1]}\n  HostName 127.0.0.1\n"
        path = tmp_path / "both"
        path.write_text(closed + target.stanza())
        operator.ssh_config = path
        done = setup(operator, "--password-file", password, "--key", target.client_key, host=f"gone.univ.run,{HOST}")
    assert done.status == 3
    assert outcomes(done) == [("gone.univ.run", "unreachable"), (HOST, "added")]
    assert keys(homes).exists()


def test_an_unknown_host_key_stops_before_a_password_is_sent(operator, target, homes, password, tmp_path):
    known = target.known_hosts.read_bytes()
    logged = said_from_now_on(target)
    try:
        target.known_hosts.write_bytes(b"")
        done = setup(operator, "--password-file", password)
        assert done.status == 3
        assert "is not known" in only(done)["message"]
        assert "password" not in logged()
        assert setup(operator, "--password-file", password, "--accept-new").status == 0
        make_key(tmp_path / "other")
        kind, blob, _ = (tmp_path / "other.pub").read_text().split()
        target.known_hosts.write_text(f"[127.0.0.1]:{target.port} {kind} {blob}\n")
        logged = said_from_now_on(target)
        done = setup(operator, "--password-file", password)
        assert done.status == 3
        assert "changed" in only(done)["message"]
        assert "password" not in logged()
    finally:
        target.known_hosts.write_bytes(known)
    assert keys(homes).exists()


# --- with keys already


def test_a_key_that_opens_the_door_already_needs_no_password(operator, target, homes):
    write_keys(homes, public(target))
    done = setup(operator)
    assert (done.status, only(done)["outcome"]) == (0, "present")


def test_another_key_is_added_by_the_one_that_works(operator, target, homes, tmp_path):
    before = write_keys(homes, f"# mine\n{public(target)}", mode=0o640)
    make_key(tmp_path / "second")
    done = setup(operator, "--key", tmp_path / "second.pub")
    assert (done.status, only(done)["outcome"], only(done)["message"]) == (0, "added", "login with it works")
    assert f"IdentityFile {tmp_path}/second" in only(done)["hint"]
    assert before.read_text() == f"# mine\n{public(target)}{(tmp_path / 'second.pub').read_text()}"
    assert own(before) == (61901, 61901, 0o640)


def test_somebody_elses_key_is_added_and_not_tried(operator, target, homes, tmp_path):
    write_keys(homes, public(target))
    make_key(tmp_path / "second")
    (tmp_path / "second").unlink()
    done = setup(operator, "--key", tmp_path / "second.pub")
    assert (done.status, only(done)["outcome"]) == (0, "added")
    assert "login with it was not tried" in only(done)["message"]


def test_a_missing_last_newline_is_made(operator, target, homes, tmp_path):
    write_keys(homes, public(target).rstrip("\n"))
    make_key(tmp_path / "second")
    assert setup(operator, "--key", tmp_path / "second").status == 0
    assert keys(homes).read_text() == public(target) + (tmp_path / "second.pub").read_text()


def test_a_key_that_sshd_does_not_accept_though_it_stands_there_is_told(operator, place, homes, password):
    with running(started(place, "elsewhere", "PasswordAuthentication yes", "PubkeyAuthentication no")) as host:
        operator.ssh_config = host.ssh_config
        done = setup(operator, "--password-file", password)
    assert (done.status, only(done)["outcome"]) == (3, "refused")
    assert only(done)["message"].startswith(f"the key stands in `{keys(homes)}`, but sshd does not accept it")
    assert "sshd -T" in only(done)["hint"]


@pytest.mark.usefixtures("target")
def test_a_home_that_cannot_be_written_is_told(operator, homes, password):
    os.chown(homes / "rd-alice", 0, 0)
    done = setup(operator, "--password-file", password)
    assert (done.status, only(done)["outcome"]) == (3, "refused")
    assert f"`rd-alice` may not write in `{homes}/rd-alice`" in only(done)["message"]
    done = setup(operator, "--password-file", password, host=f"rd-homeless@{HOST}")
    assert "no home directory" in only(done)["message"]


def test_keys_that_others_may_write_are_not_believed(operator, target, homes, password):
    write_keys(homes, public(target)).parent.chmod(0o777)
    done = setup(operator, "--password-file", password)
    assert (done.status, only(done)["outcome"]) == (3, "refused")
    assert "other users may write" in only(done)["message"]
    assert f"chmod go-w {homes}/rd-alice/.ssh" in only(done)["hint"]


@pytest.mark.usefixtures("target")
@pytest.mark.parametrize("name", ["rd-tcsh", "rd-fish", "rd-dash"])
def test_strange_login_shells_do_it_all_the_same(name, operator, target, homes, password):
    if not Path(ACCOUNTS[name][1]).exists():
        pytest.skip(f"needs {ACCOUNTS[name][1]}")
    done = setup(operator, "--password-file", password, host=f"{name}@{HOST}")
    assert done.status == 0, done.talk
    assert keys(homes, name).read_text() == public(target)


@pytest.mark.usefixtures("homes", "target")
def test_an_account_that_may_run_nothing_is_refused_in_its_own_words(operator, password):
    done = setup(operator, "--password-file", password, host=f"rd-nologin@{HOST}")
    assert (done.status, only(done)["outcome"]) == (3, "refused")
    assert "did not run the program" in only(done)["message"]
    assert "not available" in only(done)["message"]


# --- for another account


def test_s7_roots_key_is_put_there_by_sudo_with_the_password(operator, target, homes, password):
    done = setup(operator, "--password-file", password, "--for", "root", form="text")
    assert (done.status, done.text) == (0, "medusa.univ.run: key added, login with it works\n"), done.talk
    assert keys(homes, "root").read_text() == public(target)
    assert own(keys(homes, "root")) == (0, 0, 0o600)
    assert not keys(homes).exists()
    again = setup(operator, "--password-file", password, "--for", "root", form="text")
    assert again.text == "medusa.univ.run: key was there, login with it works\n"


def test_s7_sudo_alone_asks_where_a_key_opens_the_login(operator, target, homes, password):
    write_keys(homes, public(target))
    done = setup(operator, "--for", "root")
    assert done.status == 2
    assert "the password of `rd-alice@medusa.univ.run` is needed" in done.document["errors"][0]["message"]
    assert not keys(homes, "root").exists()
    done = setup(operator, "--for", "root", "--password-file", password)
    assert done.status == 0, done.talk
    assert keys(homes, "root").exists()


def test_sudo_without_a_password_needs_none(operator, target, homes):
    write_keys(homes, public(target), "rd-free")
    done = setup(operator, "--for", "root", host=f"rd-free@{HOST}")
    assert (done.status, only(done)["outcome"]) == (0, "added")


def test_root_puts_it_into_anybodys_file_without_sudo(operator, target, homes):
    write_keys(homes, public(target), "root")
    done = setup(operator, "--for", "rd-fish", host=f"root@{HOST}")
    assert (done.status, only(done)["outcome"]) == (0, "added"), done.talk
    assert own(keys(homes, "rd-fish")) == (61908, 61908, 0o600)
    assert own(keys(homes, "rd-fish").parent) == (61908, 61908, 0o700)
    assert "the host has no user `rd-none`" in only(setup(operator, "--for", "rd-none", host=f"root@{HOST}"))["message"]


@pytest.mark.parametrize(
    ("name", "secret", "says"),
    [
        ("rd-alice", WRONG, "did not accept the password"),
        ("rd-once", WRONG, "did not accept the password"),
        ("rd-nobody", SECRET, "not in the sudoers file"),
        ("rd-tty", SECRET, "requiretty"),
        ("rd-other", SECRET, "did not accept the password"),
    ],
)
def test_r19_what_sudo_does_not_do_is_told_plainly(name, secret, says, operator, target, homes):
    """The login is by key: the password is sudo's alone, and it is tried once."""
    write_keys(homes, public(target), name)
    done = operator_with(operator, secret, "--for", "root", host=f"{name}@{HOST}")
    assert (done.status, only(done)["outcome"]) == (3, "refused"), done.talk
    assert says in only(done)["message"] + only(done)["hint"]
    assert not keys(homes, "root").exists()
    wait_until(lambda: not target.processes())


# --- asking


@pytest.mark.usefixtures("homes", "target")
def test_nothing_is_asked_without_a_terminal_and_nothing_is_touched(operator):
    done = setup(operator, form="text")
    assert done.status == 2
    assert "the password of `rd-alice@medusa.univ.run` is needed, and there is no terminal to ask on" in done.talk
    assert "--password-file FILE" in done.talk


def typed(terminal, operator, secret, *words):
    window = terminal("ssh.setup", "--ssh-config", operator.ssh_config, "--host", HOST, *words)
    wait_until(lambda: b": " in window.shown or window.process.poll() is not None)
    window.type(f"{secret}\n".encode())
    return window.wait()


def test_the_password_is_asked_for_on_the_terminal_without_echo(operator, target, homes, terminal):
    done = typed(terminal, operator, SECRET)
    assert done.status == 0, done.talk
    assert done.talk.startswith("password for rd-alice@medusa.univ.run: ")
    assert "key added, login with it works" in done.talk
    assert "kanari" not in done.talk
    assert keys(homes).read_text() == public(target)


def test_one_question_for_all_hosts(operator, target, homes, terminal, tmp_path):
    names = [f"web{n}.univ.run" for n in range(3)]
    operator.ssh_config = several(target, [*names, HOST], tmp_path)
    done = typed(terminal, operator, SECRET, "--host", ",".join(names))
    assert done.status == 0, done.talk
    assert done.talk.count("password for ") == 1
    assert "(and 3 more): " in done.talk
    assert keys(homes).read_text() == public(target)


@pytest.mark.usefixtures("homes", "target")
@pytest.mark.parametrize("words", [["--format", "json"], []])
def test_neither_json_nor_ci_is_asked(words, operator, terminal):
    if not words:
        operator.environment["CI"] = "true"
    window = terminal("ssh.setup", "--ssh-config", operator.ssh_config, "--host", HOST, *words)
    done = window.wait()
    assert done.status == 2
    assert "password for" not in done.talk


@pytest.mark.usefixtures("homes", "target")
def test_an_interrupt_while_it_is_asked_ends_with_130(operator, terminal):
    window = terminal("ssh.setup", "--ssh-config", operator.ssh_config, "--host", HOST)
    wait_until(lambda: b": " in window.shown)
    window.type(b"\x03")
    done = window.wait()
    assert done.status == 130
    assert "Traceback" not in done.talk


@pytest.mark.usefixtures("homes", "target")
@pytest.mark.parametrize(
    ("content", "mode", "says"),
    [
        (SECRET, 0o644, "chmod 600"),
        ("\n", 0o600, "no password"),
        (None, 0, "no such file"),
        ("a\0b", 0o600, "no password"),
    ],
    ids=["readable", "empty", "missing", "nul"],
)
def test_a_bad_password_file_is_told_before_any_connection(content, mode, says, operator, target):
    path = operator.home / "password"
    if content is not None:
        path.write_text(content)
        path.chmod(mode)
    logged = said_from_now_on(target)
    done = setup(operator, "--password-file", path, "--for", "a b")
    assert done.status == 2
    assert len(done.document["errors"]) == 2
    assert says in str(done.document["errors"])
    assert logged() == ""


def test_the_password_may_come_from_stdin(operator, target, homes):
    words = ["ssh.setup", "--ssh-config", str(target.ssh_config), "--host", HOST, "--password-file", "-"]
    done = subprocess.run(
        [sys.executable, "-m", "runsdeploy", *words],
        input=SECRET.encode(), env=operator.settings(), cwd=operator.directory, capture_output=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert keys(homes).exists()


# --- dry runs


def test_a_dry_run_says_what_it_would_do_and_asks_for_nothing(operator, target, homes, password, tmp_path):
    done = setup(operator, "--dry-run", "--password-file", password)
    assert (done.status, done.document["dry_run"], only(done)["outcome"]) == (0, True, "maybe")
    write_keys(homes, public(target))
    make_key(tmp_path / "second")
    done = setup(operator, "-n", "--key", tmp_path / "second", form="text")
    assert done.text == "medusa.univ.run: key would be added\n"
    assert keys(homes).read_text() == public(target)
    assert only(setup(operator, "--check"))["outcome"] == "present"
    assert only(setup(operator, "--dry-run", "--for", "root"))["message"].startswith("sudo asks for a password")
    assert not keys(homes, "root").exists()


def test_invoke_does_the_same_and_its_own_dry_flag_is_honoured(operator, target, homes, password, tmp_path):
    (tmp_path / "tasks.py").write_text("from runsdeploy.namespace import namespace\nns = namespace()\n")

    def invoke(*words):
        return subprocess.run(
            [sys.executable, "-m", "invoke", *words, "--host", HOST, "--ssh-config", target.ssh_config, "--for", "root",
             "--password-file", password, "--format", "json"],
            cwd=tmp_path, env=operator.settings(), stdin=subprocess.DEVNULL, capture_output=True, check=False,
        )  # fmt: skip

    assert json.loads(invoke("--dry", "ssh.setup").stdout)["hosts"][0]["outcome"] == "maybe"
    assert not keys(homes, "root").exists()
    assert json.loads(invoke("ssh.setup").stdout)["hosts"][0]["outcome"] == "added"
    assert keys(homes, "root").exists()


# --- secrets


class Watch:
    """Everything that other users of a machine may see of processes: read again and again while it lasts."""

    def __init__(self) -> None:
        self.seen: set[bytes] = set()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._over.set()
        self._thread.join()

    def _look(self):
        own = str(os.getpid())
        while not self._over.is_set():
            for entry in Path("/proc").iterdir():
                if entry.name.isdigit() and entry.name != own:
                    for part in ("cmdline", "environ"):
                        with suppress(OSError):
                            self.seen.add((entry / part).read_bytes())


@pytest.mark.parametrize("secret", [SECRET, "wrong-kanari"], ids=["right", "wrong"])
@pytest.mark.parametrize(("kind", "form"), [("shared_host", "json"), ("pam_host", "text")])
def test_s7_t14_the_password_is_found_nowhere(kind, form, secret, request, place, tmp_path):
    """Not said, not in arguments or environments of any process, not in a file on either side."""
    host, homes = request.getfixturevalue(kind), request.getfixturevalue("homes")
    operator = Operator(tmp_path / "operator", host.ssh_config)
    given = given_in_a_file(operator, secret)
    write_keys(homes, public(host))  # so that a wrong one gets as far as sudo
    if secret == SECRET:
        keys(homes).unlink()
    (homes / "root/.ssh").mkdir(mode=0o700)
    words = words_of(operator, "--password-file", given, "--for", "root", "-v", form=form)
    folder = os.open(homes / "root/.ssh", os.O_RDONLY)
    fcntl.flock(folder, fcntl.LOCK_EX)
    with Watch() as watch, operator.start(*words) as process:
        # A right password goes no further than to the lock, as long as nobody has looked; after a wrong one sudo waits.
        wait_until(lambda: any(b"authorized_keys" in each for each in list(watch.seen)) or process.poll() is not None)
        os.close(folder)
        done = wait(process)
    assert done.status == (0 if secret == SECRET else 3), done.talk
    given.unlink()
    found = b"\0".join(watch.seen)
    assert b"ssh.setup" in found, "it was not looked at while it ran"
    assert b"authorized_keys" in found, "no process of the target was seen"
    # D1: who knows the nonce could write results.
    assert not re.search(rb"nonce=[0-9a-f]{32}", found)
    wait_until(lambda: not host.processes())  # which still write and remove files
    places = [found, done.out, done.talk.encode(), host.log().encode()]
    for root in (place, operator.directory, Path(f"/proc/{host._process.pid}/root/var/lib")):
        places += [path.read_bytes() for path in root.rglob("*") if path.is_file()]
    needles = [secret.encode(), secret.encode()[:8]]
    assert [needle for needle in needles for each in places if needle in each] == []


@pytest.mark.parametrize("kind", ["shared_host", "pam_host"])
def test_s7_a_sudo_of_the_accounts_own_never_gets_the_password(kind, request, place, homes, password, tmp_path):
    """First in its PATH, and a function of the same name: neither is even called."""
    host = request.getfixturevalue(kind)
    operator = Operator(tmp_path / "operator", host.ssh_config)
    write_keys(homes, public(host))
    joke = plant(homes / "rd-alice/bin", {"sudo": "#!/bin/sh\ncat >>~/stolen\n"}) / "sudo"
    joke.chmod(0o755)
    plant(homes / "rd-alice", {".bashrc": "PATH=~/bin:$PATH\nsudo() { cat >>~/stolen; }\nexport -f sudo\n"})
    done = setup(operator, "--for", "root", "--password-file", password)
    assert (done.status, only(done)["outcome"]) == (0, "added"), done.talk
    assert not (homes / "rd-alice/stolen").exists()
    assert place


def test_the_hint_of_a_deploy_that_no_key_opens_is_this_command(operator, target, homes, tmp_path):
    tree = plant(tmp_path / "tree", {"scripts/it": "script:\ntrue\n"})
    done = operator.deploy(tree, "--script", "it")
    hint = done.document["hosts"][0]["hint"]
    assert hint == f"runsdeploy ssh.setup --host rd-alice@{HOST}"
    path = operator.home / "password"
    path.write_text(SECRET)
    path.chmod(0o600)
    command = [*shlex.split(hint)[1:], "--ssh-config", target.ssh_config, "--password-file", path]
    with operator.start(*command) as process:
        assert wait(process).status == 0
    again = operator.deploy(tree, "--script", "it")
    assert again.status == 0, again.out.decode()
    assert keys(homes).read_text() == public(target)


def test_the_commands_of_the_how_to_do_what_the_page_says(operator, target, homes, password):
    page = (Path(__file__).parents[2] / "docs/how-to.md").read_text()
    commands = [command for command in INDENTED.findall(page) if command.startswith("runsdeploy ssh.")]
    assert len(commands) == 2
    operator.environment |= {"RUNSDEPLOY_SSH_CONFIG": str(target.ssh_config), "RUNSDEPLOY_PASSWORD_FILE": str(password)}
    for command in commands:
        done = operator.run(*shlex.split(command)[1:])
        assert (done.status, done.text) == (0, "medusa.univ.run: key added, login with it works\n"), done.talk
    assert keys(homes).read_text() == keys(homes, "root").read_text() == public(target)
