"""`cron.install` and its like through a real sshd and a real `crontab`.

sshd runs in a mount namespace of its own, where accounts, crontabs, /etc/cron.d, /opt and the units of systemd are
the test's: nothing of the machine is changed, not even by a test that is killed.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from crontab import CronTab

from runsdeploy.commands.cron.zipapp import build
from tests import sshd
from tests.sshd import FakeHost
from tests.stand_in import package_with_stand_in
from tests.trees import Executable, Operator, plant, remove, wait_until

HOST = "medusa.univ.run"
GUEST, JOBS = "runsdeploy-guest", "runsdeploy-jobs"
UIDS = {GUEST: 61874, JOBS: 61875}
DIRECTORY = "/opt/runsdeploy/job-runner"
MARK = f"runsdeploy job-runner {DIRECTORY}"

WRAPPER = """\
#!/bin/sh
exec unshare -m sh -ec '
    for file in passwd group shadow; do mount --bind "{place}/etc/$file" "/etc/$file"; done
    mount --bind "{place}/etc/sudoers.d" /etc/sudoers.d
    mount --bind "{place}/bin" /usr/local/sbin
    mount --bind "{place}/cron.d" /etc/cron.d
    mount --bind "{place}/units" /etc/systemd/system
    for each in /var/lib /opt /run/systemd /var/spool/cron /srv; do mount -t tmpfs -o mode=755 tmpfs $each; done
    mkdir -m 1730 /var/spool/cron/crontabs
    chgrp crontab /var/spool/cron/crontabs
    exec "{program}" "$@"
' sshd "$@"
"""


@pytest.fixture(scope="module")
def place():
    """A directory that other users can reach, as pytest's own are not."""
    if os.geteuid() != 0:
        pytest.skip("makes users and a mount namespace, which takes root")
    missing = [name for name in ("crontab", "unshare", "nsenter", "sudo") if not shutil.which(name)]
    if missing:
        pytest.skip(f"needs {', '.join(missing)}: packages cron, util-linux, sudo")
    folders = ("/etc/cron.d", "/etc/systemd/system", "/run/systemd", "/var/spool/cron", "/usr/local/sbin", "/srv")
    absent = [name for name in folders if not Path(name).is_dir()]
    if absent or not Path("/usr/bin/python3").exists():
        pytest.skip(f"needs /usr/bin/python3 and the directories of a Debian: {absent}")
    if subprocess.run(["unshare", "-m", "true"], check=False, capture_output=True).returncode:
        pytest.skip("this machine allows no mount namespaces")
    with tempfile.TemporaryDirectory(prefix="runsdeploy-cron-", dir="/tmp") as made:
        path = Path(made)
        path.chmod(0o755)
        yield path


@pytest.fixture(scope="module")
def shared_host(place):
    users = "".join(f"{name}:x:{uid}:{uid}::{place}/{name}:/bin/bash\n" for name, uid in UIDS.items())
    files = {
        "passwd": Path("/etc/passwd").read_text() + users,
        "group": Path("/etc/group").read_text() + "".join(f"{name}:x:{uid}:\n" for name, uid in UIDS.items()),
        "shadow": Path("/etc/shadow").read_text() + "".join(f"{name}:*:19000:0:99999:7:::\n" for name in UIDS),
        "sudoers.d/guest": f"{GUEST} ALL=(ALL) NOPASSWD: ALL\n",
    }
    plant(place, {**{f"etc/{name}": text for name, text in files.items()}, "bin": None, "cron.d": None, "units": None})
    (place / "etc/shadow").chmod(0o600)
    (place / "etc/sudoers.d/guest").chmod(0o440)
    for name, uid in UIDS.items():
        (place / name).mkdir()
        os.chown(place / name, uid, uid)
    (place / "host").mkdir(mode=0o755)
    wrapper = plant(place, {"sshd": Executable(WRAPPER.format(place=place, program=sshd._sshd()))}) / "sshd"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sshd, "_sshd", lambda: str(wrapper))
        with FakeHost(HOST, place / "host") as host:
            yield host


@pytest.fixture
def target(shared_host, place):
    """That host, with an empty home, no crontabs and nothing installed."""
    remove(shared_host.home)
    remove(shared_host.state)
    shared_host.home.mkdir()
    for folder in ("bin", "cron.d", "units"):
        empty(place / folder)
    for folder in ("/opt", "/srv", "/var/lib", "/run/systemd", "/var/spool/cron/crontabs"):
        empty(inside(shared_host, folder))
    return shared_host


def empty(folder):
    for each in folder.iterdir():
        remove(each) if each.is_dir() and not each.is_symlink() else each.unlink()


def inside(host, path):
    """Return a path as the fake host sees it."""
    return Path(f"/proc/{host._process.pid}/root{path}")


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    return package_with_stand_in(tmp_path_factory.mktemp("package"))


@pytest.fixture
def operator(target, tmp_path, package):
    """Somebody without any tree, whose runsdeploy has the stand-in for a job runner."""
    found = Operator(tmp_path / "operator", target.ssh_config, {"PYTHONPATH": str(package)})
    plant(found.directory, {"prod.json": '{"crontab.CRON_BACKUP": "/srv/backup"}\n'})
    return found


@pytest.fixture
def guest(operator, target):
    """The same, who logs in as a user that is not root."""
    for directory in (target.home, target.state):
        directory.mkdir(exist_ok=True)
        os.chown(directory, UIDS[GUEST], UIDS[GUEST])
    return operator


