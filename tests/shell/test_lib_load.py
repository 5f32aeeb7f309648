"""What loading the libraries does to the shell, and what they need from the target."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

LIBRARIES = Path(__file__).parents[2] / "runsdeploy" / "shell" / "lib"

FILES = ("file", "text", "tree", "line", "noline", "block", "noblock")
NAMES = {
    "DEFAULTS": {"etitle", "estep", "einfo", "ewarn", "eerror", "die", "is_yes", "is_no", "quietly"},
    "uinst": {f"uinst_{name}" for name in (*FILES, "link", "dir", "mode", "owner", "absent")},
    "uinc": {"uinc"},
}
VARIABLES = {"DEFAULTS": set(), "uinst": {"uinst_changed", "uinst_any"}, "uinc": {"uinc_path"}}
PRIVATE = re.compile(r"_(defaults|file|text|uinst|uinc)_[a-z_]+")

STATE = "compgen -v | sort; echo ==; compgen -A function | sort; echo ==; shopt; set -o; trap; alias; pwd; umask"
ALL_OPERATIONS = r"""
mkdir src && printf 'a\nb\n' >src/f && ln -s f src/l && printf '#@include f\n' >src/m
uinst_file src/f dest; uinst_file src/f dest; [ "$uinst_changed" = no ]
uinst_text 'a
c' dest; uinst_tree src tree; uinst_tree src tree; [ "$uinst_changed" = no ]
uinst_line x dest; uinst_noline x dest; uinst_block n dest text; uinst_noblock n dest
uinst_link src/f link; uinst_link src link; uinst_link src/m link
uinst_link src/m link; [ "$uinst_changed" = no ]
uinst_dir -m 2750 dir/sub; uinst_mode 600 dest; uinst_mode u+x dest
uinst_owner "$(id -u):$(id -g)" dest; [ "$uinst_changed" = no ]
uinst_file -L -b -m 4755 -o "$(id -u)" src/f dest; uinst_file -L -q src/m link
uinc src/m out; uinc src/m; uinst_absent tree
etitle t; estep s; einfo i; ewarn w; eerror e
is_yes y; ! is_no y; quietly true; ! quietly false; (die d) || :
"""


@pytest.mark.parametrize("library", list(NAMES))
def test_only_the_documented_names_come_with_a_library(library: str):
    script = f"_=;{STATE}; . '{LIBRARIES}/{library}.sh'; echo ++; {STATE}"
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True, stdin=subprocess.DEVNULL)
    before, after = ([set(p.split("\n")) for p in half.split("==\n")] for half in done.stdout.split("++\n"))
    assert after[0] - before[0] - {"_", "BASH_ARGC", "BASH_ARGV"} == VARIABLES[library]
    functions = after[1] - before[1]
    assert {n for n in functions if not n.startswith("_")} == NAMES[library]
    assert [n for n in functions if n.startswith("_") and not PRIVATE.fullmatch(n)] == []
    assert after[2] == before[2]
    assert done.stderr == ""


def test_nothing_is_left_behind_by_the_operations(bash):
    done = bash(
        f"state() {{ {STATE}; }}; trap 'echo hm' ERR; {{ state; }} >before\n"
        f"{{ {ALL_OPERATIONS} }} >/dev/null 2>&1\nstate >after; rm -rf dest dir link src out 'dest~'\n"
        "diff before after >d || :; grep '^[<>]' d || :; ls -A"
    )
    # BASH_REMATCH, OPTARG, _path and the like would stand here.
    assert done.out.split() == ["after", "before", "d"], done


def test_loading_twice_is_free(bash):
    again = f"for l in DEFAULTS uinst uinc; do . '{LIBRARIES}'/$l.sh; done"
    done = bash(f'uinst_dir d; uinc_path=(x y); {again}; echo "$uinst_changed $uinst_any ${{uinc_path[*]}}"')
    assert done.out == "changed: d (new)\nyes yes x y\n"


def test_what_comes_from_the_environment_is_not_believed(tmp_path: Path):
    script = f". '{LIBRARIES}/uinst.sh'; echo $uinst_any"
    done = subprocess.run(
        ["bash", "-c", script],
        env={"uinst_any": "yes"},
        capture_output=True,
        text=True,
        check=True,
        cwd=tmp_path,
    )
    assert done.stdout == "no\n"


def test_a_script_s_own_names_do_not_disturb(bash, options: str):
    hostile = """
    readonly dest=/nowhere src=/nowhere path=/nowhere status=9 file=/nowhere line=x name=x mode=0 i=9 n=9
    for f in cat cp mv rm ln chmod chown mkdir readlink sync cmp diff sed find stat tr; do
        eval "$f() { echo hostile; return 3; }"
    done
    GLOBIGNORE='*'
    """
    done = bash(
        f"{hostile}\nuinst_text 'a' f; uinst_line b f; uinst_link f l; uinst_file -b f g; uinst_dir d/e"
        "\nuinst_tree d t; uinst_mode 600 f; uinst_absent d; uinc f",
        options=options,
    )
    assert (done.status, done.err) == (0, "")
    assert "hostile" not in done.out
    assert done.out.endswith("changed: d (removed)\na\nb\n")


def test_all_operations_with_busybox_only(bash, busybox_path: Path, tmp_path: Path):
    done = bash(ALL_OPERATIONS, path=busybox_path)
    assert (done.status, done.err) == (0, " ! warning: w\n!! error: e\n!! error: d\n")
    work = tmp_path / "reference"
    work.mkdir()
    assert done.out == bash(ALL_OPERATIONS, cwd=work).out.replace(f"{work}/", f"{tmp_path}/")
    assert sorted(p.name for p in work.iterdir()) == sorted(
        p.name for p in tmp_path.iterdir() if p.name not in {"applets", "reference"}
    )


@pytest.mark.parametrize("tool", ["find", "sync", "diff"])
def test_tools_that_may_be_missing(bash, busybox_path: Path, tool: str):
    (busybox_path / tool).unlink()
    done = bash(ALL_OPERATIONS, path=busybox_path)
    assert (done.status, done.err) == (0, " ! warning: w\n!! error: e\n!! error: d\n")


@pytest.mark.parametrize("tool", ["cat", "chmod", "cmp", "cp", "ln", "mkdir", "mv", "readlink", "rm", "stat", "tr"])
def test_tools_that_are_needed_are_named(bash, busybox_path: Path, tool: str):
    """A missing tool is a failure that says which, never a wrong success."""
    (busybox_path / tool).unlink()
    done = bash(
        "uinst_text a seed; " + ALL_OPERATIONS.replace("mkdir src", "/bin/mkdir src").replace("&& ln", "&& /bin/ln"),
        path=busybox_path,
    )
    assert done.status != 0
    assert f"{tool}: command not found" in done.err


CONSTRUCTS_AFTER_4_2 = {
    r"\$\{[^}]*@[QEPAKakuUL]\}": "${x@Q} (4.4)",
    r"\b(local|declare|typeset) -[a-zA-Z]*n": "namerefs (4.3)",
    r"\b(mapfile|readarray)\b.* -d": "mapfile -d (4.4)",
    r"\bwait -[np]": "wait -n (4.3)",
    r"\binherit_errexit\b": "inherit_errexit (4.4)",
    r"\$EPOCH|\bSRANDOM\b|\blocal -( |$)": "bash 5",
    r"\[\[? -v ": "-v of an array's element (4.3)",
    r"\$\{\w+: ": "a negative offset (4.2 has bugs)",
    r"<<<": "a here-string: a file in /tmp, which may be full",
    r"<\(|>\(": "process substitution: needs /dev/fd",
    r'"\$\{[^}"\n]*\$\'': "$'…' in a quoted ${…}, which 4.2 leaves as it stands",
}


@pytest.mark.parametrize("library", list(NAMES))
def test_no_construct_newer_than_bash_4_2(library: str):
    text = (LIBRARIES / f"{library}.sh").read_text()
    code = "\n".join(line for line in text.split("\n") if not line.lstrip().startswith("#"))
    assert [why for pattern, why in CONSTRUCTS_AFTER_4_2.items() if re.search(pattern, code)] == []
    bare = re.findall(r'"\$\{(\w+)\[@\]\}"', re.sub(r'\+"\$\{\w+\[@\]\}"', "", code))
    assert bare == [], "an empty array under set -u"
