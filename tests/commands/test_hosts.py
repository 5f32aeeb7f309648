"""Looking without touching: `plan`, `list`, `info`, `hosts`, patterns and formats, and the same through invoke."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from runsdeploy.session.program import COMMAND
from tests.trees import Operator, plant, script

FACTS = "sysname=(linux)\nsysdist=(debian linux)\nsysver=(12)\nbits=64\n"
FILES = {
    "runs.conf": "var port=80\n",
    "scripts/web/nginx": script(
        "desc 'Install nginx'\nconf root once\nref -r f=site\nvar port=\"${port:-1}\"\nafter base", "true"
    ),
    "scripts/web/site": "x\n",
    "scripts/base": script("desc base things\nout facts", "true"),
    "scripts/dist": script("sysinfos -d debian && var deb=yes; :", "true"),
    "scripts/.hidden": script("desc no"),
    "scripts/base~": script("desc no"),
    "scripts/base.orig": script("desc no"),
    "scripts/readme": "no script at all\n",
    "lib/mine": "true\n",
    "groups/web": "# the web\n\nwww.univ.run  # first\n@more\nwww.univ.run\n",
    "groups/more": "medusa.*\nlone\n",
    "docs/reference/page": "no host\n",
    "hosts/medusa/default": "web/nginx port=8080\nbase\n",
    "hosts/medusa/sysinfos.conf": FACTS,
    "hosts/lone/default": "base\n",
    "hosts/lone/extra": "base\n",
    "hosts/lone/own": script("desc only here", "true"),
    "univ.run/medusa/special": "dist\n",
    "univ.run/www/default": "base\n",
    "other.org/www/default": "base\n",
}


@pytest.fixture
def tree(tmp_path):
    return plant(tmp_path / "tree", FILES)


@pytest.fixture
def operator(tmp_path):
    return Operator(tmp_path / "operator")


def ask(operator, tree, *words, form="json"):
    done = operator.run(*words, "--format", form, cwd=tree)
    assert done.status == 0, done.talk
    assert not operator.state.exists()
    return done.document if form != "text" else done.text


# --- hosts


def test_hosts_are_listed_with_their_recipes_groups_and_directories(operator, tree):
    found = {each["host"]: each["recipes"] for each in ask(operator, tree, "hosts")["hosts"]}
    assert found == {
        "lone": ["default", "extra"],
        "medusa": ["default"],
        "medusa.univ.run": ["default", "special"],
        "www.univ.run": ["default"],
        "www.other.org": ["default"],
    }
    lines = ask(operator, tree, "hosts", form="text").splitlines()
    assert sorted(line.split()[0] for line in lines) == sorted(found)
    assert "lone default extra @more @web hosts/lone" in [" ".join(line.split()) for line in lines]
    medusa = ask(operator, tree, "hosts", "medusa.univ.run")["hosts"][0]
    assert (medusa["groups"], medusa["directories"]) == (["more", "web"], ["univ.run/medusa", "hosts/medusa"])


def test_a_group_that_is_wrong_is_told_and_keeps_nobody_from_looking(operator, tree):
    plant(tree, {"groups/web": "a b\n"})
    done = operator.run("hosts", "lone", cwd=tree)
    assert (done.status, done.talk) == (0, "groups/web:1: `a b` is not a host name\n")
    done = operator.run("hosts", "@web", cwd=tree)
    assert (done.status, done.out) == (2, b"")


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("*.univ.run", ["medusa.univ.run", "www.univ.run"]),
        ("www.*", ["www.other.org", "www.univ.run"]),
        ("medusa", ["medusa"]),
        ("?one", ["lone"]),
        ("[lm]*", ["lone", "medusa", "medusa.univ.run"]),
        ("@more", ["lone", "medusa.univ.run"]),
        ("@web,medusa:!*.univ.run", ["lone", "medusa"]),
    ],
)
def test_patterns_select_hosts(pattern, expected, operator, tree):
    assert sorted(each["host"] for each in ask(operator, tree, "hosts", pattern)["hosts"]) == expected


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--host", "lone"], ["lone"]),
        (["--host", "lone,medusa"], ["lone", "medusa"]),
        (["--host", "lone:medusa"], ["lone", "medusa"]),
        (["--host", "medusa", "--host", "lone"], ["medusa", "lone"]),
        (["--host", "lone,lone"], ["lone"]),
        (["--host", "*.univ.run,lone", "--script", "base"], ["medusa.univ.run", "www.univ.run", "lone"]),
        (["--host", "admin@medusa"], ["medusa"]),
        (["--host", "admin@*.univ.run", "--script", "base"], ["medusa.univ.run", "www.univ.run"]),
        (["--host", "nobody.knows.it", "--script", "base"], ["nobody.knows.it"]),
        (["--host", "!medusa.univ.run", "--host", "*.univ.run"], ["www.univ.run"]),
        (["--host", "@web,!@more", "--script", "base"], ["www.univ.run"]),
    ],
    ids=lambda value: " ".join(value) if "--host" in value else "",
)
def test_hosts_are_named_one_by_one_by_list_by_pattern_and_with_a_user(words, expected, operator, tree):
    assert [each["host"] for each in ask(operator, tree, "plan", *words)["hosts"]] == expected


@pytest.mark.parametrize("word", ["@web", "admin@medusa.univ.run,@web", "@web:@more"])
def test_a_group_stands_for_its_hosts_patterns_and_groups(word, operator, tree):
    hosts = [each["host"] for each in ask(operator, tree, "plan", "--host", word, "--script", "base")["hosts"]]
    assert sorted(hosts) == ["lone", "medusa.univ.run", "www.univ.run"]


@pytest.mark.parametrize("word", ["@nope", "@", "@../hosts/lone", "@empty", "@circle"])
def test_a_group_that_stands_for_nothing_is_an_error(word, operator, tree):
    plant(tree, {"groups/empty": "# nobody\n", "groups/circle": "@circle\n"})
    done = operator.run("plan", "--host", word, "--script", "base", "--format", "json", cwd=tree)
    assert done.status == done.document["exit_status"] == 2


def test_the_login_user_is_the_operators_the_configurations_or_root(sshd, tmp_path):
    host = sshd("medusa.univ.run")
    operator = Operator(tmp_path / "operator", host.ssh_config)
    tree = plant(tmp_path / "tree", {"scripts/a": script(), "hosts/medusa/default": "a\n"})
    done = operator.deploy(tree, host="nobodyhere@medusa.univ.run")
    assert done.status == 3
    assert "nobodyhere" in done.document["hosts"][0]["message"]
    config = host.ssh_config.read_text().replace("User ", "# User ")
    host.ssh_config.write_text(config)
    done = operator.deploy(tree)
    assert "for root from" in host.log()


@pytest.mark.parametrize("server", ["MaxSessions 1", "MaxStartups 2:50:5"])
def test_r38_a_server_that_allows_little_is_enough(server, sshd, tmp_path):
    """One connection, one channel at a time; local steps between, facts asked for, and a home with a long name."""
    host = sshd("medusa.univ.run", server=(server,))
    operator = Operator(tmp_path / ("x" * 150), host.ssh_config)
    files = {
        "scripts/a": script("out o; sysinfos -d nothing || :", 'echo made >"$o"'),
        "scripts/near": script("conf local; ref -r o", 'cat "$o"'),
        "hosts/medusa/default": "a\nnear\na\n",
    }
    done = operator.deploy(plant(tmp_path / "tree", files))
    assert [outcome for _, outcome in done.outcomes] == ["ok"] * 3, done.talk


def test_r38_the_command_line_is_short_and_the_same_whatever_is_deployed():
    assert len(COMMAND) < 8192


def test_a_script_that_loses_its_operations_is_told(operator, tree):
    plant(
        tree,
        {"hosts/medusa/more": "base x=1\n", "hosts/medusa/default": "@more\nweb/nginx port=8080\n  f a 'b c'\nbase\n"},
    )

    def told(*words):
        return operator.run("plan", "--host", "medusa,lone", *words, cwd=tree).talk.splitlines()

    at = "hosts/medusa/default"
    ours = f"medusa: `--script web/nginx`: the recipe's operations do not apply: port=8080 ({at}:2), f a 'b c' ({at}:3)"
    theirs = "medusa: `--script base`: the recipe's operations do not apply: x=1 (hosts/medusa/more:1)"
    assert told("--script", "web/nginx") == [ours]
    assert told("--script", "base", "--script", "web/nginx") == [theirs, ours]
    assert told("--recipe", "default", "--script", "base") == []


def test_a_set_that_nothing_reads_is_told_where_a_variable_is_like_it(operator, tree):
    plant(tree, {"scripts/greet": script("var greeting=hello", 'echo "$greeting $salute"')})

    def told(*words):
        return operator.run("plan", "--host", "lone", "--script", "greet", *words, cwd=tree).talk.splitlines()

    said = "`--set greting=x`: no script declares or reads `greting`; did you mean `greeting`?"
    assert told("--set", "greting=x") == [said]
    assert told("--set", "greeting=x", "--set", "salute=y", "--set", "unlike=z") == []


# --- list, info


def test_scripts_are_listed_with_their_descriptions(operator, tree):
    scripts = {each["script"]: each["desc"] for each in ask(operator, tree, "list")["scripts"]}
    assert scripts == {"web/nginx": "Install nginx", "base": "base things", "dist": ""}
    lines = [line.split(maxsplit=1) for line in ask(operator, tree, "list", form="text").splitlines()]
    assert ["web/nginx", "Install nginx"] in lines
    assert ["own", "only here"] in [
        line.split(maxsplit=1) for line in ask(operator, tree, "list", "--host", "lone", form="text").splitlines()
    ]


def test_one_script_is_shown_in_full(operator, tree):
    shown = ask(operator, tree, "info", "web/nginx", "--host", "medusa")["script"]
    assert shown["script"] == "web/nginx"
    assert shown["file"] == "scripts/web/nginx"
    assert shown["desc"] == "Install nginx"
    assert shown["flags"] == ["once", "root"]
    assert shown["variables"]["port"] == "80"
    assert shown["after"] == [{"mode": "order", "script": "base", "position": "scripts/web/nginx:5"}]
    assert [(ref["name"], ref["file"], ref["required"]) for ref in shown["ref"]] == [("f", "site", True)]
    text = ask(operator, tree, "info", "web/nginx", "--host", "medusa", form="text")
    for word in ("web/nginx", "Install nginx", "root", "once", "base", "port=80", "site"):
        assert word in text


BLAMED = {
    "runs.conf": "var port=80 mode=a\nvar hosts one\nvar hosts+=two\n",
    "hosts/medusa/runs.conf": "var mode=b\nvar hosts+=three\nvar hosts+=one\n",
    "scripts/web": script('var port="${port:-1}"\nvar extra=x\nvar mode="$mode"'),
    "scripts/other": script("after -r web port=7"),
    "hosts/medusa/web": script('var port="${port:-1}"\nvar extra=x\nvar mode="$mode"'),
    "hosts/medusa/default": "@more\nother\nweb port=81 extra='a b'\n    hosts four five\n",
    "hosts/medusa/more": "web\n",
}


def test_every_variable_is_shown_with_who_set_it_and_what_was_overridden(operator, tmp_path):
    tree = plant(tmp_path / "blamed", BLAMED)
    text = ask(operator, tree, "info", "web", "--host", "medusa", form="text")
    assert text.splitlines() == [
        "web",
        "  file     hosts/medusa/web, script from line 5",
        "  hides    scripts/web",
        "  var      port=80  (runs.conf:1)",
        "             hosts/medusa/web:1  port=80, as it was",
        "             runs.conf:1         port=80",
        "  var      mode=b  (hosts/medusa/runs.conf:1)",
        "             hosts/medusa/web:3        mode=b, as it was",
        "             hosts/medusa/runs.conf:1  mode=b",
        "             runs.conf:1               mode=a, overridden",
        "  var      hosts=(one two three)  (hosts/medusa/runs.conf:2)",
        "             hosts/medusa/runs.conf:3  hosts+=one, as it was",
        "             hosts/medusa/runs.conf:2  hosts+=three",
        "             runs.conf:3               hosts+=two",
        "             runs.conf:2               hosts=(one)",
        "  var      extra=x  (hosts/medusa/web:2)",
        "  used     hosts/medusa/more:1",
        "  used     hosts/medusa/default:3",
        "             hosts/medusa/default:3:5   port=81",
        "             hosts/medusa/default:3:13  extra='a b'",
        "             hosts/medusa/default:4:5   hosts four five",
        "             gives                      port=81",
        "             gives                      extra='a b'",
        "             gives                      hosts=(four five)",
        "  used     scripts/other:1, by `after` of other",
        "             scripts/other:1  port=7",
        "             gives            port=7",
    ]


def test_the_same_is_told_as_json(operator, tmp_path):
    tree = plant(tmp_path / "blamed", BLAMED)
    shown = ask(operator, tree, "info", "web", "--host", "medusa")["script"]
    assert shown["hides"] == ["scripts/web"]
    assert [(each["position"], each["kind"], each["values"], each["effect"]) for each in shown["settings"]["mode"]] == [
        ("hosts/medusa/web:3", "=", ["b"], "unchanged"),
        ("hosts/medusa/runs.conf:1", "=", ["b"], "counts"),
        ("runs.conf:1", "=", ["a"], "overridden"),
    ]
    assert [(use["position"], use["by"], use["variables"]["port"]) for use in shown["used"]] == [
        ("hosts/medusa/more:1:1", "", "80"),
        ("hosts/medusa/default:3:1", "", "81"),
        ("scripts/other:1", "other", "7"),
    ]
    assert shown["used"][1]["operations"][2] == {
        "name": "hosts", "kind": "()", "values": ["four", "five"], "position": "hosts/medusa/default:4:5"
    }  # fmt: skip
    assert "used" not in ask(operator, tree, "info", "web")["script"]


def test_a_recipe_that_is_wrong_is_told_and_the_rest_is_shown(operator, tmp_path):
    tree = plant(tmp_path / "blamed", BLAMED | {"hosts/medusa/bad": "web 1x=2\n@nope\n"})
    done = operator.run("info", "web", "--host", "medusa", cwd=tree)
    assert done.status == 0
    assert "hosts/medusa/bad:1:5: bad operation `1x=2`" in done.talk
    assert "hosts/medusa/bad:2:1: unknown recipe `nope`" in done.talk
    assert "hosts/medusa/default:3" in done.text


def test_a_script_that_asks_for_facts_is_shown_without_a_host(operator, tree):
    assert ask(operator, tree, "info", "dist")["script"]["script"] == "dist"


# --- plan


def test_a_plan_says_what_runs_where_with_what_and_why(operator, tree):
    host = ask(operator, tree, "plan", "--host", "medusa")["hosts"][0]
    assert [step["script"] for step in host["steps"]] == ["base", "web/nginx"]
    base, nginx = host["steps"]
    assert (base["side"], base["user"], base["out"]) == ("target", "login", ["facts"])
    assert (nginx["side"], nginx["user"], nginx["flags"]) == ("target", "root", ["once", "root"])
    assert nginx["variables"]["port"] == "8080"
    assert "base" in nginx["why"]
    assert [Path(file["path"]).name for file in nginx["files"]] == ["site"]
    assert nginx["position"].startswith("hosts/medusa/default:1")
    assert len(host["digest"]) == len(nginx["digest"]) == 64
    text = ask(operator, tree, "plan", "--host", "medusa", form="text")
    for word in ("medusa", "base", "web/nginx", "Install nginx", "port=8080", "root", "hosts/medusa/default:1"):
        assert word in text
    assert text.index("base") < text.index("web/nginx")


def test_a_plan_holds_only_the_variables_that_were_declared(operator, tmp_path):
    files = {"scripts/bare": script(), "scripts/a": script("var a=1"), "hosts/lone/default": "bare x=1\na\nbare\n"}
    steps = ask(operator, plant(tmp_path / "plain", files), "plan", "--host", "lone")["hosts"][0]["steps"]
    assert [step["variables"] for step in steps] == [{"x": "1"}, {"a": "1"}, {}]


def test_a_plan_has_the_same_digest_each_time_and_wherever_the_tree_lies(operator, tree, tmp_path):
    other = plant(tmp_path / "elsewhere" / "checkout", FILES)
    digests = {ask(operator, each, "plan", "--host", "medusa")["hosts"][0]["digest"] for each in (tree, tree, other)}
    assert len(digests) == 1
    assert ask(operator, tree, "plan", "--host", "medusa", "--set", "port=1")["hosts"][0]["digest"] not in digests


def test_a_plan_that_needs_facts_says_how_to_get_them(operator, tree):
    done = operator.run("plan", "--host", "www.other.org", "--script", "dist", cwd=tree)
    assert done.status == 2
    assert "scripts/dist:1" in done.talk
    assert "sysinfos" in done.talk


def test_two_trees_are_one_with_the_first_on_top(operator, tree, tmp_path):
    second = plant(
        tmp_path / "second",
        {
            "scripts/base": script("desc wrong"),
            "scripts/more": script("desc more"),
            "hosts/medusa/runs.conf": "var z=1\n",
            "hosts/extra/default": "more\n",
            "lib/other": "",
        },
    )
    path = f"{tree}:{second}"
    listed = {
        each["script"]: each["desc"]
        for each in operator.run("list", "--path", path, "--format", "json").document["scripts"]
    }
    assert listed == {"web/nginx": "Install nginx", "base": "base things", "dist": "", "more": "more"}
    operator.environment["RUNSPATH"] = path
    hosts = [each["host"] for each in operator.run("hosts", "--format", "json").document["hosts"]]
    assert "extra" in hosts
    assert "lone" in hosts
    assert (
        operator.run("plan", "--host", "medusa", "--format", "json").document["hosts"][0]["steps"][0]["variables"]["z"]
        == "1"
    )
    operator.environment["RUNSPATH"] = "/nowhere"
    assert operator.run("hosts", "--path", path).status == 0


def test_the_tree_is_found_from_below(operator, tree):
    assert ask(operator, tree / "scripts" / "web", "hosts", "lone")["hosts"][0]["host"] == "lone"


@pytest.mark.parametrize("how", ["environment", "configuration"])
def test_flags_have_variables_and_keys(how, operator, tree):
    if how == "environment":
        operator.environment |= {
            "RUNSDEPLOY_FORMAT": "json",
            "RUNSDEPLOY_HOST": "lone,medusa",
            "RUNSDEPLOY_SET": "port=9",
        }
    else:
        plant(tree, {"runsdeploy.json": json.dumps({"format": "json", "host": ["lone", "medusa"], "set": ["port=9"]})})
    done = operator.run("plan", cwd=tree)
    assert done.status == 0, done.talk
    assert [each["host"] for each in done.document["hosts"]] == ["lone", "medusa"]
    assert done.document["hosts"][1]["steps"][1]["variables"]["port"] == "9"
    text = operator.run("plan", "--format", "text", "--host", "lone", cwd=tree)
    assert text.text.startswith("lone: ")


# --- invoke


@pytest.fixture
def invoke(operator, tree):
    plant(tree, {"tasks.py": "from runsdeploy.namespace import namespace\n\nns = namespace()\n"})

    def run(*words):
        return subprocess.run(
            [sys.executable, "-m", "invoke", *words],
            cwd=tree,
            env=operator.settings(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=False,
            timeout=60,
        )

    return run


@pytest.mark.parametrize(
    "words",
    [
        ["plan", "--host", "medusa"],
        ["plan", "--host", "medusa", "--host", "lone", "--format", "json", "--set", "port=7"],
        ["list"],
        ["list", "--host", "lone", "--format", "json"],
        ["info", "web/nginx", "--format", "json"],
        ["hosts", "--format", "json"],
        ["plan", "--host", "nope", "--format", "json"],
        ["plan", "--format", "json"],
        ["deploy", "--host", "lone", "--local", "--dry-run", "--format", "json"],
        ["info", "nope", "--format", "json"],
    ],
    ids=" ".join,
)
def test_invoke_does_the_same(words, invoke, operator, tree):
    through, done = invoke(*words), operator.run(*words, cwd=tree)
    assert through.stdout == done.out, through.stderr
    assert through.returncode == done.status
    assert through.stderr.decode() == done.talk


def test_invoke_deploys_and_its_own_dry_flag_is_honoured(invoke, operator, tree):
    plant(tree, {"scripts/base": script("", "touch ~/ran")})
    assert (
        json.loads(invoke("--dry", "deploy", "--host", "lone", "--local", "--format", "json").stdout)["dry_run"] is True
    )
    assert not (operator.home / "ran").exists()
    done = invoke("deploy", "--host", "lone", "--local", "--format", "json")
    assert json.loads(done.stdout)["hosts"][0]["outcome"] == "ok"
    assert (operator.home / "ran").exists()
    plant(tree, {"scripts/base": script("", "exit 3")})
    assert invoke("deploy", "--host", "lone", "--local").returncode == 1


def test_invoke_lists_every_command(invoke):
    listed = {line.split()[0] for line in invoke("--list").stdout.decode().splitlines()[1:] if line.strip()}
    assert {"deploy", "plan", "list", "info", "hosts"} <= listed


# --- what is loaded

PROBE = """
import sys
from runsdeploy.cli.main import main
status = main(sys.argv[1:])
print(status, *sorted({name.partition(".")[0] for name in sys.modules}))
"""


@pytest.mark.parametrize("words", [["list"], ["plan", "--host", "medusa"], ["hosts"], ["info", "base"]], ids=" ".join)
def test_commands_that_do_not_connect_load_no_ssh(words, operator, tree):
    done = subprocess.run(
        [sys.executable, "-c", PROBE, *words],
        cwd=tree,
        env=operator.settings(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=True,
        timeout=60,
    )
    status, *loaded = done.stdout.decode().splitlines()[-1].split()
    assert status == "0"
    assert not {"paramiko", "cryptography", "jinja2", "invoke"} & set(loaded)
