"""Every failure is told at the operator's innermost own line, in real deploys (D13)."""

# ruff: noqa: E501 - each body is one line

from __future__ import annotations

import re

import pytest

from tests.trees import Operator, plant, script

LIB = """# a file that scripts source
fails() {
    true
    cp /nowhere/a b
}
outer() {
    fails
}
tests() {
    grep -q x /dev/null
    return
}
exits() {
    if true; then
        exit 7
    fi
}
unset_one() {
    echo "$nothing_is_set" 2>/dev/null
}
"""

CASES = {
    # name: (body, from line 3 on; line, or file and line)
    "errexit in main": ('set -euo pipefail\nmain() {\n    cp /nowhere/a b\n}\nmain "$@"', 5),
    "main without errexit": ('main() {\n    true\n    cp /nowhere/a b\n}\nmain "$@"', 5),
    "functions in functions": ("a() {\n    b\n}\nb() {\n    c\n}\nc() {\n    false\n}\nset -e\na", 10),
    "grep -q in a function": ("set -e\nf() {\n    grep -q x /dev/null\n    echo no\n}\nf", 5),
    "a sourced file": ('source "$lib"\nset -e\nouter', "scripts/lib.sh:4"),
    "a sourced file without errexit": ('. "$lib"\nouter', "scripts/lib.sh:4"),
    "a sourced file by a relative name": ('cd "${0%/*}"\n. ./lib.sh\nset -e\nouter', "scripts/lib.sh:4"),
    "exit in a sourced file": ('. "$lib"\nexits\n', "scripts/lib.sh:15"),
    "a return with the status before": ('. "$lib"\ntests', "scripts/lib.sh:10"),
    "the top of a sourced file": ('. "$broken"', "scripts/broken.sh:2"),
    "a syntax error in a sourced file": ('set -e\n. "$syntax"', "scripts/syntax.sh:4"),
    "an unset variable in a sourced file": ('set -u\n. "$lib"\nunset_one', "scripts/lib.sh:19"),
    "a library": ("urequire mine\nset -e\nmine_fails", "lib/mine:2"),
    "a library that exits": ("urequire mine\nmine_exits", "lib/mine:5"),
    "a bundled library": ("urequire uinst\nset -e\nuinst -f /nowhere/a /nowhere/b", 5),
    "die": ("f() {\n    die no\n}\nf", 4),
    "a command substitution": ("set -e\nx=$(false)\necho no", 4),
    "a command substitution in a function": ("set -e\nf() { false; }\ng() {\n    x=$(f)\n}\ng", 4),
    "a subshell": ("set -e\n(\n    true\n    false\n    true\n)\necho no", 6),
    "a subshell that exits": ("set -e\n(\n    exit 5\n)\necho no", 5),
    # Failures of subshells that ended nothing come before the one that did: bash counts the same for both (D13).
    "behind a tolerated one": ("set -e\nx=$(false; echo a)\nfalse", 5),
    "behind a tolerated one, strictly": ('set -euo pipefail\nx=$(false; echo a)\necho "x=$x"\nfalse', 6),
    "in a block behind a tolerated one": (
        "set -e\nx=$(grep -q zz /dev/null; echo $?)\nif true; then\n    true\n    grep -q zz /dev/null\nfi",
        7,
    ),
    "a subshell behind a tolerated one": (
        "set -Eeuo pipefail\nn=$(grep -c nothing /dev/null; true)\n( cd /tmp; false ) | cat",
        5,
    ),
    "a long subshell behind a tolerated one": ("set -e\nn=$(false; true)\n(\n    true\n    false\n    true\n)", 7),
    "behind a tolerated one of a command": ('set -e\necho "$(false; echo a)"\necho "$(false)"\nfalse', 6),
    "behind a process substitution": ("set -e\ncat <(false; echo a)\nfalse", 5),
    "behind one of before set -e": ("x=$(false; echo a)\nfalse\necho more\nset -e\nfalse", 7),
    "behind one in a function": ("set -e\nf() {\n    x=$(false; echo a)\n}\nf\nif true; then\n    false\nfi", 9),
    "behind one in the same function": ("set -e\nf() {\n    x=$(false; echo a)\n    true\n    false\n}\nf", 7),
    "behind one in a branch of case": (
        "set -e\nfor n in a b; do\n    case $n in\n    a) x=$(false; echo a) ;;\n    b) false ;;\n    esac\ndone",
        7,
    ),
    "behind one in a loop": ("set -e\nfor n in 1 2; do\n    x=$(false; echo a)\n    [ $n = 1 ]\ndone", 6),
    "own ERR trap behind a tolerated one": ("set -eE\ntrap 'echo oops' ERR\nx=$(false; echo a)\ntrue\nfalse", 7),
    "a pipeline over lines": ("set -eo pipefail\ntrue\n{ true && false; } |\n    cat |\n    cat\necho no", 5),
    "a loop in a pipeline": ("set -eo pipefail\nfor n in 1 2; do\n    true\n    [ $n = 1 ]\ndone | cat\necho no", 6),
    "a pipeline": ("set -eo pipefail\ntrue\ncat /nowhere/x | cat\necho no", 5),
    "a group": ("set -e\n{\n    true\n    false\n}", 6),
    "eval": ("set -e\ntrue\neval 'true; false'", 5),
    "eval in a function": ("f() {\n    eval 'exit 3'\n}\nf", 4),
    "source of a pipe": ("set -e\ntrue\nsource <(echo false)\necho no", 5),
    "set -e in a function only": ("f() {\n    set -e\n    false\n    true\n}\nf", 5),
    "a loop": ("set -e\nfor x in 1 2; do\n    [[ $x == 1 ]]\ndone", 5),
    "return 3 in main": ("main() {\n    true\n    return 3\n}\nmain", (5, 7)),
    "the last command": ("true\nfalse", 4),
    "the last list": ("true\n[ a = b ] && echo c", 4),
    "a negation": ("true\n! true", 4),
    "exit": ("false\nexit 4\ntrue", 4),
    "exit without a status": ("true\nfalse || exit", 4),
    "exit in a trap": ("trap 'exit 9' INT\ntrue\nkill -INT $$\necho no", 5),
    "an unset variable": ("true\n: ${nothing?is missing}\ntrue", 4),
    "an unset variable, hidden": ("true\n{ : ${nothing?is missing}; } 2>/dev/null\ntrue", 4),
    "an unset variable behind a failure": ("false\nset -u\n: $nothing\ntrue", 5),
    "exec of nothing": ("true\nexec /nowhere/x", 4),
    "exec of what fails": ("true\nexec sh -c 'exit 4'", 4),
    "a trap on ERR": ("set -e\ntrap 'echo oops' ERR\nf() {\n    cp /nowhere/a b\n}\nf", 6),
    "a trap on ERR that exits": ("trap 'echo oops; exit 2' ERR\ntrue\nfalse\ntrue", 5),
    "a trap on EXIT": ("set -e\ntrap 'echo end; true' EXIT\nf() {\n    false\n}\nf", 6),
    "a trap on EXIT that exits": ("set -e\ntrap 'rc=$?; true; exit $rc' EXIT\nf() {\n    false\n}\nf", 6),
    "a trap on EXIT and a last failure": ("trap 'true' EXIT\nf() {\n    false\n}\nf", 5),
    "a function in a trap on EXIT": ("set -e\nend() {\n    true\n    exit 3\n}\ntrap end EXIT\nfalse\ntrue", 9),
    "a trap on ERR and EXIT": (
        "set -Eeuo pipefail\ntrap clean INT ERR EXIT\nclean() {\n    trap - INT ERR EXIT\n    true\n}\nf() {\n    false\n}\nf",
        10,
    ),
    "a trap on ERR and EXIT of several lines": (
        "set -eE\ntrap 'true\ntrue\necho $?' ERR\ntrap true EXIT\nf() {\n    false\n}\nf",
        9,
    ),
    "set -x": ("set -xe\nf() {\n    false\n}\nf", 5),
    "IFS": ("IFS=,\nf() {\n    false\n}\nf", 5),
    "no IFS": ("set -u\nunset IFS\nf() {\n    false\n}\nf", 6),
    "a word of several lines": ('f() {\n    grep -q "a\nb" /dev/null\n}\nf', (4, 5)),
    "a umask": ("umask 777\nf() {\n    false\n}\nf", 5),
    "another directory": ("cd /\nset -e\nf() {\n    false\n}\nf", 6),
    "noclobber": ("set -C\nfalse\nf() {\n    false\n}\nf", 6),
    "posix": ("set -o posix\nf() {\n    false\n}\nf", 5),
    "errors to nowhere": ("exec 2>&-\nf() {\n    exit 3\n}\nf", 5),
    "a failure that was survived": ("f() { false; }\nf\ntrue\nexit 2", 6),
    "a killed command": ("set -e\ntrue\nsh -c 'kill -KILL $$'", 5),
    "a shell that kills itself": ("f() {\n    kill -TERM $$\n}\nf", 4),
}


