"""`check` as operators and CI run it: all findings, in every format, and with `--static` without running anything."""

from __future__ import annotations

import re
import shutil
import sys
from pathlib import Path

import pytest

from tests.trees import Operator, plant, script

ROOT = Path(__file__).parents[2]
MISTAKEN = {
    "hosts/medusa/default": "it port=1\nitt\n",
    "scripts/it": script('desc x\nvar port="${port:-80}"', 'echo "$port" "$prot"'),
    "groups/web": "medusa\n@nobody\n",
}


@pytest.fixture
def operator(tmp_path):
    return Operator(tmp_path / "operator", environment={"PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin"})


@pytest.fixture
def check(operator, tmp_path):
    def run(files, *arguments):
        tree = plant(tmp_path / "tree", files)
        return operator.run("check", *arguments, cwd=tree)

    return run


def test_errors_and_warnings_are_told_apart_in_one_go(check):
    done = check(MISTAKEN)
    assert done.status == 2
    assert done.text.splitlines() == [
        "groups/web:2: error: unknown group `@nobody` [unknown-group]",
        "hosts/medusa/default:2:1: error: unknown script `itt` [unknown-script]; did you mean `it`?",
        "scripts/it:4:16: warning: `prot` is read here, and nothing sets it [unset-variable]; did you mean `port`?",
    ]
    assert done.talk == "2 errors and 1 warning\n"


def test_warnings_alone_are_status_0_unless_strict(check):
    files = {**MISTAKEN, "hosts/medusa/default": "it\n", "groups/web": "medusa\n"}
    assert check(files).status == 0
    strict = check(files, "--strict", "--format", "json")
    assert strict.status == strict.document["exit_status"] == 2
    assert [each["severity"] for each in strict.document["findings"]] == ["error"]


def test_the_same_mistake_of_many_hosts_is_told_once(check):
    hosts = {f"hosts/web{n}/default": "it\n" for n in range(20)}
    done = check({**hosts, "scripts/it": script("varr x=1", "true")}, "--format", "json")
    assert len(done.document["findings"]) == 1


def test_only_what_a_host_uses_is_told_where_one_is_named(check):
    files = {"hosts/a/default": "good\n", "hosts/b/default": "nobody\n", "scripts/good": script("", "true")}
    assert check(files, "--host", "a").text == ""
    assert "unknown script `nobody`" in check(files, "--host", "b").text


def test_sarif_has_what_the_standard_requires(check):
    files = {**MISTAKEN, "hosts/medusa/a b%": "@no\n@default\n"}
    document = check(files, "--format", "sarif").document
    assert document["version"] == "2.1.0"
    (run,) = document["runs"]
    rules = [rule["id"] for rule in run["tool"]["driver"]["rules"]]
    assert run["tool"]["driver"]["name"] == "runsdeploy"
    for result in run["results"]:
        assert rules[result["ruleIndex"]] == result["ruleId"]
        assert result["level"] in ("error", "warning")
        assert result["message"]["text"]
        place = result["locations"][0]["physicalLocation"]
        assert not place["artifactLocation"]["uri"].startswith("/")
        assert place["region"]["startLine"] >= 1
    assert "hosts/medusa/a%20b%25" in {
        each["locations"][0]["physicalLocation"]["artifactLocation"]["uri"] for each in run["results"]
    }


def test_github_annotations_are_escaped(check):
    done = check({"hosts/medusa/default": "100%,a:b\n", "scripts/x": script()}, "--format", "github")
    assert (
        done.text
        == "::error file=hosts/medusa/default,line=1,col=1,title=unknown-script::unknown script `100%25,a:b`\n"
    )
    done = check({"hosts/medusa/a,b:c%": "x\nnobody\n"}, "--format", "github")
    assert "file=hosts/medusa/a%2Cb%3Ac%25,line=2" in done.text


@pytest.mark.parametrize("wrong", [("--path", "nowhere"), ("--conf-timeout", "x"), ("--nosuch",), ("--host", "*.no")])
@pytest.mark.parametrize("form", ["json", "jsonl", "sarif", "github"])
def test_bad_input_is_told_in_the_format_that_was_asked_for(check, form, wrong):
    done = check({"scripts/it": script()}, "--format", form, *wrong)
    assert done.status == 2
    if form == "github":
        assert done.text.startswith("::error title=")
    else:
        assert done.document


