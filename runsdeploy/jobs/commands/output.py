"""What the commands write: results to standard output, talk to standard error, whatever the locale."""

import json
import sys
from typing import Any, Iterable, Optional, TextIO


def write(text: str, stream: Optional[TextIO]) -> None:
    """Write whatever the locale, or nowhere if nobody listens."""
    if stream is None:
        return
    stream.flush()
    stream.buffer.write(text.encode("utf-8", "backslashreplace"))
    stream.buffer.flush()


def say(lines: Iterable[str]) -> None:
    """Write lines to standard output."""
    write("".join(f"{line}\n" for line in lines), sys.stdout)


def as_json(given: Any) -> bool:
    """Say whether the result is to be JSON; talk goes to standard error then."""
    return bool(getattr(given, "format", "text") == "json")


def talk(given: Any, lines: Iterable[str]) -> None:
    """Write lines that are no result if the result is JSON."""
    write("".join(f"{line}\n" for line in lines), sys.stderr if as_json(given) else sys.stdout)


def document(**facts: Any) -> None:
    """Write a JSON document to standard output."""
    write(json.dumps({"schema": 1, **facts}, sort_keys=True) + "\n", sys.stdout)
