"""T9: bytes that nobody meant, as recipes, groups, configurations and scripts.

What must hold for each: no exception, no hang, every problem at a place that an editor can show, and nothing of it
that a terminal would obey. Cases come from a grammar, from changed bytes, and from files cut at every offset.

CONF is executed, and a change of a few bytes makes a new program of it. So that none of these can do harm:
the words of the grammar name no program and no path outside; functions, `&` and loops without end are left out, so
nothing multiplies; PATH holds nothing but bash; a redirection can only name a file in the working directory, which is
thrown away (`harmless`).
"""

from __future__ import annotations

import os
import random
import re
import resource
import shutil
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from runsdeploy.errors import InputError, Problem
from runsdeploy.output.terminal import printable
from runsdeploy.plan.conf import Request
from runsdeploy.plan.evaluation import evaluate
from runsdeploy.tree.recipe import parse_recipe
from runsdeploy.tree.script import Script, read_script
from runsdeploy.tree.selection import Choice, memberships, select
from runsdeploy.tree.trees import Host, Trees
from tests.trees import Link, Operator, plant

FULL = "RUNSDEPLOY_TEST_FULL" in os.environ
CASES = 10_000 if FULL else 2_000
SEED = int(os.environ.get("RUNSDEPLOY_TEST_SEED") or random.randrange(1 << 32))
"""printed, and given again to replay"""
HOST = Host("medusa.univ.run")
RECIPE = "hosts/medusa/default"
SLOW = 1.0
"""seconds that one case may take, by the promise"""
MEMORY = 100 << 10
"""KiB that all cases of a test together may need in this process"""


# --- cases -----------------------------------------------------------------------------------------


SAMPLES = {
    "recipe": (
        b'# a comment\nbase\nweb/nginx port=8080 names+=\'a b\' names-=c \\\n    more="x\\"y"\n'
        b"    list a 'b\nc' d\n    empty\n@more # rest\n\tx=1\n"
    ),
    "group": b"# all\nmedusa\nroot@gorgon.univ.run\n*.univ.run\n!medusa # not now\n@web\n![a-c]*\n",
    "conf": (
        b'desc "it"\nconf root onchange\nafter base\nafter -r other port=8080 "names+=a b"\n'
        b"var port=\"${port:-80}\" list+=a\nvar names a 'b c' $'d\\n'\nout made=made.tar\nref -r data\n"
        b"ref -t page=page.j2\nif sysinfos -d debian -v 11+; then var kind=apt\nelif [[ $port = 8* ]]; then\n"
        b'    var kind="$(echo dnf)"\nfi\nfor each in "${names[@]}"; do var all+="$each"; done\ncase $port in\n'
        b"80 | 8080) : ;;\n*) var odd=$((port + 1)) ;;\nesac\nread -r line <<END\n$port\nEND\n"
    ),
    "body": (
        b'shouldrun || exit\nurequire uinst mine\nfor each in "${names[@]}"; do\n    echo "$each" | cat\ndone\n'
        b'[ -f "$data" ] && cat <<END\n${port}\nEND\nhello() { echo "$(date)"; }\nhello\nsetdone\n'
    ),
    "runs": b'# for all\nvar port=80\n[ -n "${kind:-}" ] || var kind=none\nvar list a b\n',
    "sysinfos": b"# as it is\nsysname=(linux)\nsysdist=(debian linux)\nsysver=(12 bookworm)\nbits=64\n",
}
"""files as operators write them; every one of them is also cut at each of its offsets"""

