"""A SCRIPT section behaves as `ssh HOST bash SCRIPT` by hand: the same bodies run both ways (D13, D14, D15).

What differs by design is listed in docs/reference/language.md, and in DIFFERENCES here.
"""

# ruff: noqa: E501, S108 - each body is one line

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from tests.trees import Operator, plant, script

SIGNALS = "grep -E '^Sig(Ign|Blk):|^ShdPnd:' /proc/self/status"

BODIES = {
    # --- how a script ends
    "an empty script": "",
    "the last command fails": "echo a\nfalse",
    "a failure that is survived": "false\necho b",
    "exit": "echo a; exit 7; echo b",
    "exit without a status": "(exit 5)\nexit",
    "exit in a function": "f() { exit 3; }\nf\necho not",
    "exit in a subshell": "(exit 3)\necho $?\nx=$(echo y; exit 4)\necho $? $x",
    "exit in a pipeline": "exit 3 | exit 4 | true\necho ${PIPESTATUS[@]}",
    "exit of a large number": "exit 300",
    "exit of a negative number": "exit -1",
    "exit with too many words": "exit 1 2\necho $?",
    "exit of a word": "(exit word)\necho $?\nexit -x",
    "exit in a function with too many words": "f() {\n    exit 3 4\n    echo here $?\n}\nset -x\nf",
    "exit with closed stderr": "exec 2>&-\nexit 6",
    "return at the top": "return 3\necho $?",
    "return as the last command": 'main() { return 3; }\nmain "$@"',
    "set -e in a function": "set -e\nf() { false; echo not; }\nf\necho not",
    "set -e in a condition": "set -e\nf() { false; echo reached; }\nif f; then echo yes; fi\nf || true\necho end",
    "set -euo pipefail": 'set -euo pipefail\nmain() { cp /nowhere/a b; }\nmain "$@"',
    "pipefail": "set -o pipefail\nfalse | true\necho $?\nset -e\nfalse | cat\necho not",
    "set -u": "set -u\necho $nothing\necho not",
    "an unset variable with a message": ': "${nothing:?is missing}"\necho not',
    "an unset variable in a subshell": '(: "${nothing?gone}")\necho $?',
    "a command that does not exist": "no_such_command a\necho $?",
    "a file that is not executable": "echo x >f; ./f; echo $?",
    "a directory as a command": "/tmp; echo $?",
    "exec of a program": "exec sh -c 'echo in; exit 9'",
    "exec of nothing": "exec /nowhere/program\necho not",
    "a syntax error in eval": "eval 'if ('\necho $?",
    "a syntax error in a sourced file": "echo 'if (' >lib; . ./lib; echo $?",
    "a bad substitution": "echo ${a b}\necho not",
    "a division by zero": "echo $((1 / 0))\necho $?",
    "a readonly variable": "readonly r=1\nr=2\necho not",
    "an ignored error of a special builtin": "shift 5; echo $?; unset -z; echo $?",
    # --- traps of its own
    "a trap on EXIT": "trap 'echo end $? ${FUNCNAME[@]} $LINENO $BASH_SUBSHELL' EXIT\nfalse",
    "a trap on EXIT and exit": "trap 'echo end $?' EXIT\nexit 4",
    "a trap on EXIT that exits": "trap 'echo end $?; exit 9' EXIT\nfalse",
    "a trap on EXIT in a subshell": "(trap 'echo sub' EXIT; false)\necho $?",
    "a trap on ERR": "trap 'echo err $? $LINENO $BASH_COMMAND' ERR\nfalse\ntrue\nf() { false; }\nf\n(false)\nx=$(false)\n:",
    "a trap on ERR with set -e": "set -e\ntrap 'echo err $LINENO' ERR\nf() { false; }\nf",
    "a trap on ERR with errtrace": "set -E\ntrap 'echo err $LINENO ${FUNCNAME[0]}' ERR\nf() { false; true; }\nf\nf",
    "a trap on ERR that exits": "trap 'echo err ${PIPESTATUS[@]}; exit 8' ERR\nfalse | false\necho not",
    "a trap on ERR and EXIT": "set -eE\nclean() { echo clean $?; trap - ERR EXIT; }\ntrap clean ERR EXIT\nf() { false; }\nf",
    "a trap on ERR with errtrace and a trace": (
        "set -Eeu\nn() {\n    echo $? $LINENO ${PIPESTATUS[@]} $BASH_COMMAND\n    trap - ERR\n}\ntrap n EXIT ERR TERM\nset -x\n"
        "f() { false; }\nx=$(trap; f) || true\n(f) || :\n(trap 'echo in $?' ERR; f)\nf"
    ),
    "ERR traps in functions": "set -E\nf() { trap 'echo a $?' ERR; false; }\nf\nfalse\ntrap 'echo b' err\nfalse\ntrap '' ERR\nfalse\ntrap ERR\nfalse",
    "a trap on DEBUG": "trap 'echo debug $LINENO $BASH_COMMAND' DEBUG\ntrue\nf() { true; }\nf\ntrap - DEBUG",
    "a trap on DEBUG in functions": "set -T\ntrap 'echo debug $LINENO $BASH_COMMAND' DEBUG\nf() { false; }\nf\ntrap - DEBUG\nexit 3",
    "a trap on RETURN": "f() { trap 'echo returned; trap - RETURN' RETURN; true; }\nf\necho end",
    "a trap on INT": "trap 'echo INT; exit 7' INT\nkill -INT $$\necho not",
    "a trap on TERM": "trap 'echo TERM' TERM\nkill -TERM $$\necho end",
    "a trap on USR1 during wait": "trap 'echo USR1' USR1\n(sleep 0.1; kill -USR1 $$) &\nwait\necho $?",
    "a trap on PIPE": "trap 'echo PIPE >&2' PIPE\nkill -PIPE $$\necho end",
    "a trap that is ignored": "trap '' TERM\nkill -TERM $$\n(kill -TERM $BASHPID; echo alive)",
    "a trap that is reset": "trap 'echo no' EXIT\ntrap - EXIT\ntrap -p EXIT\nfalse",
    "traps in a function": "f() { trap 'echo out $?' EXIT; return 2; }\nf",
    "the signal of a killed command": "sh -c 'kill -KILL $$'\necho $?",
    "kill of itself with TERM": "kill -TERM $$\necho not",
    "kill of itself with INT": "kill -INT $$\necho not",
    "kill of itself with HUP": "kill -HUP $$\necho not",
    "a broken pipe": "yes | head -n 1\necho ${PIPESTATUS[@]}\n(trap - PIPE; sh -c 'kill -PIPE $$'; echo $?)",
    # --- signals and processes
    "signals of the shell": "while read -r l; do case $l in SigIgn*) echo $l;; esac; done </proc/$$/status",
    "signals of a child": SIGNALS,
    "signals of a grandchild": f'sh -c "{SIGNALS}"\n({SIGNALS})\nx=$({SIGNALS})\necho $x',
    "signals of a background process": f"{SIGNALS} &\nwait",
    "signals under setsid": f"setsid -w {SIGNALS}",
    "job control": "set -m\nsleep 0 &\nwait $!\necho $?\njobs\nfg 2>&1\necho $?",
    "wait": "(exit 3) &\nwait $!\necho $?\nsleep 0 &\nwait\necho $?\nwait 1\necho $?",
    "a background process is killed": "( sleep 60 ) &\nkill $!\nwait $!\necho $?\nsleep 60 & kill -9 $!\nwait $!\necho $?",
    "a coprocess": "coproc cat\necho x >&${COPROC[1]}\nread -r y <&${COPROC[0]}\necho $y\nexec {COPROC[1]}>&-\nwait",
    "process substitution": "diff <(echo a) <(echo b)\necho $?\necho x > >(cat)\nwait\nsource <(echo 'echo sourced $LINENO')",
    "the process group": "kill -0 -- -$$ 2>/dev/null\nset -- $(ps -o pgid= -p $$)\n[ $1 = $$ ] || echo not the leader",
    "open descriptors": "ls /proc/self/fd | tr '\\n' ' '\ncat /proc/self/fdinfo/0 | grep -c pos",
    "open descriptors of a child": "sh -c 'ls /proc/$$/fd' | wc -l",
    # --- the trace
    "a trace": "set -x\necho a\nf() { local x=1; echo $x; }\nf\n(echo sub)\ny=$(echo z)\n[[ $y == z ]]\nset +x",
    "a trace to its failure": "set -ex\ntrue\nf() { false; }\nf",
    "a trace to an exit": "set -x\nf() { if true; then exit 3; fi; }\nf",
    "a trace to an exit in eval": "set -x\neval 'exit 3'",
    "a trace of failures": "set -x\nfalse\nf() { false; true; }\nf\n(false)\n! true\nfalse",
    "a trace of an EXIT trap": "set -x\ntrap 'echo bye; true' EXIT\nexit 4",
    "a trace with PS4": "PS4='+${BASH_SOURCE##*/}:$LINENO:${FUNCNAME[0]-}: '\nset -x\nf() { false; }\nf\nexit 2",
    "a trace with a counting PS4": "n=0; PS4='$((++n)) '\nset -x\nfalse\nfalse\necho $n",
    "a trace to a file": "exec 17>trace\nBASH_XTRACEFD=17\nset -x\nfalse\nf() { false; }\nf\ntrap 'echo bye; cat trace' EXIT\nexit 3",
    "a trace of the sourced": "echo 'false; echo in' >lib\nset -x\n. ./lib\nexit 3",
    "a verbose script": "set -v\necho a\n# comment\nfalse",
    # --- expansions, words, input
    "here-documents": "cat <<A <<'B'\nno\nA\n$no `no`\nB\ncat <<-X\n\t$((1 + 1))\n\tX\ncat <<<here",
    "stdin": "cat; read -r x; echo $?; readlink /proc/self/fd/0",
    "positional parameters": 'echo $# "$*"; set -- a b; echo $#; shift; echo "$@"',
    "line numbers": "echo $LINENO\nf() {\n  echo $LINENO ${BASH_LINENO[@]}\n}\nf\neval 'echo $LINENO'\ncaller; f",
    "the sources": 'f() { echo "${BASH_SOURCE[@]##*/}" "${FUNCNAME[@]}"; }\nf\necho "${0##*/}"\n. /dev/stdin <<<f',
    "special variables": 'false a b\necho "$? $_"\ntrue x\necho "$_ ${-//E/} $BASH_SUBSHELL ${BASH_ARGC-none}"',
    "a nameref": 'x=1; declare -n r=x; r=2; echo $x; declare -p x\nf() { local -n q=$1; q+=(b); }\na=(a); f a; echo "${a[@]}"',
    "exported functions": "f() { echo f; }\nexport -f f\nbash -c 'f; declare -F'",
    "child shells": "bash -c 'echo $-; trap -p; set -o | grep -E \"errexit|errtrace\"; alias; declare -F'\nsh -c 'echo \"$-\"'",
    "BASH_ENV of a child": "echo 'echo env' >e\nBASH_ENV=./e bash -c 'echo child'\necho \"${BASH_ENV-unset} ${ENV-unset}\"",
    "a huge argument": 'x=$(printf \'%0100000d\' 1)\n/bin/echo "$x" | wc -c\nenv x="$x$x" true\necho $?',
    "globs": "touch a1 a2 .h\necho a* b*\nshopt -s nullglob dotglob\necho b* .h*\nshopt -u dotglob",
    "arithmetic": "((0))\necho $?\n((x = 5, y = x * 2))\necho $y\nfor ((i = 0; i < 2; i++)); do echo $i; done\nlet z=0\necho $?",
    "bytes": "printf '\\303\\251\\377\\n' | od -c\nx=$'\\303\\251'; echo ${#x}",
    "time": "TIMEFORMAT=%0R\ntime true",
    "select and read": "select x in a b; do echo $x; break; done\necho $?\nread -t 0; echo $?",
    "getopts": "set -- -a -b v c\nwhile getopts ab: o; do echo $o $OPTARG; done\necho $OPTIND",
    "a command that changes IFS": 'IFS=,\nset -- a b\necho "$*"\nfalse\nf() { false; }\nf',
    "options that scripts set": "set -fCbh\nset -o posix\nfalse\nf() { false; }\nf\necho $SHELLOPTS | tr : '\\n' | grep -v errtrace",
    # --- the environment
    "variables": "env | grep -v ^RUNS_ | sort",
    "variables of the shell": "compgen -v | grep -v ^RUNS_ | sort",
    "options": "set -o; shopt",
    "limits": "ulimit -a; ulimit -Ha",
    "the umask": "umask; umask -S; touch new; stat -c %a new",
    "the locale": "locale 2>/dev/null; echo é | wc -m; printf '%.1f\\n' 1.5",
    "the process": "cat /proc/self/oom_score_adj; cut -d' ' -f19 /proc/self/stat; cat /proc/self/cgroup; id",
    "traps": "trap; trap -p EXIT; trap -p INT",
    "aliases": "alias; shopt expand_aliases",
    "functions": "declare -F | awk '{ print $3 }'",
}

