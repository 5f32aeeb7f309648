"""The library `runs` in real bash: what markers answer, how they are named, how they are written (SPEC 5)."""

from __future__ import annotations

import os
import random
import re
import shutil
import subprocess
from itertools import product
from pathlib import Path
from typing import NamedTuple

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from runsdeploy.markers.marker import encode, name_of, path_of
from runsdeploy.plan.variable import quote

SHELL = Path(__file__).parents[2] / "runsdeploy" / "shell"
BASH = shutil.which("bash") or "bash"
LOCALES = ["C", "C.UTF-8"]
NAMES = st.lists(st.integers(1, 255), max_size=300).map(bytes)
SHORT = st.lists(st.integers(1, 255), max_size=12).map(bytes)
FEW = settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))


class Target:
    """One state directory, and steps run on it one after the other."""

    def __init__(self, root: Path) -> None:
        self.root, self.state, self.step = root, root / "state", root / "step"
        self.step.mkdir()

    def run(
        self, section: str | bytes, script: str | bytes = "web", *, locale: str = "C.UTF-8", options: str = ""
    ) -> Ran:
        """Run a section as a step that has loaded `runs` would."""
        acts = self.step / "acts"
        acts.unlink(missing_ok=True)
        text = section.encode() if isinstance(section, str) else section
        (self.root / "section").write_bytes(f"{options}\n. '{SHELL}/runs.sh'\n".encode() + text + b"\n")
        environment = {
            "PATH": os.environ["PATH"],
            "LC_ALL": locale,
            "RUNS_STATE": str(self.state),
            "RUNS_STEP": str(self.step),
            "RUNS_SCRIPT": os.fsdecode(script) if isinstance(script, bytes) else script,
            "RUNS_SESSION": "0123",
            "RUNS_DIGEST": "abcd",
        }
        done = subprocess.run(
            [BASH, str(self.root / "section")],
            env=environment,
            cwd=self.root,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=False,
            timeout=60,
        )
        said = acts.read_text().splitlines() if acts.exists() else []
        return Ran(done.returncode, done.stdout, done.stderr.decode(errors="replace"), [each.rstrip() for each in said])

    def asks(self, arguments: str) -> bool:
        """Answer as `shouldrun` does; anything but yes and no is an error."""
        status = self.run(f"shouldrun {arguments}").status
        assert status in (0, 100)
        return status == 0

    def markers(self) -> set[str]:
        """Return the paths of all files below the directory of markers."""
        folder = self.state / "markers"
        return {str(path.relative_to(folder)) for path in folder.rglob("*") if not path.is_dir()}


class Ran(NamedTuple):
    """How a section ended: its output, and its uses of markers."""

    status: int
    out: bytes
    err: str
    acts: list[str]


@pytest.fixture
def target(tmp_path: Path) -> Target:
    return Target(tmp_path)


# --- what markers answer -----------------------------------------------------------------------

ARGUMENTS = ["", "''", "a", "a 1", "a 2", "a ''", "b", "'' 1", "'' ''", "script", "'a 1'"]


def parts(arguments: str) -> tuple[str, str | None]:
    words = [word.strip("'") for word in (["'a 1'"] if arguments == "'a 1'" else arguments.split())]
    return (words[0] if words else "", words[1] if len(words) > 1 else None)


@pytest.mark.parametrize("done", ARGUMENTS)
def test_shouldrun_is_true_until_setdone_was_called_for_the_same_subsystem_and_value(target: Target, done: str):
    assert target.run(f"setdone {done}") == (0, b"", "", [f"setdone {encode(parts(done)[0].encode())}".rstrip()])
    subsystem, value = parts(done)
    for asked in ARGUMENTS:
        same = parts(asked)[0] == subsystem and parts(asked)[1] in (None, value)
        assert target.asks(asked) == (not same), asked


@pytest.mark.parametrize(("first", "second"), [*product(["", "1", "''"], repeat=2)])
def test_the_last_setdone_counts(target: Target, first: str, second: str):
    target.run(f"setdone a {first}; setdone a {second}")
    assert not target.asks("a")
    for value in ("1", "''"):
        assert target.asks(f"a {value}") == (value != second)


