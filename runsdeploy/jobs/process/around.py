"""Commands around an act: the copies of a run, or a restore. Both have the same three lists, with the same meaning.

- `before`: in order, up to the first that fails; then the act has failed.
- `after`: the same, when the act is done; it counts as done only when all of them have passed.
- `always`: all of them, when the act is over, also after a failure; e.g. to start what `before` has stopped.
"""

from typing import Callable, List, NamedTuple, Sequence, Tuple

from .process import Command

WHEN = ("before", "after", "always")


class Around(NamedTuple):
    """The commands around an act."""

    before: Tuple[Command, ...] = ()
    after: Tuple[Command, ...] = ()
    always: Tuple[Command, ...] = ()


Perform = Callable[[Command, bool], str]
"""runs one command, which may be stopped from outside or not; returns how it failed, empty if it passed"""


def first_failure(commands: Sequence[Command], perform: Perform) -> str:
    """Run commands up to the first that fails; return how it failed and which were not run, empty if all passed."""
    for count, command in enumerate(commands, 1):
        problem = perform(command, True)  # noqa: FBT003
        if problem:
            return problem + not_run(commands[count:])
    return ""


def failures(commands: Sequence[Command], perform: Perform) -> List[str]:
    """Run all commands, also after one has failed; return how they failed."""
    return [problem for problem in [perform(command, False) for command in commands] if problem]  # noqa: FBT003


def not_run(commands: Sequence[Command]) -> str:
    """Return the end of a message: which commands were not run."""
    return f"; not run: {', '.join(f'`{shown(command)}`' for command in commands)}" if commands else ""


def shown(command: Command) -> str:
    """Return a command as text, for messages."""
    return " ".join(command.argv)
