"""Bad input: every kind of it, told with file and line, all in one go, before anything is touched."""

from __future__ import annotations

import os
import random
import re
import shutil
import socket
from dataclasses import dataclass, field

import pytest

from tests.sshd import process_table
from tests.trees import Content, Link, Operator, plant, script, wait_until

HOST = "medusa.univ.run"
LINE = re.compile(r"(?P<file>[^:]+):(?P<line>\d+)(:(?P<column>\d+))?: (?P<message>.+)")


@pytest.fixture
def operator(tmp_path):
    """Somebody whose ssh configuration leads to a port on which nobody may be seen."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(1)
        listener.setblocking(False)  # noqa: FBT003
        port = listener.getsockname()[1]
        config = (
            plant(
                tmp_path,
                {"ssh_config": f"Host *\n  HostName 127.0.0.1\n  Port {port}\n  ConnectTimeout 1\n"},
            )
            / "ssh_config"
        )
        yield Operator(tmp_path / "operator", config)
        with pytest.raises(BlockingIOError):
            listener.accept()


@dataclass(frozen=True)
class Bad:
    what: str
    conf: str = ""
    body: str = ":"
    recipe: str = "it\n"
    at: str = "scripts/it:1"
    """where, below the tree; empty for what has no file"""
    says: str = ""
    """a pattern that the message matches"""
    files: dict[str, Content] = field(default_factory=dict)
    more: tuple[str, ...] = ()


RECIPE = "hosts/medusa/default"

TABLE = [
    Bad("unknown script", recipe="it\nitt\n", at=f"{RECIPE}:2:1", says="unknown script `itt`.*did you mean `it`"),
    Bad("unknown recipe", recipe="it\n@more\n", at=f"{RECIPE}:2:1", says="unknown recipe `more`"),
    Bad("a script included as a recipe", recipe="@it\n", at=f"{RECIPE}:1:1", says="`it` is a script"),
    Bad(
        "recipes in a circle",
        recipe="@more\n",
        at="hosts/medusa/more:1:1",
        says="cycle.*@.*→",
        files={"hosts/medusa/more": "@default\n"},
    ),
    Bad(
        "a recipe run as a script",
        recipe="it\nmore\n",
        at="hosts/medusa/more",
        says="no line `script:`",
        files={"hosts/medusa/more": "it\n"},
    ),
    Bad(
        "no line script:", recipe="other\n", at="scripts/other", says="script:", files={"scripts/other": "echo hello\n"}
    ),
    Bad(
        "DOS line ends",
        recipe="other\n",
        at="scripts/other:2",
        says="DOS",
        files={"scripts/other": "desc x\r\nscript:\r\ntrue\r\n"},
    ),
    Bad(
        "a NUL in a script",
        recipe="other\n",
        at="scripts/other:3",
        says="NUL",
        files={"scripts/other": "desc x\nscript:\ntrue\0\n"},
    ),
    Bad("an operation without a name", recipe="it x=1 =2\n", at=f"{RECIPE}:1:8", says="bad operation `=2`"),
    Bad("an operation with a bad name", recipe="it\n    a-b=2\n", at=f"{RECIPE}:2:5", says="bad operation `a-b=2`"),
    Bad("an operation that starts with a digit", recipe="it 1a=2\n", at=f"{RECIPE}:1:4", says="bad operation"),
    Bad("a reserved name in a recipe", recipe="it PATH=/bin\n", at=f"{RECIPE}:1:4", says="`PATH` is reserved"),
    Bad("a reserved name of ours", recipe="it RUNS_HOST=x\n", at=f"{RECIPE}:1:4", says="`RUNS_HOST` is reserved"),
    Bad("a quote without its end", recipe="it x='a\nit\n", at=f"{RECIPE}:1:6", says="quote ' without its end"),
    Bad("an indented line on top", recipe="    x=1\nit\n", at=f"{RECIPE}:1:5", says="without a script above"),
    Bad(
        "operations on an include",
        recipe="@more x=1\n",
        at=f"{RECIPE}:1:7",
        says="no operations",
        files={"hosts/medusa/more": "it\n"},
    ),
    Bad("a name that leads up", recipe="../it\n", at=f"{RECIPE}:1:1", says="`..`"),
    Bad("a name that leads up in the middle", recipe="a/../it\n", at=f"{RECIPE}:1:1", says="`..`"),
    Bad("an absolute name", recipe="/etc/passwd\n", at=f"{RECIPE}:1:1", says="absolute"),
    Bad("a name with a newline", recipe="'a\nb'\n", at=f"{RECIPE}:1:1", says="newline"),
    Bad("an include that leads up", recipe="@../x\n", at=f"{RECIPE}:1:1", says="`..`"),
    Bad("an empty name", recipe="''\n", at=f"{RECIPE}:1:1", says="empty"),
    Bad("an unknown flag", "desc x\nconf rooot", at="scripts/it:2", says="unknown flag `rooot`.*did you mean `root`"),
    Bad("an unknown command in CONF", "desc x\nvarr y=1\nvar z=1", at="scripts/it:2", says="unknown command `varr`"),
    Bad("a bad operation in CONF", "desc x\nvar y=1 2z=3", at="scripts/it:2", says="bad operation `2z=3`"),
    Bad("a reserved name in CONF", "desc x\nvar IFS=:", at="scripts/it:2", says="`IFS` is reserved"),
    Bad("a reserved name in ref", "desc x\nref PATH=x", at="scripts/it:2", says="`PATH` is reserved"),
    Bad("a reserved array in CONF", "var BASH_ENV a b", says="`BASH_ENV` is reserved"),
    Bad("a bad option of ref", "ref -x f=y", says="bad option `-x`"),
    Bad("a bad option of after", "after -x y", says="bad option `-x`"),
    Bad("after without a script", "after -r", says="`after` without"),
    Bad("after -r of an unknown script", "desc x\nafter -r itt", at="scripts/it:2", says="unknown script `itt`"),
    Bad("after -rr of a bad name", "after -rr ../x", says="`..`"),
    Bad("after of a bad name", "after /x", says="absolute"),
    Bad(
        "a bad argument of after -r",
        "after -r other 1=2",
        says="bad operation `1=2`",
        files={"scripts/other": script()},
    ),
    Bad("a required file that is not there", "desc x\n\nref -r f=not-there", at="scripts/it:3", says="`not-there`"),
    Bad("a template that is not there", "ref -t f=not-there.j2", says="`not-there.j2`"),
    Bad(
        "a required file that only a later step makes",
        "ref -r f=made",
        recipe="it\nother\n",
        says="`made`",
        files={"scripts/other": script("out f=made")},
    ),
    Bad("a reference that leads up", "ref f=../../etc/passwd", says="`..`"),
    Bad("an absolute reference", "ref f=/etc/passwd", says="absolute"),
    Bad("an out that leads up", "out f=../x", says="`..`"),
    Bad("an absolute out", "out f=/x", says="absolute"),
    Bad(
        "a link out of the trees",
        "ref f=link",
        says="leads out of the trees",
        files={"scripts/link": Link("/etc/passwd")},
    ),
    Bad(
        "a link out of the trees to a directory",
        "ref f=dir",
        says="leads out of the trees",
        files={"scripts/dir": Link("/etc")},
    ),
    Bad(
        "a script that is a link out of the trees",
        recipe="link\n",
        at="scripts/link",
        says="leads out of the trees",
        files={"scripts/link": Link("/etc/passwd")},
    ),
    Bad(
        "an undefined name in a template",
        "ref -t f=t.j2",
        at="scripts/t.j2:3",
        says="nothing_here",
        files={"scripts/t.j2": "a\nb\n{{ nothing_here }}\n"},
    ),
    Bad(
        "a misspelt name in a template",
        "var port=80\nref -t f=t.j2",
        at="scripts/t.j2:1",
        says="`port`",
        files={"scripts/t.j2": "{{ prot }}\n"},
    ),
    Bad(
        "bad syntax in a template",
        "ref -t f=t.j2",
        at="scripts/t.j2:2",
        says="template",
        files={"scripts/t.j2": "a\n{% if %}\n"},
    ),
    Bad("CONF that fails", "desc x\nfalse", at="scripts/it:2", says="`false`"),
    Bad("CONF that exits", "desc x\nexit 3\nvar x=1", at="scripts/it:2", says="status 3"),
    Bad("CONF that kills its shell", "desc x\nkill -9 $BASHPID", says="killed"),
    Bad("CONF that is terminated", "var x=1\nkill -TERM $BASHPID\nvar y=2", says="killed|status 143"),
    Bad(
        "CONF whose command is killed in the end",
        "desc x\nbash -c 'kill -KILL $$'",
        at="scripts/it:2",
        says="status 137",
    ),
    Bad("CONF that prints without end", "yes", says="prints without end|ends with a failure|still running"),
    Bad("CONF that hangs", "desc x\nsleep 1000", says="still running after 1 s", more=("--conf-timeout", "1")),
    Bad("CONF that hangs in a pipe", "sleep 1000 | cat", says="still running after 1 s", more=("--conf-timeout", "1")),
    Bad(
        "bad syntax in CONF", "desc x\nif true; then\nvar y=1", at="scripts/it:\\d", says="syntax error|unexpected end"
    ),
    Bad("bad syntax in SCRIPT", "desc x", "true\nfi\ntrue", at="scripts/it:4", says="syntax error"),
    Bad("an open quote in SCRIPT", "desc x", "true\necho 'a\n", at="scripts/it:4", says="unexpected EOF"),
    Bad(
        "bad syntax in runs.conf",
        at="scripts/runs.conf:2",
        says="syntax error",
        files={"scripts/runs.conf": "var x=1\n)\n"},
    ),
    Bad("a failure in runs.conf", at="runs.conf:2", says="`nope`", files={"runs.conf": "var x=1\nnope\n"}),
    Bad("exit in runs.conf", at="runs.conf:2", says="exit", files={"runs.conf": "var x=1\nexit\n"}),
    Bad(
        "bad syntax in sysinfos.conf",
        at="hosts/medusa/sysinfos.conf:1",
        says="unexpected EOF",
        files={"hosts/medusa/sysinfos.conf": "sysdist=(a\n"},
    ),
    Bad("an unknown library", "desc x", "true\nurequire uinst nope", at="scripts/it:4", says="unknown library `nope`"),
    Bad(
        "an unknown library in a library",
        body="urequire mine",
        at="lib/mine:2",
        says="unknown library `nope`",
        files={"lib/mine": "true\nurequire nope\n"},
    ),
    Bad(
        "a host that does not match",
        "desc x\nsysinfos -r -d fedora",
        at="scripts/it:2",
        says=f"`it`.*`{HOST}`",
        files={"hosts/medusa/sysinfos.conf": "sysdist=(debian)\n"},
    ),
    Bad(
        "a bad version",
        "sysinfos -v x+ || :",
        says="bad version `x\\+`",
        files={"hosts/medusa/sysinfos.conf": "sysver=(12)\n"},
    ),
    Bad(
        "a cycle",
        "desc x\nafter other",
        recipe="it\nother\n",
        at="scripts/(it:2|other:1)",
        says="cycle.*(it → other → it|other → it → other)",
        files={"scripts/other": script("after it")},
    ),
    Bad(
        "a cycle of after -r",
        "after -r other",
        says="cycle.*it.*other.*it",
        at="scripts/(it|other):1",
        files={"scripts/other": script("after -r it")},
    ),
    Bad(
        "a cycle of after -rr",
        "after -rr other",
        says="cycle.*it.*other.*it",
        at="scripts/(it|other):1",
        files={"scripts/other": script("after -rr it")},
    ),
    Bad(
        "a script that is shipped as a file too",
        "ref f=other",
        recipe="it\nother\n",
        at=f"{RECIPE}:1:1",
        says="`other`",
        files={"scripts/other": script()},
    ),
    Bad(
        "a library that bash cannot parse, which a library loads",
        body="urequire lab",
        at="lib/deep:3",
        says="bash: syntax error",
        files={"lib/lab": "urequire deep\n", "lib/deep": "deep() { :; }\nfoo() {\n"},
    ),
    Bad("a bad --set", more=("--set", "1x=2"), at="<command line>", says="bad operation `1x=2`"),
    Bad("a reserved --set", more=("--set", "PATH=x"), at="<command line>", says="`PATH` is reserved"),
    Bad("an unknown --script", more=("--script", "itt"), at="<command line>", says="unknown script `itt`"),
    Bad("a bad --script", more=("--script", "../it"), at="<command line>", says="`..`"),
    Bad("an unknown --recipe", more=("--recipe", "itt"), at="<command line>", says="unknown recipe `itt`"),
    Bad("a recipe as a --script", more=("--script", "default"), at="<command line>", says="; if .* `--recipe default`"),
    Bad(
        "a recipe as a --script with an @",
        more=("--script", "@default"),
        at="<command line>",
        says="; if .* `--recipe default`",
    ),
    Bad("a script as a --recipe", more=("--recipe", "it"), at="<command line>", says="write `--script it`"),
    Bad("a script with an @", more=("--script", "@it"), at="<command line>", says="write `--script it`"),
]


@pytest.mark.parametrize("bad", TABLE, ids=[bad.what for bad in TABLE])
def test_t10_it_is_told_where_it_stands(bad, operator, tmp_path):
    files = {"scripts/it": script(bad.conf, bad.body), RECIPE: bad.recipe, **bad.files}
    tree = plant(tmp_path / "tree", files)
    done = operator.deploy(tree, *bad.more)
    assert done.status == done.document["exit_status"] == 2, done.out
    assert done.document["hosts"] == []
    errors = [(where(error, tree), error["message"] + "; " + error["hint"]) for error in done.document["errors"]]
    assert any(re.fullmatch(bad.at, place) and re.search(bad.says, message) for place, message in errors), errors
    said = done.talk.splitlines()
    assert len(said) == len(errors), done.talk
    for line in said:
        assert line.startswith("<command line>: ") or LINE.fullmatch(line) or not bad.at[-1].isdigit(), line
    untouched(operator)


def where(error, tree):
    """Return an error's place as FILE:LINE:COLUMN below the tree, without what is not known."""
    file = (error["file"] or "").removeprefix(f"{tree}/")
    return ":".join([file, *(str(error[key]) for key in ("line", "column") if error[key])])