@pytest.fixture(scope="module")
def told(shared_host, tmp_path_factory):
    """Deploy all cases at once; return the failed line of each, below the tree."""
    operator = Operator(tmp_path_factory.mktemp("lines"), shared_host.ssh_config)
    conf = "ref -r lib=lib.sh broken=broken.sh syntax=syntax.sh"
    files = {f"scripts/s{n}": script(conf, body) for n, (body, _) in enumerate(CASES.values())}
    files |= {"scripts/lib.sh": LIB, "scripts/broken.sh": "true\nfalse\n", "scripts/syntax.sh": "true\n\nif (\n"}
    files |= {"lib/mine": "mine_fails() {\n    false\n}\nmine_exits() {\n    exit 3\n}\n"}
    names = [f"s{n}" for n in range(len(CASES))]
    tree = plant(operator.directory / "tree", {**files, "hosts/medusa/default": "\n".join(names) + "\n"})
    done = operator.deploy(tree, "--keep-going")
    return {step["script"]: step["failed_at"].partition("tree/")[2] for step in done.steps if "failed_at" in step}


@pytest.mark.parametrize("what", CASES)
def test_a_failure_is_told_at_the_innermost_own_line(what, told):
    """D13."""
    name = f"s{[*CASES].index(what)}"
    line = CASES[what][1]
    expected = (
        [line]
        if isinstance(line, str)
        else [f"scripts/{name}:{each}" for each in ([line] if isinstance(line, int) else line)]
    )
    assert told.get(name) in expected