DIFFERENCES = {
    "variables": {"PATH", "SHLVL", "OLDPWD"},
    "variables of the shell": {"OLDPWD", "PIPESTATUS", "_"},
    "a verbose script": {"{ RUNS_nothing"},
    "options": {"errtrace"},
    "traps": {"trap --"},
    "a trap on ERR with errtrace and a trace": {"+++ trap", "trap --", "} {RUNS_fd}"},
}
"""bodies whose output differs by design, with the beginnings of the lines that differ"""


def by_hand(host, bodies: dict[str, str]) -> dict[str, tuple[int, str]]:
    """Run each body with `bash SCRIPT` in a login by ssh."""
    for name, body in bodies.items():
        folder = host.home / name / "scripts"
        folder.mkdir(parents=True)
        (folder / name).write_text(f"\n{body}\n")
    loop = 'cd; umask 022; for f in s*; do cd ~/"$f/scripts"; bash ~/"$f/scripts/$f" >../output 2>&1 </dev/null; echo $? >../status; done'
    subprocess.run(["ssh", "-F", host.ssh_config, host.name, loop], stdin=subprocess.DEVNULL, check=True, timeout=90)
    return {
        name: (
            int((host.home / name / "status").read_text()),
            (host.home / name / "output").read_bytes().decode("utf-8", "backslashreplace"),
        )
        for name in bodies
    }


