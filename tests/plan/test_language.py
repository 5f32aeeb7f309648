"""The language, rule by rule, as an operator meets it: tiny trees deployed over SSH, and what their scripts got."""

from __future__ import annotations

import contextlib
import os
import random
import re
import shlex
import shutil
import subprocess
import sys
import threading
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.trees import Content, Executable, Link, Operator, contents, plant, script, wait, wait_until

HOST = "medusa.univ.run"


def show(*names):
    """Write each variable to a file of its name in the home directory: its kind, then its values, each behind a NUL."""
    return "\n".join(
        f"if declare -p {name} >/dev/null 2>&1; then k=$(declare -p {name}); k=${{k#declare -}}; k=${{k%% *}}\n"
        f"printf '%s' \"$k\" >~/{name}; printf '\\0%s' ${{{name}[@]+\"${{{name}[@]}}\"}} >>~/{name}; fi"
        for name in names
    )


def got(host, name):
    """Return what `show` wrote: bytes for a scalar, a list for an array, None for no variable."""
    path = host.home / name
    if not path.exists():
        return None
    kind, *values = path.read_bytes().split(b"\0")
    if b"a" in kind:
        # printf writes its format once even where there is nothing to print.
        return [] if values == [b""] else values
    return values[0]


def read(host, name):
    return (host.home / name).read_text()


def succeed(operator, tree, *more):
    done = operator.deploy(tree, *more)
    assert done.status == 0, done.out.decode() + done.talk
    return done


# --- variables (SPEC 2)


@dataclass(frozen=True)
class Case:
    rule: str
    conf: str
    expected: dict[str, bytes | list[bytes] | None]
    recipe: str = ""
    """what stands behind the script's name, indented lines included"""
    files: dict[str, Content] = field(default_factory=dict)
    more: tuple[str, ...] = ()
    """words of the command line"""


OPERATIONS = [
    Case("name=value sets", "var x=a", {"x": b"a"}),
    Case("the last one wins", "var x=a x=b", {"x": b"b"}),
    Case("an empty value is a value", "var x=", {"x": b""}),
    Case("one equals sign ends the name", "var x=a=b+=c", {"x": b"a=b+=c"}),
    Case("+= appends", "var x+=a; var x+=b", {"x": [b"a", b"b"]}),
    Case("+= appends only what is not there", "var x a b; var x+=a x+=c x+=a", {"x": [b"a", b"b", b"c"]}),
    Case("+= makes an array of a scalar", "var x=a; var x+=b", {"x": [b"a", b"b"]}),
    Case("-= removes every one", "var x a b a c a; var x-=a", {"x": [b"b", b"c"]}),
    Case("-= of what is not there removes nothing", "var x a b; var x-=c", {"x": [b"a", b"b"]}),
    Case("-= compares whole values, not patterns", "var x a '*' ab; var x-='*'", {"x": [b"a", b"ab"]}),
    Case("name and values initialise", "var x a 'b c' ''", {"x": [b"a", b"b c", b""]}),
    Case("initialising forgets", "var x a b; var x c", {"x": [b"c"]}),
    Case("a name alone empties", "var x a b; var x", {"x": []}),
    Case("a scalar replaces an array", "var x a b; var x=c", {"x": b"c"}),
    Case("several operations in one call", "var a=1 b+=2 c=3", {"a": b"1", "b": [b"2"], "c": b"3"}),
    Case("plain assignments stay in CONF", "x=1; var y=$x", {"x": None, "y": b"1"}),
    Case("arrays of CONF stay in CONF", 'x=(a b); var y "${x[@]}"', {"x": None, "y": [b"a", b"b"]}),
    Case("a default gives way to the recipe", 'var port="${port:-80}"', {"port": b"8080"}, "port=8080"),
    Case("a default holds without one", 'var port="${port:-80}"', {"port": b"80"}),
    Case(
        "CONF sees the recipe's value after `var`",
        "var port=80\n[[ $port == 8080 ]] && var seen=yes",
        {"port": b"8080", "seen": b"yes"},
        "port=8080",
    ),
    Case(
        "CONF sees the operator's value after `var`",
        'var port=80; var url="http://h:$port/"',
        {"port": b"1", "url": b"http://h:1/"},
        "port=8080",
        more=("--set", "port=1"),
    ),
    Case("the recipe appends to what CONF ends with", "var x a; var x+=b", {"x": [b"a", b"b", b"c"]}, "x+=c"),
    Case("the recipe removes what CONF adds later", "var x a b; var x+=c", {"x": [b"a", b"c"]}, "x-=b"),
    Case("the recipe's array replaces CONF's", "var x a b", {"x": [b"c", b"d"]}, "\n    x c d"),
    Case("a recipe's name alone empties", "var x a b", {"x": []}, "x"),
    Case("a recipe's variable needs no CONF", "", {"x": b"1", "y": [b"2"]}, "x=1 y+=2"),
    Case("recipe lines act in order", "", {"x": b"3", "y": [b"a", b"b"]}, "x=1 y+=a\n    x=2\n\tx=3 y+=b"),
    Case(
        "words are quoted as in a shell and nothing is expanded",
        "",
        {"a": b"b c", "d": b"$HOME `id`", "e": b"f'g", "h": b"*", "i": b"\\", "j": b"k\nl"},
        "a='b c' d='$HOME `id`' \"e=f'g\" h=* i=\\\\ 'j=k\nl'",
    ),
    Case("comments and blank lines are nothing", "", {"x": b"1#2"}, "x=1#2 # x=3\n# x=4\n\n    # x=5"),
    Case(
        "--set acts last", "var x=1", {"x": b"4", "y": [b"a", b"b"]}, "x=2 y+=a", more=("--set", "x=4", "--set", "y+=b")
    ),
    Case(
        "runs.conf is CONF and declares variables",
        "var y=$x",
        {"x": b"1", "y": b"1", "z": None},
        files={"runs.conf": "var x=1\nz=3\n"},
    ),
    Case(
        "plain assignments of sysinfos.conf are variables",
        "sysinfos -d debian && var deb=yes; sysinfos -d fedora && var rpm=yes; :",
        {"sysdist": [b"debian", b"linux"], "bits": b"64", "deb": b"yes", "rpm": None},
        files={
            "univ.run/medusa/sysinfos.conf": "sysname=(linux)\nsysdist=(debian linux)\nsysver=(12 bookworm)\nbits=64\n"
        },
    ),
    Case(
        "a variable may have the name of one of ours",
        "",
        {"step_number": b"x", "segment_host": b"y"},
        "step_number=x segment_host=y",
    ),
    Case("a variable may have the name of a function", "", {"exit": b"1", "shouldrun": b"2"}, "exit=1 shouldrun=2"),
]


@pytest.mark.parametrize("case", OPERATIONS, ids=[case.rule for case in OPERATIONS])
def test_variables_reach_the_script(case, operator, target, tmp_path):
    files = {
        "scripts/it": script(case.conf, show(*case.expected)),
        "hosts/medusa/default": f"it {case.recipe}\n",
        **case.files,
    }
    succeed(operator, plant(tmp_path / "tree", files), *case.more)
    assert {name: got(target, name) for name in case.expected} == case.expected


def test_the_sources_of_variables_act_from_general_to_specific(operator, target, tmp_path):
    def add(name):
        return f"var trail+={name}\n"

    first = plant(
        tmp_path / "first",
        {
            "runs.conf": add("first"),
            "scripts/runs.conf": add("scripts"),
            "scripts/web/runs.conf": add("web"),
            "scripts/web/deep/runs.conf": add("deep"),
            "scripts/other/runs.conf": add("other"),
            "scripts/web/deep/it": script(add("CONF"), show("trail")),
            "hosts/runs.conf": add("hosts"),
            "hosts/medusa/runs.conf": add("hosts-medusa"),
            "hosts/medusa/sysinfos.conf": add("sysinfos-of-hosts"),
            "hosts/medusa/default": "web/deep/it trail+=first-line\n    trail+=second-line\n    trail+=third-line\n",
            "univ.run/runs.conf": add("domain"),
            "univ.run/medusa/runs.conf": add("domain-medusa"),
            "univ.run/medusa/sysinfos.conf": add("sysinfos"),
            "univ.run/other/runs.conf": add("other-host"),
        },
    )
    second = plant(tmp_path / "second", {"runs.conf": add("second"), "univ.run/medusa/runs.conf": add("second-medusa")})
    succeed(operator, f"{first}:{second}", "--set", "trail+=set")
    order = (
        "second first scripts web deep hosts domain hosts-medusa second-medusa domain-medusa sysinfos CONF "
        "first-line second-line third-line set"
    )
    assert got(target, "trail") == order.encode().split()


