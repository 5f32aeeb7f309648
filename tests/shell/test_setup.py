"""setup.sh under every installed sh, with a temporary home: the authorized_keys file that it leaves."""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
from typing import NamedTuple

import pytest

from runsdeploy.session.program import COMMAND, call, program

KIND, BLOB = "ssh-ed25519", "AAAAC3NzaC1lZDI1NTE5AAAAIPHQn+2FvYOmoVdGtmOWFEQWIlfTmEPUS5jBkOAJLg9V"
LINE = f"{KIND} {BLOB} me@here (é)"
OTHER = "ssh-rsa AAAAB3NzaC1yc2E= other"
SHELLS = ["dash", "bash", "busybox sh", "bash --posix"]


class Frame(NamedTuple):
    """The last frame of the output."""

    outcome: str
    text: str


@pytest.fixture(params=SHELLS)
def shell(request):
    """Return a shell that is /bin/sh on some system."""
    name, *rest = request.param.split()
    path = shutil.which(name)
    if path is None:
        pytest.skip(f"needs {name}")
    return " ".join([path, *rest])


@pytest.fixture
def home(tmp_path):
    made = tmp_path / "the home's"
    made.mkdir(mode=0o755)
    return made


def text_of(path=""):
    """Return the program, changed to take the home from HOME: the real home is the developer's."""
    found = program("setup.sh")
    for before, after in [("me=$(id -un)", "me='no name'"), ("PATH=/usr/sbin:/usr/bin:/sbin:/bin:$PATH", f"{path}:")]:
        assert found.count(before.encode()) == 1
        found = found.replace(before.encode(), after.encode())
    return found


def start(home, shell, mode="add", line=LINE, path=None):
    words = [shell.split()[0], *shell.split()[1:], "-c", COMMAND.replace("/bin/sh", shell)]
    process = subprocess.Popen(
        words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        env={"HOME": str(home), "PATH": str(path or os.environ["PATH"])}, umask=0o002,
    )  # fmt: skip
    return process, call(text_of(), secrets.token_hex(8), secrets.token_hex(8), mode, "-", "no") + f"{line}\n".encode()


def run(home, shell, mode="add", line=LINE, path=None):
    process, stdin = start(home, shell, mode, line, path)
    out, _ = process.communicate(stdin, timeout=60)
    return last_frame(out)


def last_frame(out):
    *_, last = out.decode().split("\x1e")
    _, outcome, *text = last.rstrip("\n").split(" ", 2)
    return Frame(outcome, "".join(text))


def keys(home, content=None, mode=0o600):
    path = home / ".ssh/authorized_keys"
    if content is not None:
        path.parent.mkdir(mode=0o700)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        path.chmod(mode)
    return path


def mode_of(path):
    return path.stat().st_mode & 0o7777


def test_an_empty_home_gets_a_private_directory_and_file(shell, home):
    assert run(home, shell) == ("added", str(keys(home)))
    assert keys(home).read_text() == f"{LINE}\n"
    assert (mode_of(keys(home).parent), mode_of(keys(home))) == (0o700, 0o600)
    before = keys(home).stat()
    assert run(home, shell) == ("present", str(keys(home)))
    after = keys(home).stat()
    assert (after.st_ino, after.st_ctime_ns) == (before.st_ino, before.st_ctime_ns)
    assert [each.name for each in keys(home).parent.iterdir()] == ["authorized_keys"]


@pytest.mark.parametrize("mode", ["look", "hello"])
def test_looking_writes_nothing(mode, shell, home):
    assert run(home, shell, mode).outcome == {"look": "absent"}.get(mode, mode)
    assert list(home.iterdir()) == []