SLOW = {
    # name: (body, from line 2 on; line)
    "a loop that reads an empty stdin": ('x=\nuntil [ "$x" = yes ]; do\n    read -r x\ndone', 4),
    "a program in a function": ("f() {\n    true\n    sleep 60\n}\nf", 4),
    "with an EXIT trap of its own": ("trap true EXIT\nwhile :; do\n    read -r x\ndone", 4),
}


def test_a_step_that_is_ended_by_the_time_limit_names_its_line_and_is_noted_while_silent(operator, tmp_path):
    """D19."""
    operator.alter("session.parameters", SILENCE=0.3)
    files = {f"scripts/s{n}": script("", body) for n, (body, _) in enumerate(SLOW.values())}
    files |= {"scripts/reads": script("", "mkfifo fifo\nexec 5<>fifo\nread -r x <&5")}
    names = [f"s{n}" for n in range(len(SLOW))] + ["reads"]
    tree = plant(tmp_path / "tree", {**files, "hosts/medusa/default": "\n".join(names) + "\n"})
    done = operator.deploy(tree, "--keep-going", "--timeout", "1")
    assert [outcome for _, outcome in done.outcomes] == ["timeout"] * len(names)
    lines = [step["failed_at"].partition("tree/")[2] for step in done.steps]
    assert lines == [*(f"scripts/s{n}:{line}" for n, (_, line) in enumerate(SLOW.values())), "scripts/reads:4"]
    notes = [event["text"] for event in done.events if event["event"] == "note"]
    assert len([note for note in notes if note.startswith("`s1` still runs, without output for ")]) == 1
    assert any(note.startswith("`s1` ") and note.endswith(": `sleep`") for note in notes)
    assert any(note.startswith("`s2` ") and "`bash`" in note for note in notes)
    assert any(note.startswith("`reads` ") and note.endswith("fifo`") for note in notes), notes


def test_dos_line_ends_in_a_sourced_file_give_the_command_that_repairs_them(operator, tmp_path):
    """D17: those of scripts and libraries are refused before."""
    dos = "f() {\r\n    true\r\n}\r\nno_such\r\n"
    files = {
        "scripts/it": script("ref -r f=f.sh g=g.sh", '. "$g"\n. "$f"'),
        "scripts/f.sh": dos,
        "scripts/g.sh": "true\r\n",
    }
    tree = plant(tmp_path / "tree", {**files, "hosts/medusa/default": "it\n"})
    done = operator.run(*operator.deploy_arguments(tree, form="text"))
    assert done.status == 1
    assert re.search(r"tree/scripts/f\.sh:1: `it` failed with status", done.talk)
    assert re.search(r"^  `dos2unix \S*tree/scripts/f\.sh`$", done.talk, re.MULTILINE)
