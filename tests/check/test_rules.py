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


def test_a_name_with_underscores_around_it_is_one_of_its_own(warnings):
    """D28: Debian's `pg_virtualenv` asks for one and passes the other on."""
    body = 'if [ "$PG_SHARED" ]; then exit; fi\n_PG_SHARED=1\nexport _PG_SHARED\nexec sh -c env'
    assert warnings({"scripts/it": script("", body)}) == []


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


ASKING = [
    ("read -p 'sure? ' x\necho \"$x\"", "read"),
    ("read -rp 'sure? ' x </dev/tty\necho \"$x\"", "read"),
    ('read -r x\necho "$x"', "read"),
    ("vim /etc/fstab", "vim"),
    ("sudo nano /etc/fstab", "nano"),
    ("apt-get install nginx", "apt-get"),
    ("apt install -q nginx curl", "apt"),
    ("sudo DEBIAN_FRONTEND=noninteractive apt-get install nginx", "apt-get"),
    ("apt-get upgrade", "apt-get"),
    ("yum install nginx", "yum"),
    ("dnf remove nginx", "dnf"),
    ("zypper install nginx", "zypper"),
    ("passwd bob", "passwd"),
    ('passwd "$USER"', "passwd"),
    ("ssh-keygen", "ssh-keygen"),
    ("ssh-keygen -t ed25519 -f /root/.ssh/id", "ssh-keygen"),
    ("mysql_secure_installation", "mysql_secure_installation"),
    ("adduser bob", "adduser"),
    ("adduser --gecos '' bob", "adduser"),
    ("visudo", "visudo"),
    ("crontab -e", "crontab"),
]


@pytest.mark.parametrize(("body", "program"), ASKING)
def test_a_program_that_asks_a_person_is_told(warnings, body, program):
    """O18."""
    assert warnings({"scripts/it": script("", body)}) == ["scripts/it:2 asks"], program


@pytest.mark.parametrize(
    "body",
    [
        'read -r x <<<1\necho "$x"',
        'echo a | while read -r x; do echo "$x"; done',
        'while read -r x; do read -r y; echo "$x$y"; done </etc/passwd',
        'f() { read -r x; echo "$x"; }\necho 1 | f',
        'exec </etc/fstab\nread -r x\necho "$x"',
        'echo a | { read -r x; echo "$x"; }',
        'read -r -u 3 x 3</etc/fstab\necho "$x"',
        "if [ -t 0 ]; then read -p 'sure? ' x; fi\necho \"${x-}\"",
        "vim -es +wq /etc/fstab",
        "apt-get install -y nginx; apt-get -qq install x; apt-get --yes remove y; apt-get update; apt-get -s upgrade",
        "options=-y\napt-get $options install nginx\napt-get install $options nginx",
        "yes | apt-get install nginx",
        "yum -y install nginx; dnf install -qy nginx; dnf check-update",
        "zypper -n install nginx",
        "echo bob:x | chpasswd; passwd -l bob; echo x | passwd bob",
        "ssh-keygen -q -t ed25519 -N '' -f /root/.ssh/id; ssh-keygen -R host; ssh-keygen -lf x; ssh-keygen -A",
        "mysql_secure_installation --use-default",
        "mysql_secure_installation <<<y",
        "adduser --system www; adduser bob users; adduser --disabled-password --gecos '' bob; adduser -m x",
        "yum -y install x\nadduser nginx",
        "visudo -cf /etc/sudoers.d/x; crontab -l; crontab x",
        "passwd() { :; }\npasswd bob",
    ],
)
def test_a_program_that_has_its_answer_is_not_told(warnings, body):
    """O18."""
    assert warnings({"scripts/it": script("", body)}) == []


def test_a_program_that_asks_is_told_once(warnings):
    """O18."""
    body = 'read -p a x\nread -p b y\nvi a\nvi b\necho "$x$y"'
    assert warnings({"scripts/it": script("", body)}) == ["scripts/it:2 asks", "scripts/it:4 asks"]


@pytest.mark.parametrize(
    "body",
    [
        "cp site.conf /etc/nginx/",
        "install -m 644 ./site.conf /etc/nginx/site.conf",
        "cp -t /etc/nginx site.conf",
        ". ./site.conf",
        ". site.conf",
        "source site.conf",
        "bash site.conf",
        "./site.conf",
        "cat site.conf",
        'x=$(<site.conf)\necho "$x"',
        "sed s/a/b/ <site.conf",
        "sudo cp site.conf /etc",
        "cp site.conf /etc; echo x >site.conf",
        "cp -r site.d /etc",
        "cp site.d/a /etc",
    ],
)
def test_a_file_beside_the_script_that_nothing_ships_is_told(warnings, body):
    """O17."""
    files = {"scripts/it": script("", body), "scripts/site.conf": "x", "scripts/site.d/a": "x"}
    assert warnings(files) == ["scripts/it:2 unshipped-file"]