def cron(operator, command, *words, host=HOST, form="jsonl"):
    return operator.run(
        f"cron.{command}", "--host", host, "--format", form, "--ssh-config", operator.ssh_config, *words
    )


def install(operator, *words, settings="prod.json", schedule="15 2 * * *", host=HOST):
    return cron(operator, "install", "--settings", settings, "--schedule", schedule, *words, host=host)


def crontab(host, account="root"):
    """Return an account's crontab as `crontab -l` would show it, without the lines that crontab writes itself."""
    path = inside(host, f"/var/spool/cron/crontabs/{account}")
    if not path.exists():
        return None
    lines = path.read_bytes().splitlines(keepends=True)
    return b"".join(lines[3:] if lines[:1] and b"edit the master" in lines[0] else lines)


def plant_crontab(host, data, account="root"):
    path = inside(host, f"/var/spool/cron/crontabs/{account}")
    path.write_bytes(data)
    path.chmod(0o600)


def block(entry, mark=MARK):
    return f"# BEGIN {mark}\n{entry}\n# END {mark}\n".encode()


ENTRY = f"15 2 * * * cd / && /usr/bin/python3 -I {DIRECTORY}/job-runner.pyz run --quiet"


def access(path):
    about = path.lstat()
    return f"{about.st_mode & 0o7777:04o}", about.st_uid, about.st_gid


# --- installing ----------------------------------------------------------------------------------


def test_S18_the_program_is_installed_once_and_again_only_when_something_changes(operator, target, package):
    done = install(operator)
    assert done.status == 0, done.talk + done.output
    assert done.outcomes == [("cron/install", "ok")]
    assert "schedule 15 2 * * *: at 02:15" in done.talk
    assert done.talk.count("02:15") == 4, "in words, and the next three times"
    top = inside(target, DIRECTORY)
    assert (top / "job-runner.pyz").read_bytes() == build(package / "runsdeploy/jobs")
    assert access(top / "job-runner.pyz") == ("0755", 0, 0)
    assert access(top / "settings/prod.json") == ("0600", 0, 0)
    assert (top / "settings/settings.json").readlink() == Path("prod.json")
    assert crontab(target) == block(ENTRY)

    before = {path: path.lstat().st_ctime_ns for path in top.rglob("*")}
    again = install(operator)
    assert again.outcomes == [("cron/install", "already-done")]
    assert "changed:" not in again.output.replace("unchanged:", "")
    assert {path: path.lstat().st_ctime_ns for path in top.rglob("*")} == before

    plant(operator.directory, {"prod.json": '{"crontab.CRON_BACKUP": "/srv/other"}\n', "catalogue.json": "{}\n"})
    changed = install(operator, "--catalogue", "catalogue.json", schedule="@daily")
    assert changed.outcomes == [("cron/install", "ok")]
    assert "/srv/other" in (top / "settings/prod.json").read_text()
    assert (top / "settings/catalogue.json").read_text() == "{}\n"
    assert crontab(target) == block(ENTRY.replace("15 2 * * *", "@daily"))
    assert install(operator, "--catalogue", "catalogue.json", schedule="@daily").outcomes[0][1] == "already-done"
    # Without a catalogue, and under another name, the former files go.
    (operator.directory / "prod.json").rename(operator.directory / "test.json")
    assert install(operator, settings="test.json").status == 0
    assert sorted(path.name for path in (top / "settings").iterdir()) == ["settings.json", "test.json"]


@pytest.mark.parametrize("file", ["job-runner.pyz", "settings/prod.json", "settings/settings.json", "installed"])
def test_S18_a_file_that_was_altered_by_hand_is_put_right_and_told(operator, target, file):
    assert install(operator).status == 0
    path = inside(target, f"{DIRECTORY}/{file}")
    before = path.read_bytes()
    if path.is_symlink():
        path.unlink()
        path.symlink_to("elsewhere")
    else:
        path.write_bytes(before + b"\n")
    done = install(operator)
    assert done.outcomes == [("cron/install", "ok")]
    assert f"changed: {DIRECTORY}/{file}" in done.output
    assert path.read_bytes() == before
    assert install(operator).outcomes == [("cron/install", "already-done")]


def test_modes_and_entries_that_were_altered_are_put_right(operator, target):
    assert install(operator).status == 0
    inside(target, f"{DIRECTORY}/settings/prod.json").chmod(0o666)
    plant_crontab(target, block(ENTRY.replace("15", "16")))
    done = install(operator)
    assert done.outcomes == [("cron/install", "ok")]
    assert "changed: crontab of root" in done.output
    assert access(inside(target, f"{DIRECTORY}/settings/prod.json")) == ("0600", 0, 0)
    assert crontab(target) == block(ENTRY)


OTHERS = [
    b"",
    b"MAILTO=ops\n# own\n5 4 * * * x\n",
    b"5 4 * * * without end",
    b"# dos\r\n#\n#\n#\n5 4 * * * x\r\n",
    b"# \\r\n5 4 * * * printf 'a\\r\\n'\n",
    b"# \xff\xfe\xe9 \x01\x7f\n5 4 * * * printf '\\%s'  \t\n\n\n#   \n",
    b"# BEGIN another\n5 4 * * * x\n# END another\n",
    b"# BEGIN runsdeploy job-runner /srv/other\n5 4 * * * x\n# END runsdeploy job-runner /srv/other\n",
    b"# DO NOT EDIT THIS FILE - it is mine\n# (x installed on x)\n#\n",
]


