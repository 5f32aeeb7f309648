"""Hosts that are short of something: room, leave to write or to execute, programs, a bash, or their own processes.

Every host here is a real sshd in a mount namespace of its own (see places.py). Full sizes with RUNSDEPLOY_TEST_FULL=1.
"""

# ruff: noqa: S108 - what is called /tmp here is what a host with mounts of its own calls so
from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import stat
import subprocess
from pathlib import Path

import pytest

from runsdeploy.session.program import shell_file
from tests import trees
from tests.chaos.places import busybox, place, why_not
from tests.chaos.proxy import Proxy, through
from tests.chaos.test_hangs import processes_of
from tests.trees import Executable, Operator, contents, plant, script, wait, wait_until

FULL = bool(os.environ.get("RUNSDEPLOY_TEST_FULL"))
HOST = "medusa.univ.run"
GUARD = "shouldrun || exit"
MARKER = re.compile(
    r"runsdeploy marker 1\nof \S+\n(value \S+\n)?time \S+Z\nsession \S+\ndigest \S+\nplan \S+\nscript \S+\nby \S+\n"
)
ROOT = Path(__file__).parents[2]

# Sweeps; what hangs in one of them is found by its own limit.
pytestmark = pytest.mark.timeout(3600 if FULL else 400)
needs_places = pytest.mark.skipif(bool(why_not()), reason=why_not() or "-")


@pytest.fixture(autouse=True)
def _soon_taken_for_hung(monkeypatch):
    monkeypatch.setattr(trees, "PATIENCE", 120)


@pytest.fixture(scope="module")
def shared_place():
    with place(HOST) as there:
        yield there


@pytest.fixture
def there(shared_place):
    """A host whose state is on a disk of its own, with all the room and nothing on it."""
    fresh(shared_place)
    return shared_place


@pytest.fixture
def own():
    """A host in a mount namespace of its own."""
    with place(HOST, server=("PermitUserEnvironment yes",)) as there:
        fresh(there)
        yield there


def fresh(there, options="mode=700"):
    idle(there)
    there.disk(there.host.state, options)


@pytest.fixture
def operator(tmp_path):
    return lambda there: Operator(tmp_path / "operator", there.host.ssh_config)


def tree_of(tmp_path, scripts, name="tree", **more):
    files = {f"scripts/{each}": text for each, text in scripts.items()}
    return plant(tmp_path / name, {**files, **more, "hosts/medusa/default": "".join(f"{each}\n" for each in scripts)})


def all_kinds(tmp_path):
    """Return a tree with files, markers of all kinds, and files made by one step for another, on either side."""
    return tree_of(
        tmp_path,
        {
            "make": script("ref f=data; out o", f'{GUARD}\ncat "$f" >"$o"\nsetdone part value\nsetdone'),
            "use": script("ref -r o", 'cat "$o"'),
            "once": script("conf once", "echo once"),
            "change": script("conf onchange", "urequire uinst\necho change"),
            "near": script("conf local; ref -r o", 'cat "$o"'),
        },
        **{"scripts/data": "DATA\n"},
    )


def wrong_after(done, first="ok"):
    """Say what is wrong with a deploy of that tree that should have gone well."""
    expected = [first, "ok", first, first, "ok"]
    if [outcome for _, outcome in done.outcomes] != expected:
        return [f"{done.outcomes} {done.document['hosts'][0].get('message')}"]
    return (
        [] if done.output.count("DATA\n") == 2 else [f"the files that steps made for others were lost: {done.output!r}"]
    )


def lines_of(wrong):
    """Return all that is wrong in lines of its own: pytest shortens what is long."""
    return "\n".join(f"{case}: {each}" for case, found in wrong.items() for each in found)


def message(done):
    return done.document["hosts"][0].get("message") or ""


def marked(state, name="a", sub=None):
    return (state / f"markers/{name}" / (f"subsystem={sub}" if sub else "script")).exists()


def torn(state):
    """Return what lies among the markers and is none."""
    files = [path for path in (state / "markers").rglob("*") if path.is_file()]
    return [f"{path.name}: {path.read_text()!r}" for path in files if not MARKER.fullmatch(path.read_text())]


def shipped(state):
    """Return what is left of what was sent: it may hold secrets, and could be run."""
    return [path for path in contents(state) if re.search(rb"/(files|segment\d+/(run|payload[^/]*))(/|$)", path)]


def idle(there):
    # One look can miss what is being forked while it lasts.
    wait_until(lambda: not there.host.processes() and not there.host.processes())


@contextlib.contextmanager
def under_way(operator, *words):
    """Start a deploy, and leave none behind whatever the test finds."""
    with operator.start(*words) as process:
        try:
            yield process
        finally:
            if process.poll() is None:
                process.kill()


# --- R12, T6: full disks

SIZES = range(4, 2560, 4) if FULL else (*range(4, 150, 32), *range(1068, 1240, 32), 1600, 2300)
INODES = range(1, 64) if FULL else (1, 4, 7, 9, 10, 11, 12, 20, 27, 29, 31, 33, 35, 37, 39, 41, 44)


def climb(there, operator, tree, options, said):
    """Deploy onto a disk of such a size; return what is wrong."""
    fresh(there, f"mode=700,{options}")
    done = operator.deploy(tree, "--patience", "3")
    idle(there)
    wrong = [f"torn: {each}" for each in torn(there.state)]
    if done.status == 0:
        return [*wrong, *([] if marked(there.state) else ["ok without its marker"])]
    # With room for a step to begin but not for its output, that step fails and reports it.
    text = done.out.decode() if done.hosts == {HOST: "failed"} else message(done)
    if (
        done.hosts not in ({HOST: "refused"}, {HOST: "failed"})
        or str(there.host.state) not in text
        or not re.search(said, text)
    ):
        wrong += [f"{done.hosts} {done.outcomes}: {message(done)}"]
    wrong += [f"left {shipped(there.state)[0].decode()}"] if shipped(there.state) else []
    there.run(f'mount -o remount,size=16m,nr_inodes=2000 "{there.host.state}"')
    again = operator.deploy(tree)
    return (
        wrong if again.outcomes == [("a", "ok")] else [*wrong, f"not even with room: {again.outcomes} {message(again)}"]
    )