@pytest.mark.parametrize(
    ("conf", "body"),
    [
        ("ref -r site=site.conf", "cp site.conf /etc"),
        ("ref -r site=site.d", "cp site.d/a /etc"),
        ('name=site.conf\nref -r site="$name"', 'cp site.conf /etc; echo "$site"'),
        ("", "echo x >site.conf\ncp site.conf /etc"),
        ("", "cp /etc/site.conf site.conf\ncat site.conf"),
        ("", "cd /etc\ncat site.conf"),
        ("", "curl -O https://example.net/site.conf\ncp site.conf /etc"),
        ("", "systemctl restart site.conf; echo site.conf"),
        ("", "cp a site.conf"),
        ("", "cat nowhere.conf /etc/site.conf other"),
        ("", "cat <<<site.conf"),
    ],
)
def test_a_file_that_is_shipped_made_or_elsewhere_is_not_told(warnings, conf, body):
    """O17."""
    files = {"scripts/it": script(conf, body), "scripts/site.conf": "x", "scripts/site.d/a": "x"}
    files |= {"scripts/other": script("", "true")}
    assert warnings(files) == []


@pytest.mark.parametrize(
    ("files", "place"),
    [
        ({"hosts/medusa/default": "it password=hunter2\n"}, "hosts/medusa/default:1"),
        ({"hosts/medusa/default": "it\n  password 'two words'\n"}, "hosts/medusa/default:2"),
        ({"runs.conf": "var password=hunter2\n"}, "runs.conf:1"),
        ({"scripts/it": script("var password=hunter2", 'echo "$password"')}, "scripts/it:1"),
        ({"scripts/it": script('var db_passwd="hunter2"', 'echo "$db_passwd"')}, "scripts/it:1"),
        ({"scripts/it": script('var API_KEY="${API_KEY:-abc123}"', 'echo "$API_KEY"')}, "scripts/it:1"),
        ({"scripts/it": script("var tokens\nvar auth_token+=abc123", 'echo "$auth_token$tokens"')}, "scripts/it:2"),
        ({"scripts/it": script("var private_key abc123", 'echo "$private_key"')}, "scripts/it:1"),
    ],
)
def test_a_value_that_looks_like_a_secret_is_told_and_not_shown(warnings, files, place):
    """O6."""
    default = script('var password="${password-}"', 'echo "$password"')
    assert warnings({"scripts/it": default, **files}) == [f"{place} literal-secret"]


@pytest.mark.parametrize(
    "conf",
    [
        "var password=",
        "var password=''",
        "var password=/etc/site/password",
        "var password=~/.password",
        "var password_file=hunter2",
        'var password="$(pass show site)"',
        'var password="${password-}"',
        'var password="${password:?}"',
        'secret=x\nvar password="$secret"',
        "var password=yes",
        "var password='<fill in>'",
        "var password_length=12",
        "var tokenizer=fast",
        "var compass=north",
        "var bypass=lane",
        "var key=F1",
        "var pwd=/srv",
    ],
)
def test_what_is_no_secret_or_none_in_the_tree_is_not_told(warnings, conf):
    """O6."""
    names = ["password", "password_file", "password_length", "tokenizer", "compass", "bypass", "key", "pwd"]
    assert warnings({"scripts/it": script(conf, " ".join(f'"${{{each}-}}"' for each in names))}) == []


@pytest.mark.parametrize(
    ("conf", "text", "body"),
    [
        ("ref -r page=page.j2", "{{ host }}\n", 'cp "$page" /srv'),
        ("ref page=page.j2", "{% if host %}x{% endif %}\n", 'cp "$page" /srv'),
        ("var port=80\nref -r page=page.conf", "listen {{ port }}\n", 'cp "$page" /srv; echo "$port"'),
        ("ref -r page=page.conf", "{{ RUNS_HOST | upper }}\n", 'cp "$page" /srv'),
    ],
)
def test_a_template_that_is_shipped_as_it_is_is_told(warnings, conf, text, body):
    """D30."""
    name = conf.rpartition("=")[2]
    line = conf.count("\n") + 1
    assert warnings({"scripts/it": script(conf, body), f"scripts/{name}": text}) == [f"scripts/it:{line} unrendered"]


@pytest.mark.parametrize(
    ("conf", "text", "body"),
    [
        ("ref -t -r page=page.j2", "{{ host }}\n", 'cp "$page" /srv'),
        ("ref -r page=page.j2", "plain\n", 'cp "$page" /srv'),
        ("ref -r page=page.conf", "{{ .Labels.host }} {{ job }}\n", 'cp "$page" /srv'),
        ("ref -r page=page.j2", "{{ host }}\n", 'sed "s/{{ host }}/x/" "$page"'),
        ("ref -r page=page.j2", "{{ host }}\n", 'j2 "$page"'),
    ],
)
def test_a_file_that_is_no_template_or_rendered_elsewhere_is_not_told(warnings, conf, text, body):
    """D30."""
    name = conf.rpartition("=")[2]
    assert warnings({"scripts/it": script(conf, body), f"scripts/{name}": text}) == []
