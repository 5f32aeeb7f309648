"""Help, reference and man pages agree, and cover every command and flag."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from docs import manual
from runsdeploy import exit_status
from runsdeploy.cli.flags import COMMON, Command
from runsdeploy.cli.parser import command_parser, parse, split
from runsdeploy.cli.table import COMMANDS

ROOT = Path(__file__).parents[2]
REFERENCE = (ROOT / "docs/reference/commands.md").read_text()
EXAMPLES = [(command, example) for command in COMMANDS for example in command.examples]


def test_the_reference_explains_each_exit_status_and_the_commands_write_none_as_a_number():
    defined = {value for name, value in vars(exit_status).items() if name.isupper()}
    table = REFERENCE.partition("## Exit statuses")[2].partition("\n\nFor")[0]
    explained = {int(each) for row in re.findall(r"^\| ([\d, ]+) \|", table, re.MULTILINE) for each in row.split(",")}
    assert explained == defined - {exit_status.SIGNALLED} | {exit_status.SIGNALLED + each for each in (2, 15)}
    written = re.compile(r"(status|code) = [1-9]|status=[1-9]|_exit\([1-9]|return [1-9]\d*$", re.MULTILINE)
    for path in (*ROOT.glob("runsdeploy/commands/*.py"), *ROOT.glob("runsdeploy/cli/m*.py")):
        assert not written.search(path.read_text()), path


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.name)
def test_every_command_has_examples_in_its_help_and_all_common_flags(
    command: Command, capsys: pytest.CaptureFixture[str]
):
    with pytest.raises(SystemExit):
        command_parser(command).parse_args(["--help"])
    said = capsys.readouterr().out
    assert command.examples
    assert all(f"  runsdeploy {example}\n" in said for example in command.examples)
    assert {flag.key for flag in COMMON} <= {flag.key for flag in command.flags}


@pytest.mark.parametrize(("command", "example"), EXAMPLES, ids=[example for _, example in EXAMPLES])
def test_every_example_is_a_command_line_that_the_command_takes(command: Command, example: str):
    done = subprocess.run(
        ["bash", "-c", f"printf '%s\\0' {example}"], capture_output=True, text=True, check=True, timeout=60
    )
    line = split(done.stdout.split("\0")[:-1])
    assert line.command == command.name
    parse(command, line.words)


# --- the reference


def test_every_command_is_in_the_reference_and_no_other():
    rows = re.findall(r"^\| (`[a-z].*?) \|", REFERENCE.partition("## Flags")[0], re.MULTILINE)
    told = {word for row in rows for word in re.findall(r"`([a-z.]+)", row)}
    assert told == {command.name for command in COMMANDS}


def test_every_flag_is_in_the_reference_and_no_other():
    table = REFERENCE.partition("## Flags")[2].partition("\n## ")[0]
    told = {name for row in re.findall(r"^\| (.*?) \|", table, re.MULTILINE) for name in re.findall(r"`(-[\w-]+)", row)}
    known = {name for command in COMMANDS for flag in command.flags for name in (flag.name, *flag.aliases)}
    assert told == {name for name in known if name.startswith("-")}


# --- the man pages


@pytest.mark.parametrize("name", manual.PAGES)
def test_the_man_pages_are_what_the_sources_make(name: str):
    assert (ROOT / "man" / name).read_text("ascii") == manual.page(name), "run `make man`"


@pytest.mark.parametrize("device", ["ascii", "utf8"])
@pytest.mark.parametrize("name", manual.PAGES)
def test_groff_has_nothing_to_say_of_a_man_page(name: str, device: str):
    """Nor has mandoc, where it is installed."""
    for command in (["groff", "-man", "-ww", f"-T{device}", "-z"], ["mandoc", "-Tlint", "-Wwarning"]):
        if command[0] == "groff" or shutil.which(command[0]):
            done = subprocess.run(
                command, input=manual.page(name), capture_output=True, text=True, timeout=60, check=False
            )
            assert done.stderr + done.stdout * (command[0] == "mandoc") == ""


def read(name: str) -> str:
    command = ["groff", "-man", "-Tascii", "-P-cbou", "-rLL=10000n", "-rHY=0"]
    done = subprocess.run(command, input=manual.page(name), capture_output=True, text=True, timeout=60, check=True)
    return re.sub(r"[ \n]+", " ", done.stdout)


def test_the_page_of_the_program_tells_every_command_flag_status_and_example():
    text = read("runsdeploy.1")
    for command in COMMANDS:
        assert f"runsdeploy {command.name}" in text
        assert all(f"runsdeploy {re.sub(' +', ' ', example)}" in text for example in command.examples)
        assert all(flag.name in text for flag in command.flags if flag.name.startswith("-"))
    for words in (
        "EXIT STATUSES",
        "too low a limit of open files; nothing was touched",
        "RUNSPATH",
        "/var/lib/runsdeploy",
        "NO_COLOR",
    ):
        assert words in text


def test_the_page_of_the_language_tells_every_function_and_operation():
    text = read("runs-script.5")
    for words in ("conf onchange", "after -rr S [op...]", "ref -t name=file.j2", "setdone [subsystem [value]]",
                  "arr0+=value0 arr1-=value1", "BASH*", 'var port="${port:-80}"', "DOMAIN/HOST/"):  # fmt: skip
        assert words in text


@pytest.mark.parametrize(
    ("markdown", "shown"),
    [
        ("a `b` *c* **d** [e](f)", "a b c d e"),
        (".dot and\n'quote", ".dot and 'quote"),
        (r"`back\slash` and \\fBnot bold", r"back\slash and \fBnot bold"),
        ("`--flag` ~ ^ ` '", "--flag ~ ^ ` '"),
        ("    .code\n    'more\\n", ".code 'more\\n"),
        ("| a | b |\n| --- | --- |\n| `x` | .y |", "x .y"),
        ("- one\n- two", "o one o two"),
        ("1. one\n2. two", "1. one 2. two"),
        ("one … → two", "one ... -> two"),
    ],
)
def test_markdown_becomes_roff_that_reads_the_same(markdown: str, shown: str):
    roff = f".TH X 1\n.SH Y\n{manual._markdown(markdown)}"
    done = subprocess.run(
        ["groff", "-man", "-ww", "-Tascii", "-P-cbou"],
        input=roff,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert (
        re.sub(r"\s+", " ", done.stdout.partition("Y\n")[2].rpartition("X(1)")[0].partition("\n\n\n")[0]).strip()
        == shown
    )
