"""Another account of the machine tries to have its bytes executed or read, or its links written through (D5, D8).

Each way has a weak place, as an operator or a wrong umask leaves it, and what the other account does there. The runner
is root's, so a file `proof`, in a directory that only root can write, shows that its bytes ran.
"""

from __future__ import annotations

import json
import os
import pwd
import shutil
import stat
import struct
import subprocess
import tempfile
from pathlib import Path

import pytest

from tests.jobs.system import System

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root, who can act as another account")

OTHER = 64321
"""uid and gid of the other account; it needs no entry in /etc/passwd"""
PRECIOUS = "precious bytes of root"


class Machine(System):
    """A system that other accounts can look at, and what the other account does."""

    def __init__(self, root: Path, program: Path) -> None:
        super().__init__(root, program)
        self.vault = root / "vault"
        self.vault.mkdir()
        self.precious = self.vault / "precious"
        self.precious.write_text(PRECIOUS)
        self.precious.chmod(0o600)
        self.proof = root / "proof"
        self.folder = self.install / "settings"
        self.catalogue = self.folder / "catalogue.json"
        self.payload = f"#!/bin/sh\necho ran >>{self.proof}\n"
        self.words: tuple[str, ...] = ("run",)
        self.write_settings(SVC_USER=None, SVC_KEYTAB=None, RUN_A=True)
        self.write_catalogue(self.job("a"))
        for path in (self.settings_file, self.catalogue):
            path.chmod(0o644)

    def hostile(self, stem: str = "settings.json") -> str:
        """Return what the other account wants to have run, as a file beside its own."""
        if stem == "settings.json":
            return self.settings_file.read_text().replace(str(self.backups), f"{self.vault}/backups")
        return json.dumps({"schema": 1, "jobs": [self.job("a", shell=f"echo ran >>{self.proof}")]})

    def command(self, *words: object, **fields: object) -> None:
        """Make the job one that runs a command."""
        job = {"name": "a", "stage": "imports", "enabled_by": "RUN_A", "command": [str(word) for word in words]}
        self.write_catalogue({**job, **fields})

    def place(self, name: str, mode: int = 0o755, owner: int = 0) -> Path:
        """Make a directory."""
        path = self.root / name
        path.mkdir()
        os.chown(path, owner, owner)
        path.chmod(mode)
        return path

    def file(self, path: Path, mode: int = 0o755, text: str = "#!/bin/sh\ntrue\n", owner: int = 0) -> Path:
        """Make a file."""
        path.write_text(text)
        os.chown(path, owner, owner)
        path.chmod(mode)
        return path

    def other(self, shell: str, text: str = "") -> None:
        """Let the other account do something; `$1` is the text."""
        subprocess.run(
            ["/bin/sh", "-euc", shell, "sh", text or self.payload], check=True, user=OTHER, group=OTHER, extra_groups=[]
        )


WAYS = {}


def way(function):
    WAYS[function.__name__] = function
    return function


# --- settings and catalogue


@way
def the_settings_belong_to_it(m):
    os.chown(m.settings_file, OTHER, OTHER)
    m.other(f'printf %s "$1" >{m.settings_file}', m.hostile())


@way
def everybody_can_write_the_settings(m):
    m.settings_file.chmod(0o666)
    m.other(f'printf %s "$1" >{m.settings_file}', m.hostile())


@way
def its_group_can_write_the_settings(m):
    group_of_the_other(m.settings_file)
    m.other(f'printf %s "$1" >{m.settings_file}', m.hostile())


@way
def a_group_that_has_an_account_can_write_the_catalogue(m):
    daemon = pwd.getpwnam("daemon")
    os.chown(m.catalogue, 0, daemon.pw_gid)
    m.catalogue.chmod(0o664)
    argv = ["/bin/sh", "-c", f'printf %s "$1" >{m.catalogue}', "sh", m.hostile("catalogue.json")]
    subprocess.run(argv, check=True, user=daemon.pw_uid, group=daemon.pw_gid, extra_groups=[])


