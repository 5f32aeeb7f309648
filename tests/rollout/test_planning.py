"""Many hosts are planned side by side: the same plans and the same mistakes as one after the other (D25)."""

from __future__ import annotations

import contextlib
import os
import pty
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.trees import Operator, plant, script, wait, wait_until

HOSTS = [f"web{n}" for n in range(1, 9)]


@pytest.fixture
def operator(tmp_path):
    return Operator(tmp_path / "operator")


def tree_of(tmp_path, conf, more=None):
    hosts = {f"hosts/{host}/default": "a\n" for host in HOSTS}
    return plant(tmp_path / "tree", {"scripts/a": script(conf, 'echo "$v"'), **hosts, **(more or {})})


MEETING = """\
: >"{place}/$RUNS_HOST"
while found=("{place}"/*) && ((${{#found[@]}} < {number})); do sleep 0.05; done
var v="$RUNS_HOST"
"""
"""a section that ends when it runs for that many hosts at once"""


@pytest.mark.parametrize("words", [["plan"], ["deploy", "--dry-run", "--local"], ["check"]])
def test_hosts_are_planned_at_once(operator, tmp_path, words):
    """D25: their sections wait for each other; four of them run at once on any machine."""
    place = plant(tmp_path / "place", {})
    number = 4
    hosts = HOSTS[:number]
    tree = tree_of(tmp_path, MEETING.format(place=place, number=number))
    for host in HOSTS[number:]:
        (tree / f"hosts/{host}/default").unlink()
    if words[0] == "check":
        (tree / "scripts/a").write_text(f"# shellcheck disable=all\n{(tree / 'scripts/a').read_text()}")
    if "--local" in words:
        hosts = hosts[:1]
        plant(place, dict.fromkeys(["x", "y", "z"], ""))
    done = operator.run(*words, "--path", tree, *(f"--host={host}" for host in hosts), "--format", "json")
    assert done.status == 0, done.talk
    if words[0] != "check":
        assert [each["host"] for each in done.document["hosts"]] == hosts
        assert [each["steps"][0]["variables"]["v"] for each in done.document["hosts"]] == hosts


def test_all_mistakes_are_told_in_the_order_of_the_hosts(operator, tmp_path):
    """D25: whichever is found first; nothing is touched."""
    order = "while [[ $RUNS_HOST != web8 && ! -e '{place}/web8' ]]; do sleep 0.05; done; : >'{place}'/$RUNS_HOST\n"
    place = plant(tmp_path / "place", {})
    conf = f'{order.format(place=place)}[[ $RUNS_HOST != web3 ]] || exit 3\nvar "$RUNS_HOST"=x "1$RUNS_HOST"=y'
    more = {"hosts/web5/default": "nonesuch\na\n", "scripts/b": script()}
    tree = tree_of(tmp_path, conf, more)
    first, second = (
        operator.run("deploy", "--local", "--dry-run", "--path", tree, "--host", "web1"),
        operator.run("plan", "--path", tree, "--host", ",".join(reversed(HOSTS))),
    )
    assert (first.status, second.status) == (2, 2)
    told = re.findall(r"`1(web\d)=y`|with status (3)|(nonesuch)", second.talk)
    assert ["".join(each) for each in told] == ["web8", "web7", "web6", "nonesuch", "web5", "web4", "3", "web2", "web1"]
    assert operator.run("plan", "--path", tree, "--host", ",".join(reversed(HOSTS))).talk == second.talk


def test_plans_are_the_same_as_of_each_host_alone(operator, tmp_path):
    conf = 'var v="$RUNS_HOST"\nref x=data\nfor ((i = 0; i < RANDOM % 200; i++)); do :; done'
    tree = tree_of(tmp_path, conf, {"scripts/data": "text"})
    every = operator.run("plan", "--path", tree, "--host", "*", "--format", "json").document["hosts"]
    alone = [operator.run("plan", "--path", tree, "--host", host, "--format", "json") for host in HOSTS[:3]]
    assert every[:3] == [each.document["hosts"][0] for each in alone]


