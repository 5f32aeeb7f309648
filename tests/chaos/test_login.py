"""Login shells, and what they do to the environment of a session: login output, locales, umasks, hostile environments.

Every session either does exactly what was meant, or is refused by a message that quotes what got in the way, and
then nothing ran and nothing was written. The accounts exist in a mount namespace of one sshd only, each with its
own home, login shell, rc file and key options: nothing of the machine is changed, not even by a test that is killed.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import combinations, product
from pathlib import Path
from random import Random
from typing import Any

import pytest

from runsdeploy.markers.marker import path_of
from tests import sshd
from tests.sshd import FakeHost, Process, process_table
from tests.trees import Content, Executable, Finished, Link, Operator, plant, script, wait_until

FULL = os.environ.get("RUNSDEPLOY_TEST_FULL") == "1"
GUEST = 61875
"""user and group number of all accounts"""
BATCH = 90
"""accounts that one deploy goes to"""
PARALLEL = "24"
"""hosts at a time: most of them wait, some for as long as a login shell may take"""
LIMIT = 300
"""seconds after which a deploy to a batch is taken for hung"""

# One sshd for the whole module, and one worker that has it.
pytestmark = [pytest.mark.xdist_group("login"), pytest.mark.timeout(LIMIT * (14 if FULL else 1) + 100)]

WRAPPER = """\
#!/bin/sh
exec unshare -m sh -ec '
    mount --bind "{place}/etc/passwd" /etc/passwd
    mount --bind "{place}/etc/group" /etc/group
    mount --bind "{place}/etc/shadow" /etc/shadow
    mount -t tmpfs -o mode=1777 tmpfs /tmp
    {mounts}
    exec "{program}" "$@"
' sshd "$@"
"""

SHELLS = {
    "bash": "/bin/bash",
    "dash": "{place}/dash-l",  # dash reads an rc file only as `dash -l`, which login(1) would make of it
    "zsh": "/bin/zsh",
    "fish": "/usr/bin/fish",
    "tcsh": "/bin/tcsh",
    "nologin": "/usr/sbin/nologin",
    "false": "/bin/false",
}
RC = {
    "bash": ".bashrc",
    "dash": ".profile",
    "zsh": ".zshenv",
    "fish": ".config/fish/config.fish",
    "tcsh": ".tcshrc",
    "nologin": ".profile",
    "false": ".profile",
}


@dataclass(frozen=True)
class Account:
    """An account that can log in: its files, and what its key may do."""

    shell: str = "bash"
    rc: str = ""
    """text of the file that the login shell reads"""
    files: Mapping[str, Content] = field(default_factory=dict)
    """what else is in his home"""
    environment: Mapping[str, str] = field(default_factory=dict)
    """what sshd puts into the environment before the login shell starts"""
    options: str = ""
    """of his key: `command="…"`, `restrict`"""


@dataclass
class Session:
    """How one account's part of a deploy ended."""

    home: Path
    planted: set[str]
    report: dict[str, Any]
    """the host's part of the document"""
    output: str
    """what the steps wrote"""

    @property
    def outcome(self) -> str:
        """Return the outcome of the host."""
        outcome: str = self.report["outcome"]
        return outcome

    @property
    def message(self) -> str:
        """Return the message of a host that could not be used."""
        message: str = self.report.get("message") or ""
        return message

    @property
    def outcomes(self) -> list[str]:
        """Return the outcomes of the steps."""
        return [step["outcome"] for step in self.report["steps"]]

    @property
    def state(self) -> Path:
        """Return where the target keeps its state."""
        return self.home / ".local/state/runsdeploy"

    def new(self) -> set[str]:
        """Return what is in the home that was not there before, but for what shells make for themselves."""
        theirs = {".local", ".config", ".cache"}
        return {entry.name for entry in self.home.iterdir()} - self.planted - theirs

    def refused_with(self, said: str) -> list[str]:
        """Return what is wrong if the session should have been refused, quoting that."""
        return [
            wrong
            for wrong, found in {
                f"it is {self.outcome}, not refused: {self.message}": self.outcome != "refused",
                f"`{said}` is not quoted: {self.message}": said not in self.message,
                f"steps are {self.outcomes}": set(self.outcomes) != {"skipped"},
                f"output: {self.output!r}": bool(self.output),
                f"made in the home: {self.new()}": bool(self.new()),
                f"made in the state: {listing(self.state)}": self.state.exists(),
            }.items()
            if found
        ]