@way
def an_access_list_lets_it_write_the_settings(m):
    access_list(m.settings_file)
    m.other(f'printf %s "$1" >{m.settings_file}', m.hostile())


@way
def everybody_can_write_the_directory_of_the_settings(m):
    m.folder.chmod(0o777)
    m.other(f'cd {m.folder}; rm catalogue.json; printf %s "$1" >catalogue.json', m.hostile("catalogue.json"))


@way
def the_directory_of_the_settings_belongs_to_it(m):
    os.chown(m.folder, OTHER, OTHER)
    m.other(f'cd {m.folder}; rm catalogue.json; printf %s "$1" >catalogue.json', m.hostile("catalogue.json"))


@way
def the_link_of_the_settings_is_replaced(m):
    m.folder.chmod(0o777)
    m.other(f'cd {m.folder}; rm settings.json; printf %s "$1" >mine; ln -s mine settings.json', m.hostile())


@way
def the_link_of_the_settings_is_its_own_in_a_sticky_directory(m):
    (m.folder / "settings.json").unlink()
    m.folder.chmod(0o1777)
    m.other(f"ln -s kommune.json {m.folder}/settings.json")
    m.write_settings()


@way
def the_settings_are_linked_through_its_directory(m):
    hall = m.place("hall", owner=OTHER)
    m.other(f"ln -s {m.settings_file} {hall}/s.json")
    link = m.folder / "settings.json"
    link.unlink()
    link.symlink_to(hall / "s.json")


@way
def the_settings_are_behind_two_points_after_its_link(m):
    hall = m.place("hall", 0o1777)
    m.other(f'cd {hall}; mkdir mine mine/sub; ln -s mine/sub x; printf %s "$1" >mine/s.json', m.hostile())
    m.words = ("--settings", f"{hall}/x/../s.json", "run")


@way
def the_directory_above_is_open(m):
    m.install.chmod(0o777)
    m.other(
        f'cd {m.install}; cp -r settings mine; printf %s "$1" >mine/catalogue.json; mv settings old; mv mine settings',
        m.hostile("catalogue.json"),
    )


@way
def a_directory_far_above_belongs_to_it(m):
    above = m.place("far", owner=OTHER)
    (above / "a").mkdir()
    shutil.copytree(m.folder, above / "a" / "settings", symlinks=True)
    m.other(f'cd {above}; mv a b; cp -r b a; printf %s "$1" >a/settings/catalogue.json', m.hostile("catalogue.json"))
    m.words = ("--settings", f"{above}/a/settings/settings.json", "run")


@way
def the_catalogue_belongs_to_it(m):
    os.chown(m.catalogue, OTHER, OTHER)
    m.other(f'printf %s "$1" >{m.catalogue}', m.hostile("catalogue.json"))


@way
def everybody_can_write_the_catalogue(m):
    m.catalogue.chmod(0o666)
    m.other(f'printf %s "$1" >{m.catalogue}', m.hostile("catalogue.json"))


@way
def its_group_can_write_the_catalogue(m):
    group_of_the_other(m.catalogue)
    m.other(f'printf %s "$1" >{m.catalogue}', m.hostile("catalogue.json"))


@way
def it_makes_a_catalogue_that_is_missing(m):
    m.catalogue.unlink()
    group_of_the_other(m.folder)
    m.other(f'printf %s "$1" >{m.catalogue}', m.hostile("catalogue.json"))


@way
def it_made_the_named_catalogue_in_a_sticky_directory(m):
    hall = m.place("hall", 0o1777)
    m.other(f'printf %s "$1" >{hall}/c.json', m.hostile("catalogue.json"))
    m.words = ("--catalogue", f"{hall}/c.json", "run")


@way
def the_named_catalogue_is_relative(m):
    hall = m.place("hall", 0o1777)
    m.other(f'printf %s "$1" >{hall}/c.json', m.hostile("catalogue.json"))
    m.words = ("--catalogue", f"{str(hall)[1:]}/c.json", "run")


# --- what is executed


@way
def a_program_belongs_to_it(m):
    path = m.file(m.root / "tool", owner=OTHER)
    m.command(path)
    m.other(f'printf %s "$1" >{path}')


