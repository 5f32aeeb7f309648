"""The job runner as one file (S18)."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import zipfile
from importlib import metadata
from pathlib import Path

import pytest

from runsdeploy.commands.cron.zipapp import FIRST_LINE, JOBS, build
from runsdeploy.errors import InputError

MODULES = {
    "__main__.py": (JOBS / "__main__.py").read_text(),
    "__init__.py": "",
    "main.py": "import sys\nfrom .zebra import WORD\ndef entry():\n    print(WORD, sys.argv[1:])\n    return 7\n",
    "zebra.py": 'WORD = "stripes"\n',
    "catalogue.json": "{}\n",
}
PYENV = Path(os.environ.get("PYENV_ROOT") or "~/.pyenv").expanduser()
OLDEST = sorted(PYENV.glob("versions/3.6.*/bin/python"))


def package(place: Path, files: dict[str, str] | None = None) -> Path:
    place.mkdir(parents=True)
    for name, text in (files or MODULES).items():
        (place / name).write_text(text)
    return place


def test_it_starts_what_the_package_calls_its_entry(tmp_path: Path):
    program = tmp_path / "job runner.pyz"
    program.write_bytes(build(package(tmp_path / "jobs")))
    done = subprocess.run(
        [sys.executable, "-I", program, "run", "-x"], capture_output=True, text=True, check=False, cwd="/"
    )
    assert (done.returncode, done.stdout, done.stderr) == (7, "stripes ['run', '-x']\n", "")
    program.chmod(0o755)
    assert subprocess.run([program], capture_output=True, check=False).returncode == 7


def test_S18_the_same_modules_make_the_same_bytes(tmp_path: Path):
    first = package(tmp_path / "one")
    second = package(tmp_path / "two", dict(reversed(MODULES.items())))
    for number, path in enumerate(second.iterdir()):
        os.utime(path, (number * 10**8, number * 10**8))
        path.chmod(0o600)
    (second / "__pycache__").mkdir()
    (second / "__pycache__/main.cpython-311.pyc").write_bytes(b"x")
    for leftover in (".#main.py", "main.py~", "notes.txt"):
        (second / leftover).write_text("x")
    assert build(first) == build(second)
    (second / "zebra.py").write_text('WORD = "spots"\n')
    assert build(first) != build(second)


def test_the_members_are_sorted_undated_and_stored(tmp_path: Path):
    program = tmp_path / "x.pyz"
    program.write_bytes(build(package(tmp_path / "jobs")))
    assert program.read_bytes().startswith(FIRST_LINE)
    members = zipfile.ZipFile(program).infolist()
    names = ["__main__.py", "jobs/__init__.py", "jobs/catalogue.json", "jobs/main.py", "jobs/zebra.py"]
    assert [member.filename for member in members] == names
    assert {(member.date_time, member.compress_type, member.external_attr >> 16) for member in members} == {
        ((1980, 1, 1, 0, 0, 0), zipfile.ZIP_STORED, 0o100644)
    }


@pytest.mark.parametrize("missing", ["main.py", "__main__.py"])
def test_a_package_without_a_job_runner_is_said_to_have_none(tmp_path: Path, missing: str):
    (package(tmp_path / "jobs") / missing).unlink()
    with pytest.raises(InputError, match="no job runner in this installation"):
        build(tmp_path / "jobs")


@pytest.mark.skipif(not OLDEST, reason="needs a Python 3.6")
def test_it_starts_on_the_oldest_python(tmp_path: Path):
    program = tmp_path / "x.pyz"
    program.write_bytes(build(package(tmp_path / "jobs")))
    done = subprocess.run([OLDEST[0], "-I", program], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (7, "stripes []\n")


def test_all_modules_of_the_job_runner_are_in_it():
    if not (JOBS / "main.py").exists():
        pytest.skip("there is no job runner yet")
    program = build()
    for path in JOBS.rglob("*.py"):
        assert path.read_bytes() in program


def test_the_job_runner_has_the_version_of_what_ships_it():
    version = re.search(r'^VERSION = "(.+)"$', (JOBS / "__init__.py").read_text(), re.MULTILINE)
    assert version
    assert version[1] == metadata.version("runsdeploy")