NASTY = [
    b" ",
    b"a  b ",
    b"\n",
    b"a\n\nb\n",
    b"\t",
    b"\r\n",
    b"\ra",
    b"'",
    b'"',
    b'"\'"',
    b"\\",
    b"\\n",
    b"$HOME",
    b"${x}",
    b"$(id)",
    b"`id`",
    b"*",
    b"?",
    b"[a]",
    b"~",
    b"-n",
    b"-e",
    b"--",
    b"-",
    b"!",
    b"#",
    b";",
    b"&",
    b"|",
    b"a=b",
    b"+=",
    b"\xc3\xa9",
    b"\xff",
    b"\x80\xfe",
    b"\x1b[31m",
    b"\x01",
    b"\x7f",
    b"%s",
    b"%n",
    b"$'a'",
    b"$RUNS_FILES",
    b"\xe2\x80\xa8",
    bytes(range(1, 256)),
    b"x" * 100_000,
]


def test_r31_values_arrive_byte_for_byte_from_every_source(operator, target, tmp_path):
    """Quotes, newlines, bytes that are not UTF-8, leading dashes."""
    values = [value for value in NASTY if len(value) < 100_000]

    def quoted(value):
        return b"'" + value.replace(b"'", b"'\\''") + b"'"

    conf = b"".join(b"var conf%d=%s\n" % (n, quoted(value)) for n, value in enumerate(NASTY))
    conf += b"var all " + b" ".join(map(quoted, values)) + b"\n"
    recipe = b"it " + b" ".join(b"recipe%d=%s" % (n, quoted(value)) for n, value in enumerate(NASTY))
    recipe += b"\n    array " + b" ".join(map(quoted, values)) + b"\n"
    names = [f"{source}{n}" for source in ("conf", "recipe", "set") for n in range(len(NASTY))]
    body = show(*names, "all", "array").encode()
    files = {"scripts/it": conf + b"script:\n" + body + b"\n", "hosts/medusa/default": recipe}
    sets = [word for n, value in enumerate(NASTY) for word in ("--set", b"set%d=%s" % (n, value))]
    succeed(operator, plant(tmp_path / "tree", files), *sets)
    for name in names:
        assert got(target, name) == NASTY[int(re.sub(r"\D", "", name))], name
    assert got(target, "all") == values
    assert got(target, "array") == values


def test_r31_a_quoted_value_may_end_with_a_carriage_return(operator, target, tmp_path):
    """Only an unquoted one at the end of a line tells of DOS line ends."""
    files = {"scripts/it": script("", show("x", "y", "z")), "hosts/medusa/default": "it x='a\r' y=\"b\r\" z=c\\\r d\n"}
    succeed(operator, plant(tmp_path / "tree", files), "--set", "s=x\r")
    assert [got(target, name) for name in "xyz"] == [b"a\r", b"b\r", b"c\r"]


SEED = int(os.environ.get("RUNSDEPLOY_TEST_SEED") or random.randrange(1 << 32))
"""of the random tests; printed, and given again to replay one"""
FULL = "RUNSDEPLOY_TEST_FULL" in os.environ
SESSION = 1000
"""random values that one session carries"""


def random_value(rng):
    """Return bytes that a shell, a wire or an encoding may trip over."""
    if rng.random() < 0.1:
        return rng.choice([each for each in NASTY if len(each) < 1000])
    if rng.random() < 0.02:
        return bytes(rng.choices(range(1, 256), k=rng.randrange(5000)))
    letters = rng.choice([range(1, 256), b"'\"\\$`\n\r\t !*?[]{}()<>|&;#~=%-", range(128, 256)])
    return bytes(rng.choices(letters, k=rng.randrange(40)))


@pytest.mark.parametrize("batch", range(100 if FULL else 10))
def test_r31_t8_random_values_arrive_byte_for_byte(batch, operator, target, tmp_path):
    """A thousand a session: elements of an array by the recipe and by CONF, and variables of their own by both."""
    print(f"RUNSDEPLOY_TEST_SEED={SEED}")
    rng = random.Random(SEED + batch)
    values = [random_value(rng) for _ in range(SESSION)]
    quoted = [b"'" + value.replace(b"'", b"'\\''") + b"'" for value in values]
    scalars = range(0, SESSION, 20)
    recipe = b"it\n    theirs " + b" ".join(quoted[::2]) + b"\n"
    recipe += b"".join(b"    s%d=%s\n" % (n, quoted[n]) for n in scalars)
    conf = b"var ours " + b" ".join(quoted[1::2]) + b"\n"
    conf += b"".join(b"var c%d=%s\n" % (n, quoted[n]) for n in scalars)
    names = " ".join(f'"$s{n}" "$c{n}"' for n in scalars)
    body = f'printf \'%s\\0\' "${{theirs[@]}}" "${{ours[@]}}" {names} >~/got\n'.encode()
    files = {"scripts/it": conf + b"script:\n" + body, "hosts/medusa/default": recipe}
    succeed(operator, plant(tmp_path / "tree", files))
    expected = values[::2] + values[1::2] + [values[n] for n in scalars for _ in "sc"]
    assert (target.home / "got").read_bytes().split(b"\0")[:-1] == expected


def test_only_declared_variables_and_no_functions_reach_the_script(operator, target, tmp_path):
    conf = "plain=1; export exported=2; readonly constant=3; helper() { :; }; var x=1; out o; ref f=none"
    body = "compgen -v >~/names\ndeclare -F >~/functions"
    succeed(operator, plant(tmp_path / "tree", {"scripts/it": script(conf, body), "hosts/medusa/default": "it\n"}))
    names = read(target, "names").split()
    assert {"x", "o", "f"} <= set(names)
    assert not {"plain", "exported", "constant"} & set(names)
    assert "helper" not in read(target, "functions")
    ours = [name for name in names if name.startswith(("step_", "segment_"))]
    assert not ours, "names that operators may use are taken"


def test_what_conf_prints_is_a_message_and_never_data(operator, tmp_path):
    files = {
        "scripts/it": script(
            "echo 'hello from CONF'; echo 'x=1' >&2; var x=2; cat; read -r y || var empty=yes", 'echo "<$x$empty>"'
        ),
        "hosts/medusa/default": "it\n",
    }
    tree = plant(tmp_path / "tree", files)
    done = operator.run(*operator.deploy_arguments(tree, form="text"))
    assert done.status == 0, done.talk
    assert "hello from CONF" in done.talk
    assert "<2yes>" in done.text
    assert "hello from CONF" not in done.text


# --- files (SPEC 3: ref, out)

NAMES = [
    "with space",
    "two\nlines",
    "'",
    '"',
    "-rf",
    "--",
    "*",
    "$HOME",
    "`id`",
    "\\",
    "caf\u00e9",
    "\udcff\udcfe",
    "\x01",
    "#",
    "~",
    ";",
    "a=b",
    "%41",
    "x" * 255,
    "\t",
    "{a,b}",
]


