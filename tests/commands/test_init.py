"""`init` and `new`: what they make is valid, and what is there is never overwritten."""

from __future__ import annotations

import json
import re
import subprocess
import sys

import pytest

from tests.trees import Link, Operator, contents, plant, script


@pytest.fixture
def operator(tmp_path):
    return Operator(tmp_path / "operator")


@pytest.fixture
def tree(operator, tmp_path):
    assert operator.run("init", tmp_path / "tree").status == 0
    return tmp_path / "tree"


def findings(operator, tree):
    done = operator.run("check", "--strict", "--format", "json", cwd=tree)
    return done.status, done.document["findings"]


# --- what is made


def test_a_tree_a_host_and_a_script_are_made_and_can_be_planned_checked_and_deployed(operator, tmp_path):
    done = operator.run("init", "new tree", cwd=tmp_path)
    assert done.status == 0
    assert done.text.splitlines() == [
        "made new tree/runs.conf",
        "made new tree/scripts/example",
        "made new tree/groups/example",
        "made new tree/tasks.py",
        "made new tree/.gitattributes",
        "made new tree/hosts/",
        "made new tree/lib/",
    ]
    assert done.talk.splitlines()[0] == "next: cd 'new tree'"
    tree = tmp_path / "new tree"
    assert findings(operator, tree) == (0, [])
    done = operator.run("init", "--host", "web1,db.example.org", cwd=tree)
    assert (done.status, done.text.splitlines()) == (0, [
        *(f"made hosts/web1/{name}" for name in ("runs.conf", "default", "sysinfos.conf")),
        *(f"made example.org/db/{name}" for name in ("runs.conf", "default", "sysinfos.conf")),
    ])  # fmt: skip
    assert operator.run("new", "hello", cwd=tree).text == "made scripts/hello\n"
    assert (
        operator.run("new", "a b/it's", "--host", "db.example.org", cwd=tree).text == "made example.org/db/a b/it's\n"
    )
    assert findings(operator, tree) == (0, [])
    assert operator.run("plan", "--host", "web1,db.example.org", cwd=tree).status == 0
    (tree / "hosts/web1/default").write_text("example\nhello\n")
    for outcome in ("ok", "already-done"):
        done = operator.run("deploy", "--local", "--host", "web1", "--format", "json", cwd=tree)
        assert done.outcomes == [("example", outcome), ("hello", outcome)], done.talk


def test_the_directory_that_a_newcomer_makes_by_hand_is_the_hosts_directory(operator, tree):
    """O15: `hosts/` and `--host web1.example.com` are what he has seen."""
    plant(tree, {"hosts/web1.example.com/default": "example\n"})
    assert operator.run("hosts", cwd=tree).text.split() == ["web1.example.com", "default", "hosts/web1.example.com"]
    done = operator.run("plan", "--host", "web1.example.com", cwd=tree)
    assert (done.status, done.text.splitlines()[0].startswith("web1.example.com: 1 step")) == (0, True)
    done = operator.run("init", "--host", "web1.example.com", cwd=tree)
    assert done.text.splitlines() == [
        "made hosts/web1.example.com/runs.conf",
        "exists, left as it is: hosts/web1.example.com/default",
        "made hosts/web1.example.com/sysinfos.conf",
    ]
    assert (
        operator.run("new", "own", "--host", "web1.example.com", cwd=tree).text == "made hosts/web1.example.com/own\n"
    )
    assert findings(operator, tree) == (0, [])
    assert not (tree / "example.com").exists()


def test_every_line_that_is_a_comment_in_a_template_is_valid_without_its_sign(operator, tree):
    """What a template shows, somebody will take the sign away from."""
    operator.run("init", "--host", "web1,old.example.org", cwd=tree)
    plant(
        tree,
        {"scripts/packages": script(), "groups/databases": "web1\n", "scripts/services": "", "scripts/site.conf": ""},
    )
    operator.run("new", "web/nginx", cwd=tree)
    (tree / "scripts/web/site.conf").write_text("")
    sign = re.compile(r"^# (?=var|conf|sys(name|dist|ver)=|bits|after|ref|example|web|    names|[@*!])", re.MULTILINE)
    changed = 0
    for name in ("runs.conf", "hosts/web1/sysinfos.conf", "hosts/web1/default", "scripts/web/nginx", "groups/example"):
        text, count = sign.subn("", (tree / name).read_text())
        (tree / name).write_text(re.sub(r"; `conf local`.*|; then leave out.*", "", text))
        changed += count
    assert changed == 21
    done = operator.run("plan", "--host", "@example", cwd=tree)
    assert (done.status, done.talk) == (0, "")
    assert "modules=(gzip)" in done.text