@pytest.mark.parametrize("before", OTHERS)
def test_other_lines_of_a_crontab_stay_byte_by_byte(operator, target, before):
    kept = before if before.endswith(b"\n") or not before else before + b"\n"
    plant_crontab(target, before)
    assert install(operator).status == 0
    assert crontab(target) == kept + block(ENTRY)
    # Lines added behind it stay there, and it stays where it is.
    plant_crontab(target, kept + block(ENTRY) + b"6 * * * * y\n")
    assert install(operator, schedule="@daily").status == 0
    assert crontab(target) == kept + block(ENTRY.replace("15 2 * * *", "@daily")) + b"6 * * * * y\n"
    assert cron(operator, "uninstall").status == 0
    assert crontab(target) == kept + b"6 * * * * y\n"


def test_a_crontab_whose_bytes_cannot_be_told_is_left_as_it_is(guest, target):
    """Debian's `crontab -l` shows a CR as a backslash and an `r`; its file only root may read."""
    before = b"5 4 * * * x\r\n"
    plant_crontab(target, before, GUEST)
    os.chown(inside(target, f"/var/spool/cron/crontabs/{GUEST}"), UIDS[GUEST], -1)
    done = install(guest, host=f"{GUEST}@{HOST}")
    if done.status:
        assert "DOS line ends, which only root can tell apart" in done.output
        assert crontab(target, GUEST) == before
    else:
        assert crontab(target, GUEST).startswith(before)


@pytest.mark.parametrize(
    "before",
    [
        b"# BEGIN " + MARK.encode() + b"\n5 4 * * * x\n",
        block(ENTRY).replace(b"\n", b"\r\n"),
        b"5 4 * * * x\0y\n",
    ],
)
def test_a_crontab_that_cannot_be_edited_safely_is_left_as_it_is(operator, target, before):
    plant_crontab(target, before)
    done = install(operator)
    assert done.outcomes == [("cron/install", "failed")]
    assert inside(target, "/var/spool/cron/crontabs/root").read_bytes() == before


@pytest.mark.parametrize(
    ("before", "line", "missing"),
    [
        (f"1 * * * * y\n# BEGIN {MARK}\n5 4 * * * x\n", 2, f"has no end: put `# END {MARK}` behind the entry"),
        (f"5 4 * * * x\n# END {MARK}\n", 2, f"has no beginning: put `# BEGIN {MARK}` before the entry"),
        (f"# BEGIN {MARK}\n# BEGIN {MARK}\nx\n# END {MARK}\n", 1, f"has no end: put `# END {MARK}` behind the entry"),
    ],
)
def test_a_marker_that_is_alone_is_told_with_its_line_and_its_repair(operator, target, before, line, missing):
    """N16."""
    plant_crontab(target, before.encode())
    done = install(operator)
    assert done.outcomes == [("cron/install", "failed")]
    told = str(done.document)
    assert f"the crontab of `root`, line {line}: `" in told
    assert f"{missing}, `crontab -e`" in told
    assert ".crontab." not in told


def test_python_crontab_reads_the_entry_as_it_is_meant(operator, target):
    """An independent reader: one job, at that time, with that command; `%` is not the end of it."""
    directory = "/srv/a b/50% 'off'"
    assert install(operator, "--directory", directory, "--random-delay", "600").status == 0
    (job,) = [each for each in CronTab(tab=crontab(target).decode()) if each.is_enabled()]
    assert job.is_valid()
    assert job.slices.render() == "15 2 * * *"
    command = job.command.replace("\\%", "%")
    delay, _, rest = command.removeprefix("cd / && sleep ").partition(" && ")
    assert 0 < int(delay) <= 600
    ran = subprocess.run(
        ["nsenter", "-t", str(target._process.pid), "-m", "env", "-i", "PATH=/usr/bin:/bin", "HOME=/", "sh", "-c",
         rest],
        capture_output=True, check=True,
    )  # fmt: skip
    assert json.loads(ran.stdout)[:2] == ["run", ["--quiet"]]
    assert install(operator, "--directory", directory, "--random-delay", "600").outcomes[0][1] == "already-done"


def test_S8_a_service_account_runs_what_it_cannot_write(operator, target):
    done = install(operator, "--user", JOBS)
    assert done.status == 0, done.output
    top, group = inside(target, DIRECTORY), UIDS[JOBS]
    assert access(top) == ("0755", 0, 0)
    assert access(top / "job-runner.pyz") == ("0755", 0, 0)
    assert access(top / "settings") == ("0750", 0, group)
    assert access(top / "settings/prod.json") == ("0640", 0, group)
    assert crontab(target, JOBS) == block(ENTRY)
    assert crontab(target) is None
    ran = cron(operator, "run", "RUN_CPR_UUID", form="text")
    told = json.loads(ran.out)
    home = f"{target.directory.parent}/{JOBS}"
    assert told == ["run", ["RUN_CPR_UUID"], "text", JOBS, "/", home, ["HOME", "LOGNAME", "PATH", "SHELL", "USER"], 1]
    # Another account: the former entry goes.
    assert install(operator, "--user", GUEST).status == 0
    assert crontab(target, JOBS) is None
    assert crontab(target, GUEST) == block(ENTRY)
    assert access(top / "settings/prod.json") == ("0640", 0, UIDS[GUEST])