def listing(folder: Path) -> list[str]:
    """Return what is below a directory."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


class Crowd(FakeHost):
    """One sshd with as many accounts as are asked for; each is a host of its own to the operator."""

    def __init__(self, place: Path, mounts: str = "") -> None:
        super().__init__("*", place / "host", server=("SetEnv RUNSDEPLOY_TEST=1", "PermitUserEnvironment yes"))
        self.server += (f"AuthorizedKeysFile {place}/homes/%u/.ssh/authorized_keys", "MaxStartups 500")
        self.place, self.mounts, self.count = place, mounts, 0
        self.space = ""

    def start(self) -> None:
        """Start sshd where the accounts are."""
        plant(
            self.place,
            {
                "etc/passwd": Path("/etc/passwd").read_text(),
                "etc/group": f"{Path('/etc/group').read_text()}guest:x:{GUEST}:\n",
                "etc/shadow": Path("/etc/shadow").read_text(),
                "sshd": Executable(
                    WRAPPER.format(place=self.place, program=sshd._sshd(), mounts=self.mounts.format(place=self.place))
                ),
                "dash-l": Executable('#!/bin/sh\nexec dash -l "$@"\n'),
                "homes": None,
            },
        )
        (self.place / "etc/shadow").chmod(0o600)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sshd, "_sshd", lambda: str(self.place / "sshd"))
            super().start()

    def processes(self) -> list[Process]:
        """Give everything alive in sshd's own mount namespace: a login shell may have started anything."""
        if not self.space and self._process:
            self.space = namespace(self._process.pid)
        if self.space in ("", namespace(os.getpid())):
            self.space = ""
            return []
        mine = self._process.pid if self._process else None
        return sorted(p for p in process_table().values() if p.pid != mine and namespace(p.pid) == self.space)

    def deploy(self, accounts: Iterable[Account], tree: Path, operator: Operator, *more: str | bytes) -> list[Session]:
        """Make the accounts, deploy the tree to each of them in one go, and return how that ended for each."""
        made = {f"h{self.count + n}": account for n, account in enumerate(accounts)}
        self.count += len(made)
        planted = self._add(made)
        for name in made:
            plant(tree, {f"hosts/{name}/default": "@all\n"})
        config = "".join(f"Host {name}\n    User {name}\n" for name in made) + self.stanza()
        operator.ssh_config = plant(operator.directory, {"ssh_config": config}) / "ssh_config"
        words = operator.deploy_arguments(tree, "--parallel", PARALLEL, *more, host=",".join(made))
        with operator.start(*words) as process:
            try:
                out, talk = process.communicate(timeout=LIMIT)
            except subprocess.TimeoutExpired:
                process.kill()
                events = Finished(0, process.communicate()[0] + b"{}\n", "").events
                told = {event["host"] for event in events if event["event"] == "host"}
                hangs = [account for name, account in made.items() if name not in told]
            else:
                hangs = []
            finally:
                process.kill()
        assert not hangs
        done = Finished(process.returncode, out, talk.decode("utf-8", "backslashreplace"))
        assert done.out, done.talk
        reports = {report["host"]: report for report in done.document["hosts"]}
        output = dict.fromkeys(made, "")
        for event in done.events:
            if event["event"] == "output":
                output[event["host"]] += event["text"]
        return [Session(self.place / "homes" / name, planted[name], reports[name], output[name]) for name in made]

    def _add(self, accounts: Mapping[str, Account]) -> dict[str, set[str]]:
        planted = {}
        lines = {"passwd": "", "shadow": ""}
        key = Path(f"{self.client_key}.pub").read_text()
        for name, account in accounts.items():
            home = self.place / "homes" / name
            shell = SHELLS.get(account.shell, account.shell).format(place=self.place)
            lines["passwd"] += f"{name}:x:{GUEST}:{GUEST}::{home}:{shell}\n"
            lines["shadow"] += f"{name}:*:19000:0:99999:7:::\n"
            options = [f'environment="{each}={value}"' for each, value in account.environment.items()]
            options += [account.options] if account.options else []
            rc = {RC[account.shell]: account.rc} if account.rc else {}
            plant(home, {**rc, **account.files, ".ssh/authorized_keys": f"{','.join(options)} {key}".lstrip()})
            planted[name] = {entry.name for entry in home.iterdir()}
            for path in (home, *home.rglob("*")):
                os.chown(path, GUEST, GUEST, follow_symlinks=False)
        for file, text in lines.items():
            with (self.place / "etc" / file).open("a") as added:  # in place: the file itself is mounted
                added.write(text)
        return planted


def namespace(pid: int) -> str:
    """Return the mount namespace of a process, empty if it is gone."""
    with contextlib.suppress(OSError):
        return str(Path(f"/proc/{pid}/ns/mnt").readlink())
    return ""


def required(shells: Iterable[str]) -> None:
    """Skip where accounts with these login shells cannot be made."""
    if os.geteuid() != 0:
        pytest.skip("makes accounts and a mount namespace, which takes root")
    if not shutil.which("unshare") or subprocess.run(["unshare", "-m", "true"], check=False).returncode:
        pytest.skip("this machine allows no mount namespaces")
    missing = [shell for shell in shells if not shutil.which(shell, path=f"{os.environ['PATH']}:/usr/sbin")]
    if missing:
        pytest.skip(f"needs the packages {' '.join(missing)}")