@needs_places
def test_r12_t6_a_disk_of_any_size_is_enough_or_refused_with_what_is_free(there, operator, tmp_path):
    tree = tree_of(tmp_path, {"a": script("", f"{GUARD}\nsetdone")})
    wrong = {}
    for size in SIZES:
        found = climb(there, operator(there), tree, f"size={size}k", r"1 MiB.*\d KiB and \d+ inodes free")
        wrong |= {f"{size} KiB": found} if found else {}
    assert not wrong, lines_of(wrong)


@needs_places
def test_r12_r24_t6_a_disk_of_any_number_of_inodes_is_enough_or_refused_with_what_is_free(there, operator, tmp_path):
    tree = tree_of(tmp_path, {"a": script("", f"{GUARD}\nsetdone")})
    wrong = {}
    for count in INODES:
        try:
            found = climb(there, operator(there), tree, f"nr_inodes={count}", r"inode|No space left")
        except subprocess.TimeoutExpired:
            found = ["it hangs"]
        wrong |= {f"{count} inodes": found} if found else {}
    assert not wrong, lines_of(wrong)


@needs_places
def test_r12_an_archive_that_does_not_fit_is_refused_though_it_is_still_being_sent(there, operator, tmp_path):
    # More than the connection takes in before it is read.
    big = os.urandom(6 << 20)
    tree = tree_of(tmp_path, {"a": script("ref f=big", "true")}, **{"scripts/big": big})
    fresh(there, "mode=700,size=4m")
    done = operator(there).deploy(tree, "--patience", "3")
    assert done.hosts == {HOST: "refused"}, done.talk
    assert re.search(r"\d+ bytes and 1 MiB are needed, .* has \d+ KiB and \d+ inodes free", message(done))
    assert not shipped(there.state)


FILL = 'cat /dev/zero >"$RUNS_STATE/filler"'
ON_A_FULL_DISK = {
    "marks": (f"{GUARD}\n{FILL}\nsetdone", {"failed", "ok"}),
    "marks without asking": (f"{FILL}\nsetdone", {"failed", "ok"}),
    "marks and does not care": (f"{FILL}\nsetdone || true\nfalse || true", {"failed", "ok"}),
    "fails": (f"{FILL}\nfalse", {"failed"}),
    "leaves": (f"{FILL}\nexit 3", {"failed"}),
    "is content": (f"{FILL}\ntrue", {"ok", "failed"}),
    "says a little": (f"{FILL}\nfor i in {{1..900}}; do echo this is line $i; done\ntrue", {"ok"}),
    "says much and fails": (f"{FILL}\nhead -c 60000 /dev/zero | tr '\\0' x\nexit 5", {"failed"}),
    "says more than was put aside": (f"{FILL}\nhead -c 3000000 /dev/zero | tr '\\0' x\nexit 6", {"failed", "lost"}),
}
"""what a step does, and its possible outcomes"""


@needs_places
@pytest.mark.parametrize("case", ON_A_FULL_DISK)
def test_r12_a_step_that_fills_the_disk_ends_as_it_ended_and_its_markers_are_true(there, operator, tmp_path, case):
    body, outcomes = ON_A_FULL_DISK[case]
    fresh(there, "mode=700,size=4m")
    tree = tree_of(tmp_path, {"a": script("", body)})
    done = operator(there).deploy(tree)
    idle(there)
    outcome = done.outcomes[0][1]
    assert not torn(there.state)
    assert outcome in outcomes, done.output[-500:]
    if "setdone" in body:
        assert marked(there.state) == (outcome == "ok"), done.output
    (there.state / "filler").unlink()
    after = operator(there).deploy(tree_of(tmp_path, {"a": script("", f"{GUARD}\nsetdone")}, name="after"))
    assert after.outcomes == [("a", "already-done" if "setdone" in body and outcome == "ok" else "ok")]
    assert marked(there.state)


SLOW_CAT = """\
#!/bin/sh
# Only the relay calls it without arguments.
if [ $# = 0 ]; then
    {slow}
fi
exec /usr/bin/cat "$@"
"""
SLOW = {
    "last": """
        dd bs=4096 count=1 2>/dev/null
        until [ -e "{state}"/sessions/*/segment0/finished ]; do sleep 0.02; done
        sleep 1.5""",
    "first": """
        turn=0
        until [ -e "{home}/full" ] || [ $((turn += 1)) = 50 ]; do sleep 0.02; done""",
}
"""Whose words the spool gets late: the last are in the pipe long since, or the first when the disk may be full."""


@needs_places
@pytest.mark.parametrize(
    ("late", "body"), [("last", "true"), ("last", FILL), ("first", FILL)], ids=["last", "last-full", "first-full"]
)
def test_r12_a_spool_that_is_written_late_still_has_beginning_and_end(own, operator, tmp_path, late, body):
    fresh(own, "mode=700,size=4m")
    own.disk("/usr/local/bin", "mode=755")
    text = SLOW_CAT.format(slow=SLOW[late].format(state=own.host.state, home=own.host.home))
    plant(own.see("/usr/local/bin"), {"cat": Executable(text)})
    lines = "".join(f"this is line {n}\n" for n in range(900))
    body = f'{body}\n: >"{own.host.home}/full"\nsleep 0.5\nfor i in {{0..899}}; do echo this is line $i; done'
    done = operator(own).deploy(tree_of(tmp_path, {"a": script("", body)}))
    assert done.outcomes == [("a", "ok")], done.talk
    assert late == "first" or done.output.endswith(lines)


@needs_places
def test_r12_a_marker_that_cannot_be_replaced_stays_what_it_was(there, operator, tmp_path):
    fresh(there, "mode=700,size=4m")
    old = tree_of(tmp_path, {"a": script("", "setdone sub old")}, name="old")
    assert operator(there).deploy(old).status == 0
    before = (there.state / "markers/a/subsystem=sub").read_text()
    new = tree_of(tmp_path, {"a": script("", f"{FILL}\nsetdone sub new")})
    done = operator(there).deploy(new)
    after = (there.state / "markers/a/subsystem=sub").read_text()
    assert not torn(there.state)
    assert (after != before) == (done.outcomes == [("a", "ok")]), done.output