def test_S8_a_directory_that_the_service_account_could_replace_is_refused(operator, target):
    home = inside(target, "/srv/jobs")
    home.mkdir()
    os.chown(home, UIDS[JOBS], UIDS[JOBS])
    done = install(operator, "--user", JOBS, "--directory", "/srv/jobs/runner")
    assert done.outcomes == [("cron/install", "failed")]
    assert f"`{JOBS}` can write /srv/jobs, and could replace the job runner" in done.output
    assert list(home.iterdir()) == []


def test_a_login_that_is_not_root_installs_for_itself(guest, target):
    done = install(guest, host=f"{GUEST}@{HOST}")
    assert done.status == 0, done.output
    place = f"{target.home}/.local/share/runsdeploy/job-runner"
    top, uid = Path(place), UIDS[GUEST]
    assert access(top / "job-runner.pyz") == ("0755", uid, uid)
    assert access(top / "settings/prod.json") == ("0600", uid, uid)
    entry = f"15 2 * * * cd / && /usr/bin/python3 -I {place}/job-runner.pyz run --quiet"
    assert crontab(target, GUEST) == block(entry, f"runsdeploy job-runner {place}")
    assert install(guest, host=f"{GUEST}@{HOST}").outcomes == [("cron/install", "already-done")]
    assert json.loads(cron(guest, "status", host=f"{GUEST}@{HOST}", form="text").out)[3] == GUEST
    assert cron(guest, "uninstall", host=f"{GUEST}@{HOST}").status == 0
    assert not top.exists()
    assert crontab(target, GUEST) is None


def test_a_login_that_is_not_root_installs_for_a_service_account_through_sudo(guest, target):
    way = f"{GUEST}@{HOST}"
    assert install(guest, "--user", JOBS, host=way).status == 0
    assert access(inside(target, f"{DIRECTORY}/job-runner.pyz")) == ("0755", 0, 0)
    assert crontab(target, JOBS) == block(ENTRY)
    refused = cron(guest, "run", host=way, form="text")
    assert refused.status == 1
    assert f"--user {JOBS}" in refused.text
    assert "status 69: the job runner cannot be used there" in refused.talk
    assert json.loads(cron(guest, "run", "--user", JOBS, host=way, form="text").out)[3] == JOBS


def test_settings_that_the_host_has_are_linked_and_never_touched(operator, target):
    plant(inside(target, "/srv"), {"own.json": '{"crontab.CRON_BACKUP": "/srv/backup"}\n'})
    before = access(inside(target, "/srv/own.json"))
    words = ("--schedule", "@daily", "--target-settings", "/srv/own.json")
    assert cron(operator, "install", *words).status == 0
    link = inside(target, f"{DIRECTORY}/settings/settings.json")
    assert link.readlink() == Path("/srv/own.json")
    assert cron(operator, "install", *words).outcomes[0][1] == "already-done"
    done = cron(operator, "uninstall")
    assert "left: /srv/own.json" in done.output
    assert access(inside(target, "/srv/own.json")) == before
    assert not inside(target, DIRECTORY).exists()


def test_what_lies_in_the_place_of_the_link_or_of_the_directory_is_never_overwritten(operator, target):
    plant(inside(target, DIRECTORY), {"settings/settings.json": "{}\n", "job-runner.pyz": "old"})
    done = install(operator)
    assert done.outcomes == [("cron/install", "failed")]
    assert "settings.json is not a link" in done.output
    assert inside(target, f"{DIRECTORY}/settings/settings.json").read_text() == "{}\n"
    assert crontab(target) is None
    plant(inside(target, "/srv"), {"full/of": "things"})
    full = install(operator, "--directory", "/srv/full")
    assert "/srv/full exists and does not belong to the job runner" in full.output
    assert [path.name for path in inside(target, "/srv/full").iterdir()] == ["of"]


def test_settings_that_only_the_host_can_judge_keep_the_entry_from_being_made(operator, target):
    plant(inside(target, "/srv"), {"own.json": '{"bad": "there"}\n'})
    done = cron(operator, "install", "--schedule", "@daily", "--target-settings", "/srv/own.json")
    assert done.outcomes == [("cron/install", "failed")]
    assert "`bad`: found there" in done.output
    assert crontab(target) is None


# --- refusals ------------------------------------------------------------------------------------


def untouched(host):
    return not inside(host, "/opt/runsdeploy").exists() and crontab(host) is None


@contextlib.contextmanager
def hidden(host, place, *names):
    """Hide programs from a host: in their places lies an empty file."""
    inner = ["nsenter", "-t", str(host._process.pid), "-m"]
    (place / "empty").write_bytes(b"")
    folders = {*os.environ["PATH"].split(":"), "/usr/bin", "/usr/local/bin"}
    real = {os.path.realpath(f"{folder}/{name}") for folder in folders for name in names}
    mounted = sorted(path for path in real if path.startswith("/usr/") and os.path.isfile(path))  # noqa: PTH113
    for name in mounted:
        subprocess.run([*inner, "mount", "--bind", place / "empty", name], check=True)
    try:
        yield
    finally:
        for name in mounted:
            subprocess.run([*inner, "umount", "--lazy", name], check=True)