def untouched(operator):
    assert not operator.state.exists()
    assert not any(operator.temporary.iterdir())


COMMANDS = [
    ("no host", ["deploy", "--script", "it"], "no host"),
    ("an unknown host", ["deploy", "--host", "medusaa"], "unknown host `medusaa`.*did you mean `medusa`"),
    ("a pattern that matches nothing", ["deploy", "--host", "*.nowhere"], "matches no host"),
    ("a bad host name", ["deploy", "--host", "-oProxyCommand=id"], ""),
    ("a bad host name behind an equals sign", ["deploy", "--host=-oProxyCommand=id"], "not a host name"),
    ("a host name with a slash", ["deploy", "--host", "a/b", "--script", "it"], "not a host name"),
    ("a bad user", ["deploy", "--host=-x@medusa"], "not a host name"),
    ("an unknown option", ["deploy", "--host", "medusa", "--nope"], "--nope"),
    ("an option cut short", ["deploy", "--hos", "medusa"], ""),
    ("an unknown command", ["deplyo"], "unknown command `deplyo`; did you mean `deploy`"),
    ("an unknown flag", ["deploy", "--hots", "medusa"], "unknown flag `--hots`; did you mean `--host`"),
    ("a host without its flag", ["deploy", "medusa"], "unexpected word `medusa`; did you mean `--host medusa`"),
    ("a script without its flag", ["deploy", "a/it"], "unexpected word `a/it`; did you mean `--script a/it`"),
    ("a host without its domain", ["plan", "--host", "stheno"], "did you mean `stheno.univ.run`"),
    ("a bad number", ["deploy", "--host", "medusa", "--parallel", "many"], "many"),
    ("no hosts at a time", ["deploy", "--host", "medusa", "--parallel", "0"], "`0`"),
    ("a tree that is not there", ["deploy", "--host", "medusa", "--path", "nowhere"], "nowhere`"),
    ("one tree of two that is not there", ["plan", "--host", "medusa", "--path", "tree:nowhere"], "nowhere`"),
    ("an unknown script", ["info", "itt"], "unknown script `itt`.*did you mean `it`"),
    ("a bad script name", ["info", "../it"], r"\.\."),
    ("an unknown pattern", ["hosts", "*.nowhere"], "matches no host"),
    ("an unknown format", ["plan", "--host", "medusa", "--format", "xml"], "xml"),
]