TOUCHES = "touch made; : $(touch made) `touch made` <(touch made) ${x:-$(touch made)}"


def test_static_runs_nothing_wherever_it_stands(check, tmp_path):
    made = tmp_path / "made"
    text = TOUCHES.replace("made", str(made))
    files = {
        "hosts/medusa/default": f"it x='$(touch {made})' y=`touch {made}`\n",
        "hosts/medusa/runs.conf": f"{text}\n",
        "hosts/medusa/sysinfos.conf": f"{text}\nbits=$(touch {made})\n",
        "groups/web": f"medusa # $(touch {made})\n",
        "lib/own": f"{text}\n",
        "runs.conf": f"set +n\n{text}\n",
        "scripts/it": script(f'{text}\nvar x="$(touch {made})"\nref -t p=page.j2', f"set +n\n{text}\nurequire own"),
        "scripts/page.j2": f"{{{{ cycler.__init__.__globals__.os.system('touch {made}') }}}}\n",
    }
    check(files, "--static")
    assert not made.exists()
    # Without `--static` CONF is run: the texts above would create the file.
    check(files)
    assert made.exists()


def test_static_finds_syntax_names_and_warnings(check):
    files = {
        **MISTAKEN,
        "scripts/broken": script("if true; then", "true"),
        "scripts/open": script("", "true\nfi"),
        "lib/own": "{\n",
        "scripts/needy": script("after -r nobody\nafter it", "urequire nolib"),
    }
    rules = {(each["file"], each["rule"]) for each in check(files, "--static", "--format", "json").document["findings"]}
    assert rules >= {
        ("hosts/medusa/default", "unknown-script"),
        ("groups/web", "unknown-group"),
        ("scripts/it", "unset-variable"),
        ("scripts/broken", "bash-syntax"),
        ("scripts/open", "bash-syntax"),
        ("lib/own", "bash-syntax"),
        ("scripts/needy", "unknown-script"),
        ("scripts/needy", "unknown-library"),
    }


def test_shellcheck_knows_what_conf_declares_and_obeys_directives(check):
    body = "echo ${packages}\n# shellcheck disable=SC2086\necho $port\necho $port"
    done = check(
        {"hosts/m/default": "it\n", "scripts/it": script("var packages a b\nvar port=1", body)}, "--format", "json"
    )
    rules = [(each["line"], each["rule"]) for each in done.document["findings"]]
    assert (4, "SC2128") in rules
    assert [line for line, rule in rules if rule == "SC2086"] == [4, 7]


def test_without_shellcheck_that_is_said_and_all_else_goes_on(operator, tmp_path, monkeypatch):
    plain = tmp_path / "bin"
    plain.mkdir()
    for name in ("bash", "env"):
        (plain / name).symlink_to(shutil.which(name))
    interpreter = tmp_path / "python"
    interpreter.symlink_to(sys.executable)
    operator.environment["PATH"] = str(plain)
    operator.environment["PYTHONPATH"] = f"{ROOT}:{':'.join(path for path in sys.path if path)}"
    monkeypatch.setattr(sys, "executable", str(interpreter))
    done = operator.run("check", cwd=plant(tmp_path / "tree", MISTAKEN))
    assert done.status == 2
    assert "no `shellcheck` on PATH" in done.talk
    assert "unknown script `itt`" in done.text


@pytest.mark.parametrize("options", [(), ("--static",)])
@pytest.mark.parametrize("tree", [".", "runsdeploy/builtin"])
def test_the_trees_of_this_project_have_nothing_to_tell(operator, tree, options):
    done = operator.run("check", "--path", ROOT / tree, *options)
    assert (done.status, done.text) == (0, "")


def _rules():
    page = (ROOT / "docs/reference/check.md").read_text()
    for rule, example in re.findall(r"^\| `([\w-]+)`.*?\| ((?:`[^|]*?(?:\\\|[^|]*?)*?` ?)+)\|$", page, re.MULTILINE):
        lines = [each.replace("\\|", "|") for each in re.findall(r"`(.+?)`", example)]
        if "script:" in lines:
            yield rule, "\n".join(lines) + "\n"


RULES = list(_rules())


def test_the_page_has_examples():
    assert len(RULES) >= 13