@way
def everybody_can_write_a_program(m):
    path = m.file(m.root / "tool", 0o777)
    m.command(path)
    m.other(f'printf %s "$1" >{path}')


@way
def an_access_list_lets_it_write_a_program(m):
    path = m.file(m.root / "tool")
    access_list(path)
    m.command(path)
    m.other(f'printf %s "$1" >{path}')


@way
def the_directory_of_a_program_is_open(m):
    tools = m.place("tools", 0o777)
    m.file(tools / "tool")
    m.command(tools / "tool")
    m.other(f'cd {tools}; rm tool; printf %s "$1" >tool; chmod 755 tool')


@way
def a_program_is_its_link(m):
    hall = m.place("hall", 0o1777)
    m.other(f"ln -s {m.precious} {hall}/tool; ln -s /bin/cat {hall}/cat")
    m.command(hall / "cat", m.precious)


@way
def a_program_is_linked_into_its_directory(m):
    hall = m.place("hall", owner=OTHER)
    m.other(f'printf %s "$1" >{hall}/tool; chmod 755 {hall}/tool')
    link = m.root / "tool"
    link.symlink_to(hall / "tool")
    m.command(link)


@way
def a_program_is_found_in_its_directory(m):
    tools = m.place("tools", 0o777)
    m.command("mytool", environment={"PATH": f"{tools}:/usr/bin:/bin"})
    m.other(f'printf %s "$1" >{tools}/mytool; chmod 755 {tools}/mytool')


@way
def the_virtual_environment_is_open(m):
    venv = m.place("venv", 0o777)
    (venv / "bin").mkdir()
    (venv / "bin" / "python3").symlink_to("/usr/bin/python3")
    m.write_settings(VENV=str(venv))
    m.command("{venv}/bin/python3", "-c", "pass")
    m.other(f'cd {venv}; mv bin old; mkdir bin; printf %s "$1" >bin/python3; chmod 755 bin/python3')


@way
def everybody_can_write_a_script(m):
    path = m.file(m.root / "script", 0o666)
    m.command("sh", path)
    m.other(f'printf %s "$1" >{path}')


@way
def everybody_can_write_a_script_in_the_working_directory(m):
    path = m.file(m.place("work") / "script", 0o666)
    m.command("sh", "script", directory=str(path.parent))
    m.other(f'printf %s "$1" >{path}')


@way
def a_script_is_behind_an_equals_sign(m):
    path = m.file(m.root / "rc", 0o666)
    m.command("env", f"X={path}", "sh", "-c", '. "$X"')
    m.other(f'printf %s "$1" >{path}')


@way
def a_script_is_behind_the_letter_of_an_option(m):
    path = m.file(m.root / "make", 0o666, "all:\n\ttrue\n")
    m.command("awk", f"-f{path}")
    m.other(f'printf %s "$1" >{path}', f'BEGIN {{ system("echo ran >>{m.proof}") }}')


@way
def a_directory_of_scripts_is_open(m):
    scripts = m.place("scripts", 0o777)
    m.command("run-parts", scripts)
    m.other(f'printf %s "$1" >{scripts}/x; chmod 755 {scripts}/x')


@way
def the_working_directory_belongs_to_it(m):
    work = m.place("work", owner=OTHER)
    m.command("python3", "-m", "mine", directory=str(work))
    m.other(f'printf %s "$1" >{work}/mine.py', f'open("{m.proof}", "w")')


@way
def the_working_directory_is_like_tmp(m):
    work = m.place("work", 0o1777)
    m.command("python3", "-m", "mine", directory=str(work))
    m.other(f'printf %s "$1" >{work}/mine.py', f'open("{m.proof}", "w")')


@way
def modules_come_from_an_open_directory(m):
    modules = m.place("modules", 0o1777)
    m.command("python3", "-m", "mine", environment={"PYTHONPATH": str(modules)})
    m.other(f'printf %s "$1" >{modules}/mine.py', f'open("{m.proof}", "w")')