@pytest.mark.parametrize(
    ("words", "says"), [command[1:] for command in COMMANDS], ids=[command[0] for command in COMMANDS]
)
@pytest.mark.parametrize("form", ["text", "json"])
def test_t10_a_bad_command_line_is_told(words, says, form, operator, tmp_path):
    files = {"scripts/it": script(), "hosts/medusa/default": "it\n", "univ.run/stheno/default": "it\n"}
    tree = plant(tmp_path / "tree", files)
    more = [] if "--path" in words or words == ["deplyo"] else ["--path", tree]
    more += [] if "--format" in words or words == ["deplyo"] else ["--format", form]
    done = operator.run(*words, *more, cwd=tmp_path)
    assert done.status == 2, done.out
    assert re.search(says, done.talk), done.talk
    assert "Traceback" not in done.talk
    if form == "json" and "--format" in more:
        assert done.document["exit_status"] == 2
        assert any(re.search(says, error["message"] + "; " + error["hint"]) for error in done.document["errors"])
    untouched(operator)


RESERVED = [
    "PATH", "IFS", "ENV", "BASH_ENV", "BASHOPTS", "BASH_SOURCE", "SHELLOPTS", "UID", "EUID", "PPID", "PWD",
    "OLDPWD", "PS1", "PS4", "LC_ALL", "LD_PRELOAD", "OPTIND", "OPTARG", "OPTERR", "RANDOM", "SRANDOM",
    "SECONDS", "LINENO", "FUNCNAME", "FUNCNEST", "GROUPS", "HISTFILE", "MAPFILE", "REPLY", "TMOUT", "RUNS_HOST",
    "RUNS_own", "COMP_LINE", "EPOCHSECONDS", "DIRSTACK", "GLOBIGNORE", "EXECIGNORE", "FIGNORE",
    "POSIXLY_CORRECT", "PROMPT_COMMAND", "CDPATH", "SHLVL", "TIMEFORMAT", "IGNOREEOF", "PIPESTATUS", "_",
]  # fmt: skip
OPERATIONS = ["1x=2", "a-b=2", "=2", "''", "é=1", "'a b=2'", "a.b=1", "-x", "a,b", "a[0]=1", "+=x", "a+b", "a*=2"]
PATHS = ["../x", "/etc/passwd", "a/../b", "a/./b", "a//b", "..", ".", "./a", "a/..", "x" * 256]
NAMES = [*PATHS, "$'a\\nb'"]
IN_CONF = [
    *((f"var {name}=x", f"`{name}` is reserved") for name in RESERVED),
    *((f"var {name} a b", f"`{name}` is reserved") for name in RESERVED[::6]),
    *((f"out {name}", f"`{name}` is reserved") for name in RESERVED[1::6]),
    *((f"ref {name}=file", f"`{name}` is reserved") for name in RESERVED[2::6]),
    *((f"var fine=1 {operation}", "bad operation") for operation in OPERATIONS),
    *((f"after -r other {operation}", "bad operation") for operation in OPERATIONS[:4]),
    *((f"conf {flag}", "unknown flag") for flag in ("rooot", "Root", "''", "-x", "root,local", "onChange")),
    *((f"{word} x", f"unknown command `{word}`") for word in
      ("varr", "descr", "refs", "afters", "config", "outs", "sysinfo", "shouldrun", "setdone", "urequire", "einfo")),
    *((f"ref f={path}", "name `|component") for path in PATHS),
    *((f"out f={path}", "name `|component") for path in PATHS),
    *((f"after -r {name}", "name |component|holds") for name in NAMES),
    *((f"after {name}", "name |component|holds") for name in PATHS[:4]),
    ("ref -x f=y", "bad option `-x`"), ("after -x y", "bad option `-x`"), ("after", "without"), ("after -r", "without"),
    ("after -rr", "without"), ("after -rr nowhere", "unknown script `nowhere`"), ("after -r it/", "directory"),
    ("ref -r f=nowhere", "`nowhere`"), ("ref -t f=nowhere.j2", "`nowhere.j2`"), ("ref -r -t f=nowhere", "`nowhere`"),
    ("exit 1", "status 1"), ("exit 255", "status 255"), ("return 3", "status 3"), ("false", "status 1"),
    ("bash -c 'exit 7'", "status 7"), ("[[ a == b ]]", "status 1"), ("cd ./nowhere", "status 1"),
    ("f() { return 4; }; f", "status 4"), ("set -e; false", "status 1"),
]  # fmt: skip
"""second lines of CONF sections, and what is said there"""
SYNTAX = [
    "if true; then",
    "fi", "done", ")", "}", "case x in", "(true", "{ true", "for x", "'", '"', "$(", "<<<", ";;",
    "do", "then", "&& true", "| cat", "function",
]  # fmt: skip
"""lines that no bash can parse; it says so there or at the end"""
IN_RECIPES = [
    *((f"it fine=1 {operation}", 11, "bad operation") for operation in OPERATIONS),
    *((f"it {name}=x", 4, f"`{name}` is reserved") for name in RESERVED[::5]),
    *((f"it {name}", 4, f"`{name}` is reserved") for name in RESERVED[1::9]),
    *((path, 1, "name |component") for path in PATHS), *((f"@{path}", 1, "name |component") for path in PATHS[:4]),
    ("''", 1, "empty name"), ("@", 1, "empty name"), ("nowhere", 1, "unknown script"),
    ("@nowhere", 1, "unknown recipe"),
    ("@it", 1, "is a script"), ("it x='open", 6, "without its end"), ('it "open', 4, "without its end"),
    ("it x=1\r", 4, "carriage return"), ("it x=a\0b", 4, "NUL"), ("@more x=1", 7, "takes no operations"),
]  # fmt: skip
"""lines of a recipe, the column of the mistake, and what is said there"""