@pytest.mark.parametrize(
    ("python", "said"),
    [
        ("echo 2 7 18", "`/usr/local/sbin/python3` is 2.7.18"),
        ("echo 3 5 2", "`/usr/local/sbin/python3` is 3.5.2"),
        ("echo virtual", "`/usr/local/sbin/python3` belongs to a virtual environment"),
        ("echo broken; exit 1", "`/usr/local/sbin/python3` does not run as `root`"),
    ],
)
def test_a_python_that_is_too_old_is_named_before_anything_is_written(operator, target, place, python, said):
    plant(place / "bin", {"python3": Executable(f"#!/bin/sh\n{python}\n")})
    with hidden(target, place, "python3"):
        done = install(operator)
    assert done.status == 1
    assert f"the job runner needs Python 3.6 or later: {said}" in done.output
    assert "nothing was written" in done.output
    assert untouched(target)


def test_a_python_that_cannot_be_used_is_passed_over_for_one_that_can(operator, target, place):
    plant(place / "bin", {"python3": Executable("#!/bin/sh\necho virtual\n")})
    assert install(operator).status == 0
    assert b"/usr/local/sbin/python3" not in crontab(target)


def test_a_host_without_what_is_needed_is_told_all_of_it_at_once(operator, target, place):
    with hidden(target, place, "python3", "crontab"):
        done = install(operator)
    assert done.status == 1
    assert "or later: no `python3` on PATH (" in done.output
    assert "no `crontab` on PATH" in done.output
    assert untouched(target)
    assert f"there is no account `nobody-{GUEST}`" in install(operator, "--user", f"nobody-{GUEST}").output


BAD = [
    ([], "no settings given"),
    (["--settings", "prod.json", "--target-settings", "/x"], "both settings given"),
    (["--target-settings", "x"], "expected an absolute path on the host"),
    (["--settings", "missing.json"], "missing.json: cannot read: no such file or directory"),
    (["--settings", "syntax.json"], "syntax.json:2:3: found"),
    (["--settings", "twice.json"], "twice.json:3:1: `a`: duplicate key, first in line 2"),
    (["--settings", "latin.json"], "latin.json:1:3: not UTF-8"),
    (["--settings", "list.json"], "list.json:1:1: found a list, expected an object"),
    (["--settings", "bad.json"], "bad.json:3:5: `bad`: found something; take it away"),
    (["--settings", "prod.json", "--catalogue", "syntax.json"], "syntax.json:2:3: found"),
    (["--settings", "prod.json", "--schedule", "61 * * * *"], "`61` is not from 0 to 59"),
    (["--settings", "prod.json", "--schedule", "* * * *"], "has 4 fields, expected 5"),
    (["--settings", "prod.json", "--schedule", "0 0 30 2 *"], "never comes"),
    (["--settings", "prod.json", "--schedule", "0 0 13 * fri", "--scheduler", "systemd"], "cannot be a systemd timer"),
    (["--settings", "prod.json", "--scheduler", "anacron"], "expected one of crontab, cron.d, systemd"),
    (["--settings", "prod.json", "--directory", "relative"], "expected an absolute path"),
    (["--settings", "prod.json", "--directory", "/opt"], "not for the job runner alone"),
    (["--settings", "prod.json", "--directory", "/opt/x\ny"], "bad `--directory`"),
    (["--settings", "prod.json", "--user", "a;b"], "expected the name of an account"),
    (["--settings", "prod.json", "--random-delay", "soon"], "expected seconds"),
    (["--settings", "prod.json", "--host", "*.nowhere"], "matches no host"),
]


@pytest.mark.parametrize(("words", "message"), BAD, ids=[" ".join(words) for words, _ in BAD])
def test_bad_input_is_status_2_and_nothing_is_connected_to(operator, target, words, message):
    plant(
        operator.directory,
        {
            "syntax.json": '{\n  x}', "twice.json": '{\n"a": {"a": 1},\n"a": 2}', "latin.json": b'{"\xe9": 1}',
            "list.json": "[]", "bad.json": '{"bad": "something"}',
        },
    )  # fmt: skip
    wait_until(lambda: not target.processes())
    log = target.log()
    way = [
        "--host",
        HOST,
        "--ssh-config",
        str(target.ssh_config),
        *([] if "--schedule" in words else ["--schedule", "@daily"]),
    ]
    done = operator.run("cron.install", *way, *words)
    assert done.status == 2
    assert message in done.talk
    assert "Traceback" not in done.talk
    assert done.out == b""
    assert target.log() == log


def test_all_bad_input_is_told_at_once(operator, target):
    plant(operator.directory, {"bad.json": "{", "worse.json": "["})
    words = ["--settings", "bad.json", "--catalogue", "worse.json", "--schedule", "x", "--user", "?"]
    done = operator.run("cron.install", "--host", "*.x", "--format", "json", "--ssh-config", target.ssh_config, *words)
    assert done.status == 2
    said = " ".join(each["message"] for each in done.document["errors"])
    assert len(done.document["errors"]) == 5, said


def test_a_warning_of_the_runners_own_check_is_shown(operator):
    plant(operator.directory, {"odd.json": '{"warnings": ["unknown key"]}'})
    assert "warning: unknown key" in install(operator, "--dry-run", settings="odd.json").talk


