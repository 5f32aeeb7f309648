"""Trees written from dicts of files, and the operator who deploys them: the program in a process of its own."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

PATIENCE = 90
"""seconds after which a command is taken for hung"""


@dataclass(frozen=True)
class Link:
    """A symbolic link."""

    target: str


@dataclass(frozen=True)
class Executable:
    """A file with its x bit."""

    content: str | bytes


Content = str | bytes | Link | Executable | None


def plant(root: Path, files: Mapping[str | bytes, Content]) -> Path:
    """Write files below a directory, and return it; None makes a directory."""
    root.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        path = root / os.fsdecode(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        match content:
            case None:
                path.mkdir(exist_ok=True)
            case Link(target):
                path.symlink_to(target)
            case Executable(inner):
                path.write_bytes(_bytes(inner))
                path.chmod(0o755)
            case _:
                path.write_bytes(_bytes(content))
    return root


def remove(directory: Path) -> None:
    """Remove a directory in which the last session may still be putting its things away."""
    deadline = time.monotonic() + PATIENCE
    while directory.exists():
        assert time.monotonic() < deadline, f"{directory} is still written to"
        shutil.rmtree(directory, ignore_errors=True)


def script(conf: str = "", body: str = ":") -> str:
    """Return a script of two sections."""
    return "".join(f"{text}\n" if text and not text.endswith("\n") else text for text in (conf, "script:", body))


def contents(root: Path) -> dict[bytes, tuple[str, str, bytes]]:
    """Return what is below a directory: kind, `x` or `-`, and bytes, by path."""
    top = os.fsencode(root)
    found = {}
    for folder, folders, files in os.walk(top):
        for name in (*folders, *files):
            path = os.path.join(folder, name)  # noqa: PTH118 - bytes
            found[path[len(top) + 1 :]] = _looked_at(Path(os.fsdecode(path)))
    return found


def _looked_at(path: Path) -> tuple[str, str, bytes]:
    if path.is_symlink():
        return "link", "-", os.fsencode(path.readlink())
    if path.is_dir():
        return "directory", "-", b""
    return "file", "x" if path.stat().st_mode & 0o111 else "-", path.read_bytes()


def _bytes(text: str | bytes) -> bytes:
    return text.encode("utf-8", "surrogateescape") if isinstance(text, str) else text


@dataclass(frozen=True)
class Finished:
    """How a command ended."""

    status: int
    out: bytes
    talk: str
    """what it wrote to stderr"""

    @property
    def text(self) -> str:
        """Return its stdout as text."""
        return self.out.decode()

    @property
    def document(self) -> dict[str, Any]:
        """Return the JSON of its last line."""
        document: dict[str, Any] = json.loads(self.out.splitlines()[-1])
        return document

    @property
    def events(self) -> list[dict[str, Any]]:
        """Return all events of `--format jsonl`, without the document at the end."""
        return [json.loads(line) for line in self.out.splitlines()[:-1]]

    @property
    def output(self) -> str:
        """Return what the steps wrote, as `--format jsonl` prints it."""
        return "".join(event["text"] for event in self.events if event["event"] == "output")

    @property
    def steps(self) -> list[dict[str, Any]]:
        """Return the steps of the first host."""
        steps: list[dict[str, Any]] = self.document["hosts"][0]["steps"]
        return steps

    @property
    def outcomes(self) -> list[tuple[str, str]]:
        """Return script and outcome of each step of the first host."""
        return [(step["script"], step["outcome"]) for step in self.steps]

    @property
    def hosts(self) -> dict[str, str]:
        """Return the outcome of each host."""
        return {host["host"]: host["outcome"] for host in self.document["hosts"]}


@dataclass
class Operator:
    """Somebody who types commands; everything he owns lies in one directory."""

    directory: Path
    ssh_config: Path | None = None
    environment: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for each in (self.home, self.temporary):
            each.mkdir(parents=True, exist_ok=True)

    @property
    def home(self) -> Path:
        """HOME of the commands."""
        return self.directory / "home"

    @property
    def state(self) -> Path:
        """Where the state of local steps lies."""
        return self.directory / "state"

    @property
    def temporary(self) -> Path:
        """TMPDIR of the commands."""
        return self.directory / "tmp"

    def settings(self) -> dict[str, str]:
        """Return the environment of the commands: nothing of the developer's own."""
        # Not by iterating: pytest changes the environment meanwhile, and some tests ask in threads.
        kept = {name: os.environ[name] for name in ("PATH", "LANG", "LC_ALL") if name in os.environ}
        return {
            **kept,
            "HOME": str(self.home),
            "XDG_STATE_HOME": str(self.home / "xdg-state"),
            "RUNSDEPLOY_STATE_DIR": str(self.state),
            "TMPDIR": str(self.temporary),
            # What a sysinfos.conf of a test says need not be so where it runs; test_sysinfos.py sees to promises.
            "RUNSDEPLOY_NO_VERIFY_SYSINFOS": "1",
            "PYTHONPATH": str(Path(__file__).parents[1]),
            **self.environment,
        }

    def alter(self, module: str, **constants: float) -> None:
        """Give the program other limits than those that it has no flag for."""
        lines = [f"import runsdeploy.{module} as altered", *(f"altered.{name} = {n}" for name, n in constants.items())]
        place = plant(self.directory / "altered", {"sitecustomize.py": "\n".join(lines)})
        self.environment["PYTHONPATH"] = f"{place}:{self.settings()['PYTHONPATH']}"

    def start(self, *arguments: str | bytes | Path, cwd: Path | None = None) -> subprocess.Popen[bytes]:
        """Start the program, stdout and stderr piped."""
        return subprocess.Popen(
            [sys.executable, "-m", "runsdeploy", *arguments],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            cwd=cwd or self.directory, env=self.settings(), start_new_session=True,
        )  # fmt: skip

    def run(self, *arguments: str | bytes | Path, cwd: Path | None = None) -> Finished:
        """Run the program to its end."""
        with self.start(*arguments, cwd=cwd) as process:
            return wait(process)

    def deploy(self, tree: Path, *more: str | bytes | Path, host: str = "medusa.univ.run") -> Finished:
        """Deploy a tree, machine-readable."""
        return self.run(*self.deploy_arguments(tree, *more, host=host))

    def deploy_arguments(
        self, tree: Path | str, *more: str | bytes | Path, host: str = "medusa.univ.run", form: str = "jsonl"
    ) -> list[str | bytes | Path]:
        """Return the words of a deploy."""
        way = ["--ssh-config", self.ssh_config] if self.ssh_config else ["--local"]
        return ["deploy", "--path", str(tree), "--host", host, "--format", form, *way, *more]


def wait(process: subprocess.Popen[bytes]) -> Finished:
    """Wait for the end of a command; one that hangs is killed, and the test fails."""
    try:
        out, talk = process.communicate(timeout=PATIENCE)
    except subprocess.TimeoutExpired:
        process.kill()
        raise
    return Finished(process.returncode, out, talk.decode("utf-8", "backslashreplace"))


def wait_until(condition: Callable[[], object]) -> None:
    """Wait for something that another process is about to do."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, "it never came true"
        time.sleep(0.005)