def test_r32_r33_a_directory_arrives_as_it_is(operator, target, tmp_path):
    """The x bits, links as links, empty directories, names of any bytes and 255 long, deep paths."""
    inside = {
        "plain": "text\n",
        "run.sh": Executable("#!/bin/sh\n"),
        "empty": "",
        "hollow": None,
        "binary": bytes(range(256)) * 64,
        "sub/dir/file": "deep",
        "link": Link("plain"),
        "sub/up": Link("../plain"),
        "sub/folder": Link("dir"),
        "dangling": Link("nowhere"),
        "/".join(["d" * 60] * 12) + "/end": "deep",
        **{f"names/{name}": f"<{n}>" for n, name in enumerate(NAMES)},
        **{f"directories/{name}/file": "x" for name in NAMES},
        **{f"links/{name}": Link(f"../names/{name}") for name in NAMES if name != "x" * 255},
    }
    tree = plant(
        tmp_path / "tree", {"scripts/it": script("ref d=stuff", 'cp -a "$d" ~/copy'), "hosts/medusa/default": "it\n"}
    )
    plant(tree / "scripts" / "stuff", inside)
    done = succeed(operator, tree)
    assert done.outcomes == [("it", "ok")]
    assert contents(target.home / "copy") == contents(tree / "scripts" / "stuff")


def test_r33_links_meant_for_the_target_arrive_as_links_and_nothing_is_written_through_them(operator, target, tmp_path):
    """D18: an absolute link, one out of the directory, and a file that another step refers to behind a link."""
    away = tmp_path / "away"
    away.mkdir()
    tree = plant(
        tmp_path / "tree",
        {
            "scripts/behind": script("ref x=stuff/current/x", 'cat "$x" >~/behind'),
            "scripts/near": script("conf local\nref x=stuff/current/x", 'cat "$x"'),
            "scripts/it": script("ref d=stuff", 'cp -a "$d" ~/copy'),
            "scripts/stuff/releases/1/x": "one\n",
            "scripts/stuff/current": Link("releases/1"),
            "scripts/stuff/app": Link(str(away)),
            "scripts/stuff/gone": Link("/opt/app/releases/1"),
            "scripts/stuff/out": Link("../../../outside"),
            "hosts/medusa/default": "behind\nnear\nit\n",
        },
    )
    done = succeed(operator, tree)
    assert done.outcomes == [("behind", "ok"), ("near", "ok"), ("it", "ok")]
    assert contents(target.home / "copy") == contents(tree / "scripts" / "stuff")
    assert (target.home / "behind").read_text() == "one\n"
    assert list(away.iterdir()) == []


@pytest.mark.usefixtures("target")
def test_r33_a_file_that_a_shipped_link_does_not_lead_to_is_an_error(operator, tmp_path):
    """D18: written where it is referred to, it would be written to the place that the link names."""
    real = plant(tmp_path / "real", {"x": "x\n"})
    tree = plant(
        tmp_path / "tree",
        {
            "scripts/it": script("ref d=stuff; ref x=stuff/app/x"),
            "scripts/stuff/app": Link(str(real)),
            "hosts/medusa/default": "it\n",
        },
    )
    done = operator.deploy(tree, "--allow", real)
    assert done.status == 2
    assert "`tree0/scripts/stuff/app/x` lies behind a link that is shipped as a link" in done.talk
    assert "refer to the file by its path without links" in done.talk


def test_a_reference_is_looked_for_nearest_first(operator, target, tmp_path):
    files = {
        "scripts/web/a": "own\n",
        "hosts/medusa/a": "host\n",
        "a": "root\n",
        "univ.run/medusa/b": "domain\n",
        "hosts/medusa/b": "host\n",
        "b": "root\n",
        "hosts/medusa/c": "host\n",
        "c": "root\n",
        "d": "root\n",
        "files/e": "root\n",
        "scripts/maker": script("out made=b2; out own=web-own", 'echo shared >"$made"; echo shared >"$own"'),
        "hosts/medusa/b2": "host\n",
        "scripts/web/web-own": "own\n",
        "scripts/web/it": script(
            "ref a; ref b c; ref d; ref e=files/e; ref f=b2; ref g=web-own; ref none=not-there",
            'cat "$a" "$b" "$c" "$d" "$e" "$f" "$g" >~/said\n'
            '[[ $none == "$RUNS_SHARED/not-there" && ! -e $none ]] && echo none >>~/said\n'
            '[[ $a == /* && $a == "$PWD/a" ]] && echo absolute >>~/said',
        ),
        "hosts/medusa/default": "maker\nweb/it\n",
    }
    other = plant(tmp_path / "other", {"d2": "second\n", "d": "wrong\n"})
    succeed(operator, f"{plant(tmp_path / 'tree', files)}:{other}")
    assert read(target, "said").split() == [
        "own",
        "domain",
        "host",
        "root",
        "root",
        "shared",
        "own",
        "none",
        "absolute",
    ]


def test_a_second_tree_is_searched_after_the_first(operator, target, tmp_path):
    first = plant(
        tmp_path / "first",
        {
            "scripts/it": script("ref a b", 'cat "$a" "$b" >~/said'),
            "a": "first\n",
            "hosts/medusa/default": "it\nother\n",
        },
    )
    second = plant(
        tmp_path / "second",
        {
            "a": "second\n",
            "b": "second\n",
            "scripts/it": script("", "exit 1"),
            "scripts/other": script("", "echo other >>~/said"),
        },
    )
    succeed(operator, f"{first}:{second}")
    assert read(target, "said").split() == ["first", "second", "other"]


def test_conf_can_read_what_it_refers_to(operator, target, tmp_path):
    files = {
        "scripts/it": script('ref f=data; var first="$(head -n 1 "$f")"', show("first")),
        "scripts/data": "line one\nline two\n",
        "hosts/medusa/default": "it\n",
    }
    succeed(operator, plant(tmp_path / "tree", files))
    assert got(target, "first") == b"line one"


def test_templates_are_rendered_with_the_variables_of_the_step(operator, target, tmp_path):
    template = (
        "host={{ host }}\nport={{ port }}\n{% for name in names %}name={{ name }}\n{% endfor %}"
        "dist={{ sysdist[0] }} bits={{ bits }}\nraw=<&\"'>{{ html }}\n"
    )
    files = {
        "scripts/it": script(
            "var port=80; var names a 'b c'; var html='<b>&amp;'; ref -t site=site.conf.j2",
            'cp -p "$site" ~/site; echo "${site##*/}" >~/name',
        ),
        "scripts/site.conf.j2": Executable(template),
        "univ.run/medusa/sysinfos.conf": "sysname=(linux)\nsysdist=(debian linux)\nsysver=(12)\nbits=64\n",
        "hosts/medusa/default": "it port=8080\n    names+=caf\u00e9\n",
    }
    succeed(operator, plant(tmp_path / "tree", files))
    expected = f"host={HOST}\nport=8080\nname=a\nname=b c\nname=caf\u00e9\ndist=debian bits=64\nraw=<&\"'><b>&amp;\n"
    assert (target.home / "site").read_text("utf-8") == expected
    assert read(target, "name") == "site.conf\n"


def test_scripts_themselves_are_never_templated(operator, target, tmp_path):
    body = "cat >~/said <<'END'\n{{ host }} {% if x %} {# y #}\nEND"
    succeed(operator, plant(tmp_path / "tree", {"scripts/it": script("", body), "hosts/medusa/default": "it\n"}))
    assert read(target, "said") == "{{ host }} {% if x %} {# y #}\n"


def test_the_same_template_twice_has_the_values_of_each_step(operator, target, tmp_path):
    files = {
        "scripts/it": script("ref -t f=f.j2", 'cat "$f" >>~/said'),
        "scripts/f.j2": "{{ x }}\n",
        "hosts/medusa/default": "it x=1\nit x=2\nit x=3\n",
    }
    succeed(operator, plant(tmp_path / "tree", files))
    assert read(target, "said") == "1\n2\n3\n"


OUTS = [name for name in NAMES if "\n" not in name]


def test_r32_a_file_whose_name_has_a_newline_can_be_referred_to(operator, tmp_path):
    """Byte-exact for refs and outs."""
    files = {
        "scripts/make": script("out o=$'new\\nline'", 'echo made >"$o"'),
        "scripts/it": script("ref -r f=$'two\\nlines' o=$'new\\nline'", 'cat "$f" "$o"'),
        "scripts/two\nlines": "beside\n",
        "hosts/medusa/default": "make\nit\n",
    }
    assert succeed(operator, plant(tmp_path / "tree", files)).output == "beside\nmade\n"