@pytest.fixture(scope="module")
def crowd():
    """Whoever is asked for, on one sshd."""
    required(("bash", "dash"))
    # Not below /tmp, of which the namespace has its own; and where other users can reach it.
    with tempfile.TemporaryDirectory(prefix="runsdeploy-login-", dir="/var/tmp") as made:
        Path(made).chmod(0o755)
        with Crowd(Path(made)) as host:
            yield host


@contextlib.contextmanager
def a_crowd_of_its_own(mounts: str) -> Iterator[Crowd]:
    """Give an sshd in whose namespace something more is mounted; there is a copy of bash beside it."""
    required(("bash", "dash"))
    with tempfile.TemporaryDirectory(prefix="runsdeploy-login-", dir="/var/tmp") as made:
        Path(made).chmod(0o755)
        shutil.copy("/bin/bash", made)
        with Crowd(Path(made), mounts) as crowd:
            yield crowd


@pytest.fixture(scope="module")
def locales(crowd):
    """Where the locale is that was made for the tests."""
    made = crowd.place / "locales"
    made.mkdir()
    if LATIN not in ABSENT:
        subprocess.run(["localedef", "-i", "fr_FR", "-f", "ISO-8859-1", made / LATIN], check=True, capture_output=True)
    return made


@pytest.fixture
def operator(tmp_path):
    return Operator(tmp_path / "operator")


# --- what every session has to do exactly right

VALUE = "zürich \u4e2d \U0001f600 'quotes\" $HOME `id`\\\n\ttab\n".encode() + bytes(range(1, 256))
SHIPPED = bytes(range(256)) + "größe\n".encode()
SAID = "grün \u4e2d\n".encode() + b"\xe9\xff latin\n"

TREE: dict[str | bytes, Content] = {
    "scripts/all": "first\n    list one grün\nsecond\n",
    "scripts/first": script(
        "ref f='grö ße'",
        "shouldrun || exit\n"
        'printf "%s" "$said"; printf "%s|" "$(umask)" "${#list[@]}" "${list[1]}"\n'
        'echo "${CDPATH-}${ENV-}${BASH_ENV-}"\n'
        'mkdir ~/made; printf "%s" "$value" >~/made/value; cat "$f" >~/made/"grö ße"\n'
        'echo "echo executed" >~/made/program; chmod +x ~/made/program; bash ~/made/program\n'
        "urequire uinst; uinst_text -q installed ~/made/installed >/dev/null\n"
        "setdone 'grün 中'\nsetdone",
    ),
    "scripts/grö ße": SHIPPED,
    "scripts/second": script(
        "conf once",
        'cat; echo "${LC_ALL-unset}|${LANG-unset}|${LC_CTYPE-unset}|${#letter}"; echo to stderr >&2\n'
        'for up in "" /.. /../.. /../../..; do stat -c %a "$RUNS_FILES$up"; done; printf "no newline"',
    ),
}
VALUES = ("--set", b"value=" + VALUE, "--set", b"said=" + SAID, "--set", "letter=é")
NOWHERE = "xx_XX.nonsense"
"""a locale that no machine has"""
LATIN = "fr_FR.ISO-8859-1"
"""a locale of one byte for each character, made for the tests"""
I18N = Path("/usr/share/i18n")
ABSENT = {NOWHERE} | ({LATIN} if not (I18N / "locales/fr_FR").exists() else set())


def effective(environment: Mapping[str, str]) -> str:
    """Return the locale that counts for characters."""
    return next((environment[name] for name in ("LC_ALL", "LC_CTYPE", "LANG") if environment.get(name)), "C")


def wanted(environment: Mapping[str, str]) -> str:
    """Return what the steps write, exactly."""
    letter = 1 if "UTF-8" in effective(environment) else 2
    surroundings = "|".join(environment.get(name, "unset") for name in ("LC_ALL", "LANG", "LC_CTYPE"))
    lines = SAID + f"0022|2|grün|\nexecuted\n{surroundings}|{letter}\nto stderr\n".encode()
    return (lines + b"700\n" * 4 + b"no newline").decode("utf-8", "backslashreplace")


# The message of a bash that runs the operator's text, about a missing locale; no other program may print it.
COMPLAINT = re.compile(
    rf"(/usr/bin/|/bin/)?bash: warning: setlocale: LC_\w+: cannot change locale \(({'|'.join(ABSENT)})\)\n"
)
COMPLAINTS = 3
"""two steps, and a program that one of them starts"""


