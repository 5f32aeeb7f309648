"""A stand-in for the job runner: what `cron.*` needs of one, and answers that tell how it was started."""

from __future__ import annotations

import shutil
from pathlib import Path

from tests.trees import plant

MAIN = r"""
import json, os, pwd, sys

from jobs.settings import document
from jobs.errors import BadInput


def entry():
    words = sys.argv[1:]
    options = {}
    while words and words[0] in ("--settings", "--catalogue", "--format"):
        options[words[0]] = words[1]
        words = words[2:]
    command, words = words[0], words[1:]
    beside = os.path.join(os.path.dirname(os.path.abspath(sys.argv[0])), "settings", "settings.json")
    path = options.get("--settings", beside)
    problems, settings = [], {}
    for each in filter(None, (path, options.get("--catalogue"))):
        try:
            document.read(each)
            with open(each, encoding="utf-8-sig") as file:
                found = json.load(file)
            settings = settings or found
        except BadInput as error:
            problems += [dict(problem._asdict()) for problem in error.problems]
    if "bad" in settings:
        facts = {"file": path, "line": 3, "column": 5, "key": "bad", "hint": "take it away"}
        problems.append(dict(facts, message="found %s" % settings["bad"]))
    warnings = settings.get("warnings", [])
    if command == "check" and options.get("--format") == "json":
        sys.stdout.write(json.dumps({"problems": problems, "warnings": warnings}))
    for each in problems:
        sys.stderr.write("%(file)s:%(line)s:%(column)s: `%(key)s`: %(message)s\n  %(hint)s\n" % each)
    if problems:
        return 2
    for warning in warnings if options.get("--format") != "json" else ():
        sys.stderr.write("warning: %s\n" % warning)
    if command == "jobs":
        sys.stdout.buffer.write(bytes(range(256)))
    elif command != "check":
        who = pwd.getpwuid(os.getuid()).pw_name
        names = sorted(name for name in os.environ if name not in ("_", "LC_CTYPE"))
        told = [command, words, options.get("--format", "text"), who, os.getcwd(), os.environ["HOME"], names]
        sys.stdout.write(json.dumps(told + [sys.flags.isolated]) + "\n")
    return settings.get("statuses", {}).get(command, 0)
"""


def package_with_stand_in(place: Path, version: str = "1") -> Path:
    """Return a directory for PYTHONPATH in which runsdeploy has the stand-in for a job runner."""
    real = Path(__file__).parents[1] / "runsdeploy"
    package = place / "runsdeploy"
    package.mkdir(parents=True)
    for each in real.iterdir():
        if each.name not in ("jobs", "__pycache__"):
            (package / each.name).symlink_to(each)
    jobs = {"__init__.py": f'"""Version {version}."""\n', "main.py": MAIN, "catalogue.json": "{}\n"}
    plant(package / "jobs", jobs)
    for room in ("settings", "disk"):
        (package / "jobs" / room).mkdir()
    names = ("settings/__init__.py", "settings/document.py", "disk/__init__.py", "disk/trust.py")
    for name in ("__main__.py", "errors.py", *names):
        shutil.copy(real / "jobs" / name, package / "jobs" / name)
    return place