def test_r7_r32_files_go_from_the_controller_to_the_target_and_back(operator, tmp_path):
    """Binary, empty, 5 MiB, and names that are hard to type; only what is referred to is moved."""
    plant(operator.home, {"big": os.urandom(5 << 20), "binary": bytes(range(256)), "empty": ""})
    names = " ".join(f"out{n}=" + shlex.quote(name) for n, name in enumerate(OUTS))
    refs = re.sub(r"\bout(\d+)=", r"ref\1=", names)
    files = {
        "scripts/prepare": script(
            f"conf local; out big binary empty tool unused; out {names}",
            'cp ~/big "$big"; cp ~/binary "$binary"; [[ -f $empty && ! -s $empty ]] || exit 3\n'
            'echo unused >"$unused"; printf "#!/bin/sh\\n" >"$tool"; chmod 755 "$tool"\n'
            + "\n".join(f'printf %s {n} >"$out{n}"' for n in range(len(OUTS))),
        ),
        "scripts/change": script(
            f"ref -r big binary empty tool; out back binary2 empty2 tool2; ref {refs}; out joined",
            'cat "$big" "$big" >"$back"; cp "$binary" "$binary2"; cp "$empty" "$empty2"; cp -p "$tool" "$tool2"\n'
            "[[ -x $tool && ! -x $binary ]] || exit 4\n[[ ! -e $RUNS_SHARED/unused ]] || exit 5\n"
            + "\n".join(f'cat "$ref{n}" >>"$joined"; echo >>"$joined"' for n in range(len(OUTS))),
        ),
        "scripts/collect": script(
            "conf local; ref -r back binary2 empty2 tool2 joined",
            'mkdir ~/back; cp -p "$back" "$binary2" "$empty2" "$tool2" "$joined" ~/back',
        ),
        "hosts/medusa/default": "prepare\nchange\ncollect\n",
    }
    done = succeed(operator, plant(tmp_path / "tree", files))
    assert [step["side"] for step in done.steps] == ["controller", "target", "controller"]
    home = operator.home
    assert (home / "back/back").read_bytes() == (home / "big").read_bytes() * 2
    assert (home / "back/binary2").read_bytes() == bytes(range(256))
    assert (home / "back/empty2").read_bytes() == b""
    assert os.access(home / "back/tool2", os.X_OK)
    assert (home / "back/joined").read_text().split() == [str(n) for n in range(len(OUTS))]


def nasty_names(rng, count):
    """Return different names that no file system refuses: every byte, every corner, then at random."""
    names = [bytes([byte]) for byte in range(1, 256) if byte not in b"/."]
    names += [os.fsencode(name) for name in NAMES] + [b"...", b"..a", b"-", b"a\n", b"\na", b" a ", b"'", b"x" * 255]
    while len(set(names)) < count:
        name = bytes(rng.choice([b for b in range(1, 256) if b != 0x2F]) for _ in range(rng.randrange(2, 60)))
        names.append(name if name not in (b".", b"..") else b"dots")
    return list(dict.fromkeys(names))[:count]


def test_r32_t8_300_nasty_names_go_to_the_target_and_come_back(operator, target, tmp_path):
    """Shipped one by one and as a directory; written there under the same names; brought back to a local step."""
    print(f"RUNSDEPLOY_TEST_SEED={SEED}")
    names = nasty_names(random.Random(SEED), 300)
    tree = plant(tmp_path / "tree", {"hosts/medusa/default": "change\ncollect\n"})
    plant(tree / "scripts/stuff", {name: b"<%d>\n" % n for n, name in enumerate(names)})
    deep = "/".join(["d" * 100] * 10)
    plant(tree / "scripts/stuff", {f"{deep}/{os.fsdecode(name)}": "deep\n" for name in names[::30]})

    def words(prefix, folder=b""):
        return b" ".join(
            b"%s%d='%s%s'" % (prefix, n, folder, name.replace(b"'", b"'\\''")) for n, name in enumerate(names)
        )

    change = b"ref -r all=stuff\nref -r " + words(b"r", b"stuff/") + b"\nout " + words(b"o") + b"\nscript:\n"
    change += b'cp -a "$all" ~/all\n' + b"".join(b'cp "$r%d" "$o%d"\n' % (n, n) for n in range(len(names)))
    collect = b"conf local\nref -r " + words(b"o") + b'\nscript:\ncp -a "$RUNS_SHARED" ~/back\n'
    plant(tree, {"scripts/change": change, "scripts/collect": collect})
    succeed(operator, tree)
    sent = contents(tree / "scripts/stuff")
    assert contents(target.home / "all") == sent
    assert contents(operator.home / "back") == {name: sent[name] for name in names}


def test_an_out_file_is_new_and_empty_each_time(operator, target, tmp_path):
    files = {
        "scripts/make": script(
            "out f=sub/file", '[[ -f $f && ! -s $f && $f == "$RUNS_SHARED/sub/file" ]] || exit 3; echo "$x" >>"$f"'
        ),
        "scripts/use": script("ref -r f=sub/file", 'cat "$f" >>~/said'),
        "hosts/medusa/default": "make x=1\nuse\nmake x=2\nuse\n",
    }
    succeed(operator, plant(tmp_path / "tree", files))
    assert read(target, "said") == "1\n2\n"


# --- the section's surroundings (SPEC 5)


def test_r25_a_script_runs_in_its_own_directory_with_nothing_on_stdin(operator, target, tmp_path):
    body = """\
printf '%s\\n' "$PWD" "$(cd "$(dirname "$0")" && pwd)" "${0##*/}" "$(basename "${BASH_SOURCE[0]}")" >~/where
cat data >~/data
{ cat; read -r line || echo end; } >~/stdin
umask >~/umask
: >~/made
declare -F einfo estep die shouldrun setdone resetdone urequire >~/functions
set -o | grep -E 'errexit|nounset|pipefail|history|histexpand' >~/options
"""
    files = {
        "scripts/web/it": script("ref data", body),
        "scripts/web/data": "beside\n",
        "hosts/medusa/default": "web/it\n",
    }
    plant(target.home, {".bashrc": "umask 077\n"})
    succeed(operator, plant(tmp_path / "tree", files))
    here, beside, name, source = read(target, "where").splitlines()
    assert here == beside
    assert here.endswith("/web")
    assert name == source == "it"
    assert read(target, "data") == "beside\n"
    assert read(target, "stdin") == "end\n"
    assert read(target, "umask") == "0022\n"
    assert (target.home / "made").stat().st_mode & 0o777 == 0o644
    assert len(read(target, "functions").split()) == 7
    assert " on" not in read(target, "options").replace("\t", " ")


def test_r40_the_session_names_itself_to_scripts(operator, target, tmp_path):
    names = ("RUNS_HOST", "RUNS_SCRIPT", "RUNS_SESSION", "RUNS_SHARED", "RUNS_DIGEST")
    body = show(*names) + "\n[[ -d $RUNS_SHARED ]] && env >~/env"
    tree = plant(tmp_path / "tree", {"scripts/web/it": script("", body), "hosts/medusa/default": "web/it\n"})
    done = succeed(operator, tree)
    planned = operator.run("plan", "--path", tree, "--host", HOST, "--format", "json").document["hosts"][0]
    assert got(target, "RUNS_HOST") == HOST.encode()
    assert got(target, "RUNS_SCRIPT") == b"web/it"
    assert got(target, "RUNS_SESSION").decode() == done.document["session"]
    assert got(target, "RUNS_DIGEST").decode() == planned["steps"][0]["digest"]
    assert all(f"{name}=" in read(target, "env") for name in names)


def test_line_numbers_are_those_of_the_source_file(operator, tmp_path):
    text = script(
        "desc lines\n\n# three\nvar x=1",
        "echo LINENO=$LINENO\n\nf() {\n    echo in=$LINENO\n}\nf\nno_such_command\necho ${x?fine} ${unset_one?gone}",
    )
    tree = plant(tmp_path / "tree", {"scripts/it": text, "hosts/medusa/default": "it\n"})
    done = operator.deploy(tree)
    lines = text.splitlines()
    assert f"LINENO={lines.index('echo LINENO=$LINENO') + 1}\n" in done.output
    assert f"in={lines.index('    echo in=$LINENO') + 1}\n" in done.output
    bash = re.findall(r"/it: line (\d+): (\w+)", done.output)
    assert bash == [(str(lines.index("no_such_command") + 1), "no_such_command"), (str(len(lines)), "unset_one")]