def test_a_dry_run_shows_the_plan_and_writes_nothing(operator, target):
    done = install(operator, "--dry-run")
    assert done.status == 0
    (step,) = done.document["hosts"][0]["steps"]
    assert step["script"] == "cron/install"
    assert step["variables"]["schedule"] == "15 2 * * *"
    assert {Path(file["path"]).name for file in step["files"]} == {"job-runner.pyz", "settings.json"}
    assert untouched(target)


# --- other schedulers ----------------------------------------------------------------------------


def test_an_entry_in_cron_d_names_the_account(operator, target, place):
    words = ("--scheduler", "cron.d", "--user", JOBS)
    assert install(operator, *words).status == 0
    file = place / "cron.d/runsdeploy-job-runner"
    entry = ENTRY.replace("15 2 * * * ", f"15 2 * * * {JOBS} ")
    assert file.read_text() == f"# {MARK}\n{entry}\n"
    assert access(file) == ("0644", 0, 0)
    assert crontab(target, JOBS) is None
    (job,) = CronTab(tab=file.read_text(), user=False)
    assert job.is_valid()
    assert job.user == JOBS
    assert install(operator, *words).outcomes[0][1] == "already-done"
    other = install(operator, *words, "--directory", "/srv/job-runner")
    assert "/etc/cron.d/runsdeploy-job-runner does not belong to the job runner in /srv/job-runner" in other.output
    assert install(operator, *words, "--directory", "/srv/my.jobs").status == 0
    assert sorted(each.name for each in (place / "cron.d").iterdir()) == ["runsdeploy-job-runner", "runsdeploy-my_jobs"]


def units(place):
    return {path.name: path.read_text() for path in (place / "units").iterdir() if path.is_file()}


def test_systemd_units_are_what_systemd_understands(operator, place, tmp_path):
    directory = '/srv/a b/50% "$HOME"'
    words = ("--scheduler", "systemd", "--random-delay", "300", "--user", JOBS, "--directory", directory)
    done = install(operator, *words)
    assert done.status == 0, done.output
    assert "systemd is not running here" in done.output
    made = units(place)
    assert sorted(name.rpartition(".")[2] for name in made) == ["service", "timer"]
    timer = next(text for name, text in made.items() if name.endswith("timer"))
    service = next(text for name, text in made.items() if name.endswith("service"))
    for line in ("OnCalendar=*-*-* 02:15:00", "Persistent=true", "RandomizedDelaySec=300", "WantedBy=timers.target"):
        assert line in timer.splitlines()
    assert f"User={JOBS}" in service.splitlines()
    if not shutil.which("systemd-analyze"):
        pytest.skip("the rest needs systemd-analyze, of the package systemd")
    for name, text in made.items():
        # The account and the paths are only on the fake host.
        (tmp_path / name).write_text(text.replace(f"User={JOBS}\n", ""))
    said = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", *(tmp_path / name for name in made)],
        capture_output=True, text=True, check=False,
        env={**os.environ, "SYSTEMD_UNIT_PATH": f"{tmp_path}:/usr/lib/systemd/system", "SYSTEMD_LOG_LEVEL": "warning"},
    )  # fmt: skip
    assert (said.returncode, said.stdout, said.stderr) == (0, "", "")


SYSTEMCTL = """\
#!/bin/sh
echo "$*" >>{log}
case "$*" in
*is-enabled*) [ -e {log}.enabled ] ;;
*enable*) touch {log}.enabled ;;
*disable*) rm -f {log}.enabled ;;
esac
"""


def test_a_running_systemd_is_told_of_the_timer(operator, target, place):
    log = place / "systemctl.log"
    plant(place / "bin", {"systemctl": Executable(SYSTEMCTL.format(log=log))})
    (inside(target, "/run/systemd") / "system").mkdir()

    def told():
        lines = log.read_text().splitlines() if log.exists() else []
        log.unlink(missing_ok=True)
        return [line for line in lines if "is-enabled" not in line]

    words = ("--scheduler", "systemd")
    name = "runsdeploy-job-runner.timer"
    assert install(operator, *words).status == 0
    assert told() == ["daemon-reload", f"enable --now {name}", f"restart {name}"]
    assert install(operator, *words).outcomes[0][1] == "already-done"
    assert told() == []
    Path(f"{log}.enabled").unlink()
    assert install(operator, *words).outcomes[0][1] == "ok"
    assert told() == [f"enable --now {name}", f"restart {name}"]
    # At @reboot the time has passed: the jobs must not start now.
    assert install(operator, *words, schedule="@reboot").status == 0
    assert told() == ["daemon-reload", f"enable {name}"]
    assert "OnBootSec=1min" in units(place)[name]
    assert cron(operator, "uninstall").status == 0
    assert told() == [f"disable --now {name}", "daemon-reload"]
    assert units(place) == {}


def test_switching_the_scheduler_takes_the_former_entry_away(operator, target, place):
    kinds = {
        "crontab": lambda: crontab(target) is not None,
        "cron.d": lambda: bool(list((place / "cron.d").iterdir())),
        "systemd": lambda: bool(units(place)),
    }
    for kind in ("crontab", "cron.d", "systemd", "cron.d", "crontab", "systemd", "crontab"):
        assert install(operator, "--scheduler", kind).status == 0
        assert {name: there() for name, there in kinds.items()} == {name: name == kind for name in kinds}


# --- taking it away ------------------------------------------------------------------------------


