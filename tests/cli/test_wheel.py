"""The wheel that would be published: built, installed apart, and deployed with."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.timeout(400)
def test_the_built_wheel_deploys_by_itself(tmp_path):
    """Package data is what gets forgotten: every bash file must be in it."""
    source = tmp_path / "source"
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=True,
    ).stdout
    for name in os.fsdecode(listed).split("\0"):
        if name.startswith(("runsdeploy/", "man/", "pyproject.toml", "README.md", "LICENSE")):
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes((ROOT / name).read_bytes())
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", tmp_path / "dist", source]
    subprocess.run(build, check=True, capture_output=True, timeout=300)
    (wheel,) = (tmp_path / "dist").glob("*.whl")
    inside = set(zipfile.ZipFile(wheel).namelist())
    for folder, kind in (("shell", "*.sh"), ("builtin", "*"), ("templates", "*"), ("jobs", "*.py"), ("jobs", "*.json")):
        files = {path for path in (ROOT / "runsdeploy" / folder).rglob(kind) if path.is_file()}
        assert {str(path.relative_to(ROOT)) for path in files} <= inside
    assert "runsdeploy/py.typed" in inside
    manuals = {name.partition(".data/data/")[2] for name in inside}
    assert {"share/man/man1/runsdeploy.1", "share/man/man5/runs-script.5"} <= manuals

    place = tmp_path / "installed"
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", place, wheel]
    subprocess.run(install, check=True, capture_output=True, timeout=300)
    environment = {
        **os.environ,
        "PYTHONPATH": str(place),
        "HOME": str(tmp_path),
        "RUNSDEPLOY_STATE_DIR": str(tmp_path / "state"),
    }
    where = [sys.executable, "-c", "import runsdeploy; print(runsdeploy.__file__)"]
    assert (
        str(place)
        in subprocess.run(where, env=environment, cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    )
    # `cron.*` loads libraries that the others do not, and reads what is no module.
    build = [sys.executable, "-m", "runsdeploy", "cron.build", "--output", tmp_path / "job-runner.pyz"]
    subprocess.run(build, env=environment, cwd=tmp_path, check=True, capture_output=True, timeout=60)
    (tmp_path / "settings.json").write_text(f'{{"crontab.CRON_BACKUP": "{tmp_path}/backup"}}')
    words = ["--settings", "settings.json", "--schedule", "@daily", "--dry-run", "--local", "--host", "medusa.univ.run"]
    dry = [sys.executable, "-m", "runsdeploy", "cron.install", *words]
    done = subprocess.run(dry, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, "cron/install" in done.stdout) == (0, True), done.stderr
    deploy = [sys.executable, "-m", "runsdeploy", "deploy", "--local", "--host", "medusa.univ.run", "--path", ROOT]
    for expected in ("ok (5 ok)", "ok (5 already-done)"):
        done = subprocess.run(
            deploy, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
        )
        assert expected in done.stdout, done.stderr