def commands_with(words):
    """Return the command lines of all processes that have these words in a row."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            found.append(path.read_bytes())
    return [line for line in found if "\0".join(words).encode() in line]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("words", [["plan"], ["check"], ["deploy", "--local"]])
def test_an_interrupt_ends_planning_at_once(operator, tmp_path, number, words):
    """D25: the usual status, and no process or directory is left."""
    place = plant(tmp_path / "place", {})
    hosts = HOSTS[:1] if "--local" in words else HOSTS[:3]
    asleep = f"sleep 1000.{os.getpid()}"
    tree = tree_of(tmp_path, f'trap "" TERM INT\n: >"{place}/$RUNS_HOST"\n{asleep} & {asleep}')
    words = [*words, "--path", str(tree), "--conf-timeout", "500", *(f"--host={host}" for host in hosts)]
    with operator.start(*words) as process:
        wait_until(lambda: len(commands_with(asleep.split())) >= len(hosts))
        process.send_signal(number)
        done = wait(process)
    assert done.status == 128 + number
    assert commands_with(asleep.split()) == []
    assert list(operator.temporary.iterdir()) == []


def test_the_limit_of_each_section_holds(operator, tmp_path):
    """D25: for each of many at once."""
    tree = tree_of(tmp_path, "[[ $RUNS_HOST != web[24] ]] || sleep 1000")
    done = operator.run("plan", "--path", tree, "--host", "*", "--conf-timeout", "3")
    assert done.status == 2
    assert done.talk.count("the section was still running after 3 s") == 1  # one file, one line
    assert done.out == b""


SLOW = 'while [[ ! -e "{place}" ]]; do sleep 0.05; done'


def test_planning_that_takes_long_says_so_once(operator, tmp_path):
    """D25: one plain line where it goes to a file; nothing when it is quick."""
    tree = tree_of(tmp_path, SLOW.format(place=tmp_path / "go"))
    with operator.start("plan", "--path", tree, "--host", "*", "--format", "json") as process:
        line = process.stderr.readline().decode()
        (tmp_path / "go").touch()
        done = wait(process)
    assert re.fullmatch(r"planning \d of 8 hosts \(web\d: waiting for `\S+/scripts/a`\)\n", line)
    assert done.talk == ""
    assert done.status == 0
    assert operator.run("plan", "--path", tree, "--host", "*").talk == ""


@pytest.mark.parametrize("more", [{}, {"CI": "true"}, {"TERM": "dumb"}])
def test_on_a_terminal_the_line_is_drawn_again_and_removed(operator, tmp_path, more):
    """D25: without colour or escape sequences, so NO_COLOR changes nothing; plain in a CI."""
    tree = tree_of(tmp_path, SLOW.format(place=tmp_path / "go"))
    own, other = pty.openpty()
    environment = {**operator.settings(), "TERM": "xterm", "COLUMNS": "60", **more}
    command = [sys.executable, "-m", "runsdeploy", "plan", "--path", tree, "--host", "web1,web2", "--format", "json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=other, env=environment, cwd=tmp_path) as process:
        os.close(other)
        seen = b""
        with contextlib.suppress(OSError):  # the end of a terminal
            while chunk := os.read(own, 4096):
                seen += chunk
                if seen.count(b"waiting for") >= (1 if more else 2):
                    (tmp_path / "go").touch()
        process.communicate()
    os.close(own)
    assert process.returncode == 0
    text = seen.decode()
    assert "\x1b" not in text
    if more:
        assert re.fullmatch(r"planning 0 of 2 hosts \(web1: waiting for `tree/scripts/a`\)\r\n", text)
    else:
        assert re.fullmatch(r"(\rplanning 0 of 2 hosts \(web1: waiting for `tree/scripts/a`\) *)+\r +\r", text)