def test_uninstalling_leaves_what_is_not_its_own(operator, target):
    assert install(operator, "--user", JOBS).status == 0
    plant(inside(target, DIRECTORY), {"settings/mine.json": "{}", "settings/prod.json": '{"altered": 1}'})
    plant(inside(target, "/srv/backup"), {"20261025T003000Z-a1b2c3-cron-backup.tar.gz": "x"})
    done = cron(operator, "uninstall")
    assert done.outcomes == [("cron/uninstall", "ok")]
    for name in ("mine.json", "prod.json", "settings.json"):
        assert f"left: {DIRECTORY}/settings/{name}" in done.output
    assert sorted(path.name for path in inside(target, DIRECTORY).iterdir()) == ["settings"]
    assert list(inside(target, "/srv/backup").iterdir())
    assert crontab(target, JOBS) is None
    assert cron(operator, "uninstall").outcomes == [("cron/uninstall", "already-done")]


def test_uninstalling_leaves_nothing_of_its_own(operator, target):
    assert install(operator).status == 0
    assert cron(operator, "uninstall").status == 0
    assert list(inside(target, "/opt").iterdir()) == []
    assert crontab(target) is None
    assert install(operator).outcomes == [("cron/install", "ok")]


# --- using it ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("command", "words", "asked"),
    [
        ("run", [], []),
        ("run", ["RUN_CPR_UUID", "--wait", "5"], ["RUN_CPR_UUID", "--wait", "5"]),
        ("status", ["--max-age", "26h"], ["--max-age", "26h"]),
        ("logs", ["20261025T003000Z-a1b2c3"], ["20261025T003000Z-a1b2c3"]),
        ("backups", [], []),
        ("verify", ["--all"], ["--all"]),
        ("restore", ["latest", "--only", "/a b/'c'", "--yes"], ["latest", "/a b/'c'", "--yes"]),
        ("restore", ["--continue", "--as-root"], ["--continue"]),
        (
            "restore",
            ["latest", "--root", "/a b", "--backups", "/b", "--backup-of", "old", "--force"],
            ["latest", "--root=/a b", "--backups=/b", "--host=old", "--force"],
        ),
    ],
)
def test_a_command_reaches_the_installed_runner_as_it_was_typed(operator, command, words, asked):
    assert install(operator).status == 0
    done = cron(operator, command, *words, form="text")
    assert done.status == 0, done.talk
    assert json.loads(done.out)[:3] == [command, asked, "text"]
    assert done.talk == ""
    assert json.loads(cron(operator, command, *words).output)[2] == "json"


def test_output_of_one_host_is_byte_exact(operator):
    assert install(operator).status == 0
    assert cron(operator, "jobs", form="text").out == bytes(range(256))


@pytest.mark.parametrize("status", [1, 2, 3, 4, 75])
def test_the_runners_status_is_told_and_explained(operator, status):
    plant(operator.directory, {"prod.json": json.dumps({"statuses": {"run": status}})})
    assert install(operator).status == 0
    done = cron(operator, "run", form="text")
    assert done.status == 1
    assert f"{HOST}: the job runner ended with status {status}: " in done.talk
    lines = cron(operator, "run")
    assert lines.outcomes == [("cron/run", "failed")]
    assert lines.steps[0]["status"] == status


def test_json_holds_what_the_runner_wrote(operator):
    assert install(operator).status == 0
    done = cron(operator, "status", form="json")
    assert json.loads(done.document["hosts"][0]["output"])[:3] == ["status", [], "json"]


def test_the_output_of_several_hosts_is_told_apart(operator, target):
    config = target.ssh_config.read_text()
    both = operator.directory / "both"
    both.write_text(config + config.replace(f"Host {HOST}", "Host other"))
    assert install(operator).status == 0
    hosts = f"{HOST},other"
    done = operator.run("cron.status", "--host", hosts, "--ssh-config", both, "--parallel", "1")
    assert done.status == 0, done.talk
    for host in (HOST, "other"):
        assert re.search(rf'^{re.escape(host)} +\|   \| \["status"', done.text, re.MULTILINE)
        assert re.search(rf"^{re.escape(host)} +\| ok \(1 ok\) in ", done.text, re.MULTILINE)


def test_a_host_without_job_runner_says_so(operator):
    done = cron(operator, "status", form="text")
    assert done.status == 1
    assert f"the job runner is not installed in {DIRECTORY}" in done.text
    assert "status 69" in done.talk


@pytest.mark.parametrize(
    ("command", "words", "message"),
    [
        ("restore", [], "no archive given"),
        ("restore", ["--undo", "--continue"], "exclude each other"),
        ("restore", ["latest", "--root", "x"], "expected an absolute path on the host"),
        ("run", ["--wait", "x"], "expected a number"),
        ("status", ["--max-age", "-1"], "--max-age"),
        ("run", ["--directory", "x"], "expected an absolute path"),
    ],
)
def test_bad_words_are_status_2(operator, command, words, message):
    done = operator.run(f"cron.{command}", "--host", HOST, *words)
    assert done.status == 2
    assert message in done.talk


def test_a_dry_run_of_a_restore_runs_nothing(operator):
    assert install(operator).status == 0
    done = cron(operator, "restore", "latest", "--yes", "--dry-run", form="text")
    assert done.status == 0
    assert "would-run" in done.text or "maybe" in done.text
    assert '["restore"' not in done.text


