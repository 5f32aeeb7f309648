"""The bash of the controller: the first that is new enough, for all that needs one (D32)."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from runsdeploy.errors import InputError
from runsdeploy.transport import local_bash
from tests.trees import Executable, Link, Operator, plant, script

REAL = shutil.which("bash") or "bash"
TOOLS = (
    "env head wc tar gzip tail mkdir mkfifo mv rm cp cat dd sync od tr sed grep id ls find sleep df setsid flock sh "
    "date uname sha256sum chmod mktemp rmdir readlink"
)
OLD = """#!/bin/sh
case $* in *BASH_VERSION*) printf '3.2.57(1)-release' && exit ;; esac
echo "bash 3.2 was used: $*" >&2
kill -9 $$
"""
"""a bash of 2007, as far as that is looked at: it dies where our files need a newer one"""


@pytest.fixture
def asked(monkeypatch):
    """Forget what was found; return the programs that are asked for their version."""
    asked = []
    version = local_bash._version
    monkeypatch.setattr(local_bash, "_found", {})
    monkeypatch.setattr(local_bash, "_version", lambda path: asked.append(path) or version(path))
    monkeypatch.setattr(local_bash, "FOLDERS", ())
    monkeypatch.delenv("RUNSDEPLOY_BASH", raising=False)
    return asked


def folder(tmp_path: Path, name: str, content: object) -> str:
    return str(plant(tmp_path / name, {"bash": content}))


def test_the_first_on_path_costs_one_question(asked, monkeypatch):
    monkeypatch.setenv("PATH", str(Path(REAL).parent))
    assert [local_bash.find_bash() for _ in range(3)] == [REAL] * 3
    assert asked == [REAL]
    assert local_bash.environment() == {"RUNSDEPLOY_BASH": REAL}


@pytest.mark.parametrize(
    "unfit",
    [
        OLD,
        "#!/bin/sh\necho no version\n",
        "#!/bin/sh\nexit 1\n",
        "#!/bin/sh\nkill -9 $$\n",
        "\x7fELF of another machine",
        "",
    ],
)
def test_one_that_will_not_do_is_passed_over(asked, monkeypatch, tmp_path, unfit):
    """D32: PATH first, then the places of Homebrew; RUNSDEPLOY_BASH before both."""
    first, other = folder(tmp_path, "first", Executable(unfit)), folder(tmp_path, "other", Link(REAL))
    monkeypatch.setenv("PATH", f":{first}:{first}:{other}")
    assert local_bash.find_bash() == f"{other}/bash"
    assert asked == [f"{first}/bash", f"{other}/bash"]
    monkeypatch.setenv("PATH", first)
    monkeypatch.setattr(local_bash, "FOLDERS", ("/nonexistent", other))
    assert local_bash.find_bash() == f"{other}/bash"
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RUNSDEPLOY_BASH", "other/bash")
    assert local_bash.find_bash() == f"{other}/bash"
    assert asked[-1] == f"{other}/bash"


def test_where_none_will_do_all_are_named(asked, monkeypatch, tmp_path):
    """D32: path, version, what is expected, and what repairs it."""
    places = [folder(tmp_path, "one", Executable(OLD)), folder(tmp_path, "two", Executable("#!/bin/sh\n"))]
    monkeypatch.setenv("PATH", ":".join(places))
    with pytest.raises(InputError) as caught:
        local_bash.find_bash()
    assert str(caught.value) == (
        f"`{places[0]}/bash` is 3.2.57(1)-release, `{places[1]}/bash` is no bash, expected bash 4.2 or later; "
        "`brew install bash` on a Mac, or name one by RUNSDEPLOY_BASH"
    )
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(InputError) as caught:
        local_bash.find_bash()
    assert str(caught.value).startswith("no `bash` on this machine: not on PATH")
    assert len(asked) == 2


@pytest.fixture
def mac(tmp_path):
    """Somebody whose first bash is of 2007, with a newer one behind it."""
    operator = Operator(tmp_path / "operator")
    places = [folder(tmp_path, "old", Executable(OLD)), folder(tmp_path, "new", Link(REAL))]
    operator.environment["PATH"] = ":".join([*places, operator.settings()["PATH"]])
    return operator


TREE = {
    "scripts/a": script('conf local\nvar version="$BASH_VERSION"', 'urequire l\necho "$version $BASH"'),
    "scripts/b": script("", 'echo "$BASH"'),
    "lib/l": "l() { :; }\n",
    "hosts/medusa/default": "a\nb\n",
}


@pytest.mark.parametrize("words", [["check"], ["check", "--static"], ["plan", "--host", "medusa"], ["list"]])
def test_r26_a_mac_reads_a_tree(mac, tmp_path, words):
    """D32: CONF, libraries and SCRIPT sections are read by the newer one."""
    done = mac.run(*words, "--path", plant(tmp_path / "tree", TREE))
    assert done.status == 0, done.talk
    assert "3.2" not in done.talk


def test_r26_a_mac_deploys(mac, tmp_path):
    """D32, D33: local steps run under the newer one, and those of `--local`."""
    done = mac.deploy(plant(tmp_path / "tree", TREE), host="medusa")
    assert done.outcomes == [("a", "ok"), ("b", "ok")]
    version = subprocess.run(
        [REAL, "-c", "echo $BASH_VERSION"], capture_output=True, check=True, text=True
    ).stdout.strip()
    assert done.output == f"{version} {tmp_path}/new/bash\n{tmp_path}/new/bash\n"


def test_r26_a_machine_with_an_old_bash_only_is_told_what_is_expected(tmp_path):
    """D32: for each command that needs one, as bad input."""
    operator = Operator(tmp_path / "operator")
    tools = {name: Link(found) for name in TOOLS.split() if (found := shutil.which(name))}
    operator.environment["PATH"] = str(plant(tmp_path / "bin", {**tools, "bash": Executable(OLD)}))
    operator.alter("transport.local_bash", FOLDERS=())
    tree = plant(tmp_path / "tree", TREE)
    for words in (["check", "--static"], ["plan", "--host", "medusa"], ["deploy", "--local", "--host", "medusa"]):
        done = operator.run(*words, "--path", tree)
        assert done.status == 2
        told = done.text + done.talk
        assert f"`{tmp_path}/bin/bash` is 3.2.57(1)-release, expected bash 4.2 or later" in told
        assert "`brew install bash` on a Mac" in told


def test_r26_a_rendered_plan_goes_on_under_a_newer_bash(mac, tmp_path):
    """D33: the target's operator types `bash FILE`, and that is the old one."""
    mac.run("render", "--path", plant(tmp_path / "tree", {"scripts/b": TREE["scripts/b"]}), "--host", "m",
            "--script", "b", "--output", tmp_path / "plan.sh")  # fmt: skip
    text = (tmp_path / "plan.sh").read_text()
    # No bash at hand is that old: only what it says of itself is changed.
    plant(
        tmp_path,
        {"plan.sh": text.replace("((BASH_VERSINFO[0] * 100 + BASH_VERSINFO[1] >= 402))", '[[ $BASH == "${NEW-}" ]]')},
    )
    environment = {**mac.settings(), "NEW": f"{tmp_path}/new/bash"}
    done = subprocess.run([REAL, tmp_path / "plan.sh"], env=environment, capture_output=True, check=False, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert f"{tmp_path}/new/bash" in done.stdout
    piped = subprocess.run(
        [REAL], input=text.replace(">= 402", ">= 9902"), env=environment, capture_output=True, check=False, text=True
    )
    assert piped.returncode == 3
    assert f"run it with `{tmp_path}/new/bash`" in piped.stderr
