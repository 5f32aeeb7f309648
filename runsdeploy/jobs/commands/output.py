"""Output of the commands: results to standard output, notes to standard error, independent of the locale."""

import json
import sys
from typing import Any, Iterable, Optional, TextIO


def write(text: str, stream: Optional[TextIO]) -> None:
    """Write text as UTF-8; nothing if the stream is closed."""
    if stream is None:
        return
    stream.flush()
    stream.buffer.write(text.encode("utf-8", "backslashreplace"))
    stream.buffer.flush()


def print_lines(lines: Iterable[str]) -> None:
    """Write lines to standard output."""
    write("".join(f"{line}\n" for line in lines), sys.stdout)


def wants_json(arguments: Any) -> bool:
    """Return whether the result is JSON; notes go to standard error then."""
    return bool(getattr(arguments, "format", "text") == "json")


def print_notes(arguments: Any, lines: Iterable[str]) -> None:
    """Write notes to standard output, or to standard error if the result is JSON."""
    write("".join(f"{line}\n" for line in lines), sys.stderr if wants_json(arguments) else sys.stdout)


def print_result(arguments: Any, lines: Iterable[str], **facts: Any) -> None:
    """Write a result to standard output: as lines, or as a JSON document with the facts."""
    if wants_json(arguments):
        print_json(**facts)
    else:
        print_lines(lines)


def print_json(**facts: Any) -> None:
    """Write a JSON document to standard output."""
    write(json.dumps({"schema": 1, **facts}, sort_keys=True) + "\n", sys.stdout)
