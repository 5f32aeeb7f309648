"""CONF sections in real bash: values byte for byte (R31), who sets what in which order (SPEC 2, 3), and bad endings."""

from __future__ import annotations

import hashlib
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, example, given, settings
from hypothesis import strategies as st

from runsdeploy.errors import Position
from runsdeploy.plan.conf import Conf, Request
from runsdeploy.plan.evaluation import evaluate
from runsdeploy.plan.variable import Value, Variable, assignment, quote, shell_word
from runsdeploy.session.bundle import SOURCED
from runsdeploy.session.parameters import end_mark, step_parameters, step_values
from runsdeploy.session.session import new_session
from runsdeploy.tree.recipe import Operation
from runsdeploy.tree.script import Script, read_script
from runsdeploy.tree.trees import Host, Trees
from tests import making

BASH = shutil.which("bash") or "bash"
SHELL = Path(__file__).parents[2] / "runsdeploy" / "shell"
LOCALES = ["C", "C.UTF-8"]
# Batches of hundreds are not worth shrinking: the assertion shows the one that differs.
FEW = settings(
    max_examples=10,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    phases=[Phase.explicit, Phase.reuse, Phase.generate],
)
BYTES = st.lists(st.integers(1, 255), max_size=60).map(bytes)
PIECES = st.sampled_from(
    [b"'", b'"', b"\\", b"\\\\", b"\n", b"$x", b"$(id)", b"`id`", b"\xc3", b"\xa9", b"\x01", b"\x01\x01", b"\x7f",
     b"\xff",
     b"*", b"~", b"!", b"-n", b" ", b"\t", b"${", b"}", b"'\\''", b"\\x41", b"\\101", b"%s", b"\x1e", b"\r"]
)  # fmt: skip
VALUES = BYTES | st.lists(PIECES, max_size=12).map(b"".join)
EVERY_BYTE = bytes(range(1, 256))
NAMES = ["alpha", "beta", "_c", "D9"]


# --- one function writes values as bash --------------------------------------------------------


