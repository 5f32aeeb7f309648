"""Every command in the README and the manual is run, and prints what the page shows."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BLOCK = re.compile(r"(?:<!-- file: (?P<file>\S+) -->\n)?```(?P<kind>\w*)\n(?P<text>.*?)```\n", re.DOTALL)
INDENTED = re.compile(r"^    (runsdeploy .*?)(?:\s+#.*)?$", re.MULTILINE)


def environment(host, tmp_path):
    return {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "RUNSDEPLOY_SSH_CONFIG": str(host.ssh_config),
        "RUNSDEPLOY_STATE_DIR": str(tmp_path / "controller"),
        "NO_COLOR": "1",
        # The hosts of the pages have facts that this machine need not have.
        "RUNSDEPLOY_NO_VERIFY_SYSINFOS": "1",
    }


def run(command, cwd, env):
    """Run a command of a page in a shell; return what a terminal would show."""
    done = subprocess.run(
        ["bash", "-c", command],
        cwd=cwd,
        env=env,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=60,
        check=False,
    )
    status = f"[status {done.returncode}]\n" if done.returncode else ""
    return done.stdout.decode() + status


def pattern(expected):
    """Return the pattern for expected lines: `…` matches any text in a line, and a line `…` any number of lines."""
    lines = [
        r"(?:.*\n)*" if line == "…" else r".*".join(map(re.escape, line.split("…"))) + r"\n"
        for line in expected.splitlines()
    ]
    return "".join(lines)


@pytest.mark.timeout(400)
@pytest.mark.parametrize("page", ["docs/tutorial.md"])
def test_a_session_on_a_page_goes_as_it_says(page, host, tmp_path):
    tree = tmp_path / "tree"
    tree.mkdir()
    env = environment(host, tmp_path)
    commands = 0
    for block in BLOCK.finditer((ROOT / page).read_text()):
        if block["file"]:
            (tree / block["file"]).parent.mkdir(parents=True, exist_ok=True)
            (tree / block["file"]).write_text(block["text"])
        if block["kind"] != "console":
            continue
        for part in re.split(r"^\$ ", block["text"], flags=re.MULTILINE)[1:]:
            command, _, expected = part.partition("\n")
            said = run(command, tree, env)
            assert re.fullmatch(pattern(expected), said), f"$ {command}\n--- the page\n{expected}--- it says\n{said}"
            commands += 1
    assert commands


@pytest.mark.timeout(400)
def test_the_commands_of_the_readme_and_the_how_to_work_in_the_sample_tree(host, tmp_path):
    tree = tmp_path / "sample"
    tree.mkdir()
    for name in ("hosts", "scripts", "univ.run", "runs.conf", "tasks.py"):
        source = ROOT / name
        (shutil.copytree if source.is_dir() else shutil.copy)(source, tree / name)
    (tree / "scripts/web").mkdir()
    (tree / "scripts/web/nginx").write_text("script:\n")
    env = environment(host, tmp_path)
    found = INDENTED.findall((ROOT / "README.md").read_text())
    assert len(found) == 4
    # `web*.univ.run` needs such hosts to exist; the host itself is what the page's example adds.
    found += [
        each.replace("--host 'web*.univ.run' ", "") for each in INDENTED.findall((ROOT / "docs/how-to.md").read_text())
    ]
    # test_cron_install and test_ssh_setup run the other commands, which need hosts of their own.
    for command in (each for each in found if not each.startswith(("runsdeploy cron.", "runsdeploy ssh."))):
        said = run(command, tree, env)
        assert "[status" not in said or "--exit-code" in command, f"$ {command}\n{said}"
    said = run("invoke deploy --host medusa.univ.run", tree, env)
    assert "medusa.univ.run: ok (5 already-done)" in said


def test_every_pasted_pipeline_execs_runsdeploy_and_installs_no_strangers_package():
    """O12: a cancelled job signals the step's own shell only. O13: the name is not on the index."""
    steps = []
    for page in [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]:
        text = page.read_text()
        for block in (each["text"] for each in BLOCK.finditer(text) if each["kind"] == "yaml"):
            steps += re.findall(r"^\s*- (?:run: )?((?:exec )?runsdeploy .*)$", block, re.MULTILINE)
            assert not re.search(r"pipx? install (?:\S+ )*runsdeploy\b", block), page
    assert len(steps) >= 2
    assert all(step.startswith("exec ") for step in steps)
