"""The files that a command names: what it will execute, or read as code."""

import os
import re
import shutil
from typing import Iterator, List

from ..disk import trust
from ..errors import Problem
from ..process.process import Command

_CODE = frozenset(
    {
        *("BASH_ENV", "CLASSPATH", "ENV", "LD_AUDIT", "LD_LIBRARY_PATH", "LD_PRELOAD", "NODE_PATH", "PATH", "PERL5LIB"),
        *("PERLLIB", "PYTHONHOME", "PYTHONPATH", "PYTHONSTARTUP", "RUBYLIB"),
    }
)
"""variables that make programs load code"""
_WORD = re.compile(r"[^\s;|&()<>\"'`=$]+")
"""a word of a shell command, roughly: too many words do no harm, as only those count that name a file"""
_SERVER = re.compile(r"(^|[\s\"'=])(-h\s*|--host[\s=]|host\s*=\s*)$")
"""what stands before the place of a server: `-h DIRECTORY`, as of PostgreSQL's programs, or `host=DIRECTORY`"""
HINT = "if a job only reads it as data, pass it in `environment`"


def problems(command: Command, data: str, path: str) -> List[Problem]:
    """Return why a command must not run: another account could have written what it executes.

    `data` is a file that may belong to anybody, the database snapshot; `path` the usual PATH, which is not looked at.
    """
    found: List[Problem] = []
    for place in _loaded(command, path):
        found += trust.problems(place, shared=False)
    for place in _files(command):
        if place != data:
            found += [each._replace(hint=f"{each.hint}, or {HINT}") for each in trust.problems(place)]
    return found


def _loaded(command: Command, path: str) -> Iterator[str]:
    """Yield the working directory, and the directories and files of variables that make programs load code."""
    yield command.directory
    for name, value in command.environment.items():
        if name in _CODE and value != path:
            yield from (os.path.join(command.directory, part) for part in value.split(":") if part)


def _files(command: Command) -> Iterator[str]:
    """Yield the paths that the words of a command may be; others could make one that is missing."""
    words = {word for argument in command.argv[1:] for word in _words(argument)}
    # The argument behind an option for a server is where that listens.
    words -= {after for before, after in zip(command.argv[1:], command.argv[2:]) if before in ("-h", "--host")}
    # Programs are searched for, in a command line of a shell too.
    for word in (command.argv[0], *words):
        if "/" in word:
            yield os.path.join(command.directory, word)
        else:
            yield shutil.which(word, path=command.environment["PATH"]) or "/"
            yield os.path.join(command.directory, word)


def _words(argument: str) -> Iterator[str]:
    """Yield an argument, the words in it, and of each the path directly behind the letter of an option."""
    yield argument
    for found in _WORD.finditer(argument):
        # The directory of a socket belongs to its server, and nothing in it is executed.
        if not _SERVER.search(argument[: found.start()]):
            yield found[0]
    for word in (argument, *_WORD.findall(argument)):
        slash = word.find("/")
        if slash > 0 and not _SERVER.search(word[:slash]):
            yield word[slash:]