FAILURES = [
    ("the last command fails", "true\nfalse\n", 2),
    ("exit in the middle", "true\nfalse\nexit 3\ntrue\n", 3),
    ("exit in a function", "f() {\n    exit 3\n}\nf\ntrue\n", 2),
    ("die", "true\ndie 'no more'\ntrue\n", 2),
    ("die in a function", "f() {\n    die 'no more'\n}\nf\n", 2),
    ("a library that is not there", 'true\nl=nope\nurequire "$l"\n', 3),
    ("an expansion that ends the script", "true\n: ${nothing?is missing}\ntrue\n", 2),
    ("an expansion that ends it behind a failure it survived", "true\nfalse\n: ${nothing?is missing}\ntrue\n", 3),
    ("set -u behind a failure it survived", "false\nset -u\n: $nothing\ntrue\n", 3),
    ("set -e", "set -e\ntrue\nfalse\ntrue\n", 3),
    ("a marker that cannot be written", "true\nRUNS_STATE=/dev/null/x\nsetdone\n", 3),
]


def test_a_failure_is_told_at_the_operators_line(operator, tmp_path):
    files = {f"scripts/s{n}": script("desc first\ndesc second", body) for n, (_, body, _) in enumerate(FAILURES)}
    files["hosts/medusa/default"] = "".join(f"s{n}\n" for n in range(len(FAILURES)))
    tree = plant(tmp_path / "tree", files)
    done = operator.deploy(tree, "--keep-going")
    told = {
        what: step["failed_at"].removeprefix(f"{tree}/scripts/")
        for (what, *_), step in zip(FAILURES, done.steps, strict=True)
    }
    assert told == {what: f"s{n}:{line + 3}" for n, (what, _, line) in enumerate(FAILURES)}
    assert {outcome for _, outcome in done.outcomes} == {"failed"}


LOADS = [
    "urequire mine\nmine",
    "urequire mine; mine",
    "urequire mine # ours\nmine",
    'urequire "mine"\nmine',
    "urequire 'mine'\nmine",
    "if true; then urequire mine; fi\nmine",
    "true && urequire mine && mine",
    "urequire \\\n    mine\nmine",
    "{ urequire mine; }\nmine",
    "lib=mine\nurequire $lib\nmine",
    'lib=min\nurequire "${lib}e"\nmine',
    "urequire viavia\nmine",
]


def test_a_library_of_the_tree_loads_however_it_is_asked_for(tmp_path):
    files = {f"scripts/s{n}": script("", body) for n, body in enumerate(LOADS)}
    files |= {
        "lib/mine": "mine() { echo loaded; }\n",
        "lib/via": "urequire mine # ours\n",
        "lib/viavia": ". /dev/null; urequire via\n",
    }
    failed = []
    for n, body in enumerate(LOADS):  # each alone: what one ships, another could load
        tree = plant(tmp_path / f"tree{n}", {**files, "hosts/medusa/default": f"s{n}\n"})
        failed += [body] if Operator(tmp_path / "here").deploy(tree).output != "loaded\n" else []
    assert not failed


def test_a_bundled_library_is_there_by_a_name_made_at_run_time(operator, target, tmp_path):
    files = {
        "scripts/it": script(
            "",
            'lib=uinst\nbefore=$(declare -F | wc -l)\nurequire "$lib"\n'
            "(($(declare -F | wc -l) > before)) && echo loaded >~/said",
        ),
        "hosts/medusa/default": "it\n",
    }
    succeed(operator, plant(tmp_path / "tree", files))
    assert read(target, "said") == "loaded\n"


def test_a_library_nobody_knows_fails_the_step(operator, tmp_path):
    files = {
        "scripts/it": script("", 'name=uinstt\nurequire "$name"\necho not reached'),
        "hosts/medusa/default": "it\n",
    }
    done = operator.deploy(plant(tmp_path / "tree", files))
    assert done.outcomes == [("it", "failed")]
    assert "unknown library `uinstt`" in done.output
    assert "not reached" not in done.output


# --- order (SPEC 3: after; SPEC 4)


@dataclass(frozen=True)
class Order:
    rule: str
    scripts: dict[str, str]
    """CONF sections; each script says its name and `$x`"""
    recipe: str
    said: str


ORDERS = [
    Order("the recipe's order holds", {"a": "", "b": "", "c": ""}, "c\na\nb\n", "c a b"),
    Order("after moves behind, whatever the recipe says", {"a": "after b", "b": "", "c": ""}, "a\nb\nc\n", "b a c"),
    Order(
        "after keeps all others as they stand", {"a": "after d", "b": "", "c": "", "d": ""}, "a\nb\nc\nd\n", "b c d a"
    ),
    Order("after names several", {"a": "after b c", "b": "", "c": ""}, "a\nc\nb\n", "c b a"),
    Order("after is only order: what is not in the session is not run", {"a": "after b", "b": ""}, "a\n", "a"),
    Order("after chains", {"a": "after b", "b": "after c", "c": ""}, "a\nb\nc\n", "c b a"),
    Order("after -r runs what has not run, with its arguments", {"a": "after -r b x=1 x=2", "b": ""}, "a\n", "b2 a"),
    Order("after -r runs nothing twice", {"a": "after -r b x=1", "b": "", "c": "after -r b x=2"}, "a\nc\n", "b1 a c"),
    Order("after -r is content with the recipe's own", {"a": "after -r b x=1", "b": ""}, "b x=9\na\n", "b9 a"),
    Order(
        "after -rr always runs",
        {"a": "after -rr b x=1", "b": "", "c": "after -rr b x=2"},
        "b x=0\na\nc\n",
        "b0 b1 a b2 c",
    ),
    Order("after -r asks on", {"a": "after -r b", "b": "after -r c", "c": ""}, "a\n", "c b a"),
    Order(
        "after -r takes operations on arrays",
        {"a": "after -r b x+=1 x+=2", "b": 'var y="${x[*]}"; var x="${y// /+}"'},
        "a\n",
        "b1+2 a",
    ),
    Order("a script may stand several times", {"a": ""}, "a x=1\na x=2\na x=1\n", "a1 a2 a1"),
    Order("@ includes a recipe, at its place", {"a": "", "b": "", "c": ""}, "a\n@more\nc\n", "a b b7 c"),
    Order("a host's own script wins", {"a": "", "own": ""}, "own\na\n", "host-own a"),
    Order("a script in a subdirectory", {"web/a": "", "b": "after web/a"}, "b\nweb/a\n", "web/a b"),
]


@pytest.mark.parametrize("order", ORDERS, ids=[order.rule for order in ORDERS])
def test_steps_run_in_order(order, operator, target, tmp_path):
    body = 'echo "$RUNS_SCRIPT${x-}" >>~/said'
    files = {f"scripts/{name}": script(conf, body) for name, conf in order.scripts.items()}
    files |= {
        "univ.run/medusa/default": order.recipe,
        "hosts/medusa/more": "b\nb x=7\n",
        "univ.run/medusa/own": script("", "echo host-own >>~/said"),
        "hosts/medusa/own": script("", "echo wrong >>~/said"),
    }
    succeed(operator, plant(tmp_path / "tree", files))
    assert read(target, "said").split() == order.said.split()


# --- flags and markers (SPEC 3: conf; SPEC 5: shouldrun)