def test_without_a_word_the_tree_is_made_here(operator, tmp_path):
    (tmp_path / "here").mkdir()
    assert operator.run("init", cwd=tmp_path / "here").text.splitlines()[0] == "made runs.conf"
    assert operator.run("list", cwd=tmp_path / "here").status == 0


def test_a_host_directory_is_made_in_the_first_tree_or_in_the_one_that_is_made(operator, tree, tmp_path):
    second = plant(tmp_path / "second", {"scripts/x": script(), "hosts/web1/default": "x\n"})
    done = operator.run("init", "--host", "web1", "--path", f"{tree}:{second}", cwd=tmp_path)
    assert (done.status, (tree / "hosts/web1/default").is_file()) == (0, True)
    done = operator.run("init", "third", "--host", "web3", cwd=tmp_path)
    assert (done.status, (tmp_path / "third/hosts/web3/default").is_file()) == (0, True)


def test_json_tells_what_was_made(operator, tree):
    done = operator.run("new", "hello", "--format", "json", cwd=tree)
    assert done.document == {"schema": 1, "exit_status": 0, "files": [{"file": "scripts/hello", "made": True}]}
    done = operator.run("new", "hello", "--format", "json", cwd=tree)
    assert done.document["files"] == [{"file": "scripts/hello", "made": False}]


def test_invoke_does_the_same(operator, tree):
    plant(tree, {"tasks.py": "from runsdeploy.namespace import namespace\n\nns = namespace()\n"})
    made = []
    for words in (["init", "--host", "web1"], ["new", "hello", "--host", "web1"], ["init", "--dir", "below"]):
        done = subprocess.run(
            [sys.executable, "-m", "invoke", *words, "--format", "json"], cwd=tree, env=operator.settings(),
            stdin=subprocess.DEVNULL, capture_output=True, check=True, timeout=60,
        )  # fmt: skip
        made += [each["file"] for each in json.loads(done.stdout)["files"] if each["made"]]
    assert made == [
        *(f"hosts/web1/{name}" for name in ("runs.conf", "default", "sysinfos.conf", "hello")),
        *(
            f"below/{name}"
            for name in ("runs.conf", "scripts/example", "groups/example", "tasks.py", ".gitattributes", "hosts", "lib")
        ),
    ]


def test_the_commands_that_are_named_next_work(operator, tree):
    operator.run("init", "--host", "web1", cwd=tree)
    done = operator.run("new", "a b", "--host", "web1", cwd=tree)
    commands = [line.removeprefix("next:").strip() for line in done.talk.splitlines()]
    assert commands == ["$EDITOR 'hosts/web1/a b'", "runsdeploy plan --host web1 --script 'a b'"]
    words = subprocess.run(["bash", "-c", f"printf '%s\\0' {commands[1]}"], capture_output=True, check=True).stdout
    assert operator.run(*words.decode().split("\0")[1:-1], cwd=tree).status == 0


def test_a_script_that_hides_a_general_one_says_so(operator, tree):
    operator.run("init", "--host", "web1", cwd=tree)
    done = operator.run("new", "example", "--host", "web1", cwd=tree)
    assert "on `web1` it hides `scripts/example`" in done.talk


# --- what is there