def values_in_bash(text: bytes, tmp_path: Path, locale: str) -> list[bytes]:
    """Run bash and return the fields it prints, which end in NUL."""
    (tmp_path / "values").write_bytes(text)
    done = subprocess.run(
        [BASH, str(tmp_path / "values")],
        env={"PATH": os.environ["PATH"], "LC_ALL": locale, "RUNS_FILES": "/root of/the files\n'"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=True,
        timeout=100,
    )
    assert done.stderr == b""
    return done.stdout.split(b"\0")[:-1]


@pytest.mark.parametrize("locale", LOCALES)
def test_r21_r31_every_byte_alone_and_among_others_is_re_created_by_bash(tmp_path: Path, locale: str):
    values = [bytes([one]) for one in EVERY_BYTE]
    values += [bytes([one, two]) for one in (1, 0x27, 0x5C, 0x7F, 0xC3) for two in EVERY_BYTE]
    values += [EVERY_BYTE, EVERY_BYTE[::-1], b""]
    text = b"".join(b"printf '%s\\0' " + quote(value) + b"\n" for value in values)
    assert values_in_bash(text, tmp_path, locale) == values


@settings(FEW, max_examples=20)
@given(st.lists(VALUES, min_size=250, max_size=500), st.sampled_from(LOCALES))
def test_r31_t8_quoted_bytes_are_re_created_by_bash(tmp_path: Path, values: list[bytes], locale: str):
    """Thousands of values, hundreds in one bash."""
    quoted = [quote(value) for value in values]
    assert all(word.isascii() and b"\n" not in word for word in quoted)
    text = b"printf '%s\\0' \\\n" + b" \\\n".join(quoted) + b"\n"
    assert values_in_bash(text, tmp_path, locale) == values


@st.composite
def variables(draw: st.DrawFn) -> list[Variable]:
    value = st.lists(VALUES, min_size=1, max_size=3).map(lambda pieces: Value(tuple(pieces)))
    found = []
    for number in range(draw(st.integers(60, 120))):
        array = draw(st.booleans())
        values = tuple(draw(st.lists(value, max_size=3))) if array else (draw(value),)
        found.append(Variable(f"v{number}", array, values))
    return found


@FEW
@given(variables(), st.sampled_from(LOCALES))
def test_r31_assignments_re_create_scalars_arrays_and_paths(tmp_path: Path, made: list[Variable], locale: str):
    """Pieces are joined by the root of the session's files, whatever bytes that root has."""
    root = b"/root of/the files\n'"
    lines = [assignment(each) for each in made]
    for each in made:
        name = each.name.encode()
        lines.append(b'printf \'%%s\\0\' "${#%s[@]}" ${%s[@]+"${%s[@]}"}\n' % (name, name, name))
        lines.append(b"[[ $(declare -p %s) == 'declare -a'* ]]; printf '%%s\\0' $?\n" % name)
    expected: list[bytes] = []
    for each in made:
        values = [root.join(value.pieces) for value in each.values]
        expected += [b"%d" % len(values), *values, b"0" if each.array else b"1"]
    assert values_in_bash(b"".join(lines), tmp_path, locale) == expected


@given(st.lists(VALUES, min_size=1, max_size=5), st.binary(min_size=4, max_size=20))
def test_a_value_is_cut_at_the_root_and_joined_again(pieces: list[bytes], root: bytes):
    data = root.join(pieces)
    assert root.join(Value.of(data, root).pieces) == data
    assert (Value.of(data, root).literal == data) == (root not in data)


@FEW
@given(st.lists(VALUES.map(lambda data: data.decode("utf-8", "ignore")), min_size=50, max_size=100))
@example(["$HOME", "a$b", "~", "a=~", "", "-n", "$(x)", "{a,b}", "#", "a b"])
def test_a_value_that_is_shown_can_be_given_to_a_shell_again(tmp_path: Path, texts: list[str]):
    script = "printf '%s\\0' " + " ".join(shell_word(text) for text in texts) + "\n"
    assert values_in_bash(script.encode(), tmp_path, "C.UTF-8") == [text.encode() for text in texts]


# --- a tree, and requests to evaluate ----------------------------------------------------------


class Tree:
    """A tree in a temporary directory, and its scripts evaluated for one host."""

    def __init__(self, root: Path) -> None:
        self.roots = [root / "one", root / "two"]
        for each in self.roots:
            (each / "scripts").mkdir(parents=True)
        self.host: Host | None = Host("medusa.univ.run")

    def write(self, path: str, text: str | bytes, tree: int = 0) -> Path:
        file = self.roots[tree] / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(text.encode() if isinstance(text, str) else text)
        return file

    @property
    def trees(self) -> Trees:
        return Trees(tuple(self.roots))

    def script(self, conf: str | bytes = "", name: str = "web", body: str = "") -> Script:
        data = (conf.encode() if isinstance(conf, str) else conf).rstrip(b"\n")
        self.write(f"scripts/{name}", (data + b"\n" if data else b"") + b"script:\n" + body.encode())
        return self.read(name)

    def read(self, name: str) -> Script:
        place = self.trees.find(name, self.host)
        assert place
        found = read_script(name, place)
        assert isinstance(found, Script)
        return found

    def conf(
        self,
        conf: str | bytes,
        operations: Sequence[Operation] = (),
        *,
        facts: Sequence[Operation] = (),
        shared: Sequence[str] = (),
        limit: float = 10.0,
    ) -> Conf:
        request = Request(self.script(conf), self.host, tuple(operations), tuple(facts), tuple(shared))
        return evaluate([request], self.trees, limit)[0]

    def values(self, conf: str | bytes, *operations: str, **more: object) -> dict[str, str | list[str]]:
        """Evaluate what must be right, operations as in a recipe."""
        found = self.conf(conf, [op(each) for each in operations], **more)  # type: ignore[arg-type]
        assert found.problems == []
        return shown(found)


def op(text: str) -> Operation:
    """Make an operation of `a=b`, `a+=b`, `a-=b`, `a()` or `a(b c)`."""
    if text.endswith(")"):
        name, _, words = text[:-1].partition("(")
        return Operation(name, "()", tuple(word.encode() for word in words.split()), Position("default", 1, 1))
    kind = next(kind for kind in ("+=", "-=", "=") if kind in text)
    name, _, value = text.partition(kind)
    return Operation(name, kind, (value.encode(),), Position("default", 1, 1))


def shown(conf: Conf) -> dict[str, str | list[str]]:
    return {
        each.name: [str(value) for value in each.values] if each.array else str(each.values[0])
        for each in conf.variables
    }


def told(conf: Conf) -> list[str]:
    return [f"{each.position.line if each.position else 0} {each.message}" for each in conf.problems]


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    return Tree(tmp_path)


# --- values pass through CONF byte for byte ----------------------------------------------------

OPERATIONS = st.one_of(
    st.builds(lambda name, value: (name, "=", (value,)), st.sampled_from(NAMES), VALUES),
    st.builds(lambda name, values: (name, "()", tuple(values)), st.sampled_from(NAMES), st.lists(VALUES, max_size=4)),
    st.builds(lambda name, value: (name, "+=", (value,)), st.sampled_from(NAMES), VALUES),
    st.builds(lambda name, value: (name, "-=", (value,)), st.sampled_from(NAMES), VALUES),
)
SMALL = st.sampled_from([b"a", b"b", b"A", b"a*", b"", b"\xff"])
SMALL_OPERATIONS = st.one_of(
    st.builds(lambda name, value: (name, "=", (value,)), st.sampled_from(NAMES[:2]), SMALL),
    st.builds(lambda n, values: (n, "()", tuple(values)), st.sampled_from(NAMES[:2]), st.lists(SMALL, max_size=4)),
    st.builds(lambda n, kind, v: (n, kind, (v,)), st.sampled_from(NAMES[:2]), st.sampled_from(["+=", "-="]), SMALL),
)
Change = tuple[str, str, tuple[bytes, ...]]


def model(changes: Sequence[Change]) -> dict[str, tuple[bool, list[bytes]]]:
    """Say what operations make of variables (SPEC 2): name -> whether an array, values."""
    found: dict[str, tuple[bool, list[bytes]]] = {}
    for name, kind, values in changes:
        old = found.get(name, (True, []))[1]
        if kind == "=":
            found[name] = False, [values[0]]
        elif kind == "()":
            found[name] = True, list(values)
        elif kind == "+=":
            found[name] = True, old if values[0] in old else [*old, values[0]]
        else:
            found[name] = True, [each for each in old if each != values[0]]
    return found


def made(conf: Conf) -> dict[str, tuple[bool, list[bytes | None]]]:
    assert [str(problem) for problem in conf.problems] == []
    return {each.name: (each.array, [value.literal for value in each.values]) for each in conf.variables}


def operations(changes: Sequence[Change]) -> tuple[Operation, ...]:
    return tuple(Operation(*change, Position("default", 1, 1)) for change in changes)


def calls(changes: Sequence[Change]) -> bytes:
    """Write operations as calls of `var`."""
    lines = [
        b" ".join([b"var", name.encode(), *map(quote, values)])
        if kind == "()"
        else b"var " + name.encode() + kind.encode() + quote(values[0])
        for name, kind, values in changes
    ]
    return b"\n".join(lines) + b"\n"


@FEW
@given(st.lists(st.lists(OPERATIONS, max_size=6), min_size=60, max_size=120))
@example([[("alpha", "=", (EVERY_BYTE,))], [("beta", "()", tuple(bytes([each]) for each in EVERY_BYTE))]])
def test_r31_operations_of_a_recipe_come_out_of_conf_as_they_went_in(tmp_path: Path, recipes: list[list[Change]]):
    """Hundreds of recipe entries, one evaluation."""
    shutil.rmtree(tmp_path / "one", ignore_errors=True)
    shutil.rmtree(tmp_path / "two", ignore_errors=True)
    tree = Tree(tmp_path)
    script = tree.script("desc nothing")
    found = evaluate([Request(script, tree.host, operations(each)) for each in recipes], tree.trees)
    for each, conf in zip(recipes, found, strict=True):
        assert made(conf) == model(each)


@FEW
@given(st.lists(OPERATIONS, min_size=40, max_size=80))
def test_r31_values_that_conf_sets_come_out_as_they_were_written(tmp_path: Path, changes: list[Change]):
    """Words of `var`, whatever the bytes."""
    shutil.rmtree(tmp_path / "one", ignore_errors=True)
    shutil.rmtree(tmp_path / "two", ignore_errors=True)
    assert made(Tree(tmp_path).conf(calls(changes))) == model(changes)


@settings(FEW, max_examples=15)
@given(st.lists(st.tuples(*[st.lists(SMALL_OPERATIONS, max_size=4)] * 3, st.booleans()), min_size=10, max_size=20))
@example([([("alpha", "()", (b"a", b"a")), ("alpha", "+=", (b"a",))], [], [], False)])
def test_replaying_the_operators_operations_ends_as_applying_them_after_conf(
    tmp_path: Path, cases: list[tuple[list[Change], list[Change], list[Change], bool]]
):
    """SPEC 2: base operations of runs.conf and CONF, then the operator's: the end result is the plain sequence."""
    shutil.rmtree(tmp_path / "one", ignore_errors=True)
    shutil.rmtree(tmp_path / "two", ignore_errors=True)
    tree = Tree(tmp_path)
    requests, expected = [], []
    for number, (general, conf, given_, strict) in enumerate(cases):
        tree.write(f"scripts/s{number}/runs.conf", calls(general))
        script = tree.script((b"set -eu\n" if strict else b"") + calls(conf), f"s{number}/web")
        requests.append(Request(script, tree.host, operations(given_)))
        expected.append(model([*general, *conf, *given_]))
    for conf, wanted in zip(evaluate(requests, tree.trees), expected, strict=True):
        assert made(conf) == wanted


def test_what_earlier_calls_made_is_seen_further_down_with_the_operators_operations(tree: Tree):
    conf = """var port=80
var seen="$port"
[ "$port" = 8080 ] && var proxied=yes
var hosts a b
var count="${#hosts[@]}"
"""
    assert tree.values(conf, "port=8080", "hosts+=c") == {
        "port": "8080", "seen": "8080", "proxied": "yes", "hosts": ["a", "b", "c"], "count": "3"
    }  # fmt: skip


@pytest.mark.parametrize(
    ("general", "given", "port"),
    [("", [], "80"), ("var port=81", [], "81"), ("", ["port=82"], "82"), ("var port=81", ["port=82"], "82")],
)
def test_the_idiom_for_a_default_yields_to_what_is_set(tree: Tree, general: str, given: list[str], port: str):
    tree.write("runs.conf", general)
    assert tree.values('var port="${port:-80}"\n', *given) == {"port": port}


RULES = [
    ("set", "var a=1", [], {"a": "1"}),
    ("several at once", "var a=1 b=2 c+=3", [], {"a": "1", "b": "2", "c": ["3"]}),
    ("set again", "var a=1\nvar a=2", [], {"a": "2"}),
    ("append makes an array", "var a+=1", [], {"a": ["1"]}),
    ("append to a scalar", "var a=1\nvar a+=2", [], {"a": ["1", "2"]}),
    ("append to an empty scalar", "var a=\nvar a+=2", [], {"a": ["", "2"]}),
    ("append what is there", "var a 1 2\nvar a+=1", [], {"a": ["1", "2"]}),
    ("append what is there twice", "var a 1 1\nvar a+=1", [], {"a": ["1", "1"]}),
    ("append what only matches as a pattern", "var a 'x'\nvar a+='*' a+='?'", [], {"a": ["x", "*", "?"]}),
    ("remove every one", "var a 1 2 1\nvar a-=1", [], {"a": ["2"]}),
    ("remove the last one", "var a 1\nvar a-=1", [], {"a": []}),
    ("remove what is not there", "var a-=1", [], {"a": []}),
    ("remove from a scalar", "var a=1\nvar a-=1", [], {"a": []}),
    ("initialise", "var a 1 '2 3' ''", [], {"a": ["1", "2 3", ""]}),
    ("a bare name is an empty array", "var a=1\nvar a", [], {"a": []}),
    ("a bare name among operations", "var a=1 b c=2", [], {"a": "1", "b": [], "c": "2"}),
    ("words of an initialisation are no operations", "var a b=1 -x c+=2", [], {"a": ["b=1", "-x", "c+=2"]}),
    ("an array becomes a scalar", "var a 1 2\nvar a=3", [], {"a": "3"}),
    ("a value with an equal sign", "var a=b=c", [], {"a": "b=c"}),
    ("a value of `+=`", "var a=+=", [], {"a": "+="}),
    ("the operator's value wins", "var a=1", ["a=2"], {"a": "2"}),
    ("the operator appends", "var a 1", ["a+=2"], {"a": ["1", "2"]}),
    ("the operator appends to a scalar", "var a=1", ["a+=2"], {"a": ["1", "2"]}),
    ("the operator removes", "var a 1 2\nvar a+=3", ["a-=2"], {"a": ["1", "3"]}),
    ("the operator removes what comes later", "var a 1\nvar a+=2", ["a-=2"], {"a": ["1"]}),
    ("the operator's operations in order", "var a 1", ["a+=2", "a-=1", "a+=1"], {"a": ["2", "1"]}),
    ("a variable only of the operator", "desc x", ["a=1", "b(x y)", "c()"], {"a": "1", "b": ["x", "y"], "c": []}),
    ("a plain assignment stays in CONF", "x=1\nvar a=$x", [], {"a": "1"}),
    ("a function stays in CONF", "f() { var a=$1; }\nf 2", [], {"a": "2"}),
    ("a loop", "for i in 1 2 3; do var a+=$i; done", [], {"a": ["1", "2", "3"]}),
    ("nothing in a subshell lasts", "(x=1)\nvar a=${x-none}", [], {"a": "none"}),
    ("no last line end", "var a=1", [], {"a": "1"}),
    ("a test that fails at the end is no failure", 'var a=\n[ -n "$a" ] && var b=1', [], {"a": ""}),
    ("a condition that fails is no failure", "if false; then var a=1; fi", [], {}),
    ("exit ends the section", "var a=1\nexit\nvar a=2", [], {"a": "1"}),
    ("exit 0 ends the section", "var a=1\nif :; then exit 0; fi\nvar a=2", [], {"a": "1"}),
    ("return ends the section", "var a=1\nreturn\nvar a=2", [], {"a": "1"}),
    ("strict bash", "set -euo pipefail\nvar a 1\nvar a-=1\nvar b=${a[0]-x}\nconf once", [], {"a": [], "b": "x"}),
    ("case does not matter to patterns", "shopt -s nocasematch\nvar a A\nvar a+=a", [], {"a": ["A", "a"]}),
    ("another IFS", "IFS=1,\nvar a 1,1 2\nvar a+=3", [], {"a": ["1,1", "2", "3"]}),
    ("no globbing options", "set -f; shopt -s failglob nullglob\nvar a '*'", ["a+=?"], {"a": ["*", "?"]}),
    ("the environment is not a value", "var a=${RUNS_TEST_LEAK-unset}", [], {"a": "unset"}),
]  # fmt: skip


@pytest.mark.parametrize(("conf", "given", "values"), [each[1:] for each in RULES], ids=[each[0] for each in RULES])
def test_variables_are_what_the_rules_say(
    tree: Tree, monkeypatch: pytest.MonkeyPatch, conf: str, given: list[str], values: dict[str, object]
):
    monkeypatch.setenv("RUNS_TEST_LEAK", "leaked")
    assert tree.values(conf, *given) == values


def test_a_variable_assigned_again_without_var_stays_in_conf_and_that_is_said(tree: Tree):
    found = tree.conf("var a=1\na=2\nvar b=$a\n")
    assert shown(found) == {"a": "1", "b": "2"}
    assert "scripts/web:1: `a` is assigned again without `var`" in found.messages


def test_a_variable_of_a_function_does_not_hide_the_one_that_var_sets(tree: Tree):
    assert tree.values("f() { local a=5; var a=80; }\nf\n") == {"a": "80"}


BAD_NAMES = ["PATH", "IFS", "BASH_ENV", "RUNS_HOST", "RUNS_op_name", "LD_PRELOAD", "FUNCNEST"]


@pytest.mark.parametrize("name", BAD_NAMES)
@pytest.mark.parametrize("call", ["var {}=1", "var {} 1 2", "var {}", "out {}=f", "ref {}=f", "var {}+=1"])
def test_a_reserved_name_is_refused_with_its_line(tree: Tree, name: str, call: str):
    assert told(tree.conf(f"desc x\n{call.format(name)}\nvar fine=1\n")) == [
        f"2 variable `{name}` is reserved: a script needs it as bash sets it"
    ]


# --- values reach SCRIPT -----------------------------------------------------------------------


def run_step(tmp_path: Path, section: str, *made: Variable, **step: object) -> subprocess.CompletedProcess[bytes]:
    """Run a SCRIPT section as the runner does, with variables, in real bash."""
    run, here = tmp_path / "run", tmp_path / "step"
    (run / "lib").mkdir(parents=True)
    here.mkdir()
    for name in ("runs.sh", "step.sh", "record.sh", "mark.sh", "lib/DEFAULTS.sh"):
        (run / name).write_bytes((SHELL / name).read_bytes() + (end_mark(name) if name in SOURCED else b""))
    planned = making.step(section, variables=made, **step)  # type: ignore[arg-type]
    (here / "meta.sh").write_bytes(step_parameters(making.plan(planned), planned, new_session()))
    (here / "values.sh").write_bytes(step_values(planned))
    (tmp_path / "section").write_bytes(planned.script.body)
    environment = {
        "BASH_ENV": f"{run}/step.sh",
        "RUNS_RUN": str(run),
        "RUNS_STEP": str(here),
        "PATH": os.environ["PATH"],
    }
    environment |= {"RUNS_STATE": str(tmp_path / "state"), "RUNS_FILES": "/files", "RUNS_SCRIPT": "web"}
    return subprocess.run(
        [BASH, str(tmp_path / "section")],
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=False,
        timeout=60,
    )


def test_r31_every_byte_reaches_script(tmp_path: Path):
    values = [EVERY_BYTE, b"", b"-n", b"ends\n", *(bytes([each]) for each in EVERY_BYTE)]
    array = Variable("a", True, tuple(Value((value,)) for value in values))  # noqa: FBT003
    path = Variable("p", False, (Value((b"", b"/shared/x")),))  # noqa: FBT003
    done = run_step(tmp_path, 'printf \'%s\\0\' "$p" "${a[@]}" | sha256sum', array, path)
    expected = b"".join(value + b"\0" for value in [b"/files/shared/x", *values])
    assert (done.stdout.split()[0].decode(), done.stderr) == (hashlib.sha256(expected).hexdigest(), b"")


@pytest.mark.parametrize("name", ["step_once", "step_strict", "step_number", "step_root", "step_outs"])
def test_a_variable_named_like_one_of_a_steps_own_reaches_script_as_it_was_set(tmp_path: Path, name: str):
    """SPEC 2: a name that would break the run is refused; one that is not refused arrives."""
    done = run_step(tmp_path, f'printf %s "${name}"', making.variable(name, "mine"))
    assert done.stdout == b"mine"


@pytest.mark.parametrize("name", ["segment_host", "outcome", "number", "become", "state", "uinst_any", "name", "line"])
def test_a_variable_with_a_name_that_the_runtime_uses_elsewhere_arrives(tmp_path: Path, name: str):
    done = run_step(tmp_path, f'printf %s "${name}"', making.variable(name, "mine"), flags="strict")
    assert (done.returncode, done.stdout, done.stderr) == (0, b"mine", b"")


# --- flags, after, out, ref --------------------------------------------------------------------


def test_flags_are_taken_with_their_lines(tree: Tree):
    found = tree.conf("conf root local\nconf once\nconf onchange strict\nconf root\n")
    assert found.problems == []
    assert {flag: place.line for flag, place in found.flags.items()} == {
        "root": 1, "local": 1, "once": 2, "onchange": 3, "strict": 3
    }  # fmt: skip


def test_an_unknown_flag_is_a_problem_with_a_near_name(tree: Tree):
    found = tree.conf("desc x\nconf loacl\n")
    assert told(found)[0].startswith("2 unknown flag `loacl`")
    assert found.problems[0].hint == "did you mean `local`?"


def test_desc_is_its_words(tree: Tree):
    assert tree.conf("desc 'a  b' c\n").description == "a  b c"
    assert tree.conf("IFS=,\ndesc a b\n").description == "a b"


def test_after_names_scripts_with_their_mode_and_operations(tree: Tree):
    found = tree.conf("after base web/tls\nafter -r user name=x 'groups+=a b'\nafter -rr reload\n")
    assert found.problems == []
    assert [(each.mode, each.script, each.position.line) for each in found.afters] == [
        ("order", "base", 1), ("order", "web/tls", 1), ("once", "user", 2), ("always", "reload", 3)
    ]  # fmt: skip
    assert [(op.name, op.kind, op.values) for op in found.afters[2].operations] == [
        ("name", "=", (b"x",)), ("groups", "+=", (b"a b",))
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("conf", "message"),
    [
        ("after", "1 `after` without a script"),
        ("after -r", "1 `after` without a script"),
        ("after -x a", "1 bad option `-x` of `after`"),
        ("after -r a b-c", "1 bad operation `b-c`"),
        ("after -r a PATH=x", "1 variable `PATH` is reserved"),
        ("var", "1 `var` without a name"),
        ("var a-b=c", "1 bad operation `a-b=c`"),
        ("var 1a b", "1 bad operation `1a`"),
        ("out", "1 `out` without a name"),
        ("out a-b=c", "1 bad variable name `a-b`"),
        ("ref", "1 `ref` without a name"),
        ("ref -x a", "1 bad option `-x` of `ref`"),
        ("ref a-b=c", "1 bad variable name `a-b`"),
    ],
)
def test_a_wrong_call_is_a_problem_at_its_line(tree: Tree, conf: str, message: str):
    found = tree.conf(conf)
    assert told(found)[0].startswith(message)


def test_out_is_a_path_in_the_shared_space(tree: Tree):
    found = tree.conf('out key=keys/id.pub log\nvar copy="$key.bak"\n')
    assert shown(found) == {
        "key": "$RUNS_FILES/shared/keys/id.pub", "log": "$RUNS_FILES/shared/log",
        "copy": "$RUNS_FILES/shared/keys/id.pub.bak",
    }  # fmt: skip
    assert [(each.variable, each.file, each.position.line) for each in found.outs] == [
        ("key", "keys/id.pub", 1), ("log", "log", 1)
    ]  # fmt: skip


REFS = [
    ("own directory", ["scripts/f", "shared", "univ.run/medusa/f", "f"], "tree0/scripts/f"),
    ("shared space", ["shared", "univ.run/medusa/f", "f"], "shared/f"),
    ("most specific host directory", ["univ.run/medusa/f", "hosts/medusa/f", "f"], "tree0/univ.run/medusa/f"),
    ("host directory of another tree", ["two:univ.run/medusa/f", "hosts/medusa/f"], "tree1/univ.run/medusa/f"),
    ("less specific host directory", ["hosts/medusa/f", "f"], "tree0/hosts/medusa/f"),
    ("root of a tree", ["f", "two:f"], "tree0/f"),
    ("root of another tree", ["two:f"], "tree1/f"),
    ("nowhere", [], "shared/f"),
]


@pytest.mark.parametrize(("files", "found"), [each[1:] for each in REFS], ids=[each[0] for each in REFS])
def test_ref_is_looked_for_in_the_order_of_the_specification(tree: Tree, files: list[str], found: str):
    for file in files:
        if file != "shared":
            tree.write(file.removeprefix("two:"), "x", tree=int(file.startswith("two:")))
    conf = tree.conf("ref file=f\n", shared=["f"] if "shared" in files else [])
    assert conf.problems == []
    assert shown(conf) == {"file": f"$RUNS_FILES/{found}"}
    ref = conf.refs[0]
    expected = ("tree" if found.startswith("tree") else "shared" if files else "missing", found)
    assert (ref.where, ref.path, ref.required) == (*expected, False)


def test_r32_ref_takes_a_name_options_directories_and_odd_file_names(tree: Tree):
    tree.write("scripts/plain", "x")
    tree.write("scripts/dir/inside", "x")
    tree.write("scripts/it's a\n$file", "x")
    found = tree.conf("ref -r plain d=dir\nref odd=$'it\\'s a\\n$file'\nref -t -r t=plain\n")
    assert shown(found) == {
        "plain": "$RUNS_FILES/tree0/scripts/plain", "d": "$RUNS_FILES/tree0/scripts/dir",
        "odd": "$RUNS_FILES/tree0/scripts/it's a\n$file", "t": "$RUNS_FILES/rendered/0/plain",
    }  # fmt: skip
    assert [(each.required, each.template) for each in found.refs] == [
        (True, False), (True, False), (False, False), (True, True)
    ]  # fmt: skip


def test_a_required_ref_that_is_nowhere_is_noted_as_missing(tree: Tree):
    found = tree.conf("desc x\nref -r file=nowhere/f\n")
    assert [(each.where, each.required, each.position.line) for each in found.refs] == [("missing", True, 2)]


def test_conf_can_read_what_it_refers_to(tree: Tree):
    tree.write("scripts/list", "a b\n")
    assert tree.values('ref list\nvar names $(cat "$list")\n')["names"] == ["a", "b"]


# --- runs.conf and sysinfos --------------------------------------------------------------------


def test_runs_conf_files_act_from_general_to_specific(tree: Tree):
    """SPEC 2: last tree first, scripts/**, hosts and DOMAIN, hosts/HOST, DOMAIN/HOST."""
    order = [
        (1, "runs.conf"), (0, "runs.conf"), (0, "scripts/runs.conf"), (0, "scripts/sub/runs.conf"),
        (1, "hosts/runs.conf"), (0, "hosts/runs.conf"), (1, "univ.run/runs.conf"), (0, "univ.run/runs.conf"),
        (1, "hosts/medusa/runs.conf"), (0, "hosts/medusa/runs.conf"), (1, "univ.run/medusa/runs.conf"),
        (0, "univ.run/medusa/runs.conf"),
    ]  # fmt: skip
    for number, (where, path) in enumerate(order):
        tree.write(path, f"\nvar order+={number} last={number}\n", where)
    for where, path in [(0, "other.dom/runs.conf"), (0, "scripts/else/runs.conf"), (0, "hosts/gorgo/runs.conf")]:
        tree.write(path, "var order+=wrong\n", where)
    script = tree.script("var order+=conf", "sub/web")
    found = evaluate([Request(script, tree.host)], tree.trees)[0]
    assert found.problems == []
    assert shown(found) == {"order": [*map(str, range(len(order))), "conf"], "last": "11"}
    places = [each.position for each in found.settings if each.variable == "order"]
    roots = [tree.trees.located(where, path).shown for where, path in order]
    assert [(place.file, place.line) for place in places if place] == [
        *((root, 2) for root in roots), (script.source.shown, 1)
    ]  # fmt: skip


def test_without_a_host_only_what_holds_for_all_is_read(tree: Tree):
    tree.write("runs.conf", "var a=1\n")
    tree.write("hosts/runs.conf", "var b=1\n")
    tree.host = None
    assert tree.values("var c=1") == {"a": "1", "c": "1"}


def test_functions_of_runs_conf_are_there_in_conf_and_problems_stand_where_they_are_called(tree: Tree):
    file = tree.write("runs.conf", '\nneed() { var "$1"; }\n')
    found = tree.conf("desc x\nneed a=1\nneed b-c=1\n")
    assert shown(found) == {"a": "1"}
    assert [str(each.position) for each in found.problems] == [f"{file}:2"]


SYSINFOS = "sysname=(linux)\nsysdist=(debian linux)\nsysver=(11.7 bullseye)\nbits=64\n"
FILTERS = [
    ("", True), ("-s linux", True), ("-s darwin", False), ("-d debian", True), ("-d linux", True), ("-d ubuntu", False),
    ("-d ubuntu debian", True), ("-d ubuntu -d debian", True), ("-d debian -s darwin", False),
    ("-s linux -d debian", True),
    ("-v bullseye", True), ("-v 11.7", True), ("-v 11", False), ("-v 11+", True), ("-v 11-", True), ("-v 10+", True),
    ("-v 12+", False), ("-v 12-", True), ("-v 10-", False), ("-v 11.7+", True), ("-v 11.7-", True), ("-v 11.8+", False),
    ("-v 11.8-", True), ("-v 11.6-", False), ("-v 11.7.1+", False), ("-v 9+", True), ("-v 011+", True),
    ("-v 12+ 11-", True),
    ("-b 64", True), ("-b 32", False), ("-b 32 64", True), ("-d debian -v 11+ -b 64", True), ("-d 'deb*'", False),
]  # fmt: skip


@pytest.mark.parametrize(("arguments", "matches"), FILTERS)
def test_sysinfos_is_true_if_the_host_matches_all_the_given_kinds(tree: Tree, arguments: str, matches: bool):  # noqa: FBT001
    tree.write("univ.run/medusa/sysinfos.conf", SYSINFOS)
    conf = f"if sysinfos {arguments}; then var said=yes; else var said=no; fi\n"
    assert tree.values(conf)["said"] == ("yes" if matches else "no")


def test_facts_are_arrays_that_reach_script(tree: Tree):
    tree.write("hosts/medusa/sysinfos.conf", "sysdist=(never)\n")
    tree.write("univ.run/medusa/sysinfos.conf", SYSINFOS)
    assert tree.values("var d=${sysdist[0]}") == {
        "sysname": ["linux"], "sysdist": ["debian", "linux"], "sysver": ["11.7", "bullseye"], "bits": "64",
        "d": "debian"
    }  # fmt: skip


def test_facts_may_be_promised_with_var_too(tree: Tree):
    tree.write("hosts/medusa/sysinfos.conf", "var sysdist debian linux\n")
    assert tree.values("sysinfos -d debian && var a=1") == {"sysdist": ["debian", "linux"], "a": "1"}


def test_a_host_that_does_not_match_what_is_required_is_a_problem_that_names_both(tree: Tree):
    tree.write("hosts/medusa/sysinfos.conf", SYSINFOS)
    found = tree.conf("desc x\nsysinfos -r -d ubuntu\n")
    assert len(found.problems) == 1
    assert told(found)[0].startswith("2 ")
    assert "`web`" in found.problems[0].message
    assert "`medusa.univ.run`" in found.problems[0].message
    assert tree.conf("sysinfos -r -d debian\n").problems == []


@pytest.mark.parametrize("arguments", ["debian", "-x", "-v eleven+"])
def test_a_wrong_argument_of_sysinfos_is_a_problem(tree: Tree, arguments: str):
    tree.write("hosts/medusa/sysinfos.conf", SYSINFOS)
    assert told(tree.conf(f"desc x\nsysinfos {arguments} || :\n"))[0].startswith("2 bad ")


def test_facts_that_nobody_promised_are_needed_first(tree: Tree):
    found = tree.conf("desc x\nvar a=1\nsysinfos -d debian && var b=1\n")
    assert found.problems == []
    assert found.needs_facts
    assert found.needs_facts.line == 3
    facts = [op("sysname(linux)"), op("sysdist(debian linux)"), op("sysver(12)"), op("bits=64")]
    found = tree.conf("sysinfos -d debian && var b=1\n", facts=facts)
    assert found.needs_facts is None
    assert shown(found)["b"] == "1"


def test_facts_needed_by_a_file_that_conf_reads_are_needed_too(tree: Tree):
    """Else the section would end there, and what follows would silently be missing."""
    tree.write("scripts/common.inc", "sysinfos -d debian || :\n")
    found = tree.conf(". ./common.inc\nvar port=80\n")
    assert found.needs_facts is not None


def test_a_script_that_is_only_described_needs_no_facts(tree: Tree):
    tree.host = None
    found = tree.conf("desc d\nif sysinfos -d debian; then var a=1; fi\nvar b=2\n")
    assert (found.problems, found.needs_facts, found.description, shown(found)) == ([], None, "d", {"b": "2"})


# --- bad endings -------------------------------------------------------------------------------

ENDINGS = [
    ("exit", "var a=1\nexit 3\n", "2 the section ends with status 3"),
    ("exit in a function", "f() {\n  exit 4\n}\nf\n", "2 the section ends with status 4"),
    ("return", "var a=1\n\nreturn 2\nvar b=1\n", "3 the section ends with a failure: `return 2` has status 2"),
    ("false", "var a=1\nfalse\n", "2 the section ends with a failure: `false` has status 1"),
    ("an unknown command", "var a=1\nvra b=1\nvar c=1\n", "2 unknown command `vra` in a CONF section"),
    ("an unknown command at the end", "var a=1\nshouldrun", "2 unknown command `shouldrun` in a CONF section"),
    ("an unknown command under set -e", "set -e\nnosuch_\nvar c=1\n", "2 unknown command `nosuch_` in a CONF section"),
    ("false under set -e", "set -e\nfalse\nvar c=1\n", "2 the section ends with a failure: `false` has status 1"),
    ("a syntax error", "var a=1\nif true; then\n  var b=1\n", "bash: syntax error"),
    ("a parenthesis", "var a=1\n\nvar b=(1\nfi\n", "bash: syntax error"),
    ("a kill of the shell", "var a=1\nkill -9 $BASHPID\n", "the section killed its shell"),
    ("a TERM to the shell", "var a=1\nkill -TERM $BASHPID\nvar b=1\n", "the section killed its shell"),
    ("a HUP to the shell", "var a=1\nkill -HUP $BASHPID\nvar b=1\n", "the section killed its shell"),
    ("a kill of the evaluator", "kill -9 $$\n", "the section killed its shell"),
    ("endless output", "while :; do printf '%9999s'; done\n", "the section prints without end"),
    ("exec", "exec true\n", "the section"),
    ("a gibibyte of output", "head -c 1G /dev/zero\n", "the section prints without end|`head.*` has status"),
    ("a gibibyte in a file", "head -c 1G /dev/zero >$RUNS_root/shared/big\n", "`head.*` has status"),
    ("a gibibyte to our pipe", "head -c 1G /dev/zero >&63 2>/dev/null\n", "the section"),
    ("input closed and a failure", "exec <&-\nread -r x\n", "2 the section ends with a failure: `read -r x`"),
    ("a kill of all of its own", "kill -KILL 0\n", "the section killed its shell"),
]  # fmt: skip


@pytest.mark.parametrize(("conf", "message"), [each[1:] for each in ENDINGS], ids=[each[0] for each in ENDINGS])
def test_r34_s10_a_bad_ending_is_reported_once_at_its_line_and_the_next_section_is_evaluated(
    tree: Tree, conf: str, message: str
):
    """One section that breaks does not take the others with it."""
    good = tree.script("var fine=yes", "good")
    bad = tree.script(conf, "bad")
    before, found, behind = evaluate([Request(each, tree.host) for each in (good, bad, good)], tree.trees)
    assert (shown(before), shown(behind)) == ({"fine": "yes"}, {"fine": "yes"})
    assert (before.problems, behind.problems) == ([], [])
    assert len(found.problems) == 1
    assert message in told(found)[0] or re.search(message, told(found)[0])
    assert found.problems[0].position
    assert found.problems[0].position.file == bad.source.shown
    assert 1 <= found.problems[0].position.line <= conf.count("\n") + 1


HANGING = (
    "sleep 1000",
    "while :; do :; done",
    "while :; do desc x; done",
    "trap '' TERM INT HUP; sleep 1000",
    "read x </dev/zero",
)


def test_r34_s10_a_section_that_hangs_is_stopped_and_the_next_one_is_evaluated(tree: Tree):
    """All at once: a time that is short for who hangs must be long for who comes behind."""
    bad = [tree.script(conf, f"bad{n}") for n, conf in enumerate(HANGING)]
    good = tree.script("var fine=yes", "good")
    with ThreadPoolExecutor(len(bad)) as pool:
        ended = pool.map(lambda one: evaluate([Request(each, tree.host) for each in (one, good)], tree.trees, 5), bad)
    for script, (found, behind) in zip(bad, ended, strict=True):
        assert [str(each) for each in found.problems] == [
            f"{script.source.shown}:1: the section was still running after 5 s"
        ]
        assert shown(behind) == {"fine": "yes"}


def test_r34_s10_what_a_section_left_running_is_ended_with_it(tree: Tree):
    """And it does not keep the evaluation waiting."""
    found = tree.values("sleep 1000 >/dev/null 2>&1 &\nvar pid=$!\n")
    process = Path("/proc") / str(found["pid"]) / "cmdline"
    deadline = time.monotonic() + 60
    while _read(process) == b"sleep\x001000\x00":  # killed, but perhaps not gone yet
        assert time.monotonic() < deadline


def test_r34_s10_input_that_is_closed_is_no_input(tree: Tree):
    assert tree.values("exec <&-\nread -r x || var none=yes\nvar a=1") == {"none": "yes", "a": "1"}


def test_r34_s10_hundreds_of_processes_end_with_their_section(tree: Tree):
    """A fork bomb, limited: they are one process group, and it is killed, be it before all of them were started."""
    seconds = f"1000.{os.getpid()}{random.randrange(10**9)}"
    scripts = [
        tree.script(f"for i in {{1..200}}; do sleep {seconds} & done 2>/dev/null; sleep {seconds}", "bad"),
        tree.script("var fine=yes", "good"),
    ]
    found, behind = evaluate([Request(each, tree.host) for each in scripts], tree.trees, 4)
    assert [str(each) for each in found.problems] == [
        f"{scripts[0].source.shown}:1: the section was still running after 4 s"
    ]
    assert shown(behind) == {"fine": "yes"}
    mark = f"sleep\0{seconds}\0".encode()
    deadline = time.monotonic() + 60
    while any(_read(path / "cmdline") == mark for path in Path("/proc").iterdir() if path.name.isdecimal()):
        assert time.monotonic() < deadline


def test_r34_s10_a_section_that_kills_the_program_ends_it_before_anything_is_sent(tree: Tree, tmp_path: Path):
    """Nothing can be said then: it is the operator's own code, with his rights. Nothing is done either."""
    tree.script(f"echo $$ >{tmp_path}/group\nkill -KILL $PPID\nsleep 1000", "bad", body="touch ~/ran\n")
    words = ["deploy", "--local", "--path", str(tree.roots[0]), "--host", "medusa", "--script", "bad"]
    environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "RUNSDEPLOY_STATE_DIR": str(tmp_path / "state")}
    with subprocess.Popen(
        [sys.executable, "-m", "runsdeploy", *words], cwd=SHELL.parents[1], env=environment, stdin=subprocess.DEVNULL
    ) as process:
        assert process.wait(60) == -9
    os.killpg(int((tmp_path / "group").read_text()), signal.SIGKILL)
    assert not (tmp_path / "ran").exists()
    assert not (tmp_path / "state").exists()


