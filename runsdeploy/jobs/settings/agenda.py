"""Agendas: what one run will do; made from settings and catalogue before anything is changed."""

import os
import pwd
import shutil
from typing import Dict, List, NamedTuple, Tuple

from ..disk import trust
from ..errors import BadInput, Problem
from ..process.around import WHEN, Around
from ..process.process import Command
from ..staging.scan import Wanted
from . import named
from .catalogue import ACTS, TIMEOUT, Catalogue, select
from .job import File, Job, Secret, Text, Unset, expand
from .settings import Settings

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_DUMP = ("pg_dump", "--clean", "--if-exists", "--no-password")
_LOAD = ("psql", "--no-psqlrc", "--no-password", "--quiet", "--set=ON_ERROR_STOP=1", "--single-transaction")
"""how `SNAPSHOT_DATABASE` is dumped to `SNAPSHOT_LORA` and loaded from it: the tables in it are replaced, or none"""


class Task(NamedTuple):
    """A job with settings inserted."""

    job: Job
    command: Command
    secrets: Dict[str, str]
    """variables whose values are read when the job starts, and the files that hold them"""


class Agenda(NamedTuple):
    """What a run will do."""

    tasks: Tuple[Task, ...]
    before: Tuple[Wanted, ...]
    """files to back up before the jobs"""
    after: Tuple[Wanted, ...]
    """files to back up after the jobs"""
    copies: Around
    """commands around the copies of the files in `before`"""
    restore: Around
    install: str
    """directory of the programs of the jobs"""
    warnings: Tuple[str, ...]


def make_agenda(settings: Settings, catalogue: Catalogue, program: str, name: str = "", *, here: bool = True) -> Agenda:
    """Return the agenda: the enabled jobs, or the job or stage of that name, enabled or not; raises BadInput.

    `program` is the path of the runner; its directory is the default of `INSTALL_DIR`. `here`: the files that commands
    name are those of this machine, so another account must not be able to write them; else the settings are those of
    another machine.
    """
    if name:
        jobs = select(catalogue.jobs, name)
    else:
        jobs = tuple(job for job in catalogue.jobs if job.enabled_by in settings.enabled)
    return _Expander(settings, program, here=here).agenda(jobs, catalogue)


