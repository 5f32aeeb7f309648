"""Power cuts on a target: what was not brought to its disk is lost; what `setdone` returned for is not.

The state directory lies on a file system in a file. A cut is a copy of that file, taken without any sync while a
deploy runs: what the copy holds after its journal was replayed is what a machine would find when it starts again.
"""

from __future__ import annotations

import itertools
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.chaos.places import Place, place, why_not
from tests.chaos.plans import chance_of, sized
from tests.jobs.test_power_cut import TRACED, Inode, Model, Replay
from tests.trees import Finished, Operator, plant, script, wait, wait_until

pytestmark = pytest.mark.timeout(600)  # a slow machine, with others at work on it

SIZE = 10 * 1024 * 1024
HOST = "medusa.univ.run"
STEPS, MARKS = 6, 4
SHELL = Path(__file__).parents[2] / "runsdeploy/shell"

WHOLE = re.compile(
    r"runsdeploy marker 1\nof \S+\n(value (?P<value>\S+)\n)?time \d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ\n"
    r"session [0-9a-f]{32}(-\d+)?\ndigest [0-9a-f]{64}\n(plan [0-9a-f]{64}\nscript [0-9a-f]{64}\nby \S+\n)"
)
"""all that is in a marker, to its last byte"""


# --- on a file system


@dataclass
class Machine:
    """A fake host whose state lies on a disk of its own, and whose boots have names."""

    place: Place
    """what it sees"""
    folder: Path
    """where its disks and what its steps noted lie: neither loses its power"""
    remains: str = ""
    """sizes of what the last cut left of sessions"""

    @property
    def disk(self) -> Path:
        """The disk it runs with."""
        return self.folder / "disk"

    @property
    def log(self) -> Path:
        """What its steps noted."""
        return self.folder / "log"

    def logged(self) -> set[tuple[str, ...]]:
        """Return what the steps noted so far: word, script, mark, value."""
        lines = self.log.read_text().splitlines(keepends=True) if self.log.exists() else []
        return {tuple(line.split()) for line in lines if line.endswith("\n")}

    def mount(self, disk: Path, where: Path) -> None:
        """Mount without a guess of the file system's own at what should have been synced before a rename."""
        self.place.run(f'mkdir -p "{where}"; mount -o loop,noauto_da_alloc "{disk}" "{where}"')

    def fresh(self) -> None:
        """Start with an empty disk."""
        subprocess.run(
            ["mkfs.ext4", "-q", "-F", "-m", "0", "-b", "1024", "-J", "size=1", str(self.disk), f"{SIZE // 1024}"],
            check=True, capture_output=True, timeout=60, env={**os.environ, "PATH": f"{os.environ['PATH']}:/usr/sbin"},
        )  # fmt: skip
        self.log.unlink(missing_ok=True)
        self.mount(self.disk, self.place.host.state)
        self.place.run(f'chmod 700 "{self.place.host.state}"; rmdir "{self.place.host.state}/lost+found"; sync')
        self.boot("first")

    def boot(self, name: str) -> None:
        """Give this boot a name."""
        (self.folder / "boot_id").write_text(f"{name}\n")

    def copy(self, copy: Path) -> None:
        """Copy what has reached the disk: as of one moment, so that two looks at all of it must be the same."""
        for _ in range(1000):
            data = self.disk.read_bytes()
            if self.disk.read_bytes() == data:
                copy.write_bytes(data)
                return
        pytest.fail("the disk is never at rest")

    def listen(self, how: signal.Signals) -> None:
        """Let new connections wait, or wait no more."""
        assert self.place.host._process
        self.place.host._process.send_signal(how)

    def cut(self, name: str) -> set[tuple[str, ...]]:
        """Cut the power of a machine under way, start it again as another boot, and return what was noted before."""
        host = self.place.host
        copy = self.folder / "copy"
        # A controller that reconnects finds a machine that does not answer yet, not one without its disk.
        self.listen(signal.SIGSTOP)
        for process in host.processes():
            process.signal(signal.SIGKILL)
        # Those that were being forked go on for a moment: for the disk, the power goes now.
        noted = self.logged()
        self.copy(copy)
        wait_until(lambda: not [each.signal(signal.SIGKILL) for each in host.processes()])
        self.place.run(f'umount "{host.state}"')
        copy.replace(self.disk)
        self.mount(self.disk, host.state)
        self.remains = self.place.run(
            f'cd "{host.state}"; find sessions -path "*/segment*/*" -prune -type f -exec wc -c {{}} +'
        )
        self.boot(name)
        self.listen(signal.SIGCONT)
        return noted