@needs_places
def test_r12_files_for_later_steps_that_do_not_fit_are_not_handed_on_empty(there, operator, tmp_path):
    """What a guarded step made is kept for the deploys in which it declines: kept whole, or it is not done."""
    fresh(there, "mode=700,size=8m")
    make = script("out o", f'{GUARD}\nhead -c 3000000 /dev/zero | tr "\\0" x >"$o"\nsetdone\n{FILL}\ntrue')
    tree = tree_of(tmp_path, {"make": make, "use": script("ref -r o", 'echo "$(($(wc -c <"$o")))"')})
    operator(there).deploy(tree)
    idle(there)
    (there.state / "filler").unlink()
    done = operator(there).deploy(
        tree_of(
            tmp_path,
            {"make": make.replace(FILL, ":"), "use": script("ref -r o", 'echo "$(($(wc -c <"$o")))"')},
            name="after",
        )
    )
    assert done.outcomes[-1] != ("use", "ok") or done.output.endswith("3000000\n"), (done.outcomes, done.output)


# --- INJ: calls of the system that fail

TOOLS = ("sync", "mv", "mkdir", "rm", "cp", "dd", "tar", "cat", "head", "mkfifo", "gzip", "tail")
CALLS = "write,fsync,fdatasync,rename,renameat,renameat2,mkdir,mkdirat,unlink,unlinkat,ftruncate,mknod,mknodat,sync"
FAULTY = """\
#!/bin/sh
# Nothing here may be looked for on PATH: it would be one of these again, and again.
read -r at <"{there}/at"
read -r error <"{there}/error"
echo "{tool} $*" >>"{there}/calls"
if [ "$at" -gt 0 ] && [ "$({wc} -l <"{there}/calls")" = "$at" ]; then
    exec {strace} -qq -f -o /dev/null -e trace={calls} -e "inject={calls}:error=$error" "{real}" "$@"
fi
exec "{real}" "$@"
"""
FAULTY_BASH = """\
#!/bin/sh
case "$*" in
*/run/runner.sh*)
    read -r at <"{there}/at"
    read -r error <"{there}/error"
    exec {strace} -qq -o "{there}/calls" -e signal=none -e trace=write,openat -P "$6/journal" -P "$6/group" \\
        -P "$6/owner" -P "$6/boot" -P "$6/finished" -P "$4/holder" -P "$4/lock" -P "$6/errors" -P "$6/ends" \\
        -e "inject=write,openat:error=$error:when=$at" "{real}" "$@"
    ;;
esac
exec "{real}" "$@"
"""
NEVER = "9999"
"""as the number of a call"""


def program(name):
    """Return the full path of a program that stands in no wrapper's way."""
    path = shutil.which(name, path="/usr/bin:/bin")
    assert path, f"there is no {name}"
    return path


def wrong_with_a_fault(there, operator, tree):
    """Deploy with a fault and then without; return what is wrong, and print it."""
    found = _wrong_with_a_fault(there, operator, tree)
    print("\n".join(found) or "as it should be")
    return found


def _wrong_with_a_fault(there, operator, tree):
    fresh(there)
    try:
        done = operator.deploy(tree, "--patience", "5")
    except subprocess.TimeoutExpired:
        return ["it hangs"]
    idle(there)
    wrong = [f"torn: {each}" for each in torn(there.state) if ".new." not in each]
    outcomes = dict(done.outcomes)
    if done.status not in (0, 1, 3) or done.hosts[HOST] not in ("ok", "failed", "refused", "interrupted", "lost"):
        wrong += [f"status {done.status}, {done.hosts}, {message(done)}"]
    if done.hosts[HOST] == "refused" and not message(done):
        wrong += ["refused without a word"]
    names = {"make": "script", "once": "script", "change": "subsystem=onchange"}
    wrong += [
        f"{name} is {outcomes[name]} without its marker"
        for name, file in names.items()
        if outcomes[name] in ("ok", "already-done") and not (there.state / f"markers/{name}/{file}").exists()
    ]
    (there.host.directory / "faults/at").write_text(NEVER)
    again = operator.deploy(tree)
    if again.status or again.output.count("DATA\n") != 2:
        wrong += [f"the next deploy: {again.outcomes} {message(again)} {again.output!r}"]
    return [f"{each} (after {done.hosts[HOST]} {done.outcomes} {message(done)})" for each in wrong]


@pytest.fixture
def faulty(own):
    """A host where the so manieth call fails: files `at` and `error` have the number and the error."""
    if not shutil.which("strace"):
        pytest.skip("needs the package strace")
    folder = own.host.directory / "faults"
    plant(folder, {"calls": "", "at": NEVER, "error": "ENOSPC", "bin": None})
    own.disk("/usr/local/bin", "mode=755")
    return own, folder