def test_t10_every_mistake_of_a_great_many_is_told_in_one_go_on_its_line(operator, tmp_path):
    """With the tables here and of recipes more than 300, and none is told that there is not."""
    seeded = len(TABLE) + len(COMMANDS) + len(IN_CONF) + 2 * len(SYNTAX) + len(IN_RECIPES)
    assert seeded >= 300
    recipe = "\n".join(line for line, _, _ in IN_RECIPES) + "\n"
    expected = [(f"hosts/medusa/default:{n}:{c}", says) for n, (_, c, says) in enumerate(IN_RECIPES, 1)]
    files: dict[str, Content] = {"scripts/it": script(), "scripts/other": script(), "hosts/medusa/more": "it\n"}
    for n, (line, says) in enumerate(IN_CONF):
        files[f"scripts/c{n}"] = script(f"desc x\n{line}")
        expected.append((f"scripts/c{n}:2", says))
    for n, line in enumerate(SYNTAX):
        files[f"scripts/d{n}"] = script(f"desc x\n{line}\n# more")
        files[f"scripts/e{n}"] = script("desc x", f"true\n{line}\ntrue")
        expected += [(f"scripts/d{n}:[2-4]", ""), (f"scripts/e{n}:[4-6]", "")]
    recipe += "".join(
        f"{name.removeprefix('scripts/')}\n" for name in files if name[8:9] in "cde" and name[9:].isdigit()
    )
    tree = plant(tmp_path / "tree", {**files, "hosts/medusa/default": recipe})
    done = operator.deploy(tree)
    assert done.status == 2
    told = [(where(error, tree), error["message"]) for error in done.document["errors"]]
    missed = [
        each for each in expected if not any(re.fullmatch(each[0], at) and re.search(each[1], m) for at, m in told)
    ]
    assert missed == []
    places = {at for at, _ in told}
    assert {at for at in places if not any(re.fullmatch(place, at) for place, _ in expected)} == set()
    untouched(operator)


