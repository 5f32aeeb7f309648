"""Warnings: reported where an operator needs one, and not where the text may be meant."""

from __future__ import annotations

import pytest

from runsdeploy.check.checker import build_model
from runsdeploy.check.rules import apply_rules
from runsdeploy.tree.trees import open_trees
from tests.trees import Link, plant, script


@pytest.fixture
def warnings(tmp_path, monkeypatch):
    """Return the warnings about a tree, as `file:line rule`; CONF is read, not run."""

    def check(files, path="."):
        monkeypatch.chdir(plant(tmp_path / "tree", {"hosts/medusa/default": "it\n", **files}))
        trees = open_trees(path, tmp_path / "tree", trusted=True)
        model = build_model(trees, trees.hosts(), 10, complete=True, static=True)
        return sorted(
            f"{each.problem.position.file_line} {each.rule}"
            for each in apply_rules(model)
            if each.severity == "warning"
        )

    return check


@pytest.mark.parametrize(
    ("conf", "body"),
    [
        ('var port="${port:-80}"', 'echo "$port"'),
        ("var base=/srv\nvar dir=$base/www", 'ls "$dir"'),
        ("ref -r site=site.conf", "cat site.conf"),
        ("var name=1", "eval echo \\$name"),
        ("var a=1", 'b=a; echo "${!b}"'),
        ("if sysinfos -d debian; then var tool=apt; fi", 'echo "$tool" "${sysdist[0]}"'),
        ("", '. /etc/os-release; echo "$VERSION_ID" "$made_there"'),
        ("", 'echo "${maybe-}" && [ -n "$maybe" ]'),
        ("", 'echo "$HOME" "$RUNS_HOST" "$BASH_VERSION" "$http_proxy" "$EDITOR"'),
        ("", 'urequire uinst\nuinst_text x y\necho "$uinst_any"'),
        ("", 'shouldrun "$1" || exit\nsetdone "$1"'),
        ("conf once", "setdone extra"),
        ("", "shouldrun conf 1 || exit\nsetdone conf 1"),
        ("", "shouldrun && setdone"),
    ],
)
def test_what_is_well_is_not_told(warnings, conf, body):
    assert warnings({"scripts/it": script(conf, body), "scripts/site.conf": "x"}) == []


@pytest.mark.parametrize(
    ("conf", "body", "expected"),
    [
        ("var port=80", "true", ["1 unused-variable"]),
        ("var port=80", 'echo "$prot"', ["1 unused-variable", "3 unset-variable"]),
        ("port=80", 'echo "$port"', ["1 stray-assignment"]),
        ("out made=x", 'echo >"$made"', ["1 unused-out"]),
        ("var port = 80", 'echo "${port[0]}"', ["1 spaced-operation"]),
        ("after nobody", "true", ["1 unknown-script"]),
        ("", "shouldrun || exit", ["2 never-marked"]),
        ("", "setdone", ["2 never-asked"]),
        ("", "shouldrun\ntrue\nsetdone", ["2 ignored-answer"]),
        ("", "shouldrun a 1 || exit\nsetdone a", ["3 never-marked"]),
        ("", "uinst_dir x", ["2 library-not-loaded"]),
        ("", "shoudlrun || exit", ["2 misspelt-command"]),
        ("", "var x=1", ["2 conf-in-script"]),
        ("", 'echo "$RUNS_HSOT"', ["2 unset-variable"]),
        ("", "true\nscript:\ntrue", ["3 misspelt-separator"]),
    ],
)
def test_what_is_seldom_meant_is_told(warnings, conf, body, expected):
    assert warnings({"scripts/it": script(conf, body)}) == [f"scripts/it:{each}" for each in expected]


def test_an_operation_on_a_name_that_the_script_does_not_know_is_told(warnings):
    files = {"hosts/medusa/default": "it prot=80\n", "scripts/it": script("var port=80", 'echo "$port"')}
    assert warnings(files) == ["hosts/medusa/default:1 undeclared-operation"]


def test_a_template_that_is_broken_or_missing_may_ask_for_any_variable(warnings):
    conf = "var port=80\nref -t -r page={}"
    broken = {"scripts/it": script(conf.format("page.j2"), 'cat "$page"'), "scripts/page.j2": "{{ port"}
    assert warnings(broken) == []
    assert warnings({"scripts/it": script(conf.format("nowhere.j2"), 'cat "$page"')}) == []