@pytest.mark.parametrize("reset", ["", "''", "a", "b", "nothing"])
def test_resetdone_takes_back_one_subsystem_or_without_an_argument_all(target: Target, reset: str):
    target.run("setdone; setdone a 1; setdone b")
    target.run("setdone", script="other")
    assert target.run(f"resetdone {reset}").status == 0
    gone = {"": {"", "a", "b"}, "''": {""}, "a": {"a"}, "b": {"b"}, "nothing": set()}[reset]
    assert {each for each in ("", "a", "b") if target.asks(each)} == gone
    assert target.run("shouldrun", script="other").status == 100


def test_resetdone_where_nothing_was_marked_is_no_failure(target: Target):
    for arguments in ("", "a"):
        done = target.run(f"resetdone {arguments}")
        assert (done.status, done.err) == (0, "")


def test_the_idiom_ends_the_section_with_its_reason(target: Target):
    section = "shouldrun || exit\necho did\nsetdone"
    assert target.run(section) == (0, b"did\n", "", ["shouldrun", "setdone"])
    assert target.run(section) == (100, b"", "", ["declined"])


@pytest.mark.parametrize(
    "options",
    [
        "",
        "set -euo pipefail",
        "set -eEuf -o pipefail -C; shopt -s nocasematch failglob nullglob extglob; IFS=/e1",
        "set -o posix",
        "shopt -s nocasematch; unset IFS",
        "cd /",
    ],
)
def test_markers_do_not_depend_on_what_the_section_has_set(target: Target, options: str):
    done = target.run(
        "shouldrun 'E e/1' A\nsetdone 'E e/1' A\n! shouldrun 'E e/1' A\nshouldrun 'E e/1' a", options=options
    )
    assert (done.status, done.err) == (0, "")
    assert target.markers() == {"web/subsystem=E%20e%2F1"}
    target.run("resetdone 'E e/1'\nsetdone\nresetdone", options=options)
    assert target.markers() == set()


def test_r31_a_value_is_compared_byte_for_byte(target: Target):
    target.run(b"setdone a $'\\351 %2F\n'")
    assert target.run(b"shouldrun a $'\\351 %2F\n'").status == 100
    for other in (b"$'\\351 %2F'", b"$'\\351 /\n'", b"$'\\303\\251 %2F\n'", b"'*'", b"''"):
        assert target.run(b"shouldrun a " + other).status == 0


# --- names -------------------------------------------------------------------------------------


def encoded_by_bash(names: list[bytes], locale: str, function: str, tmp_path: Path) -> list[str]:
    lines = [f". '{SHELL}/runs.sh'\n".encode()]
    lines += [function.encode() + b" " + quote(name) + b'; printf "%s\\n" "$RUNS_encoded"\n' for name in names]
    script = tmp_path / "names"
    script.write_bytes(b"".join(lines))
    done = subprocess.run(
        [BASH, str(script)],
        env={"PATH": os.environ["PATH"], "LC_ALL": locale},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=True,
        timeout=100,
    )
    return done.stdout.decode("ascii").split("\n")[:-1]


EVERY_BYTE = [bytes([byte]) for byte in range(1, 256)]
CORNERS = [
    b".", b"..", b".a", b"a.", b"a..b", b"-", b"--", b"-rf", b"%", b"%2E", b"%+", b"a%+" + b"0" * 64, b"a/b", b"a\n",
    b"\n", b"'", b"''", b'"', b"\\", b"$(id)", b"*", b"[", b"~", b" ", b"\xc3\xa9", b"\xe9", b"\x01\x7f\x80\xff",
    b"a" * 200,     b"a" * 201, b"." * 200, b"." + b"a" * 198, b"." + b"a" * 197, b"/" * 66, b"/" * 67,
    b"/" * 66 + b"ab",
    b"\xff" * 300, b"a" * 4000,
]  # fmt: skip


@pytest.mark.parametrize("locale", LOCALES)
def test_r21_r35_bash_and_python_write_names_alike(locale: str, tmp_path: Path):
    """Every byte alone and in front, and the corners."""
    names = [*EVERY_BYTE, *(b"a" + each for each in EVERY_BYTE), *CORNERS]
    assert encoded_by_bash(names, locale, "RUNS_name", tmp_path) == [name_of(name) for name in names]
    assert encoded_by_bash(names, locale, "RUNS_encode", tmp_path) == [encode(name) for name in names]


@FEW
@given(st.lists(NAMES, min_size=200, max_size=400), st.sampled_from(LOCALES))
def test_r35_t16_bash_and_python_write_random_names_alike(tmp_path: Path, names: list[bytes], locale: str):
    """Thousands of names, hundreds in one bash."""
    found = encoded_by_bash(names, locale, "RUNS_name", tmp_path)
    assert found == [name_of(name) for name in names]
    assert len(set(found)) == len(set(names))
    assert all(len(name) <= 200 and "/" not in name and not name.startswith(".") for name in found)