@way
def bash_reads_a_file_of_a_variable(m):
    path = m.file(m.root / "rc", 0o666)
    m.command("bash", "-c", "true", environment={"BASH_ENV": str(path)})
    m.other(f'printf %s "$1" >{path}')


@way
def a_shell_command_names_its_program(m):
    path = m.file(m.root / "tool", owner=OTHER)
    m.write_catalogue(m.job("a", shell=f"test -e /x || {path} --all"))
    m.other(f'printf %s "$1" >{path}')


@way
def a_shell_command_reads_its_file(m):
    path = m.file(m.place("work") / "lib.sh", 0o666)
    m.write_catalogue(m.job("a", shell="cd . && . ./lib.sh", directory=str(path.parent)))
    m.other(f'printf %s "$1" >{path}')


@way
def a_shell_command_has_it_in_quotes(m):
    path = m.file(m.root / "tool", 0o777)
    m.write_catalogue(m.job("a", shell=f'x=$("{path}")'))
    m.other(f'printf %s "$1" >{path}')


@way
def a_shell_command_gets_it_by_its_input(m):
    path = m.file(m.root / "tool", 0o666)
    m.write_catalogue(m.job("a", shell=f"sh <{path}"))
    m.other(f'printf %s "$1" >{path}')


@way
def the_compose_file_can_be_written(m):
    path = m.file(m.root / "compose.yml", 0o666)
    m.write_settings(MOX_ROLLE_COMPOSE_YML=str(path))
    m.command("sh", "{crontab.MOX_ROLLE_COMPOSE_YML}")
    m.other(f'printf %s "$1" >{path}')


@way
def a_restore_command_can_be_written(m):
    assert m.run("run").returncode == 0
    path = m.file(m.root / "hook", 0o777)
    m.write_catalogue(m.job("a"), restore={"before": [[str(path)]]})
    m.other(f'printf %s "$1" >{path}')
    m.words = ("restore", "latest", "--yes")


# --- what is read


@way
def a_secret_is_replaced(m):
    hall = m.place("hall", 0o777)
    m.file(hall / "token", 0o600, "right")
    m.other(f'cd {hall}; rm token; echo "$1" >token; chmod 600 token', "wrong")
    secret = {"T": {"file": f"{hall}/token"}}
    m.write_catalogue(m.job("a", shell=f'[ "$T" != wrong ] || echo ran >{m.proof}', environment=secret))


@way
def a_secret_is_its_link_to_a_file_of_root(m):
    hall = m.place("hall", 0o1777)
    m.other(f"ln -s {m.precious} {hall}/token")
    secret = {"T": {"file": f"{hall}/token"}}
    m.write_catalogue(m.job("a", shell=f'[ -z "$T" ] || echo ran >{m.proof}', environment=secret))


@way
def the_keytab_is_its_own(m):
    path = m.file(m.root / "keytab", 0o600, owner=OTHER)
    m.write_settings(SVC_USER="x", SVC_KEYTAB=str(path))
    m.write_catalogue(m.job("a", shell=f"echo ran >{m.proof}", needs=["kerberos"]))


@way
def the_commit_is_a_link_to_a_file_of_root(m):
    m.install.chmod(0o1777)
    m.other(f"mkdir {m.install}/.git; ln -s {m.precious} {m.install}/.git/HEAD")
    m.write_catalogue(m.job("a"))


# --- what is written


@way
def the_log_is_its_link(m):
    hall = m.place("hall", 0o1777)
    m.other(f"ln -s {m.precious} {hall}/log")
    m.write_settings(CRON_LOG_FILE=f"{hall}/log")


@way
def the_log_is_its_link_to_nothing_yet(m):
    hall = m.place("hall", 0o1777)
    m.other(f"ln -s {m.vault}/new {hall}/log")
    m.write_settings(CRON_LOG_FILE=f"{hall}/log")


@way
def the_directory_of_the_log_is_its_link(m):
    hall = m.place("hall", 0o1777)
    m.other(f"ln -s {m.vault} {hall}/logs")
    m.write_settings(CRON_LOG_FILE=f"{hall}/logs/precious")