_CONF = rb"""
desc conf root local after -r -rr base it var out ref -t sysinfos -d -v 11+ port=80 list+=a x = $port "${list[@]}"
${x:-y} ' " if then else fi for_each_in do done case esac [[ ]] (( )) $(( ${ } <<END END <<< | && || ; ;; { ( ) exit 1
return set_-e set_-u shopt_-s_nocasematch local declare_-A unset readonly trap_-_EXIT break ! time page.j2 data
made ../x PATH=x \
"""
_WORDS = {
    "recipe": rb"""base web/nginx @more port=80 list+=a list-=a list 'a_b' "a\"b" \ ../x PATH=x 1=2 # '' @ x=\ """,
    "group": b"medusa @web @group * *.univ.run !medusa ! root@medusa [ [a- # ::1 a/b -x \xc3\xa9",
    "conf": _CONF,
    "body": _CONF + b"shouldrun setdone urequire hello() & >x while_: function",
    "runs": b"""var port=80 list [ ] || && exit return_3 # ' " conf_root ref_data $port if then fi = 1x=2 IFS=:""",
    "sysinfos": b"sysname=(linux) sysdist=( ) sysver=12 bits=64 bits= var sysname ' # exit_1 $bits return =",
}
WORDS = {kind: [word.replace(b"_", b" ") for word in words.split()] for kind, words in _WORDS.items()}
"""the vocabulary of the grammar"""
BYTES = [bytes([code]) for code in b"\n \t'\"\\\0`{}*~\x1b"] + [
    *(b"\n    ", b"\r\n", b"\xff\xfe", b"\xef\xbb\xbf", b"\x1b[2J", b"$(", b"\xe2\x80\xa8", b"\xc2\xa0", b"script:\n"),
]  # fmt: skip
"""what files break of"""


def cases(kind: str, count: int, rng: random.Random) -> list[bytes]:
    """Return so many files: the sample cut everywhere, and as many of words of the grammar as of changed bytes."""
    sample = SAMPLES[kind]
    found = [sample[:end] for end in range(len(sample) + 1)]
    while len(found) < count:
        found.append(changed(sample, rng) if len(found) % 2 else grown(kind, rng))
    return found[:count] if count > len(sample) else rng.sample(found, count)


def grown(kind: str, rng: random.Random) -> bytes:
    """Return lines of words of the grammar."""
    lines = []
    for _ in range(rng.randrange(1, 12)):
        words = rng.choices(WORDS[kind], k=rng.randrange(1, 7))
        lines.append(rng.choice([b"", b"", b"", b"    ", b"\t"]) + rng.choice([b" ", b" ", b" ", b""]).join(words))
    text = b"\n".join(lines) + rng.choice([b"\n", b"\n", b""])
    return changed(text, rng) if rng.random() < 0.2 else text


def changed(data: bytes, rng: random.Random) -> bytes:
    """Return a file with a few of its bytes changed, put in, left out, doubled or moved."""
    for _ in range(rng.randrange(1, 5)):
        at = rng.randrange(len(data) + 1)
        end = min(len(data), at + rng.randrange(12))
        middle = rng.choice([b"", bytes([rng.randrange(256)]), rng.choice(BYTES), data[at:end] * 2, data[at:end][::-1]])
        data = data[:at] + middle + data[end:]
    return data


def harmless(data: bytes) -> bytes:
    """Return a CONF section that can neither start what multiplies nor write outside of its directory."""
    data = re.sub(rb"(?<!&)&(?![&])|&&&+", b";", data)
    # Neither functions, which may call themselves, nor loops whose end depends on something.
    data = re.sub(rb"\(\s*\)|while|until|function|coproc", b"_", data)
    before, redirected, behind = data.partition(b">")
    return before + redirected + re.sub(rb"[/~]", b"_", behind)


# --- laws ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Laws:
    """What holds for the problems of a tree."""

    root: Path

    def hold_for(self, problem: Problem) -> None:
        """Check a place that is told, and how."""
        told, at = printable(str(problem)), problem.position
        assert at is not None, problem
        assert re.fullmatch(r"[^:]+(:\d+(:\d+)?)?: [^\n]+", told), told
        assert "runsdeploy-" not in told, "a place that is gone when it is read"
        assert (self.root / at.file).is_file(), problem
        lines = (self.root / at.file).read_bytes().split(b"\n")
        # bash takes the end of a file for a line of its own.
        assert 0 <= at.line <= len(lines) + 1, (problem, len(lines))
        if at.column:
            assert at.column <= len(lines[at.line - 1].decode("utf-8", "surrogateescape")) + 1, problem