GUARDS = [
    ("shouldrun || exit\necho RAN\nsetdone", "already-done"),
    ("shouldrun || exit 0\necho RAN\nsetdone", "already-done"),
    ("shouldrun || { echo done before; exit; }\necho RAN\nsetdone", "already-done"),
    ("shouldrun && {\necho RAN\nsetdone\n}", "already-done"),
    ("if shouldrun; then\necho RAN\nsetdone\nfi", "already-done"),
    ("if ! shouldrun; then exit; fi\necho RAN\nsetdone", "already-done"),
    ("shouldrun || exit\necho RAN && setdone", "already-done"),
    ("shouldrun one && { echo RAN; setdone one; }\nshouldrun two && { setdone two; }\n:", "already-done"),
    ("shouldrun conf v1 || exit\necho RAN\nsetdone conf v1", "already-done"),
    (
        "shouldrun 'a b/c' \"$(printf 'x\\ny')\" || exit\necho RAN\nsetdone 'a b/c' \"$(printf 'x\\ny')\"",
        "already-done",
    ),
    ("echo RAN; setdone", "ok"),
    ("shouldrun || exit\necho RAN", "ok"),
    ("shouldrun one && setdone one\nshouldrun two\necho RAN", "ok"),
    ("shouldrun || exit\necho RAN\nsetdone\nresetdone", "ok"),
    ("shouldrun sub || exit\necho RAN\nsetdone sub\nresetdone sub", "ok"),
    ("shouldrun sub || exit\necho RAN\nsetdone sub\nresetdone", "ok"),
    ("shouldrun sub || exit\necho RAN\nsetdone sub\nsetdone other\nresetdone other", "already-done"),
]


def test_every_idiom_of_markers_is_told_apart(operator, tmp_path):
    files = {f"scripts/s{n}": script("", body) for n, (body, _) in enumerate(GUARDS)}
    files["hosts/medusa/default"] = "".join(f"s{n}\n" for n in range(len(GUARDS)))
    tree = plant(tmp_path / "tree", files)
    first = succeed(operator, tree)
    assert [outcome for _, outcome in first.outcomes] == ["ok"] * len(GUARDS)
    assert first.output.count("RAN") == len(GUARDS)
    second = succeed(operator, tree)
    told = [(body, step["outcome"], step["status"]) for (body, _), step in zip(GUARDS, second.steps, strict=True)]
    assert told == [(body, outcome, 0) for body, outcome in GUARDS]
    assert second.output.count("RAN") == sum(outcome == "ok" for _, outcome in GUARDS)


def test_a_value_that_changed_makes_it_run_again(operator, tmp_path):
    body = 'shouldrun conf "$x" || exit\necho RAN\nsetdone conf "$x"'
    tree = plant(tmp_path / "tree", {"scripts/it": script("", body), "hosts/medusa/default": "it x=1\n"})
    outcomes = [
        succeed(operator, tree, *more).outcomes[0][1] for more in ((), (), ("--set", "x=2"), ("--set", "x=2"), ())
    ]
    assert outcomes == ["ok", "already-done", "ok", "already-done", "ok"]


def test_without_a_value_any_value_counts_as_done(operator, tmp_path):
    body = "setdone s v1; shouldrun s && echo WRONG1; shouldrun s '' || echo WRONG2; setdone t\n"
    body += "shouldrun t v || echo WRONG3\nshouldrun t && echo WRONG4; shouldrun S && echo case"
    tree = plant(tmp_path / "tree", {"scripts/it": script("", body), "hosts/medusa/default": "it\n"})
    assert succeed(operator, tree).output == "case\n"


def test_r35_markers_belong_to_the_name_the_recipe_calls(operator, tmp_path):
    body = "shouldrun || exit\nsetdone\necho $RUNS_SCRIPT"
    files = {
        "scripts/a": script("", body),
        "scripts/web/a": script("", body),
        "scripts/web%2Fa": script("", body),
        "hosts/medusa/default": "a\nweb/a\nweb%2Fa\na\n",
    }
    done = succeed(operator, plant(tmp_path / "tree", files))
    assert [outcome for _, outcome in done.outcomes] == ["ok", "ok", "ok", "already-done"]


def test_once_and_onchange_mark_by_themselves(operator, tmp_path):
    files = {
        "scripts/once": script("conf once", "echo RAN"),
        "scripts/change": script("conf onchange; ref f=data", "echo RAN"),
        "scripts/rendered": script("conf onchange; ref -t t=t.j2", "echo RAN"),
        "scripts/maker": script("out f=made", 'echo "$content" >"$f"'),
        "scripts/user": script("conf onchange; ref -r f=made", "echo RAN"),
        "scripts/data": "1\n",
        "scripts/t.j2": "{{ host }}\n",
        "hosts/medusa/default": "once\nchange\nrendered\nmaker content=1\nuser\n",
    }
    tree = plant(tmp_path / "tree", files)

    def ran():
        return "".join("x" if outcome == "ok" else "." for _, outcome in succeed(operator, tree).outcomes)

    assert ran() == "xxxxx"
    assert ran() == "...x."
    plant(tree, {"scripts/data": "2\n", "scripts/once": script("conf once", "echo CHANGED")})
    assert ran() == ".x.x."
    plant(tree, {"scripts/change": script("desc other words\nconf onchange; ref f=data", "echo RAN")})
    assert ran() == "...x."
    plant(
        tree, {"scripts/change": script("conf onchange; ref f=data", "echo RAN again"), "scripts/t.j2": "x{{ host }}\n"}
    )
    assert ran() == ".xxx."
    (tree / "scripts/data").chmod(0o755)
    assert ran() == ".x.x."
    plant(tree, {"hosts/medusa/default": "once y=1\nchange y=1\nrendered\nmaker content=2\nuser\n"})
    assert ran() == ".x.xx"
    plant(tree, {"hosts/medusa/default": "change y=1\nonce\nmaker content=2\nuser\n"})
    assert ran() == "..x.", "a step is what it does, not where it stands"


def test_once_marks_only_a_success(operator, tmp_path):
    files = {"scripts/it": script("conf once", "echo RAN; exit ${status:-0}"), "hosts/medusa/default": "it\n"}
    tree = plant(tmp_path / "tree", files)
    assert operator.deploy(tree, "--set", "status=3").outcomes == [("it", "failed")]
    assert operator.deploy(tree).outcomes == [("it", "ok")]
    assert operator.deploy(tree, "--set", "status=3").outcomes == [("it", "already-done")]


STRICT = [
    ("false", "false"),
    ("true | false | true", "true"),
    ("echo $undefined_one", "undefined_one"),
    ("f() {\n    false\n}\nf", "false"),
]


@pytest.mark.parametrize(
    ("body", "named"), STRICT, ids=["a failing command", "a pipe", "an unset variable", "in a function"]
)
def test_strict_names_the_line_and_the_command(body, named, operator, tmp_path):
    text = script("conf strict\nvar empty", f'echo begin "${{empty[@]}}"\n{body}\necho not reached')
    tree = plant(tmp_path / "tree", {"scripts/it": text, "hosts/medusa/default": "it\n"})
    done = operator.deploy(tree)
    assert done.outcomes == [("it", "failed")]
    assert "begin" in done.output
    assert "not reached" not in done.output
    line = next(n for n, each in enumerate(text.splitlines(), 1) if named in each and n > 3)
    assert done.steps[0]["failed_at"] == f"{tree}/scripts/it:{line}"
    assert re.search(rf"/it: line {line}: .*{named}", done.output), done.output


@pytest.mark.parametrize("body", ["false", "nosuchcmd x"])
@pytest.mark.parametrize("library", ["lab", "it"])
def test_strict_names_the_line_in_a_library_and_the_one_that_called_it(body, library, operator, tmp_path):
    """A library may have the name of a script."""
    files = {
        "scripts/it": script("conf strict", f"urequire {library}\nouter"),
        f"lib/{library}": "\n" * 10 + f"outer() {{\n    inner\n}}\ninner() {{\n    {body}\n}}\n",
        "hosts/medusa/default": "it\n",
    }
    tree = plant(tmp_path / "tree", files)
    done = operator.deploy(tree)
    assert done.outcomes == [("it", "failed")]
    assert done.steps[0]["failed_at"] == f"{tree}/lib/{library}:15"
    assert done.output.endswith(f"/scripts/it: line 4: lib/{library}:15: `{body}` failed\n"), done.output