def test_scripts_of_the_operators_trees_do_not_run_instead(operator, target):
    """The tree says which hosts there are, and no more."""
    plant(
        operator.directory,
        {
            "tree/hosts/medusa/cron/install": "script:\nexit 9\n",
            "tree/scripts/cron/install": "script:\nexit 9\n",
            "tree/univ.run/medusa/default": "",
            "tree/lib/job-runner": "exit 9\n",
            "tree/runs.conf": "var user=nobody directory=/srv/x\n",
        },
    )
    done = install(operator, "--path", "tree", host="*.univ.run")
    assert done.status == 0, done.output
    assert crontab(target) == block(ENTRY)


def test_the_program_on_a_host_is_the_one_that_build_writes(operator, target, tmp_path):
    assert install(operator).status == 0
    done = operator.run("cron.build", "--output", tmp_path / "job-runner.pyz")
    assert done.status == 0
    built = (tmp_path / "job-runner.pyz").read_bytes()
    assert built == inside(target, f"{DIRECTORY}/job-runner.pyz").read_bytes()
    assert done.text == f"{hashlib.sha256(built).hexdigest()}  {tmp_path}/job-runner.pyz\n"
    assert (tmp_path / "job-runner.pyz").stat().st_mode & 0o777 == 0o755
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".tmp")] == []


@pytest.mark.timeout(400)
def test_the_commands_of_the_how_to_work(operator, target):
    page = (Path(__file__).parents[2] / "docs/how-to.md").read_text()
    commands = re.findall(r"^    runsdeploy (cron\..*?)(?:\s+#.*)?$", page, re.MULTILINE)
    assert len(commands) > 5
    for command in commands:
        words = shlex.split(command.replace("--user jobs", f"--user {JOBS}"))
        done = operator.run(*words, "--ssh-config", target.ssh_config)
        assert done.status == 0, f"{command}\n{done.text}{done.talk}"
    assert untouched(target)


def test_the_tasks_of_invoke_are_the_same_commands(operator, target):
    plant(operator.directory, {"tasks.py": "from runsdeploy.namespace import namespace\nns = namespace()\n"})

    def invoke(*words):
        return subprocess.run(
            [sys.executable, "-m", "invoke", *words, "--host", HOST, "--ssh-config", target.ssh_config],
            cwd=operator.directory, env=operator.settings(), capture_output=True, text=True, check=False,
        )  # fmt: skip

    told = invoke("cron.install", "--settings", "prod.json", "--schedule", "@daily")
    assert (told.returncode, f"{HOST}: ok" in told.stdout) == (0, True), told.stderr
    asked = invoke("cron.restore", "--archive", "latest", "--continue")
    assert json.loads(asked.stdout)[1] == ["latest", "--continue"], asked.stderr
    assert '["run"' not in invoke("--dry", "cron.run").stdout


@pytest.mark.timeout(400)
def test_the_real_job_runner_is_installed_and_answers(operator, target):
    operator.environment["PYTHONPATH"] = str(Path(__file__).parents[2])
    settings = {"crontab.CRON_BACKUP": "/srv/backup", "crontab.BACKUP_SAVE_DAYS": "60", "crontab.RUN_CPR_UUID": False}
    plant(operator.directory, {"prod.json": json.dumps(settings), "bad.json": '{\n"crontab.BACKUP_SAVE_DAYS": "0"}'})
    refused = install(operator, settings="bad.json")
    assert refused.status == 2
    assert "bad.json:2:" in refused.talk
    backup = inside(target, "/srv/backup")
    backup.mkdir(mode=0o700)
    os.chown(backup, UIDS[JOBS], UIDS[JOBS])
    assert install(operator, "--user", JOBS).status == 0
    assert install(operator, "--user", JOBS).outcomes == [("cron/install", "already-done")]
    # No job is enabled: a run is a backup and nothing else.
    ran = cron(operator, "run", form="text")
    assert ran.status == 0, ran.text + ran.talk
    for command in ("jobs", "status", "logs", "backups", "verify"):
        done = cron(operator, command, form="text")
        assert (done.status, bool(done.out)) == (0, True), done.text + done.talk
    assert {path.stat().st_uid for path in backup.iterdir()} == {UIDS[JOBS]}
    # It holds the settings, which are root's; as long as they are as they should be, nobody needs root.
    done = cron(operator, "restore", "latest", "--yes", form="text")
    assert done.status == 0, done.text
    installed = inside(target, f"{DIRECTORY}/settings/prod.json")
    whole = installed.read_bytes()
    installed.write_bytes(b"spoilt")
    place = ("--backups", "/srv/backup")
    assert "are left as they are" in cron(operator, "restore", "latest", "--yes", *place, form="text").text
    place += ("--only", f"{DIRECTORY}/settings")
    assert "restore as root" in cron(operator, "restore", "latest", "--yes", *place, form="text").text
    done = cron(operator, "restore", "latest", "--as-root", "--yes", *place, form="text")
    assert done.status == 0, done.text
    assert installed.read_bytes() == whole
    # What root left there is no hindrance to the account.
    assert {path.stat().st_uid for path in backup.rglob("*")} == {UIDS[JOBS]}
    assert cron(operator, "run", form="text").status == 0
    assert cron(operator, "uninstall").status == 0
    assert list(backup.glob("*-cron-backup.tar.gz"))