@pytest.fixture
def rng(request):
    """Random numbers of this test's own; the seed is printed."""
    print(f"RUNSDEPLOY_TEST_SEED={SEED}")
    return random.Random(f"{SEED} {request.node.name}")


@pytest.fixture
def batch(request):
    """One of many trees; its number is in the name of the test, which the random numbers come from."""
    return request.param


@pytest.fixture
def programs(tmp_path):
    """A directory for PATH: what is made of a word by chance must not be a program of this machine."""
    plant(tmp_path / "bin", {"bash": Link(str(shutil.which("bash")))})
    return str(tmp_path / "bin")


@pytest.fixture
def place(tmp_path, programs, monkeypatch):
    """A tree to work in."""
    plant(tmp_path, {"tree/scripts": None, "home": None})
    monkeypatch.setenv("PATH", programs)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path / "tree")
    return tmp_path / "tree"


@pytest.fixture(autouse=True)
def _no_case_needs_much_memory():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    yield
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < MEMORY


def test_t9_recipes_of_any_bytes_end_in_entries_or_places(place, rng):
    laws = Laws(place)
    for data in cases("recipe", CASES, rng):
        (place / "r").write_bytes(data)
        began = time.process_time()
        entries, problems = parse_recipe(data, "r")
        assert time.process_time() - began < SLOW
        for problem in problems:
            laws.hold_for(problem)
        for entry in entries:
            assert entry.position.line >= 1
            assert not any(b"\0" in value for op in entry.operations for value in op.values)


def test_t9_a_long_recipe_takes_no_longer_than_its_length():
    """Nothing is quadratic: 10,000 lines, or one line of 100,000 words, or 100,000 quotes that do not end."""
    lines = (
        *(b"it x=1\n" * 10_000, b"it\n" + b"  x=1\n" * 50_000, b"it " + b"x=1 " * 100_000),
        *(b"it '\n" * 100_000, b"it \\\n" * 100_000, b'"' * 99_999),
    )
    for data in lines:
        began = time.process_time()
        parse_recipe(data, "r")
        assert time.process_time() - began < 10 * SLOW, data[:20]