def test_strict_names_the_line_of_a_library_that_fails_while_it_is_loaded(operator, tmp_path):
    files = {"scripts/it": script("conf strict", "urequire lab"), "lib/lab": ":\nfalse\n"}
    tree = plant(tmp_path / "tree", {**files, "hosts/medusa/default": "it\n"})
    done = operator.deploy(tree)
    assert done.steps[0]["failed_at"] == f"{tree}/lib/lab:2"
    assert done.output.endswith("/scripts/it: line 3: lib/lab:2: `false` failed\n"), done.output


def test_strict_lets_the_guard_idioms_be(operator, tmp_path):
    bodies = [
        "shouldrun || exit\nsetdone",
        "shouldrun || exit 0\nsetdone",
        "if shouldrun; then setdone; fi",
        "shouldrun && {\nsetdone\n}",
    ]
    files = {f"scripts/s{n}": script("conf strict", body) for n, body in enumerate(bodies)}
    files["hosts/medusa/default"] = "s0\ns1\ns2\ns3\n"
    tree = plant(tmp_path / "tree", files)
    assert {outcome for _, outcome in succeed(operator, tree).outcomes} == {"ok"}
    assert {outcome for _, outcome in succeed(operator, tree).outcomes} == {"already-done"}


def test_local_steps_run_on_the_controller_at_their_place(operator, target, tmp_path):
    log = tmp_path / "log"
    body = f'echo "$RUNS_SCRIPT ${{HOME##*/}} $RUNS_HOST" >>"{log}"\n'
    body += f'[[ $HOME != "{operator.home}" ]] || echo controller >>"{log}"'
    files = {
        "scripts/far": script("", body),
        "scripts/near": script("conf local", f"{body}\nshouldrun || exit\nsetdone"),
        "hosts/medusa/default": "far\nnear\nfar\nnear\n",
    }
    tree = plant(tmp_path / "tree", files)
    done = succeed(operator, tree)
    far, near = f"far home {HOST}", f"near home {HOST}"
    assert log.read_text().splitlines() == [far, near, "controller", far, near, "controller"]
    assert [(step["side"], step["outcome"]) for step in done.steps] == [
        ("target", "ok"),
        ("controller", "ok"),
        ("target", "ok"),
        ("controller", "already-done"),
    ]
    assert not (target.state / "markers").exists()
    assert [path.relative_to(operator.state).parts[:2] for path in operator.state.rglob("script")] == [("hosts", HOST)]


def test_root_is_root(operator, target, tmp_path):
    if os.geteuid() != 0:
        pytest.skip("logs in as this user, who is not root")
    files = {"scripts/it": script("conf root", "id -u >~/uid; setdone"), "hosts/medusa/default": "it\n"}
    succeed(operator, plant(tmp_path / "tree", files))
    assert read(target, "uid") == "0\n"
    assert list(target.state.rglob("script"))


def test_resetdone_is_durable_and_only_the_scripts_own(operator, tmp_path):
    guard = "shouldrun || exit\nsetdone"
    files = {
        "scripts/a": script("", guard),
        "scripts/b": script("", guard),
        "scripts/c": script(
            "", "if [[ $RUNS_SCRIPT == c && -n ${reset-} ]]; then resetdone; exit; fi\nshouldrun s || exit\nsetdone s"
        ),
        "hosts/medusa/default": "a\nb\nc\n",
        "hosts/medusa/reset": "c reset=1\n",
    }
    tree = plant(tmp_path / "tree", files)
    succeed(operator, tree)
    succeed(operator, tree, "--recipe", "reset")
    assert [outcome for _, outcome in succeed(operator, tree).outcomes] == ["already-done", "already-done", "ok"]


# --- facts (SPEC 3: sysinfos)

FACTS = "sysname=(linux)\nsysdist=(ubuntu debian)\nsysver=(22.04 jammy)\nbits=64\n"
MATCHES = [
    ("-s linux", True),
    ("-s darwin", False),
    ("-d debian", True),
    ("-d ubuntu", True),
    ("-d fedora", False),
    ("-d fedora debian", True),
    ("-d fedora centos", False),
    ("-s linux -d debian", True),
    ("-s darwin -d debian", False),
    ("-v 22.04", True),
    ("-v jammy", True),
    ("-v 22+", True),
    ("-v 22-", True),
    ("-v 22.04+", True),
    ("-v 22.10+", False),
    ("-v 22.10-", True),
    ("-v 23+", False),
    ("-v 21-", False),
    ("-v 9+", True),
    ("-v 100-", True),
    ("-v 18 22+", True),
    ("-b 64", True),
    ("-b 32", False),
    ("-b 32 64", True),
    ("-d debian -v 22+ -b 64", True),
    ("", True),
    ("-r -d debian", True),
]


def test_sysinfos_matches_any_value_of_every_kind(operator, target, tmp_path):
    conf = "\n".join(
        f"if sysinfos {words}; then var m{n}=yes; else var m{n}=no; fi" for n, (words, _) in enumerate(MATCHES)
    )
    files = {
        "scripts/it": script(conf, show(*(f"m{n}" for n in range(len(MATCHES))))),
        "hosts/medusa/sysinfos.conf": FACTS,
        "hosts/medusa/default": "it\n",
    }
    succeed(operator, plant(tmp_path / "tree", files))
    assert [(words, got(target, f"m{n}") == b"yes") for n, (words, _) in enumerate(MATCHES)] == MATCHES


def test_the_most_specific_facts_are_the_ones(operator, target, tmp_path):
    files = {
        "scripts/it": script("sysinfos -d debian && var x=yes; :", show("x", "sysdist", "bits")),
        "hosts/medusa/sysinfos.conf": "sysdist=(fedora linux)\nbits=32\n",
        "univ.run/medusa/sysinfos.conf": "sysdist=(debian linux)\n",
        "hosts/medusa/default": "it\n",
    }
    succeed(operator, plant(tmp_path / "tree", files))
    assert [got(target, name) for name in ("x", "sysdist", "bits")] == [b"yes", [b"debian", b"linux"], None]


def test_facts_nobody_promised_are_asked_from_the_target(operator, target, tmp_path):
    conf = "var before=1\nsysinfos -s linux && var x=yes\nsysinfos -s plan9 || var y=no"
    files = {
        "scripts/it": script(conf, show("before", "x", "y", "sysname", "sysdist", "sysver", "bits")),
        "scripts/plain": script("", show("sysname")),
        "hosts/medusa/default": "it\n",
    }
    tree = plant(tmp_path / "tree", files)
    succeed(operator, tree)
    assert [got(target, name) for name in ("before", "x", "y")] == [b"1", b"yes", b"no"]
    assert got(target, "sysname") == [b"linux"]
    assert got(target, "sysdist")[-1] == b"linux"
    assert got(target, "sysver")
    assert got(target, "bits") in (b"32", b"64")
    assert target.log().count("Accepted publickey") >= 1


def test_facts_are_asked_in_the_same_connection(sshd, tmp_path):
    host = sshd(HOST)
    operator = Operator(tmp_path / "operator", host.ssh_config)
    files = {"scripts/it": script("sysinfos -s linux && var x=yes", 'echo "$x"'), "hosts/medusa/default": "it\n"}
    assert succeed(operator, plant(tmp_path / "tree", files)).output == "yes\n"
    assert host.log().count("Accepted publickey") == 1


# --- which script


def test_scripts_and_recipes_may_be_named_on_the_command_line(operator, target, tmp_path):
    body = 'echo "$RUNS_SCRIPT${x-}" >>~/said'
    files = {
        "scripts/a": script("", body),
        "scripts/web/b": script("", body),
        "hosts/medusa/default": "a\n",
        "hosts/medusa/other": "a x=1\nweb/b\n",
    }
    tree = plant(tmp_path / "tree", files)
    succeed(operator, tree, "--script", "web/b", "--script", "a", "--set", "x=7")
    succeed(operator, tree, "--recipe", "other")
    assert read(target, "said").split() == ["web/b7", "a7", "a1", "web/b"]


# --- what others on the machines can see