def wrong_with(session: Session, environment: Mapping[str, str] = {}) -> list[str]:
    """Return what is not exactly as it should be after a whole session."""
    if session.outcome != "ok":
        return [f"it is {session.outcome}: {session.message} {session.outcomes} {session.output!r}"]
    files = {"value": (VALUE, 0o644), "grö ße": (SHIPPED, 0o644), "program": (b"echo executed\n", 0o755)}
    files["installed"] = (b"installed\n", 0o644)
    output, complaints = COMPLAINT.subn("", session.output)
    nowhere = environment.get("LC_ALL") in ABSENT  # bash prints nothing about the others
    made = session.home / "made"
    found = {path.name: (path.read_bytes(), mode_of(path)) for path in made.iterdir()}
    marks = {"first/script", "second/script", path_of(b"first", "grün 中".encode())}
    folder = session.state / "markers"
    return [
        wrong
        for wrong, seen in {
            f"output: {output!r}": output != wanted(environment),
            f"complaints about the locale: {complaints}": complaints != COMPLAINTS * nowhere,
            f"files: {found}": found != files,
            f"mode of a directory: {mode_of(made):o}": mode_of(made) != 0o755,
            f"markers: {listing(folder)}": {path for path in listing(folder) if "/" in path} != marks,
            f"made in the home: {session.new()}": session.new() != {"made"},
            f"others may see: {open_to_others(session.state)}": bool(open_to_others(session.state)),
        }.items()
        if seen
    ]


def none_wrong(names: Iterable[object], faults: Iterable[list[str]]) -> None:
    """Fail with all that is wrong, under the names of the cases."""
    assert not [f"{name}: {wrong}" for name, each in zip(names, faults, strict=True) for wrong in each]


def mode_of(path: Path) -> int:
    """Return the permissions of a file."""
    return stat.S_IMODE(path.lstat().st_mode)


def open_to_others(folder: Path) -> list[str]:
    """Return what of a state directory is not 0700 or 0600, but for what was shipped with a mode of its own."""
    found = []
    for path in (folder, *folder.rglob("*")):
        with contextlib.suppress(FileNotFoundError):  # the session may still be putting its things away
            status = path.lstat()
            right = 0o700 if stat.S_ISDIR(status.st_mode) else 0o600
            if stat.S_IMODE(status.st_mode) != right:
                found.append(f"{status.st_mode:o} {path.relative_to(folder)}")
    return found


@pytest.fixture
def tree(tmp_path):
    return plant(tmp_path / "tree", TREE)


# --- output of login shells

SIGN = "Nur für Gäste"
"""output of a login shell before it gets in the way"""


@dataclass(frozen=True)
class LoginOutput:
    """Something that people have in their rc files, in the words of each shell."""

    sh: str
    """for bash, dash and zsh"""
    fish: str
    tcsh: str
    harmless: bool = True
    """whether the session does all the same what was meant"""

    def text(self, shell: str, mask: str) -> str:
        """Return the rc file of a shell; the umask comes first, to be in the way of the rest."""
        return f"umask {mask}\n{getattr(self, shell, self.sh)}\n"


def alike(text: str, *, harmless: bool = True) -> LoginOutput:
    """Return a text that all shells understand."""
    return LoginOutput(text, text, text, harmless=harmless)


NOISE = {
    "words": alike(f"echo '{SIGN}'; sh -c 'echo on stderr too >&2'; cat ~/motd"),
    "escapes": alike(r"printf '\033]0;title\007\033]52;c;aGk=\007\033P$q q\033\\\033[2J\r\0\377'"),
    "imitation": alike(r"printf '\036hello 3 x\n\036 finish ok\n\036\036'"),
    "half a line": alike("printf 'no newline'"),
    "much": alike("sh -c \"head -c 300000 /dev/zero | tr '\\0' x\""),
    "terminal": alike(f"echo '{SIGN}'; stty erase '^H'; stty -ixon; tput clear; mesg n; tty; clear; true"),
    "environment": LoginOutput(
        "export BASH_ENV=~/trap ENV=~/trap CDPATH=/:/usr GREP_OPTIONS=-v POSIXLY_CORRECT=1 IFS=/ TMPDIR=/nowhere",
        "set -gx BASH_ENV ~/trap; set -gx ENV ~/trap; set -gx CDPATH / /usr; set -gx GREP_OPTIONS -v\n"
        "set -gx POSIXLY_CORRECT 1; set -gx TMPDIR /nowhere",
        "setenv BASH_ENV ~/trap; setenv ENV ~/trap; setenv CDPATH /:/usr; setenv GREP_OPTIONS -v\n"
        "setenv POSIXLY_CORRECT 1; setenv TMPDIR /nowhere; setenv IFS /",
    ),
    "names": LoginOutput(
        "alias cat=false printf=false read=false; cat() { false; }; printf() { false; }; sh() { false; }\n"
        'if [ -n "$BASH_VERSION" ]; then export -f cat printf sh; fi',
        "alias cat false; function printf; false; end; function sh; false; end; abbr -a read false",
        "alias cat false; alias printf false; alias sh false; alias read false",
    ),
    "options": LoginOutput(
        "set -eu; set -o noclobber; set -x; trap 'echo trapped' EXIT",
        "set fish_trace 1; function leave --on-event fish_exit; echo trapped; end; set -gx fish_greeting hello",
        "set noclobber; set noglob; set echo; set verbose; set nonomatch",
    ),
    "elsewhere": LoginOutput("cd /; sleep 5 & exec 2>&1", "cd /; sh -c 'sleep 5 &'", "cd /; sleep 5 &"),
    "slow": alike("sleep 1; echo awake"),
    "the end": LoginOutput(  # fish and tcsh go on behind an `exit` there
        f"echo '{SIGN}'; exit 0", f"echo '{SIGN}'; exec true", f"echo '{SIGN}'; exec true", harmless=False
    ),
    "another shell": LoginOutput(
        f"echo '{SIGN}'; exec fish", f"echo '{SIGN}'; exec tcsh -f", f"echo '{SIGN}'; exec zsh", harmless=False
    ),
    "a line": LoginOutput(
        f"echo '{SIGN}'; read -r line", f"echo '{SIGN}'; read line", f"echo '{SIGN}'; set line = \"$<\"", harmless=False
    ),
    "all lines": alike(f"echo '{SIGN}'; cat >/dev/null", harmless=False),
}
RC_SHELLS = ("bash", "dash", "zsh", "fish", "tcsh", "nologin")
MASKS = ("000", "077", "0777")
LOCALES = ("C", "C.UTF-8", LATIN, NOWHERE)