SEED = int(os.environ.get("RUNSDEPLOY_TEST_SEED") or random.randrange(1 << 32))
"""of the random tests; printed, and given again to replay one"""
TRAVERSALS = [
    b"..",
    b".",
    b"/",
    b"../",
    b"/..",
    b"%2e",
    b"%2F",
    b"%",
    b"~",
    b"\\",
    b"\n",
    b".ssh",
    b"-",
    b"subsystem=",
    b"script",
]


def hostile_name(rng: random.Random) -> bytes:
    """Return a name made to leave a directory, or to be taken for another."""
    kind = rng.random()
    if kind < 0.4:
        return b"".join(rng.choice([*TRAVERSALS, b"a", b"etc"]) for _ in range(rng.randrange(1, 8)))
    if kind < 0.42:
        # Around the length at which a name is shortened; a process each, so not many.
        return bytes(rng.choices(b"a./%", k=rng.randrange(60, 260)))
    return bytes(rng.choices(rng.choice([range(1, 256), b"ab./%+-_~"]), k=rng.randrange(1, 16)))


def test_r35_t16_twenty_thousand_names_stay_in_their_directory_and_apart(tmp_path: Path):
    """Both sides write each alike, no two share one, and none leads anywhere."""
    print(f"RUNSDEPLOY_TEST_SEED={SEED}")
    rng, count = random.Random(SEED), 100_000 if "RUNSDEPLOY_TEST_FULL" in os.environ else 20_000
    names: dict[bytes, None] = {}
    while len(names) < count:
        names[hostile_name(rng)] = None
    found = encoded_by_bash(list(names), "C.UTF-8", "RUNS_name", tmp_path)
    assert found == [name_of(name) for name in names]
    assert len(set(found)) == count
    paths = {os.path.normpath(f"/markers/{path_of(b'web', name)}") for name in names}
    paths |= {os.path.normpath(f"/markers/{path_of(name, b'')}") for name in names}
    assert len(paths) == 2 * count
    assert all(re.fullmatch(r"/markers/[A-Za-z0-9_%+-][A-Za-z0-9_.%+-]*/[a-z=A-Z0-9_.%+-]+", path) for path in paths)
    assert max(len(part) for path in paths for part in path.split("/")) + len(".new.4194304") <= 255


def test_r35_t16_markers_of_hostile_names_are_written_in_their_directory_alone(target: Target):
    print(f"RUNSDEPLOY_TEST_SEED={SEED}")
    rng = random.Random(SEED)
    pairs = list({(hostile_name(rng), hostile_name(rng)): None for _ in range(40)})
    lines = [b"RUNS_SCRIPT=" + quote(script) + b" setdone " + quote(part) for script, part in pairs]
    before = {path for path in target.root.rglob("*") if target.state not in path.parents}
    ran = target.run(b"\n".join(lines))
    assert (ran.status, ran.err) == (0, "")
    assert target.markers() == {path_of(script, part) for script, part in pairs}
    after = {path for path in target.root.rglob("*") if target.state not in path.parents}
    assert after - before == {target.state, target.step / "acts", target.root / "section"}


@FEW
@given(
    st.lists(st.tuples(SHORT.filter(bool), SHORT, st.none() | SHORT), min_size=8, max_size=20),
    st.sampled_from(LOCALES),
)
def test_r31_r35_markers_of_any_bytes_are_kept_apart(
    tmp_path: Path, triples: list[tuple[bytes, bytes, bytes | None]], locale: str
):
    """All in one bash; each is set, asked for, taken back, and nothing else with it."""
    shutil.rmtree(tmp_path / "state", ignore_errors=True)
    shutil.rmtree(tmp_path / "step", ignore_errors=True)
    target = Target(tmp_path)
    unique = {(script, subsystem): value for script, subsystem, value in triples}
    lines: list[bytes] = []
    for (script, subsystem), value in unique.items():
        words = quote(subsystem) + (b" " + quote(value) if value is not None else b"")
        lines += [b"RUNS_SCRIPT=" + quote(script)]
        lines += [b"shouldrun " + words + b" || echo early", b"setdone " + words + b" || echo unset"]
        lines += [b"shouldrun " + words + b" && echo late"]
    for (script, subsystem), value in unique.items():
        words = quote(subsystem) + (b" " + quote(value) if value is not None else b"")
        lines += [b"RUNS_SCRIPT=" + quote(script), b"shouldrun " + words + b" && echo lost"]
    ran = target.run(b"\n".join(lines) + b"\ntrue", locale=locale)
    assert (ran.status, ran.out, ran.err) == (0, b"", "")
    assert target.markers() == {path_of(script, subsystem) for script, subsystem in unique}


