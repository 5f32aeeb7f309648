"""Agendas: what one run will do; made from settings and catalogue before anything is changed."""

import os
import pwd
import shutil
from contextlib import suppress
from typing import Dict, List, NamedTuple, Tuple, Union

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
        settings = self.settings
        # Of every backup: settings, catalogue and snapshot before the jobs, the log after them.
        before = [Wanted(os.path.abspath(settings.path), required=True, truncate=False, why="the settings")]
        if catalogue.path:
            before.append(before[0]._replace(path=os.path.abspath(catalogue.path), why="the catalogue"))
        if settings.values["SNAPSHOT_LORA"]:
            before.append(before[0]._replace(path=settings.values["SNAPSHOT_LORA"], why="`crontab.SNAPSHOT_LORA`"))
        log = settings.values["CRON_LOG_FILE"]
        after = [Wanted(log, required=False, truncate=False, why="`crontab.CRON_LOG_FILE`")] if log else []
        tasks = tuple(Task(job, self._command(job), self._secrets(job)) for job in jobs)
        sources: List[Tuple[str, Union[Catalogue, Job]]] = [("the catalogue", catalogue)]
        sources += [(f"job `{job.name}`", job) for job in jobs]
        for why, source in sources:
            before += self._files(source.before, why)
            after += self._files(source.after, why)
            after += self._files(source.truncate, why, truncate=True)
        copies, restore = (self._around(catalogue, act) for act in ACTS)
        if self.problems:
            raise BadInput(self.problems)
        files = (_merge_paths(before), _merge_paths(after))
        return Agenda(tasks, *files, copies, restore, self.names["install"], tuple(self.warnings))

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
            # Without its setting it is left out: programs distinguish an unset variable from an empty one.
            with suppress(Unset):
                if isinstance(text, Text):
                    environment[name] = expand(text.text, self.names)
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
        files = {}
        for name, value in job.environment.items():
            if isinstance(value, Secret):
                at = value.file
                path = files[name] = self._text(at, f"job `{job.name}`")
                if path and not path.startswith("/"):
                    message = f"job `{job.name}` names the secret `{path}`, expected an absolute path"
                    self.problems.append(Problem(at.file, at.line, at.column, "", message))
        return files

    def _around(self, catalogue: Catalogue, act: str) -> Around:
        """Return the commands around an act: those for the database come first, then those of the catalogue."""
        values, found = self.settings.values, []
        for when in WHEN:
            why = f"a command of `{act}.{when}`"
            own = [tuple(self._text(word, why) for word in words) for words in catalogue.around[f"{act}.{when}"]]
            program = {"copies.before": _DUMP, "restore.after": _LOAD}.get(f"{act}.{when}")
            if program and values["SNAPSHOT_DATABASE"]:
                names = (f"--file={values['SNAPSHOT_LORA']}", f"--dbname={values['SNAPSHOT_DATABASE']}")
                own.insert(0, (*program, *names))
            environment = {**account_environment(), "RUNSDEPLOY_SETTINGS": self.names["settings"]}
            commands = [Command(argv, "/", environment, TIMEOUT, daemon=False) for argv in own]
            found.append(tuple(self._vouched(each, f"a command around `{act}`") for each in commands))
        return Around(*found)


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
        first = found.setdefault(each.path, each)
        required, truncate = first.required or each.required, first.truncate or each.truncate
        found[each.path] = first._replace(required=required, truncate=truncate)
    return tuple(found.values())