@needs_places
def test_r12_t6_a_failure_of_any_program_of_ours_is_reported_and_the_next_deploy_finishes(faulty, operator, tmp_path):
    there, folder = faulty
    found = {name: program(name) for name in ("wc", "strace")}
    for tool in TOOLS:
        text = FAULTY.format(tool=tool, there=folder, calls=CALLS, real=program(tool), **found)
        plant(there.see("/usr/local/bin"), {tool: Executable(text)})
    tree = all_kinds(tmp_path)
    assert operator(there).deploy(tree).status == 0
    idle(there)
    calls = (folder / "calls").read_text().splitlines()
    assert len(calls) > 10, "the programs are not used"
    wrong = {}
    # Two programs that run beside each other change places now and then: a number is not always the same call.
    for number in range(1, len(calls) + 1) if FULL else range(1, len(calls) + 1, max(1, len(calls) // 8)):
        for error in ("ENOSPC", "EIO") if FULL else ("ENOSPC", "EIO")[number % 2 :][:1]:
            plant(folder, {"calls": "", "at": str(number), "error": error})
            found = wrong_with_a_fault(there, operator(there), tree)
            here = (folder / "calls").read_text().splitlines()
            wrong |= {f"{number} {error} {here[number - 1] if len(here) >= number else '-'}": found} if found else {}
    assert not wrong, lines_of(wrong)


@needs_places
def test_r12_t6_a_runner_that_cannot_write_reports_it_and_the_next_deploy_finishes(faulty, operator, tmp_path):
    there, folder = faulty
    plant(
        there.see("/usr/local/bin"),
        {"bash": Executable(FAULTY_BASH.format(there=folder, real=program("bash"), strace=program("strace")))},
    )
    tree = all_kinds(tmp_path)
    assert operator(there).deploy(tree).status == 0
    idle(there)
    count = len((folder / "calls").read_text().splitlines())
    assert count > 10, "the runner is not traced"
    wrong = {}
    for number in range(1, count // 2) if FULL else range(1, count // 2, max(1, count // 12)):
        plant(folder, {"calls": "", "at": str(number), "error": "ENOSPC"})
        found = wrong_with_a_fault(there, operator(there), tree)
        here = [line for line in (folder / "calls").read_text().splitlines() if "INJECTED" in line]
        wrong |= {f"{number} {here}": found} if found else {}
    assert not wrong, lines_of(wrong)


# --- R22, R23, R24: mounts that allow less


@needs_places
def test_r22_noexec_everywhere(own, operator, tmp_path):
    for path in (own.host.state, "/tmp", "/dev/shm", "/run"):
        own.disk(path, "noexec,nosuid,nodev,mode=755")
    own.freeze(own.host.home, "noexec,nosuid,nodev")
    own.run("mkdir /run/sshd")
    operator, tree = operator(own), all_kinds(tmp_path)
    assert not wrong_after(operator.deploy(tree))
    assert not wrong_after(operator.deploy(tree), "already-done")


@needs_places
@pytest.mark.parametrize("what", ["the state", "its disk", "everything"])
def test_r23_no_step_runs_where_a_marker_cannot_be_kept(own, operator, tmp_path, what):
    match what:
        case "the state":
            own.run(f'mount -o remount,ro "{own.host.state}"')
        case "its disk":
            own.run(f'umount "{own.host.state}"; rmdir "{own.host.state}"')
            own.freeze("/var")
        case _:
            own.run(f'umount "{own.host.state}"; mount -o remount,bind,ro /')
    own.disk("/run", "mode=755")
    own.run("mkdir /run/sshd")
    tree = tree_of(tmp_path, {"first": script("", "true"), "a": script("", f"{GUARD}\nsetdone")})
    done = operator(own).deploy(tree)
    assert done.status == 3
    assert done.hosts == {HOST: "refused"}
    assert done.outcomes == [("first", "skipped"), ("a", "skipped")]
    assert str(own.host.state) in message(done)
    assert "Read-only file system" in message(done)
    plain = operator(own).deploy(tree_of(tmp_path, {"first": script("", 'echo "$RUNS_STATE"')}, name="plain"))
    assert plain.output == f"/run/runsdeploy-{os.geteuid()}\n"


@needs_places
def test_r23_no_step_runs_where_a_marker_of_a_later_segment_cannot_be_kept(own, operator, tmp_path):
    own.run(f'mount -o remount,ro "{own.host.state}"')
    own.disk("/run", "mode=755")
    own.run("mkdir /run/sshd")
    scripts = {"a": script("", "echo a"), "near": script("conf local", "echo near"), "z": script("conf once", "echo z")}
    done = operator(own).deploy(tree_of(tmp_path, scripts))
    assert done.hosts == {HOST: "refused"}
    assert [outcome for _, outcome in done.outcomes] == ["skipped"] * 3
    assert not shipped(own.see("/run"))


PLACES = ("/run/user/0", "/run", "/dev/shm", "/tmp")


@needs_places
def test_r23_what_needs_no_marker_runs_from_any_place_that_can_be_written_and_survives_a_cut(own, operator, tmp_path):
    own.run(f'mount -o remount,ro "{own.host.state}"')
    for path in ("/run", "/run/user/0", "/dev/shm", "/tmp"):
        own.disk(path, "mode=755")
    own.run("mkdir /run/sshd")
    # Through sshd, as pam_systemd would.
    keys = own.host.authorized_keys
    keys.write_text(f'environment="XDG_RUNTIME_DIR=/run/user/0" {keys.read_text()}')
    body = (
        f'touch "{own.host.home}/begun$1"\nuntil [[ -e "{own.host.home}/go" ]]; do sleep 0.02; done\necho "$RUNS_STATE"'
    )
    operator = operator(own)
    tree = tree_of(
        tmp_path, {"before": script("", "echo before"), "it": script("", body), "after": script("", "echo after")}
    )
    for writable in (
        [[each] for each in PLACES] + [[], list(PLACES)] + ([list(PLACES[:2]), list(PLACES[2:])] if FULL else [])
    ):
        for path in PLACES:
            own.run(f"mount -o remount,{'rw' if path in writable else 'ro'} {path}")
        for name in ("go", "begun"):
            (own.host.home / name).unlink(missing_ok=True)
        with under_way(operator, *operator.deploy_arguments(tree)) as process:
            if writable:
                wait_until((own.host.home / "begun").exists)
                before = {link.pid for link in own.host.connections()}
                own.host.cut()
                wait_until(lambda before=before: {link.pid for link in own.host.connections()} - before)
                (own.host.home / "go").touch()
            done = wait(process)
        idle(own)
        if writable:
            assert done.output == f"before\n{writable[0]}/runsdeploy-0\nafter\n", (writable, done.talk)
            assert done.status == 0
            assert "connected again" in str(done.events)
        else:
            assert done.hosts == {HOST: "refused"}
            assert str(own.host.state) in message(done)
        for path in PLACES:
            assert not shipped(own.see(path)), path


@needs_places
def test_r23_a_directory_of_another_user_is_not_used(own, operator, tmp_path):
    own.run(f'mount -o remount,ro "{own.host.state}"')
    for path in ("/run", "/dev/shm", "/tmp"):
        own.disk(path, "mode=1777")
    own.run("mkdir /run/sshd")
    own.run("mkdir -m 700 /run/runsdeploy-0; chown 61874 /run/runsdeploy-0")
    own.run("mkdir -m 700 /tmp/real; ln -s /tmp/real /dev/shm/runsdeploy-0; mkdir -m 755 /tmp/runsdeploy-0")
    done = operator(own).deploy(tree_of(tmp_path, {"a": script("", "true")}))
    assert done.hosts == {HOST: "refused"}
    assert not list(own.see("/tmp/real").iterdir())
    assert not list(own.see("/run/runsdeploy-0").iterdir())


@needs_places
@pytest.mark.parametrize("options", ["size=1m", "size=4k", "nr_inodes=1"])
def test_r24_a_small_tmp_is_no_matter_or_is_named(own, operator, tmp_path, options):
    own.disk("/tmp", f"mode=1777,{options}")
    tree = all_kinds(tmp_path)
    assert not wrong_after(operator(own).deploy(tree))
    assert not list(own.see("/tmp").iterdir())
    idle(own)
    own.run(f'mount -o remount,ro "{own.host.state}"')
    own.run("mount -o remount,bind,ro /")
    for path in ("/run", "/dev/shm"):
        own.disk(path, "mode=755")
        own.run(f"{'mkdir /run/sshd;' if path == '/run' else ''} mount -o remount,ro {path}")
    plain = tree_of(tmp_path, {"a": script("", "true")}, name="plain")
    done = operator(own).deploy(plain, "--patience", "3")
    assert done.hosts == {HOST: "refused"}
    assert "/tmp" in message(done) or str(own.host.state) in message(done)
    # Of two that can be written the one that fits is taken.
    own.run("mount -o remount,rw /dev/shm")
    for small, big in (("/run", "/dev/shm"),):
        own.disk(small, "mode=755,size=64k")
        own.run("mkdir /run/sshd")
        done = operator(own).deploy(tree_of(tmp_path, {"a": script("", 'echo "$RUNS_STATE"')}, name="fits"))
        assert done.output == f"{big}/runsdeploy-0\n", message(done)


# --- R25: modes


@needs_places
@pytest.mark.parametrize("umask", ["000", "777"])
def test_r25_all_we_keep_is_private_whatever_the_umask(own, operator, tmp_path, umask):
    own.run(f'umount "{own.host.state}"; rmdir "{own.host.state}"')
    plant(own.host.home, {".bashrc": f"umask 022; touch ~/read; umask {umask}\n"})
    body = f'{GUARD}\numask\nrm "$o"; echo new >"$o"; mkdir -p made/here; touch made/here/file ~/mine\n'
    body += '(cd "$RUNS_STATE" && find . -printf "%m %y %p\\n") >~/seen\nsetdone; setdone sub value'
    tree = tree_of(
        tmp_path, {"a": script("out o; ref f=data", body), "b": script("conf once")}, **{"scripts/data": "x"}
    )
    done = operator(own).deploy(tree)
    assert done.status == 0, done.talk
    assert done.output.startswith("0022\n")
    assert (own.host.home / "read").exists(), "this sshd's bash read no ~/.bashrc"
    assert stat.S_IMODE((own.host.home / "mine").stat().st_mode) == 0o644
    idle(own)
    modes = {path: stat.S_IMODE(path.lstat().st_mode) for path in [own.host.state, *own.host.state.rglob("*")]}
    assert {path.name: oct(mode) for path, mode in modes.items() if mode & 0o077} == {}
    # While it runs, what is not private itself lies in directories that are.
    lines = [line.split(" ", 2) for line in (own.host.home / "seen").read_text().splitlines()]
    open_paths = [path for mode, kind, path in lines if int(mode, 8) & 0o077 and kind != "l"]
    closed = [f"{path}/" for mode, kind, path in lines if kind == "d" and not int(mode, 8) & 0o077 and path != "."]
    assert [path for path in open_paths if not path.startswith(tuple(closed))] == []


# --- R26: bash


@pytest.fixture
def posix(own):
    """A host whose user logs in with sh, so that bash can be missing."""
    passwd = Path("/etc/passwd").read_text()
    changed = re.sub(r"^(root:.*:)[^:\n]*$", r"\1/bin/sh", passwd, flags=re.MULTILINE)
    plant(own.host.directory, {"passwd": changed})
    own.run(f'mount --bind "{own.host.directory}/passwd" /etc/passwd')
    return own


@needs_places
def test_r26_no_bash_is_refused_and_nothing_is_left(posix, operator, tmp_path):
    posix.hide("bash", "rbash")
    done = operator(posix).deploy(tree_of(tmp_path, {"a": script("", "true")}))
    assert done.hosts == {HOST: "refused"}
    assert message(done).startswith("the target has no `bash`")
    assert contents(posix.state) == {}


@needs_places
def test_r26_bash_of_another_directory_is_found(posix, operator, tmp_path):
    posix.disk("/usr/local/bin", "mode=755")
    shutil.copy(shutil.which("bash"), posix.see("/usr/local/bin/bash"))
    posix.hide("bash", "rbash")
    done = operator(posix).deploy(tree_of(tmp_path, {"a": script("", 'echo "$BASH"')}))
    assert done.output == "/usr/local/bin/bash\n", message(done)


@needs_places
@pytest.mark.parametrize("version", ["3.2", "4.1"])
def test_r26_an_old_bash_is_refused_with_version_and_path(posix, operator, tmp_path, version):
    posix.disk("/usr/local/bin", "mode=755")
    # Its own report counts here; the test below uses a real one.
    plant(posix.see("/usr/local/bin"), {"bash": Executable(f"#!/bin/sh\necho '{version}.48(1)-release'\n")})
    posix.hide("bash", "rbash")
    done = operator(posix).deploy(tree_of(tmp_path, {"a": script("conf once", "true")}))
    assert done.hosts == {HOST: "refused"}
    assert re.search(rf"`/\S+/bash` is {version}\.48\(1\)-release, expected bash 4\.2 or later", message(done))
    idle(posix)
    assert not shipped(posix.state)
    assert not (posix.state / "markers").exists()


@needs_places
def test_r26_the_bashes_at_hand(own, operator, tmp_path):
    """RUNSDEPLOY_TEST_BASHES is a directory of programs bash-VERSION."""
    folder = os.environ.get("RUNSDEPLOY_TEST_BASHES")
    if not folder:
        pytest.skip("RUNSDEPLOY_TEST_BASHES names no directory of programs bash-VERSION")
    own.disk("/usr/local/bin", "mode=755")
    operator, tree, wrong = operator(own), all_kinds(tmp_path), {}
    for program in sorted(Path(folder).glob("bash-*")):
        version = tuple(map(int, program.name.removeprefix("bash-").split(".")[:2]))
        own.see("/usr/local/bin/bash").unlink(missing_ok=True)
        shutil.copy(program, own.see("/usr/local/bin/bash"))
        fresh(own)
        first = operator.deploy(tree)
        if version < (4, 2):
            # Passed over: the machine's own is new enough.
            found = wrong_after(first)
        else:
            failing = tree_of(tmp_path, {"a": script("conf strict", "true\nfalse\ntrue")}, name="failing")
            ended = operator.deploy(failing)
            found = wrong_after(first) + wrong_after(operator.deploy(tree), "already-done")
            found += [] if str(ended.steps[0].get("failed_at")).endswith(":4") else [str(ended.steps)]
            killed = operator.deploy(tree_of(tmp_path, {"a": script("", "sleep 60")}, name="slow"), "--timeout", "1")
            found += [] if killed.outcomes == [("a", "timeout")] else [str(killed.outcomes)]
        idle(own)
        wrong |= {program.name: found} if found else {}
    assert not wrong, lines_of(wrong)


NEWER = {
    r"\b(local|declare|typeset|readonly|export)\s+-[a-zA-Z]*[nI]\b(?<!export -n)": "4.3: name references",
    r"\blocal\s+-(\s|$)": "4.4: local -",
    r"\bwait\s+-[a-z]*[npf]": "4.3: wait -n",
    r"\b(mapfile|readarray)\b[^|;&]*\s-d": "4.4: mapfile -d",
    r"\$\{[!#]?\w+(\[[^]]*\])?@[A-Za-z]\}": "4.4: ${x@Q}",
    r"\b(inherit_errexit|localvar_inherit|localvar_unset|assoc_expand_once|patsub_replacement|varredir_close|globskipdots)\b": "4.4+: shopt",  # noqa: E501
    r"%\([^)]*\)T(?![^;|&]*(-1|\$))": "4.3: %()T without an argument",
    r"(\[\[|\btest|\[)\s[^]]*-v\s+\"?\w+\[": "4.3: -v of an element",
    r"(\[\[|\btest|\[)\s[^]]*\s-R\s": "4.3: -R",
    r"(^|[\s;(])\w+\[\s*-\d+\s*\]\+?=": "4.3: assignment to a negative subscript",
    r"\bunset\s+[\"']?\w+\[\s*-": "4.3: unset of a negative subscript",
    r"\b(EPOCHSECONDS|EPOCHREALTIME|SRANDOM|BASH_ARGV0|BASH_MONOSECONDS|GLOBSORT)\b": "5.0+: variables",
    r"\$\{[\s|]": "5.3: ${ command; }",
    r"\bread\s+-[a-z]*E": "5.3: read -E",
    r"\bset\s+-[a-zA-Z]*u|\bnounset\b": "4.4: empty arrays under set -u",
}
"""Constructs that bash 4.2 does not know, or reads otherwise."""
GUARDED = {"if ((BASH_VERSINFO[0] * 100 + BASH_VERSINFO[1] >= 404)); then set -u; fi"}


def shell_files():
    """Return all bash that is shipped."""
    files = [path for path in (ROOT / "runsdeploy/shell").rglob("*") if path.suffix == ".sh"]
    files += [path for path in (ROOT / "runsdeploy/builtin").rglob("*") if path.is_file() and path.suffix != ".json"]
    return sorted(path for path in files if b"\0" not in path.read_bytes())


def newer(text):
    lines = [(n, line.strip()) for n, line in enumerate(text.splitlines(), 1) if not line.lstrip().startswith("#")]
    lines = [(n, line) for n, line in lines if line not in GUARDED]
    return [(n, what) for n, line in lines for rule, what in NEWER.items() if re.search(rule, line)]


def test_r26_no_shell_that_is_shipped_is_newer_than_bash_4_2():
    files = shell_files()
    assert {"bootstrap.sh", "runner.sh", "uinst.sh"} <= {path.name for path in files}
    assert [f"{path}:{line}: {what}" for path in files for line, what in newer(path.read_text())] == []


@pytest.mark.parametrize(
    "line",
    [
        "local -n x=y", "declare -gn x", "wait -n", "mapfile -d '' a", 'echo "${x@Q}"', 'echo "${a[@]@Q}"',
        "shopt -s inherit_errexit", "printf '%(%s)T\\n'", "[[ -v a[0] ]]", "a[-1]=x", "unset 'a[-1]'", "unset a[-1]",
        "echo $EPOCHSECONDS", "local -", "set -eu", "set -o nounset", "x=${ echo; }",
    ],
)  # fmt: skip
def test_r26_the_lint_finds_what_is_newer(line):
    assert newer(line)


@pytest.mark.parametrize(
    "line",
    [
        "export -n A B",
        "printf '%(%s)T' -1",
        "unset -n_",
        "a[i - 1]=x",
        "[[ -v x ]]",
        'local -a x=("${y[@]}")',
        "${x: -1}",
    ],
)
def test_r26_the_lint_leaves_alone_what_bash_4_2_knows(line):
    assert not newer(line.replace("unset -n_", "unset x"))


# --- R27, T29: few programs

CALLED = (
    "cat", "cp", "dd", "df", "env", "fallocate", "find", "flock", "grep", "gzip", "head", "id", "ls", "mkdir", "mkfifo",
    "mv",
    "od", "rm", "rmdir", "sed", "setsid", "sha256sum", "sleep", "sync", "tail", "tar", "tr", "wc",
)  # fmt: skip
"""Programs that ours call."""


@pytest.fixture(scope="module")
def boxes(tmp_path_factory):
    """Two hosts with nothing but busybox and bash: one whose sh is busybox's, one whose sh is not."""
    if not shutil.which("busybox"):
        pytest.skip("needs the package busybox")
    with contextlib.ExitStack() as stack:
        hosts = {}
        for shell in ("busybox", "dash"):
            programs = busybox(tmp_path_factory.mktemp(shell) / "bin")
            if shell == "dash":
                # Busybox's own may find its applets without looking for programs.
                (programs / "sh").unlink()
                shutil.copy(shutil.which("dash") or shutil.which("bash"), programs / "sh")
            hosts[shell] = stack.enter_context(place(HOST))
            hosts[shell].only(programs)
            hosts[shell].programs = programs
        yield hosts


@needs_places
@pytest.mark.parametrize("shell", ["busybox", "dash"])
def test_r27_t29_busybox_is_enough(boxes, operator, tmp_path, shell):
    there = boxes[shell]
    fresh(there)
    operator, tree = operator(there), all_kinds(tmp_path)
    assert operator.deploy(tree, "--dry-run").status == 0
    assert not wrong_after(operator.deploy(tree))
    assert not wrong_after(operator.deploy(tree), "already-done")
    foretold = [step["outcome"] for step in operator.deploy(tree, "--dry-run").document["hosts"][0]["steps"]]
    assert [foretold[0], foretold[2], foretold[3]] == ["already-done"] * 3
    idle(there)
    assert not shipped(there.state)


@needs_places
@pytest.mark.parametrize("shell", ["busybox", "dash"])
def test_r27_a_cut_is_survived_with_busybox(boxes, operator, tmp_path, shell):
    there, operator = boxes[shell], operator(boxes[shell])
    fresh(there)
    go, begun = there.host.home / "go", there.host.home / "begun"
    body = f'echo one; : >"{begun}"\nuntil [[ -e "{go}" ]]; do sleep 0.02; done\necho two\nsetdone'
    tree = tree_of(tmp_path, {"a": script("", f"{GUARD}\n{body}"), "b": script("", "echo three")})
    with under_way(operator, *operator.deploy_arguments(tree)) as process:
        wait_until(begun.exists)
        before = {link.pid for link in there.host.connections()}
        there.host.cut()
        wait_until(lambda: {link.pid for link in there.host.connections()} - before)
        go.touch()
        done = wait(process)
    assert (done.status, done.output) == (0, "one\ntwo\nthree\n"), done.talk


@needs_places
def test_r27_t29_a_program_that_is_missing_is_done_without_or_named(boxes, operator, tmp_path):
    there = boxes["dash"]
    fresh(there)
    operator, tree = operator(there), all_kinds(tmp_path)
    # Some of it is done then, some is not.
    assert operator.deploy(tree).status == 0
    wrong = {}
    for tool in CALLED:
        program, away = there.programs / tool, there.programs / f".{tool}"
        if not program.exists():
            continue
        idle(there)
        shutil.rmtree(there.state / "markers/once", ignore_errors=True)
        program.rename(away)
        try:
            done = operator.deploy(tree, "--patience", "3")
        except subprocess.TimeoutExpired:
            wrong[tool] = ["it hangs"]
            continue
        finally:
            away.rename(program)
        if done.status == 0:
            found = [] if done.output.count("DATA\n") == 2 else [f"handed on an empty file: {done.output!r}"]
        elif done.hosts == {HOST: "refused"} and f"`{tool}`" in message(done):
            found = []
        else:
            found = [f"{done.hosts} {done.outcomes} {message(done)!r}"]
        wrong |= {tool: found} if found else {}
    idle(there)
    operator.deploy(tree)
    again = operator.deploy(tree)
    assert not wrong_after(again, "already-done")
    assert not wrong, lines_of(wrong)


@needs_places
def test_r27_s6_markers_are_not_trusted_unseen_where_there_is_no_find(own, operator, tmp_path):
    operator, tree = operator(own), tree_of(tmp_path, {"a": script("conf once", "true")})
    assert operator.deploy(tree).status == 0
    (own.state / "markers/a/script").chmod(0o666)
    own.hide("find")
    done = operator.deploy(tree)
    assert done.hosts == {HOST: "refused"}, done.outcomes
    assert "find" in message(done) or "markers/a/script" in message(done)


@needs_places
def test_r27_without_flock_and_setsid_a_runner_that_is_killed_is_still_noticed(own, operator, tmp_path):
    own.hide("flock", "setsid", "fallocate")
    operator = operator(own)
    begun = own.host.home / "begun"
    tree = tree_of(tmp_path, {"a": script("", f'if [[ -e "{begun}" ]]; then exit 0; fi\n: >"{begun}"\nsleep 3601.5')})
    with under_way(operator, *operator.deploy_arguments(tree)) as process:
        wait_until(begun.exists)
        kill_runners(own)
        done = wait(process)
    assert done.hosts == {HOST: "interrupted"}, done.talk
    idle(own)
    assert operator.deploy(tree).outcomes == [("a", "ok")]


UNPACKING = """\
#!/bin/sh
if mkdir "{place}/slow" 2>/dev/null; then read -r _ <"{place}/go"; fi
exec "{real}/tar" "$@"
"""


@needs_places
def test_r3_r27_without_flock_a_controller_that_reconnects_during_unpacking_does_not_take_the_session_for_dead(
    own, tmp_path
):
    own.hide("flock", "tar")
    os.mkfifo(tmp_path / "go")
    real = own.host.directory / "real"
    plant(own.host.directory, {"tar": Executable(UNPACKING.format(place=tmp_path, real=real))})
    own.run(f'cp "{own.host.directory}/tar" /usr/bin/tar')
    tree, pauses = tree_of(tmp_path, {"a": script("", "echo said")}), set()
    with Proxy(own.host.port) as proxy:
        operator = Operator(tmp_path / "operator", through(own.host, proxy))
        with under_way(operator, *operator.deploy_arguments(tree)) as process:
            wait_until((tmp_path / "slow").exists)
            proxy.cut_now("rst")
            wait_until(lambda: ended_for_runner(own) or pauses.update(pausing(own)) or len(pauses) > 1)
            (tmp_path / "go").write_text("\n")
            done = wait(process)
    assert done.hosts == {HOST: "ok"}, done.talk
    assert done.output == "said\n"


def pausing(there):
    """Return the processes that wait on a host, between two looks."""
    return {process for process in there.host.processes() if process.name == "sleep"}


def ended_for_runner(there):
    """Return whether a process wrote the end of a session for a dead runner."""
    return any(b" finish interrupted" in path.read_bytes() for path in there.state.glob("sessions/*/segment*/spool"))


# --- R37, R8: killed


def numbers(paths):
    """Return the process numbers that files hold; some are just being written, or hold none any more."""
    found = [path.read_text() for path in paths]
    return [int(text) for text in found if text.endswith("\n")]


def runners(there):
    alive = numbers(there.state.glob("sessions/*/segment*/pid"))
    return [process for process in there.host.processes() if process.pid in alive]


def kill_runners(there):
    wait_until(lambda: runners(there))
    for process in runners(there):
        process.signal(signal.SIGKILL)


def kill_everything(there):
    """Kill what the session started, as logind does when it ends: all at once, so that none can report another."""
    for number in (signal.SIGSTOP, signal.SIGKILL):
        for process in there.host.processes():
            process.signal(number)


@needs_places
@pytest.mark.parametrize("controller", ["lives", "is gone"])
def test_r37_a_runner_that_ends_with_its_login_is_reported_and_its_steps_run_again(
    there, operator, tmp_path, controller
):
    operator = operator(there)
    begun = there.host.home / f"begun-{controller}"
    slow = f'{GUARD}\nif [[ ! -e "{begun}" ]]; then : >"{begun}"; sleep 3601.25; fi\nsetdone'
    tree = tree_of(tmp_path, {"first": script("conf once", "true"), "a": script("", slow), "b": script("", "true")})
    with under_way(operator, *operator.deploy_arguments(tree)) as process:
        wait_until(begun.exists)
        if controller == "is gone":
            process.kill()
            process.wait()
        kill_everything(there)
        if controller == "lives":
            done = wait(process)
            assert done.hosts == {HOST: "interrupted"}, done.talk
            assert done.outcomes[0] == ("first", "ok")
            assert done.outcomes[1][1] in ("interrupted", "lost")
            assert "the session's runner was killed" in str(done.events)
    assert not marked(there.state)
    again = operator.deploy(tree)
    assert again.outcomes == [("first", "already-done"), ("a", "ok"), ("b", "ok")]
    earlier = [event["how"] for event in again.events if event["event"] == "earlier"]
    assert earlier == (["killed"] if controller == "is gone" else [])
    assert "may still run" not in str(again.events)
    idle(there)
    assert not shipped(there.state)


SLOW_RM = """\
#!/bin/sh
case "$*" in *sessions*/files*)
    [ ! -e "{home}/reached" ] || exec /usr/bin/rm "$@"
    : >"{home}/reached"
    until [ -e "{home}/go" ]; do sleep 0.02; done ;;
esac
exec /usr/bin/rm "$@"
"""


@needs_places
def test_r8_what_a_cleanup_that_was_killed_leaves_is_private_and_swept(own, operator, tmp_path):
    operator, home = operator(own), own.host.home
    own.disk("/usr/local/bin", "mode=755")
    plant(own.see("/usr/local/bin"), {"rm": Executable(SLOW_RM.format(home=home))})
    tree = tree_of(tmp_path, {"a": script("conf once; var secret=hush", "true")})
    with under_way(operator, *operator.deploy_arguments(tree)) as process:
        wait_until((home / "reached").exists)
        # It lives, so its files stay.
        other = Operator(tmp_path / "other", own.host.ssh_config).deploy(tree)
        assert other.hosts == {HOST: "locked"}
        assert shipped(own.state)
        kill_everything(own)
        done = wait(process)
    assert done.hosts[HOST] in ("interrupted", "ok"), done.talk
    modes = [
        stat.S_IMODE(path.stat().st_mode) for path in (own.state, own.state / "sessions", *own.state.glob("sessions/*"))
    ]
    assert {oct(mode) for mode in modes} == {"0o700"}
    own.see("/usr/local/bin/rm").unlink()
    assert operator.deploy(tree).outcomes == [("a", "already-done")]
    idle(own)
    assert not shipped(own.state)


@needs_places
def test_r8_s14_what_a_controller_that_died_between_two_segments_left_is_swept(there, operator, tmp_path):
    operator = operator(there)
    begun = operator.home / "begun"
    near = f': >"{begun}"\nsleep 3601.125'
    scripts = {"a": script("var secret=hush", "true"), "near": script("conf local", near), "z": script("", "true")}
    tree = tree_of(tmp_path, scripts)
    try:
        with under_way(operator, *operator.deploy_arguments(tree)) as process:
            wait_until(begun.exists)
            process.kill()
            process.wait()
        idle(there)
        assert shipped(there.state)
        # It might have reconnected for its next segment; not after its patience.
        there.run(f'for each in "{there.host.state}"/sessions/*/expected; do echo 0.00 1 >"$each"; done')
        assert operator.deploy(tree_of(tmp_path, {"q": script("", "true")}, name="next")).status == 0
        idle(there)
        assert not shipped(there.state)
    finally:
        # Its local runner lives on without it, as it should; not longer than this test.
        for group in numbers(operator.state.glob("hosts/*/sessions/*/segment*/group")):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(group, signal.SIGKILL)
        wait_until(lambda: not processes_of(operator.state))


@needs_places
def test_r8_a_session_that_lives_is_never_pruned(there, operator, tmp_path):
    """Neither one that waits, nor the one that prunes, however many are newer."""
    first, home = operator(there), there.host.home
    second = Operator(tmp_path / "second", there.host.ssh_config)
    holding = script("", f'until [[ -e "{home}/first" ]]; do sleep 0.02; done\necho first')
    tree = tree_of(tmp_path, {"a": holding}, name="first")
    other = tree_of(tmp_path, {"b": script("", f'until [[ -e "{home}/second" ]]; do sleep 0.02; done\necho second')})
    with contextlib.ExitStack() as stack:
        one = stack.enter_context(under_way(first, *first.deploy_arguments(tree)))
        wait_until(lambda: list(there.state.glob("sessions/*/segment0/group")))
        two = stack.enter_context(under_way(second, *second.deploy_arguments(other, "--wait", "600")))
        wait_until(lambda: len(list(there.state.glob("sessions/*/segment0/owner"))) == 2)
        for number in range(25):
            (there.state / f"sessions/{number:032x}").mkdir(mode=0o700)
        (home / "first").touch()
        done = wait(one)
        (home / "second").touch()
        then = wait(two)
    assert (done.hosts, done.output) == ({HOST: "ok"}, "first\n"), done.talk
    assert (then.hosts, then.output) == ({HOST: "ok"}, "second\n"), then.talk
    idle(there)
    assert len(list(there.state.glob("sessions/*"))) <= 22


def test_the_bootstrap_and_the_programs_it_is_tested_without_agree():
    """A program that ours call and that no test takes away would go unseen."""
    text = shell_file("bootstrap.sh").decode()
    needed = re.search(r"^    need (.*)$", text, re.MULTILINE).group(1).split()
    assert not set(needed) - set(CALLED)