@way
def the_log_is_below_its_directory(m):
    hall = m.place("hall", owner=OTHER)
    m.other(f"ln -s {m.vault} {hall}/logs")
    m.write_settings(CRON_LOG_FILE=f"{hall}/logs/new")


@way
def the_log_is_a_further_name_of_a_file_of_root(m):
    hall = m.place("hall", 0o1777)
    os.link(m.precious, hall / "log")
    m.write_settings(CRON_LOG_FILE=f"{hall}/log")


@way
def the_log_is_its_pipe(m):
    hall = m.place("hall", 0o1777)
    m.other(f"mkfifo -m 666 {hall}/log")
    m.write_settings(CRON_LOG_FILE=f"{hall}/log")


@way
def the_log_is_rotated_onto_its_link(m):
    hall = m.place("hall", 0o777)
    m.file(hall / "log", 0o644)
    os.truncate(hall / "log", 11 * 1024 * 1024)
    m.other(f"ln -s {m.vault} {hall}/log.1")
    m.write_settings(CRON_LOG_FILE=f"{hall}/log")


@way
def the_metrics_are_below_its_directory(m):
    hall = m.place("hall", owner=OTHER)
    m.other(f"ln -s {m.vault} {hall}/metrics")
    m.write_settings(METRICS_FILE=f"{hall}/metrics/precious")


@way
def the_directory_of_the_metrics_is_its_link(m):
    hall = m.place("hall", 0o1777)
    m.other(f"ln -s {m.vault} {hall}/metrics")
    m.write_settings(METRICS_FILE=f"{hall}/metrics/new.prom")


@way
def the_directory_of_the_metrics_is_open(m):
    hall = m.place("hall", 0o777)
    m.other(f"mkdir {hall}/a; rmdir {hall}/a; ln -s {m.vault} {hall}/a")
    m.write_settings(METRICS_FILE=f"{hall}/a/precious")


@way
def the_backups_are_its_link(m):
    hall = m.place("hall", 0o1777)
    m.other(f"ln -s {m.vault} {hall}/backups")
    m.vault.chmod(0o700)
    m.write_settings(CRON_BACKUP=f"{hall}/backups")


@way
def the_backups_are_below_its_link(m):
    hall = m.place("hall", 0o1777)
    m.other(f"ln -s {m.vault} {hall}/a")
    m.write_settings(CRON_BACKUP=f"{hall}/a/backups")


@way
def the_backups_would_be_made_in_an_open_directory(m):
    hall = m.place("hall", 0o777)
    m.write_settings(CRON_BACKUP=f"{hall}/backups")
    m.other(f"mkdir {hall}/x")


@way
def the_backups_are_its_directory(m):
    hall = m.place("hall", 0o1777)
    m.other(f"mkdir {hall}/backups; ln -s {m.precious} {hall}/backups/state.json")
    m.write_settings(CRON_BACKUP=f"{hall}/backups")


@way
def the_lock_is_a_further_name_of_a_file_of_root(m):
    assert m.run("run").returncode == 0
    for path in (m.backups, *m.backups.rglob("*")):
        os.chown(path, OTHER, OTHER, follow_symlinks=False)
    (m.backups / ".lock").unlink()
    os.link(m.precious, m.backups / ".lock")
    m.words = ("restore", "latest", "--yes", "--backups", str(m.backups), "--root", str(m.place("empty")))


@way
def an_emptied_log_is_its_link(m):
    hall = m.place("hall", owner=OTHER)
    m.other(f"ln -s {m.precious} {hall}/app.log")
    m.write_catalogue(m.job("a", truncate=[f"{hall}/app.log"]))


@way
def an_emptied_log_is_its_link_in_a_sticky_directory(m):
    hall = m.place("hall", 0o1777)
    m.other(f"ln -s {m.precious} {hall}/app.log")
    m.write_catalogue(m.job("a", truncate=[f"{hall}/app.log"]))


@way
def an_emptied_log_is_a_further_name_of_a_file_of_root(m):
    hall = m.place("hall", 0o1777)
    os.link(m.precious, hall / "app.log")
    m.write_catalogue(m.job("a", truncate=[f"{hall}/app.log"]))