PRESENT = {
    "as it is": LINE,
    "no last newline": LINE.encode(),
    "another comment": f"{KIND} {BLOB} somebody else\n",
    "no comment": f"{KIND} {BLOB}\n",
    "no comment, CRLF": f"{KIND} {BLOB}\r\n",
    "options": f'from="10.0.0.0/8",command="echo a b",no-pty {KIND} {BLOB} x\n',
    "tabs": f"\t{KIND}\t{BLOB}\tx\n",
    "among others": f"# c\n{OTHER}\n\n{LINE}\n{OTHER}\n",
    "behind a commented one": f"#{LINE}\n{LINE}\n",
    "globs and backslashes": f"* \\ [a] \\{BLOB}\n{LINE}\n",
}
ABSENT = {
    "empty": b"",
    "another": f"{OTHER}\n",
    "another, no last newline": OTHER,
    "commented": f"#{LINE}\n",
    "commented, indented": f"  # {LINE}\n",
    "a longer one": f"{KIND} {BLOB}AAAA x\n",
    "part of one": f"{KIND} AAAA{BLOB} x\n",
    "another kind": f"ssh-rsa {BLOB} x\n",
    "in a comment": f"{OTHER} {BLOB}\n",
    "bytes": bytes(byte for byte in range(256) if byte) + b"\n\\n\\\n",
    "blank lines": b"\n\n\n",
}


@pytest.mark.parametrize("content", PRESENT.values(), ids=PRESENT.keys())
def test_a_key_that_is_there_is_not_added_again(content, shell, home):
    path = keys(home, content)
    data, before = path.read_bytes(), path.stat()
    assert run(home, shell).outcome == "present"
    assert path.read_bytes() == data
    assert (path.stat().st_ino, path.stat().st_ctime_ns) == (before.st_ino, before.st_ctime_ns)


@pytest.mark.parametrize("content", ABSENT.values(), ids=ABSENT.keys())
@pytest.mark.parametrize("mode", [0o600, 0o644])
def test_a_key_is_added_after_the_present_ones(content, mode, shell, home):
    path = keys(home, content, mode)
    before = path.read_bytes()
    assert run(home, shell).outcome == "added"
    ended = before if before.endswith(b"\n") or not before else before + b"\n"
    assert path.read_bytes() == ended + f"{LINE}\n".encode()
    assert mode_of(path) == mode
    assert run(home, shell).outcome == "present"


def test_a_link_stays_a_link(shell, home, tmp_path):
    kept = tmp_path / "dotfiles"
    kept.mkdir(mode=0o755)
    (kept / "keys").write_text(f"{OTHER}\n")
    (kept / "keys").chmod(0o644)
    keys(home).parent.mkdir(mode=0o700)
    keys(home).symlink_to(kept / "keys")
    assert run(home, shell) == ("added", str(kept / "keys"))
    assert keys(home).is_symlink()
    assert (kept / "keys").read_text() == f"{OTHER}\n{LINE}\n"
    assert [each.name for each in kept.iterdir()] == ["keys"]


def test_a_linked_directory_is_accepted(shell, home, tmp_path):
    kept = tmp_path / "dotssh"
    kept.mkdir(mode=0o700)
    (home / ".ssh").symlink_to(kept)
    assert run(home, shell).outcome == "added"
    assert (kept / "authorized_keys").read_text() == f"{LINE}\n"


IN_SSH = "mkdir -m 700 .ssh; cd .ssh; "
NO_PLACES = {
    "no home": ('rmdir "$PWD"', "has no home directory"),
    "a file as directory": ("touch .ssh", "is not a directory"),
    "home for all": ("chmod 777 .", "other users may write"),
    "directory for the group": ("mkdir .ssh; chmod 770 .ssh", "other users may write"),
    "a directory as file": (IN_SSH + "mkdir authorized_keys", "is not a file"),
    "a pipe": (IN_SSH + "mkfifo authorized_keys", "is not a file"),
    "a link to nowhere": (IN_SSH + "ln -s nowhere/keys authorized_keys", "is a broken symbolic link"),
    "a circle": (IN_SSH + "ln -s authorized_keys authorized_keys", "is a broken symbolic link"),
    "a link to where all may write": (
        IN_SSH + "mkdir open; chmod 777 open; ln -s open/keys authorized_keys",
        "other users may write",
    ),
    "a file for all": (IN_SSH + "touch authorized_keys; chmod 666 authorized_keys", "other users may write"),
}


