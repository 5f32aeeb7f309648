"""The wheel that would be published: built, installed apart, and deployed with."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import zipfile
from email import message_from_bytes
from importlib.metadata import version
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def assert_metadata(wheel):
    """What an index shows, and what pip and pipx go by (O13)."""
    folder = f"runsdeploy-{version('runsdeploy')}.dist-info"
    metadata = message_from_bytes(wheel.read(f"{folder}/METADATA"))
    assert (metadata["License-Expression"], metadata["License-File"]) == ("MIT", "LICENSE")
    assert b"MIT License" in wheel.read(f"{folder}/licenses/LICENSE")
    assert (metadata["Requires-Python"], metadata["Description-Content-Type"]) == (">=3.10", "text/markdown")
    assert "# runsdeploy" in metadata.get_payload()
    classifiers = metadata.get_all("Classifier")
    assert "Programming Language :: Python :: 3.10" in classifiers
    # With a licence expression an index refuses those of licences.
    assert not [each for each in classifiers if each.startswith("License ::")]
    assert b"runsdeploy = runsdeploy.cli.main:entry" in wheel.read(f"{folder}/entry_points.txt")


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
    for name in filter(None, os.fsdecode(listed).split("\0")):
        if (ROOT / name).is_file():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes((ROOT / name).read_bytes())
    # The wheel is built from the source archive: what that lacks, the wheel lacks too.
    build = [sys.executable, "-m", "build", "--no-isolation", "--outdir", tmp_path / "dist", source]
    subprocess.run(build, check=True, capture_output=True, timeout=300)
    (archive,) = (tmp_path / "dist").glob("*.tar.gz")
    with tarfile.open(archive) as opened:
        packed = {name.partition("/")[2] for name in opened.getnames()}
    assert {"LICENSE", "README.md", "CHANGELOG.md", "docs/how-to.md", "man/runsdeploy.1", "pyproject.toml",
            "contrib/vim/syntax/runs.vim", "contrib/vscode/package.json"} <= packed  # fmt: skip
    assert not [name for name in packed if name.startswith(("tests", "bench", "hosts", "scripts", ".venv"))]
    (wheel,) = (tmp_path / "dist").glob("*.whl")
    inside = set(zipfile.ZipFile(wheel).namelist())
    assert {name.partition("/")[0] for name in inside if ".dist-info/" not in name and ".data/" not in name} == {
        "runsdeploy"
    }
    assert_metadata(zipfile.ZipFile(wheel))
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
    for shell in ("bash", "zsh", "fish"):
        complete = [sys.executable, "-m", "runsdeploy", "completion", shell]
        done = subprocess.run(complete, env=environment, cwd=tmp_path, capture_output=True, check=True, timeout=60)
        assert b"runsdeploy" in done.stdout
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