@way
def a_shell_command_runs_what_is_in_its_directory(m):
    hall = m.place("hall", 0o777)
    m.write_catalogue(m.job("a", shell=f"for each in {hall}/*.sh; do sh $each; done"))
    m.other(f'printf %s "$1" >{hall}/x.sh')


@way
def a_shell_command_writes_through_its_directory(m):
    hall = m.place("hall", owner=OTHER)
    m.other(f"ln -s {m.precious} {hall}/out")
    m.write_catalogue(m.job("a", shell=f"echo x >{hall}/out"))


@way
def python_reads_its_file(m):
    path = m.file(m.root / "code", 0o666, "")
    m.command("python3", "-c", f"exec(open('{path}').read())")
    m.other(f'printf %s "$1" >{path}', f'open("{m.proof}", "w")')


@way
def a_script_that_is_missing_can_be_made_by_it(m):
    hall = m.place("hall", 0o777)
    m.write_catalogue(
        m.job("a", shell="sleep 0.1"),
        {"name": "b", "stage": "imports", "enabled_by": "RUN_A", "command": ["sh", f"{hall}/x"]},
    )
    m.other(f'printf %s "$1" >{hall}/x')


def group_of_the_other(path):
    os.chown(path, 0, OTHER)
    path.chmod(stat.S_IMODE(path.stat().st_mode) | 0o020)


def access_list(path):
    """Give the other account the right to write by an access list, as `setfacl -m u:OTHER:rwx` does (acl(5))."""
    entries = [(1, 6, 0xFFFFFFFF), (2, 7, OTHER), (4, 4, 0xFFFFFFFF), (16, 7, 0xFFFFFFFF), (32, 4, 0xFFFFFFFF)]
    data = struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *each) for each in entries)
    try:
        os.setxattr(path, "system.posix_acl_access", data)
    except OSError as error:
        pytest.skip(f"no access control lists here: {error}")


@pytest.fixture
def machine(program):
    with tempfile.TemporaryDirectory(prefix="runsdeploy-test-") as folder:
        Path(folder).chmod(0o755)
        yield Machine(Path(folder), program)


def about(folder):
    """Return all that is in a directory of root, with owners."""
    return {
        str(path): (path.lstat().st_mode, path.lstat().st_uid, path.read_bytes() if path.is_file() else None)
        for path in (folder, *folder.rglob("*"))
    }


@pytest.mark.parametrize("name", WAYS)
def test_S8_S15_no_byte_of_another_account_is_used_and_no_link_of_it_written_through(name, machine):
    """D5, D8."""
    WAYS[name](machine)
    before = about(machine.vault)
    done = machine.run(*machine.words)
    assert not machine.proof.exists(), done.stdout + done.stderr
    assert about(machine.vault) == before
    assert PRECIOUS not in done.stdout + done.stderr
    told = done.stdout + done.stderr
    words = ("will not be emptied", "chown", "chmod", "setfacl", "belongs to", "expected", "cannot be written")
    assert name == "the_commit_is_a_link_to_a_file_of_root" or any(word in told for word in words), told


def test_there_are_more_than_forty_ways():
    assert len(WAYS) > 40


def test_what_is_right_is_used(machine):
    """The account's own group, sticky directories above, links of root, and data in variables are no problem."""
    hall = machine.place("hall", 0o1777)
    inside = hall / "mine"
    inside.mkdir()
    machine.file(inside / "tool", text=machine.payload)
    (machine.root / "tool").symlink_to(inside / "tool")
    data = machine.file(hall / "data.xml", 0o666, "x", OTHER)
    machine.command(machine.root / "tool", environment={"DATA": str(data)})
    machine.settings_file.chmod(0o660)
    machine.write_settings(CRON_LOG_FILE=str(inside / "log"), METRICS_FILE=str(inside / "m.prom"))
    machine.write_settings(CRON_BACKUP=f"{hall}/b")
    done = machine.run("run")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "warning" not in done.stdout
    assert machine.proof.exists()
    assert (inside / "log").exists()
    assert (inside / "m.prom").exists()
