"""Arguments of the program: bad ones are status 2, told in the format that was asked for (SPEC 7)."""

from __future__ import annotations

import json
import os
import re
from importlib.metadata import version
from pathlib import Path

import pytest

from runsdeploy.cli import habits
from runsdeploy.cli.main import main
from runsdeploy.exit_status import UNFORESEEN


@pytest.fixture(autouse=True)
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Stand in an empty tree, with no variables of ours and an empty home."""
    for name in list(os.environ):
        if name.startswith("RUNS"):
            monkeypatch.delenv(name)
    (tmp_path / "tree/scripts").mkdir(parents=True)
    (tmp_path / "home").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path / "tree")
    return tmp_path / "tree"


BAD = [
    (["nosuch"], "nosuch"),
    (["deploy", "--nosuch"], "--nosuch"),
    (["deploy", "--hos", "a"], "--hos"),
    (["deploy", "--host"], "--host"),
    (["deploy"], "no host given"),
    (["plan"], "no host given"),
    (["deploy", "--host", ","], "no host given"),
    (["plan", "--host", "*.nowhere"], "matches no host"),
    (["plan", "--host", "-oProxyCommand=x"], "--host"),
    (["plan", "--host=-oProxyCommand=x"], "not a host name"),
    (["plan", "--host", "medusa"], "unknown host `medusa`"),
    (["plan", "--host", "medusa", "--script", "nosuch"], "unknown script `nosuch`"),
    (["plan", "--host", "medusa", "--script", "../x"], "`..`"),
    (["plan", "--host", "medusa", "--recipe", "nosuch"], "unknown recipe `nosuch`"),
    (["plan", "--host", "medusa", "--script", "x", "--set", "PATH=x"], "`PATH` is reserved"),
    (["plan", "--host", "medusa", "--script", "x", "--set", "a-b"], "bad operation `a-b`"),
    (["deploy", "--host", "medusa", "--parallel", "0"], "expected a number above zero"),
    (["deploy", "--host", "medusa", "--parallel", "many"], "expected a number"),
    (["deploy", "--host", "medusa", "--conf-timeout", "x"], "expected a number"),
    (["list", "--path", "nowhere"], "no directory"),
    (["info"], "info"),
    (["info", "nosuch"], "unknown script `nosuch`"),
    (["info", "/etc/passwd"], "absolute"),
    (["hosts", "a", "b"], "b"),
    (["plan", "--host", "nowhere.example.net", "--recipe", "default"], "unknown recipe `default`"),  # D31
    (["deploy", "--host", "nowhere.example.net", "--recipe", "default"], "unknown recipe `default`"),
    (["render", "--host", "nowhere.example.net", "--recipe", "default"], "unknown recipe `default`"),
    (["plan", "--host", "nowhere.example.net", "--recipe", "x", "--recipe", "default"], "unknown recipe `default`"),
    (["plan", "--host", "nowhere.example.net", "--recipe", "@default"], "unknown recipe `@default`"),
    (["deploy", "--host", "all"], "`'*'`, in quotes"),  # O8
    (["init", "--host", "all"], "`'*'`, in quotes"),
    (["hosts", "ALL"], "`'*'`, in quotes"),
    (["sysinfos", "--host", "root@everything"], "`'root@*'`, in quotes"),
    (["info", "x", "--host", "any"], "`'*'`, in quotes"),
]


@pytest.mark.parametrize(("words", "message"), BAD, ids=[" ".join(words) for words, _ in BAD])
def test_bad_input_is_status_2_and_told_on_stderr(capfd: pytest.CaptureFixture[str], words: list[str], message: str):
    assert main(words) == 2
    said = capfd.readouterr()
    assert message in said.err
    assert "Traceback" not in said.err
    assert said.out == ""


@pytest.mark.parametrize("form", [["--format", "json"], ["--format=json"], ["--format", "jsonl"], ["--format=jsonl"]])
@pytest.mark.parametrize(("words", "message"), BAD, ids=[" ".join(words) for words, _ in BAD])
def test_bad_input_is_valid_json_if_that_was_asked_for(
    capfd: pytest.CaptureFixture[str], form: list[str], words: list[str], message: str
):
    assert main([words[0], *form, *words[1:]]) == 2
    document = json.loads(capfd.readouterr().out)
    assert (document["schema"], document["exit_status"], document["hosts"]) == (1, 2, [])
    assert any(message in error["message"] + error["hint"] for error in document["errors"])


@pytest.mark.parametrize("words", [["deploy"], ["deploy", "--nosuch"], ["nosuch"]])
def test_json_may_be_asked_for_by_the_environment(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, words: list[str]
):
    monkeypatch.setenv("RUNSDEPLOY_FORMAT", "json")
    assert main(words) == 2
    assert json.loads(capfd.readouterr().out)["exit_status"] == 2


def test_json_may_be_asked_for_by_a_configuration_file(capfd: pytest.CaptureFixture[str], tree: Path):
    (tree / "runsdeploy.json").write_text('{"format": "json"}')
    assert main(["deploy"]) == 2
    assert json.loads(capfd.readouterr().out)["exit_status"] == 2


def test_a_format_that_there_is_not_is_bad_input(capfd: pytest.CaptureFixture[str]):
    assert main(["list", "--format", "yaml"]) == 2
    assert "expected one of text, json, jsonl" in capfd.readouterr().err


def test_without_a_command_the_help_is_shown(capfd: pytest.CaptureFixture[str]):
    assert main([]) == 2
    assert "deploy" in "".join(capfd.readouterr())


@pytest.mark.parametrize("words", [["--version"], ["-V"]])
def test_the_version_is_no_error(capfd: pytest.CaptureFixture[str], words: list[str]):
    assert main(words) == 0
    assert capfd.readouterr().out == f"runsdeploy {version('runsdeploy')}\n"


@pytest.mark.parametrize("words", [["--help"], ["deploy", "--help"], ["-v", "--version"], ["list", "-h"]])
def test_help_is_no_error(capfd: pytest.CaptureFixture[str], words: list[str]):
    with pytest.raises(SystemExit) as caught:
        main(words)
    assert caught.value.code == 0
    assert capfd.readouterr().out


@pytest.mark.parametrize(
    ("words", "usage"),
    [
        ("help", "usage: runsdeploy [-h]"),
        ("help help", "usage: runsdeploy [-h]"),
        ("-v help", "usage: runsdeploy [-h]"),
        ("help deploy", "usage: runsdeploy deploy "),
        ("deploy help", "usage: runsdeploy deploy "),
        ("hosts help", "usage: runsdeploy hosts "),
        ("init help", "usage: runsdeploy init "),
        ("lock help", "usage: runsdeploy lock "),
        ("help cron.run", "usage: runsdeploy cron.run "),
        ("cron.run help", "usage: runsdeploy cron.run "),
    ],
)
def test_help_may_be_asked_for_by_a_word(capfd: pytest.CaptureFixture[str], tree: Path, words: str, usage: str):
    """O20."""
    with pytest.raises(SystemExit) as caught:
        main(words.split())
    assert caught.value.code == 0
    assert capfd.readouterr().out.startswith(usage)
    assert [each.name for each in tree.iterdir()] == ["scripts"]


def test_help_may_be_the_name_of_a_script(capfd: pytest.CaptureFixture[str], tree: Path):
    assert main(["new", "help"]) == 0
    assert (tree / "scripts/help").exists()
    assert main(["info", "help"]) == 0
    assert main(["help", "nonsense"]) == 2
    assert "unknown command `nonsense`" in capfd.readouterr().err


def test_no_default_is_shown_for_what_is_off_by_default(capfd: pytest.CaptureFixture[str]):
    """O20."""
    with pytest.raises(SystemExit):
        main(["deploy", "--help"])
    text = " ".join(capfd.readouterr().out.split())
    assert " 0.0" not in text
    assert " 0 by default" not in text
    assert "120 by default" in text
    assert "4 by default" in text


def test_a_word_of_another_argument_does_not_choose_the_format(capfd: pytest.CaptureFixture[str]):
    assert main(["deploy", "--nosuch", "json-host"]) == 2
    assert capfd.readouterr().out == ""


def test_without_a_command_json_is_a_document_all_the_same(capfd: pytest.CaptureFixture[str]):
    assert main(["--format", "json"]) == 2
    assert json.loads(capfd.readouterr().out)["exit_status"] == 2


# --- flags before the command


@pytest.mark.parametrize(
    "words",
    [
        ["--format", "json", "hosts"],
        ["--format=json", "-v", "hosts"],
        ["--path", ".", "--ssh-config", "/dev/null", "--format", "text", "hosts", "--format", "json"],
        ["-v", "--trust", "hosts", "--format=json"],
    ],
)
def test_flags_of_all_commands_may_stand_before_the_command_and_the_later_one_counts(capfd, words):
    assert main(words) == 0
    assert json.loads(capfd.readouterr().out)["hosts"] == []


def test_c_changes_the_directory_as_in_git_and_make(tree: Path, monkeypatch: pytest.MonkeyPatch, capfd):
    (tree / "scripts/hello").write_text("desc greets\nscript:\n")
    monkeypatch.chdir("/")
    assert main(["-C", str(tree.parent), "-C", tree.name, "list"]) == 0
    assert capfd.readouterr().out == "hello  greets\n"
    monkeypatch.chdir("/")
    assert main([f"-C{tree}", "list"]) == 0, "O20: the value may be attached"
    assert capfd.readouterr().out == "hello  greets\n"
    assert main(["-C", str(tree / "nowhere"), "--format", "json", "list"]) == 2
    told = capfd.readouterr()
    assert "cannot change to directory" in told.err
    assert json.loads(told.out)["exit_status"] == 2


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["--host", "web1", "deploy"],
            "flag `--host` belongs to a command; write it after the command: `COMMAND --host`",
        ),
        (["--forks", "3", "deploy"], "unknown flag `--forks`; did you mean `--parallel`?"),
        (["--formt", "json", "list"], "unknown flag `--formt`; did you mean `--format`?"),
        (["--path"], "flag `--path` needs a value; see `runsdeploy --help`"),
        (["--verison"], "unknown flag `--verison`; did you mean `--version`?"),
        (["--trust=no", "list"], "flag `--trust` takes no value, found `no`; leave the flag out"),
        (["--nosuch", "list"], "unknown flag `--nosuch`; see `runsdeploy --help`"),
    ],
)
def test_other_flags_before_the_command_are_told_where_they_belong(capfd, words, message):
    assert main(words) == 2
    assert capfd.readouterr().err == f"{message}\n"


# --- what fingers know


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        ("deploy --limit web1", "did you mean `--host`?"),
        ("deploy -l web1", "did you mean `--host`?"),
        ("deploy -f 5", "did you mean `--parallel`?"),
        ("deploy --forks 5", "did you mean `--parallel`?"),
        ("deploy -j5 --host web1", "did you mean `--parallel`?"),
        ("deploy -e a=b", "did you mean `--set`?"),
        ("deploy --extra-vars=a=b", "did you mean `--set`?"),
        ("deploy --tags web", "did you mean `--script`?"),
        ("deploy -u root", "the login is part of the host: `--host USER@HOST`"),
        ("deploy -K", "docs/how-to.md"),
        ("deploy --become", "conf root"),
        ("deploy -i hosts", "groups"),
        ("cron.restore -y", "did you mean `--yes`?"),
        ("hosts -l web1", "see `runsdeploy hosts --help`"),
        ("lint", "did you mean `check`?"),
        ("apply", "did you mean `deploy`?"),
        ("exec", "--script NAME"),
        ("cron list", "one word with a dot"),
        ("ssh.setup -k", "put your key there once"),
        ("lst", "did you mean `list`?"),
    ],
)
def test_what_operators_type_from_habit_comes_before_resemblance(capfd, words, hint):
    assert main(words.split()) == 2
    assert hint in capfd.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("deploy --host a b", "unexpected word `b`; did you mean `--host a,b`?"),
        ("deploy --host a, b c", "unexpected words `b c`; did you mean `--host a,b,c`?"),
        ("deploy --host a,b c --dry-run", "unexpected word `c`; did you mean `--host a,b,c`?"),
        ("init --host a b", "did you mean `--host a,b`? to make a tree there, write it first: `init b …`"),
        ("init --host a b c", "did you mean `--host a,b,c`?"),
        ("list --host a b", "unexpected word `b`; `list` takes one host"),
        ("info x --host a b", "unexpected word `b`; `info` takes one host"),
        ("deploy --set port 80", "unexpected word `80`; did you mean `--set port=80`?"),
        ("deploy --set port = 80", "unexpected words `= 80`; did you mean `--set port=80`?"),
        ("deploy --set port= 80", "unexpected word `80`; did you mean `--set port=80`?"),
        ("deploy --set names a b", "unexpected words `a b`; did you mean `--set 'names a b'`?"),
        ("deploy --set text=hello world", "unexpected word `world`; did you mean `--set 'text=hello world'`?"),
        ("deploy --set a=1 b+=2", "unexpected word `b+=2`; did you mean `--set a=1 --set b+=2`?"),
        ("plan --recipe a b", "unexpected word `b`; did you mean `--recipe a --recipe b`?"),
        ("status --script a b", "unexpected word `b`; did you mean `--script a --script b`?"),
        ("hosts a b", "unexpected word `b`; did you mean `hosts a,b`?"),
        ("list --path a b", "unexpected word `b`; did you mean `--path a:b`?"),
        ("lock add --reason testing a branch", "did you mean `--reason 'testing a branch'`?"),
        ("cron.install --schedule 0 2", "unexpected word `2`; did you mean `--schedule '0 2'`?"),
        ("deploy web1", "unexpected word `web1`; did you mean `--host web1`?"),
        ("deploy --parallel 4 web1", "unexpected word `web1`; did you mean `--host web1`?"),
        ("deploy --dry-run web/nginx", "unexpected word `web/nginx`; did you mean `--script web/nginx`?"),
        ("completion bash zsh", "unexpected word `zsh`; see `runsdeploy completion --help`"),
    ],
)
def test_a_stray_word_is_explained_by_the_flag_before_it(capfd, tree: Path, words, message):
    """O7: nothing is made of it."""
    assert main(words.split()) == 2
    assert message in capfd.readouterr().err
    assert [each.name for each in tree.iterdir()] == ["scripts"]


def test_a_tree_may_still_be_made_with_its_hosts(tree: Path):
    assert main(["init", "below", "--host", "web1"]) == 0
    assert (tree / "below/hosts/web1/default").exists()


@pytest.mark.parametrize(
    ("words", "messages"),
    [
        ("deploy --trust=no", ["flag `--trust` takes no value, found `no`; leave the flag out"]),
        ("deploy --dry-run yes", ["flag `--dry-run` takes no value, found `yes`; write `--dry-run` alone"]),
        ("deploy -nl web1", ["unknown flag `-l` in `-nl`; did you mean `--host`?"]),
        ("deploy --verison", ["unknown flag `--verison`; did you mean `--version`?"]),
        ("deploy --version", ["unknown flag `--version`; write it alone: `runsdeploy --version`"]),
        ("deploy -C/tmp", ["unknown flag `-C/tmp`; write it before the command: `runsdeploy -C /tmp deploy`"]),
        ("deploy --host", ["flag `--host` needs a value; see `runsdeploy deploy --help`"]),
        ("deploy --host --dry-run", ["flag `--host` needs a value; see `runsdeploy deploy --help`"]),
        ("new", ["no NAME given: its name, e.g. `web/nginx`; see `runsdeploy new --help`"]),
        ("lock", ["no ACTION given: `add`, `show` or `remove`; see `runsdeploy lock --help`"]),
        (
            "deploy --nosuch 5 --host a b --trust=no",
            [
                "unknown flag `--nosuch`; see `runsdeploy deploy --help`",
                "flag `--trust` takes no value, found `no`; leave the flag out",
                "unexpected word `b`; did you mean `--host a,b`?",
            ],
        ),
    ],
)
def test_all_mistyped_words_are_explained_in_our_words_not_in_those_of_argparse(capfd, words, messages):
    """O20."""
    assert main(words.split()) == 2
    assert capfd.readouterr().err.splitlines() == messages


@pytest.mark.parametrize(
    ("words", "never"),
    [
        ("list --trus", "--trust"),
        ("list --rust", "--trust"),
        ("deploy --accept", "--accept-new"),
        ("deploy --accept-ne", "--accept-new"),
        ("cron.restore --forc", "--force"),
        ("cron.logs --allw", "--allow"),
        ("cron.restore --yess", "--yes"),
        ("deploy --no-verify-sysinfo", "--no-verify-sysinfos"),
        ("--trst list", "--trust"),
    ],
)
def test_what_switches_a_protection_off_is_never_suggested_by_resemblance(capfd, words, never):
    assert main(words.split()) == 2
    hint = capfd.readouterr().err.partition(";")[2]
    assert never not in hint
    assert "did you mean" not in hint, "the second best is not what was meant"


# --- an exception that nobody foresaw


@pytest.mark.parametrize("form", ["text", "json", "jsonl"])
def test_a_mistake_of_ours_ends_in_one_line_a_report_file_and_a_document(form, capfd, mocker, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    mocker.patch("runsdeploy.commands.list.list_scripts", side_effect=AssertionError("a secret\nmatter"))
    assert main(["list", "--path", "sesame:.", "--format", form]) == UNFORESEEN
    told = capfd.readouterr()
    (line,) = told.err.splitlines()
    (report,) = tmp_path.glob("runsdeploy-report-*.txt")
    assert line.startswith("runsdeploy itself failed: AssertionError: a secret matter; traceback in")
    assert str(report) in line
    text = report.read_text()
    assert "Traceback (most recent call last)" in text
    assert "AssertionError" in text
    assert "sesame" not in text, "what was typed may be a secret"
    assert report.stat().st_mode & 0o077 == 0
    if form != "text":
        document = json.loads(told.out)
        assert (document["exit_status"], document["hosts"]) == (UNFORESEEN, [])


@pytest.mark.parametrize(("form", "key"), [("sarif", "runs"), ("github", "")])
def test_check_reports_a_mistake_of_ours_in_its_formats_too(form, key, capfd, mocker, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    mocker.patch("runsdeploy.commands.check.check", side_effect=RuntimeError("surprise"))
    assert main(["check", "--format", form]) == UNFORESEEN
    out = capfd.readouterr().out
    assert "surprise" in out
    assert not key or key in json.loads(out)


def test_a_report_file_that_cannot_be_written_leaves_the_traceback_on_stderr(capsys, mocker, monkeypatch, tmp_path):
    mocker.patch("runsdeploy.commands.list.list_scripts", side_effect=KeyError("x"))
    with monkeypatch.context() as patch:
        # Not for longer: pytest makes temporary files too.
        patch.setattr("tempfile.tempdir", str(tmp_path / "nowhere"))
        assert main(["list"]) == UNFORESEEN
    told = capsys.readouterr().err
    assert "Traceback" in told
    assert "no report file: no such file or directory" in told


def test_a_page_that_a_hint_names_has_that_heading():
    root = Path(__file__).parents[2]
    for page, anchor in re.findall(r"(docs/[\w./-]+)#([\w-]+)", " ".join(habits.EXPLAINED.values())):
        headings = re.findall(r"^#+ (.*)$", (root / page).read_text(), re.MULTILINE)
        assert anchor in [heading.lower().replace(" ", "-") for heading in headings]


def test_a_mistake_of_ours_before_the_command_is_known_ends_the_same_way(capfd, mocker, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    mocker.patch("runsdeploy.cli.parser.split", side_effect=IndexError("surprise"))
    assert main(["--format", "json", "list"]) == UNFORESEEN
    told = capfd.readouterr()
    assert "traceback in" in told.err
    assert json.loads(told.out)["exit_status"] == UNFORESEEN