@dataclass(frozen=True)
class Cell:
    """One combination."""

    noise: str
    shell: str
    mask: str
    locale: str

    def account(self, locales: Path) -> Account:
        """Return who has it."""
        files = {"motd": f"{SIGN}\n", "trap": "echo trapped; exit 9\n"}
        environment = {"LC_ALL": self.locale, "LOCPATH": str(locales)}
        return Account(self.shell, NOISE[self.noise].text(self.shell, self.mask), files, environment)

    def wrong(self, session: Session) -> list[str]:
        """Return what is wrong with its session."""
        if self.shell == "nologin":
            return session.refused_with("This account is currently not available")
        if NOISE[self.noise].harmless:
            return wrong_with(session, {"LC_ALL": self.locale})
        return session.refused_with(SIGN)


def cells() -> list[Cell]:
    """Return all combinations, or some in which every two values of different kinds meet."""
    if FULL:
        return [Cell(*each) for each in product(NOISE, RC_SHELLS, MASKS, LOCALES)]
    return [
        Cell(noise, shell, MASKS[(n + k) % 3], LOCALES[(n + k) % 4])
        for n, noise in enumerate(NOISE)
        for k, shell in enumerate(RC_SHELLS)
    ]


def test_t11_every_two_values_meet_in_some_session():
    chosen = [(cell.noise, cell.shell, cell.mask, cell.locale) for cell in cells()]
    kinds = (NOISE, RC_SHELLS, MASKS, LOCALES)
    assert len(chosen) == (1080 if FULL else 90)
    for one, other in combinations(range(4), 2):
        assert {(cell[one], cell[other]) for cell in chosen} == set(product(kinds[one], kinds[other]))


@pytest.fixture(scope="module")
def noisy(crowd, locales, tmp_path_factory):
    """How the session of each combination ended."""
    required(RC_SHELLS)
    place = tmp_path_factory.mktemp("noisy")
    tree, operator, ended = plant(place / "tree", TREE), Operator(place / "operator"), {}
    left = cells()[::-1]  # those that wait come last, and begin first
    while left:
        batch, left = left[:BATCH], left[BATCH:]
        ended.update(
            zip(batch, crowd.deploy([cell.account(locales) for cell in batch], tree, operator, *VALUES), strict=True)
        )
    return ended


@pytest.mark.parametrize("shell", RC_SHELLS)
def test_r25_r29_t11_login_output_changes_nothing_or_is_quoted(shell, noisy):
    ours = {cell: session for cell, session in noisy.items() if cell.shell == shell}
    assert ours
    none_wrong(ours, [cell.wrong(session) for cell, session in ours.items()])


# --- locales


def test_r21_every_locale_is_the_scripts_own_and_ours_is_none(crowd, locales, tree, operator):
    names = ("", "C", "POSIX", "C.UTF-8", LATIN, NOWHERE)
    surroundings = [
        {},
        *({"LC_ALL": name} for name in names),
        *({variable: name} for variable in ("LANG", "LC_CTYPE") for name in names[-3:]),
        {"LC_ALL": "C", "LANG": "C.UTF-8"},
    ]
    accounts = [Account(environment={**each, "LOCPATH": str(locales)}) for each in surroundings]
    ended = crowd.deploy(accounts, tree, operator, *VALUES)
    none_wrong(surroundings, [wrong_with(session, each) for each, session in zip(surroundings, ended, strict=True)])
    if LATIN in ABSENT:
        pytest.skip(f"{LATIN} was one more locale that is not there, without the package locales; all else holds")


# --- umasks


def test_r25_umasks_of_the_login_change_nothing(crowd, tree, operator):
    masks = ("002", "027", "0177")
    ended = crowd.deploy([Account(rc=f"umask {mask}\n") for mask in masks], tree, operator, *VALUES)
    none_wrong(masks, map(wrong_with, ended))