@pytest.mark.parametrize(("rule", "text"), RULES, ids=[rule for rule, _ in RULES])
def test_an_example_of_the_page_is_told_by_its_rule(check, rule, text):
    done = check({"hosts/medusa/default": "it\n", "scripts/it": text}, "--format", "json")
    assert rule in {each["rule"] for each in done.document["findings"]}


@pytest.mark.parametrize(
    "words",
    [["check", "--host", "nope"], ["list", "--host", "nope"], ["info", "it", "--host", "nope"], ["hosts", "nope"]],
)
def test_a_host_that_no_tree_knows_is_refused_by_what_only_looks(operator, tmp_path, words):
    tree = plant(tmp_path / "tree", {"hosts/nop/default": "it\n", "scripts/it": script()})
    done = operator.run(*words, cwd=tree)
    assert done.status == 2
    assert "unknown host `nope`: no directory in the trees" in done.text + done.talk
    assert "did you mean `nop`?" in done.text + done.talk
    assert operator.run("plan", "--host", "nope", "--script", "it", cwd=tree).status == 0


def test_a_group_may_name_a_host_without_a_directory(check):
    done = check({**MISTAKEN, "hosts/medusa/default": "it\n", "groups/web": "elsewhere\n"}, "--host", "@web")
    assert (done.status, done.text) == (0, "")


def test_a_directory_of_a_host_at_the_wrong_place_does_not_block_the_others(operator, tmp_path):
    files = {"hosts/medusa/default": "it\n", "168.1.4/192/default": "it\n", "scripts/it": script()}
    tree = plant(tmp_path / "tree", files)
    assert operator.run("plan", "--host", "*", cwd=tree).text.startswith("medusa: 1 step")
    done = operator.run("hosts", cwd=tree)
    assert [line.split()[0] for line in done.text.splitlines()] == ["medusa"]
    assert "168.1.4/192/default:1: no host has its directory" in done.talk
    assert "move it to `hosts/192.168.1.4`" in done.talk


def test_two_directories_of_one_host_are_reported_once(check):
    """O15."""
    both = {"hosts/web1.example.com/default": "it\n", "example.com/web1/default": "it port=1\n"}
    more = {"hosts/web1.example.com/own": script("desc a"), "example.com/web1/own": script("desc b")}
    done = check({"scripts/it": script("desc x"), **both, **more}, "--format", "json")
    found = [
        (each["rule"], each["file"]) for each in done.document["findings"] if each["rule"] != "undeclared-operation"
    ]
    assert found == [("two-directories", "hosts/web1.example.com/default")]


def test_an_address_is_a_host_without_a_domain(operator, tmp_path):
    tree = plant(tmp_path / "tree", {"scripts/it": script()})
    operator.run("init", "--host", "192.168.1.4", cwd=tree)
    assert (tree / "hosts/192.168.1.4/default").is_file()
    assert operator.run("hosts", cwd=tree).text.split()[0] == "192.168.1.4"
    assert operator.run("check", cwd=tree).status == 0


def test_a_port_is_no_host(operator, tmp_path):
    tree = plant(tmp_path / "tree", {"scripts/it": script()})
    done = operator.run("init", "--host", "web4.univ.run:2222", cwd=tree)
    assert done.status == 2
    assert "`2222` is not a host name but a number" in done.talk
    assert not (tree / "univ.run").exists()


def test_a_plan_tells_the_line_of_a_command_that_was_not_found(operator, tmp_path):
    it = script('desc x\nvar x="$(nosuchcommand)"\nvar host=$RUNS_HOST', 'echo "$x$host"')
    done = operator.run(
        "plan",
        "--host",
        "medusa",
        cwd=plant(tmp_path / "tree", {**MISTAKEN, "hosts/medusa/default": "it\n", "scripts/it": it}),
    )
    assert "scripts/it: line 2: nosuchcommand: command not found" in done.talk
    assert "host=medusa" in done.text


def test_a_plan_tells_what_is_wrong_with_sysinfos_before_it_asks_for_facts(operator, tmp_path):
    it = script("sysinfos -x debian || exit", "true")
    done = operator.run(
        "plan", "--host", "medusa", cwd=plant(tmp_path / "tree", {"hosts/medusa/default": "it\n", "scripts/it": it})
    )
    assert done.status == 2
    assert "scripts/it:1: bad argument `-x` of `sysinfos`" in done.talk
    assert "needs facts of" not in done.talk