def test_a_marker_records_what_was_done_and_in_which_session(target: Target):
    target.run("setdone a 'v 1'")
    lines = (target.state / "markers/web/subsystem=a").read_text().splitlines()
    assert lines[:3] == ["runsdeploy marker 1", "of web/subsystem=a", "value %3Dv%201"]
    assert [line.split()[0] for line in lines] == ["runsdeploy", "of", "value", "time", "session", "digest"]
    assert lines[4:] == ["session 0123", "digest abcd"]


@pytest.mark.parametrize(("old", "new"), [("", "a b"), ("a b", "c"), ("a b", "")])
@pytest.mark.parametrize("where", ["script", "subsystem"])
def test_s6_d7_a_renamed_marker_does_not_say_that_another_step_is_done(where, old, new, target: Target):
    """D7: another user renamed one while the state could be written; those of older versions stay readable."""
    target.run(f"setdone '{old}' v" if old else "setdone", "web/it")
    marker = target.state / "markers" / path_of(b"web/it", old.encode())
    script, subsystem = ("other", old) if where == "script" else ("web/it", new)
    renamed = target.state / "markers" / path_of(script.encode(), subsystem.encode())
    renamed.parent.mkdir(exist_ok=True)
    marker.rename(renamed)
    ran = target.run(
        f"shouldrun {quote(subsystem.encode()).decode() if subsystem else ''} && echo yes || echo no", script
    )
    assert ran.status == 1
    assert ran.out == b""
    assert f"it was made as `{path_of(b'web/it', old.encode())}`" in ran.err
    renamed.write_text("".join(line for line in renamed.open() if not line.startswith("of ")))
    assert target.run("shouldrun" + (f" '{subsystem}'" if subsystem else ""), script).status == 100


# --- trust and durability ----------------------------------------------------------------------


def spoil(marker: Path, how: str) -> None:
    marker.parent.mkdir(parents=True, exist_ok=True)
    marker.unlink(missing_ok=True)
    if how == "a directory":
        marker.mkdir()
    elif how == "a dangling link":
        marker.symlink_to("nowhere")
    elif how == "a link to a marker":
        other = marker.with_name("other")
        other.write_text("runsdeploy marker 1\n")
        marker.symlink_to(other)
    elif how == "a link to a directory":
        other = marker.with_name("other")
        other.mkdir()
        marker.symlink_to(other)
    elif how == "a fifo":
        os.mkfifo(marker)
    elif how == "a file that others may write":
        marker.write_text("runsdeploy marker 1\n")
        marker.chmod(0o666)
    else:
        marker.write_text("runsdeploy marker 1\n")
        os.chown(marker, 12345, -1)


SPOILT = ["a directory", "a dangling link", "a link to a marker", "a link to a directory", "a fifo"]
ROOT_ONLY = pytest.param(
    "a foreign file", marks=pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
)


@pytest.mark.parametrize("how", [*SPOILT, ROOT_ONLY])
@pytest.mark.parametrize("arguments", ["", "a", "a 1"])
def test_s5_s6_a_marker_that_cannot_be_trusted_ends_the_step(target: Target, how: str, arguments: str):
    """Neither true nor false; guessing would lose work or do it twice."""
    marker = target.state / "markers" / path_of(b"web", arguments[:1].encode())
    spoil(marker, how)
    for section in (
        f"shouldrun {arguments}",
        f"shouldrun {arguments} || exit 0",
        f"if ! shouldrun {arguments}; then exit 0; fi",
    ):
        ran = target.run(f"{section}\necho went on")
        assert (ran.status, ran.out, ran.acts) == (1, b"", ["wrong"])
        assert str(marker) in ran.err