def deployed(operator: Operator, tree: Path, *more: str) -> dict[str, tuple[int, str]]:
    """Return status and output of each step of a deploy."""
    done = operator.deploy(tree, "--keep-going", *more)
    found: dict[str, tuple[int, str]] = {}
    text = ""
    for event in done.events:
        match event["event"]:
            case "start":
                text = ""
            case "output":
                text += event["text"]
            case "end":
                found[event["script"]] = (event["status"], text)
    return found


def normal(text: str) -> list[str]:
    """Return the lines of an output, with the script's directory as DIR, and without numbers of processes."""
    text = re.sub(r"/[^\s':;()\[\]=]*/(s\d+|files/tree0)/scripts\b", "DIR", text)
    text = re.sub(r"(SSH_CONNECTION|SSH_CLIENT)=.*", r"\1", text)
    return re.sub(r" +\d+ (?=Killed|Terminated)", " ", text).splitlines()


@pytest.fixture(scope="module")
def both(shared_host, tmp_path_factory):
    """Run all bodies both ways, once."""
    names = {f"s{number}": body for number, body in enumerate(BODIES.values())}
    operator = Operator(tmp_path_factory.mktemp("parity"), shared_host.ssh_config)
    files = {f"scripts/{name}": script("", f"{body}\n") for name, body in names.items()}
    tree = plant(operator.directory / "tree", {**files, "hosts/medusa/default": "".join(f"{name}\n" for name in names)})
    shared_host.home.mkdir(exist_ok=True)
    first = by_hand(shared_host, names)
    second = deployed(operator, tree)
    return first, second


@pytest.mark.parametrize("what", BODIES)
def test_a_section_behaves_as_bash_by_hand(what, both):
    """D13, D14, D15."""
    name = f"s{[*BODIES].index(what)}"
    (status, output), (our_status, our_output) = both[0][name], both[1][name]
    allowed = tuple(DIFFERENCES.get(what, ()))
    expected, found = (
        [line for line in normal(text) if not allowed or not line.startswith(allowed)] for text in (output, our_output)
    )
    if what == "functions":
        found = [line for line in found if not line.startswith(("RUNS_", "_"))]
        expected += found
    assert found == expected
    assert our_status == status