class Sampler:
    """Reads the command line and the environment of every process, again and again, until it is stopped."""

    def __init__(self, canary):
        self.canary, self.words, self.environments, self.rounds = canary, set(), set(), 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._look)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._stop.set()
        self._thread.join()

    def _look(self):
        while not self._stop.is_set():
            self.rounds += 1
            for pid in filter(str.isdecimal, os.listdir("/proc")):  # noqa: PTH208 - names only
                for what, found in (("cmdline", self.words), ("environ", self.environments)):
                    with contextlib.suppress(OSError):
                        data = Path("/proc", pid, what).read_bytes()
                        if self.canary in data:
                            found.add(data)


def tree_of_secrets(root, canary):
    """Write a tree in which the canary stands wherever an operator could put a secret.

    Not in names: those of scripts, files and subsystems are names of files, and seen.
    """
    files = {
        "runs.conf": f"var general={canary}1\n",
        "scripts/it": script(
            f"desc {canary}2\nref f=file\nref -t r=page.j2\nvar own={canary}3\nout o",
            f'shouldrun part {canary}4 || exit\nprintf "%s" "$recipe" >"$o"\nsetdone part {canary}4\n'
            f"touch ~/began; while echo {canary}6; [ ! -e ~/go ]; do sleep 0.05; done",
        ),
        "scripts/root": script(f"conf root onchange; var own={canary}7", f": {canary}8"),
        "scripts/near": script(f"conf local; ref -r o; var near={canary}9", f'sleep 0.05; cat "$o"; : {canary}'),
        "scripts/file": f"{canary}8\n",
        "scripts/page.j2": "{{ general }}\n",
        "hosts/medusa/default": f"it recipe={canary}10\n    list {canary}11\nroot\nnear\nit\n",
    }
    return plant(root, files)


def test_s2_no_value_and_no_script_text_is_ever_on_a_command_line(operator, target, tmp_path):
    """Variables, text of both sections, file contents: on the controller, in ssh and on the target."""
    canary = f"canary-{random.randrange(1 << 64):x}"
    tree = tree_of_secrets(tmp_path / "tree", canary)
    with Sampler(canary.encode()) as sampler:
        with operator.start(*operator.deploy_arguments(tree)) as process:
            wait_until(lambda: (target.home / "began").exists() or process.poll() is not None)
            until = sampler.rounds + 3
            wait_until(lambda: sampler.rounds > until)
            (target.home / "go").touch()
            done = wait(process)
        assert done.status == 0, done.out
        assert (sampler.words, sampler.environments) == (set(), set())
        # And it would have been seen.
        with subprocess.Popen(["sh", "-c", "read -r _", canary], env={"X": canary}, stdin=subprocess.PIPE) as shown:
            wait_until(lambda: sampler.words and sampler.environments)
            shown.kill()


@pytest.mark.timeout(400)
def test_s2_no_process_is_started_with_a_value_or_script_text(operator, tmp_path):
    """Every single one, however short it lives, told by the kernel; on one machine, both sides."""
    trace = tmp_path / "trace"
    (operator.home / "go").touch()
    strace = ["strace", "-f", "-v", "-s", "100000", "-e", "trace=execve", "-o", str(trace)]
    if not shutil.which("strace") or subprocess.run([*strace, "true"], check=False, capture_output=True).returncode:
        pytest.skip("takes strace, and leave to use it")
    canary = f"canary-{random.randrange(1 << 64):x}"
    words = operator.deploy_arguments(tree_of_secrets(tmp_path / "tree", canary))
    words = ["--local" if word == "--ssh-config" else word for word in words if word != operator.ssh_config]
    done = subprocess.run(
        [*strace, sys.executable, "-m", "runsdeploy", *words],
        cwd=operator.directory, env=operator.settings(), stdin=subprocess.DEVNULL, capture_output=True, check=False,
        timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    started = trace.read_bytes()
    assert started.count(b"execve(") > 20
    assert canary.encode() not in started


def test_s4_directories_of_a_session_are_private_random_and_new(operator, tmp_path):
    """As a CONF section sees them on the controller, and a script on the target; whatever the umask."""
    look = 'd=$PWD; while [[ $d != / && ! -k $d ]]; do stat -L -c "%a %u %F %n" "$d"; d=${d%/*}; d=${d:-/}; done'
    files = {
        "scripts/it": script(f"cd ${{RUNS_root}}; {look}", f'cd "$RUNS_SHARED"; {look}'),
        "hosts/medusa/default": "it\n",
    }
    tree = plant(tmp_path / "tree", files)
    seen = set()
    for _ in range(2):
        done = operator.run(*operator.deploy_arguments(tree, form="text"))
        assert done.status == 0, done.talk
        told = re.findall(r"(\d+) (\d+) directory (/\S+)", done.talk)
        stage = [each for each in told if "runsdeploy-" in each[2]]
        there = [each for each in re.findall(r"(\d+) (\d+) directory (/\S+)", done.text) if "/sessions/" in each[2]]
        # The innermost directories may be as open as they like: none of those above them lets anybody in.
        assert ("700", str(os.geteuid())) in {each[:2] for each in stage}
        assert ("700", str(os.geteuid())) in {each[:2] for each in there}
        assert {owner for _, owner, _ in stage + there} == {str(os.geteuid())}
        names = {re.search(r"(?<![0-9a-f])[0-9a-f]{32}(?![0-9a-f])", each[2])[0] for each in stage[:1] + there[:1]}
        assert len(names) == 2
        assert not names & seen
        seen |= names


LOOKING = """\
import sys
from runsdeploy.plan.workdir import open_work_directory
from runsdeploy.tree.trees import Trees
with open_work_directory(Trees(())):
    print(flush=True)
    sys.stdin.read()
"""


def test_r8_s14_what_a_killed_controller_looked_at_is_removed_by_the_next_one_but_not_of_one_that_lives(tmp_path):
    def look():
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        process = subprocess.Popen(
            [sys.executable, "-c", LOOKING], env={**os.environ, "TMPDIR": str(tmp_path)}, **pipes
        )
        assert process.stdout.readline() == b"\n"
        return process

    with look() as killed, look() as living:
        both = set(tmp_path.iterdir())
        assert len(both) == 2
        killed.kill()
        killed.wait()
        assert set(tmp_path.iterdir()) == both
        with look() as third:
            assert len(both & set(tmp_path.iterdir())) == 1
            third.communicate()
        living.communicate()
        assert (living.returncode, third.returncode) == (0, 0)
    assert not [*tmp_path.iterdir()]


def test_what_a_script_makes_that_asks_for_facts_is_not_missed_before_they_are_known(operator, tmp_path):
    scripts = {
        "a": 'sysinfos -d debian || :\nout o\nscript:\necho made >"$o"\n',
        "near": 'conf local\nref -r o\nscript:\ncat "$o"\n',
    }
    tree = plant(
        tmp_path / "facts",
        {**{f"scripts/{name}": text for name, text in scripts.items()}, "hosts/medusa/default": "a\nnear\n"},
    )
    done = operator.deploy(tree)
    assert (done.status, done.output) == (0, "made\n"), done.talk


def test_r31_a_path_that_a_script_hands_on_with_after_r_is_that_of_the_session(operator, target, tmp_path):
    """It is in CONF a place of the controller, another one each time, and gone when the script runs."""
    files = {
        "scripts/it": script('ref -r f=data\nafter -r other "file=$f"'),
        "scripts/other": script('var file="${file:-}"', 'cat "$file" >~/seen'),
        "scripts/data": "as shipped\n",
        "hosts/medusa/default": "it\n",
    }
    tree = plant(tmp_path / "tree", files)
    plans = {operator.run("plan", "--path", tree, "--host", HOST, "--format", "json").out for _ in range(2)}
    assert len(plans) == 1
    done = operator.deploy(tree)
    assert done.outcomes == [("other", "ok"), ("it", "ok")], done.output
    assert (target.home / "seen").read_text() == "as shipped\n"


def test_what_only_a_recipe_sets_may_be_assigned_in_conf(operator, tmp_path):
    files = {"scripts/it": script("x=2", 'echo "$x"'), "hosts/medusa/default": "it x=1\n"}
    done = operator.run("plan", "--path", plant(tmp_path / "tree", files), "--host", HOST)
    assert done.status == 0
    assert "`x` is assigned again without `var`" in done.talk