@pytest.mark.parametrize("how", ["a link"])
def test_s5_s6_a_directory_of_markers_that_cannot_be_trusted_ends_the_step(target: Target, how: str, tmp_path: Path):
    folder = target.state / "markers" / "web"
    folder.parent.mkdir(parents=True)
    if how == "a link":
        (tmp_path / "elsewhere").mkdir()
        (tmp_path / "elsewhere" / "script").write_text("runsdeploy marker 1\n")
        folder.symlink_to(tmp_path / "elsewhere")
    else:
        folder.mkdir()
        (folder / "script").write_text("runsdeploy marker 1\n")
        folder.chmod(0o777)
    ran = target.run("shouldrun\necho went on")
    assert (ran.status, ran.out) == (1, b"")


def test_s6_a_marker_in_a_subshell_that_cannot_be_trusted_still_fails_the_step(target: Target):
    """The runner reads `wrong` and fails the step whatever its status."""
    spoil(target.state / "markers/web/script", "a directory")
    assert target.run("x=$(shouldrun && echo yes)\ntrue").acts == ["wrong"]


@pytest.mark.parametrize("umask", ["000", "022", "077"])
def test_r25_s6_markers_and_their_directories_are_private_whatever_the_umask(target: Target, umask: str):
    target.run(f"umask {umask}; setdone a")
    modes = {path.stat().st_mode & 0o777 for path in (target.state / "markers").rglob("*") if path.is_file()}
    assert modes == {0o600}
    assert (target.state / "markers/web").stat().st_mode & 0o777 == 0o700


def test_a_durable_write_leaves_no_temporary_file(target: Target):
    target.run("for i in 1 2 3; do setdone a $i; setdone; done; resetdone a")
    assert target.markers() == {"web/script"}


def tools(folder: Path, **replaced: str) -> str:
    """Make a PATH in front of which some tools are replaced."""
    folder.mkdir(exist_ok=True)
    for name, text in replaced.items():
        (folder / name).write_text(f"#!/bin/sh\n{text}\n")
        (folder / name).chmod(0o755)
    return f"PATH={folder}:$PATH"


def test_a_marker_is_written_synchronised_renamed_and_its_directory_synchronised(target: Target, tmp_path: Path):
    """B5: in this order, so that a power cut leaves the old or the new marker."""
    log = tmp_path / "log"
    fakes = {name: f'echo {name} "$@" >>{log}; exec {shutil.which(name)} "$@"' for name in ("dd", "mv", "sync")}
    path = tools(tmp_path / "bin", **fakes)
    assert target.run("setdone a", options=path).status == 0
    said = [line.split() for line in log.read_text().splitlines()]
    folder = target.state / "markers/web"
    *above, written, renamed, recorded = said
    assert above == [["sync", str(folder.parent), str(target.state)]], "a new directory must have its name"
    assert "conv=fsync" in written or (written[0] == "sync" and written[-1] == renamed[-2])
    assert (renamed[0], renamed[-1]) == ("mv", str(folder / "subsystem=a"))
    assert (recorded[0], recorded[-1]) == ("sync", str(folder))


def test_setdone_that_cannot_make_its_directory_returns_non_zero(target: Target, tmp_path: Path):
    ran = target.run("setdone; echo $?", options=tools(tmp_path / "bin", mkdir="exit 1"))
    assert (ran.out, ran.acts) == (b"1\n", ["wrong"])


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="the kernel has no /dev/full")
def test_r12_setdone_on_a_full_disk_returns_non_zero_and_keeps_the_old_marker(target: Target):
    """Every byte counts, not only the last ones."""
    target.run("setdone a old")
    for full in ("runsdeploy*", "value*", "session*"):
        printf = f'printf() {{ case $1 in {full}) builtin printf x >/dev/full;; *) builtin printf "$@";; esac; }}'
        ran = target.run("setdone a new 2>/dev/null; echo $?", options=printf)
        assert (ran.out, ran.acts) == (b"1\n", ["wrong"]), full
        assert not target.asks("a old")
        assert target.markers() == {"web/subsystem=a"}


@pytest.mark.parametrize("tool", ["mv", "sync"])
def test_r12_setdone_that_cannot_be_made_durable_returns_non_zero_and_leaves_no_temporary_file(
    target: Target, tmp_path: Path, tool: str
):
    """The step is failed, and the old marker stays."""
    target.run("setdone a old; setdone b")
    path = tools(tmp_path / "bin", **{tool: "exit 1"})
    ran = target.run("setdone a new; echo $?", options=path)
    assert ran.out == b"1\n"
    assert ran.acts == ["wrong"]
    assert "cannot write the marker" in ran.err
    assert target.markers() == {"web/subsystem=a", "web/subsystem=b"}
    assert not target.asks("a old")