SEED = int(os.environ.get("RUNSDEPLOY_TEST_SEED") or random.randrange(1 << 32))
"""of the random tests; printed, and given again to replay one"""
SAMPLE = b"""desc "what 'it' does"
conf once strict
after -r other list+=x port=80
[[ -n ${list-} ]] && var list a b
var port="${port:-80}" text='a
b' name=$'\\xe9'
if sysinfos -d debian; then
    ref -r file=scripts.txt
    out made=sub/file
fi
f() { var inner="$1"; }; f x
script:
shouldrun || exit
cat <<END "$file"
$text
END
for i in "${list[@]}"; do echo "$i" >>"$made"; done
case $port in 80) : ;; *) exit 3 ;; esac
setdone
"""
TOKENS = [
    b"'",
    b'"',
    b"\\",
    b"\n",
    b"\0",
    b"\r",
    b"$(",
    b"`",
    b"{",
    b"}",
    b"((",
    b"))",
    b"<<E\n",
    b"|",
    b";",
    b"&",
    b"\xff",
    b"$",
    b"script:\n",
    b"[[",
    b"]]",
    b"if ",
    b"fi\n",
    b"exit 1\n",
    b"return\n",
    b"var ",
    b"ref ",
    b"out ",
    b"after ",
    b"!",
]