@pytest.fixture(scope="module")
def turned_on():
    """One machine for all cases."""
    reason = why_not()
    if reason:
        pytest.skip(reason)
    if not shutil.which("mkfs.ext4", path=f"{os.environ['PATH']}:/usr/sbin"):
        pytest.skip("needs the package e2fsprogs")
    with place() as there:
        machine = Machine(there, there.host.directory.parent)
        machine.boot("first")
        there.run(f'mount --bind "{machine.folder}/boot_id" /proc/sys/kernel/random/boot_id')
        yield machine


@pytest.fixture
def machine(turned_on):
    """That machine with an empty disk, which is in use by nothing at the end."""
    state = turned_on.place.host.state
    try:
        turned_on.fresh()
    except (AssertionError, subprocess.CalledProcessError) as error:
        pytest.skip(f"no file system in a file here: {error}")
    yield turned_on
    turned_on.listen(signal.SIGCONT)
    for process in turned_on.place.host.processes():
        process.signal(signal.SIGKILL)
    wait_until(lambda: not turned_on.place.host.processes())
    turned_on.place.run(f'umount "{state}"')
    wait_until(lambda: not subprocess.run(["losetup", "-j", turned_on.disk], capture_output=True, check=False).stdout)


@pytest.fixture
def operator(machine, tmp_path):
    """An operator who deploys to that machine."""
    return Operator(tmp_path / "operator", machine.place.host.ssh_config)


def tree_of(tmp_path: Path, log: Path, body: str = "", pause: float = 0.01) -> Path:
    """Write a tree of steps that set marks with values, and note where the power stays on what they did."""
    text = f"""\
shouldrun || exit
name=${{RUNS_SCRIPT##*/}}
echo "ran $name" >>"{log}"
{body}
for ((n = 0; n < {MARKS}; n++)); do
    value=$RANDOM$RANDOM
    echo "begun $name subsystem=part$n $value" >>"{log}"
    setdone "part$n" "$value"
    echo "done $name subsystem=part$n $value" >>"{log}"
    sleep {pause}
done
echo "begun $name script -" >>"{log}"
setdone
echo "done $name script -" >>"{log}"
"""
    scripts = [f"s{number}" for number in range(STEPS)]
    files = {f"scripts/medusa/{name}": script("", text) for name in scripts}
    return plant(tmp_path / "tree", {**files, "univ.run/medusa/default": "".join(f"medusa/{s}\n" for s in scripts)})


def markers(state: Path) -> dict[tuple[str, str], str]:
    """Return the bytes of all markers of steps; what is still being written is no marker."""
    return {
        (path.parent.name.partition("%2F")[2], path.name): path.read_text("latin-1")
        for path in state.glob("markers/*/*")
        if ".new." not in path.name
    }


def brief(done: Finished) -> str:
    """Return the report of a deploy, without the output of its steps."""
    told = [line for line in done.text.splitlines() if '"event": "output"' not in line]
    return "\n".join([*told, done.talk])


def check(state: Path, before: set[tuple[str, ...]], after: set[tuple[str, ...]]) -> list[str]:
    """Return what is wrong on a disk, by what was noted before and after the power was cut."""
    found = markers(state)
    wrong = []
    for (name, mark), data in sorted(found.items()):
        whole = WHOLE.fullmatch(data)
        if not whole:
            wrong.append(f"marker {name}/{mark} is torn: {data!r}")
        elif ("begun", name, mark, (whole["value"] or "%3D-").removeprefix("%3D")) not in after:
            wrong.append(f"marker {name}/{mark} was never set: {data!r}")
    for word, name, *mark in sorted(before):
        if word == "done" and (name, mark[0]) not in found:
            wrong.append(f"marker {name}/{mark[0]} is lost, although `setdone` returned")
    for journal in state.glob("sessions/*/segment*/journal"):
        lines = journal.read_text("latin-1").splitlines()
        ended = {int(line.split()[1]) for line in lines if line.startswith("end ") and line.split()[2] == "ok"}
        marked = {name for name, mark in found if mark == "script"}
        if "finish ok" in lines and len(marked) < STEPS:
            wrong.append(f"the journal says `finish ok`, but {sorted(marked)} is all that is marked")
        if len(ended) > len(marked):
            wrong.append(f"the journal says that steps {ended} are ok, but only {sorted(marked)} are marked")
        started = sum(line.startswith("start ") for line in lines)
        if started < len({entry[1] for entry in before if entry[0] == "ran"}):
            wrong.append(f"steps ran without a trace in the journal: {lines}, {sorted(before)}")
    return wrong


