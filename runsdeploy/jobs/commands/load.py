"""Loading of settings and catalogue, for all commands."""

import os
from typing import Any, List, Tuple

from ..errors import BadInput, Problem
from ..settings import catalogue as catalogues
from ..settings.catalogue import Catalogue
from ..settings.document import read
from ..settings.settings import Settings, validate


def own_files(arguments: Any, program: str) -> Tuple[str, ...]:
    """Return the paths of settings and catalogue, whether they are valid or not; none if the settings are missing."""
    path, beside = _places(arguments, program)
    if not os.path.exists(path):
        return ()
    return tuple(os.path.abspath(each) for each in (path, beside, getattr(arguments, "catalogue", "")) if each)


def _places(arguments: Any, program: str) -> Tuple[str, str]:
    """Return where the settings are, and the catalogue beside them."""
    path = getattr(arguments, "settings", "") or os.path.join(os.path.dirname(program), "settings", "settings.json")
    return path, os.path.join(os.path.dirname(path), "catalogue.json")


def load(arguments: Any, program: str) -> Tuple[Settings, Catalogue]:
    """Return settings and catalogue; raises BadInput with the problems of both."""
    path, beside = _places(arguments, program)
    chosen = getattr(arguments, "catalogue", "") or (beside if os.path.exists(beside) else "")
    problems: List[Problem] = []
    catalogue = None
    try:
        catalogue = catalogues.load(chosen)
    except BadInput as error:
        problems += error.problems
    try:
        document, status = read(path)
        # If the catalogue cannot be read, its switches are unknown: accept all of the settings.
        switches = catalogue.switches if catalogue else {k[8:] for k in document.root if k.startswith("crontab.RUN_")}
        settings = validate(document, status, switches)
    except BadInput as error:
        problems += error.problems
    if problems or catalogue is None:
        raise BadInput(problems)
    return settings, catalogue