def mutated(rng: random.Random) -> bytes:
    data = SAMPLE
    for _ in range(rng.randrange(1, 4)):
        at = rng.randrange(len(data) + 1)
        end = min(len(data), at + rng.randrange(8))
        middle = rng.choice([b"", bytes([rng.randrange(256)]), rng.choice(TOKENS), data[at:end] * 2])
        data = data[:at] + middle + data[end:]
    return data


@pytest.mark.parametrize("batch", range(50 if "RUNSDEPLOY_TEST_FULL" in os.environ else 10))
def test_t9_scripts_with_random_mistakes_end_in_problems_that_stand_in_them(
    tree: Tree, batch: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Cut at every place (spread over the batches), or changed at random; 200 a batch, beside one that is right."""
    print(f"RUNSDEPLOY_TEST_SEED={SEED}")
    rng = random.Random(SEED + batch)
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/bash").symlink_to(BASH)
    # What is made of a name by mistake must not be a program of this machine.
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    tree.write("hosts/medusa/sysinfos.conf", SYSINFOS)
    tree.write("scripts/scripts.txt", "x")
    texts = [SAMPLE[:at] for at in range(batch, len(SAMPLE), 10)]
    texts += [mutated(rng) for _ in range(200 - len(texts))]
    scripts = []
    for number, text in enumerate(texts):
        place = tree.trees.located(0, "scripts", f"s{number}")
        tree.write(place.inside, text)
        read = read_script(f"s{number}", place)
        if isinstance(read, Script):
            scripts.append((read, text.count(b"\n") + 1))
        else:
            assert read.position
            assert read.position.line <= text.count(b"\n") + 1
    good = tree.script("var fine=yes", "good")
    requests = [Request(script, tree.host, (), (), (), f"s/{n}") for n, (script, _) in enumerate(scripts)]
    *found, behind = evaluate([*requests, Request(good, tree.host)], tree.trees, 5)
    assert (shown(behind)["fine"], behind.problems) == ("yes", [])
    for (script, lines), conf in zip(scripts, found, strict=True):
        for problem in conf.problems:
            assert problem.position, (script.source.path.read_bytes(), problem)
            assert problem.position.file == script.source.shown
            # bash takes the end of a file for a line of its own.
            assert problem.position.line <= lines + 1, (script.source.path.read_bytes(), problem)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


def test_a_syntax_error_is_reported_in_the_file_and_line_where_it_stands(tree: Tree):
    file = tree.write("runs.conf", "var a=1\nvar b='\n")
    other = tree.script("desc ok\n", body="echo\nif true; fi\n")
    found = evaluate([Request(other, tree.host)], tree.trees)[0]
    assert {(each.position.file, each.position.line) for each in found.problems if each.position} == {
        (str(file), 2), (other.source.shown, 4)
    }  # fmt: skip


def test_a_syntax_error_of_script_is_reported_at_the_line_an_editor_shows(tree: Tree):
    script = tree.script("# 1\n# 2\n", body="echo 4\nfi\n")
    found = evaluate([Request(script, tree.host)], tree.trees)[0]
    assert [each.position.line for each in found.problems if each.position] == [5]


def test_a_failure_in_runs_conf_is_reported_there(tree: Tree):
    file = tree.write("runs.conf", "\nnosuch_ a\n")
    found = tree.conf("var a=1\n")
    assert [(str(each.position), each.message) for each in found.problems] == [
        (f"{file}:2", "unknown command `nosuch_` in a CONF section")
    ]


def test_an_exit_in_runs_conf_is_a_problem_there(tree: Tree):
    file = tree.write("runs.conf", "var a=1\nexit 0\n")
    assert [str(each.position) for each in tree.conf("var b=1\n").problems] == [f"{file}:2"]


def test_a_runs_conf_that_hangs_is_named(tree: Tree):
    file = tree.write("runs.conf", "sleep 1000\n")
    found = tree.conf("var b=1\n", limit=3)
    assert [each.position.file for each in found.problems if each.position] == [str(file)]


@pytest.mark.parametrize(
    "prints",
    [
        "echo hello", "echo hello >&2", "printf '2\\0set\\0a\\0'", "printf '1\\0finish\\0'", "ls -d /", "env",
        "printf 'a\\0b\\377\\n'", "echo hello >&63", "for i in {3..200}; do echo x >&$i; done 2>/dev/null", "exec >&-",
        "exec 63>&-", "exec 1>&63; echo hello",
    ],
)  # fmt: skip
def test_r34_s10_whatever_a_section_prints_is_never_taken_for_data(tree: Tree, prints: str):
    """SPEC 2: it is shown as a message."""
    scripts = [tree.script(f"var a=1\n{prints}\nvar b=2\n", "bad"), tree.script("var fine=yes", "good")]
    found, behind = evaluate([Request(each, tree.host) for each in scripts], tree.trees, 5)
    if not found.problems:
        assert shown(found) == {"a": "1", "b": "2"}
    assert shown(behind) == {"fine": "yes"}


def test_what_a_section_prints_is_a_message(tree: Tree):
    found = tree.conf("echo said\nls nosuch-file\nvar a=1\n")
    assert found.messages.startswith("said\n")
    assert "nosuch-file" in found.messages


def test_s10_a_section_has_no_input_and_is_in_its_own_directory(tree: Tree):
    tree.write("scripts/beside", "x")
    assert tree.values('read -r x\nvar in="${x-}"\nvar files $(ls)\n') == {"in": "", "files": ["beside", "web"]}


def test_paths_in_messages_are_those_of_the_operator(tree: Tree):
    found = tree.conf("cat ./nosuch\n. ./nosuch || :\n[[ 1 -eq a-b-c+ ]] || :\n")
    assert "runsdeploy-" not in found.messages
    assert tree.script().source.shown in found.messages


def test_a_file_that_conf_reads_may_have_any_name(tree: Tree):
    """A number is no section of ours."""
    tree.write("scripts/99", "var a=1\nvar b-c=1\n")
    found = tree.conf(". ./99\n")
    assert shown(found) == {"a": "1"}
    assert len(found.problems) == 1


def test_an_unknown_command_inside_of_a_function_is_named(tree: Tree):
    found = tree.conf("f() {\n  vra a=1\n}\nf\n")
    assert ["`vra`" in each.message for each in found.problems] == [True]