def test_what_exists_is_left_as_it_is(operator, tmp_path):
    mine = {
        "runs.conf": "mine\n", "scripts/example": Link("nowhere"), "hosts/web1/default": Link("../../elsewhere"),
        "groups/example": None, "lib/x": "", "hosts/web1/sysinfos.conf": "",
        "tasks.py": "mine = 1\n", ".gitattributes": "",
    }  # fmt: skip
    tree = plant(tmp_path / "tree", mine)
    before = contents(tree)
    done = operator.run("init", tree, "--host", "web1")
    assert done.status == 0
    assert [line.split(": ")[0] for line in done.text.splitlines()] == [*["exists, left as it is"] * 7,
        f"made {tree}/hosts/web1/runs.conf", *["exists, left as it is"] * 2]  # fmt: skip
    assert contents(tree) == before | {b"hosts/web1/runs.conf": contents(tree)[b"hosts/web1/runs.conf"]}


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({"scripts": Link("../outside")}, ["new", "hello"]),
        ({"scripts/web": Link("../../outside")}, ["new", "web/nginx"]),
        ({"scripts/web": Link("../../gone")}, ["new", "web/nginx"]),
        ({"hosts": Link("../outside")}, ["init", "--host", "web1"]),
        ({"scripts": None, "univ.run": Link("../outside")}, ["init", "--host", "web1.univ.run"]),
    ],
    ids=str,
)
def test_nothing_is_made_through_a_link_that_leads_out_of_the_tree(files, words, operator, tmp_path):
    outside = plant(tmp_path / "outside", {"kept": ""})
    tree = plant(tmp_path / "tree", files)
    before = contents(tree)
    done = operator.run(*words, "--path", tree)
    assert done.status == 2
    assert "leads out of the trees" in done.talk
    assert (contents(tree), sorted(contents(outside))) == (before, [b"kept"])
    assert not (tmp_path / "gone").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["new", "../x"], "`..`"),
        (["new", "/etc/x"], "absolute"),
        (["new", "x/"], "that of a directory"),
        (["new", ".x"], "would not be taken for a script"),
        (["new", "web/runs.conf"], "would not be taken for a script"),
        (["new", "x~"], "would not be taken for a script"),
        (["new", "example/x"], "`scripts/example` is no directory"),
        (["new", "x", "--host", "web1"], "make it: `runsdeploy init --host web1`"),
        (["new", "x", "--host", "*"], "matches no host"),
        (["init", "--host", "../x"], "is not a host name"),
        (["init", "--host", "web*"], "matches no host"),
        (["init", "runs.conf"], "is no directory"),
        (["init", "runs.conf/x"], "is no directory"),
        (["init", "a:b"], "holds a colon"),
    ],
    ids=" ".join,
)
def test_bad_names_are_refused_before_anything_is_made(words, message, operator, tree):
    before = contents(tree)
    done = operator.run(*words, cwd=tree)
    assert done.status == 2
    assert message in done.talk
    assert contents(tree) == before


# --- what a host says of itself


def test_a_host_that_answers_is_asked_what_it_is(sshd, tmp_path, operator):
    host = sshd("medusa.univ.run")
    operator = Operator(tmp_path / "operator", host.ssh_config)
    operator.run("init", tmp_path / "tree")
    words = ["--path", tmp_path / "tree", "--ssh-config", host.ssh_config]
    done = operator.run("init", "--host", "medusa.univ.run", "--sysinfos", *words)
    assert done.status == 0, done.talk
    text = (tmp_path / "tree/univ.run/medusa/sysinfos.conf").read_text()
    assert re.search(r"^sysname=\(.*linux.*\)$", text, re.MULTILINE)
    assert re.search(r"^bits=(64|32)$", text, re.MULTILINE)
    plant(tmp_path / "tree", {"scripts/dist": script("sysinfos -r -s linux")})
    assert (
        operator.run("plan", "--host", "medusa.univ.run", "--script", "dist", "--path", tmp_path / "tree").status == 0
    )
    asked = host.log().count("Connection from")
    assert operator.run("init", "--host", "medusa.univ.run", "--sysinfos", *words).status == 0
    assert host.log().count("Connection from") == asked  # it was left as it is


def test_a_host_that_does_not_answer_gets_comments_and_the_reason(operator, tree, tmp_path):
    config = tmp_path / "config"
    config.write_text("Host *\n    ProxyCommand false\n")
    done = operator.run("init", "--host", "web1", "--sysinfos", "--ssh-config", config, cwd=tree)
    assert done.status == 0
    assert "made hosts/web1/sysinfos.conf" in done.text
    assert "web1: " in done.talk
    assert "its sysinfos.conf is made of comments" in done.talk
    assert all(line.startswith("#") for line in (tree / "hosts/web1/sysinfos.conf").read_text().splitlines())


def test_a_sysinfos_conf_of_comments_is_replaced_unasked(operator, tree):
    operator.run("init", "--host", "web1", cwd=tree)
    done = operator.run("sysinfos", "--local", "--host", "web1", "--save", cwd=tree)
    assert done.status == 0, done.talk
    assert "\nbits=" in (tree / "hosts/web1/sysinfos.conf").read_text()


def test_a_sysinfos_conf_of_comments_promises_nothing_and_the_host_is_asked(operator, tree):
    operator.run("init", "--host", "web1", cwd=tree)
    plant(tree, {"scripts/dist": script("sysinfos -r -s linux", "echo it is")})
    done = operator.run("deploy", "--local", "--host", "web1", "--script", "dist", "--format", "json", cwd=tree)
    assert done.status == 0, done.talk