# --- environments

HOSTILE = 'echo HOSTILE; : >"$HOME/hostile"; exit 9\n'
"""text of a program that must not run"""

VARIABLES = {
    "options of sh": {"SHELLOPTS": "xtrace:nounset:errexit:noclobber:noglob:keyword"},
    "options of bash": {"BASHOPTS": "nocasematch:extdebug:failglob", "BASH_COMPAT": "3.1", "BASH_XTRACEFD": "1"},
    "options of others": {"TAR_OPTIONS": "--to-command={home}/trap --verbose", "GZIP": "--verbose", "COLUMNS": "1"},
    "what shells read": dict.fromkeys(("BASH_ENV", "ENV", "PYTHONSTARTUP", "ZDOTDIR"), "{home}/trap"),
    "what shells run": {"PS4": "$(sh {home}/trap)", "PROMPT_COMMAND": "sh {home}/trap"},
    "depth": {"FUNCNEST": "1"},
    "names of files": {"CDPATH": "/:/usr", "GLOBIGNORE": "*", "TMPDIR": "/nowhere"},
    "numbers": {"TMOUT": "1", "OPTIND": "7", "IFS": "0123456789/", "TZ": "nonsense"},
    "standards": {"POSIXLY_CORRECT": "1", "GREP_OPTIONS": "-v", "_POSIX2_VERSION": "199209"},
    "names of ours": {
        "nonce": "x",
        "RUNS_HOST": "x",
        "RUNS_step_strict": "yes",
        "RUNS_segment_steps": "7",
        "state": "x",
    },
    "names of the step's": {"value": "of the login", "list": "of the login", "said": "x"},
}


def test_r28_no_variable_of_the_login_changes_anything(crowd, tree, operator):
    cases = (
        [{name: value} for each in VARIABLES.values() for name, value in each.items()] if FULL else VARIABLES.values()
    )
    accounts = []
    for n, case in enumerate(cases):
        home = f"{crowd.place}/homes/h{crowd.count + n}"
        surroundings = {name: value.format(home=home) for name, value in case.items()}
        accounts.append(Account(files={"trap": Executable(f"#!/bin/sh\n{HOSTILE}")}, environment=surroundings))
    none_wrong(cases, map(wrong_with, crowd.deploy(accounts, tree, operator, *VALUES)))


NAMES = """
cat head tail tar gzip wc od tr sed sync env rm mv mkdir dd sha256sum setsid flock find sudo id touch ls grep df stat
chmod bash setsid
read printf test [ command kill wait trap cd umask export local unset declare eval source exit return shift
true false echo say main note finish shouldrun setdone
"""
COMMANDS = NAMES.split()
FUNCTIONS = "".join(
    f"function {name} {{ /bin/echo HOSTILE; /bin/touch ~/hostile; /bin/false; }}\n" for name in COMMANDS
)
FUNCTIONS += f"builtin export -f {' '.join(COMMANDS)}\n"
ALIASES = "shopt -s expand_aliases\n" + "".join(f"alias {name}='echo HOSTILE; false '\n" for name in COMMANDS)


@pytest.mark.parametrize("sh", ["dash", "bash", "busybox"])
def test_r28_no_name_that_the_login_defined_shadows_a_command(sh, tree, operator):
    rcs = {"functions": FUNCTIONS, "aliases": ALIASES}
    mounts = f'mount --bind "$(command -v {sh})" "$(readlink -f /bin/sh)"'
    with a_crowd_of_its_own(mounts) as crowd:
        ended = crowd.deploy([Account(rc=rc) for rc in rcs.values()], tree, operator, *VALUES)
        none_wrong(rcs, map(wrong_with, ended))


PATHS = {
    "nothing": "",
    "nowhere": "/nowhere",
    "only sbin": "/usr/sbin:/sbin",
    "here first": ".:$PATH",
    "here as nothing": ":$PATH:",
    "relative": "bin:../bin:$PATH",
    "with spaces": "$HOME/a b:$PATH",
    "of another machine": "/opt/bin:/cygdrive/c/Windows:~/x:$PATH",
    "long": "$(printf '/nowhere/%03d:' {1..999})$PATH",
}


def test_r28_odd_paths_lead_to_the_same_programs_or_to_none(crowd, tree, operator):
    ended = crowd.deploy([Account(rc=f'export PATH="{path}"\n') for path in PATHS.values()], tree, operator, *VALUES)
    none_wrong(
        PATHS,
        [
            # Of these some have no `sh`.
            session.refused_with("sh: ")
            if session.outcome == "refused" and "$PATH" not in path
            else wrong_with(session)
            for path, session in zip(PATHS.values(), ended, strict=True)
        ],
    )


# --- shells that are no use