def test_a_link_to_nothing_is_told_unless_it_is_shipped(warnings):
    files = {
        "scripts/it": script("ref -r site=site", 'ls "$site"'),
        "scripts/gone": Link("../old/gone"),
        "scripts/site/enabled": Link("available"),
    }
    assert warnings(files) == ["scripts/gone:1 dangling-link"]


def test_a_script_that_hides_another_is_told_unless_they_are_the_same(warnings):
    files = {"one/scripts/it": script("", "echo 1"), "two/scripts/it": script("", "echo 2")}
    assert warnings(files, "one:two") == ["one/scripts/it:1 hidden"]


def test_a_script_that_is_the_same_in_two_trees_is_not_told(warnings):
    files = {"one/scripts/it": script("", "echo 1"), "two/scripts/it": script("", "echo 1")}
    assert warnings(files, "one:two") == []


def test_a_variable_for_all_is_read_by_any_script_or_template(warnings):
    files = {
        "runs.conf": "var admins a\nvar site b\nvar nobody c\n",
        "scripts/it": script("ref -t -r page=page.j2", 'cat "$page"; echo "${site[0]}"'),
        "scripts/page.j2": "{{ admins | join }}\n",
    }
    assert warnings(files) == ["runs.conf:3 unused-variable"]


WORDS = "it\nscripts\nscripts:\nscript:\nitt\nshoudlrun\n"
"""a list of words: one is a script's name, one nearly, and a line is `script:`"""


def test_nothing_is_told_about_what_only_a_ref_ships(warnings):
    """D29."""
    files = {
        "scripts/it": script("ref -r words=words\nref -r one=one\nref -r own=own", 'ls "$words" "$one" "$own"'),
        "scripts/words/english": WORDS,
        "scripts/words/defualt": "scripts:\n",
        "scripts/one": WORDS,
        "hosts/medusa/own/travis.yml": WORDS,
        "hosts/medusa/own/list": "it\nitt\n",
    }
    assert warnings(files) == []


def test_a_script_in_a_directory_that_a_ref_ships_is_checked_if_a_recipe_names_it(warnings):
    """D29."""
    files = {
        "hosts/medusa/default": "it\nweb/own\n",
        "scripts/it": script("ref -r web=web", 'ls "$web"'),
        "scripts/web/own": script("", "shoudlrun || exit"),
        "scripts/web/self": script("ref -r web=scripts/web", 'ls "$web"; einof x'),
    }
    assert warnings(files) == ["scripts/web/own:2 misspelt-command"]


@pytest.mark.parametrize(
    "body",
    [
        "iptables -L; uuidgen; cite; mysql; restorecon -R /; setopt x; certbot renew",
        '. "$HOME/lib.sh"\nmsg_info hello; eninfo x',
        'eval "$(lib)"\neninfo x',
        "declare -F einof && einof x",
        "if declare -f einof >/dev/null; then einof x; fi",
        "command -v einof >/dev/null && einof x",
        "type -t einof && einof x",
        "hash einof 2>/dev/null && einof x",
        "is_ipv4() { :; }\nis_ipv4 x || is_ipv6 x",
        "get_id() { :; }\nget_id; get_ip",
        "einofo() { :; }\neinofo",
    ],
)
def test_a_command_that_may_exist_is_no_slip(warnings, body):
    """D28."""
    assert warnings({"scripts/it": script("", body)}) == []


@pytest.mark.parametrize(
    "body",
    [
        "einof x",
        "ewarm x",
        "etilte x",
        "quitely true",
        "seetdone",
        "install_web() { :; }\nintsall_web",
        "write_configuration() { :; }\nwirte_configuraton",
        ". /etc/os-release\neinof x",
        "eval 'x=1'\neinof x",
    ],
)
def test_a_slip_is_told_whatever_this_machine_has_installed(warnings, body, tmp_path, monkeypatch):
    """D28."""
    own = tmp_path / "bin"
    own.mkdir()
    for name in ("einof", "ewarm", "etilte", "quitely", "seetdone", "intsall_web", "wirte_configuraton"):
        (own / name).write_text("#!/bin/sh\n")
        (own / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{own}:/usr/bin:/bin")
    found = warnings({"scripts/it": script("conf once", body)})
    assert [each.split()[1] for each in found] == ["misspelt-command"]