def test_t5_r11_b5_after_a_power_cut_all_markers_that_were_set_exist_and_are_whole(machine, operator, tmp_path):
    """The disk is copied at random moments of one deploy; each copy is then looked at as after a restart."""
    chance = chance_of("power")
    cuts, wrong, said = [], [], []
    tree = tree_of(tmp_path, machine.log)
    wanted = sized(8, 200)
    while len(cuts) < wanted:
        start = len(cuts)
        with operator.start(*operator.deploy_arguments(tree)) as process:
            try:
                wait_until(lambda: machine.logged() or process.poll() is not None)
                while process.poll() is None and len(cuts) < min(wanted, start + 8):
                    time.sleep(chance.uniform(0, 0.25))
                    copy = machine.folder / f"copy-{len(cuts)}"
                    before = machine.logged()
                    machine.copy(copy)
                    cuts.append((copy, before, machine.logged()))
                done = wait(process)
            finally:
                process.kill()
        assert done.status == 0, done.talk
        assert machine.logged(), "the steps note nothing"
        for copy, before, after in cuts[start:]:
            # The journal is replayed by the check or by the mount: both are what machines do at boot.
            if chance.random() < 0.5:
                fixed = subprocess.run(["e2fsck", "-p", copy], capture_output=True, text=True, timeout=60, check=False,
                                       env={**os.environ, "PATH": f"{os.environ['PATH']}:/usr/sbin"})  # fmt: skip
                assert fixed.returncode in (0, 1), fixed
            there = machine.folder / "there"
            machine.mount(copy, there)
            seen = machine.place.see(there)
            wrong += [f"cut {copy.name} behind {len(before)} lines: {each}" for each in check(seen, before, after)]
            said.append(f"{len(before)}+{len(after) - len(before)}: {len(markers(seen))} markers")
            machine.place.run(f'umount "{there}"')
            copy.unlink()
        assert not check(machine.place.state, machine.logged(), machine.logged())
        if len(cuts) < wanted:
            machine.log.unlink()
            machine.place.run(f'rm -rf "{machine.place.host.state}/"*; sync')
    print("lines noted before and while the copy was made, and what it held:", *said, sep="\n  ")
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize(
    "controller",
    [
        "stays",
        "dies",
    ],
)
@pytest.mark.parametrize("case", range(sized(1, 25)))
def test_r11_t5_after_a_power_cut_the_restart_is_reported_and_the_next_deploy_continues(
    machine, operator, tmp_path, controller, case
):
    """Also when the disk lost bytes that the controller had received."""
    chance = chance_of(f"restart-{controller}-{case}")
    # The controller may have received more than the disk kept: the spool is never flushed.
    go = tmp_path / "go"
    # The last step does not end before the cut, however late that comes.
    gate = f'[[ $name != s{STEPS - 1} ]] || until [[ -e "{go}" ]]; do sleep 0.05; done'
    tree = tree_of(tmp_path, machine.log, f"for ((i = 0; i < 400; i++)); do echo $i some output; done\n{gate}")
    arguments = operator.deploy_arguments(tree, "--patience", "20")
    with operator.start(*arguments) as process:
        try:
            lines = chance.randrange(MARKS * 2 + 3, (MARKS * 2 + 3) * (STEPS - 1))
            wait_until(lambda: len(machine.logged()) >= lines or process.poll() is not None)
            time.sleep(chance.uniform(0, 0.05))
            if controller == "dies":
                process.kill()
            noted = machine.cut(f"{controller}-{case}")
            first = wait(process)
        finally:
            process.kill()
    print("left of the session:", machine.remains, sep="\n")
    wrong = check(machine.place.state, noted, machine.logged())
    assert not wrong, "\n".join(wrong)
    whole = {name for name, mark in markers(machine.place.state) if mark == "script"}
    assert len(whole) < STEPS
    if controller == "stays":
        assert first.status == 3, brief(first)
        assert first.hosts == {HOST: "interrupted"}
        assert "the target was restarted" in first.out.decode(), brief(first)
    go.touch()
    second = operator.run(*arguments)
    assert second.status == 0, brief(second)
    assert {name.rpartition("/")[2] for name, how in second.outcomes if how == "already-done"} == whole
    if controller == "dies":
        earlier = [event for event in second.events if event["event"] == "earlier" and "how" in event]
        assert [event["how"] for event in earlier] == ["restarted"], brief(second)


# --- in a model


class Marking(Replay):
    """A traced `setdone`, whose calls are those of several processes, one at a time."""

    def __init__(self, trace: str, root: Path, model: Model) -> None:
        lines, places = [], {}
        for line in trace.splitlines():
            process, call = line.split(None, 1)
            assert "unfinished" not in call, "two processes were at work at once"
            if opened := re.match(r"fchdir\(\d+<([^>]*)>", call):
                places[process] = opened[1]
            found = re.fullmatch(r'(chdir|mkdir)\("([^"]*)"(.*)', call)
            if found and not found[2].startswith("/"):
                # `mkdir -p` goes down step by step.
                call = f'{found[1]}("{places[process]}/{found[2]}"{found[3]}'
            if found and found[1] == "chdir":
                places[process] = found[2] if found[2].startswith("/") else f"{places[process]}/{found[2]}"
            lines.append(call)
        super().__init__("\n".join(lines), root, model)

    def _do(self, call: str, path: str, words: str, quoted: list[str]) -> None:
        if call in ("chdir", "fchdir"):
            return
        super()._do("rename" if call.startswith("rename") else call, path, words, quoted)