SEED = int(os.environ.get("RUNSDEPLOY_TEST_SEED") or random.randrange(1 << 32))
"""of the random tests; printed, and given again to replay one"""
SAMPLES = {
    "runs.conf": b"var port=80\nvar list a b\n",
    "scripts/runs.conf": b"[[ -n $port ]] && var port=81\n:\n",
    "scripts/it": b"desc 'a script'\nconf once\nref -r f=data\nref -t p=page.j2\nvar list+=c\n"
    b"script:\nshouldrun || exit\n"
    b'cat "$f" "$p"\nurequire mine\nsetdone\n',
    "scripts/page.j2": b"{% for x in list %}{{ x }} {{ port }}{% endfor %}\n",
    "scripts/data": b"x\n",
    "scripts/other": b'after it\nout o\nsysinfos -d debian\nscript:\necho "$o"\n',
    "lib/mine": b"urequire uinst\n",
    "groups/web": b"# all\nmedusa\n@more\n",
    "groups/more": b"*\n",
    "hosts/medusa/default": b"it port=8080 list-=a\n    list x 'y z'\n@more\n",
    "hosts/medusa/more": b'other "a=\\"b"\n',
    "hosts/medusa/sysinfos.conf": b"sysname=(linux)\nsysdist=(debian linux)\nsysver=(12)\nbits=64\n",
}
TOKENS = [b"'", b'"', b"\\", b"\n", b"\0", b"\r\n", b"$(", b"`", b"{", b"}", b"((", b"<<E", b"|", b";", b"&",
          b"\xff\xfe",
          b"\xef\xbb\xbf", b"script:\n", b"@", b"../", b"=", b"+=", b"  ", b"{{", b"%}", b"\x1b[2J"]  # fmt: skip