def test_t9_all_problems_of_a_recipe_are_reported_at_once(rng):
    """Those of two recipes in a row are those of the one and those of the other."""
    told = 0
    for _ in range(CASES // 4):
        one, two = (b"it\n" + re.sub(rb"['\"\\]", b"", grown("recipe", rng)) + b"\n" for _ in range(2))
        shift = one.count(b"\n")
        first, second, both = (parse_recipe(data, "r")[1] for data in (one, two, one + two))
        apart = [(p.position.line, p.message) for p in first] + [(p.position.line + shift, p.message) for p in second]
        assert sorted(apart) == sorted((p.position.line, p.message) for p in both)
        told += len(apart)
    assert told > 100


def test_t9_groups_of_any_bytes_end_in_hosts_or_places(place, rng):
    plant(place, {"groups/web": "gorgon.univ.run\n", "hosts/medusa/default": "it\n", "univ.run/gorgon/default": "it\n"})
    trees, laws = Trees((place,)), Laws(place)
    for data in cases("group", CASES, rng):
        (place / "groups" / "group").write_bytes(data)
        began = time.process_time()
        try:
            found = select(trees, [Choice("@group")])
            assert all(re.fullmatch(r"[A-Za-z0-9_.:-]+", host.name) for host in found)
            problems = []
        except InputError as wrong:
            problems = list(wrong.problems)
        assert time.process_time() - began < SLOW
        for problem in [*problems, *memberships(trees)[1]]:
            laws.hold_for(problem)


def evaluated(place: Path, requests: list[Request]) -> None:
    """Evaluate requests, many in one bash, and hold what they tell against the laws."""
    laws = Laws(place)
    before = set(place.parent.iterdir())
    for result in evaluate(requests, Trees((place,)), time_limit=30 * SLOW):
        for problem in result.problems:
            laws.hold_for(problem)
            assert "still running" not in problem.message, problem
        for variable in result.variables:
            assert not any(b"\0" in piece for value in variable.values for piece in value.pieces)
    assert set(place.parent.iterdir()) == before, "something was written outside"


def scripted(place: Path, name: str, data: bytes) -> Script | None:
    """Write a script and read it as the plan does; None if it is none, which is told at its place."""
    (place / "scripts" / name).write_bytes(data)
    script = read_script(name, Trees((place,)).located(0, "scripts", name))
    if isinstance(script, Problem):
        Laws(place).hold_for(script)
        return None
    return script


def test_t9_conf_and_script_sections_of_any_bytes_end_in_declarations_or_places(place, rng):
    plant(place / "scripts", {"data": "x\n", "page.j2": "{{ port }}\n"})
    requests = []
    bodies = cases("body", CASES, rng)
    for number, conf in enumerate(cases("conf", CASES, rng)):
        script = scripted(place, f"it{number}", harmless(conf) + b"\nscript:\n" + bodies[number])
        if script:
            requests.append(Request(script, HOST, key=str(number)))
    assert len(requests) > CASES / 2
    evaluated(place, requests)


@pytest.mark.parametrize("kind", ["runs", "sysinfos"])
def test_t9_configurations_of_any_bytes_end_in_variables_or_places(kind, place, rng):
    script = scripted(place, "it", b'desc "it"\nif sysinfos -d debian; then var kind=apt; fi\nscript:\necho "$kind"\n')
    assert script
    requests = []
    for number, data in enumerate(cases(kind, CASES // 2, rng)):
        plant(place, {f"hosts/h{number}/{kind}.conf": harmless(data)})
        requests.append(Request(script, Host(f"h{number}"), key=str(number)))
    evaluated(place, requests)


@pytest.mark.usefixtures("batch")
@pytest.mark.parametrize("batch", range(100 if FULL else 6), indirect=True)
def test_t9_check_plan_and_list_hold_for_a_tree_of_any_bytes(rng, programs, tmp_path):
    """The program itself: its status is one of the documented, its stdout one document, its places exist."""
    files = {
        "runs.conf": harmless(rng.choice(cases("runs", 400, rng))),
        "groups/web": rng.choice(cases("group", 400, rng)),
        RECIPE: b"".join(b"it%d port=1\n" % n for n in range(20)) + rng.choice(cases("recipe", 400, rng)),
        "hosts/medusa/sysinfos.conf": harmless(rng.choice(cases("sysinfos", 400, rng))),
        "scripts/page.j2": changed(b"{% for x in list %}{{ x }} {{ port | upper }}{% endfor %}\n", rng),
        "lib/mine": rng.choice(cases("body", 800, rng)),
    }
    for number in range(20):
        conf, body = rng.choice(cases("conf", 1600, rng)), rng.choice(cases("body", 800, rng))
        files[f"scripts/it{number}"] = harmless(conf) + b"\nscript:\n" + body
    tree = plant(tmp_path / "tree", files)
    operator = Operator(tmp_path / "operator", environment={"PATH": programs})
    for words in (["check"], ["check", "--static"], ["plan", "--host", "medusa"], ["list"]):
        done = operator.run(*words, "--format", "json", "--conf-timeout", "5", cwd=tree)
        assert done.status in (0, 2), (words, done.talk)
        assert done.document["exit_status"] == done.status
        assert "Traceback" not in done.talk, (words, done.talk)
        assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f]", done.talk), (words, done.talk)
        for told in done.document.get("findings", done.document.get("errors", ())):
            if told["file"] not in (None, "<command line>"):
                lines = (tree / told["file"]).read_bytes().count(b"\n") + 1
                assert told["line"] is None or told["line"] <= lines + 1, (words, told)