class _Expander:
    """Inserts settings into texts, and collects problems."""

    def __init__(self, settings: Settings, program: str, *, here: bool) -> None:
        self.settings, self.here = settings, here
        install = settings.values["INSTALL_DIR"] or os.path.dirname(os.path.abspath(program))
        venv = settings.values["VENV"] or os.path.join(install, "venv")
        defaults = {f"crontab.{key}": value for key, value in settings.values.items()}
        own = {"install": install, "venv": venv, "settings": os.path.abspath(settings.path)}
        self.names = {**defaults, **settings.others, **own}
        self.problems: List[Problem] = []
        self.warnings: List[str] = []

    def agenda(self, jobs: Tuple[Job, ...], catalogue: Catalogue) -> Agenda:
        """Return the agenda; raises BadInput."""
        before, after = self._own_files(catalogue.path)
        before += self._files(catalogue.before, "the catalogue")
        after += self._files(catalogue.after, "the catalogue")
        after += self._files(catalogue.truncate, "the catalogue", truncate=True)
        tasks = []
        for job in jobs:
            tasks.append(Task(job, self._command(job), self._secrets(job)))
            why = f"job `{job.name}`"
            before += self._files(job.before, why)
            after += self._files(job.after, why)
            after += self._files(job.truncate, why, truncate=True)
        copies, restore = (self._around(catalogue, act) for act in ACTS)
        if self.problems:
            raise BadInput(self.problems)
        files = (_merge_paths(before), _merge_paths(after))
        return Agenda(tuple(tasks), *files, copies, restore, self.names["install"], tuple(self.warnings))

    def _own_files(self, catalogue: str) -> Tuple[List[Wanted], List[Wanted]]:
        """Return the files of every backup: settings, catalogue and snapshot before the jobs, the log after them."""
        settings = self.settings
        before = [Wanted(os.path.abspath(settings.path), required=True, truncate=False, why="the settings")]
        if catalogue:
            before.append(Wanted(os.path.abspath(catalogue), required=True, truncate=False, why="the catalogue"))
        if settings.values["SNAPSHOT_LORA"]:
            before.append(Wanted(settings.values["SNAPSHOT_LORA"], True, False, "`crontab.SNAPSHOT_LORA`"))  # noqa: FBT003
        after = []
        if settings.values["CRON_LOG_FILE"]:
            after.append(Wanted(settings.values["CRON_LOG_FILE"], False, False, "`crontab.CRON_LOG_FILE`"))  # noqa: FBT003
        return before, after

    def _text(self, text: Text, why: str) -> str:
        try:
            found = expand(text.text, self.names)
        except Unset as unset:
            name = str(unset)
            line, column = self.settings.place(name)
            where = (self.settings.path, line, column) if line else (text.file, text.line, text.column)
            self.problems.append(Problem(*where, "", f"setting `{name}` is not set, and {why} needs it"))
            return ""
        if "\0" in found:
            self.problems.append(Problem(text.file, text.line, text.column, "", f"{why} would get a zero byte"))
        return found

    def _files(self, files: Tuple[File, ...], why: str, *, truncate: bool = False) -> List[Wanted]:
        wanted = []
        for file in files:
            try:
                path = expand(file.path.text, self.names)
            except Unset:
                # A system without this setting has no such file either.
                if file.required:
                    self._text(file.path, why)
                continue
            if path.startswith("/") and "\0" not in path:
                self._doubt(path, why, truncate=truncate)
                wanted.append(Wanted(os.path.normpath(path), file.required, truncate, why))
            else:
                message = f"{why} names the file `{path}`, expected an absolute path"
                self.problems.append(Problem(file.path.file, file.path.line, file.path.column, "", message))
        return wanted

    def _doubt(self, path: str, why: str, *, truncate: bool) -> None:
        """Add warnings of a file to back up that is probably not what was meant."""
        if not self.here:
            return
        if set(path) & set("*?[") and not os.path.lexists(path):
            self.warnings.append(f"{why} names `{path}`, and there is no such file: `*`, `?`, `[` are literal")
        found = trust.replaceable(path) if truncate else []
        if found:
            self.warnings.append(f"{why} names `{path}`, which will not be emptied: {trust.describe(found)}")

    def _command(self, job: Job) -> Command:
        why = f"job `{job.name}`"
        for required in job.requires:
            if self.names.get(required.text) in (None, ""):
                self._text(required._replace(text=f"{{{required.text}}}"), why)
        words = () if job.shell else tuple(self._text(word, why) for word in job.command)
        argv = words or ("/bin/sh", "-c", job.command[0].text)
        environment = dict(account_environment())
        for name, text in job.environment.items():
            if isinstance(text, Secret):
                continue
            try:
                environment[name] = expand(text.text, self.names)
            except Unset:
                # Leave it out: programs distinguish an unset variable from an empty one.
                continue
        environment["RUNSDEPLOY_SETTINGS"] = self.names["settings"]
        argv = _with_compose(argv, environment["PATH"])
        return self._vouched(Command(argv, self._text(job.directory, why), environment, job.timeout, job.daemon), why)

    def _vouched(self, command: Command, why: str) -> Command:
        """Return a command, and add the problems of the files that it names: each problem once."""
        known = {each.file for each in self.problems}
        if not self.here:
            return command
        for each in named.problems(command, self.settings.values["SNAPSHOT_LORA"], PATH):
            if each.file not in known:
                self.problems.append(each._replace(message=f"{each.message}, as {why} uses it"))
        return command

    def _secrets(self, job: Job) -> Dict[str, str]:
        given = {name: value for name, value in job.environment.items() if isinstance(value, Secret)}
        files = {name: self._text(secret.file, f"job `{job.name}`") for name, secret in given.items()}
        for name, path in files.items():
            if path and not path.startswith("/"):
                at = given[name].file
                message = f"job `{job.name}` names the secret `{path}`, expected an absolute path"
                self.problems.append(Problem(at.file, at.line, at.column, "", message))
        return files

    def _around(self, catalogue: Catalogue, act: str) -> Around:
        """Return the commands around an act: those for the database come first, then those of the catalogue."""
        own = [
            [tuple(self._text(word, f"a command of `{act}.{when}`") for word in words) for words in commands]
            for when, commands in ((when, catalogue.around[f"{act}.{when}"]) for when in WHEN)
        ]
        dump, database = self.settings.values["SNAPSHOT_LORA"], self.settings.values["SNAPSHOT_DATABASE"]
        if database and act == "copies":
            own[0].insert(0, (*_DUMP, f"--file={dump}", f"--dbname={database}"))
        elif database:
            own[1].insert(0, (*_LOAD, f"--file={dump}", f"--dbname={database}"))
        environment = {**account_environment(), "RUNSDEPLOY_SETTINGS": self.names["settings"]}
        made = ([Command(argv, "/", environment, TIMEOUT, daemon=False) for argv in each] for each in own)
        return Around(
            *(tuple(self._vouched(each, f"a command around `{act}`") for each in commands) for commands in made)
        )


def account_environment() -> Dict[str, str]:
    """Return the base environment of jobs (J21); nothing is inherited from the runner."""
    environment = {"PATH": PATH, "LANG": "C.UTF-8", "LC_ALL": "C.UTF-8", "SHELL": "/bin/sh"}
    try:
        entry = pwd.getpwuid(os.geteuid())
    except KeyError:
        return {**environment, "HOME": "/"}
    return {**environment, "HOME": entry.pw_dir, "USER": entry.pw_name, "LOGNAME": entry.pw_name}


def _with_compose(argv: Tuple[str, ...], path: str) -> Tuple[str, ...]:
    """Return a command; `docker-compose`, which current hosts no longer have, becomes `docker compose`."""
    if argv[0] != "docker-compose" or shutil.which(argv[0], path=path) or not shutil.which("docker", path=path):
        return argv
    return ("docker", "compose", *argv[1:])


def _merge_paths(wanted: List[Wanted]) -> Tuple[Wanted, ...]:
    """Merge entries of the same path; required and truncate hold if any entry has them."""
    found: Dict[str, Wanted] = {}
    for each in wanted:
        former = found.get(each.path)
        if former:
            each = Wanted(each.path, former.required or each.required, former.truncate or each.truncate, former.why)  # noqa: PLW2901
        found[each.path] = each
    return tuple(found.values())