def mutated(data, rng):
    """Return a file cut short, or with bytes changed, put in, left out or doubled."""
    if rng.random() < 0.25:
        return data[: rng.randrange(len(data) + 1)]
    for _ in range(rng.randrange(1, 4)):
        at = rng.randrange(len(data) + 1)
        end = min(len(data), at + rng.randrange(6))
        middle = rng.choice([b"", bytes([rng.randrange(256)]), rng.choice(TOKENS), data[at:end] * 2])
        data = data[:at] + middle + data[end:]
    return data


@pytest.mark.parametrize("batch", range(200 if "RUNSDEPLOY_TEST_FULL" in os.environ else 15))
def test_t9_a_tree_with_random_mistakes_ends_in_a_plan_or_in_places(batch, operator, tmp_path):
    """No traceback, no hang, no other status, and every place that is told is one that an editor can show."""
    print(f"RUNSDEPLOY_TEST_SEED={SEED}")
    rng = random.Random(SEED + batch)
    files = dict(SAMPLES)
    for name in rng.sample(sorted(files), rng.randrange(1, 4)):
        files[name] = mutated(files[name], rng)
    tree = plant(tmp_path / "tree", files)
    # What is made of a name by mistake must not be a program of this machine.
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "bash").symlink_to(shutil.which("bash"))
    operator.environment["PATH"] = str(tmp_path / "bin")
    done = operator.run("plan", "--host", "@web", "--format", "json", "--conf-timeout", "5", cwd=tree)
    assert done.status == done.document["exit_status"]
    assert done.status in (0, 2), done.talk
    assert "Traceback" not in done.talk
    for error in done.document.get("errors", ()):
        if error["file"] and error["file"] != "<command line>":
            # The last line need not have an end, and bash takes the end of a file for a line of its own.
            lines = (tree / error["file"]).read_bytes().count(b"\n") + 1
            assert error["line"] is None or error["line"] <= lines + 1
    assert done.status == 0 or done.document["errors"]


