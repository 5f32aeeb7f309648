"""Processes: how a command ended is told as it was, nothing of it stays, nothing it prints is too much."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
import uuid
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from runsdeploy.jobs.process import process
from runsdeploy.jobs.process.capture import IN_MEMORY, PIECE
from runsdeploy.jobs.process.process import Command, Ending, run
from tests.jobs.pythons import pythons
from tests.jobs.system import open_files

ROOT = Path(__file__).resolve().parents[3]
MIB = 1024 * 1024
PATH = "/usr/bin:/bin"
LONG = 60.0  # never reached, or the test fails

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="mounts")


def alive(tag: str) -> list[int]:
    """Return the processes that have the tag in their environment or their words."""
    found = []
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if (
                entry.name.isdigit()
                and tag.encode() in (entry / "environ").read_bytes() + (entry / "cmdline").read_bytes()
            ):
                found.append(int(entry.name))
    return found


def any_in(tag: str, state: str = "", *, leads: bool = False) -> bool:
    """Return whether one of the tagged processes is in a state, or leads a session as `sleep`."""
    for pid in alive(tag):
        with contextlib.suppress(OSError):
            name, _, rest = (Path("/proc") / str(pid) / "stat").read_text().partition("(")[2].rpartition(") ")
            words = rest.split()
            if (leads and name == "sleep" and words[3] == str(pid)) or words[0] == state:
                return True
    return False


def eventually(condition: Callable[[], bool]) -> bool:
    """Wait for what is bound to come; the limit only keeps a failing test from hanging."""
    deadline = time.monotonic() + 30
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


def held() -> set[object]:
    """Return the threads, children and descriptors of this process."""
    found: set[object] = set(threading.enumerate())
    for task in Path("/proc/self/task").iterdir():
        with contextlib.suppress(OSError):
            found.update(("child", pid) for pid in (task / "children").read_text().split())
    return found | open_files()


@pytest.fixture
def tag() -> Iterator[str]:
    """Mark all that a test starts; nothing of it may be there when the test is over, as a zombie or otherwise."""
    mark = f"TAG{uuid.uuid4().hex}"
    before = held()
    yield mark
    left = alive(mark)
    for pid in left:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    assert not left
    # What another test left may go meanwhile: only what is new is of this one.
    assert held() <= before


class Runs:
    """Runs commands that carry the tag, and keeps what they print."""

    def __init__(self, tag: str) -> None:
        self.tag = tag
        self.pieces: list[bytes] = []

    def argv(self, *argv: str, timeout=LONG, directory="/", daemon=False, environment=None, **options) -> Ending:
        environment = {"PATH": PATH, self.tag: "1"} if environment is None else environment
        self.pieces = []
        return run(Command(argv, directory, environment, timeout, daemon), self.pieces.append, **options)

    def sh(self, text: str, shell: str = "/bin/sh", **options) -> Ending:
        return self.argv(shell, "-c", text, **options)

    @property
    def output(self) -> bytes:
        return b"".join(self.pieces)


@pytest.fixture
def runs(tag: str) -> Runs:
    return Runs(tag)


def inside(code: str, *words: str, python: str = sys.executable, **options) -> subprocess.CompletedProcess[bytes]:
    """Run code in an interpreter of its own."""
    head = f"import sys, os, json; sys.path.insert(0, {str(ROOT)!r}); from runsdeploy.jobs.process.process import *\n"
    return subprocess.run(
        [python, "-I", "-c", head + code, *words], capture_output=True, timeout=110, check=False, **options
    )


def sooner(monkeypatch: pytest.MonkeyPatch, **seconds: float) -> None:
    """Let supervisors wait for another time."""
    for name, value in seconds.items():
        source, count = re.subn(rf"(?m)^{name} = .*", f"{name} = {value}", process.SOURCE)
        assert count == 1
        monkeypatch.setattr(process, "SOURCE", source)


# how it ended


@pytest.mark.parametrize(
    ("text", "outcome", "status"),
    [
        ("exit 0", "ok", 0),
        ("exit 1", "failed", 1),
        ("exit 127", "failed", 127),
        ("exit 255", "failed", 255),
        ("kill -9 $$", "killed", 9),
        ("kill -TERM $$", "killed", 15),
        ("kill -SEGV $$", "killed", 11),
        ("kill -PIPE $$", "killed", 13),
        ("exec sleep inf", "timeout", None),
    ],
)
def test_J18_the_status_is_the_one_the_system_gave(runs, text, outcome, status):
    ending = runs.sh(text, timeout=0.2 if outcome == "timeout" else LONG)
    assert (ending.outcome, ending.status, ending.orphans, ending.dropped) == (outcome, status, (), 0)
    assert 0 < ending.seconds < LONG


@pytest.mark.parametrize("status", [0, 3, 255])
def test_J18_what_the_sink_does_with_the_output_does_not_change_the_status(runs, status):
    """The historical `command | tee` had the status of `tee`."""
    assert runs.sh(f"echo one; exit {status}").status == status
    assert runs.output == b"one\n"


@pytest.fixture
def bad(tmp_path: Path) -> Path:
    for name, content, mode in [
        ("plain", "#!/bin/sh\n", 0o644),
        ("headless", "echo hello\n", 0o755),
        ("orphaned", "#!/no/such/python\n", 0o755),
    ]:
        (tmp_path / name).write_text(content)
        (tmp_path / name).chmod(mode)
    (tmp_path / "loop").symlink_to("loop")
    return tmp_path


@pytest.mark.parametrize(
    ("argv", "directory", "outcome", "line"),
    [
        (["no-such-program"], "/", "not-found", "`no-such-program` was not found in `/usr/bin:/bin`"),
        (["/no/such"], "/", "not-found", "`/no/such` was not found"),
        (["./no-such"], "/usr", "not-found", "`./no-such` was not found, working directory `/usr`"),
        (["/etc/passwd/x"], "/", "not-found", "`/etc/passwd/x` was not found"),
        (["{}/orphaned"], "/", "not-found", "`{}/orphaned` needs an interpreter that was not found"),
        (["{}/plain"], "/", "not-executable", "`{}/plain` cannot be executed: permission denied"),
        (["{}/headless"], "/", "not-executable", "`{}/headless` cannot be executed: exec format error"),
        (["{}/loop"], "/", "not-executable", "`{}/loop` cannot be executed: too many levels"),
        (["{}"], "/", "not-executable", "`{}` cannot be executed: permission denied"),
        (["true"], "{}/gone", "not-found", "working directory `{}/gone`: no such file or directory"),
        (["true"], "{}/plain", "not-found", "working directory `{}/plain`: not a directory"),
        (["true"], "", "not-found", "working directory ``: no such file or directory"),
        (["true", "a\0b"], "/", "not-executable", "NUL"),
        (["true"], "/\0", "not-executable", "NUL"),
        (["true", "\ud800"], "/", "not-executable", "cannot be started"),
        (["true", "x" * 4 * MIB], "/", "not-executable", "`/usr/bin/true` cannot be executed: argument list too long"),
        ([""], "/", "not-executable", "no program given"),
        ([], "/", "not-executable", "no program given"),
    ],
)
def test_J18_what_cannot_start_is_an_outcome_that_says_what_and_where(runs, bad, argv, directory, outcome, line):
    argv, directory, line = [word.format(bad) for word in argv], directory.format(bad), line.format(bad)
    ending = runs.argv(*argv, directory=directory)
    assert (ending.outcome, ending.status, ending.orphans, ending.dropped) == (outcome, None, (), 0)
    assert line.encode() in runs.output
    assert runs.output.startswith(b"[")
    assert runs.output.endswith(b"]\n")
    assert runs.output.count(b"\n") == 1


@pytest.mark.parametrize("name", ["", "a=b", "a\0b"])
def test_S16_a_variable_that_cannot_be_is_an_outcome(runs, name):
    assert runs.argv("true", environment={name: "1"}).outcome == "not-executable"


def test_a_program_is_looked_for_in_the_commands_own_path_and_never_in_the_working_directory(runs, tmp_path):
    for place, word in [("one", "first"), ("two", "second"), (".", "here")]:
        (tmp_path / place).mkdir(exist_ok=True)
        (tmp_path / place / "program").write_text(f"#!/bin/sh\necho {word}\n")
        (tmp_path / place / "program").chmod(0o755)
    (tmp_path / "one/program").chmod(0o644)  # as a shell does: what cannot be executed is passed over
    search = f"{tmp_path}/gone:{tmp_path}/one:{tmp_path}/two"
    runs.argv("program", directory=str(tmp_path), environment={"PATH": search, runs.tag: ""})
    assert runs.output == b"second\n"
    for environment in ({}, {"PATH": ""}, {"PATH": "::"}):
        assert runs.argv("program", directory=str(tmp_path), environment=environment).outcome == "not-found"
    search = f"/etc/passwd:{tmp_path}/one:{tmp_path}/gone"
    assert runs.argv("program", environment={"PATH": search}).outcome == "not-executable"
    assert runs.argv("./program", directory=str(tmp_path), environment={}).outcome == "ok"


# what it is started with


def test_S16_environment_and_words_arrive_byte_for_byte_and_nothing_is_inherited(runs, monkeypatch):
    monkeypatch.setenv("CANARY", "1")
    words = ["", "-rf", "a b", "$(x)", "\n", "ø\udcff", "*"]
    environment = {"A": "ø\udcfe\n", "ø": "", "b c": "x=y", runs.tag: ""}
    ending = runs.argv("/usr/bin/env", "-0", environment=environment)
    assert ending.outcome == "ok"
    expected = {f"{name}={value}".encode("utf-8", "surrogateescape") for name, value in environment.items()}
    assert set(runs.output.split(b"\0")) - {b""} == expected
    runs.argv("printf", "%s\\0", *words)
    assert runs.output == b"".join(word.encode("utf-8", "surrogateescape") + b"\0" for word in words)


def test_J4_the_command_has_nothing_but_its_three_descriptors(runs, tmp_path):
    look = """