def test_setdone_where_a_file_stands_in_the_way_returns_non_zero(target: Target):
    (target.state / "markers").mkdir(parents=True)
    (target.state / "markers/web").write_text("in the way")
    ran = target.run("setdone; echo $?")
    assert (ran.out, ran.acts) == (b"1\n", ["wrong"])


@pytest.mark.parametrize("how", ["a directory", "a link to a directory"])
def test_setdone_where_a_directory_stands_in_place_of_the_marker_returns_non_zero(target: Target, how: str):
    """Moving into a directory is no rename: nothing would be marked."""
    spoil(target.state / "markers/web/script", how)
    ran = target.run("setdone; echo $?")
    assert (ran.out, ran.acts) == (b"1\n", ["wrong"])


def test_s5_setdone_replaces_a_link_and_does_not_write_through_it(target: Target, tmp_path: Path):
    marker = target.state / "markers/web/script"
    marker.parent.mkdir(parents=True)
    (tmp_path / "victim").write_text("precious")
    marker.symlink_to(tmp_path / "victim")
    target.run("setdone")
    assert (tmp_path / "victim").read_text() == "precious"


def test_resetdone_that_cannot_take_back_returns_non_zero(target: Target):
    spoil(target.state / "markers/web/subsystem=a", "a directory")
    ran = target.run("resetdone a; echo $?")
    assert (ran.out, ran.acts) == (b"1\n", ["wrong"])


# --- libraries ---------------------------------------------------------------------------------


def library(target: Target, tmp_path: Path, section: str) -> Ran:
    for name, text in {"run/lib/one.sh": "echo one", "run/tree/two": "echo two", "run/tree/one": "echo mine"}.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text + "\n")
    return target.run(section, options=f"RUNS_RUN={tmp_path}/run; RUNS_loaded=' runs '")


def test_a_library_of_the_trees_comes_before_a_bundled_one_and_is_loaded_once(target: Target, tmp_path: Path):
    ran = library(target, tmp_path, "urequire one two\nurequire two one runs")
    assert (ran.status, ran.out) == (0, b"mine\ntwo\n")


@pytest.mark.parametrize("name", ["three", "../run/lib/one", "''"])
def test_an_unknown_library_ends_the_step(target: Target, tmp_path: Path, name: str):
    ran = library(target, tmp_path, f"urequire {name}\necho went on")
    assert (ran.status, ran.out) == (1, b"")
    assert "unknown library" in ran.err


def test_a_value_of_256_kib_takes_its_length_not_its_square(target: Target):
    """D23: a time limit of 60 s ends `run`; a character at a time takes minutes."""
    value = b"".join(b'line %d = "a b" / \xc3\xa9\xff%%\n' % n for n in range(12000))[: 256 << 10]
    section = (
        b"value="
        + quote(value)
        + b'\nsetdone sub "$value"\nshouldrun sub "$value" || echo same\nshouldrun sub "$value." && echo other\n'
    )
    for locale in LOCALES:
        assert target.run(section, locale=locale).out == b"same\nother\n"
    lines = (target.state / "markers" / path_of(b"web", b"sub")).read_bytes().split(b"\n")
    assert lines[2] == b"value " + encode(b"=" + value).encode()


def test_names_at_the_ends_of_pieces_are_written_like_any_other(tmp_path: Path):
    """D23: bash encodes a text in pieces."""
    names = [b"x" * length + b"." + bytes(range(1, 256)) for length in (0, 1, 511, 512, 2047, 16383, 16384)]
    names += [b"." * 1025, b"%" * 1025, b"x" * 1024 + b".y", "é".encode() * 20000]
    for locale in LOCALES:
        assert encoded_by_bash(names, locale, "RUNS_encode", tmp_path) == [encode(name) for name in names]


def test_a_value_that_no_event_holds_is_refused_and_a_long_subsystem_is_told_short(target: Target):
    """D23: its event would be output, and a forecast would not know it."""
    refused = target.run("printf -v value '%04200000d' 0\nsetdone sub \"$value\" || echo failed")
    assert refused.out == b"failed\n"
    assert "the value of `setdone` has 4200003 bytes, percent-encoded, expected at most 4000000" in refused.err
    assert refused.acts == ["wrong"]
    subsystem = "x" * 10000
    ran = target.run(f"setdone {subsystem}\nshouldrun {subsystem} || resetdone {subsystem}")
    assert ran.acts == [f"{verb} {name_of(subsystem.encode())}" for verb in ("setdone", "declined", "resetdone")]