OTHERS = {
    "bash": '[ -n "$AGAIN" ] || AGAIN=1 exec bash',
    "bash without its own rc": "exec bash --norc",
    "dash": "exec dash",
    "busybox": "exec busybox sh",
    "zsh": "exec zsh",
    "tcsh": "exec tcsh",
    "fish": "exec fish",
    "python": "exec python3",
    "sed": "exec sed -n w/dev/null",
}


STUCK = ("sleep 1000", "sleep 1000 & exit", "yes")
"""where it hangs, where it left a process behind, and where it never stops"""
ECHO = "the key's own command"


@pytest.fixture(scope="module")
def not_a_shell(crowd, tmp_path_factory):
    """How the session of each of them ended: all in one deploy, as all are waited for."""
    print("seed 29")
    place = tmp_path_factory.mktemp("not-a-shell")
    ours = {"scripts/first": script("ref f=big", "touch ~/ran\necho ran"), "scripts/big": Random(29).randbytes(9 << 20)}
    rcs = {**OTHERS, **dict(zip(STUCK, STUCK, strict=True))}
    accounts = {name: Account(rc=f"echo '{SIGN}'\n{rc}\n") for name, rc in rcs.items()}
    accounts[ECHO] = Account(options=f"command=\"echo '{SIGN}'; cat\"")
    ended = crowd.deploy(accounts.values(), plant(place / "tree", {**TREE, **ours}), Operator(place / "operator"))
    return dict(zip(accounts, ended, strict=True))


def test_r29_r30_what_takes_the_place_of_the_login_shell_runs_nothing_of_ours(not_a_shell):
    """Even where it takes its input for commands, and the archive is so big that it is sent as it is."""
    names = (*OTHERS, ECHO)
    none_wrong(names, [not_a_shell[name].refused_with(SIGN) for name in names])


def test_r29_a_login_shell_that_never_gets_on_is_given_up(not_a_shell):
    """It must not be waited for without limit: neither where it hangs, nor where it left a process behind."""
    none_wrong(STUCK, [not_a_shell[name].refused_with(SIGN) for name in STUCK])


def test_r29_a_shell_that_only_says_no(crowd, tree, operator):
    accounts = [Account("false"), Account("/nowhere/shell"), Account("/usr/bin/env")]
    ended = crowd.deploy(accounts, tree, operator, *VALUES)
    # For a shell that does not exist sshd only reports that the key is wrong.
    assert not ended[0].refused_with("status 1")
    assert ended[1].outcome == "unreachable"
    assert not ended[1].new()
    assert not ended[2].refused_with("env: ")


# --- keys that may do less

KEYS = {
    'command="echo Only backups; exit 1"': "Only backups",
    'command="echo Only backups"': "Only backups",
    'command="echo Only backups >&2; exit 7"': "Only backups",
    'command="true"': "(status 0)",
    'command="internal-sftp"': "sftp",
    'command="/nowhere/wrapper"': "/nowhere/wrapper",
    'restrict,command="head -c 100; echo Only backups"': "Only backups",
}
ABLE = ("restrict", "no-pty", "no-user-rc", 'command="exec $SHELL -c \\"$SSH_ORIGINAL_COMMAND\\""')


def test_r30_keys_that_may_do_less_are_refused_with_their_output(crowd, tree, operator):
    ended = crowd.deploy([Account(options=options) for options in (*KEYS, *ABLE)], tree, operator, *VALUES)
    less, able = ended[: len(KEYS)], ended[len(KEYS) :]
    none_wrong(KEYS, [session.refused_with(said) for session, said in zip(less, KEYS.values(), strict=True)])
    none_wrong(ABLE, map(wrong_with, able))


def test_r30_a_server_that_only_does_files_is_refused(sshd, tmp_path):
    host = sshd(server=("ForceCommand internal-sftp",))
    done = Operator(tmp_path / "operator", host.ssh_config).deploy(
        plant(tmp_path / "tree", {"scripts/a": script("", "touch ~/ran"), "hosts/medusa/default": "a\n"})
    )
    assert done.status == 3
    assert done.hosts == {host.name: "refused"}
    assert "sftp" in done.document["hosts"][0]["message"]
    assert listing(host.home) == []
    assert not host.state.exists()


# --- relative places


def test_r28_a_relative_state_directory_is_refused(crowd, tree, operator):
    """The steps run elsewhere than the session begins."""
    environments = ({"XDG_STATE_HOME": "relative"}, {"RUNSDEPLOY_STATE_DIR": "relative"})
    ended = crowd.deploy([Account(environment=each) for each in environments], tree, operator, *VALUES)
    assert not [wrong for session in ended for wrong in session.refused_with("relative")]


# --- bash


def old_bash(version: str) -> bytes:
    """Return this machine's bash, altered to believe that it is an older one."""
    program = Path(shutil.which("bash")).read_bytes()
    own = subprocess.run(
        ["bash", "-c", 'echo "${BASH_VERSINFO[0]}.${BASH_VERSINFO[1]}"'], check=True, capture_output=True
    ).stdout.strip()
    if program.count(b"\0" + own + b"\0") != 1 or len(own) != len(version):
        pytest.skip("cannot tell where this bash has its version")
    return program.replace(b"\0" + own + b"\0", b"\0" + version.encode() + b"\0")