@pytest.mark.parametrize(("made", "message"), NO_PLACES.values(), ids=NO_PLACES.keys())
@pytest.mark.parametrize("mode", ["look", "add"])
def test_an_unsafe_place_for_a_key_is_refused_and_not_changed(made, message, mode, shell, home):
    def snapshot():
        return {str(path): (path.lstat().st_ino, path.lstat().st_ctime_ns) for path in home.parent.rglob("*")}

    subprocess.run(["sh", "-ec", made], cwd=home, check=True)
    before = snapshot()
    outcome, text = run(home, shell, mode)
    assert outcome == "refuse"
    assert message in text
    assert snapshot() == before


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts a small file system, which takes root")
def test_a_full_disk_leaves_the_file_as_it_was(shell, home, tmp_path):
    """In a mount namespace, so that nothing stays mounted."""
    given = tmp_path / "given"
    given.write_bytes(
        call(text_of(), secrets.token_hex(8), secrets.token_hex(8), "add", "-", "no") + f"{LINE}\n".encode()
    )
    command = f"""
        mount -t tmpfs -o size=16k,mode=755 tmpfs "$HOME" || exit 77
        mkdir -m 700 "$HOME/.ssh"
        head -c 6000 /dev/zero | tr '\\0' '#' >"$HOME/.ssh/authorized_keys"
        head -c 99999 /dev/zero >"$HOME/filler" 2>/dev/null
        {shell} -c "$COMMAND" <"$GIVEN"
        ls -A "$HOME/.ssh"
        wc -c <"$HOME/.ssh/authorized_keys"
    """
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", command],
        env={"HOME": home, "PATH": os.environ["PATH"], "COMMAND": COMMAND.replace("/bin/sh", shell), "GIVEN": given},
        capture_output=True, check=False, timeout=60,
    )  # fmt: skip
    if done.returncode == 77 or b"unshare failed" in done.stderr:
        pytest.skip("this machine allows no mount namespaces")
    refusal, *rest = done.stdout.decode().rpartition("\x1e")[2].splitlines()
    assert "no space left on device" in refusal
    assert rest == ["authorized_keys", "6000"]


def test_keys_that_are_added_at_the_same_time_are_all_there(shell, home):
    if not shutil.which("flock"):
        pytest.skip("needs flock")
    lines = [f"{KIND} {BLOB[:-2]}{n:02} k{n}" for n in range(12)]
    started = [start(home, shell, line=line) for line in lines]
    for process, stdin in started:
        process.stdin.write(stdin)
        process.stdin.close()
    assert {last_frame(process.stdout.read()).outcome for process, _ in started} == {"added"}
    for process, _ in started:
        process.stdout.close()
        process.wait(60)
    assert sorted(keys(home).read_text().splitlines()) == sorted(lines)


def test_busybox_is_enough(home, busybox_path):
    assert run(home, shutil.which("busybox") + " sh", path=busybox_path).outcome == "added"
    assert keys(home).read_text() == f"{LINE}\n"
    assert mode_of(keys(home)) == 0o600


def test_a_program_that_did_not_arrive_completely_is_not_run(shell, home):
    process, stdin = start(home, shell)
    out, _ = process.communicate(stdin[: len(stdin) // 2], timeout=60)
    assert out == b""
    assert list(home.iterdir()) == []


@pytest.mark.parametrize("missing", [1, 10, len(LINE.encode()) + 1])
def test_a_key_that_did_not_arrive_completely_is_not_added(missing, shell, home):
    process, stdin = start(home, shell)
    out, _ = process.communicate(stdin[:-missing], timeout=60)
    assert last_frame(out).outcome == "ready"
    assert list(home.iterdir()) == []