def entries(folder: Inode, name: str = "") -> Iterator[dict[str, Inode]]:
    """Yield the files below a directory as they may be found after a power cut: every choice of what was not synced."""
    for names in folder.states():
        below = [
            [*entries(inode, f"{name}/{each}")] if inode.folder else [{f"{name}/{each}": inode}]
            for each, inode in names.items()
        ]
        for chosen in itertools.product(*below):
            yield {path: inode for part in chosen for path, inode in part.items()}


def traced_setdone(root: Path, *words: str) -> tuple[Path, Marking]:
    """Trace `setdone WORDS` below a directory; return its marker and the calls."""
    if not shutil.which("strace"):
        pytest.skip("needs the package strace")
    state, step, trace = root / "state", root / "step", root / "trace"
    step.mkdir(exist_ok=True)
    model = Model(state)
    environment = {
        "PATH": os.environ["PATH"], "RUNS_STATE": str(state), "RUNS_STEP": str(step), "RUNS_SCRIPT": "web",
        "RUNS_SESSION": "5" * 32, "RUNS_DIGEST": "d" * 64,
    }  # fmt: skip
    line = f'. "{SHELL / "runs.sh"}"; setdone "$@" && echo returned >"$RUNS_STEP/returned"'
    done = subprocess.run(
        ["strace", "-f", "-y", "-s", "300", "-o", str(trace), "-e", f"trace=chdir,fchdir,{','.join(TRACED)}",
         "bash", "-c", line, "bash", *words],
        env=environment, capture_output=True, timeout=60, check=False, text=True,
    )  # fmt: skip
    if "ptrace" in done.stderr:
        pytest.skip(f"strace may not trace here: {done.stderr}")
    assert done.returncode == 0, done.stderr
    made = list(state.glob("markers/web/*"))
    assert len(made) == 1, made
    return made[0], Marking(trace.read_text(), state, model)


def torn_or_lost(root: Path, marker: Path, run: Marking) -> tuple[set[str], int]:
    """Return what may be wrong after a cut before any call of a traced `setdone` or after all, and how many cases."""
    wrong, cases, returned = set(), 0, False
    name = str(marker)[len(run.root) :]
    old = run.model.find(str(marker))
    for call, path, _ in itertools.chain(run.steps(), [("end", "", "")]):
        returned = returned or path == str(root / "step/returned")
        for files in entries(run.model.top):
            cases += 1
            found = files.get(name)
            if found is not None and found.unsynced:
                wrong.add(f"before `{call}` of `{path}`: the marker may be there without its content")
            if old is not None and found is None:
                wrong.add(f"before `{call}` of `{path}`: neither the old marker nor the new one may be there")
            if returned and (found is None or found is old):
                wrong.add("the marker may be lost, although `setdone` returned")
    assert returned
    return wrong, cases


@pytest.mark.parametrize("words", [(), ("part",), ("part", "value")])
def test_t5_b5_after_any_loss_within_one_setdone_its_marker_is_whole_and_certain(tmp_path, words):
    """Every prefix of its calls, and of each every choice of what was not brought to the disk."""
    (tmp_path / "state/markers/web").mkdir(parents=True)
    wrong, cases = torn_or_lost(tmp_path, *traced_setdone(tmp_path, *words))
    assert not wrong, "\n".join(sorted(wrong))
    assert cases > 10


def test_t5_b5_whatever_is_lost_while_a_mark_is_set_again_it_is_the_old_or_the_new(tmp_path):
    (tmp_path / "state/markers/web").mkdir(parents=True)
    traced_setdone(tmp_path, "part", "old")
    (tmp_path / "step/returned").unlink()
    wrong, cases = torn_or_lost(tmp_path, *traced_setdone(tmp_path, "part", "new"))
    assert not wrong, "\n".join(sorted(wrong))
    assert cases > 10


def test_t5_b5_the_first_mark_of_a_script_is_certain_too(tmp_path):
    """The directory that it lies in is new, and so is the one above."""
    (tmp_path / "state").mkdir()
    wrong, _ = torn_or_lost(tmp_path, *traced_setdone(tmp_path))
    assert not wrong, "\n".join(sorted(wrong))