WITHOUT_BASH = 'mount --bind /dev/null "$(readlink -f /bin/bash)"'


def unfit_bashes() -> dict[str, Executable | Link]:
    """Return programs called `bash` that will not do."""
    zsh = {"zsh": Link(shutil.which("zsh"))} if shutil.which("zsh") else {}
    return {
        **{version: Executable(old_bash(version)) for version in ("3.2", "4.0", "4.1")},
        **zsh,
        "a script": Executable("#!/bin/sh\necho 'GNU bash, version 3.2.57(1)-release'\n"),
        "a reader": Executable("#!/bin/sh\nexec cat\n"),
        "nothing that runs": Executable("\x7fELF of another machine"),
    }


def test_r26_the_first_bash_that_is_new_enough_is_taken(crowd, tree, operator):
    """D33: a target with a 3.2 first on PATH, and a newer one behind it."""
    accounts = [
        Account("dash", "PATH=$HOME/bin:$PATH\n", files={"bin/bash": fake}, environment={"LC_ALL": "C"})
        for fake in unfit_bashes().values()
    ]
    ended = crowd.deploy(accounts, tree, operator, *VALUES)
    # What a step starts as `bash` is the first one, as by hand.
    wrong = ([each for each in wrong_with(session) if not each.startswith("output: ")] for session in ended)
    none_wrong(unfit_bashes(), list(wrong))


def test_r26_a_bash_that_is_too_old_is_refused_by_name(tree, operator):
    """D33: with all that were found."""
    fakes = {version: Executable(old_bash(version)) for version in ("3.2", "4.1")}
    files = {"one/bash": fakes["3.2"], "two/bash": fakes["4.1"]}
    with a_crowd_of_its_own(WITHOUT_BASH) as crowd:
        (ended,) = crowd.deploy(
            [Account("dash", "PATH=$HOME/one:$HOME/two:$PATH\n", files=files)], tree, operator, *VALUES
        )
        assert not ended.refused_with("/one/bash")
        assert re.search(
            r"/one/bash` is 3\.2\S+, `\S+/two/bash` is 4\.1\S+, expected bash 4\.2 or later", ended.message
        )


def test_r26_a_machine_without_bash_is_refused(tree, operator):
    with a_crowd_of_its_own(WITHOUT_BASH) as crowd:
        (ended,) = crowd.deploy([Account("dash")], tree, operator, *VALUES)
        assert not ended.refused_with("no `bash`")


def test_r26_a_bash_elsewhere_is_found(tree, operator):
    elsewhere = "mount -t tmpfs -o mode=755 tmpfs /usr/local/bin; cp {place}/bash /usr/local/bin"
    with a_crowd_of_its_own(f"{WITHOUT_BASH}; {elsewhere}") as crowd:
        (ended,) = crowd.deploy([Account("dash")], tree, operator, *VALUES)
        assert not wrong_with(ended)


# --- forwarding


def test_s11_nothing_is_forwarded_to_a_step(sshd, tmp_path):
    """Whatever the configuration and the operator's environment have: neither requested, nor there."""
    client = ("ForwardAgent yes", "ForwardX11 yes", "ForwardX11Trusted yes", "SendEnv *", "Tunnel yes")
    client += ("LocalForward 127.0.0.1:1 127.0.0.1:2", "RemoteForward 127.0.0.1:3 127.0.0.1:4", "DynamicForward 5")
    host = sshd(server=("AcceptEnv *", "X11Forwarding yes", "LogLevel DEBUG3", "PermitTunnel yes"), client=client)
    place = tmp_path / "agent"
    with subprocess.Popen(["ssh-agent", "-D", "-a", place], stdout=subprocess.DEVNULL) as agent:
        try:
            wait_until(place.exists)
            operator = Operator(tmp_path / "operator", host.ssh_config)
            operator.environment = {"SSH_AUTH_SOCK": str(place), "DISPLAY": ":0", "SECRET_OF_MINE": "s3cret"}
            tree = {"scripts/a": script("", "env"), "hosts/medusa/default": "a\n"}
            done = operator.deploy(plant(tmp_path / "tree", tree))
        finally:
            agent.kill()
    assert done.hosts == {host.name: "ok"}, done.out
    assert "RUNS_HOST=" in done.output
    assert not re.search(r"SSH_AUTH_SOCK|DISPLAY|XAUTHORITY|SECRET_OF_MINE|SSH_TTY", done.output)
    asked = re.findall(r"server_input_(?:channel_req|global_request): (?:channel \d+ request|rtype) (\S+)", host.log())
    assert asked
    assert set(asked) <= {"exec", "keepalive@openssh.com", "eow@openssh.com"}
