"""Editors and GitHub give scripts, recipes and groups a type (O14)."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.trees import Operator, plant, script

ROOT = Path(__file__).parents[2]
VIM, VSCODE = ROOT / "contrib/vim", ROOT / "contrib/vscode"
TEMPLATES = ROOT / "runsdeploy/templates"
SCRIPTS = [*sorted(path for path in (ROOT / "scripts").rglob("*") if path.suffix == "" and path.is_file()),
           TEMPLATES / "script", TEMPLATES / "example"]  # fmt: skip
RECIPES = [ROOT / "hosts/laptop/default", ROOT / "univ.run/medusa/default", TEMPLATES / "default", TEMPLATES / "group"]

FIRST_LINES = {
    "VS Code": r"^#!.*\b(bash|fish|zsh|sh|ksh|dtksh|pdksh|mksh|ash|dash|yash|sh|csh|jcsh|tcsh|itcsh).*"
    r"|^#\s*-\*-[^*]*mode:\s*shell-script[^*]*-\*-",
    "TextMate grammars, as bat has them": r"^#!.*\b(bash|zsh|sh|tcsh)|^#\s*-\*-[^*]*mode:\s*shell-script[^*]*-\*-",
    "vim, for scripts": r"^#!\s*\S*/bash\b|^# -\*-",
}
"""how these tell from the first line that a file is shell (VS Code: extensions/shellscript; vim: scripts.vim)"""


@pytest.fixture
def tree(tmp_path):
    """Return a tree with a script, as `init` and `new` make them."""
    operator = Operator(tmp_path / "operator")
    for words in (["init", tmp_path / "tree", "--host", "web1,db.example.org"], ["new", "web/nginx"]):
        done = operator.run(*words, cwd=tmp_path / "tree" if words[0] == "new" else None)
        assert done.status == 0, done.talk
    return tmp_path / "tree"


# --- the first line


@pytest.mark.parametrize("program", FIRST_LINES)
@pytest.mark.parametrize("name", ["script", "example", "default", "group"])
def test_the_first_line_of_what_is_made_says_that_it_is_shell(program, name):
    first = (TEMPLATES / name).read_text().splitlines()[0]
    assert re.search(FIRST_LINES[program], first)


def test_a_script_that_is_run_by_mistake_does_nothing(tree):
    """The first line names a file that does not exist: CONF and SCRIPT are not for the same machine."""
    made = tree / "scripts/web/nginx"
    made.chmod(0o755)
    done = subprocess.run([made], cwd=tree, capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stdout) == (127, "")
    assert "runs-script" in done.stderr


# --- git


def attributes(tree, name, *, of="linguist-language"):
    done = subprocess.run(["git", "check-attr", of, "--", name], cwd=tree, capture_output=True, text=True, check=True)
    return done.stdout.rpartition(": ")[2].strip()


@pytest.fixture
def repository(tree):
    subprocess.run(["git", "init", "-q", "."], cwd=tree, check=True)
    return tree


@pytest.mark.parametrize(
    ("name", "language"),
    [
        ("runs.conf", "Shell"),
        ("scripts/web/nginx", "Shell"),
        ("scripts/web/runs.conf", "Shell"),
        ("hosts/web1/runs.conf", "Shell"),
        ("hosts/web1/sysinfos.conf", "Shell"),
        ("hosts/web1/default", "Shell"),
        ("hosts/web1.example.org/default", "Shell"),
        ("example.org/db/default", "Shell"),
        ("example.org/db/runs.conf", "Shell"),
        ("groups/web", "Shell"),
        ("lib/mine", "Shell"),
        ("scripts/site/index.html", "unspecified"),
        ("scripts/tool.py", "unspecified"),
        ("hosts/web1/site.conf", "unspecified"),
        ("tasks.py", "unspecified"),
        ("README.md", "unspecified"),
    ],
)
def test_git_and_github_know_the_language_of_a_file(repository, name, language):
    assert attributes(repository, name) == language


@pytest.mark.parametrize("name", ["runs.conf", "hosts/web1/sysinfos.conf", "hosts/web1/default", "groups/web"])
def test_what_is_surely_text_has_unix_line_ends(repository, name):
    assert (attributes(repository, name, of="text"), attributes(repository, name, of="eol")) == ("set", "lf")


def test_a_checkout_where_git_converts_line_ends_has_the_same_bytes(repository, tmp_path):
    plant(repository, {"scripts/web/windows.ini": b"a\r\nb\r\n", "scripts/web/plain.txt": b"a\nb\n"})
    git = ["git", "-c", "core.autocrlf=true", "-c", "user.name=x", "-c", "user.email=x@example.org"]
    for words in (["add", "."], ["commit", "-qm", "x"]):
        subprocess.run([*git, *words], cwd=repository, check=True)
    subprocess.run([*git, "clone", "-q", repository, tmp_path / "clone"], check=True)
    found = {path.relative_to(repository): path.read_bytes()
             for path in repository.rglob("*") if path.is_file() and ".git" not in path.parts}  # fmt: skip
    assert len(found) > 10
    assert {name: (tmp_path / "clone" / name).read_bytes() for name in found} == found


# --- vim


@pytest.fixture
def vim(tmp_path):
    """Return a function that opens a file in vim; it returns the filetype, and the syntax groups of places."""
    if (
        not shutil.which("vim")
        or b"+syntax" not in subprocess.run(["vim", "--version"], capture_output=True, check=True).stdout
    ):
        pytest.skip("no vim with syntax here")

    def look(path, *places, plugin=True):
        out = tmp_path / "out"
        names = [f"synIDattr(synID({line}, {column}, 1), 'name')" for line, column in places]
        commands = ["filetype plugin on", "syntax on", f"edit {path}",
                    f"call writefile([&filetype, {', '.join(names or ['0'])}], '{out}')", "qa!"]  # fmt: skip
        runtime = ["--cmd", f"set runtimepath^={VIM}"] if plugin else []
        words = ["vim", "-es", "-u", "NONE", "-i", "NONE", *runtime]
        for command in commands:
            words += ["-c", command]
        done = subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, check=False)
        assert not re.search(r"E\d+:", done.stdout + done.stderr), done.stdout + done.stderr
        kind, *groups = out.read_text().splitlines()
        return (kind, *groups) if places else kind

    return look


def test_vim_takes_a_new_script_for_bash_without_the_plugin(vim, tree):
    assert vim(tree / "scripts/web/nginx", plugin=False) == "sh"


def test_vim_knows_each_file_of_a_tree(vim, tree):
    plant(tree, {"scripts/old": script("desc x"), "scripts/tool.py": "x = 1\n", "scripts/notes": "words\n"})
    expected = {
        "scripts/web/nginx": "runs", "scripts/old": "runs", "runs.conf": "runs", "hosts/web1/runs.conf": "runs",
        "hosts/web1/sysinfos.conf": "runs", "hosts/web1/default": "runsrecipe", "example.org/db/default": "runsrecipe",
        "groups/example": "runsrecipe", "scripts/tool.py": "python", "scripts/notes": "", "tasks.py": "python",
    }  # fmt: skip
    assert {name: vim(tree / name) for name in expected} == expected


def test_vim_shows_conf_the_separator_and_bash(vim, tree):
    conf = 'desc "x"\nif sysinfos -d debian; then\n    var a=1\nfi\nvariable=1'
    text = script(conf, 'shouldrun || exit\nfor x in 1; do einfo "$x"; done')
    plant(tree, {"scripts/it": text})
    places = [(1, 1), (2, 4), (3, 5), (5, 1), (6, 1), (7, 1), (8, 1), (8, 24)]
    kind, desc, _, var, other, separator, shouldrun, loop, _ = vim(tree / "scripts/it", *places)
    assert (kind, desc, var, separator, shouldrun) == ("runs", "runsConf", "runsConf", "runsSeparator", "runsFunction")
    assert other.startswith("sh")
    assert loop in ("shFor", "shLoop", "shRepeat")


def test_vim_shows_the_parts_of_a_recipe(vim, tree):
    plant(tree, {"hosts/web1/default": "# c\nweb/nginx port=80 a+='x y'\n    names a b\n@services\n"})
    places = [(1, 1), (2, 1), (2, 11), (2, 22), (3, 5), (4, 1)]
    assert vim(tree / "hosts/web1/default", *places) == (
        "runsrecipe", "runsComment", "runsScriptName", "runsOperation", "runsString", "runsArray", "runsInclude"
    )  # fmt: skip


@pytest.mark.parametrize("name", ["runs", "runsrecipe"])
def test_each_filetype_of_vim_has_its_files(name):
    for folder in ("ftplugin", "syntax"):
        assert (VIM / folder / f"{name}.vim").is_file()
    assert f"filetype={name}" in (VIM / "ftdetect/runs.vim").read_text()


# --- VS Code


def rules(node):
    """Yield all regular expressions of a grammar."""
    for key, value in node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ():
        if key in ("match", "begin", "end"):
            yield re.compile(value)
        yield from rules(value)


def grammar(name):
    return json.loads((VSCODE / f"syntaxes/{name}.tmLanguage.json").read_text())


def test_the_extension_names_its_files_and_what_they_are():
    package = json.loads((VSCODE / "package.json").read_text())
    contributed = package["contributes"]
    for each in contributed["grammars"]:
        assert json.loads((VSCODE / each["path"]).read_text())["scopeName"] == each["scopeName"]
    for each in contributed["languages"]:
        json.loads((VSCODE / each["configuration"]).read_text())
    assert {each["language"] for each in contributed["grammars"]} == {each["id"] for each in contributed["languages"]}
    by_id = {each["id"]: re.compile(each["firstLine"]) for each in contributed["languages"]}
    for name, language in (
        ("script", "runs-script"),
        ("example", "runs-script"),
        ("default", "runs-recipe"),
        ("group", "runs-recipe"),
    ):
        assert by_id[language].search((TEMPLATES / name).read_text())


@pytest.mark.parametrize("name", ["runs-script", "runs-recipe"])
def test_every_expression_of_a_grammar_compiles(name):
    assert list(rules(grammar(name)))


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_the_grammar_finds_the_separator_and_the_functions_of_conf(path):
    parts = grammar("runs-script")["repository"]
    lines = path.read_text().splitlines()
    at = [number for number, line in enumerate(lines) if re.search(parts["separator"]["match"], line)]
    assert at == [lines.index("script:")]
    found = {match[1] for line in lines[: at[0]] if (match := re.search(parts["conf"]["match"], line))}
    assert "desc" in found
    assert not any(re.search(parts["conf"]["match"], line) for line in ("description", "desc=1", "echo var", "# var x"))


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: str(path.relative_to(ROOT)))
def test_the_grammar_has_a_name_for_every_line_of_a_recipe(path):
    found = list(rules(grammar("runs-recipe")))
    lines = [line for line in path.read_text().splitlines() if line.strip()]
    assert lines
    assert [line for line in lines if not any(rule.search(line) for rule in found)] == []


def test_the_functions_that_are_shown_are_those_that_exist():
    """The names in the grammar and in vim are those of the language."""
    conf = grammar("runs-script")["repository"]["conf"]["match"]
    names = re.search(r"\((desc[\w|]+)\)", conf)[1].split("|")
    vim = re.search(r"\\%\((desc[\w\\|]+)\\\)", (VIM / "syntax/runs.vim").read_text())[1].split("\\|")
    assert vim == names
    defined = set(re.findall(r"^(\w+)\(\)", (ROOT / "runsdeploy/shell/declarations.sh").read_text(), re.MULTILINE))
    assert {"desc", "conf", "after", "var", "out", "ref", "sysinfos"} <= set(names)
    assert set(names) - {"secret"} <= defined | {"sysinfos"}
