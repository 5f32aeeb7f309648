"""Templates of `ref -t`, rendered on the controller. The sole importer of jinja2."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import jinja2
import jinja2.meta

from runsdeploy.errors import Position, Problem, did_you_mean, display_path
from runsdeploy.plan.variable import Variable
from runsdeploy.tree.text import read_text


def render(path: Path, variables: Sequence[Variable], host: str) -> bytes | Problem:
    """Render a template with a step's variables (arrays are lists), and `host`, which is `RUNS_HOST` too.

    An undefined name is a problem.
    """
    names: dict[str, object] = {"host": host, "RUNS_HOST": host}
    for variable in variables:
        values = [value.literal for value in variable.values]
        texts = [literal.decode("utf-8", "surrogateescape") for literal in values if literal is not None]
        # A path on the target is unknown here. Without the variable, using it is an error instead of a wrong path.
        if len(texts) == len(values):
            names[variable.name] = texts if variable.array else texts[0]
    environment = jinja2.Environment(  # noqa: S701 - configuration files, not HTML
        undefined=jinja2.StrictUndefined, keep_trailing_newline=True
    )
    try:
        source = read_text(path).decode("utf-8", "surrogateescape")
        return environment.from_string(source).render(names).encode("utf-8", "surrogateescape")
    except jinja2.TemplateSyntaxError as error:
        return Problem(Position(display_path(path), error.lineno), f"template: {error.message}")
    except OSError as error:
        return Problem(Position(display_path(path)), f"cannot read template: {(error.strerror or str(error)).lower()}")
    except jinja2.UndefinedError as error:
        missing = re.match(r"'(\w+)' is undefined", str(error))
        near = did_you_mean(missing[1], names) if missing else ""
        return Problem(Position(display_path(path), _line(error)), f"template: {error}".replace("\n", " "), near)
    except Exception as error:  # noqa: BLE001 - a template can raise whatever Python can
        return Problem(Position(display_path(path), _line(error)), f"template: {error}".replace("\n", " "))


def mentions(path: Path) -> set[str] | Problem:
    """Return the names that a template uses, without rendering it."""
    try:
        source = read_text(path).decode("utf-8", "surrogateescape")
        return set(jinja2.meta.find_undeclared_variables(jinja2.Environment().parse(source)))  # noqa: S701 - not HTML
    except jinja2.TemplateSyntaxError as error:
        return Problem(Position(display_path(path), error.lineno), f"template: {error.message}")
    except OSError as error:
        return Problem(Position(display_path(path)), f"cannot read template: {(error.strerror or str(error)).lower()}")


def _line(error: BaseException) -> int:
    """Return the template's line, which jinja2 writes into the traceback; 0 if there is none."""
    line, trace = 0, error.__traceback__
    while trace:
        if trace.tb_frame.f_code.co_filename == "<template>":
            line = trace.tb_lineno
        trace = trace.tb_next
    return line