import os
for each in range(1000):
    try:
        os.fstat(each)
    except OSError:
        continue
    print(each, os.readlink(f"/proc/self/fd/{each}"))
"""
    with (tmp_path / "lock").open("w") as lock:
        os.set_inheritable(lock.fileno(), True)  # noqa: FBT003 -- it takes no name
        runs.argv(sys.executable, "-I", "-S", "-c", look)
    lines = [line.split() for line in runs.output.decode().splitlines()]
    assert [line[0] for line in lines] == ["0", "1", "2"]
    assert lines[0][1] == "/dev/null"
    assert lines[1][1] == lines[2][1]
    assert lines[1][1].startswith("pipe:")


def test_J5_a_command_that_asks_gets_no_answer_and_does_not_hang(runs):
    assert runs.sh("read answer; echo $?; cat").outcome == "ok"
    assert runs.output == b"1\n"
    assert runs.sh("echo > /dev/tty").outcome == "failed"


def test_J21_signals_umask_and_core_limit_do_not_depend_on_who_started_the_runner(tag):
    code = """
import signal, resource
for each in (signal.SIGINT, signal.SIGHUP, signal.SIGCHLD, signal.SIGTERM, signal.SIGUSR1):
    signal.signal(each, signal.SIG_IGN)
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM, signal.SIGCHLD, signal.SIGALRM])
os.umask(0o077)
resource.setrlimit(resource.RLIMIT_CORE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
out = []
text = "grep -E '^Sig(Blk|Ign)' /proc/self/status; umask; ulimit -c; exit 7"
ending = run(Command(("/bin/sh", "-c", text), "/", {"PATH": "/usr/bin:/bin", sys.argv[1]: ""}, 60.0, False), out.append)
print(ending.outcome, ending.status, b"".join(out).split())
"""
    outcome, status, *words = inside(code, tag).stdout.decode().translate(str.maketrans("", "", "[]b',")).split()
    assert (outcome, status, words[4:]) == ("failed", "7", ["0022", "0"])
    for mask in (words[1], words[3]):
        # Signals 32 and 33 are the C library's own: no program can set them, so they stay as they were inherited.
        assert int(mask, 16) & ~(0b11 << 31) == 0


@pytest.mark.parametrize("closed", range(8))
def test_J21_closed_standard_descriptors_change_nothing(tag, tmp_path, closed):
    code = """
from runsdeploy.jobs.process import process
process.SOURCE = process.SOURCE.replace("_SETTLE = 1.0", "_SETTLE = 0.1")  # there is a process to be waited for
out = []
command = Command(("/bin/sh", "-c", "echo out; echo err >&2; sleep inf & ls /proc/$$/fd; exit 3"), "/",
                  {"PATH": "/usr/bin:/bin", sys.argv[1]: ""}, 60.0, False)
ending = run(command, out.append, limit=20, spool=sys.argv[3], grace=1.0)
descriptor = os.open(sys.argv[2], os.O_WRONLY | os.O_CREAT)
os.write(descriptor, json.dumps([ending.outcome, ending.status, len(ending.orphans), b"".join(out).decode()]).encode())
"""
    closing = " ".join(f"{each}{'<' if each == 0 else '>'}&-" for each in range(3) if closed & 1 << each)
    head = f"import sys, os, json; sys.path.insert(0, {str(ROOT)!r}); from runsdeploy.jobs.process.process import *\n"
    argv = ["/bin/sh", "-c", f'exec "$@" {closing}', "sh", sys.executable, "-I", "-c", head + code, tag]
    subprocess.run([*argv, str(tmp_path / "result"), str(tmp_path)], stdin=0, timeout=60, check=True)
    outcome, status, orphans, output = json.loads((tmp_path / "result").read_text())
    assert (outcome, status, orphans) == ("failed", 3, 1)
    assert output.startswith("out\nerr\n0\n1\n2\n[`")


# what outlives it


@pytest.mark.parametrize(
    "text",
    [
        "exec sleep inf",
        "sleep inf; echo never",
        "trap '' TERM HUP INT; while :; do sleep inf; done",
        "kill -STOP $$",
        "sleep inf | sleep inf",
        "setsid sh -c 'trap \"\" TERM; sleep inf; sleep inf' & setsid setsid sleep inf & exec sleep inf",
        "(trap '' TERM; setsid sleep inf &) ; kill -STOP $$",
        "while :; do echo much; done",
    ],
)
def test_J5_a_command_that_hangs_is_ended_with_all_it_started(runs, text):
    ending = runs.sh(text, timeout=0.3, grace=0.3)
    assert (ending.outcome, ending.status) == ("timeout", None)
    assert b"[ended: not finished in 0.3 seconds]\n" in runs.output
    assert not alive(runs.tag)


def test_J5_a_stopped_command_gets_the_time_to_end_in_order(runs):
    text = "trap 'echo tidied; exit 0' TERM; kill -STOP $$; echo never"
    assert runs.sh(text, stop=lambda: any_in(runs.tag, "T")).outcome == "interrupted"
    assert runs.output == b"tidied\n[ended: stopped]\n"


@as_root
def test_J5_a_command_that_hangs_in_the_kernel_does_not_hang_the_runner(runs, tmp_path, monkeypatch):
    sooner(monkeypatch, KILL_TIMEOUT=0.5)  # waited for twice, and in vain: nothing ends it before it is thawed
    image, mount = tmp_path / "image", tmp_path / "mount"
    mount.mkdir()
    with image.open("wb") as file:
        file.truncate(16 * MIB)
    subprocess.run(["mkfs.ext4", "-q", image], check=True)
    if subprocess.run(["mount", "-o", "loop", image, mount], check=False, stderr=subprocess.DEVNULL).returncode:
        pytest.skip("no loop device")
    try:
        subprocess.run(["fsfreeze", "-f", mount], check=True)
        try:
            # Once it has said that it is there, it waits for nothing but what is frozen.
            hanging = functools.partial(any_in, runs.tag, "D")
            ending = runs.sh(f"echo there; : >{mount}/file", stop=lambda: bool(runs.pieces) and hanging(), grace=0.1)
            (pid,) = alive(runs.tag)
        finally:
            subprocess.run(["fsfreeze", "-u", mount], check=True)
        assert (ending.outcome, ending.status) == ("interrupted", None)
        assert ending.orphans == (f"{pid} sh (could not be ended)",)
        assert f"[`{pid} sh (could not be ended)` outlived the command]\n".encode() in runs.output
        assert eventually(lambda: not alive(runs.tag))
    finally:
        subprocess.run(["umount", mount], check=True)


FAMILY = """# each says when it has started its own: a family that is ended while it comes to be is smaller
export own='sleep inf & echo >&3; wait'
{ setsid sh -c 'setsid sh -c "$own" & eval "$own"' 3>&1 >&2 & } | { read one; read two; }
echo a family
"""


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("sleep inf & echo $!", 1),
        ("sleep inf & sleep inf & echo two", 2),
        ("(setsid sleep inf &) ; echo double fork", 1),
        (FAMILY, 4),
        ("env -i setsid bash -c 'exec -a TAG sleep inf' > /dev/null 2>&1 & echo nothing of ours about it", 1),
        ("(trap '' TERM; sleep inf &) ; echo ignores TERM", 1),
        ("(sh -c 'kill -STOP $$' &) ; echo stopped", 1),
    ],
)
def test_J6_what_outlives_a_command_is_named_and_ended(runs, text, count, monkeypatch):
    sooner(monkeypatch, _SETTLE=0.1)
    ending = runs.sh(text.replace("TAG", runs.tag), grace=0.3)
    assert (ending.outcome, ending.status, len(ending.orphans)) == ("ok", 0, count)
    for each in ending.orphans:
        pid, name = each.split(" ")
        assert name in ("sleep", "sh", "dash", "bash", "setsid", "env")  # the latter two while they become the others
        assert not Path(f"/proc/{pid}").exists()
        assert f"[`{each}` outlived the command]\n".encode() in runs.output


def test_J6_an_orphan_can_end_in_order(runs, tmp_path):
    trap = f'trap "echo tidied > {tmp_path}/file; exit" TERM; sleep inf & echo >&3; wait'
    text = f"(setsid sh -c '{trap}' 3>&1 >&2 &) | read ready"
    assert len(runs.sh(text).orphans) == 2
    assert (tmp_path / "file").read_text() == "tidied\n"


def test_J6_what_starts_others_all_the_time_is_ended(runs, tmp_path):
    program = tmp_path / "chain"
    program.write_text('#!/bin/sh\nsleep 0.05\nsetsid "$0" &\n')
    program.chmod(0o755)
    assert runs.sh(f"{program} & echo started", grace=0.2).outcome == "ok"
    assert not alive(runs.tag)


def test_J6_names_of_processes_are_shown_harmless(runs, tmp_path):
    program = tmp_path / "a) Z 1\n\x1b[m"
    shutil.copy("/bin/sleep", program)
    (orphan,) = runs.argv("/bin/sh", "-c", '"$1" inf & echo', "sh", str(program)).orphans
    assert orphan.split(" ", 1)[1] == "a) Z 1??[m"


def test_J6_without_a_reaper_the_session_is_searched(runs, monkeypatch):
    """An interpreter without ctypes cannot be had here, so its import is what fails."""
    monkeypatch.setattr(process, "SOURCE", process.SOURCE.replace("    import ctypes\n", "    raise ImportError\n", 1))
    ending = runs.sh("sleep inf & (sleep inf &) ; echo", grace=0.3)
    assert (ending.outcome, len(ending.orphans)) == ("ok", 2)


def test_J6_the_rest_of_a_pipeline_that_ends_by_itself_is_heard_out_and_no_orphan(runs, monkeypatch):
    sooner(monkeypatch, _SETTLE=LONG)
    ending = runs.sh("exec > >(sleep 0.3; cat); echo late", shell="/bin/bash")
    assert (ending.outcome, ending.orphans, runs.output) == ("ok", (), b"late\n")


@pytest.mark.parametrize("start", ["sleep inf &", "(setsid sleep inf &) ;", "setsid yes &"])
def test_J6_a_daemon_is_left_alone(runs, start, monkeypatch):
    sooner(monkeypatch, _SETTLE=0.1)
    ending = runs.sh(f"{start} echo started", daemon=True, limit=MIB)
    assert (ending.outcome, ending.orphans) == ("ok", ())
    assert b"started\n" in runs.output
    if "yes" not in start:  # that one ends when nobody reads it any more
        assert eventually(lambda: len(alive(runs.tag)) == 1)
        (pid,) = alive(runs.tag)
        os.kill(pid, signal.SIGKILL)
    assert eventually(lambda: not alive(runs.tag))


def test_J5_a_command_that_starts_daemons_is_ended_but_not_they(runs, monkeypatch):
    sooner(monkeypatch, _SETTLE=0.1)
    stop = functools.partial(any_in, runs.tag, leads=True)
    ending = runs.sh("setsid sleep inf & sh -c 'sleep inf; :'", daemon=True, stop=stop, grace=0.3)
    assert (ending.outcome, ending.orphans) == ("interrupted", ())
    (pid,) = alive(runs.tag)
    os.kill(pid, signal.SIGKILL)
    assert eventually(lambda: not alive(runs.tag))


def test_J6_commands_side_by_side_end_only_their_own(tag):
    """One has a child that must live to write its file, the others leave orphans the while."""
    results: dict[int, tuple[Ending, bytes]] = {}
    last = 7

    def job(number: int) -> None:
        runs = Runs(tag)
        text = "(setsid sh -c 'sleep 3; echo done' ) & wait" if number == last else "(setsid sleep inf &) ; exit 9"
        results[number] = (runs.sh(text, grace=0.2), runs.output)

    threads = [threading.Thread(target=job, args=(number,)) for number in range(last + 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    ending, output = results.pop(last)
    assert (ending.outcome, ending.orphans, output) == ("ok", (), b"done\n")
    assert {(each.status, len(each.orphans)) for each, _ in results.values()} == {(9, 1)}


# who ends it


def test_J5_a_command_is_ended_when_the_runner_is_told_to_stop(runs):
    stop = threading.Event()
    pieces: list[bytes] = []

    def sink(data: bytes) -> None:
        pieces.append(data)
        stop.set()

    text = "echo go; sleep inf & exec sleep inf"
    command = Command(("/bin/sh", "-c", text), "/", {"PATH": PATH, runs.tag: ""}, LONG, daemon=False)
    ending = run(command, sink, stop=stop.is_set, grace=0.3)
    assert (ending.outcome, ending.status) == ("interrupted", None)
    assert b"".join(pieces) == b"go\n[ended: stopped]\n"


def test_a_runner_that_was_told_to_stop_starts_nothing(runs, tmp_path):
    ending = runs.argv("touch", str(tmp_path / "file"), stop=lambda: True)
    assert ending.outcome == "interrupted"
    assert not (tmp_path / "file").exists()


def test_J4_a_command_ends_with_a_runner_that_was_killed(tag):
    """The lock is gone with the runner: the next run must not meet the last one's jobs."""
    code = """
text = "trap 'exit 0' TERM; echo $$; (setsid sleep inf &) ; sleep inf & wait"
run(Command(("/bin/sh", "-c", text), "/", {"PATH": "/usr/bin:/bin", sys.argv[1]: ""}, 60.0, False),
    lambda data: os.write(1, data), grace=0.3)
"""
    head = f"import sys, os; sys.path.insert(0, {str(ROOT)!r}); from runsdeploy.jobs.process.process import *\n"
    with subprocess.Popen([sys.executable, "-I", "-c", head + code, tag], stdout=subprocess.PIPE) as runner:
        assert runner.stdout.readline()
        assert eventually(lambda: len(alive(tag)) == 4)  # the runner, the command and its two
        runner.kill()
    assert eventually(lambda: not alive(tag))


def test_J18_a_command_whose_supervisor_was_killed_is_not_ok(runs):
    ending = runs.sh("sleep inf & kill -9 $PPID; sleep inf", grace=0.3)
    assert (ending.outcome, ending.status) == ("interrupted", None)
    assert runs.output == b"[the supervisor of the command has died, and the command was killed]\n"
    assert eventually(lambda: not alive(runs.tag))


def test_J5_time_is_kept_while_the_sink_hangs(runs):
    release = threading.Event()
    stuck = threading.Thread(target=lambda: (eventually(lambda: not alive(runs.tag)), release.set()))
    first = threading.Event()

    def sink(_: bytes) -> None:
        if not first.is_set():
            first.set()
            stuck.start()
            release.wait()

    command = Command(("/bin/sh", "-c", "echo; exec sleep inf"), "/", {"PATH": PATH, runs.tag: ""}, 0.5, daemon=False)
    assert run(command, sink).outcome == "timeout"
    stuck.join()


def test_a_mistake_in_the_sink_is_raised_and_leaves_nothing(runs):
    def sink(_: bytes) -> None:
        raise KeyError("mistake")

    command = Command(("/bin/sh", "-c", "sleep inf & yes"), "/", {"PATH": PATH, runs.tag: ""}, LONG, daemon=False)
    with pytest.raises(KeyError, match="mistake"):
        run(command, sink, grace=0.3)


# what it prints


def test_J8_output_comes_in_order_and_in_whole_lines(runs):
    text = "for i in $(seq 3000); do echo out $i; echo err $i >&2; done; printf end"
    assert runs.sh(text).outcome == "ok"
    assert runs.output == b"".join(b"out %d\nerr %d\n" % (i, i) for i in range(1, 3001)) + b"end"
    assert all(piece.endswith(b"\n") for piece in runs.pieces[:-1])


def test_J8_a_line_that_never_ends_comes_in_pieces(runs):
    ending = runs.sh(f"head -c {100 * MIB} /dev/zero; echo; echo end", limit=101 * MIB, spool="/tmp")  # noqa: S108
    assert ending.dropped == 0
    assert max(map(len, runs.pieces)) == PIECE
    assert runs.output == b"\0" * (100 * MIB) + b"\nend\n"


@pytest.mark.parametrize("limit", [100 * MIB, 3 * MIB, 4 * MIB, 10 * MIB])
def test_J8_bytes_are_kept_as_they_are(runs, tmp_path, limit):
    seed = random.randrange(1 << 32)
    print("seed", seed)
    data = random.Random(seed).randbytes(3 * MIB)
    (tmp_path / "data").write_bytes(data)
    assert runs.argv("cat", str(tmp_path / "data"), limit=limit, spool=str(tmp_path)).dropped == 0
    assert runs.output == data
    assert list(tmp_path.iterdir()) == [tmp_path / "data"]


def expected(data: bytes, limit: int) -> tuple[bytes, int]:
    """Return what is kept of some output, and how much is not."""
    if len(data) <= limit:
        return data, 0
    head, tail, dropped = data[: limit // 10], data[len(data) - (limit - limit // 10) :], len(data) - limit
    newline = b"\n" if head and not head.endswith(b"\n") else b""
    return head + newline + b"[%d bytes of output dropped here]\n" % dropped + tail, dropped


@pytest.mark.parametrize("case", range(40))
def test_J8_the_head_and_the_tail_are_kept_to_the_byte(runs, tmp_path, case):
    seed = random.randrange(1 << 32)
    print("seed", seed)
    chance = random.Random(seed)
    limit = chance.choice([0, 1, 9, 10, 11, 100, 1000, 65535, 65536, 65537, chance.randrange(400_000)])
    size = max(0, chance.choice([0, limit, limit - 1, limit + 1, limit // 10, limit * 2, chance.randrange(900_000)]))
    data = bytes(chance.choices(b"abc\n", weights=[50, 50, 50, chance.choice([0, 1, 20])], k=size))
    (tmp_path / "data").write_bytes(data)
    spool = str(tmp_path) if case % 2 else None
    ending = runs.argv("cat", str(tmp_path / "data"), limit=limit, spool=spool)
    assert (runs.output, ending.dropped) == expected(data, limit)


def test_J8_a_flood_takes_no_memory_and_its_end_is_kept(tag, tmp_path):
    code = """
kept = [0, b"", b""]
def sink(data):
    kept[0] += len(data); kept[1] = kept[1] or data[:30]; kept[2] = (kept[2] + data)[-30:]
text = "echo first; head -c %d /dev/zero | tr '\\\\0' '\\\\n'; echo last; exit 5" % (150 * 1024 * 1024)
ending = run(Command(("/bin/sh", "-c", text), "/", {"PATH": "/usr/bin:/bin", sys.argv[1]: ""}, 100.0, False),
             sink, spool=sys.argv[2])
peak = int(open("/proc/self/status").read().split("VmHWM:")[1].split()[0])
print(json.dumps([ending.outcome, ending.status, ending.dropped, kept[0], kept[2].decode()[-5:], peak]))
"""
    done = inside(code, tag, str(tmp_path))
    outcome, status, dropped, kept, end, peak = json.loads(done.stdout)
    total = 150 * MIB + len("first\nlast\n")
    assert (outcome, status, dropped, end) == ("failed", 5, total - 100 * MIB, "last\n")
    assert kept == 100 * MIB + len(f"[{dropped} bytes of output dropped here]\n")
    assert peak < 50 * 1024
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("spool", [None, "/no/such/directory"])
def test_J3_without_a_disk_the_last_of_the_output_is_kept_in_memory(runs, spool):
    ending = runs.sh(f"head -c {2 * MIB} /dev/zero; echo last", limit=10 * MIB, spool=spool)
    assert ending.outcome == "ok"
    assert ending.dropped == MIB + 5 - IN_MEMORY
    assert runs.output.endswith(b"\0last\n")
    assert len(runs.output) == MIB + IN_MEMORY + len(f"\n[{ending.dropped} bytes of output dropped here]\n")


@as_root
@pytest.mark.parametrize("room", [64, 300, 512, 2048, 4096])
@pytest.mark.parametrize("size", [MIB + 400_001, 5 * MIB + 1])
def test_J3_a_disk_that_fills_up_costs_output_but_not_the_job(runs, tmp_path, room, size):
    seed = random.randrange(1 << 32)
    print("seed", seed)
    data, spool = random.Random(seed).randbytes(size), tmp_path / "spool"
    (tmp_path / "data").write_bytes(data)
    spool.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={room}k", "tmpfs", spool], check=True)
    try:
        ending = runs.sh(f"cat {tmp_path}/data; exit 4", limit=10 * MIB, spool=str(spool))
    finally:
        subprocess.run(["umount", spool], check=True)
    assert (ending.outcome, ending.status) == ("failed", 4)
    kept = size - MIB if size - MIB <= room * 1024 else min(size - MIB, IN_MEMORY)
    assert ending.dropped == size - MIB - kept
    assert runs.output.startswith(data[:MIB])
    assert runs.output.endswith(data[-kept:])
    assert len(runs.output) == size if not ending.dropped else b"bytes of output dropped here]\n" in runs.output


def test_J3_a_log_that_cannot_be_written_does_not_stop_the_job(runs):
    written: list[bytes] = []
    calls = iter(range(10**6))

    def sink(data: bytes) -> None:
        if 1 <= next(calls) <= 2:
            raise OSError(28, "No space left on device")
        written.append(data)

    text = f"for i in 1 2 3 4; do printf '%0{PIECE - 1}d\\n' $i; done; exit 6"
    command = Command(("/bin/sh", "-c", text), "/", {"PATH": PATH, runs.tag: ""}, LONG, daemon=False)
    ending = run(command, sink)
    assert (ending.outcome, ending.status, ending.dropped) == ("failed", 6, 2 * PIECE)
    first, note, last = written
    assert (first[-2:], len(first), last[-2:], len(last)) == (b"1\n", PIECE, b"4\n", PIECE)
    assert note == b"\n[%d bytes of output could not be written here]\n" % (2 * PIECE)


def test_J3_a_log_that_can_never_be_written_is_counted(runs):
    def sink(_: bytes) -> None:
        raise OSError(28, "No space left on device")

    command = Command(("/bin/sh", "-c", "yes | head -c 1000000"), "/", {"PATH": PATH, runs.tag: ""}, LONG, daemon=False)
    for limit in (10_000_000, 500_000):
        ending = run(command, sink, limit=limit)
        assert (ending.outcome, ending.dropped) == ("ok", 1_000_000)


# where it runs


@pytest.mark.parametrize("python", pythons())
def test_J24_it_works_from_a_zip_that_is_replaced_on_every_python(tag, tmp_path, python):
    archive = tmp_path / "runner.pyz"
    with zipfile.ZipFile(archive, "w") as file:
        names = (
            "__init__.py",
            "process/__init__.py",
            "process/capture.py",
            "process/process.py",
            "process/supervisor.py",
        )
        for name in ("__init__.py", *(f"jobs/{name}" for name in names)):
            file.write(ROOT / "runsdeploy" / name, f"runsdeploy/{name}")
        file.writestr(
            "__main__.py",
            """
import json, os, sys
from runsdeploy.jobs.process.process import Command, run
os.unlink(sys.argv[0])
def go(text, timeout=60.0, **options):
    out = []
    environment = {"PATH": "/usr/bin:/bin", sys.argv[1]: "\\u00f8"}
    ending = run(Command(("/bin/sh", "-c", text), "/", environment, timeout, False), out.append, grace=0.3, **options)
    return [ending.outcome, ending.status, len(ending.orphans), ending.dropped, b"".join(out).decode("utf-8")]
print(json.dumps([
    go("exit 3"), go("kill -9 $$"), go("printenv %s" % sys.argv[1]), go("(setsid sleep inf &) ; sleep 0.2"),
    go("exec sleep inf", 0.2), go("printf 0123456789abcdefghij", limit=10, spool="/tmp"), go("exec /no/such"),
    run(Command(("/no/such",), "/", {}, 1.0, False), lambda data: None).outcome,
    run(Command(("true",), "/no/such", {}, 1.0, False), lambda data: None).outcome,
]))
""",
        )
    done = subprocess.run(
        [python, "-I", "-W", "error", archive, tag], env={}, capture_output=True, timeout=60, check=False
    )
    assert done.stderr == b""
    one, two, three, four, five, six, seven, *rest = json.loads(done.stdout)
    assert one == ["failed", 3, 0, 0, ""]
    assert two == ["killed", 9, 0, 0, ""]
    assert three == ["ok", 0, 0, 0, "ø\n"]
    assert four[:4] == ["ok", 0, 1, 0]
    assert five == ["timeout", None, 0, 0, "[ended: not finished in 0.2 seconds]\n"]
    assert six == ["ok", 0, 0, 10, "0\n[10 bytes of output dropped here]\nbcdefghij"]
    assert seven[:2] == ["failed", 127]
    assert rest == ["not-found", "not-found"]