def test_t9_all_problems_of_a_tree_are_told_in_one_go(operator, tmp_path):
    files = {
        "scripts/a": script("var PATH=x\nconf nope\nref -r f=not-there", "true\nfi"),
        "scripts/b": script("after c", "echo 'open"),
        "scripts/c": script("after b"),
        "scripts/d": script("ref -t f=t.j2; ref g=../up; out h=/abs", "urequire nope"),
        "scripts/t.j2": "{{ missing }}\n",
        "scripts/e": "no separator\n",
        "scripts/f": script("exit 4"),
        "scripts/g": script("if"),
        "scripts/runs.conf": "var 1=2\n",
        "hosts/medusa/default": "a x=1 =\nunknown\n@nowhere\n../up\nb\nc\nd\ne\nf\ng\na 'open\na BASH_ENV=x\n",
    }
    tree = plant(tmp_path / "tree", files)
    done = operator.deploy(tree)
    assert done.status == 2
    told = {where(error, tree) for error in done.document["errors"]}
    recipe = "hosts/medusa/default"
    expected = {
        "scripts/a:1",
        "scripts/a:2",
        "scripts/a:3",
        "scripts/a:6",
        "scripts/b:3",
        "scripts/t.j2:1",
        "scripts/d:1",
        "scripts/d:3",
        "scripts/e",
        "scripts/f:1",
        "scripts/g:2",
        "scripts/runs.conf:1",
        f"{recipe}:1:7",
        f"{recipe}:2:1",
        f"{recipe}:3:1",
        f"{recipe}:4:1",
        f"{recipe}:8:1",
        f"{recipe}:11:3",
        f"{recipe}:12:3",
    }
    assert expected - told == set()
    assert any("cycle" in error["message"] for error in done.document["errors"])
    assert len(done.document["errors"]) == len({tuple(error.items()) for error in done.document["errors"]})
    for line in done.talk.splitlines():
        assert LINE.fullmatch(line) or line.startswith(f"{tree}/scripts/e: "), line
    untouched(operator)


