"""The wheel that would be published: built, installed apart, and deployed with."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_the_built_wheel_deploys_by_itself(tmp_path):
    """Package data is what gets forgotten: every bash file must be in it."""
    source = tmp_path / "source"
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True).stdout
    for name in os.fsdecode(listed).split("\0"):
        if name.startswith(("runsdeploy/", "pyproject.toml", "README.md", "LICENSE")):
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes((ROOT / name).read_bytes())
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", tmp_path / "dist", source]
    subprocess.run(build, check=True, capture_output=True, timeout=100)
    (wheel,) = (tmp_path / "dist").glob("*.whl")
    inside = set(zipfile.ZipFile(wheel).namelist())
    shell = {str(path.relative_to(ROOT)) for path in (ROOT / "runsdeploy/shell").rglob("*.sh")}
    assert shell <= inside
    assert "runsdeploy/py.typed" in inside

    place = tmp_path / "installed"
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", place, wheel]
    subprocess.run(install, check=True, capture_output=True, timeout=100)
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
    deploy = [sys.executable, "-m", "runsdeploy", "deploy", "--local", "--host", "medusa.univ.run", "--path", ROOT]
    for expected in ("ok (5 ok)", "ok (5 already-done)"):
        done = subprocess.run(
            deploy, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
        )
        assert expected in done.stdout, done.stderr