def test_all_hosts_problems_are_told_in_one_go(operator, tmp_path):
    files = {"scripts/it": script(), "hosts/one/default": "it\nx1\n", "hosts/two/default": "x2\nit\n"}
    done = operator.deploy(plant(tmp_path / "tree", files), host="one,two")
    assert [error["message"] for error in done.document["errors"]] == ["unknown script `x1`", "unknown script `x2`"]


def test_dry_run_and_plan_report_the_same(operator, tmp_path):
    tree = plant(tmp_path / "tree", {"scripts/it": script("conf nope"), "hosts/medusa/default": "it\nnone\n"})
    deploy, dry = operator.deploy(tree), operator.deploy(tree, "--dry-run")
    plan = operator.run("plan", "--path", tree, "--host", HOST, "--format", "json")
    assert deploy.document == dry.document == plan.document
    assert deploy.talk == dry.talk == plan.talk


def test_paths_are_told_from_where_the_operator_stands(operator, tmp_path):
    tree = plant(tmp_path / "tree", {"scripts/it": script("conf nope"), "hosts/medusa/default": "it\n"})
    done = operator.run("plan", "--host", "medusa", cwd=tree)
    assert done.talk.startswith("scripts/it:1: ")
    assert operator.run("plan", "--host", "medusa", cwd=tree / "scripts").talk.startswith("it:1: ")


def test_r34_s10_what_conf_starts_does_not_outlive_it(operator, tmp_path):
    conf = f"sleep 1000 & echo $! >'{tmp_path}/new'; mv '{tmp_path}/new' '{tmp_path}/child'; sleep 1000"
    tree = plant(tmp_path / "tree", {"scripts/it": script(conf), "hosts/medusa/default": "it\n"})
    for limit in ("1", "5", "60"):
        assert operator.deploy(tree, "--conf-timeout", limit).status == 2
        if (tmp_path / "child").exists():  # a slow machine does not get so far at once
            break
    child = int((tmp_path / "child").read_text())
    wait_until(lambda: child not in process_table())


@pytest.mark.parametrize("mode", ["", "-r ", "-rr "])
def test_a_script_cannot_come_after_itself(mode, operator, tmp_path):
    files = {"scripts/it": script(f"after {mode}it", "true"), "hosts/medusa/default": "it\n"}
    done = operator.run("plan", "--path", plant(tmp_path / "tree", files), "--host", "medusa")
    assert done.status == 2
    assert "scripts/it:1: cycle in `after`: it → it" in done.talk


def test_after_in_a_runs_conf_is_meant_for_the_others(operator, tmp_path):
    files = {
        "runs.conf": "after -r base\n",
        "scripts/base": script("", "true"),
        "scripts/it": script("", "true"),
        "hosts/medusa/default": "it\n",
    }
    done = operator.run("plan", "--path", plant(tmp_path / "tree", files), "--host", "medusa", "--format", "json")
    assert [step["script"] for step in done.document["hosts"][0]["steps"]] == ["base", "it"]
